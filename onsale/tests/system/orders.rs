//! Payments through the gateway: captured once and sold, or captured and given back, or not captured;
//! whatever the gateway does, however often it is asked, and whoever dies meanwhile.

use crate::hall::{Hall, open_policy};
use crate::shop::{Order, PRICE, with_gateway, won};
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use onsale_testkit::Buyer;
use onsale_testkit::api::text;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_confirmed_sells_its_seats() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1", "A-1-2"]).await;
    assert_eq!(order.amount, 2 * PRICE);
    let confirmation = json!({ "paymentKey": order.payment_key, "amount": won(order.amount) });
    let paid = hall
        .confirm_as(&buyer, &order, "confirm-it", &confirmation)
        .await
        .expect(200);
    assert_eq!(paid.body["status"], "PAID", "{paid:?}");
    // With the payment that it has come to, as where points pay.
    let payment = &paid.body["payment"];
    assert_eq!(
        (
            &payment["reservationId"],
            &payment["amount"],
            &payment["status"]
        ),
        (&json!(order.reservation), &won(2 * PRICE), &json!("PAID"))
    );
    assert!(payment["paidAt"].is_string(), "{paid:?}");
    let path = format!("/payments/{}", text(&payment["paymentId"]));
    let same = hall.api.get(Some(&buyer), &path).await.expect(200);
    assert_eq!(&same.body, payment);
    let again = hall
        .confirm_as(&buyer, &order, "confirm-it", &confirmation)
        .await
        .expect(200);
    assert_eq!(paid.body, again.body);
    let other = hall
        .confirm_as(&buyer, &order, "confirm-it-twice", &confirmation)
        .await;
    other.expect_problem(409, "already-paid");
    hall.map_becomes(date, "SSAA").await;
    let payments = hall.api.get(Some(&buyer), "/payments").await.expect(200);
    let payment = &payments.body["items"][0];
    assert_eq!(
        (&payment["method"], &payment["status"], &payment["amount"]),
        (&json!("GATEWAY"), &json!("PAID"), &won(2 * PRICE))
    );
    assert_eq!(payment["orderId"], json!(order.id));
    // What is paid can't be ordered, nor paid with points.
    hall.api.charge(&buyer, 100_000).await.expect(201);
    let answer = hall.api.pay(&buyer, order.reservation).await;
    answer.expect_problem(409, "already-paid");
    assert_eq!(hall.book().await, [2 * PRICE]);
    hall.assert_reconciled().await;

    // And it can be cancelled: the money goes back as it came.
    let path = format!("/reservations/{}/cancellation", order.reservation);
    let body = json!({ "seats": ["A-1-2"] });
    let cancelled = hall.api.post(&buyer, &path, "cancel-one", &body).await;
    assert_eq!(cancelled.expect(200).body["refunded"], won(PRICE));
    hall.becomes("SELECT count(*) AS n FROM refund WHERE status = 'DONE'", 1)
        .await;
    assert_eq!(hall.book().await, [2 * PRICE, -PRICE]);
    hall.map_becomes(date, "SAAA").await;
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_50_confirmations_at_once_one_captures() {
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    let date = hall.date(1).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let answers = join_all((0..50).map(|_| hall.confirm(&buyer, &order))).await;
    let paid = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(paid >= 1, "{answers:?}");
    for answer in answers.into_iter().filter(|answer| answer.status != 200) {
        assert!([202, 409].contains(&answer.status.as_u16()), "{answer:?}");
    }
    hall.order_becomes(&buyer, &order, "PAID").await;
    assert_eq!(hall.book().await, [PRICE]);
    hall.map_becomes(date, "S").await;
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declined_costs_nothing_and_lets_go_of_the_hold() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    hall.switch(json!({ "decline": 1 })).await;
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let answer = hall.confirm(&buyer, &order).await;
    answer.expect_problem(402, "payment-declined");
    // The attempt is recorded, and another order may follow.
    let payments = hall.api.get(Some(&buyer), "/payments").await.expect(200);
    assert_eq!(payments.body["items"][0]["failCode"], "payment-declined");
    hall.becomes(
        "SELECT count(*) AS n FROM reservation WHERE paying_order IS NOT NULL",
        0,
    )
    .await;
    let next = hall.order_of(&buyer, order.reservation).await;
    hall.confirm(&buyer, &next).await.expect(200);
    assert_eq!(hall.book().await, [PRICE]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_comes_is_looked_up_and_never_charged_again() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(4).await;
    for (switch, seat) in [
        (json!({ "timeoutAfterCapture": 1 }), "A-1-1"),
        (json!({ "timeoutBeforeCapture": 1 }), "A-1-2"),
        (json!({ "error": 1 }), "A-1-3"),
        (json!({ "unavailable": 2 }), "A-1-4"),
    ] {
        let buyer = hall.buyer();
        let order = hall.order(&buyer, date, &[seat]).await;
        hall.switch(switch).await;
        let answer = hall.confirm(&buyer, &order).await;
        assert!([200, 202].contains(&answer.status.as_u16()), "{answer:?}");
        hall.order_becomes(&buyer, &order, "PAID").await;
    }
    assert_eq!(hall.book().await, [PRICE; 4]);
    hall.map_becomes(date, "SSSS").await;
    hall.assert_reconciled().await;
}

impl Hall {
    /// Has the first order captured, and nobody hears of it. The gateway stays silent.
    pub async fn capture_unheard(&mut self, buyer: &Buyer, order: &Order) {
        self.switch(json!({ "timeoutAfterCapture": 1, "loseWebhooks": "all" }))
            .await;
        self.confirm_later(buyer, order, "confirm-late").await;
        self.booked(1).await;
        self.switch(json!({ "error": "all" })).await;
    }

    /// As if the worker were away for as long as the holds had been made to last.
    pub async fn lapse(&mut self) {
        self.system.workers[0].kill9().await;
        self.sql("UPDATE reservation SET expires_at = greatest(held_at, clock_timestamp())")
            .await;
        self.system.workers[0].restart().await.expect("a worker");
    }
}

/// An order whose money was captured while nobody heard of it. The gateway stays silent.
pub async fn captured_unheard(hall: &mut Hall) -> (Uuid, Buyer, Order) {
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.capture_unheard(&buyer, &order).await;
    (date, buyer, order)
}

/// The same, and its hold has lapsed since.
pub async fn captured_too_late(hall: &mut Hall) -> (Uuid, Buyer, Order) {
    let (date, buyer, order) = captured_unheard(hall).await;
    hall.lapse().await;
    hall.map_becomes(date, "AA").await;
    (date, buyer, order)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_comes_too_late_gets_its_seats_if_they_are_free() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_too_late(&mut hall).await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    let paid = hall.order_becomes(&buyer, &order, "PAID").await;
    assert!(paid["paidReservationId"].is_string(), "{paid}");
    hall.map_becomes(date, "SA").await;
    assert_eq!(hall.book().await, [PRICE]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_comes_too_late_for_its_seats_is_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_too_late(&mut hall).await;
    let other = hall.buyer();
    hall.api.hold(&other, date, &["A-1-1"]).await.expect(201);
    // Nor is a refund made twice whose answer is lost.
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.switch(json!({ "timeoutAfterRefund": 1 })).await;
    hall.order_becomes(&buyer, &order, "REFUNDED").await;
    assert_eq!(hall.book().await, [PRICE, -PRICE]);
    hall.map_becomes(date, "HA").await;
    hall.assert_reconciled().await;
}

/// Its buyer has opened the check-out twice, and the gateway shows the attempt that came to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_comes_too_late_is_found_behind_another_attempt() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.agreed_to(&order, PRICE).await;
    hall.capture_unheard(&buyer, &order).await;
    hall.lapse().await;
    hall.map_becomes(date, "AA").await;
    hall.switch(json!({ "error": 0, "showLatest": true })).await;
    hall.order_becomes(&buyer, &order, "PAID").await;
    hall.map_becomes(date, "SA").await;
    assert_eq!(hall.book().await, [PRICE]);
    hall.assert_reconciled().await;
}

/// Whoever runs the sale may give money back in the gateway's own console.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_somebody_has_undone_before_it_was_heard_of_is_none() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_too_late(&mut hall).await;
    hall.system.workers[0].kill9().await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    let path = format!("/v1/payments/{}/cancel", order.payment_key);
    let body = json!({ "cancelReason": "by hand" });
    hall.gateway(Method::POST, &path, Some(body)).await;
    hall.system.workers[0].restart().await.expect("a worker");
    let failed = hall.order_becomes(&buyer, &order, "FAILED").await;
    assert_eq!(failed["failCode"], "payment-declined", "{failed}");
    hall.map_becomes(date, "AA").await;
    assert_eq!(hall.book().await, [PRICE, -PRICE]);
    hall.assert_reconciled().await;
}

/// A request of ours that somebody held up until the order was said to have failed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_captured_after_its_order_has_failed_is_sold_or_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let (lucky, unlucky) = (hall.buyer(), hall.buyer());
    let first = hall.order(&lucky, date, &["A-1-1"]).await;
    let second = hall.order(&unlucky, date, &["A-1-2"]).await;
    hall.switch(json!({ "unavailable": "all" })).await;
    for (buyer, order) in [(&lucky, &first), (&unlucky, &second)] {
        hall.confirm_later(buyer, order, "confirm-late").await;
        let asked = format!(
            "SELECT count(*) AS n FROM payment_order \
             WHERE order_id = '{}' AND status IN ('CAPTURING', 'UNKNOWN') AND attempts > 1",
            order.id
        );
        hall.becomes(&asked, 1).await;
    }
    hall.system.workers[0].kill9().await;
    // As if the gateway were away for as long as anything may be on its way.
    hall.sql("UPDATE reservation SET expires_at = greatest(held_at, clock_timestamp())")
        .await;
    hall.system.workers[0].restart().await.expect("a worker");
    hall.map_becomes(date, "AA").await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    for (buyer, order) in [(&lucky, &first), (&unlucky, &second)] {
        let failed = hall.order_becomes(buyer, order, "FAILED").await;
        assert_eq!(failed["failCode"], "payment-gateway-unavailable");
    }
    let other = hall.buyer();
    hall.api.hold(&other, date, &["A-1-2"]).await.expect(201);
    assert!(hall.book().await.is_empty());

    for order in [&first, &second] {
        let late = json!({ "paymentKey": order.payment_key, "orderId": order.id,
            "amount": order.amount });
        hall.gateway(Method::POST, "/v1/payments/confirm", Some(late))
            .await;
    }
    let paid = hall.order_becomes(&lucky, &first, "PAID").await;
    assert!(paid["paidReservationId"].is_string(), "{paid}");
    let refunded = hall.order_becomes(&unlucky, &second, "REFUNDED").await;
    assert_eq!(refunded["failCode"], "hold-expired", "{refunded}");
    hall.map_becomes(date, "SH").await;
    let book = hall.book_by_order().await;
    assert_eq!(book[&first.id], [PRICE]);
    assert_eq!(book[&second.id], [PRICE, -PRICE]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_every_order_ends_as_one_sale() {
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    let date = hall.date(40).await;
    hall.switch(json!({ "slowMs": 100 })).await;
    let buyers = hall.buyers(40);
    let mut orders = Vec::new();
    for (number, buyer) in (1..).zip(&buyers) {
        orders.push(hall.order(buyer, date, &[&format!("A-1-{number}")]).await);
    }
    let mut workers = std::mem::take(&mut hall.system.workers);
    let buying = async {
        let confirmations = orders.iter().zip(&buyers);
        join_all(confirmations.map(|(order, buyer)| hall.insist(buyer, order))).await;
    };
    let killing = async {
        for paid in [1, 10, 20, 30] {
            hall.booked(paid).await;
            workers[paid / 10 % 2].kill9().await;
            workers[paid / 10 % 2].restart().await.expect("a worker");
        }
    };
    tokio::join!(buying, killing);
    assert_eq!(hall.book().await, [PRICE; 40]);
    hall.map_becomes(date, &"S".repeat(40)).await;
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_and_a_release_wait_for_the_end_of_an_order() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date_with(1, open_policy()).await;
    let buyer = hall.buyer();
    hall.api.charge(&buyer, 100_000).await.expect(201);
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.switch(json!({ "slowMs": 3000 })).await;
    hall.confirm_later(&buyer, &order, "confirm-slow").await;
    hall.becomes(
        "SELECT count(*) AS n FROM reservation WHERE paying_order IS NOT NULL",
        1,
    )
    .await;
    let points = hall.api.pay(&buyer, order.reservation).await;
    points.expect_problem(409, "payment-in-progress");
    let path = format!("/reservations/{}", order.reservation);
    let release = hall.api.delete(&buyer, &path).await;
    release.expect_problem(409, "payment-in-progress");
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.order_becomes(&buyer, &order, "PAID").await;
    let book: Value = hall.book().await.into();
    assert_eq!(book, json!([PRICE]));
    hall.assert_reconciled().await;
}

/// A capture that came when its order had failed, and of which nobody ever tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_captured_late_and_never_told_is_found_by_the_last_look() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer) = (hall.date(2).await, hall.buyer());
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.switch(json!({ "unavailable": "all" })).await;
    hall.confirm_later(&buyer, &order, "confirm-late").await;
    let asked =
        "SELECT count(*) AS n FROM payment_order WHERE status = 'CAPTURING' AND attempts > 1";
    hall.becomes(asked, 1).await;
    hall.system.workers[0].kill9().await;
    hall.sql("UPDATE reservation SET expires_at = greatest(held_at, clock_timestamp())")
        .await;
    hall.system.workers[0].restart().await.expect("a worker");
    hall.map_becomes(date, "AA").await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.order_becomes(&buyer, &order, "FAILED").await;

    hall.switch(json!({ "loseWebhooks": "all" })).await;
    let late = json!({ "paymentKey": order.payment_key, "orderId": order.id,
        "amount": order.amount });
    hall.gateway(Method::POST, "/v1/payments/confirm", Some(late))
        .await;
    let last = "SELECT count(*) AS n FROM payment_order \
                WHERE status = 'FAILED' AND next_at > now() + interval '14 minutes'";
    assert_eq!(
        hall.number(last).await,
        1,
        "it is to be looked up once more"
    );
    // As if it were time.
    hall.sql("UPDATE payment_order SET next_at = next_at - interval '15 minutes'")
        .await;
    hall.order_becomes(&buyer, &order, "PAID").await;
    hall.map_becomes(date, "SA").await;
    assert_eq!(hall.book().await, [PRICE]);
    assert_eq!(
        hall.number("SELECT count(*) AS n FROM gateway_event").await,
        0
    );
    hall.assert_reconciled().await;
}

/// What the gateway has declined is over. What ended without its word is looked up once more, and no
/// buyer waits behind that, however little is asked at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_does_not_wait_behind_last_looks() {
    let options = with_gateway().setting("ONSALE_GATEWAY_IN_HAND", 1);
    let mut hall = Hall::open_with(options).await;
    let date = hall.date(2).await;
    let (first, second) = (hall.buyer(), hall.buyer());
    let failed = hall.order(&first, date, &["A-1-1"]).await;
    hall.switch(json!({ "decline": 1, "loseWebhooks": "all" }))
        .await;
    hall.confirm(&first, &failed)
        .await
        .expect_problem(402, "payment-declined");
    let of_failed = format!(
        "FROM payment_order WHERE order_id = '{}' AND status = 'FAILED'",
        failed.id
    );
    let due = format!("SELECT count(*) AS n {of_failed} AND next_at IS NOT NULL");
    assert_eq!(hall.number(&due).await, 0);

    // As if it had ended without a word; its look can't come to an end.
    let order = hall.order(&second, date, &["A-1-2"]).await;
    let mut other = hall.connect().await;
    let lock = format!(
        "SET idle_in_transaction_session_timeout = 0;
         BEGIN; SELECT FROM reservation WHERE reservation_id = '{}' FOR UPDATE",
        failed.reservation
    );
    other.batch_execute(&lock).await.expect("a lock");
    let look = "UPDATE payment_order SET next_at = clock_timestamp() WHERE order_id =";
    hall.sql(&format!("{look} '{}'", failed.id)).await;
    let in_hand = format!("SELECT count(*) AS n {of_failed} AND next_at > clock_timestamp()");
    hall.becomes(&in_hand, 1).await;
    hall.confirm(&second, &order).await.expect(200);
    other.batch_execute("COMMIT").await.expect("the lock");
    hall.becomes(&due, 0).await;
    hall.assert_reconciled().await;
}
