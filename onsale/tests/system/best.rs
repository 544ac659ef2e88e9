//! The best of the free seats, asked for over HTTP.

use crate::hall::{Hall, open_policy, reservation};
use futures_util::future::join_all;
use onsale::seed::Policy;
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Buyer, SystemOptions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

async fn best(hall: &Hall, by: &Buyer, date: Uuid, wish: Value) -> Answer {
    let body = json!({ "scheduleId": date, "bestAvailable": wish });
    let key = Uuid::now_v7().to_string();
    hall.api.post(by, "/reservations", &key, &body).await
}

fn labels(body: &Value) -> Vec<&str> {
    let seats = body["seats"].as_array().expect("seats");
    seats.iter().map(|seat| text(&seat["label"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_gets_the_best_seats_and_is_told_whether_they_are_together() {
    let mut hall = Hall::open().await;
    let date = hall.date(7).await;
    let (first, second, third) = (hall.buyer(), hall.buyer(), hall.buyer());
    let pair = best(&hall, &first, date, json!({ "count": 2 }))
        .await
        .expect(201);
    assert_eq!(labels(&pair.body), ["A-1-1", "A-1-2"]);
    assert_eq!(pair.body["together"], true);
    // Of five, three would leave two, and four would leave one alone: that is for want of better.
    let four = best(&hall, &second, date, json!({ "count": 4, "section": "A" }))
        .await
        .expect(201);
    assert_eq!(labels(&four.body), ["A-1-3", "A-1-4", "A-1-5", "A-1-6"]);
    let path = format!("/reservations/{}", reservation(&first_of(&pair)));
    let given_back = hall.api.delete(&first, &path).await;
    given_back.expect(204);
    let apart = best(&hall, &third, date, json!({ "count": 3 }))
        .await
        .expect(201);
    assert_eq!(labels(&apart.body), ["A-1-1", "A-1-2", "A-1-7"]);
    assert_eq!(apart.body["together"], false);
    let shown = hall
        .api
        .get(Some(&third), "/reservations")
        .await
        .expect(200);
    assert_eq!(shown.body["items"][0]["together"], false);
    let none = best(&hall, &first, date, json!({ "count": 1 })).await;
    let none = none.expect_problem(409, "seat-unavailable");
    assert_eq!(none.body["seats"], json!([]));
    hall.assert_sound().await;
}

fn first_of(answer: &Answer) -> Value {
    answer.body.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_that_make_no_sense_are_refused() {
    let mut hall = Hall::open().await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    for (wish, pointer) in [
        (json!({ "count": 0 }), "/bestAvailable/count"),
        (json!({ "count": 101 }), "/bestAvailable/count"),
        (json!({ "count": "2" }), "/bestAvailable/count"),
        (json!({}), "/bestAvailable/count"),
        (
            json!({ "count": 1, "maxPrice": { "amount": -1, "currency": "KRW" } }),
            "/bestAvailable/maxPrice",
        ),
    ] {
        let refused = best(&hall, &buyer, date, wish.clone()).await;
        let refused = refused.expect_problem(422, "validation-failed");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{wish}");
    }
    for (wish, code) in [
        (json!({ "count": 1, "section": "Z" }), "unknown-section"),
        (json!({ "count": 1, "grade": "Z" }), "unknown-grade"),
    ] {
        let refused = best(&hall, &buyer, date, wish).await;
        let refused = refused.expect_problem(422, "unknown-seat");
        assert_eq!(refused.body["errors"][0]["code"], code);
    }
    let both = json!({
        "scheduleId": date, "seats": ["A-1-1"], "bestAvailable": { "count": 1 }
    });
    let refused = hall
        .api
        .post(&buyer, "/reservations", "both-at-once", &both)
        .await;
    refused.expect_problem(422, "validation-failed");
    let limit = best(&hall, &buyer, date, json!({ "count": 5 })).await;
    limit.expect_problem(422, "seat-limit-exceeded");
    let dear = json!({ "count": 1, "maxPrice": { "amount": 9999, "currency": "KRW" } });
    let refused = best(&hall, &buyer, date, dear).await;
    refused.expect_problem(409, "seat-unavailable");
    assert_eq!(hall.map(date).await, "AAAA");
}

/// Only what was wished for, and the best of that.
#[tokio::test(flavor = "multi_thread")]
async fn section_grade_and_price_bound_the_choice() {
    const LAYOUT: &str = "A,1,1,VIP,150000\nA,1,2,VIP,150000\nA,2,1,R,99000\nA,2,2,R,99000\n\
                          B,1,1,VIP,140000\nB,1,2,VIP,140000\nB,2,1,R,88000\nB,2,2,R,88000\n";
    let mut hall = Hall::open().await;
    let date = crate::general_admission::date(&mut hall, LAYOUT, 4).await;
    let at_most = |amount: i64| json!({ "amount": amount, "currency": "KRW" });
    for (wish, expected) in [
        (json!({ "count": 1, "section": "B" }), "B-1-1"),
        (json!({ "count": 1, "section": "B", "grade": "R" }), "B-2-1"),
        (json!({ "count": 1, "grade": "R" }), "A-2-1"),
        (json!({ "count": 1, "maxPrice": at_most(140_000) }), "B-1-1"),
        (json!({ "count": 1, "maxPrice": at_most(98_999) }), "B-2-1"),
        (
            json!({ "count": 1, "section": "A", "maxPrice": at_most(100_000) }),
            "A-2-1",
        ),
    ] {
        let buyer = hall.buyer();
        let held = best(&hall, &buyer, date, wish.clone()).await.expect(201);
        assert_eq!(labels(&held.body), [expected], "{wish}");
        let path = format!("/reservations/{}", reservation(&held.body));
        hall.api.delete(&buyer, &path).await.expect(204);
    }
    for wish in [
        json!({ "count": 3, "section": "A", "grade": "VIP" }),
        json!({ "count": 1, "section": "A", "grade": "R", "maxPrice": at_most(98_999) }),
    ] {
        let none = best(&hall, &hall.buyer(), date, wish).await;
        none.expect_problem(409, "seat-unavailable");
    }
    hall.assert_sound().await;
}

/// Everybody asks at once, some for named seats: each seat goes to one, and all are sold.
#[tokio::test(flavor = "multi_thread")]
async fn parties_that_come_at_once_share_the_hall() {
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2).workers(2)).await;
    let policy = Policy {
        seats_per_user: 2,
        ..open_policy()
    };
    let date = hall.date_with(60, policy).await;
    let buyers = hall.buyers(80);
    let asked = buyers.iter().enumerate().map(|(n, buyer)| {
        let hall = &hall;
        async move {
            if n % 4 == 0 {
                let seat = format!("A-1-{}", n / 2 + 1);
                hall.api.hold(buyer, date, &[&seat]).await
            } else {
                best(hall, buyer, date, json!({ "count": n % 2 + 1 })).await
            }
        }
    });
    let answers = join_all(asked).await;
    let mut sold = Vec::new();
    for answer in &answers {
        match answer.status.as_u16() {
            201 => sold.extend(labels(&answer.body)),
            _ => drop(answer.clone().expect_problem(409, "seat-unavailable")),
        }
    }
    let distinct: BTreeSet<_> = sold.iter().collect();
    assert_eq!(distinct.len(), sold.len());
    assert_eq!(sold.len(), 60, "nothing is left while somebody wants one");
    hall.assert_sound().await;
}
