//! The seat map as it is sent: in which forms, when not at all, and that it comes to what was
//! committed though nobody told.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{PATIENCE, SCHEDULE, start, until};
use flate2::read::GzDecoder;
use onsale_testkit::Api;
use reqwest::{Method, Response, StatusCode};
use std::io::Read;
use std::time::{Duration, Instant};

fn seats() -> String {
    format!("/schedules/{SCHEDULE}/seats")
}

/// GET by a client that accepts these codings.
async fn get(api: &Api, accepts: &str) -> Response {
    let request = api.request(Method::GET, &seats());
    let request = request.header("accept-encoding", accepts);
    api.open(request).await.unwrap()
}

/// A claim, as an owner commits it.
fn claim(seat: i32, version: i64) -> String {
    format!(
        "BEGIN; \
         WITH new AS (INSERT INTO reservation VALUES (gen_random_uuid(), '{SCHEDULE}', \
             gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '{{{seat}}}', 1, 4, 'HELD', \
             now(), now() + interval '1 hour', NULL) RETURNING *) \
         INSERT INTO seat_claim SELECT schedule_id, {seat}, reservation_id, 'H' FROM new; \
         UPDATE sale SET map_version = {version}; \
         COMMIT;"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_map_is_sent_compressed_to_who_takes_it_and_not_at_all_to_who_has_it() {
    let bench = start(&[]).await;
    bench
        .sql(&format!(
            "INSERT INTO seat SELECT '{SCHEDULE}', n, 'B', '1', n, 'R', 99000, n, 0 \
             FROM generate_series(6, 9999) AS n"
        ))
        .await;
    for refuses in ["identity", "gzip;q=0", "br"] {
        let answer = get(&bench.api, refuses).await;
        assert!(!answer.headers().contains_key("content-encoding"));
    }
    let plain = get(&bench.api, "").await;
    let packed = get(&bench.api, "br, gzip").await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    for name in ["etag", "vary", "cache-control", "content-type"] {
        assert_eq!(packed.headers()[name], plain.headers()[name], "{name}");
    }
    assert_eq!(plain.headers()["etag"], "W/\"0\"");
    let vary = plain.headers()["vary"].to_str().unwrap().to_owned();
    assert!(vary.contains("accept-encoding"), "{vary}");
    // It may be kept, and must be asked about.
    assert_eq!(plain.headers()["cache-control"], "no-cache");
    let (plain, packed) = (plain.bytes().await.unwrap(), packed.bytes().await.unwrap());
    assert!(packed.len() * 20 < plain.len(), "{} bytes", packed.len());
    let mut unpacked = Vec::new();
    GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain);

    for accepts in ["", "gzip"] {
        let has = |tag: &str| {
            let request = bench.api.request(Method::GET, &seats());
            let request = request.header("accept-encoding", accepts);
            request.header("if-none-match", tag)
        };
        let unchanged = bench.api.send(has("W/\"0\"")).await;
        assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
        assert!(unchanged.body.is_null());
        assert_eq!(unchanged.headers["etag"], "W/\"0\"");
        assert_eq!(unchanged.headers["cache-control"], "no-cache");
        assert_eq!(unchanged.headers["vary"].to_str().unwrap(), vary);
        let changed = bench.api.open(has("W/\"1\"")).await.unwrap();
        assert_eq!(changed.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_and_never_told_is_shown_all_the_same() {
    let bench = start(&[]).await;
    let shown = bench.api.get(None, &seats()).await.expect(200);
    assert_eq!(shown.body["seats"], "AAAAAA");
    let path = format!("/schedules/{SCHEDULE}/events");
    let mut stream = bench
        .api
        .open(bench.api.request(Method::GET, &path))
        .await
        .unwrap();
    // The owner dies after its commit; nobody tells anything from then on.
    for (seat, version, expected) in [(2, 1, "AAHAAA"), (0, 2, "HAHAAA")] {
        bench.sql(&claim(seat, version)).await;
        let committed = Instant::now();
        until("it is shown", || async {
            let shown = bench.api.get(None, &seats()).await.expect(200);
            shown.body["seats"] == expected && shown.body["version"] == version
        })
        .await;
        println!("shown after {:?}", committed.elapsed());
        assert!(
            committed.elapsed() < Duration::from_secs(5),
            "more than a second, and a busy machine"
        );
        let from = version - 1;
        let wanted = format!(
            "id: {version}\nevent: seats\n\
             data: {{\"from\":{from},\"version\":{version},\"changes\":[[{seat},\"H\"]]}}"
        );
        let mut told = String::new();
        while !told.contains(&wanted) {
            let chunk = tokio::time::timeout(PATIENCE, stream.chunk()).await;
            let chunk = chunk.expect(&told).unwrap().expect("it goes on");
            told.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
