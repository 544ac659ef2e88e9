//! What a payment does: a held reservation, locked and loaded, becomes a paid one, and its points
//! move, or nothing does.
//!
//! Payments need no order, only atomicity: what is loaded here is locked by the batch's
//! transaction until it commits. The time is the database's, read under those locks, because the
//! end of a hold is compared with it.

use crate::ledger::{self, Accounts, InsufficientPoints, Price};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{Kind, Outcome, Payment, Refusal};
use onsale_schema::status::{PaymentMethod, PaymentStatus, ReservationStatus};
use onsale_schema::{
    CommandId, Money, NoticeId, PaymentId, ReservationId, ScheduleId, Timestamp, TransferId, UserId,
};
use std::collections::{HashMap, HashSet};

/// The code of an attempt that failed for lack of points, as it is stored and as clients see it.
pub const INSUFFICIENT_POINTS: &str = "insufficient-points";

/// A locked reservation row, as far as paying needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub reservation_id: ReservationId,
    /// Where its seats are.
    pub schedule_id: ScheduleId,
    /// Who may pay it.
    pub user_id: UserId,
    /// Its state.
    pub status: ReservationStatus,
    /// When it lapses.
    pub expires_at: Timestamp,
    /// What it costs.
    pub total: Money,
}

/// Ids for what an accepted payment makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Of its transfer, if there is something to move.
    pub transfer_id: TransferId,
    /// Of the notice to the owner of the seats.
    pub notice_id: NoticeId,
}

/// What one batch of payments has locked and loaded. Payments that were made before are to be read
/// when reservations and accounts are locked, not earlier.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// The payers' accounts.
    pub accounts: Accounts,
    reservations: HashMap<ReservationId, Reservation>,
    /// Live payments, by the command that made them.
    payments: HashMap<CommandId, (Fingerprint, Payment)>,
    /// What they paid.
    paid: HashSet<ReservationId>,
    /// Attempts that failed.
    failed: HashSet<PaymentId>,
}

/// What a batch of settlement decisions writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows to insert: paid ones, and failed attempts.
    pub payments: Vec<NewPayment>,
    /// Rows that change from HELD to PAID. They are locked, so the update can't miss.
    pub paid: Vec<ReservationId>,
    /// Transfers and balances.
    pub ledger: ledger::Changes,
    /// One per reservation in `paid`.
    pub notices: Vec<NewNotice>,
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payments.is_empty()
            && self.paid.is_empty()
            && self.ledger.is_empty()
            && self.notices.is_empty()
    }
}

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
    /// When.
    pub at: Timestamp,
}

/// Word to the owner of the seats that a reservation is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNotice {
    /// Its id.
    pub notice_id: NoticeId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// What was paid.
    pub reservation_id: ReservationId,
}

impl Settlement {
    /// Adds a locked reservation that one of the batch's commands wants to pay.
    ///
    /// # Panics
    /// When it is loaded already.
    pub fn load_reservation(&mut self, reservation: Reservation) {
        let twice = self
            .reservations
            .insert(reservation.reservation_id, reservation);
        assert!(twice.is_none(), "a reservation is locked once: {twice:?}");
    }

    /// Adds a live payment: those of the batch's commands, and those of its reservations.
    ///
    /// # Panics
    /// When its command or its reservation has another one.
    pub fn load_payment(
        &mut self,
        command_id: CommandId,
        fingerprint: Fingerprint,
        payment: Payment,
    ) {
        let is_first = self.paid.insert(payment.reservation_id);
        assert!(is_first, "P1: {payment:?}");
        let same_command = self.payments.insert(command_id, (fingerprint, payment));
        assert!(same_command.is_none(), "I1: {same_command:?}");
    }

    /// Adds a failed attempt that has the payment id of one of the batch's commands. A message
    /// that is delivered again is the same attempt and gets the same answer; a retry by the client
    /// comes with a new payment id and is a new attempt.
    pub fn load_failed(&mut self, payment_id: PaymentId) {
        self.failed.insert(payment_id);
    }

    /// Decides one payment, applies it and appends what must be written. `now` is the database's
    /// clock. The checks in their order: duplicate, owner, deadline, state, points.
    ///
    /// # Panics
    /// When the payer's account was not loaded.
    pub fn decide(
        &mut self,
        command: &Command<Kind>,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let Kind::Pay {
            payment_id,
            reservation_id,
            method,
        } = &command.kind;
        let reservation = match self.may_pay(command, *payment_id, *reservation_id, now) {
            Ok(reservation) => reservation,
            Err(outcome) => return outcome,
        };
        match method {
            PaymentMethod::Points => {}
            // Those go by orders.
            PaymentMethod::Gateway => return Outcome::Refused(Refusal::NotFound),
        }
        let price = Price {
            transfer_id: ids.transfer_id,
            reservation_id: *reservation_id,
            payer: command.user,
            amount: reservation.total,
            fingerprint: command.fingerprint,
            at: now,
        };
        let mut row = NewPayment {
            payment_id: *payment_id,
            reservation_id: *reservation_id,
            user_id: command.user,
            command_id: command.id,
            fingerprint: command.fingerprint,
            method: *method,
            amount: price.amount,
            status: PaymentStatus::Paid,
            fail_code: None,
            transfer_id: price.amount.is_positive().then_some(price.transfer_id),
            at: now,
        };
        if price.amount.is_positive()
            && let Err(InsufficientPoints) = self.accounts.pay(price, &mut changes.ledger)
        {
            row.status = PaymentStatus::Failed;
            row.fail_code = Some(INSUFFICIENT_POINTS);
            row.transfer_id = None;
            changes.payments.push(row);
            self.load_failed(*payment_id);
            return Outcome::Refused(Refusal::InsufficientPoints);
        }
        changes.payments.push(row);
        changes.paid.push(*reservation_id);
        changes.notices.push(NewNotice {
            notice_id: ids.notice_id,
            schedule_id: reservation.schedule_id,
            reservation_id: *reservation_id,
        });
        self.set_paid(*reservation_id);
        let payment = Payment {
            payment_id: *payment_id,
            reservation_id: *reservation_id,
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
