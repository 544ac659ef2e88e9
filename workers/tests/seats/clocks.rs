//! A nats-server whose clock is wrong, as its partitions' owner sees it: the owner's is set instead.

use crate::number;
use crate::rig::Rig;
use diesel::sql_query;
use diesel_async::RunQueryDsl;
use futures_util::StreamExt;
use onsale_platform::{Clock, db};
use onsale_schema::message::{Lag, decode};
use onsale_schema::seats::Outcome;
use onsale_schema::{Lane, Timestamp};
use onsale_workers::runtime;
use onsale_workers::seats::Seats;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const MINUTE_MS: i64 = 60_000;
/// What is clamped, and some slack for a busy machine.
const NEAR_MS: i64 = 15_000;

fn advance(clock: &Clock, ms: i64) {
    let local = clock.local();
    clock.observe(local, clock.now().plus_ms(ms), local);
}

async fn held_at(rig: &mut Rig, schedule: onsale_schema::ScheduleId, seat: i32) -> Timestamp {
    let hold = rig.hold(schedule, &[seat]);
    match rig.ask(hold).await {
        Outcome::Held(hold) => hold.held_at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_behind_begins_no_hold_in_the_past_and_lags_not() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(1000, 600_000, 4).await;
    let ctx = rig.context().await;
    let clock = ctx.clock.clone();
    advance(&clock, MINUTE_MS);
    advance(&rig.clock, MINUTE_MS);
    // Without the task that measures the clock.
    let stop = CancellationToken::new();
    let mut owner = JoinSet::from_iter([runtime::run::<Seats, _>(ctx, stop.clone())]);

    // It knows as soon as it has seen that there was nothing to read.
    let mut seats = 0..999;
    loop {
        let seat = seats.next().expect("it is noticed");
        let at = held_at(&mut rig, schedule, seat).await;
        if clock.now().ms_since(at) < NEAR_MS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // While its commit waits, it tells how long that has been, and not a minute more.
    let subject = rig.subjects.lag(Lane::Seats, rig.partition_of(schedule));
    let mut lags = rig.nats.subscribe(subject).await.expect("a subscription");
    let mut blocker = db::connect(rig.db.url()).await.expect("a connection");
    for sql in ["BEGIN", "SELECT FROM partition FOR UPDATE"] {
        sql_query(sql).execute(&mut blocker).await.expect(sql);
    }
    let hold = rig.hold(schedule, &[999]);
    let waiting = rig.send(vec![hold]).await;
    let lag = loop {
        let lag = lags.next().await.expect("the subscription lives");
        let lag: Lag = decode(&lag.payload).expect("a report");
        if lag.undecided > 0 {
            break lag;
        }
    };
    assert!(lag.age_ms < NEAR_MS.unsigned_abs(), "{lag:?}");
    sql_query("ROLLBACK")
        .execute(&mut blocker)
        .await
        .expect("an end");
    let outcome = rig.outcomes(waiting).await.remove(0);
    assert!(matches!(outcome, Outcome::Held(_)), "{outcome:?}");
    let sql = "SELECT count(*) AS n FROM reservation WHERE ended_at IS NOT NULL";
    assert_eq!(number(&mut rig, sql).await, 0, "none ended");
    stop.cancel();
    owner
        .join_next()
        .await
        .expect("one task")
        .expect("no panic");
}
