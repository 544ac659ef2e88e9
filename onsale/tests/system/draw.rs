//! A draw on a real system, and whoever checks it: the command and the published script, from nothing
//! but what anybody may read.

use crate::access_codes;
use crate::bus::Bus;
use crate::hall::{Hall, PATIENCE};
use crate::queue_policy::{amend, join};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use onsale_schema::TicketId;
use onsale_schema::admission::Ticket;
use onsale_testkit::api::id;
use onsale_testkit::{Answer, Buyer};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinSet;
use uuid::Uuid;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/verify_draw.py");
/// People in a lobby.
const PEOPLE: usize = 700;
const FAR: &str = "2040-01-01T00:00:00Z";
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

fn path(date: Uuid) -> String {
    format!("/schedules/{date}/queue/draw")
}

async fn draw(hall: &Hall, date: Uuid) -> Value {
    hall.api.get(None, &path(date)).await.expect(200).body
}

/// Waits until a draw is so far.
async fn drawn(hall: &Hall, date: Uuid, state: &str) -> Value {
    let reached = tokio::time::timeout(PATIENCE, async {
        loop {
            let draw = draw(hall, date).await;
            if draw["state"] == state {
                return draw;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    reached.await.expect(state)
}

async fn put(hall: &Hall, by: &Buyer, path: &str, body: Value) -> Answer {
    let request = hall.api.request(Method::PUT, path).bearer_auth(&by.token);
    hall.api.send(request.json(&body)).await
}

/// A command that somebody runs who has an address and nothing else.
async fn run(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("no_proxy", "*")
        .env_remove("ONSALE_API");
    command.output().await.expect(program)
}

async fn verify(api: &str, date: Uuid, args: &[&str]) -> Output {
    let date = date.to_string();
    let all = [&["verify-draw", &date, "--api", api], args].concat();
    run(env!("CARGO_BIN_EXE_onsale"), &all).await
}

/// None where there is no Python.
async fn script(api: &str, date: Uuid, args: &[&str]) -> Option<Output> {
    let url = format!("{api}/api/v1{}", path(date));
    let version = Command::new("python3").arg("--version").output().await;
    if version.is_err() {
        println!("skipped: there is no python3");
        return None;
    }
    Some(run("python3", &[&[SCRIPT, &url], args].concat()).await)
}

#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// What it says on its way to exit status 1.
#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The tickets by the places from which they were let in, as the owner has written them.
async fn let_in(hall: &mut Hall) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        ticket: String,
    }
    let rows: Vec<Row> = sql_query(
        "SELECT ticket_id::text AS ticket FROM ticket WHERE place IS NOT NULL ORDER BY place",
    )
    .load(&mut hall.conn)
    .await
    .expect("tickets");
    rows.into_iter().map(|row| row.ticket).collect()
}

/// A room that lets in everybody at once, with people in its lobby.
async fn lobby(hall: &mut Hall, bus: &mut Bus, mode: &str, people: usize) -> (Uuid, Vec<Ticket>) {
    let date = hall.date(1).await;
    let policy = json!({ "mode": mode, "opensAt": FAR, "capacity": 100_000,
                         "ratePerSecond": 10_000 });
    amend(hall, date, policy).await;
    let tickets = join(bus, date, people).await;
    (date, tickets)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_recompute_a_draw() {
    let mut hall = Hall::open().await;
    let mut bus = Bus::connect(&hall).await;
    let api = hall.system.url(0);
    let (date, tickets) = lobby(&mut hall, &mut bus, "DRAW", PEOPLE).await;

    // Of the lobby nothing is told but what the secret can't be replaced by.
    let promised = draw(&hall, date).await;
    let names: BTreeSet<&str> = promised
        .as_object()
        .expect("one")
        .keys()
        .map(|k| &**k)
        .collect();
    assert_eq!(names, BTreeSet::from(["commitment", "scheduleId", "state"]));
    assert_eq!(promised["state"], "LOBBY");
    let list = format!("{}/tickets", path(date));
    let early = hall.api.get(None, &list).await;
    early.expect_problem(409, "lobby-open");
    assert!(refused(&verify(&api, date, &[]).await).contains("the lobby is open"));

    amend(&hall, date, json!({ "opensAt": LONG_AGO })).await;
    let public = drawn(&hall, date, "DRAWN").await;
    assert_eq!(public["commitment"], promised["commitment"]);
    assert_eq!(public["size"], PEOPLE);
    let late = join(&mut bus, date, 3).await;
    let admitted = "SELECT count(*) AS n FROM ticket WHERE status = 'ADMITTED'";
    hall.becomes(admitted, i64::try_from(PEOPLE + 3).expect("few"))
        .await;

    // The command, the script, and who was let in in which order, are of one opinion.
    let noted = public["commitment"].as_str().expect("text");
    let order = said(&verify(&api, date, &["--order", "--commitment", noted]).await);
    let order: Vec<&str> = order.lines().collect();
    assert_eq!(order, let_in(&mut hall).await[..PEOPLE]);
    if let Some(output) = script(&api, date, &[]).await {
        assert_eq!(said(&output).lines().collect::<Vec<_>>(), order);
    }
    let ticket = &tickets[17];
    let place = order
        .iter()
        .position(|id| *id == ticket.ticket_id.to_string());
    let position = place.expect("it is in the order") + 1;
    for name in [
        ticket.ticket_id.to_string(),
        ticket.arrival_no.0.to_string(),
    ] {
        let told = said(&verify(&api, date, &["--json", "--ticket", &name]).await);
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let expected = json!({ "ticketId": ticket.ticket_id, "arrivalNo": ticket.arrival_no,
                               "position": position });
        assert_eq!((&told["ok"], &told["ticket"]), (&json!(true), &expected));
    }
    let id = ticket.ticket_id.to_string();
    if let Some(output) = script(&api, date, &[&id]).await {
        assert_eq!(said(&output).trim(), position.to_string());
    }
    let id = late[0].ticket_id.to_string();
    let told = refused(&verify(&api, date, &["--ticket", &id]).await);
    assert!(told.contains("was not in the lobby"), "{told}");
    hall.assert_sound().await;

    // Whoever administers and asks an ingress is told, too, when somebody was not let in as drawn.
    let note = format!("{PEOPLE} places of 1 drawn rooms drawn again");
    let sound = order_audited(&hall).await;
    assert_eq!(
        (&sound["violations"], &sound["note"]),
        (&json!(0), &json!(note))
    );
    hall.sql("UPDATE waiting_room SET seed = sha256(seed)")
        .await;
    let broken = order_audited(&hall).await;
    assert!(broken["violations"].as_u64() > Some(0), "{broken}");
}

/// What an ingress finds of the order in which people were let in.
async fn order_audited(hall: &Hall) -> Value {
    let report = hall.api.get(Some(&hall.admin()), "/admin/audit").await;
    let report = report.expect(200).body;
    let mut checks = report["checks"].as_array().expect("checks").iter();
    checks
        .find(|check| check["id"] == "Q2")
        .expect("Q2")
        .clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_are_in_the_order_and_their_places_are_passed_by() {
    let mut hall = Hall::open().await;
    let mut bus = Bus::connect(&hall).await;
    let api = hall.system.url(0);
    let (date, _) = lobby(&mut hall, &mut bus, "DRAW", 20).await;
    let (_, code) = access_codes::code(&mut hall, date, 3, access_codes::LONG_TIME).await;
    let queue = format!("/schedules/{date}/queue");
    let body = json!({ "accessCode": code });
    let mut guests = BTreeSet::new();
    for guest in hall.buyers(3) {
        let joined = hall.api.post(&guest, &queue, "a-guests-key", &body).await;
        guests.insert(id(&joined.expect(201).body["ticketId"]).to_string());
    }
    let admitted = "SELECT count(*) AS n FROM ticket WHERE status = 'ADMITTED'";
    hall.becomes(admitted, 3).await;
    amend(&hall, date, json!({ "opensAt": LONG_AGO })).await;
    assert_eq!(drawn(&hall, date, "DRAWN").await["size"], 23);
    hall.becomes(admitted, 23).await;
    let order = said(&verify(&api, date, &["--order"]).await);
    if let Some(output) = script(&api, date, &[]).await {
        assert_eq!(said(&output), order);
    }
    let (passed, others): (Vec<_>, Vec<_>) = order
        .lines()
        .map(str::to_owned)
        .partition(|one| guests.contains(one));
    assert_eq!(passed.len(), 3);
    assert_eq!(others, let_in(&mut hall).await);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draw_takes_the_word_of_a_beacon_that_was_named_in_time() {
    let mut hall = Hall::open().await;
    let mut bus = Bus::connect(&hall).await;
    let (admin, api) = (hall.admin(), hall.system.url(0));
    let date = hall.date(1).await;
    let beacon = format!("/admin/schedules/{date}/queue/beacon");
    let value = format!("{beacon}/value");
    let (named, other) = (
        json!({ "name": "a source, word 7" }),
        json!({ "name": "another" }),
    );
    let (word, second) = (
        json!({ "value": "00FFc0de" }),
        json!({ "value": "00ffc0df" }),
    );
    // It may be named before anything else is said of the room, and changed as long as nobody came.
    put(&hall, &admin, &beacon, other.clone()).await.expect(200);
    let told = put(&hall, &admin, &beacon, named.clone())
        .await
        .expect(200)
        .body;
    assert_eq!(told["beaconName"], named["name"]);
    let policy = json!({ "mode": "DRAW", "opensAt": FAR });
    amend(&hall, date, policy).await;
    let early = put(&hall, &admin, &value, word.clone()).await;
    early.expect_problem(409, "beacon-not-due");
    join(&mut bus, date, 300).await;
    put(&hall, &admin, &beacon, named).await.expect(200);
    let late = put(&hall, &admin, &beacon, other).await;
    late.expect_problem(409, "beacon-fixed");

    // Everything is fixed before the word is spoken, and the secret is kept until then.
    amend(&hall, date, json!({ "opensAt": LONG_AGO })).await;
    let closed = drawn(&hall, date, "CLOSED").await;
    assert_eq!(
        (&closed["size"], &closed["secret"]),
        (&json!(300), &Value::Null)
    );
    let list = format!("{}/tickets", path(date));
    let before = hall.api.get(None, &list).await.expect(200).body;
    assert!(refused(&verify(&api, date, &[]).await).contains("the beacon is waited for"));

    let told = put(&hall, &admin, &value, word.clone())
        .await
        .expect(200)
        .body;
    assert_eq!(
        (&told["state"], &told["beacon"]),
        (&json!("DRAWN"), &json!("00ffc0de"))
    );
    assert_eq!(told["digest"], closed["digest"]);
    put(&hall, &admin, &value, word).await.expect(200);
    let other = put(&hall, &admin, &value, second).await;
    other.expect_problem(409, "beacon-fixed");
    assert_eq!(hall.api.get(None, &list).await.expect(200).body, before);
    let noted = closed["digest"].as_str().expect("text");
    let order = said(&verify(&api, date, &["--order", "--digest", noted]).await);
    // Whether it is what the source said, somebody has to look.
    let shown = said(&verify(&api, date, &[]).await);
    let mut all = vec![shown.clone()];
    if let Some(output) = script(&api, date, &[]).await {
        assert_eq!(said(&output), order);
        all.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    for shown in all {
        for what in ["a source, word 7", "00ffc0de"] {
            assert!(shown.contains(what), "{what}: {shown}");
        }
    }
    assert!(!shown.contains("NOT"), "{shown}");
    let json = said(&verify(&api, date, &["--json"]).await);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["beacon"], "00ffc0de");

    for (path, body, code) in [
        (&beacon, json!({ "name": "" }), "validation-failed"),
        (&beacon, json!({ "name": "a\nb" }), "validation-failed"),
        (&value, json!({ "value": "abc" }), "validation-failed"),
        (&value, json!({ "value": "xx" }), "validation-failed"),
    ] {
        let answer = put(&hall, &admin, path, body).await;
        answer.expect_problem(422, code);
    }
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_drawn_there_is_nothing_to_verify() {
    let mut hall = Hall::open().await;
    let mut bus = Bus::connect(&hall).await;
    let api = hall.system.url(0);
    let date = hall.date(1).await;
    let none = hall.api.get(None, &path(date)).await;
    none.expect_problem(404, "not-found");
    assert!(refused(&verify(&api, date, &[]).await).contains("no waiting room"));

    let (date, tickets) = lobby(&mut hall, &mut bus, "FIFO", 5).await;
    amend(&hall, date, json!({ "opensAt": LONG_AGO })).await;
    let public = drawn(&hall, date, "ARRIVAL").await;
    assert_eq!(
        (&public["size"], &public["secret"]),
        (&json!(5), &Value::Null)
    );
    assert!(refused(&verify(&api, date, &[]).await).contains("that of arrival"));
    let list = format!("{}/tickets", path(date));
    let list = hall.api.get(None, &list).await.expect(200).body;
    let mut ids: Vec<(u32, TicketId)> = tickets
        .iter()
        .map(|ticket| (ticket.arrival_no.0, ticket.ticket_id))
        .collect();
    ids.sort_unstable();
    let ids: Vec<TicketId> = ids.into_iter().map(|(_, id)| id).collect();
    assert_eq!(list["ticketIds"], json!(ids));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_final_is_kept_by_whoever_has_it() {
    let mut hall = Hall::open().await;
    let mut bus = Bus::connect(&hall).await;
    let (date, _) = lobby(&mut hall, &mut bus, "DRAW", 300).await;
    let head =
        |answer: &Answer, name: &str| answer.headers[name].to_str().expect("ASCII").to_owned();
    let open = hall.api.get(None, &path(date)).await.expect(200);
    assert_eq!(head(&open, "cache-control"), "no-cache");
    amend(&hall, date, json!({ "opensAt": LONG_AGO })).await;
    drawn(&hall, date, "DRAWN").await;
    let waiting = "SELECT count(*) AS n FROM ticket WHERE status = 'WAITING'";
    hall.becomes(waiting, 0).await;
    let list = format!("{}/tickets", path(date));
    for path in [path(date), list.clone()] {
        let full = hall.api.get(None, &path).await.expect(200);
        assert!(
            head(&full, "cache-control").contains("immutable"),
            "{full:?}"
        );
        let etag = head(&full, "etag");
        let again = hall
            .api
            .request(Method::GET, &path)
            .header("if-none-match", etag);
        hall.api.send(again).await.expect(304);
    }
    let packed = hall
        .api
        .request(Method::GET, &list)
        .header("accept-encoding", "gzip");
    let packed = packed.send().await.expect("an answer");
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    for from in ["1", "10000", "-1", "x"] {
        let answer = hall.api.get(None, &format!("{list}?from={from}")).await;
        answer.expect_problem(422, "validation-failed");
    }
    // Nobody asks Postgres for what is in memory.
    hall.sql("ALTER TABLE ticket RENAME TO ticket_gone").await;
    let first = hall
        .api
        .get(None, &format!("{list}?from=0"))
        .await
        .expect(200)
        .body;
    assert_eq!(first["ticketIds"].as_array().map(Vec::len), Some(300));
    hall.sql("ALTER TABLE ticket_gone RENAME TO ticket").await;
}

/// What an ingress that lies would answer.
type Lie = (&'static str, fn(&mut Value, &mut Value));

/// The draw and its tickets, as they were edited.
type Answers = Arc<(Value, Value)>;

async fn edited_draw(State(answers): State<Answers>) -> Json<Value> {
    Json(answers.0.clone())
}

async fn edited_tickets(State(answers): State<Answers>) -> Json<Value> {
    Json(answers.1.clone())
}

fn flip(value: &mut Value) {
    let text = value.as_str().expect("hexadecimal");
    let digit = if text.starts_with('0') { "1" } else { "0" };
    *value = json!(format!("{digit}{}", &text[1..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_found_by_both() {
    let mut hall = Hall::open().await;
    let mut bus = Bus::connect(&hall).await;
    let (date, _) = lobby(&mut hall, &mut bus, "DRAW", 300).await;
    amend(&hall, date, json!({ "opensAt": LONG_AGO })).await;
    let truth = drawn(&hall, date, "DRAWN").await;
    let list = format!("{}/tickets", path(date));
    let tickets = hall.api.get(None, &list).await.expect(200).body;
    let lies: [Lie; 7] = [
        ("nothing", |_, _| {}),
        ("the secret", |draw, _| flip(&mut draw["secret"])),
        ("the commitment", |draw, _| flip(&mut draw["commitment"])),
        ("the digest", |draw, _| flip(&mut draw["digest"])),
        ("the seed", |draw, _| flip(&mut draw["seed"])),
        ("the beacon", |draw, _| draw["beacon"] = json!("00")),
        ("two tickets", |_, list| {
            list["ticketIds"].as_array_mut().expect("a list").swap(3, 4);
        }),
    ];
    for (what, edit) in lies {
        let (mut draw, mut list) = (truth.clone(), tickets.clone());
        edit(&mut draw, &mut list);
        let base = format!("/api/v1{}", path(date));
        let router = Router::new()
            .route(&base, get(edited_draw))
            .route(&format!("{base}/tickets"), get(edited_tickets))
            .with_state(Arc::new((draw, list)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let api = format!("http://{}", listener.local_addr().expect("an address"));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await });
        let told = verify(&api, date, &["--json"]).await;
        let by_script = script(&api, date, &[]).await;
        if what == "nothing" {
            said(&told);
            by_script.as_ref().map(said);
            continue;
        }
        let json: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        assert_eq!(json["ok"], false, "{what}");
        assert!(
            refused(&told).contains("not what it should be"),
            "{what}: {told:?}"
        );
        if let Some(output) = by_script {
            assert!(
                refused(&output).contains("is not the one"),
                "{what}: {output:?}"
            );
        }
    }
}
