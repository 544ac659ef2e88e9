//! The servers as everything else relies on them: they start on whatever a former run has left,
//! keep what was acknowledged, and are gone when whoever started them is gone.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use onsale_testkit::postgres::Stop;
use onsale_testkit::spawn::Signal;
use onsale_testkit::{
    Error, NatsOptions, NatsServer, PostgresOptions, PostgresServer, Scratch, TestDb, TestNats,
    Tools,
};
use tokio_postgres::NoTls;

async fn query(url: &str, statement: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (rows, _) = tokio::join!(
        async {
            let row = client.query_one(statement, &[]).await.unwrap();
            drop(client);
            row.get::<_, String>(0)
        },
        connection
    );
    rows
}

async fn execute(url: &str, statement: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (done, _) = tokio::join!(
        async {
            let done = client.batch_execute(statement).await;
            drop(client);
            done
        },
        connection
    );
    done.unwrap();
}

/// Publishes to a stream, acknowledged.
async fn publish(url: &str, payload: &'static str) {
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    let config = async_nats::jetstream::stream::Config {
        name: "T".into(),
        subjects: vec!["t".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream
        .publish("t", payload.into())
        .await
        .unwrap()
        .await
        .unwrap();
}

async fn last_message(url: &str) -> String {
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = jetstream.get_stream("T").await.unwrap();
    let message = stream.get_last_raw_message_by_subject("t").await.unwrap();
    String::from_utf8(message.payload.to_vec()).unwrap()
}

/// Waits for a condition that nobody announces.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn exercise_postgres(tools: &Tools) {
    let scratch = Scratch::new("exercise").unwrap();
    let dir = scratch.path().join("postgres");
    let mut server = PostgresServer::start(tools, PostgresOptions::new(&dir))
        .await
        .unwrap();
    server.create_database("shop").await.unwrap();
    server.create_database("shop").await.unwrap();
    let url = server.url("shop");
    for (setting, expected) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(
            query(&url, &format!("SELECT current_setting('{setting}')")).await,
            expected
        );
    }
    // Letters beyond ASCII are letters, on every version and machine.
    assert_eq!(
        query(
            &url,
            "SELECT upper('ä') || ('한글' ~ '^[[:alpha:]]+$')::text"
        )
        .await,
        "Ätrue"
    );

    execute(
        &url,
        "CREATE TABLE t (n text); INSERT INTO t VALUES ('kept')",
    )
    .await;
    server.kill9().await;
    server.restart().await.unwrap();
    assert_eq!(query(&url, "SELECT n FROM t").await, "kept");
    server.stop(Stop::Immediate).await;
    server.restart().await.unwrap();
    assert_eq!(server.url("shop"), url, "the port stays");

    // A pid file whose number has become another process of the same user, as after a restart of
    // a container: Postgres itself would not start.
    server.stop(Stop::Fast).await;
    let data = server.location().dir.join("data");
    std::fs::write(
        data.join("postmaster.pid"),
        format!("{}\n", std::process::id()),
    )
    .unwrap();
    drop(server);
    let server = PostgresServer::start(tools, PostgresOptions::new(&dir))
        .await
        .unwrap();
    assert_eq!(query(&server.url("shop"), "SELECT n FROM t").await, "kept");

    // Without the password nobody comes in, not even from this machine.
    let refused =
        tokio_postgres::connect(&server.url("shop").replace("onsale:", "onsale:x"), NoTls).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn postgres_survives_kills_and_stale_pid_files() {
    exercise_postgres(&Tools::locate().unwrap()).await;
}

#[tokio::test]
async fn the_machines_own_postgres_works_too() {
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut bins: Vec<PathBuf> = installed
        .map(|version| version.path().join("bin"))
        .collect();
    bins.retain(|bin| bin.join("initdb").exists());
    if bins.is_empty() {
        eprintln!("skipped: no Postgres is installed below /usr/lib/postgresql");
    }
    for bin in bins {
        exercise_postgres(&Tools::locate().unwrap().with_postgres_bin(bin).unwrap()).await;
    }
}

#[tokio::test]
async fn a_taken_port_is_said_with_the_servers_own_words() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(taken.local_addr().unwrap().port());
    let (tools, scratch) = (Tools::locate().unwrap(), Scratch::new("taken").unwrap());
    let options = PostgresOptions {
        port,
        ..PostgresOptions::new(scratch.path().join("postgres"))
    };
    let error = PostgresServer::start(&tools, options)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("could not bind") && error.contains("Address already in use"),
        "{error}"
    );

    let options = NatsOptions {
        port,
        ..NatsOptions::new(scratch.path().join("nats"))
    };
    let error = NatsServer::start(&tools, options)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("address already in use"), "{error}");
}

#[tokio::test]
async fn data_of_another_version_is_refused() {
    let (tools, scratch) = (Tools::locate().unwrap(), Scratch::new("version").unwrap());
    let dir = scratch.path().join("postgres");
    let server = PostgresServer::start(&tools, PostgresOptions::new(&dir))
        .await
        .unwrap();
    let version_file = server.location().dir.join("data/PG_VERSION");
    drop(server);
    std::fs::write(version_file, "9\n").unwrap();
    let error = PostgresServer::start(&tools, PostgresOptions::new(&dir))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::DataVersion { found, .. } if found == "9"),
        "{error}"
    );
}

#[tokio::test]
async fn nats_keeps_its_streams_over_kills() {
    let mut nats = TestNats::start().await.unwrap();
    let url = nats.url();
    publish(&url, "kept").await;
    let pid = nats.server.pid();
    nats.server.kill9().await;
    nats.server.restart().await.unwrap();
    assert_eq!(nats.url(), url, "the port stays");
    assert_ne!(nats.server.pid(), pid);
    assert_eq!(last_message(&url).await, "kept");
    nats.server.signal(Signal::SIGTERM);
    nats.server.ended().await;
}

#[tokio::test]
async fn databases_of_tests_come_and_go() {
    let (one, two) = (
        TestDb::create().await.unwrap(),
        TestDb::create().await.unwrap(),
    );
    assert_ne!(one.name(), two.name());
    assert_eq!(
        query(one.url(), "SELECT current_database()::text").await,
        one.name()
    );
    let count = format!(
        "SELECT count(*)::text FROM pg_database WHERE datname = '{}'",
        one.name()
    );
    drop(one);
    assert_eq!(query(two.url(), &count).await, "0");
}

/// Runs `with-servers` around a shell that tells the servers' addresses and then waits.
fn with_servers(name: &str) -> (std::process::Child, PathBuf) {
    let temp = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&temp).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_with-servers"))
        .args(["--", "sh", "-c", "echo ready; exec sleep 600"])
        .env("TMPDIR", &temp)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(
        processes_of(&temp).len(),
        2,
        "a postmaster and a nats-server"
    );
    (child, temp)
}

/// The servers whose command line names something below a folder.
fn processes_of(folder: &Path) -> Vec<u32> {
    let needle = folder.display().to_string();
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let is_server = ["postgres", "nats-server"]
            .iter()
            .any(|name| program.ends_with(name));
        is_server && String::from_utf8_lossy(&line).contains(&needle)
    })
    .collect()
}

fn nothing_is_left(temp: &Path) {
    eventually("the servers are gone", || processes_of(temp).is_empty());
    eventually("the folders are gone", || {
        std::fs::read_dir(temp).unwrap().next().is_none()
    });
    std::fs::remove_dir(temp).unwrap();
}

#[test]
fn kill_9_of_the_parent_leaves_nothing() {
    let (mut child, temp) = with_servers("killed");
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_is_left(&temp);
}

#[test]
fn a_terminated_parent_leaves_nothing_and_says_how_its_command_ended() {
    let (mut child, temp) = with_servers("terminated");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    nothing_is_left(&temp);
}

#[test]
fn the_commands_exit_code_is_passed_on() {
    let status = Command::new(env!("CARGO_BIN_EXE_with-servers"))
        .args([
            "--",
            "sh",
            "-c",
            "test -n \"$ONSALE_TEST_NATS_URL\" && exit 42",
        ])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(42));
}
