//! What the runtime needs from outside, as traits: a log to read, a store to commit to, a registry
//! of who owns what, and a way to publish.
//!
//! Production is [`super::servers`], NATS and Postgres. A simulation is another world: it drives
//! exactly the code of this folder through crashes, takeovers and losses, in virtual time. So no
//! other file of the runtime may touch a server.

use super::core::{Cursor, Fence, Inbound, Proposal};
use super::lane::PartitionedLane;
use super::ownership::Snapshot;
use onsale_platform::db;
use onsale_schema::message::Command;
use onsale_schema::subjects::Subjects;
use onsale_schema::{PartitionNo, Timestamp, WorkerId};
use std::collections::HashSet;
use std::future::Future;

/// The surroundings of one worker process.
pub trait World<L: PartitionedLane>: Publish + Clone + Send + Sync + 'static {
    /// Reads one partition.
    type Log: Log<L>;
    /// Commits.
    type Store: Store<L>;
    /// Who is alive and who owns what.
    type Registry: Registry;

    /// This start of this process.
    fn me(&self) -> WorkerId;
    /// The owner's clock.
    fn now(&self) -> Timestamp;
    /// How partitions are owned and read.
    fn settings(&self) -> Settings;
    /// Reads `partition` from `cursor` on.
    fn log(&self, partition: PartitionNo, cursor: Cursor) -> Self::Log;
    /// A connection for the committer.
    fn store(&self) -> Self::Store;
    /// A connection for the sign of life.
    fn registry(&self) -> Self::Registry;
    /// Loads what these commands need and is not there yet, in one snapshot. `thorough` also looks
    /// up whether any of them was accepted elsewhere; it is set after a miss.
    fn load(
        &self,
        state: &mut L::State,
        commands: &[&Command<L::Kind>],
        thorough: bool,
    ) -> impl Future<Output = Result<(), db::Error>> + Send;
}

/// How partitions are owned and read.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Partitions of the lane.
    pub partitions: u16,
    /// How long an owner that gives no sign of life keeps its partitions, in milliseconds.
    pub lease_ms: i64,
    /// How often an owner looks for what is due, in milliseconds.
    pub tick_ms: u64,
    /// Commands decided in one batch of a partition, at most.
    pub batch_commands: usize,
}

/// Sends what may be lost: who misses it finds it in Postgres.
pub trait Publish: Sync {
    /// Subject names.
    fn subjects(&self) -> &Subjects;
    /// Sends a message, or logs that it could not.
    fn publish(&self, subject: String, payload: Vec<u8>) -> impl Future<Output = ()> + Send;
}

/// One partition's commands, in order.
pub trait Log<L: PartitionedLane>: Send + 'static {
    /// Whether messages are handed out; when not, [`Self::reopen`].
    fn is_open(&self) -> bool;
    /// Opens behind the last message read, however long that takes. Dropped when the partition is
    /// given up.
    fn reopen(&mut self) -> impl Future<Output = ()> + Send;
    /// Waits for a message, then takes what is there, until `commands_max` commands are reached, or
    /// as many bytes as may be in memory at once. Cancel safe.
    ///
    /// # Errors
    /// When reading broke; nothing is lost, reopen and go on.
    fn next_batch(
        &mut self,
        commands_max: usize,
    ) -> impl Future<Output = Result<Vec<Inbound<L::Kind>>, LogError>> + Send;
    /// Messages behind the last one read.
    fn pending(&self) -> u64;
    /// The last moment, by the owner's clock, at which there was nothing to read; the epoch when none
    /// is known.
    fn quiet_at(&self) -> Timestamp;
    /// Goes on from another place, after a loss.
    fn rewind(&mut self, cursor: Cursor);
    /// Whether the log still has what was applied up to `cursor`.
    ///
    /// # Errors
    /// When that can't be told now.
    fn tail(&self, cursor: Cursor) -> impl Future<Output = Result<Tail, LogError>> + Send;
}

/// How the log looks at the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The applied messages are there, or gone by age and limits.
    Intact,
    /// Messages that were applied are missing or others: the log lost its tail.
    Lost,
}

/// Why reading failed; always transient.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LogError(pub String);

/// Where batches are committed.
pub trait Store<L: PartitionedLane>: Send + 'static {
    /// Tries to write all proposals in one transaction, behind the fence.
    fn write(
        &mut self,
        me: WorkerId,
        proposals: &[&Proposal<L>],
    ) -> impl Future<Output = Attempt> + Send;
    /// Reads a partition's row after every transaction that was open on it, to learn what became
    /// of a commit.
    ///
    /// # Errors
    /// When the store can't be asked now.
    fn look_up(
        &mut self,
        partition: PartitionNo,
    ) -> impl Future<Output = Result<Owner, db::Error>> + Send;
}

/// Who owns a partition, and its fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub owner: Option<WorkerId>,
    /// Epoch and commit number.
    pub fence: Fence,
}

/// How one attempt to commit went.
#[derive(Debug)]
pub enum Attempt {
    /// All of it is in the store.
    Committed,
    /// Rolled back because of these (indices of the proposals).
    Refused {
        /// Their partition has another owner, or another commit number.
        deposed: HashSet<usize>,
        /// Their conditional writes missed.
        missed: HashSet<usize>,
    },
    /// Nothing was written.
    Failed(db::Error),
    /// The connection was lost while committing.
    Unknown(String),
}

/// Who is alive and who owns what.
pub trait Registry: Send + 'static {
    /// Gives a sign of life and reads what there is, at one moment.
    ///
    /// # Errors
    /// When that can't be done now; the next call connects anew.
    fn beat(&mut self) -> impl Future<Output = Result<Snapshot, db::Error>> + Send;
    /// Takes a partition if its epoch is still the one that was seen.
    ///
    /// # Errors
    /// When that can't be done now.
    fn take(
        &mut self,
        partition: PartitionNo,
        seen_epoch: i64,
    ) -> impl Future<Output = Result<Option<(Fence, Cursor)>, db::Error>> + Send;
    /// Gives a partition back, if it is still ours in that epoch.
    ///
    /// # Errors
    /// When that can't be done now.
    fn release(
        &mut self,
        partition: PartitionNo,
        epoch: i64,
    ) -> impl Future<Output = Result<(), db::Error>> + Send;
    /// Waits until something about ownership may have changed.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
    /// Says that this worker is about to go: it keeps what it has until it has given it back, and
    /// is to be given nothing more.
    ///
    /// # Errors
    /// When that can't be said now.
    fn retire(&mut self) -> impl Future<Output = Result<(), db::Error>> + Send;
    /// Takes the sign of life away, for good.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;
}
