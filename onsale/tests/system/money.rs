//! Points and payments: once, whatever happens.

use crate::hall::{Hall, open_policy, reservation};
use futures_util::future::join_all;
use onsale::seed::Policy;
use onsale_testkit::SystemOptions;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn of_50_payments_of_one_reservation_at_once_one_charges() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    hall.api.charge(&buyer, 100_000).await.expect(201);
    let held = hall
        .api
        .hold(&buyer, date, &["A-1-1", "A-1-2"])
        .await
        .expect(201);
    let reservation = reservation(&held.body);
    let answers = join_all((0..50).map(|_| hall.api.pay(&buyer, reservation))).await;
    let paid = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(paid, 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 201) {
        answer.expect_problem(409, "already-paid");
    }
    let points = hall
        .api
        .get(Some(&buyer), "/users/me/points")
        .await
        .expect(200);
    assert_eq!(
        points.body["balance"],
        json!({ "amount": 80_000, "currency": "KRW" })
    );
    // The seats' owner learns of it by a notice.
    hall.map_becomes(date, "SSAA").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_charge_twice_charges_once() {
    let hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let buyer = hall.buyer();
    let amount = json!({ "amount": 5000, "currency": "KRW" });
    let body = json!({ "amount": amount, "method": "CASH" });
    let path = "/users/me/points/charges";
    let charges = (0..20).map(|_| hall.api.post(&buyer, path, "charge-me-once", &body));
    let answers = join_all(charges).await;
    for answer in &answers {
        let answer = answer.clone().expect(201);
        assert_eq!(answer.body["balance"], amount);
        assert_eq!(answer.body["transferId"], answers[0].body["transferId"]);
    }
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_lapsed_can_not_be_paid_and_is_on_sale_again_within_a_second() {
    let mut hall = Hall::open().await;
    let date = hall
        .date_with(
            3,
            Policy {
                hold_ms: 1000,
                ..open_policy()
            },
        )
        .await;
    let buyer = hall.buyer();
    hall.api.charge(&buyer, 100_000).await.expect(201);
    let held = hall.api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    hall.map_becomes(date, "AHA").await;
    hall.map_becomes(date, "AAA").await;
    let sql = "SELECT (extract(epoch FROM ended_at - expires_at) * 1000)::bigint AS n \
               FROM reservation";
    let late_ms = hall.number(sql).await;
    assert!((0..1000).contains(&late_ms), "{late_ms} ms late");
    let answer = hall.api.pay(&buyer, reservation(&held.body)).await;
    answer.expect_problem(410, "hold-expired");
    let path = format!("/reservations/{}", reservation(&held.body));
    let shown = hall.api.get(Some(&buyer), &path).await.expect(200);
    assert_eq!(shown.body["status"], "EXPIRED");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_lapses_also_when_its_owner_died_and_the_next_never_heard_of_it() {
    let mut hall = Hall::open().await;
    let date = hall
        .date_with(
            3,
            Policy {
                hold_ms: 1500,
                ..open_policy()
            },
        )
        .await;
    let buyer = hall.buyer();
    hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    hall.system.workers[0].kill9().await;
    hall.system.workers[0].restart().await.expect("a worker");
    // Nobody asks about the date: only the expiry worker can find it.
    hall.map_becomes(date, "AAA").await;
    hall.assert_sound().await;
}
