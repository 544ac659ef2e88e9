//! Reading a seat map.

use super::state::{Map, Stamp};
use crate::problem::{Code, Problem};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::ScheduleId;

/// Reads version and claims in one statement, which sees one moment.
pub async fn snapshot(pool: &Pool, schedule: ScheduleId) -> Result<Map, Problem> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        map_version: i64,
        #[diesel(sql_type = BigInt)]
        layout_no: i64,
        #[diesel(sql_type = BigInt)]
        total: i64,
        #[diesel(sql_type = Array<Integer>)]
        seat_nos: Vec<i32>,
        #[diesel(sql_type = Nullable<Text>)]
        states: Option<String>,
    }
    let mut conn = pool.get().await?;
    let row: Option<Row> = statement(
        "SELECT map_version, layout_no, \
             (SELECT count(*) FROM seat WHERE schedule_id = sale.schedule_id) AS total, \
             ARRAY(SELECT seat_no FROM seat_claim \
                   WHERE schedule_id = sale.schedule_id ORDER BY seat_no) AS seat_nos, \
             (SELECT string_agg(state, '' ORDER BY seat_no) FROM seat_claim \
              WHERE schedule_id = sale.schedule_id) AS states \
         FROM sale WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule.0)
    .get_result(&mut conn)
    .await
    .optional()?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    let claims = row
        .seat_nos
        .into_iter()
        .zip(row.states.unwrap_or_default().into_bytes());
    Ok(Map::new(
        row.layout_no,
        row.map_version,
        usize::try_from(row.total).unwrap_or_default(),
        claims,
    ))
}

/// What each of these schedules' maps is now; of all in one statement.
pub async fn stamps(
    pool: &Pool,
    schedules: &[ScheduleId],
) -> Result<Vec<(ScheduleId, Stamp)>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        schedule_id: ScheduleId,
        #[diesel(sql_type = BigInt)]
        map_version: i64,
        #[diesel(sql_type = BigInt)]
        layout_no: i64,
    }
    let ids: Vec<uuid::Uuid> = schedules.iter().map(|schedule| schedule.0).collect();
    let mut conn = pool.get().await?;
    let rows: Vec<Row> = statement(
        "SELECT schedule_id, map_version, layout_no FROM sale WHERE schedule_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    let stamp = |row: Row| Stamp {
        layout_no: row.layout_no,
        version: row.map_version,
    };
    let rows = rows.into_iter();
    Ok(rows.map(|row| (row.schedule_id, stamp(row))).collect())
}
