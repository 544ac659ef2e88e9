//! General admission: sections without seats, whose places are sold by their count.

use crate::hall::{Hall, open_policy, reservation};
use futures_util::future::join_all;
use onsale::seed::Policy;
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Api, Buyer, SystemOptions};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// A date with this layout.
pub async fn date(hall: &mut Hall, lines: &str, seats_per_user: i32) -> Uuid {
    let policy = Policy {
        seats_per_user,
        ..open_policy()
    };
    let date = hall.date_with(1, policy).await;
    let path = format!("/admin/schedules/{date}/layout");
    let request = hall.api.request(Method::PUT, &path);
    let request = request
        .bearer_auth(&hall.admin().token)
        .header("content-type", "text/csv")
        .body(format!("section,row,number,grade,price\n{lines}"));
    let _ = hall.api.send(request).await.expect(200);
    date
}

async fn hold(api: &Api, by: &Buyer, date: Uuid, seats: &[&str], places: Value) -> Answer {
    let key = Uuid::now_v7().to_string();
    let mut body = json!({ "scheduleId": date, "places": places });
    if !seats.is_empty() {
        body["seats"] = json!(seats);
    }
    api.post(by, "/reservations", &key, &body).await
}

fn some(section: &str, count: u32) -> Value {
    json!({ "section": section, "count": count })
}

/// How many places an answer says are held.
fn places(body: &Value) -> u64 {
    let places = body["places"].as_array().expect("places");
    places.iter().filter_map(|of| of["count"].as_u64()).sum()
}

const MIXED: &str = "A,1,1,VIP,150000\nA,1,2,VIP,150000\nFLOOR,,5,R,99000\nPIT,,2,S,120000\n";

/// A place is nobody's choice but of who administers.
#[tokio::test(flavor = "multi_thread")]
async fn places_are_blocked_by_their_labels_and_have_a_history() {
    let mut hall = Hall::open().await;
    let date = date(&mut hall, MIXED, 4).await;
    let (admin, buyer) = (hall.admin(), hall.buyer());
    let path = format!("/admin/schedules/{date}/blocks");
    let wanted = json!({ "seats": ["PIT-1", "A-1-2"], "reason": "wheelchairs" });
    let made = hall.api.post(&admin, &path, "block-0001", &wanted).await;
    let made = made.expect(201);
    assert_eq!(made.body["seats"], json!(["PIT-1", "A-1-2"]));
    let two = hold(&hall.api, &buyer, date, &[], json!([some("PIT", 2)])).await;
    let two = two.expect_problem(409, "seat-unavailable");
    assert_eq!(
        two.body["places"],
        json!([{ "section": "PIT", "available": 1 }])
    );
    let one = hold(&hall.api, &buyer, date, &[], json!([some("PIT", 1)])).await;
    let id = reservation(&one.expect(201).body);
    let lifted = format!("{path}/{}", text(&made.body["blockId"]));
    let _ = hall.api.delete(&admin, &lifted).await.expect(200);

    let events = async |label: &str| -> Vec<Value> {
        let path = format!("/admin/schedules/{date}/seats/{label}/history");
        let page = hall.api.get(Some(&admin), &path).await.expect(200);
        let items = page.body["items"].as_array().expect("items").clone();
        items
            .into_iter()
            .map(|item| item["event"].clone())
            .collect()
    };
    assert_eq!(events("PIT-1").await, ["BLOCKED", "UNBLOCKED"]);
    assert_eq!(events("PIT-2").await, ["HELD"]);
    let path = format!("/reservations/{id}");
    let _ = hall.api.delete(&buyer, &path).await.expect(204);
    assert_eq!(events("PIT-2").await, ["HELD", "RELEASED"]);
    hall.assert_sound().await;
}

/// 500 buyers want 750 of 300 places at once. Whoever wants one gets it as long as one is left, and
/// those are even in number, so that nothing can be left over.
#[tokio::test(flavor = "multi_thread")]
async fn general_admission_under_500_parallel_buyers_sells_exactly_its_capacity() {
    const CAPACITY: u64 = 300;
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2).workers(2)).await;
    let lines = format!("A,1,1,VIP,1000\nFLOOR,,{CAPACITY},R,1000\nB,1,1,VIP,1000\n");
    let date = date(&mut hall, &lines, 4).await;
    let other = Api::new(hall.system.url(1));
    let buyers = hall.buyers(500);
    let asked = buyers.iter().enumerate().map(|(n, buyer)| {
        let api = if n % 3 == 0 { &other } else { &hall.api };
        let count = u32::try_from(n % 2 + 1).expect("one or two");
        hold(api, buyer, date, &[], json!([some("FLOOR", count)]))
    });
    let answers = join_all(asked).await;
    let (mut sold, mut won) = (0, Vec::new());
    for (answer, buyer) in answers.into_iter().zip(&buyers) {
        if answer.status == 201 {
            sold += places(&answer.body);
            assert_eq!(answer.body["seats"], json!([]));
            won.push((buyer, reservation(&answer.body)));
        } else {
            let refused = answer.expect_problem(409, "seat-unavailable");
            let left = &refused.body["places"][0];
            assert_eq!(left["section"], "FLOOR");
            assert!(left["available"].as_u64().expect("a count") <= 1, "{left}");
        }
    }
    assert_eq!(sold, CAPACITY);
    let map = format!("A{}A", "H".repeat(300));
    hall.map_becomes(date, &map).await;
    let claims = format!("SELECT count(*) AS n FROM seat_claim WHERE schedule_id = '{date}'");
    assert_eq!(hall.number(&claims).await, 300);
    hall.assert_sound().await;

    // What is given back is had by who comes next, and no more than that.
    let (buyer, id) = won[0];
    let path = format!("/reservations/{id}");
    let returned = hall.api.get(Some(buyer), &path).await.expect(200);
    let returned = places(&returned.body);
    let _ = hall.api.delete(buyer, &path).await.expect(204);
    let one = json!([some("FLOOR", 1)]);
    for buyer in hall.buyers(usize::try_from(returned).expect("a few")) {
        let _ = hold(&other, &buyer, date, &[], one.clone())
            .await
            .expect(201);
    }
    let late = hold(&hall.api, &hall.buyer(), date, &[], one).await;
    let late = late.expect_problem(409, "seat-unavailable");
    assert_eq!(
        late.body["places"],
        json!([{ "section": "FLOOR", "available": 0 }])
    );
    hall.map_becomes(date, &map).await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_may_mix_seats_and_places_all_or_none() {
    let mut hall = Hall::open().await;
    let date = date(&mut hall, MIXED, 4).await;
    let (first, second) = (hall.buyer(), hall.buyer());
    let wanted = json!([some("PIT", 1), some("FLOOR", 2)]);
    let held = hold(&hall.api, &first, date, &["A-1-2"], wanted).await;
    let held = held.expect(201).body;
    let won = |amount: u32| json!({ "amount": amount, "currency": "KRW" });
    assert_eq!(
        held["seats"],
        json!([{ "label": "A-1-2", "price": won(150_000) }])
    );
    let expected = json!([
        { "section": "PIT", "count": 1, "price": won(120_000) },
        { "section": "FLOOR", "count": 2, "price": won(99_000) },
    ]);
    assert_eq!(held["places"], expected);
    assert_eq!(held["total"], won(150_000 + 120_000 + 2 * 99_000));
    assert_eq!(held["together"], true);
    let path = format!("/reservations/{}", reservation(&held));
    let shown = hall.api.get(Some(&first), &path).await.expect(200).body;
    let listed = hall.api.get(Some(&first), "/reservations").await;
    let listed = listed.expect(200).body["items"][0].clone();
    for shown in [&shown, &listed] {
        assert_eq!(
            (&shown["seats"], &shown["places"]),
            (&held["seats"], &expected)
        );
    }

    // The map's letters are where the layout says.
    let layout = hall
        .api
        .get(None, &format!("/schedules/{date}/layout"))
        .await;
    let layout = layout.expect(200).body;
    let floor = json!({ "name": "FLOOR", "places": { "firstSeatNo": 2, "count": 5, "grade": "R",
        "price": won(99_000), "x": layout["sections"][1]["places"]["x"],
        "y": layout["sections"][1]["places"]["y"] } });
    assert_eq!(layout["sections"][1], floor);
    assert_eq!(layout["sections"][2]["places"]["firstSeatNo"], 7);
    hall.map_becomes(date, "AHHHAAAHA").await;

    // All or none: a seat that is taken, places that are too few, or both.
    let wanted = json!([some("FLOOR", 3)]);
    let refused = hold(&hall.api, &second, date, &["A-1-2"], wanted).await;
    let refused = refused.expect_problem(409, "seat-unavailable");
    assert_eq!(refused.body["seats"], json!(["A-1-2"]));
    assert!(refused.body.get("places").is_none());
    for seats in [&["A-1-1"][..], &["A-1-2"]] {
        let wanted = json!([some("FLOOR", 1), some("PIT", 2)]);
        let refused = hold(&hall.api, &second, date, seats, wanted).await;
        let refused = refused.expect_problem(409, "seat-unavailable");
        let left = json!([{ "section": "PIT", "available": 1 }]);
        assert_eq!(refused.body["places"], left);
        let taken = if seats == ["A-1-2"] {
            json!(seats)
        } else {
            json!([])
        };
        assert_eq!(refused.body["seats"], taken);
    }
    assert_eq!(hall.map(date).await, "AHHHAAAHA");

    let _ = hall.api.delete(&first, &path).await.expect(204);
    hall.map_becomes(date, "AAAAAAAAA").await;
    let again = hold(&hall.api, &second, date, &[], json!([some("PIT", 2)])).await;
    let again = again.expect(201).body;
    assert_eq!(again["seats"], json!([]));
    let _ = hall.api.charge(&second, 240_000).await.expect(201);
    let paid = hall.api.pay(&second, reservation(&again)).await;
    assert_eq!(paid.expect(201).body["amount"], won(240_000));
    hall.map_becomes(date, "AAAAAAASS").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_and_a_later_look_show_the_same_places() {
    let mut hall = Hall::open().await;
    let date = date(&mut hall, MIXED, 4).await;
    let (first, second) = (hall.buyer(), hall.buyer());
    let before = hold(&hall.api, &first, date, &[], json!([some("FLOOR", 2)])).await;
    let body = json!({ "scheduleId": date, "places": [some("FLOOR", 2)] });
    let key = Uuid::now_v7().to_string();
    let request = hall.api.post_request(&second, "/reservations", &key, &body);
    let later = hall
        .api
        .send(request.header("prefer", "respond-async"))
        .await;
    hall.map_becomes(date, "AAHHHHAAA").await;
    // Lower ones are free again, and nobody is moved there.
    let path = format!("/reservations/{}", reservation(&before.expect(201).body));
    let _ = hall.api.delete(&first, &path).await.expect(204);
    let again = hall.api.post(&second, "/reservations", &key, &body).await;
    let again = again.expect(201).body;
    let decided = match later.headers.get("location") {
        Some(look) if later.status == 202 => {
            let look = look.to_str().expect("ASCII").trim_start_matches("/api/v1");
            let decided = hall.api.get(Some(&second), look).await;
            decided.expect(200).body["body"].clone()
        }
        // The outcome was quicker than the stream's acknowledgement.
        _ => later.expect(201).body,
    };
    assert_eq!(decided["places"], again["places"]);
    assert_eq!(decided["reservationId"], again["reservationId"]);
    hall.map_becomes(date, "AAAAHHAAA").await;
    let other = json!({ "scheduleId": date, "places": [some("FLOOR", 1)] });
    let reused = hall.api.post(&second, "/reservations", &key, &other).await;
    let _ = reused.expect_problem(422, "idempotency-key-reused");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_place_is_told() {
    let mut hall = Hall::open().await;
    let date = date(&mut hall, MIXED, 4).await;
    let buyer = hall.buyer();
    for (seats, wanted, pointer, code) in [
        (
            &[][..],
            json!([some("Z", 1)]),
            "/places/0/section",
            "unknown-section",
        ),
        (
            &["A-1-1"],
            json!([some("FLOOR", 1), some("A", 1)]),
            "/places/1/section",
            "section-of-rows",
        ),
        // A place has no name that it could be asked for by.
        (
            &["FLOOR-1"],
            json!([some("FLOOR", 1)]),
            "/seats/0",
            "unknown-seat",
        ),
        (
            &["FLOOR--1"],
            json!([some("FLOOR", 1)]),
            "/seats/0",
            "unknown-seat",
        ),
    ] {
        let refused = hold(&hall.api, &buyer, date, seats, wanted).await;
        let refused = refused.expect_problem(422, "unknown-seat");
        let expected = json!([{ "pointer": pointer, "code": code }]);
        assert_eq!(refused.body["errors"], expected);
    }
    let best = |wish: Value| json!({ "scheduleId": date, "bestAvailable": wish });
    for (wish, code) in [
        (
            json!({ "count": 1, "section": "FLOOR" }),
            "section-of-places",
        ),
        (json!({ "count": 1, "grade": "R" }), "unknown-grade"),
    ] {
        let key = Uuid::now_v7().to_string();
        let refused = hall
            .api
            .post(&buyer, "/reservations", &key, &best(wish))
            .await;
        let refused = refused.expect_problem(422, "unknown-seat");
        assert_eq!(refused.body["errors"][0]["code"], code);
    }
    // Three of two seats; the places are none of them.
    let body = best(json!({ "count": 3 }));
    let refused = hall
        .api
        .post(&buyer, "/reservations", "the-best-of-none", &body);
    let _ = refused.await.expect_problem(409, "seat-unavailable");
    let wanted = json!([some("FLOOR", 3)]);
    let refused = hold(&hall.api, &buyer, date, &["A-1-1", "A-1-2"], wanted).await;
    let refused = refused.expect_problem(422, "seat-limit-exceeded");
    assert_eq!(refused.body["limit"], 4);
    assert_eq!(hall.map(date).await, "AAAAAAAAA");
}
