//! `onsale repartition`: another number of partitions, when nothing is under way.
//!
//! A schedule's partition follows from the count, so a change while anything runs would give one
//! schedule two owners. Everything must be drained and stopped first; that is waited for, visibly.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args as ClapArgs;
use diesel::sql_types::{Array, BigInt, Integer, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::Lane;

use crate::at_rest;
use crate::partitions;
use crate::target::Target;

/// Changes the number of partitions, after everything is drained and stopped.
///
/// Stop the ingresses first and let the workers decide what is queued, then stop the workers: this
/// command shows what it still waits for. Afterwards start every process with the new
/// ONSALE_PARTITIONS; one that is configured otherwise refuses to start.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// How many partitions there will be.
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// How long to wait for everything to be drained and stopped, in seconds.
    #[arg(long, default_value_t = 600)]
    pub wait_s: u64,
}

/// Runs the command.
///
/// # Errors
/// When a server can't be reached, or something still runs after the wait.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (database_url, nats_url) = (args.target.database_url()?, args.target.nats_url()?);
    let wait = Duration::from_secs(args.wait_s);
    let before = change(
        &database_url,
        &nats_url,
        &args.subject_prefix,
        args.partitions,
        wait,
        |open| {
            eprintln!("waiting: {open}");
        },
    )
    .await?;
    println!(
        "{before} partitions before, {} now; start every process with ONSALE_PARTITIONS={}",
        args.partitions, args.partitions
    );
    Ok(ExitCode::SUCCESS)
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// Changes the count; returns the one before. `waiting` is told what is still open, each second.
///
/// # Errors
/// When a server can't be reached, or something is still open after `wait`.
pub async fn change(
    database_url: &str,
    nats_url: &str,
    subject_prefix: &str,
    partitions: u16,
    wait: Duration,
    waiting: impl Fn(&str),
) -> anyhow::Result<i64> {
    let mut conn = db::connect(database_url)
        .await
        .context("connecting to Postgres")?;
    let mut left = wait.as_secs();
    while let Some(open) = open(&mut conn, database_url, nats_url, subject_prefix).await? {
        if left == 0 {
            bail!("nothing was changed: {open}");
        }
        waiting(&open);
        tokio::time::sleep(Duration::from_secs(1)).await;
        left -= 1;
    }
    conn.transaction::<i64, anyhow::Error, _>(async |conn| {
        let started = at_rest::sessions_with_nobody_starting(conn).await?;
        ensure!(
            started == 0,
            "nothing was changed: a process has started and holds {started} sessions"
        );
        let before: Count = sql_query("SELECT partitions::bigint AS n FROM system FOR UPDATE")
            .get_result(conn)
            .await
            .context("this database was never used")?;
        sql_query("UPDATE system SET partitions = $1")
            .bind::<Integer, _>(i32::from(partitions))
            .execute(conn)
            .await?;
        // All that is applied stays applied: each goes on behind its cursor's time.
        sql_query(
            "UPDATE partition SET owner = NULL, epoch = epoch + 1, \
                 incarnation = incarnation + 1, applied_seq = 0 \
             WHERE lane = ANY ($1) AND applied_seq > 0",
        )
        .bind::<Array<Text>, Vec<_>>(Lane::partitioned().map(Lane::as_str).collect())
        .execute(conn)
        .await?;
        Ok(before.n)
    })
    .await
}

/// What is still queued or running, in words.
async fn open(
    conn: &mut AsyncPgConnection,
    database_url: &str,
    nats_url: &str,
    subject_prefix: &str,
) -> anyhow::Result<Option<String>> {
    let partitions = partitions::list(database_url, nats_url, subject_prefix).await?;
    let undecided: u64 = partitions.iter().filter_map(|p| p.undecided).sum();
    let notices: Count = sql_query("SELECT count(*) AS n FROM notice WHERE done_at IS NULL")
        .get_result(conn)
        .await?;
    let sessions = at_rest::sessions(conn).await?;
    Ok(match (undecided, notices.n, sessions) {
        (0, 0, 0) => None,
        (0, 0, sessions) => Some(format!(
            "drained, but processes hold {sessions} sessions: stop ingresses and workers"
        )),
        (undecided, notices, sessions) => Some(format!(
            "{undecided} messages and {notices} notices are undecided ({sessions} sessions); stop \
             the ingresses and leave the workers running"
        )),
    })
}
