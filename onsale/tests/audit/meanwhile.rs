//! Between the audit's snapshot, the gateway's book and the look at a payment, orders move on: that is no
//! difference, but what still differs is one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use diesel_async::SimpleAsyncConnection;
use onsale::audit::{self, Options, Report};
use onsale::when;
use onsale_platform::db;
use onsale_testkit::system::{GATEWAY_SECRET, Process};
use onsale_testkit::{Scratch, TestDb};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::book::{settings, write_book};
use crate::rig::healthy;

/// What happens once the book was read.
#[derive(Clone, Debug)]
struct Next {
    sql: String,
    /// What the gateway gives back of an order.
    given: Option<(u128, i64)>,
}

/// The way to a gateway.
struct Way {
    gateway: SocketAddr,
    database_url: String,
    next: Mutex<Option<Next>>,
}

impl Way {
    async fn go_on(&self, next: Next) {
        let mut conn = db::connect(&self.database_url).await.unwrap();
        conn.batch_execute(&next.sql).await.unwrap();
        if let Some((order, amount)) = next.given {
            let url = format!("http://{}/v1/payments/p{order}/cancel", self.gateway);
            let request = reqwest::Client::new().post(url);
            let given = request
                .basic_auth(GATEWAY_SECRET, Some(""))
                .json(&json!({ "cancelReason": "by us", "cancelAmount": amount }))
                .send();
            let given = given.await.unwrap();
            assert!(given.status().is_success(), "{given:?}");
        }
    }
}

/// Passes a question on to the gateway, and answers when what comes next has happened.
async fn pass(State(way): State<Arc<Way>>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().as_str();
    let asked = reqwest::Client::new().get(format!("http://{}{path}", way.gateway));
    let asked = asked.header(AUTHORIZATION, &request.headers()[AUTHORIZATION]);
    let answer = asked.send().await.unwrap();
    let status = answer.status();
    let body = answer.bytes().await.unwrap();
    if path.starts_with("/v1/transactions") {
        let next = way
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(next) = next {
            way.go_on(next).await;
        }
    }
    (status, body).into_response()
}

/// Audits a database against a book, while something happens.
async fn audited(url: &str, since: &str, book: &[(u128, i64, &str)], next: Next) -> Report {
    let scratch = Scratch::new("audit").unwrap();
    write_book(scratch.path(), book);
    let gateway = Process::gateway(scratch.path(), None).await.unwrap();
    let way = Way {
        gateway: gateway.http_addr.unwrap(),
        database_url: url.to_owned(),
        next: Mutex::new(Some(next)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let router = Router::new().fallback(pass).with_state(Arc::new(way));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let options = Options {
        gateway_since: Some(when::parse(since).unwrap()),
        ..Options::new(url).with_gateway(settings(&format!("http://{addr}")))
    };
    audit::audit(&options).await.unwrap()
}

const ROWS: &str = "
    SELECT captured();
    INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                               fingerprint, amount, status, created_at, updated_at)
    VALUES (id(951), id(1003), id(16), id(2), id(952), id(0), 1000, 'FAILED', at(12), at(12));
    INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, next_at, created_at)
    VALUES (id(944), id(945), id(3), id(931), 'GATEWAY', 400, 'PENDING', now(),
            '2026-01-03T00:00:00Z')";

const CAPTURED: &str =
    "UPDATE payment_order SET status = 'CAPTURED', captured = amount, updated_at = now()
                        WHERE order_id = id(951)";

/// The capture is older than the snapshot by the gateway's clock, and we have heard of it only since.
#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_read_again_before_it_is_said() {
    let book = [
        (931, 1000, "2026-01-01T00:00:20Z"),
        (951, 1000, "2026-01-01T00:00:20Z"),
    ];
    let too_much = format!(
        "{CAPTURED};
         INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at,
                             done_at)
         VALUES (id(946), id(951), id(2), id(951), 'GATEWAY', 1000, 'DONE', now(), now())"
    );
    let db = TestDb::create().await.unwrap();
    for (schema, what, sql, says) in [
        ("one", "heard of since", CAPTURED, None),
        (
            "two",
            "looked at since",
            "UPDATE payment_order SET step_no = step_no + 1, updated_at = now() WHERE order_id = id(951)",
            Some("the gateway captured 1000 KRW of order"),
        ),
        (
            "three",
            "given back since, as we say",
            too_much.as_str(),
            Some("the gateway gave 0 KRW of order"),
        ),
    ] {
        let (url, mut conn) = healthy(&db, schema).await;
        conn.batch_execute(ROWS).await.unwrap();
        let sql = sql.to_owned();
        let next = Next { sql, given: None };
        let report = audited(&url, "2025-12-31T00:00:00Z", &book, next).await;
        let said = report.to_string();
        assert!(report.not_compared.is_empty(), "{what}: {said}");
        let differences = said.matches("the gateway ").count();
        assert_eq!(differences, usize::from(says.is_some()), "{what}: {said}");
        assert!(said.contains(says.unwrap_or_default()), "{what}: {said}");
    }
}

/// An order that the window names, and that is read after it, has had more money back by then.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_order_that_the_book_names_may_be_ahead_of_it() {
    let book = [
        (931, 1000, "2026-01-01T00:00:20Z"),
        (931, -400, "2026-01-03T00:00:10Z"),
    ];
    const DONE: &str = "
        UPDATE refund SET status = 'DONE', done_at = now(), next_at = NULL WHERE refund_id = id(944);
        INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at,
                            done_at)
        VALUES (id(946), id(947), id(3), id(931), 'GATEWAY', 300, 'DONE', now(), now())";
    let db = TestDb::create().await.unwrap();
    for (schema, given, differences) in [("one", Some((931, 300)), 0), ("two", None, 1)] {
        let (url, mut conn) = healthy(&db, schema).await;
        conn.batch_execute(ROWS).await.unwrap();
        let sql = DONE.to_owned();
        let next = Next { sql, given };
        let report = audited(&url, "2026-01-02T00:00:00Z", &book, next).await;
        let said = report.to_string();
        assert!(report.not_compared.is_empty(), "{said}");
        let found = said.matches("the gateway ").count();
        assert_eq!(found, differences, "{given:?}: {said}");
    }
}
