//! Every problem code that is built can be met over HTTP, looks as it should, and is met here: a
//! code that is added without a way to it fails this test.

mod money;
mod rooms;

use crate::hall::{Hall, open_policy, reservation, soon};
use crate::shop::with_gateway;
use diesel_async::SimpleAsyncConnection;
use money::{money, orders, payment_on_its_way, without_cards, without_gateway};
use onsale::seed::Policy;
use onsale_ingress::problem::Code;
use onsale_schema::message::encode;
use onsale_schema::seats::Kind;
use onsale_schema::status::SaleState;
use onsale_schema::{CommandId, NoticeId};
use onsale_testkit::spawn::Signal;
use onsale_testkit::{Answer, Buyer};
use onsale_workers::outbox::system;
use reqwest::Method;
use rooms::{access_codes, draws, passes, rooms};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The codes that were met, with the status of each.
#[derive(Default)]
struct Met(BTreeMap<String, u16>);

impl Met {
    #[track_caller]
    fn expect(&mut self, answer: Answer, code: &str) {
        let answer = answer.clone().expect_problem(answer.status.as_u16(), code);
        for member in ["type", "title", "status", "code", "retryable", "traceId"] {
            assert!(
                !answer.body[member].is_null(),
                "{member} is missing: {answer:?}"
            );
        }
        assert_eq!(answer.body["status"], answer.status.as_u16(), "{answer:?}");
        if [429, 503].contains(&answer.status.as_u16()) {
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        }
        self.0.insert(code.to_owned(), answer.status.as_u16());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_is_met_over_http() {
    let settings = with_gateway()
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 1500)
        .setting("ONSALE_BODY_TIMEOUT_MS", 300)
        .setting("ONSALE_SCHEDULE_IN_FLIGHT_MAX", 3)
        .setting("ONSALE_OPEN_CHARGES_MAX", 1)
        .setting("ONSALE_SIGN_IN_ACCOUNT_PER_MIN", 1)
        .setting("ONSALE_SIGN_IN_ACCOUNT_BURST", 1);
    let mut hall = Hall::open_with(settings).await;
    let mut met = Met::default();
    requests(&mut hall, &mut met).await;
    identity(&mut hall, &mut met).await;
    seats(&mut hall, &mut met).await;
    rooms(&mut hall, &mut met).await;
    access_codes(&mut hall, &mut met).await;
    passes(&mut hall, &mut met).await;
    payment_on_its_way(&mut hall, &mut met).await;
    money(&mut hall, &mut met).await;
    orders(&mut hall, &mut met).await;
    draws(&mut hall, &mut met).await;
    layouts(&mut hall, &mut met).await;
    dead_letters(&mut hall, &mut met).await;
    hung_worker(&mut hall, &mut met).await;
    broken_database(&mut hall, &mut met).await;
    drop(hall);
    without_gateway(&mut met).await;
    without_cards(&mut met).await;

    let declared: BTreeMap<String, u16> = Code::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), code.status().as_u16()))
        .collect();
    assert_eq!(met.0, declared);
}

/// A notice to the owner of seats, put in by hand; waits until it is applied.
async fn tell(hall: &mut Hall, kind: impl FnOnce(NoticeId) -> Kind) {
    let notice = uuid::Uuid::now_v7();
    let kind = kind(NoticeId(notice));
    let schedule = kind.schedule_id();
    let command = system::command(CommandId(notice), kind);
    let payload: String = encode(&command)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    hall.sql(&format!(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload) \
         VALUES ('{notice}', 'seats', '{schedule}', decode('{payload}', 'hex'))"
    ))
    .await;
    let open = format!(
        "SELECT count(*) AS n FROM notice WHERE notice_id = '{notice}' AND done_at IS NULL"
    );
    hall.becomes(&open, 0).await;
}

/// What is wrong with a request before anybody looks at what it wants.
async fn requests(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let raw = |body: &'static str, kind: &'static str| {
        api.request(Method::POST, "/sessions")
            .header("content-type", kind)
            .body(body)
    };
    met.expect(
        api.send(raw("{", "application/json")).await,
        "malformed-json",
    );
    met.expect(
        api.send(raw("{}", "text/plain")).await,
        "unsupported-media-type",
    );
    let body = json!({ "email": "a@example.com", "password": "long enough", "admin": true });
    met.expect(
        api.post(&buyer, "/sessions", "some-key", &body).await,
        "validation-failed",
    );
    let body = json!({ "email": "x".repeat(100_000), "password": "long enough" });
    met.expect(
        api.post(&buyer, "/sessions", "some-key", &body).await,
        "body-too-large",
    );
    // Dates and cursors that no database knows.
    for query in [
        "from=-9999-01-01",
        "to=99999-01-01",
        "cursor=gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let answer = api.get(None, &format!("/concerts?{query}")).await;
        met.expect(answer, "validation-failed");
    }
    met.expect(api.get(None, "//no/such/thing").await, "not-found");
    let answer = api.send(api.request(Method::PUT, "/concerts")).await;
    assert!(answer.headers.contains_key("allow"), "{answer:?}");
    met.expect(answer, "method-not-allowed");
    let request = api
        .request(Method::GET, "/concerts")
        .header("x-long", "x".repeat(15_000));
    let request = request.header("x-longer", "x".repeat(15_000));
    met.expect(api.send(request).await, "headers-too-large");
    let request = api.request(Method::GET, "/concerts");
    let request = request.header("accept", "text/html");
    met.expect(api.send(request).await, "not-acceptable");
    slow_body(hall, met).await;

    let reserve = json!({ "scheduleId": uuid::Uuid::now_v7(), "seats": ["A-1-1"] });
    let request = api
        .request(Method::POST, "/reservations")
        .bearer_auth(&buyer.token);
    met.expect(
        api.send(request.json(&reserve)).await,
        "idempotency-key-missing",
    );
    let answer = api.post(&buyer, "/reservations", "short", &reserve).await;
    met.expect(answer, "idempotency-key-invalid");
}

/// A body that is announced and doesn't come; by hand, since no client does so.
async fn slow_body(hall: &Hall, met: &mut Met) {
    let addr = hall.system.ingresses[0].http_addr.expect("an address");
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // The server may reset the connection once it has answered.
    while let Ok(1..) = stream.read_buf(&mut answer).await {}
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 408"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).expect(body);
    assert_eq!(body["code"], "request-timeout", "{answer}");
    met.0.insert("request-timeout".to_owned(), 408);
}

/// Who asks.
async fn identity(hall: &mut Hall, met: &mut Met) {
    let api = hall.api.clone();
    met.expect(api.get(None, "/users/me").await, "token-missing");
    let mut forged = hall.buyer();
    forged.token.push('x');
    met.expect(api.get(Some(&forged), "/users/me").await, "token-invalid");
    met.expect(
        api.get(Some(&hall.expired_buyer()), "/users/me").await,
        "token-expired",
    );
    let sign_up = json!({ "email": "taken@example.com", "name": "T", "password": "long enough" });
    let nobody = hall.buyer();
    api.post(&nobody, "/users", "first-key", &sign_up)
        .await
        .expect(201);
    met.expect(
        api.post(&nobody, "/users", "second-key", &sign_up).await,
        "email-taken",
    );
    let sign_in = json!({ "email": "taken@example.com", "password": "a wrong one" });
    let answer = api.post(&nobody, "/sessions", "third-key", &sign_in).await;
    met.expect(answer, "credentials-invalid");
    let answer = api.post(&nobody, "/sessions", "third-key", &sign_in).await;
    met.expect(answer, "rate-limited");
}

/// Who gets a seat.
async fn seats(hall: &mut Hall, met: &mut Met) {
    let (api, buyer, other) = (hall.api.clone(), hall.buyer(), hall.buyer());
    let date = hall.date(10).await;
    met.expect(api.hold(&buyer, date, &["Z-1-1"]).await, "unknown-seat");
    let held = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    met.expect(api.hold(&other, date, &["A-1-1"]).await, "seat-unavailable");
    let id = crate::hall::reservation(&held.body);
    let path = format!("/reservations/{id}/extension");
    let extended = api.post(&buyer, &path, "the-time-key", &json!(null)).await;
    met.expect(extended, "extension-limit-reached");
    let path = format!("/admin/schedules/{date}");
    let careful = json!({ "preventOrphanSeats": true });
    crate::catalogue::patch(&api, &hall.admin(), &path, &careful)
        .await
        .expect(200);
    met.expect(api.hold(&other, date, &["A-1-3"]).await, "orphan-seat");
    let many = ["A-1-2", "A-1-3", "A-1-4", "A-1-5", "A-1-6"];
    met.expect(api.hold(&other, date, &many).await, "seat-limit-exceeded");
    let path = "/reservations";
    let first = json!({ "scheduleId": date, "seats": ["A-1-7"] });
    let second = json!({ "scheduleId": date, "seats": ["A-1-8"] });
    api.post(&other, path, "the-same-key", &first)
        .await
        .expect(201);
    let answer = api.post(&other, path, "the-same-key", &second).await;
    met.expect(answer, "idempotency-key-reused");
    let closed = hall
        .date_with(
            5,
            Policy {
                state: SaleState::Closed,
                ..open_policy()
            },
        )
        .await;
    met.expect(api.hold(&buyer, closed, &["A-1-1"]).await, "sale-closed");
    let later = hall
        .date_with(
            5,
            Policy {
                booking_opens_at: soon(60),
                ..open_policy()
            },
        )
        .await;
    met.expect(api.hold(&buyer, later, &["A-1-1"]).await, "sale-not-open");

    api.charge(&buyer, 50_000).await.expect(201);
    api.pay(&buyer, reservation(&held.body)).await.expect(201);
    met.expect(
        api.pay(&buyer, reservation(&held.body)).await,
        "already-paid",
    );
    let path = format!("/reservations/{}", reservation(&held.body));
    met.expect(
        api.delete(&buyer, &path).await,
        "reservation-state-conflict",
    );
    let never = json!({ "cancellation": { "untilSecondsBefore": null } });
    let date = format!("/admin/schedules/{date}");
    crate::catalogue::patch(&api, &hall.admin(), &date, &never)
        .await
        .expect(200);
    let path = format!("{path}/cancellation");
    let body = json!({});
    let answer = api.post(&buyer, &path, "cancel-key", &body).await;
    met.expect(answer, "cancellation-closed");
}

/// Layouts that can't be what somebody wants them to be.
async fn layouts(hall: &mut Hall, met: &mut Met) {
    let (api, buyer, admin) = (hall.api.clone(), hall.buyer(), hall.admin());
    let date = hall.date(5).await;
    let put = |by: &Buyer, csv: &'static str| {
        let path = format!("/admin/schedules/{date}/layout");
        let request = api.request(Method::PUT, &path).bearer_auth(&by.token);
        api.send(request.header("content-type", "text/csv").body(csv))
    };
    let layout = "section,row,number,grade,price\nA,1,1,R,1\n";
    met.expect(put(&buyer, layout).await, "forbidden-role");
    // Asked for by a layout that is replaced before the owner gets to it.
    hall.system.workers[0].signal(Signal::SIGSTOP);
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let request = api.post_request(&buyer, "/reservations", "in-between", &body);
    let open = api.send(request.header("prefer", "respond-async")).await;
    let location = open.expect(202).headers["location"].clone();
    put(&admin, layout).await.expect(200);
    hall.system.workers[0].signal(Signal::SIGCONT);
    let location = location.to_str().expect("ASCII");
    let decided = crate::catalogue::decided(&api, &buyer, location).await;
    assert_eq!(
        (&decided["status"], &decided["body"]["code"]),
        (&json!(409), &json!("layout-changed")),
    );
    met.0.insert("layout-changed".to_owned(), 409);

    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let other = "section,row,number,grade,price\nA,1,1,R,2\n";
    met.expect(put(&admin, other).await, "layout-in-use");
}

/// The seats' owner stops for a while, and nobody else is there.
async fn hung_worker(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(10).await;
    api.hold(&buyer, date, &["A-1-10"]).await.expect(201);
    hall.system.workers[0].signal(Signal::SIGSTOP);
    // Three may wait for their outcome, a fourth is refused at once.
    let four = (1..=4).map(|n| {
        let (api, buyer, label) = (api.clone(), buyer.clone(), format!("A-1-{n}"));
        async move { api.hold(&buyer, date, &[&label]).await }
    });
    let (waited, refused): (Vec<_>, Vec<_>) = futures_util::future::join_all(four)
        .await
        .into_iter()
        .partition(|answer| answer.status == 202);
    assert_eq!(
        (waited.len(), refused.len()),
        (3, 1),
        "{waited:?} {refused:?}"
    );
    for answer in refused {
        met.expect(answer, "overloaded");
    }
    hall.system.workers[0].signal(Signal::SIGCONT);
    let open = waited
        .into_iter()
        .find(|a| a.status == 202)
        .expect("an open outcome");
    let location = open.headers["location"].to_str().expect("ASCII").to_owned();
    let path = location
        .strip_prefix("/api/v1")
        .expect("a path of ours")
        .to_owned();
    let decided = tokio::time::timeout(crate::hall::PATIENCE, async {
        loop {
            let answer = api.get(Some(&buyer), &path).await;
            if answer.status != 202 {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    met.expect(decided.await.expect("decided"), "command-expired");
}

/// Bytes that were no message.
async fn dead_letters(hall: &mut Hall, met: &mut Met) {
    let id = uuid::Uuid::now_v7();
    hall.sql(&format!(
        "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, \
                                  error, dead_letter_id) \
         VALUES ('ledger', -1, 0, 1, -1, '', '', '{id}')"
    ))
    .await;
    let path = format!("/admin/dead-letters/{id}/retry");
    let (admin, body) = (hall.admin(), json!({}));
    let answer = hall.api.post(&admin, &path, "unused-key", &body).await;
    met.expect(answer, "dead-letter-unreadable");
}

/// The database lacks a table, then refuses everybody.
async fn broken_database(hall: &mut Hall, met: &mut Met) {
    let buyer = hall.buyer();
    hall.sql("ALTER TABLE payment RENAME TO payment_gone").await;
    met.expect(
        hall.api.get(Some(&buyer), "/payments").await,
        "internal-error",
    );
    hall.sql("ALTER TABLE payment_gone RENAME TO payment").await;
    let name = hall.system.db.name().to_owned();
    let server = &onsale_testkit::shared()
        .await
        .expect("servers")
        .database_url;
    let mut admin = onsale_platform::db::connect(server)
        .await
        .expect("a connection");
    let refuse = format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    admin.batch_execute(&refuse).await.expect("refused");
    met.expect(
        hall.api.get(Some(&buyer), "/payments").await,
        "dependency-unavailable",
    );
    // And it heals.
    let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    admin.batch_execute(&allow).await.expect("allowed");
    let healed = tokio::time::timeout(crate::hall::PATIENCE, async {
        while hall.api.get(Some(&buyer), "/payments").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    healed.await.expect("healed");
}
