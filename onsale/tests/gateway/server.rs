//! What the gateway does when nothing is wrong with it, and what it knows after it was killed.

use std::io::Write;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::rig::{Paying, Rig};

#[tokio::test]
async fn a_payment_is_captured_once_and_given_back_in_parts() {
    let rig = Rig::start().await;
    let paying = rig.checkout(99_000).await;
    let found = rig.find(&paying).await;
    assert_eq!(found.said(), (200, "IN_PROGRESS"));
    assert_eq!(
        rig.cancel(&paying, 1, "r0").await.said().1,
        "NOT_CANCELABLE_PAYMENT"
    );

    let done = rig.confirm(&paying, "c1").await;
    assert_eq!(done.said(), (200, "DONE"));
    assert_eq!(done.body["balanceAmount"], 99_000);
    assert_eq!(rig.confirm(&paying, "c1").await, done);
    assert_eq!(
        rig.confirm(&paying, "c2").await.said(),
        (400, "ALREADY_PROCESSED_PAYMENT")
    );
    let other = Paying {
        amount: 1000,
        ..paying.clone()
    };
    assert_eq!(
        rig.confirm(&other, "c1").await.said(),
        (422, "IDEMPOTENCY_KEY_REUSED")
    );

    let some = rig.cancel(&paying, 9000, "r1").await;
    assert_eq!(some.said(), (200, "PARTIAL_CANCELED"));
    assert_eq!(rig.cancel(&paying, 9000, "r1").await, some);
    assert_eq!(rig.cancel(&paying, 9001, "r1").await.said().0, 422);
    assert_eq!(
        rig.cancel(&paying, 90_001, "r2").await.said(),
        (403, "NOT_CANCELABLE_AMOUNT")
    );
    assert_eq!(
        rig.cancel(&paying, 90_000, "r3").await.said(),
        (200, "CANCELED")
    );
    assert_eq!(
        rig.cancel(&paying, 1, "r4").await.said(),
        (400, "ALREADY_CANCELED_PAYMENT")
    );
    let moved = rig.moved(&paying).await;
    let moved: Vec<_> = moved
        .iter()
        .map(|(status, amount)| (status.as_str(), *amount))
        .collect();
    assert_eq!(
        moved,
        [
            ("DONE", 99_000),
            ("PARTIAL_CANCELED", 9000),
            ("CANCELED", 90_000)
        ]
    );
    let by_order = format!("/v1/payments/orders/{}", paying.order);
    let by_order = rig.ask(Method::GET, &by_order, None, "").await;
    assert_eq!(by_order, rig.find(&paying).await);
}

/// As real gateways do: who asks for the same under the same key hears what was said the first time.
#[tokio::test]
async fn a_refusal_is_remembered_under_its_key() {
    let mut rig = Rig::start().await;
    let paying = rig.checkout(10_000).await;
    let early = rig.cancel(&paying, 4000, "early").await;
    assert_eq!(early.said(), (403, "NOT_CANCELABLE_PAYMENT"));
    rig.confirm(&paying, "c").await;
    let much = rig.cancel(&paying, 10_001, "much").await;
    assert_eq!(much.said(), (403, "NOT_CANCELABLE_AMOUNT"));
    rig.gateway.kill9().await;
    rig.gateway.restart().await.unwrap();
    assert_eq!(rig.cancel(&paying, 4000, "early").await, early);
    assert_eq!(rig.cancel(&paying, 10_001, "much").await, much);
    let other = rig.cancel(&paying, 4001, "early").await;
    assert_eq!(other.said(), (422, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(rig.moved(&paying).await.len(), 1);
    let again = rig.cancel(&paying, 4000, "later").await;
    assert_eq!(again.said(), (200, "PARTIAL_CANCELED"));
}

#[tokio::test]
async fn a_payment_is_for_its_order_its_amount_and_who_has_the_key() {
    let rig = Rig::start().await;
    let paying = rig.checkout(50_000).await;
    let wrong = |order, amount| Paying {
        order,
        amount,
        ..paying.clone()
    };
    let of_other = rig.confirm(&wrong(Uuid::now_v7(), 50_000), "a").await;
    assert_eq!(of_other.said(), (400, "ORDER_MISMATCH"));
    let less = rig.confirm(&wrong(paying.order, 49_000), "b").await;
    assert_eq!(less.said(), (400, "AMOUNT_MISMATCH"));
    let unknown = Paying {
        key: "tgen_none".into(),
        ..paying.clone()
    };
    assert_eq!(
        rig.confirm(&unknown, "c").await.said(),
        (404, "NOT_FOUND_PAYMENT")
    );
    assert_eq!(rig.find(&unknown).await.said(), (404, "NOT_FOUND_PAYMENT"));

    // A second try of the buyer, of which only one is captured.
    let again = rig.checkout_of(paying.order, 50_000).await;
    assert_eq!(rig.confirm(&again, "d").await.said(), (200, "DONE"));
    assert_eq!(
        rig.confirm(&paying, "e").await.said(),
        (400, "DUPLICATED_ORDER_ID")
    );
    let body = json!({"orderId": paying.order, "amount": 50_000});
    let third = rig.ask(Method::POST, "/v1/checkout", Some(body), "").await;
    assert_eq!(third.said(), (400, "DUPLICATED_ORDER_ID"));
    assert_eq!(rig.book().await.len(), 1);

    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    for request in [
        stranger.get(format!("{}/v1/payments/{}", rig.url(), again.key)),
        stranger.get(format!("{}/v1/transactions", rig.url())),
        stranger
            .post(format!("{}/v1/payments/confirm", rig.url()))
            .json(&again.body()),
        stranger
            .post(format!("{}/v1/payments/{}/cancel", rig.url(), again.key))
            .json(&json!({"cancelReason": "x"})),
    ] {
        let wrong = request
            .try_clone()
            .unwrap()
            .basic_auth("test_sk_other", Some(""));
        for request in [request, wrong] {
            assert_eq!(request.send().await.unwrap().status(), 401);
        }
    }
    for body in [
        json!({}),
        json!({"orderId": "x", "amount": 1}),
        json!({"orderId": paying.order, "amount": 1.5}),
    ] {
        let bad = rig.ask(Method::POST, "/v1/checkout", Some(body), "").await;
        assert_eq!(bad.said(), (400, "INVALID_REQUEST"));
    }
}

#[tokio::test]
async fn of_many_at_once_one_is_granted() {
    let rig = Rig::start().await;
    let paying = rig.checkout(10_000).await;
    let keys: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
    let all = join_all(keys.iter().map(|key| rig.confirm(&paying, key))).await;
    assert_eq!(
        all.iter().filter(|answer| answer.status == 200).count(),
        1,
        "{all:?}"
    );
    // The same wish, and different ones: never more than was captured.
    let same = join_all((0..20).map(|_| rig.cancel(&paying, 4000, "same"))).await;
    let is_fine =
        |(status, word): (u16, &str)| status == 200 || word == "IDEMPOTENT_REQUEST_PROCESSING";
    assert!(same.iter().all(|answer| is_fine(answer.said())), "{same:?}");
    join_all(keys.iter().map(|key| rig.cancel(&paying, 4000, key))).await;
    let refunded = rig.moved(&paying).await.len() - 1;
    assert_eq!(refunded, 2, "4,000 and 4,000 of 10,000");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_answered() {
    let mut rig = Rig::start().await;
    for round in 0..3 {
        let mut all = Vec::new();
        for n in 0..30 {
            all.push(rig.checkout(1000 * (n + 1)).await);
        }
        let wishes = all.iter().map(|paying| {
            let (key, body) = (paying.order.to_string(), Some(paying.body()));
            let rig = &rig;
            async move {
                rig.try_ask(Method::POST, "/v1/payments/confirm", body, &key)
                    .await
                    .ok()
            }
        });
        let killing = async {
            tokio::time::sleep(Duration::from_millis(3 * round)).await;
            rig.gateway.kill9().await;
        };
        let (answers, ()) = tokio::join!(join_all(wishes), killing);
        if round == 2 {
            // As if it had been killed in the middle of a line.
            let path = rig.scratch.path().join("gateway/book.jsonl");
            let mut book = std::fs::File::options().append(true).open(path).unwrap();
            book.write_all(br#"{"payment":{"payme"#).unwrap();
        }
        rig.gateway.restart().await.unwrap();
        let mut answered = 0;
        for (paying, answer) in all.iter().zip(answers) {
            if let Some(answer) = answer {
                answered += 1;
                assert_eq!(answer.said(), (200, "DONE"));
                assert_eq!(rig.find(paying).await, answer);
            }
            // Whoever has no answer asks again with the same key.
            let again = rig.confirm(paying, &paying.order.to_string()).await;
            assert_eq!(again.said(), (200, "DONE"));
            assert_eq!(
                rig.moved(paying).await,
                [("DONE".to_owned(), paying.amount)]
            );
        }
        println!("round {round}: {answered} of {} were answered", all.len());
    }
    assert_eq!(rig.book().await.len(), 90);
}

#[tokio::test]
async fn the_book_is_read_in_pages_and_spans() {
    let rig = Rig::start().await;
    for n in 1..=5 {
        let paying = rig.checkout(n * 1000).await;
        rig.confirm(&paying, &format!("k{n}")).await;
    }
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let path = format!(
            "/v1/transactions?startDate=2020-01-01T00:00:00%2B09:00&endDate=2100-01-01T00:00:00Z&limit=2{after}"
        );
        let page = rig.ask(Method::GET, &path, None, "").await.body;
        let page = page.as_array().unwrap();
        let Some(last) = page.last() else {
            break;
        };
        after = format!(
            "&startingAfter={}",
            last["transactionKey"].as_str().unwrap()
        );
        seen.extend(page.iter().map(|entry| entry["amount"].as_i64().unwrap()));
    }
    assert_eq!(seen, [1000, 2000, 3000, 4000, 5000]);
    let past = "/v1/transactions?startDate=2020-01-01T00:00:00&endDate=2020-01-02T00:00:00";
    assert_eq!(rig.ask(Method::GET, past, None, "").await.body, json!([]));
}
