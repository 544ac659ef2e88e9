//! Requests that no client sends: real ones with damaged bytes, as they come from the wire. Whatever
//! it is, it is answered with what the client did wrong, or not at all; never with a fault of ours,
//! and the next request is served.

mod common;

use common::{Bench, SCHEDULE, start};
use futures_util::StreamExt;
use futures_util::stream;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many requests are tried, and how many at once.
const REQUESTS: usize = 2000;
const AT_ONCE: usize = 48;

/// Bytes that mean something to somebody on the way.
const TELLING: &[&str] = &[
    "\r\n",
    "\r\n\r\n",
    "\0",
    "%00",
    "%ff",
    "..",
    "//",
    "?",
    "&cursor=",
    "&limit=-1",
    "\"",
    "{",
    "[",
    "null",
    "-1",
    "1e999",
    "99999999999999999999",
    "\u{2603}",
    "\\ud800",
    ",",
    ";",
    " ",
    "\t",
    "Bearer ",
    "*",
    "W/\"",
    "chunked",
    "18446744073709551615",
    "[[[[[[[[[[[[[[[[",
];

/// A damage: a place as a share of the length, how many bytes go there, and what comes.
type Damage = (f64, usize, Vec<u8>);

fn damage() -> impl Strategy<Value = Damage> {
    let new = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(TELLING).prop_map(|text| text.as_bytes().to_vec()),
        (any::<u8>(), 1..3000usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    (0.0..1.0f64, 0..6usize, new)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for (share, gone, new) in damages {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in some hundred bytes"
        )]
        let at = (share * bytes.len() as f64) as usize;
        let end = bytes.len().min(at + gone);
        bytes.splice(at..end, new.iter().copied());
    }
    bytes
}

/// A request as its bytes, with all headers that we read.
fn request(line: &str, token: &str, body: &str) -> Vec<u8> {
    let mut text = format!(
        "{line} HTTP/1.1\r\nhost: onsale\r\nauthorization: Bearer {token}\r\n\
         idempotency-key: fuzz-0123456789\r\nprefer: wait=0\r\nif-none-match: W/\"1\"\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         accept: application/json\r\nx-forwarded-for: 192.0.2.1\r\nconnection: close\r\n"
    );
    if !body.is_empty() {
        let length = body.len();
        text.push_str("content-type: application/json\r\n");
        text.push_str(&format!("content-length: {length}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

fn requests(token: &str) -> Vec<Vec<u8>> {
    let amount = r#"{"amount":{"amount":50000,"currency":"KRW"},"method":"CARD"}"#;
    let hold = format!(r#"{{"scheduleId":"{SCHEDULE}","seats":["A-1-1","A-1-2"]}}"#);
    let pay = format!(r#"{{"reservationId":"{SCHEDULE}","method":"POINTS"}}"#);
    let account = r#"{"email":"a@example.com","name":"김","password":"long enough"}"#;
    let session = r#"{"email":"a@example.com","password":"long enough"}"#;
    let seats = format!("GET /api/v1/schedules/{SCHEDULE}/seats");
    let layout = format!("GET /api/v1/schedules/{SCHEDULE}/layout?hash=hash-1");
    let one = format!("GET /api/v1/reservations/{SCHEDULE}");
    let release = format!("DELETE /api/v1/reservations/{SCHEDULE}");
    [
        ("POST /api/v1/users", account),
        ("POST /api/v1/sessions", session),
        (
            "POST /api/v1/sessions/refresh",
            r#"{"refreshToken":"AAAA"}"#,
        ),
        ("POST /api/v1/users/me/points/charges", amount),
        ("POST /api/v1/reservations", &hold),
        ("POST /api/v1/payments", &pay),
        (
            "GET /api/v1/users/me/points/history?limit=3&cursor=AAAA",
            "",
        ),
        (
            "GET /api/v1/concerts?query=%EC%95%84&from=2027-01-01&bookable=true&limit=5",
            "",
        ),
        ("GET /api/v1/commands/AgAAAAAA", ""),
        ("GET /api/v1/reservations?cursor=AAAA", ""),
        (&seats, ""),
        (&layout, ""),
        (&one, ""),
        (&release, ""),
    ]
    .map(|(line, body)| request(line, token, body))
    .into()
}

/// The status of the answer, if there is one.
async fn status(addr: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    // It may have answered, and closed, before all was sent.
    drop(stream.write_all(request).await);
    let mut answer = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut answer).await {}
    let head = answer.strip_prefix(b"HTTP/1.")?;
    std::str::from_utf8(head.get(2..5)?).ok()?.parse().ok()
}

async fn is_served(bench: &Bench) -> bool {
    status(
        bench.addr,
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await
        == Some(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_requests_are_never_our_fault() {
    let bench = start(&[
        "--request-timeout-ms=20",
        "--body-timeout-ms=200",
        "--header-timeout-ms=200",
        "--first-request-timeout-ms=200",
    ])
    .await;
    let token = bench.api.buyer().await.token;
    let valid = requests(&token);
    for request in &valid {
        let status = status(bench.addr, request).await.expect("an answer");
        let told = String::from_utf8_lossy(request);
        assert!((200..500).contains(&status), "{status}: {told}");
    }

    let seed: [u8; 32] = match std::env::var("ONSALE_FUZZ_SEED") {
        Ok(text) => text.parse::<u64>().map(seed_of).expect("a number"),
        Err(_) => seed_of(u64::from(std::process::id())),
    };
    println!(
        "ONSALE_FUZZ_SEED={}",
        u64::from_le_bytes(seed[..8].try_into().expect("8 bytes"))
    );
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let any_damage = prop::collection::vec(damage(), 1..5);
    let which = 0..valid.len();
    let tried =
        (which, any_damage).prop_map(|(which, damages)| damaged(valid[which].clone(), &damages));
    let requests: Vec<Vec<u8>> = (0..REQUESTS)
        .map(|_| {
            tried
                .new_tree(&mut runner)
                .expect("nothing is filtered")
                .current()
        })
        .collect();

    let addr = bench.addr;
    let answers: Vec<(Option<u16>, Vec<u8>)> = stream::iter(requests)
        .map(|request| async move { (status(addr, &request).await, request) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut turned_away = 0;
    for (status, request) in &answers {
        let told = String::from_utf8_lossy(request);
        match status {
            // A busy machine may keep Postgres from answering in time.
            Some(503) => turned_away += 1,
            Some(status) => assert!(*status < 500, "{status}: {told}"),
            None => {}
        }
    }
    assert!(
        turned_away < REQUESTS / 100,
        "{turned_away} were turned away"
    );
    let kinds: std::collections::BTreeSet<_> = answers.iter().filter_map(|(s, _)| *s).collect();
    assert!(kinds.len() > 5, "nearly all the same: {kinds:?}");
    assert!(is_served(&bench).await);
}

fn seed_of(number: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}
