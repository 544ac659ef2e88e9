//! By which rules a room lets people in, and how they change: by commands in the order of all others.
//! A change takes nothing from anybody: whoever has a pass keeps it, and a place is never another.

use super::{Changes, Policy, Room};
use onsale_schema::Timestamp;
use onsale_schema::admission::{
    CAPACITY, HOLDS_PER_PASS, Outcome, PASS_MS, PRESENCE_MS, PolicyChange, RATE_PER_SECOND, Refusal,
};

impl Room {
    /// Lets people in by other rules from now on. The room of a cancelled show never lets anybody in
    /// again, so that no late command opens it.
    pub(super) fn amend(
        &mut self,
        change: &PolicyChange,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if !is_sound(change) {
            return Outcome::Refused(Refusal::PolicyInvalid);
        }
        let is_cancelled = self.row.is_cancelled || change.cancelled;
        if self.row.is_cancelled && change.paused == Some(false) {
            return Outcome::Refused(Refusal::ShowCancelled);
        }
        let mut policy = amended(self.row.policy, change);
        policy.paused |= is_cancelled;
        if (policy, is_cancelled) != (self.row.policy, self.row.is_cancelled) {
            changes.of(&self.row);
            // Nobody has been told anything where nobody is.
            if self.is_busy() {
                (self.presence).change(self.row.policy.presence_ms, policy.presence_ms);
            }
            self.row.policy = policy;
            self.row.is_cancelled = is_cancelled;
            self.row.latest = now;
            self.narrow();
        }
        Outcome::Policy(policy)
    }
}

fn amended(policy: Policy, change: &PolicyChange) -> Policy {
    Policy {
        mode: change.mode.unwrap_or(policy.mode),
        paused: change.paused.unwrap_or(policy.paused),
        opens_at: change.opens_at.unwrap_or(policy.opens_at),
        capacity: change.capacity.unwrap_or(policy.capacity),
        rate_per_second: change.rate_per_second.unwrap_or(policy.rate_per_second),
        pass_ms: change.pass_ms.unwrap_or(policy.pass_ms),
        presence_ms: change.presence_ms.unwrap_or(policy.presence_ms),
        holds_per_pass: change.holds_per_pass.unwrap_or(policy.holds_per_pass),
    }
}

fn is_sound(change: &PolicyChange) -> bool {
    fn is_within<T: PartialOrd>(value: Option<T>, bounds: &std::ops::RangeInclusive<T>) -> bool {
        value.is_none_or(|value| bounds.contains(&value))
    }
    is_within(change.capacity, &CAPACITY)
        && is_within(change.rate_per_second, &RATE_PER_SECOND)
        && is_within(change.pass_ms, &PASS_MS)
        && is_within(change.presence_ms, &PRESENCE_MS)
        && is_within(change.holds_per_pass, &HOLDS_PER_PASS)
}
