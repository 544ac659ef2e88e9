//! Seats taken off sale and put on sale again, and what became of a seat, over HTTP.

use crate::hall::{Hall, open_policy, reservation, soon};
use crate::ownership::owners_become;
use onsale::seed::Policy;
use onsale_schema::status::SaleState;
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Buyer, SystemOptions};
use serde_json::{Value, json};
use uuid::Uuid;

/// Blocks with a key of its own.
async fn block(hall: &Hall, by: &Buyer, date: Uuid, seats: &[&str]) -> Answer {
    let key = Uuid::now_v7().to_string();
    block_by_key(hall, by, date, &key, seats).await
}

async fn block_by_key(hall: &Hall, by: &Buyer, date: Uuid, key: &str, seats: &[&str]) -> Answer {
    let path = format!("/admin/schedules/{date}/blocks");
    let body = json!({ "seats": seats, "reason": "a camera stands there" });
    hall.api.post(by, &path, key, &body).await
}

async fn lift(hall: &Hall, by: &Buyer, date: Uuid, block: &Value, query: &str) -> Answer {
    let id = text(&block["blockId"]);
    let path = format!("/admin/schedules/{date}/blocks/{id}{query}");
    hall.api.delete(by, &path).await
}

/// All items of a list, in pages of two.
async fn all(hall: &Hall, by: &Buyer, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("{path}?limit=2{cursor}");
        let page = hall.api.get(Some(by), &path).await.expect(200).body;
        items.extend(page["items"].as_array().expect("items").clone());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

async fn blocks(hall: &Hall, by: &Buyer, date: Uuid) -> Vec<Value> {
    all(hall, by, &format!("/admin/schedules/{date}/blocks")).await
}

/// What became of a seat.
pub async fn history(hall: &Hall, by: &Buyer, date: Uuid, label: &str) -> Vec<Value> {
    let path = format!("/admin/schedules/{date}/seats/{label}/history");
    all(hall, by, &path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_seat_is_nobodys_until_it_is_lifted() {
    let mut hall = Hall::open().await;
    let date = hall.date(6).await;
    let (admin, buyer) = (hall.admin(), hall.buyer());
    let seats = ["A-1-2", "A-1-1", "A-1-3"];
    let made = block(&hall, &admin, date, &seats).await.expect(201).body;
    assert_eq!(made["seats"], json!(seats));
    assert_eq!(made["scheduleId"], json!(date));
    assert_eq!(made["reason"], "a camera stands there");
    assert_eq!(made["blockedBy"], json!(admin.user_id));
    hall.map_becomes(date, "BBBAAA").await;

    let refused = hall.api.hold(&buyer, date, &["A-1-4", "A-1-2"]).await;
    let refused = refused.expect_problem(409, "seat-unavailable");
    assert_eq!(refused.body["seats"], json!(["A-1-2"]));
    let best = json!({ "scheduleId": date, "bestAvailable": { "count": 1 } });
    let held = hall.api.post(&buyer, "/reservations", "the-best", &best);
    let held = held.await.expect(201);
    assert_eq!(held.body["seats"][0]["label"], "A-1-4");
    // Neither what is blocked nor what is held can be blocked, and it is all or none.
    let again = block(&hall, &admin, date, &["A-1-6", "A-1-4", "A-1-3"]).await;
    let again = again.expect_problem(409, "seat-unavailable");
    assert_eq!(again.body["seats"], json!(["A-1-4", "A-1-3"]));
    hall.map_becomes(date, "BBBHAA").await;

    let query = "?seats=A-1-2,A-1-3&reason=it%20was%20moved";
    let lifted = lift(&hall, &admin, date, &made, query).await.expect(200);
    assert_eq!(lifted.body["lifted"], json!(["A-1-2", "A-1-3"]));
    assert_eq!(lifted.body["left"], json!(["A-1-1"]));
    hall.map_becomes(date, "BAAHAA").await;
    hall.api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    let listed = blocks(&hall, &admin, date).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["seats"], json!(["A-1-1"]));

    // Once more is no mistake, and takes nothing from whoever holds it now.
    let lifted = lift(&hall, &admin, date, &made, query).await.expect(200);
    assert_eq!(lifted.body["lifted"], json!([]));
    let lifted = lift(&hall, &admin, date, &made, "").await.expect(200);
    assert_eq!(lifted.body["lifted"], json!(["A-1-1"]));
    let lifted = lift(&hall, &admin, date, &made, "").await.expect(200);
    assert_eq!(
        (&lifted.body["lifted"], &lifted.body["left"]),
        (&json!([]), &json!([]))
    );
    hall.map_becomes(date, "AHAHAA").await;
    assert!(blocks(&hall, &admin, date).await.is_empty());
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_does_not_sell_can_be_blocked_and_its_layout_stays() {
    let mut hall = Hall::open().await;
    let admin = hall.admin();
    for policy in [
        Policy {
            state: SaleState::Closed,
            ..open_policy()
        },
        Policy {
            booking_opens_at: soon(3600),
            ..open_policy()
        },
    ] {
        let date = hall.date_with(5, policy).await;
        let all: Vec<String> = (1..=5).map(|n| format!("A-1-{n}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let made = block(&hall, &admin, date, &all).await.expect(201).body;
        hall.map_becomes(date, "BBBBB").await;
        lift(&hall, &admin, date, &made, "").await.expect(200);
        hall.map_becomes(date, "AAAAA").await;
        // Its history speaks of these seats.
        let path = format!("/admin/schedules/{date}/layout");
        let put = hall.api.request(reqwest::Method::PUT, &path);
        let put = put.header("content-type", "text/csv");
        let put = put.bearer_auth(&admin.token);
        let csv = "section,row,number,grade,price\nA,1,1,R,2\n";
        let refused = hall.api.send(put.body(csv)).await;
        refused.expect_problem(409, "layout-in-use");
    }
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_outlive_their_owner_and_a_key_means_one() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    owners_become(&hall, 2).await;
    let admin = hall.admin();
    let mut made = Vec::new();
    // Dates enough that both workers have some.
    for _ in 0..8 {
        let date = hall.date(3).await;
        let seats = ["A-1-1", "A-1-2"];
        let first = block_by_key(&hall, &admin, date, "one-and-the-same", &seats).await;
        let first = first.expect(201).body;
        let again = block_by_key(&hall, &admin, date, "one-and-the-same", &seats).await;
        assert_eq!(again.expect(201).body, first);
        let lifted = lift(&hall, &admin, date, &first, "?seats=A-1-2").await;
        lifted.expect(200);
        made.push((date, first));
    }
    hall.system.workers[0].kill9().await;
    hall.system.ingresses[0].kill9().await;
    hall.system.ingresses[0]
        .restart()
        .await
        .expect("an ingress");
    for (date, first) in &made {
        let taken = hall.api.hold(&hall.buyer(), *date, &["A-1-1"]).await;
        taken.expect_problem(409, "seat-unavailable");
        let seats = ["A-1-1", "A-1-2"];
        let again = block_by_key(&hall, &admin, *date, "one-and-the-same", &seats).await;
        assert_eq!(&again.expect(201).body, first);
        let other = block_by_key(&hall, &admin, *date, "one-and-the-same", &["A-1-3"]).await;
        other.expect_problem(422, "idempotency-key-reused");
        let lifted = lift(&hall, &admin, *date, first, "").await.expect(200);
        assert_eq!(lifted.body["lifted"], json!(["A-1-1"]));
        hall.map_becomes(*date, "AAA").await;
        // Also when nothing is left of it.
        let again = block_by_key(&hall, &admin, *date, "one-and-the-same", &seats).await;
        assert_eq!(&again.expect(201).body, first);
        hall.map_becomes(*date, "AAA").await;
    }
    let rows = hall.number("SELECT count(*) AS n FROM seat_block").await;
    assert_eq!(rows, 8 * 3);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let mut hall = Hall::open().await;
    let (admin, date, elsewhere) = (hall.admin(), hall.date(3).await, hall.date(3).await);
    let path = format!("/admin/schedules/{date}/blocks");
    for (body, pointer, code) in [
        (json!({ "seats": [], "reason": "x" }), "/seats", "too-few"),
        (
            json!({ "seats": ["A-1-1"], "reason": "" }),
            "/reason",
            "invalid-value",
        ),
        (
            json!({ "seats": ["A-1-1"], "reason": "x".repeat(501) }),
            "/reason",
            "invalid-value",
        ),
        (
            json!({ "seats": ["A-1-1"], "reason": "\u{0}" }),
            "/reason",
            "invalid-value",
        ),
        (json!({ "seats": ["A-1-1"] }), "/reason", "missing-field"),
        (
            json!({ "seats": ["A-1-1", "A-1-1"], "reason": "x" }),
            "/seats/1",
            "duplicate",
        ),
        (
            // More than a body of other routes may have.
            json!({ "seats": vec!["A-1-1"; 50_001], "reason": "x" }),
            "/seats",
            "too-many",
        ),
    ] {
        let refused = hall.api.post(&admin, &path, "never-used", &body).await;
        let refused = refused.expect_problem(422, "validation-failed");
        let error = &refused.body["errors"][0];
        assert_eq!(
            (text(&error["pointer"]), text(&error["code"])),
            (pointer, code)
        );
    }
    let unknown = block(&hall, &admin, date, &["A-1-1", "Z-1-1"]).await;
    let unknown = unknown.expect_problem(422, "unknown-seat");
    assert_eq!(unknown.body["errors"][0]["pointer"], "/seats/1");
    let nowhere = block(&hall, &admin, Uuid::now_v7(), &["A-1-1"]).await;
    nowhere.expect_problem(404, "not-found");

    let made = block(&hall, &admin, date, &["A-1-1"])
        .await
        .expect(201)
        .body;
    for query in ["?seats=Z-1-1", "?seats=", "?seats=A-1-1,A-1-2"] {
        let refused = lift(&hall, &admin, date, &made, query).await;
        refused.expect_problem(422, "unknown-seat");
    }
    for query in ["?seats=A-1-1,A-1-1", "?reason=", "?reason=%00", "?why=x"] {
        let refused = lift(&hall, &admin, date, &made, query).await;
        refused.expect_problem(422, "validation-failed");
    }
    let foreign = lift(&hall, &admin, elsewhere, &made, "").await;
    foreign.expect_problem(404, "not-found");
    let other = json!({ "blockId": Uuid::now_v7() });
    let missing = lift(&hall, &admin, date, &other, "").await;
    missing.expect_problem(404, "not-found");
    for path in [
        format!("/admin/schedules/{}/blocks", Uuid::now_v7()),
        format!("/admin/schedules/{date}/seats/Z-1-1/history"),
        format!("/admin/schedules/{}/seats/A-1-1/history", Uuid::now_v7()),
    ] {
        let missing = hall.api.get(Some(&admin), &path).await;
        missing.expect_problem(404, "not-found");
    }
    hall.map_becomes(date, "BAA").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_tells_what_became_of_it() {
    let mut hall = Hall::open().await;
    let policy = Policy {
        hold_ms: 400,
        ..open_policy()
    };
    let date = hall.date_with(2, policy).await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let (first, second, third) = (hall.buyer(), hall.buyer(), hall.buyer());
    assert!(history(&hall, &admin, date, "A-1-1").await.is_empty());
    // Held and lapsed, held and given back, blocked and lifted in two ways, held and paid.
    let lapsed = api
        .hold(&first, date, &["A-1-1", "A-1-2"])
        .await
        .expect(201);
    hall.map_becomes(date, "AA").await;
    let long = json!({ "holdSeconds": 600 });
    let path = format!("/admin/schedules/{date}");
    let patch = api.request(reqwest::Method::PATCH, &path);
    let patch = patch.bearer_auth(&admin.token).json(&long);
    api.send(patch).await.expect(200);
    let released = api.hold(&second, date, &["A-1-1"]).await.expect(201);
    let path = format!("/reservations/{}", reservation(&released.body));
    api.delete(&second, &path).await.expect(204);
    let one = block(&hall, &admin, date, &["A-1-1"])
        .await
        .expect(201)
        .body;
    lift(&hall, &admin, date, &one, "").await.expect(200);
    let both = block(&hall, &admin, date, &["A-1-2", "A-1-1"]).await;
    let both = both.expect(201).body;
    let lifted = lift(
        &hall,
        &admin,
        date,
        &both,
        "?seats=A-1-1&reason=it%20is%20gone",
    )
    .await;
    lifted.expect(200);
    api.charge(&third, 50_000).await.expect(201);
    let sold = api.hold(&third, date, &["A-1-1"]).await.expect(201);
    let sold = reservation(&sold.body);
    api.pay(&third, sold).await.expect(201);
    hall.map_becomes(date, "SB").await;

    let events = history(&hall, &admin, date, "A-1-1").await;
    let told: Vec<(&str, Option<&str>, Option<&str>)> = events
        .iter()
        .map(|event| {
            let of = event["reservationId"]
                .as_str()
                .or(event["blockId"].as_str());
            (text(&event["event"]), event["userId"].as_str(), of)
        })
        .collect();
    let ids = [&first, &second, &third, &admin].map(|user| user.user_id.to_string());
    let [first, second, third, admin_id] = ids.each_ref().map(|id| Some(id.as_str()));
    let (lapsed, released) = (
        &lapsed.body["reservationId"],
        &released.body["reservationId"],
    );
    let sold = json!(sold);
    assert_eq!(
        told,
        [
            ("HELD", first, lapsed.as_str()),
            ("EXPIRED", None, lapsed.as_str()),
            ("HELD", second, released.as_str()),
            ("RELEASED", second, released.as_str()),
            ("BLOCKED", admin_id, one["blockId"].as_str()),
            ("UNBLOCKED", admin_id, one["blockId"].as_str()),
            ("BLOCKED", admin_id, both["blockId"].as_str()),
            ("UNBLOCKED", admin_id, both["blockId"].as_str()),
            ("HELD", third, sold.as_str()),
            ("SOLD", third, sold.as_str()),
        ]
    );
    let reasons: Vec<_> = events
        .iter()
        .map(|event| event["reason"].as_str())
        .collect();
    let (none, why) = (None, Some("a camera stands there"));
    let gone = Some("it is gone");
    let expected = [none, none, none, none, why, none, why, gone, none, none];
    assert_eq!(reasons, expected);
    let times: Vec<_> = events.iter().map(|event| text(&event["at"])).collect();
    assert!(times.is_sorted(), "{times:?}");
    // By which command: nobody asked for the end of a hold that lapsed.
    for (event, is_known) in events.iter().zip([1, 0, 1, 1, 1, 1, 1, 1, 1, 1]) {
        assert_eq!(event["commandId"].is_string(), is_known == 1, "{event}");
    }
    let held = "SELECT count(*) AS n FROM reservation WHERE status = 'PAID' AND command_id = ";
    let held = format!("{held}'{}'", text(&events[8]["commandId"]));
    assert_eq!(hall.number(&held).await, 1);

    let other = history(&hall, &admin, date, "A-1-2").await;
    let other: Vec<_> = other.iter().map(|event| text(&event["event"])).collect();
    assert_eq!(other, ["HELD", "EXPIRED", "BLOCKED"]);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_and_its_lift_may_be_asked_for_later() {
    let mut hall = Hall::open().await;
    let (date, admin) = (hall.date(2).await, hall.admin());
    let path = format!("/admin/schedules/{date}/blocks");
    let body = json!({ "seats": ["A-1-2"], "reason": "x" });
    let post = hall.api.post_request(&admin, &path, "ask-me-later", &body);
    let made = later(&hall, &admin, post, 201).await;
    assert_eq!(made["seats"], json!(["A-1-2"]));
    let path = format!("{path}/{}", text(&made["blockId"]));
    let delete = hall.api.request(reqwest::Method::DELETE, &path);
    let lifted = later(&hall, &admin, delete.bearer_auth(&admin.token), 200).await;
    assert_eq!(lifted["lifted"], json!(["A-1-2"]));
    // What is refused is refused later, too.
    let taken = json!({ "seats": ["A-1-1"], "reason": "x" });
    hall.api
        .hold(&hall.buyer(), date, &["A-1-1"])
        .await
        .expect(201);
    let path = format!("/admin/schedules/{date}/blocks");
    let post = hall
        .api
        .post_request(&admin, &path, "refuse-it-later", &taken);
    let refused = later(&hall, &admin, post, 409).await;
    assert_eq!(refused["seats"], json!(["A-1-1"]));
    hall.assert_sound().await;
}

/// The answer of a request that prefers not to wait, with the status that it would have had.
async fn later(hall: &Hall, by: &Buyer, request: reqwest::RequestBuilder, status: u16) -> Value {
    hall.system.workers[0].signal(onsale_testkit::spawn::Signal::SIGSTOP);
    let open = hall
        .api
        .send(request.header("prefer", "respond-async"))
        .await;
    hall.system.workers[0].signal(onsale_testkit::spawn::Signal::SIGCONT);
    let location = open.expect(202).headers["location"].clone();
    let location = location.to_str().expect("ASCII");
    let decided = crate::catalogue::decided(&hall.api, by, location).await;
    assert_eq!(decided["status"], status, "{decided}");
    decided["body"].clone()
}
