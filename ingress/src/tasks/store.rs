//! Refunds and orders that are tasks for people, as they are shown. Settlement writes them, and nothing is
//! written here.

use crate::page::PageStart;
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::status::{OrderStatus, RefundCompare, RefundStatus};
use onsale_schema::{
    CancellationId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp, UserId,
};
use uuid::Uuid;

/// Which tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Somebody has to see to them, or says to have paid them back and that does not count yet.
    Unresolved,
    /// Somebody has to see to them: stuck, on their way for too long, to be compared, or odd.
    Open,
    /// Somebody says to have paid them back, which does not count yet.
    Resolving,
    /// Paid back by other means, compared, or written off.
    Resolved,
}

/// A task: of a refund, or of an order.
#[derive(QueryableByName)]
pub struct Row {
    /// Where the page continues: the refund's id, or the order's.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    pub since: Timestamp,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub refund_id: Option<RefundId>,
    /// How far the refund is.
    #[diesel(sql_type = Nullable<Text>)]
    pub status: Option<RefundStatus>,
    /// Why it has to be compared, where it is a task for that.
    #[diesel(sql_type = Nullable<Text>)]
    pub compare: Option<RefundCompare>,
    #[diesel(sql_type = Bool)]
    pub is_compared: bool,
    #[diesel(sql_type = SqlUuid)]
    pub order_id: PaymentOrderId,
    #[diesel(sql_type = Text)]
    pub order_status: OrderStatus,
    #[diesel(sql_type = Numeric)]
    pub captured: Money,
    #[diesel(sql_type = Numeric)]
    pub refunded: Money,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub cancellation_id: Option<CancellationId>,
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
    #[diesel(sql_type = Numeric)]
    pub amount: Money,
    /// Whether the order is one that is odd.
    #[diesel(sql_type = Bool)]
    pub is_odd: bool,
    /// What was written off of it, where it is an order's task.
    #[diesel(sql_type = Nullable<Array<Numeric>>)]
    pub written_off: Option<Vec<Money>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub owed_since: Option<Timestamp>,
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
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub compared_by: Option<UserId>,
    #[diesel(sql_type = Nullable<Text>)]
    pub finding: Option<String>,
}

/// Tasks of a page that an index has in the order of a time of theirs: what they are of, since when they
/// are, and why they have to be compared.
macro_rules! sorted {
    ($since:literal, $id:literal, $of:literal, $where:literal) => {
        concat!(
            "(SELECT ",
            $since,
            " AS since, ",
            $id,
            " AS id, ",
            $of,
            " WHERE ",
            $where,
            " AND ($1::timestamptz IS NULL OR (",
            $since,
            ", ",
            $id,
            ") > ($1, $2)) ORDER BY ",
            $since,
            ", ",
            $id,
            " LIMIT $3)"
        )
    };
}

/// Refunds that are a task by their status.
macro_rules! refunds {
    ($since:literal, $statuses:literal) => {
        sorted!(
            $since,
            "refund_id",
            "true AS is_refund, NULL::text AS compare FROM refund",
            $statuses
        )
    };
}

/// Refunds that somebody has to compare, or has compared.
macro_rules! compare {
    ($since:literal, $where:literal) => {
        sorted!(
            $since,
            "refund_id",
            "true AS is_refund, compare FROM refund",
            $where
        )
    };
}

/// Refunds that nobody has compared.
macro_rules! to_compare {
    () => {
        compare!(
            "compare_at",
            "compare_at IS NOT NULL AND compared_at IS NULL"
        )
    };
}

/// Refunds of a page that are on their way for too long, of all that are on their way (by an index). After
/// a day the gateway need not know any more that it was asked, and an alert wakes somebody.
macro_rules! doubted {
    () => {
        refunds!(
            "(created_at + interval '24 hours')",
            "status = 'PENDING' AND next_at IS NOT NULL AND order_id IS NOT NULL \
             AND created_at <= now() - interval '24 hours'"
        )
    };
}

/// Orders whose payment at the gateway is not what was ordered, whatever has become of them.
macro_rules! odd {
    () => {
        sorted!(
            "odd_at",
            "order_id",
            "false AS is_refund, NULL::text AS compare FROM payment_order",
            "odd_at IS NOT NULL"
        )
    };
}

/// Orders of which something is written off, and which are not odd any more.
macro_rules! written_off {
    () => {
        sorted!(
            "at",
            "order_id",
            "false AS is_refund, NULL::text AS compare FROM write_off AS w",
            "cardinality(amounts) > 0 \
             AND NOT EXISTS (SELECT FROM write_off AS later \
                             WHERE later.order_id = w.order_id \
                               AND (later.at, later.command_id) > (w.at, w.command_id)) \
             AND NOT EXISTS (SELECT FROM payment_order AS o \
                             WHERE o.order_id = w.order_id AND o.odd_at IS NOT NULL)"
        )
    };
}

/// The tasks of the page, and then what belongs to them.
macro_rules! page_of {
    ($first:expr $(, $more:expr)*) => {
        concat!(
            "WITH page AS (SELECT * FROM (",
            $first,
            $(" UNION ALL ", $more,)*
            ") AS task ORDER BY since, id LIMIT $3) \
             SELECT page.id, page.since, r.refund_id, r.status, page.compare, \
                    r.compared_at IS NOT NULL AS is_compared, \
                    o.order_id, o.status AS order_status, o.captured, o.refunded, \
                    coalesce(p.reservation_id, o.reservation_id) AS reservation_id, \
                    c.cancellation_id, coalesce(r.user_id, o.user_id) AS user_id, \
                    coalesce(r.amount, o.amount) AS amount, \
                    o.odd_at IS NOT NULL AS is_odd, off.amounts AS written_off, \
                    r.created_at AS owed_since, coalesce(r.attempts, o.attempts) AS attempts, \
                    r.last_error, tried.retries, tried.retried_at, tried.retried_by, \
                    coalesce(done.user_id, off.user_id) AS resolved_by, \
                    coalesce(done.note, off.note) AS note, \
                    compared.user_id AS compared_by, compared.note AS finding \
             FROM page LEFT JOIN refund AS r ON page.is_refund AND r.refund_id = page.id \
                  JOIN payment_order AS o ON o.order_id = coalesce(r.order_id, page.id) \
                  LEFT JOIN payment AS p ON p.payment_id = r.payment_id \
                  LEFT JOIN cancellation AS c ON c.cancellation_id = r.key \
                  LEFT JOIN refund_action AS done \
                         ON done.refund_id = r.refund_id AND done.kind = 'RESOLUTION' \
                  LEFT JOIN refund_action AS compared \
                         ON compared.refund_id = r.refund_id AND compared.kind = 'COMPARISON' \
                  LEFT JOIN LATERAL ( \
                      SELECT w.amounts, w.user_id, w.note FROM write_off AS w \
                      WHERE w.order_id = o.order_id AND NOT page.is_refund \
                      ORDER BY w.at DESC, w.command_id DESC LIMIT 1) AS off ON true \
                  CROSS JOIN LATERAL ( \
                      SELECT count(*) AS retries, max(a.at) AS retried_at, \
                             (array_agg(a.user_id ORDER BY a.at DESC))[1] AS retried_by \
                      FROM refund_action AS a \
                      WHERE a.refund_id = r.refund_id AND a.kind = 'RETRY') AS tried \
             ORDER BY page.since, page.id"
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
                refunds!("stuck_at", "status IN ('STUCK', 'RESOLVING')"),
                doubted!(),
                to_compare!(),
                odd!()
            )
        }
        Which::Open => page_of!(
            refunds!("stuck_at", "status IN ('STUCK')"),
            doubted!(),
            to_compare!(),
            odd!()
        ),
        Which::Resolving => page_of!(refunds!("stuck_at", "status IN ('RESOLVING')")),
        Which::Resolved => page_of!(
            refunds!("done_at", "status IN ('RESOLVED')"),
            compare!("compared_at", "compared_at IS NOT NULL"),
            written_off!()
        ),
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
