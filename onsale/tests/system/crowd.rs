//! A crowd before a small hall, by the real command: all is sold, in order, and the books are right.

use crate::hall::{Hall, soon};
use crate::queue_policy::amend;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

/// Seats, and who wants them.
const SEATS: u32 = 40;
const BUYERS: u64 = 150;

fn count(summary: &Value, pointer: &str) -> u64 {
    let told = summary.pointer(pointer).and_then(Value::as_u64);
    told.unwrap_or_else(|| panic!("{pointer} of {summary}"))
}

/// The real command, with these arguments besides; what it tells. It must have met nothing wrong.
async fn crowd(hall: &Hall, date: Uuid, buyers: u64, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    let (buyers, schedule, api) = (buyers.to_string(), date.to_string(), hall.system.url(0));
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
        .args(["--timeout", "120"])
        .args(more)
        .env("no_proxy", "*")
        .kill_on_drop(true);
    let output = command.output().await.expect("the command");
    let told = String::from_utf8_lossy(&output.stderr);
    let summary: Value = serde_json::from_slice(&output.stdout).expect(&told);
    assert!(output.status.success(), "{summary}\n{told}");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_drawn_let_in_in_order_and_buys_everything() {
    let mut hall = Hall::open().await;
    let date = hall.date(SEATS).await;
    let policy = json!({ "mode": "DRAW", "opensAt": soon(12), "capacity": 20, "ratePerSecond": 15,
                         "passSeconds": 20, "presenceSeconds": 15 });
    amend(&hall, date, policy).await;
    let summary = crowd(
        &hall,
        date,
        BUYERS,
        &["--arrive-within", "5", "--patience", "8", "--seed", "1"],
    )
    .await;
    for (pointer, expected) in [
        ("/buyers", BUYERS),
        ("/guests/joined", 0),
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
    // All who know their place were judged.
    assert!(count(&summary, "/judged") > BUYERS / 2, "{summary}");
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

/// All are patient and want one seat.
const BEHAVING: [&str; 12] = [
    "--impatient",
    "0",
    "--silent",
    "0",
    "--greedy",
    "0",
    "--seats-per-buyer",
    "1",
    "--arrive-within",
    "4",
    "--seed",
    "2",
];

/// An account that administers, as arguments.
async fn manager(hall: &mut Hall) -> [&'static str; 4] {
    let (email, password) = ("manager@example.com", "a long enough password");
    let account = json!({ "email": email, "name": "Manager", "password": password });
    let request = hall.api.request(Method::POST, "/users");
    let request = request
        .header("idempotency-key", "the-manager")
        .json(&account);
    let _ = hall.api.send(request).await.expect(201);
    hall.sql(&format!(
        "UPDATE app_user SET role = 'admin' WHERE email = '{email}'"
    ))
    .await;
    ["--admin-email", email, "--admin-password", password]
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_presale_buy_in_their_order_before_the_room_opens() {
    const GUESTS: u64 = 30;
    let mut hall = Hall::open().await;
    let date = hall.date(SEATS).await;
    let policy = json!({ "mode": "DRAW", "opensAt": soon(3600), "capacity": 20,
                         "ratePerSecond": 4, "passSeconds": 20, "presenceSeconds": 15 });
    amend(&hall, date, policy).await;
    let manager = manager(&mut hall).await;
    let guests = GUESTS.to_string();
    let kind = ["--guests", &guests, "--guests-kind", "presale"];
    let more = [&kind[..], &manager, &BEHAVING].concat();
    let summary = crowd(&hall, date, GUESTS, &more).await;
    for (pointer, expected) in [
        ("/guests/joined", GUESTS),
        ("/guests/admitted", GUESTS),
        ("/guests/sold", GUESTS),
        ("/judged", GUESTS),
        ("/unfair", 0),
        ("/unexpected", 0),
    ] {
        assert_eq!(count(&summary, pointer), expected, "{pointer} of {summary}");
    }
    let lobbies = "SELECT count(*) AS n FROM waiting_room WHERE closed_at IS NULL";
    assert_eq!(hall.number(lobbies).await, 1);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_crowd_are_let_in_first_and_buy_before_the_others() {
    const GUESTS: u64 = 10;
    const ALL: u64 = 70;
    let mut hall = Hall::open().await;
    let date = hall.date(SEATS).await;
    let policy = json!({ "mode": "DRAW", "opensAt": soon(10), "capacity": 20, "ratePerSecond": 6,
                         "passSeconds": 20, "presenceSeconds": 15 });
    amend(&hall, date, policy).await;
    let manager = manager(&mut hall).await;
    let guests = GUESTS.to_string();
    let more = [&["--guests", &guests], &manager[..], &BEHAVING].concat();
    let summary = crowd(&hall, date, ALL, &more).await;

    // There are more who want seats than seats. Each guest has one: by the rate, nothing is left five
    // seconds after the last of them was let in at the earliest, and by then it has asked.
    for (pointer, expected) in [
        ("/buyers", ALL),
        ("/guests/joined", GUESTS),
        ("/guests/admitted", GUESTS),
        ("/guests/sold", GUESTS),
        ("/outcomes/sold", SEATS.into()),
        ("/outcomes/soldOut", ALL - u64::from(SEATS)),
        ("/unfair", 0),
        ("/unexpected", 0),
    ] {
        assert_eq!(count(&summary, pointer), expected, "{pointer} of {summary}");
    }
    for count in [
        "SELECT sum(used) AS n FROM access_code",
        "SELECT count(*) AS n FROM ticket WHERE access_code_id IS NOT NULL",
    ] {
        assert_eq!(hall.number(count).await, 10, "{count}");
    }
    hall.assert_sound().await;
}
