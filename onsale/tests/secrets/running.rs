//! A whole system, as `onsale up` runs it, at its most talkative: the journey, commands beside it, and
//! both servers killed meanwhile.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::sql_types::{Binary, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use onsale::running::{self, Running};
use onsale_platform::db;
use onsale_platform::nats_users::User;
use onsale_platform::rights::Role;
use onsale_platform::webhook::Secret;
use onsale_testkit::Scratch;
use serde_json::{Value, json};

use crate::canary::Canaries;
use crate::journey::Asker;
use crate::watch::Watch;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_onsale");
const LIMIT: Duration = Duration::from_secs(90);
/// All that a program can be asked to tell.
pub const TALKATIVE: [(&str, &str); 3] = [
    ("ONSALE_LOG", "trace"),
    ("RUST_LOG", "trace"),
    ("RUST_BACKTRACE", "full"),
];
/// What Postgres can be asked to tell: every statement with its parameters.
const TALKATIVE_POSTGRES: [&str; 5] = [
    "ALTER SYSTEM SET log_statement = 'all'",
    "ALTER SYSTEM SET log_min_duration_statement = 0",
    "ALTER SYSTEM SET log_connections = on",
    "ALTER SYSTEM SET log_min_messages = debug1",
    "SELECT pg_reload_conf()",
];

/// Killed when it is dropped.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The secrets that `onsale up` would make up, as it keeps them.
struct Planted {
    token: String,
    roles: [String; 3],
    gateway: String,
    webhook: String,
}

fn plant(data_dir: &Path, canaries: &mut Canaries) -> Planted {
    let folder = data_dir.join("secrets");
    fs::create_dir_all(&folder).unwrap();
    let token: String = (0..64)
        .map(|_| char::from_digit(rand::random_range(0..16), 16).unwrap())
        .collect();
    canaries.add("the token secret", &token);
    fs::write(data_dir.join("token-secret"), &token).unwrap();
    // Both are sent: they must fit into a header, and be a webhook secret.
    let (gateway, webhook) = (
        canaries.plain("gateway-key"),
        canaries.plain("gateway-webhook"),
    );
    let webhook = Secret::of_bytes(&[webhook.as_bytes(), b"12345678"].concat()).unwrap();
    for (file, secret) in [
        ("gateway-key", &gateway),
        ("gateway-webhook", &webhook.expose()),
    ] {
        fs::write(folder.join(file), secret).unwrap();
    }
    let mut secret = |server: &str, name: &str| {
        let file = format!("{server}-{name}");
        let secret = canaries.odd(&file);
        fs::write(folder.join(file), &secret).unwrap();
        secret
    };
    let roles = Role::ALL.map(|role| secret("postgres", role.as_str()));
    for user in User::ALL {
        secret("nats", user.as_str());
    }
    Planted {
        token,
        roles,
        gateway,
        webhook: webhook.expose(),
    }
}

fn onsale(data_dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env("ONSALE_DATA_DIR", data_dir)
        .env_remove("DATABASE_URL")
        .env_remove("NATS_URL")
        .envs(TALKATIVE);
    command
}

/// All that a command tells.
fn output(what: &str, command: &mut Command) -> (String, Vec<u8>) {
    let output = command.output().unwrap();
    let mut told = output.stdout;
    told.extend(output.stderr);
    (what.to_owned(), told)
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Pays at the gateway, with the key and with a wrong one; what it answered.
async fn pay(gateway: &str, key: &str) -> Vec<(String, Vec<u8>)> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let order = uuid::Uuid::now_v7();
    let checkout = client
        .post(format!("{gateway}/v1/checkout"))
        .json(&json!({"orderId": order, "amount": 9000}));
    let checkout: Value = checkout.send().await.unwrap().json().await.unwrap();
    let body = json!({"paymentKey": checkout["paymentKey"], "orderId": order, "amount": 9000});
    let confirm = client
        .post(format!("{gateway}/v1/payments/confirm"))
        .json(&body);
    let mut told = Vec::new();
    for key in ["test_sk_of_somebody_else", key] {
        let confirm = confirm.try_clone().unwrap().basic_auth(key, Some(""));
        let answer = confirm.send().await.unwrap();
        let text = format!(
            "{:?} {}",
            answer.headers().clone(),
            answer.text().await.unwrap()
        );
        told.push(("a confirmation".to_owned(), text.into_bytes()));
    }
    told
}

/// Kills a process of the system, and waits until another one is in its place.
fn kill_one(data_dir: &Path, role: &str) {
    let pid = |running: Running| {
        let mut all = running.processes.into_iter();
        all.find(|process| process.role == role).unwrap().pid
    };
    let before = pid(running::find(data_dir).unwrap().unwrap());
    kill(Pid::from_raw(before.cast_signed()), Signal::SIGKILL).unwrap();
    let started = Instant::now();
    while running::find(data_dir).unwrap().map(pid) == Some(before) {
        assert!(started.elapsed() < LIMIT, "{role} is not started again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The secret that the owner of a waiting room has made, and has not drawn by.
async fn draw_secret(conn: &mut AsyncPgConnection, schedule: &str) -> Vec<u8> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Binary)]
        secret: Vec<u8>,
    }
    let sql = "SELECT secret FROM waiting_room WHERE schedule_id = $1::uuid AND revealed IS NULL";
    let row = diesel::sql_query(sql).bind::<Text, _>(schedule);
    let row: Row = row.get_result(conn).await.unwrap();
    row.secret
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_runs_tells_no_secret() {
    let scratch = Scratch::new("secrets").unwrap();
    let data_dir = scratch.path().join("data");
    let mut canaries = Canaries::default();
    let planted = plant(&data_dir, &mut canaries);
    let watch = Watch::start();
    let errors = scratch.path().join("up.log");
    let child = onsale(&data_dir)
        .args(["up", "--random-ports", "--headless", "--json"])
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let mut up = Up(child);
    let mut line = String::new();
    let mut out = BufReader::new(up.0.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let running: Running = serde_json::from_str(&line).unwrap();
    let (_, at) = running.database.split_once("://onsale:").unwrap();
    canaries.add("postgres-owner", at.split_once('@').unwrap().0);
    // These are there for the secrets in them, and nothing else is.
    let mut described: Value = serde_json::from_str(&line).unwrap();
    for name in ["nats", "database", "reader"] {
        assert!(described.as_object_mut().unwrap().remove(name).is_some());
    }
    let mut told = vec![("up --json".to_owned(), described.to_string().into_bytes())];

    let mut conn = db::connect(&running.database).await.unwrap();
    for statement in TALKATIVE_POSTGRES {
        conn.batch_execute(statement).await.unwrap();
    }
    let mut asker = Asker::new(&running.api, &mut canaries);
    let schedule = &running.demo.hall_schedule_id;
    let admin = &running.accounts.admin;
    let (admin, subscriber) = asker.subscribes(&admin.email, &admin.password).await;
    let (access, mut seats) = asker.travel(schedule, &planted.token).await;
    asker.was_called(&admin, &subscriber).await;
    let seat = seats.pop_front().unwrap();
    asker.waits(&admin, &access, schedule, &seat).await;
    let draw = draw_secret(&mut conn, schedule).await;
    for role in ["nats", "postgres"] {
        kill_one(&data_dir, role);
        let (started, seat) = (Instant::now(), seats.pop_front().unwrap());
        while !asker.tries_to_hold(&access, schedule, &seat).await {
            assert!(started.elapsed() < LIMIT, "no hold after {role} was killed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let mut stored = asker.webhooks;
    for answer in asker.told {
        told.push(("an answer".to_owned(), answer.into_bytes()));
    }
    stored.add_bytes("the secret of a draw", &draw);

    let gateway = running.gateway.as_ref().unwrap();
    told.extend(pay(gateway, &planted.gateway).await);
    for url in &running.metrics {
        let page = reqwest::get(url).await.unwrap().text().await.unwrap();
        told.push((url.clone(), page.into_bytes()));
    }
    for arguments in [
        "doctor",
        "audit",
        "partitions",
        "seed",
        "up",
        "migrate --check",
    ] {
        let mut command = onsale(&data_dir);
        command.args(arguments.split(' '));
        told.push(output(arguments, &mut command));
    }
    let passwords =
        ["INGRESS", "WORKERS", "READER"].map(|role| format!("ONSALE_{role}_ROLE_PASSWORD"));
    let mut migrate = onsale(&data_dir);
    migrate
        .arg("migrate")
        .envs(passwords.iter().zip(&planted.roles));
    told.push(output("migrate", &mut migrate));
    for arguments in ["config", "config --json", "config --changed"] {
        let mut config = onsale(&data_dir);
        config
            .args(arguments.split(' '))
            .env("DATABASE_URL", &running.database)
            .env("NATS_URL", &running.nats)
            .env("ONSALE_TOKEN_SECRET", &planted.token)
            .env("ONSALE_GATEWAY_URL", "http://127.0.0.1:1")
            .env("ONSALE_GATEWAY_SECRET", &planted.gateway)
            .env("ONSALE_GATEWAY_WEBHOOK_SECRETS", &planted.webhook);
        told.push(output(arguments, &mut config));
    }
    told.push(output("down", onsale(&data_dir).arg("down")));
    assert!(up.0.wait().unwrap().success());
    for line in watch.stop() {
        told.push(("a command line".to_owned(), line.into_bytes()));
    }
    for path in files_in(&data_dir.join("logs")).into_iter().chain([errors]) {
        told.push((path.display().to_string(), fs::read(&path).unwrap()));
    }

    // Everybody has talked as much as they can.
    for (who, words) in [
        ("ingress-0.log", "write operation: CONNECT"),
        ("ingress-0.log", "preparing query"),
        ("ingress-0.log", "was used again"),
        ("workers-0.log", "write operation: CONNECT"),
        ("postgres.log", "ALTER ROLE"),
        ("postgres.log", "INSERT INTO \"app_user\""),
        ("nats.log", "Server is ready"),
        ("gateway-0.log", "starting new connection"),
        ("a confirmation", "DONE"),
        ("a command line", "onsale-workers"),
        ("a command line", "initdb"),
        ("migrate", "streams"),
    ] {
        let mut by_them = told.iter().filter(|(by, _)| by.ends_with(who));
        let said = by_them.any(|(_, text)| String::from_utf8_lossy(text).contains(words));
        assert!(said, "{who} does not say {words:?}");
    }
    assert_silent(&canaries, &told);
    // They are stored as they are, since they have to sign, or to draw: deploy/README.md says that a
    // Postgres that logs all parameters logs them. Nobody else tells them.
    told.retain(|(by, _)| !by.ends_with("postgres.log"));
    assert_silent(&stored, &told);
}

/// Nothing of what was told has a secret in it.
#[track_caller]
pub fn assert_silent(canaries: &Canaries, told: &[(String, Vec<u8>)]) {
    let mut found = Vec::new();
    for (by, text) in told {
        let told = canaries.found_in(text);
        found.extend(told.iter().map(|what| format!("{by} tells {what}")));
    }
    let first = found.iter().take(20).cloned().collect::<Vec<_>>();
    assert!(
        found.is_empty(),
        "{} times:\n{}",
        found.len(),
        first.join("\n")
    );
}
