//! What is decided when somebody sees to a refund that the gateway would not make: it is asked for
//! again, or somebody has paid it back by other means and says so. Nothing else ends such a refund,
//! and what was said can't be taken back.
//!
//! Neither is done here: whoever asks the gateway looks first whether it has made the refund after all
//! ([`super::refund`]).

use super::{Changes, Settlement};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::settlement::{Kind, Outcome, RefundTask, Refusal};
use onsale_schema::status::RefundStatus;
use onsale_schema::{CommandId, RefundId, Timestamp, UserId};
use std::collections::HashMap;

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
    /// How far they are.
    refunds: HashMap<RefundId, RefundStatus>,
    /// What was done before, by the command that did it.
    done: HashMap<CommandId, (Fingerprint, RefundTask)>,
}

impl Tasks {
    /// Adds a locked refund.
    pub fn load(&mut self, refund_id: RefundId, status: RefundStatus) {
        self.refunds.insert(refund_id, status);
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
    ) -> Result<(), Outcome> {
        if let Some((fingerprint, task)) = self.done.get(&command.id) {
            return Err(if *fingerprint == command.fingerprint {
                Outcome::Attended(*task)
            } else {
                Outcome::Refused(Refusal::KeyReused)
            });
        }
        let Some(status) = self.refunds.get(&refund_id).copied() else {
            return Err(Outcome::Refused(Refusal::NotFound));
        };
        if now > command.deadline {
            return Err(Outcome::Refused(Refusal::CommandExpired));
        }
        match status {
            RefundStatus::Stuck => Ok(()),
            RefundStatus::Pending
            | RefundStatus::Done
            | RefundStatus::Resolved
            | RefundStatus::Resolving => Err(Outcome::Refused(Refusal::RefundConflict { status })),
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
        if let Err(outcome) = self.tasks.may_attend(command, refund_id, now) {
            return outcome;
        }
        let status = match &action {
            Action::Retry => RefundStatus::Pending,
            Action::Resolution { .. } => RefundStatus::Resolving,
        };
        let task = RefundTask {
            refund_id,
            status,
            at: now,
        };
        self.tasks.load(refund_id, status);
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
