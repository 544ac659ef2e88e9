//! Whether the gateway keeps of a payment what our rows say: all that was captured, but for what our
//! refunds have given back. Somebody may give money back in the gateway's own pages, and so may the
//! buyer's bank, long after all is sold; the gateway tells of it, and nothing here may miss it.
//!
//! It must never take a refund of ours for somebody else's: one that is on its way may have been made or
//! not, and one that waits for a person may have been made by hand.

use super::refund::{Entry, Ours, nameless, names};
use onsale_schema::status::RefundStatus;

/// Whether all that the gateway has given back of a payment is refunds of ours, and all refunds that are
/// done are among it. What names no refund counts for one of its amount that nothing names.
///
/// `all` must be read after the gateway was asked, and none of it may have ended in between.
#[must_use]
pub fn agrees(all: &[Ours], given: &[Entry]) -> bool {
    let are_known = all.iter().all(|one| is_known(one, given));
    let amounts = all.iter().map(|one| one.amount);
    let amounts = amounts.chain(given.iter().map(|entry| entry.amount));
    are_known
        && amounts.into_iter().all(|amount| {
            let unnamed = all
                .iter()
                .filter(|one| one.amount == amount && names(given, one.refund_id).next().is_none());
            let (mut least, mut most) = (0, 0);
            for one in unnamed {
                match one.status {
                    RefundStatus::Done => (least, most) = (least + 1, most + 1),
                    RefundStatus::Pending | RefundStatus::Resolving | RefundStatus::Stuck => {
                        most += 1;
                    }
                    // The gateway's book has nothing of what was paid by other means.
                    RefundStatus::Resolved => {}
                }
            }
            (least..=most).contains(&nameless(amount, all, given))
        })
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
