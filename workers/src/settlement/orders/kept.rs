//! Orders that have ended with the money captured, of which the gateway tells that something is new: is
//! what it keeps of the payment what our rows say? What that means is [`onsale_domain::settlement::kept`]'s
//! to say. Nothing is sold or given back here; what does not agree is for somebody to see to.

use super::Told;
use super::refunds::refund_list;
use crate::gateway::Payment;
use crate::settlement::store::written_off;
use diesel_async::AsyncPgConnection;
use onsale_domain::settlement::Order;
use onsale_domain::settlement::kept::{agrees, rest};
use onsale_domain::settlement::order::Learned;
use onsale_domain::settlement::refund::Entry;
use onsale_platform::db;
use onsale_schema::Money;
use onsale_schema::status::OrderStatus;

/// What the gateway has said of the payment of such an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether it is the payment that was captured, and says of itself what can be.
    pub is_sound: bool,
    /// What was given back of it.
    pub given: Vec<Entry>,
}

/// Whether an order has ended with the money captured.
pub(super) fn is_of(status: OrderStatus) -> bool {
    match status {
        OrderStatus::Paid | OrderStatus::Refunding | OrderStatus::Refunded => true,
        OrderStatus::Ready
        | OrderStatus::Securing
        | OrderStatus::Capturing
        | OrderStatus::Unknown
        | OrderStatus::Captured
        | OrderStatus::Reholding
        | OrderStatus::Failed => false,
    }
}

/// Reads a payment; none where there is none, or not under that order.
pub(super) fn read(order: &Order, payment: Option<&Payment>) -> Told {
    let given: Vec<Entry> = payment.map_or_else(Vec::new, |payment| {
        let cancels = payment.cancels.iter();
        cancels
            .map(|cancel| Entry {
                refund_id: cancel.refund_id,
                amount: cancel.amount,
            })
            .collect()
    });
    let back: Money = given.iter().map(|entry| entry.amount).sum();
    let is_sound = payment.is_some_and(|payment| {
        payment.order_id.uuid() == Some(order.order_id.0)
            && order.payment_key.as_deref() == Some(payment.payment_key.as_str())
            && payment.status.is_captured()
            && payment.total == order.captured
            && payment.total - payment.balance == back
    });
    Told {
        learned: Learned::Nothing,
        payment_key: None,
        seen: Some(Seen { is_sound, given }),
    }
}

/// Whether the gateway keeps what it is to keep, of an order that is locked. No refund of it has ended
/// since the gateway was asked, or the order would be at another step.
pub(super) async fn compare(
    conn: &mut AsyncPgConnection,
    order: &Order,
    seen: &Seen,
) -> Result<Learned, db::Error> {
    assert!(is_of(order.status), "it has ended so for good");
    let all = refund_list(conn, order.order_id).await?;
    let written_off = written_off(conn, order.order_id).await?;
    let (given, is_there) = rest(&all, &seen.given, &written_off);
    if seen.is_sound && is_there && agrees(&all, &given) {
        return Ok(Learned::Captured);
    }
    tracing::error!(order = %order.order_id, status = order.status.as_str(),
        "the gateway does not keep of a payment what was captured but for our refunds and what was written off");
    Ok(Learned::Odd)
}
