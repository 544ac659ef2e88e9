//! Plans are made while there is little, and run when there is much: what a batch reads must not grow
//! with what others have done. One session does everything here, so that its plans are kept.

use crate::rig::{Rig, charge, job, ledger, pay};
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_platform::db;
use onsale_schema::NoticeId;
use onsale_schema::message::Command;
use onsale_workers::compete::Queue;
use onsale_workers::compete::commit;
use onsale_workers::notices;
use onsale_workers::runtime::fence;
use onsale_workers::settlement::Settlement;
use uuid::Uuid;

const TOTAL: i64 = 1000;
/// More often than Postgres plans a statement for its values, where it does at all.
const TIMES: u64 = 8;
/// What a batch may read more of large tables than of small ones.
const MORE: i64 = 40;

/// Others' rows, [`GROWN`] of each: accounts and charges, holds, payments, attempts that failed, charges by
/// card, outcomes of both lanes, and open words to owners of seats.
const OTHERS: &str = "
    CREATE TEMPORARY TABLE other AS
        SELECT n, gen_random_uuid() AS id FROM generate_series(1, 3000) AS n;
    INSERT INTO account SELECT id, 0 FROM other;
    INSERT INTO transfer SELECT gen_random_uuid(), gen_random_uuid(), id, 'CHARGE',
            '00000000-0000-0000-0000-00000000ca4d', id, 1, 1, now() FROM other;
    INSERT INTO reservation SELECT CASE status WHEN 'PAID' THEN id ELSE gen_random_uuid() END, id, id,
            gen_random_uuid(), id, '{1,2}', 0, 4, status, now(), now() + interval '1 hour'
        FROM other, (VALUES ('HELD'), ('PAID')) AS as_of (status);
    INSERT INTO payment SELECT gen_random_uuid(), id, id, gen_random_uuid(), id, 'POINTS', 0, 'PAID',
            NULL, NULL, now() FROM other;
    INSERT INTO payment SELECT gen_random_uuid(), id, id, gen_random_uuid(), id, 'POINTS', 0, 'FAILED',
            'insufficient-points', NULL, now() FROM other;
    INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, created_at,
                               updated_at)
        SELECT id, id, gen_random_uuid(), id, 500, 'FAILED', now(), now() FROM other;
    INSERT INTO outcome SELECT lane, -1, 0, 1000 + n, 0, 0, gen_random_uuid(), '', now()
        FROM other, (VALUES ('settlement'), ('ledger')) AS lanes (lane);
    INSERT INTO notice SELECT id, 'seats', id, '', now() FROM other";
const GROWN: i64 = 3000;

/// The rows that were read, by all sessions that have said so.
async fn rows_read(conn: &mut AsyncPgConnection) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    let flush = "SELECT pg_stat_force_next_flush()";
    conn.batch_execute(flush).await.unwrap();
    let read: Row = sql_query(
        "SELECT ((SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
                 + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables))::bigint AS n",
    )
    .get_result(conn)
    .await
    .unwrap();
    read.n
}

/// Decides a command by itself; returns how many rows that read.
async fn decide<Q: Queue>(
    rig: &mut Rig,
    pool: &db::Pool,
    queue: Q,
    seq: u64,
    command: Command<Q::Kind>,
) -> i64 {
    // What was prepared counts from now on.
    rows_read(&mut rig.conn).await;
    let before = rows_read(&mut pool.get().await.unwrap()).await;
    let job = job(queue, seq, vec![command]);
    let done = commit::run(pool, job).await.unwrap();
    assert_eq!(done.labels[0].1, "accepted");
    rows_read(&mut pool.get().await.unwrap()).await - before
}

async fn a_payment(rig: &mut Rig, pool: &db::Pool, seq: u64) -> i64 {
    let user = rig.user(TOTAL).await;
    let (reservation, _) = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let queue = Settlement::new(false);
    decide(rig, pool, queue, seq, pay(user, reservation)).await
}

async fn a_charge(rig: &mut Rig, pool: &db::Pool, seq: u64) -> i64 {
    let user = rig.user(0).await;
    decide(rig, pool, ledger(), seq, charge(user, 1)).await
}

/// A word to an owner of seats, which looks whether it counts, and says that it is done.
async fn a_notice(rig: &mut Rig, pool: &db::Pool, _seq: u64) -> i64 {
    let id = NoticeId(Uuid::now_v7());
    rig.sql(&format!(
        "INSERT INTO notice VALUES ('{id}', 'seats', '{id}', '', now())"
    ))
    .await;
    rows_read(&mut rig.conn).await;
    let before = rows_read(&mut pool.get().await.unwrap()).await;
    assert_eq!(notices::open(pool, &[id]).await.unwrap().len(), 1);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(fence::notices_done(&conn, &[id]).await.unwrap().len(), 1);
    rows_read(&mut conn).await - before
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_reads_does_not_grow_with_the_tables() {
    let mut rig = Rig::new().await;
    let pool = rig.pool(1);
    let mut few = [0; 3];
    for seq in 1..=TIMES {
        few = [
            a_payment(&mut rig, &pool, seq).await,
            a_charge(&mut rig, &pool, seq).await,
            a_notice(&mut rig, &pool, seq).await,
        ];
    }
    rig.sql(OTHERS).await;
    let many = [
        a_payment(&mut rig, &pool, TIMES + 1).await,
        a_charge(&mut rig, &pool, TIMES + 1).await,
        a_notice(&mut rig, &pool, TIMES + 1).await,
    ];
    for (few, many) in few.into_iter().zip(many) {
        assert!(
            many <= few + MORE && many < GROWN,
            "{few} rows were read before, {many} behind {GROWN} others'"
        );
    }
}
