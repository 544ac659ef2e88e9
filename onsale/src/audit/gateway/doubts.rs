//! What a window of the gateway's book alone does not tell, and the payment as a whole does. What it does
//! not tell either is a difference: nothing is taken for right because nobody can say that it is wrong.

use onsale_schema::{Money, PaymentOrderId, Timestamp};
use onsale_workers::gateway::{Payment, PaymentKey};

use super::{Booked, CLOCKS_MS, Order};

/// A payment to look up.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// Of which order.
    pub order_id: PaymentOrderId,
    /// What is not clear.
    pub why: Why,
}

/// What is not clear of an order by the window of the book.
#[derive(Clone, Debug)]
pub enum Why {
    /// Something was given back in the window that was captured before it, and of which nothing was captured
    /// as we know, be it that we don't know the order any more: whether all was.
    Undone(Booked),
    /// Something that we know to be given back is not in the window: whether it was before that. With what
    /// is to be said if it was not.
    Missing(Order, String),
    /// It is odd, and nothing in the window says so, or some of it is written off: how much of it is where.
    Whole(Order),
}

impl Doubt {
    /// Which payment was confirmed, as far as we know.
    pub fn payment_key(&self) -> Option<PaymentKey> {
        match &self.why {
            Why::Undone(_) => None,
            Why::Missing(order, _) | Why::Whole(order) => {
                order.payment_key.as_deref()?.parse().ok()
            }
        }
    }

    /// What is wrong, by what the gateway says of the payment; nothing if it knows none. The snapshot is of
    /// the time `at`.
    pub fn settle(self, payment: Option<&Payment>, at: Timestamp) -> Vec<String> {
        let theirs = payment.map(|payment| Booked::of(payment, at));
        let id = self.order_id;
        match (self.why, theirs) {
            (Why::Undone(_), Some(whole)) if whole.is_undone() && whole.captured > Money::ZERO => {
                Vec::new()
            }
            (Why::Undone(window), Some(whole)) => vec![format!(
                "the gateway captured {} and gave {} back of order {id}, {} of it in that time, and we \
                 know of nothing captured",
                whole.captured, whole.refunded, window.refunded
            )],
            (Why::Undone(window), None) => vec![format!(
                "the gateway gave {} back of order {id}, of which we know of nothing captured, and \
                 knows no such payment",
                window.refunded
            )],
            (Why::Missing(order, _), Some(whole))
                if order.whole().refund_difference(&whole).is_none() =>
            {
                Vec::new()
            }
            (Why::Missing(_, difference), _) => vec![difference],
            (Why::Whole(order), whole) => {
                let (order, whole) = (order.whole(), whole.unwrap_or_default());
                if order.is_as_good_as_nothing(&whole) {
                    return Vec::new();
                }
                let captured = order.capture_difference(&whole);
                captured
                    .into_iter()
                    .chain(order.refund_difference(&whole))
                    .collect()
            }
        }
    }
}

impl Booked {
    /// What a book since ever would say of a payment.
    fn of(payment: &Payment, at: Timestamp) -> Self {
        if !payment.status.is_captured() {
            return Self::default();
        }
        let is_late = |when: Timestamp| when >= at.plus_ms(-CLOCKS_MS);
        let late = payment.cancels.iter().filter(|cancel| is_late(cancel.at));
        Self {
            captured: payment.total,
            refunded: payment.total - payment.balance,
            captured_late: match payment.approved_at {
                Some(approved_at) if is_late(approved_at) => payment.total,
                Some(_) | None => Money::ZERO,
            },
            refunded_late: late.map(|cancel| cancel.amount).sum(),
        }
    }
}
