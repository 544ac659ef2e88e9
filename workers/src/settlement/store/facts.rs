//! Facts about money, for other systems: one row for each reservation and batch.

use diesel::sql_types::{Array, BigInt, Binary, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::encode;
use onsale_schema::settlement::{Facts, TOPIC};

/// Adds facts, each with its number, which was counted under the reservation's lock.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn facts_insert<'a>(
    mut conn: &AsyncPgConnection,
    rows: impl Iterator<Item = &'a (i64, Facts)>,
) -> Result<(), db::Error> {
    let rows: Vec<&(i64, Facts)> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO outbox (topic, aggregate_id, seq, payload) \
         SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::bytea[])",
    )
    .bind::<Text, _>(TOPIC)
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|r| r.1.reservation_id).collect())
    .bind::<Array<BigInt>, Vec<_>>(rows.iter().map(|r| r.0).collect())
    .bind::<Array<Binary>, Vec<_>>(rows.iter().map(|r| encode(&r.1)).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}
