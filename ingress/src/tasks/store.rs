//! Refunds that are tasks for people, as they are shown. Settlement writes them.

use crate::page::PageStart;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::status::RefundStatus;
use onsale_schema::{
    CancellationId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp, UserId,
};
use uuid::Uuid;

/// A task.
#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = SqlUuid)]
    pub refund_id: RefundId,
    #[diesel(sql_type = Text)]
    pub status: RefundStatus,
    #[diesel(sql_type = Timestamptz)]
    pub since: Timestamp,
    #[diesel(sql_type = SqlUuid)]
    pub order_id: PaymentOrderId,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub cancellation_id: Option<CancellationId>,
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
    #[diesel(sql_type = Numeric)]
    pub amount: Money,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: Timestamp,
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Nullable<Text>)]
    pub last_error: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub retries: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub retried_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub retried_by: Option<UserId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub resolved_by: Option<UserId>,
    #[diesel(sql_type = Nullable<Text>)]
    pub note: Option<String>,
}

/// The refunds of the page, by an index, and then what belongs to them.
macro_rules! page_of {
    ($since:literal, $statuses:literal) => {
        concat!(
            "WITH page AS (SELECT refund.*, ",
            $since,
            " AS since FROM refund \
                           WHERE status IN (",
            $statuses,
            ") AND order_id IS NOT NULL \
                             AND ($1::timestamptz IS NULL OR (",
            $since,
            ", refund_id) > ($1, $2)) \
                           ORDER BY ",
            $since,
            ", refund_id LIMIT $3) \
             SELECT r.refund_id, r.status, r.since, r.order_id, \
                    coalesce(p.reservation_id, o.reservation_id) AS reservation_id, \
                    c.cancellation_id, r.user_id, r.amount, r.created_at, r.attempts, \
                    r.last_error, tried.retries, tried.retried_at, tried.retried_by, \
                    done.user_id AS resolved_by, done.note \
             FROM page AS r LEFT JOIN payment AS p USING (payment_id) \
                  LEFT JOIN payment_order AS o ON o.order_id = r.order_id \
                  LEFT JOIN cancellation AS c ON c.cancellation_id = r.key \
                  LEFT JOIN refund_action AS done \
                         ON done.refund_id = r.refund_id AND done.kind = 'RESOLUTION' \
                  CROSS JOIN LATERAL ( \
                      SELECT count(*) AS retries, max(a.at) AS retried_at, \
                             (array_agg(a.user_id ORDER BY a.at DESC))[1] AS retried_by \
                      FROM refund_action AS a \
                      WHERE a.refund_id = r.refund_id AND a.kind = 'RETRY') AS tried \
             ORDER BY r.since, r.refund_id"
        )
    };
}

/// Those that are stuck and not known to be paid back, or were resolved; who has waited longest first.
pub async fn task_list(
    pool: &Pool,
    status: RefundStatus,
    start: &PageStart,
) -> Result<Vec<Row>, Error> {
    let sql = match status {
        RefundStatus::Resolved => page_of!("done_at", "'RESOLVED'"),
        RefundStatus::Stuck
        | RefundStatus::Resolving
        | RefundStatus::Pending
        | RefundStatus::Done => page_of!("stuck_at", "'STUCK', 'RESOLVING'"),
    };
    let mut conn = pool.get().await?;
    let rows = statement(sql)
        .bind::<Nullable<Timestamptz>, _>(start.after.map(|after| after.at()))
        .bind::<SqlUuid, _>(start.after.map_or_else(Uuid::nil, |after| after.id))
        .bind::<BigInt, _>(start.rows())
        .load(&mut conn)
        .await?;
    Ok(rows)
}
