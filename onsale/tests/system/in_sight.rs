//! What somebody has to see to is told as long as nobody has: the gauges that wake people, from the
//! rows, whichever process has died meanwhile.

use crate::hall::Hall;
use crate::notifications::{Notification, notify};
use crate::orders::captured_too_late;
use crate::shop::{Order, PRICE, with_gateway, won};
use onsale_platform::metric;
use onsale_testkit::Buyer;
use onsale_testkit::api::{id, text};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

impl Hall {
    /// Waits until so many orders are odd, by our rows and by what a worker tells.
    pub async fn odd_orders(&mut self, expected: i64) {
        let odd = "SELECT count(*) AS n FROM payment_order WHERE odd_at IS NOT NULL";
        self.becomes(odd, expected).await;
        let told = format!("{}{{kind=\"odd\"}} {expected}", metric::ORDERS_UNCLEAR);
        self.tells(&told).await;
    }

    /// Gives so much of a payment back at the gateway.
    async fn give_back(&self, order: &Order, amount: i64) {
        let path = format!("/v1/payments/{}/cancel", order.payment_key);
        let body = json!({ "cancelReason": "by hand", "cancelAmount": amount });
        self.gateway(Method::POST, &path, Some(body)).await;
    }

    /// An order that nobody confirms here, and whose payment is captured all the same.
    async fn captured_behind_our_back(&mut self, order: &Order) {
        let body = json!({ "paymentKey": order.payment_key, "orderId": order.id,
            "amount": order.amount });
        self.gateway(Method::POST, "/v1/payments/confirm", Some(body))
            .await;
    }

    /// Another payment of an order, which its buyer has agreed to at the gateway.
    pub async fn agreed_to(&self, order: &Order, amount: i64) -> Order {
        let body = json!({ "orderId": order.id, "amount": amount });
        let checkout = self.gateway(Method::POST, "/v1/checkout", Some(body)).await;
        Order {
            payment_key: text(&checkout["paymentKey"]).to_owned(),
            amount,
            ..order.clone()
        }
    }

    async fn told(&self, event: &str, order: &Order) {
        notify(&self.api, &Notification::of(event, order.id))
            .await
            .expect(204);
    }

    /// Nothing of it is on its way, and nobody looks at it any more.
    pub async fn rests(&mut self, buyer: &Buyer, order: &Order, status: &str) {
        self.order_becomes(buyer, order, status).await;
        let due = format!(
            "SELECT count(*) AS n FROM payment_order \
             WHERE order_id = '{}' AND next_at IS NOT NULL",
            order.id
        );
        self.becomes(&due, 0).await;
    }

    /// As if whoever has asked for seats again were away when the answer comes.
    pub async fn park_reholding(&mut self) {
        self.sql(
            "CREATE FUNCTION park() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN NEW.next_at := now() + interval '1 hour'; RETURN NEW; END$$; \
             CREATE TRIGGER park BEFORE UPDATE ON payment_order FOR EACH ROW \
             WHEN (OLD.status <> 'REHOLDING' AND NEW.status = 'REHOLDING') \
             EXECUTE FUNCTION park()",
        )
        .await;
    }

    /// An odd order ends in this status when all of what was captured, the only thing in the book, is
    /// given back.
    async fn ends_when_given_back(&mut self, buyer: &Buyer, captured: &Order, status: &str) {
        self.give_back(captured, captured.amount).await;
        self.odd_orders(0).await;
        self.rests(buyer, captured, status).await;
        assert_eq!(self.book().await, [captured.amount, -captured.amount]);
        self.assert_reconciled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_not_what_was_ordered_is_told_until_it_is_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.switch(json!({ "loseWebhooks": "all" })).await;
    hall.odd_orders(0).await;
    hall.captured_behind_our_back(&order).await;
    hall.give_back(&order, PRICE / 2).await;
    hall.told("event-1", &order).await;
    hall.odd_orders(1).await;
    // Whoever administers sees which, and what was ordered.
    let admin = hall.admin();
    let listed = async |hall: &Hall| {
        hall.api
            .get(Some(&admin), "/admin/tasks")
            .await
            .expect(200)
            .body
    };
    let all = listed(&hall).await;
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all}");
    let task = &all["items"][0];
    assert_eq!(
        (&task["kind"], &task["state"], &task["orderStatus"]),
        (&json!("ORDER_ODD"), &json!("OPEN"), &json!("READY"))
    );
    assert_eq!((&task["amount"], &task["captured"]), (&won(PRICE), &won(0)));
    assert_eq!(
        (id(&task["orderId"]), id(&task["reservationId"])),
        (order.id, order.reservation)
    );
    // It sells nothing, and is looked at again by itself; whoever dies, it stays in sight.
    hall.order_becomes(&buyer, &order, "READY").await;
    let again = "SELECT count(*) AS n FROM payment_order \
                 WHERE status = 'READY' AND next_at > now() + interval '5 minutes'";
    hall.becomes(again, 1).await;
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("a worker");
    hall.odd_orders(1).await;
    // Nor does it become less odd while the gateway says nothing.
    hall.switch(json!({ "unavailable": "all" })).await;
    hall.told("event-2", &order).await;
    let tried = "SELECT count(*) AS n FROM payment_order WHERE attempts > 2";
    hall.becomes(tried, 1).await;
    hall.odd_orders(1).await;

    // In time the audit says so, too.
    hall.sql("UPDATE payment_order SET odd_at = odd_at - interval '1 hour'")
        .await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    let report = hall.reconcile().await;
    assert_eq!(report.violated(), ["P2"], "{report}");
    hall.give_back(&order, PRICE - PRICE / 2).await;
    hall.odd_orders(0).await;
    assert_eq!(listed(&hall).await["items"], json!([]));
    hall.rests(&buyer, &order, "READY").await;
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_under_the_name_of_another_orders_payment_is_odd() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let mine = hall.order(&buyer, date, &["A-1-1"]).await;
    let other = hall.order(&buyer, date, &["A-1-2"]).await;
    // The gateway refuses it, and from then on it is the name of that order's payment.
    let confirmation = Order {
        payment_key: mine.payment_key.clone(),
        ..other.clone()
    };
    let refused = hall.confirm(&buyer, &confirmation).await;
    refused.expect_problem(402, "payment-declined");
    hall.captured_behind_our_back(&mine).await;
    hall.odd_orders(1).await;
    hall.order_becomes(&buyer, &mine, "READY").await;

    hall.ends_when_given_back(&buyer, &mine, "READY").await;
}

/// The gateway does not ask us what a payment is to cost.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_on_its_way_ends_when_what_was_not_ordered_is_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let half = hall.agreed_to(&order, PRICE / 2).await;
    hall.switch(json!({ "loseWebhooks": "all" })).await;
    hall.captured_behind_our_back(&half).await;
    hall.switch(json!({ "unavailable": "all" })).await;
    let confirmation = Order {
        amount: PRICE,
        ..half.clone()
    };
    hall.confirm_later(&buyer, &confirmation, "confirm-it")
        .await;
    let tried = "SELECT count(*) AS n FROM payment_order \
                 WHERE status = 'CAPTURING' AND attempts > 1";
    hall.becomes(tried, 1).await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.odd_orders(1).await;
    hall.order_becomes(&buyer, &order, "UNKNOWN").await;

    hall.ends_when_given_back(&buyer, &half, "FAILED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_by_another_attempt_is_odd_until_it_is_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(1).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.switch(json!({ "decline": 1 })).await;
    let declined = hall.confirm(&buyer, &order).await;
    declined.expect_problem(402, "payment-declined");
    let again = hall.agreed_to(&order, PRICE).await;
    hall.captured_behind_our_back(&again).await;
    hall.odd_orders(1).await;
    hall.order_becomes(&buyer, &order, "FAILED").await;

    hall.ends_when_given_back(&buyer, &again, "FAILED").await;
}

/// Somebody gives back at the gateway what is sold here: the gateway tells of it, and nobody else would.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sold_and_given_back_at_the_gateway_is_told_until_its_sale_is_cancelled() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.confirm(&buyer, &order).await.expect(200);
    hall.give_back(&order, order.amount).await;
    hall.odd_orders(1).await;
    // Nothing here follows from it, and it is looked at again by itself; whoever dies, it stays in sight.
    hall.order_becomes(&buyer, &order, "PAID").await;
    hall.map_becomes(date, "SA").await;
    let again = "SELECT count(*) AS n FROM payment_order \
                 WHERE status = 'PAID' AND next_at > now() + interval '5 minutes'";
    hall.becomes(again, 1).await;
    hall.workers_say("does not keep of a payment").await;
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("a worker");
    hall.odd_orders(1).await;

    // The refund of its cancellation is what was given back.
    let cancelled = hall
        .cancel(&buyer, order.reservation, "cancel-it", None)
        .await;
    cancelled.expect(200);
    hall.becomes("SELECT count(*) AS n FROM refund WHERE status = 'DONE'", 1)
        .await;
    // As if it were time.
    hall.sql("UPDATE payment_order SET next_at = now()").await;
    hall.odd_orders(0).await;
    hall.rests(&buyer, &order, "PAID").await;
    assert_eq!(hall.book().await, [order.amount, -order.amount]);
    hall.assert_reconciled().await;
}

/// Its buyer has opened the check-out twice, and the gateway shows the attempt that came to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sold_is_not_odd_because_another_attempt_is_shown() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1", "A-1-2"]).await;
    hall.agreed_to(&order, order.amount).await;
    hall.switch(json!({ "showLatest": true })).await;
    hall.confirm(&buyer, &order).await.expect(200);
    // The gateway tells of the refund, and so the order is looked up.
    let cancelled = hall
        .cancel(&buyer, order.reservation, "cancel-one", Some(&["A-1-2"]))
        .await;
    cancelled.expect(200);
    let looked = "SELECT count(*) AS n FROM payment_order WHERE attempts > 0";
    hall.becomes(looked, 1).await;
    hall.becomes("SELECT count(*) AS n FROM refund WHERE status = 'DONE'", 1)
        .await;
    hall.rests(&buyer, &order, "PAID").await;
    hall.odd_orders(0).await;
    // What becomes of ours is seen all the same.
    hall.give_back(&order, PRICE / 2).await;
    hall.odd_orders(1).await;
}

/// The gateway tells of it when the money is here and nothing is sold yet: that is looked at when it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_back_before_the_sale_is_told_after_it() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_too_late(&mut hall).await;
    hall.park_reholding().await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.order_becomes(&buyer, &order, "REHOLDING").await;
    hall.give_back(&order, order.amount).await;
    let told = "SELECT count(*) AS n FROM payment_order WHERE may_be_back";
    hall.becomes(told, 1).await;
    hall.odd_orders(0).await;
    hall.sql("UPDATE payment_order SET next_at = now()").await;
    hall.order_becomes(&buyer, &order, "PAID").await;
    hall.map_becomes(date, "SA").await;
    hall.odd_orders(1).await;
    hall.becomes(told, 0).await;
}

/// Of each refund the gateway tells: before its answer, without one, or when all is done.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_tells_of_our_own_refunds_is_never_odd() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    let order = hall
        .order(&buyer, date, &["A-1-1", "A-1-2", "A-1-3", "A-1-4"])
        .await;
    hall.confirm(&buyer, &order).await.expect(200);
    for (no, fault) in [
        json!({}),
        json!({ "timeoutAfterRefund": 1 }),
        json!({ "refundFailure": 1, "webhookCopies": 3 }),
        json!({ "lateWebhooksMs": 500 }),
    ]
    .into_iter()
    .enumerate()
    {
        // That the order was sold was told before, and is nothing to look for.
        hall.rests(&buyer, &order, "PAID").await;
        hall.sql("UPDATE payment_order SET attempts = 0").await;
        hall.switch(fault).await;
        let (key, seat) = (format!("cancel-{no}"), format!("A-1-{}", no + 1));
        let seats = [seat.as_str()];
        let cancelled = hall
            .cancel(&buyer, order.reservation, &key, Some(&seats))
            .await;
        cancelled.expect(200);
        let done = "SELECT count(*) AS n FROM refund WHERE status = 'DONE'";
        hall.becomes(done, i64::try_from(no).expect("few") + 1)
            .await;
        let looked = "SELECT count(*) AS n FROM payment_order WHERE attempts > 0";
        hall.becomes(looked, 1).await;
        hall.gateway(Method::DELETE, "/switches", None).await;
    }
    hall.rests(&buyer, &order, "PAID").await;
    hall.odd_orders(0).await;
    assert!(!hall.logs().contains("does not keep of a payment"));
    hall.assert_reconciled().await;
}

/// The gateway was heard of it, and then never says a word about it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_looked_up_in_vain_is_told() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let sold = hall.order(&buyer, date, &["A-1-2"]).await;
    hall.confirm(&buyer, &sold).await.expect(200);
    let in_vain = |count| format!("{}{{kind=\"in-vain\"}} {count}", metric::ORDERS_UNCLEAR);
    hall.switch(json!({ "unavailable": "all" })).await;
    hall.told("event-1", &order).await;
    // As if that had gone on for a while.
    hall.sql("UPDATE payment_order SET attempts = 10").await;
    hall.tells(&in_vain(1)).await;
    // What is sold counts as well.
    hall.sql("UPDATE payment_order SET attempts = 10, next_at = now() + interval '1 hour'")
        .await;
    hall.tells(&in_vain(2)).await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.sql("UPDATE payment_order SET next_at = now()").await;
    hall.rests(&buyer, &order, "READY").await;
    hall.tells(&in_vain(0)).await;
    hall.assert_reconciled().await;
}

/// Somebody has taken the gateway out of the settings while money was on its way.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_gateway_what_is_left_of_it_is_told_all_the_same() {
    let mut hall = Hall::open().await;
    hall.tells(&format!("{}{{kind=\"pending\"}} 0", metric::REFUNDS_OPEN))
        .await;
    assert!(
        !hall.system.workers[0]
            .log()
            .contains("no gateway is configured")
    );
    let (order, user) = (Uuid::now_v7(), hall.buyer().user_id);
    hall.sql(&format!(
        "INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, \
                                    payment_key, confirm_command_id, confirm_fingerprint, \
                                    captured, created_at, updated_at) \
         VALUES ('{order}', '{user}', '{order}', '{order}', 1, 'REFUNDING', '{order}', '{order}', \
                 '{order}', 1, now(), now()); \
         INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, next_at, \
                             created_at) \
         VALUES ('{order}', '{order}', '{user}', '{order}', 'GATEWAY', 1, 'PENDING', now(), now())"
    ))
    .await;
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("a worker");
    hall.tells(&format!("{}{{kind=\"pending\"}} 1", metric::REFUNDS_OPEN))
        .await;
    hall.workers_say("no gateway is configured").await;
    hall.workers_say("set ONSALE_GATEWAY_URL").await;
}
