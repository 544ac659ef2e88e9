//! Who has a pass, and until when.

use onsale_schema::admission::{HOLDS_PER_PASS, HoldState};
use onsale_schema::draw::Place;
use onsale_schema::{ArrivalNo, ReservationId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A pass that has ended keeps its slot for so long, in milliseconds: a hold that was asked for in its last
/// moment may be decided until its deadline has passed, 5 seconds later by default
/// (`ONSALE_REQUEST_TIMEOUT_MS`), and then word of it is on its way. Word that takes longer, as where nobody
/// publishes notices, keeps no slot: the hold lasts, and somebody else may be let in besides.
pub const LINGER_MS: i64 = 8000;

/// How somebody was let in, so that anybody can tell later whether it was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Which of the room's, from 0.
    pub no: u32,
    /// When (business time).
    pub at: Timestamp,
    /// The place of its ticket; none of a guest.
    pub place: Option<Place>,
    /// So many had a pass before.
    pub active_before: u32,
    /// The capacity; none where the room was open to everybody.
    pub capacity: Option<u32>,
    /// Whether it had been passed over before, so that its place says nothing.
    pub was_passed: bool,
}

/// A hold that was made with a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHold {
    /// Which.
    pub reservation_id: ReservationId,
    /// Until when it lasts, as was said last.
    pub until: Timestamp,
    /// Whether it ended before; for good.
    pub is_over: bool,
}

/// What somebody who was let in has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// How it was let in.
    pub admission: Admission,
    /// Until when its pass lasts without holds.
    pub pass_until: Timestamp,
    /// The holds that were made with it; at most as many as a pass can be good for.
    pub holds: Vec<SlotHold>,
}

impl Slot {
    /// Until when its pass lasts: as long as its holds do, at least.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        let live = self.holds.iter().filter(|hold| !hold.is_over);
        let until = live.map(|hold| hold.until).max();
        until.map_or(self.pass_until, |until| until.max(self.pass_until))
    }

    /// Until when any pass is good that was made for it: one that was made longer by a hold stays so
    /// when the hold is over.
    pub(super) fn last_pass_until(&self) -> Timestamp {
        let holds = self.holds.iter().map(|hold| hold.until);
        holds.fold(self.pass_until, Timestamp::max)
    }

    /// The same once more is known of a hold, in whatever order words of it come.
    pub(super) fn told(&self, reservation_id: ReservationId, state: HoldState) -> Self {
        let mut slot = self.clone();
        let (until, is_over) = match state {
            HoldState::Until(until) => (until, false),
            HoldState::Over | HoldState::Paid => (Timestamp::EPOCH, true),
        };
        let mut known = slot.holds.iter_mut();
        if let Some(hold) = known.find(|hold| hold.reservation_id == reservation_id) {
            hold.until = hold.until.max(until);
            hold.is_over |= is_over;
        } else if slot.holds.len() < *HOLDS_PER_PASS.end() as usize {
            slot.holds.push(SlotHold {
                reservation_id,
                until,
                is_over,
            });
        }
        slot
    }

    fn due_at(&self) -> Timestamp {
        self.expires_at().plus_ms(LINGER_MS)
    }
}

/// The slots that are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    active: BTreeMap<ArrivalNo, Slot>,
    /// By when they are free again.
    due: BTreeSet<(Timestamp, ArrivalNo)>,
}

impl Slots {
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.active.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, no: ArrivalNo) -> Option<&Slot> {
        self.active.get(&no)
    }

    /// Gives or takes a slot; returns what the ticket had.
    pub(super) fn set(&mut self, no: ArrivalNo, slot: Option<Slot>) -> Option<Slot> {
        if let Some(slot) = &slot {
            self.due.insert((slot.due_at(), no));
        }
        let before = match slot.clone() {
            Some(slot) => self.active.insert(no, slot),
            None => self.active.remove(&no),
        };
        let old = before.as_ref().map(Slot::due_at);
        if let Some(old) = old.filter(|old| Some(*old) != slot.map(|slot| slot.due_at())) {
            self.due.remove(&(old, no));
        }
        before
    }

    /// So many are to be freed by now and are not.
    pub(super) fn overdue(&self, now: Timestamp) -> u32 {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        u32::try_from(due.count()).unwrap_or(u32::MAX)
    }

    /// Whose slot is to be freed first, if that is due.
    pub(super) fn due(&self, now: Timestamp) -> Option<ArrivalNo> {
        let first = self.due.first().filter(|(at, _)| *at <= now);
        first.map(|(_, no)| *no)
    }
}
