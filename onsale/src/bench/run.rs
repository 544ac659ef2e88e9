//! One measured run: a fresh field, a warm-up, the requests that count, and then the proof that
//! Postgres has what was answered.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use serde_json::{Value, json};

use super::case::{Grounds, Size};
use super::contest::{Contested, Field};
use super::cpu::{Cores, Times};
use super::direct::Rival;
use super::load::{Generator, Script, Tally};
use super::rig::{self, Rig};
use super::scrape::Scraped;

/// What is written when somebody holds, charges or pays.
const TABLES: &[&str] = &[
    "reservation",
    "seat_claim",
    "seat",
    "sale",
    "outcome",
    "outbox",
    "partition",
    "app_user",
    "account",
    "transfer",
    "payment",
    "notice",
    "lean_reservation",
    "lean_seat_claim",
    "lean_account",
    "lean_transfer",
    "lean_payment",
];
/// Longer than any run takes that is of interest.
const PLAY_LIMIT: Duration = Duration::from_secs(60);

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Design {
    /// Ours: ingress, stream, workers.
    Pipeline,
    /// A direct one.
    Direct(Rival),
}

impl Design {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Direct(rival) => rival.name(),
        }
    }
}

impl fmt::Display for Design {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Course<C> {
    /// Who decides.
    pub design: Design,
    /// What is wanted.
    pub case: C,
    /// Connections of the load generator.
    pub connections: usize,
    /// How much.
    pub size: Size,
    /// Order of the hot seats.
    pub seed: u64,
}

/// Why a figure does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `answers`, `rows`, `facts`, `audit`, `speed` or `build`.
    pub kind: &'static str,
    /// In words.
    pub why: String,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Run<C> {
    /// What was run.
    pub course: Course<C>,
    /// Answers and latencies.
    pub tally: Tally,
    /// CPU time by process, until the last fact was published.
    pub cpu: BTreeMap<&'static str, Duration>,
    /// The share of the machine that others took meanwhile.
    pub foreign_share: f64,
    /// WAL that was written.
    pub wal_bytes: i64,
    /// How long after the last answer the last fact was published and the last notice applied.
    pub settled: Duration,
    /// Where the pipeline's time went.
    pub pipeline: Option<Value>,
    /// Why it does not count.
    pub faults: Vec<Fault>,
}

/// Where runs take place.
pub struct Track {
    /// The servers and processes.
    pub rig: Rig,
    /// Makes dates to sell.
    pub grounds: Grounds,
    /// A connection for looking.
    pub conn: AsyncPgConnection,
}

impl Track {
    /// Prepares a started rig.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn new(rig: Rig) -> anyhow::Result<Self> {
        let grounds = Grounds::create(rig.connect().await?, rig.tokens()?).await?;
        let conn = rig.connect().await?;
        Ok(Self { rig, grounds, conn })
    }

    /// Connects anew, after Postgres was away.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.conn = self.rig.connect().await?;
        self.grounds.reconnect(self.rig.connect().await?);
        Ok(())
    }

    /// The settings of Postgres.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn settings(&mut self) -> anyhow::Result<Value> {
        rig::settings(&mut self.conn).await
    }

    /// Runs `course` against a server at `addr`.
    ///
    /// # Errors
    /// When something breaks that is not the server's: its faults are in the run.
    pub async fn run<C: Contested>(
        &mut self,
        course: Course<C>,
        addr: SocketAddr,
    ) -> anyhow::Result<Run<C>> {
        let Course {
            design,
            case,
            connections,
            size,
            seed,
        } = course;
        let Field {
            ground,
            warm_up,
            counted,
        } = case.field(self, design, size, seed, addr).await?;
        rig::tidy(&mut self.conn, TABLES).await?;

        let generator = Generator::connect(addr, connections).context("connecting")?;
        let (generator, warmed_up) = play(generator, warm_up).await?;
        let watched = self.rig.watched();
        let metrics = self.rig.pipeline_metrics();
        let scraped = Scraped::read(&metrics, case.lane()).await?;
        let wal_bytes = rig::wal_bytes(&mut self.conn).await?;
        let (cores, times) = (Cores::read(), Times::read(&watched));

        let (generator, tally) = play(generator, counted).await?;

        let settled = match design {
            // What is published and applied later is part of the work.
            Design::Pipeline => rig::drained(&mut self.conn).await?,
            Design::Direct(_) => Some(Duration::ZERO),
        };
        let cpu = Times::read(&watched).since(&times);
        let foreign_share = Cores::read().foreign_share(&cores, &cpu);
        let wal_bytes = rig::wal_bytes(&mut self.conn).await? - wal_bytes;
        let pipeline = match design {
            Design::Pipeline => {
                let now = Scraped::read(&metrics, case.lane()).await?;
                Some(now.since(&scraped, tally.elapsed))
            }
            Design::Direct(_) => None,
        };
        drop(generator);

        let mut faults = complaints("warm-up", &warmed_up, size.warm_up as u64, 0);
        let wins = case.wins(size.requests);
        let losses = size.requests as u64 - wins;
        faults.extend(complaints("run", &tally, wins, losses));
        let answered = warmed_up.status(201) + tally.status(201);
        let complaint = C::complaint(self, design, &ground, answered).await?;
        faults.extend(complaint.map(|why| Fault { kind: "rows", why }));
        if settled.is_none() {
            faults.push(Fault {
                kind: "facts",
                why: "facts or notices are still on their way".to_owned(),
            });
        }
        Ok(Run {
            course,
            tally,
            cpu,
            foreign_share,
            wal_bytes,
            settled: settled.unwrap_or_default(),
            pipeline,
            faults,
        })
    }
}

/// Plays a script on a thread of its own.
///
/// # Errors
/// When the generator can't go on.
pub async fn play(mut generator: Generator, script: Script) -> anyhow::Result<(Generator, Tally)> {
    let played = tokio::task::spawn_blocking(move || {
        let tally = generator.play(&script, PLAY_LIMIT)?;
        Ok::<_, std::io::Error>((generator, tally))
    });
    played
        .await
        .context("running the load generator")?
        .context("running the load generator")
}

/// What is wrong with answers of which so many must be 201 and 409.
fn complaints(part: &str, tally: &Tally, wins: u64, losses: u64) -> Vec<Fault> {
    let expected: BTreeMap<u16, u64> = [(201, wins), (409, losses)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    if tally.failed == 0 && tally.statuses == expected {
        return Vec::new();
    }
    let odd = tally
        .samples
        .iter()
        .find(|(status, _)| !expected.contains_key(status));
    let sample = odd.map_or(String::new(), |(_, answer)| {
        format!("; for instance {answer:?}")
    });
    vec![Fault {
        kind: "answers",
        why: format!(
            "{part}: expected {expected:?}, got {:?} and {} without an answer{sample}",
            tally.statuses, tally.failed
        ),
    }]
}

impl<C> Run<C> {
    /// Its figures.
    #[must_use]
    pub fn json(&self) -> Value {
        let seconds = self.tally.elapsed.as_secs_f64();
        let rate = |status| self.tally.status(status) as f64 / seconds.max(1e-9);
        let answers = self.tally.latency.count();
        let cpu: BTreeMap<&str, f64> = self
            .cpu
            .iter()
            .map(|(role, spent)| (*role, per_1000_ms(*spent, answers)))
            .collect();
        let faults: Vec<&str> = self.faults.iter().map(|fault| fault.why.as_str()).collect();
        let mut json = json!({
            "answersPerS": self.tally.answers_per_s(),
            "winsPerS": rate(201),
            "refusalsPerS": rate(409),
            "elapsedS": seconds,
            "p50Ms": self.tally.latency.percentile_ms(50.0),
            "p95Ms": self.tally.latency.percentile_ms(95.0),
            "p99Ms": self.tally.latency.percentile_ms(99.0),
            "maxMs": self.tally.latency.percentile_ms(100.0),
            "statuses": self.tally.statuses,
            "unanswered": self.tally.failed,
            "cpuMsPer1000": cpu,
            "foreignCpuShare": self.foreign_share,
            "commitsPerS": self.commits() / seconds.max(1e-9),
            "settledAfterMs": self.settled.as_secs_f64() * 1e3,
            "walBytesPerRequest": self.wal_bytes as f64 / (answers.max(1) as f64),
            "faults": faults,
        });
        if let Some(pipeline) = &self.pipeline {
            json["pipeline"] = pipeline.clone();
        }
        json
    }
}

impl<C> Run<C> {
    /// Transactions that decided it: the pipeline counts them, a rival has one for each answer.
    #[must_use]
    pub fn commits(&self) -> f64 {
        let counted = self
            .pipeline
            .as_ref()
            .map(|times| times["commits"].as_f64());
        match counted {
            Some(counted) => counted.unwrap_or(0.0),
            None => self.tally.latency.count() as f64,
        }
    }
}

/// CPU time per 1,000 requests, in milliseconds.
fn per_1000_ms(spent: Duration, answers: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / answers.max(1) as f64
}

/// The run whose rate is in the middle.
#[must_use]
pub fn median<'a, C>(runs: &[&'a Run<C>]) -> Option<&'a Run<C>> {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| {
        let rate = |run: &Run<C>| run.tally.answers_per_s();
        rate(a).total_cmp(&rate(b))
    });
    runs.get(runs.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(statuses: &[(u16, u64)], failed: u64) -> Tally {
        Tally {
            statuses: statuses.iter().copied().collect(),
            samples: statuses
                .iter()
                .map(|(status, _)| (*status, format!("answer {status}")))
                .collect(),
            failed,
            ..Tally::default()
        }
    }

    #[test]
    fn only_exactly_the_right_answers_count() {
        assert!(complaints("run", &tally(&[(201, 5)], 0), 5, 0).is_empty());
        assert!(complaints("run", &tally(&[(201, 5), (409, 7)], 0), 5, 7).is_empty());
        for wrong in [
            tally(&[(201, 4)], 0),
            tally(&[(201, 5)], 1),
            tally(&[(201, 5), (409, 1)], 0),
        ] {
            assert_eq!(complaints("run", &wrong, 5, 0).len(), 1);
        }
        let odd = complaints("run", &tally(&[(201, 4), (503, 1)], 0), 5, 0);
        assert!(odd[0].why.contains("answer 503"), "{}", odd[0].why);
    }
}
