//! What every comparison with direct designs shares: alternating runs of the pipeline and of its
//! rivals on one machine, in one go, and what a case has to say for that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Args as ClapArgs;
use onsale_schema::Lane;
use onsale_testkit::Tools;

use super::case::{Size, echoes};
use super::direct::Rival;
use super::load::{Generator, Script};
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

/// What is wanted of both sides, and how it is told that they did it.
pub trait Contested: Copy + Ord + fmt::Display {
    /// The benchmark's name.
    const BENCH: &'static str;
    /// What a run leaves to be looked at.
    type Ground;

    /// The lane of the pipeline that decides it.
    fn lane(self) -> Lane;

    /// How many of so many requests must win.
    fn wins(self, requests: usize) -> u64;

    /// Makes a field for a server at `addr`, which decides in this way: everything new, so that no
    /// run knows another's rows.
    async fn field(
        self,
        track: &mut Track,
        design: Design,
        size: Size,
        seed: u64,
        addr: SocketAddr,
    ) -> anyhow::Result<Field<Self::Ground>>;

    /// What is wrong with the rows when so many requests were answered with 201.
    async fn complaint(
        track: &mut Track,
        design: Design,
        ground: &Self::Ground,
        answered: u64,
    ) -> anyhow::Result<Option<String>>;

    /// The least part of the echo's rate that the yardstick must have, if that is known: with less,
    /// something is wrong with the machine or the harness, and no baseline was at its best.
    fn yardstick_least(self, connections: usize) -> Option<f64>;

    /// The least part of the yardstick's rate that a rival must have beside it, if that is known: it
    /// does more work, but a ratio to one that is slower than this flatters the pipeline.
    fn rival_least(self, rival: Rival) -> Option<f64>;

    /// The case whose rate the pipeline's in this one is to be seen beside, if there is one.
    fn beside(self) -> Option<Self>;
}

/// The ground for one run.
#[derive(Debug)]
pub struct Field<G> {
    /// Nobody else uses it.
    pub ground: G,
    /// To be played first.
    pub warm_up: Script,
    /// To be played against the clock.
    pub counted: Script,
}

/// How much is measured.
#[derive(ClapArgs, Clone, Debug)]
pub struct Plan {
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

impl Plan {
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

/// Measures these cases, prints the report, and says whether its figures count.
///
/// # Errors
/// When something does not start or breaks.
pub async fn run<C: Contested>(
    plan: Plan,
    cases: Vec<C>,
    rivals: BTreeSet<Rival>,
) -> anyhow::Result<ExitCode> {
    let progress = Progress::start();
    let tools = Tools::locate()?;
    progress.say("starting Postgres, nats-server, ingress and workers");
    let rig = Rig::start(&tools, 1).await?;
    let fdatasync_ms = machine::fdatasync_ms(rig.data_dir())?;
    let mut contest = Contest {
        track: Track::new(rig).await?,
        plan: plan.quickened(),
        rivals,
        progress,
        running: None,
    };
    let mut machine = machine::describe(&tools);
    machine["fdatasyncMs"] = fdatasync_ms.into();
    let report = contest.measure(cases, machine).await?;
    contest.progress.say("stopping");
    contest.track.rig.stop().await;
    if contest.plan.json {
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

struct Contest {
    track: Track,
    plan: Plan,
    rivals: BTreeSet<Rival>,
    progress: Progress,
    /// The rival that is up, with the size of its pool and where it serves.
    running: Option<(Rival, u16, SocketAddr)>,
}

impl Contest {
    async fn measure<C: Contested>(
        &mut self,
        cases: Vec<C>,
        machine: serde_json::Value,
    ) -> anyhow::Result<Report<C>> {
        let started = Instant::now();
        let settings = self.track.settings().await?;
        let echo = self.echo().await?;
        let mut groups = Vec::new();
        for case in cases {
            for connections in self.plan.connections.clone() {
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
            size: self.plan.size(),
            echo,
            groups,
            audit,
            took: started.elapsed(),
        })
    }

    /// One case at one number of connections: the pools first, then the alternating runs.
    async fn group<C: Contested>(
        &mut self,
        case: C,
        connections: usize,
    ) -> anyhow::Result<Group<C>> {
        let mut pools = BTreeMap::new();
        for rival in self.rivals.clone() {
            let pool = self.best_pool(rival, case, connections).await?;
            pools.insert(rival, pool);
        }
        let mut runs = Vec::new();
        for round in 0..self.plan.runs {
            let rivals = pools.keys().copied().map(Design::Direct);
            for design in std::iter::once(Design::Pipeline).chain(rivals) {
                let course = Course {
                    design,
                    case,
                    connections,
                    size: self.plan.size(),
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

    async fn run<C: Contested>(
        &mut self,
        course: Course<C>,
        pools: &BTreeMap<Rival, u16>,
    ) -> anyhow::Result<Run<C>> {
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
            "{case:<11} {connections:>4} connections  {design:<8} {:>8.0} answers/s  p99 {:>7.2} ms{}{}",
            run.tally.answers_per_s(),
            run.tally.latency.percentile_ms(99.0),
            crowded(run.foreign_share),
            faulty(&run.faults),
        ));
        Ok(run)
    }

    /// The size of the pool with which a rival does best.
    async fn best_pool<C: Contested>(
        &mut self,
        rival: Rival,
        case: C,
        connections: usize,
    ) -> anyhow::Result<u16> {
        let candidates = self.plan.pools.clone();
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
                    requests: self.plan.size().requests.min(TRIAL_REQUESTS),
                    ..self.plan.size()
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
            "{case:<11} {connections:>4} connections  pool of {name}: {}",
            told.join(", ")
        ));
        let best = trials.first().context("there is at least one pool")?;
        Ok(best.1)
    }

    /// Has a rival running with this pool.
    async fn rival(&mut self, rival: Rival, pool: u16) -> anyhow::Result<SocketAddr> {
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
        let rival = *self.rivals.first().context("a rival")?;
        let pool = *self.plan.pools.first().context("a pool")?;
        let addr = self.rival(rival, pool).await?;
        let requests = self.plan.size().requests;
        let mut medians = BTreeMap::new();
        for connections in self.plan.connections.clone() {
            let connections = usize::from(connections);
            let mut rates = Vec::new();
            for _ in 0..ECHOES {
                let generator = Generator::connect(addr, connections).context("connecting")?;
                let warm_up = echoes(addr, self.plan.size().warm_up);
                let (generator, _) = play(generator, warm_up).await?;
                let (_, tally) = play(generator, echoes(addr, requests)).await?;
                rates.push(tally.answers_per_s());
            }
            rates.sort_by(f64::total_cmp);
            let rate = rates[rates.len() / 2];
            self.progress.say(format!(
                "echo        {connections:>4} connections           {rate:>8.0} answers/s"
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
