//! Writes the steps of payments of reservations: what was captured becomes a sale, or goes back. What
//! to do next is [`onsale_domain::settlement::order`]'s to say.

use super::Told;
use super::store::{Limits, capture, give_back, puzzle};
use crate::settlement::store::{
    OWNER_PAUSE_MS, facts_insert, notice_insert, payment_insert, reservation_set_paid,
};
use diesel::QueryableByName;
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::order::{Learned, Step, World, last_look, pause_ms, step};
use onsale_domain::settlement::{NewNotice, NewPayment, Order, Reserved};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::settlement::Fact;
use onsale_schema::status::{OrderStatus, PaymentMethod, PaymentStatus, ReservationStatus};
use onsale_schema::{NoticeId, PaymentId, ReservationId, ScheduleId, SeatNo, Timestamp, seats};
use std::collections::BTreeMap;
use uuid::Uuid;

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
pub(super) async fn world_find(
    conn: &mut AsyncPgConnection,
    order: &Order,
    of: Reserved,
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
    .bind::<SqlUuid, _>(of.reservation_id)
    .bind::<SqlUuid, _>(order.order_id)
    .bind::<Nullable<SqlUuid>, _>(order.notice_id)
    .bind::<Nullable<SqlUuid>, _>(order.rehold_id)
    .get_result(conn)
    .await?;
    let world = World {
        reservation_id: of.reservation_id,
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

/// What a step leads to.
pub(super) struct Made {
    /// When to look again.
    pub next_at: Option<Timestamp>,
    /// What other systems are told about the money of which date, by [`tell`] when all else is written.
    pub fact: Option<(ScheduleId, Fact)>,
}

/// Makes the next step of what pays a reservation.
pub(super) async fn advance(
    conn: &mut AsyncPgConnection,
    order: &mut Order,
    of: Reserved,
    told: &Told,
    limits: Limits,
    roll: f64,
) -> Result<Made, db::Error> {
    let (world, now) = world_find(conn, order, of, limits.request_ms).await?;
    let mut next = step(order, &world, told.learned, now);
    if next == Step::Captured {
        capture(order, told.payment_key.as_ref());
        next = step(order, &world, Learned::Nothing, now);
    }
    if let Step::Sell(reservation_id) = next {
        let fact = sell(conn, order, of, reservation_id, now).await?;
        let fact = Some((of.schedule_id, fact));
        return Ok(Made {
            next_at: None,
            fact,
        });
    }
    let next_at = make(conn, order, of, next, now, roll).await?;
    Ok(Made {
        next_at,
        fact: None,
    })
}

/// Makes a step that sells nothing; when to look again.
async fn make(
    conn: &mut AsyncPgConnection,
    order: &mut Order,
    of: Reserved,
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
        Step::Puzzle => Some(puzzle(order, now)),
        Step::Captured | Step::Sell(_) => unreachable!("made by the caller"),
        Step::Fail(code) => {
            fail(conn, order, of, code, now).await?;
            last_look(code, now)
        }
        Step::Rehold => {
            rehold(conn, order, of).await?;
            Some(now.plus_ms(pause.min(OWNER_PAUSE_MS)))
        }
        Step::Refund(code) => {
            refund(conn, order, of, code, now).await?;
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
    of: Reserved,
    code: &'static str,
    now: Timestamp,
) -> Result<(), db::Error> {
    order.status = OrderStatus::Failed;
    order.fail_code = Some(code.to_owned());
    let failed = payment(order, of.reservation_id, Some(code), now);
    payment_insert(conn, &[failed]).await?;
    let_go(conn, order, of).await
}

/// Its hold, if it is one still, may be given back or paid by other means.
async fn let_go(conn: &AsyncPgConnection, order: &Order, of: Reserved) -> Result<(), db::Error> {
    let notice_id = NoticeId(Uuid::now_v7());
    let notice = NewNotice {
        notice_id,
        subject: order.order_id.0,
        kind: seats::Kind::Unsecure {
            notice_id,
            order_id: order.order_id,
            reservation_id: of.reservation_id,
            schedule_id: of.schedule_id,
        },
    };
    notice_insert(conn, &[notice]).await
}

async fn sell(
    conn: &AsyncPgConnection,
    order: &mut Order,
    of: Reserved,
    reservation_id: ReservationId,
    now: Timestamp,
) -> Result<Fact, db::Error> {
    order.status = OrderStatus::Paid;
    let row = payment(order, reservation_id, None, now);
    let fact = Fact::Paid {
        reservation_id,
        user_id: order.user_id,
        payment_id: row.payment_id,
        method: row.method,
        amount: row.amount,
        at: now,
    };
    payment_insert(conn, &[row]).await?;
    // One that was held again is sold by the owner of the seats.
    if reservation_id == of.reservation_id {
        reservation_set_paid(conn, &[reservation_id]).await?;
        let notice_id = NoticeId(Uuid::now_v7());
        let notice = NewNotice {
            notice_id,
            subject: reservation_id.0,
            kind: seats::Kind::Paid {
                notice_id,
                reservation_id,
                schedule_id: of.schedule_id,
            },
        };
        notice_insert(conn, &[notice]).await?;
    }
    Ok(fact)
}

/// Tells other systems of a sale. What it locks is wanted by everybody who pays for the date: so this
/// is the end of a transaction.
pub(super) async fn tell(
    conn: &AsyncPgConnection,
    schedule_id: ScheduleId,
    fact: Fact,
) -> Result<(), db::Error> {
    facts_insert(conn, &BTreeMap::from([(schedule_id, vec![fact])])).await?;
    show_reopen(conn, schedule_id).await
}

/// A cancellation of a show that has finished goes on when something is sold there after all: it was
/// decided before the show was cancelled.
async fn show_reopen(
    mut conn: &AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<(), db::Error> {
    statement(
        "UPDATE show_cancellation SET finished_at = NULL, pass_is_last = false, next_at = clock_timestamp() \
         WHERE schedule_id = $1",
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

async fn rehold(
    mut conn: &AsyncPgConnection,
    order: &mut Order,
    of: Reserved,
) -> Result<(), db::Error> {
    let lapsed: SeatsRow = statement("SELECT seat_nos FROM reservation WHERE reservation_id = $1")
        .bind::<SqlUuid, _>(of.reservation_id)
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
            lapsed_id: of.reservation_id,
            schedule_id: of.schedule_id,
            user_id: order.user_id,
            seats: lapsed.seat_nos,
            total: order.amount,
        },
    };
    notice_insert(conn, &[notice]).await
}

/// What it was to pay can't be had any more.
async fn refund(
    conn: &AsyncPgConnection,
    order: &mut Order,
    of: Reserved,
    code: &'static str,
    now: Timestamp,
) -> Result<(), db::Error> {
    let failed = payment(order, of.reservation_id, Some(code), now);
    payment_insert(conn, &[failed]).await?;
    let_go(conn, order, of).await?;
    give_back(conn, order, code, now).await
}
