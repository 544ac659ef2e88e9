//! The log of commands: one stream for all partitions, whose clock may jump and which may lose its
//! tail, and all readers with it; and the reader of one partition.

use crate::outside::Outside;
use crate::tables::PARTITIONS;
use onsale_schema::admission::Kind;
use onsale_schema::message::CommandMessage;
use onsale_schema::{PartitionNo, Timestamp};
use onsale_workers::admission::Admission;
use onsale_workers::runtime::core::{Cursor, Inbound, Undecodable};
use onsale_workers::runtime::quiet::Quiet;
use onsale_workers::runtime::tail::{Found, Start};
use onsale_workers::runtime::world::{Log, LogError, Tail, World};

/// A message on the log; none that can be read where there is no body.
#[derive(Clone)]
pub struct Logged {
    pub seq: u64,
    pub at: Timestamp,
    pub message: Option<CommandMessage<Kind>>,
}

/// The stream.
pub struct Stream {
    /// The messages of each partition.
    pub logs: Vec<Vec<Logged>>,
    last_seq: u64,
    last_at: Timestamp,
    /// How wrong its clock is, in milliseconds.
    clock_ms: i64,
    /// Grows when all readers are lost.
    generation: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            logs: (0..PARTITIONS).map(|_| Vec::new()).collect(),
            last_seq: 0,
            last_at: Timestamp::EPOCH,
            clock_ms: 0,
            generation: 0,
        }
    }
}

impl Stream {
    /// Stores a message. The clock may be wrong, but a later message never has an earlier time.
    pub fn store(
        &mut self,
        now: Timestamp,
        partition: PartitionNo,
        message: Option<CommandMessage<Kind>>,
    ) {
        self.last_seq += 1;
        // A server counts in nanoseconds: what gets the place of something that was lost has another time.
        let step = 1 + i64::try_from(self.generation).unwrap();
        self.last_at = now
            .plus_ms(self.clock_ms)
            .max(Timestamp(self.last_at.0 + step));
        self.logs[usize::from(partition.0)].push(Logged {
            seq: self.last_seq,
            at: self.last_at,
            message,
        });
    }

    /// Its clock is wrong by so much from now on.
    pub fn jump(&mut self, ms: i64) {
        self.clock_ms = ms;
    }

    /// A crash that takes up to so many of the last messages with it, and all readers. Their sequences
    /// are given again, and times that may be no later.
    pub fn lose_tail(&mut self, count: u64) -> usize {
        let keep = self.last_seq.saturating_sub(count);
        let stored = |logs: &[Vec<Logged>]| logs.iter().map(Vec::len).sum::<usize>();
        let before = stored(&self.logs);
        for log in &mut self.logs {
            log.retain(|logged| logged.seq <= keep);
        }
        let last = self.logs.iter().filter_map(|log| log.last());
        self.last_at = last
            .map(|logged| logged.at)
            .max()
            .unwrap_or(Timestamp::EPOCH);
        self.last_seq = keep;
        self.generation += 1;
        before - stored(&self.logs)
    }

    fn find(&self, seq: u64, partition: PartitionNo) -> Found {
        let all = (0..).map(PartitionNo).zip(&self.logs);
        let mut all = all.flat_map(|(no, log)| log.iter().map(move |logged| (no, logged)));
        match all.find(|(_, logged)| logged.seq == seq) {
            Some((no, logged)) => Found::Message {
                at: logged.at,
                is_ours: no == partition,
            },
            None => Found::Nothing {
                first_seq: 1,
                last_seq: self.last_seq,
            },
        }
    }

    fn first(&self, start: Start) -> u64 {
        match start {
            Start::First => 0,
            Start::AtSeq(seq) => seq,
            Start::AtTime(at) => {
                let all = self.logs.iter().flatten();
                let later = all.filter(|logged| logged.at >= at);
                let first = later.map(|logged| logged.seq).min();
                first.unwrap_or(self.last_seq + 1)
            }
        }
    }
}

/// Reads one partition's log.
pub struct Reader {
    outside: Outside,
    partition: PartitionNo,
    position: Cursor,
    open: Option<Consumer>,
    quiet: Quiet,
}

struct Consumer {
    generation: u64,
    /// The next message's sequence is not below this.
    next_seq: u64,
}

impl Reader {
    pub fn new(outside: Outside, partition: PartitionNo, cursor: Cursor) -> Self {
        Self {
            outside,
            partition,
            position: cursor,
            open: None,
            quiet: Quiet::default(),
        }
    }

    /// What can be read; nothing that is known when it is not open any more.
    fn behind(&self) -> Option<Vec<Logged>> {
        let consumer = self.open.as_ref()?;
        let tables = self.outside.sim.tables();
        let log = &tables.stream.logs[usize::from(self.partition.0)];
        let behind = log.iter().filter(|it| it.seq >= consumer.next_seq);
        (consumer.generation == tables.stream.generation).then(|| behind.cloned().collect())
    }

    fn take(&mut self, behind: Vec<Logged>, commands_max: usize) -> Vec<Inbound<Kind>> {
        let (mut batch, mut commands) = (Vec::new(), 0);
        for logged in behind {
            if commands >= commands_max {
                break;
            }
            commands += logged.message.as_ref().map_or(1, |m| m.commands.len());
            (self.position.seq, self.position.at) = (logged.seq, logged.at);
            if let Some(consumer) = &mut self.open {
                consumer.next_seq = logged.seq + 1;
            }
            batch.push(Inbound {
                seq: logged.seq,
                at: logged.at,
                after: self.quiet.at(),
                body: logged.message.ok_or_else(|| Undecodable {
                    payload: Vec::new(),
                    error: "no message".to_owned(),
                }),
            });
        }
        batch
    }
}

impl Log<Admission> for Reader {
    fn is_open(&self) -> bool {
        self.open.is_some()
    }

    async fn reopen(&mut self) {
        // A connection that breaks on its way is tried again.
        while self.outside.leg().await.is_err() {}
        self.quiet = Quiet::default();
        let tables = self.outside.sim.tables();
        self.open = Some(Consumer {
            generation: tables.stream.generation,
            next_seq: tables.stream.first(self.position.next()),
        });
    }

    async fn next_batch(&mut self, commands_max: usize) -> Result<Vec<Inbound<Kind>>, LogError> {
        loop {
            let sim = self.outside.sim.clone();
            let logged = sim.logged.notified();
            self.outside.gate().await;
            let behind = self.behind();
            if behind.is_none() || sim.fails(3) {
                sim.note("read broke");
                self.open = None;
                return Err(LogError("connection lost".to_owned()));
            }
            let behind = behind.unwrap_or_default();
            let nothing = behind.is_empty();
            let batch = self.take(behind, commands_max);
            self.quiet.look(World::now(&self.outside), nothing);
            if !nothing {
                return Ok(batch);
            }
            logged.await;
        }
    }

    fn pending(&self) -> u64 {
        self.behind().unwrap_or_default().len() as u64
    }

    fn quiet_at(&self) -> Timestamp {
        self.quiet.at()
    }

    fn rewind(&mut self, cursor: Cursor) {
        self.position = cursor;
        self.open = None;
    }

    async fn tail(&self, cursor: Cursor) -> Result<Tail, LogError> {
        if cursor.seq == 0 {
            return Ok(Tail::Intact);
        }
        let lost = |_| LogError("connection lost".to_owned());
        self.outside.leg().await.map_err(lost)?;
        let found = self
            .outside
            .sim
            .tables()
            .stream
            .find(cursor.seq, self.partition);
        self.outside.leg().await.map_err(lost)?;
        Ok(cursor.tail(found))
    }
}
