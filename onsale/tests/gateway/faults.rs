//! Every fault, by amount and by switch: what it does to the answer, and what to the money.

use std::time::{Duration, Instant};

use onsale_testkit::gateway::AMOUNT_CODES;
use onsale_workers::gateway::Gateway;
use serde_json::json;
use uuid::Uuid;

use crate::rig::{Paying, Rig, adapter};

/// Asks with a short patience; `None` when there is no answer.
async fn confirm_briefly(rig: &Rig, paying: &Paying) -> Option<(u16, String)> {
    let key = paying.order.to_string();
    let answer = tokio::time::timeout(Duration::from_millis(400), rig.confirm(paying, &key)).await;
    answer.ok().map(|answer| owned(answer.said()))
}

fn owned((status, word): (u16, &str)) -> (u16, String) {
    (status, word.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_by_amount() {
    let rig = Rig::start().await;
    let done = || Some((200, "DONE".to_owned()));
    let said = |status, word: &str| Some((status, word.to_owned()));
    let failed = || said(500, "FAILED_INTERNAL_SYSTEM_PROCESSING");
    // (code, what it says first, how it is then, what it says to the same again)
    for (code, first, is_captured, again) in [
        (0, done(), true, done()),
        (
            1,
            said(403, "REJECT_CARD_COMPANY"),
            false,
            said(403, "REJECT_CARD_COMPANY"),
        ),
        (2, None, true, done()),
        (3, None, false, done()),
        (4, failed(), false, done()),
        (5, failed(), true, done()),
        (
            14,
            said(503, "SERVICE_UNAVAILABLE"),
            false,
            said(503, "SERVICE_UNAVAILABLE"),
        ),
    ] {
        let paying = rig.checkout(30_000 + code).await;
        assert_eq!(confirm_briefly(&rig, &paying).await, first, "{code}");
        if is_captured {
            rig.until(&paying, "DONE").await;
        } else {
            assert_ne!(rig.find(&paying).await.said().1, "DONE", "{code}");
        }
        assert_eq!(confirm_briefly(&rig, &paying).await, again, "{code}");
        let captures = usize::from(again == done());
        assert_eq!(rig.moved(&paying).await.len(), captures, "{code}");
    }
    // Late: whoever asked has long gone when it is captured.
    let paying = rig.checkout(30_006).await;
    assert_eq!(confirm_briefly(&rig, &paying).await, None);
    assert_eq!(rig.find(&paying).await.said().1, "IN_PROGRESS");
    let meanwhile = confirm_briefly(&rig, &paying).await;
    assert_eq!(meanwhile, said(409, "IDEMPOTENT_REQUEST_PROCESSING"));
    rig.until(&paying, "DONE").await;
    assert_eq!(confirm_briefly(&rig, &paying).await, done());
    assert_eq!(rig.moved(&paying).await.len(), 1);
}

#[tokio::test]
async fn refunds_by_amount() {
    let rig = Rig::start().await;
    for (code, first, refunds) in [(11, Some(503), 0), (12, Some(403), 0), (13, None, 1)] {
        let paying = rig.checkout(30_000 + code).await;
        assert_eq!(
            rig.confirm(&paying, &paying.order.to_string()).await.status,
            200
        );
        let cancel =
            || tokio::time::timeout(Duration::from_millis(400), rig.cancel(&paying, 5000, "r"));
        assert_eq!(
            cancel().await.ok().map(|answer| answer.status),
            first,
            "{code}"
        );
        assert_eq!(rig.moved(&paying).await.len(), 1 + refunds, "{code}");
        if code != 12 {
            while cancel().await.unwrap().status != 200 {}
            assert_eq!(rig.moved(&paying).await.len(), 2, "{code}");
        }
    }
}

#[tokio::test]
async fn switches_befall_everybody() {
    let rig = Rig::start().await;
    let done = Some((200, "DONE".to_owned()));
    for (switch, first) in [
        (json!({"decline": 1}), Some(403)),
        (json!({"error": 1}), Some(500)),
        (json!({"unavailable": 1}), Some(503)),
        (json!({"timeoutAfterCapture": 1}), None),
        (json!({"timeoutBeforeCapture": 1}), None),
    ] {
        let (befallen, spared) = (rig.checkout(7000).await, rig.checkout(7000).await);
        rig.switch(switch.clone()).await;
        let found = confirm_briefly(&rig, &befallen).await;
        assert_eq!(found.map(|(status, _)| status), first, "{switch}");
        assert_eq!(confirm_briefly(&rig, &spared).await, done, "{switch}");
    }
    let paying = rig.checkout(7000).await;
    rig.confirm(&paying, "k").await;
    for (switch, key, status) in [
        (json!({"refundFailure": 2}), "r", 503),
        (json!({}), "r", 503),
        (json!({"refundDecline": 1}), "r", 403),
        // It says the same again for as long as it knows the key.
        (json!({}), "r", 403),
        (json!({}), "s", 200),
        (json!({"forgetKeys": 1}), "s", 200),
        (json!({}), "s", 200),
    ] {
        rig.switch(switch).await;
        assert_eq!(rig.cancel(&paying, 1000, key).await.status, status);
    }
    assert_eq!(
        rig.moved(&paying).await.len(),
        3,
        "once more where the key was forgotten"
    );
    rig.switch(json!({"slowMs": 300, "decline": "all"})).await;
    let started = Instant::now();
    for _ in 0..2 {
        let paying = rig.checkout(7000).await;
        let key = paying.order.to_string();
        assert_eq!(rig.confirm(&paying, &key).await.status, 403);
    }
    assert!(started.elapsed() >= Duration::from_millis(600));
    let reset = reqwest::Client::new().delete(format!("{}/switches", rig.url()));
    assert_eq!(reset.send().await.unwrap().status(), 204);
    let paying = rig.checkout(7000).await;
    assert_eq!(confirm_briefly(&rig, &paying).await, done);
}

/// What the help and the page say is what there is.
#[test]
fn every_fault_is_documented() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_onsale"))
        .args(["gateway", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    for (code, what) in AMOUNT_CODES {
        assert!(
            help.contains(&format!("{code:03}  {what}")),
            "{code} in {help}"
        );
        assert!(page.contains(&format!("| {code:03} | {what} |")), "{code}");
    }
    for name in [
        "timeoutAfterCapture",
        "forgetKeys",
        "loseWebhooks",
        "showLatest",
    ] {
        assert!(help.contains(name) && page.contains(name), "{name}");
    }
}

/// A gateway that heals by itself: what is asked often enough with the same key is done once.
#[tokio::test(flavor = "multi_thread")]
async fn the_adapter_gets_through_what_heals() {
    let rig = Rig::start().await;
    let mut settings = rig.settings();
    (settings.timeout_ms, settings.attempts) = (300, 3);
    let adapter = adapter(&settings);
    for code in [2, 3, 4, 5, 14, 15, 16] {
        let paying = rig.checkout(60_000 + code).await;
        let payment = adapter.confirm(&paying.confirm()).await.unwrap();
        assert_eq!(payment.total.to_won(), paying.amount);
        assert_eq!(rig.moved(&paying).await.len(), 1, "{code}");
    }
    for code in [11, 13, 17] {
        let paying = rig.checkout(60_000 + code).await;
        adapter.confirm(&paying.confirm()).await.unwrap();
        let refund = paying.cancel(20_000, Uuid::now_v7());
        let refunded = adapter.cancel(&refund).await.unwrap();
        assert_eq!(refunded.amount, refund.amount);
        assert_eq!(rig.moved(&paying).await.len(), 2, "{code}");
    }
}
