//! A task as it is shown.

use super::store::Row;
use onsale_schema::status::{OrderStatus, RefundCompare, RefundStatus};
use onsale_schema::{
    CancellationId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp, UserId,
};
use serde::Serialize;
use utoipa::ToSchema;

/// What is to be done.
///
/// - `REFUND_STUCK`: The gateway would not make a refund; or it was not asked, as something was given back
///   of the payment that is no refund of ours (`lastError` says so). Look in the gateway's own pages what
///   that was for: where it was for this, say so (`…/resolution`), and else have it tried again
///   (`…/retry`), which asks for it all the same.
/// - `REFUND_IN_DOUBT`: A refund has been on its way for a day, and perhaps the gateway has made it. It
///   can neither be tried again nor be paid back by other means before that is known.
/// - `REFUND_TWICE`: The gateway has made a refund that somebody has paid back by other means as well: the
///   money went back twice. See that one of both comes back, or is written off, and say so
///   (`…/comparison`).
/// - `REFUND_TO_COMPARE`: As much was given back in the gateway's own pages as somebody says to have paid
///   by other means, or as a refund that nobody has told of: it was taken for that. If that is one and the
///   same, say so (`…/comparison`); if not, see first that each refund of the payment was paid once.
/// - `ORDER_ODD`: The gateway has captured money that is not what was ordered, or has given some of it back
///   without us. Put it right in the gateway's own pages, as a rule by giving all of it back; the order is
///   looked up again every ten minutes, and the task ends by itself. What went back of a sold order and is to
///   stay so can be written off (`orders/…/write-off`).
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
enum TaskKind {
    /// The gateway would not make a refund, or something else was given back of the payment.
    #[serde(rename = "REFUND_STUCK")]
    RefundStuck,
    /// The refund has been on its way for a day: as a rule, nobody can tell whether the gateway has made
    /// it. It can neither be tried again nor be paid back by other means before that is known; look the
    /// payment up in the gateway's own pages.
    #[serde(rename = "REFUND_IN_DOUBT")]
    RefundInDoubt,
    /// The gateway has made a refund that somebody has paid back by other means as well.
    #[serde(rename = "REFUND_TWICE")]
    RefundTwice,
    /// What was given back in the gateway's own pages may be what somebody says to have paid by other
    /// means, or the refund itself, or not.
    #[serde(rename = "REFUND_TO_COMPARE")]
    RefundToCompare,
    /// The gateway's payment is not what was ordered.
    #[serde(rename = "ORDER_ODD")]
    OrderOdd,
}

/// Whether somebody has to see to it.
///
/// - `OPEN`: Somebody has to.
/// - `RESOLVING`: Somebody says to have paid the money back by other means; it does not count yet.
///   Don't pay it back again.
/// - `RESOLVED`: Somebody has paid the money back by other means, has compared, or has written it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskState {
    /// Somebody has to.
    Open,
    /// Somebody says to have paid the money back by other means, and the gateway is yet to say that it
    /// has not made the refund, too. Don't pay it back again.
    Resolving,
    /// Somebody has paid the money back by other means, has compared what was paid, or has written it off.
    Resolved,
}

/// Something for a person to see to: money that is owed, and that the gateway would not give back, or
/// has perhaps; money that went back twice, or has perhaps; or a payment that is not what was ordered.
#[derive(Serialize, ToSchema)]
#[schema(as = Task)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// The refund; left out where it is no refund's (`ORDER_ODD`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refund_id: Option<RefundId>,
    kind: TaskKind,
    state: TaskState,
    /// Since when it is a task; of what was paid back by other means, since when that counts, and of what
    /// was compared, since when it is.
    since: Timestamp,
    /// The payment's order, by which the gateway knows it, too.
    order_id: PaymentOrderId,
    order_status: OrderStatus,
    /// What we take as captured of the order; of one that is odd, that need not be what the gateway has.
    captured: Money,
    /// What we take as given back of it.
    refunded: Money,
    /// What was paid; left out where that was no reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<ReservationId>,
    /// What the refund is for; left out for a payment that came too late for its seats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cancellation_id: Option<CancellationId>,
    /// Whose money it is.
    user_id: UserId,
    /// Of the refund; of an order that is odd, what was ordered.
    amount: Money,
    /// What somebody has written off of the order (`ORDER_ODD`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    written_off: Option<Vec<Money>>,
    /// Since when it is owed; left out where nothing is (`ORDER_ODD`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    owed_since: Option<Timestamp>,
    /// How often the gateway was asked, since somebody last had it tried again, or since it last said
    /// something new about the order.
    #[schema(minimum = 0)]
    attempts: i32,
    /// What the gateway said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_error: Option<String>,
    /// How often somebody had it tried again.
    #[schema(minimum = 0)]
    retries: i64,
    /// When, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retried_at: Option<Timestamp>,
    /// Who, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retried_by: Option<UserId>,
    /// Who says to have paid it back by other means, or has written it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resolved_by: Option<UserId>,
    /// By which means, or why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<String>,
    /// Who has compared what the gateway has given back with what was paid by other means.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    compared_by: Option<UserId>,
    /// What was found then, and done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    finding: Option<String>,
}

/// What a row is a task for.
fn kind(row: &Row) -> TaskKind {
    match (row.compare, row.status) {
        (Some(RefundCompare::Twice), _) => TaskKind::RefundTwice,
        (Some(RefundCompare::ByHand), _) => TaskKind::RefundToCompare,
        (None, Some(RefundStatus::Pending)) => TaskKind::RefundInDoubt,
        (
            None,
            Some(
                RefundStatus::Stuck
                | RefundStatus::Resolving
                | RefundStatus::Resolved
                | RefundStatus::Done,
            ),
        ) => TaskKind::RefundStuck,
        (None, None) => TaskKind::OrderOdd,
    }
}

fn state(row: &Row) -> TaskState {
    match (row.compare, row.status) {
        (Some(RefundCompare::Twice | RefundCompare::ByHand), _) if row.is_compared => {
            TaskState::Resolved
        }
        (Some(RefundCompare::Twice | RefundCompare::ByHand), _) => TaskState::Open,
        (None, Some(RefundStatus::Resolved)) => TaskState::Resolved,
        (None, Some(RefundStatus::Resolving)) => TaskState::Resolving,
        (None, None) if !row.is_odd => TaskState::Resolved,
        // What is done is nobody's task, and is not read.
        (None, Some(RefundStatus::Stuck | RefundStatus::Pending | RefundStatus::Done) | None) => {
            TaskState::Open
        }
    }
}

impl From<Row> for TaskView {
    fn from(row: Row) -> Self {
        Self {
            refund_id: row.refund_id,
            kind: kind(&row),
            state: state(&row),
            since: row.since,
            order_id: row.order_id,
            order_status: row.order_status,
            captured: row.captured,
            refunded: row.refunded,
            reservation_id: row.reservation_id,
            cancellation_id: row.cancellation_id,
            user_id: row.user_id,
            amount: row.amount,
            written_off: row.written_off,
            owed_since: row.owed_since,
            attempts: row.attempts,
            last_error: row.last_error,
            retries: row.retries,
            retried_at: row.retried_at,
            retried_by: row.retried_by,
            resolved_by: row.resolved_by,
            note: row.note,
            compared_by: row.compared_by,
            finding: row.finding,
        }
    }
}
