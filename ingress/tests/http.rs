//! The HTTP surface that needs no owner: problems, users, sessions, catalogue, maps, health.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{Bench, CONCERT, PATIENCE, SCHEDULE, start, until};
use onsale_ingress::config::Http;
use onsale_ingress::problem::Code;
use onsale_ingress::users::store;
use onsale_ingress::{server, stack};
use onsale_schema::message::encode;
use onsale_schema::seats::{MapBroadcast, MapChange};
use onsale_schema::status::ClaimState;
use onsale_schema::subjects::Subjects;
use onsale_schema::{PartitionNo, ScheduleId, SeatNo, Timestamp};
use onsale_testkit::{Api, Buyer};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Sends bytes and reads all that comes until the server closes.
async fn raw(bench: &Bench, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.expect("the server closes").unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frameworks_own_rejections_are_problems() {
    let bench = start(&["--body-bytes-max", "2048", "--body-timeout-ms", "200"]).await;
    let api = &bench.api;
    let get = |path: &'static str| api.get(None, path);
    get("/nothing").await.expect_problem(404, "not-found");
    get("//nothing").await.expect_problem(404, "not-found");
    get("/schedules/not-an-id")
        .await
        .expect_problem(404, "not-found");
    get("/concerts/%ff").await.expect_problem(404, "not-found");
    get("/concerts?limit=0")
        .await
        .expect_problem(422, "validation-failed");
    get("/concerts?secret=1")
        .await
        .expect_problem(422, "validation-failed");

    let put = api.send(api.request(Method::PUT, "/sessions")).await;
    let put = put.expect_problem(405, "method-not-allowed");
    let allow = put.headers["allow"].to_str().unwrap();
    assert!(
        allow.contains("POST") && allow.contains("DELETE"),
        "{allow}"
    );

    let post = |kind: &'static str, body: String| {
        let request = api.request(Method::POST, "/users");
        let request = request.header("idempotency-key", "key-0001");
        api.send(request.header("content-type", kind).body(body))
    };
    let answer = post("text/plain", "{}".into()).await;
    answer.expect_problem(415, "unsupported-media-type");
    let answer = post("application/json", "{\"a\":".into()).await;
    answer.expect_problem(400, "malformed-json");
    let answer = post("application/json", "x".repeat(2049)).await;
    answer.expect_problem(413, "body-too-large");
    let secret = json!({"email": "a@b.c", "name": "n", "password": "12345678", "secret": "hush"});
    let answer = post("application/json", secret.to_string()).await;
    let answer = answer.expect_problem(422, "validation-failed");
    assert!(!answer.body.to_string().contains("secret"), "{answer:?}");
    let nul = json!({"email": "a@b.c", "name": "n\u{0}", "password": "12345678"});
    let answer = post("application/json", nul.to_string()).await;
    let answer = answer.expect_problem(422, "validation-failed");
    assert_eq!(answer.body["errors"][0]["pointer"], "/name");

    let large = api
        .request(Method::GET, "/concerts")
        .header("x-large", "x".repeat(20_000));
    api.send(large)
        .await
        .expect_problem(431, "headers-too-large");

    let stalled = "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   content-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    let answer = raw(&bench, stalled.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains(Code::RequestTimeout.as_str()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_the_trace() {
    let bench = start(&[]).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = bench.api.request(Method::GET, "/nothing");
    let answer = bench.api.send(request.header("traceparent", parent)).await;
    assert_eq!(
        answer.headers["trace-id"],
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    assert_eq!(answer.body["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let fresh = bench.api.get(None, "/concerts").await.expect(200);
    assert_eq!(fresh.headers["trace-id"].len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed() {
    let bench = start(&[
        "--first-request-timeout-ms",
        "100",
        "--header-timeout-ms",
        "100",
    ])
    .await;
    for silence in ["", "G", "GET / HTTP/1.1\r\nhost", "PRI * HTTP/2.0\r\n"] {
        assert_eq!(raw(&bench, silence.as_bytes()).await, "", "{silence:?}");
    }
    let answer = raw(&bench, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_problem_and_the_server_goes_on() {
    async fn boom() {
        panic!("boom");
    }
    let bench = start(&[]).await;
    let http = Http::clone(&http_settings(&bench));
    let router = axum::Router::new()
        .route("/boom", axum::routing::get(boom))
        .route("/fine", axum::routing::get(async || "fine"));
    let router = stack::wrap(router, &http);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let api = Api::without_promises(base);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let served = tokio::spawn(async move { server::serve(router, listener, &http, token).await });
    api.get(None, "//boom")
        .await
        .expect_problem(500, "internal-error");
    assert_eq!(api.get(None, "//fine").await.expect(200).body, "fine");
    stop.cancel();
    served.await.unwrap();
}

fn http_settings(bench: &Bench) -> Http {
    use clap::Parser;
    let arguments = [
        "x",
        "--token-secret",
        common::SECRET,
        "--database-url",
        bench.db.url(),
    ];
    onsale_ingress::Config::try_parse_from(arguments)
        .unwrap()
        .http
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_allowed_by_setting() {
    const LISTED: &str = "https://shop.example";
    let bench = start(&[
        "--cors-origins",
        "https://other.example,https://shop.example",
    ])
    .await;
    let preflight = |origin: &'static str, method: &'static str, headers: &'static str| {
        let request = bench.api.request(Method::OPTIONS, "/reservations");
        let request = request
            .header("origin", origin)
            .header("access-control-request-method", method)
            .header("access-control-request-headers", headers);
        bench.api.send(request)
    };
    let words = |answer: &onsale_testkit::Answer, name: &str| -> Vec<String> {
        let values = answer.headers.get_all(name).iter();
        let text: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
        let words = text.iter().flat_map(|text| text.split(','));
        words.map(|word| word.trim().to_lowercase()).collect()
    };
    let headers = "authorization,content-type,idempotency-key,if-none-match,last-event-id,prefer,\
                   queue-pass,queue-ticket";
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let answer = preflight(LISTED, method, headers).await.expect(200);
        assert_eq!(answer.headers["access-control-allow-origin"], LISTED);
        let methods = words(&answer, "access-control-allow-methods");
        assert!(methods.contains(&method.to_lowercase()), "{answer:?}");
        let allowed = words(&answer, "access-control-allow-headers");
        for header in headers.split(',') {
            assert!(allowed.iter().any(|one| one == header), "{header}");
        }
        assert!(words(&answer, "vary").contains(&"origin".to_owned()));
        assert!(answer.headers.contains_key("access-control-max-age"));
    }
    let evil = preflight("https://evil.example", "GET", headers).await;
    assert!(!evil.headers.contains_key("access-control-allow-origin"));
    assert!(words(&evil, "vary").contains(&"origin".to_owned()));

    for (origin, expected) in [
        (Some(LISTED), Some(LISTED)),
        (Some("https://evil.example"), None),
        (None, None),
    ] {
        let mut request = bench.api.request(Method::GET, "/concerts");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = bench.api.send(request).await.expect(200);
        let allowed = answer.headers.get("access-control-allow-origin");
        assert_eq!(allowed.map(|value| value.to_str().unwrap()), expected);
        // A cache must not give one origin's answer to another.
        assert!(words(&answer, "vary").contains(&"origin".to_owned()));
        let exposed = words(&answer, "access-control-expose-headers");
        for header in [
            "date",
            "etag",
            "location",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
        ] {
            assert!(exposed.iter().any(|one| one == header), "{header}");
        }
        // Tokens go in a header: no cookie is ever meant.
        let credentials = "access-control-allow-credentials";
        assert!(!answer.headers.contains_key(credentials));
    }
    let without = start(&[]).await;
    let request = without.api.request(Method::GET, "/concerts");
    let answer = without.api.send(request.header("origin", LISTED)).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_sessions() {
    let bench = start(&[]).await;
    let api = &bench.api;
    let post = |path: &'static str, body: serde_json::Value| {
        api.send(api.request(Method::POST, path).json(&body))
    };
    let ada = json!({"email": " Ada@Example.com", "name": "Ada", "password": "correct horse"});
    let sign_up = |key: &'static str, body: &serde_json::Value| {
        let request = api.request(Method::POST, "/users");
        api.send(request.header("idempotency-key", key).json(body))
    };
    let made = sign_up("key-0001", &ada).await.expect(201);
    // The answer was lost: the same again is the same user.
    let again = sign_up("key-0001", &ada).await.expect(201);
    assert_eq!(again.body, made.body);
    let mut other = ada.clone();
    other["password"] = json!("another horse");
    let taken = sign_up("key-0002", &ada).await;
    taken.expect_problem(409, "email-taken");
    let mut renamed = ada.clone();
    renamed["name"] = json!("Adele");
    for another in [&other, &renamed] {
        let reused = sign_up("key-0001", another).await;
        reused.expect_problem(422, "idempotency-key-reused");
    }
    other["email"] = json!("bea@example.com");
    let bea = sign_up("key-0001", &other).await.expect(201);
    assert_ne!(bea.body["userId"], made.body["userId"]);
    post("/users", ada)
        .await
        .expect_problem(400, "idempotency-key-missing");

    let sign_in =
        |email, password| post("/sessions", json!({"email": email, "password": password}));
    let wrong = sign_in("ada@example.com", "wrong horse").await;
    wrong.expect_problem(401, "credentials-invalid");
    let unknown = sign_in("bob@example.com", "correct horse").await;
    unknown.expect_problem(401, "credentials-invalid");
    let session = sign_in("ADA@example.com", "correct horse")
        .await
        .expect(201);
    let user = |session: &onsale_testkit::Answer| Buyer {
        user_id: made.body["userId"].as_str().unwrap().parse().unwrap(),
        token: session.body["accessToken"].as_str().unwrap().into(),
    };
    let me = api
        .get(Some(&user(&session)), "/users/me")
        .await
        .expect(200);
    assert_eq!(me.body["userId"], made.body["userId"]);
    assert_eq!(
        (&me.body["email"], &me.body["role"]),
        (&json!("ada@example.com"), &json!("buyer"))
    );
    api.get(None, "/users/me")
        .await
        .expect_problem(401, "token-missing");

    let refresh =
        |token: serde_json::Value| post("/sessions/refresh", json!({"refreshToken": token}));
    let renewed = refresh(session.body["refreshToken"].clone())
        .await
        .expect(201);
    // Its answer might have been lost.
    let again = refresh(session.body["refreshToken"].clone()).await;
    let again = again.expect(201).body["refreshToken"].clone();
    assert_eq!(again, renewed.body["refreshToken"]);
    let renewed_user = user(&renewed);
    let _ = api.delete(&renewed_user, "/sessions").await.expect(204);
    let after = refresh(renewed.body["refreshToken"].clone()).await;
    after.expect_problem(401, "token-invalid");
    let after = api.get(Some(&renewed_user), "/users/me").await;
    after.expect_problem(401, "token-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_long_over_are_removed_in_pieces() {
    let bench = start(&[]).await;
    let buyer = bench.api.buyer().await;
    bench
        .sql(
            "INSERT INTO session (session_id, user_id, refresh_digest, expires_at) \
             SELECT gen_random_uuid(), user_id, sha256(n::text::bytea), \
                 now() - interval '23 hours' - n * interval '1 hour 1 minute' \
             FROM app_user, generate_series(0, 1002) AS n",
        )
        .await;
    let purge = async || store::session_purge(&bench.app.pool).await.unwrap();
    assert_eq!(purge().await, store::PURGE_MAX);
    assert_eq!(purge().await, 2, "of 1003 one is over for less than a day");
    assert_eq!(purge().await, 0);
    let _ = bench.api.get(Some(&buyer), "/users/me").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_access_tokens_are_told_apart() {
    let bench = start(&["--access-token-ttl-s", "1"]).await;
    let buyer = bench.api.buyer().await;
    until("the token expires", || async {
        let answer = bench.api.get(Some(&buyer), "/users/me").await;
        answer.code() == "token-expired"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogue_and_layout() {
    let bench = start(&[]).await;
    let get = async |path: &str| bench.api.get(None, path).await.expect(200).body;
    let titles = async |query: &str| {
        let page = get(&format!("/concerts?{query}")).await;
        let items = page["items"].as_array().unwrap().clone();
        let titles = items
            .iter()
            .map(|item| item["title"].as_str().unwrap().to_owned());
        titles.collect::<Vec<_>>().join(",")
    };
    assert_eq!(titles("").await, "Spring 100%,Autumn");
    assert_eq!(titles("query=100%25").await, "Spring 100%");
    assert_eq!(titles("query=1%25%25").await, "");
    assert_eq!(titles("artist=%EC%9D%B4%EC%9C%A0").await, "Spring 100%");
    assert_eq!(titles("from=2027-06-01").await, "Autumn");
    assert_eq!(titles("to=2027-06-01").await, "Spring 100%");
    assert_eq!(titles("bookable=true").await, "Spring 100%");
    assert_eq!(titles("bookable=false").await, "Autumn");
    let first = get("/concerts?limit=1").await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = get(&format!("/concerts?limit=1&cursor={cursor}")).await;
    assert_eq!(second["items"][0]["title"], "Autumn");
    assert!(second["nextCursor"].is_null());

    let concert = get(&format!("/concerts/{CONCERT}")).await;
    assert_eq!(
        (&concert["startsOn"], &concert["artist"]),
        (&json!("2027-05-01"), &json!("아이유"))
    );
    let dates = get(&format!("/concerts/{CONCERT}/schedules")).await;
    assert_eq!(
        (&dates[0]["remaining"], &dates[0]["total"]),
        (&json!(6), &json!(6))
    );
    assert_eq!(dates[0]["bookable"], true);
    assert_eq!(dates[0]["prices"][0]["price"]["amount"], 150_000);
    let date = get(&format!("/schedules/{SCHEDULE}")).await;
    assert_eq!(
        (&date["seatsPerUser"], &date["holdSeconds"]),
        (&json!(4), &json!(300))
    );
    assert_eq!(date["saleState"], "OPEN");

    let path = format!("/schedules/{SCHEDULE}/layout");
    let layout = bench.api.get(None, &path).await.expect(200);
    assert_eq!(
        layout.body["sections"][0]["rows"][1]["seats"][2]["label"],
        "A-2-3"
    );
    assert_eq!(layout.headers["etag"], "\"hash-1\"");
    // Only an address with the hash is for ever: the layout may be replaced.
    for (query, cached) in [
        ("", "no-cache"),
        ("?hash=hash-0", "no-cache"),
        ("?hash=hash-1", "public, max-age=31536000, immutable"),
    ] {
        let answer = bench.api.get(None, &format!("{path}{query}")).await;
        let answer = answer.expect(200);
        assert_eq!(answer.headers["cache-control"], cached, "{query}");
        assert_eq!(answer.body, layout.body);
    }
    let request = bench.api.request(Method::GET, &path);
    let request = request.header("if-none-match", &layout.headers["etag"]);
    assert_eq!(
        bench.api.send(request).await.expect(304).body,
        serde_json::Value::Null
    );

    let nobody = uuid::Uuid::nil();
    for path in [
        "concerts/{}",
        "concerts/{}/schedules",
        "schedules/{}",
        "schedules/{}/layout",
        "schedules/{}/seats",
    ] {
        let path = format!("/{}", path.replace("{}", &nobody.to_string()));
        bench
            .api
            .get(None, &path)
            .await
            .expect_problem(404, "not-found");
    }
}

fn change(from_version: i64, version: i64, changes: &[(i32, Option<ClaimState>)]) -> Vec<u8> {
    encode(&MapBroadcast {
        maps: vec![MapChange {
            schedule_id: ScheduleId(SCHEDULE),
            from_version,
            version,
            at: Timestamp::EPOCH,
            changes: changes
                .iter()
                .map(|&(seat, state)| (SeatNo(seat), state))
                .collect(),
            layout_no: Some(0),
        }],
        sent_at: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seat_map_follows_its_owner() {
    let bench = start(&[]).await;
    let path = format!("/schedules/{SCHEDULE}/seats");
    let seats = async || bench.api.get(None, &path).await.expect(200);
    let first = seats().await;
    assert_eq!(
        first.body,
        json!({"version": 0, "remaining": 6, "seats": "AAAAAA"})
    );
    assert_eq!(first.headers["etag"], "W/\"0\"");
    let unchanged = bench
        .api
        .request(Method::GET, &path)
        .header("if-none-match", "W/\"0\"");
    let _ = bench.api.send(unchanged).await.expect(304);

    let subject = Subjects::new("").unwrap().map(PartitionNo(0));
    let held = change(0, 1, &[(1, Some(ClaimState::Held))]);
    bench.broadcast(subject.clone(), held).await;
    until("a change is shown", || async {
        seats().await.body["seats"] == "AHAAAA"
    })
    .await;

    // A change is lost; the beat after it tells, and the map is read again.
    bench
        .sql(&format!(
            "UPDATE sale SET map_version = 3; \
             INSERT INTO reservation VALUES (gen_random_uuid(), '{SCHEDULE}', gen_random_uuid(), \
                 gen_random_uuid(), gen_random_uuid(), '{{5}}', 1, 4, 'PAID', now(), \
                 now() + interval '1 hour', NULL); \
             INSERT INTO seat_claim SELECT schedule_id, 5, reservation_id, 'S' FROM reservation;"
        ))
        .await;
    bench.broadcast(subject, change(3, 3, &[])).await;
    until("the gap is noticed", || async {
        seats().await.body == json!({"version": 3, "remaining": 5, "seats": "AAAAAS"})
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_servers() {
    let mut bench = start(&[]).await;
    let _ = bench.api.get(None, "//healthz").await.expect(200);
    let _ = bench.api.get(None, "//readyz").await.expect(200);
    bench.nats.server.kill9().await;
    until("NATS is missed", || async {
        let ready = bench.api.get(None, "//readyz").await;
        ready.code() == "dependency-unavailable" && ready.headers.contains_key("retry-after")
    })
    .await;
    let _ = bench.api.get(None, "//healthz").await.expect(200);
    bench.nats.server.restart().await.unwrap();
    until("NATS is back", || async {
        bench.api.get(None, "//readyz").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_asks_postgres_once_in_a_while_however_many_ask() {
    let bench = start(&["--db-pool", "2"]).await;
    // Nobody gets a connection, so that a question to Postgres takes its whole second.
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.push(bench.app.pool.get().await.unwrap());
    }
    until("an answer of a moment ago is given again", || async {
        let asked = std::time::Instant::now();
        let ready = bench.api.get(None, "//readyz").await;
        ready.code() == "dependency-unavailable" && asked.elapsed() < Duration::from_millis(500)
    })
    .await;
    drop(taken);
    until("it is not given for ever", || async {
        bench.api.get(None, "//readyz").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_when_told_and_closes_idle_connections() {
    let bench = start(&["--drain-ms", "5000"]).await;
    let _ = bench.api.get(None, "//healthz").await.expect(200);
    bench.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(4), bench.served).await;
    ended
        .expect("it ends before the drain does")
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(bench.addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_page_are_served() {
    let bench = start(&[]).await;
    let served = bench.api.get(None, "//openapi.json").await.expect(200);
    let ours: serde_json::Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    assert_eq!(served.body, ours);
    let again = bench.api.request(Method::GET, "//openapi.json");
    let again = again.header("if-none-match", &served.headers["etag"]);
    let _ = bench.api.send(again).await.expect(304);

    let page = bench.api.get(None, "//docs").await.expect(200);
    let html = page.body.as_str().unwrap().to_owned();
    assert!(!html.contains("//"), "the page asks elsewhere: {html}");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    let files: Vec<&str> = html
        .split(['"', '\''])
        .filter(|text| text.starts_with("docs/"))
        .collect();
    assert_eq!(files.len(), 3, "{html}");
    for file in files {
        let file = bench.api.get(None, &format!("//{file}")).await.expect(200);
        let kind = file.headers["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/"), "{kind}");
    }
    let missing = bench.api.get(None, "//docs/index.html").await;
    missing.expect_problem(404, "not-found");
}
