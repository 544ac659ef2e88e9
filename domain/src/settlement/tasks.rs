//! What is decided when somebody sees to a refund that the gateway would not make: it is asked for
//! again, or somebody has paid it back by other means and says so. Nothing else ends such a refund,
//! and what was said can't be taken back.

use super::{Changes, Settlement};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{Fact, Kind, Outcome, RefundTask, Refusal};
use onsale_schema::status::RefundStatus;
use onsale_schema::{
    CancellationId, CommandId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp, UserId,
};
use std::collections::HashMap;

/// A locked refund that somebody wants to see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Its id.
    pub refund_id: RefundId,
    /// Of which order, if it goes back through the gateway.
    pub order_id: Option<PaymentOrderId>,
    /// What was paid; none where that was no reservation.
    pub reservation_id: Option<ReservationId>,
    /// What it is for; none for a capture that came too late.
    pub cancellation_id: Option<CancellationId>,
    /// How much.
    pub amount: Money,
    /// How far it is.
    pub status: RefundStatus,
}

/// What is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The gateway is asked again.
    Retry,
    /// It was paid back by other means.
    Resolution {
        /// By which, in the words of who did it.
        note: String,
    },
}

/// What somebody has done about a refund, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAction {
    /// The command.
    pub command_id: CommandId,
    /// What it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// Of which refund; as it was.
    pub refund: Refund,
    /// By whom.
    pub user_id: UserId,
    /// What.
    pub action: Action,
    /// When.
    pub at: Timestamp,
}

/// What a batch has locked and loaded of refunds that are tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    refunds: HashMap<RefundId, Refund>,
    /// What was done before, by the command that did it.
    done: HashMap<CommandId, (Fingerprint, RefundTask)>,
}

impl Tasks {
    /// Adds a locked refund.
    pub fn load(&mut self, refund: Refund) {
        self.refunds.insert(refund.refund_id, refund);
    }

    /// Adds what a command did before.
    pub fn load_done(&mut self, command: CommandId, fingerprint: Fingerprint, task: RefundTask) {
        self.done.insert(command, (fingerprint, task));
    }

    /// The checks in their order: duplicate, existence, deadline, state.
    fn may_attend(
        &self,
        command: &Command<Kind>,
        refund_id: RefundId,
        now: Timestamp,
    ) -> Result<Refund, Outcome> {
        if let Some((fingerprint, task)) = self.done.get(&command.id) {
            return Err(if *fingerprint == command.fingerprint {
                Outcome::Attended(*task)
            } else {
                Outcome::Refused(Refusal::KeyReused)
            });
        }
        let Some(refund) = self.refunds.get(&refund_id) else {
            return Err(Outcome::Refused(Refusal::NotFound));
        };
        if now > command.deadline {
            return Err(Outcome::Refused(Refusal::CommandExpired));
        }
        let RefundStatus::Stuck = refund.status else {
            return Err(Outcome::Refused(Refusal::RefundConflict {
                status: refund.status,
            }));
        };
        Ok(*refund)
    }
}

impl Settlement {
    /// Decides what somebody who administers wants done about a refund.
    pub(super) fn attend(
        &mut self,
        command: &Command<Kind>,
        refund_id: RefundId,
        action: Action,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let refund = match self.tasks.may_attend(command, refund_id, now) {
            Ok(refund) => refund,
            Err(outcome) => return outcome,
        };
        let status = match &action {
            Action::Retry => RefundStatus::Pending,
            Action::Resolution { .. } => RefundStatus::Resolved,
        };
        // Whoever follows the money of a reservation hears that it is back, however it went.
        if let (RefundStatus::Resolved, Some(reservation_id)) = (status, refund.reservation_id) {
            let reservation = &self.reservations[&reservation_id];
            let fact = Fact::Refunded {
                reservation_id,
                user_id: reservation.user_id,
                cancellation_id: refund.cancellation_id,
                amount: refund.amount,
                at: now,
            };
            changes.tell(reservation.schedule_id, fact);
        }
        let task = RefundTask {
            refund_id,
            status,
            at: now,
        };
        self.tasks.load(Refund { status, ..refund });
        self.tasks.load_done(command.id, command.fingerprint, task);
        changes.actions.push(NewAction {
            command_id: command.id,
            fingerprint: command.fingerprint,
            refund,
            user_id: command.user,
            action,
            at: now,
        });
        Outcome::Attended(task)
    }
}
