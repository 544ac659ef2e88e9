//! The envelope of every message: commands in, outcomes back, lag and beats beside them.

use crate::ids::{CommandId, IngressId, MessageId, SessionId, UserId};
use crate::partition::PartitionNo;
use crate::status::Lane;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// The most commands in one message.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 256;
/// The largest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// A digest of a request's path and body (the first 128 bits of its SHA-256), so that one key used
/// for two different requests is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub Uuid);

/// One to 256 commands for one lane (and, where it has partitions, one partition), in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandMessage<K> {
    /// Also the `Nats-Msg-Id`.
    pub id: MessageId,
    /// Who waits for the outcomes; none for commands that the system sends to itself.
    #[serde(default)]
    pub reply_to: Option<IngressId>,
    /// In order.
    pub commands: Vec<Command<K>>,
}

/// What somebody wants done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command<K> {
    /// Same id, same command.
    pub id: CommandId,
    /// For whom. The nil id for the system itself.
    pub user: UserId,
    /// What was asked, as a digest.
    pub fingerprint: Fingerprint,
    /// After this it is refused, by the owner's clock when it decides; but not what the system sends
    /// to itself.
    pub deadline: Timestamp,
    /// W3C `traceparent`, if the request had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// What.
    pub kind: K,
}

impl<K> Command<K> {
    /// The same command, said in another way.
    #[must_use]
    pub fn map<L>(self, f: impl FnOnce(K) -> L) -> Command<L> {
        Command {
            id: self.id,
            user: self.user,
            fingerprint: self.fingerprint,
            deadline: self.deadline,
            trace: self.trace,
            kind: f(self.kind),
        }
    }
}

/// Outcomes of some messages, sent to the ingress that waits, after the commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply<O> {
    /// One entry per message.
    pub messages: Vec<MessageOutcomes<O>>,
}

/// The outcomes of one message's commands, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageOutcomes<O> {
    /// The message.
    pub message_id: MessageId,
    /// One per command.
    pub outcomes: Vec<O>,
}

/// How far an owner is behind: the measure of back-pressure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// The lane.
    pub lane: Lane,
    /// The partition.
    pub partition: PartitionNo,
    /// The reporter's epoch: a word of an owner that was deposed counts no more.
    #[serde(default)]
    pub epoch: i64,
    /// Messages on the stream that are not decided.
    pub undecided: u64,
    /// Age of the oldest message in the batch that was decided last, in milliseconds.
    pub age_ms: u64,
}

/// A session that was ended: from now on its tokens are refused everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The session.
    pub session: SessionId,
    /// When, by Postgres' clock.
    pub at: Timestamp,
}

/// Bytes that are no message of the expected kind.
#[derive(Debug, thiserror::Error)]
#[error("not a valid message")]
pub struct DecodeError(#[from] rmp_serde::decode::Error);

/// MessagePack with named fields.
///
/// # Panics
/// Never for the types of this crate: encoding into memory fails only for types that have no
/// MessagePack form (maps of unknown length).
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("our types have a MessagePack form")
}

/// Reads what [`encode`] wrote; unknown fields are skipped, missing ones need a default.
///
/// # Errors
/// When the bytes are no such message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    Ok(rmp_serde::from_slice(bytes)?)
}
