//! What a lane brings to the runtime: its state and decisions, and its statements.

use crate::context::Context;
use diesel_async::AsyncPgConnection;
use onsale_platform::db;
use onsale_schema::message::Command;
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, PartitionNo, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::future::Future;

/// The two times of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The message's time on the stream, monotone per partition.
    pub business: Timestamp,
    /// The owner's clock.
    pub clock: Timestamp,
}

/// What storing the changes of some partitions met, by the index of the partition in the slice.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Partitions whose conditional writes missed: somebody else was quicker, and they must decide
    /// again from the rows as they are.
    pub missed: HashSet<usize>,
}

/// Holds a statement against what it was to do.
///
/// # Errors
/// When it wrote another number of rows than `wanted`.
pub fn expect(what: &str, wanted: usize, found: usize) -> Result<(), db::Error> {
    if wanted == found {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "{what}: {wanted} expected, {found} found"
        )))
    }
}

/// A lane whose commands are decided in order, per partition.
pub trait PartitionedLane: Send + Sync + Sized + 'static {
    /// Its name.
    const LANE: Lane;
    /// A command.
    type Kind: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// What became of one.
    type Outcome: Serialize + Clone + Send + Sync + 'static;
    /// Everything loaded of one partition; a function of the rows and the commands since.
    type State: Default + Send + 'static;
    /// What a batch writes.
    type Changes: Default + Send + Sync + 'static;

    /// Decides one command and applies it to `state`.
    fn decide(
        state: &mut Self::State,
        command: &Command<Self::Kind>,
        times: Times,
        changes: &mut Self::Changes,
    ) -> Self::Outcome;

    /// What time alone changes: what is due at `now`, a bounded number of steps; whether there are
    /// more. All commands from before `heard_until` are decided, which may be long ago.
    fn tick(
        state: &mut Self::State,
        now: Timestamp,
        heard_until: Timestamp,
        changes: &mut Self::Changes,
    ) -> bool;

    /// Ends a batch.
    fn seal(state: &mut Self::State, business: Timestamp, changes: &mut Self::Changes);

    /// Takes a sealed batch back that was not stored. What it leaves in doubt is looked up by the
    /// next thorough load.
    fn undo(state: &mut Self::State, changes: &Self::Changes);

    /// Drops what has been idle or is old; nothing of it is lost, it is in the rows.
    fn evict(state: &mut Self::State, now: Timestamp);

    /// Whether there is nothing to write.
    fn is_empty(changes: &Self::Changes) -> bool;

    /// Where a partition's broadcasts go.
    fn broadcasts_to(subjects: &Subjects, partition: PartitionNo) -> String;

    /// What to broadcast now about committed changes; in as many messages as it takes.
    fn broadcast(changes: &Self::Changes, now: Timestamp) -> Vec<Vec<u8>>;

    /// Whom committed changes let go on: the subjects of nudges.
    fn nudges(changes: &Self::Changes, subjects: &Subjects) -> Vec<String>;

    /// A beat about everything that is loaded, so that a lost broadcast is noticed.
    fn beat(state: &Self::State, now: Timestamp) -> Vec<Vec<u8>>;

    /// Counts what was committed, if more is to be counted than commands.
    fn count(_changes: &Self::Changes) {}

    /// Tells, with each beat, how what is loaded is, if that is watched.
    fn watch(_state: &Self::State, _now: Timestamp) {}

    /// The outcome of a command that could not be processed.
    fn dead_lettered() -> Self::Outcome;

    /// The command's and the outcome's names in metrics.
    fn labels(kind: &Self::Kind, outcome: &Self::Outcome) -> (&'static str, &'static str);
}

/// A lane whose rows are in Postgres.
pub trait Persistent: PartitionedLane {
    /// Loads what these commands need and is not there yet, in one snapshot. `thorough` also looks
    /// up whether any of them was accepted elsewhere, and what an undone batch has left in doubt; it
    /// is set after a miss.
    fn load(
        ctx: &Context,
        state: &mut Self::State,
        commands: &[&Command<Self::Kind>],
        thorough: bool,
    ) -> impl Future<Output = Result<(), db::Error>> + Send;

    /// Stores the changes of several partitions with a fixed number of set-based statements,
    /// pipelined on `conn`, inside the open transaction.
    fn store(
        conn: &AsyncPgConnection,
        changes: &[&Self::Changes],
    ) -> impl Future<Output = Result<Stored, db::Error>> + Send;
}
