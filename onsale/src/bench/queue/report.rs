//! What was measured, as a table for people and as one JSON object for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::polls::{Polls, Transactions};
use super::room::Opening;
use super::{Args, Delay, Fault, Large, Memory, Run};
use crate::audit;

/// What is aimed at: p99 with all waiting over that with a thousand is no more.
const P99_RATIO_AIM: f64 = 2.0;
/// Faults of this kind say nothing in a debug build.
const SPEED: &str = "speed";

/// Something that is aimed at: a figure, and the most that it may be.
struct Aim {
    name: &'static str,
    /// Of the fault, if it is missed.
    kind: &'static str,
    /// What the figure is, in words.
    what: String,
    figure: f64,
    most: f64,
}

impl Aim {
    fn is_met(&self) -> bool {
        self.figure <= self.most
    }

    fn verdict(&self) -> &'static str {
        if self.is_met() { "met" } else { "missed" }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "what": self.what,
            "figure": self.figure,
            "most": self.most,
            "met": self.is_met(),
        })
    }
}

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
    /// The large room.
    pub large: Large,
    /// What is wrong with its rows.
    pub complaint: Option<String>,
    /// All runs.
    pub runs: Vec<Run>,
    /// From an owner's word to its being known at the ingresses, during the runs.
    pub delay: Delay,
    /// How long the first answer of an ingress took that was just started.
    pub loading: Duration,
    /// What polls cost after that.
    pub transactions: Transactions,
    /// The whole database afterwards.
    pub audit: audit::Report,
    /// How long it took.
    pub took: Duration,
}

/// CPU time per 1,000 requests, in milliseconds, by role.
#[must_use]
pub fn cpu_ms_per_1000(cpu: &BTreeMap<&'static str, Duration>, answers: u64) -> Value {
    let each = |spent: &Duration| spent.as_secs_f64() * 1e6 / answers.max(1) as f64;
    cpu.iter()
        .map(|(role, spent)| ((*role).to_owned(), json!(each(spent))))
        .collect()
}

impl Memory {
    fn bytes_per_ticket(self, tickets: u32) -> f64 {
        self.with.saturating_sub(self.before) as f64 / f64::from(tickets)
    }

    fn json(self, tickets: u32) -> Value {
        json!({
            "beforeBytes": self.before,
            "withBytes": self.with,
            "bytesPerTicket": self.bytes_per_ticket(tickets),
        })
    }
}

impl Opening {
    fn json(self) -> Value {
        json!({
            "lobby": self.lobby,
            "closedAfterMs": self.closed_ms,
            "settledMs": self.settled_ms,
            "toldAfterMs": self.told_ms,
        })
    }
}

impl Polls {
    fn json(&self) -> Value {
        let latency = &self.tally.latency;
        json!({
            "perS": self.tally.answers_per_s(),
            "perIngressCoreS": self.per_ingress_core_s(),
            "p50Ms": latency.percentile_ms(50.0),
            "p99Ms": latency.percentile_ms(99.0),
            "maxMs": latency.percentile_ms(100.0),
            "statuses": self.tally.statuses,
            "unanswered": self.tally.failed,
            "cpuMsPer1000": cpu_ms_per_1000(&self.cpu, latency.count()),
        })
    }
}

impl Run {
    fn p99_ratio(&self) -> f64 {
        let p99 = |polls: &Polls| polls.tally.latency.percentile_ms(99.0);
        p99(&self.large) / p99(&self.small).max(1e-9)
    }

    fn json(&self) -> Value {
        let latency = &self.joins.latency;
        let faults: Vec<&str> = self.faults.iter().map(|fault| fault.why.as_str()).collect();
        json!({
            "joins": {
                "perS": self.joins.answers_per_s(),
                "p50Ms": latency.percentile_ms(50.0),
                "p99Ms": latency.percentile_ms(99.0),
                "maxMs": latency.percentile_ms(100.0),
                "statuses": self.joins.statuses,
                "unanswered": self.joins.failed,
                "pipeline": self.pipeline,
            },
            "opening": self.opening.json(),
            "pollsOfAThousand": self.small.json(),
            "pollsOfAll": self.large.json(),
            "p99Ratio": self.p99_ratio(),
            "faults": faults,
        })
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what, figure, most, ..
        } = self;
        let verdict = self.verdict();
        write!(f, "{what}: {figure:.4}, aim {most:.4} at most: {verdict}")
    }
}

impl Report {
    /// The value in the middle.
    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(0.0)
    }

    fn p99_ratio(&self) -> f64 {
        self.median(Run::p99_ratio)
    }

    fn tickets_per_s(&self) -> f64 {
        f64::from(self.args.tickets) / self.large.filling.as_secs_f64().max(1e-9)
    }

    /// What is aimed at.
    fn aims(&self) -> Vec<Aim> {
        let commit = self.median(|run| run.joins.latency.percentile_ms(99.0));
        vec![
            Aim {
                name: "p99Ratio",
                kind: SPEED,
                what: "p99 of polls with all waiting over that with a thousand".to_owned(),
                figure: self.p99_ratio(),
                most: P99_RATIO_AIM,
            },
            Aim {
                name: "openingMs",
                kind: SPEED,
                what: format!(
                    "to open for {}, over a commit: a durable join at p99, in ms",
                    self.args.tickets
                ),
                figure: self.large.opening.settled_ms,
                most: commit,
            },
            Aim {
                name: "queriesPerPoll",
                kind: "queries",
                what: "queries that a poll costs".to_owned(),
                figure: match self.transactions.are_none() {
                    true => 0.0,
                    false => self.transactions.per_poll(),
                },
                most: 0.0,
            },
        ]
    }

    /// Why it does not count.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let of_runs = self.runs.iter().flat_map(|run| run.faults.iter().cloned());
        let mut all: Vec<Fault> = of_runs.collect();
        let mut add = |kind, why| all.push(Fault { kind, why });
        if let Some(why) = &self.complaint {
            add("rows", format!("the large room: {why}"));
        }
        if !self.audit.ok() {
            let violated = self.audit.violated().join(", ");
            add("audit", format!("violated: {violated}"));
        }
        if cfg!(debug_assertions) {
            let why = "a debug build says nothing about speed";
            add("build", why.to_owned());
        }
        let counts = |aim: &Aim| !cfg!(debug_assertions) || aim.kind != SPEED;
        for aim in self
            .aims()
            .iter()
            .filter(|aim| counts(aim) && !aim.is_met())
        {
            add(aim.kind, aim.to_string());
        }
        all
    }

    /// One object.
    #[must_use]
    pub fn json(&self) -> Value {
        let tickets = self.args.tickets;
        let faults: Vec<Value> = self
            .faults()
            .into_iter()
            .map(|Fault { kind, why }| json!({ "kind": kind, "why": why }))
            .collect();
        json!({
            "bench": "queue",
            "version": env!("CARGO_PKG_VERSION"),
            "revision": self.revision,
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "machine": self.machine,
            "postgresSettings": self.settings,
            "tickets": tickets,
            "connections": self.args.connections,
            "ingresses": self.args.ingresses,
            "joinsPerRun": self.args.joins,
            "pollsPerRun": self.args.polls,
            "medians": self.medians(),
            "aims": self.aims().iter().map(Aim::json).collect::<Vec<_>>(),
            "memory": {
                "ingress": self.large.ingress.json(tickets),
                "owner": self.large.owner.json(tickets),
            },
            "filling": {
                "tookS": self.large.filling.as_secs_f64(),
                "ticketsPerS": self.tickets_per_s(),
            },
            "opening": self.large.opening.json(),
            "watermark": {
                "count": self.delay.count,
                "p50Ms": self.delay.p50_ms,
                "p99Ms": self.delay.p99_ms,
            },
            "newIngress": {
                "firstAnswerMs": self.loading.as_secs_f64() * 1e3,
                "polls": self.transactions.polls,
                "transactionsPolling": self.transactions.polling,
                "transactionsIdle": self.transactions.idle,
                "queriesPerPoll": self.transactions.per_poll(),
            },
            "runs": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
            "faults": faults,
            "void": !self.faults().is_empty(),
            "audit": self.audit.json(),
            "tookS": self.took.as_secs_f64(),
        })
    }

    fn medians(&self) -> Value {
        let polls = |of: fn(&Run) -> &Polls| {
            let p = |percent| self.median(|run| of(run).tally.latency.percentile_ms(percent));
            json!({
                "perS": self.median(|run| of(run).tally.answers_per_s()),
                "perIngressCoreS": self.median(|run| of(run).per_ingress_core_s()),
                "p50Ms": p(50.0),
                "p99Ms": p(99.0),
            })
        };
        json!({
            "joins": {
                "perS": self.median(|run| run.joins.answers_per_s()),
                "p50Ms": self.median(|run| run.joins.latency.percentile_ms(50.0)),
                "p99Ms": self.median(|run| run.joins.latency.percentile_ms(99.0)),
            },
            "pollsOfAThousand": polls(|run| &run.small),
            "pollsOfAll": polls(|run| &run.large),
            "p99Ratio": self.p99_ratio(),
            "p99RatioAim": P99_RATIO_AIM,
            "opening": {
                "closedAfterMs": self.median(|run| run.opening.closed_ms),
                "settledMs": self.median(|run| run.opening.settled_ms),
                "toldAfterMs": self.median(|run| run.opening.told_ms),
            },
        })
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let joins = |percent| self.median(|run| run.joins.latency.percentile_ms(percent));
        let polls = |of: fn(&Run) -> &Polls| {
            format!(
                "{:.0} a second, {:.0} per second of an ingress' CPU; {:.2} ms p50, {:.2} ms p99",
                self.median(|run| of(run).tally.answers_per_s()),
                self.median(|run| of(run).per_ingress_core_s()),
                self.median(|run| of(run).tally.latency.percentile_ms(50.0)),
                self.median(|run| of(run).tally.latency.percentile_ms(99.0)),
            )
        };
        let opening = |told_ms: f64, settled_ms: f64| {
            format!(
                "order told {told_ms:.0} ms after the time that was set; \
                 {settled_ms:.1} ms to decide, commit and tell it"
            )
        };
        let Large {
            opening: all,
            ingress,
            owner,
            ..
        } = self.large;
        let bytes = |memory: Memory| memory.bytes_per_ticket(self.args.tickets);
        let Transactions {
            polls: asked,
            polling,
            idle,
        } = self.transactions;
        vec![
            (
                "joins, durable",
                format!(
                    "{:.0} a second; {:.2} ms p50, {:.2} ms p99",
                    self.median(|run| run.joins.answers_per_s()),
                    joins(50.0),
                    joins(99.0)
                ),
            ),
            ("polls, 1,000 waiting", polls(|run| &run.small)),
            ("polls, all waiting", polls(|run| &run.large)),
            ("p99, all over 1,000", format!("{:.2} x", self.p99_ratio())),
            (
                "memory of a ticket",
                format!(
                    "{:.1} bytes at each ingress, {:.1} at its owner",
                    bytes(ingress),
                    bytes(owner)
                ),
            ),
            (
                "a word of the owner",
                format!(
                    "known everywhere within {} ms p50, {} ms p99 ({} words)",
                    self.delay.p50_ms, self.delay.p99_ms, self.delay.count
                ),
            ),
            ("opening, all", opening(all.told_ms, all.settled_ms)),
            (
                "opening, the joins",
                opening(
                    self.median(|run| run.opening.told_ms),
                    self.median(|run| run.opening.settled_ms),
                ),
            ),
            (
                "a new ingress",
                format!(
                    "first answer after {:.0} ms; {asked} polls with {polling} transactions, {idle} in \
                     as long without: {:.4} queries a poll",
                    self.loading.as_secs_f64() * 1e3,
                    self.transactions.per_poll()
                ),
            ),
            (
                "the tickets",
                format!(
                    "all of them over HTTP, at {:.0} a second",
                    self.tickets_per_s()
                ),
            ),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{} cores, a write to disk takes {:.2} ms; revision {}; {} tickets, {} ingresses, \
             {} connections; medians of {} runs, {} joins and twice {} polls each\n",
            self.machine["cores"],
            self.machine["fdatasyncMs"].as_f64().unwrap_or(0.0),
            self.revision.as_deref().unwrap_or("unknown"),
            self.args.tickets,
            self.args.ingresses,
            self.args.connections,
            self.runs.len(),
            self.args.joins,
            self.args.polls,
        )?;
        for (name, told) in self.lines() {
            writeln!(f, "{name:<22}{told}")?;
        }
        for aim in self.aims() {
            writeln!(f, "{:<22}{aim}", "aim")?;
        }
        let verdict = if self.audit.ok() {
            "all hold"
        } else {
            "VIOLATED"
        };
        writeln!(f, "invariants, afterwards: {verdict}")?;
        for Fault { kind, why } in self.faults() {
            writeln!(f, "VOID ({kind}): {why}")?;
        }
        write!(f, "took {:.0} s", self.took.as_secs_f64())
    }
}
