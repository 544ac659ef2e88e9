//! Refunds that the gateway would not make: seen by who administers, tried again, or paid back by
//! other means; and whatever is said of one, what was captured is accounted for.

use crate::hall::{Hall, PATIENCE};
use crate::orders::captured_too_late;
use crate::shop::{Order, PRICE, with_gateway, won};
use futures_util::future::join_all;
use onsale_testkit::api::{id, text};
use onsale_testkit::{Answer, Buyer};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// Seats that were paid through the gateway and given up while it refuses refunds.
pub async fn stuck(hall: &mut Hall, buyer: &Buyer, seats: &[&str]) -> Order {
    let order = paid(hall, buyer, seats).await;
    hall.switch(json!({ "refundDecline": "all" })).await;
    let path = format!("/reservations/{}/cancellation", order.reservation);
    for seat in seats {
        let body = json!({ "seats": [seat] });
        let key = format!("give-up-{seat}");
        let cancelled = hall.api.post(buyer, &path, &key, &body).await.expect(200);
        assert_eq!(cancelled.body["refunded"], won(PRICE));
    }
    are_stuck(hall, seats.len()).await;
    order
}

async fn are_stuck(hall: &mut Hall, count: usize) {
    are(hall, "STUCK", i64::try_from(count).expect("few")).await;
}

/// Waits until so many refunds have come so far.
pub async fn are(hall: &mut Hall, status: &str, count: i64) {
    let sql = format!("SELECT count(*) AS n FROM refund WHERE status = '{status}'");
    hall.becomes(&sql, count).await;
}

/// What only the gateway's own people do.
pub async fn give_back_by_hand(hall: &Hall, order: &Order, amount: i64) {
    give_back(hall, order, amount, "by hand").await;
}

/// What the gateway does when it is asked with this reason.
pub async fn give_back(hall: &Hall, order: &Order, amount: i64, reason: &str) {
    let path = format!("/v1/payments/{}/cancel", order.payment_key);
    let body = json!({ "cancelReason": reason, "cancelAmount": amount });
    hall.gateway(Method::POST, &path, Some(body)).await;
}

pub async fn paid(hall: &mut Hall, buyer: &Buyer, seats: &[&str]) -> Order {
    let date = hall.date(4).await;
    let order = hall.order(buyer, date, seats).await;
    hall.confirm(buyer, &order).await.expect(200);
    order
}

pub async fn tasks(hall: &Hall, by: &Buyer, query: &str) -> Value {
    let path = format!("/admin/tasks{query}");
    hall.api.get(Some(by), &path).await.expect(200).body
}

pub async fn retry(hall: &Hall, by: &Buyer, refund: Uuid, key: &str) -> Answer {
    let path = format!("/admin/tasks/{refund}/retry");
    hall.api.post(by, &path, key, &json!({})).await
}

pub async fn resolve(hall: &Hall, by: &Buyer, refund: Uuid, key: &str, note: &str) -> Answer {
    let path = format!("/admin/tasks/{refund}/resolution");
    let body = json!({ "note": note });
    hall.api.post(by, &path, key, &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_refused_is_a_task_until_it_is_made() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    let order = stuck(&mut hall, &buyer, &["A-1-1", "A-1-2"]).await;

    // Who has waited longest comes first, in pages.
    let all = tasks(&hall, &admin, "").await;
    let first = &all["items"][0];
    assert_eq!(all["items"].as_array().map(Vec::len), Some(2), "{all}");
    assert_eq!(
        (&first["kind"], &first["state"], &first["amount"]),
        (&json!("REFUND_STUCK"), &json!("OPEN"), &won(PRICE))
    );
    assert_eq!(id(&first["orderId"]), order.id);
    assert_eq!(id(&first["reservationId"]), order.reservation);
    assert_eq!(id(&first["userId"]), buyer.user_id);
    assert!(first["cancellationId"].is_string() && first["attempts"] == 1);
    assert!(!text(&first["lastError"]).is_empty());
    let page = tasks(&hall, &admin, "?limit=1").await;
    assert_eq!(page["items"][0], *first);
    let next = format!("?limit=1&cursor={}", text(&page["nextCursor"]));
    assert_eq!(
        tasks(&hall, &admin, &next).await["items"][0],
        all["items"][1]
    );
    let answer = hall.api.get(Some(&admin), "/admin/tasks?state=DONE").await;
    answer.expect_problem(422, "validation-failed");

    // Tried again while the gateway still refuses, it is a task again, and says so.
    let refund = id(&first["refundId"]);
    let tried = retry(&hall, &admin, refund, "try-again").await.expect(200);
    assert_eq!(tried.body["status"], "PENDING");
    are_stuck(&mut hall, 2).await;
    let again = tasks(&hall, &admin, "").await;
    let again = again["items"].as_array().expect("a list");
    let again = again.iter().find(|task| id(&task["refundId"]) == refund);
    let again = again.expect("it is a task again");
    assert_eq!(
        (&again["retries"], &again["attempts"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(id(&again["retriedBy"]), admin.user_id);

    // And once more when it does not, though it remembers what it has refused: made once, however often the same is asked.
    hall.gateway(Method::DELETE, "/switches", None).await;
    let tried = retry(&hall, &admin, refund, "once-more").await.expect(200);
    let same = retry(&hall, &admin, refund, "once-more").await.expect(200);
    assert_eq!(tried.body, same.body);
    are(&mut hall, "DONE", 1).await;
    let same = retry(&hall, &admin, refund, "once-more").await.expect(200);
    assert_eq!(tried.body, same.body);
    let answer = retry(&hall, &admin, refund, "yet-another").await;
    answer.expect_problem(409, "refund-state-conflict");
    assert_eq!(hall.book().await, [2 * PRICE, -PRICE]);
    let left = tasks(&hall, &admin, "").await;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    let answer = retry(&hall, &admin, Uuid::now_v7(), "no-such-thing").await;
    answer.expect_problem(404, "not-found");
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_back_by_other_means_is_said_once_and_for_good() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    let order = stuck(&mut hall, &buyer, &["A-1-1"]).await;
    let refund = id(&tasks(&hall, &admin, "").await["items"][0]["refundId"]);
    for note in ["", "  ", "two\nlines", &"x".repeat(501)] {
        let answer = resolve(&hall, &admin, refund, "a-bad-note", note).await;
        answer.expect_problem(422, "validation-failed");
    }
    let keys: Vec<String> = (0..20).map(|n| format!("at-once-{n}")).collect();
    let resolutions = keys
        .iter()
        .map(|key| resolve(&hall, &admin, refund, key, "Bank transfer 4711"));
    let answers = join_all(resolutions).await;
    let (done, refused): (Vec<_>, Vec<_>) = keys
        .iter()
        .zip(answers)
        .partition(|(_, answer)| answer.status == 200);
    assert_eq!(done.len(), 1, "{done:?}");
    for (_, answer) in refused {
        answer.expect_problem(409, "refund-state-conflict");
    }
    let (key, resolved) = &done[0];
    assert_eq!(resolved.body["status"], "RESOLVING");
    let same = resolve(&hall, &admin, refund, key, "Bank transfer 4711").await;
    assert_eq!(same.expect(200).body, resolved.body);
    let other = resolve(&hall, &admin, refund, key, "Cash").await;
    other.expect_problem(422, "idempotency-key-reused");
    let answer = retry(&hall, &admin, refund, "too-late-key").await;
    answer.expect_problem(409, "refund-state-conflict");

    are(&mut hall, "RESOLVED", 1).await;
    let open = tasks(&hall, &admin, "").await;
    assert_eq!(open["items"], json!([]));
    let resolved = tasks(&hall, &admin, "?state=RESOLVED").await;
    let resolved = &resolved["items"][0];
    assert_eq!(
        (&resolved["state"], &resolved["note"]),
        (&json!("RESOLVED"), &json!("Bank transfer 4711"))
    );
    assert_eq!(id(&resolved["resolvedBy"]), admin.user_id);
    // It counts as refunded, though the gateway knows nothing of it.
    let path = format!("/payment-orders/{}", order.id);
    let shown = hall.api.get(Some(&buyer), &path).await.expect(200).body;
    assert_eq!(shown["refunded"], won(PRICE));
    let path = format!("/reservations/{}/cancellation", order.reservation);
    let body = json!({ "seats": ["A-1-1"] });
    let told = hall.api.post(&buyer, &path, "give-up-A-1-1", &body).await;
    assert_eq!(told.expect(200).body["refund"]["status"], "RESOLVED");
    assert_eq!(hall.book().await, [PRICE]);
    hall.assert_reconciled().await;

    // A gateway that has made it after all has paid twice: that is found.
    hall.gateway(Method::DELETE, "/switches", None).await;
    give_back_by_hand(&hall, &order, PRICE).await;
    // As soon as the entry is so old that no clock can be the reason.
    let found = tokio::time::timeout(PATIENCE, async {
        while hall.reconcile().await.ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    assert!(found.await.is_ok(), "paid twice, and nobody finds it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_came_too_late_is_over_when_it_was_paid_back_by_other_means() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_too_late(&mut hall).await;
    let (other, admin) = (hall.buyer(), hall.admin());
    hall.api.hold(&other, date, &["A-1-1"]).await.expect(201);
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.switch(json!({ "refundDecline": "all" })).await;
    are_stuck(&mut hall, 1).await;
    hall.order_becomes(&buyer, &order, "REFUNDING").await;
    let task = tasks(&hall, &admin, "").await["items"][0].clone();
    assert!(task["cancellationId"].is_null(), "{task}");
    let refund = id(&task["refundId"]);
    resolve(&hall, &admin, refund, "paid-by-hand", "Bank transfer")
        .await
        .expect(200);
    hall.order_becomes(&buyer, &order, "REFUNDED").await;
    assert_eq!(hall.book().await, [PRICE]);
    hall.assert_reconciled().await;
}

/// The gateway has made it, but its answer is lost, and so is its memory of the key: whoever asks again
/// would be paid twice, or be refused and leave it to somebody who pays it by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_made_once_though_answer_and_key_are_lost() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let buyer = hall.buyer();
    let half = paid(&mut hall, &buyer, &["A-1-1", "A-1-2"]).await;
    let whole = paid(&mut hall, &buyer, &["A-1-1"]).await;
    hall.switch(json!({ "timeoutAfterRefund": 2, "forgetKeys": "all" }))
        .await;
    let seats: Option<&[&str]> = Some(&["A-1-1"]);
    for order in [&half, &whole] {
        let cancelled = hall.cancel(&buyer, order.reservation, "cancel-it", seats);
        cancelled.await.expect(200);
    }
    are(&mut hall, "DONE", 2).await;
    let book = hall.book_by_order().await;
    assert_eq!(book[&half.id], [2 * PRICE, -PRICE]);
    assert_eq!(book[&whole.id], [PRICE, -PRICE]);
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_given_back_is_nobodys_task() {
    // Who asks waits for longer than this takes.
    let options = with_gateway().setting("ONSALE_GATEWAY_TIMEOUT_MS", 60_000);
    let mut hall = Hall::open_with(options).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    // The gateway would give back as much once more.
    let order = paid(&mut hall, &buyer, &["A-1-1", "A-1-2"]).await;
    hall.switch(json!({ "timeoutAfterRefund": 1, "forgetKeys": "all" }))
        .await;
    let cancelled = hall.cancel(&buyer, order.reservation, "cancel-it", Some(&["A-1-1"]));
    cancelled.await.expect(200);
    hall.booked(2).await;
    assert_eq!(tasks(&hall, &admin, "").await["items"], json!([]));
    // Two days of that later.
    hall.switch(json!({ "error": "all" })).await;
    hall.sql(
        "UPDATE refund SET created_at = created_at - interval '2 days', attempts = 100, \
                next_at = clock_timestamp()",
    )
    .await;
    let looked = "SELECT count(*) AS n FROM refund WHERE attempts >= 102 OR status <> 'PENDING'";
    hall.becomes(looked, 1).await;
    are(&mut hall, "PENDING", 1).await;
    // It is shown, and why; but nobody may have it asked for again, nor pay it by other means.
    let all = tasks(&hall, &admin, "").await;
    let task = &all["items"][0];
    assert_eq!(
        (&task["kind"], &task["state"], &task["amount"]),
        (&json!("REFUND_IN_DOUBT"), &json!("OPEN"), &won(PRICE))
    );
    assert!(text(&task["lastError"]).contains("looked up"), "{task}");
    assert!(text(&task["since"]) > text(&task["owedSince"]), "{task}");
    assert_eq!(tasks(&hall, &admin, "?state=OPEN").await, all);
    assert_eq!(
        tasks(&hall, &admin, "?state=RESOLVING").await["items"],
        json!([])
    );
    let refund = id(&task["refundId"]);
    let answer = retry(&hall, &admin, refund, "try-again").await;
    answer.expect_problem(409, "refund-state-conflict");
    let answer = resolve(&hall, &admin, refund, "paid-by-hand", "Bank transfer").await;
    answer.expect_problem(409, "refund-state-conflict");
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.sql("UPDATE refund SET next_at = clock_timestamp()")
        .await;
    are(&mut hall, "DONE", 1).await;
    assert_eq!(hall.book().await, [2 * PRICE, -PRICE]);
    assert_eq!(tasks(&hall, &admin, "").await["items"], json!([]));
    // It is of the day before yesterday, and so late, but all right.
    hall.sql("UPDATE refund SET created_at = done_at").await;
    hall.assert_reconciled().await;
}

/// Who says to have paid it back by other means while nobody can ask the gateway keeps others from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_paid_back_is_shown_as_that_while_it_does_not_count() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (buyer, admin) = (hall.buyer(), hall.admin());
    stuck(&mut hall, &buyer, &["A-1-1", "A-1-2"]).await;
    hall.switch(json!({ "error": "all" })).await;
    let all = tasks(&hall, &admin, "").await;
    let (first, second) = (&all["items"][0], &all["items"][1]);
    let refund = id(&first["refundId"]);
    resolve(&hall, &admin, refund, "paid-by-hand", "Bank transfer")
        .await
        .expect(200);
    let resolving = tasks(&hall, &admin, "?state=RESOLVING").await;
    let shown = &resolving["items"][0];
    assert_eq!(
        (&shown["refundId"], &shown["kind"], &shown["state"]),
        (
            &first["refundId"],
            &json!("REFUND_STUCK"),
            &json!("RESOLVING")
        )
    );
    assert_eq!(shown["note"], "Bank transfer");
    let open = tasks(&hall, &admin, "?state=OPEN").await;
    assert_eq!(open["items"], json!([second]));
    let both = tasks(&hall, &admin, "").await;
    assert_eq!(both["items"].as_array().map(Vec::len), Some(2), "{both}");
    hall.gateway(Method::DELETE, "/switches", None).await;
    are(&mut hall, "RESOLVED", 1).await;
    hall.assert_reconciled().await;
}
