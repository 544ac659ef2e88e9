//! What a batch of decisions writes: the net effect on the rows, free of order, so that a fixed number
//! of set-based statements stores it; and what it takes to take it back.

use super::tickets::State;
use super::{RoomRow, Slot};
use onsale_schema::admission::{TicketChange, Watermark};
use onsale_schema::draw::Secret;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{AccessCodeId, ArrivalNo, NoticeId, ScheduleId, TicketId, Timestamp, UserId};
use std::collections::BTreeMap;

/// What a batch changes of all rooms.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The rooms that it changes.
    pub rooms: BTreeMap<ScheduleId, RoomChanges>,
    /// Notices that were received and applied; one may be listed twice.
    pub notices_done: Vec<NoticeId>,
}

/// What a batch changes of one room.
#[derive(Clone, Debug)]
pub struct RoomChanges {
    /// The room's row; set by [`super::Room::seal`].
    pub room: Option<RoomUpdate>,
    /// Tickets to insert, in the order of their numbers.
    pub joined: Vec<NewTicket>,
    /// Tickets that have a row and are something else after the batch.
    pub updates: BTreeMap<ArrivalNo, TicketUpdate>,
    /// Codes, and by how many accounts more each was used.
    pub used: BTreeMap<AccessCodeId, u32>,
    /// Codes that were revoked, and when.
    pub revoked: Vec<(AccessCodeId, Timestamp)>,
    /// What everybody is to be told; set by [`super::Room::seal`].
    pub watermark: Option<Watermark>,
    pub(super) before: RoomRow,
    pub(super) journal: Vec<Step>,
}

/// The row of a room. The update must be conditional on the version before; at version 0 there is no
/// row yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomUpdate {
    /// Written with the first version, and never again.
    pub secret: Secret,
    /// As it was.
    pub before: RoomRow,
    /// As it is.
    pub after: RoomRow,
}

impl RoomUpdate {
    /// Whether holds take passes from now on, if that is another answer than before: the owner of the
    /// seats must be told.
    #[must_use]
    pub fn turned(&self) -> Option<bool> {
        let is_on = |row: &RoomRow| row.policy.mode != QueueMode::Off;
        let after = is_on(&self.after);
        (after != is_on(&self.before)).then_some(after)
    }
}

/// A ticket to insert. A conflict of its id means that the command made a ticket before, see
/// [`super::Room::load_known`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTicket {
    /// Its number.
    pub arrival_no: ArrivalNo,
    /// Its id.
    pub ticket_id: TicketId,
    /// Whose.
    pub user_id: UserId,
    /// What the command that made it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// As it is after the batch.
    pub status: TicketStatus,
    /// When it was made (business time).
    pub joined_at: Timestamp,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
    /// The code that it was made with, if it is a guest's.
    pub access_code_id: Option<AccessCodeId>,
}

/// Another state of a ticket that has a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketUpdate {
    /// The status that the row must have.
    pub from: TicketStatus,
    /// The status that it gets.
    pub to: TicketStatus,
    /// What it was admitted to, if it was: as it is now, or was at its end.
    pub slot: Option<Slot>,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
}

impl TicketUpdate {
    /// Whether the ticket is let in.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.from == TicketStatus::Waiting && self.to == TicketStatus::Admitted
    }

    /// Whether the ticket ended before a pass that was made for it does: the owner of the seats must
    /// be told.
    #[must_use]
    pub fn leaves_a_pass(&self) -> bool {
        let ended = self.ended_at.zip(self.slot.as_ref());
        ended.is_some_and(|(ended_at, slot)| slot.last_pass_until() > ended_at)
    }
}

/// What was done to the state, to be undone in the opposite order.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A ticket was added; what its user had before.
    Joined(Option<ArrivalNo>),
    /// A ticket was in this state.
    State(ArrivalNo, State),
    /// A ticket had this slot.
    Slot(ArrivalNo, Option<Slot>),
    /// A ticket became a guest's.
    Invited(ArrivalNo),
    /// A code was revoked.
    Revoked(AccessCodeId),
}

impl Changes {
    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.notices_done.is_empty()
    }

    /// The ticket of a room that a command has made in this batch.
    pub(super) fn made(&self, room: ScheduleId, id: TicketId) -> Option<ArrivalNo> {
        let joined = &self.rooms.get(&room)?.joined;
        let new = joined.iter().find(|new| new.ticket_id == id)?;
        Some(new.arrival_no)
    }

    /// The changes of a room whose row was this before them.
    pub(super) fn of(&mut self, row: &RoomRow) -> &mut RoomChanges {
        let new = || RoomChanges {
            room: None,
            joined: Vec::new(),
            updates: BTreeMap::new(),
            used: BTreeMap::new(),
            revoked: Vec::new(),
            watermark: None,
            before: row.clone(),
            journal: Vec::new(),
        };
        self.rooms.entry(row.schedule_id).or_insert_with(new)
    }
}

impl RoomChanges {
    /// Notes that the row of a ticket says something else.
    pub(super) fn update(&mut self, no: ArrivalNo, update: TicketUpdate) {
        let first_new = self.joined.first().map(|new| new.arrival_no);
        if let Some(first) = first_new.filter(|first| no >= *first) {
            assert_eq!(
                update.slot, None,
                "nobody is let in by what makes its ticket"
            );
            let new = &mut self.joined[(no.0 - first.0) as usize];
            new.status = update.to;
            new.ended_at = update.ended_at;
            return;
        }
        let from = self
            .updates
            .get(&no)
            .map_or(update.from, |known| known.from);
        self.updates.insert(no, TicketUpdate { from, ..update });
    }

    /// The tickets that are not simply in line, as everybody is told.
    pub(super) fn told(&self) -> Vec<TicketChange> {
        let updates = self.updates.iter().map(|(no, update)| {
            let slot = update.slot.as_ref();
            let slot = slot.filter(|_| update.to == TicketStatus::Admitted);
            (*no, update.to, slot.map(Slot::expires_at))
        });
        let ended = self.joined.iter().filter(|new| !new.status.is_live());
        updates
            .chain(ended.map(|new| (new.arrival_no, new.status, None)))
            .collect()
    }
}
