//! The operator's commands as an operator runs them: what they print and how they end.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::process::{Command, Output};

use diesel_async::SimpleAsyncConnection;
use onsale_platform::db;
use onsale_testkit::TestDb;
use serde_json::{Value, json};

fn onsale(database_url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command
        .args(args)
        .env("DATABASE_URL", database_url)
        .env_remove("NATS_URL")
        .output()
        .unwrap()
}

#[track_caller]
fn ends(output: Output, status: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_an_empty_database_to_an_audited_demo() {
    let database = TestDb::create().await.unwrap();
    let url = database.url();
    let run = |args: &[&str]| onsale(url, args);

    let unmigrated = run(&["audit"]);
    assert!(String::from_utf8_lossy(&unmigrated.stderr).contains("onsale migrate"));
    ends(unmigrated, 1);
    assert!(ends(run(&["migrate", "--check"]), 1).contains("missing  2026"));
    assert!(ends(run(&["migrate"]), 0).contains("applied  2026"));
    assert!(ends(run(&["migrate"]), 0).contains("nothing to do"));
    assert!(ends(run(&["migrate", "--check"]), 0).contains("up to date"));

    let seeded = ends(run(&["seed"]), 0);
    assert!(
        seeded.contains("buyer01@example.com to buyer50@example.com"),
        "{seeded}"
    );
    assert!(ends(run(&["seed"]), 0).contains("nothing to do"));

    let table = ends(run(&["audit"]), 0);
    assert!(
        table.contains("all 17 hold") && table.contains("not compared"),
        "{table}"
    );
    let report: Value = serde_json::from_str(&ends(run(&["audit", "--json"]), 0)).unwrap();
    assert_eq!(report["ok"], json!(true));
    let ids = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| &check["id"]);
    let expected = [
        "S1", "S2", "S3", "S4", "S5", "Q1", "Q2", "Q3", "L1", "L2", "P1", "P2", "P3", "I1", "F1",
        "F2", "O1",
    ];
    assert!(ids.eq(expected.iter()), "{report}");

    let mut conn = db::connect(url).await.unwrap();
    conn.batch_execute("UPDATE account SET balance = balance + 1 WHERE balance IS NOT NULL")
        .await
        .unwrap();
    let report: Value = serde_json::from_str(&ends(run(&["audit", "--json"]), 1)).unwrap();
    assert_eq!(report["ok"], json!(false));
    let mut checks = report["checks"].as_array().unwrap().iter();
    let balances = checks.find(|check| check["id"] == "L1").unwrap();
    assert_eq!(balances["violations"], json!(50));
    let table = ends(run(&["audit"]), 1);
    assert!(
        table.contains("VIOLATED") && table.contains("and 45 more"),
        "{table}"
    );
}

#[test]
fn without_a_system_each_says_what_to_do() {
    let scratch = onsale_testkit::Scratch::new("commands").unwrap();
    for command in ["migrate", "seed", "audit", "demo", "crowd", "restored"] {
        let output = Command::new(env!("CARGO_BIN_EXE_onsale"))
            .arg(command)
            .args(["--data-dir".as_ref(), scratch.path().as_os_str()])
            .env_remove("DATABASE_URL")
            .env_remove("NATS_URL")
            .env_remove("ONSALE_API")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("make up"), "{command}: {error}");
        ends(output.clone(), 1);
    }
}

#[test]
fn a_database_that_is_away_is_an_error_and_no_hang() {
    let port = onsale_testkit::ports::free().unwrap();
    let url = format!("postgres://onsale@127.0.0.1:{port}/onsale");
    for command in ["migrate", "seed", "audit"] {
        let output = onsale(&url, &[command]);
        assert!(!output.stderr.is_empty());
        ends(output, 1);
    }
}
