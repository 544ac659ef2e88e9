//! Entry passes: who may hold by which, counted anew each time.

use super::Model;
use onsale_domain::seats::Gate;
use onsale_schema::admission::Pass;
use onsale_schema::message::Command;
use onsale_schema::seats::{Kind, Refusal};
use onsale_schema::{TicketId, Timestamp};

fn pass_of(command: &Command<Kind>) -> Option<&Pass> {
    match &command.kind {
        Kind::Hold { pass, .. } | Kind::HoldBest { pass, .. } => pass.as_ref(),
        _ => None,
    }
}

impl Model {
    pub(super) fn refuse_pass(&self, command: &Command<Kind>, now: Timestamp) -> Option<Refusal> {
        self.gate.pass_required_since?;
        let Some(pass) = pass_of(command) else {
            return Some(Refusal::PassRequired);
        };
        let ticket = pass.ticket;
        let made = self
            .entries
            .iter()
            .filter(|e| e.ticket == Some(ticket.ticket_id));
        if ticket.user_id != command.user || ticket.schedule_id != self.schedule {
            Some(Refusal::PassInvalid)
        } else if pass.expires_at <= now {
            Some(Refusal::PassExpired)
        } else if made.count() >= pass.holds_max as usize {
            Some(Refusal::PassUsedUp)
        } else if self.over.contains_key(&ticket.arrival_no) {
            Some(Refusal::PassExpired)
        } else {
            None
        }
    }

    /// The ticket that a hold which is made now goes by.
    pub(super) fn ticket_of(&self, command: &Command<Kind>) -> Option<TicketId> {
        self.gate.pass_required_since?;
        pass_of(command).map(|pass| pass.ticket.ticket_id)
    }

    pub(super) fn turn_room(&mut self, pass_required: bool, version: i64, now: Timestamp) {
        let Gate {
            pass_required_since,
            room_version,
        } = self.gate;
        if version <= room_version {
            return;
        }
        self.gate = Gate {
            pass_required_since: match (pass_required, pass_required_since) {
                (false, _) => None,
                (true, None) => Some(now),
                (true, since) => since,
            },
            room_version: version,
        };
    }
}
