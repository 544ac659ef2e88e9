//! Holds that are made with entry passes: who may make one where the date has a waiting room, and
//! what the owner of that room has to know of it.
//!
//! That a pass is genuine was seen by the ingress, which signed it. Whether it is good is decided
//! here, from what it says, from how many holds were made with its ticket, and from what the owner of
//! the room says of tickets that have ended; this never looks at a ticket itself. A re-hold takes no
//! pass: its money is captured.

use super::{Changes, Reservation, Sale};
use onsale_schema::admission::{HoldChange, HoldState, NotValid, Pass};
use onsale_schema::seats::{Outcome, Refusal};
use onsale_schema::{ArrivalNo, Generation, NoticeId, ScheduleId, TicketId, Timestamp, UserId};
use std::collections::{HashMap, HashSet, hash_map};

/// Whether a hold takes a pass, as the row of the schedule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Since when it does (business time); none while it does not.
    pub pass_required_since: Option<Timestamp>,
    /// The version of the waiting room that said so; 0 if none ever has.
    pub room_version: i64,
}

/// Another gate for a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateUpdate {
    /// Where.
    pub schedule_id: ScheduleId,
    /// As the row was before the batch.
    pub before: Gate,
    /// As it is after.
    pub after: Gate,
}

/// The ticket with whose pass a hold was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub ticket_id: TicketId,
    /// Its number.
    pub arrival_no: ArrivalNo,
}

/// What is known of tickets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// So many holds were made with each; those that ended count.
    holds: HashMap<TicketId, u32>,
    /// They ended before their passes, and when that was said.
    over: HashMap<ArrivalNo, Timestamp>,
}

impl Entries {
    /// How many holds were made with a ticket.
    fn of(&self, ticket_id: TicketId) -> u32 {
        self.holds.get(&ticket_id).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            *self.holds.entry(entry.ticket_id).or_default() += 1;
        }
    }

    /// Takes one back.
    pub(super) fn take(&mut self, entry: Option<Entry>) {
        let Some(Entry { ticket_id, .. }) = entry else {
            return;
        };
        let holds = self.holds.get_mut(&ticket_id);
        let holds = holds.expect("what was made was counted");
        *holds -= 1;
        if *holds == 0 {
            self.holds.remove(&ticket_id);
        }
    }

    /// Forgets tickets whose passes are over by now, whatever is known of them: those that ended before
    /// `before`, and those of which no hold is in memory any more, which ended before it, too.
    pub(super) fn prune(&mut self, in_memory: &HashSet<TicketId>, before: Timestamp) {
        self.holds.retain(|id, _| in_memory.contains(id));
        self.over.retain(|_, ended_at| *ended_at >= before);
    }

    /// Takes back that a ticket has ended.
    pub(super) fn revive(&mut self, no: ArrivalNo) {
        self.over.remove(&no);
    }
}

impl Sale {
    /// With what the schedule's row says of passes.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    /// Within a generation: a pass of another one is for a ticket that may be lost, and its number somebody
    /// else's. Who has the ticket still gets a new pass from its room.
    #[must_use]
    pub fn with_generation(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// Adds how many holds were made with a ticket, by all rows there are: also by those that are not
    /// loaded any more.
    pub fn load_entries(&mut self, ticket_id: TicketId, holds: u32) {
        self.entries.holds.insert(ticket_id, holds);
    }

    /// Adds that a ticket ended before its pass, and when.
    pub fn load_over(&mut self, no: ArrivalNo, ended_at: Timestamp) {
        self.entries.over.insert(no, ended_at);
    }

    /// Of how many tickets it is known that holds were made with them, and of how many that they ended
    /// before their passes.
    #[must_use]
    pub fn knows_tickets(&self) -> (usize, usize) {
        (self.entries.holds.len(), self.entries.over.len())
    }

    /// What the schedule's row says of passes, after the last batch.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Whether the user may make a hold now; by which ticket, where that takes one.
    pub(super) fn enter(
        &self,
        user: UserId,
        pass: Option<&Pass>,
        now: Timestamp,
    ) -> Result<Option<Entry>, Refusal> {
        self.is_selling(now)?;
        if self.gate.pass_required_since.is_none() {
            return Ok(None);
        }
        let pass = pass.ok_or(Refusal::PassRequired)?;
        let ticket_id = pass.ticket.ticket_id;
        let holds = self.entries.of(ticket_id);
        pass.check(user, self.schedule_id, holds, now)
            .map_err(|why| match why {
                NotValid::Foreign => Refusal::PassInvalid,
                NotValid::Expired => Refusal::PassExpired,
                NotValid::UsedUp => Refusal::PassUsedUp,
            })?;
        let is_of_now = pass.ticket.generation == self.generation;
        if !is_of_now || self.entries.over.contains_key(&pass.ticket.arrival_no) {
            return Err(Refusal::PassExpired);
        }
        Ok(Some(Entry {
            ticket_id,
            arrival_no: pass.ticket.arrival_no,
        }))
    }

    /// Takes passes from now on, or takes them no more. Holds that are there stay as they are.
    ///
    /// What this changes counts only while its notice is open, as does [`Self::end_passes`]: after a
    /// restore of Postgres the stream says again what a room did that is older now, and whose versions
    /// and numbers will mean something else.
    pub(super) fn turn_room(
        &mut self,
        notice_id: NoticeId,
        pass_required: bool,
        version: i64,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if self.is_news(notice_id, changes) && version > self.gate.room_version {
            changes.notices_open.push(notice_id);
            let since = self.gate.pass_required_since.unwrap_or(now);
            let after = Gate {
                pass_required_since: pass_required.then_some(since),
                room_version: version,
            };
            changes.turn(self.schedule_id, self.gate, after);
            self.gate = after;
            // Which may have changed since the room was loaded, and was not told of while it was off.
            self.tell_room_of_sale(changes);
        }
        Outcome::Applied
    }

    /// Has the owner of the waiting room, where there is one, look how the schedule sells.
    pub(super) fn tell_room_of_sale(&self, changes: &mut Changes) {
        if self.gate.pass_required_since.is_some() {
            changes.sales_of_rooms.insert(self.schedule_id);
        }
    }

    /// Takes no passes of these tickets any more.
    pub(super) fn end_passes(
        &mut self,
        notice_id: NoticeId,
        tickets: &[ArrivalNo],
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if !self.is_news(notice_id, changes) {
            return Outcome::Applied;
        }
        let known = changes.passes_over.len();
        for &no in tickets {
            if let hash_map::Entry::Vacant(new) = self.entries.over.entry(no) {
                new.insert(now);
                changes.passes_over.push((self.schedule_id, no));
            }
        }
        if changes.passes_over.len() > known {
            changes.notices_open.push(notice_id);
        }
        Outcome::Applied
    }

    /// Tells the owner of the waiting room how a hold is that was made with a pass.
    pub(super) fn tell_room(&self, r: &Reservation, state: HoldState, changes: &mut Changes) {
        if let Some(entry) = r.entry {
            let change = HoldChange {
                ticket_id: entry.ticket_id,
                arrival_no: entry.arrival_no,
                reservation_id: r.reservation_id,
                state,
            };
            let of_room = changes.pass_holds.entry(self.schedule_id).or_default();
            of_room.push(change);
        }
    }
}
