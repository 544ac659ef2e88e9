//! Cancellations and refunds, and what is looked up to decide them.

use crate::seats::array_text;
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, Bool, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{NewCancellation, NewRefund, Settlement, Terms};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::cancellation::Rules;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::{Cancellation, Refund};
use onsale_schema::status::{PaymentMethod, PaymentStatus, RefundStatus};
use onsale_schema::{
    CancellationId, CommandId, Money, PaymentId, ReservationId, ScheduleId, SeatNo, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// A seat of a reservation that may be cancelled.
#[derive(QueryableByName)]
pub struct SeatRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = Integer)]
    seat_no: SeatNo,
    #[diesel(sql_type = Numeric)]
    price: Money,
    #[diesel(sql_type = Bool)]
    is_cancelled: bool,
    /// Of a place.
    #[diesel(sql_type = Nullable<Text>)]
    place_in: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    starts_at: Timestamp,
    #[diesel(sql_type = Jsonb)]
    cancellation_rules: Rules,
}

/// What cancelling locked reservations needs to know besides their rows.
///
/// # Errors
/// When Postgres fails.
pub async fn terms_list(
    mut conn: &AsyncPgConnection,
    reservations: &BTreeSet<ReservationId>,
) -> Result<Vec<SeatRow>, db::Error> {
    if reservations.is_empty() {
        return Ok(Vec::new());
    }
    let rows = statement(
        "SELECT r.reservation_id, seat.seat_no, seat.price, d.starts_at, d.cancellation_rules, \
                seat.seat_no = ANY(coalesce(r.cancelled_seat_nos, '{}')) AS is_cancelled, \
                CASE WHEN seat.row_name = '' THEN seat.section END AS place_in \
         FROM reservation AS r \
              JOIN schedule AS d USING (schedule_id) \
              CROSS JOIN unnest(r.seat_nos) AS own (seat_no) \
              JOIN seat ON seat.schedule_id = r.schedule_id AND seat.seat_no = own.seat_no \
         WHERE r.reservation_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(reservations))
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the state of them.
pub fn terms_load(rows: Vec<SeatRow>, state: &mut Settlement) {
    let mut all: HashMap<ReservationId, Terms> = HashMap::new();
    for row in rows {
        let terms = all.entry(row.reservation_id).or_insert_with(|| Terms {
            seats: BTreeMap::new(),
            cancelled: Vec::new(),
            places: BTreeMap::new(),
            starts_at: row.starts_at,
            rules: row.cancellation_rules,
        });
        if let Some(section) = row.place_in {
            terms.places.insert(row.seat_no, section);
        }
        if row.is_cancelled {
            terms.cancelled.push(row.seat_no);
        } else {
            terms.seats.insert(row.seat_no, row.price);
        }
    }
    for (reservation_id, terms) in all {
        state.load_terms(reservation_id, terms);
    }
}

/// A cancellation that was made, with how far its refund is now.
#[derive(QueryableByName)]
pub struct CancellationRow {
    #[diesel(sql_type = SqlUuid)]
    cancellation_id: CancellationId,
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = Array<Integer>)]
    seat_nos: Vec<SeatNo>,
    #[diesel(sql_type = Numeric)]
    fee: Money,
    #[diesel(sql_type = Numeric)]
    refunded: Money,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
    #[diesel(sql_type = Nullable<Text>)]
    method: Option<PaymentMethod>,
    #[diesel(sql_type = Nullable<Text>)]
    status: Option<RefundStatus>,
}

/// The cancellations that these commands made.
///
/// # Errors
/// When Postgres fails.
pub async fn cancellation_list(
    mut conn: &AsyncPgConnection,
    commands: &[CommandId],
) -> Result<Vec<CancellationRow>, db::Error> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let rows = statement(
        "SELECT c.cancellation_id, c.reservation_id, c.schedule_id, c.command_id, c.fingerprint, \
                c.seat_nos, c.fee, c.refunded, c.at, refund.method, refund.status \
         FROM cancellation AS c LEFT JOIN refund ON refund.key = c.cancellation_id \
         WHERE c.command_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(commands)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the state of them.
pub fn cancellation_load(rows: Vec<CancellationRow>, state: &mut Settlement) {
    for row in rows {
        let cancellation = Cancellation {
            cancellation_id: row.cancellation_id,
            reservation_id: row.reservation_id,
            schedule_id: row.schedule_id,
            seats: row.seat_nos,
            fee: row.fee,
            refunded: row.refunded,
            refund: (row.method.zip(row.status)).map(|(method, status)| Refund { method, status }),
            at: row.at,
        };
        let print = Fingerprint(row.fingerprint);
        state.load_cancellation(row.command_id, print, cancellation);
    }
}

/// Adds cancellations.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn cancellation_insert(
    mut conn: &AsyncPgConnection,
    rows: &[NewCancellation],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO cancellation (cancellation_id, reservation_id, schedule_id, command_id, \
                                   fingerprint, user_id, seat_nos, price, fee, refunded, of_show, \
                                   at) \
         SELECT id, reservation, schedule, command, print, who, seats::int[], price, fee, \
                price - fee, of_show, at \
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], \
                     $7::text[], $8::numeric[], $9::numeric[], $10::bool[], $11::timestamptz[]) \
              AS x(id, reservation, schedule, command, print, who, seats, price, fee, of_show, at)",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|c| c.cancellation_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|c| c.reservation_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|c| c.schedule_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|c| c.command_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|c| c.fingerprint.0).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|c| c.user_id).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|c| array_text(&c.seats)).collect())
    .bind::<Array<Numeric>, Vec<_>>(rows.iter().map(|c| c.price).collect())
    .bind::<Array<Numeric>, Vec<_>>(rows.iter().map(|c| c.fee).collect())
    .bind::<Array<Bool>, Vec<_>>(rows.iter().map(|c| c.of_show).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(rows.iter().map(|c| c.at).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Adds refunds: points are back, the rest is for whoever asks the gateway.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn refund_insert(
    mut conn: &AsyncPgConnection,
    rows: &[NewRefund],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO refund (refund_id, key, user_id, payment_id, order_id, method, amount, \
                             status, transfer_id, created_at, done_at, next_at) \
         SELECT id, key, who, payment, orders, method, amount, status, transfer, at, \
                CASE status WHEN 'DONE' THEN at END, CASE status WHEN 'PENDING' THEN at END \
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], \
                     $7::numeric[], $8::text[], $9::uuid[], $10::timestamptz[]) \
              AS x(id, key, who, payment, orders, method, amount, status, transfer, at)",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|r| r.refund_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|r| r.cancellation_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|r| r.user_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|r| r.payment_id).collect())
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(rows.iter().map(|r| r.order_id).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|r| r.method).collect())
    .bind::<Array<Numeric>, Vec<_>>(rows.iter().map(|r| r.amount).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|r| r.status).collect())
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(rows.iter().map(|r| r.transfer_id).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(rows.iter().map(|r| r.at).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Raises what payments have given back by their refunds, done or reserved.
///
/// # Errors
/// When Postgres fails, or would give back more than was captured (P3).
pub async fn payment_add_refunded(
    mut conn: &AsyncPgConnection,
    rows: &[NewRefund],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut sums: BTreeMap<PaymentId, Money> = BTreeMap::new();
    for row in rows {
        let sum = sums.entry(row.payment_id).or_default();
        *sum = *sum + row.amount;
    }
    let (payments, amounts): (Vec<PaymentId>, Vec<Money>) = sums.into_iter().unzip();
    let expected = payments.len();
    let raised = statement(
        "UPDATE payment p SET refunded = p.refunded + x.amount \
         FROM unnest($1::uuid[], $2::numeric[]) AS x(payment_id, amount) \
         WHERE p.payment_id = x.payment_id AND p.status = $3",
    )
    .bind::<Array<SqlUuid>, _>(payments)
    .bind::<Array<Numeric>, _>(amounts)
    .bind::<Text, _>(PaymentStatus::Paid)
    .execute(&mut conn)
    .await?;
    if raised == expected {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "P3: {raised} payments of {expected} were made"
        )))
    }
}
