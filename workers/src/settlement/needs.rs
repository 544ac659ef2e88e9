//! What the commands of a batch need: rows to lock, in the order that all workers keep
//! (reservation, order, what the gateway calls payments, refund, account, counter of facts, show), and
//! what was made of them before.

use onsale_schema::message::Command;
use onsale_schema::settlement::Kind;
use onsale_schema::{AccountId, CommandId, PaymentId, PaymentOrderId, RefundId, ReservationId};
use std::collections::BTreeSet;

/// Of a batch.
#[derive(Debug, Default)]
pub struct Needs {
    /// The commands themselves: what was accepted of them before is known by their ids.
    pub commands: Vec<CommandId>,
    /// To be locked first.
    pub reservations: BTreeSet<ReservationId>,
    /// Those of them that are to be cancelled.
    pub cancelled: BTreeSet<ReservationId>,
    /// To be locked after them.
    pub accounts: BTreeSet<AccountId>,
    /// Attempts to pay that may have failed before.
    pub attempts: Vec<PaymentId>,
    /// Orders that are to be confirmed or looked up; their reservations are locked first, too.
    pub orders: BTreeSet<PaymentOrderId>,
    /// What the gateway calls their payments.
    pub payment_keys: BTreeSet<String>,
    /// Notifications of the gateway.
    pub events: BTreeSet<String>,
    /// Refunds that somebody wants to see to; to be locked after all orders.
    pub refunds: BTreeSet<RefundId>,
    /// Reservations that orders are asked for.
    pub ordered: BTreeSet<ReservationId>,
    /// Whether something of an order is to be written off.
    pub has_write_offs: bool,
    /// Whether orders are made, confirmed or looked up.
    pub has_orders: bool,
}

impl Needs {
    /// What these commands need.
    #[must_use]
    pub fn of(commands: &[&Command<Kind>]) -> Self {
        let mut needs = Self::default();
        for command in commands {
            needs.commands.push(command.id);
            needs.add(command);
        }
        needs
    }

    /// Whether something is locked after the reservations and before the accounts.
    #[must_use]
    pub fn locks_between(&self) -> bool {
        self.has_orders || !self.refunds.is_empty()
    }

    fn add(&mut self, command: &Command<Kind>) {
        match &command.kind {
            Kind::Pay {
                payment_id,
                reservation_id,
                ..
            } => {
                self.reservations.insert(*reservation_id);
                self.accounts.insert(AccountId::of_user(command.user));
                self.attempts.push(*payment_id);
            }
            Kind::Cancel { reservation_id, .. } | Kind::CancelPlaces { reservation_id, .. } => {
                self.reservations.insert(*reservation_id);
                self.cancelled.insert(*reservation_id);
                self.accounts.insert(AccountId::of_user(command.user));
            }
            Kind::Order { reservation_id, .. } => {
                self.reservations.insert(*reservation_id);
                self.ordered.insert(*reservation_id);
                self.has_orders = true;
            }
            Kind::Confirm {
                order_id,
                payment_key,
                ..
            } => {
                self.orders.insert(*order_id);
                self.payment_keys.insert(payment_key.clone());
                self.has_orders = true;
            }
            Kind::GatewayEvent {
                event_id, order_id, ..
            } => {
                self.events.insert(event_id.clone());
                self.orders.insert(*order_id);
                self.has_orders = true;
            }
            Kind::RetryRefund { refund_id }
            | Kind::ResolveRefund { refund_id, .. }
            | Kind::CompareRefund { refund_id, .. } => {
                self.refunds.insert(*refund_id);
            }
            Kind::WriteOff { order_id, .. } => {
                self.orders.insert(*order_id);
                self.has_orders = true;
                self.has_write_offs = true;
            }
        }
    }
}
