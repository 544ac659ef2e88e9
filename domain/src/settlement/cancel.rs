//! What a cancellation does: seats of a paid reservation are given up, what was paid for them goes
//! back but for a fee, and the owner of the seats is told; or nothing happens.
//!
//! The row of the reservation says at once what is cancelled of it; its seats are on sale again when
//! their owner has heard of it. A show that is cancelled gives everybody all that is left of the
//! price; the fee of who had cancelled before stays.

use super::{Changes, Ids, NewNotice, Settlement, fee};
use crate::ledger;
use onsale_schema::cancellation::Rules;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::Places;
use onsale_schema::settlement::{Cancellation, Fact, Kind, Outcome, Refund, Refusal};
use onsale_schema::status::{PaymentMethod, RefundStatus, ReservationStatus};
use onsale_schema::{
    CancellationId, CommandId, Money, PaymentId, PaymentOrderId, RefundId, ReservationId,
    ScheduleId, SeatNo, Timestamp, TransferId, UserId, seats,
};
use std::collections::BTreeMap;

/// What cancelling needs to know of a locked reservation besides its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// All its seats that are not cancelled, with their prices.
    pub seats: BTreeMap<SeatNo, Money>,
    /// Those that are.
    pub cancelled: Vec<SeatNo>,
    /// All its places, cancelled or not, with their sections.
    pub places: BTreeMap<SeatNo, String>,
    /// When the show begins.
    pub starts_at: Timestamp,
    /// By which rules its buyer may cancel.
    pub rules: Rules,
}

impl Terms {
    fn places_of<'a>(&'a self, section: &'a str) -> impl Iterator<Item = SeatNo> {
        let places = self.places.iter().filter(move |(_, of)| *of == section);
        places.map(|(place, _)| *place)
    }

    /// Whether the reservation had so many places once.
    fn has(&self, wanted: &Places) -> bool {
        self.places_of(&wanted.section).count() >= count(wanted)
    }

    /// So many places that are left, the lowest numbers first, and none of `but`; `None` when there
    /// are too few.
    fn choose(&self, wanted: &Places, but: &[SeatNo]) -> Option<Vec<SeatNo>> {
        let is_left = |place: &SeatNo| self.seats.contains_key(place) && !but.contains(place);
        let left = self.places_of(&wanted.section).filter(is_left);
        let chosen: Vec<SeatNo> = left.take(count(wanted)).collect();
        (chosen.len() == count(wanted)).then_some(chosen)
    }
}

fn count(wanted: &Places) -> usize {
    usize::try_from(wanted.count).unwrap_or(usize::MAX)
}

/// What was captured for a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Its live payment.
    pub payment_id: PaymentId,
    /// How it was paid.
    pub method: PaymentMethod,
    /// The order, of a payment through the gateway.
    pub order_id: Option<PaymentOrderId>,
    /// How much.
    pub amount: Money,
    /// What of it went back, or is on its way.
    pub refunded: Money,
}

/// A cancellation to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCancellation {
    /// Its id.
    pub cancellation_id: CancellationId,
    /// What is cancelled.
    pub reservation_id: ReservationId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// The command.
    pub command_id: CommandId,
    /// What it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// By whom.
    pub user_id: UserId,
    /// Which seats.
    pub seats: Vec<SeatNo>,
    /// What they cost.
    pub price: Money,
    /// What stays.
    pub fee: Money,
    /// Whether the show is cancelled.
    pub of_show: bool,
    /// When.
    pub at: Timestamp,
}

/// A refund to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRefund {
    /// Its id.
    pub refund_id: RefundId,
    /// For what.
    pub cancellation_id: CancellationId,
    /// To whom.
    pub user_id: UserId,
    /// Of which payment.
    pub payment_id: PaymentId,
    /// Of which order, through the gateway.
    pub order_id: Option<PaymentOrderId>,
    /// How.
    pub method: PaymentMethod,
    /// How much.
    pub amount: Money,
    /// Points are back at once; what goes through the gateway is on its way.
    pub status: RefundStatus,
    /// What moved points.
    pub transfer_id: Option<TransferId>,
    /// When.
    pub at: Timestamp,
}

/// What of a reservation is cancelled by a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelledSeats {
    /// These seats.
    pub seats: Vec<SeatNo>,
    /// When the last of all its seats was; it is CANCELLED then.
    pub ended_at: Option<Timestamp>,
}

/// Who cancels, and by which command.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The command.
    pub command_id: CommandId,
    /// What it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// The user.
    pub user_id: UserId,
    /// Whether the show is cancelled.
    pub of_show: bool,
}

/// What a command wants to be cancelled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub cancellation_id: CancellationId,
    pub reservation_id: ReservationId,
    pub seats: Option<&'a [SeatNo]>,
    pub places: &'a [Places],
}

impl Settlement {
    /// Adds what cancelling a locked reservation needs to know.
    pub fn load_terms(&mut self, reservation_id: ReservationId, terms: Terms) {
        self.terms.insert(reservation_id, terms);
    }

    /// Adds a cancellation that one of the batch's commands made before.
    pub fn load_cancellation(
        &mut self,
        command_id: CommandId,
        fingerprint: Fingerprint,
        cancellation: Cancellation,
    ) {
        let known = (fingerprint, cancellation);
        let twice = self.cancellations.insert(command_id, known);
        assert!(twice.is_none(), "I1: {twice:?}");
    }

    /// The checks in their order: duplicate, owner, deadline, state, seats, the rules' deadline.
    pub(super) fn cancel(
        &mut self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if let Some((fingerprint, known)) = self.cancellations.get(&command.id) {
            return if *fingerprint == command.fingerprint {
                Outcome::Cancelled(known.clone())
            } else {
                Outcome::Refused(Refusal::KeyReused)
            };
        }
        match self.may_cancel(command, wanted, now) {
            Ok((seats, fee)) => {
                let asker = Asker {
                    command_id: command.id,
                    fingerprint: command.fingerprint,
                    user_id: command.user,
                    of_show: false,
                };
                let given = Given {
                    cancellation_id: wanted.cancellation_id,
                    reservation_id: wanted.reservation_id,
                    seats,
                    fee,
                };
                Outcome::Cancelled(self.give_up(given, asker, ids, now, changes))
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Cancels all that is left of a paid reservation, because its show is. Nothing stays with the
    /// seller. `None` when nothing is left.
    ///
    /// # Panics
    /// When the reservation, its terms or its payer's account were not loaded.
    pub fn cancel_for_show(
        &mut self,
        reservation_id: ReservationId,
        cancellation_id: CancellationId,
        asker: Asker,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Option<Cancellation> {
        if self.reservations[&reservation_id].status != ReservationStatus::Paid {
            return None;
        }
        let given = Given {
            cancellation_id,
            reservation_id,
            seats: self.terms[&reservation_id].seats.keys().copied().collect(),
            fee: Money::ZERO,
        };
        Some(self.give_up(given, asker, ids, now, changes))
    }

    /// The seats that are given up and their fee, or why not.
    fn may_cancel(
        &self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<(Vec<SeatNo>, Money), Refusal> {
        let reservation = self
            .reservations
            .get(&wanted.reservation_id)
            .filter(|reservation| reservation.user_id == command.user)
            .ok_or(Refusal::NotFound)?;
        if now > command.deadline {
            return Err(Refusal::CommandExpired);
        }
        let conflict = Refusal::StateConflict {
            status: reservation.status,
        };
        // One that was sold again to a capture that came late has no payment for a moment.
        let is_paid = self.captured.contains_key(&wanted.reservation_id);
        if reservation.status != ReservationStatus::Paid || !is_paid {
            return Err(conflict);
        }
        let terms = self
            .terms
            .get(&wanted.reservation_id)
            .expect("the terms of each reservation that is to be cancelled are loaded");
        let left: Vec<SeatNo> = terms.seats.keys().copied().collect();
        let mut seats = wanted.seats.map_or(left, <[SeatNo]>::to_vec);
        let is_ours = |seat: &SeatNo| terms.seats.contains_key(seat);
        let is_gone = |seat: &SeatNo| terms.cancelled.contains(seat);
        let are_known = seats.iter().all(|seat| is_ours(seat) || is_gone(seat))
            && wanted.places.iter().all(|places| terms.has(places));
        if seats.is_empty() && wanted.places.is_empty() || !are_known {
            return Err(Refusal::UnknownSeat);
        }
        if seats.iter().any(is_gone) {
            return Err(conflict);
        }
        for places in wanted.places {
            let chosen = terms.choose(places, &seats);
            seats.extend(chosen.ok_or_else(|| conflict.clone())?);
        }
        let percent = if reservation.show_cancelled {
            0
        } else {
            fee::percent(&terms.rules, terms.starts_at, now).ok_or(Refusal::CancellationClosed)?
        };
        let prices = seats.iter().map(|seat| terms.seats[seat]);
        let fee = fee::of_seats(&terms.rules, percent, prices);
        Ok((seats, fee))
    }

    fn give_up(
        &mut self,
        given: Given,
        asker: Asker,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Cancellation {
        let reservation_id = given.reservation_id;
        let (price, is_whole) = self.take_seats(reservation_id, &given.seats);
        assert!(given.fee <= price, "P3: a fee of {} of {price}", given.fee);
        let refunded = price - given.fee;
        let reservation = self.reservations[&reservation_id].clone();
        // Nothing ends before it began, whichever clock is ahead (S2).
        let now = now.max(reservation.held_at);
        let refund = self.give_back(&given, refunded, asker, ids, now, changes);
        changes.cancellations.push(NewCancellation {
            cancellation_id: given.cancellation_id,
            reservation_id,
            schedule_id: reservation.schedule_id,
            command_id: asker.command_id,
            fingerprint: asker.fingerprint,
            user_id: asker.user_id,
            seats: given.seats.clone(),
            price,
            fee: given.fee,
            of_show: asker.of_show,
            at: now,
        });
        let cancelled = changes.cancelled.entry(reservation_id);
        let cancelled = cancelled.or_insert(CancelledSeats {
            seats: Vec::new(),
            ended_at: None,
        });
        cancelled.seats.extend(&given.seats);
        cancelled.ended_at = is_whole.then_some(now);
        changes.notices.push(NewNotice {
            notice_id: ids.notice_id,
            subject: given.cancellation_id.0,
            kind: seats::Kind::Cancelled {
                notice_id: ids.notice_id,
                reservation_id,
                schedule_id: reservation.schedule_id,
                seats: given.seats.clone(),
                at: now,
            },
        });
        let fact = Fact::Cancelled {
            reservation_id,
            user_id: reservation.user_id,
            cancellation_id: given.cancellation_id,
            by: asker.user_id,
            of_show: asker.of_show,
            seats: given.seats.clone(),
            is_whole,
            fee: given.fee,
            refunded,
            refund,
            at: now,
        };
        changes.tell(reservation.schedule_id, fact);
        let cancellation = Cancellation {
            cancellation_id: given.cancellation_id,
            reservation_id,
            schedule_id: reservation.schedule_id,
            seats: given.seats,
            fee: given.fee,
            refunded,
            refund,
            at: now,
        };
        self.load_cancellation(asker.command_id, asker.fingerprint, cancellation.clone());
        cancellation
    }

    /// Takes seats off a reservation: their price, and whether they were the last ones.
    fn take_seats(&mut self, reservation_id: ReservationId, seats: &[SeatNo]) -> (Money, bool) {
        let terms = self
            .terms
            .get_mut(&reservation_id)
            .expect("who may cancel has terms");
        let price = seats
            .iter()
            .map(|seat| terms.seats.remove(seat).expect("a seat is cancelled once"))
            .sum();
        terms.cancelled.extend(seats);
        let is_whole = terms.seats.is_empty();
        let reservation = self
            .reservations
            .get_mut(&reservation_id)
            .expect("who may cancel is locked");
        assert_eq!(reservation.status, ReservationStatus::Paid, "S4");
        if is_whole {
            reservation.status = ReservationStatus::Cancelled;
        }
        (price, is_whole)
    }

    /// Sends money back the way that it came.
    fn give_back(
        &mut self,
        given: &Given,
        amount: Money,
        asker: Asker,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Option<Refund> {
        if !amount.is_positive() {
            return None;
        }
        let payee = self.reservations[&given.reservation_id].user_id;
        let captured = self
            .captured
            .get_mut(&given.reservation_id)
            .expect("what is PAID has a payment");
        captured.refunded = captured.refunded + amount;
        assert!(captured.refunded <= captured.amount, "P3: {captured:?}");
        let captured = *captured;
        let (status, transfer_id) = match captured.method {
            PaymentMethod::Points => {
                let refund = ledger::Refund {
                    transfer_id: ids.transfer_id,
                    cancellation_id: given.cancellation_id,
                    payee,
                    amount,
                    fingerprint: asker.fingerprint,
                    at: now,
                };
                self.accounts.refund(refund, &mut changes.ledger);
                (RefundStatus::Done, Some(ids.transfer_id))
            }
            PaymentMethod::Gateway => (RefundStatus::Pending, None),
        };
        changes.refunds.push(NewRefund {
            refund_id: ids.refund_id,
            cancellation_id: given.cancellation_id,
            user_id: payee,
            payment_id: captured.payment_id,
            order_id: captured.order_id,
            method: captured.method,
            amount,
            status,
            transfer_id,
            at: now,
        });
        Some(Refund {
            method: captured.method,
            status,
        })
    }
}

/// Seats that are given up, and what stays of their price.
struct Given {
    cancellation_id: CancellationId,
    reservation_id: ReservationId,
    seats: Vec<SeatNo>,
    fee: Money,
}
