//! Gives money back through the gateway, each refund once: its id is the key, however often it is
//! asked. What can't be given back is left for somebody to see to, loudly.

use super::{Driver, Steps};
use crate::gateway::{Cancel, Error, IdempotencyKey, PaymentKey};
use crate::settlement::store::{facts_insert, reservation_lock};
use diesel::sql_types::{
    BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use onsale_domain::settlement::order::pause_ms;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric, tx};
use onsale_schema::settlement::Fact;
use onsale_schema::{CancellationId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// For so long, in hours, the gateway is asked for a refund that it neither grants nor refuses.
const GIVE_UP_HOURS: i32 = 24;
/// And at least so often, if somebody has it tried again.
const ATTEMPTS_MIN: i32 = 20;
/// Why, for the gateway's records.
const REASON: &str = "cancelled";

/// A refund in hand.
#[derive(QueryableByName, Clone)]
struct Claimed {
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
    #[diesel(sql_type = SqlUuid)]
    key: Uuid,
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
    /// What it was paid for; nothing for points.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Numeric)]
    amount: Money,
    #[diesel(sql_type = Integer)]
    step_no: i32,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Bool)]
    is_old: bool,
    #[diesel(sql_type = Text)]
    payment_key: String,
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Later,
    Stuck,
}

/// Takes refunds that are due.
pub(super) fn take(driver: Driver, most: usize) -> BoxFuture<'static, Result<Steps, db::Error>> {
    async move {
        let due = refund_claim(&driver.ctx.pool, most, driver.limits.lease_ms).await?;
        let steps = due.into_iter().map(|claimed| {
            let driver = driver.clone();
            async move { give_back(&driver, claimed).await }.boxed()
        });
        Ok(steps.collect())
    }
    .boxed()
}

async fn refund_claim(
    pool: &db::Pool,
    most: usize,
    lease_ms: i64,
) -> Result<Vec<Claimed>, db::Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "WITH taken AS (UPDATE refund \
           SET next_at = clock_timestamp() + $2 * interval '1 millisecond', \
               step_no = step_no + 1, attempts = attempts + 1 \
           WHERE refund_id IN (SELECT refund_id FROM refund \
                               WHERE next_at <= (SELECT clock_timestamp()) \
                                 AND status = 'PENDING' AND method = 'GATEWAY' \
                               ORDER BY next_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) \
           RETURNING refund_id, key, order_id, payment_id, amount, step_no, attempts, \
                     created_at < now() - make_interval(hours => $3) AS is_old) \
         SELECT taken.refund_id, taken.key, taken.order_id, taken.amount, taken.step_no, \
                taken.attempts, taken.is_old, coalesce(p.reservation_id, o.reservation_id) AS reservation_id, \
                o.payment_key \
         FROM taken JOIN payment_order AS o ON o.order_id = taken.order_id \
              LEFT JOIN payment AS p ON p.payment_id = taken.payment_id",
    )
    .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(lease_ms)
    .bind::<Integer, _>(GIVE_UP_HOURS)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

async fn give_back(driver: &Driver, claimed: Claimed) -> Result<(), db::Error> {
    let error = ask(driver, &claimed).await.err();
    let end = match &error {
        None => End::Done,
        Some(Error::Declined { .. } | Error::NotFound) => End::Stuck,
        Some(_) if claimed.is_old && claimed.attempts >= ATTEMPTS_MIN => End::Stuck,
        Some(error @ Error::Rejected { .. }) => {
            tracing::error!(%error, refund = %claimed.refund_id, "not refunded");
            End::Later
        }
        Some(Error::Unknown { .. } | Error::Unavailable { .. }) => End::Later,
    };
    let why = error.as_ref().map(Error::to_string);
    let (roll, refund) = (rand::random(), claimed.clone());
    let is_written = tx::run(&driver.ctx.pool, move |conn| {
        let (claimed, why) = (claimed.clone(), why.clone());
        async move { apply(conn, &claimed, end, why.as_deref(), roll).await }.boxed()
    })
    .await?;
    match end {
        End::Done if is_written => {
            metrics::counter!(metric::REFUNDS, "outcome" => "done").increment(1);
        }
        End::Stuck if is_written => {
            metrics::counter!(metric::REFUNDS, "outcome" => "stuck").increment(1);
            tracing::error!(refund = %refund.refund_id, order = %refund.order_id,
                "a refund can't be made; somebody has to see to it");
        }
        End::Done | End::Stuck | End::Later => {}
    }
    Ok(())
}

async fn ask(driver: &Driver, claimed: &Claimed) -> Result<(), Error> {
    let payment_key: PaymentKey = claimed.payment_key.parse().map_err(|_| Error::NotFound)?;
    let cancel = Cancel {
        payment_key,
        amount: claimed.amount,
        reason: REASON,
        idempotency_key: IdempotencyKey(claimed.refund_id.0),
    };
    driver.gateway.cancel(&cancel).await.map(drop)
}

#[derive(QueryableByName)]
struct NowRow {
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

/// Writes what came of it; whether nobody else has.
async fn apply(
    conn: &mut AsyncPgConnection,
    claimed: &Claimed,
    end: End,
    why: Option<&str>,
    roll: f64,
) -> Result<bool, db::Error> {
    let reservations: BTreeSet<_> = claimed.reservation_id.into_iter().collect();
    let reservation = reservation_lock(conn, &reservations).await?.pop();
    statement("SELECT FROM payment_order WHERE order_id = $1 FOR NO KEY UPDATE")
        .bind::<SqlUuid, _>(claimed.order_id)
        .execute(conn)
        .await?;
    let pause = (end == End::Later).then(|| pause_ms(claimed.attempts, roll));
    let row: Option<NowRow> = statement(
        "UPDATE refund SET step_no = step_no + 1, last_error = $4, \
                status = CASE WHEN $3 THEN 'DONE' WHEN $5::bigint IS NULL THEN 'STUCK' \
                              ELSE 'PENDING' END, \
                done_at = CASE WHEN $3 THEN clock_timestamp() END, \
                stuck_at = CASE WHEN NOT $3 AND $5::bigint IS NULL THEN clock_timestamp() END, \
                next_at = clock_timestamp() + $5::bigint * interval '1 millisecond' \
         WHERE refund_id = $1 AND step_no = $2 AND status = 'PENDING' \
         RETURNING clock_timestamp() AS now",
    )
    .bind::<SqlUuid, _>(claimed.refund_id)
    .bind::<Integer, _>(claimed.step_no)
    .bind::<Bool, _>(end == End::Done)
    .bind::<Nullable<Text>, _>(why)
    .bind::<Nullable<BigInt>, _>(pause)
    .get_result(conn)
    .await
    .optional()?;
    let Some(row) = row else { return Ok(false) };
    if end == End::Done {
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
        if let Some(of) = reservation {
            let is_late = claimed.key == claimed.order_id.0;
            let fact = Fact::Refunded {
                reservation_id: of.reservation_id,
                user_id: of.user_id,
                cancellation_id: (!is_late).then_some(CancellationId(claimed.key)),
                amount: claimed.amount,
                at: row.now,
            };
            facts_insert(conn, &BTreeMap::from([(of.schedule_id, vec![fact])])).await?;
        }
    }
    Ok(true)
}
