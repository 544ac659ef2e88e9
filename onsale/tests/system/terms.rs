//! More time for a hold, seats that come back at a random moment, and single seats that are not to
//! be left alone, over HTTP.

use crate::hall::{Hall, PATIENCE, reservation};
use onsale_schema::Timestamp;
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Buyer};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

async fn rules(hall: &Hall, date: Uuid, rules: Value) -> Answer {
    let path = format!("/admin/schedules/{date}");
    crate::catalogue::patch(&hall.api, &hall.admin(), &path, &rules)
        .await
        .expect(200)
}

async fn extend(hall: &Hall, by: &Buyer, id: Uuid, key: &str) -> Answer {
    let path = format!("/reservations/{id}/extension");
    hall.api.post(by, &path, key, &Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_extended_within_the_policy() {
    let mut hall = Hall::open().await;
    let date = hall.date(10).await;
    let buyer = hall.buyer();
    let wanted = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let path = "/reservations";
    let held = hall.api.post(&buyer, path, "the-hold-key", &wanted).await;
    let held = held.expect(201);
    let id = reservation(&held.body);
    let never = extend(&hall, &buyer, id, "key-0000").await;
    never.expect_problem(409, "extension-limit-reached");

    let shown = rules(
        &hall,
        date,
        json!({ "holdExtensionsMax": 2, "holdSeconds": 600, "holdTotalSeconds": 3600 }),
    )
    .await;
    assert_eq!(shown.body["holdExtensionsMax"], 2);
    let longer = extend(&hall, &buyer, id, "key-0001").await.expect(200);
    let (before, after) = (&held.body["expiresAt"], &longer.body["expiresAt"]);
    assert!(text(before) < text(after), "{before} {after}");
    // A retry of it is the same, and no second one.
    let again = extend(&hall, &buyer, id, "key-0001").await.expect(200);
    assert_eq!(&again.body["expiresAt"], after);
    assert_eq!(again.body["extensionsLeft"], 1);
    extend(&hall, &buyer, id, "key-0002").await.expect(200);
    // A retry of the hold itself is told what it was told at first.
    let retried = hall.api.post(&buyer, path, "the-hold-key", &wanted).await;
    assert_eq!(retried.expect(201).body["expiresAt"], *before);
    let over = extend(&hall, &buyer, id, "key-0003").await;
    over.expect_problem(409, "extension-limit-reached");
    let again = extend(&hall, &buyer, id, "key-0001").await.expect(200);

    let path = format!("/reservations/{id}");
    let now = hall.api.get(Some(&buyer), &path).await.expect(200);
    assert_eq!(now.body["expiresAt"], again.body["expiresAt"]);
    let other = hall.buyer();
    let foreign = extend(&hall, &other, id, "key-0001").await;
    foreign.expect_problem(404, "not-found");

    // The next owner knows it all from the rows.
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("a worker");
    let again = extend(&hall, &buyer, id, "key-0002").await.expect(200);
    assert_eq!(again.body["expiresAt"], now.body["expiresAt"]);
    let over = extend(&hall, &buyer, id, "key-0004").await;
    over.expect_problem(409, "extension-limit-reached");
    hall.api.charge(&buyer, 100_000).await.expect(201);
    hall.api.pay(&buyer, id).await.expect(201);
    // The owner of the seats learns of it by a notice.
    let seats = format!("/schedules/{date}/seats");
    tokio::time::timeout(PATIENCE, async {
        loop {
            let map = hall.api.get(None, &seats).await.expect(200);
            if text(&map.body["seats"]).starts_with('S') {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("sold");
    let sold = extend(&hall, &buyer, id, "key-0005").await;
    sold.expect_problem(409, "reservation-state-conflict");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_come_back_at_moments_that_nobody_knows() {
    let mut hall = Hall::open().await;
    let date = hall.date(20).await;
    rules(
        &hall,
        date,
        json!({ "releaseJitterSeconds": 3, "seatsPerUser": 10 }),
    )
    .await;
    let (buyer, camper) = (hall.buyer(), hall.buyer());
    let mut open = HashSet::new();
    for seat in 1..=10 {
        let label = format!("A-1-{seat}");
        let held = hall.api.hold(&buyer, date, &[&label]).await.expect(201);
        let path = format!("/reservations/{}", reservation(&held.body));
        hall.api.delete(&buyer, &path).await.expect(204);
        // To who gave it back it is gone, and once more is no mistake.
        let shown = hall.api.get(Some(&buyer), &path).await.expect(200);
        assert_eq!(shown.body["status"], "RELEASED");
        hall.api.delete(&buyer, &path).await.expect(204);
        let gone = hall.api.pay(&buyer, reservation(&held.body)).await;
        gone.expect_problem(409, "reservation-state-conflict");
        open.insert(label);
    }
    // They come back one by one, to whoever asks then.
    let mut batches = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !open.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "{open:?}");
        let before = open.len();
        for label in open.clone() {
            let answer = hall.api.hold(&camper, date, &[&label]).await;
            if answer.status == 201 {
                open.remove(&label);
            } else {
                answer.expect_problem(409, "seat-unavailable");
            }
        }
        batches += usize::from(open.len() < before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(batches > 1, "not all at once");
    // It was given back when it was, and not when its seats were for others.
    let given_back = "SELECT floor(extract(epoch FROM expires_at) * 1000)::bigint AS n FROM reservation \
                      WHERE status = 'RELEASED' AND seat_nos = '{0}'";
    let given_back = hall.number(given_back).await;
    let events = crate::blocks::history(&hall, &hall.admin(), date, "A-1-1").await;
    let released: Vec<i64> = events
        .iter()
        .filter(|event| event["event"] == "RELEASED")
        .map(|event| serde_json::from_value(event["at"].clone()).expect("a time"))
        .map(|at: Timestamp| at.micros() / 1000)
        .collect();
    assert_eq!(released, [given_back], "{events:?}");
    let ended = "SELECT count(*) AS n FROM reservation WHERE status = 'RELEASED' \
                 AND ended_at >= release_at AND release_at <= expires_at + interval '3 s'";
    assert_eq!(hall.number(ended).await, 10);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_seat_is_not_left_alone_while_there_is_a_choice() {
    let mut hall = Hall::open().await;
    let date = hall.date(5).await;
    let (first, second) = (hall.buyer(), hall.buyer());
    rules(&hall, date, json!({ "preventOrphanSeats": true })).await;
    let alone = hall.api.hold(&first, date, &["A-1-2", "A-1-3"]).await;
    let alone = alone.expect_problem(409, "orphan-seat");
    assert_eq!(alone.body["seats"], json!(["A-1-1"]));
    hall.api
        .hold(&first, date, &["A-1-1", "A-1-2"])
        .await
        .expect(201);
    // Of three, two leave one alone, whichever: then anything goes.
    hall.api
        .hold(&second, date, &["A-1-3", "A-1-4"])
        .await
        .expect(201);
    hall.assert_sound().await;
}
