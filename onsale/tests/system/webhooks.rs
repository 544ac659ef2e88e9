//! Facts over HTTP: in order, signed, again until they are taken, and never lost without a word.

use crate::hall::{Hall, PATIENCE, reservation};
use crate::receiver::{Answers, Received, Receiver};
use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use onsale_testkit::api::text;
use onsale_testkit::{Api, Buyer, SystemOptions};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// Retries quickly, and gives up after four attempts.
fn impatient() -> SystemOptions {
    SystemOptions::default()
        .setting("ONSALE_WEBHOOK_RETRY_MIN_MS", 40)
        .setting("ONSALE_WEBHOOK_RETRY_MAX_MS", 1000)
        .setting("ONSALE_WEBHOOK_ATTEMPTS_MAX", 4)
        .setting("ONSALE_WEBHOOK_TIMEOUT_MS", 500)
}

/// A subscriber that was made.
pub struct Subscription {
    pub id: Uuid,
    pub secret: String,
}

impl Subscription {
    pub fn path(&self) -> String {
        format!("/admin/webhooks/{}", self.id)
    }
}

pub async fn subscribe(api: &Api, admin: &Buyer, url: &str) -> Subscription {
    let key = Uuid::now_v7().to_string();
    let body = json!({ "url": url });
    let made = api.post(admin, "/admin/webhooks", &key, &body).await;
    let made = made.expect(201).body;
    Subscription {
        id: onsale_testkit::api::id(&made["webhookId"]),
        secret: text(&made["secret"]).to_owned(),
    }
}

pub async fn patch(api: &Api, admin: &Buyer, path: &str, body: &Value) -> Value {
    let request = api.request(Method::PATCH, path).bearer_auth(&admin.token);
    api.send(request.json(body)).await.expect(200).body
}

async fn shown(api: &Api, admin: &Buyer, path: &str) -> Value {
    api.get(Some(admin), path).await.expect(200).body
}

/// Waits until a subscriber is shown so.
pub async fn until_shown(
    api: &Api,
    admin: &Buyer,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            last = shown(api, admin, path).await;
            if is_so(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{last}");
    last
}

/// The ids of all facts, in the order of their numbers, once all are published.
pub async fn published(hall: &mut Hall) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        id: String,
    }
    let sql = "SELECT topic || '-' || aggregate_id || '-' || seq AS id FROM outbox \
               WHERE feed_no IS NOT NULL ORDER BY feed_no";
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let open = "SELECT count(*) AS n FROM outbox WHERE feed_no IS NULL";
            // In this order: one that was open while the others were listed would be missing.
            if hall.number(open).await == 0 {
                let rows: Vec<Row> = sql_query(sql).load(&mut hall.conn).await.expect(sql);
                return rows.into_iter().map(|row| row.id).collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("all facts are published")
}

/// The ids of what was received, each where it came first, after checking that what came again is
/// the same, that sequences have no gap, and that each is signed.
fn ids_in_order(received: &[Received], subscription: &Subscription) -> Vec<String> {
    let mut bodies: BTreeMap<String, &[u8]> = BTreeMap::new();
    let mut ids = Vec::new();
    for one in received {
        one.verify(&subscription.secret).expect("it is signed");
        let delivery = one.delivery();
        assert_eq!(one.header("webhook-id"), delivery.id);
        assert_eq!(one.header("content-type"), "application/json");
        match bodies.insert(delivery.id.clone(), &one.body) {
            Some(before) => assert_eq!(before, &one.body[..], "{}", delivery.id),
            None => {
                ids.push(delivery.id);
                assert_eq!(delivery.sequence, i64::try_from(ids.len()).expect("few"));
            }
        }
    }
    ids
}

fn holds(received: &[Received], count: usize) -> bool {
    let ids: std::collections::BTreeSet<_> = received
        .iter()
        .map(|one| one.header("webhook-id"))
        .collect();
    ids.len() >= count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_gets_every_fact_once_signed_and_in_order() {
    let mut hall = Hall::open().await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let (here, there) = (hall.date(10).await, hall.date(10).await);
    api.hold(&buyer, here, &["A-1-10"]).await.expect(201);
    let before = published(&mut hall).await.len();

    let receiver = Receiver::start(Answers::Status(204)).await;
    let subscription = subscribe(&api, &admin, &receiver.url()).await;
    api.charge(&buyer, 50_000).await.expect(201);
    for date in [here, there] {
        let held = api
            .hold(&buyer, date, &["A-1-1", "A-1-2"])
            .await
            .expect(201);
        api.pay(&buyer, reservation(&held.body)).await.expect(201);
        let held = api.hold(&buyer, date, &["A-1-3"]).await.expect(201);
        let path = format!("/reservations/{}", reservation(&held.body));
        api.delete(&buyer, &path).await.expect(204);
        hall.map_becomes(
            date,
            if date == here {
                "SSAAAAAAAH"
            } else {
                "SSAAAAAAAA"
            },
        )
        .await;
    }
    let all = published(&mut hall).await;
    let received = receiver
        .until("all facts", |received| holds(received, all.len() - before))
        .await;
    // What was published before is not sent.
    assert_eq!(ids_in_order(&received, &subscription), all[before..]);
    assert_eq!(received.len(), all.len() - before, "and nothing twice");
    let mut kinds = Vec::new();
    for one in received.iter().map(Received::delivery) {
        if one.topic == "payments" {
            assert_eq!(one.data["scheduleId"], json!(one.aggregate_id));
            continue;
        }
        assert_eq!(one.topic, "seats");
        assert_eq!(one.data["scheduleId"], json!(one.aggregate_id));
        assert_eq!(one.data["version"], json!(one.aggregate_seq));
        for fact in one.data["facts"].as_array().expect("facts") {
            kinds.push(text(&fact["type"]).to_owned());
            if fact["type"] == "Held" {
                assert_eq!(fact["hold"]["total"]["currency"], "KRW");
            }
        }
    }
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, ["Ended", "Held", "Sold"]);

    let one = until_shown(&api, &admin, &subscription.path(), |one| {
        one["sequence"] == json!(received.len()) && one.get("oldestPendingAt").is_none()
    })
    .await;
    assert_eq!(
        (&one["state"], one.get("failure")),
        (&json!("ACTIVE"), None)
    );
    assert_eq!(one["attempts"][0]["status"], 204);
    assert!(one.get("secret").is_none() && !one.to_string().contains("whsec_"));
    let listed = shown(&api, &admin, "/admin/webhooks").await;
    assert_eq!(listed["items"][0]["webhookId"], one["webhookId"]);
    api.delete(&admin, &subscription.path()).await.expect(204);
    let gone = api.delete(&admin, &subscription.path()).await;
    gone.expect_problem(404, "not-found");
    api.hold(&buyer, here, &["A-1-4"]).await.expect(201);
    published(&mut hall).await;
    assert_eq!(receiver.received().len(), received.len());
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_is_tried_again_then_dead_and_nobody_else_waits() {
    let mut hall = Hall::open_with(impatient()).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(8).await;
    let broken = Receiver::start(Answers::Status(500)).await;
    let silent = Receiver::start(Answers::Never).await;
    let good = Receiver::start(Answers::Status(200)).await;
    let to_broken = subscribe(&api, &admin, &broken.url()).await;
    let to_silent = subscribe(&api, &admin, &silent.url()).await;
    let to_good = subscribe(&api, &admin, &good.url()).await;
    for seat in ["A-1-1", "A-1-2", "A-1-3"] {
        api.hold(&buyer, date, &[seat]).await.expect(201);
    }
    let all = published(&mut hall).await;
    let got = good
        .until("the good one", |received| holds(received, all.len()))
        .await;
    assert_eq!(ids_in_order(&got, &to_good), all);

    let is_dead = |one: &Value| one["state"] == "DEAD";
    let dead = until_shown(&api, &admin, &to_broken.path(), is_dead).await;
    assert_eq!(dead["failure"]["attempts"], 4);
    assert!(dead["failure"].get("nextAt").is_none(), "{dead}");
    assert_eq!(dead["attempts"].as_array().map(Vec::len), Some(4));
    assert_eq!(dead["attempts"][0]["attempt"], 4);
    assert_eq!(dead["attempts"][0]["status"], 500);
    let dead = until_shown(&api, &admin, &to_silent.path(), is_dead).await;
    assert_eq!(dead["attempts"][0]["error"], "no answer in time");
    // Always the same fact, with pauses that grow: 40, 80, 160 ms, less a half at most.
    let tries = broken.received();
    assert_eq!(ids_in_order(&tries, &to_broken).len(), 1);
    assert_eq!(tries.len(), 4);
    for (pair, pause_ms) in tries.windows(2).zip([20, 40, 80]) {
        let paused = pair[1].at - pair[0].at;
        assert!(paused >= Duration::from_millis(pause_ms), "{paused:?}");
    }
    let metrics = metrics(&hall).await;
    for line in [
        "onsale_webhooks{kind=\"dead\"} 2",
        "onsale_webhooks{kind=\"active\"} 1",
        "onsale_webhook_deaths_total 2",
        "onsale_webhook_deliveries_total{outcome=\"failed\"} 8",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    // Raised again, it gets all of it, from where it stopped.
    api.hold(&buyer, date, &["A-1-4"]).await.expect(201);
    broken.answer(Answers::Status(200));
    let raised = patch(
        &api,
        &admin,
        &to_broken.path(),
        &json!({ "state": "ACTIVE" }),
    )
    .await;
    assert_eq!(raised["state"], "ACTIVE");
    let all = published(&mut hall).await;
    let got = broken
        .until("the raised one", |received| holds(received, all.len()))
        .await;
    assert_eq!(ids_in_order(&got, &to_broken), all);
    // And another address gets what the one before did not.
    let moved = json!({ "url": good.url(), "state": "ACTIVE" });
    patch(&api, &admin, &to_silent.path(), &moved).await;
    until_shown(&api, &admin, &to_silent.path(), |one| {
        one["sequence"] == json!(all.len())
    })
    .await;
    // Who says "gone" is not asked again.
    broken.answer(Answers::Status(410));
    let buyer = hall.buyer();
    api.hold(&buyer, date, &["A-1-5"]).await.expect(201);
    let dead = until_shown(&api, &admin, &to_broken.path(), is_dead).await;
    assert_eq!(dead["failure"]["attempts"], 1);
    hall.assert_sound().await;
}

async fn metrics(hall: &Hall) -> String {
    let url = format!("http://{}/metrics", hall.system.workers[0].metrics_addr);
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let page = reqwest::get(&url).await.expect("metrics");
            let page = page.text().await.expect("text");
            // They are told at the next look.
            if page.contains("onsale_webhooks{kind=\"dead\"} 2") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("two are dead")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deliverer_that_is_killed_loses_nothing_and_repeats_itself_word_for_word() {
    let options = SystemOptions::default().workers(2);
    let mut hall = Hall::open_with(options).await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let date = hall.date(60).await;
    let receiver = Receiver::start(Answers::Status(204)).await;
    let subscription = subscribe(&api, &admin, &receiver.url()).await;
    let buyers = hall.buyers(20);
    let mut seat = 0;
    // Whichever of them delivers, it is killed while it does.
    for round in 0..4 {
        for buyer in &buyers[round * 5..(round + 1) * 5] {
            for _ in 0..3 {
                seat += 1;
                let label = format!("A-1-{seat}");
                let held = api.hold(buyer, date, &[&label]).await;
                assert!([201, 202].contains(&held.status.as_u16()), "{held:?}");
            }
        }
        let victim = round % 2;
        hall.system.workers[victim].kill9().await;
        hall.system.workers[victim]
            .restart()
            .await
            .expect("it starts");
    }
    hall.map_becomes(date, &"H".repeat(60)).await;
    let all = published(&mut hall).await;
    let received = receiver
        .until("all facts", |received| holds(received, all.len()))
        .await;
    assert_eq!(ids_in_order(&received, &subscription), all);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_replaced_while_both_sign() {
    let options = SystemOptions::default().setting("ONSALE_WEBHOOK_SECRET_OVERLAP_S", 3);
    let mut hall = Hall::open_with(options).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(4).await;
    let receiver = Receiver::start(Answers::Status(204)).await;

    // The same request is answered the same; another one with its key is refused.
    let body = json!({ "url": receiver.url(), "topics": ["seats"] });
    let path = "/admin/webhooks";
    let made = api
        .post(&admin, path, "one-subscriber", &body)
        .await
        .expect(201);
    let again = api
        .post(&admin, path, "one-subscriber", &body)
        .await
        .expect(201);
    assert_eq!(made.body["secret"], again.body["secret"]);
    assert_eq!(made.headers["location"], again.headers["location"]);
    let other = json!({ "url": receiver.url() });
    let reused = api.post(&admin, path, "one-subscriber", &other).await;
    reused.expect_problem(422, "idempotency-key-reused");
    let old = text(&made.body["secret"]).to_owned();

    let webhook = format!("{path}/{}", text(&made.body["webhookId"]));
    let rotation = format!("{webhook}/secret");
    let none = json!({});
    let rotated = api
        .post(&admin, &rotation, "one-rotation", &none)
        .await
        .expect(200);
    let new = text(&rotated.body["secret"]).to_owned();
    assert_ne!(old, new);
    assert!(rotated.body["previousSecretUntil"].is_string());
    // Once more it is the same rotation, or the old one would be gone at once.
    let again = api
        .post(&admin, &rotation, "one-rotation", &none)
        .await
        .expect(200);
    assert_eq!(again.body["secret"], rotated.body["secret"]);
    let made = api
        .post(&admin, path, "one-subscriber", &body)
        .await
        .expect(201);
    assert!(made.body.get("secret").is_none(), "it was shown already");

    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let received = receiver
        .until("the first", |received| received.len() == 1)
        .await;
    assert_eq!(received[0].verify(&old), Ok(()));
    assert_eq!(received[0].verify(&new), Ok(()));
    until_shown(&api, &admin, &webhook, |one| {
        one.get("previousSecretUntil").is_none()
    })
    .await;
    api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    let received = receiver
        .until("the second", |received| received.len() == 2)
        .await;
    assert!(received[1].verify(&old).is_err());
    assert_eq!(received[1].verify(&new), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_we_can_reach_is_no_address_of_a_subscriber() {
    let options = impatient().setting("ONSALE_WEBHOOK_PRIVATE_TARGETS", "false");
    let mut hall = Hall::open_with(options).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(4).await;
    let receiver = Receiver::start(Answers::Status(204)).await;
    for (url, code) in [
        (receiver.url().as_str(), "private-address"),
        ("http://localhost:8080/x", "private-address"),
        ("http://169.254.169.254/latest/meta-data", "private-address"),
        ("http://[::1]/", "private-address"),
        ("https://user:secret@example.com/", "invalid-value"),
        ("ftp://example.com/x", "invalid-value"),
        ("nothing", "invalid-value"),
    ] {
        let body = json!({ "url": url });
        let refused = api.post(&admin, "/admin/webhooks", "some-key", &body).await;
        let refused = refused.expect_problem(422, "validation-failed").body;
        assert_eq!(refused["errors"][0]["code"], code, "{url}");
        assert_eq!(refused["errors"][0]["pointer"], "/url");
    }
    let body = json!({ "url": "https://example.com/", "topics": ["seats", "seats", "x"] });
    let refused = api.post(&admin, "/admin/webhooks", "some-key", &body).await;
    let refused = refused.expect_problem(422, "validation-failed").body;
    assert_eq!(refused["errors"][0]["code"], "duplicate");

    // One that got in all the same, by a name that is private only when it is resolved.
    let id = Uuid::now_v7();
    hall.sql(&format!(
        "INSERT INTO webhook (webhook_id, url, fingerprint, created_by, secret, cursor_no) \
         SELECT '{id}', '{}', '{id}', '{id}', '\\x{}', last_no FROM fact_feed",
        receiver.url(),
        "00".repeat(32),
    ))
    .await;
    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let path = format!("/admin/webhooks/{id}");
    let dead = until_shown(&api, &admin, &path, |one| one["state"] == "DEAD").await;
    assert_eq!(dead["attempts"][0]["error"], "the address is private");
    assert!(receiver.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_purged_by_age_and_who_missed_some_learns_it() {
    let mut hall = Hall::open_with(impatient()).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(8).await;
    let receiver = Receiver::start(Answers::Status(204)).await;
    let subscription = subscribe(&api, &admin, &receiver.url()).await;
    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    receiver
        .until("the first", |received| received.len() == 1)
        .await;
    receiver.answer(Answers::Status(410));
    for seat in ["A-1-2", "A-1-3"] {
        api.hold(&buyer, date, &[seat]).await.expect(201);
    }
    let all = published(&mut hall).await.len();
    let path = subscription.path();
    until_shown(&api, &admin, &path, |one| one["state"] == "DEAD").await;

    // All but the last are older than the age; the worker looks when it begins to publish.
    hall.sql(
        "UPDATE outbox SET published_at = published_at - interval '73 hours' \
         WHERE feed_no < (SELECT last_no FROM fact_feed)",
    )
    .await;
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("it starts");
    let left = "SELECT count(*) AS n FROM outbox";
    let waited = tokio::time::timeout(PATIENCE, async {
        while hall.number(left).await != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("old facts are purged");

    receiver.answer(Answers::Status(204));
    let before = receiver.received().len();
    patch(&api, &admin, &path, &json!({ "state": "ACTIVE" })).await;
    let received = receiver
        .until("the last one", |received| received.len() > before)
        .await;
    let last = received.last().expect("one").delivery();
    // The second was purged: its number is never sent.
    assert_eq!(last.sequence, 3, "of {all} facts");
    let one = until_shown(&api, &admin, &path, |one| one["sequence"] == 3).await;
    assert!(one["missedAt"].is_string(), "{one}");
    hall.assert_sound().await;
}
