//! What cancelling costs.
//!
//! The fee is that of each seat by itself, rounded and never above its price, and the fee of several
//! is their sum. So whoever cancels seat by seat pays as much as who cancels them at once, whatever
//! the rounding, and the refunds of a reservation never exceed its price.

use onsale_schema::cancellation::{DAY_MS, Rules};
use onsale_schema::{Money, Timestamp};

/// What the seller keeps now, in percent; `None` when it is too late to cancel, or never allowed.
#[must_use]
pub fn percent(rules: &Rules, starts_at: Timestamp, now: Timestamp) -> Option<u32> {
    let closes_at = rules.closes_at(starts_at)?;
    if now >= closes_at {
        return None;
    }
    let days_left = starts_at.ms_since(now).div_euclid(DAY_MS);
    let step = rules
        .fees
        .iter()
        .filter(|step| step.days_before <= days_left)
        .max_by_key(|step| step.days_before);
    Some(step.map_or(0, |step| step.percent))
}

/// The fee of seats with these prices.
#[must_use]
pub fn of_seats(rules: &Rules, percent: u32, prices: impl IntoIterator<Item = Money>) -> Money {
    let fees = prices.into_iter().map(|price| rules.share(price, percent));
    fees.sum()
}
