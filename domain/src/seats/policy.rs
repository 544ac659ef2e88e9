//! By which rules a schedule sells, and how they change: by commands in the order of all others, so
//! that every hold is decided by exactly one of them.

use super::{Changes, Sale};
use onsale_schema::Timestamp;
use onsale_schema::message::Command;
use onsale_schema::seats::{
    EXTENSIONS_MAX, Fact, HOLD_MS, Kind, Outcome, Policy, PolicyChange, RELEASE_JITTER_MS, Refusal,
    SEATS_PER_USER,
};
use onsale_schema::status::SaleState;

impl Sale {
    /// Sells by other rules from now on. Holds that are there keep their end, and live seats beyond
    /// a lower limit stay: a change takes nothing from anybody. A show that is cancelled never sells
    /// again, however late a command comes that was sent before.
    pub(super) fn amend(
        &mut self,
        command: &Command<Kind>,
        change: &PolicyChange,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let reopens = match change.state {
            None | Some(SaleState::Closed) => false,
            Some(SaleState::Open | SaleState::Paused) => true,
        };
        if self.policy.cancelled && reopens {
            return Outcome::Refused(Refusal::SaleClosed);
        }
        let policy = amended(self.policy, change);
        if !is_sound(&policy, change) {
            return Outcome::Refused(Refusal::PolicyInvalid);
        }
        if policy != self.policy {
            changes.amend(self.schedule_id, self.policy, policy);
            self.policy = policy;
            self.tell_room_of_sale(changes);
            self.facts.push(Fact::Policy {
                user_id: command.user,
                command_id: command.id,
                policy,
                at: now,
            });
        }
        Outcome::Policy(policy)
    }
}

fn amended(policy: Policy, change: &PolicyChange) -> Policy {
    let cancelled = policy.cancelled || change.cancelled;
    Policy {
        state: if cancelled {
            SaleState::Closed
        } else {
            change.state.unwrap_or(policy.state)
        },
        cancelled,
        booking_opens_at: change.booking_opens_at.unwrap_or(policy.booking_opens_at),
        booking_closes_at: change.booking_closes_at.unwrap_or(policy.booking_closes_at),
        hold_ms: change.hold_ms.unwrap_or(policy.hold_ms),
        seats_per_user: change.seats_per_user.unwrap_or(policy.seats_per_user),
        extensions_max: change.extensions_max.unwrap_or(policy.extensions_max),
        hold_total_ms: change.hold_total_ms.unwrap_or(policy.hold_total_ms),
        prevents_orphans: change.prevents_orphans.unwrap_or(policy.prevents_orphans),
        release_jitter_ms: change.release_jitter_ms.unwrap_or(policy.release_jitter_ms),
    }
}

/// The window is judged whole, bounds by what changes: a value that was there before must not keep
/// others from changing.
fn is_sound(policy: &Policy, change: &PolicyChange) -> bool {
    policy.booking_opens_at < policy.booking_closes_at
        && change.hold_ms.is_none_or(|ms| HOLD_MS.contains(&ms))
        && change
            .seats_per_user
            .is_none_or(|seats| SEATS_PER_USER.contains(&seats))
        && change
            .extensions_max
            .is_none_or(|times| EXTENSIONS_MAX.contains(&times))
        && change.hold_total_ms.is_none_or(|ms| HOLD_MS.contains(&ms))
        && change
            .release_jitter_ms
            .is_none_or(|ms| RELEASE_JITTER_MS.contains(&ms))
}
