//! Facts on the events stream, as the operator sees them and as other systems count by them.

use crate::catalogue::patch;
use crate::hall::{Hall, PATIENCE, reservation};
use crate::receiver::{Answers, Receiver};
use crate::webhooks::{published, subscribe};
use async_nats::jetstream::{self, stream};
use onsale_platform::nats_users::User;
use onsale_platform::webhook::{self, Secret};
use onsale_platform::{clock, nats};
use onsale_schema::facts::Delivery;
use onsale_schema::subjects::Subjects;
use onsale_testkit::spawn::{Child, Signal, Tie, spawn};
use onsale_testkit::{Api, Buyer, Scratch, SystemOptions, ports};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use uuid::Uuid;

fn events(hall: &Hall, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command
        .arg("events")
        .args(args)
        .env("NATS_URL", hall.operator_url())
        .env("ONSALE_SUBJECT_PREFIX", &hall.system.prefix)
        .kill_on_drop(true);
    command
}

/// What is printed, a value a line.
pub async fn printed(hall: &Hall, args: &[&str]) -> Vec<Value> {
    let output: Output = events(hall, args).output().await.expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON lines")
}

pub fn ids(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["id"].as_str().expect("an id"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_replays_exactly_what_came_after_a_time() {
    let mut hall = Hall::open().await;
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let (here, there) = (hall.date(10).await, hall.date(10).await);
    assert!(printed(&hall, &[]).await.is_empty(), "nothing is no error");
    for seat in ["A-1-1", "A-1-2"] {
        api.hold(&buyer, here, &[seat]).await.expect(201);
    }
    let before = published(&mut hall).await;
    // What was published is on the stream; the host's clock is also the stream's.
    let since = clock::host_now().to_string();
    for date in [here, there] {
        api.hold(&buyer, date, &["A-1-3"]).await.expect(201);
    }
    let all = published(&mut hall).await;

    assert_eq!(ids(&printed(&hall, &[]).await), all);
    let after = printed(&hall, &["--since", &since]).await;
    assert_eq!(ids(&after), all[before.len()..]);
    assert_eq!(ids(&printed(&hall, &["--since", "1h"]).await), all);
    let first = printed(&hall, &["--limit", "1"]).await;
    assert_eq!(ids(&first), all[..1]);
    assert_eq!(first[0]["type"], "seats");
    assert_eq!(first[0]["data"]["facts"][0]["type"], "Held");
    assert_eq!(first[0]["aggregateSeq"], first[0]["data"]["version"]);
    let schedule = there.to_string();
    let one = printed(&hall, &["--topic", "seats", "--schedule", &schedule]).await;
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["aggregateId"], schedule.as_str());
    assert!(printed(&hall, &["--topic", "other"]).await.is_empty());

    // It goes on, and Ctrl-C ends it in good order.
    let now = clock::host_now().to_string();
    let mut following = events(&hall, &["--since", &now, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(following.stdout.take().expect("piped")).lines();
    api.hold(&buyer, there, &["A-1-4"]).await.expect(201);
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let line = line.expect("in time").expect("a line").expect("a line");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["aggregateId"], schedule.as_str());
    let pid = i32::try_from(following.id().expect("it runs")).expect("a pid");
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let ended = tokio::time::timeout(PATIENCE, following.wait()).await;
    assert!(ended.expect("in time").expect("an end").success());
}

/// Of a date: seats that are sold and that were cancelled, what was paid, went back and is a fee.
type Sales = [i64; 5];

/// What the tables say of a date.
async fn sales(hall: &mut Hall, date: Uuid) -> Sales {
    let of = format!("WHERE schedule_id = '{date}'");
    let paid = format!("payment JOIN reservation USING (reservation_id) {of}");
    let all = [
        format!(
            "count(*) FROM seat_claim JOIN reservation USING (reservation_id) \
                 WHERE status = 'PAID' AND reservation.schedule_id = '{date}'"
        ),
        format!("coalesce(sum(cardinality(seat_nos)), 0) FROM cancellation {of}"),
        format!("coalesce(sum(amount), 0) FROM {paid} AND payment.status = 'PAID'"),
        format!("coalesce(sum(refunded), 0) FROM cancellation {of}"),
        format!("coalesce(sum(fee), 0) FROM cancellation {of}"),
    ];
    let mut sales = [0; 5];
    for (number, what) in sales.iter_mut().zip(all) {
        let sql = format!("SELECT n::bigint FROM (SELECT {what}) AS x (n)");
        *number = hall.number(&sql).await;
    }
    sales
}

/// Who cancels gets half of it.
async fn date(hall: &mut Hall) -> Uuid {
    let date = hall.date(40).await;
    let fees = json!([{ "daysBefore": 0, "percent": 50 }]);
    let rules = json!({ "cancellation": { "fees": fees, "rounding": "UP", "unit": 100 } });
    let path = format!("/admin/schedules/{date}");
    patch(&hall.api, &hall.admin(), &path, &rules)
        .await
        .expect(200);
    date
}

/// Sells some seats, takes one back, gives some back, and leaves some held.
async fn trade(api: &Api, buyer: &Buyer, date: Uuid, row: u32) {
    api.charge(buyer, 100_000).await.expect(201);
    let label = |seat: u32| format!("A-1-{}", row * 5 + seat);
    let (a, b) = (label(1), label(2));
    let held = api.hold(buyer, date, &[&a, &b]).await.expect(201);
    let sold = reservation(&held.body);
    api.pay(buyer, sold).await.expect(201);
    let path = format!("/reservations/{sold}/cancellation");
    let key = Uuid::now_v7().to_string();
    let cancelled = api.post(buyer, &path, &key, &json!({ "seats": [a] })).await;
    cancelled.expect(200);
    let held = api.hold(buyer, date, &[&label(3)]).await.expect(201);
    let path = format!("/reservations/{}", reservation(&held.body));
    api.delete(buyer, &path).await.expect(204);
    api.hold(buyer, date, &[&label(4)]).await.expect(201);
}

fn numbers(of: &Value) -> Option<Sales> {
    let names = ["seatsSold", "seatsCancelled", "gross", "refunded", "fees"];
    let all: Option<Vec<i64>> = names.iter().map(|name| of[name].as_i64()).collect();
    all?.try_into().ok()
}

/// Waits until a report says of every date what the tables say.
async fn until_it_agrees(
    hall: &mut Hall,
    dates: &[Uuid],
    report: impl AsyncFn(Uuid) -> Option<Sales>,
) {
    for date in dates {
        let mut last = None;
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                // The owner learns of a sale a moment after the table.
                let expected = sales(hall, *date).await;
                let found = report(*date).await;
                if found == Some(expected) {
                    return;
                }
                last = Some((found, expected));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(waited.await.is_ok(), "{date}: found and expected {last:?}");
    }
}

fn stream_report(path: &Path, date: Uuid) -> Option<Sales> {
    let report: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    numbers(&report["dates"][date.to_string()])
}

fn example() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    let folder = own.ancestors().nth(2).expect("target/debug");
    folder.join("examples/sales_report")
}

async fn run_consumer(hall: &Hall, file: &Path) -> Child {
    let mut command = Tie::new(Signal::SIGKILL).command(example());
    command
        .arg(file)
        .env("NATS_URL", hall.system.nats_url_of(Some(User::Consumer)))
        .env("ONSALE_SUBJECT_PREFIX", &hall.system.prefix);
    spawn(command).await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_the_stream_that_is_killed_counts_nothing_twice() {
    let mut hall = Hall::open().await;
    let (api, scratch) = (
        hall.api.clone(),
        Scratch::new("consumer").expect("a folder"),
    );
    let file = scratch.path().join("report.json");
    let dates = [date(&mut hall).await, date(&mut hall).await];
    let buyers = hall.buyers(6);
    let mut consumer = run_consumer(&hall, &file).await;
    for (row, buyer) in (0..).zip(&buyers) {
        for date in dates {
            trade(&api, buyer, date, row).await;
        }
        if row % 2 == 1 {
            consumer.stop(Signal::SIGKILL, PATIENCE).await;
            consumer = run_consumer(&hall, &file).await;
        }
    }
    let report = async |date| stream_report(&file, date);
    until_it_agrees(&mut hall, &dates, report).await;

    // Somebody's nonsense, and then everything a second time.
    let subjects = Subjects::new(&hall.system.prefix).expect("a prefix");
    let client = nats::connect(&hall.system.nats_url, "test").await;
    let jetstream = nats::jetstream(client.expect("NATS"));
    let nonsense = jetstream.publish(subjects.event("seats", "x"), "\u{1}".into());
    nonsense.await.expect("sent").await.expect("stored");
    let last = repeat_all(&jetstream, &subjects).await;
    trade(&api, &hall.buyer(), dates[0], 7).await;
    until_it_agrees(&mut hall, &dates, report).await;
    let read = |name: &str| -> Value {
        let bytes = std::fs::read(&file).expect("a file");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")[name].clone()
    };
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}");
    };
    until("it reads the repetitions, too", &|| {
        read("streamSequence").as_u64() >= Some(2 * last)
    })
    .await;
    until_it_agrees(&mut hall, &dates, report).await;
    // The nonsense came twice.
    assert_eq!(read("gaps"), 2);
    let printed = printed(&hall, &[]).await;
    assert!(
        printed.len() as u64 >= 2 * last - 2,
        "it does not end there"
    );

    // The stream is made anew while the consumer runs, and has everything again.
    let name = subjects.events_stream();
    let before = read("streamCreated");
    jetstream.delete_stream(&name).await.expect("deleted");
    trade(&api, &hall.buyer(), dates[1], 6).await;
    until_it_agrees(&mut hall, &dates, report).await;
    until("it counts by the new stream", &|| {
        read("streamCreated") != before
    })
    .await;
    assert_eq!(read("gaps"), 2);
    consumer.stop(Signal::SIGKILL, PATIENCE).await;

    // The same stream ends before what the consumer has read, as one that has lost its end, and what is
    // new has numbers of what was read.
    let mut ahead: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    ahead["streamSequence"] = json!(1_000_000);
    std::fs::write(&file, ahead.to_string()).expect("written");
    trade(&api, &hall.buyer(), dates[0], 6).await;
    let consumer = run_consumer(&hall, &file).await;
    until_it_agrees(&mut hall, &dates, report).await;
    until("it counts by the stream as it is", &|| {
        read("streamSequence").as_u64() < Some(1_000_000)
    })
    .await;
    assert_eq!(read("gaps"), 2);
    consumer.stop(Signal::SIGKILL, PATIENCE).await;
}

/// Stores everything that is on the events stream once more, under the same ids, as a publisher may
/// that does not know what it has done. Returns how much it was.
async fn repeat_all(jetstream: &jetstream::Context, subjects: &Subjects) -> u64 {
    let mut stream = jetstream
        .get_stream(subjects.events_stream())
        .await
        .expect("the stream");
    let info = stream.info().await.expect("its state").clone();
    // So that it forgets ids at once. Twice: the first time the server may have read the window of before, and
    // wait for its end.
    for window_ms in [101, 100] {
        let forgetful = stream::Config {
            duplicate_window: Duration::from_millis(window_ms),
            ..info.config.clone()
        };
        let updated = jetstream.update_stream(forgetful).await;
        updated.expect("it is changed");
    }
    for sequence in 1..=info.state.last_sequence {
        let raw = stream.get_raw_message(sequence).await.expect("a message");
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let (subject, headers) = (raw.subject.clone(), raw.headers.clone());
                let sent = jetstream.publish_with_headers(subject, headers, raw.payload.clone());
                let stored = sent.await.expect("sent").await.expect("stored");
                if !stored.duplicate {
                    return;
                }
            }
        });
        waited.await.expect("it is stored again");
    }
    info.state.last_sequence
}

async fn run_subscriber(port: u16, database: &Path, secret: &str) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/consumers/sales_report.py");
    let mut command = Tie::new(Signal::SIGKILL).command(Path::new("python3"));
    command
        .arg(script)
        .arg("--listen")
        .arg(format!("127.0.0.1:{port}"))
        .arg("--database")
        .arg(database)
        .env("WEBHOOK_SECRET", secret);
    spawn(command).await.expect("it starts")
}

async fn subscriber_report(port: u16) -> Option<Value> {
    let answer = reqwest::get(format!("http://127.0.0.1:{port}/report")).await;
    answer.ok()?.json().await.ok()
}

/// Waits until a subscriber has counted so many deliveries: also those that change no number of its
/// report.
async fn until_it_has_all(port: u16, count: usize) -> Value {
    let mut last = None;
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            last = subscriber_report(port).await;
            if last
                .as_ref()
                .is_some_and(|report| report["sequence"] == count)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "{count}: {last:?}");
    last.expect("a report")
}

fn of_date(report: &Value, date: Uuid) -> Option<Sales> {
    let all = report["schedules"].as_array()?;
    let sales = all
        .iter()
        .find(|sales| sales["scheduleId"] == date.to_string())?;
    numbers(sales)
}

/// The status that a delivery is answered with, signed at a time.
async fn post(port: u16, secret: &str, at_s: i64, id: &str, body: &[u8]) -> u16 {
    let secret: Secret = secret.parse().expect("a secret");
    let at_s = u64::try_from(at_s).expect("after 1970");
    let signature = webhook::sign(&[secret], id, at_s, body);
    let request = reqwest::Client::new()
        .post(format!("http://127.0.0.1:{port}/"))
        .header(webhook::ID, id)
        .header(webhook::TIMESTAMP, at_s.to_string())
        .header(webhook::SIGNATURE, signature)
        .body(body.to_vec());
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_is_killed_counts_nothing_twice() {
    let options = SystemOptions::default()
        .setting("ONSALE_WEBHOOK_RETRY_MIN_MS", 50)
        .setting("ONSALE_WEBHOOK_RETRY_MAX_MS", 200);
    let mut hall = Hall::open_with(options).await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let scratch = Scratch::new("subscriber").expect("a folder");
    let database = scratch.path().join("report.db");
    let dates = [date(&mut hall).await, date(&mut hall).await];
    let port = ports::free().expect("a port");
    let url = format!("http://127.0.0.1:{port}/");
    let subscription = subscribe(&api, &admin, &url).await;
    let secret = subscription.secret.as_str();
    // Somebody else who gets the same, to send it again.
    let witness = Receiver::start(Answers::Status(204)).await;
    subscribe(&api, &admin, &witness.url()).await;

    let buyers = hall.buyers(6);
    let mut subscriber = run_subscriber(port, &database, secret).await;
    for (row, buyer) in (0..).zip(&buyers) {
        for date in dates {
            trade(&api, buyer, date, row).await;
        }
        if row % 2 == 1 {
            subscriber.stop(Signal::SIGKILL, PATIENCE).await;
            subscriber = run_subscriber(port, &database, secret).await;
        }
    }
    let report = async |date| of_date(&subscriber_report(port).await?, date);
    until_it_agrees(&mut hall, &dates, report).await;

    // Everything comes a second time, in another order; what has never come would be a gap.
    let facts = published(&mut hall).await.len();
    until_it_has_all(port, facts).await;
    let seen = witness
        .until("all", |received| received.len() >= facts)
        .await;
    let now_s = clock::host_now().micros() / 1_000_000;
    for one in seen.iter().rev() {
        let id = one.header(webhook::ID);
        assert_eq!(post(port, secret, now_s, id, &one.body).await, 204);
    }
    // And what is not genuine is not counted.
    let mut forged: Delivery = seen[0].delivery();
    forged.aggregate_seq += 1_000_000;
    let body = serde_json::to_vec(&forged).expect("JSON");
    let other = Secret::of_bytes(&[7; 32]).expect("a secret").expose();
    assert_eq!(post(port, &other, now_s, &forged.id, &body).await, 401);
    assert_eq!(
        post(port, secret, now_s - 400, &forged.id, &body).await,
        401
    );
    assert_eq!(
        post(port, secret, now_s + 400, &forged.id, &body).await,
        401
    );
    // A time that is no time is refused before anything is reckoned with it.
    let timeless = reqwest::Client::new()
        .post(&url)
        .header(webhook::ID, &forged.id)
        .header(webhook::TIMESTAMP, "9".repeat(400))
        .header(webhook::SIGNATURE, "v1,AAAA")
        .body(body);
    let answer = timeless.send().await.expect("an answer");
    assert_eq!(answer.status(), 401);
    trade(&api, &hall.buyer(), dates[1], 7).await;
    until_it_agrees(&mut hall, &dates, report).await;
    let facts = published(&mut hall).await.len();
    let whole = until_it_has_all(port, facts).await;
    assert_eq!(whole["gaps"], 0, "{whole}");

    // What it can't read is taken, and said to be missing.
    let mut unread: Delivery = seen[0].delivery();
    (unread.aggregate_id, unread.data) = (Uuid::now_v7(), Value::Null);
    let unread_body = serde_json::to_vec(&unread).expect("JSON");
    for (body, gaps) in [(&unread_body[..], 1), (b"nonsense", 2)] {
        assert_eq!(post(port, secret, now_s, "some-id", body).await, 204);
        let whole = subscriber_report(port).await.expect("a report");
        assert_eq!(whole["gaps"], gaps, "{whole}");
    }
    until_it_agrees(&mut hall, &dates, report).await;

    // What is cancelled before it is told to be sold is not sold.
    let (late, held) = (Uuid::now_v7(), Uuid::now_v7());
    let hold = json!({ "reservationId": held, "seats": [1, 2] });
    let told = [
        json!({ "type": "Held", "hold": hold }),
        json!({ "type": "Cancelled", "reservationId": held, "seats": [1] }),
        json!({ "type": "Sold", "reservationId": held }),
    ];
    for (number, fact) in (1..).zip(told) {
        let mut one: Delivery = seen[0].delivery();
        one.topic = "seats".to_owned();
        (one.aggregate_id, one.aggregate_seq) = (late, number);
        one.data = json!({ "facts": [fact] });
        let body = serde_json::to_vec(&one).expect("JSON");
        assert_eq!(post(port, secret, now_s, "some-id", &body).await, 204);
    }
    assert_eq!(report(late).await, Some([1, 1, 0, 0, 0]));
    subscriber.stop(Signal::SIGKILL, PATIENCE).await;
}
