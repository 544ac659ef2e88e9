//! Seeded simulation of the admission lane: the real runtime, its committer and its ownership, with a
//! log, tables and a registry in memory, in virtual time. One seed is one history of crashes, pauses,
//! takeovers, lost answers, duplicates and late messages, wrong clocks and lost tails of the log.
//!
//! Every commit leaves Q1 and Q2 true, no ticket that anybody was told of is lost, and no place ever
//! changes. `ONSALE_SIM_SEED=<seed>` replays a history; `ONSALE_SIM_SEEDS=<count>` runs so many.

#![allow(clippy::unwrap_used, reason = "a test")]

mod crowd;
mod log;
mod outside;
#[path = "../simulation/rng.rs"]
mod rng;
#[allow(dead_code, reason = "the tables of the domain's own tests")]
#[path = "../../../domain/tests/admission_property/rows.rs"]
mod rows;
mod tables;
mod walk;

use crowd::Crowd;
use onsale_workers::admission::Admission;
use onsale_workers::runtime;
use outside::Outside;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tables::Sim;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Histories of one run of the tests.
const SEEDS: u64 = 60;
/// Worker processes of a history.
const WORKERS: usize = 3;
/// How long it may take until all is decided after the last fault, in virtual time.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// What a run must have met, so that a generator which no longer reaches it is noticed.
const EXPECTED: [&str; 21] = [
    "admitted",
    "answered",
    "clock jump",
    "code used up",
    "commit",
    "deposed",
    "drawn",
    "duplicate",
    "ended",
    "guest admitted",
    "kill",
    "late",
    "missed",
    "pause",
    "read broke",
    "skipped",
    "stop",
    "stream clock",
    "tail lost",
    "take",
    "unknown",
];

/// One worker process.
struct Process {
    stop: CancellationToken,
    task: AbortHandle,
    outside: Outside,
}

struct History {
    sim: Arc<Sim>,
    tasks: JoinSet<()>,
    processes: Vec<Process>,
}

impl History {
    fn start(&mut self) {
        let outside = Outside::new(self.sim.clone());
        let stop = CancellationToken::new();
        let running = runtime::run::<Admission, Outside>(outside.clone(), stop.clone());
        let task = self.tasks.spawn(running);
        self.processes.push(Process {
            stop,
            task,
            outside,
        });
    }

    /// Something happens to a worker, and there is a new one for each that goes.
    fn strike(&mut self) {
        let at = self
            .sim
            .range(0, i64::try_from(self.processes.len()).unwrap() - 1);
        let at = usize::try_from(at).unwrap();
        match self.sim.range(0, 9) {
            0 => {
                self.sim.note("kill");
                let killed = self.processes.swap_remove(at);
                killed.task.abort();
                killed.outside.die();
                self.start();
            }
            1 => {
                self.sim.note("stop");
                // It gives its partitions back by itself.
                self.processes.swap_remove(at).stop.cancel();
                self.start();
            }
            2 => {
                self.sim.note("clock jump");
                let ms = self.sim.range(-4000, 4000);
                self.processes[at].outside.jump(ms);
            }
            3..=4 => self.sim.break_stream(),
            _ => {
                self.sim.note("pause");
                let ms = self.sim.range(200, 6000);
                self.processes[at].outside.pause(ms);
            }
        }
    }

    /// Time passes; what has ended must have ended well.
    async fn pass(&mut self, ms: i64) {
        tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())).await;
        while let Some(ended) = self.tasks.try_join_next() {
            ended_well(ended);
        }
    }
}

fn ended_well(ended: Result<(), JoinError>) {
    match ended {
        Ok(()) => {}
        Err(error) if error.is_cancelled() => {}
        Err(error) => panic!("a worker has failed: {error}"),
    }
}

async fn live(sim: &Arc<Sim>) {
    let mut history = History {
        sim: sim.clone(),
        tasks: JoinSet::new(),
        processes: Vec::new(),
    };
    for _ in 0..WORKERS {
        history.start();
    }
    let mut crowd = Crowd::new(sim.clone());
    let steps = sim.range(100, 300);
    for _ in 0..steps {
        crowd.act();
        if sim.percent(11) {
            history.strike();
        }
        history.pass(sim.range(0, 200)).await;
    }
    sim.calm();
    crowd.hand_in();
    settled(&mut history, "every message is decided", Sim::undecided).await;
    let since = tokio::time::Instant::now();
    while sim.waiting() > 0 {
        let (waiting, what) = (sim.waiting(), "nobody waits while there is room");
        assert!(since.elapsed() < QUIET_MAX, "{what}: {waiting} do");
        // As ingresses do while anybody is there; a new owner knows of a room by it. What a stream that
        // lost its tail has stored in its past is not decided, and asked for again.
        crowd.open_all();
        crowd.report();
        history.pass(1000).await;
    }
    settled(&mut history, "every report is decided", Sim::undecided).await;
    for process in history.processes {
        process.stop.cancel();
    }
    while let Some(ended) = history.tasks.join_next().await {
        ended_well(ended);
    }
    sim.check_whole();
}

/// Waits until nothing is left to do.
async fn settled(history: &mut History, what: &str, left: impl Fn(&Sim) -> usize) {
    let since = tokio::time::Instant::now();
    while left(&history.sim) > 0 {
        let left = left(&history.sim);
        assert!(since.elapsed() < QUIET_MAX, "{what}: {left} are left");
        history.pass(200).await;
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let sim = Sim::new(seed);
        live(&sim).await;
        sim.seen()
    })
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Says the seed of a history that fails.
struct SayOnPanic(u64);

impl Drop for SayOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with this seed; replay: ONSALE_SIM_SEED={}", self.0);
        }
    }
}

#[test]
fn no_ticket_is_lost_and_the_line_is_kept_whatever_happens_to_its_owners() {
    let seeds = match number("ONSALE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ONSALE_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds {
        let _say = SayOnPanic(seed);
        for (what, times) in run(seed) {
            *seen.entry(what).or_default() += times;
        }
    }
    println!("{count} histories: {seen:#?}");
    for what in EXPECTED {
        let times = seen.get(what).copied().unwrap_or_default();
        assert!(count < SEEDS || times >= 10, "{what}: {times} times only");
    }
}
