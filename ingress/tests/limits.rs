//! What one client may take: requests, sign-ins, connections; and that a refusal tells nobody's
//! secrets.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{Bench, PATIENCE, start, until};
use onsale_testkit::Answer;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// GET of a path that everybody may see, with an `X-Forwarded-For`.
async fn get_for(bench: &Bench, forwarded_for: &str) -> Answer {
    let request = bench.api.request(Method::GET, "/concerts");
    let request = request.header("x-forwarded-for", forwarded_for);
    bench.api.send(request).await
}

#[track_caller]
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers[name].to_str().unwrap()
}

#[track_caller]
fn refused(answer: Answer) -> u64 {
    let answer = answer.expect_problem(429, "rate-limited");
    assert_eq!(answer.body["retryable"], true);
    header(&answer, "retry-after").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_a_rate_and_is_told() {
    let bench = start(&["--rate-address-per-s", "1", "--rate-address-burst", "5"]).await;
    let get = || bench.api.get(None, "/concerts");
    let first = get().await.expect(200);
    assert_eq!(header(&first, "ratelimit-policy"), r#""address";q=5;w=5"#);
    assert_eq!(header(&first, "ratelimit"), r#""address";r=4;t=1"#);
    // It doesn't matter what is asked for, nor who a stranger says he is.
    let other = bench.api.get(None, "/no-such-thing").await;
    let other = other.expect_problem(404, "not-found");
    assert_eq!(header(&other, "ratelimit"), r#""address";r=3;t=2"#);
    for _ in 0..3 {
        let _ = get_for(&bench, "198.51.100.1").await.expect(200);
    }
    let last = get_for(&bench, "198.51.100.2").await;
    assert_eq!(header(&last, "ratelimit"), r#""address";r=0;t=1"#);
    assert_eq!(refused(last), 1);
    for probe in ["//healthz", "//readyz"] {
        let answer = bench.api.get(None, probe).await.expect(200);
        assert!(!answer.headers.contains_key("ratelimit"));
    }
    until("a second has given one more", || async {
        get().await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_of_ours_each_client_has_its_own_rate() {
    let bench = start(&[
        "--rate-address-per-s",
        "1",
        "--rate-address-burst",
        "2",
        "--trusted-proxies",
        "127.0.0.0/8,10.0.0.0/8",
    ])
    .await;
    for client in ["198.51.100.1", "198.51.100.2", "2001:db8::1"] {
        let _ = get_for(&bench, client).await.expect(200);
        // Whatever stands left of the address that our proxies saw.
        let _ = get_for(&bench, &format!("1.1.1.1, {client}, 10.0.0.7"))
            .await
            .expect(200);
        assert_eq!(refused(get_for(&bench, client).await), 1, "{client}");
    }
    assert_eq!(refused(get_for(&bench, "2001:db8::ffff").await), 1, "a /64");
    let _ = get_for(&bench, "2001:db8:0:1::1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_rate_wherever_he_is() {
    let settings = ["--rate-user-per-s", "1", "--rate-user-burst", "3"];
    let bench = start(&settings).await;
    let (user, other) = (bench.api.buyer().await, bench.api.buyer().await);
    let me = |user| bench.api.get(Some(user), "/users/me/points");
    let first = me(&user).await.expect(200);
    assert_eq!(header(&first, "ratelimit-policy"), r#""user";q=3;w=3"#);
    assert_eq!(header(&first, "ratelimit"), r#""user";r=2;t=1"#);
    let _ = me(&user).await.expect(200);
    let path = "/reservations/00000000-0000-0000-0000-000000000001";
    let missing = bench.api.get(Some(&user), path).await;
    let missing = missing.expect_problem(404, "not-found");
    assert_eq!(header(&missing, "ratelimit"), r#""user";r=0;t=1"#);
    let last = me(&user).await;
    assert_eq!(header(&last, "ratelimit"), r#""user";r=0;t=1"#);
    assert_eq!(refused(last), 1);
    let _ = me(&other).await.expect(200);
    // What is for everybody is not counted, nor what is refused to nobody.
    let answer = bench.api.get(Some(&user), "/concerts").await.expect(200);
    assert!(!answer.headers.contains_key("ratelimit"));
    let nobody = bench.api.get(None, "/users/me").await;
    nobody.expect_problem(401, "token-missing");
    until("a second has given one more", || async {
        me(&user).await.status == 200
    })
    .await;
}

async fn sign_in(bench: &Bench, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    let request = bench.api.request(Method::POST, "/sessions").json(&body);
    bench.api.send(request).await
}

/// All of an answer that is not of this one occurrence.
fn face(answer: &Answer) -> (u16, Value, Vec<(String, String)>) {
    let mut body = answer.body.clone();
    body["traceId"] = Value::Null;
    let headers = answer.headers.iter();
    let headers = headers.filter(|(name, _)| !["date", "trace-id"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| {
        let value = value.to_str().unwrap().to_owned();
        (name.as_str().to_owned(), value)
    });
    let mut headers: Vec<_> = headers.collect();
    headers.sort();
    (answer.status.as_u16(), body, headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_who_has_an_account() {
    let bench = start(&[
        "--sign-in-account-per-min",
        "1",
        "--sign-in-account-burst",
        "3",
    ])
    .await;
    let user = bench.api.buyer().await;
    let known = format!(
        "SELECT email FROM app_user WHERE user_id = '{}'",
        user.user_id
    );
    let (known, unknown) = (bench.text(&known).await, "nobody@example.com");
    // The owner has signed in once; somebody else has not.
    let _ = sign_in(&bench, unknown, "a wrong one").await;
    let passwords = &bench.app.passwords;
    for tried in 0..4 {
        let mut faces = Vec::new();
        for email in [&known, unknown] {
            let before = passwords.done();
            let answer = sign_in(&bench, email, "a wrong one").await;
            let hashes = passwords.done() - before;
            faces.push((face(&answer), hashes));
        }
        let (status, hashes) = (faces[0].0.0, faces[0].1);
        let expected = if tried < 2 { (401, 1) } else { (429, 0) };
        assert_eq!((status, hashes), expected);
        assert_eq!(faces[0], faces[1], "the same answer, and the same work");
    }
    // Nor does the right password tell.
    let throttled = sign_in(&bench, &known, "correct horse battery").await;
    assert!(refused(throttled) <= 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_sign_up_again_is_to_try_a_password() {
    let account = ["--sign-in-account-per-min", "--sign-in-account-burst"];
    let bench = start(&[account[0], "1", account[1], "2"]).await;
    let sign_up = async |password: &str| {
        let body = json!({ "email": "a@example.com", "name": "A", "password": password });
        let request = bench.api.request(Method::POST, "/users").json(&body);
        let request = request.header("idempotency-key", "key-0001");
        bench.api.send(request).await
    };
    let right = "correct horse battery";
    let _ = sign_up(right).await.expect(201);
    let guess = sign_up("a wrong guess").await;
    guess.expect_problem(422, "idempotency-key-reused");
    let _ = sign_up(right).await.expect(201);
    let checks = bench.app.passwords.done();
    assert!(refused(sign_up("another guess").await) <= 60);
    assert!(refused(sign_up(right).await) <= 60);
    let hashed = bench.app.passwords.done() - checks;
    assert_eq!(hashed, 2, "of the accounts to be, and nothing is compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_tries_so_many_passwords_and_makes_so_many_accounts() {
    let bench = start(&[
        "--sign-in-address-per-min",
        "1",
        "--sign-in-address-burst",
        "3",
        "--trusted-proxies",
        "127.0.0.1",
    ])
    .await;
    let ask = |path: &'static str, n: u32, from: &'static str| {
        let email = format!("{n}@example.com");
        let mut body = json!({ "email": email, "password": "correct horse" });
        if path == "/users" {
            body["name"] = json!("N");
        }
        let request = bench.api.request(Method::POST, path).json(&body);
        let request = request.header("idempotency-key", "key-0001");
        bench.api.send(request.header("x-forwarded-for", from))
    };
    let from = "198.51.100.1";
    let _ = ask("/users", 1, from).await.expect(201);
    let _ = ask("/sessions", 1, from).await.expect(201);
    let answer = ask("/sessions", 2, from).await;
    answer.expect_problem(401, "credentials-invalid");
    assert!(refused(ask("/sessions", 1, from).await) <= 60);
    assert!(refused(ask("/users", 3, from).await) <= 60);
    let _ = ask("/sessions", 1, "198.51.100.2").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections() {
    let bench = start(&["--connections-per-address-max", "3"]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        assert!(is_served(&mut stream).await);
        open.push(stream);
    }
    let mut fourth = TcpStream::connect(bench.addr).await.unwrap();
    assert!(!is_served(&mut fourth).await);
    // The others are not disturbed, and one that ends makes room.
    assert!(is_served(&mut open[0]).await);
    drop(open.pop());
    until("there is room again", || async {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        is_served(&mut stream).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_ours_has_as_many_connections_as_it_likes() {
    let bench = start(&[
        "--connections-per-address-max",
        "1",
        "--trusted-proxies",
        "127.0.0.1",
    ])
    .await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(bench.addr).await.unwrap();
        assert!(is_served(&mut stream).await);
        open.push(stream);
    }
}

/// Whether a request on this connection is answered; else it is closed.
async fn is_served(stream: &mut TcpStream) -> bool {
    let asked = stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let mut answer = [0; 1024];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await;
    let read = read.expect("an answer or the end");
    asked.is_ok() && read.is_ok_and(|bytes| answer[..bytes].starts_with(b"HTTP/1.1 200"))
}
