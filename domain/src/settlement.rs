//! What is decided about money for reservations: what one batch has locked and loaded, and what it
//! writes. Each kind of decision has a file of its own.
//!
//! Settlement needs no order, only atomicity: what is loaded here is locked by the batch's
//! transaction until it commits. The time is the database's, read under those locks, because the
//! end of a hold is compared with it.

mod cancel;
pub mod charge;
pub mod fee;
pub mod kept;
pub mod order;
mod ordering;
mod pay;
pub mod refund;
mod tasks;
mod write_off;

pub use cancel::{Asker, CancelledSeats, Captured, NewCancellation, NewRefund, Terms};
pub use order::{Order, Purpose, Reserved};
pub use ordering::Ordering;
pub use pay::{INSUFFICIENT_POINTS, NewPayment};
pub use tasks::{Action, NewAction, Tasks};
pub use write_off::{NewWriteOff, WriteOffs};

use crate::ledger::{self, Accounts};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{Cancellation, Fact, Kind, Outcome, Payment};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{
    CommandId, Money, NoticeId, PaymentId, PaymentOrderId, RefundId, ReservationId, ScheduleId,
    Timestamp, TransferId, UserId, seats,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

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
    /// When it was accepted, by the stream's time: that may be ahead of the database's clock.
    pub held_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
    /// What it costs.
    pub total: Money,
    /// Whether its show was cancelled.
    pub show_cancelled: bool,
}

/// Ids for what an accepted command makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Of its transfer, if there is something to move.
    pub transfer_id: TransferId,
    /// Of the notice to the owner of the seats.
    pub notice_id: NoticeId,
    /// Of its refund, if something goes back.
    pub refund_id: RefundId,
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
    /// What was captured for reservations that may be cancelled.
    captured: HashMap<ReservationId, Captured>,
    terms: HashMap<ReservationId, Terms>,
    /// Cancellations, by the command that made them.
    cancellations: HashMap<CommandId, (Fingerprint, Cancellation)>,
    /// Orders of payments through the gateway, and what is known of them.
    pub ordering: Ordering,
    /// Refunds that somebody wants to see to.
    pub tasks: Tasks,
    /// What was written off.
    pub write_offs: WriteOffs,
}

/// What a batch of settlement decisions writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Rows to insert: paid ones, and failed attempts.
    pub payments: Vec<NewPayment>,
    /// Rows that change from HELD to PAID. They are locked, so the update can't miss.
    pub paid: Vec<ReservationId>,
    /// Transfers and balances.
    pub ledger: ledger::Changes,
    /// What the owners of the seats are told.
    pub notices: Vec<NewNotice>,
    /// Rows to insert.
    pub cancellations: Vec<NewCancellation>,
    /// Rows to insert; the payments that they are of have given back so much more.
    pub refunds: Vec<NewRefund>,
    /// What of which reservations is cancelled.
    pub cancelled: BTreeMap<ReservationId, CancelledSeats>,
    /// What other systems are told, by date.
    pub facts: BTreeMap<ScheduleId, Vec<Fact>>,
    /// Orders to insert.
    pub orders: Vec<Order>,
    /// Commands that asked for an order, with what they were told of: an order of this batch, or one
    /// that was there. Rows to insert, so that no command asks for two.
    pub order_keys: Vec<(CommandId, PaymentOrderId)>,
    /// Orders that were confirmed, as they are now.
    pub confirmed: Vec<Order>,
    /// Notifications of the gateway to insert, with the orders to look up.
    pub events: Vec<NewEvent>,
    /// What somebody has done about refunds that were stuck, or had to be compared.
    pub actions: Vec<NewAction>,
    /// What somebody has written off of orders, which are looked up next.
    pub write_offs: Vec<NewWriteOff>,
}

impl Changes {
    /// Adds a fact about the money of a date.
    fn tell(&mut self, schedule_id: ScheduleId, fact: Fact) {
        self.facts.entry(schedule_id).or_default().push(fact);
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payments.is_empty()
            && self.paid.is_empty()
            && self.ledger.is_empty()
            && self.notices.is_empty()
            && self.cancellations.is_empty()
            && self.orders.is_empty()
            && self.order_keys.is_empty()
            && self.confirmed.is_empty()
            && self.events.is_empty()
            && self.actions.is_empty()
            && self.write_offs.is_empty()
    }
}

/// A notification of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id.
    pub event_id: String,
    /// Which order it is about.
    pub order_id: PaymentOrderId,
    /// Whether that is looked up, too, if it has ended with the money captured.
    pub may_be_back: bool,
}

/// Word to the owner of the seats.
#[derive(Clone, Debug, PartialEq)]
pub struct NewNotice {
    /// Its id, which it says, too.
    pub notice_id: NoticeId,
    /// What the command is about, once for each name of a kind: its id follows from it.
    pub subject: Uuid,
    /// The command.
    pub kind: seats::Kind,
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

    /// Adds what was captured for a reservation.
    pub fn load_captured(&mut self, reservation_id: ReservationId, captured: Captured) {
        self.captured.insert(reservation_id, captured);
    }

    /// Decides one command, applies it and appends what must be written. `now` is the database's
    /// clock.
    ///
    /// # Panics
    /// When an account that it needs was not loaded.
    pub fn decide(
        &mut self,
        command: &Command<Kind>,
        ids: Ids,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        match &command.kind {
            Kind::Pay {
                payment_id,
                reservation_id,
                method,
            } => {
                let wanted = pay::Wanted {
                    payment_id: *payment_id,
                    reservation_id: *reservation_id,
                    method: *method,
                };
                self.pay(command, wanted, ids, now, changes)
            }
            Kind::Cancel {
                cancellation_id,
                reservation_id,
                seats,
            } => {
                let wanted = cancel::Wanted {
                    cancellation_id: *cancellation_id,
                    reservation_id: *reservation_id,
                    seats: seats.as_deref(),
                    places: &[],
                };
                self.cancel(command, wanted, ids, now, changes)
            }
            Kind::CancelPlaces {
                cancellation_id,
                reservation_id,
                seats,
                places,
            } => {
                let wanted = cancel::Wanted {
                    cancellation_id: *cancellation_id,
                    reservation_id: *reservation_id,
                    seats: Some(seats),
                    places,
                };
                self.cancel(command, wanted, ids, now, changes)
            }
            Kind::Order {
                order_id,
                reservation_id,
            } => self.order(command, *order_id, *reservation_id, now, changes),
            Kind::Confirm {
                order_id,
                payment_key,
                amount,
            } => {
                let wanted = ordering::Wanted {
                    order_id: *order_id,
                    payment_key,
                    amount: *amount,
                };
                self.confirm(command, wanted, ids.notice_id, now, changes)
            }
            Kind::GatewayEvent {
                event_id,
                order_id,
                is_captured,
                may_be_back,
            } => {
                let event = NewEvent {
                    event_id: event_id.clone(),
                    order_id: *order_id,
                    may_be_back: *may_be_back,
                };
                self.ordering.note(event, *is_captured, changes)
            }
            Kind::RetryRefund { refund_id } => {
                self.attend(command, *refund_id, Action::Retry, now, changes)
            }
            Kind::ResolveRefund { refund_id, note } => {
                let action = Action::Resolution { note: note.clone() };
                self.attend(command, *refund_id, action, now, changes)
            }
            Kind::CompareRefund { refund_id, note } => {
                let action = Action::Comparison { note: note.clone() };
                self.attend(command, *refund_id, action, now, changes)
            }
            Kind::WriteOff {
                order_id,
                amounts,
                note,
            } => {
                let wanted = write_off::Wanted {
                    order_id: *order_id,
                    amounts,
                    note,
                };
                self.write_off(command, wanted, now, changes)
            }
        }
    }
}
