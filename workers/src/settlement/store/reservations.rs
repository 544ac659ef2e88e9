//! Reservations, as far as settlement locks and changes them: from HELD to PAID, and what of them is
//! cancelled.

use diesel::QueryableByName;
use diesel::sql_types::{Array, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::Reservation;
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
                expires_at, total \
         FROM reservation WHERE reservation_id = ANY($1) \
         ORDER BY reservation_id FOR NO KEY UPDATE",
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
        })
        .collect())
}

/// Makes held reservations paid ones. They are locked, so that it can't miss.
///
/// # Errors
/// When Postgres fails or one is not held.
pub async fn reservation_set_paid(
    mut conn: &AsyncPgConnection,
    reservations: &[ReservationId],
) -> Result<(), db::Error> {
    let paid = statement(
        "UPDATE reservation SET status = 'PAID' \
         WHERE reservation_id = ANY($1) AND status = 'HELD'",
    )
    .bind::<Array<SqlUuid>, _>(reservations)
    .execute(&mut conn)
    .await?;
    if paid == reservations.len() {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "S4: {paid} reservations of {} were held",
            reservations.len()
        )))
    }
}
