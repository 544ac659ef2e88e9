//! The server under clients that are slow, odd, or speak HTTP/2.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use axum::body::Body;
use common::{Bench, PATIENCE, SCHEDULE, start, until};
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use onsale_testkit::Api;
use onsale_testkit::spawn::allow_many_files;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Sends bytes and reads all that comes until the server closes.
async fn raw(bench: &Bench, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.expect("the server closes").unwrap();
    answer
}

/// A client that speaks HTTP/2 from the first byte; and the end of its connection.
async fn http2(bench: &Bench) -> (http2::SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(bench.addr).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    let (client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn ask(client: &mut http2::SendRequest<Body>, path: &str) -> (StatusCode, Value) {
    let request = Request::get(format!("http://x{path}"));
    let request = request.body(Body::empty()).unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await;
    let answer = answer.expect("an answer in time").unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_and_http2_are_served_on_one_port() {
    let bench = start(&[]).await;
    let _ = bench.api.get(None, "/concerts").await.expect(200);
    let (mut client, _connection) = http2(&bench).await;
    let (status, concerts) = ask(&mut client, "/api/v1/concerts").await;
    assert_eq!(
        (status, concerts["items"].is_array()),
        (StatusCode::OK, true)
    );
    let (status, problem) = ask(&mut client, "/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["code"], "not-found");
    // Many at once, of which each is answered.
    let all = (0..100).map(|_| {
        let mut client = client.clone();
        async move { ask(&mut client, "/healthz").await.0 }
    });
    let all = futures_util::future::join_all(all).await;
    assert!(all.into_iter().all(|status| status == StatusCode::OK));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_http2_connection_ends() {
    let bench = start(&[
        "--header-timeout-ms",
        "200",
        "--first-request-timeout-ms",
        "200",
    ])
    .await;
    let (mut client, connection) = http2(&bench).await;
    assert_eq!(ask(&mut client, "/healthz").await.0, StatusCode::OK);
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    ended.expect("it ends").unwrap().unwrap();

    // One that never asks is given up like any other.
    let (_client, connection) = http2(&bench).await;
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    let _how = ended.expect("it ends").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_so_many_lines() {
    let bench = start(&["--headers-max", "20"]).await;
    let with = async |api: &Api, lines: usize| {
        let mut request = api.request(Method::GET, "/concerts");
        for line in 0..lines {
            request = request.header(format!("x-{line}"), "x");
        }
        api.send(request).await
    };
    let _ = with(&bench.api, 10).await.expect(200);
    let refused = with(&bench.api, 21).await;
    refused.expect_problem(431, "headers-too-large");
    // So many that they are not even read, and nobody knows what was asked.
    let unread = Api::without_promises(format!("http://{}", bench.addr));
    let answer = with(&unread, 200).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_servers_could_read_in_two_ways_is_not_read_at_all() {
    let bench = start(&["--header-timeout-ms", "300"]).await;
    for head in [
        "content-length: 4\r\ncontent-length: 5\r\n",
        "content-length: 4, 5\r\n",
        "content-length: +4\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "content-length : 4\r\n",
        "content-length: 4\r\n x: 1\r\n",
    ] {
        let smuggled = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let bytes = format!(
            "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             {head}\r\n{smuggled}"
        );
        let answer = raw(&bench, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
    }
    // Of both, the length counts for nothing, and the connection does not go on (RFC 9112 section
    // 6.1).
    let both = "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 100\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let answer = raw(&bench, both.as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

/// The head of a request that is refused for its head, and says that so many bytes follow.
fn refused_head(bytes: usize, more: &str) -> String {
    format!(
        "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n\
         content-length: {bytes}\r\n{more}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_a_refusal_that_comes_before_the_body() {
    let bench = start(&[]).await;
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    let mut answers = Vec::new();
    for refused in 1..=20 {
        let head = refused_head(2, "");
        stream.write_all(head.as_bytes()).await.unwrap();
        // As long as an answer takes: the refusal is there before the body.
        let _ = bench.api.get(None, "/concerts").await.expect(200);
        stream.write_all(b"{}").await.unwrap();
        let count = |answers: &[u8]| {
            String::from_utf8_lossy(answers)
                .matches("415 Unsup")
                .count()
        };
        while count(&answers) < refused {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answers)).await;
            let told = String::from_utf8_lossy(&answers);
            assert_ne!(read.expect("an answer").unwrap(), 0, "closed after {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_tells_when_it_ends_the_connection() {
    let bench = start(&[]).await;
    // The body never comes; is too long to wait for; or waits to be asked for, and is not.
    for head in [
        refused_head(2, ""),
        refused_head(1_000_000, ""),
        refused_head(2, "expect: 100-continue\r\n"),
    ] {
        let answer = raw(&bench, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 415"), "{head}{answer}");
        assert!(answer.contains("connection: close"), "{head}{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_never_reads_is_cut_off() {
    let bench = start(&["--write-timeout-ms", "300"]).await;
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    let requests = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let asking = async {
        // Until the server reads no more, because nobody reads its answers, and then closes.
        while stream.write_all(requests.as_bytes()).await.is_ok() {}
    };
    let cut_off = tokio::time::timeout(PATIENCE, asking).await;
    cut_off.expect("the connection is cut off");
    let _ = bench.api.get(None, "//healthz").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_no_window_for_an_answer_is_not_waited_for() {
    let bench = start(&[
        "--write-timeout-ms",
        "300",
        "--event-streams-per-address-max",
        "2",
    ])
    .await;
    let events = format!("/api/v1/schedules/{SCHEDULE}/events");
    let layout = format!("/api/v1/schedules/{SCHEDULE}/layout");
    // A stream that says nothing for longer than that, and is read.
    let (mut reader, _reading) = http2(&bench).await;
    let mut silent = head(&mut reader, &events).await;
    let mut told = Vec::new();
    while !told.ends_with(b"}\n\n") {
        let frame = tokio::time::timeout(PATIENCE, silent.frame()).await;
        told.extend(frame.unwrap().unwrap().unwrap().into_data().unwrap());
    }

    let stream = TcpStream::connect(bench.addr).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(0);
    let (mut client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let unread = head(&mut client, &layout).await;
    let _unread_too = head(&mut client, &events).await;
    let ended = tokio::time::timeout(PATIENCE, unread.collect()).await;
    ended.expect("it ends").expect_err("it was not sent");
    until("the place of the other is given back", || async {
        let request = bench
            .api
            .request(Method::GET, &events.replace("/api/v1", ""));
        bench.api.open(request).await.is_ok()
    })
    .await;
    // The connection itself goes on, and so does who was only told nothing.
    let _answered = head(&mut client, "/healthz").await;
    assert!(!connection.is_finished());
    bench.shutdown.cancel();
    let rest = tokio::time::timeout(PATIENCE, silent.collect()).await;
    rest.expect("it ends").expect("it was not cut off");
}

/// The body of an answer, of which nothing is read yet.
async fn head(client: &mut http2::SendRequest<Body>, path: &str) -> hyper::body::Incoming {
    let request = Request::get(format!("http://x{path}"));
    let request = request.body(Body::empty()).unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await;
    let answer = answer.expect("an answer in time").unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body()
}

/// What slow clients have sent so far.
const SLOW: [&str; 4] = [
    "",
    "G",
    "GET /api/v1/concerts HTTP/1.1\r\nx-slow: ",
    "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
     content-length: 60000\r\n\r\n{",
];

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_slow_sockets_leave_others_served() {
    const COUNT: usize = 2000;
    /// A request takes some milliseconds; a server that waited for the slow ones would need their
    /// minute.
    const ANSWER_MAX: Duration = Duration::from_secs(10);
    allow_many_files().expect("files for all connections");
    let bench = start(&[
        "--connections-per-address-max",
        "0",
        "--first-request-timeout-ms",
        "60000",
        "--header-timeout-ms",
        "60000",
        "--body-timeout-ms",
        "60000",
    ])
    .await;
    let buyer = bench.api.buyer().await;
    let mut slow = Vec::with_capacity(COUNT);
    for n in 0..COUNT {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream
            .write_all(SLOW[n % SLOW.len()].as_bytes())
            .await
            .unwrap();
        slow.push(stream);
    }
    let seats = format!("/schedules/{SCHEDULE}/seats");
    for round in 0..20 {
        // A byte now and then.
        for (n, stream) in slow.iter_mut().enumerate() {
            if n % SLOW.len() >= 2 && n % 20 == round {
                stream.write_all(b" ").await.unwrap();
            }
        }
        let one_round = async {
            // On connections that are kept alive, and on a new one.
            let _ = bench.api.get(None, "/concerts").await.expect(200);
            let _ = bench.api.get(None, &seats).await.expect(200);
            let _ = bench.api.get(Some(&buyer), "/users/me").await.expect(200);
            let answer = raw(&bench, b"GET /healthz HTTP/1.0\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        };
        let served = tokio::time::timeout(ANSWER_MAX, one_round).await;
        assert!(served.is_ok(), "round {round}");
    }
    // They were there all the time.
    for (n, stream) in slow.iter().enumerate() {
        let read = stream.try_read(&mut [0; 16]);
        let waits = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(waits, "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_sockets_give_their_places_back() {
    let bench = start(&[
        "--connections-max",
        "40",
        "--first-request-timeout-ms",
        "300",
        "--header-timeout-ms",
        "300",
        "--body-timeout-ms",
        "300",
    ])
    .await;
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        stream
            .write_all(SLOW[n % SLOW.len()].as_bytes())
            .await
            .unwrap();
        slow.push(stream);
    }
    // All places are taken, five times over; whoever comes last is served when they are given up.
    let _ = bench.api.get(None, "//healthz").await.expect(200);
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _how = ended.expect("the server closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_can_not_read_json_is_told_before_anything_is_done() {
    let bench = start(&[]).await;
    let with = |accept: &'static str| {
        let body = json!({"email": "a@b.c", "name": "n", "password": "12345678"});
        let request = bench.api.request(Method::POST, "/users").json(&body);
        let request = request.header("idempotency-key", "key-0001");
        bench.api.send(request.header("accept", accept))
    };
    for accept in ["text/html", "application/json;q=0, */*"] {
        with(accept).await.expect_problem(406, "not-acceptable");
    }
    let users = "SELECT count(*)::text FROM app_user";
    assert_eq!(bench.text(users).await, "0");
    let _ = with("text/html, application/*;q=0.1").await.expect(201);
    // What is not the API's is not asked.
    let health = bench.api.request(Method::GET, "//healthz");
    let _ = bench
        .api
        .send(health.header("accept", "text/plain"))
        .await
        .expect(200);
    until("the user is there", || async {
        bench.text(users).await == "1"
    })
    .await;
}
