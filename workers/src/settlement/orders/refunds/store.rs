//! What is read and written of refunds through the gateway. A step is written only by who has read the
//! one before; the reservation is locked first, then the order, then the refund.

use super::End;
use crate::settlement::store::{facts_insert, reservation_lock};
use diesel::sql_types::{
    BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::Reservation;
use onsale_domain::settlement::order::pause_ms;
use onsale_domain::settlement::refund::{Asked, OLD_HOURS, Ours, State, Step};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::settlement::Fact;
use onsale_schema::status::{RefundCompare, RefundStatus};
use onsale_schema::{CancellationId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A refund in hand.
#[derive(QueryableByName, Clone)]
pub(super) struct Claimed {
    #[diesel(sql_type = SqlUuid)]
    pub refund_id: RefundId,
    #[diesel(sql_type = SqlUuid)]
    key: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub order_id: PaymentOrderId,
    /// What it was paid for; nothing for points.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Numeric)]
    pub amount: Money,
    #[diesel(sql_type = Text)]
    pub status: RefundStatus,
    #[diesel(sql_type = Integer)]
    step_no: i32,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    /// How often the gateway has refused it for good.
    #[diesel(sql_type = Integer)]
    pub key_no: i32,
    #[diesel(sql_type = Bool)]
    pub is_old: bool,
    /// Until when what was asked before may be on its way.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    settles_at: Option<Timestamp>,
    #[diesel(sql_type = Bool)]
    is_settled: bool,
    #[diesel(sql_type = Bool)]
    was_old: bool,
    #[diesel(sql_type = Bool)]
    is_seen_to: bool,
    #[diesel(sql_type = Text)]
    pub payment_key: String,
}

impl Claimed {
    /// What is known of it.
    pub fn state(&self) -> State {
        State {
            status: self.status,
            asked: self.settles_at.map(|_| Asked {
                is_settled: self.is_settled,
                was_old: self.was_old,
            }),
            is_old: self.is_old,
            attempts: self.attempts,
            is_seen_to: self.is_seen_to,
        }
    }
}

/// Takes refunds that are due, and gives nobody else them for a while. Who dies with one in hand may
/// have asked for it.
pub(super) async fn refund_claim(
    pool: &db::Pool,
    most: usize,
    lease_ms: i64,
) -> Result<Vec<Claimed>, db::Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "WITH due AS MATERIALIZED ( \
             SELECT refund_id, settles_at FROM refund \
             WHERE next_at <= (SELECT clock_timestamp()) \
               AND status IN ('PENDING', 'RESOLVING') AND method = 'GATEWAY' \
             ORDER BY next_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED), \
         taken AS ( \
             UPDATE refund AS r \
             SET next_at = x.until, settles_at = x.until, step_no = r.step_no + 1, \
                 attempts = r.attempts + 1 \
             FROM due, (SELECT clock_timestamp() + $2 * interval '1 millisecond' AS until) AS x \
             WHERE r.refund_id = due.refund_id \
             RETURNING r.refund_id, r.key, r.order_id, r.payment_id, r.amount, r.status, r.step_no, \
                       r.attempts, r.key_no, due.settles_at, \
                       r.created_at + make_interval(hours => $3) AS old_at) \
         SELECT taken.refund_id, taken.key, taken.order_id, taken.amount, taken.status, \
                taken.step_no, taken.attempts, taken.key_no, taken.settles_at, \
                taken.old_at < now() AS is_old, \
                coalesce(taken.settles_at <= clock_timestamp(), true) AS is_settled, \
                coalesce(taken.settles_at >= taken.old_at, false) AS was_old, \
                EXISTS (SELECT FROM refund_action AS a WHERE a.refund_id = taken.refund_id) \
                    AS is_seen_to, \
                coalesce(p.reservation_id, o.reservation_id) AS reservation_id, o.payment_key \
         FROM taken JOIN payment_order AS o ON o.order_id = taken.order_id \
              LEFT JOIN payment AS p ON p.payment_id = taken.payment_id",
    )
    .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(lease_ms)
    .bind::<Integer, _>(OLD_HOURS)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

#[derive(QueryableByName)]
struct OursRow {
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
    #[diesel(sql_type = Numeric)]
    amount: Money,
    #[diesel(sql_type = Text)]
    status: RefundStatus,
}

/// All refunds of a payment: no more than it has seats.
pub(in crate::settlement::orders) async fn refund_list(
    conn: &mut AsyncPgConnection,
    order_id: PaymentOrderId,
) -> Result<Vec<Ours>, db::Error> {
    let rows: Vec<OursRow> = statement(
        "SELECT refund_id, amount, status FROM refund WHERE order_id = $1 AND method = 'GATEWAY'",
    )
    .bind::<SqlUuid, _>(order_id)
    .load(conn)
    .await?;
    let ours = |row: OursRow| Ours {
        refund_id: row.refund_id,
        amount: row.amount,
        status: row.status,
    };
    Ok(rows.into_iter().map(ours).collect())
}

#[derive(QueryableByName)]
struct NowRow {
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

/// Writes what came of it; whether nobody else has.
pub(super) async fn apply(
    conn: &mut AsyncPgConnection,
    claimed: &Claimed,
    end: &End,
    roll: f64,
) -> Result<bool, db::Error> {
    let reservations: BTreeSet<_> = claimed.reservation_id.into_iter().collect();
    let reservation = reservation_lock(conn, &reservations).await?.pop();
    statement("SELECT FROM payment_order WHERE order_id = $1 FOR NO KEY UPDATE")
        .bind::<SqlUuid, _>(claimed.order_id)
        .execute(conn)
        .await?;
    let (status, is_refused) = match end.step {
        Step::Done { .. } => (RefundStatus::Done, false),
        Step::Resolved => (RefundStatus::Resolved, false),
        Step::Stuck { is_refused } => (RefundStatus::Stuck, is_refused),
        Step::Wait | Step::LookUp | Step::Ask | Step::Rest => (claimed.status, false),
    };
    let waits = status == claimed.status;
    let row: Option<NowRow> = statement(
        "UPDATE refund SET step_no = step_no + 1, status = $3, \
                last_error = CASE $3 WHEN 'DONE' THEN NULL ELSE coalesce($4, last_error) END, \
                key_no = key_no + CASE WHEN $5 THEN 1 ELSE 0 END, \
                settles_at = CASE WHEN $6 THEN settles_at ELSE $7 END, \
                done_at = CASE WHEN $3 IN ('DONE', 'RESOLVED') THEN clock_timestamp() END, \
                stuck_at = CASE $3 WHEN 'STUCK' THEN clock_timestamp() \
                                   WHEN 'RESOLVING' THEN stuck_at END, \
                compare = $9, \
                compare_at = CASE WHEN $9 IS NOT NULL THEN clock_timestamp() END, \
                next_at = clock_timestamp() + $8::bigint * interval '1 millisecond' \
         WHERE refund_id = $1 AND step_no = $2 \
         RETURNING clock_timestamp() AS now",
    )
    .bind::<SqlUuid, _>(claimed.refund_id)
    .bind::<Integer, _>(claimed.step_no)
    .bind::<Text, _>(status)
    .bind::<Nullable<Text>, _>(end.why.as_deref())
    .bind::<Bool, _>(is_refused)
    .bind::<Bool, _>(end.is_in_doubt)
    .bind::<Nullable<Timestamptz>, _>(claimed.settles_at)
    .bind::<Nullable<BigInt>, _>(waits.then(|| pause_ms(claimed.attempts, roll)))
    .bind::<Nullable<Text>, Option<RefundCompare>>(end.compare())
    .get_result(conn)
    .await
    .optional()?;
    let Some(row) = row else { return Ok(false) };
    if matches!(status, RefundStatus::Done | RefundStatus::Resolved) {
        is_back(conn, claimed, reservation, row.now).await?;
    }
    Ok(true)
}

/// The money is back: its order and other systems hear of it.
async fn is_back(
    conn: &mut AsyncPgConnection,
    claimed: &Claimed,
    reservation: Option<Reservation>,
    at: Timestamp,
) -> Result<(), db::Error> {
    statement(
        "UPDATE payment_order \
         SET refunded = refunded + $2, step_no = step_no + 1, updated_at = clock_timestamp(), \
             status = CASE status WHEN 'REFUNDING' THEN 'REFUNDED' ELSE status END \
         WHERE order_id = $1",
    )
    .bind::<SqlUuid, _>(claimed.order_id)
    .bind::<Numeric, _>(claimed.amount)
    .execute(conn)
    .await?;
    let Some(of) = reservation else {
        return Ok(());
    };
    let is_late = claimed.key == claimed.order_id.0;
    let fact = Fact::Refunded {
        reservation_id: of.reservation_id,
        user_id: of.user_id,
        cancellation_id: (!is_late).then_some(CancellationId(claimed.key)),
        amount: claimed.amount,
        at,
    };
    facts_insert(conn, &BTreeMap::from([(of.schedule_id, vec![fact])])).await
}
