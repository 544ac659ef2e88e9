//! Whether the gateway keeps of a payment what our rows say: all that was captured, but for what our
//! refunds have given back, and for what was written off, which is taken out first ([`rest`]). Somebody may
//! give money back in the gateway's own pages, and so may the buyer's bank, long after all is sold; the
//! gateway tells of it, and nothing here may miss it.
//!
//! It must never take a refund of ours for somebody else's: one that is on its way may have been made or
//! not, and one that waits for a person may have been made by hand.

use super::refund::{Entry, Ours, is_nameless, nameless, names};
use onsale_schema::Money;
use onsale_schema::status::RefundStatus;

/// Whether all that the gateway has given back of a payment is refunds of ours, and all refunds that are
/// done are among it. What names no refund counts for one of its amount that nothing names.
///
/// `all` must be read after the gateway was asked, and none of it may have ended in between.
#[must_use]
pub fn agrees(all: &[Ours], given: &[Entry]) -> bool {
    let mut amounts = all.iter().map(|one| one.amount);
    let are_there = amounts.all(|amount| {
        let (done, _) = unnamed(amount, all, given);
        done <= nameless(amount, all, given)
    });
    are_there && !exceeds(all, given)
}

/// Whether the gateway has given something back that is no refund of ours: somebody has, in the gateway's
/// own pages, or the buyer's bank.
///
/// `all` must be read after the gateway was asked; what has ended in between does no harm.
#[must_use]
pub fn exceeds(all: &[Ours], given: &[Entry]) -> bool {
    let mut amounts = given.iter().map(|entry| entry.amount);
    let is_more = amounts.any(|amount| {
        let (done, open) = unnamed(amount, all, given);
        done + open < nameless(amount, all, given)
    });
    is_more || !all.iter().all(|one| is_known(one, given))
}

/// How many refunds of an amount nothing names: those that are done, and those that may have been made.
fn unnamed(amount: Money, all: &[Ours], given: &[Entry]) -> (usize, usize) {
    let (mut done, mut open) = (0, 0);
    for one in all.iter().filter(|one| one.amount == amount) {
        if names(given, one.refund_id).next().is_some() {
            continue;
        }
        match one.status {
            RefundStatus::Done => done += 1,
            RefundStatus::Pending | RefundStatus::Resolving | RefundStatus::Stuck => open += 1,
            // The gateway's book has nothing of what was paid by other means.
            RefundStatus::Resolved => {}
        }
    }
    (done, open)
}

/// What is left to account for of what the gateway has given back when what was written off is taken out:
/// each amount is one that names no refund of ours. And whether all that was written off is there.
#[must_use]
pub fn rest(all: &[Ours], given: &[Entry], written_off: &[Money]) -> (Vec<Entry>, bool) {
    let mut rest = given.to_vec();
    let mut is_there = true;
    for amount in written_off {
        let is_it = |entry: &Entry| entry.amount == *amount && is_nameless(entry, all);
        match rest.iter().position(is_it) {
            Some(nth) => {
                rest.swap_remove(nth);
            }
            None => is_there = false,
        }
    }
    (rest, is_there)
}

/// Whether what the gateway says of a refund by its name can be.
fn is_known(one: &Ours, given: &[Entry]) -> bool {
    let mut named = names(given, one.refund_id);
    match (named.next(), named.next()) {
        (None, _) => true,
        (Some(entry), None) => entry.amount == one.amount && one.status != RefundStatus::Resolved,
        (Some(_), Some(_)) => false,
    }
}
