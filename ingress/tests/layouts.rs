//! Layouts: what is read, and what is not read at all; and how large answers are sent.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{CONCERT, SCHEDULE, start, until};
use flate2::read::GzDecoder;
use onsale_testkit::Api;
use reqwest::{Method, Response};
use std::io::Read;
use tokio::task::JoinSet;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_date_takes_no_turn_of_those_that_there_are() {
    let bench = start(&[]).await;
    let buyer = bench.api.buyer().await;
    bench
        .sql(&format!(
            "INSERT INTO schedule (schedule_id, concert_id, starts_at, layout_hash) \
             SELECT gen_random_uuid(), '{CONCERT}', now(), n::text FROM generate_series(1, 8) AS n; \
             INSERT INTO sale (schedule_id, booking_opens_at, booking_closes_at, hold_ms, \
                               seats_per_user) \
             SELECT schedule_id, now(), now() + interval '1 day', 1000, 4 FROM schedule \
             WHERE layout_hash < 'a'"
        ))
        .await;
    let dates = bench
        .text("SELECT string_agg(schedule_id::text, ',') FROM schedule WHERE layout_hash < 'a'")
        .await;
    // Nobody can read seats; who tries gives up after two seconds.
    let mut locker = onsale_platform::db::connect(bench.db.url()).await.unwrap();
    let lock = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; LOCK TABLE seat";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut locker, lock)
        .await
        .unwrap();
    let mut loads = JoinSet::new();
    for date in dates.split(',') {
        let (api, path) = (bench.api.clone(), format!("/schedules/{date}/layout"));
        loads.spawn(async move { api.get(None, &path).await });
    }
    let waiting = "SELECT (count(*) = 4)::text FROM pg_locks \
                   WHERE NOT granted AND relation = 'seat'::regclass \
                     AND database = (SELECT oid FROM pg_database \
                                     WHERE datname = current_database())";
    until("all turns are taken", || async {
        bench.text(waiting).await == "true"
    })
    .await;
    let missing = bench.api.hold(&buyer, Uuid::now_v7(), &["A-1-1"]).await;
    missing.expect_problem(404, "not-found");
    let mut ended = 0;
    while loads.try_join_next().is_some() {
        ended += 1;
    }
    assert!(ended < 8, "it has waited for all of them");
    drop(locker);
}

/// GET by a client that accepts these codings.
async fn get(api: &Api, path: &str, accepts: Option<&str>) -> Response {
    let mut request = api.request(Method::GET, path);
    if let Some(accepts) = accepts {
        request = request.header("accept-encoding", accepts);
    }
    api.open(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_gzip_gets_it_and_nobody_else() {
    let bench = start(&[]).await;
    let layout = format!("/schedules/{SCHEDULE}/layout");
    for path in [
        &layout,
        "//docs/swagger-ui-bundle.js",
        "//docs/swagger-ui.css",
    ] {
        let plain = get(&bench.api, path, None).await;
        let (etag, vary) = (
            plain.headers().get("etag").cloned(),
            &plain.headers()["vary"],
        );
        assert!(vary.to_str().unwrap().contains("accept-encoding"), "{path}");
        let plain = plain.bytes().await.unwrap();
        for refuses in ["identity", "gzip;q=0", ""] {
            let answer = get(&bench.api, path, Some(refuses)).await;
            assert!(!answer.headers().contains_key("content-encoding"));
            assert_eq!(answer.bytes().await.unwrap(), plain, "{path}");
        }
        let packed = get(&bench.api, path, Some("br, gzip")).await;
        assert_eq!(packed.headers()["content-encoding"], "gzip", "{path}");
        assert!(
            packed.headers()["vary"]
                .to_str()
                .unwrap()
                .contains("accept-encoding")
        );
        let packed_etag = packed.headers().get("etag").cloned();
        let packed = packed.bytes().await.unwrap();
        let mut read = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut read).unwrap();
        assert!(read == plain, "{path}");
        // A tag names bytes; who has either form has the layout.
        if path == layout {
            assert_ne!(etag, packed_etag);
            for etag in [etag, packed_etag] {
                let request = bench.api.request(Method::GET, path);
                let request = request.header("if-none-match", etag.unwrap());
                let _ = bench.api.send(request).await.expect(304);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_document_keeps_no_token() {
    let bench = start(&[]).await;
    let script = get(&bench.api, "//docs/start.js", None).await;
    let script = script.text().await.unwrap();
    assert!(script.contains("persistAuthorization: false"), "{script}");
}
