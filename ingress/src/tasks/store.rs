//! Refunds that are tasks for people, as they are shown. Settlement writes them, and nothing is written
//! here.

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

/// Which tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Somebody has to see to them, or says to have paid them back and that does not count yet.
    Unresolved,
    /// Somebody has to see to them: stuck, or on their way for too long.
    Open,
    /// Somebody says to have paid them back, which does not count yet.
    Resolving,
    /// Paid back by other means.
    Resolved,
}

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

/// Refunds of a page that an index has in the order of a time of theirs.
macro_rules! sorted {
    ($since:literal, $statuses:literal) => {
        concat!(
            "(SELECT refund.*, ",
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
            ", refund_id LIMIT $3)"
        )
    };
}

/// Refunds of a page that are on their way for too long, of all that are on their way (by an index). After
/// a day the gateway need not know any more that it was asked, and an alert wakes somebody.
macro_rules! doubted {
    () => {
        "(SELECT refund.*, created_at + interval '24 hours' AS since FROM refund \
          WHERE status = 'PENDING' AND next_at IS NOT NULL AND order_id IS NOT NULL \
            AND created_at <= now() - interval '24 hours' \
            AND ($1::timestamptz IS NULL \
                 OR (created_at + interval '24 hours', refund_id) > ($1, $2)) \
          ORDER BY created_at, refund_id LIMIT $3)"
    };
}

/// The refunds of the page, and then what belongs to them.
macro_rules! page_of {
    ($($refunds:expr),+) => {
        concat!(
            "WITH page AS (SELECT * FROM (",
            $($refunds,)+
            ") AS task ORDER BY since, refund_id LIMIT $3) \
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

/// What has been a task for longest comes first.
///
/// # Errors
/// When Postgres fails.
pub async fn task_list(pool: &Pool, which: Which, start: &PageStart) -> Result<Vec<Row>, Error> {
    let sql = match which {
        Which::Unresolved => {
            page_of!(
                sorted!("stuck_at", "'STUCK', 'RESOLVING'"),
                " UNION ALL ",
                doubted!()
            )
        }
        Which::Open => page_of!(sorted!("stuck_at", "'STUCK'"), " UNION ALL ", doubted!()),
        Which::Resolving => page_of!(sorted!("stuck_at", "'RESOLVING'")),
        Which::Resolved => page_of!(sorted!("done_at", "'RESOLVED'")),
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
