//! The live map: what it costs to look at it, and that everybody who looks, by GET or by a stream,
//! sees the same of each version, and comes to what is in Postgres, whoever is killed meanwhile. What
//! one ingress shows never goes back.

mod crowd;
pub mod stream;

use crate::hall::{Hall, PARTITIONS, PATIENCE};
use crowd::Crowd;
use onsale_platform::nats_users::User;
use onsale_platform::{db, nats};
use onsale_schema::message::encode;
use onsale_schema::seats::{MapBroadcast, MapChange};
use onsale_schema::status::ClaimState;
use onsale_schema::subjects::Subjects;
use onsale_schema::{ScheduleId, SeatNo, Timestamp, partition};
use onsale_testkit::api::text;
use onsale_testkit::{Api, SystemOptions};
use reqwest::Method;
use std::ops::Range;
use std::time::{Duration, Instant};
use stream::Stream;
use tokio::task::JoinSet;
use uuid::Uuid;

const SEATS: u32 = 60;
/// Who finds nobody there tries elsewhere after so long.
const AGAIN: Duration = Duration::from_millis(20);

fn seats_path(date: Uuid) -> String {
    format!("/schedules/{date}/seats")
}

/// Takeovers of all partitions so far.
async fn epochs(hall: &mut Hall) -> i64 {
    hall.number("SELECT sum(epoch)::bigint AS n FROM partition WHERE lane = 'seats'")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_never_go_back_while_one_owner_after_the_other_is_killed() {
    let options = SystemOptions::default().ingresses(2).workers(3);
    let mut hall = Hall::open_with(options).await;
    let mut crowd = Crowd::gather(&mut hall).await;
    crowd.go_on(&mut hall, 50).await;
    let before = epochs(&mut hall).await;
    for round in 0..6 {
        let worker = round % hall.system.workers.len();
        hall.system.workers[worker].kill9().await;
        crowd.go_on(&mut hall, 50).await;
        hall.system.workers[worker]
            .restart()
            .await
            .expect("a worker");
        crowd.go_on(&mut hall, 20).await;
    }
    assert!(epochs(&mut hall).await > before, "nothing was taken over");
    let shared = crowd.agree(&mut hall).await;
    assert!(shared > 100, "{shared}");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_of_the_stream_is_the_map_of_get_though_owner_and_ingress_are_killed() {
    let options = SystemOptions::default().ingresses(2).workers(2);
    let mut hall = Hall::open_with(options).await;
    let mut crowd = Crowd::gather(&mut hall).await;
    crowd.go_on(&mut hall, 50).await;
    for round in 0..4 {
        hall.system.workers[round % 2].kill9().await;
        hall.system.ingresses[round % 2].kill9().await;
        hall.system.ingresses[round % 2]
            .restart()
            .await
            .expect("an ingress");
        crowd.go_on(&mut hall, 30).await;
        hall.system.workers[round % 2]
            .restart()
            .await
            .expect("a worker");
        crowd.go_on(&mut hall, 30).await;
    }
    let shared = crowd.agree(&mut hall).await;
    assert!(shared > 100, "{shared}");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_poll_nor_a_stream_costs_a_query() {
    const POLLS: usize = 10_000;
    const STREAMS: usize = 1000;
    const CHANGES: i64 = 200;
    /// What the ingress asks for by itself is asked a few times a second, and told generously.
    const ASKED_PER_S_MAX: u64 = 8;
    let options = SystemOptions::default().setting("ONSALE_EVENT_STREAMS_PER_ADDRESS_MAX", 0);
    let mut hall = Hall::open_with(options).await;
    let date = hall.date(SEATS).await;
    let held = hall.api.hold(&hall.buyer(), date, &["A-1-1"]).await;
    let _ = held.expect(201);
    let first = hall.api.get(None, &seats_path(date)).await.expect(200);
    let etag = first.headers["etag"].clone();
    assert!(hall.system.workers[0].stop().await.success());
    // A session adds to the counters when it ends, at the latest: ours is in another database, and in
    // the end all others are gone.
    let url = hall.system.db.url().to_owned();
    let (server, name) = url.rsplit_once('/').expect("an address");
    let postgres = format!("{server}/postgres");
    hall.conn = db::connect(&postgres).await.expect("a connection");
    let counted = format!(
        "SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = '{name}'"
    );
    let tuples = format!(
        "SELECT tup_returned + tup_fetched AS n FROM pg_stat_database WHERE datname = '{name}'"
    );
    let sessions = format!(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = '{name}' \
                            AND backend_type = 'client backend' AND usename NOT LIKE '%ingress%'"
    );
    sessions_end(&mut hall, &sessions).await;
    let (before, tuples_before) = (hall.number(&counted).await, hall.number(&tuples).await);

    let started = Instant::now();
    let mut lookers = JoinSet::new();
    for looker in 0..8 {
        let (api, etag) = (hall.api.clone(), etag.clone());
        lookers.spawn(async move {
            let mut streams = Vec::new();
            for (nth, poll) in (looker..POLLS).step_by(8).enumerate() {
                let mut request = api.request(Method::GET, &seats_path(date));
                let expected = match poll % 3 {
                    0 => 200,
                    1 => {
                        request = request.header("accept-encoding", "gzip");
                        200
                    }
                    _ => {
                        request = request.header("if-none-match", etag.clone());
                        304
                    }
                };
                let answer = request.send().await.expect("an answer");
                assert_eq!(answer.status(), expected);
                if nth % (POLLS / STREAMS) == 0 {
                    let mut stream = Stream::open(&api, date, None).await.expect("a stream");
                    assert!(stream.block().await.expect("a block").is_some());
                    streams.push(stream);
                }
            }
            streams
        });
    }
    let streams: Vec<Stream> = lookers.join_all().await.into_iter().flatten().collect();
    assert_eq!(streams.len(), STREAMS);
    // What the owner tells, which has left.
    let version = first.body["version"].as_i64().expect("a version");
    owner_tells(&hall, date, version..version + CHANGES).await;
    let last = format!("id: {}\n", version + CHANGES);
    for mut stream in streams {
        while !stream
            .block()
            .await
            .expect("whole")
            .expect("a block")
            .starts_with(&last)
        {}
    }
    assert!(hall.system.ingresses[0].stop().await.success());
    let took = started.elapsed();
    let any = format!(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = '{name}' \
                       AND backend_type = 'client backend'"
    );
    sessions_end(&mut hall, &any).await;
    let asked = hall.number(&counted).await - before;
    let read = hall.number(&tuples).await - tuples_before;
    println!(
        "{asked} transactions, {read} rows in {took:?} of {POLLS} polls and {STREAMS} streams"
    );
    let most = 100 + took.as_secs() * ASKED_PER_S_MAX;
    assert!(most < POLLS as u64 / 10, "{took:?} is too long to tell");
    assert!(
        u64::try_from(asked).expect("a count") < most,
        "{asked} transactions in {took:?}"
    );
}

/// Tells changes of a date's first seats, one for each of these versions.
async fn owner_tells(hall: &Hall, date: Uuid, versions: Range<i64>) {
    let subjects = Subjects::new(&hall.system.prefix).expect("a prefix");
    let subject = subjects.map(partition::of_schedule(ScheduleId(date), PARTITIONS));
    let url = hall.system.nats_url_of(Some(User::Workers));
    let nats = nats::connect(&url, "test").await.expect("NATS");
    for from_version in versions {
        let seat = i32::try_from(from_version % 10).expect("a digit");
        let change = MapChange {
            schedule_id: ScheduleId(date),
            from_version,
            version: from_version + 1,
            at: Timestamp::EPOCH,
            changes: vec![(SeatNo(seat), Some(ClaimState::Held))],
            layout_no: None,
        };
        let maps = MapBroadcast {
            maps: vec![change],
            sent_at: None,
        };
        let told = nats.publish(subject.clone(), encode(&maps).into()).await;
        told.expect("told");
    }
    nats.flush().await.expect("told");
}

async fn sessions_end(hall: &mut Hall, sql: &str) {
    let ended = async {
        while hall.number(sql).await > 0 {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("sessions end");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_ended_when_the_ingress_stops_and_told_when_to_come_back() {
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let date = hall.date(SEATS).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = Stream::open(&hall.api, date, None).await.expect("a stream");
        let retry = stream.block().await.expect("whole").expect("a block");
        let retry_ms = retry.strip_prefix("retry: ").expect("when to come back");
        let retry_ms: u32 = retry_ms.parse().expect("a number");
        assert!((1000..=5000).contains(&retry_ms), "{retry_ms}");
        streams.push(stream);
    }
    let asked = Instant::now();
    let stopped = hall.system.ingresses[0].stop();
    let ended = async {
        let mut last = String::new();
        for mut stream in streams {
            while let Some(block) = stream.block().await.expect("it ends, and does not break") {
                let id = block.lines().find_map(|line| line.strip_prefix("id: "));
                last = id.map_or(last, str::to_owned);
            }
        }
        last
    };
    let (stopped, last) = tokio::join!(stopped, ended);
    assert!(stopped.success());
    println!("ended after {:?}", asked.elapsed());
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "that is the drain's time"
    );
    // What happens meanwhile is not missed.
    let other = Api::new(hall.system.url(1));
    let _ = other
        .hold(&hall.buyer(), date, &["A-1-2"])
        .await
        .expect(201);
    let mut back = Stream::open(&other, date, Some(&last))
        .await
        .expect("a stream");
    loop {
        let block = back.block().await.expect("whole").expect("a block");
        if block.contains("event: seats") && block.contains(r#"[1,"H"]"#) {
            break;
        }
        if block.contains("event: reset") {
            let map = other.get(None, &seats_path(date)).await.expect(200).body;
            if text(&map["seats"]).starts_with("AH") {
                break;
            }
        }
    }
}
