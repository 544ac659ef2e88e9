//! Reads a partition's commands in order, from its cursor on.
//!
//! The consumer is a throw-away one without acknowledgements: a gap in its own sequence, a missed
//! heartbeat or any error means a new one from the last message read. It also looks whether the
//! stream still has the message at the cursor: a stream that lost its tail must be noticed, or its
//! new messages would be taken for old ones.

use super::core::{Cursor, Inbound, Undecodable};
use super::lane::PartitionedLane;
use super::quiet::Quiet;
use super::tail::{Found, Start};
use super::world::{Log, LogError as Error, Tail};
use crate::context::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{
    ConsumerError, ConsumerErrorKind, DirectGetErrorKind, RawMessageErrorKind, Stream,
};
use futures_util::{FutureExt, StreamExt};
use onsale_schema::message::decode;
use onsale_schema::{Lane, PartitionNo, Timestamp};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The server says this often that it is there while there is nothing to read.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long one request for messages stays open.
const EXPIRES: Duration = Duration::from_secs(10);
/// A batch is full with so many bytes, however few commands they are: what a client may put into one
/// message a thousand of them must not.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Messages asked for at a time.
const PULL_MESSAGES: usize = 512;
/// The server forgets a consumer that nobody reads after this.
const INACTIVE: Duration = Duration::from_secs(30);
/// The longest pause between attempts while NATS is away.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Reads one partition.
pub struct Reader {
    ctx: Context,
    lane: Lane,
    subject: String,
    open: Option<Open>,
    /// Where to go on: everything up to it was handed out.
    position: Cursor,
    /// What the server said is behind the last message.
    pending: u64,
    quiet: Quiet,
}

struct Open {
    messages: pull::Stream,
    /// The next consumer sequence; another one means a gap.
    next: u64,
}

impl Reader {
    /// Reads `partition` from `cursor` on.
    #[must_use]
    pub fn new(ctx: Context, lane: Lane, partition: PartitionNo, cursor: Cursor) -> Self {
        let subject = ctx.subjects.partition(lane, partition);
        Self {
            ctx,
            lane,
            subject,
            open: None,
            position: cursor,
            pending: 0,
            quiet: Quiet::default(),
        }
    }

    /// What was read before the consumer broke is good.
    fn broken<K>(
        &mut self,
        batch: Vec<Inbound<K>>,
        error: Error,
    ) -> Result<Vec<Inbound<K>>, Error> {
        self.open = None;
        if batch.is_empty() {
            Err(error)
        } else {
            Ok(batch)
        }
    }

    fn accept<K: DeserializeOwned>(
        &mut self,
        message: &async_nats::jetstream::Message,
    ) -> Result<Inbound<K>, Error> {
        let info = message.info().map_err(|e| Error(e.to_string()))?;
        let Some(open) = &mut self.open else {
            return Err(Error("not open".into()));
        };
        if info.consumer_sequence != open.next {
            return Err(Error(format!(
                "gap: {} after {}",
                info.consumer_sequence, open.next
            )));
        }
        open.next += 1;
        self.pending = info.pending;
        self.position.seq = info.stream_sequence;
        self.position.at = Timestamp::from(info.published);
        let body =
            decode(&message.payload).map_err(|error| Undecodable::new(&message.payload, &error));
        Ok(Inbound {
            seq: self.position.seq,
            at: self.position.at,
            after: self.quiet.at(),
            body,
        })
    }

    async fn stream(&self) -> Result<Stream<()>, Error> {
        let name = self.ctx.subjects.stream(self.lane);
        self.ctx
            .jetstream
            .get_stream_no_info(name)
            .await
            .map_err(|e| Error(e.to_string()))
    }

    async fn try_open(&mut self) -> Result<(), Error> {
        let deliver_policy = match self.position.next() {
            Start::First => DeliverPolicy::All,
            Start::AtSeq(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            Start::AtTime(at) => DeliverPolicy::ByStartTime {
                start_time: chrono::DateTime::from(at),
            },
        };
        let config = pull::Config {
            filter_subject: self.subject.clone(),
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = match self.stream().await?.create_consumer(config).await {
            Ok(consumer) => consumer,
            Err(error) => {
                if says_no_stream(&error) {
                    // What it had that was not applied is lost, as the look at its tail will tell.
                    tracing::error!(lane = %self.lane, "the stream is gone; it is made again");
                    self.ctx
                        .create_streams()
                        .await
                        .map_err(|e| Error(e.to_string()))?;
                }
                return Err(Error(error.to_string()));
            }
        };
        let pending = consumer.cached_info().num_pending;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES)
            .messages()
            .await
            .map_err(|e| Error(e.to_string()))?;
        self.open = Some(Open { messages, next: 1 });
        self.pending = pending;
        self.quiet = Quiet::default();
        Ok(())
    }
}

/// What is in a batch so far.
#[derive(Default)]
struct Filled {
    commands: usize,
    bytes: usize,
}

impl Filled {
    fn add(&mut self, commands: usize, bytes: usize) {
        self.commands += commands;
        self.bytes += bytes;
    }

    fn is_full(&self, commands_max: usize) -> bool {
        self.commands >= commands_max || self.bytes >= BATCH_BYTES_MAX
    }
}

fn says_no_stream(error: &ConsumerError) -> bool {
    match error.kind() {
        ConsumerErrorKind::JetStream(why) => why.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    }
}

impl<L: PartitionedLane> Log<L> for Reader {
    fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    fn quiet_at(&self) -> Timestamp {
        self.quiet.at()
    }

    fn rewind(&mut self, cursor: Cursor) {
        self.position = cursor;
        self.open = None;
    }

    async fn reopen(&mut self) {
        let mut pause = Duration::from_millis(20);
        while let Err(error) = self.try_open().await {
            tracing::warn!(%error, subject = self.subject, "can't read; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn next_batch(&mut self, commands_max: usize) -> Result<Vec<Inbound<L::Kind>>, Error> {
        let mut batch = Vec::new();
        let mut filled = Filled::default();
        loop {
            let Some(open) = &mut self.open else {
                return Err(Error("not open".into()));
            };
            // Without this, tokio's budget would report "nothing there" after some 128 messages.
            let there = tokio::task::unconstrained(open.messages.next()).now_or_never();
            let nothing = there.is_none() && self.pending == 0;
            self.quiet.look(self.ctx.clock.now(), nothing);
            let next = match there {
                Some(next) => next,
                None if !batch.is_empty() => return Ok(batch),
                None => open.messages.next().await,
            };
            match next {
                Some(Ok(message)) => match self.accept(&message) {
                    Ok(inbound) => {
                        let commands = inbound.body.as_ref().map_or(1, |m| m.commands.len());
                        filled.add(commands, message.payload.len());
                        batch.push(inbound);
                    }
                    Err(error) => return self.broken(batch, error),
                },
                Some(Err(error)) => return self.broken(batch, Error(error.to_string())),
                None => return self.broken(batch, Error("the consumer ended".into())),
            }
            if filled.is_full(commands_max) {
                return Ok(batch);
            }
        }
    }

    async fn tail(&self, cursor: Cursor) -> Result<Tail, Error> {
        if cursor.seq == 0 {
            return Ok(Tail::Intact);
        }
        let stream = self.stream().await?;
        let message = match stream.direct_get(cursor.seq).await {
            Ok(message) => Some(message),
            // A replica that is behind says so, too: only the leader knows.
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => {
                match stream.get_raw_message(cursor.seq).await {
                    Ok(message) => Some(message),
                    Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => None,
                    Err(error) => return Err(Error(error.to_string())),
                }
            }
            Err(error) => return Err(Error(error.to_string())),
        };
        let found = match message {
            Some(message) => Found::Message {
                at: Timestamp::from(message.time),
                is_ours: message.subject.as_str() == self.subject,
            },
            None => {
                let info = stream.get_info().await.map_err(|e| Error(e.to_string()))?;
                Found::Nothing {
                    first_seq: info.state.first_sequence,
                    last_seq: info.state.last_sequence,
                }
            }
        };
        Ok(cursor.tail(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::message::MESSAGE_BYTES_MAX;

    #[test]
    fn a_batch_is_full_by_commands_or_by_bytes() {
        let mut few_large = Filled::default();
        let mut messages = 0;
        while !few_large.is_full(4096) {
            few_large.add(1, MESSAGE_BYTES_MAX);
            messages += 1;
        }
        assert_eq!(messages * MESSAGE_BYTES_MAX, BATCH_BYTES_MAX);
        let mut many_small = Filled::default();
        while !many_small.is_full(4096) {
            many_small.add(64, 100);
        }
        assert_eq!(many_small.commands, 4096);
    }
}
