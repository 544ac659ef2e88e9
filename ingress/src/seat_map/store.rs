//! Reading a seat map.

use super::state::Map;
use crate::problem::{Code, Problem};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::Pool;
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
