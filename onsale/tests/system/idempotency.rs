//! The same key, twice at once, after a restart, with another body, at another ingress.

use crate::hall::{Hall, reservation};
use onsale_testkit::{Api, SystemOptions};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_twice_at_once_and_again_after_a_restart_is_one_reservation() {
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let date = hall.date(10).await;
    let buyer = hall.buyer();
    let other = Api::new(hall.system.url(1));
    let body = json!({ "scheduleId": date, "seats": ["A-1-1", "A-1-2"] });
    let (first, second) = tokio::join!(
        hall.api
            .post(&buyer, "/reservations", "one-and-the-same", &body),
        other.post(&buyer, "/reservations", "one-and-the-same", &body),
    );
    let (first, second) = (first.expect(201), second.expect(201));
    assert_eq!(strip(&first.body), strip(&second.body));

    for worker in &mut hall.system.workers {
        worker.kill9().await;
        worker.restart().await.expect("a worker");
    }
    for ingress in &mut hall.system.ingresses {
        ingress.kill9().await;
        ingress.restart().await.expect("an ingress");
    }
    let again = hall
        .api
        .post(&buyer, "/reservations", "one-and-the-same", &body)
        .await;
    assert_eq!(strip(&again.expect(201).body), strip(&first.body));
    assert_eq!(
        hall.number("SELECT count(*) AS n FROM reservation").await,
        1
    );
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_request() {
    let mut hall = Hall::open().await;
    let (date, elsewhere) = (hall.date(10).await, hall.date(10).await);
    let (buyer, stranger) = (hall.buyer(), hall.buyer());
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let first = hall
        .api
        .post(&buyer, "/reservations", "my-own-key", &body)
        .await
        .expect(201);
    for other in [
        json!({ "scheduleId": date, "seats": ["A-1-2"] }),
        json!({ "scheduleId": elsewhere, "seats": ["A-1-1"] }),
    ] {
        let answer = hall
            .api
            .post(&buyer, "/reservations", "my-own-key", &other)
            .await;
        answer.expect_problem(422, "idempotency-key-reused");
    }
    // Somebody else's same key is another key.
    let theirs = json!({ "scheduleId": date, "seats": ["A-1-3"] });
    let answer = hall
        .api
        .post(&stranger, "/reservations", "my-own-key", &theirs)
        .await;
    assert_ne!(
        reservation(&answer.expect(201).body),
        reservation(&first.body)
    );
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_remembered() {
    let mut hall = Hall::open().await;
    let date = hall.date(10).await;
    let (first, second) = (hall.buyer(), hall.buyer());
    let held = hall.api.hold(&first, date, &["A-1-1"]).await.expect(201);
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let refused = hall
        .api
        .post(&second, "/reservations", "try-again", &body)
        .await;
    refused.expect_problem(409, "seat-unavailable");
    let path = format!("/reservations/{}", reservation(&held.body));
    hall.api.delete(&first, &path).await.expect(204);
    hall.api
        .post(&second, "/reservations", "try-again", &body)
        .await
        .expect(201);
    hall.assert_sound().await;
}

/// An answer without what is about this moment.
fn strip(body: &serde_json::Value) -> serde_json::Value {
    let mut body = body.clone();
    body.as_object_mut()
        .expect("an object")
        .remove("serverTime");
    body
}
