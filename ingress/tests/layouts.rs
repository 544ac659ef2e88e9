//! Layouts: what is read, and what is not read at all.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{CONCERT, start, until};
use tokio::task::JoinSet;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_date_takes_no_turn_of_those_that_there_are() {
    let bench = start(&[]).await;
    let buyer = bench.api.buyer().await;
    bench
        .sql(&format!(
            "INSERT INTO schedule (schedule_id, concert_id, starts_at, layout_hash) \
             SELECT gen_random_uuid(), '{CONCERT}', now(), n::text FROM generate_series(1, 8) AS n; \
             INSERT INTO sale (schedule_id, booking_opens_at, booking_closes_at, hold_ms, \
                               seats_per_user) \
             SELECT schedule_id, now(), now() + interval '1 day', 1000, 4 FROM schedule \
             WHERE layout_hash < 'a'"
        ))
        .await;
    let dates = bench
        .text("SELECT string_agg(schedule_id::text, ',') FROM schedule WHERE layout_hash < 'a'")
        .await;
    // Nobody can read seats; who tries gives up after two seconds.
    let mut locker = onsale_platform::db::connect(bench.db.url()).await.unwrap();
    let lock = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; LOCK TABLE seat";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut locker, lock)
        .await
        .unwrap();
    let mut loads = JoinSet::new();
    for date in dates.split(',') {
        let (api, path) = (bench.api.clone(), format!("/schedules/{date}/layout"));
        loads.spawn(async move { api.get(None, &path).await });
    }
    let waiting = "SELECT (count(*) = 4)::text FROM pg_locks \
                   WHERE NOT granted AND relation = 'seat'::regclass \
                     AND database = (SELECT oid FROM pg_database \
                                     WHERE datname = current_database())";
    until("all turns are taken", || async {
        bench.text(waiting).await == "true"
    })
    .await;
    let missing = bench.api.hold(&buyer, Uuid::now_v7(), &["A-1-1"]).await;
    missing.expect_problem(404, "not-found");
    let mut ended = 0;
    while loads.try_join_next().is_some() {
        ended += 1;
    }
    assert!(ended < 8, "it has waited for all of them");
    drop(locker);
}
