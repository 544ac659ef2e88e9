//! `onsale doctor`: what is wrong here, and the command that mends it.

use std::fmt::Display;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Args as ClapArgs;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::{Clock, db, nats};
use onsale_testkit::Tools;
use onsale_workers::config;
use onsale_workers::gateway::toss::Toss;
use onsale_workers::gateway::{Error, Gateway};

use crate::migrate;
use crate::running;
use crate::target::Target;
use crate::up;

/// The oldest Postgres that has all we use, and that the tests run on.
const POSTGRES_MIN: i32 = 15;
/// Older ones lose acknowledged messages in known ways.
const NATS_MIN: (u32, u32, u32) = (2, 14, 6);
/// A clock that is off by more is clamped by the partitions, with an alarm.
const CLOCK_LIMIT_S: f64 = 5.0;

/// Checks this machine and the system on it; every complaint comes with what mends it.
///
/// It looks at tools, disk, ports, the servers with their versions and settings, the clock against
/// that of Postgres, migrations, and whether the payment gateway knows us, where one is named or runs.
/// It changes nothing, and exits 1 when there is a complaint.
#[derive(ClapArgs, Debug)]
#[command(max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    gateway: config::Gateway,
}

/// What the checks have found.
#[derive(Default)]
struct Report {
    complaints: u32,
}

impl Report {
    fn fine(&self, what: &str, found: impl Display) {
        println!("  ok    {what:<12} {found}");
    }

    /// Not wrong enough to exit 1.
    fn warn(&self, what: &str, found: impl Display, mend: impl Display) {
        println!(
            "  odd   {what:<12} {found}\n        {:<12} mend: {mend}",
            ""
        );
    }

    /// Nothing wrong, but not checked either.
    fn skipped(&self, what: &str, why: impl Display) {
        println!("  -     {what:<12} {why}");
    }

    fn complain(&mut self, what: &str, found: impl Display, mend: impl Display) {
        self.complaints += 1;
        println!(
            "  BAD   {what:<12} {found}\n        {:<12} mend: {mend}",
            ""
        );
    }

    fn require(&mut self, holds: bool, what: &str, found: impl Display, mend: impl Display) {
        if holds {
            self.fine(what, found);
        } else {
            self.complain(what, found, mend);
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When a check itself can't be made.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let target = &args.target;
    check_tools(&mut report);
    check_disk(&mut report, &target.data_dir);
    let holder = running::holder(&target.data_dir)?;
    match (holder, running::find(&target.data_dir)?) {
        (Some(pid), Some(system)) => report.fine(
            "system",
            format!("process {pid} runs it, API on {}", system.api),
        ),
        (Some(pid), None) => report.skipped("system", format!("process {pid} is starting it")),
        (None, _) => {
            report.skipped(
                "system",
                format!("no `onsale up` runs on {}", target.data_dir.display()),
            );
            check_ports(&mut report);
        }
    }
    match target.database_url() {
        Ok(url) => check_postgres(&mut report, &url).await,
        Err(_) => report.skipped("Postgres", "none runs and DATABASE_URL names none"),
    }
    match target.nats_url() {
        Ok(url) => check_nats(&mut report, &url).await,
        Err(_) => report.skipped("NATS", "none runs and NATS_URL names none"),
    }
    match target.gateway(args.gateway.clone()) {
        Ok(settings) => check_gateway(&mut report, &settings).await,
        Err(error) => report.complain("gateway", format!("{error:#}"), "make up"),
    }
    if report.complaints == 0 {
        println!("\nAll is well.");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("\n{} to mend.", report.complaints);
        Ok(ExitCode::FAILURE)
    }
}

fn check_tools(report: &mut Report) {
    match Tools::locate() {
        Ok(tools) => {
            for (what, program) in [
                ("postgres", tools.postgres_bin.join("postgres")),
                ("nats-server", tools.nats_server),
            ] {
                match version_line(&program) {
                    Some(line) => report.fine(what, format!("{line} ({})", program.display())),
                    None => report.complain(
                        what,
                        format!("{} does not run", program.display()),
                        "rm -r .tools && make tools",
                    ),
                }
            }
        }
        Err(error) => report.complain("tools", error, "make tools"),
    }
    match version_line(Path::new("setpriv")) {
        Some(line) => report.fine("setpriv", line),
        None => report.complain("setpriv", "is missing", "apt-get install util-linux"),
    }
}

fn version_line(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn check_disk(report: &mut Report, data_dir: &Path) {
    // Before the first start the folder is not there yet.
    let there = data_dir
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("."));
    match up::check_disk(there) {
        Ok(free_mb) => report.fine("disk", format!("{free_mb} MB free")),
        Err(error) => report.complain(
            "disk",
            format!("{error:#}"),
            "free some space, or use --data-dir",
        ),
    }
}

fn check_ports(report: &mut Report) {
    let taken = up::default_ports_taken();
    let list: Vec<String> = taken
        .iter()
        .map(|(what, port)| format!("{port} ({what})"))
        .collect();
    report.require(
        taken.is_empty(),
        "ports",
        if taken.is_empty() {
            "the default ones are free".to_owned()
        } else {
            format!("taken: {}", list.join(", "))
        },
        "stop what uses them (`ss -ltnp` shows it), or: make up ARGS=--random-ports",
    );
}

/// What one query tells about a Postgres.
#[derive(QueryableByName)]
struct Facts {
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Text)]
    fsync: String,
    #[diesel(sql_type = Text)]
    synchronous_commit: String,
    #[diesel(sql_type = Text)]
    encoding: String,
    #[diesel(sql_type = Text)]
    lc_messages: String,
}

async fn check_postgres(report: &mut Report, url: &str) {
    let mut connection = match db::connect(url).await {
        Ok(connection) => connection,
        Err(error) => {
            return report.complain(
                "Postgres",
                error,
                "make up, or start the one that DATABASE_URL names",
            );
        }
    };
    let facts: Result<Facts, _> = diesel::sql_query(
        "SELECT current_setting('server_version_num')::int / 10000 AS version, \
                current_setting('fsync') AS fsync, \
                current_setting('synchronous_commit') AS synchronous_commit, \
                current_setting('server_encoding') AS encoding, \
                current_setting('lc_messages') AS lc_messages",
    )
    .get_result(&mut connection)
    .await;
    match facts {
        Ok(facts) => judge_facts(report, &facts),
        Err(error) => report.complain("Postgres", error, "look at its log"),
    }
    check_clock(report, &mut connection).await;
    check_roles(report, &mut connection).await;
    check_migrations(report, url).await;
}

fn judge_facts(report: &mut Report, facts: &Facts) {
    let found = format!("version {}", facts.version);
    report.require(
        facts.version >= POSTGRES_MIN,
        "Postgres",
        found,
        format!("use Postgres {POSTGRES_MIN} or newer"),
    );
    let durable = facts.fsync == "on" && facts.synchronous_commit != "off";
    let found = format!(
        "fsync {}, synchronous_commit {}",
        facts.fsync, facts.synchronous_commit
    );
    report.require(durable, "durability", found, "ALTER SYSTEM SET fsync = on; ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()");
    report.require(
        facts.encoding == "UTF8",
        "encoding",
        &facts.encoding,
        "create the database with ENCODING 'UTF8'",
    );
    // Some errors are told by their text.
    report.require(
        db::is_english(&facts.lc_messages),
        "messages",
        format!("lc_messages '{}'", facts.lc_messages),
        db::ENGLISH_MEND,
    );
}

async fn check_clock(report: &mut Report, connection: &mut AsyncPgConnection) {
    let clock = Clock::default();
    match db::measure_clock(connection, &clock).await {
        Ok(()) => {
            let offset_s = clock.host_offset_us() as f64 / 1e6;
            let found = format!("{:+.3} s from that of Postgres", -offset_s);
            report.require(
                offset_s.abs() < CLOCK_LIMIT_S,
                "clock",
                found,
                "let a time service (chrony, systemd-timesyncd) set the clocks of both hosts",
            );
        }
        Err(error) => report.complain("clock", error, "look at the log of Postgres"),
    }
}

#[derive(QueryableByName)]
struct Mighty {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    sessions: i64,
}

/// Our processes should not be able to do more than they do.
async fn check_roles(report: &mut Report, connection: &mut AsyncPgConnection) {
    // What a session of another role is for, only superusers and monitors see; the owner sees those
    // of its own, which count most.
    let mighty: Result<Vec<Mighty>, _> = diesel::sql_query(
        "SELECT usename::text AS name, count(*) AS sessions \
         FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid \
         WHERE a.datname = current_database() AND a.application_name = 'onsale' \
           AND a.pid <> pg_backend_pid() \
           AND (r.rolsuper OR EXISTS (SELECT FROM pg_tables t \
                                      WHERE t.schemaname = 'public' AND t.tableowner = a.usename)) \
         GROUP BY usename",
    )
    .load(connection)
    .await;
    match mighty.as_deref() {
        Ok([]) => report.fine("roles", "no process is seen with more rights than it needs"),
        Ok(mighty) => {
            let list = mighty
                .iter()
                .map(|one| format!("{} sessions as {}", one.sessions, one.name));
            report.warn(
                "roles",
                format!(
                    "processes may do anything in the database: {}",
                    list.collect::<Vec<_>>().join(", ")
                ),
                "onsale migrate, then DATABASE_URLs of the roles that it names",
            );
        }
        Err(error) => report.complain("roles", error, "look at the log of Postgres"),
    }
}

/// Asks for the last minute of its book.
async fn check_gateway(report: &mut Report, settings: &config::Gateway) {
    const WHAT: &str = "gateway";
    let gateway = match Toss::of_settings(settings) {
        Ok(Some(gateway)) => gateway,
        Ok(None) => return report.skipped(WHAT, "none runs and ONSALE_GATEWAY_URL names none"),
        Err(error) => {
            let mend = "look at ONSALE_GATEWAY_CA and ONSALE_GATEWAY_URL";
            return report.complain(WHAT, error, mend);
        }
    };
    let now = Clock::default().now();
    match gateway.transactions(now.plus_ms(-60_000), now, None).await {
        Ok(_) => report.fine(WHAT, "answers, and knows us"),
        Err(error @ Error::Rejected { .. }) => {
            report.complain(WHAT, error, "look at ONSALE_GATEWAY_SECRET");
        }
        Err(error) => report.complain(WHAT, error, "look at ONSALE_GATEWAY_URL, and its status"),
    }
}

async fn check_migrations(report: &mut Report, url: &str) {
    match migrate::pending(url).await {
        Ok(pending) => {
            let found = match pending.len() {
                0 => "up to date".to_owned(),
                count => format!("{count} not applied"),
            };
            report.require(pending.is_empty(), "migrations", found, "onsale migrate");
        }
        Err(error) => report.complain("migrations", format!("{error:#}"), "onsale migrate"),
    }
}

async fn check_nats(report: &mut Report, url: &str) {
    let client = match nats::connect(url, "onsale-doctor").await {
        Ok(client) => client,
        Err(error) => {
            return report.complain(
                "NATS",
                error,
                "make up, or start the one that NATS_URL names",
            );
        }
    };
    let info = client.server_info();
    let (major, minor, patch) = NATS_MIN;
    report.require(
        parsed(&info.version).is_some_and(|version| version >= NATS_MIN),
        "NATS",
        format!("version {}", info.version),
        format!("use nats-server {major}.{minor}.{patch} or newer"),
    );
    report.require(
        info.jetstream,
        "JetStream",
        if info.jetstream { "on" } else { "off" },
        "start nats-server with --jetstream and a --store_dir",
    );
}

/// `2.15.1-beta.2` as numbers.
fn parsed(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split(['.', '-']).map(str::parse);
    Some((
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(parsed("2.15.1") > parsed("2.14.6"));
        assert!(parsed("2.14.10") > parsed("2.14.6"));
        assert_eq!(parsed("2.15.1-beta.2"), Some((2, 15, 1)));
        assert_eq!(parsed("devel"), None);
    }
}
