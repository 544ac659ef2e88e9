//! What is decided when somebody says what of a sold payment went back at the gateway apart from its
//! refunds, a bank's chargeback for one, and is to stay so. Nothing is paid by it, and nobody is believed:
//! the payment is looked up next, and whether the gateway has it so is [`super::kept`]'s to say.

use super::{Changes, Settlement};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{AMOUNTS_MAX, Kind, Outcome, Refusal, WrittenOff};
use onsale_schema::status::OrderStatus;
use onsale_schema::{CommandId, Money, PaymentOrderId, Timestamp, UserId};
use std::collections::HashMap;

/// What somebody has written off, to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWriteOff {
    /// The command.
    pub command_id: CommandId,
    /// What it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// Of which order.
    pub order_id: PaymentOrderId,
    /// What of it, in place of what was written off before.
    pub amounts: Vec<Money>,
    /// By whom.
    pub user_id: UserId,
    /// Why, in the words of who did it.
    pub note: String,
    /// When.
    pub at: Timestamp,
}

/// What the batch's commands have written off before.
#[derive(Clone, Debug, Default)]
pub struct WriteOffs {
    done: HashMap<CommandId, (Fingerprint, WrittenOff)>,
    /// When each order had something written off last.
    latest: HashMap<PaymentOrderId, Timestamp>,
}

impl WriteOffs {
    /// Adds what a command wrote off before.
    pub fn load(&mut self, command: CommandId, fingerprint: Fingerprint, done: WrittenOff) {
        let latest = self.latest.entry(done.order_id).or_insert(done.at);
        *latest = done.at.max(*latest);
        self.done.insert(command, (fingerprint, done));
    }

    /// The moment of the next one of an order: the latest one counts, also of one batch.
    fn moment(&self, order_id: PaymentOrderId, now: Timestamp) -> Timestamp {
        let latest = self.latest.get(&order_id);
        latest.map_or(now, |latest| now.max(Timestamp(latest.0 + 1)))
    }
}

/// What a command wants written off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub order_id: PaymentOrderId,
    pub amounts: &'a [Money],
    pub note: &'a str,
}

impl Settlement {
    /// The checks in their order: duplicate, existence, deadline, state, amounts.
    pub(super) fn write_off(
        &mut self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if let Some((fingerprint, done)) = self.write_offs.done.get(&command.id) {
            return match *fingerprint == command.fingerprint {
                true => Outcome::WrittenOff(done.clone()),
                false => Outcome::Refused(Refusal::KeyReused),
            };
        }
        if let Err(refusal) = self.may_write_off(command, wanted, now) {
            return Outcome::Refused(refusal);
        }
        let at = self.write_offs.moment(wanted.order_id, now);
        let done = WrittenOff {
            order_id: wanted.order_id,
            amounts: wanted.amounts.to_vec(),
            at,
        };
        (self.write_offs).load(command.id, command.fingerprint, done.clone());
        changes.write_offs.push(NewWriteOff {
            command_id: command.id,
            fingerprint: command.fingerprint,
            order_id: wanted.order_id,
            amounts: wanted.amounts.to_vec(),
            user_id: command.user,
            note: wanted.note.to_owned(),
            at,
        });
        Outcome::WrittenOff(done)
    }

    fn may_write_off(
        &self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let order = self.ordering.order(wanted.order_id);
        let order = order.ok_or(Refusal::NotFound)?;
        if now > command.deadline {
            return Err(Refusal::CommandExpired);
        }
        match order.status {
            OrderStatus::Paid | OrderStatus::Refunding | OrderStatus::Refunded => {}
            // What was captured for nothing goes back at the gateway, all of it.
            status @ (OrderStatus::Ready
            | OrderStatus::Securing
            | OrderStatus::Capturing
            | OrderStatus::Unknown
            | OrderStatus::Captured
            | OrderStatus::Reholding
            | OrderStatus::Failed) => return Err(Refusal::OrderConflict { status }),
        }
        let are_amounts = wanted.amounts.iter().all(|amount| amount.is_positive());
        let sum: Money = wanted.amounts.iter().copied().sum();
        if are_amounts && wanted.amounts.len() <= AMOUNTS_MAX && sum <= order.captured {
            Ok(())
        } else {
            Err(Refusal::AmountMismatch)
        }
    }
}
