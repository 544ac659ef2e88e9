//! Reading what became of a seat from the rows of reservations, payments, cancellations and blocks.

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
/// payment has the time of settlement's clock, which may be a little behind that of the hold. What a
/// late capture was given was sold from the beginning, and never held.
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
             SELECT r.reservation_id, r.user_id, r.command_id, rehold_order, held_at AS since, \
                    CASE WHEN c.at IS NOT NULL THEN c.at \
                         WHEN ends_as = 'RELEASED' THEN expires_at ELSE ended_at END AS until, \
                    CASE WHEN c.at IS NOT NULL THEN 'CANCELLED' \
                         ELSE coalesce(ends_as, status) END AS end_event, \
                    CASE WHEN c.at IS NOT NULL THEN c.user_id ELSE r.user_id END AS ended_by, \
                    CASE WHEN c.at IS NOT NULL THEN c.command_id ELSE given_back_by END AS end_command \
             FROM reservation AS r \
                  LEFT JOIN cancellation AS c \
                  ON c.reservation_id = r.reservation_id AND $2 = ANY (c.seat_nos) \
             WHERE r.schedule_id = $1 AND $2 = ANY (r.seat_nos)), \
         blocks AS MATERIALIZED ( \
             SELECT block_id, lifts, user_id, command_id, reason, at, \
                    count(*) OVER of_block = 2 AND min(at) OVER of_block = max(at) OVER of_block \
                        AS is_brief \
             FROM seat_block WHERE schedule_id = $1 AND $2 = ANY (seat_nos) \
             WINDOW of_block AS (PARTITION BY block_id)), \
         events AS ( \
             SELECT CASE WHEN rehold_order IS NULL THEN 'HELD' ELSE 'SOLD' END AS event, \
                    since AS at, \
                    CASE WHEN until = since THEN 1 ELSE 2 END AS step, 0 AS part, user_id, \
                    reservation_id, NULL::uuid AS block_id, command_id, NULL::text AS reason \
             FROM had \
             UNION ALL \
             SELECT 'SOLD', greatest(p.at, since), 3, 0, p.user_id, p.reservation_id, NULL, \
                    p.command_id, NULL \
             FROM had JOIN payment AS p USING (reservation_id) \
             WHERE p.status = 'PAID' AND rehold_order IS NULL \
             UNION ALL \
             SELECT end_event, until, CASE WHEN until = since THEN 1 ELSE 0 END, 1, \
                    CASE end_event WHEN 'EXPIRED' THEN NULL ELSE ended_by END, reservation_id, NULL, \
                    end_command, NULL \
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
