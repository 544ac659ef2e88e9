//! What is a user's own: reservations, points, payments. The test plays the workers at the other end
//! of real streams.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{SCHEDULE, start};
use onsale_schema::seats::{Kind, Outcome};
use onsale_schema::status::ChargeMethod;
use onsale_schema::{Lane, Money, Timestamp, TransferId, ledger, settlement};
use onsale_testkit::Buyer;
use serde_json::json;
use uuid::Uuid;

const PAID_AT: Timestamp = Timestamp(1_800_000_000_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_shown_and_released() {
    let bench = start(&[]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let (buyer, other) = (bench.api.buyer().await, bench.api.buyer().await);
    let id = |n: u128| Uuid::from_u128(n);
    let insert = async |n: u128, status: &str, ended: &str, expires: &str| {
        bench
            .sql(&format!(
                "INSERT INTO reservation VALUES ('{}', '{SCHEDULE}', '{}', gen_random_uuid(), \
                 gen_random_uuid(), '{{{}}}', 1000, 4, '{status}', now() - interval '{n} minutes', \
                 now() + interval '{expires}', {ended})",
                id(n),
                buyer.user_id,
                n - 1,
            ))
            .await;
    };
    insert(1, "HELD", "NULL", "1 hour").await;
    insert(2, "HELD", "NULL", "-1 second").await;
    insert(3, "PAID", "NULL", "1 hour").await;
    insert(4, "RELEASED", "now()", "1 hour").await;
    let path = |n: u128| format!("/reservations/{}", id(n));
    let one = bench.api.get(Some(&buyer), &path(1)).await.expect(200).body;
    assert_eq!(
        (&one["status"], &one["seats"][0]["label"]),
        (&json!("HELD"), &json!("A-1-1"))
    );
    bench
        .api
        .get(Some(&other), &path(1))
        .await
        .expect_problem(404, "not-found");
    let first = bench
        .api
        .get(Some(&buyer), "/reservations?limit=3")
        .await
        .expect(200)
        .body;
    let statuses: Vec<_> = first["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["status"].clone())
        .collect();
    assert_eq!(statuses, ["HELD", "EXPIRED", "PAID"]);
    let next = format!(
        "/reservations?limit=3&cursor={}",
        first["nextCursor"].as_str().unwrap()
    );
    let second = bench.api.get(Some(&buyer), &next).await.expect(200).body;
    assert_eq!(second["items"][0]["reservationId"], json!(id(4)));

    let delete = |by: &Buyer, n| {
        let (api, by, path) = (bench.api.clone(), by.clone(), path(n));
        tokio::spawn(async move { api.delete(&by, &path).await })
    };
    let _ = delete(&buyer, 4).await.unwrap().expect(204);
    let conflict = delete(&buyer, 3).await.unwrap();
    conflict.expect_problem(409, "reservation-state-conflict");
    delete(&other, 1)
        .await
        .unwrap()
        .expect_problem(404, "not-found");
    let asked = delete(&buyer, 1);
    let message = owner.next().await;
    let Kind::Release { reservation_id, .. } = message.commands[0].kind else {
        panic!("{message:?}");
    };
    assert_eq!(reservation_id.0, id(1));
    owner
        .reply(&message, vec![Outcome::Released { reservation_id }])
        .await;
    let _ = asked.await.unwrap().expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn money_goes_its_way() {
    let bench = start(&[]).await;
    let mut ledger = bench.owner::<ledger::Kind>(Lane::Ledger).await;
    let mut settlement = bench.owner::<settlement::Kind>(Lane::Settlement).await;
    let buyer = bench.api.buyer().await;
    let balance = bench
        .api
        .get(Some(&buyer), "/users/me/points")
        .await
        .expect(200);
    assert_eq!(balance.body["balance"]["amount"], 0);
    bench
        .api
        .charge(&buyer, 0)
        .await
        .expect_problem(422, "amount-invalid");
    bench
        .api
        .charge(&buyer, -5)
        .await
        .expect_problem(422, "amount-invalid");

    let charge = |won| {
        let (api, buyer) = (bench.api.clone(), buyer.clone());
        tokio::spawn(async move { api.charge(&buyer, won).await })
    };
    let asked = charge(500);
    let message = ledger.next().await;
    let wanted = ledger::Kind::Charge {
        amount: Money::won(500),
        method: ChargeMethod::Cash,
    };
    assert_eq!(message.commands[0].kind, wanted);
    let transfer_id = TransferId(Uuid::from_u128(9));
    let charged = ledger::Outcome::Charged {
        transfer_id,
        balance: Money::won(500),
    };
    ledger.reply(&message, vec![charged]).await;
    let answer = asked.await.unwrap().expect(201);
    assert_eq!(answer.body["balance"]["amount"], 500);
    let asked = charge(500);
    let message = ledger.next().await;
    let capped = ledger::Refusal::BalanceCapExceeded {
        cap: Money::won(900),
    };
    ledger
        .reply(&message, vec![ledger::Outcome::Refused(capped)])
        .await;
    let capped = asked
        .await
        .unwrap()
        .expect_problem(422, "balance-cap-exceeded");
    assert_eq!(capped.body["cap"]["amount"], 900);

    let pay = || {
        let (api, buyer) = (bench.api.clone(), buyer.clone());
        tokio::spawn(async move { api.pay(&buyer, Uuid::from_u128(5)).await })
    };
    for (refusal, status, code) in [
        (settlement::Refusal::NotFound, 404, "not-found"),
        (settlement::Refusal::AlreadyPaid, 409, "already-paid"),
        (settlement::Refusal::HoldExpired, 410, "hold-expired"),
        (
            settlement::Refusal::InsufficientPoints,
            422,
            "insufficient-points",
        ),
    ] {
        let asked = pay();
        let message = settlement.next().await;
        settlement
            .reply(&message, vec![settlement::Outcome::Refused(refusal)])
            .await;
        asked.await.unwrap().expect_problem(status, code);
    }
    let asked = pay();
    let message = settlement.next().await;
    let settlement::Kind::Pay {
        payment_id,
        reservation_id,
        ..
    } = message.commands[0].kind
    else {
        panic!("{:?}", message.commands[0].kind)
    };
    let paid = settlement::Payment {
        payment_id,
        reservation_id,
        amount: Money::won(7),
        paid_at: PAID_AT,
    };
    settlement
        .reply(&message, vec![settlement::Outcome::Paid(paid)])
        .await;
    let paid = asked.await.unwrap().expect(201);
    assert_eq!(
        (&paid.body["paymentId"], &paid.body["status"]),
        (&json!(payment_id.0), &json!("PAID"))
    );
    let none = bench.api.get(Some(&buyer), "/payments").await.expect(200);
    assert_eq!(none.body["items"], json!([]));
    let missing = format!("/payments/{}", payment_id.0);
    bench
        .api
        .get(Some(&buyer), &missing)
        .await
        .expect_problem(404, "not-found");
    let history = bench
        .api
        .get(Some(&buyer), "/users/me/points/history")
        .await
        .expect(200);
    assert_eq!(history.body["items"], json!([]));
}
