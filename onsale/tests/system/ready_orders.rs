//! Orders that nobody confirms: there is one for each reservation, and it goes away in time, as dead
//! letters do that nobody has to see to. What was ever confirmed stays.

use crate::hall::{Hall, reservation};
use crate::shop::with_gateway;
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Buyer};
use serde_json::json;
use uuid::Uuid;

impl Hall {
    async fn ask_order(&self, by: &Buyer, reservation: Uuid, key: &str) -> Answer {
        let body = json!({ "reservationId": reservation });
        self.api.post(by, "/payment-orders", key, &body).await
    }
}

const ORDERS: &str = "SELECT count(*) AS n FROM payment_order";

/// Through two workers, so that the row's lock decides and not the order of one process.
#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_has_one_order_that_is_ready() {
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    let date = hall.date(2).await;
    let buyer = hall.buyer();
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let held = reservation(&held.body);
    let other = hall.api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    let other = reservation(&other.body);
    let keys: Vec<String> = (0..30).map(|n| format!("order-key-{n}")).collect();
    let answers = join_all(keys.iter().map(|key| hall.ask_order(&buyer, held, key))).await;
    let first = hall
        .ask_order(&buyer, held, &keys[0])
        .await
        .expect(201)
        .body;
    for answer in answers {
        assert_eq!(answer.expect(201).body, first);
    }
    assert_eq!(hall.number(ORDERS).await, 1);
    // A key stands for one reservation, whether the order was made for it or was there.
    for key in &keys {
        let answer = hall.ask_order(&buyer, other, key).await;
        answer.expect_problem(422, "idempotency-key-reused");
    }
    let second = hall.order_of(&buyer, other).await;
    assert_eq!(hall.number(ORDERS).await, 2);

    // What was answered is answered again, whatever has become of the order.
    let order = hall.order_of(&buyer, held).await;
    assert_eq!(order.id.to_string(), text(&first["orderId"]));
    assert_ne!(order.id, second.id);
    hall.confirm(&buyer, &order).await.expect(200);
    for key in &keys {
        assert_eq!(
            hall.ask_order(&buyer, held, key).await.expect(201).body,
            first
        );
    }
    let answer = hall.ask_order(&buyer, held, "a-late-key").await;
    answer.expect_problem(409, "already-paid");
    assert_eq!(hall.number(ORDERS).await, 2);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_nobody_confirmed_and_letters_that_nobody_needs_are_purged() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(3).await;
    let buyer = hall.buyer();
    let paid = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.confirm(&buyer, &paid).await.expect(200);
    let held = hall.order(&buyer, date, &["A-1-2"]).await;
    let released = hall.order(&buyer, date, &["A-1-3"]).await;
    let path = format!("/reservations/{}", released.reservation);
    hall.api.delete(&buyer, &path).await.expect(204);
    let recent = hall.order(&buyer, date, &["A-1-3"]).await;
    let path = format!("/reservations/{}", recent.reservation);
    hall.api.delete(&buyer, &path).await.expect(204);
    hall.sql(&format!(
        "UPDATE payment_order SET created_at = created_at - interval '8 days' \
         WHERE order_id <> '{}';
         UPDATE payment_order_key SET at = at - interval '25 hours' WHERE order_id <> '{}';
         INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, \
                                  error, at, retries, retried_at) VALUES
             ('ledger', -1, 0, 1, 0, '', 'never tried', now() - interval '99 days', 0, NULL),
             ('ledger', -1, 0, 2, 0, '', 'tried', now() - interval '99 days', 1,
              now() - interval '89 days'),
             ('ledger', -1, 0, 3, 0, '', 'tried long ago', now() - interval '99 days', 1,
              now() - interval '91 days'),
             ('ledger', -1, 0, 4, -1, '', 'no command', now() - interval '91 days', 0, NULL),
             ('ledger', -1, 0, 5, -1, '', 'no command', now() - interval '89 days', 0, NULL)",
        recent.id, recent.id
    ))
    .await;
    // It looks when it begins.
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("it starts");
    hall.becomes(ORDERS, 3).await;
    hall.becomes("SELECT count(*) AS n FROM payment_order_key", 1)
        .await;
    for (order, status) in [(&paid, "PAID"), (&held, "READY"), (&recent, "READY")] {
        hall.order_becomes(&buyer, order, status).await;
    }
    let gone = hall.api.get(Some(&buyer), &released.path()).await;
    gone.expect_problem(404, "not-found");
    hall.becomes("SELECT sum(seq)::bigint AS n FROM dead_letter", 1 + 2 + 5)
        .await;
    hall.assert_reconciled().await;

    // Nobody else removes what may have moved money, either.
    let delete = format!("DELETE FROM payment_order WHERE order_id = '{}'", paid.id);
    let refused = hall.conn.batch_execute(&delete).await;
    let refused = refused.expect_err("it is kept").to_string();
    assert!(refused.contains("is kept"), "{refused}");
}
