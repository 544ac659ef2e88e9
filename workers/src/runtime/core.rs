//! A partition without I/O: from a batch of messages to a proposal, and on after its commit.
//!
//! It reads no clock, sends nothing and waits for nothing, so that a simulation can drive exactly
//! this code through crashes and takeovers.

use super::lane::{PartitionedLane, Times};
use onsale_platform::metric;
use onsale_schema::message::{Command, CommandMessage, DecodeError};
use onsale_schema::{IngressId, MessageId, PartitionNo, Timestamp};
use std::error::Error;

/// Who may commit: an owner's epoch, and the number of its last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Grows by one with each owner.
    pub epoch: i64,
    /// Grows by one with each commit.
    pub commit_no: i64,
}

/// How far a partition's stream is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Grows when the stream lost messages that were applied.
    pub incarnation: i32,
    /// Sequence of the last applied message; 0 before the first of an incarnation.
    pub seq: u64,
    /// That message's time on the stream.
    pub at: Timestamp,
    /// The owner's clock when it was decided. What comes behind it is decided by a clock that is no
    /// earlier: see [`onsale_schema::outcome`].
    pub decided_at: Timestamp,
}

/// A message as it was read.
#[derive(Clone, Debug)]
pub struct Inbound<K> {
    /// Its sequence on the stream.
    pub seq: u64,
    /// Its time on the stream.
    pub at: Timestamp,
    /// When it was not on the stream yet, by the owner's clock; the epoch when that is not known.
    pub after: Timestamp,
    /// The message, or the bytes that are none and why.
    pub body: Result<CommandMessage<K>, Undecodable>,
}

/// How a stream's clock is wrong, by more than [`CLOCK_SKEW_MAX_MS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// It would end holds early.
    Ahead,
    /// It would begin holds in the past, and make a partition seem to lag.
    Behind,
}

impl Skew {
    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ahead => metric::AHEAD,
            Self::Behind => metric::BEHIND,
        }
    }
}

impl<K> Inbound<K> {
    /// Since when it waits, as far as the owner's clock can tell. `read` is when it was read.
    #[must_use]
    pub fn waits_since(&self, read: Timestamp) -> Timestamp {
        self.at.max(self.after).min(read)
    }

    /// Whether its time can't be right.
    #[must_use]
    pub fn skew(&self, clock: Timestamp) -> Option<Skew> {
        if self.at > clock.plus_ms(CLOCK_SKEW_MAX_MS) {
            Some(Skew::Ahead)
        } else if self.at < self.after.plus_ms(-CLOCK_SKEW_MAX_MS) {
            Some(Skew::Behind)
        } else {
            None
        }
    }

    /// Its time, as far as the stream's clock is followed.
    fn business(&self, clock: Timestamp) -> Timestamp {
        match self.skew(clock) {
            None => self.at,
            Some(Skew::Ahead) => clock.plus_ms(CLOCK_SKEW_MAX_MS),
            Some(Skew::Behind) => self.after.plus_ms(-CLOCK_SKEW_MAX_MS),
        }
    }
}

/// Bytes that are no message.
#[derive(Clone, Debug)]
pub struct Undecodable {
    /// As they came.
    pub payload: Vec<u8>,
    /// Why.
    pub error: String,
}

impl Undecodable {
    /// These bytes, for this reason. It may quote them, and Postgres takes no NUL in a text.
    #[must_use]
    pub fn new(payload: &[u8], error: &DecodeError) -> Self {
        let reason = error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string);
        Self {
            payload: payload.to_vec(),
            error: reason.replace('\0', "\u{fffd}"),
        }
    }
}

/// A message and what became of its commands.
#[derive(Clone, Debug)]
pub struct Decided<O> {
    /// Its sequence.
    pub seq: u64,
    /// Its id.
    pub message_id: MessageId,
    /// Who waits.
    pub reply_to: Option<IngressId>,
    /// One per command.
    pub outcomes: Vec<O>,
}

/// What could not be processed.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The message's sequence.
    pub seq: u64,
    /// Which of its commands; -1 for all of it.
    pub command_index: i32,
    /// The message or command.
    pub payload: Vec<u8>,
    /// Why.
    pub error: String,
}

/// A batch that is decided and asks to be committed.
pub struct Proposal<L: PartitionedLane> {
    /// Of which partition.
    pub partition: PartitionNo,
    /// What the partition's row must say.
    pub expect: Fence,
    /// The cursor after it.
    pub cursor: Cursor,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The messages and their outcomes.
    pub decided: Vec<Decided<L::Outcome>>,
    /// What could not be processed.
    pub dead: Vec<DeadLetter>,
    /// What it writes.
    pub changes: L::Changes,
    /// Commands in it, by kind and outcome, for the metrics.
    pub labels: Vec<(&'static str, &'static str)>,
}

/// One partition as its owner knows it.
pub struct Core<L: PartitionedLane> {
    partition: PartitionNo,
    fence: Fence,
    cursor: Cursor,
    /// The latest business time; it never goes back.
    business: Timestamp,
    /// The same of the last commit: what is decided again begins there.
    committed: Timestamp,
    /// What is loaded.
    pub state: L::State,
}

impl<L: PartitionedLane> Core<L> {
    /// A partition that was just taken.
    #[must_use]
    pub fn new(partition: PartitionNo, fence: Fence, cursor: Cursor) -> Self {
        Self {
            partition,
            fence,
            cursor,
            // Not the cursor's time, which is the stream's as it came: the rows know the latest time
            // that was used.
            business: Timestamp::EPOCH,
            committed: Timestamp::EPOCH,
            state: L::State::default(),
        }
    }

    /// Which.
    #[must_use]
    pub fn partition(&self) -> PartitionNo {
        self.partition
    }

    /// How far it is.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The epoch in which it was taken.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.fence.epoch
    }

    /// The stream lost messages that were applied: begins to count anew after the cursor's time.
    pub fn begin_incarnation(&mut self) {
        self.cursor.incarnation += 1;
        self.cursor.seq = 0;
    }

    /// Decides a batch of messages, in order.
    pub fn decide(&mut self, batch: &[Inbound<L::Kind>], clock: Timestamp) -> Proposal<L> {
        let mut proposal = self.propose(clock);
        for inbound in batch {
            let times = self.times(inbound, clock, &proposal);
            proposal.apply(inbound);
            match &inbound.body {
                Ok(message) => {
                    let mut outcomes = Vec::with_capacity(message.commands.len());
                    for command in &message.commands {
                        outcomes.push(self.decide_into(&mut proposal, command, times));
                    }
                    proposal.decided.push(Decided {
                        seq: inbound.seq,
                        message_id: message.id,
                        reply_to: message.reply_to,
                        outcomes,
                    });
                }
                Err(bytes) => proposal.dead.push(DeadLetter {
                    seq: inbound.seq,
                    command_index: -1,
                    payload: bytes.payload.clone(),
                    error: bytes.error.clone(),
                }),
            }
        }
        L::seal(&mut self.state, self.business, &mut proposal.changes);
        proposal
    }

    /// Decides one command of a message without moving the cursor. A command that was committed so
    /// is a duplicate when its message is read again, so this is safe to repeat.
    pub fn decide_one(
        &mut self,
        inbound: &Inbound<L::Kind>,
        command: &Command<L::Kind>,
        clock: Timestamp,
    ) -> (Proposal<L>, L::Outcome) {
        let mut proposal = self.propose(clock);
        let times = self.times(inbound, clock, &proposal);
        let outcome = self.decide_into(&mut proposal, command, times);
        L::seal(&mut self.state, self.business, &mut proposal.changes);
        (proposal, outcome)
    }

    /// Moves the cursor past a message whose commands were committed one by one.
    pub fn finish(
        &mut self,
        inbound: &Inbound<L::Kind>,
        outcomes: Vec<L::Outcome>,
        dead: Vec<DeadLetter>,
        clock: Timestamp,
    ) -> Proposal<L> {
        let mut proposal = self.propose(clock);
        proposal.apply(inbound);
        proposal.dead = dead;
        if let Ok(message) = &inbound.body {
            proposal.decided.push(Decided {
                seq: inbound.seq,
                message_id: message.id,
                reply_to: message.reply_to,
                outcomes,
            });
        }
        proposal
    }

    /// An internal batch: what time alone changes, and whether there is more of that. There was nothing
    /// to read at `quiet_at`.
    pub fn tick(&mut self, clock: Timestamp, quiet_at: Timestamp) -> (Proposal<L>, bool) {
        let mut proposal = self.propose(clock);
        // The clock's time stays with what is due: a command's time is its message's, also when it
        // has waited for longer than a tick.
        let now = self.business.max(clock);
        let heard_until = self.business.max(quiet_at);
        let is_more = L::tick(&mut self.state, now, heard_until, &mut proposal.changes);
        L::seal(&mut self.state, now, &mut proposal.changes);
        (proposal, is_more)
    }

    /// The proposal is in Postgres.
    pub fn committed(&mut self, proposal: &Proposal<L>) {
        assert_eq!(
            self.fence, proposal.expect,
            "proposals are committed in order"
        );
        self.fence.commit_no += 1;
        self.cursor = proposal.cursor;
        self.committed = self.business;
    }

    /// The proposal is not in Postgres, since a row was not as expected: it is taken back.
    pub fn undo(&mut self, proposal: &Proposal<L>) {
        L::undo(&mut self.state, &proposal.changes);
        self.business = self.committed;
    }

    /// The proposal is not in Postgres: what is in memory is ahead of the rows and is dropped.
    pub fn forget(&mut self) {
        self.state = L::State::default();
        self.business = self.committed;
    }

    fn propose(&self, clock: Timestamp) -> Proposal<L> {
        // A former owner's clock may have been a little faster. One that was wrong by far, because
        // Postgres' was, must not stop the sale until its time has come.
        let former = self.cursor.decided_at;
        let decided_at = clock.max(former.min(clock.plus_ms(CLOCK_SKEW_MAX_MS)));
        Proposal {
            partition: self.partition,
            expect: self.fence,
            cursor: self.cursor,
            decided_at,
            decided: Vec::new(),
            dead: Vec::new(),
            changes: L::Changes::default(),
            labels: Vec::new(),
        }
    }

    fn times(
        &mut self,
        inbound: &Inbound<L::Kind>,
        clock: Timestamp,
        proposal: &Proposal<L>,
    ) -> Times {
        self.business = self.business.max(inbound.business(clock));
        Times {
            business: self.business,
            clock: proposal.decided_at,
        }
    }

    fn decide_into(
        &mut self,
        proposal: &mut Proposal<L>,
        command: &Command<L::Kind>,
        times: Times,
    ) -> L::Outcome {
        let outcome = L::decide(&mut self.state, command, times, &mut proposal.changes);
        proposal.labels.push(L::labels(&command.kind, &outcome));
        outcome
    }
}

/// A stream's time further than this from what it can be by the owner's clock is clamped, and so is
/// a former owner's clock that is further ahead; in milliseconds.
pub const CLOCK_SKEW_MAX_MS: i64 = 5000;

impl<L: PartitionedLane> Proposal<L> {
    /// Moves the cursor to a message. Nothing else may: who finds no outcome relies on it that all
    /// that was decided up to the cursor's clock has one.
    fn apply(&mut self, inbound: &Inbound<L::Kind>) {
        self.cursor.seq = inbound.seq;
        self.cursor.at = inbound.at;
        self.cursor.decided_at = self.decided_at;
    }

    /// Whether it would write nothing but a commit number.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.decided.is_empty() && self.dead.is_empty() && L::is_empty(&self.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seats::Seats;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn message<K>(at: Timestamp, after: Timestamp) -> Inbound<K> {
        Inbound {
            seq: 1,
            at,
            after,
            body: Err(Undecodable {
                payload: Vec::new(),
                error: String::new(),
            }),
        }
    }

    #[test]
    fn a_streams_clock_is_followed_as_far_as_it_can_be_right() {
        let ms = |ms| NOW.plus_ms(ms);
        let unknown = Timestamp::EPOCH;
        // (time on the stream, when it was not there, business time, waits since, wrong)
        for (at, after, business, since, skew) in [
            (ms(-10), ms(-200), ms(-10), ms(-10), None),
            // It lags: nothing is known, or it came after the last quiet.
            (ms(-90_000), unknown, ms(-90_000), ms(-90_000), None),
            (ms(-90_000), ms(-90_100), ms(-90_000), ms(-90_000), None),
            // A little behind, and by far.
            (ms(-5000), ms(-100), ms(-5000), ms(-100), None),
            (ms(-5100), ms(-100), ms(-5100), ms(-100), None),
            (ms(-5101), ms(-100), ms(-5100), ms(-100), Some(Skew::Behind)),
            (
                ms(-90_000),
                ms(-100),
                ms(-5100),
                ms(-100),
                Some(Skew::Behind),
            ),
            // A little ahead, and by far.
            (ms(5000), ms(-100), ms(5000), NOW, None),
            (ms(5001), ms(-100), ms(5000), NOW, Some(Skew::Ahead)),
            (ms(90_000), unknown, ms(5000), NOW, Some(Skew::Ahead)),
        ] {
            let inbound = message::<()>(at, after);
            let found = (
                inbound.business(NOW),
                inbound.waits_since(NOW),
                inbound.skew(NOW),
            );
            assert_eq!(found, (business, since, skew), "{at} after {after}");
        }
    }

    #[test]
    fn what_comes_behind_the_cursor_is_decided_by_no_earlier_clock() {
        let cursor = |decided_at| Cursor {
            incarnation: 0,
            seq: 0,
            at: Timestamp::EPOCH,
            decided_at,
        };
        let fence = Fence {
            epoch: 1,
            commit_no: 0,
        };
        // (when the former owner decided, when this one does)
        for (former, decided_at) in [
            (Timestamp::EPOCH, NOW),
            (NOW.plus_ms(-1), NOW),
            (NOW.plus_ms(70), NOW.plus_ms(70)),
            // Postgres' clock was wrong: a sale must not stand still for an hour.
            (NOW.plus_ms(3_600_000), NOW.plus_ms(CLOCK_SKEW_MAX_MS)),
        ] {
            let mut core = Core::<Seats>::new(PartitionNo(0), fence, cursor(former));
            let decided = core.decide(&[message(NOW, NOW)], NOW);
            assert_eq!(decided.decided_at, decided_at);
            assert_eq!(decided.cursor.decided_at, decided_at);
            // A tick decides nothing of what is on the stream.
            let (tick, _) = core.tick(NOW, NOW);
            assert_eq!(
                (tick.decided_at, tick.cursor.decided_at),
                (decided_at, former)
            );
        }
    }
}
