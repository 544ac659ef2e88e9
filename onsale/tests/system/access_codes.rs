//! Guests of a waiting room, by access codes.

use crate::cancellation::cancel_show;
use crate::catalogue::patch;
use crate::hall::{Hall, open_policy, soon};
use crate::passes::hold;
use crate::room::line::{LONG_AGO, Line, never, status};
use futures_util::future::join_all;
use onsale_schema::admission::PolicyChange;
use onsale_schema::status::QueueMode;
use onsale_testkit::api::{id, text};
use onsale_testkit::{Answer, Api, Buyer, SystemOptions};
use serde_json::{Value, json};
use uuid::Uuid;

pub const LONG_TIME: (&str, &str) = ("2026-01-01T00:00:00Z", "2040-01-01T00:00:00Z");

fn policy(capacity: u32) -> PolicyChange {
    PolicyChange {
        mode: Some(QueueMode::Fifo),
        opens_at: Some(never()),
        capacity: Some(capacity),
        rate_per_second: Some(1000),
        ..PolicyChange::default()
    }
}

/// Makes one for a presale; returns its id and text.
pub async fn code(
    hall: &mut Hall,
    date: Uuid,
    uses: u32,
    (from, until): (&str, &str),
) -> (Uuid, String) {
    let body = json!({ "label": "Fan club", "grants": "PRESALE", "uses": uses, "validFrom": from,
                       "validUntil": until });
    let made = made(hall, date, &body).await;
    let one = &made["items"][0];
    (id(&one["accessCodeId"]), text(&one["code"]).to_owned())
}

/// One whose window is over, as if it had been made before that; none is made any more then.
pub async fn expired(hall: &mut Hall, date: Uuid) -> String {
    let (code_id, _) = code(hall, date, 1, LONG_TIME).await;
    hall.sql(&format!(
        "UPDATE access_code SET valid_from = '2020-01-01Z', valid_until = '2020-01-02Z' \
         WHERE access_code_id = '{code_id}'"
    ))
    .await;
    let path = format!("/admin/schedules/{date}/access-codes");
    let listed = hall.api.get(Some(&hall.admin()), &path).await;
    let listed = listed.expect(200).body;
    let items = listed["items"].as_array().expect("items");
    let it = items.iter().find(|it| id(&it["accessCodeId"]) == code_id);
    text(&it.expect("it is listed")["code"]).to_owned()
}

/// Makes one that is good in an hour.
pub async fn not_yet(hall: &mut Hall, date: Uuid) -> String {
    let (from, until) = (soon(3600).to_string(), soon(7200).to_string());
    code(hall, date, 1, (&from, &until)).await.1
}

/// Makes some.
pub async fn made(hall: &mut Hall, date: Uuid, body: &Value) -> Value {
    let path = format!("/admin/schedules/{date}/access-codes");
    let key = Uuid::now_v7().to_string();
    let admin = hall.admin();
    let made = hall.api.post(&admin, &path, &key, body).await.expect(201);
    let again = hall.api.post(&admin, &path, &key, body).await.expect(201);
    assert_eq!(made.body, again.body, "a key makes the same");
    made.body
}

/// Joins with one.
pub async fn join(line: &Line, api: &Api, buyer: &Buyer, code: &str) -> Answer {
    let body = json!({ "accessCode": code });
    let key = Uuid::now_v7().to_string();
    api.post(buyer, &line.path(), &key, &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presale_is_before_the_opening_and_guests_are_before_the_line() {
    let mut line = Line::start(SystemOptions::default(), policy(1)).await;
    let api = line.hall.api.clone();
    let (_, vip) = code(&mut line.hall, line.date, 3, LONG_TIME).await;
    let all = line.hall.buyers(5);
    let first = line.ticket(&api, &all[0]).await;
    let second = line.ticket(&api, &all[1]).await;
    let mut guests = Vec::new();
    for (buyer, position) in all[2..4].iter().zip(1..) {
        let joined = join(&line, &api, buyer, &vip).await.expect(201).body;
        assert_eq!(joined["guest"], true, "{joined}");
        assert_eq!(joined["position"], position, "in their own line: {joined}");
        guests.push(text(&joined["ticket"]).to_owned());
    }
    let again = join(&line, &api, &all[2], &vip).await.expect(200);
    assert_eq!(again.body["ticket"], guests[0]);
    let admitted = line.becomes(&api, &all[2], &guests[0], "ADMITTED").await;
    let held = json!({ "scheduleId": line.date, "seats": ["A-1-1"] });
    let pass = Some(text(&admitted["pass"]));
    let held = hold(&api, &all[2], "a-guests-hold", &held, pass).await;
    held.expect(201);
    line.becomes(&api, &all[3], &guests[1], "WAITING").await;
    line.becomes(&api, &all[0], &first, "LOBBY").await;
    // The owner is killed; who is a guest is known all the same.
    line.hall.system.workers[0].kill9().await;
    line.hall.system.workers[0]
        .restart()
        .await
        .expect("a worker");
    line.amend(PolicyChange {
        opens_at: Some(LONG_AGO),
        ..PolicyChange::default()
    })
    .await;
    let waits = line.becomes(&api, &all[1], &second, "WAITING").await;
    assert_eq!(
        (&waits["position"], &waits["ahead"]),
        (&json!(2), &json!(1))
    );
    let late = join(&line, &api, &all[4], &vip).await.expect(201).body;
    let late = text(&late["ticket"]).to_owned();
    for (buyer, ticket, next) in [
        (&all[2], &guests[0], (&all[3], &guests[1])),
        (&all[3], &guests[1], (&all[4], &late)),
        (&all[4], &late, (&all[0], &first)),
        (&all[0], &first, (&all[1], &second)),
    ] {
        line.leave(&api, buyer, Some(ticket)).await.expect(204);
        line.becomes(&api, next.0, next.1, "ADMITTED").await;
    }
    line.hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_a_guest_without_a_presale_is_first_when_the_room_opens() {
    let mut line = Line::start(SystemOptions::default(), policy(1)).await;
    let api = line.hall.api.clone();
    let (from, until) = LONG_TIME;
    let body = json!({ "label": "VIP", "grants": "VIP", "validFrom": from, "validUntil": until,
                       "count": 2 });
    let vip = made(&mut line.hall, line.date, &body).await;
    let (_, presale) = code(&mut line.hall, line.date, 1, LONG_TIME).await;
    let all = line.hall.buyers(4);
    let other = line.ticket(&api, &all[0]).await;
    let mut guests = Vec::new();
    let codes = vip["items"].as_array().expect("items");
    let codes = codes.iter().map(|one| text(&one["code"]));
    for (buyer, code) in all[1..].iter().zip(codes.chain([presale.as_str()])) {
        let joined = join(&line, &api, buyer, code).await.expect(201).body;
        guests.push(text(&joined["ticket"]).to_owned());
    }
    line.becomes(&api, &all[3], &guests[2], "ADMITTED").await;
    let left = line.leave(&api, &all[3], Some(&guests[2])).await;
    left.expect(204);
    line.becomes(&api, &all[1], &guests[0], "WAITING").await;
    line.amend(PolicyChange {
        opens_at: Some(LONG_AGO),
        ..PolicyChange::default()
    })
    .await;
    for (buyer, ticket, next) in [
        (&all[1], &guests[0], (&all[2], &guests[1])),
        (&all[2], &guests[1], (&all[0], &other)),
    ] {
        line.becomes(&api, buyer, ticket, "ADMITTED").await;
        line.leave(&api, buyer, Some(ticket)).await.expect(204);
        line.becomes(&api, next.0, next.1, "ADMITTED").await;
    }
    line.hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_codes_is_whole_and_its_key_is_for_it_alone() {
    let mut hall = Hall::open().await;
    let date = hall.date(1).await;
    let path = format!("/admin/schedules/{date}/access-codes");
    let (api, admin) = (hall.api.clone(), hall.admin());
    let body = |change: Value| {
        let (from, until) = LONG_TIME;
        let mut body = json!({ "label": "Fans", "grants": "PRESALE", "validFrom": from,
                               "validUntil": until, "count": 2 });
        let fields = body.as_object_mut().expect("an object");
        fields.extend(change.as_object().expect("an object").clone());
        body
    };
    let made = api
        .post(&admin, &path, "the-one-key", &body(json!({})))
        .await;
    assert_eq!(
        made.expect(201).body["items"].as_array().map(Vec::len),
        Some(2)
    );
    for other in [
        json!({ "count": 5 }),
        json!({ "count": 1 }),
        json!({ "grants": "VIP" }),
    ] {
        let again = api.post(&admin, &path, "the-one-key", &body(other)).await;
        again.expect_problem(422, "idempotency-key-reused");
    }
    for (wrong, pointer) in [
        (json!({ "label": " " }), "/label"),
        (json!({ "label": "a\nb" }), "/label"),
        (json!({ "uses": 0 }), "/uses"),
        (json!({ "count": 1001 }), "/count"),
        (json!({ "validUntil": LONG_TIME.0 }), "/validUntil"),
    ] {
        let refused = api.post(&admin, &path, "another-key", &body(wrong)).await;
        assert_eq!(
            refused.body["errors"][0]["pointer"], pointer,
            "{}",
            refused.body
        );
        refused.expect_problem(422, "validation-failed");
    }
    let listed = api.get(Some(&admin), &path).await.expect(200).body;
    let items = listed["items"].as_array().expect("items");
    assert_eq!(items.len(), 2, "{listed}");
    assert!(
        items
            .iter()
            .all(|one| one["used"] == 0 && one["grants"] == "PRESALE")
    );
    let path = format!("{path}?limit=1");
    let page = api.get(Some(&admin), &path).await.expect(200).body;
    let next = text(&page["nextCursor"]);
    let next = api
        .get(Some(&admin), &format!("{path}&cursor={next}"))
        .await;
    let both = [&page["items"][0], &next.expect(200).body["items"][0]].map(|it| it["code"].clone());
    assert_eq!(both, [items[0]["code"].clone(), items[1]["code"].clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_that_could_never_be_used_are_refused() {
    let mut hall = Hall::open().await;
    let mut policy = open_policy();
    (policy.booking_opens_at, policy.booking_closes_at) = (soon(7200), soon(9000));
    let date = hall.date_with(1, policy).await;
    let path = format!("/admin/schedules/{date}/access-codes");
    let (api, admin) = (hall.api.clone(), hall.admin());
    let body = |grants: &str, from: i64, until: i64| {
        json!({ "label": "Fans", "grants": grants, "validFrom": soon(from),
                "validUntil": soon(until) })
    };
    let (over, closed) = ("over already", "only when the booking has closed");
    for (grants, from, until, pointer, code, why) in [
        ("VIP", -9000, -60, "/validUntil", "invalid-value", over),
        ("PRESALE", -9000, -60, "/validUntil", "invalid-value", over),
        ("VIP", 9060, 10_000, "/validFrom", "invalid-value", closed),
        (
            "PRESALE",
            9060,
            10_000,
            "/validFrom",
            "invalid-value",
            closed,
        ),
        (
            "PRESALE",
            0,
            7140,
            "/validUntil",
            "not-after-opening",
            "before the booking opens",
        ),
        (
            "PRESALE",
            7140,
            9000,
            "/validFrom",
            "before-booking",
            "before the booking opens",
        ),
    ] {
        let body = body(grants, from, until);
        let refused = api.post(&admin, &path, "a-wrong-window", &body).await;
        let told = refused.body.clone();
        refused.expect_problem(422, "validation-failed");
        let expected = json!([{ "pointer": pointer, "code": code }]);
        assert_eq!(told["errors"], expected, "{body}");
        assert!(text(&told["detail"]).contains(why), "{told}");
    }
    // Whatever leaves some time is made: until after the booking, and guests who come before it and have
    // their turn when the room opens.
    let long = body("PRESALE", 7260, 100_000);
    let right = [
        long.clone(),
        body("PRESALE", 7260, 7320),
        body("VIP", 0, 60),
    ];
    for (nth, right) in right.iter().enumerate() {
        let key = format!("a-right-window-{nth}");
        let _ = api.post(&admin, &path, &key, right).await.expect(201);
    }
    // The sale is over: that is true of every window now. What was made is told again all the same.
    let sale = json!({ "bookingOpensAt": soon(-9000), "bookingClosesAt": soon(-60) });
    let edited = patch(&api, &admin, &format!("/admin/schedules/{date}"), &sale).await;
    let _ = edited.expect(200);
    let refused = api.post(&admin, &path, "too-late-for-it", &long).await;
    assert_eq!(refused.body["errors"][0]["pointer"], "/validFrom");
    refused.expect_problem(422, "validation-failed");
    let again = api.post(&admin, &path, "a-right-window-0", &long).await;
    let _ = again.expect(201);

    let cancelled = hall.date(1).await;
    let path = format!("/admin/schedules/{cancelled}/access-codes");
    let _ = api
        .post(&admin, &path, "while-it-is-on", &long)
        .await
        .expect(201);
    cancel_show(&hall, cancelled, "the-show-key", "Storm")
        .await
        .expect(202);
    let refused = api.post(&admin, &path, "of-a-dead-show", &long).await;
    refused.expect_problem(410, "sale-closed");
    let again = api.post(&admin, &path, "while-it-is-on", &long).await;
    let _ = again.expect(201);
}

/// Nobody is let in before the booking opens, whichever is moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_presale_and_a_room_let_nobody_in_to_nothing() {
    let mut hall = Hall::open().await;
    let date = hall.date(1).await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let path = format!("/admin/schedules/{date}");
    let room = |opens_s| {
        json!({ "queue": { "mode": "DRAW", "opensAt": soon(opens_s), "capacity": 5,
                           "ratePerSecond": 100 } })
    };
    let booking = |opens_s| json!({ "bookingOpensAt": soon(opens_s) });
    let refused = async |change: &Value, pointer: &str, code: &str| {
        let refused = patch(&api, &admin, &path, change).await;
        let expected = json!([{ "pointer": pointer, "code": code }]);
        assert_eq!(refused.body["errors"], expected, "{change}");
        refused.expect_problem(422, "validation-failed");
    };
    patch(&api, &admin, &path, &room(3600)).await.expect(200);
    refused(&booking(3660), "/bookingOpensAt", "after-queue-opening").await;
    let (_, fans) = code(&mut hall, date, 1, LONG_TIME).await;
    // The booking is moved behind the beginning of a presale that is there.
    let later = patch(&api, &admin, &path, &booking(3000)).await;
    let _ = later.expect(200);
    refused(&room(2940), "/queue/opensAt", "before-booking").await;
    refused(&room(-60), "/queue/opensAt", "before-booking").await;
    // A rule that lets nobody in any sooner is another matter, and so is a room that is paused.
    for queue in [
        json!({ "capacity": 7 }),
        json!({ "paused": true, "opensAt": soon(60) }),
        json!({ "opensAt": soon(3600) }),
        json!({ "paused": false }),
    ] {
        let other = patch(&api, &admin, &path, &json!({ "queue": queue })).await;
        let _ = other.expect(200);
    }
    let buyer = hall.buyer();
    let path_of_room = format!("/schedules/{date}/queue");
    let join = json!({ "accessCode": fans });
    let early = api.post(&buyer, &path_of_room, "the-first-key", &join);
    early.await.expect_problem(403, "access-code-not-yet");
    // It was not used up by that.
    let now = patch(&api, &admin, &path, &booking(-60)).await;
    let _ = now.expect(200);
    let joined = api
        .post(&buyer, &path_of_room, "the-first-key", &join)
        .await;
    assert_eq!(joined.expect(201).body["guest"], true);
    hall.assert_sound().await;
}

/// The same with another letter.
fn edited(code: &str) -> String {
    let mut edited = code.to_owned().into_bytes();
    edited[40] = if edited[40] == b'A' { b'B' } else { b'A' };
    String::from_utf8(edited).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_used_as_often_as_it_is_good_and_each_wrong_one_is_told_why() {
    let mut line = Line::start(SystemOptions::default(), policy(10)).await;
    let api = line.hall.api.clone();
    let date = line.date;
    let (_, once) = code(&mut line.hall, date, 3, LONG_TIME).await;
    let all = line.hall.buyers(20);
    let joins = all.iter().map(|buyer| join(&line, &api, buyer, &once));
    let (mut guests, mut others) = (0, 0);
    for answer in join_all(joins).await {
        if answer.status == 201 {
            assert_eq!(status(&answer.body), "WAITING");
            guests += 1;
        } else {
            answer.expect_problem(403, "access-code-used-up");
            others += 1;
        }
    }
    assert_eq!((guests, others), (3, 17));
    let buyer = line.hall.buyer();
    let elsewhere = line.hall.date(1).await;
    let (_, foreign) = code(&mut line.hall, elsewhere, 1, LONG_TIME).await;
    let old = expired(&mut line.hall, date).await;
    let early = not_yet(&mut line.hall, date).await;
    let (revoked_id, revoked) = code(&mut line.hall, date, 1, LONG_TIME).await;
    let path = format!("/admin/schedules/{date}/access-codes");
    let admin = line.hall.admin();
    let one = format!("{path}/{revoked_id}");
    api.delete(&admin, &one).await.expect(204);
    api.delete(&admin, &one).await.expect(204);
    for (code, problem) in [
        (foreign, "access-code-invalid"),
        (edited(&once), "access-code-invalid"),
        ("made-up".to_owned(), "access-code-invalid"),
        (old, "access-code-expired"),
        (early, "access-code-not-yet"),
        (revoked, "access-code-revoked"),
        (once.clone(), "access-code-used-up"),
    ] {
        let refused = join(&line, &api, &buyer, &code).await;
        refused.expect_problem(403, problem);
    }
    // Who is in line keeps its place when a code is no good, and gives it up for one that is.
    let in_line = line.ticket(&api, &buyer).await;
    join(&line, &api, &buyer, &edited(&once))
        .await
        .expect_problem(403, "access-code-invalid");
    line.becomes(&api, &buyer, &in_line, "LOBBY").await;
    let (last_id, last) = code(&mut line.hall, date, 1, LONG_TIME).await;
    let guest = join(&line, &api, &buyer, &last).await.expect(201).body;
    assert_eq!(guest["guest"], true, "{guest}");
    line.becomes(&api, &buyer, &in_line, "LEFT").await;
    // Who leaves has used the code.
    let guest = text(&guest["ticket"]).to_owned();
    line.leave(&api, &buyer, Some(&guest)).await.expect(204);
    join(&line, &api, &buyer, &last)
        .await
        .expect_problem(403, "access-code-used-up");
    let other = line.hall.buyer();
    let refused = join(&line, &api, &other, &last).await;
    refused.expect_problem(403, "access-code-used-up");
    let listed = api.get(Some(&admin), &path).await.expect(200).body;
    let used: Vec<&Value> = listed["items"].as_array().expect("items").iter().collect();
    assert_eq!(used.len(), 5);
    let last = used.iter().find(|it| id(&it["accessCodeId"]) == last_id);
    assert_eq!(last.expect("it is listed")["used"], 1);
    let revoked = used.iter().find(|it| id(&it["accessCodeId"]) == revoked_id);
    assert!(revoked.expect("it is listed")["revokedAt"].is_string());
    assert_eq!(used.iter().filter(|it| it["used"] == 3).count(), 1);
    line.hall.assert_sound().await;
}
