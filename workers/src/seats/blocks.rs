//! The rows of blocks: read whole with their schedule, and inserted; they are never changed.
//!
//! They are few, since people make them, and all of them are read: so a command that was accepted is
//! known for as long as its row is there.

use super::store::{array_text, column};
use diesel::QueryableByName;
use diesel::sql_types::{Array, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::seats::BlockRow;
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::{BlockId, CommandId, ScheduleId, SeatNo, Timestamp, UserId};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    block_id: BlockId,
    #[diesel(sql_type = Bool)]
    lifts: bool,
    #[diesel(sql_type = Array<Integer>)]
    seat_nos: Vec<SeatNo>,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: uuid::Uuid,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
}

/// All of a schedule.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Vec<BlockRow>, db::Error> {
    let rows: Vec<Row> = statement(
        "SELECT command_id, block_id, lifts, seat_nos, user_id, reason, fingerprint, at \
         FROM seat_block WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .load(conn)
    .await?;
    let rows = rows.into_iter().map(|row| BlockRow {
        schedule_id,
        block_id: row.block_id,
        lifts: row.lifts,
        command_id: row.command_id,
        fingerprint: Fingerprint(row.fingerprint),
        user_id: row.user_id,
        seats: row.seat_nos,
        reason: row.reason,
        at: row.at,
    });
    Ok(rows.collect())
}

pub(super) async fn insert(
    mut conn: &AsyncPgConnection,
    rows: &[&BlockRow],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "INSERT INTO seat_block (command_id, schedule_id, block_id, lifts, seat_nos, user_id, \
             reason, fingerprint, at) \
         SELECT command, schedule, block, lifts, seats::int[], who, reason, print, at \
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bool[], $5::text[], $6::uuid[], \
                     $7::text[], $8::uuid[], $9::timestamptz[]) \
              AS x(command, schedule, block, lifts, seats, who, reason, print, at)",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.command_id))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.block_id))
    .bind::<Array<Bool>, Vec<_>>(column(rows, |r| r.lifts))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| array_text(&r.seats)))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.user_id))
    .bind::<Array<Nullable<Text>>, Vec<_>>(column(rows, |r| r.reason.clone()))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.fingerprint.0))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.at))
    .execute(&mut conn)
    .await?)
}
