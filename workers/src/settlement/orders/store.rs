//! What the driver reads and writes of orders. A step is written only by who has read the one
//! before; reservations are locked first, then the order.

use super::Told;
use crate::gateway::PaymentKey;
use crate::settlement::store::{
    OWNER_PAUSE_MS, OrderRow, facts_insert, notice_insert, payment_insert, reservation_lock,
};
use diesel::sql_types::{
    BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::order::{
    LAST_LOOK_MS, Learned, ODD_PAUSE_MS, Step, World, pause_ms, step,
};
use onsale_domain::settlement::{NewNotice, NewPayment, Order};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::{Fact, Facts};
use onsale_schema::status::{OrderStatus, PaymentMethod, PaymentStatus, ReservationStatus};
use onsale_schema::{
    CommandId, NoticeId, PaymentId, RefundId, ReservationId, ScheduleId, SeatNo, Timestamp, UserId,
    seats,
};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Notifications older than this are purged, in hours; no tolerance is that long.
const EVENTS_KEEP_HOURS: i32 = 48;
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

/// How long what one asks for may be on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A request to the gateway, its repetitions included, in milliseconds.
    pub request_ms: i64,
    /// How long nobody else takes what one has in hand, in milliseconds.
    pub lease_ms: i64,
}

/// Takes orders that are due, and gives nobody else them for a while. One that waits for the owner of
/// its seats is due when that has answered.
pub(super) async fn order_claim(
    pool: &db::Pool,
    most: usize,
    limits: Limits,
) -> Result<Vec<Claimed>, db::Error> {
    let mut conn = pool.get().await?;
    let rows: Vec<OrderRow> = statement(
        "UPDATE payment_order \
         SET next_at = clock_timestamp() + $2 * interval '1 millisecond', step_no = step_no + 1, \
             attempts = attempts + 1 \
         WHERE order_id IN ( \
             SELECT order_id FROM payment_order AS o \
             WHERE next_at <= (SELECT clock_timestamp() + $3 * interval '1 millisecond') \
               AND (next_at <= (SELECT clock_timestamp()) \
                    OR status IN ('SECURING', 'REHOLDING') \
                       AND NOT EXISTS (SELECT FROM notice AS n \
                                       WHERE n.notice_id = o.notice_id AND n.done_at IS NULL)) \
             ORDER BY next_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) \
         RETURNING *",
    )
    .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(limits.lease_ms)
    .bind::<BigInt, _>(OWNER_PAUSE_MS)
    .load(&mut conn)
    .await?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in rows {
        let confirmed_at = row.confirmed_at;
        let order = Order::from(row);
        let capture_until = match order.status {
            OrderStatus::Capturing | OrderStatus::Unknown => {
                let read_at = Instant::now();
                let (world, now) = world_find(&mut conn, &order, limits.request_ms).await?;
                // How long that is, whatever this process' clock says.
                let left = world.capture_until().micros() - now.micros();
                u64::try_from(left)
                    .ok()
                    .map(|left| read_at + Duration::from_micros(left))
            }
            OrderStatus::Ready
            | OrderStatus::Securing
            | OrderStatus::Captured
            | OrderStatus::Reholding
            | OrderStatus::Paid
            | OrderStatus::Failed
            | OrderStatus::Refunding
            | OrderStatus::Refunded => None,
        };
        claimed.push(Claimed {
            order,
            capture_until,
            confirmed_at,
        });
    }
    Ok(claimed)
}

#[derive(QueryableByName)]
struct WorldRow {
    #[diesel(sql_type = Text)]
    status: ReservationStatus,
    #[diesel(sql_type = Timestamptz)]
    expires_at: Timestamp,
    #[diesel(sql_type = Bool)]
    is_secured: bool,
    #[diesel(sql_type = Bool)]
    is_told: bool,
    #[diesel(sql_type = Bool)]
    is_reheld: bool,
    #[diesel(sql_type = Bool)]
    has_rival: bool,
    #[diesel(sql_type = Bool)]
    show_cancelled: bool,
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

/// What the tables say besides the order's row. A notice that is purged was done.
async fn world_find(
    conn: &mut AsyncPgConnection,
    order: &Order,
    request_ms: i64,
) -> Result<(World, Timestamp), db::Error> {
    let row: WorldRow = statement(
        "SELECT coalesce(ends_as, status) AS status, expires_at, \
                coalesce(paying_order = $2, false) AS is_secured, \
                NOT EXISTS (SELECT FROM notice \
                            WHERE notice_id = $3 AND done_at IS NULL) AS is_told, \
                EXISTS (SELECT FROM reservation AS n \
                        WHERE n.reservation_id = $4 AND n.rehold_order = $2) AS is_reheld, \
                EXISTS (SELECT FROM payment_order AS o \
                        WHERE o.reservation_id = $1 AND o.order_id <> $2 \
                          AND o.status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', \
                                           'REHOLDING', 'PAID')) AS has_rival, \
                EXISTS (SELECT FROM show_cancellation AS s \
                        WHERE s.schedule_id = reservation.schedule_id) AS show_cancelled, \
                clock_timestamp() AS now \
         FROM reservation WHERE reservation_id = $1",
    )
    .bind::<SqlUuid, _>(order.reservation_id)
    .bind::<SqlUuid, _>(order.order_id)
    .bind::<Nullable<SqlUuid>, _>(order.notice_id)
    .bind::<Nullable<SqlUuid>, _>(order.rehold_id)
    .get_result(conn)
    .await?;
    let world = World {
        reservation: row.status,
        expires_at: row.expires_at,
        settles_at: row.expires_at.plus_ms(request_ms),
        is_secured: row.is_secured,
        is_told: row.is_told,
        is_reheld: row.is_reheld,
        has_rival: row.has_rival,
        show_cancelled: row.show_cancelled,
    };
    Ok((world, row.now))
}

/// Writes what follows from what was learned; the status that it has come to, if it is another one.
/// Nothing when somebody else has written since it was taken.
pub(super) async fn apply(
    conn: &mut AsyncPgConnection,
    claimed: &Order,
    told: &Told,
    request_ms: i64,
    roll: f64,
) -> Result<Option<OrderStatus>, db::Error> {
    let ids = [Some(claimed.reservation_id), claimed.rehold_id];
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
    let (world, now) = world_find(conn, &order, request_ms).await?;
    let before = order.status;
    let mut next = step(&order, &world, told.learned, now);
    if next == Step::Captured {
        capture(&mut order, told.payment_key.as_ref());
        next = step(&order, &world, Learned::Nothing, now);
    }
    let next_at = make(conn, &mut order, next, now, roll).await?;
    if order.status != before {
        order.attempts = 0;
    }
    order_update(conn, &order, next_at, order.status != before).await?;
    Ok((order.status != before).then_some(order.status))
}

/// The money is there. An order that nobody has confirmed was captured by whoever says so.
fn capture(order: &mut Order, payment_key: Option<&PaymentKey>) {
    order.status = OrderStatus::Captured;
    order.captured = order.amount;
    order.fail_code = None;
    if order.confirmed_by.is_none() {
        let by = CommandId::of_system("gateway-captured", order.order_id.0, 0);
        order.confirmed_by = Some((by, Fingerprint(Uuid::nil())));
        order.payment_key = payment_key.map(|key| key.as_str().to_owned());
    }
}

/// Makes a step; when to look again.
async fn make(
    conn: &mut AsyncPgConnection,
    order: &mut Order,
    next: Step,
    now: Timestamp,
    roll: f64,
) -> Result<Option<Timestamp>, db::Error> {
    let pause = pause_ms(order.attempts, roll);
    Ok(match next {
        Step::Wait => Some(now.plus_ms(match order.status {
            OrderStatus::Securing | OrderStatus::Reholding => pause.min(OWNER_PAUSE_MS),
            OrderStatus::Ready
            | OrderStatus::Capturing
            | OrderStatus::Unknown
            | OrderStatus::Captured
            | OrderStatus::Paid
            | OrderStatus::Failed
            | OrderStatus::Refunding
            | OrderStatus::Refunded => pause,
        })),
        Step::Rest => None,
        Step::Capture => {
            order.status = OrderStatus::Capturing;
            Some(now)
        }
        Step::Doubt => {
            order.status = OrderStatus::Unknown;
            Some(now.plus_ms(pause))
        }
        Step::Puzzle => {
            order.status = OrderStatus::Unknown;
            Some(now.plus_ms(ODD_PAUSE_MS))
        }
        Step::Captured => unreachable!("a capture is followed by a step of its own"),
        Step::Fail(code) => {
            fail(conn, order, code, now).await?;
            Some(now.plus_ms(LAST_LOOK_MS))
        }
        Step::Sell(reservation_id) => {
            sell(conn, order, reservation_id, now).await?;
            None
        }
        Step::Rehold => {
            rehold(conn, order).await?;
            Some(now.plus_ms(pause.min(OWNER_PAUSE_MS)))
        }
        Step::Refund(code) => {
            refund(conn, order, code, now).await?;
            None
        }
    })
}

fn payment(
    order: &Order,
    reservation_id: ReservationId,
    failed: Option<&'static str>,
    at: Timestamp,
) -> NewPayment {
    let (command_id, fingerprint) = (order.confirmed_by).expect("who pays has confirmed");
    NewPayment {
        payment_id: PaymentId(Uuid::now_v7()),
        reservation_id,
        user_id: order.user_id,
        command_id,
        fingerprint,
        method: PaymentMethod::Gateway,
        amount: order.amount,
        status: match failed {
            Some(_) => PaymentStatus::Failed,
            None => PaymentStatus::Paid,
        },
        fail_code: failed,
        transfer_id: None,
        order_id: Some(order.order_id),
        at,
    }
}

async fn fail(
    conn: &AsyncPgConnection,
    order: &mut Order,
    code: &'static str,
    now: Timestamp,
) -> Result<(), db::Error> {
    order.status = OrderStatus::Failed;
    order.fail_code = Some(code.to_owned());
    payment_insert(
        conn,
        &[payment(order, order.reservation_id, Some(code), now)],
    )
    .await?;
    let notice_id = NoticeId(Uuid::now_v7());
    let notice = NewNotice {
        notice_id,
        subject: order.order_id.0,
        kind: seats::Kind::Unsecure {
            notice_id,
            order_id: order.order_id,
            reservation_id: order.reservation_id,
            schedule_id: order.schedule_id,
        },
    };
    notice_insert(conn, &[notice]).await
}

#[derive(QueryableByName)]
struct SoldRow {
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = BigInt)]
    fact_seq: i64,
}

/// Tells other systems something about the money of a locked reservation, and makes that PAID if it
/// is held.
pub(super) async fn tell(
    mut conn: &AsyncPgConnection,
    reservation_id: ReservationId,
    fact: Fact,
    is_sold: bool,
) -> Result<(), db::Error> {
    let row: SoldRow = statement(
        "UPDATE reservation SET fact_seq = fact_seq + 1, \
                status = CASE WHEN $2 AND status = 'HELD' THEN 'PAID' ELSE status END \
         WHERE reservation_id = $1 RETURNING schedule_id, user_id, fact_seq",
    )
    .bind::<SqlUuid, _>(reservation_id)
    .bind::<Bool, _>(is_sold)
    .get_result(&mut conn)
    .await?;
    let facts = Facts {
        reservation_id,
        schedule_id: row.schedule_id,
        user_id: row.user_id,
        facts: vec![fact],
    };
    facts_insert(conn, [(row.fact_seq, facts)].iter()).await
}

async fn sell(
    conn: &AsyncPgConnection,
    order: &mut Order,
    reservation_id: ReservationId,
    now: Timestamp,
) -> Result<(), db::Error> {
    order.status = OrderStatus::Paid;
    let row = payment(order, reservation_id, None, now);
    let fact = Fact::Paid {
        payment_id: row.payment_id,
        method: row.method,
        amount: row.amount,
        at: now,
    };
    payment_insert(conn, &[row]).await?;
    tell(conn, reservation_id, fact, true).await?;
    show_reopen(conn, order.schedule_id).await?;
    if reservation_id != order.reservation_id {
        // The owner of the seats has sold them already.
        return Ok(());
    }
    let notice_id = NoticeId(Uuid::now_v7());
    let notice = NewNotice {
        notice_id,
        subject: reservation_id.0,
        kind: seats::Kind::Paid {
            notice_id,
            reservation_id,
            schedule_id: order.schedule_id,
        },
    };
    notice_insert(conn, &[notice]).await
}

/// A cancellation of a show that has finished goes on when something is sold there after all: it was
/// decided before the show was cancelled.
async fn show_reopen(
    mut conn: &AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<(), db::Error> {
    statement(
        "UPDATE show_cancellation SET finished_at = NULL, next_at = clock_timestamp() \
         WHERE schedule_id = $1 AND finished_at IS NOT NULL",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .execute(&mut conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct SeatsRow {
    #[diesel(sql_type = diesel::sql_types::Array<Integer>)]
    seat_nos: Vec<SeatNo>,
}

async fn rehold(mut conn: &AsyncPgConnection, order: &mut Order) -> Result<(), db::Error> {
    let lapsed: SeatsRow = statement("SELECT seat_nos FROM reservation WHERE reservation_id = $1")
        .bind::<SqlUuid, _>(order.reservation_id)
        .get_result(&mut conn)
        .await?;
    let (notice_id, rehold_id) = (NoticeId(Uuid::now_v7()), ReservationId(Uuid::now_v7()));
    order.status = OrderStatus::Reholding;
    order.notice_id = Some(notice_id);
    order.rehold_id = Some(rehold_id);
    let notice = NewNotice {
        notice_id,
        subject: order.order_id.0,
        kind: seats::Kind::Rehold {
            notice_id,
            order_id: order.order_id,
            reservation_id: rehold_id,
            lapsed_id: order.reservation_id,
            schedule_id: order.schedule_id,
            user_id: order.user_id,
            seats: lapsed.seat_nos,
            total: order.amount,
        },
    };
    notice_insert(conn, &[notice]).await
}

/// Sends all of it back, once.
async fn refund(
    mut conn: &AsyncPgConnection,
    order: &mut Order,
    code: &'static str,
    now: Timestamp,
) -> Result<(), db::Error> {
    order.status = OrderStatus::Refunding;
    order.fail_code = Some(code.to_owned());
    let failed = payment(order, order.reservation_id, Some(code), now);
    payment_insert(conn, &[failed]).await?;
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
) -> Result<(), db::Error> {
    let written = statement(
        "UPDATE payment_order \
         SET status = $3, step_no = step_no + 1, attempts = $4, next_at = $5, payment_key = $6, \
             confirm_command_id = $7, confirm_fingerprint = $8, notice_id = $9, rehold_id = $10, \
             fail_code = $11, captured = $12, \
             updated_at = CASE WHEN $13 THEN clock_timestamp() ELSE updated_at END \
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

/// Forgets notifications that no repetition of would be believed.
pub(super) async fn event_purge(pool: &db::Pool) -> Result<(), db::Error> {
    let mut conn = pool.get().await?;
    loop {
        let gone = statement(
            "DELETE FROM gateway_event WHERE event_id IN ( \
                 SELECT event_id FROM gateway_event \
                 WHERE at < now() - make_interval(hours => $1) LIMIT $2)",
        )
        .bind::<Integer, _>(EVENTS_KEEP_HOURS)
        .bind::<BigInt, _>(PURGE_MAX)
        .execute(&mut conn)
        .await?;
        if i64::try_from(gone).unwrap_or(i64::MAX) < PURGE_MAX {
            return Ok(());
        }
    }
}
