//! Facts about money, for other systems: a row for each date and batch.

use diesel::sql_types::{Array, BigInt, Binary, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::ScheduleId;
use onsale_schema::message::encode;
use onsale_schema::settlement::{Fact, Facts, TOPIC};
use std::collections::BTreeMap;

/// Facts of one row: they are one message then, which must be small enough for NATS. The largest tell
/// of cancelled seats, of which a reservation has a few.
const FACTS_MAX: usize = 256;

/// Adds facts. They are numbered by date, under the lock of a row that is held until the commit. So it
/// is locked after all else but the row of a cancelled show, or somebody waits who is waited for. Only
/// a batch that is decided command by command locks more behind it, and may have to be tried again.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn facts_insert(
    mut conn: &AsyncPgConnection,
    facts: &BTreeMap<ScheduleId, Vec<Fact>>,
) -> Result<(), db::Error> {
    if facts.is_empty() {
        return Ok(());
    }
    let counts = facts.values().map(|facts| facts.len().div_ceil(FACTS_MAX));
    let counts: Vec<i64> = counts.map(|count| count as i64).collect();
    let (mut dates, mut places, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
    for (&schedule_id, facts) in facts {
        for (place, part) in facts.chunks(FACTS_MAX).enumerate() {
            let facts = part.to_vec();
            dates.push(schedule_id);
            places.push(place as i64);
            payloads.push(encode(&Facts { schedule_id, facts }));
        }
    }
    // The dates come in order, so that no two wait for each other.
    statement(
        "WITH numbered AS ( \
           INSERT INTO payment_facts AS f (schedule_id, last_seq) \
           SELECT * FROM unnest($2::uuid[], $3::bigint[]) \
           ON CONFLICT (schedule_id) DO UPDATE SET last_seq = f.last_seq + excluded.last_seq \
           RETURNING schedule_id, last_seq) \
         INSERT INTO outbox (topic, aggregate_id, seq, payload) \
         SELECT $1, x.schedule_id, n.last_seq - c.count + 1 + x.place, x.payload \
         FROM unnest($4::uuid[], $5::bigint[], $6::bytea[]) AS x (schedule_id, place, payload) \
              JOIN numbered AS n USING (schedule_id) \
              JOIN unnest($2::uuid[], $3::bigint[]) AS c (schedule_id, count) USING (schedule_id)",
    )
    .bind::<Text, _>(TOPIC)
    .bind::<Array<SqlUuid>, Vec<_>>(facts.keys().collect())
    .bind::<Array<BigInt>, _>(counts)
    .bind::<Array<SqlUuid>, _>(dates)
    .bind::<Array<BigInt>, _>(places)
    .bind::<Array<Binary>, _>(payloads)
    .execute(&mut conn)
    .await?;
    Ok(())
}
