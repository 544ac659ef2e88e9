//! Reservations, as far as settlement changes them: from HELD to PAID, and what of them is cancelled.

use crate::seats::array_text;
use diesel::sql_types::{Array, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::CancelledSeats;
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::ReservationId;
use onsale_schema::status::ReservationStatus;
use std::collections::BTreeMap;

/// Makes held reservations paid ones. They are locked, so that it can't miss.
///
/// # Errors
/// When Postgres fails or one is not held.
pub async fn reservation_set_paid(
    mut conn: &AsyncPgConnection,
    ids: &[ReservationId],
) -> Result<(), db::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let paid = statement(
        "UPDATE reservation SET status = 'PAID' WHERE reservation_id = ANY($1) AND status = $2",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Text, _>(ReservationStatus::Held)
    .execute(&mut conn)
    .await?;
    all_were("held", paid, ids.len())
}

/// Writes what of paid reservations is cancelled.
///
/// # Errors
/// When Postgres fails or one is not paid.
pub async fn reservation_set_cancelled(
    mut conn: &AsyncPgConnection,
    rows: &BTreeMap<ReservationId, CancelledSeats>,
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let cancelled = statement(
        "UPDATE reservation r \
         SET cancelled_seat_nos = coalesce(r.cancelled_seat_nos, '{}') || x.seats::int[], \
             status = CASE WHEN x.ended_at IS NULL THEN r.status ELSE 'CANCELLED' END, \
             ended_at = x.ended_at \
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) \
              AS x(reservation_id, seats, ended_at) \
         WHERE r.reservation_id = x.reservation_id AND r.status = 'PAID'",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.keys().collect())
    .bind::<Array<Text>, Vec<_>>(rows.values().map(|r| array_text(&r.seats)).collect())
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(rows.values().map(|r| r.ended_at).collect())
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
