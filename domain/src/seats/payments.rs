//! What settlement tells the owner of seats: that a hold is paid or about to be, that a capture came
//! too late for its hold, and what of a reservation was cancelled.
//!
//! Each is a notice, and is marked done whatever comes of it. It may come twice, later than another
//! one that was sent after it, and after a takeover that read what it says from the rows already.
//! Money has moved by then or is about to, so none of this asks for windows, limits or the sale's
//! state.

use super::{Changes, Claim, Reservation, Sale, Term};
use onsale_schema::admission::HoldState;
use onsale_schema::message::Command;
use onsale_schema::seats::{Fact, Kind, Outcome};
use onsale_schema::status::{ClaimState, ReservationStatus};
use onsale_schema::{Money, NoticeId, PaymentOrderId, ReservationId, SeatNo, Timestamp, UserId};

/// How much longer than its policy allows a hold may be made to last by a payment that is on its
/// way, in milliseconds.
pub const PAYING_MS: i64 = 2 * 60 * 1000;

/// The notice of a command that must be decided once and never again, as what it finds changes: a
/// hold that would not be made to last, or seats that were taken, are what settlement has acted on;
/// and a waiting room is another one after Postgres was restored to an older state. Whether it is open
/// need not be known before it is decided: to store what comes of it fails if it is not.
#[must_use]
pub fn decided_once(kind: &Kind) -> Option<NoticeId> {
    match kind {
        Kind::Secure { notice_id, .. }
        | Kind::Rehold { notice_id, .. }
        | Kind::Room { notice_id, .. }
        | Kind::PassesOver { notice_id, .. } => Some(*notice_id),
        Kind::Hold { .. }
        | Kind::HoldBest { .. }
        | Kind::Release { .. }
        | Kind::Extend { .. }
        | Kind::Expire { .. }
        | Kind::Paid { .. }
        | Kind::PaidAll { .. }
        | Kind::Unsecure { .. }
        | Kind::Cancelled { .. }
        | Kind::Policy { .. }
        | Kind::Block { .. }
        | Kind::Unblock { .. } => None,
    }
}

/// The notice of a command that says what settlement has written in other rows. It must be known before
/// it is decided whether that is open. Once it is done, what it says is in the rows of the seats; and where
/// it is not there, Postgres was restored to an older state: what was paid or cancelled since is not, by
/// the rows, though the stream says it again.
#[must_use]
pub fn true_while_open(kind: &Kind) -> Option<NoticeId> {
    match kind {
        Kind::Paid { notice_id, .. }
        | Kind::PaidAll { notice_id, .. }
        | Kind::Unsecure { notice_id, .. }
        | Kind::Cancelled { notice_id, .. } => Some(*notice_id),
        Kind::Hold { .. }
        | Kind::HoldBest { .. }
        | Kind::Release { .. }
        | Kind::Extend { .. }
        | Kind::Expire { .. }
        | Kind::Secure { .. }
        | Kind::Rehold { .. }
        | Kind::Room { .. }
        | Kind::PassesOver { .. }
        | Kind::Policy { .. }
        | Kind::Block { .. }
        | Kind::Unblock { .. } => None,
    }
}

/// Money that was captured after its hold had lapsed.
pub(super) struct Late<'a> {
    pub(super) order_id: PaymentOrderId,
    /// The id that the new reservation gets.
    pub(super) reservation_id: ReservationId,
    pub(super) lapsed_id: ReservationId,
    pub(super) user_id: UserId,
    pub(super) seats: &'a [SeatNo],
    pub(super) total: Money,
}

impl Sale {
    /// Adds that a notice of [`decided_once`] or [`true_while_open`] is done, or is no more: its command was
    /// decided before, and nothing comes of it again.
    pub fn load_told(&mut self, notice_id: NoticeId) {
        self.told.insert(notice_id);
    }

    /// Takes note of a notice; says whether its command was not decided before.
    pub(super) fn is_news(&mut self, notice_id: NoticeId, changes: &mut Changes) -> bool {
        let is_again = changes.notices_done.contains(&notice_id);
        changes.notices_done.push(notice_id);
        !self.told.remove(&notice_id) && !is_again
    }

    /// Sells what settlement has made PAID.
    pub(super) fn paid(
        &mut self,
        notice_id: NoticeId,
        reservations: &[ReservationId],
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if !self.is_news(notice_id, changes) {
            return Outcome::Applied;
        }
        for &id in reservations {
            if self.may_sell(id, changes) {
                self.sell(id, now, changes);
            }
        }
        Outcome::Applied
    }

    /// A paid reservation that was ended here was ended by this very batch, whose conditional update
    /// will miss; or the notice is about nothing. Neither is a reason to sell.
    fn may_sell(&self, id: ReservationId, changes: &Changes) -> bool {
        let status = self.reservations.get(&id).map(|r| r.status);
        let may_be = match status {
            Some(
                ReservationStatus::Held | ReservationStatus::Paid | ReservationStatus::Cancelled,
            ) => true,
            Some(ReservationStatus::Expired | ReservationStatus::Released) | None => false,
        };
        may_be && !changes.has_made(id)
    }

    /// Turns into sold ones what a paid reservation has of its seats; its row is PAID already, or
    /// even CANCELLED.
    fn sell(&mut self, id: ReservationId, now: Timestamp, changes: &mut Changes) {
        let r = self.reservations.get_mut(&id);
        let r = r.expect("only known reservations are sold");
        if r.status.is_live() {
            r.status = ReservationStatus::Paid;
        }
        self.due.remove(&(r.term.release_at, id));
        let sold = Claim {
            reservation: Some(id),
            state: ClaimState::Sold,
        };
        let mut is_new = false;
        for &seat in &r.seats {
            let at = seat.index().expect("a reservation's seats are seats");
            let before = self.claims[at];
            if before.and_then(|claim| claim.reservation) != Some(id) {
                let is_cancelled = r.cancelled.contains(&seat);
                assert!(is_cancelled, "S3: a live reservation has its seats");
                continue;
            }
            self.claims[at] = Some(sold);
            changes
                .claims
                .record(self.schedule_id, seat, before, Some(sold));
            is_new |= before != Some(sold);
        }
        if is_new {
            self.facts.push(Fact::Sold {
                reservation_id: id,
                at: now,
            });
        }
        // Once, that is, also if all of it was cancelled before this was heard of.
        let r = &self.reservations[&id];
        if is_new || r.live_seats() == 0 {
            self.tell_room(r, HoldState::Paid, changes);
        }
    }

    /// Makes a live hold last until a payment on its way has been captured, within bounds. For
    /// anything else it comes too late.
    pub(super) fn secure(
        &mut self,
        command: &Command<Kind>,
        id: ReservationId,
        (notice_id, order_id): (NoticeId, PaymentOrderId),
        until: Timestamp,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if !self.is_news(notice_id, changes) || changes.has_made(id) {
            return Outcome::Applied;
        }
        let r = self.reservations.get(&id);
        let Some(r) = r.filter(|r| r.status_at(now) == ReservationStatus::Held) else {
            return Outcome::Applied;
        };
        let total_ms = self.policy.hold_total_ms.max(self.policy.hold_ms);
        let latest = r.held_at.plus_ms(total_ms).plus_ms(PAYING_MS);
        let (known, expires_at) = (r.term.expires_at, until.min(latest));
        let mut after = if expires_at > known {
            self.term_after(r, expires_at)
        } else {
            r.term.clone()
        };
        after.paying_order = Some(order_id);
        if after == r.term {
            return Outcome::Applied;
        }
        changes.notices_open.push(notice_id);
        self.last(id, after, changes);
        if expires_at > known {
            self.facts.push(Fact::Extended {
                reservation_id: id,
                command_id: command.id,
                expires_at,
                at: now,
            });
        }
        Outcome::Applied
    }

    /// Lets go of a hold that a payment has secured which ended without a capture. It lasts as long
    /// as it does.
    pub(super) fn unsecure(
        &mut self,
        id: ReservationId,
        order_id: PaymentOrderId,
        changes: &mut Changes,
    ) {
        let r = self.reservations.get(&id);
        let r = r.filter(|r| r.status == ReservationStatus::Held);
        if let Some(r) = r.filter(|r| r.term.paying_order == Some(order_id)) {
            let after = Term {
                paying_order: None,
                ..r.term.clone()
            };
            self.last(id, after, changes);
        }
    }

    /// Sells the seats of a lapsed hold to who paid for them too late, if all of them are free.
    pub(super) fn rehold(
        &mut self,
        command: &Command<Kind>,
        notice_id: NoticeId,
        late: &Late<'_>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let id = late.reservation_id;
        if !self.is_news(notice_id, changes)
            || self.commands.contains_key(&command.id)
            || self.reservations.contains_key(&id)
        {
            return Outcome::Applied;
        }
        let Some(lapsing) = self.may_rehold(late, now) else {
            return Outcome::Applied;
        };
        changes.notices_open.push(notice_id);
        for id in lapsing {
            self.cut_short(id, now, changes);
        }
        let sold = Claim {
            reservation: Some(id),
            state: ClaimState::Sold,
        };
        self.claim_all(late.seats, None, Some(sold), changes);
        let r = Reservation {
            reservation_id: id,
            user_id: late.user_id,
            command_id: command.id,
            fingerprint: command.fingerprint,
            seats: late.seats.to_vec(),
            total: late.total,
            seat_limit: self.policy.seats_per_user,
            status: ReservationStatus::Paid,
            held_at: now,
            term: Term::until(now),
            ended_at: None,
            rehold_order: Some(late.order_id),
            cancelled: Vec::new(),
            cancelled_at: None,
            entry: None,
        };
        r.assert_valid();
        changes.note_latest(self.schedule_id, self.latest);
        self.latest = now;
        self.facts.push(Fact::Reheld {
            user_id: late.user_id,
            order_id: late.order_id,
            lapsed_id: late.lapsed_id,
            hold: r.hold(self.schedule_id),
        });
        changes.make(self.schedule_id, r.clone());
        if let Some(lapsed) = self.reservations.get(&late.lapsed_id) {
            self.tell_room(lapsed, HoldState::Paid, changes);
        }
        self.insert(r);
        Outcome::Applied
    }

    /// The holds that must end so that a lapsed one's seats can be sold; none if somebody has some
    /// of them. The lapsed hold itself is over by settlement's clock, whatever this one says.
    fn may_rehold(&self, late: &Late<'_>, now: Timestamp) -> Option<Vec<ReservationId>> {
        if late.seats.is_empty() || self.are_seats(late.seats).is_err() {
            return None;
        }
        let is_over = |r: &&Reservation| {
            let is_lapsed = r.reservation_id == late.lapsed_id && r.user_id == late.user_id;
            r.is_due(now) || is_lapsed && r.status == ReservationStatus::Held
        };
        let mut lapsing = Vec::new();
        for &seat in late.seats {
            let Some(claim) = self.claim(seat) else {
                continue;
            };
            let holder = claim.reservation.and_then(|id| self.reservations.get(&id));
            let id = holder.filter(is_over)?.reservation_id;
            if !lapsing.contains(&id) {
                lapsing.push(id);
            }
        }
        Some(lapsing)
    }

    /// Ends a hold whose seats may be kept for a while yet.
    fn cut_short(&mut self, id: ReservationId, now: Timestamp, changes: &mut Changes) {
        let term = &self.reservations[&id].term;
        if term.release_at > now {
            let after = Term {
                expires_at: term.expires_at.min(now),
                release_at: now,
                ..term.clone()
            };
            self.last(id, after, changes);
        }
        self.lapse(id, now, changes);
    }

    /// Puts the seats of a paid reservation on sale again that were cancelled and are still its own.
    /// Its row says so already.
    pub(super) fn cancelled(
        &mut self,
        id: ReservationId,
        seats: &[SeatNo],
        at: Timestamp,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        if changes.has_made(id) {
            return;
        }
        let is_its = |sale: &Self, seat| {
            let claim = sale.claim(seat);
            claim.and_then(|claim| claim.reservation) == Some(id)
        };
        let mut freed = Vec::new();
        for &seat in seats {
            if !is_its(self, seat) {
                continue;
            }
            let index = self.seat_index(seat).expect("a claimed seat is a seat");
            let before = self.set_claim(index, None);
            changes.claims.record(self.schedule_id, seat, before, None);
            freed.push(seat);
        }
        if self.note_cancelled(id, seats, at) {
            // Whoever gets the seats next has them later than this, by whatever clock.
            changes.learn_latest(self.schedule_id, self.latest, at);
            self.latest = self.latest.max(at);
        }
        if !freed.is_empty() {
            self.facts.push(Fact::Cancelled {
                reservation_id: id,
                seats: freed,
                at: now.max(at),
            });
        }
    }

    /// What the row of a cancelled reservation says; false if that is known, or long ago.
    fn note_cancelled(&mut self, id: ReservationId, seats: &[SeatNo], at: Timestamp) -> bool {
        let Some(mut r) = self.reservations.remove(&id) else {
            return false;
        };
        let new = seats.iter().filter(|seat| r.seats.contains(seat));
        let new = new.filter(|seat| !r.cancelled.contains(seat));
        let new: Vec<SeatNo> = new.copied().collect();
        let is_news = r.status.is_live() && !new.is_empty();
        if is_news {
            self.strike_off(&r);
            r.status = ReservationStatus::Paid;
            r.cancelled.extend(new);
            r.cancelled.sort_unstable();
            r.cancelled.dedup();
            r.cancelled_at = r.cancelled_at.max(Some(at));
            if r.live_seats() == 0 {
                r.status = ReservationStatus::Cancelled;
                r.ended_at = r.cancelled_at;
            }
            self.enlist(&r);
        }
        self.reservations.insert(id, r);
        is_news
    }
}
