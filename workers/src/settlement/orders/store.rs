//! What the driver reads and writes of orders. A step is written only by who has read the one
//! before; reservations are locked first, then the order.

use super::reservations::Made;
use super::{Told, charges, kept, reservations};
use crate::gateway::PaymentKey;
use crate::settlement::store::{OWNER_PAUSE_MS, OrderRow, payment_key_lock, reservation_lock};
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::order::{self, Learned, ODD_PAUSE_MS};
use onsale_domain::settlement::{Order, Purpose, charge};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::{OrderStatus, ReservationStatus};
use onsale_schema::{CommandId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// So many are purged by one statement.
const PURGE_MAX: i64 = 5000;

/// An order in hand.
pub(super) struct Claimed {
    /// As it is now.
    pub order: Order,
    /// Until when a capture may be begun; none when it may not.
    pub capture_until: Option<Instant>,
    /// When its buyer wanted it captured; none if nobody has, or if that was not noted.
    pub confirmed_at: Option<Timestamp>,
}

impl Claimed {
    /// Whether a capture may be begun now.
    pub fn may_capture(&self) -> bool {
        self.capture_until
            .is_some_and(|until| Instant::now() < until)
    }
}

/// How long what one asks for may be on its way, and what a charge may not exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A request to the gateway, its repetitions included, in milliseconds.
    pub request_ms: i64,
    /// How long nobody else takes an order that one has in hand, in milliseconds.
    pub lease_ms: i64,
    /// The same of a refund.
    pub refund_lease_ms: i64,
    /// The highest balance after a charge.
    pub balance_cap: Money,
}

/// Orders that are due, of one kind. Each kind has an index of its own, so that neither is looked for
/// among the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// On their way: their buyers wait.
    Waited,
    /// Ended, or not begun: looked up because somebody said something, or for the last time.
    Ended,
}

/// The statement that takes one kind, by the predicate of its index. What is due is found once, whatever
/// the planner prefers: found again it would be others, as these are taken by then.
macro_rules! claim {
    ($statuses:literal) => {
        concat!(
            "WITH due AS MATERIALIZED ( \
                 SELECT order_id FROM payment_order AS o \
                 WHERE next_at <= (SELECT clock_timestamp() + $3 * interval '1 millisecond') \
                   AND status IN (",
            $statuses,
            ") \
                   AND (next_at <= (SELECT clock_timestamp()) \
                        OR status IN ('SECURING', 'REHOLDING') \
                           AND NOT EXISTS (SELECT FROM notice AS n \
                                           WHERE n.notice_id = o.notice_id AND n.done_at IS NULL)) \
                 ORDER BY next_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) \
             UPDATE payment_order AS p \
             SET next_at = clock_timestamp() + $2 * interval '1 millisecond', \
                 step_no = p.step_no + 1, attempts = p.attempts + 1 \
             FROM due WHERE p.order_id = due.order_id \
             RETURNING p.*"
        )
    };
}

impl Due {
    fn claim(self) -> &'static str {
        match self {
            Self::Waited => {
                claim!("'SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING'")
            }
            Self::Ended => claim!("'READY', 'FAILED', 'PAID', 'REFUNDING', 'REFUNDED'"),
        }
    }
}

/// Takes orders that are due, and gives nobody else them for a while. One that waits for the owner of
/// its seats is due when that has answered.
pub(super) async fn order_claim(
    pool: &db::Pool,
    due: Due,
    most: usize,
    limits: Limits,
) -> Result<Vec<Claimed>, db::Error> {
    let mut conn = pool.get().await?;
    let rows: Vec<OrderRow> = statement(due.claim())
        .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
        .bind::<BigInt, _>(limits.lease_ms)
        .bind::<BigInt, _>(OWNER_PAUSE_MS)
        .load(&mut conn)
        .await?;
    let orders: Vec<(Order, Option<Timestamp>)> = (rows.into_iter())
        .map(|row| {
            let confirmed_at = row.confirmed_at;
            (Order::from(row), confirmed_at)
        })
        .collect();
    let asked = orders.iter().map(|(order, _)| order);
    let until = capture_until(&mut conn, asked.filter(|order| is_asked_for(order))).await?;
    let claimed = orders.into_iter().map(|(order, confirmed_at)| Claimed {
        capture_until: until.get(&order.order_id).copied(),
        order,
        confirmed_at,
    });
    Ok(claimed.collect())
}

/// Whether the gateway may be asked to capture it.
fn is_asked_for(order: &Order) -> bool {
    match order.status {
        OrderStatus::Capturing | OrderStatus::Unknown => true,
        OrderStatus::Ready
        | OrderStatus::Securing
        | OrderStatus::Captured
        | OrderStatus::Reholding
        | OrderStatus::Paid
        | OrderStatus::Failed
        | OrderStatus::Refunding
        | OrderStatus::Refunded => false,
    }
}

#[derive(QueryableByName)]
struct HoldRow {
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
    /// These are of its reservation; none of a charge.
    #[diesel(sql_type = Nullable<Text>)]
    status: Option<ReservationStatus>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<Timestamp>,
    #[diesel(sql_type = Bool)]
    is_secured: bool,
    #[diesel(sql_type = Timestamptz)]
    created_at: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

impl HoldRow {
    fn capture_until(&self) -> Timestamp {
        match self.status.zip(self.expires_at) {
            Some((status, expires_at)) => order::capture_until(status, self.is_secured, expires_at),
            None => charge::capture_until(self.created_at),
        }
    }
}

/// Until when a capture may be begun, of those of these orders of which one may be, in one statement.
async fn capture_until(
    conn: &mut AsyncPgConnection,
    orders: impl Iterator<Item = &Order>,
) -> Result<HashMap<PaymentOrderId, Instant>, db::Error> {
    let ids: Vec<PaymentOrderId> = orders.map(|order| order.order_id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let read_at = Instant::now();
    let rows: Vec<HoldRow> = statement(
        "SELECT o.order_id, coalesce(r.ends_as, r.status) AS status, r.expires_at, \
                coalesce(r.paying_order = o.order_id, false) AS is_secured, o.created_at, \
                clock_timestamp() AS now \
         FROM payment_order AS o LEFT JOIN reservation AS r USING (reservation_id) \
         WHERE o.order_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(conn)
    .await?;
    let until = |row: &HoldRow| {
        // How long that is, whatever this process' clock says.
        let left = row.capture_until().micros() - row.now.micros();
        let left = u64::try_from(left).ok()?;
        Some((row.order_id, read_at + Duration::from_micros(left)))
    };
    Ok(rows.iter().filter_map(until).collect())
}

/// Writes what follows from what was learned; the status that it has come to, if it is another one.
/// Nothing when somebody else has written since it was taken.
pub(super) async fn apply(
    conn: &mut AsyncPgConnection,
    claimed: &Order,
    told: &Told,
    limits: Limits,
    roll: f64,
) -> Result<Option<OrderStatus>, db::Error> {
    let ordered = claimed.purpose.reserved().map(|of| of.reservation_id);
    let ids = [ordered, claimed.rehold_id];
    let locked: BTreeSet<ReservationId> = ids.into_iter().flatten().collect();
    reservation_lock(conn, &locked).await?;
    let row: Option<OrderRow> = statement(
        "SELECT * FROM payment_order WHERE order_id = $1 AND step_no = $2 FOR NO KEY UPDATE",
    )
    .bind::<SqlUuid, _>(claimed.order_id)
    .bind::<Integer, _>(claimed.step_no)
    .get_result(conn)
    .await
    .optional()?;
    let Some(mut order) = row.map(Order::from) else {
        return Ok(None);
    };
    let told = &match &told.seen {
        Some(seen) => Told::from(kept::compare(conn, &order, seen).await?),
        None if captured_for_another(conn, &order, told).await? => Told::from(Learned::Odd),
        None => told.clone(),
    };
    let before = order.status;
    let Made { next_at, fact } = match order.purpose {
        Purpose::Reservation(of) => {
            reservations::advance(conn, &mut order, of, told, limits, roll).await?
        }
        Purpose::Charge => Made {
            next_at: charges::advance(conn, &mut order, told, limits, roll).await?,
            fact: None,
        },
    };
    if order.status != before {
        order.attempts = 0;
    }
    let is_odd = is_odd(told.learned);
    order_update(conn, &order, next_at, order.status != before, is_odd).await?;
    if let Some((schedule_id, fact)) = fact {
        reservations::tell(conn, schedule_id, fact).await?;
    }
    Ok((order.status != before).then_some(order.status))
}

/// Whether the payment that an order is to get by itself, as nobody has confirmed it, is that of another
/// order by its name. Until the end of the transaction no other order gets that name.
async fn captured_for_another(
    conn: &mut AsyncPgConnection,
    order: &Order,
    told: &Told,
) -> Result<bool, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        is_taken: bool,
    }
    let Some(key) = &told.payment_key else {
        return Ok(false);
    };
    if told.learned != Learned::Captured || order.confirmed_by.is_some() {
        return Ok(false);
    }
    payment_key_lock(conn, &[key.as_str()]).await?;
    let row: Row = statement(
        "SELECT EXISTS (SELECT FROM payment_order \
                        WHERE payment_key = $1 AND order_id <> $2) AS is_taken",
    )
    .bind::<Text, _>(key.as_str())
    .bind::<SqlUuid, _>(order.order_id)
    .get_result(conn)
    .await?;
    if row.is_taken {
        tracing::error!(order = %order.order_id,
            "the gateway's payment has the name of one that serves another order");
    }
    Ok(row.is_taken)
}

/// Whether the gateway's payment is odd; nothing when nobody has seen it.
fn is_odd(learned: Learned) -> Option<bool> {
    match learned {
        Learned::Odd => Some(true),
        Learned::Captured | Learned::Declined | Learned::NotCaptured => Some(false),
        Learned::Nothing | Learned::Unknown | Learned::Unavailable => None,
    }
}

/// The money is there. An order that nobody has confirmed was captured by whoever says so.
pub(super) fn capture(order: &mut Order, payment_key: Option<&PaymentKey>) {
    order.status = OrderStatus::Captured;
    order.captured = order.amount;
    order.fail_code = None;
    if order.confirmed_by.is_none() {
        let by = CommandId::of_system("gateway-captured", order.order_id.0, 0);
        order.confirmed_by = Some((by, Fingerprint(Uuid::nil())));
        order.payment_key = payment_key.map(|key| key.as_str().to_owned());
    }
}

/// The gateway's payment is odd. An order that is not on its way is not on its way because of that.
/// Says when it is looked up again.
pub(super) fn puzzle(order: &mut Order, now: Timestamp) -> Timestamp {
    if order.status == OrderStatus::Capturing {
        order.status = OrderStatus::Unknown;
    }
    now.plus_ms(ODD_PAUSE_MS)
}

/// Sends all of it back, once.
pub(super) async fn give_back(
    mut conn: &AsyncPgConnection,
    order: &mut Order,
    code: &'static str,
    now: Timestamp,
) -> Result<(), db::Error> {
    order.status = OrderStatus::Refunding;
    order.fail_code = Some(code.to_owned());
    statement(
        "INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, next_at, \
                             created_at) \
         VALUES ($1, $2, $3, $2, 'GATEWAY', $4, 'PENDING', $5, $5) ON CONFLICT (key) DO NOTHING",
    )
    .bind::<SqlUuid, _>(RefundId(Uuid::now_v7()))
    .bind::<SqlUuid, _>(order.order_id)
    .bind::<SqlUuid, _>(order.user_id)
    .bind::<Numeric, _>(order.captured)
    .bind::<Timestamptz, _>(now)
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn order_update(
    conn: &mut AsyncPgConnection,
    order: &Order,
    next_at: Option<Timestamp>,
    is_news: bool,
    is_odd: Option<bool>,
) -> Result<(), db::Error> {
    let written = statement(
        "UPDATE payment_order \
         SET status = $3, step_no = step_no + 1, attempts = $4, payment_key = $6, \
             next_at = CASE WHEN may_be_back AND $3 IN ('PAID', 'REFUNDING') THEN clock_timestamp() \
                            ELSE $5 END, \
             may_be_back = may_be_back AND $3 NOT IN ('PAID', 'REFUNDING'), \
             confirm_command_id = $7, confirm_fingerprint = $8, notice_id = $9, rehold_id = $10, \
             fail_code = $11, captured = $12, \
             updated_at = CASE WHEN $13 THEN clock_timestamp() ELSE updated_at END, \
             odd_at = CASE WHEN $14 IS NULL THEN odd_at \
                           WHEN $14 THEN coalesce(odd_at, clock_timestamp()) END \
         WHERE order_id = $1 AND step_no = $2",
    )
    .bind::<SqlUuid, _>(order.order_id)
    .bind::<Integer, _>(order.step_no)
    .bind::<Text, _>(order.status)
    .bind::<Integer, _>(order.attempts)
    .bind::<Nullable<Timestamptz>, _>(next_at)
    .bind::<Nullable<Text>, _>(order.payment_key.as_deref())
    .bind::<Nullable<SqlUuid>, _>(order.confirmed_by.map(|by| by.0))
    .bind::<Nullable<SqlUuid>, _>(order.confirmed_by.map(|by| by.1.0))
    .bind::<Nullable<SqlUuid>, _>(order.notice_id)
    .bind::<Nullable<SqlUuid>, _>(order.rehold_id)
    .bind::<Nullable<Text>, _>(order.fail_code.as_deref())
    .bind::<Numeric, _>(order.captured)
    .bind::<Bool, _>(is_news)
    .bind::<Nullable<Bool>, _>(is_odd)
    .execute(conn)
    .await?;
    if written == 1 {
        Ok(())
    } else {
        Err(db::Error::Refused(
            "an order that is locked has changed".into(),
        ))
    }
}

/// What is open of payments and refunds through the gateway.
#[derive(QueryableByName)]
pub(super) struct Left {
    #[diesel(sql_type = BigInt)]
    pub orders: i64,
    #[diesel(sql_type = BigInt)]
    pub refunds: i64,
}

/// Counts what somebody with a gateway would look into: now, or when it is due. Orders of each kind of
/// [`Due`] are counted in its index.
pub(super) async fn left_count(pool: &db::Pool) -> Result<Left, db::Error> {
    let mut conn = pool.get().await?;
    let left = statement(
        "SELECT (SELECT count(*) FROM payment_order \
                 WHERE next_at IS NOT NULL \
                   AND status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING')) \
                + (SELECT count(*) FROM payment_order \
                   WHERE next_at IS NOT NULL \
                     AND status IN ('READY', 'FAILED', 'PAID', 'REFUNDING', 'REFUNDED')) AS orders, \
                (SELECT count(*) FROM refund WHERE next_at IS NOT NULL) AS refunds",
    )
    .get_result(&mut conn)
    .await?;
    Ok(left)
}

/// Forgets notifications after so many days.
pub(super) async fn event_purge(pool: &db::Pool, keep_d: u32) -> Result<(), db::Error> {
    let mut conn = pool.get().await?;
    loop {
        let gone = statement(
            "DELETE FROM gateway_event WHERE event_id IN ( \
                 SELECT event_id FROM gateway_event \
                 WHERE at < now() - make_interval(days => $1) LIMIT $2)",
        )
        .bind::<Integer, _>(i32::try_from(keep_d).unwrap_or(i32::MAX))
        .bind::<BigInt, _>(PURGE_MAX)
        .execute(&mut conn)
        .await?;
        if i64::try_from(gone).unwrap_or(i64::MAX) < PURGE_MAX {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
