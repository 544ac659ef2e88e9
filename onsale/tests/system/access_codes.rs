//! Guests of a waiting room, by access codes.

use crate::hall::Hall;
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

/// Makes some.
async fn made(hall: &mut Hall, date: Uuid, body: &Value) -> Value {
    let path = format!("/admin/schedules/{date}/access-codes");
    let key = Uuid::now_v7().to_string();
    let admin = hall.admin();
    let made = hall.api.post(&admin, &path, &key, body).await.expect(201);
    let again = hall.api.post(&admin, &path, &key, body).await.expect(201);
    assert_eq!(made.body, again.body, "a key makes the same");
    made.body
}

async fn join(line: &Line, api: &Api, buyer: &Buyer, code: &str) -> Answer {
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
    for buyer in &all[2..4] {
        let joined = join(&line, &api, buyer, &vip).await.expect(201).body;
        assert_eq!(joined["guest"], true, "{joined}");
        assert!(joined["position"].is_null(), "{joined}");
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
    let old = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    let (_, old) = code(&mut line.hall, date, 1, old).await;
    let early = ("2040-01-01T00:00:00Z", "2041-01-01T00:00:00Z");
    let (_, early) = code(&mut line.hall, date, 1, early).await;
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
