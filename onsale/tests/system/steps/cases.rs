//! Every step of a payment through the gateway, and all that may befall it.

use super::stops::{Fault, Seen};
use onsale_schema::status::{OrderStatus, RefundCompare, RefundStatus};

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
    /// Sold and cancelled, but the gateway will not give it back: left to a person.
    Refused,
    /// The same, and a person has it tried again.
    Retried,
    /// The same, and a person has paid it back by other means.
    Resolved,
    /// The same, by the gateway's own pages: found there, and a person has compared.
    Compared,
    /// Sold, and given back in the gateway's own pages: odd until it is cancelled.
    Odd,
    /// Sold, and given back as the whole show is cancelled.
    Shown,
    /// Points by card: captured and credited.
    Charged,
    /// Captured, but the answer never came: looked up, and credited.
    ChargeDoubted,
    /// Not captured, nor credited.
    ChargeDeclined,
    /// Captured when there was no room for the points any more: given back.
    OverCap,
}

pub const PATHS: [Path; 16] = [
    Path::Sold,
    Path::Doubted,
    Path::Declined,
    Path::Reheld,
    Path::Gone,
    Path::Cancelled,
    Path::Refused,
    Path::Retried,
    Path::Resolved,
    Path::Compared,
    Path::Odd,
    Path::Shown,
    Path::Charged,
    Path::ChargeDoubted,
    Path::ChargeDeclined,
    Path::OverCap,
];

/// The stages, in their order. Who waits in one can't do so for long, so that not too many are to do it
/// at once; and who decides one person's wish may decide another's in the same transaction, which waits
/// for only one of them.
const SALES: u32 = 1;
const CHARGES: u32 = 2;
pub const REFUNDS: u32 = 3;
const RETRIES: u32 = 4;
const RESOLUTIONS: u32 = 5;
const COMPARISONS: u32 = 6;
const ODDITIES: u32 = 7;
const SHOWS: u32 = 8;

impl Path {
    /// Its steps: changes of its order to a status, of its refund, and of a notice that its order
    /// waits for while it has a status; that a charge is ordered; that somebody has compared its refund;
    /// that its order is odd, or is no more; and that the cancellation of its show is finished.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Self::Sold => &["SECURING", "notice SECURING", "CAPTURING", "PAID"],
            Self::Doubted | Self::ChargeDoubted => &["UNKNOWN", "PAID"],
            Self::Declined | Self::ChargeDeclined => &["FAILED"],
            Self::Reheld => &["REHOLDING", "notice REHOLDING", "PAID"],
            Self::Gone | Self::OverCap => &["REFUNDING", "refund DONE", "REFUNDED"],
            Self::Cancelled | Self::Retried => &["refund PENDING", "refund DONE"],
            Self::Refused => &["refund STUCK"],
            Self::Resolved => &["refund RESOLVING", "refund RESOLVED"],
            Self::Compared => &["refund DONE", "compared"],
            Self::Odd => &["odd", "even"],
            Self::Shown => &["refund PENDING", "refund DONE", "show finished"],
            Self::Charged => &["new CAPTURING", "PAID"],
        }
    }

    /// The last digits of its amount, by which the gateway behaves.
    fn code(self) -> i64 {
        match self {
            Self::Sold | Self::Cancelled | Self::Retried | Self::Resolved => 0,
            Self::Charged | Self::OverCap | Self::Compared | Self::Odd | Self::Shown => 0,
            Self::Doubted | Self::Reheld | Self::Gone | Self::ChargeDoubted => 2,
            Self::Declined | Self::ChargeDeclined => 1,
            Self::Refused => 12,
        }
    }

    /// What else the gateway does to its money, by the amount.
    fn gateway_codes(self) -> &'static [i64] {
        match self {
            Self::Sold | Self::Charged => &CAPTURE_CODES,
            Self::Cancelled | Self::Retried | Self::OverCap | Self::Shown => &REFUND_CODES,
            Self::Doubted | Self::Declined | Self::Reheld | Self::Gone => &[],
            Self::Refused | Self::Resolved | Self::ChargeDoubted | Self::ChargeDeclined => &[],
            Self::Compared | Self::Odd => &[],
        }
    }

    /// In which stage its steps are.
    pub fn stage(self) -> u32 {
        match self {
            Self::Sold | Self::Doubted | Self::Declined => SALES,
            Self::Charged | Self::ChargeDoubted | Self::ChargeDeclined => CHARGES,
            Self::Reheld | Self::Gone | Self::OverCap | Self::Cancelled | Self::Refused => REFUNDS,
            Self::Retried => RETRIES,
            Self::Resolved => RESOLUTIONS,
            Self::Compared => COMPARISONS,
            Self::Odd => ODDITIES,
            Self::Shown => SHOWS,
        }
    }

    /// Whether its hold lapses before its capture is known.
    pub fn is_late(self) -> bool {
        matches!(self, Self::Reheld | Self::Gone)
    }

    /// The step after which it waits for its stage, if it does in the middle of a payment.
    pub fn parked_at(self) -> Option<&'static str> {
        match self {
            Self::Reheld | Self::Gone => Some("UNKNOWN"),
            Self::OverCap => Some("new CAPTURING"),
            Self::Sold | Self::Doubted | Self::Declined | Self::Cancelled | Self::Shown => None,
            Self::Refused | Self::Retried | Self::Resolved | Self::Compared | Self::Odd => None,
            Self::Charged | Self::ChargeDoubted | Self::ChargeDeclined => None,
        }
    }

    /// Whether somebody has to see to its refund.
    pub fn is_attended(self) -> bool {
        matches!(self, Self::Retried | Self::Resolved | Self::Compared)
    }

    /// Whether it buys points.
    pub fn is_charge(self) -> bool {
        matches!(
            self,
            Self::Charged | Self::ChargeDoubted | Self::ChargeDeclined | Self::OverCap
        )
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

/// What the amounts do to a capture, or to the look-ups after it, and what to a refund.
const CAPTURE_CODES: [i64; 7] = [2, 3, 4, 5, 14, 15, 16];
const REFUND_CODES: [i64; 3] = [11, 13, 17];

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
            let is_notice = step.starts_with("notice");
            let mut each = vec![
                Befalls::KillBefore,
                Befalls::KillAfter,
                Befalls::Failure(Fault::Contended),
            ];
            if !is_notice {
                each.push(Befalls::Failure(Fault::Disconnected));
            }
            // A command that is refused for good is a dead letter, as it should be.
            if !is_notice && !is_command(step) {
                each.push(Befalls::Failure(Fault::Refused));
            }
            cases.extend(each.into_iter().map(|each| with(step, each, path.code())));
        }
        cases.push(with("", Befalls::Repetition, path.code()));
        let codes = path.gateway_codes().iter();
        cases.extend(codes.map(|code| with("", Befalls::Gateway, *code)));
    }
    cases
}

/// Whether somebody's command makes the step.
fn is_command(step: &str) -> bool {
    let commands = ["SECURING", "new CAPTURING", "refund PENDING"];
    commands.contains(&step) || ["refund RESOLVING", "compared"].contains(&step)
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

    /// When it may start. Who waits can't do so for long, and starts last; after them, those that keep
    /// others from going on: what decides notices, and then commands, does so for many in one
    /// transaction.
    pub fn turn(&self) -> u32 {
        match self.befalls {
            Befalls::KillBefore if is_command(self.step) => 3,
            Befalls::KillBefore if self.step.starts_with("notice") => 2,
            Befalls::KillBefore => 1,
            Befalls::KillAfter | Befalls::Failure(_) | Befalls::Gateway | Befalls::Repetition => 0,
        }
    }

    /// Whether its step is the last that was made.
    pub fn is_made(&self, seen: &Seen) -> bool {
        match self.step.split_once(' ') {
            Some(("refund", status)) => seen.refund == status,
            Some(("new", status)) => seen.status == status,
            Some(("show", _)) => seen.is_show_over,
            Some(("notice", status)) => seen.status == status && seen.is_told,
            _ => match self.step {
                "compared" => seen.is_compared,
                "odd" => seen.is_odd,
                // It was odd before its money counted as given back.
                "even" => seen.refund == "DONE" && !seen.is_odd,
                status => seen.status == status,
            },
        }
    }

    /// Whether it is where the workers are to be killed, if they are, and at its end otherwise.
    pub fn has_arrived(&self, seen: &Seen, amount: i64) -> bool {
        match self.befalls {
            Befalls::KillBefore => seen.waits,
            Befalls::KillAfter => self.is_made(seen),
            Befalls::Failure(_) | Befalls::Gateway | Befalls::Repetition => {
                self.has_ended(seen, amount)
            }
        }
    }

    /// Whether it has ended as it must: exactly one of a sale, or of points, and of the money back, or
    /// nothing at all.
    pub fn has_ended(&self, seen: &Seen, amount: i64) -> bool {
        let (status, captured, refund) = match self.path {
            Path::Sold | Path::Doubted | Path::Reheld => ("PAID", amount, ""),
            Path::Charged | Path::ChargeDoubted => ("PAID", amount, ""),
            Path::Declined | Path::ChargeDeclined => ("FAILED", 0, ""),
            Path::Gone | Path::OverCap => ("REFUNDED", amount, "DONE"),
            Path::Cancelled | Path::Retried => ("PAID", amount, "DONE"),
            Path::Refused => ("PAID", amount, "STUCK"),
            Path::Resolved => ("PAID", amount, "RESOLVED"),
            Path::Compared | Path::Odd | Path::Shown => ("PAID", amount, "DONE"),
        };
        let refunded = match refund {
            "DONE" | "RESOLVED" => amount,
            _ => 0,
        };
        // Payments that were made, and those that failed; seats, and credits.
        let (sales, failures, seats, credits) = match self.path {
            Path::Sold | Path::Doubted | Path::Reheld => (1, 0, 1, 0),
            Path::Declined | Path::Gone => (0, 1, 0, 0),
            Path::Cancelled | Path::Refused | Path::Retried | Path::Resolved => (1, 0, 0, 0),
            Path::Compared | Path::Odd | Path::Shown => (1, 0, 0, 0),
            Path::Charged | Path::ChargeDoubted => (0, 0, 0, 1),
            Path::ChargeDeclined | Path::OverCap => (0, 0, 0, 0),
        };
        (seen.status.as_str(), seen.refund.as_str()) == (status, refund)
            && (seen.captured, seen.refunded) == (captured, refunded)
            && (seen.sales, seen.failures) == (sales, failures)
            && (seen.seats, seen.credits) == (seats, credits)
            && (seen.is_compared, seen.is_odd) == (self.path == Path::Compared, false)
            && seen.is_show_over == (self.path == Path::Shown)
    }

    /// What the gateway's book must say.
    pub fn booked(&self, amount: i64) -> Vec<i64> {
        match self.path {
            Path::Sold | Path::Doubted | Path::Reheld => vec![amount],
            Path::Charged | Path::ChargeDoubted => vec![amount],
            // It knows nothing of what was paid by other means.
            Path::Refused | Path::Resolved => vec![amount],
            Path::Declined | Path::ChargeDeclined => Vec::new(),
            Path::Gone | Path::Cancelled | Path::Retried | Path::OverCap => vec![amount, -amount],
            Path::Compared | Path::Odd | Path::Shown => vec![amount, -amount],
        }
    }
}

/// Whether something of these paths is a step of theirs.
fn is_step_of(step: &str, are_charges: bool) -> bool {
    let paths = PATHS.iter().filter(|path| path.is_charge() == are_charges);
    paths.flat_map(|path| path.steps()).any(|one| *one == step)
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
        assert_eq!(is_step_of(status.as_str(), false), is_step, "{status:?}");
    }
}

/// So is every one of a charge's.
#[test]
fn every_status_that_a_charge_comes_to_is_stopped_at() {
    for status in OrderStatus::ALL {
        let step = match status {
            // Of reservations only; and the last is gone on from in the transaction that comes to it.
            OrderStatus::Ready
            | OrderStatus::Securing
            | OrderStatus::Reholding
            | OrderStatus::Captured => continue,
            // It is made so.
            OrderStatus::Capturing => "new CAPTURING",
            OrderStatus::Unknown
            | OrderStatus::Paid
            | OrderStatus::Failed
            | OrderStatus::Refunding
            | OrderStatus::Refunded => status.as_str(),
        };
        assert!(is_step_of(step, true), "{status:?}");
    }
}

/// Whatever somebody has to see to is stopped at when it becomes that, and when it is over.
#[test]
fn every_reason_to_compare_is_stopped_at() {
    for reason in RefundCompare::ALL {
        let step = match reason {
            // Both are written as the refund is done, and closed in the same way.
            RefundCompare::Twice | RefundCompare::ByHand => "compared",
        };
        assert!(is_step_of(step, false), "{reason:?}");
    }
}

/// So is every one of a refund's: each is named, so that a new one is thought of.
#[test]
fn every_status_that_a_refund_comes_to_is_stopped_at() {
    for status in RefundStatus::ALL {
        match status {
            RefundStatus::Pending
            | RefundStatus::Done
            | RefundStatus::Stuck
            | RefundStatus::Resolving
            | RefundStatus::Resolved => {
                let step = format!("refund {}", status.as_str());
                assert!(is_step_of(&step, false), "{status:?}");
            }
        }
    }
}
