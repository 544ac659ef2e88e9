//! Orders of payments through the gateway, as they are made and confirmed by commands. How they go
//! on is written by [`crate::settlement::orders`].

use crate::settlement::needs::Needs;
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{Changes, NewEvent, Order, Ordering, Purpose, Reserved};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::OrderStatus;
use onsale_schema::{
    CommandId, Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId, Timestamp, UserId,
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// The longest pause while the owner of the seats is waited for, in milliseconds; its answer is heard
/// before.
pub const OWNER_PAUSE_MS: i64 = 400;

/// A row of the table.
#[derive(QueryableByName)]
pub struct OrderRow {
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    schedule_id: Option<ScheduleId>,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = Numeric)]
    amount: Money,
    #[diesel(sql_type = Text)]
    status: OrderStatus,
    #[diesel(sql_type = Integer)]
    step_no: i32,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Nullable<Text>)]
    payment_key: Option<String>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    confirm_command_id: Option<CommandId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    confirm_fingerprint: Option<Uuid>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    notice_id: Option<NoticeId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    rehold_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<Text>)]
    fail_code: Option<String>,
    #[diesel(sql_type = Numeric)]
    captured: Money,
    #[diesel(sql_type = Timestamptz)]
    created_at: Timestamp,
    /// When its buyer wanted it captured.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub confirmed_at: Option<Timestamp>,
}

impl From<OrderRow> for Order {
    fn from(row: OrderRow) -> Self {
        let print = row.confirm_fingerprint.map(Fingerprint);
        let reserved = row.reservation_id.zip(row.schedule_id);
        Self {
            order_id: row.order_id,
            purpose: reserved.map_or(Purpose::Charge, |(reservation_id, schedule_id)| {
                Purpose::Reservation(Reserved {
                    reservation_id,
                    schedule_id,
                })
            }),
            user_id: row.user_id,
            command_id: row.command_id,
            fingerprint: Fingerprint(row.fingerprint),
            amount: row.amount,
            status: row.status,
            step_no: row.step_no,
            attempts: row.attempts,
            payment_key: row.payment_key,
            confirmed_by: row.confirm_command_id.zip(print),
            notice_id: row.notice_id,
            rehold_id: row.rehold_id,
            fail_code: row.fail_code,
            captured: row.captured,
            created_at: row.created_at,
        }
    }
}

#[derive(QueryableByName)]
struct ReservationRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
}

#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
}

#[derive(QueryableByName)]
struct EventRow {
    #[diesel(sql_type = Text)]
    event_id: String,
}

/// What orders are to pay; that never changes.
///
/// # Errors
/// When Postgres fails.
pub async fn order_list_reservations(
    mut conn: &AsyncPgConnection,
    orders: &BTreeSet<PaymentOrderId>,
) -> Result<Vec<ReservationId>, db::Error> {
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<ReservationRow> = statement(
        "SELECT reservation_id FROM payment_order \
         WHERE order_id = ANY($1) AND reservation_id IS NOT NULL",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(orders))
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.reservation_id).collect())
}

/// Locks orders that are to be confirmed, their reservations being locked already, and loads what is
/// known of them and of the batch's commands.
///
/// # Errors
/// When Postgres fails.
pub async fn load(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
    state: &mut Ordering,
) -> Result<(), db::Error> {
    if needs.has_orders {
        let locked: Vec<OrderRow> = statement(
            "SELECT * FROM payment_order WHERE order_id = ANY($1) \
             ORDER BY order_id FOR NO KEY UPDATE",
        )
        .bind::<Array<SqlUuid>, _>(Vec::from_iter(&needs.orders))
        .load(&mut conn)
        .await?;
        let payment_keys: Vec<&str> = needs.payment_keys.iter().map(String::as_str).collect();
        payment_key_lock(conn, &payment_keys).await?;
        let keys = key_list(conn, needs).await?;
        let told: Vec<PaymentOrderId> = keys.iter().map(|key| key.order_id).collect();
        // The reservations are locked, so that no other order of theirs becomes READY.
        let known: Vec<OrderRow> = statement(
            "SELECT * FROM payment_order \
             WHERE command_id = ANY($1) OR confirm_command_id = ANY($1) OR payment_key = ANY($2) \
                OR order_id = ANY($3) OR reservation_id = ANY($4) AND status = $5 \
             ORDER BY created_at",
        )
        .bind::<Array<SqlUuid>, _>(&needs.commands)
        .bind::<Array<Text>, _>(Vec::from_iter(&needs.payment_keys))
        .bind::<Array<SqlUuid>, _>(told)
        .bind::<Array<SqlUuid>, _>(Vec::from_iter(&needs.ordered))
        .bind::<Text, _>(OrderStatus::Ready)
        .load(&mut conn)
        .await?;
        for key in keys {
            state.load_key(key.command_id, key.order_id);
        }
        for row in locked.into_iter().chain(known) {
            state.load(row.into());
        }
    }
    if !needs.events.is_empty() {
        let known: Vec<EventRow> =
            statement("SELECT event_id FROM gateway_event WHERE event_id = ANY($1)")
                .bind::<Array<Text>, _>(Vec::from_iter(&needs.events))
                .load(&mut conn)
                .await?;
        for row in known {
            state.load_event(row.event_id);
        }
    }
    Ok(())
}

/// Those of these that orders are paying; they are locked. Not with the locks: who waited for one would
/// see what was before.
///
/// # Errors
/// When Postgres fails.
pub async fn paying_list(
    mut conn: &AsyncPgConnection,
    reservations: &BTreeSet<ReservationId>,
) -> Result<Vec<ReservationId>, db::Error> {
    let rows: Vec<ReservationRow> = statement(
        "SELECT reservation_id FROM payment_order \
         WHERE reservation_id = ANY($1) \
           AND status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING', 'PAID')",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(reservations))
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.reservation_id).collect())
}

/// Locks what the gateway calls payments, after the orders: two that want one payment for two orders have
/// no row in common.
///
/// # Errors
/// When Postgres fails.
pub async fn payment_key_lock(
    mut conn: &AsyncPgConnection,
    payment_keys: &[&str],
) -> Result<(), db::Error> {
    statement(
        "SELECT pg_advisory_xact_lock(key) \
         FROM (SELECT DISTINCT hashtextextended(k, 7091) AS key \
               FROM unnest($1::text[]) AS k ORDER BY 1) AS keys",
    )
    .bind::<Array<Text>, _>(payment_keys)
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// What those of the commands that have asked for an order before were told of.
async fn key_list(mut conn: &AsyncPgConnection, needs: &Needs) -> Result<Vec<KeyRow>, db::Error> {
    if needs.ordered.is_empty() {
        return Ok(Vec::new());
    }
    let rows =
        statement("SELECT command_id, order_id FROM payment_order_key WHERE command_id = ANY($1)")
            .bind::<Array<SqlUuid>, _>(&needs.commands)
            .load(&mut conn)
            .await?;
    Ok(rows)
}

/// Stores orders that were made or confirmed, and notifications.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn changes(mut conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    if !changes.orders.is_empty() {
        order_insert(conn, &changes.orders).await?;
    }
    if !changes.order_keys.is_empty() {
        let (commands, orders): (Vec<CommandId>, Vec<PaymentOrderId>) =
            changes.order_keys.iter().copied().unzip();
        statement(
            "INSERT INTO payment_order_key (command_id, order_id, at) \
             SELECT x.command, x.ordered, clock_timestamp() \
             FROM unnest($1::uuid[], $2::uuid[]) AS x(command, ordered)",
        )
        .bind::<Array<SqlUuid>, _>(commands)
        .bind::<Array<SqlUuid>, _>(orders)
        .execute(&mut conn)
        .await?;
    }
    if !changes.confirmed.is_empty() {
        order_set_confirmed(conn, &changes.confirmed).await?;
    }
    if !changes.events.is_empty() {
        event_insert(conn, &changes.events).await?;
        order_set_told(conn, &changes.events).await?;
    }
    Ok(())
}

async fn event_insert(mut conn: &AsyncPgConnection, rows: &[NewEvent]) -> Result<(), db::Error> {
    let events: Vec<&str> = (rows.iter()).map(|event| event.event_id.as_str()).collect();
    statement(
        "INSERT INTO gateway_event (event_id, at) \
             SELECT event_id, clock_timestamp() FROM unnest($1::text[]) AS x(event_id) \
             ON CONFLICT DO NOTHING",
    )
    .bind::<Array<Text>, _>(events)
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Has orders looked up of which the gateway has said something. One that has its money and is not at its
/// end yet is looked up when it is.
async fn order_set_told(mut conn: &AsyncPgConnection, rows: &[NewEvent]) -> Result<(), db::Error> {
    let all: Vec<PaymentOrderId> = rows.iter().map(|event| event.order_id).collect();
    let back = rows.iter().filter(|event| event.may_be_back);
    let back: Vec<PaymentOrderId> = back.map(|event| event.order_id).collect();
    // Whoever has one in hand has looked before the gateway said this: the step is not written,
    // and the order is looked at again.
    statement(
        "UPDATE payment_order \
         SET next_at = clock_timestamp(), step_no = step_no + 1, \
             attempts = CASE WHEN status = 'CAPTURING' THEN attempts ELSE 0 END \
         WHERE order_id = ANY($1) \
           AND (status IN ('READY', 'SECURING', 'CAPTURING', 'UNKNOWN', 'FAILED') \
                OR order_id = ANY($2) AND status IN ('PAID', 'REFUNDING', 'REFUNDED'))",
    )
    .bind::<Array<SqlUuid>, _>(all)
    .bind::<Array<SqlUuid>, _>(&back)
    .execute(&mut conn)
    .await?;
    if back.is_empty() {
        return Ok(());
    }
    statement(
        "UPDATE payment_order SET may_be_back = true \
         WHERE order_id = ANY($1) AND status IN ('CAPTURED', 'REHOLDING')",
    )
    .bind::<Array<SqlUuid>, _>(back)
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn order_insert(mut conn: &AsyncPgConnection, rows: &[Order]) -> Result<(), db::Error> {
    let of = |order: &Order| order.purpose.reserved();
    statement(
        "INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id, \
                                    fingerprint, amount, status, created_at, updated_at) \
         SELECT id, reservation, schedule, who, command, print, amount, 'READY', at, at \
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], \
                     $7::numeric[], $8::timestamptz[]) \
              AS x(id, reservation, schedule, who, command, print, amount, at)",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.order_id).collect())
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(
        rows.iter()
            .map(|o| of(o).map(|of| of.reservation_id))
            .collect(),
    )
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(
        rows.iter()
            .map(|o| of(o).map(|of| of.schedule_id))
            .collect(),
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.user_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.command_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.fingerprint.0).collect())
    .bind::<Array<Numeric>, Vec<_>>(rows.iter().map(|o| o.amount).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(rows.iter().map(|o| o.created_at).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn order_set_confirmed(
    mut conn: &AsyncPgConnection,
    rows: &[Order],
) -> Result<(), db::Error> {
    let by = |order: &Order| order.confirmed_by.expect("a confirmed order says by what");
    let confirmed = statement(
        "UPDATE payment_order o \
         SET status = 'SECURING', step_no = o.step_no + 1, attempts = 0, \
             next_at = clock_timestamp() + $6 * interval '1 millisecond', \
             updated_at = clock_timestamp(), confirmed_at = clock_timestamp(), \
             payment_key = x.key, \
             confirm_command_id = x.command, confirm_fingerprint = x.print, notice_id = x.notice \
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[]) \
              AS x(id, key, command, print, notice) \
         WHERE o.order_id = x.id AND o.status = $7",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.order_id).collect())
    .bind::<Array<Nullable<Text>>, Vec<_>>(rows.iter().map(|o| o.payment_key.as_deref()).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| by(o).0).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| by(o).1.0).collect())
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(rows.iter().map(|o| o.notice_id).collect())
    .bind::<BigInt, _>(OWNER_PAUSE_MS)
    .bind::<Text, _>(OrderStatus::Ready)
    .execute(&mut conn)
    .await?;
    if confirmed == rows.len() {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "P1: {confirmed} orders of {} were ready",
            rows.len()
        )))
    }
}
