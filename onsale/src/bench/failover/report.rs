//! What was measured, as tables for people and as one JSON object for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Args, Blow, Episode};
use crate::audit;
use crate::bench::case::Case;
use crate::bench::run::{Run, median};

/// What is aimed at: the longest gap, in milliseconds, that 99 of 100 kills may leave.
const KILL_P99_AIM_MS: f64 = 1_500.0;
/// And every hang: the lease and a second.
const HANG_AIM_MS: f64 = 4_000.0;

/// Everything.
pub struct Report {
    /// What it was measured on.
    pub machine: Value,
    /// Postgres' settings.
    pub settings: Value,
    /// The commit, if known.
    pub revision: Option<String>,
    /// What was asked for.
    pub args: Args,
    /// All blows, in their order.
    pub episodes: Vec<Episode>,
    /// All runs of the throughput, with their number of workers.
    pub runs: Vec<(u16, Run<Case>)>,
    /// The whole database afterwards.
    pub audit: audit::Report,
    /// How long it took.
    pub took: Duration,
}

/// The figures of one kind of blow.
struct Figures {
    blow: Blow,
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    held: u64,
    others: BTreeMap<String, u64>,
}

impl Figures {
    fn of(blow: Blow, episodes: &[Episode]) -> Option<Self> {
        let episodes: Vec<&Episode> = episodes.iter().filter(|e| e.blow == blow).collect();
        let mut gaps_ms: Vec<f64> = episodes.iter().map(|e| e.gap.as_secs_f64() * 1e3).collect();
        gaps_ms.sort_by(f64::total_cmp);
        let max_ms = *gaps_ms.last()?;
        let mut others = BTreeMap::new();
        for (name, count) in episodes.iter().flat_map(|e| e.answers.others()) {
            *others.entry(name).or_default() += count;
        }
        Some(Self {
            blow,
            count: episodes.len(),
            p50_ms: nearest_rank(&gaps_ms, 50.0),
            p99_ms: nearest_rank(&gaps_ms, 99.0),
            max_ms,
            held: episodes.iter().map(|e| e.answers.won()).sum(),
            others,
        })
    }

    /// What is aimed at, and whether it was reached.
    fn aim(&self) -> (String, bool) {
        match self.blow {
            Blow::Kill => (
                format!("p99 < {KILL_P99_AIM_MS:.0} ms"),
                self.p99_ms < KILL_P99_AIM_MS,
            ),
            Blow::Hang => (
                format!("max < {HANG_AIM_MS:.0} ms"),
                self.max_ms < HANG_AIM_MS,
            ),
            Blow::Handover => ("none failed".to_owned(), self.others.is_empty()),
            // A server that is away for as long as it takes to start again.
            Blow::Nats | Blow::Postgres => ("none".to_owned(), true),
        }
    }

    fn json(&self) -> Value {
        let (aim, reached) = self.aim();
        json!({
            "count": self.count,
            "gapP50Ms": self.p50_ms,
            "gapP99Ms": self.p99_ms,
            "gapMaxMs": self.max_ms,
            "held": self.held,
            "failedRequests": self.others.values().sum::<u64>(),
            "failedBy": self.others,
            "aim": aim,
            "aimReached": reached,
        })
    }
}

/// The nearest-rank percentile of sorted values: with 30 values, the 99th is the largest.
fn nearest_rank(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

impl Report {
    fn figures(&self) -> Vec<Figures> {
        let each = Blow::ALL.into_iter();
        each.filter_map(|blow| Figures::of(blow, &self.episodes))
            .collect()
    }

    /// The median of the runs with each number of workers.
    fn throughput(&self) -> BTreeMap<u16, &Run<Case>> {
        let counts: std::collections::BTreeSet<u16> =
            self.runs.iter().map(|(count, _)| *count).collect();
        let of = |count: u16| {
            let runs = self.runs.iter().filter(|(workers, _)| *workers == count);
            let runs: Vec<&Run<Case>> = runs.map(|(_, run)| run).collect();
            median(&runs).map(|run| (count, run))
        };
        counts.into_iter().filter_map(of).collect()
    }

    /// Why figures don't count.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self
            .episodes
            .iter()
            .filter_map(|episode| {
                let fault = episode.fault.as_ref()?;
                Some(format!("{}: {fault}", episode.blow.name()))
            })
            .collect();
        for (workers, run) in &self.runs {
            let of_run = run.faults.iter();
            faults.extend(of_run.map(|fault| format!("{workers} workers: {}", fault.why)));
        }
        if !self.audit.ok() {
            faults.push(format!("violated: {}", self.audit.violated().join(", ")));
        }
        if cfg!(debug_assertions) {
            faults.push("a debug build says nothing about speed".to_owned());
        }
        faults
    }

    /// One object.
    #[must_use]
    pub fn json(&self) -> Value {
        let figures = self.figures();
        let blows: Map<String, Value> = figures
            .iter()
            .map(|figures| (figures.blow.name().to_owned(), figures.json()))
            .collect();
        let gaps: BTreeMap<&str, Vec<f64>> = figures
            .iter()
            .map(|figures| {
                let of = self.episodes.iter().filter(|e| e.blow == figures.blow);
                let gaps = of.map(|e| e.gap.as_secs_f64() * 1e3).collect();
                (figures.blow.name(), gaps)
            })
            .collect();
        let throughput: Vec<Value> = self
            .throughput()
            .into_iter()
            .map(|(workers, run)| json!({ "workers": workers, "median": run.json() }))
            .collect();
        json!({
            "bench": "failover",
            "version": env!("CARGO_PKG_VERSION"),
            "revision": self.revision,
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "machine": self.machine,
            "postgresSettings": self.settings,
            "workers": self.args.workers,
            "requestsPerSPerPartition": self.args.rate,
            "blows": blows,
            "gapsMs": gaps,
            "throughput": throughput,
            "faults": self.faults(),
            "void": !self.faults().is_empty(),
            "audit": self.audit.json(),
            "tookS": self.took.as_secs_f64(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Args { workers, rate, .. } = self.args;
        writeln!(
            f,
            "\n{} cores, revision {}; {workers} workers, 16 partitions, {rate} holds/s asked of each",
            self.machine["cores"],
            self.revision.as_deref().unwrap_or("unknown"),
        )?;
        writeln!(
            f,
            "the gap is the longest time between two holds in a row of any partition\n"
        )?;
        writeln!(
            f,
            "{:<10}{:>6}{:>12}{:>12}{:>12}{:>10}{:>8}  aim",
            "blow", "times", "gap p50 ms", "gap p99 ms", "gap max ms", "held", "failed"
        )?;
        for figures in self.figures() {
            let (aim, reached) = figures.aim();
            writeln!(
                f,
                "{:<10}{:>6}{:>12.0}{:>12.0}{:>12.0}{:>10}{:>8}  {aim}: {}",
                figures.blow.name(),
                figures.count,
                figures.p50_ms,
                figures.p99_ms,
                figures.max_ms,
                figures.held,
                figures.others.values().sum::<u64>(),
                if reached { "yes" } else { "NO" },
            )?;
        }
        if !self.runs.is_empty() {
            writeln!(
                f,
                "\n16 busy dates, 256 connections, {} requests each",
                self.args.requests
            )?;
            writeln!(f, "{:<10}{:>12}{:>14}", "workers", "holds/s", "cmds/commit")?;
        }
        for (workers, run) in self.throughput() {
            let pipeline = run.pipeline.as_ref();
            let per_commit = pipeline.and_then(|times| times["commandsPerCommit"].as_f64());
            writeln!(
                f,
                "{workers:<10}{:>12.0}{:>14.1}",
                run.tally.answers_per_s(),
                per_commit.unwrap_or(0.0)
            )?;
        }
        let verdict = if self.audit.ok() {
            "all hold"
        } else {
            "VIOLATED"
        };
        writeln!(f, "\ninvariants, afterwards: {verdict}")?;
        for fault in self.faults() {
            writeln!(f, "VOID: {fault}")?;
        }
        write!(f, "took {:.0} s", self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=30).map(f64::from).collect();
        assert_eq!(nearest_rank(&values, 50.0), 15.0);
        assert_eq!(nearest_rank(&values, 99.0), 30.0);
        assert_eq!(nearest_rank(&[7.0], 50.0), 7.0);
    }
}
