//! The same key, twice at once, after a restart or a takeover, a day later, with another body, at
//! another ingress.

use crate::hall::{Hall, reservation};
use crate::ownership::owners_become;
use onsale_testkit::{Api, SystemOptions};
use serde_json::json;
use tokio::task::JoinSet;

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
async fn a_key_for_two_dates_at_once_is_accepted_for_one() {
    const KEYS: usize = 40;
    let options = SystemOptions::default().ingresses(2).workers(2);
    let mut hall = Hall::open_with(options).await;
    let mut dates = Vec::new();
    for _ in 0..8 {
        dates.push(hall.date(100).await);
    }
    let other = Api::new(hall.system.url(1));
    let mut asked = JoinSet::new();
    // All at once, in both orders, so that batches of the workers meet in Postgres.
    for key in 0..KEYS {
        let (here, there, buyer) = (hall.api.clone(), other.clone(), hall.buyer());
        let seats = [format!("A-1-{}", key + 1)];
        let one = json!({ "scheduleId": dates[key % 8], "seats": seats });
        let two = json!({ "scheduleId": dates[(key * 3 + 1) % 8], "seats": seats });
        asked.spawn(async move {
            let (one, two) = tokio::join!(
                here.post(&buyer, "/reservations", "for-two-dates", &one),
                there.post(&buyer, "/reservations", "for-two-dates", &two),
            );
            let (accepted, refused) = if one.status == 201 {
                (one, two)
            } else {
                (two, one)
            };
            accepted.expect(201);
            refused.expect_problem(422, "idempotency-key-reused");
        });
    }
    asked.join_all().await;
    let claims = hall.number("SELECT count(*) AS n FROM seat_claim").await;
    assert_eq!(claims, i64::try_from(KEYS).expect("few"));
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_after_a_takeover_is_the_same_reservation() {
    let options = SystemOptions::default().ingresses(2).workers(2);
    let mut hall = Hall::open_with(options).await;
    owners_become(&hall, 2).await;
    let (buyer, other) = (hall.buyer(), Api::new(hall.system.url(1)));
    let mut held = Vec::new();
    // Dates enough that both workers have some.
    for _ in 0..16 {
        let body = json!({ "scheduleId": hall.date(5).await, "seats": ["A-1-1"] });
        let key = format!("before-the-takeover-{}", held.len());
        let first = hall.api.post(&buyer, "/reservations", &key, &body).await;
        held.push((key, body, first.expect(201)));
    }
    hall.system.workers[0].kill9().await;
    for (key, body, first) in &held {
        let again = other.post(&buyer, "/reservations", key, body).await;
        assert_eq!(strip(&again.expect(201).body), strip(&first.body));
    }
    let sql = "SELECT count(*) AS n FROM reservation";
    assert_eq!(hall.number(sql).await, 16);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_after_more_than_a_day_sells_nothing_twice() {
    let mut hall = Hall::open().await;
    let (date, buyer) = (hall.date(3).await, hall.buyer());
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let held = hall
        .api
        .post(&buyer, "/reservations", "a-day-ago", &body)
        .await;
    let id = reservation(&held.expect(201).body);
    let path = format!("/reservations/{id}");
    hall.api.delete(&buyer, &path).await.expect(204);

    // The owner remembers what ended for 24 h; the row knows the key for ever.
    hall.system.workers[0].kill9().await;
    hall.sql(
        "UPDATE reservation SET held_at = held_at - interval '25 hours', \
         expires_at = expires_at - interval '25 hours', ended_at = ended_at - interval '25 hours'",
    )
    .await;
    hall.system.workers[0].restart().await.expect("a worker");
    let again = hall
        .api
        .post(&buyer, "/reservations", "a-day-ago", &body)
        .await;
    assert_eq!(reservation(&again.expect(201).body), id);
    let other = json!({ "scheduleId": date, "seats": ["A-1-2"] });
    let reused = hall
        .api
        .post(&buyer, "/reservations", "a-day-ago", &other)
        .await;
    reused.expect_problem(422, "idempotency-key-reused");
    assert_eq!(hall.map(date).await, "AAA");
    assert_eq!(
        hall.number("SELECT count(*) AS n FROM reservation").await,
        1
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
