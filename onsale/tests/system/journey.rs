//! The way of a buyer, from signing up to the ticket.

use crate::hall::{Hall, reservation};
use onsale_testkit::SystemOptions;
use onsale_testkit::api::text;
use reqwest::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_look_hold_charge_pay_and_see_it_sold() {
    travel(Hall::open().await).await;
}

/// The processes of this system know no other way: what stands before its Postgres sends away who
/// does not ask for TLS, and its nats-server speaks nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_over_encrypted_links() {
    travel(Hall::open_with(SystemOptions::default().tls()).await).await;
}

async fn travel(mut hall: Hall) {
    let date = hall.date(6).await;
    let api = hall.api.clone();
    let buyer = api.buyer().await;
    let me = api.get(Some(&buyer), "/users/me").await.expect(200);
    assert_eq!(me.body["userId"], json!(buyer.user_id));

    let concerts = api.get(None, "/concerts").await.expect(200);
    let concert = text(&concerts.body["items"][0]["concertId"]).to_owned();
    let dates = api
        .get(None, &format!("/concerts/{concert}/schedules"))
        .await
        .expect(200);
    let shown = dates
        .body
        .as_array()
        .expect("a list")
        .iter()
        .find(|d| d["scheduleId"] == json!(date));
    let shown = shown.expect("our date");
    assert_eq!(
        (&shown["total"], &shown["bookable"]),
        (&json!(6), &json!(true))
    );
    let layout = api
        .get(None, &format!("/schedules/{date}/layout"))
        .await
        .expect(200);
    assert_eq!(
        layout.body["sections"][0]["rows"][0]["seats"][0]["label"],
        "A-1-1"
    );

    let map = api
        .get(None, &format!("/schedules/{date}/seats"))
        .await
        .expect(200);
    assert_eq!(map.body["seats"], "AAAAAA");
    let etag = map.headers["etag"].clone();
    let request = api.request(Method::GET, &format!("/schedules/{date}/seats"));
    let unchanged = api
        .send(request.header("if-none-match", etag.clone()))
        .await;
    assert_eq!(unchanged.status, 304);

    let held = api
        .hold(&buyer, date, &["A-1-2", "A-1-3"])
        .await
        .expect(201);
    assert_eq!(
        held.body["total"],
        json!({ "amount": 20_000, "currency": "KRW" })
    );
    assert_eq!(held.body["status"], "HELD");
    assert_eq!(held.body["seats"][0]["label"], "A-1-2");
    let id = reservation(&held.body);
    hall.map_becomes(date, "AHHAAA").await;
    let request = api.request(Method::GET, &format!("/schedules/{date}/seats"));
    api.send(request.header("if-none-match", etag))
        .await
        .expect(200);

    api.pay(&buyer, id)
        .await
        .expect_problem(422, "insufficient-points");
    let charged = api.charge(&buyer, 50_000).await.expect(201);
    assert_eq!(charged.body["balance"]["amount"], 50_000);
    let paid = api.pay(&buyer, id).await.expect(201);
    assert_eq!(paid.body["amount"]["amount"], 20_000);
    api.pay(&buyer, id)
        .await
        .expect_problem(409, "already-paid");
    hall.map_becomes(date, "ASSAAA").await;

    let path = format!("/reservations/{id}");
    assert_eq!(
        api.get(Some(&buyer), &path).await.expect(200).body["status"],
        "PAID"
    );
    let list = api.get(Some(&buyer), "/reservations").await.expect(200);
    assert_eq!(list.body["items"].as_array().expect("a list").len(), 1);
    // It is nobody else's business, and can't be given back any more.
    api.get(Some(&hall.buyer()), &path)
        .await
        .expect_problem(404, "not-found");
    api.delete(&hall.buyer(), &path)
        .await
        .expect_problem(404, "not-found");
    api.delete(&buyer, &path)
        .await
        .expect_problem(409, "reservation-state-conflict");
    hall.assert_sound().await;
}
