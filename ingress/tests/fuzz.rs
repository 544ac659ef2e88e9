//! Requests that no client sends: real ones with damaged bytes, as they come from the wire. Whatever
//! it is, it is answered with what the client did wrong, or not at all; never with a fault of ours nor
//! with what the document does not promise, and the next request is served.

mod common;

use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use common::{Bench, CONCERT, SCHEDULE, start};
use futures_util::StreamExt;
use futures_util::stream;
use onsale_testkit::contract::{CONTRACT, Exchange};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeSet;
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

/// What a body is.
const JSON: &str = "application/json";
const CSV: &str = "text/csv";

/// A request as its bytes, with all headers that we read.
fn request(line: &str, token: &str, (kind, body): (&str, &str)) -> Vec<u8> {
    let accept = match line.contains("/events") {
        true => "text/event-stream",
        false => JSON,
    };
    let mut text = format!(
        "{line} HTTP/1.1\r\nhost: onsale\r\nauthorization: Bearer {token}\r\n\
         idempotency-key: fuzz-0123456789\r\nprefer: wait=0\r\nif-none-match: W/\"1\"\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
         last-event-id: 0\r\naccept: {accept}\r\nx-forwarded-for: 192.0.2.1\r\n\
         connection: close\r\n"
    );
    if !body.is_empty() {
        let length = body.len();
        text.push_str(&format!("content-type: {kind}\r\n"));
        text.push_str(&format!("content-length: {length}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// Of somebody who buys.
fn requests(token: &str) -> Vec<Vec<u8>> {
    let amount = r#"{"amount":{"amount":50000,"currency":"KRW"},"method":"CARD"}"#;
    let hold = format!(r#"{{"scheduleId":"{SCHEDULE}","seats":["A-1-1","A-1-2"]}}"#);
    let pay = format!(r#"{{"reservationId":"{SCHEDULE}","method":"POINTS"}}"#);
    let account = r#"{"email":"a@example.com","name":"김","password":"long enough"}"#;
    let session = r#"{"email":"a@example.com","password":"long enough"}"#;
    let date = format!("GET /api/v1/schedules/{SCHEDULE}");
    let seats = format!("{date}/seats");
    let layout = format!("{date}/layout?hash=hash-1");
    let events = format!("{date}/events");
    let own_events = format!("{events}?token=AAAA&lastEventId=1");
    let concert = format!("GET /api/v1/concerts/{CONCERT}");
    let dates = format!("{concert}/schedules");
    let one = format!("GET /api/v1/reservations/{SCHEDULE}");
    let release = format!("DELETE /api/v1/reservations/{SCHEDULE}");
    let payment = format!("GET /api/v1/payments/{SCHEDULE}");
    [
        ("POST /api/v1/users", account),
        ("POST /api/v1/sessions", session),
        (
            "POST /api/v1/sessions/refresh",
            r#"{"refreshToken":"AAAA"}"#,
        ),
        ("POST /api/v1/sessions/revoke", r#"{"refreshToken":"AAAA"}"#),
        ("GET /api/v1/users/me", ""),
        ("POST /api/v1/stream-tokens", ""),
        ("POST /api/v1/users/me/points/charges", amount),
        ("POST /api/v1/reservations", &hold),
        ("POST /api/v1/payments", &pay),
        ("GET /api/v1/payments?limit=2", ""),
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
        (&concert, ""),
        (&dates, ""),
        (&date, ""),
        (&seats, ""),
        (&layout, ""),
        (&events, ""),
        (&own_events, ""),
        (&one, ""),
        (&release, ""),
        (&payment, ""),
    ]
    .map(|(line, body)| request(line, token, (JSON, body)))
    .into()
}

/// Of somebody who administers.
fn admin_requests(token: &str) -> Vec<Vec<u8>> {
    let concert = r#"{"title":"봄","artist":"a","venue":"v","description":"d\n",
        "startsOn":"2027-05-01","endsOn":"2027-05-02"}"#;
    let concert_patch = r#"{"title":"여름","startsOn":"2027-04-30"}"#;
    let date = r#"{"startsAt":"2027-05-01T10:00:00.000Z","bookingOpensAt":"2026-01-01T00:00:00Z",
        "bookingClosesAt":"2027-05-01T10:00:00+09:00","saleState":"PAUSED","holdSeconds":300,
        "seatsPerUser":4}"#;
    let policy = r#"{"saleState":"OPEN","bookingOpensAt":"2026-01-01T00:00:00.000Z",
        "holdSeconds":60,"seatsPerUser":2}"#;
    let moved = r#"{"startsAt":"2027-05-01T11:00:00.000Z"}"#;
    let seat = r#"{"number":1,"grade":"VIP","price":{"amount":150000,"currency":"KRW"}"#;
    let layout = format!(
        r#"{{"sections":[{{"name":"A","rows":[{{"name":"1","seats":[{seat},"x":-1.5,"y":4e0}},
        {seat}}}]}}]}}]}}"#
    );
    let csv = "\u{feff}section,row,number,grade,price\r\nA,1,1,VIP,150000\r\n\r\nB,\"2\",1, R ,0\n";
    let edit_concert = format!("PATCH /api/v1/admin/concerts/{CONCERT}");
    let make_date = format!("POST /api/v1/admin/concerts/{CONCERT}/schedules");
    let edit_date = format!("PATCH /api/v1/admin/schedules/{SCHEDULE}");
    let put = format!("PUT /api/v1/admin/schedules/{SCHEDULE}/layout");
    let retry = format!("POST /api/v1/admin/dead-letters/{SCHEDULE}/retry");
    [
        ("POST /api/v1/admin/concerts", (JSON, concert)),
        (&edit_concert, (JSON, concert_patch)),
        (&make_date, (JSON, date)),
        (&edit_date, (JSON, policy)),
        (&edit_date, (JSON, moved)),
        (&put, (JSON, &layout)),
        (&put, (CSV, csv)),
        (
            "GET /api/v1/admin/dead-letters?lane=seats&retried=false&limit=5&cursor=AAAA",
            (JSON, ""),
        ),
        (&retry, (JSON, "{}")),
    ]
    .map(|(line, body)| request(line, token, body))
    .into()
}

/// An answer as it was read; of a stream only the head.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

/// The answer, if there is one.
async fn answer(addr: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    // It may have answered, and closed, before all was sent.
    drop(stream.write_all(request).await);
    let mut read = Vec::new();
    let mut head = None;
    while let Ok(1..) = stream.read_buf(&mut read).await {
        head = head.or_else(|| read.windows(4).position(|four| four == b"\r\n\r\n"));
        if head.is_some_and(|end| is_stream(&read[..end])) {
            break;
        }
    }
    let end = head?;
    let text = std::str::from_utf8(&read[..end]).expect("a head is ASCII");
    let (first, lines) = text.split_once("\r\n").expect("a head has lines");
    let status = first.strip_prefix("HTTP/1.").expect("HTTP").get(2..5)?;
    let headers = lines.split("\r\n").map(|line| {
        let (name, value) = line.split_once(':').expect("a header");
        let name: HeaderName = name.parse().expect("a header's name");
        (name, value.trim().parse().expect("a header's value"))
    });
    let headers: HeaderMap = headers.collect();
    let length = headers.get("content-length").map_or(0, |length| {
        let length = length.to_str().expect("digits");
        length.parse().expect("digits")
    });
    // What follows it is the answer to something else.
    let rest = &read[end + 4..];
    let body = &rest[..rest.len().min(length)];
    let body = (!is_stream(&read[..end])).then(|| body.to_vec());
    Some(Answer {
        status: status.parse().expect("a status"),
        headers,
        body,
    })
}

fn is_stream(head: &[u8]) -> bool {
    let stream = b"content-type: text/event-stream";
    head.windows(stream.len()).any(|there| there == stream)
}

/// What is wrong with an answer by the document, if it came from behind the parser of HTTP, and it is
/// certain what it answers.
fn breach(request: &[u8], answer: &Answer) -> Option<String> {
    answer.headers.get("trace-id")?;
    let line = std::str::from_utf8(request).ok()?;
    let line = line.trim_start_matches(['\r', '\n']).lines().next()?;
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let method: Method = method.parse().ok()?;
    let target: Uri = target.parse().ok()?;
    let is_head = method == Method::HEAD;
    let exchange = Exchange {
        method: &method,
        path: target.path(),
        status: answer.status,
        headers: &answer.headers,
        body: match &answer.body {
            _ if is_head => Some(&[]),
            body => body.as_deref(),
        },
    };
    CONTRACT.check(&exchange).err()
}

async fn is_served(bench: &Bench) -> bool {
    let probe = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = answer(bench.addr, probe).await;
    answer.is_some_and(|answer| answer.status == 200)
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
    let (buyer, admin) = (bench.api.buyer().await.token, bench.admin().await.token);
    bench
        .sql(&format!(
            "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, \
                                      error, dead_letter_id) \
             VALUES ('ledger', -1, 0, 1, -1, '', '', '{SCHEDULE}')"
        ))
        .await;
    let valid = [requests(&buyer), admin_requests(&admin)].concat();
    for request in &valid {
        let answer = answer(bench.addr, request).await.expect("an answer");
        let (status, told) = (answer.status.as_u16(), String::from_utf8_lossy(request));
        assert!((200..500).contains(&status), "{status}: {told}");
        assert!(
            ![401, 403, 405].contains(&status) || told.contains("AAAA"),
            "{status}: {told}"
        );
        assert_eq!(breach(request, &answer), None, "{told}");
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
    let answers: Vec<(Option<Answer>, Vec<u8>)> = stream::iter(requests)
        .map(|request| async move { (answer(addr, &request).await, request) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut turned_away = 0;
    let mut checked = 0;
    for (answer, request) in &answers {
        let Some(answer) = answer else { continue };
        let (status, told) = (answer.status.as_u16(), String::from_utf8_lossy(request));
        // A busy machine may keep Postgres from answering in time.
        turned_away += usize::from(status == 503);
        assert!(status < 500 || status == 503, "{status}: {told}");
        assert_eq!(breach(request, answer), None, "{told}");
        checked += usize::from(answer.headers.contains_key("trace-id"));
    }
    assert!(
        turned_away < REQUESTS / 100,
        "{turned_away} were turned away"
    );
    assert!(checked > REQUESTS / 4, "{checked} came through");
    let kinds = answers.iter().filter_map(|(answer, _)| answer.as_ref());
    let kinds: BTreeSet<_> = kinds.map(|answer| answer.status).collect();
    assert!(kinds.len() > 5, "nearly all the same: {kinds:?}");
    assert!(is_served(&bench).await);
}

fn seed_of(number: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}
