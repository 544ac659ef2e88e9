//! Points by card, through the gateway: charged once and credited once, or given back, or not charged;
//! whatever the gateway does, however often it is asked, and whoever dies meanwhile.

use crate::hall::{Hall, PATIENCE};
use crate::shop::{with_gateway, won};
use futures_util::future::join_all;
use onsale_testkit::api::{id, text};
use onsale_testkit::{Answer, Buyer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

pub const CHARGES: &str = "/users/me/points/charges";

impl Hall {
    pub async fn charge_card(&self, by: &Buyer, amount: i64, key: &str) -> Answer {
        let body = json!({ "amount": won(amount), "method": "CARD" });
        self.api.post(by, CHARGES, key, &body).await
    }

    /// Charges and does not wait; where its outcome will be.
    pub async fn charge_later(&self, by: &Buyer, amount: i64, key: &str) -> String {
        let body = json!({ "amount": won(amount), "method": "CARD" });
        let request = self.api.post_request(by, CHARGES, key, &body);
        let request = request.header("prefer", "respond-async");
        location(&self.api.send(request).await.expect(202))
    }

    async fn points(&self, of: &Buyer) -> Value {
        let answer = self.api.get(Some(of), "/users/me/points").await;
        answer.expect(200).body["balance"].clone()
    }

    /// Waits until what is there is this.
    async fn shows(&self, by: &Buyer, path: &str, member: &str, expected: &str) -> Value {
        let mut found = Value::Null;
        let reached = tokio::time::timeout(PATIENCE, async {
            while found[member] != expected {
                found = self.api.get(Some(by), path).await.body;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let reached = reached.await;
        assert!(reached.is_ok(), "{found}, not {expected}\n{}", self.logs());
        found
    }

    /// The charge that comes of what was answered 202.
    async fn charge_at(&self, by: &Buyer, path: &str) -> Value {
        let charged = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut body = self.api.get(Some(by), path).await.body;
                if body["status"] == "PAID" {
                    return body["charge"].take();
                }
                if body["status"] == 201 {
                    return body["body"].take();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let charged = charged.await;
        charged.unwrap_or_else(|_| panic!("{path}: never charged\n{}", self.logs()))
    }

    /// Charges again and again under one key, as a client does whose answers are lost.
    async fn insist_on_charge(&self, by: &Buyer, amount: i64) -> Answer {
        let key = Uuid::now_v7().to_string();
        let charged = tokio::time::timeout(PATIENCE, async {
            loop {
                let answer = self.charge_card(by, amount, &key).await;
                match answer.status.as_u16() {
                    201 => return answer,
                    202 | 503 => {}
                    _ => drop(answer.expect_problem(410, "command-expired")),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let charged = charged.await;
        charged.unwrap_or_else(|_| panic!("never charged\n{}", self.logs()))
    }
}

/// Where an answer leads, as a path of the API.
fn location(answer: &Answer) -> String {
    let location = answer.headers["location"].to_str().expect("a path");
    let path = location.strip_prefix("/api/v1").expect("a path of ours");
    path.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_by_card_is_captured_once_and_becomes_points() {
    let hall = Hall::open_with(with_gateway()).await;
    let (buyer, other) = (hall.buyer(), hall.buyer());
    let charged = hall.charge_card(&buyer, 30_000, "a-card-key").await;
    let charged = charged.expect(201).body;
    assert_eq!(charged["balance"], won(30_000));
    let again = hall.charge_card(&buyer, 30_000, "a-card-key").await;
    assert_eq!(again.expect(201).body, charged);
    let another = hall.charge_card(&buyer, 31_000, "a-card-key").await;
    another.expect_problem(422, "idempotency-key-reused");
    let history = hall
        .api
        .get(Some(&buyer), "/users/me/points/history")
        .await
        .expect(200);
    let entry = &history.body["items"][0];
    assert_eq!(entry["transferId"], charged["transferId"]);
    assert_eq!(
        (&entry["kind"], &entry["balanceBefore"], &entry["amount"]),
        (&json!("CHARGE"), &won(0), &won(30_000))
    );

    // It is an order without a reservation, and nobody else's.
    let path = format!("/payment-orders/{}", id(&charged["transferId"]));
    let order = hall.api.get(Some(&buyer), &path).await.expect(200).body;
    assert_eq!(
        (&order["status"], &order["charge"]),
        (&json!("PAID"), &charged)
    );
    assert_eq!(order["reservationId"], Value::Null);
    let foreign = hall.api.get(Some(&other), &path).await;
    foreign.expect_problem(404, "not-found");
    let confirm = json!({ "paymentKey": "tgen_x", "amount": won(30_000) });
    let path = format!("{path}/confirm");
    let answer = hall.api.post(&buyer, &path, "confirm-it", &confirm).await;
    answer.expect_problem(409, "order-state-conflict");

    // Who does not wait is told later, at the command or at the order.
    let later = hall.charge_later(&other, 20_000, "a-later-key").await;
    let charge = hall.charge_at(&other, &later).await;
    assert_eq!(charge["balance"], won(20_000));

    // Cash is none of the gateway's business, and the limits are those of every charge.
    hall.api.charge(&buyer, 5000).await.expect(201);
    let answer = hall.charge_card(&buyer, 1_000_000, "over-the-cap").await;
    answer.expect_problem(422, "balance-cap-exceeded");
    let answer = hall.charge_card(&buyer, 1_000_001, "over-the-limit").await;
    answer.expect_problem(422, "amount-invalid");
    assert_eq!(hall.points(&buyer).await, won(35_000));
    assert_eq!(hall.book().await, [30_000, 20_000]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_card_is_declined_buys_no_points() {
    let hall = Hall::open_with(with_gateway()).await;
    let buyer = hall.buyer();
    hall.switch(json!({ "decline": 1 })).await;
    for _ in 0..2 {
        let answer = hall.charge_card(&buyer, 30_000, "declined-key").await;
        answer.expect_problem(402, "payment-declined");
    }
    assert_eq!(hall.points(&buyer).await, won(0));
    let next = hall.charge_card(&buyer, 30_000, "another-key").await;
    next.expect(201);
    assert_eq!(hall.book().await, [30_000]);

    // An answer that never comes is looked up, and nothing charged again.
    hall.switch(json!({ "loseWebhooks": "all" })).await;
    for switch in [
        json!({ "timeoutAfterCapture": 1 }),
        json!({ "timeoutBeforeCapture": 1 }),
        json!({ "error": 1 }),
        json!({ "unavailable": 2 }),
    ] {
        let buyer = hall.buyer();
        hall.switch(switch).await;
        let answer = hall.charge_card(&buyer, 30_000, "silent-key").await;
        assert!([201, 202].contains(&answer.status.as_u16()), "{answer:?}");
        if answer.status == StatusCode::ACCEPTED {
            hall.shows(&buyer, &location(&answer), "status", "PAID")
                .await;
        }
        let again = hall.charge_card(&buyer, 30_000, "silent-key").await;
        again.expect(201);
        assert_eq!(hall.points(&buyer).await, won(30_000));
    }
    assert_eq!(hall.book().await, [30_000; 5]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_away_is_waited_for_and_what_comes_late_is_credited() {
    let mut hall = Hall::open_with(with_gateway().setting("ONSALE_REQUEST_TIMEOUT_MS", 1500)).await;
    let (patient, unlucky) = (hall.buyer(), hall.buyer());
    let gateway = hall.system.gateway.as_mut().expect("a gateway");
    gateway.kill9().await;
    let open = hall.charge_card(&patient, 30_000, "patient-key").await;
    let open = location(&open.expect(202));
    let lost = hall.charge_card(&unlucky, 40_000, "unlucky-key").await;
    let lost = location(&lost.expect(202));
    let order = lost.strip_prefix("/payment-orders/").expect("an order");
    // As if it had been away for as long as anything may be on its way.
    hall.sql(&format!(
        "UPDATE payment_order SET created_at = created_at - interval '10 min' \
         WHERE order_id = '{order}'"
    ))
    .await;
    let gateway = hall.system.gateway.as_mut().expect("a gateway");
    gateway.restart().await.expect("a gateway");
    hall.shows(&patient, &open, "status", "PAID").await;
    let failed = hall.shows(&unlucky, &lost, "status", "FAILED").await;
    assert_eq!(failed["failCode"], "payment-gateway-unavailable");
    let answer = hall.charge_card(&unlucky, 40_000, "unlucky-key").await;
    answer.expect_problem(502, "payment-gateway-unavailable");
    assert_eq!(hall.points(&unlucky).await, won(0));
    hall.assert_reconciled().await;

    // A request of ours that somebody held up all the time.
    let path = format!("/v1/billing/{}", unlucky.user_id);
    let late = json!({ "customerKey": unlucky.user_id, "amount": 40_000, "orderId": order,
        "orderName": "points" });
    let captured = hall.gateway(Method::POST, &path, Some(late)).await;
    assert_eq!(captured["status"], "DONE");
    hall.shows(&unlucky, &lost, "status", "PAID").await;
    let answer = hall.charge_card(&unlucky, 40_000, "unlucky-key").await;
    assert_eq!(answer.expect(201).body["balance"], won(40_000));
    assert_eq!(hall.book().await, [30_000, 40_000]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_50_charges_with_one_key_one_is_captured() {
    let hall = Hall::open_with(with_gateway().workers(2)).await;
    let buyer = hall.buyer();
    let all = (0..50).map(|_| hall.charge_card(&buyer, 30_000, "the-same-key"));
    let answers = join_all(all).await;
    let charged = hall.charge_card(&buyer, 30_000, "the-same-key").await;
    let charged = charged.expect(201).body;
    for answer in answers {
        match answer.status.as_u16() {
            201 => assert_eq!(answer.body, charged),
            status => assert!([202, 503].contains(&status), "{answer:?}"),
        }
    }
    assert_eq!(hall.points(&buyer).await, won(30_000));
    assert_eq!(hall.book().await, [30_000]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_charges_that_fit_only_one_by_one_the_second_is_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let buyer = hall.buyer();
    // Both are ordered before either is captured.
    hall.switch(json!({ "unavailable": "all" })).await;
    for key in ["the-first-key", "the-second-key"] {
        hall.charge_later(&buyer, 600_000, key).await;
    }
    hall.becomes("SELECT count(*) AS n FROM payment_order", 2)
        .await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.becomes(
        "SELECT count(*) AS n FROM payment_order WHERE status = 'PAID'",
        1,
    )
    .await;
    let refunded = "SELECT count(*) AS n FROM payment_order WHERE status = 'REFUNDED' \
                    AND fail_code = 'balance-cap-exceeded' AND refunded = 600000";
    hall.becomes(refunded, 1).await;
    let mut statuses = Vec::new();
    for key in ["the-first-key", "the-second-key"] {
        let answer = hall.charge_card(&buyer, 600_000, key).await;
        if answer.status != StatusCode::CREATED {
            assert_eq!(answer.code(), "balance-cap-exceeded", "{answer:?}");
        }
        statuses.push(answer.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 422]);
    assert_eq!(hall.points(&buyer).await, won(600_000));
    assert_eq!(hall.book().await, [600_000, 600_000, -600_000]);
    hall.assert_reconciled().await;
}

/// Asked for all at once, through two ledgers: whoever counts them, counts under the account's lock.
#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_charges_of_a_user_are_open_at_once() {
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    let (buyer, other) = (hall.buyer(), hall.buyer());
    hall.switch(json!({ "unavailable": "all" })).await;
    let keys: Vec<String> = (0..20).map(|n| format!("charge-no-{n}")).collect();
    let all = keys.iter().map(|key| hall.charge_card(&buyer, 10_000, key));
    let answers = join_all(all).await;
    let open = "SELECT count(*) AS n FROM payment_order WHERE status IN ('CAPTURING', 'UNKNOWN')";
    hall.becomes(open, 3).await;
    for answer in answers {
        if answer.status != StatusCode::ACCEPTED {
            let answer = answer.expect_problem(409, "too-many-open-charges");
            assert_eq!(
                (&answer.body["limit"], &answer.body["retryable"]),
                (&json!(3), &json!(true))
            );
        }
    }
    // Cash asks nobody, and others have a card of their own.
    hall.api.charge(&buyer, 5000).await.expect(201);
    hall.charge_later(&other, 10_000, "another-buyer").await;
    hall.becomes(open, 4).await;
    // Those that have ended make room.
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.becomes(open, 0).await;
    let next = hall.charge_card(&buyer, 10_000, "there-is-room").await;
    next.expect(201);
    assert_eq!(hall.points(&buyer).await, won(45_000));
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_every_charge_is_captured_and_credited_once() {
    const CHARGES: usize = 30;
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    hall.switch(json!({ "slowMs": 100 })).await;
    let buyers = hall.buyers(CHARGES);
    let mut workers = std::mem::take(&mut hall.system.workers);
    let charging = async {
        let all = buyers
            .iter()
            .map(|buyer| hall.insist_on_charge(buyer, 30_000));
        for answer in join_all(all).await {
            assert_eq!(answer.body["balance"], won(30_000), "{answer:?}");
            assert!(!text(&answer.body["transferId"]).is_empty());
        }
    };
    let killing = async {
        for captured in [1, 10, 20] {
            hall.booked(captured).await;
            workers[captured / 10 % 2].kill9().await;
            workers[captured / 10 % 2]
                .restart()
                .await
                .expect("a worker");
        }
    };
    tokio::join!(charging, killing);
    assert_eq!(hall.book().await, [30_000; CHARGES]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_gateway_nothing_waits_for_one() {
    let mut hall = Hall::open().await;
    let (date, buyer) = (hall.date(1).await, hall.buyer());
    hall.charge_card(&buyer, 30_000, "a-card-key")
        .await
        .expect(201);
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let body = json!({ "reservationId": held.body["reservationId"] });
    let answer = hall
        .api
        .post(&buyer, "/payment-orders", "order-key", &body)
        .await;
    answer.expect_problem(501, "gateway-not-configured");
    assert_eq!(
        hall.number("SELECT count(*) AS n FROM payment_order").await,
        0
    );
    hall.assert_sound().await;
}
