//! `onsale bench queue`: how fast people get in line, what it costs to tell them how far they are while
//! a million wait, and how long it takes until all know that the line has moved.

mod delays;
mod joins;
mod polls;
mod report;
mod room;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args as ClapArgs;
use onsale_schema::{Lane, ScheduleId};
use onsale_testkit::Tools;
use serde_json::Value;

use super::case::Member;
use super::cpu::Times;
use super::load::{Generator, Tally};
use super::machine;
use super::progress::Progress;
use super::rig::{self, Rig};
use super::run::{Fault, Track, play};
use super::scrape::Scraped;
use crate::audit;
use delays::{Delay, Delays};
use polls::{Course, Polls, Transactions};
use report::Report;
use room::{Opening, Owners, Rows};

/// Tickets of the small room, beside which the large one is seen.
const SMALL: u32 = 1000;
/// Joins that do not count, before those that do.
const WARM_UP: usize = 500;

/// Measures the waiting room.
///
/// Starts a Postgres and a nats-server of its own (fsync and synchronous_commit on), ingresses and a
/// worker. First so many users join a room over HTTP, at all ingresses in turns. It is opened with all
/// of them in its lobby, and drawn. Each run then joins another
/// room over HTTP, at one ingress, each by a user of its own, and opens it; and polls a room of a
/// thousand and the large one, by random tickets at all ingresses, each poll with an access token
/// that was not seen before. Both lines move by one a second meanwhile. At last one ingress is killed and
/// started again, and the transactions of the database are counted while the large room is polled,
/// and in as much time without. Medians of the runs count. A figure is void when an answer was not
/// the right one, when rows and answers differ, when a poll costs queries, when p99 with all waiting is
/// more than twice that with a thousand, or when `onsale audit` finds something. Use a release build, on a
/// machine that has nothing else to do.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Tickets of the large room.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=3_900_000))]
    pub tickets: u32,

    /// Connections of the load generator.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: u16,

    /// Joins of each run.
    #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=200_000))]
    pub joins: u32,

    /// Polls of each room in each run.
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=500_000))]
    pub polls: u32,

    /// Runs; the medians count.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub runs: u16,

    /// Ingresses.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=8))]
    pub ingresses: u16,

    /// Print one JSON object with every figure instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Of the joins.
    pub joins: Tally,
    /// Where their time went.
    pub pipeline: Value,
    /// The opening of the room that was joined.
    pub opening: Opening,
    /// Polls with a thousand in the room.
    pub small: Polls,
    /// Polls with all in the room.
    pub large: Polls,
    /// Why it does not count.
    pub faults: Vec<Fault>,
}

/// Resident sets before the large room and with it, in bytes: the mean of the processes of a role.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Before.
    pub before: u64,
    /// With its tickets, and after polls by random ones.
    pub with: u64,
}

/// The large room, and what it took.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// How long it took until all had joined.
    pub filling: Duration,
    /// Its opening.
    pub opening: Opening,
    /// Of an ingress.
    pub ingress: Memory,
    /// Of the worker that owns it.
    pub owner: Memory,
}

/// Runs the command.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let progress = Progress::start();
    let tools = Tools::locate()?;
    progress.say("starting Postgres, nats-server, ingresses and a worker");
    let rig = Rig::start_with(&tools, 1, args.ingresses.into()).await?;
    let mut machine = machine::describe(&tools);
    machine["fdatasyncMs"] = machine::fdatasync_ms(rig.data_dir())?.into();
    let owners = Owners::connect(&rig).await?;
    let mut bench = Bench {
        track: Track::new(rig).await?,
        owners,
        args,
        progress,
    };
    let report = bench.measure(machine).await?;
    bench.progress.say("stopping");
    bench.track.rig.stop().await;
    if bench.args.json {
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

struct Bench {
    track: Track,
    owners: Owners,
    args: Args,
    progress: Progress,
}

impl Bench {
    async fn measure(&mut self, machine: Value) -> anyhow::Result<Report> {
        let started = Instant::now();
        let settings = self.track.settings().await?;
        let schedule = self.date().await?;
        let large = self.large(schedule).await?;
        let ingresses = self.track.rig.ingress_metrics();
        let before = Delays::read(&ingresses).await?;
        let mut runs = Vec::new();
        for round in 0..self.args.runs {
            runs.push(self.run(schedule, u64::from(round)).await?);
        }
        let delay = Delays::read(&ingresses).await?.since(&before);
        let (loading, transactions) = self.ask_a_new_ingress(schedule).await?;
        let rows = Rows::count(&mut self.track.conn, schedule).await?;
        self.progress.say("auditing everything");
        let rig = &self.track.rig;
        let options = audit::Options::new(rig.database_url()).with_nats(rig.nats_url(), "");
        Ok(Report {
            machine,
            settings,
            revision: machine::revision(),
            args: self.args.clone(),
            large,
            complaint: rows.complaint(self.args.tickets.into()),
            runs,
            delay,
            loading,
            transactions,
            audit: audit::audit(&options).await?,
            took: started.elapsed(),
        })
    }

    /// A date with a room whose lobby is open.
    async fn date(&mut self) -> anyhow::Result<ScheduleId> {
        let schedule = self.track.grounds.date(1).await?.schedules[0];
        self.owners.make(&mut self.track.conn, schedule).await?;
        Ok(schedule)
    }

    fn course(&self, schedule: ScheduleId, tickets: u32, seed: u64) -> Course {
        Course {
            schedule,
            tickets,
            polls: self.args.polls as usize,
            connections: self.args.connections.into(),
            seed,
        }
    }

    /// A room of a thousand whose line moves.
    async fn small(&mut self) -> anyhow::Result<ScheduleId> {
        let schedule = self.date().await?;
        self.fill(schedule, SMALL).await?;
        let course = self.course(schedule, SMALL, 0);
        polls::attend(&mut self.track, course).await?;
        self.owners.open(schedule).await?;
        Ok(schedule)
    }

    /// Has so many users join a room; how long that took.
    async fn fill(&mut self, schedule: ScheduleId, tickets: u32) -> anyhow::Result<Duration> {
        let connections = self.args.connections.into();
        joins::all(
            &mut self.track,
            connections,
            schedule,
            tickets,
            &self.progress,
        )
        .await
    }

    /// Fills the large room and opens it. Memory is compared with that after as many polls of a small
    /// room, so that what connections and tokens take is in both.
    async fn large(&mut self, schedule: ScheduleId) -> anyhow::Result<Large> {
        let small = self.small().await?;
        let course = self.course(small, SMALL, 0);
        polls::poll(&mut self.track, course).await?;
        let ingress_before = self.memory("ingress")?;
        let owner_before = self.memory("workers")?;
        let tickets = self.args.tickets;
        self.progress.say(format!("{tickets} users join"));
        let filling = self.fill(schedule, tickets).await?;
        self.tidy().await?;
        let course = self.course(schedule, tickets, 1);
        polls::attend(&mut self.track, course).await?;
        self.progress.say("opening with all of them in the lobby");
        let opening = self.owners.open(schedule).await?;
        polls::poll(&mut self.track, course).await?;
        Ok(Large {
            filling,
            opening,
            ingress: Memory {
                before: ingress_before,
                with: self.memory("ingress")?,
            },
            owner: Memory {
                before: owner_before,
                with: self.memory("workers")?,
            },
        })
    }

    async fn run(&mut self, large: ScheduleId, round: u64) -> anyhow::Result<Run> {
        let mut faults = Vec::new();
        let mut fault = |kind: &'static str, part: &str, why: Option<String>| {
            faults.extend(why.map(|why| Fault {
                kind,
                why: format!("{part}: {why}"),
            }));
        };
        let joined = self.date().await?;
        let (joins, pipeline, warmed_up) = self.join(joined).await?;
        for tally in [&warmed_up, &joins] {
            fault("answers", "joins", polls::complaint(tally, 201));
        }
        let given = warmed_up.status(201) + joins.status(201);
        let rows = Rows::count(&mut self.track.conn, joined).await?;
        fault("rows", "joins", rows.complaint(given));
        let opening = self.owners.open(joined).await?;
        let small = self.small().await?;
        self.tidy().await?;
        let course = self.course(small, SMALL, round);
        let small = polls::poll(&mut self.track, course).await?;
        let course = self.course(large, self.args.tickets, round + 2);
        let large = polls::poll(&mut self.track, course).await?;
        fault("answers", "polls of a thousand", small.complaint());
        fault("answers", "polls of all", large.complaint());
        self.progress.say(format!(
            "run {}: {:.0} joins/s; polls p99 {:.2} ms with a thousand, {:.2} ms with all",
            round + 1,
            joins.answers_per_s(),
            small.tally.latency.percentile_ms(99.0),
            large.tally.latency.percentile_ms(99.0),
        ));
        Ok(Run {
            joins,
            pipeline,
            opening,
            small,
            large,
            faults,
        })
    }

    /// Joins a room over HTTP, each by a user of its own: what came of it, where the time went, and
    /// what came of those before that do not count.
    async fn join(&mut self, schedule: ScheduleId) -> anyhow::Result<(Tally, Value, Tally)> {
        let joins = self.args.joins as usize;
        let users = self.track.grounds.users(joins + WARM_UP).await?;
        let addr = self.track.rig.pipeline();
        let script = |users: &[Member]| {
            let tokens = users.iter().map(|user| user.token.clone());
            joins::script(addr, schedule, tokens)
        };
        let (first, rest) = users.split_at(WARM_UP);
        let generator = Generator::connect(addr, self.args.connections.into());
        let generator = generator.context("connecting")?;
        let (generator, warmed_up) = play(generator, script(first)).await?;
        // From here on every ingress is told of it.
        let course = self.course(schedule, WARM_UP as u32, 0);
        polls::attend(&mut self.track, course).await?;
        self.tidy().await?;
        let metrics = self.track.rig.pipeline_metrics();
        let watched = self.track.rig.watched();
        let before = Scraped::read(&metrics, Lane::Admission).await?;
        let times = Times::read(&watched);
        let (_, tally) = play(generator, script(rest)).await?;
        let cpu = Times::read(&watched).since(&times);
        let now = Scraped::read(&metrics, Lane::Admission).await?;
        let mut pipeline = now.since(&before, tally.elapsed);
        pipeline["cpuMsPer1000"] = report::cpu_ms_per_1000(&cpu, tally.latency.count());
        Ok((tally, pipeline, warmed_up))
    }

    /// Kills an ingress and starts it again: how long its first answer takes, which reads the room, and
    /// what polls cost then.
    async fn ask_a_new_ingress(
        &mut self,
        schedule: ScheduleId,
    ) -> anyhow::Result<(Duration, Transactions)> {
        self.progress.say("an ingress is killed and started again");
        self.track.rig.renew_ingress().await?;
        let course = self.course(schedule, self.args.tickets, 1000);
        let loading = polls::attend(&mut self.track, course).await?;
        self.progress.say("counting transactions");
        let transactions = polls::count_transactions(&mut self.track, course).await?;
        Ok((loading, transactions))
    }

    /// Every measurement begins with fresh statistics and nothing left to write.
    async fn tidy(&mut self) -> anyhow::Result<()> {
        rig::tidy(&mut self.track.conn, room::TABLES).await
    }

    /// The mean resident set of the processes of a role, in bytes.
    fn memory(&self, role: &str) -> anyhow::Result<u64> {
        let all = self.track.rig.watched().into_iter();
        let all = all.filter(|one| one.role == role);
        let sizes: Vec<u64> = all
            .map(|one| machine::memory_bytes(one.pid))
            .collect::<anyhow::Result<_>>()?;
        Ok(sizes.iter().sum::<u64>() / sizes.len().max(1) as u64)
    }
}
