//! The statements that every competing lane shares: what a message's outcomes were, and what could
//! not be processed. They are the only writers of `outcome` and `dead_letter` rows of these lanes.

use crate::runtime::core::{DeadLetter, Decided};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::{decode, encode};
use onsale_schema::{Lane, MessageId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};

/// The partition number of lanes that have none.
const NO_PARTITION: i32 = -1;

#[derive(QueryableByName)]
struct KnownRow {
    #[diesel(sql_type = SqlUuid)]
    message_id: MessageId,
    #[diesel(sql_type = Binary)]
    outcomes: Vec<u8>,
}

/// The outcomes of those messages that were decided before. Each is looked up by its id alone: there are
/// far more of a lane than a planner that has seen few believes.
///
/// # Errors
/// When Postgres fails.
pub async fn outcome_list_known<O: DeserializeOwned>(
    mut conn: &AsyncPgConnection,
    lane: Lane,
    messages: &[MessageId],
) -> Result<HashMap<MessageId, Vec<O>>, db::Error> {
    let rows: Vec<KnownRow> = statement(
        "SELECT o.message_id, o.outcomes FROM unnest($2::uuid[]) AS x (message_id) \
             CROSS JOIN LATERAL (SELECT lane, message_id, outcomes FROM outcome \
                                 WHERE message_id = x.message_id OFFSET 0) AS o \
         WHERE o.lane = $1",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Array<SqlUuid>, _>(messages)
    .load(&mut conn)
    .await?;
    rows.into_iter()
        .map(|row| match decode(&row.outcomes) {
            Ok(outcomes) => Ok((row.message_id, outcomes)),
            Err(error) => Err(db::Error::Refused(format!(
                "outcomes of message {}: {error}",
                row.message_id
            ))),
        })
        .collect()
}

#[derive(QueryableByName)]
struct SeqRow {
    #[diesel(sql_type = BigInt)]
    seq: i64,
}

/// Why rows could not be written under an incarnation of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Another replica has decided one of the messages meanwhile.
    Meanwhile,
    /// The stream began to count anew: one of the sequences belongs to an older message.
    Earlier,
}

/// Writes one row per message; each must be new.
///
/// # Errors
/// When Postgres fails.
pub async fn outcome_insert<O: Serialize>(
    mut conn: &AsyncPgConnection,
    lane: Lane,
    incarnation: i32,
    decided: &[Decided<O>],
) -> Result<Result<(), Taken>, db::Error> {
    if decided.is_empty() {
        return Ok(Ok(()));
    }
    let inserted: Vec<SeqRow> = statement(
        "INSERT INTO outcome (lane, partition_no, incarnation, seq, epoch, commit_no, message_id, \
                              outcomes, decided_at) \
         SELECT $1, $2, $3, x.seq, 0, 0, x.message_id, x.outcomes, clock_timestamp() \
         FROM unnest($4::bigint[], $5::uuid[], $6::bytea[]) AS x(seq, message_id, outcomes) \
         ON CONFLICT DO NOTHING RETURNING seq",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(NO_PARTITION)
    .bind::<Integer, _>(incarnation)
    .bind::<Array<BigInt>, _>(decided.iter().map(|d| signed(d.seq)).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(decided.iter().map(|d| d.message_id).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(
        decided
            .iter()
            .map(|d| encode(&d.outcomes))
            .collect::<Vec<_>>(),
    )
    .load(&mut conn)
    .await?;
    if inserted.len() == decided.len() {
        return Ok(Ok(()));
    }
    let inserted: HashSet<i64> = inserted.iter().map(|row| row.seq).collect();
    let (seqs, ids): (Vec<i64>, Vec<MessageId>) = decided
        .iter()
        .map(|d| (signed(d.seq), d.message_id))
        .filter(|(seq, _)| !inserted.contains(seq))
        .unzip();
    let others: Vec<SeqRow> = statement(
        "SELECT o.seq FROM outcome o \
         JOIN unnest($4::bigint[], $5::uuid[]) AS x(seq, message_id) USING (seq) \
         WHERE o.lane = $1 AND o.partition_no = $2 AND o.incarnation = $3 \
           AND o.message_id <> x.message_id",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(NO_PARTITION)
    .bind::<Integer, _>(incarnation)
    .bind::<Array<BigInt>, _>(seqs)
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    Ok(Err(if others.is_empty() {
        Taken::Meanwhile
    } else {
        Taken::Earlier
    }))
}

/// Writes what could not be processed; the same again is the same row.
///
/// # Errors
/// When Postgres fails.
pub async fn dead_letter_insert(
    mut conn: &AsyncPgConnection,
    lane: Lane,
    incarnation: i32,
    dead: &[DeadLetter],
) -> Result<Result<(), Taken>, db::Error> {
    if dead.is_empty() {
        return Ok(Ok(()));
    }
    let written = statement(
        "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, \
                                  error) \
         SELECT $1, $2, $3, x.* \
         FROM unnest($4::bigint[], $5::int[], $6::bytea[], $7::text[]) AS x \
         ON CONFLICT (lane, partition_no, incarnation, seq, command_index) \
         DO UPDATE SET error = excluded.error WHERE dead_letter.payload = excluded.payload",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(NO_PARTITION)
    .bind::<Integer, _>(incarnation)
    .bind::<Array<BigInt>, _>(dead.iter().map(|d| signed(d.seq)).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(dead.iter().map(|d| d.command_index).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(dead.iter().map(|d| &d.payload[..]).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(dead.iter().map(|d| &d.error[..]).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(if written == dead.len() {
        Ok(())
    } else {
        Err(Taken::Earlier)
    })
}

#[derive(QueryableByName)]
struct NowRow {
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

/// The database's clock, for what is compared under locks: ask after they are held.
///
/// # Errors
/// When Postgres fails.
pub async fn clock_now(mut conn: &AsyncPgConnection) -> Result<Timestamp, db::Error> {
    let row: NowRow = statement("SELECT clock_timestamp() AS now")
        .get_result(&mut conn)
        .await?;
    Ok(row.now)
}

fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
