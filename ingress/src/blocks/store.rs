//! Reading blocks. The seats' owners write them.

use crate::page::PageStart;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::tables::seat_block::dsl;
use onsale_schema::{BlockId, CommandId, ScheduleId, SeatNo, Timestamp, UserId};

/// A block.
#[derive(diesel::Queryable, QueryableByName)]
pub struct Row {
    #[diesel(sql_type = SqlUuid)]
    pub block_id: BlockId,
    /// All, or those that it still holds.
    #[diesel(sql_type = Array<Integer>)]
    pub seat_nos: Vec<SeatNo>,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
    #[diesel(sql_type = Timestamptz)]
    pub at: Timestamp,
}

/// A block of a schedule, with all seats that it ever held.
pub async fn find(pool: &Pool, schedule: ScheduleId, block: BlockId) -> Result<Option<Row>, Error> {
    let mut conn = pool.get().await?;
    let row = dsl::seat_block
        .filter(dsl::block_id.eq(block))
        .filter(dsl::schedule_id.eq(schedule))
        .filter(diesel::dsl::not(dsl::lifts))
        .select((
            dsl::block_id,
            dsl::seat_nos,
            dsl::reason,
            dsl::user_id,
            dsl::at,
        ))
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// The seats that a command has lifted; none if it lifted nothing.
pub async fn lift_find(pool: &Pool, command: CommandId) -> Result<Vec<SeatNo>, Error> {
    let mut conn = pool.get().await?;
    let seats: Option<Vec<SeatNo>> = dsl::seat_block
        .find(command)
        .filter(dsl::lifts)
        .select(dsl::seat_nos)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(seats.unwrap_or_default())
}

/// The seats that a block still holds, in the order of their numbers.
pub async fn left(pool: &Pool, schedule: ScheduleId, block: BlockId) -> Result<Vec<SeatNo>, Error> {
    #[derive(QueryableByName)]
    struct Left {
        #[diesel(sql_type = Integer)]
        seat_no: SeatNo,
    }
    let mut conn = pool.get().await?;
    let rows: Vec<Left> = statement(
        "SELECT unnest(seat_nos) AS seat_no FROM seat_block \
         WHERE schedule_id = $1 AND block_id = $2 AND NOT lifts \
         EXCEPT \
         SELECT unnest(seat_nos) FROM seat_block \
         WHERE schedule_id = $1 AND block_id = $2 AND lifts \
         ORDER BY seat_no",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<SqlUuid, _>(block)
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.seat_no).collect())
}

/// The blocks that still hold seats, with these in the order of their numbers; the newest first.
pub async fn list(pool: &Pool, schedule: ScheduleId, start: &PageStart) -> Result<Vec<Row>, Error> {
    let mut conn = pool.get().await?;
    // EXCEPT hashes or sorts; a join may be planned as one look at every lifted seat for each that
    // was blocked.
    let rows = statement(
        "WITH still AS ( \
             SELECT block_id, array_agg(seat_no ORDER BY seat_no) AS seat_nos \
             FROM (SELECT block_id, unnest(seat_nos) AS seat_no FROM seat_block \
                   WHERE schedule_id = $1 AND NOT lifts \
                   EXCEPT \
                   SELECT block_id, unnest(seat_nos) FROM seat_block \
                   WHERE schedule_id = $1 AND lifts) AS seats \
             GROUP BY block_id) \
         SELECT block_id, still.seat_nos, reason, user_id, at \
         FROM still JOIN seat_block AS b USING (block_id) \
         WHERE NOT lifts AND ($2 IS NULL OR (at, block_id) < ($2, $3)) \
         ORDER BY at DESC, block_id DESC LIMIT $4",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Nullable<Timestamptz>, _>(start.after.map(|after| after.at()))
    .bind::<Nullable<SqlUuid>, _>(start.after.map(|after| after.id))
    .bind::<BigInt, _>(start.rows())
    .load(&mut conn)
    .await?;
    Ok(rows)
}
