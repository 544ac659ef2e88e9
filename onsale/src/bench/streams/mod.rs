//! `onsale bench streams`: what an open event stream costs an ingress, and how long a change takes to
//! reach all of them.

mod followers;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args as ClapArgs;
use nix::sys::resource::{Resource, getrlimit};
use onsale_schema::ScheduleId;
use onsale_testkit::{Tools, spawn};
use serde_json::{Value, json};
use uuid::Uuid;

use super::case::Dates;
use super::cpu::Times;
use super::histogram::Histogram;
use super::machine;
use super::progress::Progress;
use super::rig::Rig;
use super::run::Track;
use followers::Followers;
use report::Report;

/// Seats of the date that is followed.
const SEATS: u32 = 50_000;
/// Files that a process needs beside its streams.
const OTHER_FILES: u64 = 512;
/// How long opening all streams may take.
const OPEN_LIMIT: Duration = Duration::from_secs(120);
/// How long a change may take to reach all.
const TOLD_LIMIT: Duration = Duration::from_secs(30);
/// Longer than a stream waits between two pieces, so that each change is told by itself.
const PAUSE: Duration = Duration::from_millis(250);

/// Measures many open event streams on one ingress.
///
/// Starts a Postgres and a nats-server of its own, an ingress and a worker, opens so many event streams
/// of one date of 50,000 seats, one connection each, over loopback, and reports the memory of the
/// ingress before and with them; then it holds seat after seat, and reports how long after a hold was
/// asked for each stream was told; at last the ingress is stopped, and all streams must end in good
/// order. Use a release build, on a machine that has nothing else to do.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Streams that are open at once.
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub streams: u32,

    /// Seats that are held, one after the other, while all are open.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub changes: u32,

    /// Print one JSON object with every figure instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the limit of open files is too low, something does not start, or a stream breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    allow_files(args.streams.into())?;
    let progress = Progress::start();
    let tools = Tools::locate()?;
    progress.say("starting Postgres, nats-server, an ingress and a worker");
    let mut track = Track::new(Rig::start(&tools, 1).await?).await?;
    let dates = track.grounds.date(SEATS).await?;
    let schedule = dates.schedules[0];
    let addr = track.rig.pipeline();
    let open = async |count: usize| {
        let opening = move || Followers::open(addr, schedule, count, OPEN_LIMIT);
        tokio::task::spawn_blocking(opening).await?
    };
    // The map is read, and every pool and buffer that is there once is made.
    let warm = open(10).await?;
    hold(&track, &dates, 0).await?;
    drop(warm);
    tokio::time::sleep(PAUSE).await;

    let before_bytes = memory_bytes(&track.rig)?;
    progress.say(format!("opening {} streams", args.streams));
    let opened = Instant::now();
    let mut followers = open(args.streams as usize).await?;
    let opening = opened.elapsed();
    tokio::time::sleep(PAUSE).await;
    let with_bytes = memory_bytes(&track.rig)?;
    let idle = Times::read(&track.rig.watched());

    progress.say(format!("telling {} changes to all", args.changes));
    let mut told = Histogram::default();
    let mut held = Histogram::default();
    for number in 1..=args.changes {
        let since = Instant::now();
        let version = i64::from(number) + 1;
        let waiting = tokio::task::spawn_blocking(move || {
            let told = followers.until(version, since, since + TOLD_LIMIT);
            (followers, told)
        });
        hold(&track, &dates, number as usize).await?;
        held.record(since.elapsed());
        let (back, of_change) = waiting.await?;
        followers = back;
        told.add(&of_change?);
        tokio::time::sleep(PAUSE).await;
    }
    let cpu = Times::read(&track.rig.watched()).since(&idle);
    let after_bytes = memory_bytes(&track.rig)?;

    progress.say("stopping the ingress");
    let stopped = Instant::now();
    let ending = tokio::task::spawn_blocking(move || followers.until_ended(stopped + TOLD_LIMIT));
    track.rig.stop_ingress().await;
    let whole = ending.await??;
    let report = Report {
        machine: machine::describe(&tools),
        revision: machine::revision(),
        args,
        before_bytes,
        with_bytes,
        after_bytes,
        opening,
        told,
        held,
        cpu,
        whole,
        ending: stopped.elapsed(),
        took: started.elapsed(),
    };
    track.rig.stop().await;
    if report.args.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(if report.faults().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Each stream is an open file here, and one of the ingress, which inherits the limit.
fn allow_files(streams: u64) -> anyhow::Result<()> {
    spawn::allow_many_files().context("raising the limit of open files")?;
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = streams + OTHER_FILES;
    ensure!(
        allowed >= needed,
        "{streams} streams need {needed} open files, and this process may have {allowed}: raise the \
         hard limit (`ulimit -Hn {needed}` as root, or `LimitNOFILE` of the service), or ask for \
         fewer with --streams"
    );
    Ok(())
}

/// Holds one seat.
async fn hold(track: &Track, dates: &Dates, seat: usize) -> anyhow::Result<()> {
    let schedule: ScheduleId = dates.schedules[0];
    let url = format!("http://{}/api/v1/reservations", track.rig.pipeline());
    let body: Value = json!({ "scheduleId": schedule, "seats": [dates.labels[seat]] });
    let client = reqwest::Client::builder()
        .timeout(TOLD_LIMIT)
        .no_proxy()
        .build()?;
    let request = client
        .post(url)
        .bearer_auth(&dates.tokens[seat % dates.tokens.len()])
        .header("idempotency-key", Uuid::now_v7().to_string())
        .json(&body);
    let answer = request.send().await.context("holding a seat")?;
    ensure!(
        answer.status() == 201,
        "a hold was answered {}",
        answer.status()
    );
    Ok(())
}

/// What the ingress has of memory (its resident set).
fn memory_bytes(rig: &Rig) -> anyhow::Result<u64> {
    let mut watched = rig.watched().into_iter();
    let ingress = watched.find(|one| one.role == "ingress");
    let pid = ingress.context("there is no ingress")?.pid;
    machine::memory_bytes(pid)
}
