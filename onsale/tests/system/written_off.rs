//! What the buyer's bank takes back of a sold payment, and what somebody says about it.

use crate::hall::Hall;
use crate::shop::{Order, PRICE, with_gateway, won};
use crate::tasks::{are, give_back_by_hand, paid, tasks};
use onsale_testkit::api::id;
use onsale_testkit::{Answer, Buyer};
use serde_json::{Value, json};
use uuid::Uuid;

const NOTE: &str = "Chargeback, case 4711";

async fn write_off(hall: &Hall, by: &Buyer, order: Uuid, key: &str, amounts: &[i64]) -> Answer {
    let path = format!("/admin/tasks/orders/{order}/write-off");
    let amounts: Vec<Value> = amounts.iter().copied().map(won).collect();
    let body = json!({ "amounts": amounts, "note": NOTE });
    hall.api.post(by, &path, key, &body).await
}

/// Waits until an order has been looked up since it was written off.
async fn looked_up(hall: &mut Hall, order: &Order) {
    let waits = format!(
        "SELECT count(*) AS n FROM payment_order WHERE order_id = '{}' AND next_at <= now()",
        order.id
    );
    hall.becomes(&waits, 0).await;
}

fn one(list: &Value) -> &Value {
    let items = list["items"].as_array().expect("a list");
    assert_eq!(items.len(), 1, "{list}");
    &items[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chargeback_is_a_task_until_it_is_written_off_as_it_was() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    let order = paid(&mut hall, &buyer, &["A-1-1", "A-1-2", "A-1-3", "A-1-4"]).await;
    let cancelled = hall.cancel(&buyer, order.reservation, "one-of-four", Some(&["A-1-2"]));
    cancelled.await.expect(200);
    are(&mut hall, "DONE", 1).await;
    give_back_by_hand(&hall, &order, 3000).await;
    hall.odd_orders(1).await;
    let open = tasks(&hall, &admin, "?state=OPEN").await;
    let task = one(&open);
    assert_eq!(
        (&task["kind"], &task["state"], &task["orderStatus"]),
        (&json!("ORDER_ODD"), &json!("OPEN"), &json!("PAID"))
    );
    assert!(
        task["writtenOff"].is_null() && task["note"].is_null(),
        "{task}"
    );

    // Nobody is believed: the payment says whether it was so much.
    let wrong = write_off(&hall, &admin, order.id, "too-little", &[2000]).await;
    wrong.expect(200);
    looked_up(&mut hall, &order).await;
    let open = tasks(&hall, &admin, "").await;
    assert_eq!(one(&open)["writtenOff"], json!([won(2000)]));
    hall.sql("UPDATE payment_order SET odd_at = odd_at - interval '1 hour'")
        .await;
    let report = hall.reconcile().await;
    assert_eq!(report.violated(), ["P2"], "{report}");
    let key = "as-it-was";
    let done = write_off(&hall, &admin, order.id, key, &[3000]).await;
    let done = done.expect(200);
    assert_eq!(done.body["amounts"], json!([won(3000)]));
    let again = write_off(&hall, &admin, order.id, key, &[3000]).await;
    assert_eq!(again.expect(200).body, done.body);
    let other = write_off(&hall, &admin, order.id, key, &[3001]).await;
    other.expect_problem(422, "idempotency-key-reused");
    hall.odd_orders(0).await;
    hall.rests(&buyer, &order, "PAID").await;
    hall.assert_reconciled().await;
    assert_eq!(tasks(&hall, &admin, "").await["items"], json!([]));
    let closed = tasks(&hall, &admin, "?state=RESOLVED").await;
    let task = one(&closed);
    assert_eq!(
        (&task["kind"], &task["state"], &task["note"]),
        (&json!("ORDER_ODD"), &json!("RESOLVED"), &json!(NOTE))
    );
    assert_eq!(
        (&task["writtenOff"], &task["refunded"]),
        (&json!([won(3000)]), &won(PRICE))
    );
    assert_eq!(
        (id(&task["orderId"]), id(&task["resolvedBy"])),
        (order.id, admin.user_id)
    );

    // Whatever goes back besides is somebody's to see to again, and so is what is taken back.
    give_back_by_hand(&hall, &order, PRICE).await;
    hall.odd_orders(1).await;
    let more = write_off(&hall, &admin, order.id, "as-it-is-now", &[3000, PRICE]).await;
    more.expect(200);
    hall.odd_orders(0).await;
    // Nor is it taken for a refund that is owed.
    let cancelled = hall.cancel(&buyer, order.reservation, "another-one", Some(&["A-1-3"]));
    cancelled.await.expect(200);
    are(&mut hall, "DONE", 2).await;
    let book = hall.book_by_order().await;
    assert_eq!(book[&order.id], [4 * PRICE, -PRICE, -3000, -PRICE, -PRICE]);
    hall.assert_reconciled().await;
    let none = write_off(&hall, &admin, order.id, "none-of-it", &[]).await;
    none.expect(200);
    hall.odd_orders(1).await;
}

/// Its buyer had opened the check-out twice, and the gateway shows the attempt that came to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_off_went_back_of_the_payment_that_was_captured() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    let date = hall.date(1).await;
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    hall.agreed_to(&order, PRICE).await;
    hall.confirm(&buyer, &order).await.expect(200);
    hall.switch(json!({ "showLatest": true })).await;
    give_back_by_hand(&hall, &order, 3000).await;
    hall.odd_orders(1).await;
    let done = write_off(&hall, &admin, order.id, "as-it-was", &[3000]).await;
    done.expect(200);
    hall.odd_orders(0).await;
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_sold_is_written_off_and_no_more_than_was_paid() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    let order = paid(&mut hall, &buyer, &["A-1-1"]).await;
    let date = hall.date(1).await;
    let ready = hall.order(&buyer, date, &["A-1-1"]).await;
    let too_much = write_off(&hall, &admin, order.id, "too-much", &[PRICE + 1]).await;
    too_much.expect_problem(422, "amount-mismatch");
    let less_than_nothing = write_off(&hall, &admin, order.id, "negative", &[-1]).await;
    less_than_nothing.expect_problem(422, "amount-mismatch");
    let not_sold = write_off(&hall, &admin, ready.id, "not-sold", &[1]).await;
    not_sold.expect_problem(409, "order-state-conflict");
    let unknown = write_off(&hall, &admin, Uuid::now_v7(), "unknown-one", &[1]).await;
    unknown.expect_problem(404, "not-found");
    let by_buyer = write_off(&hall, &buyer, order.id, "by-buyer", &[1]).await;
    by_buyer.expect_problem(403, "forbidden-role");
    let path = format!("/admin/tasks/orders/{}/write-off", order.id);
    let body = json!({ "amounts": [won(1)], "note": " " });
    let silent = hall.api.post(&admin, &path, "without-a-word", &body).await;
    silent.expect_problem(422, "validation-failed");
    hall.assert_reconciled().await;
}
