//! What is decided when somebody says how much of a sold payment went back at the gateway apart from its
//! refunds, a bank's chargeback for one, and is to stay so. Nothing is paid by it, and nobody is believed:
//! the payment is looked up next, and whether it all adds up then is [`super::kept`]'s to say.

use super::{Changes, Settlement};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{Kind, Outcome, Refusal, WrittenOff};
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
    /// How much of it, in place of what was written off before.
    pub amount: Money,
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
}

impl WriteOffs {
    /// Adds what a command wrote off before.
    pub fn load(&mut self, command: CommandId, fingerprint: Fingerprint, done: WrittenOff) {
        self.done.insert(command, (fingerprint, done));
    }
}

/// What a command wants written off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub order_id: PaymentOrderId,
    pub amount: Money,
    pub note: &'a str,
}

impl Settlement {
    /// The checks in their order: duplicate, existence, deadline, state, amount.
    pub(super) fn write_off(
        &mut self,
        command: &Command<Kind>,
        wanted: Wanted<'_>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if let Some((fingerprint, done)) = self.write_offs.done.get(&command.id) {
            return match *fingerprint == command.fingerprint {
                true => Outcome::WrittenOff(*done),
                false => Outcome::Refused(Refusal::KeyReused),
            };
        }
        if let Err(refusal) = self.may_write_off(command, wanted, now) {
            return Outcome::Refused(refusal);
        }
        let done = WrittenOff {
            order_id: wanted.order_id,
            amount: wanted.amount,
            at: now,
        };
        self.write_offs.load(command.id, command.fingerprint, done);
        changes.write_offs.push(NewWriteOff {
            command_id: command.id,
            fingerprint: command.fingerprint,
            order_id: wanted.order_id,
            amount: wanted.amount,
            user_id: command.user,
            note: wanted.note.to_owned(),
            at: now,
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
        if (Money::ZERO..=order.captured).contains(&wanted.amount) {
            Ok(())
        } else {
            Err(Refusal::AmountMismatch)
        }
    }
}
