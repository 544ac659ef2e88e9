//! How a charge by card goes on at the gateway: an order that pays no reservation. There is no hold
//! that could lapse and there are no seats to be asked for; in their place it has a time of its own,
//! and the points that it buys must fit under the cap when the money is there.
//!
//! The rules are those of every order: nothing is said to have failed before it is certain that
//! nothing was captured, and nothing that was captured ends other than as points or as a refund.

use super::order::{GATEWAY_UNAVAILABLE, Learned, PAYMENT_DECLINED};
use onsale_schema::Timestamp;
use onsale_schema::status::OrderStatus;

/// How long the gateway is asked to capture, in milliseconds from when the order was made: as long as
/// for a hold.
const ASK_MS: i64 = super::order::SECURE_MS;

/// The points would be more than anybody may have.
pub const BALANCE_CAP_EXCEEDED: &str = "balance-cap-exceeded";

/// Until when a capture may be begun.
#[must_use]
pub fn capture_until(created_at: Timestamp) -> Timestamp {
    created_at.plus_ms(ASK_MS)
}

/// What is to be known besides the order's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// Until then a request to capture that was begun in time may still be on its way.
    pub settles_at: Timestamp,
    /// Whether the points would lift the balance over the cap, by what is on the locked account.
    pub is_over_cap: bool,
}

/// What to do with a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after a pause.
    Wait,
    /// Nothing more, unless somebody says something new.
    Rest,
    /// It may have captured: look it up.
    Doubt,
    /// Somebody has to see to it: look again much later.
    Puzzle,
    /// The money is there.
    Captured,
    /// It ended without a capture.
    Fail(&'static str),
    /// The points are there.
    Credit,
    /// They can't be had any more: the money goes back.
    Refund,
}

/// What to do next.
#[must_use]
pub fn step(status: OrderStatus, world: &World, learned: Learned, now: Timestamp) -> Step {
    match status {
        OrderStatus::Capturing | OrderStatus::Unknown => match learned {
            Learned::Captured => Step::Captured,
            Learned::Declined => Step::Fail(PAYMENT_DECLINED),
            // As long as a request can be on its way, what a look-up doesn't find may still come.
            Learned::NotCaptured if now < world.settles_at => Step::Wait,
            Learned::NotCaptured => Step::Fail(GATEWAY_UNAVAILABLE),
            Learned::Unknown => Step::Doubt,
            Learned::Odd => Step::Puzzle,
            Learned::Unavailable | Learned::Nothing => Step::Wait,
        },
        OrderStatus::Captured if world.is_over_cap => Step::Refund,
        OrderStatus::Captured => Step::Credit,
        // It was said to have failed, and somebody says that it did not.
        OrderStatus::Failed => match learned {
            Learned::Captured => Step::Captured,
            Learned::Unknown | Learned::Unavailable => Step::Wait,
            Learned::Odd => Step::Puzzle,
            Learned::Declined | Learned::NotCaptured | Learned::Nothing => Step::Rest,
        },
        // As of every order.
        OrderStatus::Paid | OrderStatus::Refunding | OrderStatus::Refunded => match learned {
            Learned::Odd => Step::Puzzle,
            Learned::Unknown | Learned::Unavailable => Step::Wait,
            Learned::Captured | Learned::Declined | Learned::NotCaptured | Learned::Nothing => {
                Step::Rest
            }
        },
        // Of reservations only; no row of a charge can say so.
        OrderStatus::Ready | OrderStatus::Securing | OrderStatus::Reholding => Step::Rest,
    }
}
