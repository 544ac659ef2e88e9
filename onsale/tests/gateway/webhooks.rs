//! What the gateway tells: signed, at least once, and with every fault of a notification.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::receiver::Receiver;
use crate::rig::{Paying, Rig};

async fn paid(rig: &Rig, amount: i64) -> Paying {
    let paying = rig.checkout(amount).await;
    let answer = rig.confirm(&paying, &paying.order.to_string()).await;
    assert_eq!(answer.status, 200);
    paying
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_and_told_again_until_it_is_taken() {
    let receiver = Receiver::start().await;
    let rig = Rig::telling(Some(receiver.url())).await;
    let paying = paid(&rig, 12_000).await;
    rig.cancel(&paying, 2000, "r1").await;
    rig.cancel(&paying, 10_000, "r2").await;
    let mut told = receiver.of(&paying.key, 3).await;
    told.sort_by_key(|taken| taken.body["createdAt"].to_string());
    let statuses: Vec<_> = told.iter().map(|taken| taken.status()).collect();
    assert_eq!(statuses, ["DONE", "PARTIAL_CANCELED", "CANCELED"]);
    assert_eq!(told[0].body["data"]["orderId"], paying.order.to_string());
    assert_eq!(told[0].body["data"]["totalAmount"], 12_000);

    let declined = rig.checkout(12_001).await;
    rig.confirm(&declined, "d").await;
    assert_eq!(receiver.of(&declined.key, 1).await[0].status(), "ABORTED");

    receiver.refuse(3);
    let paying = paid(&rig, 13_000).await;
    assert_eq!(receiver.of(&paying.key, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_told_before_a_kill_is_told_after_it() {
    let receiver = Receiver::start().await;
    let mut rig = Rig::telling(Some(receiver.url())).await;
    receiver.refuse(usize::MAX);
    let paying = paid(&rig, 12_000).await;
    rig.gateway.kill9().await;
    receiver.refuse(0);
    assert!(receiver.taken().is_empty());
    rig.gateway.restart().await.unwrap();
    let told = receiver.of(&paying.key, 1).await;
    rig.cancel(&paying, 12_000, "r").await;
    let all = receiver.of(&paying.key, 2).await;
    assert_ne!(all[1].id, told[0].id);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_by_amount_and_by_switch() {
    let receiver = Receiver::start().await;
    let rig = Rig::telling(Some(receiver.url())).await;
    let thrice = paid(&rig, 12_007).await;
    let told = receiver.of(&thrice.key, 3).await;
    assert!(told.iter().all(|taken| taken.id == told[0].id), "{told:?}");

    let (begun, late) = (Instant::now(), paid(&rig, 12_008).await);
    // Lost: what is told after it shows that it does not come.
    let lost = paid(&rig, 12_010).await;
    let reordered = paid(&rig, 12_009).await;
    rig.cancel(&reordered, 12_009, "r").await;
    let told = receiver.of(&reordered.key, 2).await;
    let statuses: Vec<_> = told.iter().map(|taken| taken.status()).collect();
    assert_eq!(statuses, ["CANCELED", "DONE"]);
    let told = receiver.of(&late.key, 1).await;
    assert!(told[0].at - begun >= Duration::from_secs(3));

    rig.switch(json!({"webhookCopies": 2})).await;
    let twice = paid(&rig, 12_000).await;
    receiver.of(&twice.key, 2).await;
    rig.switch(json!({"webhookCopies": 1, "lateWebhooksMs": 300}))
        .await;
    let (begun, late) = (Instant::now(), paid(&rig, 12_000).await);
    let told = receiver.of(&late.key, 1).await;
    assert!(told[0].at - begun >= Duration::from_millis(300));
    rig.switch(json!({"lateWebhooksMs": 0, "loseWebhooks": 1}))
        .await;
    let gone = paid(&rig, 12_000).await;
    rig.switch(json!({"reorderWebhooks": true})).await;
    let reordered = paid(&rig, 12_000).await;
    rig.cancel(&reordered, 12_000, "r").await;
    let told = receiver.of(&reordered.key, 2).await;
    assert_eq!(told[0].status(), "CANCELED");
    let all = receiver.taken();
    assert!(
        all.iter()
            .all(|taken| taken.payment() != lost.key && taken.payment() != gone.key)
    );
}
