//! The invariants by name, so that the audit, the tests and the metrics speak of the same ones.

use std::fmt;
use std::str::FromStr;

macro_rules! invariants {
    ($($(#[$doc:meta])* $name:ident = $statement:literal,)*) => {
        /// Something that is always true of the tables, also under load and after a crash.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant { $($(#[$doc])* $name,)* }

        impl Invariant {
            /// All of them, in the order of their report.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its short name: in reports, tests and metric labels.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it says.
            #[must_use]
            pub fn statement(self) -> &'static str {
                match self { $(Self::$name => $statement,)* }
            }
        }
    };
}

invariants! {
    /// Last line of defence: the primary key of `seat_claim`.
    S1 = "a seat has at most one live claim",
    /// Found by the audit only.
    S2 = "ownership intervals of a seat never overlapped, over all history",
    /// Last line of defence: the composite foreign key of `seat_claim`.
    S3 = "a claimed seat belongs to that schedule, and claims, reservations and blocks agree",
    /// Last line of defence: conditional updates.
    S4 = "reservations change only HELD→PAID/EXPIRED/RELEASED and PAID→CANCELLED",
    /// Found by the audit only.
    S5 = "a user's live seats per schedule are within the limit at the time of the hold",
    /// Last line of defence: the unique indexes of `ticket`.
    Q1 = "one live ticket per user and schedule, and arrival numbers are unique and dense",
    /// Last line of defence: a check of `ticket`; the order is found by the audit only.
    Q2 = "admissions are in order among the present, and none was made while the room was full",
    /// Last line of defence: the foreign key of a reservation's ticket.
    Q3 = "every hold was made with a valid pass of that user and schedule, where the schedule has a \
          waiting room (re-holds excepted)",
    /// Last line of defence: the check that a balance is not negative.
    L1 = "balance = credits − debits for every account, all transfers sum to zero, and no user's \
          balance is negative",
    /// Last line of defence: the unique key of the cause, and the trigger that refuses changes.
    L2 = "one transfer per cause, and transfers never change",
    /// Last line of defence: the partial unique index of live payments.
    P1 = "at most one live payment per reservation, and PAID ⇔ captured = price",
    /// Found by the audit, together with the gateway's book.
    P2 = "money captured without a sale is refunded within the limit",
    /// Last line of defence: the checks of payments and orders, and the unique key of refunds.
    P3 = "refunded ≤ captured, each refund is there once, and is what was cancelled but for the fee",
    /// Last line of defence: the unique keys of command ids.
    I1 = "a command id has at most one accepted outcome",
    /// Last line of defence: the fence.
    F1 = "epochs and commit numbers of a partition never go back",
    /// Found by the audit, together with the stream.
    F2 = "every command up to the cursor has one outcome: decided, duplicate or dead-lettered",
    /// Found by the audit only.
    O1 = "no outbox row or notice is open for longer than the limit",
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl FromStr for Invariant {
    type Err = UnknownInvariant;
    fn from_str(id: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|invariant| invariant.id() == id)
            .ok_or(UnknownInvariant)
    }
}

/// No invariant has this id.
#[derive(Debug, thiserror::Error)]
#[error("no invariant has this id")]
pub struct UnknownInvariant;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_lead_back() {
        for invariant in Invariant::ALL {
            assert_eq!(invariant.id().parse::<Invariant>().unwrap(), *invariant);
            assert!(!invariant.statement().is_empty());
        }
        assert!("S9".parse::<Invariant>().is_err());
    }
}
