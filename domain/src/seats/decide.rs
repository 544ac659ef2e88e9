//! The decisions: checks in their fixed order, and what follows from them.
//!
//! A refused hold changes nothing, not even what is due for others.

use super::payments::Late;
use super::plan::Wish;
use super::{Accepted, Changes, Entry, Policy, Sale, Times, places};
use onsale_schema::message::Command;
use onsale_schema::seats::{Kind, Outcome, Places, Refusal};
use onsale_schema::status::{ReservationStatus, SaleState};
use onsale_schema::{ReservationId, SeatNo, Timestamp, UserId};
use std::borrow::Cow;

/// Seats that may be had, and the lapsed holds that must end for it.
type Found<'a> = (Cow<'a, [SeatNo]>, Vec<ReservationId>);

impl Sale {
    /// Decides one command, applies its effects to this state and appends them to `changes`.
    ///
    /// # Panics
    /// When the command is for another schedule.
    pub fn decide(
        &mut self,
        command: &Command<Kind>,
        times: Times,
        changes: &mut Changes,
    ) -> Outcome {
        assert_eq!(command.kind.schedule_id(), self.schedule_id);
        let now = times.business.max(self.latest);
        match &command.kind {
            Kind::Hold {
                reservation_id: id,
                seats,
                places,
                layout_no,
                pass,
                ..
            } => self.settled(command, *id, times).unwrap_or_else(|| {
                let entry = self.enter(command.user, pass.as_ref(), now);
                let found = entry.and_then(|entry| {
                    let found = self.may_hold(command.user, seats, places, *layout_no, now)?;
                    Ok((entry, found))
                });
                self.hold(command, *id, found, now, changes)
            }),
            Kind::HoldBest {
                reservation_id: id,
                count,
                section,
                grade,
                max_price,
                layout_no,
                pass,
                ..
            } => self.settled(command, *id, times).unwrap_or_else(|| {
                let wish = Wish {
                    count: usize::try_from(*count).unwrap_or(usize::MAX),
                    section: section.as_deref(),
                    grade: grade.as_deref(),
                    max_price: *max_price,
                };
                let entry = self.enter(command.user, pass.as_ref(), now);
                let found = entry.and_then(|entry| {
                    let found = self.best_for(command.user, &wish, *layout_no, now)?;
                    Ok((entry, found))
                });
                self.hold(command, *id, found, now, changes)
            }),
            Kind::Extend { reservation_id, .. } => {
                self.extend(command, *reservation_id, times.clock, now, changes)
            }
            // Who was told that nothing came of it must not lose the hold afterwards, and a sale
            // must not be opened or closed long after somebody asked for it.
            Kind::Release { .. } | Kind::Policy { .. } if times.clock > command.deadline => {
                Outcome::Refused(Refusal::CommandExpired)
            }
            Kind::Block {
                block_id,
                seats,
                reason,
                layout_no,
                ..
            } => self
                .blocked_before(command, *block_id, times)
                .unwrap_or_else(|| {
                    self.block(
                        command,
                        (*block_id, *layout_no),
                        seats,
                        reason,
                        now,
                        changes,
                    )
                }),
            Kind::Unblock {
                block_id,
                seats,
                reason,
                ..
            } => self.lifted_before(command, times).unwrap_or_else(|| {
                self.lift(
                    command,
                    *block_id,
                    seats.as_deref(),
                    reason.as_ref(),
                    now,
                    changes,
                )
            }),
            Kind::Release { reservation_id, .. } => {
                self.release(command, *reservation_id, now, changes)
            }
            Kind::Expire {
                reservation_id,
                expires_at,
                ..
            } => self.expire(*reservation_id, *expires_at, now, changes),
            Kind::Paid {
                notice_id,
                reservation_id,
                ..
            } => self.paid(*notice_id, &[*reservation_id], now, changes),
            Kind::PaidAll {
                notice_id,
                reservation_ids,
                ..
            } => self.paid(*notice_id, reservation_ids, now, changes),
            Kind::Secure {
                notice_id,
                order_id,
                reservation_id,
                until,
                ..
            } => {
                let by = (*notice_id, *order_id);
                self.secure(command, *reservation_id, by, *until, now, changes)
            }
            Kind::Unsecure {
                notice_id,
                order_id,
                reservation_id,
                ..
            } => {
                if self.is_news(*notice_id, changes) {
                    self.unsecure(*reservation_id, *order_id, changes);
                }
                Outcome::Applied
            }
            Kind::Rehold {
                notice_id,
                order_id,
                reservation_id,
                lapsed_id,
                user_id,
                seats,
                total,
                ..
            } => {
                let late = Late {
                    order_id: *order_id,
                    reservation_id: *reservation_id,
                    lapsed_id: *lapsed_id,
                    user_id: *user_id,
                    seats,
                    total: *total,
                };
                self.rehold(command, *notice_id, &late, now, changes)
            }
            Kind::Cancelled {
                notice_id,
                reservation_id,
                seats,
                at,
                ..
            } => {
                if self.is_news(*notice_id, changes) {
                    self.cancelled(*reservation_id, seats, *at, now, changes);
                }
                Outcome::Applied
            }
            Kind::Room {
                notice_id,
                pass_required,
                version,
                ..
            } => self.turn_room(*notice_id, *pass_required, *version, now, changes),
            Kind::PassesOver {
                notice_id, tickets, ..
            } => self.end_passes(*notice_id, tickets, now, changes),
            Kind::Policy { change, .. } => self.amend(command, change, now, changes),
        }
    }

    /// Gives the seats that were found, or says why there are none.
    fn hold(
        &mut self,
        command: &Command<Kind>,
        id: ReservationId,
        found: Result<(Option<Entry>, Found<'_>), Refusal>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        match found {
            Ok((entry, (seats, lapsing))) => {
                self.lapse_all(lapsing, now, changes);
                Outcome::Held(self.grant(command, id, &seats, entry, now, changes))
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// The answer to a hold that needs no look at the seats.
    fn settled(
        &self,
        command: &Command<Kind>,
        reservation_id: ReservationId,
        times: Times,
    ) -> Option<Outcome> {
        let expired = times.clock > command.deadline;
        self.duplicate(command, reservation_id)
            .or_else(|| expired.then_some(Outcome::Refused(Refusal::CommandExpired)))
    }

    /// The answer to a hold that was accepted before, or whose ids were used for another.
    fn duplicate(&self, command: &Command<Kind>, reservation_id: ReservationId) -> Option<Outcome> {
        let (fingerprint, hold) = match self.commands.get(&command.id) {
            Some(Accepted::Here(id)) => {
                let known = &self.reservations[id];
                (known.fingerprint, known.hold(self.schedule_id))
            }
            Some(Accepted::Elsewhere(fingerprint, hold)) => (*fingerprint, hold.clone()),
            None if self.reservations.contains_key(&reservation_id)
                || self.blocks.knows(command.id) =>
            {
                return Some(Outcome::Refused(Refusal::KeyReused));
            }
            None => return None,
        };
        Some(if fingerprint == command.fingerprint {
            Outcome::Held(hold)
        } else {
            Outcome::Refused(Refusal::KeyReused)
        })
    }

    /// The seats and places that the user may have now, and which lapsed holds must end for it:
    /// those that they belong to, and the user's own, since they don't count any more.
    fn may_hold<'a>(
        &self,
        user: UserId,
        seats: &'a [SeatNo],
        places: &[Places],
        layout_no: Option<i64>,
        now: Timestamp,
    ) -> Result<Found<'a>, Refusal> {
        self.is_by_layout(layout_no)?;
        if seats.is_empty() && places.is_empty() || !self.are_places(places) {
            return Err(Refusal::UnknownSeat);
        }
        if !seats.iter().all(|&seat| self.is_numbered(seat)) {
            return Err(Refusal::UnknownSeat);
        }
        self.are_seats(seats)?;
        let wanted = seats.len() + places::count(places);
        let mut lapsing = self.within_limit(user, wanted, now)?;
        let all = self.with_places(seats, places, now, &mut lapsing)?;
        self.are_available(&all, now, &mut lapsing)?;
        self.leave_no_orphans(seats, now)?;
        Ok((all, lapsing))
    }

    /// The best seats that the user may have now, and which lapsed holds must end for it. What is
    /// due counts as free, as it does for seats that are named.
    fn best_for(
        &self,
        user: UserId,
        wish: &Wish<'_>,
        layout_no: Option<i64>,
        now: Timestamp,
    ) -> Result<Found<'static>, Refusal> {
        self.is_by_layout(layout_no)?;
        if wish.count == 0 {
            return Err(Refusal::UnknownSeat);
        }
        let mut lapsing = self.within_limit(user, wish.count, now)?;
        let none = Refusal::SeatUnavailable {
            seats: Vec::new(),
            places: Vec::new(),
        };
        let best = self.layout.plan.best(&self.free_at(now), wish);
        let seats = best.ok_or(none)?;
        self.are_available(&seats, now, &mut lapsing)?;
        Ok((seats.into(), lapsing))
    }

    /// Whether these are numbered seats of the layout, each named once.
    pub(super) fn are_seats(&self, seats: &[SeatNo]) -> Result<(), Refusal> {
        let are_known = seats.iter().all(|&seat| self.seat_index(seat).is_some());
        if !are_known || is_named_twice(seats) {
            Err(Refusal::UnknownSeat)
        } else {
            Ok(())
        }
    }

    pub(super) fn is_by_layout(&self, no: Option<i64>) -> Result<(), Refusal> {
        match no {
            Some(no) if no != self.layout.no => Err(Refusal::LayoutChanged),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the user may have so many more seats now; the user's own lapsed holds, which don't
    /// count any more and must end for it, or at least never be paid.
    fn within_limit(
        &self,
        user: UserId,
        wanted: usize,
        now: Timestamp,
    ) -> Result<Vec<ReservationId>, Refusal> {
        let mut lapsing = Vec::new();
        let (mut live_seats, mut kept_seats) = (wanted, 0);
        for id in self.live.get(&user).into_iter().flatten() {
            let r = &self.reservations[id];
            if r.status_at(now).is_live() {
                live_seats += r.live_seats();
                continue;
            }
            if !r.is_due(now) {
                kept_seats += r.seats.len();
            }
            if r.is_due(now) || r.term.ends_as.is_none() {
                lapsing.push(*id);
            }
        }
        let limit = self.policy.seats_per_user;
        let is_within = |seats, limit| u32::try_from(seats).is_ok_and(|seats| seats <= limit);
        // Seats that nobody has and nobody can have are bounded, too, or somebody who holds and
        // gives back all day would keep the hall to nobody.
        let kept_limit = limit.saturating_mul(2);
        if is_within(live_seats, limit) && is_within(live_seats + kept_seats, kept_limit) {
            Ok(lapsing)
        } else {
            Err(Refusal::SeatLimitExceeded { limit })
        }
    }

    pub(super) fn lapse_all(
        &mut self,
        holds: Vec<ReservationId>,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        for id in holds {
            if self.reservations[&id].is_due(now) {
                self.lapse(id, now, changes);
            } else {
                self.close(id, changes);
            }
        }
    }

    /// Ends a hold whose seats are released.
    pub(super) fn lapse(&mut self, id: ReservationId, now: Timestamp, changes: &mut Changes) {
        let status = self.reservations[&id].term.end();
        self.end(id, status, None, now, changes);
    }

    /// What is over for good is said before what may yet begin.
    pub(super) fn is_selling(&self, now: Timestamp) -> Result<(), Refusal> {
        let Policy {
            state,
            booking_opens_at,
            booking_closes_at,
            ..
        } = self.policy;
        match state {
            SaleState::Closed => Err(Refusal::SaleClosed),
            SaleState::Open | SaleState::Paused if now >= booking_closes_at => {
                Err(Refusal::SaleClosed)
            }
            SaleState::Paused => Err(Refusal::SaleNotOpen),
            SaleState::Open if now < booking_opens_at => Err(Refusal::SaleNotOpen),
            SaleState::Open => Ok(()),
        }
    }

    pub(super) fn are_available(
        &self,
        seats: &[SeatNo],
        now: Timestamp,
        lapsing: &mut Vec<ReservationId>,
    ) -> Result<(), Refusal> {
        let mut taken = Vec::new();
        for &seat in seats {
            let Some(claim) = self.claim(seat) else {
                continue;
            };
            let holder = claim
                .reservation
                .and_then(|id| self.reservations.get(&id))
                .filter(|r| r.is_due(now));
            match holder {
                Some(r) if lapsing.contains(&r.reservation_id) => {}
                Some(r) => lapsing.push(r.reservation_id),
                None => taken.push(seat),
            }
        }
        if taken.is_empty() {
            Ok(())
        } else {
            Err(Refusal::SeatUnavailable {
                seats: taken,
                places: Vec::new(),
            })
        }
    }

    /// A hold that is due lapses even if its owner wanted to give it back: the end was first. What a
    /// payment on its way has secured can't be given back.
    fn release(
        &mut self,
        command: &Command<Kind>,
        id: ReservationId,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let r = self.reservations.get(&id);
        let Some(r) = r.filter(|r| r.user_id == command.user) else {
            return Outcome::Refused(Refusal::NotFound);
        };
        let mut status = r.status_at(now);
        if status == ReservationStatus::Held && r.term.paying_order.is_some() {
            return Outcome::Refused(Refusal::PaymentInProgress);
        }
        if r.is_due(now) {
            self.lapse(id, now, changes);
        } else if status == ReservationStatus::Held {
            self.give_back(id, command.id, now, changes);
            status = ReservationStatus::Released;
        }
        if status == ReservationStatus::Released {
            Outcome::Released { reservation_id: id }
        } else {
            Outcome::Refused(Refusal::StateConflict { status })
        }
    }

    fn expire(
        &mut self,
        id: ReservationId,
        expires_at: Timestamp,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let Some(r) = self.reservations.get(&id) else {
            return Outcome::Applied;
        };
        if r.term.expires_at != expires_at || now < r.term.release_at {
            return Outcome::Refused(Refusal::NotDue);
        }
        if r.is_due(now) {
            self.lapse(id, now, changes);
        }
        Outcome::Applied
    }
}

/// Whether a seat is there twice; without allocating for as many as people buy.
fn is_named_twice(seats: &[SeatNo]) -> bool {
    const FEW: usize = 16;
    if seats.len() <= FEW {
        return (1..seats.len()).any(|at| seats[..at].contains(&seats[at]));
    }
    let mut sorted = seats.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}
