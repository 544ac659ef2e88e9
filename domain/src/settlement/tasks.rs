//! What is decided when somebody sees to a refund that the gateway would not make: it is asked for
//! again, or somebody has paid it back by other means and says so. Nothing else ends such a refund,
//! and what was said can't be taken back.
//!
//! Neither is done here: whoever asks the gateway looks first whether it has made the refund after all
//! ([`super::refund`]). What has to be compared then is closed by a person, too, and as long as it is
//! not, no refund of that payment is asked for again: nobody knows which of them were paid.

use super::{Changes, Settlement};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{Kind, Outcome, RefundTask, Refusal};
use onsale_schema::status::RefundStatus;
use onsale_schema::{CommandId, PaymentOrderId, RefundId, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// What the gateway has given back was compared with what was paid by other means.
    Comparison {
        /// What was found, in the words of who did it.
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
    /// Of which refund.
    pub refund_id: RefundId,
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
    /// How far they are, and of which payment.
    refunds: HashMap<RefundId, (RefundStatus, Option<PaymentOrderId>)>,
    /// Refunds of these payments that have to be compared.
    compare: BTreeMap<PaymentOrderId, BTreeSet<RefundId>>,
    /// What was done before, by the command that did it.
    done: HashMap<CommandId, (Fingerprint, RefundTask)>,
}

impl Tasks {
    /// Adds a locked refund of a payment; points are no payment's.
    pub fn load(
        &mut self,
        refund_id: RefundId,
        status: RefundStatus,
        order_id: Option<PaymentOrderId>,
    ) {
        self.refunds.insert(refund_id, (status, order_id));
    }

    /// Adds a refund of a locked payment that somebody has to compare.
    pub fn load_compare(&mut self, order_id: PaymentOrderId, refund_id: RefundId) {
        self.compare.entry(order_id).or_default().insert(refund_id);
    }

    /// Adds what a command did before.
    pub fn load_done(&mut self, command: CommandId, fingerprint: Fingerprint, task: RefundTask) {
        self.done.insert(command, (fingerprint, task));
    }

    /// How far the refund is afterwards. The checks in their order: duplicate, existence, deadline, state.
    fn may_attend(
        &self,
        command: &Command<Kind>,
        refund_id: RefundId,
        action: &Action,
        now: Timestamp,
    ) -> Result<RefundStatus, Outcome> {
        if let Some((fingerprint, task)) = self.done.get(&command.id) {
            return Err(if *fingerprint == command.fingerprint {
                Outcome::Attended(*task)
            } else {
                Outcome::Refused(Refusal::KeyReused)
            });
        }
        let Some((status, order_id)) = self.refunds.get(&refund_id).copied() else {
            return Err(Outcome::Refused(Refusal::NotFound));
        };
        if now > command.deadline {
            return Err(Outcome::Refused(Refusal::CommandExpired));
        }
        let compare = order_id.and_then(|order| self.compare.get(&order));
        let is_compared = compare.is_some_and(|all| all.contains(&refund_id));
        match (action, status) {
            (Action::Retry, RefundStatus::Stuck) if compare.is_some() => {
                Err(Outcome::Refused(Refusal::RefundToCompare))
            }
            (Action::Retry, RefundStatus::Stuck) => Ok(RefundStatus::Pending),
            (Action::Resolution { .. }, RefundStatus::Stuck) => Ok(RefundStatus::Resolving),
            (Action::Comparison { .. }, status) if is_compared => Ok(status),
            (Action::Comparison { .. }, RefundStatus::Stuck)
            | (
                Action::Retry | Action::Resolution { .. } | Action::Comparison { .. },
                RefundStatus::Pending
                | RefundStatus::Done
                | RefundStatus::Resolved
                | RefundStatus::Resolving,
            ) => Err(Outcome::Refused(Refusal::RefundConflict { status })),
        }
    }

    /// Notes how far a refund is now, and what was done about it.
    fn note(&mut self, action: &Action, task: RefundTask) {
        let Some((status, order_id)) = self.refunds.get_mut(&task.refund_id) else {
            return;
        };
        *status = task.status;
        let Some(order_id) = *order_id else { return };
        match action {
            Action::Retry | Action::Resolution { .. } => {}
            Action::Comparison { .. } => {
                let mut left = self.compare.remove(&order_id).unwrap_or_default();
                left.remove(&task.refund_id);
                if !left.is_empty() {
                    self.compare.insert(order_id, left);
                }
            }
        }
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
        let status = match self.tasks.may_attend(command, refund_id, &action, now) {
            Ok(status) => status,
            Err(outcome) => return outcome,
        };
        let task = RefundTask {
            refund_id,
            status,
            at: now,
        };
        self.tasks.note(&action, task);
        self.tasks.load_done(command.id, command.fingerprint, task);
        changes.actions.push(NewAction {
            command_id: command.id,
            fingerprint: command.fingerprint,
            refund_id,
            user_id: command.user,
            action,
            at: now,
        });
        Outcome::Attended(task)
    }
}
