//! What a batch of seat decisions writes: the net effect on the rows, free of order, so that a
//! fixed number of set-based statements stores it however large the batch is.

use super::{BlockRow, Gate, GateUpdate, Reservation, Term};
use onsale_schema::admission::HoldChange;
use onsale_schema::seats::{Facts, MapChange, Policy};
use onsale_schema::status::{ClaimState, ReservationStatus};
use onsale_schema::{ArrivalNo, CommandId, NoticeId, ReservationId, ScheduleId, SeatNo, Timestamp};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The net effect of a batch on the rows. A reservation that was made and ended in the same batch
/// is inserted with its final status; a seat freed and claimed again in one batch is one update.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Rows to insert.
    pub reservations: Vec<NewReservation>,
    /// Rows that were there before the batch and end in it.
    pub ended: Vec<Ended>,
    /// Rows that were there before the batch and last for another time after it, one entry each.
    pub terms: Vec<TermUpdate>,
    /// Claims to insert, update and delete.
    pub claims: ClaimChanges,
    /// Schedules that sell by other rules from now on, one entry each.
    pub policies: Vec<PolicyUpdate>,
    /// Schedules that take passes from now on, or take them no more, one entry each.
    pub gates: Vec<GateUpdate>,
    /// What the owner of a schedule's waiting room has to know of holds that were made with passes.
    pub pass_holds: BTreeMap<ScheduleId, Vec<HoldChange>>,
    /// Schedules whose waiting room lets people in by how they sell, and has to know that it may be
    /// another way than before.
    pub sales_of_rooms: BTreeSet<ScheduleId>,
    /// Blocks and lifts of blocks to insert, in their order.
    pub blocks: Vec<BlockRow>,
    /// New versions of maps, at most one per schedule; appended by [`super::Sale::seal`].
    pub maps: Vec<MapChange>,
    /// Facts of the same versions; appended by [`super::Sale::seal`].
    pub facts: Vec<Facts>,
    /// Notices that were received and applied; one may be listed twice.
    pub notices_done: Vec<NoticeId>,
    /// Those of them that must not have been done before: when one was, the update that marks it
    /// misses and the batch has to be decided again.
    pub notices_open: Vec<NoticeId>,
    /// Tickets whose passes were taken until now. Their own rows say that they have ended.
    pub(super) passes_over: Vec<(ScheduleId, ArrivalNo)>,
    /// Where in `reservations` one that this batch made is.
    made: HashMap<ReservationId, usize>,
    /// Where in `terms` one is that lasts for another time.
    lasting: HashMap<ReservationId, usize>,
    /// The latest time of each schedule before the batch.
    latest: HashMap<ScheduleId, Timestamp>,
}

/// A reservation to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewReservation {
    /// Where.
    pub schedule_id: ScheduleId,
    /// As it is after the batch.
    pub reservation: Reservation,
}

/// Another end for a hold that has a row. Conditional on the status HELD and on `before`, as
/// [`Ended`] is on `from`; stored before the ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermUpdate {
    /// Which.
    pub reservation_id: ReservationId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// As the row was before the batch.
    pub before: Term,
    /// As it is after.
    pub after: Term,
}

/// Other rules for a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyUpdate {
    /// Where.
    pub schedule_id: ScheduleId,
    /// As the row was before the batch.
    pub before: Policy,
    /// As it is after.
    pub after: Policy,
}

/// The end of a reservation that has a row. The update must be conditional on `from`: when it
/// misses, somebody else (a payment) was quicker and the batch has to be decided again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub reservation_id: ReservationId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// The status that the row must have.
    pub from: ReservationStatus,
    /// The status that it gets.
    pub to: ReservationStatus,
    /// The command that gave it back just now.
    pub given_back_by: Option<CommandId>,
    /// When it ended (business time).
    pub at: Timestamp,
}

impl Changes {
    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reservations.is_empty()
            && self.ended.is_empty()
            && self.terms.is_empty()
            && self.claims.is_empty()
            && self.policies.is_empty()
            && self.gates.is_empty()
            && self.pass_holds.is_empty()
            && self.sales_of_rooms.is_empty()
            && self.blocks.is_empty()
            && self.maps.is_empty()
            && self.facts.is_empty()
            && self.notices_done.is_empty()
    }

    /// Adds the changes of other schedules.
    ///
    /// # Panics
    /// When both changed the same seat: a schedule has one owner.
    pub fn merge(&mut self, other: Self) {
        let offset = self.reservations.len();
        self.made
            .extend(other.made.into_iter().map(|(id, at)| (id, at + offset)));
        self.reservations.extend(other.reservations);
        self.ended.extend(other.ended);
        for (key, change) in other.claims.seats {
            let twice = self.claims.seats.insert(key, change);
            assert!(twice.is_none(), "two owners changed {key:?}");
        }
        let offset = self.terms.len();
        self.lasting
            .extend(other.lasting.into_iter().map(|(id, at)| (id, at + offset)));
        self.terms.extend(other.terms);
        self.policies.extend(other.policies);
        self.gates.extend(other.gates);
        self.pass_holds.extend(other.pass_holds);
        self.sales_of_rooms.extend(other.sales_of_rooms);
        self.passes_over.extend(other.passes_over);
        self.blocks.extend(other.blocks);
        self.maps.extend(other.maps);
        self.facts.extend(other.facts);
        self.notices_done.extend(other.notices_done);
        self.notices_open.extend(other.notices_open);
        self.latest.extend(other.latest);
    }

    /// Whether this batch made the reservation, so that it has no row yet.
    #[must_use]
    pub fn has_made(&self, reservation: ReservationId) -> bool {
        self.made.contains_key(&reservation)
    }

    pub(super) fn note_latest(&mut self, schedule_id: ScheduleId, latest: Timestamp) {
        self.latest.entry(schedule_id).or_insert(latest);
    }

    /// A time that stays known when the batch is taken back.
    pub(super) fn learn_latest(&mut self, id: ScheduleId, latest: Timestamp, at: Timestamp) {
        let before = self.latest.entry(id).or_insert(latest);
        *before = at.max(*before);
    }

    pub(super) fn latest_before(&self, schedule_id: ScheduleId) -> Option<Timestamp> {
        self.latest.get(&schedule_id).copied()
    }

    pub(super) fn make(&mut self, schedule_id: ScheduleId, reservation: Reservation) {
        let at = self.reservations.len();
        let twice = self.made.insert(reservation.reservation_id, at);
        assert!(twice.is_none(), "a reservation is made once");
        self.reservations.push(NewReservation {
            schedule_id,
            reservation,
        });
    }

    pub(super) fn amend(&mut self, schedule_id: ScheduleId, before: Policy, after: Policy) {
        let mut known = self.policies.iter_mut();
        match known.find(|update| update.schedule_id == schedule_id) {
            Some(update) => update.after = after,
            None => self.policies.push(PolicyUpdate {
                schedule_id,
                before,
                after,
            }),
        }
    }

    pub(super) fn turn(&mut self, schedule_id: ScheduleId, before: Gate, after: Gate) {
        let mut known = self.gates.iter_mut();
        match known.find(|update| update.schedule_id == schedule_id) {
            Some(update) => update.after = after,
            None => self.gates.push(GateUpdate {
                schedule_id,
                before,
                after,
            }),
        }
    }

    pub(super) fn last(&mut self, update: TermUpdate) {
        if let Some(&at) = self.made.get(&update.reservation_id) {
            self.reservations[at].reservation.term = update.after;
            return;
        }
        match self.lasting.entry(update.reservation_id) {
            Entry::Occupied(known) => self.terms[*known.get()].after = update.after,
            Entry::Vacant(new) => {
                new.insert(self.terms.len());
                self.terms.push(update);
            }
        }
    }

    pub(super) fn end(&mut self, ended: Ended) {
        let Some(&at) = self.made.get(&ended.reservation_id) else {
            self.ended.push(ended);
            return;
        };
        let made = &mut self.reservations[at].reservation;
        assert_eq!(made.status, ended.from, "a reservation ends once");
        made.status = ended.to;
        made.ended_at = Some(ended.at);
        if ended.given_back_by.is_some() {
            made.term.given_back_by = ended.given_back_by;
        }
    }
}

/// Who has a seat, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// By which reservation; none for a seat that is taken off sale.
    pub reservation: Option<ReservationId>,
    /// How.
    pub state: ClaimState,
}

/// Claims before and after a batch, by schedule and seat.
#[derive(Clone, Debug, Default)]
pub struct ClaimChanges {
    seats: BTreeMap<(ScheduleId, SeatNo), ClaimChange>,
}

#[derive(Clone, Copy, Debug)]
struct ClaimChange {
    /// As the row was before the batch.
    before: Option<Claim>,
    after: Option<Claim>,
}

impl ClaimChanges {
    /// Whether no claim was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The rows to write, each list in the order of (schedule, seat).
    #[must_use]
    pub fn net(&self) -> Net {
        let mut net = Net::default();
        for (&(schedule_id, seat_no), change) in &self.seats {
            match (change.before, change.after) {
                (before, after) if before == after => {}
                (None, Some(claim)) => net.inserts.push(ClaimInsert {
                    schedule_id,
                    seat_no,
                    reservation_id: claim.reservation,
                    state: claim.state,
                }),
                (Some(before), Some(after)) => net.updates.push(ClaimUpdate {
                    schedule_id,
                    seat_no,
                    from: before.reservation,
                    to: after.reservation,
                    state: after.state,
                }),
                (Some(before), None) => net.deletes.push(ClaimDelete {
                    schedule_id,
                    seat_no,
                    from: before.reservation,
                }),
                (None, None) => {}
            }
        }
        net
    }

    pub(super) fn record(
        &mut self,
        schedule_id: ScheduleId,
        seat: SeatNo,
        before: Option<Claim>,
        after: Option<Claim>,
    ) {
        let change = self
            .seats
            .entry((schedule_id, seat))
            .or_insert(ClaimChange {
                before,
                after: before,
            });
        assert_eq!(change.after, before, "a seat's changes follow each other");
        change.after = after;
    }

    /// The seats of a schedule that were touched, each with its claim before the batch.
    pub(super) fn before(
        &self,
        schedule_id: ScheduleId,
    ) -> impl Iterator<Item = (SeatNo, Option<Claim>)> {
        let seats = self.of(schedule_id);
        seats.map(|(&(_, seat), change)| (seat, change.before))
    }

    fn of(
        &self,
        schedule_id: ScheduleId,
    ) -> impl Iterator<Item = (&(ScheduleId, SeatNo), &ClaimChange)> {
        let first = (schedule_id, SeatNo(i32::MIN));
        let last = (schedule_id, SeatNo(i32::MAX));
        self.seats.range(first..=last)
    }

    /// Seats of a schedule that show another state than before the batch, in seat order.
    pub(super) fn map_of(&self, schedule_id: ScheduleId) -> Vec<(SeatNo, Option<ClaimState>)> {
        self.of(schedule_id)
            .map(|(&(_, seat), change)| {
                let state = |claim: Option<Claim>| claim.map(|claim| claim.state);
                (seat, state(change.before), state(change.after))
            })
            .filter(|(_, before, after)| before != after)
            .map(|(seat, _, after)| (seat, after))
            .collect()
    }
}

/// Rows of `seat_claim` to write; a seat is in one list at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Net {
    /// New rows.
    pub inserts: Vec<ClaimInsert>,
    /// Rows that get another reservation or state.
    pub updates: Vec<ClaimUpdate>,
    /// Rows to delete.
    pub deletes: Vec<ClaimDelete>,
}

/// A new claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimInsert {
    /// Where.
    pub schedule_id: ScheduleId,
    /// Which seat.
    pub seat_no: SeatNo,
    /// By whom; none for a block.
    pub reservation_id: Option<ReservationId>,
    /// How.
    pub state: ClaimState,
}

/// A claim that changes hands or state. The row must have `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimUpdate {
    /// Where.
    pub schedule_id: ScheduleId,
    /// Which seat.
    pub seat_no: SeatNo,
    /// Whose it was.
    pub from: Option<ReservationId>,
    /// Whose it is.
    pub to: Option<ReservationId>,
    /// How.
    pub state: ClaimState,
}

/// A claim that goes. The row must have `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimDelete {
    /// Where.
    pub schedule_id: ScheduleId,
    /// Which seat.
    pub seat_no: SeatNo,
    /// Whose it was.
    pub from: Option<ReservationId>,
}
