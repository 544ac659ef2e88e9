//! How full a room is, and whether its line stands still though nothing holds it up: what those who run
//! a sale are told and woken by. It decides nothing.
//!
//! It goes by counts, not by the queues that a tick takes people from: whoever has dropped out of those
//! still counts as waiting here, so that a fault of ours shows. Nor does it go by how much of the rate is
//! used up: the lowest rate lets somebody in each second ([`super::BURST_MS`]), so that only less than
//! that tells nothing. Who was passed over and not heard since keeps nobody waiting but itself.

use super::Room;
use super::tickets::State;
use onsale_schema::draw::Place;
use onsale_schema::status::QueueMode;
use onsale_schema::{ArrivalNo, Timestamp};

/// How full a room is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// So many wait in the lobby or in line, without guests and without those that were passed over.
    pub line: u32,
    /// So many guests wait, without those that were passed over.
    pub guests: u32,
    /// So many of either wait that were passed over and not heard since.
    pub passed: u32,
    /// So many have a pass.
    pub active: u32,
    /// So many may have one; 0 where nobody is held back by that, as the room is off or open to all.
    pub capacity: u32,
}

/// Since when a line stands still that should move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Still {
    since: Option<Timestamp>,
    /// When that was looked at last, and how far it was then.
    seen_at: Timestamp,
    seen: Turns,
}

impl Default for Still {
    fn default() -> Self {
        Self {
            since: None,
            seen_at: Timestamp::EPOCH,
            seen: Turns::default(),
        }
    }
}

/// How far a room is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turns {
    admissions: u32,
    front: Place,
    guest_front: ArrivalNo,
}

impl Room {
    /// How full it is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            line: self.present() - self.guests.waiting,
            guests: self.guests.waiting,
            passed: self.tickets.count(State::Passed),
            active: self.active(),
            capacity: match self.row.policy.mode {
                QueueMode::Off | QueueMode::Open => 0,
                QueueMode::Fifo | QueueMode::Draw => self.row.policy.capacity,
            },
        }
    }

    /// Since when there have been people waiting, a free place and no reason to let nobody in, and nobody
    /// has had a turn. Here that is never for longer than a second and the time between two ticks.
    #[must_use]
    pub fn still_since(&self) -> Option<Timestamp> {
        let Still {
            since,
            seen_at,
            seen,
        } = self.still;
        since.map(|since| if self.turns() == seen { since } else { seen_at })
    }

    /// Looks before a tick does anything, so that only what was stored counts as a move: what was decided
    /// and taken back is no progress.
    pub(super) fn see_still(&mut self, now: Timestamp) {
        let seen = self.turns();
        let since = self.still.since.filter(|_| self.still.seen == seen);
        self.still = Still {
            since: self.should_move(now).then(|| since.unwrap_or(now)),
            seen_at: now,
            seen,
        };
    }

    fn turns(&self) -> Turns {
        Turns {
            admissions: self.row.admissions,
            front: self.row.front,
            guest_front: self.row.guest_front,
        }
    }

    /// Whether the next tick, or one within a second, has to give somebody a turn. Before the opening
    /// that is a guest who was not called, whether it is let in then or set aside.
    fn should_move(&self, now: Timestamp) -> bool {
        let waits = match self.is_open(now) {
            true => self.present() > 0,
            false => self.guests.are_uncalled(self.row.guest_front),
        };
        waits && self.is_running(now) && self.has_place(now)
    }

    /// Whether one more may have a pass; a slot that should be free by now counts as free.
    fn has_place(&self, now: Timestamp) -> bool {
        let (active, capacity) = (self.active(), self.row.policy.capacity);
        let is_limited = self.row.policy.mode != QueueMode::Open;
        !is_limited
            || active < capacity
            || active.saturating_sub(self.slots.overdue(now)) < capacity
    }

    /// So many wait in either line, without those that were passed over.
    fn present(&self) -> u32 {
        let waiting = [State::Waiting, State::Back, State::Early];
        waiting.map(|state| self.tickets.count(state)).iter().sum()
    }
}
