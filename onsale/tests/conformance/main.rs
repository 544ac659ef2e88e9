//! schemathesis calls what the served document describes, as it describes it and not: there is no
//! fault of ours, and no answer that the document does not promise.
//!
//! A test program of its own, because programs run one after the other: it takes the whole machine.

#[allow(dead_code, reason = "the system tests use the rest of it")]
#[path = "../system/hall.rs"]
mod hall;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use onsale::seed::Policy;
use onsale_testkit::spawn::{Signal, Tie, spawn};
use onsale_testkit::{Buyer, Scratch};
use serde_json::json;
use uuid::Uuid;

use crate::hall::{Hall, open_policy, reservation};

const SETTINGS: &str = include_str!("schemathesis.toml");
/// So many operations are left out, see there.
const LEFT_OUT: usize = 2;
/// Requests per operation, about, besides those that its parameters' bounds ask for.
const EXAMPLES: (&str, &str) = ("ONSALE_CONFORMANCE_EXAMPLES", "12");
/// What decides the requests.
const SEED: (&str, &str) = ("ONSALE_CONFORMANCE_SEED", "1");
/// Both runs take half a minute together. What has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(240);
const SEATS: u16 = 200;

/// The folder of the pinned schemathesis; none where nothing can fetch it.
fn schemathesis() -> Option<PathBuf> {
    let mut pip = Command::new("python3");
    let pip = pip.args(["-m", "pip", "--version"]).output();
    if !pip.is_ok_and(|pip| pip.status.success()) {
        eprintln!(
            "SKIPPED: there is no `python3` with pip on this machine, so schemathesis does not try \
             the API; installing them changes that"
        );
        return None;
    }
    let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/tools/fetch.sh");
    let fetched = Command::new(fetch).arg("schemathesis").output();
    let fetched = fetched.expect("the script runs");
    let complained = String::from_utf8_lossy(&fetched.stderr);
    assert!(fetched.status.success(), "{complained}");
    Some(String::from_utf8_lossy(&fetched.stdout).trim().into())
}

/// A variable of the environment, and what counts without it.
fn variable((name, default): (&str, &str)) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Somebody, a date of their own, and something of everything that there is on it.
struct Scene {
    by: Buyer,
    settings: String,
}

impl Scene {
    async fn set(hall: &mut Hall, by: Buyer) -> Self {
        let policy = Policy {
            seats_per_user: SEATS.into(),
            ..open_policy()
        };
        let date = hall.date_with(SEATS.into(), policy).await;
        let _ = hall.api.charge(&by, 100_000).await.expect(201);
        let mut reservations = Vec::new();
        for seat in ["A-1-1", "A-1-2", "A-1-3", "A-1-4"] {
            let held = hall.api.hold(&by, date, &[seat]).await.expect(201);
            reservations.push(reservation(&held.body));
        }
        let paid = hall.api.pay(&by, reservations[0]).await.expect(201);
        let path = format!("/admin/schedules/{date}/blocks");
        let block = json!({ "seats": ["A-1-99"], "reason": "conformance" });
        let admin = hall.admin();
        let blocked = hall.api.post(&admin, &path, "conformance", &block);
        let block = onsale_testkit::api::id(&blocked.await.expect(201).body["blockId"]);
        let hold = json!({ "scheduleId": date, "seats": ["A-1-5"] });
        let later = hall
            .api
            .post_request(&by, "/reservations", "conformance", &hold);
        let later = hall.api.send(later.header("prefer", "respond-async")).await;
        let location = later.expect(202).headers["location"].clone();
        let command = location.to_str().expect("ASCII").rsplit('/').next();
        let page = hall.api.get(Some(&by), "/users/me/points/history?limit=1");
        let page = page.await.expect(200);
        let cursor = onsale_testkit::api::text(&page.body["nextCursor"]);
        let detail = hall.api.get(None, &format!("/schedules/{date}")).await;
        let concert = onsale_testkit::api::id(&detail.expect(200).body["concertId"]);
        let payment = onsale_testkit::api::id(&paid.body["paymentId"]);
        let seats: Vec<String> = (1..100).map(|seat| format!("\"A-1-{seat}\"")).collect();
        let settings = SETTINGS
            .replace("{concert}", &concert.to_string())
            .replace("{date}", &date.to_string())
            .replace("{reservations}", &quoted(&reservations))
            .replace("{payment}", &payment.to_string())
            .replace("{block}", &block.to_string())
            .replace("{command}", command.expect("a token"))
            .replace("{cursor}", cursor)
            .replace("{seats}", &seats.join(", "));
        Self { by, settings }
    }
}

fn quoted(ids: &[Uuid]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    ids.join(", ")
}

/// Has schemathesis call as somebody; returns what it says.
async fn conforms(hall: &Hall, home: &Path, scene: &Scene, further: &[&str]) -> String {
    let folder = Scratch::new("conformance").expect("a folder");
    let settings = folder.path().join("schemathesis.toml");
    std::fs::write(&settings, &scene.settings).expect("a file");
    let said = folder.path().join("said");
    let file = std::fs::File::create(&said).expect("a file");
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/hooks.py");
    let url = hall.system.url(0);
    let mut command = Tie::new(Signal::SIGKILL).command("python3");
    command
        .env("PYTHONPATH", home)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", hooks)
        .current_dir(folder.path())
        .stdout(file.try_clone().expect("a handle"))
        .stderr(file)
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(&settings)
        .args(["run", &format!("{url}/openapi.json"), "--url", &url])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", scene.by.token),
        ])
        .args([
            "--checks=all",
            "--phases=examples,coverage,fuzzing,stateful",
        ])
        .arg(format!("--max-examples={}", variable(EXAMPLES)))
        .arg(format!("--seed={}", variable(SEED)))
        // Its threads share one lock, and CPython 3.11 has a fault in its parser where they run.
        .args(["--workers=1", "--request-timeout=20"])
        .args(["--no-shrink", "--continue-on-failure", "--max-failures=20"])
        .args(["--generation-database=none", "--suppress-health-check=all"])
        .args(["--warnings=off", "--no-color"])
        .args(further);
    let child = spawn(command).await.expect("python3 starts");
    let ended = tokio::time::timeout(LIMIT, child.wait()).await;
    let said = std::fs::read_to_string(&said).expect("a file");
    let status = ended.unwrap_or_else(|_| panic!("no end after {LIMIT:?}: {said}"));
    let is_well = status.success() && said.contains("No issues found");
    assert!(is_well, "{status} {said}\n{}", hall.logs());
    said
}

/// How many operations were tried, and how many there are.
fn tried(said: &str) -> (usize, usize) {
    let number = |text: &str| text.trim().parse().expect("a number");
    let after = |label| {
        said.split(label)
            .nth(1)
            .and_then(|rest| rest.lines().next())
    };
    let (_, all) = after("Selected: ")
        .expect(said)
        .split_once('/')
        .expect(said);
    (number(after("Tested: ").expect(said)), number(all))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let Some(home) = schemathesis() else { return };
    let mut hall = Hall::open().await;
    let admin = hall.admin();
    let id = admin.user_id;
    let account = "(user_id, email, name, password_hash, role)";
    hall.sql(&format!(
        "INSERT INTO app_user {account} VALUES ('{id}', 'admin@example.com', 'Admin', '', 'admin')"
    ))
    .await;
    let admin = Scene::set(&mut hall, admin).await;
    let buyer = hall.api.buyer().await;
    let buyer = Scene::set(&mut hall, buyer).await;
    let made = "SELECT (SELECT count(*) FROM reservation) + (SELECT count(*) FROM concert) AS n";
    let before = hall.number(made).await;

    let all = conforms(&hall, &home, &admin, &[]);
    // The matrix of the authorization tests has who may not administer.
    let not_admin = ["--exclude-path-regex=^/api/v1/admin/"];
    let (all, _) = tokio::join!(all, conforms(&hall, &home, &buyer, &not_admin));

    let (tried, operations) = tried(&all);
    assert_eq!(tried, operations - LEFT_OUT, "{all}");
    // Not everything was refused.
    assert!(hall.number(made).await > before, "{all}");
    hall.assert_sound().await;
    println!("{all}");
}
