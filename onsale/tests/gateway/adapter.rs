//! Our adapter: every kind of answer, and that nothing is ever captured or given back twice.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use onsale_platform::clock::host_now;
use onsale_schema::{Money, UserId};
use onsale_testkit::ports;
use onsale_workers::gateway::{self, Error, Gateway, Movement, Status};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::rig::{Paying, Rig, adapter};

#[tokio::test]
async fn answers_are_of_five_kinds() {
    let rig = Rig::start().await;
    let gateway = rig.adapter();
    let paying = rig.checkout(99_000).await;
    let open = gateway.find_by_key(&paying.payment_key()).await.unwrap();
    assert_eq!(
        (open.status, open.balance),
        (Status::InProgress, Money::ZERO)
    );
    let done = gateway.confirm(&paying.confirm()).await.unwrap();
    assert_eq!(
        (done.status, done.balance),
        (Status::Done, Money::won(99_000))
    );
    assert!(done.approved_at.is_some());
    let found = gateway.find_by_order(&paying.order_id()).await;
    assert_eq!(found.as_ref(), Ok(&done));

    let declined = rig.checkout(99_001).await;
    for _ in 0..2 {
        let error = gateway.confirm(&declined.confirm()).await.unwrap_err();
        assert_eq!(
            error,
            Error::Declined {
                code: "REJECT_CARD_COMPANY".into()
            }
        );
        assert!(error.nothing_moved());
    }
    let aborted = gateway.find_by_order(&declined.order_id()).await.unwrap();
    assert_eq!(aborted.status, Status::Aborted);
    let wrong = Paying {
        amount: 98_000,
        ..rig.checkout(99_000).await
    };
    let error = gateway.confirm(&wrong.confirm()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Declined {
            code: "AMOUNT_MISMATCH".into()
        }
    );

    let unknown = Paying {
        key: "tgen_none".into(),
        order: Uuid::now_v7(),
        amount: 1000,
    };
    assert_eq!(
        gateway.confirm(&unknown.confirm()).await,
        Err(Error::NotFound)
    );
    assert_eq!(
        gateway.find_by_order(&unknown.order_id()).await,
        Err(Error::NotFound)
    );

    // Captured by a wish of another name: not ours to say that it failed.
    let mut other = paying.confirm();
    other.idempotency_key.0 = Uuid::now_v7();
    let error = gateway.confirm(&other).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");

    let mut settings = rig.settings();
    settings.secret = Some("test_sk_of_somebody_else".parse().unwrap());
    let error = adapter(&settings)
        .confirm(&paying.confirm())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Rejected { status: 401, .. }),
        "{error}"
    );
    let closed = ports::free().unwrap();
    settings.url = Some(format!("http://127.0.0.1:{closed}").parse().unwrap());
    let error = adapter(&settings)
        .confirm(&paying.confirm())
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::Unavailable {
            reason: "no connection"
        }
    );
    assert_eq!(rig.book().await.len(), 1);
}

#[tokio::test]
async fn what_timed_out_is_looked_up_and_never_charged_again() {
    let rig = Rig::start().await;
    let mut settings = rig.settings();
    settings.timeout_ms = 300;
    let gateway = adapter(&settings);
    let paying = rig.checkout(45_002).await;
    let error = gateway.confirm(&paying.confirm()).await.unwrap_err();
    assert_eq!(
        error,
        Error::Unknown {
            reason: "no answer in time"
        }
    );
    assert!(!error.nothing_moved() && error.is_transient());
    let found = gateway.find_by_order(&paying.order_id()).await.unwrap();
    assert_eq!(found.status, Status::Done);
    let again = gateway.confirm(&paying.confirm()).await.unwrap();
    assert_eq!(again, found);
    assert_eq!(rig.moved(&paying).await.len(), 1);

    // Before the capture: nothing is there, and the same wish captures once.
    let paying = rig.checkout(45_003).await;
    let error = gateway.confirm(&paying.confirm()).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");
    let found = gateway.find_by_key(&paying.payment_key()).await.unwrap();
    assert!(found.status.is_open());
    gateway.confirm(&paying.confirm()).await.unwrap();
    assert_eq!(rig.moved(&paying).await.len(), 1);

    // A doubt is not forgotten when the gateway is away at the last attempt.
    settings.attempts = 2;
    let gateway = adapter(&settings);
    let paying = rig.checkout(45_000).await;
    rig.switch(json!({"timeoutAfterCapture": 1})).await;
    let confirm = paying.confirm();
    let (error, ()) = tokio::join!(gateway.confirm(&confirm), async {
        rig.until(&paying, "DONE").await;
        rig.gateway.kill9().await;
    });
    assert_eq!(error.unwrap_err().kind(), "unknown");
}

#[tokio::test]
async fn a_card_on_file_is_charged_once_and_like_every_payment() {
    let rig = Rig::start().await;
    let mut settings = rig.settings();
    (settings.timeout_ms, settings.attempts) = (300, 1);
    let gateway = adapter(&settings);
    let by = UserId(Uuid::now_v7());
    let paying = rig.unasked(30_000);
    let done = gateway.charge(&paying.charge(by)).await.unwrap();
    assert_eq!(
        (done.status, done.total),
        (Status::Done, Money::won(30_000))
    );
    assert_eq!(gateway.charge(&paying.charge(by)).await.as_ref(), Ok(&done));
    let found = gateway.find_by_order(&paying.order_id()).await;
    assert_eq!(found.as_ref(), Ok(&done));
    // By a wish of another name: it was captured, so that it can't be said to have failed.
    let mut other = paying.charge(by);
    other.idempotency_key.0 = Uuid::now_v7();
    let error = gateway.charge(&other).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");

    // The faults by amount are those of a confirmation.
    let declined = rig.unasked(30_001);
    for _ in 0..2 {
        let error = gateway.charge(&declined.charge(by)).await.unwrap_err();
        assert_eq!(error.kind(), "declined");
    }
    let aborted = gateway.find_by_order(&declined.order_id()).await.unwrap();
    assert_eq!(aborted.status, Status::Aborted);
    let silent = rig.unasked(30_002);
    let error = gateway.charge(&silent.charge(by)).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");
    let found = gateway.find_by_order(&silent.order_id()).await.unwrap();
    assert_eq!(gateway.charge(&silent.charge(by)).await, Ok(found));
    let lost = rig.unasked(30_003);
    let error = gateway.charge(&lost.charge(by)).await.unwrap_err();
    assert_eq!(error.kind(), "unknown");
    let found = gateway.find_by_order(&lost.order_id()).await;
    assert_eq!(found, Err(Error::NotFound));
    gateway.charge(&lost.charge(by)).await.unwrap();

    // It goes back like every other.
    let paid = Paying {
        key: done.payment_key.to_string(),
        ..paying
    };
    let cancel = paid.cancel(30_000, Uuid::now_v7());
    gateway.cancel(&cancel).await.unwrap();
    let amounts: Vec<_> = rig.book().await.iter().map(|(_, _, won)| *won).collect();
    assert_eq!(amounts, [30_000, 30_002, 30_003, 30_000]);
    // A billing key is somebody's.
    let stranger = json!({ "customerKey": Uuid::now_v7(), "amount": 1000,
        "orderId": Uuid::now_v7(), "orderName": "points" });
    let path = format!("/v1/billing/{by}");
    let answer = rig.ask(Method::POST, &path, Some(stranger), "a-key").await;
    assert_eq!(answer.body["code"], "NOT_MATCHES_CUSTOMER_KEY");
}

#[tokio::test]
async fn fifty_refunds_with_one_key_refund_once() {
    let rig = Rig::start().await;
    let mut settings = rig.settings();
    settings.attempts = 10;
    let gateway = adapter(&settings);
    let paying = rig.checkout(80_000).await;
    gateway.confirm(&paying.confirm()).await.unwrap();
    let refund = paying.cancel(30_000, Uuid::now_v7());
    let all = join_all((0..50).map(|_| gateway.cancel(&refund))).await;
    let first = all[0].as_ref().unwrap();
    assert!(all.iter().all(|one| one.as_ref() == Ok(first)), "{all:?}");
    let payment = gateway.find_by_key(&paying.payment_key()).await.unwrap();
    assert_eq!(
        (payment.status, payment.balance),
        (Status::PartialCanceled, Money::won(50_000))
    );
    assert_eq!(payment.cancels, std::slice::from_ref(first));
    let too_much = gateway.cancel(&paying.cancel(50_001, Uuid::now_v7())).await;
    assert_eq!(
        too_much,
        Err(Error::Declined {
            code: "NOT_CANCELABLE_AMOUNT".into()
        })
    );
}

#[tokio::test]
async fn what_was_given_back_is_known_by_its_refund() {
    let rig = Rig::start().await;
    let gateway = rig.adapter();
    let paying = rig.checkout(80_000).await;
    gateway.confirm(&paying.confirm()).await.unwrap();
    let refunds = [(1, 30_000), (2, 10_000), (3, 10_000)];
    let refunds = refunds.map(|(id, won)| paying.cancel(won, Uuid::from_u128(id)));
    for refund in &refunds[..2] {
        let made = gateway.cancel(refund).await.unwrap();
        assert_eq!(made.refund_id, Some(refund.refund_id));
    }
    // Somebody at the gateway's own pages.
    assert_eq!(rig.cancel(&paying, 10_000, "by-hand").await.status, 200);
    let made = gateway.cancel(&refunds[2]).await.unwrap();
    // Later ones don't hide an earlier one.
    let first = gateway.cancel(&refunds[0]).await.unwrap();
    assert_eq!(first.amount, Money::won(30_000));
    let payment = gateway.find_by_key(&paying.payment_key()).await.unwrap();
    let named: Vec<_> = payment.cancels.iter().map(|one| one.refund_id).collect();
    let [one, two, three] = refunds.map(|refund| Some(refund.refund_id));
    assert_eq!(named, [one, two, None, three]);
    assert_eq!(payment.cancels.last(), Some(&made));
    assert_eq!(payment.balance, Money::won(20_000));
}

#[tokio::test]
async fn our_attempt_is_found_behind_another_that_keeps_nothing() {
    let rig = Rig::start().await;
    let gateway = rig.adapter();
    let ours = rig.checkout(30_000).await;
    let latest = rig.checkout_of(ours.order, 30_000).await;
    let find = async |of: &Paying, key: &str| {
        let key = key.parse().unwrap();
        let found = gateway::find(&gateway, &of.order_id(), Some(&key)).await;
        found.unwrap().payment_key.as_str().to_owned()
    };
    gateway.confirm(&ours.confirm()).await.unwrap();
    // The captured one, whichever is asked for.
    for key in [&ours.key, &latest.key] {
        assert_eq!(find(&ours, key).await, ours.key);
    }
    rig.switch(json!({"showLatest": true})).await;
    let shown = gateway.find_by_order(&ours.order_id()).await.unwrap();
    assert_eq!(shown.payment_key, latest.payment_key());
    assert_eq!(find(&ours, &ours.key).await, ours.key);
    // Neither a key that nobody has nor that of another order's payment.
    let other = rig.checkout(30_000).await;
    for key in ["tgen_none", &other.key] {
        assert_eq!(find(&ours, key).await, latest.key);
    }
    let nothing = gateway::find(&gateway, &ours.order_id(), None).await;
    assert_eq!(nothing, Ok(shown));

    // Nor does the one that is shown keep anything when all of it was given back.
    rig.switch(json!({"showLatest": false})).await;
    rig.cancel(&ours, 10_000, "some").await;
    assert_eq!(find(&ours, &latest.key).await, ours.key);
    rig.cancel(&ours, 20_000, "the-rest").await;
    assert_eq!(find(&ours, &latest.key).await, latest.key);
}

#[tokio::test]
async fn the_breaker_opens_and_heals() {
    let rig = Rig::start().await;
    let mut settings = rig.settings();
    (settings.breaker_failures, settings.breaker_open_ms) = (3, 300);
    let gateway = adapter(&settings);
    let paying = rig.checkout(20_000).await;
    let ask = || async {
        let error = gateway.find_by_key(&paying.payment_key()).await.err();
        error.map(|error| error.to_string())
    };
    let spared = "the gateway is not available (spared after failures)";
    rig.switch(json!({"unavailable": "all"})).await;
    for _ in 0..3 {
        assert_ne!(ask().await.unwrap(), spared);
    }
    assert_eq!(ask().await.unwrap(), spared);
    let error = gateway.confirm(&paying.confirm()).await.unwrap_err();
    assert!(error.nothing_moved(), "{error}");
    // A trial fails, and it opens again.
    let until = |wished: Option<&'static str>| {
        let ask = &ask;
        async move {
            let started = Instant::now();
            while ask().await.as_deref() == wished {
                assert!(started.elapsed() < Duration::from_secs(20));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    until(Some(spared)).await;
    assert_eq!(ask().await.unwrap(), spared);
    rig.switch(json!({"unavailable": 0})).await;
    until(Some(spared)).await;
    assert_eq!(ask().await, None);
    gateway.confirm(&paying.confirm()).await.unwrap();
    // What is declined, or not known, is no failure of the gateway.
    for _ in 0..5 {
        let declined = rig.checkout(20_001).await;
        assert_eq!(
            gateway
                .confirm(&declined.confirm())
                .await
                .unwrap_err()
                .kind(),
            "declined"
        );
    }
    assert_eq!(ask().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_book_is_read() {
    let rig = Rig::start().await;
    let gateway = rig.adapter();
    let since = host_now();
    let all: Vec<_> = join_all((0..130).map(|n| rig.checkout(1000 + 1000 * n))).await;
    join_all(
        all.iter()
            .map(async |paying| gateway.confirm(&paying.confirm()).await.unwrap()),
    )
    .await;
    let refund = all[0].cancel(400, Uuid::now_v7());
    let refunded = gateway.cancel(&refund).await.unwrap();
    let (mut book, mut after) = (Vec::new(), None);
    loop {
        let page = gateway
            .transactions(since, host_now(), after.as_ref())
            .await
            .unwrap();
        book.extend(page.transactions);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(book.len(), 131);
    for paying in &all {
        let captures = book.iter().filter(|entry| {
            entry.payment_key == paying.payment_key()
                && entry.order_id.uuid() == Some(paying.order)
                && entry.movement == Movement::Capture
                && entry.amount == Money::won(paying.amount)
        });
        assert_eq!(captures.count(), 1);
    }
    let last = book.last().unwrap();
    assert_eq!(
        (last.movement, last.amount),
        (Movement::Refund, Money::won(400))
    );
    assert_eq!(last.transaction_key, refunded.transaction_key);
    let before = since.plus_ms(-86_400_000);
    let page = gateway
        .transactions(before, since.plus_ms(-2000), None)
        .await
        .unwrap();
    assert_eq!((page.transactions, page.next), (vec![], None));
}
