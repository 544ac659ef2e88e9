//! Reads a work queue: one durable consumer per lane, shared by all replicas.
//!
//! A message is acknowledged only after its outcome is in Postgres. What a replica has taken and
//! does not acknowledge, because it died, goes to another one after [`ACK_WAIT`].

use crate::context::Context;
use crate::runtime::core::{Inbound, Undecodable};
use crate::runtime::quiet::Quiet;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{AckKind, Message};
use futures_util::{FutureExt, StreamExt};
use onsale_platform::Clock;
use onsale_schema::message::decode;
use onsale_schema::{Lane, Timestamp};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

/// How long a message may stay unacknowledged before the server gives it to somebody else. Far
/// longer than a batch takes; a message that is decided twice meanwhile has one outcome.
pub const ACK_WAIT: Duration = Duration::from_secs(5);
/// Messages asked for at a time. What is buffered must be decided well within [`ACK_WAIT`].
const PULL_MESSAGES: usize = 128;
/// Unacknowledged messages of all replicas; the server's default of 1,000 throttles.
const ACK_PENDING_MAX: i64 = 1 << 16;
/// The server says this often that it is there while there is nothing to read.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long one request for messages stays open.
const EXPIRES: Duration = Duration::from_secs(10);
/// A batch takes no further message once it has this many commands.
const BATCH_COMMANDS: usize = 1024;
/// How long handing back what was not decided may take.
const HAND_BACK: Duration = Duration::from_secs(1);

/// How often it is noted that there is nothing to read.
const LOOK_EVERY: Duration = Duration::from_millis(500);

type Next = Option<Result<Message, pull::MessagesError>>;

/// Why reading failed; always transient.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// A message that this replica has to decide.
pub struct Taken<K> {
    /// What it says.
    pub inbound: Arc<Inbound<K>>,
    ackers: Vec<Acker>,
}

impl<K> Taken<K> {
    /// Tells the server that it is done; undecodable bytes must never come again.
    pub async fn done(self) {
        let kind = if self.inbound.body.is_ok() {
            AckKind::Ack
        } else {
            AckKind::Term
        };
        self.tell(kind).await;
    }

    /// Gives it back at once, for another replica.
    pub async fn hand_back(self) {
        self.tell(AckKind::Nak(None)).await;
    }

    async fn tell(&self, kind: AckKind) {
        for acker in &self.ackers {
            // A lost word costs one more delivery, which finds the outcome.
            if let Err(error) = acker.ack_with(kind).await {
                tracing::debug!(%error, seq = self.inbound.seq, "can't acknowledge");
            }
        }
    }
}

/// What the server has behind a message that it has delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// The message, as the consumer counts deliveries: what comes again is another one.
    pub delivery: u64,
    /// Messages that nobody was given by then.
    pub pending: u64,
}

/// An open consumer.
pub struct Reader {
    messages: pull::Stream,
    broken: Option<Error>,
    behind: Behind,
    clock: Clock,
    quiet: Quiet,
}

impl Reader {
    /// Makes stream and consumer where they are missing, and begins to read.
    ///
    /// # Errors
    /// When NATS is away or refuses.
    pub async fn open(ctx: &Context, lane: Lane) -> Result<Self, Error> {
        ctx.create_streams()
            .await
            .map_err(|e| Error(e.to_string()))?;
        let config = pull::Config {
            durable_name: Some(lane.as_str().to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: ACK_PENDING_MAX,
            ..Default::default()
        };
        let consumer = ctx
            .jetstream
            .create_consumer_on_stream(config, ctx.subjects.stream(lane))
            .await
            .map_err(|e| Error(e.to_string()))?;
        let info = consumer.cached_info();
        let behind = Behind {
            delivery: info.delivered.consumer_sequence,
            pending: info.num_pending,
        };
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES)
            .messages()
            .await
            .map_err(|e| Error(e.to_string()))?;
        Ok(Self {
            messages,
            broken: None,
            behind,
            clock: ctx.clock.clone(),
            quiet: Quiet::default(),
        })
    }

    /// What the server had behind the last message read.
    #[must_use]
    pub fn behind(&self) -> Behind {
        self.behind
    }

    /// Waits for a message, then takes what is there. A message that was delivered twice is taken
    /// once. Cancel safe: it waits for nothing after the first message.
    ///
    /// # Errors
    /// When the consumer broke: open another one. What was taken before that was returned.
    pub async fn next_batch<K: DeserializeOwned>(&mut self) -> Result<Vec<Taken<K>>, Error> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let mut batch: Vec<Taken<K>> = Vec::new();
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut commands = 0;
        loop {
            let next = match self.next_now() {
                Some(next) => next,
                None if !batch.is_empty() => return Ok(batch),
                None => self.wait().await,
            };
            let read = match next {
                Some(Ok(message)) => accept(message, self.quiet.at()),
                Some(Err(error)) => Err(Error(error.to_string())),
                None => Err(Error("the consumer ended".into())),
            };
            match read {
                Ok((taken, behind)) => {
                    self.behind = behind;
                    match places.entry(taken.inbound.seq) {
                        Entry::Occupied(place) => batch[*place.get()].ackers.extend(taken.ackers),
                        Entry::Vacant(place) => {
                            place.insert(batch.len());
                            let body = taken.inbound.body.as_ref();
                            commands += body.map_or(1, |message| message.commands.len());
                            batch.push(taken);
                        }
                    }
                }
                Err(error) if batch.is_empty() => return Err(error),
                Err(error) => {
                    self.broken = Some(error);
                    return Ok(batch);
                }
            }
            if commands >= BATCH_COMMANDS {
                return Ok(batch);
            }
        }
    }

    /// What is buffered, and be it more than a task may take at a time.
    fn next_now(&mut self) -> Option<Next> {
        let next = tokio::task::unconstrained(self.messages.next()).now_or_never();
        let nothing = next.is_none() && self.behind.pending == 0;
        self.quiet.look(self.clock.now(), nothing);
        next
    }

    /// Waits for what comes next, and looks now and then.
    async fn wait(&mut self) -> Next {
        loop {
            match tokio::time::timeout(LOOK_EVERY, self.messages.next()).await {
                Ok(next) => return next,
                Err(_) => self.quiet.look(self.clock.now(), self.behind.pending == 0),
            }
        }
    }

    /// Stops reading and hands back what was read ahead, so that another replica need not wait
    /// until it counts as lost.
    pub async fn close(mut self, ctx: &Context) {
        let hand_back = async {
            while let Some(Some(Ok(message))) = self.next_now() {
                if let Err(error) = message.ack_with(AckKind::Nak(None)).await {
                    tracing::debug!(%error, "can't hand back a message");
                }
            }
            if let Err(error) = ctx.nats.flush().await {
                tracing::debug!(%error, "can't hand back messages");
            }
        };
        if tokio::time::timeout(HAND_BACK, hand_back).await.is_err() {
            tracing::debug!("NATS is away; unread messages come again by themselves");
        }
    }
}

/// The message, and what the server had behind it; `quiet` is when it had nothing.
fn accept<K: DeserializeOwned>(
    message: Message,
    quiet: Timestamp,
) -> Result<(Taken<K>, Behind), Error> {
    let info = message.info().map_err(|e| Error(e.to_string()))?;
    let (seq, at) = (info.stream_sequence, Timestamp::from(info.published));
    let behind = Behind {
        delivery: info.consumer_sequence,
        pending: info.pending,
    };
    let after = match info.delivered {
        // What comes again was there before.
        2.. => Timestamp::EPOCH,
        _ => quiet,
    };
    let (message, acker) = message.split();
    let body = decode(&message.payload).map_err(|error| Undecodable::new(&message.payload, &error));
    let taken = Taken {
        inbound: Arc::new(Inbound {
            seq,
            at,
            after,
            body,
        }),
        ackers: vec![acker],
    };
    Ok((taken, behind))
}
