//! Seeded simulation of the partition runtime: the real code of the seats lane's owners, and of
//! the outbox' notices, in a simulated outside, in virtual time. One seed is one history of
//! everything: crashes at every step, duplicates, delays, two owners who both believe, lost tails,
//! unknown commits, restarts, clock jumps.
//!
//! A failure says its seed and the end of its trace. `ONSALE_SIM_SEED=<seed>` replays it;
//! `ONSALE_SIM_SEEDS=<count>` runs so many, on all cores.

#![allow(clippy::unwrap_used, reason = "a test")]

mod checks;
mod database;
mod faults;
mod ghost;
mod history;
mod lookers;
mod neighbours;
mod people;
mod process;
mod registry;
mod rng;
mod rows;
#[cfg(feature = "sabotage")]
mod sabotaged;
mod settlement;
mod sim;
mod store;
mod stream;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Histories of one run of the tests.
const SEEDS: u64 = 2000;
/// The lines of a trace that a failure shows.
const SHOWN: usize = 150;
/// A history takes some milliseconds; after this it hangs.
const STUCK: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// What a run must have met, so that a generator which no longer reaches it is noticed.
const EXPECTED: [&str; 55] = [
    "aged",
    "blocked",
    "cancelled",
    "captured",
    "captured late",
    "clock jump",
    "command expired",
    "commit",
    "cut",
    "expired",
    "held",
    "held anew",
    "held up",
    "idle in transaction",
    "key reused",
    "kill",
    "layout changed",
    "layout missed",
    "layout replaced",
    "left",
    "let go",
    "look up",
    "looked up",
    "nats restart",
    "not found",
    "notices sent",
    "outbox restart",
    "paid",
    "pause",
    "payment in progress",
    "policy",
    "postgres restart",
    "refunded",
    "refused",
    "release",
    "released",
    "extended",
    "extension limit reached",
    "orphan seat",
    "reply lost",
    "reset",
    "rewind",
    "sale not open",
    "secured",
    "seat limit exceeded",
    "seat unavailable",
    "state conflict",
    "stop",
    "stream clock",
    "stream deleted",
    "suspend",
    "tail lost",
    "take",
    "too few places",
    "unblocked",
];

/// Runs seeds on some threads; stops at the first violation.
struct Runner {
    seeds: u64,
    next: AtomicU64,
    failed: AtomicU64,
    seen: Mutex<BTreeMap<&'static str, u64>>,
    /// Since when each thread has been busy with its seed.
    busy: Mutex<BTreeMap<u64, (u64, Instant)>>,
    started: Instant,
}

impl Runner {
    fn new(seeds: u64, threads: u64) -> Self {
        Self {
            seeds,
            next: AtomicU64::new(0),
            failed: AtomicU64::new(u64::MAX),
            seen: Mutex::default(),
            busy: Mutex::new((0..threads).map(|t| (t, (0, Instant::now()))).collect()),
            started: Instant::now(),
        }
    }

    fn work(&self, thread: u64) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.seeds || self.failed.load(Ordering::Relaxed) != u64::MAX {
                break;
            }
            self.busy
                .lock()
                .unwrap()
                .insert(thread, (seed, Instant::now()));
            let report = history::run(seed, false);
            if report.violation.is_some() {
                self.failed.fetch_min(seed, Ordering::Relaxed);
            }
            let mut seen = self.seen.lock().unwrap();
            for (what, count) in report.seen {
                *seen.entry(what).or_default() += count;
            }
            if seed > 0 && seed.is_multiple_of(SEEDS) {
                println!("{seed} histories after {:.0?}", self.started.elapsed());
            }
        }
        self.busy.lock().unwrap().remove(&thread);
    }

    /// A loop that lets no virtual time pass would never end by itself.
    fn watch(&self) {
        loop {
            std::thread::park_timeout(Duration::from_millis(100));
            let busy = self.busy.lock().unwrap();
            if busy.is_empty() {
                return;
            }
            for (seed, since) in busy.values() {
                if since.elapsed() > STUCK {
                    eprintln!("no progress; replay: ONSALE_SIM_SEED={seed}");
                    std::process::exit(101);
                }
            }
        }
    }
}

#[test]
fn every_history_keeps_the_promises() {
    history::record_panics();
    if let Some(seed) = number("ONSALE_SIM_SEED") {
        let report = history::run(seed, true);
        report.lines.iter().for_each(|line| println!("{line}"));
        assert!(report.violation.is_none(), "{}", report.violation.unwrap());
        return;
    }
    let threads = number("ONSALE_SIM_THREADS").unwrap_or_else(|| {
        let cores = std::thread::available_parallelism();
        cores.map_or(1, |cores| cores.get() as u64)
    });
    let runner = Runner::new(number("ONSALE_SIM_SEEDS").unwrap_or(SEEDS), threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let runner = &runner;
                scope.spawn(move || runner.work(thread))
            })
            .collect();
        let watch = scope.spawn(|| runner.watch());
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        watch.thread().unpark();
    });
    let failed = runner.failed.into_inner();
    if failed != u64::MAX {
        show(failed);
    }
    let (seeds, took) = (runner.seeds, runner.started.elapsed());
    let seen = runner.seen.into_inner().unwrap();
    println!("{seeds} histories in {took:.1?}: {seen:#?}");
    for what in EXPECTED {
        let count = seen.get(what).copied().unwrap_or_default();
        assert!(seeds < SEEDS || count >= 10, "{what}: {count} times only");
    }
}

/// Runs a failed history again, now with its trace.
fn show(seed: u64) {
    let report = history::run(seed, true);
    let from = report.lines.len().saturating_sub(SHOWN);
    report.lines[from..]
        .iter()
        .for_each(|line| println!("{line}"));
    let violation = report.violation.map(|violation| violation.to_string());
    panic!("{violation:?}; replay: ONSALE_SIM_SEED={seed}");
}

#[test]
fn a_seed_replays_exactly() {
    history::record_panics();
    let mut lines = 0;
    for seed in 0..10 {
        let (once, again) = (history::run(seed, true), history::run(seed, true));
        let differs = once.lines.iter().zip(&again.lines).find(|(a, b)| a != b);
        assert!(differs.is_none(), "seed {seed}: {differs:#?}");
        assert_eq!(once.hash, again.hash, "seed {seed}");
        lines += once.lines.len();
    }
    assert!(lines > 1000, "something happens");
}
