//! `onsale up` as an operator uses it: the real program with the real servers and processes.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use onsale::running::{self, Running};
use onsale_platform::{address, db};
use onsale_testkit::{Scratch, Servers};

const PROGRAM: &str = env!("CARGO_BIN_EXE_onsale");
const LIMIT: Duration = Duration::from_secs(90);

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// A running `onsale up`, killed when it is dropped.
struct Up {
    child: Child,
    running: Running,
}

impl Up {
    /// Starts one and waits for its line of JSON.
    fn start(data_dir: &Path, more: &[&str]) -> Self {
        for sibling in ["onsale-ingress", "onsale-workers"] {
            let program = Path::new(PROGRAM).with_file_name(sibling);
            assert!(
                program.exists(),
                "{} is not built: cargo build --workspace --bins",
                program.display()
            );
        }
        Self::spawn(up_command(data_dir).args(more))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .args(["--random-ports", "--headless", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let running =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        Self { child, running }
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    fn pids(&self) -> Vec<u32> {
        self.running
            .processes
            .iter()
            .map(|process| process.pid)
            .collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn up_command(data_dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("up").arg("--data-dir").arg(data_dir);
    command.env_remove("DATABASE_URL").env_remove("NATS_URL");
    command
}

fn run(arguments: &[&str], data_dir: &Path) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).arg("--data-dir").arg(data_dir);
    command.env_remove("DATABASE_URL").env_remove("NATS_URL");
    command.output().unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn lives(pid: u32) -> bool {
    // A zombie has no program any more.
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Waits for a condition that nobody announces.
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < LIMIT, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn all_gone(pids: &[u32]) {
    eventually("all processes are gone", || {
        pids.iter().all(|pid| !lives(*pid)).then_some(())
    });
}

fn by_role(running: &Running) -> BTreeMap<(String, u32), u32> {
    running
        .processes
        .iter()
        .map(|p| ((p.role.clone(), p.index), p.pid))
        .collect()
}

/// Status of a GET, without a client of our own.
fn status_of(base: &str, path: &str) -> Option<u16> {
    use std::io::Write;
    let address = base.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    BufReader::new(stream)
        .take(64)
        .read_line(&mut answer)
        .ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

fn scratch() -> (Scratch, PathBuf) {
    let scratch = Scratch::new("up").unwrap();
    let data_dir = scratch.path().join("data");
    (scratch, data_dir)
}

/// Every file below a folder, and the folders.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(all_below(&path));
        }
        all.push(path);
    }
    all
}

/// Wherever a secret stands, nobody else may read it.
fn secrets_are_for_their_owner_only(data_dir: &Path) {
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    // Postgres keeps its own, and writes while we look.
    let others = |path: &PathBuf| !path.starts_with(data_dir.join("postgres/data"));
    let files: Vec<_> = all_below(data_dir).into_iter().filter(others).collect();
    let is_made_up = |path: &&PathBuf| {
        path.starts_with(data_dir.join("secrets")) || path.ends_with("token-secret")
    };
    let made_up = files
        .iter()
        .filter(is_made_up)
        .filter(|path| path.is_file());
    let mut secrets: Vec<Vec<u8>> = made_up
        .map(|path| std::fs::read(path).unwrap().trim_ascii().to_vec())
        .collect();
    assert_eq!(
        secrets.len(),
        10,
        "of tokens, three roles, four users, two of the gateway"
    );
    let database = running::find(data_dir).unwrap().unwrap().database;
    let (_, password) = database.split_once("://onsale:").unwrap();
    secrets.push(password.split('@').next().unwrap().into());
    let tells = |path: &&PathBuf| {
        let text = std::fs::read(path).unwrap_or_default();
        let mut windows = secrets
            .iter()
            .map(|secret| text.windows(secret.len()).any(|part| part == secret));
        windows.any(|found| found)
    };
    let telling: Vec<_> = files
        .iter()
        .filter(|path| path.is_file())
        .filter(tells)
        .collect();
    for path in &telling {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    let names: Vec<_> = telling
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    assert!(names.contains(&"nats-server.conf"), "{names:?}");
    assert!(
        telling.len() >= 9,
        "and the description of what runs: {names:?}"
    );
    for folder in ["secrets", "nats"] {
        assert_eq!(mode(&data_dir.join(folder)), 0o700, "{folder}");
    }
}

#[test]
fn a_life_of_a_system() {
    let (_scratch, data_dir) = scratch();
    let mut up = Up::start(&data_dir, &["--ingresses", "2", "--workers", "2"]);
    let first = up.running.clone();
    let roles: Vec<_> = by_role(&first)
        .into_keys()
        .map(|(role, index)| format!("{role}{index}"))
        .collect();
    assert_eq!(
        roles,
        [
            "gateway0",
            "ingress0",
            "ingress1",
            "nats0",
            "postgres0",
            "workers0",
            "workers1"
        ]
    );
    assert_eq!(first.metrics.len(), 4);
    assert_eq!(first.data_dir, data_dir);
    assert!(first.accounts.buyers.len() >= 50);
    assert_eq!(status_of(&first.api, "/readyz"), Some(200));
    assert_eq!(
        status_of(
            &first.api,
            &format!("/api/v1/schedules/{}", first.demo.hall_schedule_id)
        ),
        Some(200)
    );
    let room = first.demo.room_schedule_id.as_ref().unwrap();
    let lobby = format!("/api/v1/schedules/{room}/queue/draw");
    assert_eq!(status_of(&first.api, &lobby), Some(200));
    assert_eq!(running::find(&data_dir).unwrap().as_ref(), Some(&first));
    secrets_are_for_their_owner_only(&data_dir);

    // What dies is started again, servers too, and the description stays true. The servers first:
    // a process that runs lives through that, one that is only starting may give up and come again.
    let mut known = by_role(&first);
    let mut order: Vec<_> = known.keys().cloned().collect();
    order.sort_by_key(|(role, _)| !["nats", "postgres"].contains(&role.as_str()));
    for key in order {
        let pid = known[&key];
        send(pid, Signal::SIGKILL);
        let now = eventually("a killed process is started again", || {
            let now = by_role(&running::find(&data_dir).unwrap()?);
            (now[&key] != pid && lives(now[&key])).then_some(now)
        });
        let others_stay = known
            .iter()
            .all(|(other, pid)| *other == key || now[other] == *pid);
        assert!(others_stay, "{key:?} died alone: {known:?} became {now:?}");
        known = now;
    }
    eventually("it serves again", || {
        (status_of(&first.api, "/readyz") == Some(200)).then_some(())
    });

    // One at a time.
    let refused = up_command(&data_dir)
        .arg("--random-ports")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text.contains("already runs") && text.contains("onsale down"),
        "{text}"
    );

    let doctor = run(&["doctor"], &data_dir);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success(), "{text}");
    // It finds by itself what runs here, the simulated gateway as well.
    assert!(text.contains("answers, and knows us"), "{text}");
    let audit = run(&["audit"], &data_dir);
    let text = String::from_utf8_lossy(&audit.stdout);
    assert!(audit.status.success(), "{text}");
    assert!(text.contains("entries of the gateway's book"), "{text}");

    let down = run(&["down"], &data_dir);
    assert!(
        down.status.success(),
        "{}",
        String::from_utf8_lossy(&down.stderr)
    );
    assert!(
        up.ended().success(),
        "a stop that was asked for is no failure"
    );
    all_gone(&known.into_values().collect::<Vec<_>>());
    assert_eq!(running::find(&data_dir).unwrap(), None);
    assert!(
        run(&["down"], &data_dir).status.success(),
        "down of nothing does nothing"
    );
}

#[test]
fn kill_9_leaves_no_process_and_the_next_start_has_the_data() {
    let (_scratch, data_dir) = scratch();
    let mut up = Up::start(&data_dir, &[]);
    let first = up.running.clone();
    let secret = std::fs::read_to_string(data_dir.join("token-secret")).unwrap();
    assert_eq!(secret.trim().len(), 64);
    up.signal(Signal::SIGKILL);
    up.ended();

    // At once, while the servers of the killed one may still be stopping.
    let mut again = Up::start(&data_dir, &[]);
    all_gone(&up.pids());
    assert_eq!(again.running.accounts, first.accounts);
    // But for the room, which is a new one each time, the demo is the same.
    let (room, before) = (
        again.running.demo.room_schedule_id.clone(),
        first.demo.room_schedule_id.clone(),
    );
    assert!(room.is_some() && before.is_some() && room != before);
    let mut demo = again.running.demo.clone();
    demo.room_schedule_id = before;
    assert_eq!(demo, first.demo);
    assert_eq!(
        std::fs::read_to_string(data_dir.join("token-secret")).unwrap(),
        secret
    );
    let password = |running: &Running| running.database.split('@').next().unwrap().to_owned();
    assert_eq!(
        password(&again.running),
        password(&first),
        "the same Postgres, not a new one"
    );
    assert_eq!(status_of(&again.running.api, "/readyz"), Some(200));
    again.signal(Signal::SIGINT);
    assert!(again.ended().success());
    all_gone(&again.pids());

    let mut fresh = Up::start(&data_dir, &["--fresh"]);
    assert_ne!(
        std::fs::read_to_string(data_dir.join("token-secret")).unwrap(),
        secret
    );
    // A second signal forces; nothing stays either way.
    fresh.signal(Signal::SIGTERM);
    fresh.signal(Signal::SIGTERM);
    fresh.ended();
    all_gone(&fresh.pids());
}

/// Waits until no notice is open.
async fn told(database: &str) {
    let mut conn = db::connect(database).await.unwrap();
    let waiting = tokio::time::timeout(LIMIT, async {
        let open = "SELECT notice_id::text AS name FROM notice WHERE done_at IS NULL";
        loop {
            let rows: Vec<Name> = diesel::sql_query(open).load(&mut conn).await.unwrap();
            if rows.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waiting.await.expect("every notice is decided");
}

// Several threads: a connection that is dropped is closed by one that does not wait for a process.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_the_environment_names_are_used_and_left_alone() {
    let servers = Servers::start("named").await.unwrap();
    servers.postgres.create_database("named").await.unwrap();
    let (_scratch, data_dir) = scratch();
    let (database, nats) = (servers.postgres.url("named"), servers.nats.url());
    let mut up = Up::start(
        &data_dir,
        &["--database-url", &database, "--nats-url", &nats],
    );
    assert_eq!((&up.running.database, &up.running.nats), (&database, &nats));
    let roles: Vec<_> = up
        .running
        .processes
        .iter()
        .map(|process| process.role.as_str())
        .collect();
    assert_eq!(roles, ["gateway", "ingress", "workers"]);
    let fresh = up_command(&data_dir.join("other"))
        .args([
            "--fresh",
            "--random-ports",
            "--database-url",
            &database,
            "--nats-url",
            &nats,
        ])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&fresh.stderr).contains("not ours"));
    // The owner of its seats is told of the room; nobody would be there later to hear of it.
    told(&database).await;
    up.signal(Signal::SIGTERM);
    assert!(up.ended().success());
    all_gone(&up.pids());

    // It becomes ready with fewer partitions, although nobody owns those that are left over.
    let named = ["--database-url", &database, "--nats-url", &nats];
    let repartition = run(&[&["repartition", "4"], &named[..]].concat(), &data_dir);
    assert!(repartition.status.success(), "{repartition:?}");
    let mut fewer = up_command(&data_dir);
    let mut up = Up::spawn(fewer.env("ONSALE_PARTITIONS", "4").args(named));
    up.signal(Signal::SIGTERM);
    assert!(up.ended().success());
    assert!(servers.postgres.is_running() && servers.nats.is_running());
}

#[tokio::test]
async fn who_may_not_make_roles_is_told_what_mends_it_and_can_do_without() {
    const USER: &str = "plain";
    let servers = Servers::start("plain").await.unwrap();
    let root = servers.postgres.url("postgres");
    let mut conn = db::connect(&root).await.unwrap();
    for sql in [
        "CREATE ROLE plain LOGIN PASSWORD 'c4n4ry'",
        "CREATE DATABASE plain OWNER plain",
    ] {
        conn.batch_execute(sql).await.unwrap();
    }
    let database = address::with_user(&servers.postgres.url("plain"), USER, "c4n4ry");
    let nats = servers.nats.url();
    let named = ["--database-url", &database, "--nats-url", &nats];
    let (_scratch, data_dir) = scratch();
    let refused = || {
        let mut child = up_command(&data_dir)
            .args(["--random-ports", "--headless", "--json"])
            .args(named)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        if !line.is_empty() {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("--no-roles"), "{text}");
        assert!(text.contains("may do anything"), "{text}");
        assert!(!text.contains("c4n4ry"), "{text}");
        text
    };
    let text = refused();
    assert!(text.contains("user plain may not make roles"), "{text}");
    assert!(text.contains("ALTER ROLE \"plain\" CREATEROLE;"), "{text}");

    let errors = data_dir.with_extension("errors");
    let mut without = up_command(&data_dir);
    without.stderr(std::fs::File::create(&errors).unwrap());
    let mut up = Up::spawn(without.arg("--no-roles").args(named));
    assert_eq!(status_of(&up.running.api, "/readyz"), Some(200));
    assert_eq!(up.running.reader, None);
    let said = std::fs::read_to_string(&errors).unwrap();
    assert!(
        said.contains("roles: NONE") && said.contains("may do anything"),
        "{said}"
    );
    let users = "SELECT DISTINCT usename::text AS name FROM pg_stat_activity \
                 WHERE datname = 'plain' AND application_name = 'onsale'";
    let users: Vec<Name> = diesel::sql_query(users).load(&mut conn).await.unwrap();
    let users: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(users, [USER]);
    up.signal(Signal::SIGTERM);
    assert!(up.ended().success());

    // Roles that somebody else has made have passwords that nobody has told us.
    for role in ["ingress", "workers", "reader"] {
        let made = format!("CREATE ROLE plain_{role} LOGIN PASSWORD 'other'");
        conn.batch_execute(&made).await.unwrap();
    }
    let text = refused();
    assert!(text.contains("user plain may not give the roles"), "{text}");
    let mending = "ALTER ROLE plain CREATEROLE; \
         GRANT plain_ingress, plain_workers, plain_reader TO plain WITH ADMIN OPTION";
    conn.batch_execute(mending).await.unwrap();
    let mut up = Up::start(&data_dir, &named);
    assert!(up.running.reader.is_some());
    up.signal(Signal::SIGTERM);
    assert!(up.ended().success());
}
