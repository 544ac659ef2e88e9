//! After a restore of Postgres from a backup: no number that was told is taken for something else's.

use crate::facts::{ids, printed};
use crate::hall::{Hall, reservation};
use crate::passes::hold;
use crate::receiver::{Answers, Receiver};
use crate::room::line::{LONG_AGO, Line, status};
use crate::webhooks::{published, subscribe};
use onsale_ingress::room::Signer;
use onsale_platform::{clock, nats};
use onsale_schema::admission::{Pass, PolicyChange};
use onsale_schema::facts::parts_of;
use onsale_schema::status::QueueMode;
use onsale_schema::subjects::Subjects;
use onsale_testkit::api::text;
use onsale_testkit::{Api, SystemOptions, system};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::process::Command;
use uuid::Uuid;

/// What a backup would have of the rows that tests set back.
const BACKUP: &str = "\
    CREATE TABLE kept_sale AS SELECT schedule_id, map_version FROM sale; \
    CREATE TABLE kept_payment_facts AS TABLE payment_facts; \
    CREATE TABLE kept_outbox AS SELECT topic, aggregate_id, seq FROM outbox; \
    CREATE TABLE kept_feed AS SELECT last_no FROM fact_feed; \
    CREATE TABLE kept_webhook AS SELECT webhook_id, cursor_no, sequence FROM webhook; \
    CREATE TABLE kept_room AS TABLE waiting_room; \
    CREATE TABLE kept_ticket AS SELECT ticket_id FROM ticket";
/// Sets them back.
const RESTORE: &str = "\
    UPDATE sale s SET map_version = k.map_version FROM kept_sale k \
        WHERE s.schedule_id = k.schedule_id; \
    DELETE FROM payment_facts; INSERT INTO payment_facts TABLE kept_payment_facts; \
    DELETE FROM outbox o WHERE NOT EXISTS (SELECT FROM kept_outbox k WHERE k.topic = o.topic \
        AND k.aggregate_id = o.aggregate_id AND k.seq = o.seq); \
    UPDATE fact_feed SET last_no = k.last_no FROM kept_feed k; \
    UPDATE webhook w SET cursor_no = k.cursor_no, sequence = k.sequence FROM kept_webhook k \
        WHERE w.webhook_id = k.webhook_id; \
    DELETE FROM ticket t WHERE NOT EXISTS (SELECT FROM kept_ticket k \
        WHERE k.ticket_id = t.ticket_id); \
    UPDATE waiting_room w SET version = k.version, arrivals = k.arrivals, digest = k.digest, \
        front = k.front, admissions = k.admissions, rate_used = k.rate_used, latest = k.latest \
        FROM kept_room k WHERE w.schedule_id = k.schedule_id";

/// Runs `onsale restored`; returns how it ends, and what it says.
async fn restored(hall: &Hall, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_onsale"))
        .arg("restored")
        .args(args)
        .env("DATABASE_URL", hall.system.db.url())
        .env("NATS_URL", hall.operator_url())
        .env("ONSALE_SUBJECT_PREFIX", &hall.system.prefix)
        .kill_on_drop(true)
        .output();
    let output = output.await.expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8(said).expect("UTF-8"),
    )
}

async fn stop(hall: &Hall) {
    assert!(hall.system.ingresses[0].stop().await.success());
    assert!(hall.system.workers[0].stop().await.success());
}

async fn start(hall: &mut Hall) -> Api {
    hall.system.workers[0].restart().await.expect("a worker");
    let ingress = &mut hall.system.ingresses[0];
    ingress.restart().await.expect("an ingress");
    Api::new(hall.system.url(0))
}

/// Sells a seat, until all of it is told; returns the ids of all facts that there are.
async fn sell(hall: &mut Hall, api: &Api, date: Uuid, seat: &str) -> Vec<String> {
    let buyer = hall.buyer();
    api.charge(&buyer, 10_000).await.expect(201);
    let held = api.hold(&buyer, date, &[seat]).await.expect(201);
    let paid = api.pay(&buyer, reservation(&held.body)).await;
    paid.expect(201);
    let open = "SELECT count(*) AS n FROM notice WHERE done_at IS NULL";
    hall.becomes(open, 0).await;
    published(hall).await
}

/// The last numbers of a list of facts, as somebody remembers them who counts.
fn seen(ids: &[String]) -> BTreeMap<(&str, Uuid), i64> {
    let mut seen = BTreeMap::new();
    for id in ids {
        let (topic, aggregate, seq) = parts_of(id).expect("an id");
        let last = seen.entry((topic, aggregate)).or_insert(seq);
        *last = seq.max(*last);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_after_a_restore_have_numbers_that_nobody_was_told() {
    let mut hall = Hall::open().await;
    let api = hall.api.clone();
    let receiver = Receiver::start(Answers::Status(204)).await;
    subscribe(&api, &hall.admin(), &receiver.url()).await;
    let dates = [hall.date(10).await, hall.date(10).await];
    let before = sell(&mut hall, &api, dates[0], "A-1-1").await;
    let all_came = |count| move |received: &[_]| received.len() == count;
    receiver.until("the first", all_came(before.len())).await;
    // And that is noted: else they come again after the restore, as they should.
    let behind =
        "SELECT count(*) AS n FROM webhook WHERE cursor_no < (SELECT last_no FROM fact_feed)";
    hall.becomes(behind, 0).await;
    hall.sql(BACKUP).await;
    let lost = hall.date(10).await;
    for (date, seat) in [(dates[0], "A-1-2"), (dates[1], "A-1-1"), (lost, "A-1-1")] {
        sell(&mut hall, &api, date, seat).await;
    }
    let told = published(&mut hall).await;
    let received = receiver.until("all", all_came(told.len())).await;
    let last_sequence = received.last().expect("some").delivery().sequence;

    let (ended, said) = restored(&hall, &[]).await;
    assert_eq!(ended, Some(1), "{said}");
    assert!(said.contains("stop them first"), "{said}");
    stop(&hall).await;
    hall.sql(RESTORE).await;
    let unmake = format!(
        "SET session_replication_role = replica; DELETE FROM sale WHERE schedule_id = '{lost}'; \
         RESET session_replication_role"
    );
    hall.sql(&unmake).await;
    let version = format!(
        "SELECT map_version AS n FROM sale WHERE schedule_id = '{}'",
        dates[0]
    );
    let fallen_back = hall.number(&version).await;
    let (ended, dry) = restored(&hall, &["--dry-run"]).await;
    assert_eq!(ended, Some(0), "{dry}");
    assert_eq!(hall.number(&version).await, fallen_back);
    let (ended, said) = restored(&hall, &[]).await;
    assert_eq!(ended, Some(0), "{said}");
    for ((topic, id), last) in seen(&told) {
        let line = match id == lost {
            true => format!("{topic} {id}: up to {last}\n"),
            false => format!("{topic} {id}: {last}\n"),
        };
        assert!(said.contains(&line) && dry.contains(&line), "{line}{said}");
    }
    let (ended, said) = restored(&hall, &[]).await;
    assert_eq!(ended, Some(0), "{said}");
    assert!(said.starts_with("0 counters"), "once more: {said}");

    let api = start(&mut hall).await;
    sell(&mut hall, &api, dates[0], "A-1-3").await;
    let now = sell(&mut hall, &api, dates[1], "A-1-2").await;
    let new: Vec<String> = now.into_iter().filter(|id| !before.contains(id)).collect();
    assert!(new.len() >= 6, "{new:?}");
    // Whoever skips what is not higher than what it knows skips none of it.
    let known = seen(&told);
    let stream = printed(&hall, &[]).await;
    let mut after: Vec<&str> = ids(&stream).split_off(told.len());
    let mut expected: Vec<&str> = new.iter().map(String::as_str).collect();
    for id in &after {
        let (topic, aggregate, seq) = parts_of(id).expect("an id");
        assert!(seq > known[&(topic, aggregate)] + 1, "{id} after {known:?}");
    }
    // Those of two aggregates may change places.
    after.sort_unstable();
    expected.sort_unstable();
    assert_eq!(after, expected);
    let received = receiver.until("the new", all_came(told.len() + new.len()));
    let received = received.await;
    let sequences = received[told.len()..]
        .iter()
        .map(|one| one.delivery().sequence);
    let first = received[told.len()].delivery().sequence;
    assert!(
        first > last_sequence + 1,
        "a gap says that facts are missing"
    );
    assert!(sequences.eq(first..first + i64::try_from(new.len()).expect("few")));

    // A stream that does not reach back to the backup says less.
    stop(&hall).await;
    hall.sql("UPDATE partition SET decided_at = 'epoch'; DELETE FROM outbox")
        .await;
    let client = nats::connect(&hall.system.nats_url, "test").await;
    let name = Subjects::new(&hall.system.prefix).expect("a prefix");
    let jetstream = nats::jetstream(client.expect("NATS"));
    let stream = jetstream.get_stream(name.events_stream()).await;
    let stream = stream.expect("the stream");
    stream.purge().keep(1).await.expect("purged");
    let (ended, said) = restored(&hall, &[]).await;
    assert_eq!(ended, Some(3), "{said}");
    assert!(said.contains("NOT ALL IS KNOWN"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_a_ticket_in_a_restore_is_told_so_and_nobody_else_s_place() {
    let policy = PolicyChange {
        mode: Some(QueueMode::Fifo),
        opens_at: Some(LONG_AGO),
        capacity: Some(1),
        rate_per_second: Some(1000),
        ..PolicyChange::default()
    };
    let mut line = Line::start(SystemOptions::default(), policy).await;
    let api = line.hall.api.clone();
    let (mut all, tickets) = line.behind_the_first(&api, 2).await;
    let admitted = line.becomes(&api, &all[0], &tickets[0], "ADMITTED").await;
    line.hall.sql(BACKUP).await;
    // Of accounts that the backup has, since streams are opened by those only.
    let (loses, comes) = (api.buyer().await, line.hall.buyer());
    let lost = line.ticket(&api, &loses).await;
    line.becomes(&api, &loses, &lost, "WAITING").await;

    stop(&line.hall).await;
    line.hall.sql(RESTORE).await;
    let (ended, said) = restored(&line.hall, &[]).await;
    assert_eq!(ended, Some(0), "{said}");
    assert!(said.contains("1 waiting rooms"), "{said}");
    let api = start(&mut line.hall).await;

    // Another one has the number now, and its ticket is as good as any.
    let found = line.ticket(&api, &comes).await;
    let told = line.becomes(&api, &comes, &found, "WAITING").await;
    assert_eq!(
        (&told["position"], &told["ticket"]),
        (&json!(3), &json!(found))
    );
    let poll = line.poll(&api, &loses, Some(&lost)).await;
    poll.expect_problem(404, "not-found");
    let nothing = json!({});
    let token = api.post(&loses, "/stream-tokens", "a-stream", &nothing);
    let token = token.await.expect(201).body;
    let events = format!(
        "/schedules/{}/events?token={}&queueTicket={lost}",
        line.date,
        text(&token["streamToken"])
    );
    let stream = api.get(None, &events).await;
    stream.expect_problem(403, "queue-ticket-invalid");
    // Nor is a pass for it good for anything.
    let signer = Signer::new(&system::TOKEN_SECRET.parse().expect("a secret"));
    let pass = signer.sign_pass(&Pass {
        ticket: signer.read_ticket(&lost).expect("a ticket"),
        expires_at: clock::host_now().plus_ms(600_000),
        holds_max: 10,
    });
    let seats = json!({ "scheduleId": line.date, "seats": ["A-1-1"] });
    let held = hold(&api, &loses, "a-lost-pass", &seats, Some(&pass)).await;
    held.expect_problem(403, "queue-pass-expired");
    let anew = line.ticket(&api, &loses).await;
    let told = line.becomes(&api, &loses, &anew, "WAITING").await;
    assert_eq!(told["position"], 4);

    // Who was there before keeps its place, and is given it in another ticket.
    for (nth, (buyer, ticket)) in all.drain(..).zip(&tickets).enumerate() {
        let told = line.poll(&api, &buyer, Some(ticket)).await.expect(200).body;
        assert_eq!(told["position"], nth + 1, "{told}");
        let new = text(&told["ticket"]);
        assert_ne!(new, ticket);
        let ids = [ticket, new].map(|text| signer.read_ticket(text).expect("ours").ticket_id);
        assert_eq!(ids[0], ids[1]);
        let again = line.poll(&api, &buyer, Some(new)).await.expect(200).body;
        assert_eq!(again["ticket"], new, "it is good");
        if nth == 0 {
            assert_eq!(status(&told), "ADMITTED");
            let old = Some(text(&admitted["pass"]));
            let held = hold(&api, &buyer, "the-old-pass", &seats, old).await;
            held.expect_problem(403, "queue-pass-expired");
            let pass = Some(text(&told["pass"]));
            let held = hold(&api, &buyer, "the-new-pass", &seats, pass).await;
            held.expect(201);
        }
    }
}
