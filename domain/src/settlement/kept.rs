//! Whether the gateway keeps of a payment what our rows say: all that was captured, but for what our
//! refunds have given back, and what was written off. Somebody may give money back in the gateway's own pages, and so may the
//! buyer's bank, long after all is sold; the gateway tells of it, and nothing here may miss it.
//!
//! It must never take a refund of ours for somebody else's: one that is on its way may have been made or
//! not, and one that waits for a person may have been made by hand.

use super::refund::{Entry, Ours, nameless, names};
use onsale_schema::Money;
use onsale_schema::status::RefundStatus;

/// Whether all that the gateway has given back of a payment is refunds of ours, and all refunds that are
/// done are among it. What names no refund counts for one of its amount that nothing names.
///
/// What was written off went back apart from them. Which of what names no refund that was, nobody has said,
/// so that all of it together must be as much as that and such refunds.
///
/// `all` must be read after the gateway was asked, and none of it may have ended in between.
#[must_use]
pub fn agrees(all: &[Ours], given: &[Entry], written_off: Money) -> bool {
    let unnamed: Vec<&Ours> = (all.iter())
        .filter(|one| names(given, one.refund_id).next().is_none())
        .collect();
    let add_up = match written_off.is_positive() {
        true => in_all(all, &unnamed, given, written_off),
        false => one_by_one(all, &unnamed, given),
    };
    add_up && all.iter().all(|one| is_known(one, given))
}

fn one_by_one(all: &[Ours], unnamed: &[&Ours], given: &[Entry]) -> bool {
    let amounts = all.iter().map(|one| one.amount);
    let mut amounts = amounts.chain(given.iter().map(|entry| entry.amount));
    amounts.all(|amount| {
        let of_it = || unnamed.iter().filter(|one| one.amount == amount);
        let least = of_it().filter(|one| is_back(one.status)).count();
        let most = of_it().filter(|one| may_be_back(one.status)).count();
        (least..=most).contains(&nameless(amount, all, given))
    })
}

fn in_all(all: &[Ours], unnamed: &[&Ours], given: &[Entry], written_off: Money) -> bool {
    let sum = |may: fn(RefundStatus) -> bool| -> Money {
        let those = unnamed.iter().filter(|one| may(one.status));
        those.map(|one| one.amount).sum()
    };
    let is_ours = |entry: &&Entry| all.iter().any(|one| entry.refund_id == Some(one.refund_id));
    let by_hand: Money = (given.iter().filter(|entry| !is_ours(entry)))
        .map(|entry| entry.amount)
        .sum();
    (written_off + sum(is_back)..=written_off + sum(may_be_back)).contains(&by_hand)
}

fn is_back(status: RefundStatus) -> bool {
    status == RefundStatus::Done
}

fn may_be_back(status: RefundStatus) -> bool {
    match status {
        RefundStatus::Done
        | RefundStatus::Pending
        | RefundStatus::Resolving
        | RefundStatus::Stuck => true,
        // The gateway's book has nothing of what was paid by other means.
        RefundStatus::Resolved => false,
    }
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
