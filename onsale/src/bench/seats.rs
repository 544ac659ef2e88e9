//! `onsale bench seats`: the pipeline against the direct designs, alternating, on one machine, in one
//! run.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Args as ClapArgs;
use onsale_testkit::Tools;

use super::case::{Case, Size, echoes};
use super::direct::Rival;
use super::load::Generator;
use super::machine;
use super::progress::Progress;
use super::report::{Group, Report};
use super::rig::Rig;
use super::run::{Course, Design, Fault, Run, Track, play};
use crate::audit;

/// Requests of one run while the best pool is looked for, at most.
const TRIAL_REQUESTS: usize = 10_000;
/// Measurements of the echo, of which the median counts.
const ECHOES: usize = 3;

/// Measures holds, decided and durable, against the direct designs.
///
/// Starts a Postgres and a nats-server of its own (fsync and synchronous_commit on), an ingress and
/// workers with all features, and the rivals: one CTE statement per request, or a transaction with
/// row locks, behind the same HTTP stack, pool and settings. Runs alternate between the designs; the
/// median counts. Every answer is checked against Postgres afterwards, and the whole database by
/// `onsale audit`. Beside the rivals runs a yardstick, `lean-cte`: a bare statement that writes two
/// rows and checks nothing. Measured before on a machine of 2 cores with Postgres 18, where a plain
/// echo of the same stack did 74k answers/s, it did 10.2k to 10.5k holds/s when all win, and 21.6k
/// decisions/s when 256 connections want hot seats. A figure is void when an answer was not the
/// right one, when the yardstick is below 0.6 of that share of what the echo does now, or when the
/// rival `cte` is below 0.4 of the yardstick. Use a release build, on a machine that has nothing
/// else to do.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Requests of each run.
    #[arg(long, default_value_t = 50_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(100..=500_000))]
    pub requests: u32,

    /// Runs of each design in each case; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=99))]
    pub runs: u16,

    /// Connections of the load generator.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256], value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub connections: Vec<u16>,

    /// What is wanted.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Case::AllWin, Case::Hot])]
    pub cases: Vec<Case>,

    /// Against whom.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Rival::Cte])]
    pub rivals: Vec<Rival>,

    /// Sizes of the rivals' pool; the best one is found for each case.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 16, 32, 64], value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=150))]
    pub pools: Vec<u16>,

    /// One run of 2,000 requests each: whether it works at all.
    #[arg(long, conflicts_with_all = ["requests", "runs", "pools"])]
    pub quick: bool,

    /// Print one JSON object with every figure instead of the tables.
    #[arg(long)]
    pub json: bool,
}

impl Args {
    fn quickened(self) -> Self {
        if !self.quick {
            return self;
        }
        Self {
            requests: 2_000,
            runs: 1,
            pools: vec![16],
            ..self
        }
    }

    fn size(&self) -> Size {
        let requests = self.requests as usize;
        Size {
            requests,
            warm_up: (requests / 10).clamp(100, 2_000),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let args = args.quickened();
    let progress = Progress::start();
    let tools = Tools::locate()?;
    progress.say("starting Postgres, nats-server, ingress and workers");
    let rig = Rig::start(&tools, 1).await?;
    let fdatasync_ms = machine::fdatasync_ms(rig.data_dir())?;
    let mut bench = Bench {
        track: Track::new(rig).await?,
        args,
        progress,
        running: None,
    };
    let mut machine = machine::describe(&tools);
    machine["fdatasyncMs"] = fdatasync_ms.into();
    let report = bench.measure(machine).await?;
    bench.progress.say("stopping");
    bench.track.rig.stop().await;
    if bench.args.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(if report.is_void() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

struct Bench {
    track: Track,
    args: Args,
    progress: Progress,
    /// The rival that is up, with the size of its pool and where it serves.
    running: Option<(Rival, u16, std::net::SocketAddr)>,
}

impl Bench {
    async fn measure(&mut self, machine: serde_json::Value) -> anyhow::Result<Report> {
        let started = Instant::now();
        let settings = self.track.settings().await?;
        let echo = self.echo().await?;
        let mut groups = Vec::new();
        for case in self.args.cases.clone() {
            for connections in self.args.connections.clone() {
                groups.push(self.group(case, usize::from(connections)).await?);
            }
        }
        self.progress.say("auditing everything");
        let rig = &self.track.rig;
        let options = audit::Options::new(rig.database_url()).with_nats(rig.nats_url(), "");
        let audit = audit::audit(&options).await?;
        Ok(Report {
            machine,
            settings,
            revision: machine::revision(),
            size: self.args.size(),
            echo,
            groups,
            audit,
            took: started.elapsed(),
        })
    }

    /// One case at one number of connections: the pools first, then the alternating runs.
    async fn group(&mut self, case: Case, connections: usize) -> anyhow::Result<Group> {
        let mut pools = BTreeMap::new();
        let mut rivals: BTreeSet<Rival> = self.args.rivals.iter().copied().collect();
        rivals.insert(Rival::LeanCte);
        for rival in rivals {
            let pool = self.best_pool(rival, case, connections).await?;
            pools.insert(rival, pool);
        }
        let mut runs = Vec::new();
        for round in 0..self.args.runs {
            let rivals = pools.keys().copied().map(Design::Direct);
            for design in std::iter::once(Design::Pipeline).chain(rivals) {
                let course = Course {
                    design,
                    case,
                    connections,
                    size: self.args.size(),
                    seed: u64::from(round),
                };
                runs.push(self.run(course, &pools).await?);
            }
        }
        Ok(Group {
            case,
            connections,
            pools,
            runs,
        })
    }

    async fn run(&mut self, course: Course, pools: &BTreeMap<Rival, u16>) -> anyhow::Result<Run> {
        let addr = match course.design {
            Design::Pipeline => self.track.rig.pipeline(),
            Design::Direct(rival) => {
                let pool = pools.get(&rival).context("each rival has its pool")?;
                self.rival(rival, *pool).await?
            }
        };
        let run = self.track.run(course, addr).await?;
        let Course {
            design,
            case,
            connections,
            ..
        } = course;
        self.progress.say(format!(
            "{case:<7} {connections:>4} connections  {design:<8} {:>8.0} answers/s  p99 {:>7.2} ms{}{}",
            run.tally.answers_per_s(),
            run.tally.latency.percentile_ms(99.0),
            crowded(run.foreign_share),
            faulty(&run.faults),
        ));
        Ok(run)
    }

    /// The size of the pool with which a rival does best.
    async fn best_pool(
        &mut self,
        rival: Rival,
        case: Case,
        connections: usize,
    ) -> anyhow::Result<u16> {
        let candidates = self.args.pools.clone();
        if let [only] = candidates.as_slice() {
            return Ok(*only);
        }
        let mut trials = Vec::new();
        for pool in candidates {
            let course = Course {
                design: Design::Direct(rival),
                case,
                connections,
                size: Size {
                    requests: self.args.size().requests.min(TRIAL_REQUESTS),
                    ..self.args.size()
                },
                seed: 0,
            };
            let addr = self.rival(rival, pool).await?;
            let run = self.track.run(course, addr).await?;
            trials.push((run.tally.answers_per_s(), pool));
        }
        trials.sort_by(|a, b| b.0.total_cmp(&a.0));
        let told: Vec<String> = trials
            .iter()
            .map(|(rate, pool)| format!("{pool}: {rate:.0}/s"))
            .collect();
        let name = rival.name();
        self.progress.say(format!(
            "{case:<7} {connections:>4} connections  pool of {name}: {}",
            told.join(", ")
        ));
        let best = trials.first().context("there is at least one pool")?;
        Ok(best.1)
    }

    /// Has a rival running with this pool.
    async fn rival(&mut self, rival: Rival, pool: u16) -> anyhow::Result<std::net::SocketAddr> {
        match self.running {
            Some((running, size, addr)) if (running, size) == (rival, pool) => Ok(addr),
            _ => {
                self.running = None;
                let addr = self.track.rig.rival(rival, pool).await?;
                self.running = Some((rival, pool, addr));
                Ok(addr)
            }
        }
    }

    /// How fast stack and load generator are by themselves, in answers per second by connections:
    /// the yardstick of this machine.
    async fn echo(&mut self) -> anyhow::Result<BTreeMap<usize, f64>> {
        let (rival, pool) = (Rival::Cte, *self.args.pools.first().context("a pool")?);
        let addr = self.rival(rival, pool).await?;
        let requests = self.args.size().requests;
        let mut medians = BTreeMap::new();
        for connections in self.args.connections.clone() {
            let connections = usize::from(connections);
            let mut rates = Vec::new();
            for _ in 0..ECHOES {
                let generator = Generator::connect(addr, connections).context("connecting")?;
                let warm_up = echoes(addr, self.args.size().warm_up);
                let (generator, _) = play(generator, warm_up).await?;
                let (_, tally) = play(generator, echoes(addr, requests)).await?;
                rates.push(tally.answers_per_s());
            }
            rates.sort_by(f64::total_cmp);
            let rate = rates[rates.len() / 2];
            self.progress.say(format!(
                "echo    {connections:>4} connections           {rate:>8.0} answers/s"
            ));
            medians.insert(connections, rate);
        }
        Ok(medians)
    }
}

fn crowded(foreign_share: f64) -> String {
    if foreign_share < 0.15 {
        return String::new();
    }
    format!(
        "  (others took {:.0} % of the machine)",
        foreign_share * 100.0
    )
}

fn faulty(faults: &[Fault]) -> String {
    faults
        .iter()
        .map(|fault| format!("\n           VOID: {}", fault.why))
        .collect()
}
