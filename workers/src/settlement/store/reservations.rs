//! Reservations, as far as settlement locks and changes them: from HELD to PAID, and what of them is
//! cancelled.

use crate::seats::array_text;
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Bool, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{CancelledSeats, Reservation};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{Money, ReservationId, ScheduleId, Timestamp, UserId};
use std::collections::BTreeSet;

#[derive(QueryableByName)]
struct ReservationRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = Text)]
    status: ReservationStatus,
    #[diesel(sql_type = Timestamptz)]
    expires_at: Timestamp,
    #[diesel(sql_type = Numeric)]
    total: Money,
    #[diesel(sql_type = Bool)]
    show_cancelled: bool,
    #[diesel(sql_type = BigInt)]
    fact_seq: i64,
}

/// Locks reservations, in order, and loads them.
///
/// # Errors
/// When Postgres fails.
pub async fn reservation_lock(
    conn: &mut AsyncPgConnection,
    reservations: &BTreeSet<ReservationId>,
) -> Result<Vec<Reservation>, db::Error> {
    let rows: Vec<ReservationRow> = statement(
        "SELECT reservation_id, schedule_id, user_id, coalesce(ends_as, status) AS status, \
                expires_at, total, fact_seq, \
                EXISTS (SELECT FROM show_cancellation AS s \
                        WHERE s.schedule_id = reservation.schedule_id) AS show_cancelled \
         FROM reservation WHERE reservation_id = ANY($1) \
         ORDER BY reservation_id FOR NO KEY UPDATE OF reservation",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(reservations))
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Reservation {
            reservation_id: row.reservation_id,
            schedule_id: row.schedule_id,
            user_id: row.user_id,
            status: row.status,
            expires_at: row.expires_at,
            total: row.total,
            show_cancelled: row.show_cancelled,
            fact_seq: row.fact_seq,
        })
        .collect())
}

/// Makes held reservations paid ones, each with the number of its last facts. They are locked, so
/// that it can't miss.
///
/// # Errors
/// When Postgres fails or one is not held.
pub async fn reservation_set_paid(
    mut conn: &AsyncPgConnection,
    rows: &[(ReservationId, i64)],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (ids, facts): (Vec<ReservationId>, Vec<i64>) = rows.iter().copied().unzip();
    let paid = statement(
        "UPDATE reservation r SET status = 'PAID', fact_seq = x.fact_seq \
         FROM unnest($1::uuid[], $2::bigint[]) AS x(reservation_id, fact_seq) \
         WHERE r.reservation_id = x.reservation_id AND r.status = 'HELD'",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<BigInt>, _>(facts)
    .execute(&mut conn)
    .await?;
    all_were("held", paid, rows.len())
}

/// Writes what of paid reservations is cancelled, each with the number of its last facts.
///
/// # Errors
/// When Postgres fails or one is not paid.
pub async fn reservation_set_cancelled(
    mut conn: &AsyncPgConnection,
    rows: &[(ReservationId, &CancelledSeats, i64)],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let cancelled = statement(
        "UPDATE reservation r \
         SET cancelled_seat_nos = coalesce(r.cancelled_seat_nos, '{}') || x.seats::int[], \
             status = CASE WHEN x.ended_at IS NULL THEN r.status ELSE 'CANCELLED' END, \
             ended_at = x.ended_at, fact_seq = x.fact_seq \
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bigint[]) \
              AS x(reservation_id, seats, ended_at, fact_seq) \
         WHERE r.reservation_id = x.reservation_id AND r.status = 'PAID'",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|r| r.0).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|r| array_text(&r.1.seats)).collect())
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(rows.iter().map(|r| r.1.ended_at).collect())
    .bind::<Array<BigInt>, Vec<_>>(rows.iter().map(|r| r.2).collect())
    .execute(&mut conn)
    .await?;
    all_were("paid", cancelled, rows.len())
}

fn all_were(what: &str, were: usize, expected: usize) -> Result<(), db::Error> {
    if were == expected {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "S4: {were} reservations of {expected} were {what}"
        )))
    }
}
