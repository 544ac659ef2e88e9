//! What a payment with points does: a held reservation becomes a paid one, and its points move, or
//! nothing does.

use super::{Captured, Changes, Ids, NewNotice, Reservation, Settlement};
use crate::ledger::{InsufficientPoints, Price};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::PAID_MAX;
use onsale_schema::settlement::{Fact, Kind, Outcome, Payment, Refusal};
use onsale_schema::status::{FailCode, PaymentMethod, PaymentStatus, ReservationStatus};
use onsale_schema::{
    CommandId, Money, NoticeId, PaymentId, PaymentOrderId, ReservationId, ScheduleId, Timestamp,
    TransferId, UserId, seats,
};

/// The code of an attempt that failed for lack of points, as it is stored and as clients see it.
pub const INSUFFICIENT_POINTS: &str = FailCode::InsufficientPoints.as_str();

/// A payment to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPayment {
    /// Its id.
    pub payment_id: PaymentId,
    /// What was to be paid.
    pub reservation_id: ReservationId,
    /// By whom.
    pub user_id: UserId,
    /// The command.
    pub command_id: CommandId,
    /// What it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// How.
    pub method: PaymentMethod,
    /// How much.
    pub amount: Money,
    /// Whether it succeeded.
    pub status: PaymentStatus,
    /// Why it failed, if it did.
    pub fail_code: Option<&'static str>,
    /// What moved; nothing for a failed attempt and for a price of zero.
    pub transfer_id: Option<TransferId>,
    /// Of which order, through the gateway.
    pub order_id: Option<PaymentOrderId>,
    /// When.
    pub at: Timestamp,
}

/// What a command wants to be paid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub payment_id: PaymentId,
    pub reservation_id: ReservationId,
    pub method: PaymentMethod,
}

impl Changes {
    /// Tells the owner of the seats, with others of the batch if there is such a notice.
    fn tell_paid(
        &mut self,
        notice_id: NoticeId,
        reservation_id: ReservationId,
        schedule: ScheduleId,
    ) {
        let others = self
            .notices
            .iter_mut()
            .rev()
            .find_map(|notice| match &mut notice.kind {
                seats::Kind::PaidAll {
                    reservation_ids,
                    schedule_id,
                    ..
                } if *schedule_id == schedule => Some(reservation_ids),
                _ => None,
            });
        match others.filter(|others| others.len() < PAID_MAX) {
            Some(others) => others.push(reservation_id),
            None => self.notices.push(NewNotice {
                notice_id,
                subject: notice_id.0,
                kind: seats::Kind::PaidAll {
                    notice_id,
                    reservation_ids: vec![reservation_id],
                    schedule_id: schedule,
                },
            }),
        }
    }
}

impl Settlement {
    /// The checks in their order: duplicate, owner, deadline, state, points.
    pub(super) fn pay(
        &mut self,
        command: &Command<Kind>,
        wanted: Wanted,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let Wanted {
            payment_id,
            reservation_id,
            method,
        } = wanted;
        match method {
            PaymentMethod::Points => {}
            // Who pays through the gateway confirms an order; no such command is ever sent.
            PaymentMethod::Gateway => return Outcome::Refused(Refusal::NotFound),
        }
        let reservation = match self.may_pay(command, payment_id, reservation_id, now) {
            Ok(reservation) => reservation,
            Err(outcome) => return outcome,
        };
        let price = Price {
            transfer_id: ids.transfer_id,
            reservation_id,
            payer: command.user,
            amount: reservation.total,
            fingerprint: command.fingerprint,
            at: now,
        };
        let mut row = NewPayment {
            payment_id,
            reservation_id,
            user_id: command.user,
            command_id: command.id,
            fingerprint: command.fingerprint,
            method,
            amount: price.amount,
            status: PaymentStatus::Paid,
            fail_code: None,
            transfer_id: price.amount.is_positive().then_some(price.transfer_id),
            order_id: None,
            at: now,
        };
        if price.amount.is_positive()
            && let Err(InsufficientPoints) = self.accounts.pay(price, &mut changes.ledger)
        {
            row.status = PaymentStatus::Failed;
            row.fail_code = Some(INSUFFICIENT_POINTS);
            row.transfer_id = None;
            changes.payments.push(row);
            self.load_failed(payment_id);
            return Outcome::Refused(Refusal::InsufficientPoints);
        }
        changes.payments.push(row);
        changes.paid.push(reservation_id);
        changes.tell_paid(ids.notice_id, reservation_id, reservation.schedule_id);
        self.set_paid(reservation_id);
        let captured = Captured {
            payment_id,
            method,
            order_id: None,
            amount: price.amount,
            refunded: Money::ZERO,
        };
        self.load_captured(reservation_id, captured);
        let fact = Fact::Paid {
            reservation_id,
            user_id: command.user,
            payment_id,
            method,
            amount: price.amount,
            at: now,
        };
        changes.tell(reservation.schedule_id, fact);
        let payment = Payment {
            payment_id,
            reservation_id,
            amount: price.amount,
            paid_at: now,
        };
        self.load_payment(command.id, command.fingerprint, payment.clone());
        Outcome::Paid(payment)
    }

    /// The reservation to pay, or the outcome if there is nothing to do or it may not be.
    fn may_pay(
        &self,
        command: &Command<Kind>,
        payment_id: PaymentId,
        reservation_id: ReservationId,
        now: Timestamp,
    ) -> Result<Reservation, Outcome> {
        if let Some((fingerprint, payment)) = self.payments.get(&command.id) {
            return Err(if *fingerprint == command.fingerprint {
                Outcome::Paid(payment.clone())
            } else {
                Outcome::Refused(Refusal::KeyReused)
            });
        }
        if self.failed.contains(&payment_id) {
            return Err(Outcome::Refused(Refusal::InsufficientPoints));
        }
        let refuse = |refusal| Err(Outcome::Refused(refusal));
        let Some(reservation) = self
            .reservations
            .get(&reservation_id)
            .filter(|reservation| reservation.user_id == command.user)
        else {
            return refuse(Refusal::NotFound);
        };
        if now > command.deadline {
            return refuse(Refusal::CommandExpired);
        }
        match reservation.status {
            ReservationStatus::Paid => refuse(Refusal::AlreadyPaid),
            status @ (ReservationStatus::Released | ReservationStatus::Cancelled) => {
                refuse(Refusal::StateConflict { status })
            }
            ReservationStatus::Expired => refuse(Refusal::HoldExpired),
            ReservationStatus::Held => {
                assert!(
                    !self.paid.contains(&reservation_id),
                    "P1: {reservation_id} is HELD and has a live payment"
                );
                if reservation.expires_at <= now {
                    refuse(Refusal::HoldExpired)
                } else if reservation.show_cancelled {
                    refuse(Refusal::ShowCancelled)
                } else if self.ordering.is_paying(reservation_id) {
                    refuse(Refusal::PaymentInProgress)
                } else {
                    Ok(reservation.clone())
                }
            }
        }
    }

    fn set_paid(&mut self, reservation_id: ReservationId) {
        let reservation = self
            .reservations
            .get_mut(&reservation_id)
            .expect("only a loaded reservation is paid");
        assert_eq!(reservation.status, ReservationStatus::Held, "S4");
        reservation.status = ReservationStatus::Paid;
    }
}
