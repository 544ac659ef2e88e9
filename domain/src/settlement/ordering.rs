//! What is decided when an order is made and when it is confirmed. How it goes on after that is said
//! in [`super::order`]; here no gateway was asked yet.

use super::order::{Order, Purpose, Reserved, SECURE_MS};
use super::{Changes, NewEvent, NewNotice, Reservation, Settlement};
use onsale_schema::message::Command;
use onsale_schema::settlement::{self, Kind, Outcome, Refusal};
use onsale_schema::status::{OrderStatus, ReservationStatus};
use onsale_schema::{CommandId, Money, NoticeId, PaymentOrderId, ReservationId, Timestamp, seats};
use std::collections::{HashMap, HashSet};

/// What a batch has locked and loaded of orders.
#[derive(Clone, Debug, Default)]
pub struct Ordering {
    /// Whether there is a gateway to pay through.
    pub has_gateway: bool,
    /// Those that are to be confirmed, and those that the batch's commands made.
    orders: HashMap<PaymentOrderId, Order>,
    /// By the command that made them.
    made: HashMap<CommandId, PaymentOrderId>,
    /// Those that may be confirmed, by what they pay.
    ready: HashMap<ReservationId, PaymentOrderId>,
    /// By the command that confirmed them.
    confirmed: HashMap<CommandId, PaymentOrderId>,
    /// Which order a payment of the gateway serves.
    keys: HashMap<String, PaymentOrderId>,
    /// Reservations that an order is paying, or that their owner keeps for one.
    paying: HashSet<ReservationId>,
    /// Notifications that had their effect.
    events: HashSet<String>,
}

impl Ordering {
    /// Adds an order.
    pub fn load(&mut self, order: Order) {
        if let Some(Reserved { reservation_id, .. }) = order.purpose.reserved() {
            if order.status == OrderStatus::Ready {
                self.ready.insert(reservation_id, order.order_id);
            } else if self.ready.get(&reservation_id) == Some(&order.order_id) {
                self.ready.remove(&reservation_id);
            }
        }
        self.made.insert(order.command_id, order.order_id);
        if let Some((command, _)) = order.confirmed_by {
            self.confirmed.insert(command, order.order_id);
        }
        if let Some(key) = &order.payment_key {
            self.keys.insert(key.clone(), order.order_id);
        }
        self.orders.insert(order.order_id, order);
    }

    /// Adds which order a command was told of that asked for one.
    pub fn load_key(&mut self, command: CommandId, order_id: PaymentOrderId) {
        self.made.insert(command, order_id);
    }

    /// Adds that an order is paying a reservation.
    pub fn load_paying(&mut self, reservation_id: ReservationId) {
        self.paying.insert(reservation_id);
    }

    /// Adds a notification that had its effect.
    pub fn load_event(&mut self, event_id: String) {
        self.events.insert(event_id);
    }

    /// An order that was loaded.
    pub(super) fn order(&self, order_id: PaymentOrderId) -> Option<&Order> {
        self.orders.get(&order_id)
    }

    /// Whether an order is paying it.
    pub(super) fn is_paying(&self, reservation_id: ReservationId) -> bool {
        self.paying.contains(&reservation_id)
    }

    /// Has an order looked up, once for each notification. One of an order that nobody knows is refused;
    /// if it says that money was captured, it is set aside for somebody to see to, once: a copy of it,
    /// and a retry by whoever has seen to it, says nothing new.
    pub(super) fn note(
        &mut self,
        event: NewEvent,
        is_captured: bool,
        changes: &mut Changes,
    ) -> Outcome {
        let is_known = self.orders.contains_key(&event.order_id);
        if !is_known && !is_captured {
            return Outcome::Refused(Refusal::NotFound);
        }
        if !self.events.insert(event.event_id.clone()) {
            return Outcome::Noted;
        }
        changes.events.push(event);
        match is_known {
            true => Outcome::Noted,
            false => Outcome::DeadLettered,
        }
    }

    /// The order of a reservation that may be confirmed, if there is one of this amount.
    fn ready(&self, reservation_id: ReservationId, amount: Money) -> Option<&Order> {
        let order = self.orders.get(self.ready.get(&reservation_id)?)?;
        Some(order).filter(|order| order.amount == amount)
    }

    fn known(&self, by: &HashMap<CommandId, PaymentOrderId>, command: CommandId) -> Option<&Order> {
        self.orders.get(by.get(&command)?)
    }
}

/// What a command wants to be captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub order_id: PaymentOrderId,
    pub payment_key: &'a str,
    pub amount: Money,
}

/// An order as its client is told of it; none of a charge, of which nothing is told here.
fn told(order: &Order) -> Option<settlement::Order> {
    let reserved = order.purpose.reserved()?;
    Some(settlement::Order {
        order_id: order.order_id,
        reservation_id: reserved.reservation_id,
        amount: order.amount,
    })
}

impl Settlement {
    /// The checks in their order: duplicate, owner, deadline, gateway, state, price. A reservation has
    /// one order that may be confirmed: who asks for another, under another key, is told of that one.
    pub(super) fn order(
        &mut self,
        command: &Command<Kind>,
        order_id: PaymentOrderId,
        reservation_id: ReservationId,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if let Some(known) = self.ordering.known(&self.ordering.made, command.id) {
            let is_same = known.fingerprint == command.fingerprint;
            return again(known, is_same, Outcome::Ordered);
        }
        let reservation = match self.may_order(command, reservation_id, now) {
            Ok(reservation) => reservation,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        if !reservation.total.is_positive() {
            return Outcome::Refused(Refusal::NothingToPay);
        }
        let reserved = Reserved {
            reservation_id,
            schedule_id: reservation.schedule_id,
        };
        if let Some(ready) = self.ordering.ready(reservation_id, reservation.total) {
            let outcome = again(ready, true, Outcome::Ordered);
            let order_id = ready.order_id;
            changes.order_keys.push((command.id, order_id));
            self.ordering.load_key(command.id, order_id);
            return outcome;
        }
        let order = Order {
            order_id,
            purpose: Purpose::Reservation(reserved),
            user_id: command.user,
            command_id: command.id,
            fingerprint: command.fingerprint,
            amount: reservation.total,
            status: OrderStatus::Ready,
            step_no: 0,
            attempts: 0,
            payment_key: None,
            confirmed_by: None,
            notice_id: None,
            rehold_id: None,
            fail_code: None,
            captured: Money::ZERO,
            created_at: now,
        };
        let outcome = again(&order, true, Outcome::Ordered);
        changes.order_keys.push((command.id, order_id));
        changes.orders.push(order.clone());
        self.ordering.load(order);
        outcome
    }

    /// The checks in their order: duplicate, owner, deadline, amount, state of the order, of its
    /// payment, gateway, state of the reservation.
    pub(super) fn confirm(
        &mut self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        notice_id: NoticeId,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if let Some(known) = self.ordering.known(&self.ordering.confirmed, command.id) {
            let print = known.confirmed_by.map(|(_, print)| print);
            let is_same = print == Some(command.fingerprint);
            return again(known, is_same, Outcome::Confirmed);
        }
        let (mut order, reserved) = match self.may_confirm(command, wanted, now) {
            Ok(found) => found,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        order.status = OrderStatus::Securing;
        order.step_no += 1;
        order.attempts = 0;
        order.payment_key = Some(wanted.payment_key.to_owned());
        order.confirmed_by = Some((command.id, command.fingerprint));
        order.notice_id = Some(notice_id);
        changes.notices.push(NewNotice {
            notice_id,
            subject: order.order_id.0,
            kind: seats::Kind::Secure {
                notice_id,
                order_id: order.order_id,
                reservation_id: reserved.reservation_id,
                schedule_id: reserved.schedule_id,
                until: now.plus_ms(SECURE_MS),
            },
        });
        let outcome = again(&order, true, Outcome::Confirmed);
        changes.confirmed.push(order.clone());
        self.ordering.load_paying(reserved.reservation_id);
        self.ordering.load(order);
        outcome
    }

    fn may_confirm(
        &self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<(Order, Reserved), Refusal> {
        let order = self.ordering.orders.get(&wanted.order_id);
        let order = order
            .filter(|order| order.user_id == command.user)
            .ok_or(Refusal::NotFound)?;
        if now > command.deadline {
            return Err(Refusal::CommandExpired);
        }
        if order.amount != wanted.amount {
            return Err(Refusal::AmountMismatch);
        }
        // Confirmed by another command, and to the end: with this payment it is as was wanted.
        if order.status == OrderStatus::Paid
            && order.payment_key.as_deref() == Some(wanted.payment_key)
        {
            return Err(Refusal::AlreadyPaid);
        }
        let conflict = Refusal::OrderConflict {
            status: order.status,
        };
        let reserved = order.purpose.reserved().ok_or(conflict.clone())?;
        if order.status != OrderStatus::Ready {
            return Err(conflict);
        }
        let serves = self.ordering.keys.get(wanted.payment_key);
        if serves.is_some_and(|&other| other != wanted.order_id) {
            return Err(Refusal::PaymentKeyUsed);
        }
        self.may_order(command, reserved.reservation_id, now)?;
        Ok((order.clone(), reserved))
    }

    /// The reservation, if its user may begin to pay it.
    fn may_order(
        &self,
        command: &Command<Kind>,
        reservation_id: ReservationId,
        now: Timestamp,
    ) -> Result<&Reservation, Refusal> {
        let reservation = self.reservations.get(&reservation_id);
        let reservation = reservation
            .filter(|reservation| reservation.user_id == command.user)
            .ok_or(Refusal::NotFound)?;
        if now > command.deadline {
            return Err(Refusal::CommandExpired);
        }
        if !self.ordering.has_gateway {
            return Err(Refusal::GatewayNotConfigured);
        }
        match reservation.status {
            ReservationStatus::Paid => Err(Refusal::AlreadyPaid),
            status @ (ReservationStatus::Released | ReservationStatus::Cancelled) => {
                Err(Refusal::StateConflict { status })
            }
            ReservationStatus::Expired => Err(Refusal::HoldExpired),
            ReservationStatus::Held if reservation.expires_at <= now => Err(Refusal::HoldExpired),
            ReservationStatus::Held if reservation.show_cancelled => Err(Refusal::ShowCancelled),
            ReservationStatus::Held if self.ordering.is_paying(reservation_id) => {
                Err(Refusal::PaymentInProgress)
            }
            ReservationStatus::Held => Ok(reservation),
        }
    }
}

/// What a command about an order is answered, also again, if it asks the same.
fn again(order: &Order, is_same: bool, outcome: fn(settlement::Order) -> Outcome) -> Outcome {
    let told = told(order).filter(|_| is_same);
    told.map_or(Outcome::Refused(Refusal::KeyReused), outcome)
}
