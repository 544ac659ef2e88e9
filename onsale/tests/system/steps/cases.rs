//! Every step of a payment through the gateway, and all that may befall it.

use super::stops::{Fault, Seen};
use onsale_schema::status::OrderStatus;

/// How an order goes, if nothing else befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Captured and sold.
    Sold,
    /// Captured, but the answer never came: looked up, and sold.
    Doubted,
    /// Not captured.
    Declined,
    /// Captured after its hold had lapsed, and sold its seats all the same.
    Reheld,
    /// Captured after its hold had lapsed, and its seats are somebody else's: given back.
    Gone,
    /// Sold, cancelled and given back.
    Cancelled,
}

pub const PATHS: [Path; 6] = [
    Path::Sold,
    Path::Doubted,
    Path::Declined,
    Path::Reheld,
    Path::Gone,
    Path::Cancelled,
];

impl Path {
    /// Its steps: changes of its order to a status, of its refund, and of a notice that its order
    /// waits for while it has a status.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Sold => &["SECURING", "notice SECURING", "CAPTURING", "PAID"],
            Self::Doubted => &["UNKNOWN", "PAID"],
            Self::Declined => &["FAILED"],
            Self::Reheld => &["REHOLDING", "notice REHOLDING", "PAID"],
            Self::Gone => &["REFUNDING", "refund DONE", "REFUNDED"],
            Self::Cancelled => &["refund PENDING", "refund DONE"],
        }
    }

    /// The last digits of its amount, by which the gateway behaves.
    fn code(self) -> i64 {
        match self {
            Self::Sold | Self::Cancelled => 0,
            Self::Doubted | Self::Reheld | Self::Gone => 2,
            Self::Declined => 1,
        }
    }

    /// Whether its hold lapses before its capture is known.
    pub fn is_late(self) -> bool {
        matches!(self, Self::Reheld | Self::Gone)
    }

    /// Whether it ends before holds lapse and sales are cancelled.
    pub fn is_early(self) -> bool {
        matches!(self, Self::Sold | Self::Doubted | Self::Declined)
    }
}

/// What befalls a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Befalls {
    /// All workers are killed just before its commit.
    KillBefore,
    /// All workers are killed just after it.
    KillAfter,
    /// It fails twice.
    Failure(Fault),
    /// The gateway fails, by the amount.
    Gateway,
    /// Each step is asked for again and again, and taken from whoever has it in hand.
    Repetition,
}

/// One order.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub path: Path,
    pub step: &'static str,
    pub befalls: Befalls,
    /// The last digits of its amount.
    pub code: i64,
}

/// What the amounts do to a confirmation, or to the look-ups after it, and what to a refund.
const CONFIRM_CODES: [i64; 7] = [2, 3, 4, 5, 14, 15, 16];
const CANCEL_CODES: [i64; 3] = [11, 13, 17];

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in PATHS {
        let with = |step, befalls, code| Case {
            path,
            step,
            befalls,
            code,
        };
        for &step in path.steps() {
            let is_command = ["SECURING", "refund PENDING"].contains(&step);
            let is_notice = step.starts_with("notice");
            let mut each = vec![Befalls::KillBefore, Befalls::Failure(Fault::Contended)];
            if !is_notice {
                each.push(Befalls::KillAfter);
                each.push(Befalls::Failure(Fault::Disconnected));
            }
            // A command that is refused for good is a dead letter, as it should be.
            if !is_notice && !is_command {
                each.push(Befalls::Failure(Fault::Refused));
            }
            cases.extend(each.into_iter().map(|each| with(step, each, path.code())));
        }
        cases.push(with("", Befalls::Repetition, path.code()));
        let codes: &[i64] = match path {
            Path::Sold => &CONFIRM_CODES,
            Path::Cancelled => &CANCEL_CODES,
            Path::Doubted | Path::Declined | Path::Reheld | Path::Gone => &[],
        };
        cases.extend(codes.iter().map(|code| with("", Befalls::Gateway, *code)));
    }
    cases
}

impl Case {
    /// What is set for its step.
    pub fn fault(&self) -> Option<Fault> {
        match self.befalls {
            Befalls::KillBefore => Some(Fault::Wait),
            Befalls::KillAfter => Some(Fault::Park),
            Befalls::Failure(fault) => Some(fault),
            Befalls::Gateway | Befalls::Repetition => None,
        }
    }

    /// Whether it is where the workers are to be killed, if they are, and at its end otherwise.
    pub fn has_arrived(&self, seen: &Seen, amount: i64) -> bool {
        match (self.befalls, self.step.strip_prefix("refund ")) {
            (Befalls::KillBefore, _) => seen.waits,
            (Befalls::KillAfter, Some(refund)) => seen.refund == refund,
            (Befalls::KillAfter, None) => seen.status == self.step,
            (Befalls::Failure(_) | Befalls::Gateway | Befalls::Repetition, _) => {
                self.has_ended(seen, amount)
            }
        }
    }

    /// Whether it has ended as it must: exactly one of a sale and of the money back, or nothing at all.
    pub fn has_ended(&self, seen: &Seen, amount: i64) -> bool {
        let (status, captured, refunded, sales, failures, seats) = match self.path {
            Path::Sold | Path::Doubted | Path::Reheld => ("PAID", amount, 0, 1, 0, 1),
            Path::Declined => ("FAILED", 0, 0, 0, 1, 0),
            Path::Gone => ("REFUNDED", amount, amount, 0, 1, 0),
            Path::Cancelled => ("PAID", amount, amount, 1, 0, 0),
        };
        let is_done = refunded == 0 || seen.refund == "DONE";
        is_done
            && seen.status == status
            && (seen.captured, seen.refunded) == (captured, refunded)
            && (seen.sales, seen.failures, seen.seats) == (sales, failures, seats)
    }

    /// What the gateway's book must say.
    pub fn booked(&self, amount: i64) -> Vec<i64> {
        match self.path {
            Path::Sold | Path::Doubted | Path::Reheld => vec![amount],
            Path::Declined => Vec::new(),
            Path::Gone | Path::Cancelled => vec![amount, -amount],
        }
    }
}

/// Every change of an order to a status is a step of some path.
#[test]
fn every_status_that_an_order_comes_to_is_stopped_at() {
    for status in OrderStatus::ALL {
        let is_step = match status {
            // An order is made so, and from the other one it goes on in the transaction that comes to it.
            OrderStatus::Ready | OrderStatus::Captured => false,
            OrderStatus::Securing
            | OrderStatus::Capturing
            | OrderStatus::Unknown
            | OrderStatus::Reholding
            | OrderStatus::Paid
            | OrderStatus::Failed
            | OrderStatus::Refunding
            | OrderStatus::Refunded => true,
        };
        let steps = PATHS.iter().flat_map(|path| path.steps());
        let is_there = steps.into_iter().any(|step| *step == status.as_str());
        assert_eq!(is_there, is_step, "{status:?}");
    }
}
