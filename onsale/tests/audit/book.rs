//! The half of P2 that needs the payment gateway: a real process with a book, and a port that nobody
//! answers at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use diesel_async::SimpleAsyncConnection;
use onsale::audit::{self, NOT_COMPARED, Options, Report};
use onsale::when;
use onsale_schema::invariant::Invariant;
use onsale_testkit::system::{GATEWAY_SECRET, Process};
use onsale_testkit::{Scratch, TestDb};
use onsale_workers::config::{self, Config};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::rig::{healthy, report};

/// An address of which nobody has heard that anybody answers there.
const NOBODY: &str = "http://127.0.0.1:9";

/// Settings for a gateway.
pub fn settings(url: &str) -> config::Gateway {
    let arguments = [
        "test",
        "--database-url",
        "postgres://nobody",
        "--gateway-url",
        url,
        "--gateway-secret",
        GATEWAY_SECRET,
    ];
    <Config as clap::Parser>::parse_from(arguments).gateway
}

fn onsale_audit(database: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onsale"))
        .args(["audit", "--database-url", database, "--gateway-url", NOBODY])
        .args(more)
        .env("ONSALE_GATEWAY_SECRET", GATEWAY_SECRET)
        .output()
        .unwrap()
}

fn p2(report: &Report) -> String {
    let mut checks = report.checks.iter();
    let p2 = checks.find(|check| check.invariant == Invariant::P2);
    p2.and_then(|check| check.note.clone()).unwrap_or_default()
}

/// A gateway that can't be asked takes nothing from the table, and is no success.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_gateway_the_table_is_there_and_says_so() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    conn.batch_execute("SELECT captured()").await.unwrap();
    let found = onsale_audit(&url, &[]);
    let text = String::from_utf8_lossy(&found.stdout);
    assert_eq!(
        found.status.code(),
        Some(i32::from(NOT_COMPARED)),
        "{found:?}"
    );
    for invariant in Invariant::ALL {
        assert!(text.contains(invariant.statement()), "{invariant}: {text}");
    }
    assert!(text.contains("P2  IN PART"), "{text}");
    assert!(
        text.contains("(NOT COMPARED with the gateway's book: reading it: "),
        "{text}"
    );
    assert!(!text.contains(GATEWAY_SECRET), "{text}");

    // A violation weighs more.
    conn.batch_execute("DELETE FROM seat_claim WHERE seat_no = 2")
        .await
        .unwrap();
    let found = onsale_audit(&url, &["--json"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let said: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(said["ok"], false, "{said}");
    assert_eq!(said["notCompared"][0]["id"], "P2", "{said}");
    assert_eq!(
        said["checks"].as_array().unwrap().len(),
        Invariant::ALL.len()
    );
}

/// What our rows have from before the window is not looked for in the book, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn the_book_is_compared_from_a_time_on() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    conn.batch_execute("SELECT captured()").await.unwrap();
    assert!(report(&url).await.ok());
    let scratch = Scratch::new("audit").unwrap();
    let gateway = Process::gateway(scratch.path(), None).await.unwrap();
    let addr = gateway.http_addr.unwrap();
    let audit = async |since: Option<&str>| {
        let options = Options {
            gateway_since: since.map(|text| when::parse(text).unwrap()),
            ..Options::new(&url).with_gateway(settings(&format!("http://{addr}")))
        };
        audit::audit(&options).await.unwrap()
    };

    // The order is of the first of January; this gateway has never heard of it.
    let by_default = audit(None).await;
    assert!(by_default.ok(), "{by_default}");
    let note = p2(&by_default);
    assert!(
        note.starts_with("compared in part, with 0 entries of the gateway's book since "),
        "{note}"
    );
    assert!(note.contains("of 1 orders"), "{note}");
    let since_then = audit(Some("2025-12-31T00:00:00Z")).await;
    assert_eq!(since_then.violated(), ["P2"], "{since_then}");
    assert_eq!(
        p2(&since_then),
        "compared with 0 entries of the gateway's book"
    );

    // A refund in the window is looked for, however old the order is.
    conn.batch_execute(
        "INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at,
                             done_at)
         VALUES (id(944), id(945), id(3), id(931), 'GATEWAY', 400, 'DONE', now(), now());
         UPDATE payment_order SET refunded = 400 WHERE order_id = id(931)",
    )
    .await
    .unwrap();
    let missing = audit(None).await;
    let text = missing.to_string();
    assert!(text.contains("the gateway gave 0 KRW of order"), "{text}");
    assert!(!text.contains("the gateway captured"), "{text}");
    let afterwards = audit(Some("0s")).await;
    let text = afterwards.to_string();
    assert!(!text.contains("the gateway gave"), "{text}");
}

/// The payment of an order, as a gateway keeps it on the disk, by these entries of its book.
fn payment(order: u128, entries: &[(u128, i64, &str)]) -> Value {
    let own = entries.iter().filter(|entry| entry.0 == order);
    let (captured, given): (Vec<&(u128, i64, &str)>, Vec<_>) = own.partition(|entry| entry.1 > 0);
    let back: i64 = given.iter().map(|entry| -entry.1).sum();
    let (_, amount, at) = captured[0];
    let cancels = given.iter().enumerate().map(|(no, entry)| {
        json!({ "transactionKey": format!("c{order}-{no}"), "cancelAmount": -entry.1,
            "cancelReason": "by hand", "canceledAt": entry.2, "cancelStatus": "DONE" })
    });
    let status = match amount - back {
        0 => "CANCELED",
        _ if back > 0 => "PARTIAL_CANCELED",
        _ => "DONE",
    };
    json!({ "paymentKey": format!("p{order}"), "orderId": Uuid::from_u128(order), "status": status,
        "amount": amount, "balance": amount - back, "requestedAt": at, "approvedAt": at,
        "cancels": cancels.collect::<Vec<_>>() })
}

/// Entries of a book as a gateway keeps it on the disk: of which order, what (above zero it was captured,
/// below it was given back) and when; and the payments that they are of.
pub fn write_book(dir: &Path, entries: &[(u128, i64, &str)]) {
    let orders: BTreeSet<u128> = entries.iter().map(|entry| entry.0).collect();
    let payments = orders.into_iter().map(|order| {
        let payment = payment(order, entries);
        format!("{}\n", json!({ "payment": payment }))
    });
    let lines = entries.iter().enumerate().map(|(no, (order, amount, at))| {
        let transaction = json!({
            "transactionKey": format!("t{no}"), "paymentKey": format!("p{order}"),
            "orderId": Uuid::from_u128(*order), "status": if *amount > 0 { "DONE" } else { "CANCELED" },
            "transactionAt": at, "currency": "KRW", "amount": amount.abs(),
        });
        format!("{}\n", json!({ "transaction": transaction }))
    });
    let dir = dir.join("gateway");
    fs::create_dir_all(&dir).unwrap();
    let lines = payments.chain(lines);
    fs::write(dir.join("book.jsonl"), lines.collect::<String>()).unwrap();
}

/// An order that nobody confirmed here was captured all the same, and was given back by hand; another had
/// a refund before the window, and has had one more since that nobody here asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_we_had_no_part_in_is_seen_by_what_is_left_of_it() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    conn.batch_execute(
        "SELECT captured();
         INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                    fingerprint, amount, status, created_at, updated_at)
         VALUES (id(951), id(1003), id(16), id(2), id(952), id(0), 1000, 'READY', at(12), at(12));
         INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at,
                             done_at)
         VALUES (id(944), id(945), id(3), id(931), 'GATEWAY', 400, 'DONE', at(30), at(31));
         UPDATE payment_order SET refunded = 400 WHERE order_id = id(931)",
    )
    .await
    .unwrap();
    const WHOLE: &str = "2025-12-31T00:00:00Z";
    const LATER: &str = "2026-01-02T00:00:00Z";
    let (confirmed, behind, purged) = (931, 951, 981);
    let right = [
        (confirmed, 1000, "2026-01-01T00:00:20Z"),
        (behind, 1000, "2026-01-01T00:00:20Z"),
        (purged, 700, "2026-01-01T00:00:20Z"),
        (purged, -700, "2026-01-01T00:00:25Z"),
        (confirmed, -400, "2026-01-01T00:00:30Z"),
        (behind, -1000, "2026-01-03T00:00:00Z"),
    ];
    let once_more = (confirmed, -400, "2026-01-03T00:00:00Z");
    let captured_again = (confirmed, 1000, "2026-01-03T00:00:00Z");
    for (what, more, since, differences) in [
        ("all of it is right", None, WHOLE, 0),
        ("what is left in the window is", None, LATER, 0),
        ("given back again", Some(once_more), WHOLE, 1),
        ("given back again, in the window", Some(once_more), LATER, 1),
        (
            "captured again, in the window",
            Some(captured_again),
            LATER,
            1,
        ),
    ] {
        let scratch = Scratch::new("audit").unwrap();
        let entries: Vec<_> = right.into_iter().chain(more).collect();
        write_book(scratch.path(), &entries);
        let gateway = Process::gateway(scratch.path(), None).await.unwrap();
        let addr = gateway.http_addr.unwrap();
        let options = Options {
            gateway_since: Some(when::parse(since).unwrap()),
            ..Options::new(&url).with_gateway(settings(&format!("http://{addr}")))
        };
        let report = audit::audit(&options).await.unwrap();
        let said = report.to_string();
        assert_eq!(
            said.matches("the gateway ").count(),
            differences,
            "{what}: {said}"
        );
        assert!(
            p2(&report).contains("entries of the gateway's book"),
            "{what}: {said}"
        );
    }
}

/// What the window of the book alone does not tell: money of odd orders that was captured before it, orders
/// that are purged, and what was given back by hand before it was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_window_does_not_tell_is_looked_up() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    conn.batch_execute(
        "SELECT captured();
         INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at,
                             done_at)
         VALUES (id(944), id(945), id(3), id(931), 'GATEWAY', 400, 'DONE', now(), now());
         UPDATE payment_order SET refunded = 400 WHERE order_id = id(931);
         INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                    fingerprint, amount, status, created_at, updated_at, odd_at)
         VALUES (id(951), id(1003), id(16), id(2), id(952), id(0), 1000, 'READY', at(12), at(12),
                 now())",
    )
    .await
    .unwrap();
    const LATER: &str = "2026-01-02T00:00:00Z";
    let (paid, odd, purged) = (931, 951, 981);
    let captured = [
        (paid, 1000, "2026-01-01T00:00:20Z"),
        (odd, 700, "2026-01-01T00:00:20Z"),
        (purged, 500, "2026-01-01T00:00:20Z"),
    ];
    let by_hand = (paid, -400, "2026-01-01T00:00:30Z");
    let odd_back = (odd, -700, "2026-01-01T00:00:30Z");
    let odd_part = (odd, -300, "2026-01-01T00:00:30Z");
    let odd_part_since = (odd, -300, "2026-01-03T00:00:00Z");
    let purged_back = (purged, -500, "2026-01-03T00:00:00Z");
    let purged_part = (purged, -200, "2026-01-03T00:00:00Z");
    for (what, given, says) in [
        ("put right", &[by_hand, odd_back, purged_back][..], &[][..]),
        (
            "an odd order as it is",
            &[by_hand, purged_back],
            &["the gateway captured 700 KRW of order"],
        ),
        (
            "an odd order that was given back in part",
            &[by_hand, odd_part, purged_back],
            &[
                "the gateway captured 700 KRW of order",
                "the gateway gave 300 KRW of order",
            ],
        ),
        (
            "the same in the window",
            &[by_hand, odd_part_since, purged_back],
            &["the gateway captured 700 KRW and gave 300 KRW back of order"],
        ),
        (
            "a purged order that was given back in part",
            &[by_hand, odd_back, purged_part],
            &["the gateway captured 500 KRW and gave 200 KRW back of order"],
        ),
        (
            "a refund that was never made",
            &[odd_back, purged_back],
            &["the gateway gave 0 KRW of order"],
        ),
    ] {
        let scratch = Scratch::new("audit").unwrap();
        let mut entries = captured.to_vec();
        entries.extend(given);
        entries.sort_by_key(|entry| entry.2);
        write_book(scratch.path(), &entries);
        let gateway = Process::gateway(scratch.path(), None).await.unwrap();
        let addr = gateway.http_addr.unwrap();
        let options = Options {
            gateway_since: Some(when::parse(LATER).unwrap()),
            ..Options::new(&url).with_gateway(settings(&format!("http://{addr}")))
        };
        let report = audit::audit(&options).await.unwrap();
        let said = report.to_string();
        assert!(report.not_compared.is_empty(), "{what}: {said}");
        assert_eq!(
            said.matches("the gateway captured").count() + said.matches("the gateway gave").count(),
            says.len(),
            "{what}: {said}"
        );
        for words in says {
            assert!(said.contains(words), "{what}: {said}");
        }
        assert_eq!(report.ok(), says.is_empty(), "{what}: {said}");
    }
}
