//! Cancelling what was paid: by its buyer, whole or in part, and with the whole show.

use crate::catalogue::patch;
use crate::general_admission;
use crate::hall::{Hall, PATIENCE, reservation};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use onsale_testkit::{Answer, Buyer, SystemOptions};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

pub fn won(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

async fn cancel(hall: &Hall, by: &Buyer, id: Uuid, key: &str, body: Value) -> Answer {
    let path = format!("/reservations/{id}/cancellation");
    hall.api.post(by, &path, key, &body).await
}

async fn rules(hall: &Hall, date: Uuid, rules: Value) -> Answer {
    let path = format!("/admin/schedules/{date}");
    let body = json!({ "cancellation": rules });
    patch(&hall.api, &hall.admin(), &path, &body).await
}

/// Holds and pays; 100,000 points were charged before.
pub async fn paid(hall: &Hall, buyer: &Buyer, date: Uuid, seats: &[&str]) -> Uuid {
    hall.api.charge(buyer, 100_000).await.expect(201);
    let held = hall.api.hold(buyer, date, seats).await.expect(201);
    let id = reservation(&held.body);
    hall.api.pay(buyer, id).await.expect(201);
    id
}

pub async fn balance(hall: &Hall, buyer: &Buyer) -> Value {
    let points = hall.api.get(Some(buyer), "/users/me/points").await;
    points.expect(200).body["balance"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_and_then_the_rest_are_refunded_but_for_the_fee() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let date = hall.date(6).await;
    // A day is left but for moments: of 10,000, 12 % to thousands, rounded up.
    let steps = json!({ "fees": [{ "daysBefore": 3, "percent": 0 }, { "daysBefore": 0, "percent": 12 }],
        "rounding": "UP", "unit": 1000 });
    let shown = rules(&hall, date, steps).await.expect(200);
    assert_eq!(shown.body["cancellation"]["untilSecondsBefore"], 0);
    assert_eq!(shown.body["cancellation"]["fees"][1]["percent"], 12);
    let buyer = hall.buyer();
    let id = paid(&hall, &buyer, date, &["A-1-1", "A-1-2", "A-1-3"]).await;
    assert_eq!(balance(&hall, &buyer).await, won(70_000));
    hall.map_becomes(date, "SSSAAA").await;

    let part = json!({ "seats": ["A-1-2"] });
    let made = cancel(&hall, &buyer, id, "the-first-key", part.clone()).await;
    let made = made.expect(200).body;
    assert_eq!(made["seats"], json!(["A-1-2"]));
    assert_eq!((&made["refunded"], &made["fee"]), (&won(8000), &won(2000)));
    assert_eq!(
        made["refund"],
        json!({ "method": "POINTS", "status": "DONE" })
    );
    hall.map_becomes(date, "SASAAA").await;
    let path = format!("/reservations/{id}");
    let shown = hall.api.get(Some(&buyer), &path).await.expect(200).body;
    assert_eq!(shown["status"], "PAID");
    let cancelled = json!({ "seats": ["A-1-2"], "refunded": won(8000), "fee": won(2000) });
    assert_eq!(shown["cancelled"], cancelled);

    // The same key is told the same, with another body it is refused, and a seat goes once.
    let again = cancel(&hall, &buyer, id, "the-first-key", part.clone()).await;
    assert_eq!(again.expect(200).body, made);
    let other = cancel(&hall, &buyer, id, "the-first-key", json!({})).await;
    other.expect_problem(422, "idempotency-key-reused");
    let gone = cancel(&hall, &buyer, id, "another-key", part).await;
    gone.expect_problem(409, "reservation-state-conflict");
    for seats in [json!(["A-1-4"]), json!(["Z-9-9"])] {
        let body = json!({ "seats": seats });
        let unknown = cancel(&hall, &buyer, id, "another-key", body).await;
        unknown.expect_problem(422, "unknown-seat");
    }
    let stranger = hall.buyer();
    let foreign = cancel(&hall, &stranger, id, "foreign-key", json!({})).await;
    foreign.expect_problem(404, "not-found");

    // Somebody else gets the seat.
    let next = paid(&hall, &stranger, date, &["A-1-2"]).await;
    hall.map_becomes(date, "SSSAAA").await;
    let rest = cancel(&hall, &buyer, id, "the-last-key", json!({})).await;
    let rest = rest.expect(200).body;
    assert_eq!(rest["seats"], json!(["A-1-1", "A-1-3"]));
    assert_eq!(
        (&rest["refunded"], &rest["fee"]),
        (&won(16_000), &won(4000))
    );
    hall.map_becomes(date, "ASAAAA").await;
    let shown = hall.api.get(Some(&buyer), &path).await.expect(200).body;
    assert_eq!(shown["status"], "CANCELLED");
    assert_eq!(shown["cancelled"]["refunded"], won(24_000));
    let over = cancel(&hall, &buyer, id, "yet-another-key", json!({})).await;
    over.expect_problem(409, "reservation-state-conflict");

    assert_eq!(balance(&hall, &buyer).await, won(94_000));
    let history = hall.api.get(Some(&buyer), "/users/me/points/history").await;
    let newest = &history.expect(200).body["items"][0];
    assert_eq!(
        (&newest["kind"], &newest["amount"]),
        (&json!("REFUND"), &won(16_000))
    );
    let payments = hall.api.get(Some(&buyer), "/payments").await.expect(200);
    assert_eq!(payments.body["items"][0]["refunded"], won(24_000));
    let theirs = format!("/reservations/{next}");
    let theirs = hall.api.get(Some(&stranger), &theirs).await.expect(200);
    assert_eq!(theirs.body["status"], "PAID");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_checked_and_the_deadline_binds() {
    let mut hall = Hall::open().await;
    let date = hall.date(4).await;
    for (wrong, pointer) in [
        (
            json!({ "untilSecondsBefore": -1 }),
            "/cancellation/untilSecondsBefore",
        ),
        (json!({ "unit": 7 }), "/cancellation/unit"),
        (
            json!({ "fees": [{ "daysBefore": 1, "percent": 10 }] }),
            "/cancellation/fees",
        ),
        (
            json!({ "fees": [{ "daysBefore": 1, "percent": 10 }, { "daysBefore": 0, "percent": 5 }] }),
            "/cancellation/fees/1",
        ),
    ] {
        let answer = rules(&hall, date, wrong).await;
        let answer = answer.expect_problem(422, "validation-failed");
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{answer:?}");
    }
    let path = format!("/admin/schedules/{date}");
    let mixed = json!({ "cancellation": {}, "seatsPerUser": 3 });
    let answer = patch(&hall.api, &hall.admin(), &path, &mixed).await;
    answer.expect_problem(422, "validation-failed");

    let buyer = hall.buyer();
    let id = paid(&hall, &buyer, date, &["A-1-1"]).await;
    // The show begins within a day.
    for closed in [json!(86_400), Value::Null] {
        let late = json!({ "untilSecondsBefore": closed });
        rules(&hall, date, late).await.expect(200);
        let answer = cancel(&hall, &buyer, id, "too-late-key", json!({})).await;
        answer.expect_problem(409, "cancellation-closed");
    }
    let held = hall.api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    let answer = cancel(
        &hall,
        &buyer,
        reservation(&held.body),
        "held-key",
        json!({}),
    )
    .await;
    answer.expect_problem(409, "reservation-state-conflict");
    // A body is not needed, and a refusal of before is not remembered.
    rules(&hall, date, json!({})).await.expect(200);
    let path = format!("/reservations/{id}/cancellation");
    let request = hall.api.request(reqwest::Method::POST, &path);
    let request = request.bearer_auth(&buyer.token);
    let request = request.header("idempotency-key", "too-late-key");
    let made = hall.api.send(request).await.expect(200).body;
    assert_eq!((&made["refunded"], &made["fee"]), (&won(10_000), &won(0)));
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_50_cancellations_of_one_reservation_at_once_one_refunds() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    let id = paid(&hall, &buyer, date, &["A-1-1", "A-1-2"]).await;
    let keys: Vec<String> = (0..50).map(|n| format!("key-number-{n}")).collect();
    let all = keys
        .iter()
        .map(|key| cancel(&hall, &buyer, id, key, json!({})));
    let answers = join_all(all).await;
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(done, 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 200) {
        answer.expect_problem(409, "reservation-state-conflict");
    }
    assert_eq!(balance(&hall, &buyer).await, won(100_000));
    hall.map_becomes(date, "AAAA").await;
    assert_eq!(hall.number("SELECT count(*) AS n FROM refund").await, 1);
    hall.assert_sound().await;
}

/// Which places they are is chosen once: the same command again means the same ones, two at once
/// different ones.
#[tokio::test(flavor = "multi_thread")]
async fn places_are_given_up_by_their_count() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let lines = "A,1,1,VIP,1000\nFLOOR,,5,R,1000\n";
    let date = general_admission::date(&mut hall, lines, 6).await;
    let buyer = hall.buyer();
    hall.api.charge(&buyer, 100_000).await.expect(201);
    let floor = |count: u32| json!([{ "section": "FLOOR", "count": count }]);
    let wanted = json!({ "scheduleId": date, "seats": ["A-1-1"], "places": floor(4) });
    let held = hall.api.post(&buyer, "/reservations", "hold-key", &wanted);
    let id = reservation(&held.await.expect(201).body);
    hall.api.pay(&buyer, id).await.expect(201);
    hall.map_becomes(date, "SSSSSA").await;

    let few = |count| json!({ "places": floor(count) });
    let too_many = cancel(&hall, &buyer, id, "too-many-key", few(5)).await;
    let too_many = too_many.expect_problem(422, "unknown-seat");
    assert_eq!(too_many.body["errors"][0]["pointer"], "/places/0/count");
    let elsewhere = json!({ "places": [{ "section": "A", "count": 1 }] });
    let elsewhere = cancel(&hall, &buyer, id, "elsewhere-key", elsewhere).await;
    elsewhere.expect_problem(422, "unknown-seat");

    let both = join_all(["one-of-two", "two-of-two"].map(|key| {
        let (hall, buyer) = (&hall, &buyer);
        async move { cancel(hall, buyer, id, key, few(1)).await.expect(200).body }
    }));
    let both = both.await;
    for made in &both {
        assert_eq!(made["seats"], json!([]));
        let price = won(1000);
        let one = json!([{ "section": "FLOOR", "count": 1, "price": price }]);
        assert_eq!((&made["places"], &made["refunded"]), (&one, &price));
    }
    hall.map_becomes(date, "SAASSA").await;
    let rest = json!({ "seats": ["A-1-1"], "places": floor(2) });
    let rest = cancel(&hall, &buyer, id, "all-the-rest", rest).await;
    assert_eq!(rest.expect(200).body["refunded"], won(3000));
    // Nothing is left, and each is told what it was told before.
    for (key, made) in ["one-of-two", "two-of-two"].into_iter().zip(both) {
        let again = cancel(&hall, &buyer, id, key, few(1)).await;
        assert_eq!(again.expect(200).body, made);
    }
    let over = cancel(&hall, &buyer, id, "one-too-many", few(1)).await;
    over.expect_problem(409, "reservation-state-conflict");
    assert_eq!(balance(&hall, &buyer).await, won(100_000));
    hall.map_becomes(date, "AAAAAA").await;
    hall.assert_sound().await;
}

/// The driver of refunds through the gateway takes it from the row.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_through_the_gateway_is_on_its_way_back_there() {
    let mut hall = Hall::open().await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let id = reservation(&held.body);
    let (order, who) = (Uuid::now_v7(), buyer.user_id);
    hall.sql(&format!(
        "INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                    fingerprint, amount, status, payment_key, confirm_command_id,
                                    confirm_fingerprint, captured, created_at, updated_at)
         VALUES ('{order}', '{id}', '{date}', '{who}', '{order}', '{order}', 10000, 'PAID', 'a key',
                 '{order}', '{order}', 10000, now(), now());
         INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, method,
                              amount, status, at, order_id)
         VALUES ('{order}', '{id}', '{who}', '{order}', '{order}', 'GATEWAY', 10000, 'PAID', now(),
                 '{order}');
         UPDATE reservation SET status = 'PAID' WHERE reservation_id = '{id}'"
    ))
    .await;
    let made = cancel(&hall, &buyer, id, "gateway-key", json!({})).await;
    let refund = &made.expect(200).body["refund"];
    assert_eq!(refund["method"], "GATEWAY");
    let waiting = format!(
        "SELECT count(*) AS n FROM refund JOIN payment USING (payment_id)
         WHERE refund.order_id = '{order}' AND refund.amount = 10000 AND transfer_id IS NULL
           AND payment.refunded = 10000"
    );
    let waiting = waiting.replace("transfer_id", "refund.transfer_id");
    assert_eq!(hall.number(&waiting).await, 1);
    hall.map_becomes(date, "AAAA").await;
}

pub async fn cancel_show(hall: &Hall, date: Uuid, key: &str, reason: &str) -> Answer {
    let path = format!("/admin/schedules/{date}/cancellation");
    let body = json!({ "reason": reason });
    hall.api.post(&hall.admin(), &path, key, &body).await
}

/// Waits until a show is cancelled.
pub async fn finished(hall: &Hall, date: Uuid) -> Value {
    let path = format!("/admin/schedules/{date}/cancellation");
    let admin = hall.admin();
    let mut shown = Value::Null;
    let finished = tokio::time::timeout(PATIENCE, async {
        loop {
            shown = hall.api.get(Some(&admin), &path).await.expect(200).body;
            if shown["state"] == "FINISHED" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(finished.await.is_ok(), "{shown}");
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_show_refunds_everybody_in_full_and_sells_no_more() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let date = hall.date(8).await;
    rules(
        &hall,
        date,
        json!({ "fees": [{ "daysBefore": 0, "percent": 50 }] }),
    )
    .await
    .expect(200);
    let (early, other, holder) = (hall.buyer(), hall.buyer(), hall.buyer());
    let first = paid(&hall, &early, date, &["A-1-1", "A-1-2"]).await;
    let own = cancel(
        &hall,
        &early,
        first,
        "own-wish-key",
        json!({ "seats": ["A-1-1"] }),
    )
    .await;
    assert_eq!(own.expect(200).body["fee"], won(5000));
    paid(&hall, &other, date, &["A-1-3"]).await;
    hall.api.charge(&holder, 100_000).await.expect(201);
    let held = hall.api.hold(&holder, date, &["A-1-4"]).await.expect(201);
    let path = format!("/admin/schedules/{date}/cancellation");
    let none = hall.api.get(Some(&hall.admin()), &path).await;
    none.expect_problem(404, "not-found");

    let admin = hall.admin();
    let body = json!({ "reason": "The singer is ill" });
    let begun = hall
        .api
        .post(&admin, &path, "the-show-key", &body)
        .await
        .expect(202);
    let location = begun.headers["location"].to_str().expect("ASCII");
    assert_eq!(location, format!("/api/v1{path}"));
    let again = hall.api.post(&admin, &path, "the-show-key", &body).await;
    again.expect(202);
    let reused = hall
        .api
        .post(&admin, &path, "the-show-key", &json!({ "reason": "Rain" }))
        .await;
    reused.expect_problem(422, "idempotency-key-reused");
    cancel_show(&hall, date, "another-key", "Rain")
        .await
        .expect(202);

    let shown = finished(&hall, date).await;
    assert_eq!(shown["reason"], "The singer is ill");
    assert_eq!((&shown["total"], &shown["done"]), (&json!(2), &json!(2)));
    assert_eq!(shown["refunded"], won(20_000));
    // The fee of who had cancelled a seat before stays; nobody else pays one.
    assert_eq!(balance(&hall, &early).await, won(95_000));
    assert_eq!(balance(&hall, &other).await, won(100_000));
    let gone = hall.api.pay(&holder, reservation(&held.body)).await;
    gone.expect_problem(409, "reservation-state-conflict");
    hall.map_becomes(date, "AAAAAAAA").await;
    let closed = hall.api.hold(&holder, date, &["A-1-5"]).await;
    closed.expect_problem(410, "sale-closed");
    let path = format!("/admin/schedules/{date}");
    let open = json!({ "saleState": "OPEN" });
    let opened = patch(&hall.api, &admin, &path, &open).await;
    opened.expect_problem(410, "sale-closed");
    hall.assert_sound().await;
}

/// Workers die again and again while some hundred buyers are refunded, and some still pay.
#[tokio::test(flavor = "multi_thread")]
async fn a_show_is_cancelled_to_the_end_whoever_dies() {
    const SOLD: usize = 300;
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let date = hall.date(400).await;
    let buyers = hall.buyers(SOLD);
    let label = |n: usize| format!("A-{}-{}", n / 100 + 1, n % 100 + 1);
    let each = |(n, buyer): (usize, &Buyer)| {
        let (hall, buyer, label) = (&hall, buyer.clone(), label(n));
        async move { paid(hall, &buyer, date, &[&label]).await }
    };
    let sold: Vec<Uuid> = stream::iter(buyers.iter().enumerate())
        .map(each)
        .buffer_unordered(16)
        .collect()
        .await;
    assert_eq!(sold.len(), SOLD);
    cancel_show(&hall, date, "the-show-key", "Storm")
        .await
        .expect(202);
    let some = format!("SELECT done AS n FROM show_cancellation WHERE schedule_id = '{date}'");
    for (worker, at_least) in [(0, 1), (1, 101), (0, 201)] {
        let reached = tokio::time::timeout(PATIENCE, async {
            while hall.number(&some).await < at_least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        reached.await.expect("it goes on");
        hall.system.workers[worker].kill9().await;
        hall.assert_sound().await;
        hall.system.workers[worker]
            .restart()
            .await
            .expect("a worker");
    }
    let shown = finished(&hall, date).await;
    let all = json!(SOLD);
    assert_eq!((&shown["total"], &shown["done"]), (&all, &all));
    assert_eq!(shown["refunded"], won(10_000 * SOLD as i64));
    for (table, expected) in [("cancellation", SOLD), ("refund", SOLD)] {
        let count = hall
            .number(&format!("SELECT count(*) AS n FROM {table}"))
            .await;
        assert_eq!(count, expected as i64, "{table}");
    }
    let whole = "SELECT count(*) AS n FROM account WHERE balance = 100000";
    assert_eq!(hall.number(whole).await, SOLD as i64);
    let map = "A".repeat(400);
    hall.map_becomes(date, &map).await;
    hall.assert_sound().await;
}
