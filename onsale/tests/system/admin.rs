//! What could not be processed, and whether everything is true: seen over HTTP by those who
//! administer.

use crate::hall::{Hall, PATIENCE, reservation};
use crate::shop::with_gateway;
use onsale_platform::nats_users::User;
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, ScheduleId, partition};
use onsale_testkit::api::text;
use onsale_testkit::proxy::Fault;
use onsale_testkit::{Api, Buyer, SystemOptions};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

pub async fn letters(api: &Api, admin: &Buyer, query: &str) -> Vec<Value> {
    let path = format!("/admin/dead-letters?{query}");
    let page = api.get(Some(admin), &path).await.expect(200).body;
    page["items"].as_array().expect("items").clone()
}

pub async fn retry(api: &Api, admin: &Buyer, letter: &Value) -> Value {
    let id = text(&letter["deadLetterId"]);
    let path = format!("/admin/dead-letters/{id}/retry");
    let answer = api.post(admin, &path, "unused-key", &json!({})).await;
    answer.expect(200).body
}

/// Waits until there are so many.
async fn until_there_are(api: &Api, admin: &Buyer, count: usize, query: &str) -> Vec<Value> {
    let there = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = letters(api, admin, query).await;
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    there.await.expect(query)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_listed_and_tried_again() {
    let mut hall = Hall::open().await;
    let (api, admin, buyer, other) = (hall.api.clone(), hall.admin(), hall.buyer(), hall.buyer());
    let date = hall.date(4).await;
    hall.sql(&format!(
        "ALTER TABLE reservation ADD CONSTRAINT poison_hold CHECK (user_id <> '{}');
         ALTER TABLE transfer ADD CONSTRAINT poison_charge CHECK (amount <> 777)",
        buyer.user_id
    ))
    .await;
    let failed = api.hold(&buyer, date, &["A-1-1", "A-1-2"]).await;
    failed.expect_problem(503, "dependency-unavailable");
    let failed = api.charge(&other, 777).await;
    failed.expect_problem(503, "dependency-unavailable");
    // What is behind them goes on.
    api.hold(&other, date, &["A-1-3"]).await.expect(201);
    api.charge(&other, 50_000).await.expect(201);

    let seats = letters(&api, &admin, "lane=seats").await;
    let [hold] = seats.as_slice() else {
        panic!("{seats:?}")
    };
    assert!(text(&hold["error"]).contains("poison_hold"), "{hold}");
    assert_eq!(hold["retries"], 0);
    let command = &hold["command"];
    assert_eq!(command["kind"], "hold");
    assert_eq!(command["userId"], json!(buyer.user_id));
    assert_eq!(command["scheduleId"], json!(date));
    assert_eq!(command["seatNos"], json!([0, 1]));
    let ledger = letters(&api, &admin, "lane=ledger&retried=false").await;
    let [charge] = ledger.as_slice() else {
        panic!("{ledger:?}")
    };
    assert_eq!(charge["command"]["amount"]["amount"], 777);

    // Still broken: it fails again, and that is a letter of its own.
    let again = retry(&api, &admin, hold).await;
    assert_eq!(again["state"], "DECIDED");
    assert_eq!(again["body"]["code"], "dependency-unavailable");
    assert_eq!(letters(&api, &admin, "lane=seats").await.len(), 2);
    let retried = letters(&api, &admin, "retried=true").await;
    assert_eq!(retried.len(), 1, "{retried:?}");
    assert_eq!(retried[0]["deadLetterId"], hold["deadLetterId"]);
    assert_eq!(retried[0]["retriedBy"], json!(admin.user_id));
    assert!(retried[0]["retriedAt"].is_string());

    hall.sql(
        "ALTER TABLE reservation DROP CONSTRAINT poison_hold;
         ALTER TABLE transfer DROP CONSTRAINT poison_charge",
    )
    .await;
    // Both letters are of one command, and it is done once.
    let made = retry(&api, &admin, hold).await;
    assert_eq!(made["status"], 201, "{made}");
    let letters_now = letters(&api, &admin, "lane=seats&retried=false").await;
    let same = retry(&api, &admin, &letters_now[0]).await;
    assert_eq!(same["status"], 201, "{same}");
    let id = reservation(&made["body"]);
    assert_eq!(reservation(&same["body"]), id);
    let path = format!("/reservations/{id}");
    let shown = api.get(Some(&buyer), &path).await.expect(200).body;
    assert_eq!(shown["status"], "HELD");
    api.get(Some(&admin), &path).await.expect(404);

    let charged = retry(&api, &admin, charge).await;
    assert_eq!(charged["body"]["balance"]["amount"], 50_777);
    let charged = retry(&api, &admin, charge).await;
    assert_eq!(charged["body"]["balance"]["amount"], 50_777);
    hall.map_becomes(date, "HHHA").await;
    hall.assert_sound().await;
}

/// A key that is taken whenever it is stored, but never found, is no reason to try for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stays_taken_keeps_nobody_waiting() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(2).await;
    hall.sql(&format!(
        "CREATE FUNCTION taken() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE unique_violation USING CONSTRAINT = 'payment_order_key_pkey'; END $$;
         CREATE TRIGGER taken BEFORE INSERT ON payment_order FOR EACH ROW
         WHEN (NEW.user_id = '{}') EXECUTE FUNCTION taken()",
        buyer.user_id
    ))
    .await;
    let held = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let body = json!({ "reservationId": reservation(&held.body) });
    let failed = api
        .post(&buyer, "/payment-orders", "order-once", &body)
        .await;
    failed.expect_problem(503, "dependency-unavailable");
    let [letter] = letters(&api, &admin, "").await.try_into().expect("one");
    let error = text(&letter["error"]);
    assert!(error.contains("payment_order_key_pkey"), "{letter}");
    let other = hall.buyer();
    let order = hall.order(&other, date, &["A-1-2"]).await;
    hall.confirm(&other, &order).await.expect(200);

    hall.sql("DROP TRIGGER taken ON payment_order").await;
    let made = retry(&api, &admin, &letter).await;
    assert_eq!(made["status"], 201, "{made}");
    hall.map_becomes(date, "HS").await;
    hall.assert_sound().await;
}

/// Whoever prefers to ask later is told later, and nobody else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_and_a_notice_may_be_asked_for_later() {
    let mut hall = Hall::open().await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(2).await;
    api.charge(&buyer, 50_000).await.expect(201);
    hall.sql("ALTER TABLE seat_claim ADD CONSTRAINT poison CHECK (state <> 'S')")
        .await;
    let held = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    api.pay(&buyer, reservation(&held.body)).await.expect(201);
    // The notice is sent until it is applied, and each time that it fails is a letter.
    let told = until_there_are(&api, &admin, 1, "lane=seats").await;
    assert_eq!(told[0]["command"]["kind"], "paid-all");
    assert_eq!(told[0]["command"].get("userId"), None);
    hall.sql("ALTER TABLE seat_claim DROP CONSTRAINT poison")
        .await;
    let id = text(&told[0]["deadLetterId"]);
    let path = format!("/admin/dead-letters/{id}/retry");
    let request = api.post_request(&admin, &path, "unused-key", &json!({}));
    let open = api.send(request.header("prefer", "respond-async")).await;
    let decided = if open.status == 202 {
        let location = open.headers["location"].to_str().expect("ASCII");
        let path = location.strip_prefix("/api/v1").expect("a path of ours");
        api.get(Some(&buyer), path).await.expect(404);
        crate::catalogue::decided(&api, &admin, location).await
    } else {
        open.expect(200).body
    };
    assert_eq!(decided["status"], 204, "{decided}");
    hall.map_becomes(date, "SA").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_listed_and_can_not_be_tried_again() {
    let mut hall = Hall::open().await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let date = ScheduleId(hall.date(1).await);
    let subjects = Subjects::new(&hall.system.prefix).expect("a prefix");
    let subject = subjects.partition(Lane::Seats, partition::of_schedule(date, 16));
    let url = hall.system.nats_url_of(Some(User::Ingress));
    let nats = onsale_platform::nats::connect(&url, "test")
        .await
        .expect("a connection");
    for _ in 0..3 {
        nats.publish(subject.clone(), "no message".into())
            .await
            .expect("published");
    }
    nats.flush().await.expect("sent");
    let all = until_there_are(&api, &admin, 3, "limit=100").await;
    assert!(all.iter().all(|letter| letter.get("command").is_none()));
    assert_eq!(all[0]["size"], 10);
    // In pages, the newest first.
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/admin/dead-letters?limit=2{cursor}");
        let page = api.get(Some(&admin), &path).await.expect(200).body;
        paged.extend(page["items"].as_array().expect("items").clone());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let id = text(&all[0]["deadLetterId"]);
    let path = format!("/admin/dead-letters/{id}/retry");
    let refused = api.post(&admin, &path, "unused-key", &json!({})).await;
    refused.expect_problem(409, "dead-letter-unreadable");
    let path = format!("/admin/dead-letters/{}/retry", Uuid::now_v7());
    let missing = api.post(&admin, &path, "unused-key", &json!({})).await;
    missing.expect_problem(404, "not-found");
    for wrong in ["lane=seat", "retried=maybe", "limit=0", "since=1"] {
        let path = format!("/admin/dead-letters?{wrong}");
        let refused = api.get(Some(&admin), &path).await;
        refused.expect_problem(422, "validation-failed");
    }
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_tells_what_does_not_hold_and_one_is_made_at_a_time() {
    let mut hall = Hall::open().await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    api.charge(&buyer, 1000).await.expect(201);
    let audit = async || api.get(Some(&admin), "/admin/audit").await;
    let sound = audit().await.expect(200).body;
    assert_eq!(sound["ok"], true, "{sound}");
    let ids = |report: &Value, violated: bool| -> Vec<String> {
        let checks = report["checks"].as_array().expect("checks").iter();
        checks
            .filter(|check| !violated || check["violations"] != 0)
            .map(|check| text(&check["id"]).to_owned())
            .collect()
    };
    let known: Vec<_> = onsale_schema::invariant::Invariant::ALL
        .iter()
        .map(|invariant| invariant.id())
        .collect();
    assert_eq!(ids(&sound, false), known);

    let user = buyer.user_id;
    let change = format!("UPDATE account SET balance = balance + 1 WHERE account_id = '{user}'");
    hall.sql(&change).await;
    let broken = audit().await.expect(200).body;
    assert_eq!(broken["ok"], false);
    assert_eq!(ids(&broken, true), ["L1"], "{broken}");
    hall.sql(&change.replace("+ 1", "- 1")).await;

    let mut locker = hall.connect().await;
    let lock = "BEGIN; LOCK TABLE payment";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut locker, lock)
        .await
        .expect(lock);
    let waiting = async {
        let blocked = "SELECT count(*) AS n FROM pg_locks \
                       WHERE NOT granted AND relation = 'payment'::regclass";
        while hall.number(blocked).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        audit().await.expect_problem(503, "overloaded");
        drop(locker);
    };
    let (first, ()) = tokio::join!(audit(), waiting);
    assert_eq!(first.expect(200).body["ok"], true);
    hall.assert_sound().await;
}

/// What was never tried stays until somebody has tried it.
#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_comes_to_nothing_does_not_count() {
    let options = SystemOptions::default()
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 2_000)
        .proxied();
    let mut hall = Hall::open_with(options).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    hall.sql("ALTER TABLE transfer ADD CONSTRAINT poison_charge CHECK (amount <> 777)")
        .await;
    let failed = api.charge(&buyer, 777).await;
    failed.expect_problem(503, "dependency-unavailable");
    let [letter] = letters(&api, &admin, "").await.try_into().expect("one");
    let path = format!(
        "/admin/dead-letters/{}/retry",
        text(&letter["deadLetterId"])
    );
    hall.system.ingresses[0].links().nats.set(Fault::Reset);
    let answer = api.post(&admin, &path, "unused-key", &json!({})).await;
    assert!([202, 503].contains(&answer.status.as_u16()), "{answer:?}");
    let [tried] = letters(&api, &admin, "").await.try_into().expect("one");
    assert_eq!(tried["retries"], 0, "{tried}");
    assert!(tried["retriedAt"].is_null(), "{tried}");
    assert_eq!(tried["retriedBy"], json!(admin.user_id));
}
