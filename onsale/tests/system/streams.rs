//! The stream of commands is deleted, replaced, or loses what was applied. What was promised is in
//! Postgres: it stays true, and the partitions go on in a new incarnation.

use crate::hall::{Hall, PATIENCE, reservation};
use crate::load::Load;
use crate::prefer::{hold_preferring, outcome};
use async_nats::jetstream;
use onsale_platform::{config, metric, nats};
use onsale_schema::Lane;
use onsale_schema::subjects::Subjects;
use onsale_testkit::SystemOptions;
use serde_json::json;
use std::time::{Duration, Instant};

/// Partitions whose log was read, whose messages would be missed.
pub const READ: &str =
    "SELECT count(*) AS n FROM partition WHERE lane = 'seats' AND applied_seq > 0";
/// Partitions that have gone on after a loss.
pub const RENEWED: &str =
    "SELECT count(*) AS n FROM partition WHERE lane = 'seats' AND incarnation > 0";

/// The streams, as an operator may reach for them.
struct Streams {
    jetstream: jetstream::Context,
    subjects: Subjects,
}

impl Streams {
    async fn of(hall: &Hall) -> Self {
        let client = nats::connect(&hall.system.nats_url, "test")
            .await
            .expect("NATS");
        Self {
            jetstream: nats::jetstream(client),
            subjects: Subjects::new(&hall.system.prefix).expect("a prefix"),
        }
    }

    fn seats(&self) -> String {
        self.subjects.stream(Lane::Seats)
    }

    async fn delete(&self, name: &str) {
        self.jetstream.delete_stream(name).await.expect("deleted");
    }

    /// Waits until the stream is there.
    async fn is_there(&self, name: &str) {
        let there = async {
            while self.jetstream.get_stream(name).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.expect(name);
    }
}

/// How often owners noticed that applied messages are missing, by their metrics.
async fn losses_noticed(hall: &Hall) -> u64 {
    let mut noticed = 0;
    for worker in &hall.system.workers {
        let url = format!("http://{}/metrics", worker.metrics_addr);
        let page = reqwest::get(url).await.expect("metrics").text().await;
        let page = page.expect("text");
        let lines = page
            .lines()
            .filter(|line| line.starts_with(metric::TAIL_LOST));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        noticed += values.sum::<u64>();
    }
    noticed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_under_load_is_made_again_and_all_goes_on() {
    let options = SystemOptions::default()
        .workers(2)
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 2000);
    let mut hall = Hall::open_with(options).await;
    let load = Load::start(&mut hall, 12).await;
    load.under_way(&hall, 20).await;
    let streams = Streams::of(&hall).await;
    let read = hall.number(READ).await;

    let deleted = Instant::now();
    streams.delete(&streams.seats()).await;
    streams.is_there(&streams.seats()).await;
    let made_after = deleted.elapsed();
    load.until(&hall, RENEWED, read).await;
    println!(
        "made again after {made_after:?}, all partitions went on after {:?}",
        deleted.elapsed()
    );
    assert!(
        made_after < Duration::from_secs(10),
        "{made_after:?}: more than a second, and a busy machine"
    );
    assert!(losses_noticed(&hall).await >= u64::try_from(read).expect("a count"));
    let everywhere = load.least(&hall).await + 20;
    load.under_way(&hall, everywhere).await;
    load.stop_after_faults(&mut hall).await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_that_is_deleted_is_made_again_when_it_is_missed() {
    let mut hall = Hall::open().await;
    let (date, buyer) = (hall.date(5).await, hall.buyer());
    let streams = Streams::of(&hall).await;
    for lane in [Lane::Ledger, Lane::Settlement] {
        let name = streams.subjects.stream(lane);
        streams.delete(&name).await;
        streams.is_there(&name).await;
    }
    // Nobody reads this one: it is missed when there is something to tell.
    let events = streams.subjects.events_stream();
    streams.delete(&events).await;
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    streams.is_there(&events).await;

    hall.api.charge(&buyer, 50_000).await.expect(201);
    let paid = hall.api.pay(&buyer, reservation(&held.body)).await;
    paid.expect(201);
    hall.map_becomes(date, "SAAAA").await;
    let told = async {
        let open = "SELECT count(*) AS n FROM outbox WHERE published_at IS NULL";
        while hall.number(open).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .expect("all is told");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_missing_at_the_cursor_is_noticed_and_changes_no_answer() {
    let mut hall = Hall::open().await;
    let (date, buyer) = (hall.date(5).await, hall.buyer());
    let body = |seat: &str| json!({ "scheduleId": date, "seats": [seat] });
    let mut last = None;
    for seat in ["A-1-1", "A-1-2"] {
        let held = hall
            .api
            .post(
                &buyer,
                "/reservations",
                &format!("hold-{seat}"),
                &body(seat),
            )
            .await;
        last = Some(reservation(&held.expect(201).body));
    }
    let cursor = "SELECT max(applied_seq) AS n FROM partition WHERE lane = 'seats'";
    let cursor = u64::try_from(hall.number(cursor).await).expect("a sequence");
    let streams = Streams::of(&hall).await;
    let stream = streams
        .jetstream
        .get_stream(streams.seats())
        .await
        .expect("a stream");
    stream.delete_message(cursor).await.expect("deleted");
    let noticed = async {
        while losses_noticed(&hall).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed)
        .await
        .expect("noticed");

    let again = hall
        .api
        .post(&buyer, "/reservations", "hold-A-1-2", &body("A-1-2"))
        .await;
    assert_eq!(Some(reservation(&again.expect(201).body)), last);
    hall.api.hold(&buyer, date, &["A-1-3"]).await.expect(201);
    assert_eq!(hall.number(RENEWED).await, 1);
    hall.map_becomes(date, "HHHAA").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_messages_with_the_numbers_of_lost_ones_are_not_taken_for_them() {
    let patient = SystemOptions::default()
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 30_000)
        .setting("ONSALE_LAG_MAX_MS", 60_000);
    let mut hall = Hall::open_with(patient).await;
    let (date, buyer, other) = (hall.date(10).await, hall.buyer(), hall.buyer());
    let mut first = Vec::new();
    for seat in ["A-1-1", "A-1-2", "A-1-3"] {
        let held = hold_preferring(&hall, &buyer, date, seat, "wait=30").await;
        first.push(reservation(&held.expect(201).body));
    }

    // While no owner looks, the stream is replaced and grows beyond the cursor.
    hall.system.workers[0].kill9().await;
    let streams = Streams::of(&hall).await;
    streams.delete(&streams.seats()).await;
    let settings = config::Streams::default();
    nats::update_streams(&streams.jetstream, &streams.subjects, &settings)
        .await
        .expect("an empty stream");
    let mut open = Vec::new();
    for (by, seat, status) in [
        (&other, "A-1-4", 201),
        (&other, "A-1-5", 201),
        (&other, "A-1-6", 201),
        (&other, "A-1-1", 409),
        (&buyer, "A-1-2", 201),
    ] {
        let answer = hold_preferring(&hall, by, date, seat, "respond-async").await;
        open.push((by, seat, status, answer.expect(202)));
    }
    hall.system.workers[0].restart().await.expect("a worker");
    for (by, seat, status, open) in open {
        let decided = outcome(&hall, by, &open).await;
        assert_eq!(decided["status"], status, "{seat}: {decided}");
        if seat == "A-1-2" {
            assert_eq!(
                reservation(&decided["body"]),
                first[1],
                "the same key, the same answer"
            );
        }
    }
    assert_eq!(hall.number(RENEWED).await, 1);
    assert_eq!(losses_noticed(&hall).await, 1);
    hall.map_becomes(date, "HHHHHHAAAA").await;
    hall.assert_sound().await;
}
