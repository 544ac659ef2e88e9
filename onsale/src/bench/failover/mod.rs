//! `onsale bench failover`: how long a partition sells nothing when a worker is killed or hangs, or a
//! server falls, whether anybody notices when a worker joins or leaves, and what more workers bring.
//!
//! It measures from outside, as a buyer would: the gap of an episode is the longest time between two
//! holds (201) in a row of any partition. Every hold that was answered must be in Postgres.

mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args as ClapArgs;
use onsale_testkit::Tools;
use onsale_testkit::spawn::Signal;

use super::case::{Case, Size};
use super::machine;
use super::progress::Progress;
use super::rig::Rig;
use super::run::{Course, Design, Run, Track};
use super::steady::{Answers, Steady, Wanted};
use super::verify;
use crate::audit;
use report::Report;

/// Requests per date before the blow.
const BEFORE: usize = 100;
/// Requests per date after all is well again.
const AFTER: usize = 50;
/// More requests per date than any episode makes.
const SEATS: u32 = 3_000;
/// An episode that is not over after this has failed.
const EPISODE_LIMIT: Duration = Duration::from_secs(60);

/// Measures takeover, hand-over and the throughput of several workers.
///
/// Starts a Postgres and a nats-server of its own, an ingress and workers, sells a date on each of 16
/// partitions at a steady rate, and kills (SIGKILL), stops (SIGSTOP) or ends (SIGTERM) one worker
/// after the other; then it kills nats-server, and stops Postgres at once (`-m immediate`), and starts
/// each again. Use a release build, on a machine that has nothing else to do.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Workers that are killed.
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub kills: u16,

    /// Workers that hang.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub hangs: u16,

    /// Workers that leave and come back in good order.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub handovers: u16,

    /// Times that nats-server is killed and started again.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub nats: u16,

    /// Times that Postgres crashes and is started again.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub postgres: u16,

    /// How many workers share the partitions meanwhile.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=8))]
    pub workers: u16,

    /// Holds per second that are asked of each of the 16 partitions.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
    pub rate: u16,

    /// Numbers of workers whose throughput is measured; `0` for none.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4], value_name = "N",
          value_parser = clap::value_parser!(u16).range(0..=8))]
    pub throughput: Vec<u16>,

    /// Requests of each run of the throughput.
    #[arg(long, default_value_t = 20_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(100..=500_000))]
    pub requests: u32,

    /// Runs of the throughput with each number of workers; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub runs: u16,

    /// Print one JSON object with every figure instead of the tables.
    #[arg(long)]
    pub json: bool,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL: its life-sign is gone at once.
    Kill,
    /// SIGSTOP until others have taken over: its lease must run out.
    Hang,
    /// SIGTERM, and a new one in its place, all under load.
    Handover,
    /// SIGKILL to nats-server, which is started again at once.
    Nats,
    /// `-m immediate` to Postgres, which is started again at once and has to recover.
    Postgres,
}

impl Blow {
    /// In the order in which they are struck.
    const ALL: [Self; 5] = [
        Self::Kill,
        Self::Hang,
        Self::Handover,
        Self::Nats,
        Self::Postgres,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Handover => "hand-over",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
        }
    }

    fn count(self, args: &Args) -> u16 {
        match self {
            Self::Kill => args.kills,
            Self::Hang => args.hangs,
            Self::Handover => args.handovers,
            Self::Nats => args.nats,
            Self::Postgres => args.postgres,
        }
    }
}

/// What came of one blow.
#[derive(Clone, Debug)]
pub struct Episode {
    blow: Blow,
    /// The longest time between two holds in a row of any partition.
    gap: Duration,
    answers: Answers,
    /// Why it does not count.
    fault: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let progress = Progress::start();
    let tools = Tools::locate()?;
    progress.say("starting Postgres, nats-server, an ingress and the workers");
    let rig = Rig::start(&tools, usize::from(args.workers)).await?;
    let mut bench = Bench {
        track: Track::new(rig).await?,
        args,
        progress,
        victim: 0,
    };
    let episodes = bench.episodes().await?;
    let runs = bench.throughput().await?;
    bench.progress.say("auditing everything");
    let rig = &bench.track.rig;
    let options = audit::Options::new(rig.database_url()).with_nats(rig.nats_url(), "");
    let report = Report {
        machine: machine::describe(&tools),
        settings: bench.track.settings().await?,
        revision: machine::revision(),
        args: bench.args.clone(),
        episodes,
        runs,
        audit: audit::audit(&options).await?,
        took: started.elapsed(),
    };
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
    args: Args,
    progress: Progress,
    /// Whose turn it is.
    victim: usize,
}

impl Bench {
    async fn episodes(&mut self) -> anyhow::Result<Vec<Episode>> {
        let mut episodes = Vec::new();
        for blow in Blow::ALL {
            let count = blow.count(&self.args);
            for number in 1..=count {
                let episode = self.episode(blow).await?;
                self.progress.say(format!(
                    "{:<9} {number:>3} of {count}  gap {:>6.0} ms  {}{}",
                    blow.name(),
                    episode.gap.as_secs_f64() * 1e3,
                    episode.answers.summary(),
                    episode
                        .fault
                        .as_ref()
                        .map_or(String::new(), |fault| format!("  VOID: {fault}")),
                ));
                episodes.push(episode);
            }
        }
        Ok(episodes)
    }

    /// One blow under load, until all partitions sell again.
    async fn episode(&mut self, blow: Blow) -> anyhow::Result<Episode> {
        let dates = self.track.grounds.dates(SEATS).await?;
        let schedules = dates.schedules.clone();
        let wanted = Wanted {
            schedules: dates.schedules,
            labels: dates.labels,
            tokens: dates.tokens,
        };
        let load = Steady::start(self.track.rig.pipeline(), wanted, self.args.rate)?;
        load.until_each(BEFORE, EPISODE_LIMIT).await?;
        self.victim = (self.victim + 1) % self.track.rig.workers.len();
        let struck = Instant::now();
        self.strike(blow).await?;
        load.until_each_since(struck, AFTER, EPISODE_LIMIT).await?;
        let answers = load.stop().await;
        self.mend(blow).await?;

        let rows = verify::rows(&mut self.track.conn, Design::Pipeline, &schedules).await?;
        let won = i64::try_from(answers.won()).unwrap_or(i64::MAX);
        let open = i64::try_from(answers.open()).unwrap_or(i64::MAX);
        let whole = rows.claimed_twice == 0
            && rows.disagreements == 0
            && rows.reservations == rows.claims
            && (won..=won + open).contains(&rows.claims);
        let fault = (!whole).then(|| format!("{won} were held, but Postgres has {rows:?}"));
        Ok(Episode {
            blow,
            gap: answers.gap(struck),
            answers,
            fault,
        })
    }

    async fn strike(&mut self, blow: Blow) -> anyhow::Result<()> {
        let victim = &self.track.rig.workers[self.victim];
        match blow {
            Blow::Kill => victim.end(Signal::SIGKILL).await,
            Blow::Hang => victim.signal(Signal::SIGSTOP),
            Blow::Handover => {
                victim.stop().await;
                self.track.rig.replace(self.victim).await?;
                self.track.rig.until_shared().await?;
            }
            Blow::Nats => self.track.rig.crash_nats().await?,
            Blow::Postgres => {
                self.track.rig.crash_postgres().await?;
                self.track.reconnect().await?;
            }
        }
        Ok(())
    }

    async fn mend(&mut self, blow: Blow) -> anyhow::Result<()> {
        match blow {
            Blow::Kill => self.track.rig.replace(self.victim).await?,
            Blow::Hang => self.track.rig.workers[self.victim].signal(Signal::SIGCONT),
            Blow::Handover | Blow::Nats | Blow::Postgres => {}
        }
        self.track.rig.until_shared().await
    }

    /// Holds per second on 16 busy dates, by the number of workers; the numbers take turns.
    async fn throughput(&mut self) -> anyhow::Result<Vec<(u16, Run<Case>)>> {
        let mut runs = Vec::new();
        let counts = self.args.throughput.clone();
        for round in 0..self.args.runs {
            for &workers in counts.iter().filter(|workers| **workers > 0) {
                self.track.rig.scale(usize::from(workers)).await?;
                let course = Course {
                    design: Design::Pipeline,
                    case: Case::AllWin,
                    connections: 256,
                    size: Size {
                        requests: self.args.requests as usize,
                        warm_up: 2_000,
                    },
                    seed: u64::from(round),
                };
                let addr = self.track.rig.pipeline();
                let run = self.track.run(course, addr).await?;
                ensure!(run.tally.answers_per_s() > 0.0, "nothing was answered");
                self.progress.say(format!(
                    "{workers} workers  {:>8.0} holds/s",
                    run.tally.answers_per_s()
                ));
                runs.push((workers, run));
            }
        }
        Ok(runs)
    }
}
