//! Reading what became of a seat from the rows of reservations, payments and blocks.

use crate::page::PageStart;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::status::SeatEvent;
use onsale_schema::{BlockId, CommandId, ReservationId, ScheduleId, SeatNo, Timestamp, UserId};

/// An event.
#[derive(QueryableByName)]
pub struct Row {
    /// Its place in the history, from 1. What happens later comes behind it.
    #[diesel(sql_type = BigInt)]
    pub place: i64,
    #[diesel(sql_type = Text)]
    pub event: SeatEvent,
    #[diesel(sql_type = Timestamptz)]
    pub at: Timestamp,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub user_id: Option<UserId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub block_id: Option<BlockId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub command_id: Option<CommandId>,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
}

/// Whoever had the seat had it from `since` until just before `until`. In one moment the one before
/// ends first, then come those that ended as they began, then the one that stays: `step` says so. A
/// payment has the time of settlement's clock, which may be a little behind that of the hold.
///
/// It is long for one connection of the pool, and has one of its own.
pub async fn list(
    pool: &Pool,
    schedule: ScheduleId,
    seat: SeatNo,
    start: &PageStart,
) -> Result<Vec<Row>, Error> {
    let mut conn = pool.own_connection().await?;
    let rows = statement(
        "WITH had AS MATERIALIZED ( \
             SELECT reservation_id, user_id, command_id, status, given_back_by, \
                    held_at AS since, \
                    CASE ends_as WHEN 'RELEASED' THEN expires_at ELSE ended_at END AS until, \
                    coalesce(ends_as, status) AS end_event \
             FROM reservation WHERE schedule_id = $1 AND $2 = ANY (seat_nos)), \
         blocks AS MATERIALIZED ( \
             SELECT block_id, lifts, user_id, command_id, reason, at, \
                    count(*) OVER of_block = 2 AND min(at) OVER of_block = max(at) OVER of_block \
                        AS is_brief \
             FROM seat_block WHERE schedule_id = $1 AND $2 = ANY (seat_nos) \
             WINDOW of_block AS (PARTITION BY block_id)), \
         events AS ( \
             SELECT 'HELD' AS event, since AS at, \
                    CASE WHEN until = since THEN 1 ELSE 2 END AS step, 0 AS part, user_id, \
                    reservation_id, NULL::uuid AS block_id, command_id, NULL::text AS reason \
             FROM had \
             UNION ALL \
             SELECT 'SOLD', greatest(p.at, since), 3, 0, p.user_id, p.reservation_id, NULL, \
                    p.command_id, NULL \
             FROM had JOIN payment AS p USING (reservation_id) WHERE p.status = 'PAID' \
             UNION ALL \
             SELECT end_event, until, CASE WHEN until = since THEN 1 ELSE 0 END, 1, \
                    CASE end_event WHEN 'EXPIRED' THEN NULL ELSE user_id END, reservation_id, NULL, \
                    given_back_by, NULL \
             FROM had WHERE until IS NOT NULL \
             UNION ALL \
             SELECT CASE WHEN lifts THEN 'UNBLOCKED' ELSE 'BLOCKED' END, at, \
                    CASE WHEN is_brief THEN 1 WHEN lifts THEN 0 ELSE 2 END, \
                    CASE WHEN lifts THEN 1 ELSE 0 END, user_id, NULL, block_id, command_id, reason \
             FROM blocks), \
         in_order AS ( \
             SELECT *, row_number() OVER ( \
                 ORDER BY at, step, coalesce(reservation_id, block_id), part) AS place \
             FROM events) \
         SELECT place, event, at, user_id, reservation_id, block_id, command_id, reason \
         FROM in_order WHERE place > $3 ORDER BY place LIMIT $4",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Integer, _>(seat)
    .bind::<BigInt, _>(start.after.map_or(0, |after| after.key))
    .bind::<BigInt, _>(start.rows())
    .load(&mut conn)
    .await?;
    Ok(rows)
}
