//! The demo plays on a real system, again and again and several at once, and says what is off.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use diesel_async::SimpleAsyncConnection;
use onsale::audit;
use onsale::demo::{self, Options};
use onsale::seed;
use onsale_platform::db;
use onsale_testkit::ports;
use onsale_testkit::system::{System, SystemOptions};
use std::time::Duration;

async fn seeded(options: SystemOptions) -> (System, Options) {
    let system = System::start(options.workers(2)).await.unwrap();
    seed::seed(system.db.url(), |_| {}).await.unwrap();
    let options = Options {
        api: system.url(0),
        gateway: system.gateway_url(),
        audit: Some(
            audit::Options::new(system.db.url()).with_nats(&system.nats_url, &system.prefix),
        ),
    };
    // The ingress was there before the demo's data: it sees them within a moment.
    let concert = format!(
        "{}/api/v1/schedules/{}",
        system.url(0),
        seed::catalogue::CLUB
    );
    let seen = async {
        while reqwest::get(&concert).await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen)
        .await
        .expect("the seeded dates are served");
    (system, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_plays_again_and_again_and_several_at_once() {
    let (system, options) = seeded(SystemOptions::default().gateway()).await;
    demo::play(&options).await.unwrap();
    let (a, b, c) = tokio::join!(
        demo::play(&options),
        demo::play(&options),
        demo::play(&options)
    );
    a.and(b).and(c).unwrap();

    let mut conn = db::connect(system.db.url()).await.unwrap();
    conn.batch_execute(
        "DO $$ BEGIN
             ASSERT (SELECT count(*) FROM payment WHERE method = 'POINTS' AND status = 'PAID') = 4;
             ASSERT (SELECT count(*) FROM payment_order
                     WHERE status = 'PAID' AND reservation_id IS NOT NULL) = 4;
             ASSERT (SELECT count(*) FROM payment_order
                     WHERE status = 'PAID' AND reservation_id IS NULL) = 4;
             ASSERT (SELECT count(*) FROM refund WHERE status = 'DONE') = 8;
             ASSERT (SELECT count(*) FROM reservation WHERE status = 'CANCELLED') = 4;
             ASSERT (SELECT count(*) FROM seat_claim WHERE state = 'S') = 12;
             ASSERT (SELECT count(*) FROM reservation WHERE status = 'EXPIRED') = 4;
         END $$",
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fails_with_what_is_off() {
    let port = ports::free().unwrap();
    let nowhere = Options {
        api: format!("http://127.0.0.1:{port}"),
        gateway: None,
        audit: None,
    };
    let error = format!("{:#}", demo::play(&nowhere).await.unwrap_err());
    assert!(error.contains("nobody answers"), "{error}");

    let (system, options) = seeded(SystemOptions::default()).await;
    let mut conn = db::connect(system.db.url()).await.unwrap();
    conn.batch_execute("INSERT INTO account VALUES ('00000000-0000-0000-0000-000000000001', 5)")
        .await
        .unwrap();
    let error = format!("{:#}", demo::play(&options).await.unwrap_err());
    assert!(error.contains("violated: L1"), "{error}");
    let without_audit = Options {
        audit: None,
        ..options.clone()
    };
    demo::play(&without_audit).await.unwrap();

    conn.batch_execute("UPDATE app_user SET password_hash = 'x'")
        .await
        .unwrap();
    let error = format!("{:#}", demo::play(&options).await.unwrap_err());
    assert!(error.contains("can't sign in"), "{error}");
}
