//! The statements that every partitioned lane shares: taking a partition, the fence, outcomes, dead
//! letters, and notices that are done. They are the only writers of `partition`, and of `outcome` and
//! `dead_letter` rows of partitioned lanes.

use super::core::{Cursor, Fence, Proposal};
use super::lane::PartitionedLane;
use diesel::sql_types::{
    Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::encode;
use onsale_schema::{Lane, NoticeId, PartitionNo, Timestamp, WorkerId};
use std::collections::HashSet;

/// A partition's row.
#[derive(QueryableByName, Debug)]
pub struct Row {
    /// Who owns it.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub owner: Option<WorkerId>,
    /// The owner's epoch.
    #[diesel(sql_type = BigInt)]
    pub epoch: i64,
    /// The last commit's number.
    #[diesel(sql_type = BigInt)]
    pub commit_no: i64,
    #[diesel(sql_type = Integer)]
    incarnation: i32,
    #[diesel(sql_type = BigInt)]
    applied_seq: i64,
    #[diesel(sql_type = Timestamptz)]
    applied_at: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    decided_at: Timestamp,
}

impl Row {
    /// Its fence.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence {
            epoch: self.epoch,
            commit_no: self.commit_no,
        }
    }

    /// Its cursor.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            incarnation: self.incarnation,
            seq: u64::try_from(self.applied_seq).unwrap_or(0),
            at: self.applied_at,
            decided_at: self.decided_at,
        }
    }
}

/// Makes the rows of a lane's partitions, where they are missing.
///
/// # Errors
/// When Postgres fails.
pub async fn partitions_insert(
    conn: &mut AsyncPgConnection,
    lane: Lane,
    partitions: u16,
) -> Result<(), db::Error> {
    statement(
        "INSERT INTO partition (lane, partition_no) SELECT $1, generate_series(0, $2 - 1) \
         ON CONFLICT DO NOTHING",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(i32::from(partitions))
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes a partition if its epoch is still the one that was seen, and if nobody has a lock on its row:
/// who waits for one gives no sign of life meanwhile.
///
/// # Errors
/// When Postgres fails.
pub async fn partition_take(
    conn: &mut AsyncPgConnection,
    lane: Lane,
    partition: PartitionNo,
    seen_epoch: i64,
    me: WorkerId,
) -> Result<Option<Row>, db::Error> {
    let row = statement(
        "WITH free AS MATERIALIZED ( \
             SELECT FROM partition WHERE lane = $1 AND partition_no = $2 AND epoch = $3 \
             FOR UPDATE SKIP LOCKED) \
         UPDATE partition SET epoch = epoch + 1, owner = $4 \
         WHERE lane = $1 AND partition_no = $2 AND epoch = $3 AND EXISTS (SELECT FROM free) \
         RETURNING owner, epoch, commit_no, incarnation, applied_seq, applied_at, decided_at",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(i32::from(partition.0))
    .bind::<BigInt, _>(seen_epoch)
    .bind::<SqlUuid, _>(me)
    .get_result(conn)
    .await
    .optional()?;
    Ok(row)
}

/// Gives a partition back, if it is still ours. If somebody has a lock on its row, it stays ours for
/// now, and is seen to be so.
///
/// # Errors
/// When Postgres fails.
pub async fn partition_release(
    conn: &mut AsyncPgConnection,
    lane: Lane,
    partition: PartitionNo,
    epoch: i64,
    me: WorkerId,
) -> Result<(), db::Error> {
    statement(
        "WITH free AS MATERIALIZED ( \
             SELECT FROM partition WHERE lane = $1 AND partition_no = $2 AND epoch = $3 \
             FOR UPDATE SKIP LOCKED) \
         UPDATE partition SET owner = NULL \
         WHERE lane = $1 AND partition_no = $2 AND epoch = $3 AND owner = $4 \
           AND EXISTS (SELECT FROM free)",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(i32::from(partition.0))
    .bind::<BigInt, _>(epoch)
    .bind::<SqlUuid, _>(me)
    .execute(conn)
    .await?;
    Ok(())
}

/// Reads a partition's row and keeps others from changing it, to learn what became of a commit. It
/// waits for a transaction that is still open on it.
///
/// # Errors
/// When Postgres fails.
pub async fn partition_lock(
    conn: &mut AsyncPgConnection,
    lane: Lane,
    partition: PartitionNo,
) -> Result<Row, db::Error> {
    let row = statement(
        "SELECT owner, epoch, commit_no, incarnation, applied_seq, applied_at, decided_at \
         FROM partition WHERE lane = $1 AND partition_no = $2 FOR UPDATE",
    )
    .bind::<Text, _>(lane.as_str())
    .bind::<Integer, _>(i32::from(partition.0))
    .get_result(conn)
    .await?;
    Ok(row)
}

#[derive(QueryableByName)]
struct PartitionOnly {
    #[diesel(sql_type = Integer)]
    partition_no: i32,
}

/// The fence: moves commit number and cursor of each partition whose row is as expected, and says
/// which those were. A partition that is missing from the answer has another owner.
///
/// # Errors
/// When Postgres fails.
pub async fn advance<L: PartitionedLane>(
    mut conn: &AsyncPgConnection,
    me: WorkerId,
    proposals: &[&Proposal<L>],
) -> Result<Vec<PartitionNo>, db::Error> {
    let column = |f: fn(&Proposal<L>) -> i64| proposals.iter().map(|p| f(p)).collect::<Vec<i64>>();
    let times = |f: fn(&Cursor) -> Timestamp| {
        let cursors = proposals.iter().map(|p| f(&p.cursor));
        cursors.collect::<Vec<_>>()
    };
    let rows: Vec<PartitionOnly> = statement(
        "UPDATE partition p SET commit_no = p.commit_no + 1, incarnation = x.incarnation, \
         applied_seq = x.seq, applied_at = x.at, decided_at = x.decided_at \
         FROM unnest($3::int[], $4::bigint[], $5::bigint[], $6::int[], $7::bigint[], \
                     $8::timestamptz[], $9::timestamptz[]) \
              AS x(no, epoch, commit_no, incarnation, seq, at, decided_at) \
         WHERE p.lane = $1 AND p.owner = $2 AND p.partition_no = x.no AND p.epoch = x.epoch \
           AND p.commit_no = x.commit_no \
         RETURNING p.partition_no",
    )
    .bind::<Text, _>(L::LANE.as_str())
    .bind::<SqlUuid, _>(me)
    .bind::<Array<Integer>, _>(
        proposals
            .iter()
            .map(|p| i32::from(p.partition.0))
            .collect::<Vec<_>>(),
    )
    .bind::<Array<BigInt>, _>(column(|p| p.expect.epoch))
    .bind::<Array<BigInt>, _>(column(|p| p.expect.commit_no))
    .bind::<Array<Integer>, _>(
        proposals
            .iter()
            .map(|p| p.cursor.incarnation)
            .collect::<Vec<_>>(),
    )
    .bind::<Array<BigInt>, _>(column(|p| signed(p.cursor.seq)))
    .bind::<Array<Timestamptz>, _>(times(|cursor| cursor.at))
    .bind::<Array<Timestamptz>, _>(times(|cursor| cursor.decided_at))
    .load(&mut conn)
    .await?;
    Ok(rows
        .iter()
        .filter_map(|row| u16::try_from(row.partition_no).ok().map(PartitionNo))
        .collect())
}

/// Writes one row per message, with all its outcomes.
///
/// # Errors
/// When Postgres fails.
pub async fn outcomes_insert<L: PartitionedLane>(
    mut conn: &AsyncPgConnection,
    proposals: &[&Proposal<L>],
) -> Result<(), db::Error> {
    let rows: Vec<_> = proposals
        .iter()
        .flat_map(|p| p.decided.iter().map(move |d| (*p, d)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO outcome (lane, partition_no, incarnation, seq, epoch, commit_no, message_id, \
                              outcomes, decided_at) \
         SELECT $1, * FROM unnest($2::int[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], \
                                  $7::uuid[], $8::bytea[], $9::timestamptz[])",
    )
    .bind::<Text, _>(L::LANE.as_str())
    .bind::<Array<Integer>, _>(
        rows.iter()
            .map(|(p, _)| i32::from(p.partition.0))
            .collect::<Vec<_>>(),
    )
    .bind::<Array<Integer>, _>(
        rows.iter()
            .map(|(p, _)| p.cursor.incarnation)
            .collect::<Vec<_>>(),
    )
    .bind::<Array<BigInt>, _>(rows.iter().map(|(_, d)| signed(d.seq)).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|(p, _)| p.expect.epoch).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(
        rows.iter()
            .map(|(p, _)| p.expect.commit_no + 1)
            .collect::<Vec<_>>(),
    )
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|(_, d)| d.message_id).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(
        rows.iter()
            .map(|(_, d)| encode(&d.outcomes))
            .collect::<Vec<_>>(),
    )
    .bind::<Array<Timestamptz>, _>(rows.iter().map(|(p, _)| p.decided_at).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Writes what could not be processed.
///
/// # Errors
/// When Postgres fails.
pub async fn dead_letters_insert<L: PartitionedLane>(
    mut conn: &AsyncPgConnection,
    proposals: &[&Proposal<L>],
) -> Result<(), db::Error> {
    let rows: Vec<_> = proposals
        .iter()
        .flat_map(|p| p.dead.iter().map(move |d| (*p, d)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, \
                                  error) \
         SELECT $1, * FROM unnest($2::int[], $3::int[], $4::bigint[], $5::int[], $6::bytea[], \
                                  $7::text[])",
    )
    .bind::<Text, _>(L::LANE.as_str())
    .bind::<Array<Integer>, _>(
        rows.iter()
            .map(|(p, _)| i32::from(p.partition.0))
            .collect::<Vec<_>>(),
    )
    .bind::<Array<Integer>, _>(
        rows.iter()
            .map(|(p, _)| p.cursor.incarnation)
            .collect::<Vec<_>>(),
    )
    .bind::<Array<BigInt>, _>(rows.iter().map(|(_, d)| signed(d.seq)).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(
        rows.iter()
            .map(|(_, d)| d.command_index)
            .collect::<Vec<_>>(),
    )
    .bind::<Array<Binary>, _>(rows.iter().map(|(_, d)| &d.payload).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|(_, d)| &d.error).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Marks notices done; says which of them were not.
///
/// # Errors
/// When Postgres fails.
pub async fn notices_done(
    mut conn: &AsyncPgConnection,
    rows: &[NoticeId],
) -> Result<HashSet<NoticeId>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        notice_id: NoticeId,
    }
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    // Said like this, no plan goes through the index of all that are open.
    let done: Vec<Row> = statement(
        "UPDATE notice SET done_at = clock_timestamp() \
         WHERE notice_id = ANY($1) AND num_nulls(done_at) = 1 RETURNING notice_id",
    )
    .bind::<Array<SqlUuid>, _>(rows)
    .load(&mut conn)
    .await?;
    Ok(done.into_iter().map(|row| row.notice_id).collect())
}

fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
