//! JetStream: one stream for all partitions, with its own clock, that can restart, lose its tail
//! or be deleted; and the reader of one partition.

use crate::people::short;
use crate::process::{Link, Process};
use crate::sim::{Sim, lock};
use onsale_schema::message::CommandMessage;
use onsale_schema::seats::Kind;
use onsale_schema::{MessageId, PartitionNo, Timestamp};
use onsale_workers::runtime::core::{Cursor, Inbound, Undecodable};
use onsale_workers::runtime::quiet::Quiet;
use onsale_workers::runtime::tail::{Found, Start};
use onsale_workers::runtime::world::{Log, LogError, Tail};
use onsale_workers::seats::Seats;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the stream drops messages with an id that it has, in milliseconds. (Two minutes in
/// production; a history is shorter.)
const ID_WINDOW_MS: i64 = 3000;
/// How long a message may be on its way to a reader, in milliseconds: nothing overtakes it, so that
/// later than by two heartbeats the reader would have given up waiting.
const HELD_UP_MAX_MS: i64 = 1900;
/// How long a request waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is published.
#[derive(Clone, Debug)]
pub enum Body {
    Commands(Arc<CommandMessage<Kind>>),
    Junk(Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub seq: u64,
    pub at: Timestamp,
    pub partition: PartitionNo,
    pub id: MessageId,
    pub body: Body,
    /// When readers are sent it.
    sent_at: Instant,
}

/// What a message is known by: one that was lost and comes again may get its sequence again.
type Copies = (PartitionNo, u64, Option<MessageId>);

impl Stored {
    /// Junk has no id that anybody could read.
    fn copies(&self) -> Copies {
        let id = match &self.body {
            Body::Commands(_) => Some(self.id),
            Body::Junk(_) => None,
        };
        (self.partition, self.seq, id)
    }
}

/// The stream.
pub struct Stream {
    pub is_up: bool,
    pub exists: bool,
    /// Grows when all consumers are lost.
    pub generation: u64,
    pub messages: Vec<Stored>,
    first_seq: u64,
    last_seq: u64,
    last_at: Timestamp,
    clock_offset_us: i64,
    /// The most that its clock was ahead.
    pub ahead_us: i64,
    ids: BTreeMap<MessageId, Timestamp>,
    /// What was lost, deleted or aged, and how often.
    gone: BTreeMap<Copies, usize>,
}

impl Stream {
    pub fn new(at: Timestamp) -> Self {
        Self {
            is_up: true,
            exists: true,
            generation: 0,
            messages: Vec::new(),
            first_seq: 1,
            last_seq: 0,
            last_at: at,
            clock_offset_us: 0,
            ahead_us: 0,
            ids: BTreeMap::new(),
            gone: BTreeMap::new(),
        }
    }

    fn is_there(&self) -> bool {
        self.is_up && self.exists
    }

    /// Stores a message, or drops it as one that it has. The clock of a stream may run ahead or
    /// behind, but a later message never has an earlier time.
    fn store(&mut self, now: Timestamp, partition: PartitionNo, id: MessageId, body: Body) {
        let stays = now.plus_ms(-ID_WINDOW_MS);
        self.ids.retain(|_, at| *at > stays);
        if self.ids.insert(id, now).is_some() {
            return;
        }
        let clock = Timestamp(now.0 + self.clock_offset_us);
        self.last_at = clock.max(Timestamp(self.last_at.0 + 1));
        self.ahead_us = self.ahead_us.max(self.last_at.0 - now.0);
        self.last_seq += 1;
        self.messages.push(Stored {
            seq: self.last_seq,
            at: self.last_at,
            partition,
            id,
            body,
            sent_at: Instant::now(),
        });
    }

    /// A crash that takes the last messages with it, which were acknowledged.
    pub fn lose_tail(&mut self, count: usize) -> usize {
        let keep = self.messages.len().saturating_sub(count);
        let lost = self.messages.split_off(keep);
        for message in &lost {
            self.ids.remove(&message.id);
        }
        let lost_count = lost.len();
        self.last_seq -= lost_count as u64;
        self.forget(lost);
        lost_count
    }

    /// These messages are no more.
    fn forget(&mut self, messages: Vec<Stored>) {
        for message in messages {
            *self.gone.entry(message.copies()).or_default() += 1;
        }
    }

    /// How often this very message was stored under this sequence before, and is no more.
    pub fn former(&self, message: &Stored) -> usize {
        self.gone
            .get(&message.copies())
            .copied()
            .unwrap_or_default()
    }

    pub fn delete(&mut self) {
        let all = std::mem::take(&mut self.messages);
        self.forget(all);
        self.ids.clear();
        (self.first_seq, self.last_seq) = (1, 0);
        self.exists = false;
        self.generation += 1;
    }

    /// Drops the oldest messages, as limits do.
    pub fn age(&mut self, up_to_seq: u64) {
        let (old, left) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|message| message.seq <= up_to_seq);
        self.forget(old);
        self.messages = left;
        self.first_seq = self.first_seq.max(up_to_seq + 1);
    }

    pub fn jump(&mut self, offset_us: i64) {
        self.clock_offset_us = offset_us;
    }

    fn find(&self, seq: u64, partition: PartitionNo) -> Found {
        match self.messages.iter().find(|message| message.seq == seq) {
            Some(message) => Found::Message {
                at: message.at,
                is_ours: message.partition == partition,
            },
            None => Found::Nothing {
                first_seq: self.first_seq,
                last_seq: self.last_seq,
            },
        }
    }

    fn first(&self, start: Start) -> u64 {
        match start {
            Start::First => 0,
            Start::AtSeq(seq) => seq,
            Start::AtTime(at) => {
                let first = self.messages.iter().find(|message| message.at >= at);
                first.map_or(self.last_seq + 1, |message| message.seq)
            }
        }
    }

    /// A partition's messages from a sequence on.
    pub fn of(&self, partition: PartitionNo, from_seq: u64) -> impl Iterator<Item = &Stored> {
        let at = self
            .messages
            .partition_point(|message| message.seq < from_seq);
        let later = self.messages[at..].iter();
        later.filter(move |message| message.partition == partition)
    }
}

/// Publishes one message: false when no PubAck came. It may be stored all the same.
pub async fn publish(sim: &Arc<Sim>, partition: PartitionNo, id: MessageId, body: Body) -> bool {
    sim.travel().await;
    let is_stored = {
        let mut stream = lock(&sim.stream);
        let is_there = stream.is_there();
        if is_there {
            stream.store(sim.now(), partition, id, body);
        }
        is_there
    };
    if !is_stored {
        return false;
    }
    sim.note("stored", || format!("p{partition} {}", short(id.0)));
    sim.stream_changed.notify_waiters();
    sim.travel().await;
    sim.is_calm() || !sim.percent(sim.plan.lost_replies / 2)
}

/// NATS restarts in the blink of an eye, without its tail, and has new messages before anybody can
/// look: the sequences behind the cursors belong to others now.
fn blink(sim: &Arc<Sim>, partition: PartitionNo) {
    let lost = usize::try_from(sim.range(1, 3)).expect("small");
    let ids: Vec<_> = (0..sim.range(1, 6))
        .map(|_| MessageId(sim.uuid()))
        .collect();
    {
        let mut stream = lock(&sim.stream);
        stream.lose_tail(lost);
        stream.generation += 1;
        for id in ids {
            let junk = Body::Junk(vec![0xc1]);
            stream.store(sim.now(), partition, id, junk);
        }
    }
    sim.note("blink", || format!("lost {lost}"));
    sim.stream_changed.notify_waiters();
}

/// The reader of one partition.
pub struct Reader {
    process: Process,
    partition: PartitionNo,
    position: Cursor,
    open: Option<Consumer>,
    pending: u64,
    quiet: Quiet,
}

struct Consumer {
    generation: u64,
    /// The next message's sequence is not below this.
    next_seq: u64,
    /// The last message that is on its way or has come. What is behind it comes no earlier.
    last: Sent,
    /// Nothing is heard of it, not even a heartbeat, until this: then it counts as lost.
    lost_at: Option<Instant>,
}

/// A message on its way to a reader.
#[derive(Clone, Copy)]
struct Sent {
    seq: u64,
    comes_at: Instant,
    /// Messages behind it when it was sent.
    pending: u64,
}

impl Consumer {
    /// A message that is sent, all before which has come. What was sent to a process that was
    /// paused comes a while after it goes on.
    fn send(&mut self, process: &Process, message: &Stored, pending: u64) -> Sent {
        if message.seq > self.last.seq {
            let sim = &process.sim;
            let mut comes_at = self.last.comes_at;
            if !sim.is_calm() && sim.percent(sim.plan.held_up) {
                let goes_at = message.sent_at.max(process.resumed_at());
                comes_at = comes_at.max(goes_at + sim.millis(1, HELD_UP_MAX_MS));
            }
            if comes_at > Instant::now() {
                sim.note("held up", || format!("w{} seq {}", process.no, message.seq));
            }
            self.last = Sent {
                seq: message.seq,
                comes_at,
                pending,
            };
        }
        self.last
    }
}

impl Reader {
    pub fn new(process: Process, partition: PartitionNo, cursor: Cursor) -> Self {
        Self {
            process,
            partition,
            position: cursor,
            open: None,
            pending: 0,
            quiet: Quiet::default(),
        }
    }

    fn sim(&self) -> &Arc<Sim> {
        &self.process.sim
    }

    async fn try_open(&mut self) -> bool {
        if self.process.leg(Link::Nats).await.is_err() {
            return false;
        }
        if !self.sim().is_calm() && self.sim().plan.blips && self.sim().percent(20) {
            blink(self.sim(), self.partition);
        }
        let (generation, next_seq, pending) = {
            let stream = lock(&self.sim().stream);
            if !stream.is_there() {
                return false;
            }
            let next_seq = stream.first(self.position.next());
            let pending = stream.of(self.partition, next_seq).count() as u64;
            (stream.generation, next_seq, pending)
        };
        if self.process.leg(Link::Nats).await.is_err() {
            return false;
        }
        let no = self.process.no;
        self.sim().note("opened", || {
            format!("w{no} p{} from {next_seq}", self.partition)
        });
        self.open = Some(Consumer {
            generation,
            next_seq,
            last: Sent {
                seq: 0,
                comes_at: Instant::now(),
                pending,
            },
            lost_at: None,
        });
        self.pending = pending;
        self.quiet = Quiet::default();
        true
    }

    /// What can be read now, or when to look again.
    fn take(&mut self, commands_max: usize) -> Result<Vec<Inbound<Kind>>, Option<Instant>> {
        let sim = self.process.sim.clone();
        let Some(consumer) = &mut self.open else {
            return Err(None);
        };
        let stream = lock(&sim.stream);
        let mut batch = Vec::new();
        let mut commands = 0;
        let mut later = None;
        let mut pending = stream.of(self.partition, consumer.next_seq).count() as u64;
        for message in stream.of(self.partition, consumer.next_seq) {
            if commands >= commands_max {
                break;
            }
            pending -= 1;
            let sent = consumer.send(&self.process, message, pending);
            if sent.comes_at > Instant::now() {
                later = Some(sent.comes_at);
                break;
            }
            let body = match &message.body {
                Body::Commands(message) => {
                    commands += message.commands.len();
                    Ok(CommandMessage::clone(message))
                }
                Body::Junk(bytes) => {
                    commands += 1;
                    Err(Undecodable {
                        payload: bytes.clone(),
                        error: "junk".to_owned(),
                    })
                }
            };
            batch.push(Inbound {
                seq: message.seq,
                at: message.at,
                after: self.quiet.at(),
                body,
            });
            consumer.next_seq = message.seq + 1;
            (self.position.seq, self.position.at) = (message.seq, message.at);
            self.pending = sent.pending;
        }
        drop(stream);
        let nothing = commands < commands_max && self.pending == 0;
        self.quiet.look(self.process.now(), nothing);
        if batch.is_empty() {
            Err(later)
        } else {
            Ok(batch)
        }
    }

    /// Whether messages come; false when it is sure by now that they don't.
    async fn is_heard(&mut self) -> Result<bool, LogError> {
        let generation = {
            let stream = lock(&self.sim().stream);
            stream.is_there().then_some(stream.generation)
        };
        let is_cut = self.process.cut_until(Link::Nats).is_some();
        let patience = self.sim().millis(100, 2000);
        let Some(consumer) = &mut self.open else {
            return Err(LogError("not open".to_owned()));
        };
        if generation == Some(consumer.generation) && !is_cut {
            consumer.lost_at = None;
            return Ok(true);
        }
        let lost_at = *consumer.lost_at.get_or_insert(Instant::now() + patience);
        tokio::time::sleep_until(lost_at.min(Instant::now() + Duration::from_millis(100))).await;
        if Instant::now() < lost_at {
            return Ok(false);
        }
        self.open = None;
        Err(LogError("missed heartbeats".to_owned()))
    }
}

impl Log<Seats> for Reader {
    fn is_open(&self) -> bool {
        self.open.is_some()
    }

    async fn reopen(&mut self) {
        let mut pause_ms = 20;
        while !self.try_open().await {
            self.sim().sleep(pause_ms, pause_ms).await;
            pause_ms = (pause_ms * 2).min(500);
        }
    }

    async fn next_batch(&mut self, commands_max: usize) -> Result<Vec<Inbound<Kind>>, LogError> {
        loop {
            self.process.gate().await;
            let sim = self.process.sim.clone();
            let changed = sim.stream_changed.notified();
            if !self.is_heard().await? {
                // Nothing comes, and nothing says that it is not because there is nothing.
                self.quiet.look(self.process.now(), self.pending == 0);
                continue;
            }
            match self.take(commands_max) {
                Ok(batch) => return Ok(batch),
                Err(Some(at)) => tokio::time::sleep_until(at).await,
                Err(None) => changed.await,
            }
        }
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    fn quiet_at(&self) -> Timestamp {
        self.quiet.at()
    }

    fn rewind(&mut self, cursor: Cursor) {
        let (no, partition) = (self.process.no, self.partition);
        self.sim()
            .note("rewind", || format!("w{no} p{partition} {cursor:?}"));
        self.position = cursor;
        self.open = None;
    }

    async fn tail(&self, cursor: Cursor) -> Result<Tail, LogError> {
        if cursor.seq == 0 {
            return Ok(Tail::Intact);
        }
        let lost = |_| LogError("connection lost".to_owned());
        self.process.leg(Link::Nats).await.map_err(lost)?;
        let found = {
            let stream = lock(&self.sim().stream);
            let is_there = stream.is_there();
            is_there.then(|| stream.find(cursor.seq, self.partition))
        };
        let Some(found) = found else {
            tokio::time::sleep(REQUEST_TIMEOUT).await;
            return Err(LogError("no answer".to_owned()));
        };
        self.process.leg(Link::Nats).await.map_err(lost)?;
        Ok(cursor.tail(found))
    }
}
