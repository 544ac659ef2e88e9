//! Facts over HTTPS: to who proves to be the host of the address by an authority that the operator
//! trusts, and to nobody else.

use crate::hall::{Hall, PATIENCE};
use crate::receiver::{Answers, Receiver};
use crate::webhooks::{published, subscribe};
use onsale_testkit::tls::Authority;
use onsale_testkit::{Scratch, SystemOptions};
use serde_json::Value;
use std::time::Duration;

/// Waits until a subscriber has failed; why it did last.
async fn failure(hall: &Hall, id: uuid::Uuid) -> String {
    let (path, admin) = (format!("/admin/webhooks/{id}"), hall.admin());
    let mut shown = Value::Null;
    let failed = tokio::time::timeout(PATIENCE, async {
        loop {
            shown = hall.api.get(Some(&admin), &path).await.expect(200).body;
            if let Some(error) = shown["attempts"][0]["error"].as_str() {
                return error.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    failed.await.unwrap_or_else(|_| panic!("{shown}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_with_https_is_verified_by_the_operators_authorities() {
    let scratch = Scratch::new("webhooks").expect("a folder");
    let ours = Authority::make(&scratch.path().join("ours")).expect("an authority");
    let other = Authority::make(&scratch.path().join("other")).expect("an authority");
    let options = SystemOptions::default()
        .setting("ONSALE_WEBHOOK_CA", ours.file().display())
        .setting("ONSALE_WEBHOOK_RETRY_MIN_MS", 40);
    let mut hall = Hall::open_with(options).await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let certified = async |by: &Authority, host: &str| {
        let pem = by.issue(host).expect("a certificate");
        Receiver::start_tls(&pem, Answers::Status(204)).await
    };
    let right = certified(&ours, "127.0.0.1").await;
    let untrusted = certified(&other, "127.0.0.1").await;
    let elsewhere = certified(&ours, "elsewhere.example").await;
    let plain = Receiver::start(Answers::Status(204)).await;
    let to_right = subscribe(&api, &admin, &right.url()).await;
    let mut refused = Vec::new();
    for (url, why) in [
        (untrusted.url(), "UnknownIssuer"),
        (elsewhere.url(), "not valid for name"),
        (plain.url().replace("http:", "https:"), "TLS"),
    ] {
        refused.push((subscribe(&api, &admin, &url).await.id, why));
    }

    let date = hall.date(2).await;
    api.hold(&hall.buyer(), date, &["A-1-1"]).await.expect(201);
    let all = published(&mut hall).await;
    let received = right
        .until("all facts", |received| received.len() >= all.len())
        .await;
    let ids = received.iter().map(|one| {
        one.verify(&to_right.secret).expect("it is signed");
        one.delivery().id
    });
    assert_eq!(ids.collect::<Vec<_>>(), all);
    for (id, why) in refused {
        let error = failure(&hall, id).await;
        assert!(error.contains("TLS") && error.contains(why), "{error}");
    }
    for silent in [untrusted, elsewhere, plain] {
        assert!(silent.received().is_empty());
    }
    hall.assert_sound().await;
}
