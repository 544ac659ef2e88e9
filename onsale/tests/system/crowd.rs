//! A crowd before a small hall, by the real command: all is sold, in order, and the books are right.

use crate::hall::{Hall, soon};
use crate::queue_policy::amend;
use serde_json::{Value, json};
use tokio::process::Command;

/// Seats, and who wants them.
const SEATS: u32 = 40;
const BUYERS: u64 = 150;

fn count(summary: &Value, pointer: &str) -> u64 {
    let told = summary.pointer(pointer).and_then(Value::as_u64);
    told.unwrap_or_else(|| panic!("{pointer} of {summary}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_drawn_let_in_in_order_and_buys_everything() {
    let mut hall = Hall::open().await;
    let date = hall.date(SEATS).await;
    let policy = json!({ "mode": "DRAW", "opensAt": soon(12), "capacity": 20, "ratePerSecond": 15,
                         "passSeconds": 20, "presenceSeconds": 10 });
    amend(&hall, date, policy).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    let (buyers, schedule, api) = (BUYERS.to_string(), date.to_string(), hall.system.url(0));
    command
        .args([
            "crowd",
            "--json",
            "--buyers",
            &buyers,
            "--schedule",
            &schedule,
        ])
        .args(["--api", &api, "--database-url", hall.system.db.url()])
        .args(["--arrive-within", "5", "--patience", "8", "--seed", "1"])
        .args(["--timeout", "120"])
        .env("no_proxy", "*")
        .kill_on_drop(true);
    let output = command.output().await.expect("the command");
    let told = String::from_utf8_lossy(&output.stderr);
    let summary: Value = serde_json::from_slice(&output.stdout).expect(&told);
    assert!(output.status.success(), "{summary}\n{told}");

    for (pointer, expected) in [
        ("/buyers", BUYERS),
        ("/seats/total", SEATS.into()),
        ("/seats/sold", SEATS.into()),
        ("/seats/bought", SEATS.into()),
        ("/unfair", 0),
        ("/unexpected", 0),
        ("/outcomes/failed", 0),
        ("/outcomes/refused", 0),
        ("/outcomes/unfinished", 0),
    ] {
        assert_eq!(count(&summary, pointer), expected, "{pointer} of {summary}");
    }
    // Of each kind there were some, and the greedy were told no.
    for pointer in [
        "/outcomes/sold",
        "/outcomes/soldOut",
        "/outcomes/gaveUp",
        "/outcomes/silent",
        "/tried",
        "/errors/queue-pass-required",
        "/errors/queue-ticket-invalid",
        "/errors/seat-unavailable",
    ] {
        assert!(count(&summary, pointer) > 0, "{pointer} of {summary}");
    }
    let joined = format!("SELECT count(*) AS n FROM ticket WHERE schedule_id = '{date}'");
    assert_eq!(hall.number(&joined).await, 150);
    let path = format!("/schedules/{date}/queue/draw");
    let drawn = hall.api.get(None, &path).await.expect(200);
    assert_eq!(drawn.body["size"], BUYERS);
    hall.assert_sound().await;
}
