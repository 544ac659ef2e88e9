//! A webhook subscriber that is changed while it is served: what becomes of an attempt that is on its
//! way says nothing of the new address, and a secret that others know signs nothing more.

use crate::hall::Hall;
use crate::receiver::{Answers, Receiver};
use crate::webhooks::{patch, published, subscribe, until_shown};
use onsale_testkit::SystemOptions;
use onsale_testkit::api::text;
use serde_json::json;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_the_old_address_is_none_of_the_new_one() {
    // One failure would be the end.
    let options = SystemOptions::default()
        .setting("ONSALE_WEBHOOK_ATTEMPTS_MAX", 1)
        .setting("ONSALE_WEBHOOK_TIMEOUT_MS", 1500);
    let mut hall = Hall::open_with(options).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(4).await;
    let silent = Receiver::start(Answers::Never).await;
    let good = Receiver::start(Answers::Status(204)).await;
    let subscription = subscribe(&api, &admin, &silent.url()).await;
    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    silent.until("an attempt", |got| got.len() == 1).await;
    let path = subscription.path();
    patch(&api, &admin, &path, &json!({ "url": good.url() })).await;

    let got = good.until("the same fact", |got| !got.is_empty()).await;
    assert_eq!(got[0].delivery(), silent.received()[0].delivery());
    let one = until_shown(&api, &admin, &path, |one| one["sequence"] == 1).await;
    assert_eq!(one["state"], "ACTIVE");
    assert!(one.get("failure").is_none(), "{one}");
    // It is remembered all the same.
    assert_eq!(one["attempts"][1]["error"], "no answer in time");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_what_was_read_goes_to_the_new_address() {
    let mut hall = Hall::open().await;
    let (api, admin, buyers) = (hall.api.clone(), hall.admin(), hall.buyers(12));
    let date = hall.date(12).await;
    let old = Receiver::start(Answers::Status(410)).await;
    let new = Receiver::start(Answers::Status(204)).await;
    let subscription = subscribe(&api, &admin, &old.url()).await;
    let path = subscription.path();
    for (seat, buyer) in (1..).zip(&buyers) {
        let label = format!("A-1-{seat}");
        api.hold(buyer, date, &[&label]).await.expect(201);
    }
    let all = published(&mut hall).await;
    until_shown(&api, &admin, &path, |one| one["state"] == "DEAD").await;
    old.answer(Answers::Late(60));
    let before = old.received().len();
    patch(&api, &admin, &path, &json!({ "state": "ACTIVE" })).await;
    old.until("the first", |got| got.len() > before).await;
    patch(&api, &admin, &path, &json!({ "url": new.url() })).await;
    let at_change = old.received().len();

    let sequence = i64::try_from(all.len()).expect("few");
    until_shown(&api, &admin, &path, |one| one["sequence"] == sequence).await;
    let (to_old, to_new) = (old.received(), new.received());
    // At most one more was on its way.
    assert!(
        to_old.len() <= at_change + 1,
        "{at_change}, {}",
        to_old.len()
    );
    // What the old one took, the new one does not get again.
    let taken = to_old.len() - before;
    assert_eq!(taken + to_new.len(), all.len());
    let ids: BTreeSet<_> = to_old
        .iter()
        .chain(&to_new)
        .map(|one| one.delivery().id)
        .collect();
    assert_eq!(ids, all.into_iter().collect());
    let sequences: Vec<i64> = to_new.iter().map(|one| one.delivery().sequence).collect();
    let first = i64::try_from(taken).expect("few") + 1;
    assert_eq!(sequences, (first..=sequence).collect::<Vec<_>>());
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_repetition_makes_no_secret_and_a_leaked_one_ends_at_once() {
    let mut hall = Hall::open().await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(4).await;
    let receiver = Receiver::start(Answers::Status(204)).await;
    let subscription = subscribe(&api, &admin, &receiver.url()).await;
    let path = format!("{}/secret", subscription.path());
    let rotate =
        async |key: &str, body: serde_json::Value| api.post(&admin, &path, key, &body).await;

    let first = rotate("the-first-rotation", json!({}))
        .await
        .expect(200)
        .body;
    let leaked = text(&first["secret"]).to_owned();
    assert!(first["previousSecretUntil"].is_string(), "{first}");
    let at_once = json!({ "overlapSeconds": 0 });
    let second = rotate("the-second-rotation", at_once.clone())
        .await
        .expect(200)
        .body;
    let secret = text(&second["secret"]).to_owned();
    assert!(second.get("previousSecretUntil").is_none(), "{second}");
    let again = rotate("the-second-rotation", at_once)
        .await
        .expect(200)
        .body;
    assert_eq!(again["secret"], second["secret"]);

    let late = rotate("the-first-rotation", json!({}))
        .await
        .expect(200)
        .body;
    assert!(late.get("secret").is_none(), "{late}");
    let other = rotate("the-second-rotation", json!({})).await;
    other.expect_problem(422, "idempotency-key-reused");
    let long = rotate("a-third-rotation", json!({ "overlapSeconds": 2_592_001 })).await;
    let refused = long.expect_problem(422, "validation-failed").body;
    assert_eq!(refused["errors"][0]["pointer"], "/overlapSeconds");

    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let got = receiver.until("a fact", |got| got.len() == 1).await;
    assert_eq!(got[0].verify(&secret), Ok(()));
    for gone in [&leaked, &subscription.secret] {
        assert!(got[0].verify(gone).is_err());
    }
}
