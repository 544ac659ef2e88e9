//! What it means that a command has no outcome: the agreement between owners, who decide, and
//! ingresses, who are asked about it.
//!
//! Owners keep to this. Past a command's deadline by their clock they refuse it, whatever it asks.
//! The cursor of a partition says by which clock the message there was decided; what lies behind it
//! is decided by a clock that is no earlier, also by the next owner, whose own may be slower. And a
//! decision that can't be committed for [`DECIDED_MAX_MS`] is made again.
//!
//! The stream's time must have no part in it: the server that gives it has another clock than those
//! who set and judge deadlines.

use crate::Timestamp;

/// A decision that could not be committed for so long, in milliseconds, is made again: deadlines
/// have passed meanwhile.
pub const DECIDED_MAX_MS: i64 = 20_000;
/// How long after its deadline a command without an outcome counts as expired where no cursor tells,
/// in milliseconds: longer than any transaction that could still decide it.
pub const SETTLED_MS: i64 = 3 * DECIDED_MAX_MS;
/// How long after a command's deadline its outcome is certainly still there, in milliseconds.
/// Outcomes are kept for 24 h, and decided a request's time before the deadline at the earliest.
pub const KEPT_MS: i64 = 23 * 3_600_000;

/// What it means that a command has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It may yet come.
    Yet,
    /// It never will: the command would be refused by now in any case.
    Expired,
    /// Nobody knows any more. To say that it has expired would make a client pay twice.
    Forgotten,
}

impl Missing {
    /// Of a command with this deadline. `decided_at` is of its partition's cursor, if it has one,
    /// read in the same statement that found no outcome.
    #[must_use]
    pub fn of(deadline: Timestamp, decided_at: Option<Timestamp>, now: Timestamp) -> Self {
        if now > deadline.plus_ms(KEPT_MS) {
            Self::Forgotten
        } else if decided_at.is_some_and(|at| at > deadline) || now > deadline.plus_ms(SETTLED_MS) {
            Self::Expired
        } else {
            Self::Yet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_missing_outcome_means() {
        let deadline = Timestamp::from_micros(1_000_000_000);
        let after = |ms| deadline.plus_ms(ms);
        for (decided_at, now, expected) in [
            (None, after(1), Missing::Yet),
            (Some(deadline), after(1), Missing::Yet),
            (Some(after(1)), after(1), Missing::Expired),
            (Some(Timestamp::EPOCH), after(SETTLED_MS), Missing::Yet),
            (
                Some(Timestamp::EPOCH),
                after(SETTLED_MS + 1),
                Missing::Expired,
            ),
            (Some(after(1)), after(KEPT_MS), Missing::Expired),
            (Some(after(1)), after(KEPT_MS + 1), Missing::Forgotten),
            (None, after(KEPT_MS + 1), Missing::Forgotten),
        ] {
            let means = Missing::of(deadline, decided_at, now);
            assert_eq!(means, expected, "{decided_at:?} {now}");
        }
    }
}
