//! What was measured, as a table for people and as one JSON object for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Args;
use crate::bench::histogram::Histogram;

/// What is aimed at: a stream costs an ingress no more, in bytes.
const STREAM_BYTES_AIM: u64 = 64 * 1024;
/// And every stream is told of a change after this, in milliseconds.
const TOLD_MS_AIM: f64 = 1_000.0;

/// Everything.
pub struct Report {
    /// What it was measured on.
    pub machine: Value,
    /// The commit, if known.
    pub revision: Option<String>,
    /// What was asked for.
    pub args: Args,
    /// The ingress' memory before a stream was open.
    pub before_bytes: u64,
    /// With all of them open.
    pub with_bytes: u64,
    /// After all changes were told.
    pub after_bytes: u64,
    /// How long it took to open all.
    pub opening: Duration,
    /// From a hold's request to each stream's being told.
    pub told: Histogram,
    /// From a hold's request to its answer.
    pub held: Histogram,
    /// CPU time while the changes were told, by role.
    pub cpu: BTreeMap<&'static str, Duration>,
    /// Streams that ended as HTTP has it when the ingress was stopped.
    pub whole: usize,
    /// How long it took to stop.
    pub ending: Duration,
    /// How long all took.
    pub took: Duration,
}

impl Report {
    /// Bytes of the ingress' memory for each stream, with what telling changes left behind.
    fn stream_bytes(&self) -> u64 {
        let more = self.with_bytes.max(self.after_bytes);
        more.saturating_sub(self.before_bytes) / u64::from(self.args.streams)
    }

    /// CPU time of the ingress for one change told to all, in milliseconds.
    fn ingress_ms_per_change(&self) -> f64 {
        let spent = self.cpu.get("ingress").copied().unwrap_or_default();
        spent.as_secs_f64() * 1e3 / f64::from(self.args.changes)
    }

    /// Why it failed, or does not count.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.whole != self.args.streams as usize {
            let broken = self.args.streams as usize - self.whole;
            faults.push(format!("{broken} streams broke when the ingress stopped"));
        }
        if cfg!(debug_assertions) {
            faults.push("a debug build says nothing about speed".to_owned());
        } else {
            let bytes = self.stream_bytes();
            if bytes > STREAM_BYTES_AIM {
                faults.push(format!(
                    "a stream costs {bytes} bytes, more than {STREAM_BYTES_AIM}"
                ));
            }
            let slowest_ms = self.told.percentile_ms(100.0);
            if slowest_ms > TOLD_MS_AIM {
                faults.push(format!("a stream was told after {slowest_ms:.0} ms"));
            }
        }
        faults
    }

    /// One object.
    #[must_use]
    pub fn json(&self) -> Value {
        let cpu_ms: BTreeMap<&str, f64> = self
            .cpu
            .iter()
            .map(|(role, spent)| (*role, spent.as_secs_f64() * 1e3))
            .collect();
        json!({
            "bench": "streams",
            "version": env!("CARGO_PKG_VERSION"),
            "revision": self.revision,
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "machine": self.machine,
            "streams": self.args.streams,
            "changes": self.args.changes,
            "openingS": self.opening.as_secs_f64(),
            "memory": {
                "beforeBytes": self.before_bytes,
                "withStreamsBytes": self.with_bytes,
                "afterChangesBytes": self.after_bytes,
                "perStreamBytes": self.stream_bytes(),
                "perStreamAimBytes": STREAM_BYTES_AIM,
            },
            "told": {
                "count": self.told.count(),
                "p50Ms": self.told.percentile_ms(50.0),
                "p99Ms": self.told.percentile_ms(99.0),
                "maxMs": self.told.percentile_ms(100.0),
                "aimMs": TOLD_MS_AIM,
            },
            "held": {
                "p50Ms": self.held.percentile_ms(50.0),
                "maxMs": self.held.percentile_ms(100.0),
            },
            "cpuMs": cpu_ms,
            "ingressCpuMsPerChange": self.ingress_ms_per_change(),
            "shutdown": {
                "endedWhole": self.whole,
                "tookMs": self.ending.as_secs_f64() * 1e3,
            },
            "faults": self.faults(),
            "void": !self.faults().is_empty(),
            "tookS": self.took.as_secs_f64(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        let mib = |bytes: u64| bytes as f64 / MIB;
        writeln!(
            f,
            "\n{} cores, revision {}; {} event streams of one date on one ingress\n",
            self.machine["cores"],
            self.revision.as_deref().unwrap_or("unknown"),
            self.args.streams,
        )?;
        writeln!(
            f,
            "memory of the ingress  {:>8.1} MiB before, {:.1} MiB with them, {:.1} MiB after {} changes",
            mib(self.before_bytes),
            mib(self.with_bytes),
            mib(self.after_bytes),
            self.args.changes,
        )?;
        writeln!(f, "for each stream        {:>8} bytes", self.stream_bytes())?;
        writeln!(
            f,
            "told after a hold      {:>8.0} ms p50, {:.0} ms p99, {:.0} ms max (the hold's own answer: \
             {:.0} ms p50)",
            self.told.percentile_ms(50.0),
            self.told.percentile_ms(99.0),
            self.told.percentile_ms(100.0),
            self.held.percentile_ms(50.0),
        )?;
        writeln!(
            f,
            "CPU of the ingress     {:>8.0} ms for a change told to all",
            self.ingress_ms_per_change()
        )?;
        writeln!(
            f,
            "when it was stopped    {:>8} ended in good order, after {:.0} ms",
            self.whole,
            self.ending.as_secs_f64() * 1e3
        )?;
        for fault in self.faults() {
            writeln!(f, "FAULT: {fault}")?;
        }
        Ok(())
    }
}
