//! Commands that the system sends to the owners of partitions, and how they are published.

use crate::context::Context;
use async_nats::connection::State;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::join_all;
use onsale_platform::nats;
use onsale_schema::message::{Command, CommandMessage, Fingerprint, encode};
use onsale_schema::{CommandId, Lane, MessageId, PartitionNo, Timestamp, UserId};
use serde::Serialize;
use uuid::Uuid;

/// The end of the year 9999: what the system wants done never comes too late.
const NEVER: Timestamp = Timestamp(253_402_300_799_000_000);
/// Name space of the system's message ids (a fixed random UUID).
const MESSAGE_NAMESPACE: Uuid = Uuid::from_u128(0x1c7a_5e92_d04b_4f38_b6a1_72e9_0d5c_8f43);

/// A command of the system itself.
#[must_use]
pub fn command<K>(id: CommandId, kind: K) -> Command<K> {
    Command {
        id,
        user: UserId(Uuid::nil()),
        fingerprint: Fingerprint(Uuid::nil()),
        deadline: NEVER,
        trace: None,
        kind,
    }
}

/// The id of a message with this content in this round of publishing: two replicas that send the
/// same at once send one message, and another round is another message.
#[must_use]
pub fn message_id(content: impl IntoIterator<Item = Uuid>, round: i64) -> MessageId {
    let mut name = Vec::new();
    for part in content {
        name.extend_from_slice(part.as_bytes());
    }
    name.extend_from_slice(&round.to_be_bytes());
    MessageId(Uuid::new_v5(&MESSAGE_NAMESPACE, &name))
}

/// A message to be stored on a stream.
#[derive(Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// Its `Nats-Msg-Id`.
    pub id: String,
    /// What it says.
    pub payload: Bytes,
}

impl Outgoing {
    /// At most 256 commands for the owner of a partition, together within the bound of a message.
    #[must_use]
    pub fn commands<K: Serialize>(
        ctx: &Context,
        lane: Lane,
        partition: PartitionNo,
        id: MessageId,
        commands: Vec<Command<K>>,
    ) -> Self {
        let message = CommandMessage {
            id,
            reply_to: None,
            commands,
        };
        Self {
            subject: ctx.subjects.partition(lane, partition),
            id: id.to_string(),
            payload: encode(&message).into(),
        }
    }
}

/// Why a message is not on its stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known to be: publish it again.
    #[error("NATS: {0}")]
    Lost(String),
    /// There is no such stream; [`remake`] it.
    #[error("NATS: the stream is gone")]
    NoStream,
    /// It is larger than the server takes, and always will be.
    #[error("NATS: {0}")]
    TooLarge(String),
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => Self::NoStream,
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge(error.to_string()),
            PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence
            | PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::Other => Self::Lost(error.to_string()),
        }
    }
}

/// Publishes all, in order, then waits for each to be stored, as long as the connection lasts. They
/// may be stored out of order: one that fails does not stop those behind it.
pub async fn publish(ctx: &Context, messages: Vec<Outgoing>) -> Vec<Result<(), Error>> {
    let (link, count) = (nats::Link::of(&ctx.nats), messages.len());
    let stored = publish_all(ctx, messages);
    tokio::select! {
        stored = stored => stored,
        () = link.lost() => (0..count).map(|_| Err(lost())).collect(),
    }
}

/// Publishes one and waits until it is stored, as long as this connection lasts; returns its place.
///
/// # Errors
/// When it is not, or not known to be.
pub async fn publish_one(
    ctx: &Context,
    link: &nats::Link,
    message: Outgoing,
) -> Result<u64, Error> {
    if !link.is_same() {
        return Err(lost());
    }
    tokio::select! {
        stored = async { send(ctx, message).await?.await.map_err(Error::from) } => {
            stored.map(|ack| ack.sequence)
        }
        () = link.clone().lost() => Err(lost()),
    }
}

fn lost() -> Error {
    Error::Lost("connection lost".into())
}

/// Hands a message to the connection, if there is one: nothing may gather in the client to go out
/// late.
async fn send(ctx: &Context, message: Outgoing) -> Result<PublishAckFuture, Error> {
    if ctx.nats.connection_state() != State::Connected {
        return Err(Error::Lost("not connected".into()));
    }
    let publish = PublishMessage::build()
        .payload(message.payload)
        .message_id(message.id);
    Ok(ctx.jetstream.send_publish(message.subject, publish).await?)
}

async fn publish_all(ctx: &Context, messages: Vec<Outgoing>) -> Vec<Result<(), Error>> {
    let mut sent = Vec::with_capacity(messages.len());
    for message in messages {
        sent.push(send(ctx, message).await);
    }
    // All at once: each waits its own time from here on.
    let stored = join_all(sent.into_iter().map(async |sent| match sent {
        Ok(ack) => ack.await.map(drop).map_err(Error::from),
        Err(error) => Err(error),
    }));
    let stored = stored.await;
    if stored.iter().any(|s| matches!(s, Err(Error::NoStream))) {
        remake(ctx).await;
    }
    stored
}

/// Makes the streams that are gone.
pub async fn remake(ctx: &Context) {
    tracing::error!("a stream is gone; it is made again");
    if let Err(error) = ctx.create_streams().await {
        tracing::error!(%error, "the stream can't be made");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_content_and_round() {
        let [a, b] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        assert_eq!(message_id([a, b], 0), message_id([a, b], 0));
        assert_ne!(message_id([a, b], 0), message_id([a, b], 1));
        assert_ne!(message_id([a, b], 0), message_id([a], 0));
    }
}
