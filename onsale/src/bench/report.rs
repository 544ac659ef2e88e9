//! What was measured, as tables for people and as one JSON object for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::case::Size;
use super::contest::Contested;
use super::direct::Rival;
use super::run::{Design, Fault, Run, median};
use crate::audit;

/// One case at one number of connections.
#[derive(Debug)]
pub struct Group<C> {
    /// What was wanted.
    pub case: C,
    /// By how many at once.
    pub connections: usize,
    /// The pool of each rival.
    pub pools: BTreeMap<Rival, u16>,
    /// All runs, in their order.
    pub runs: Vec<Run<C>>,
}

/// Everything.
#[derive(Debug)]
pub struct Report<C> {
    /// What it was measured on.
    pub machine: Value,
    /// Postgres' settings.
    pub settings: Value,
    /// The commit, if known.
    pub revision: Option<String>,
    /// How much was asked in each run.
    pub size: Size,
    /// Echoes per second, by connections.
    pub echo: BTreeMap<usize, f64>,
    /// All cases.
    pub groups: Vec<Group<C>>,
    /// The whole database afterwards.
    pub audit: audit::Report,
    /// How long it took.
    pub took: Duration,
}

impl<C: Contested> Group<C> {
    fn name(&self) -> String {
        format!("{}-{}", self.case, self.connections)
    }

    fn designs(&self) -> impl Iterator<Item = Design> {
        let rivals = self.pools.keys().copied().map(Design::Direct);
        std::iter::once(Design::Pipeline).chain(rivals)
    }

    fn of(&self, design: Design) -> Vec<&Run<C>> {
        let runs = self.runs.iter();
        runs.filter(|run| run.course.design == design).collect()
    }

    fn median(&self, design: Design) -> Option<&Run<C>> {
        median(&self.of(design))
    }

    fn rate(&self, design: Design) -> f64 {
        self.median(design)
            .map_or(0.0, |run| run.tally.answers_per_s())
    }

    /// The pipeline's rate over that of a rival.
    fn ratio(&self, rival: Rival) -> f64 {
        let of_rival = self.rate(Design::Direct(rival));
        if of_rival > 0.0 {
            self.rate(Design::Pipeline) / of_rival
        } else {
            0.0
        }
    }

    /// Over the best of the rivals.
    fn ratio_to_best(&self) -> f64 {
        let rivals = self.pools.keys().filter(|rival| rival.is_rival());
        let ratios = rivals.map(|rival| self.ratio(*rival));
        ratios.min_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// Whether the yardstick was as fast as it must be on this machine.
    fn yardstick_too_slow(&self, echo: Option<f64>) -> Option<Fault> {
        let echo = echo?;
        let least = self.case.yardstick_least(self.connections)? * echo;
        let now = self.rate(Design::Direct(Rival::LeanCte));
        (now < least).then(|| Fault {
            kind: "speed",
            why: format!(
                "the yardstick answered {now:.0} a second, but should answer at least {least:.0} \
                 where the echo answers {echo:.0}"
            ),
        })
    }

    /// Whether a rival was as fast as it must be beside the yardstick.
    fn rival_too_slow(&self, rival: Rival) -> Option<Fault> {
        let share = self.case.rival_least(rival)?;
        let least = share * self.rate(Design::Direct(Rival::LeanCte));
        let now = self.rate(Design::Direct(rival));
        (now < least).then(|| Fault {
            kind: "speed",
            why: format!(
                "the rival {} answered {now:.0} a second, but should answer at least {least:.0}, \
                 which is {share:.2} of what the yardstick answers",
                rival.name()
            ),
        })
    }

    /// Which baselines were too slow for the ratio to count.
    fn too_slow(&self, echo: Option<f64>) -> impl Iterator<Item = Fault> {
        let rivals = self.pools.keys();
        let slow = rivals.filter_map(|rival| self.rival_too_slow(*rival));
        self.yardstick_too_slow(echo).into_iter().chain(slow)
    }

    fn json(&self) -> Value {
        let mut designs = Map::new();
        for design in self.designs() {
            let runs: Vec<Value> = self.of(design).into_iter().map(Run::json).collect();
            let median = self.median(design).map(Run::json);
            designs.insert(
                design.name().into(),
                json!({ "median": median, "runs": runs }),
            );
        }
        let by_rival = |f: &dyn Fn(Rival, u16) -> Value| -> Map<String, Value> {
            let pairs = self.pools.iter();
            pairs
                .map(|(rival, pool)| (rival.name().to_owned(), f(*rival, *pool)))
                .collect()
        };
        json!({
            "case": self.case.to_string(),
            "connections": self.connections,
            "pools": by_rival(&|_, pool| pool.into()),
            "ratios": by_rival(&|rival, _| self.ratio(rival).into()),
            "designs": designs,
        })
    }
}

impl<C: Contested> Report<C> {
    /// Whether the figures don't count.
    #[must_use]
    pub fn is_void(&self) -> bool {
        !self.faults().is_empty()
    }

    /// Why they don't, and where.
    fn faults(&self) -> Vec<(String, Fault)> {
        let mut all = Vec::new();
        for group in &self.groups {
            for run in &group.runs {
                let place = format!("{} {}", group.name(), run.course.design);
                all.extend(
                    run.faults
                        .iter()
                        .map(|fault| (place.clone(), fault.clone())),
                );
            }
            let echo = self.echo.get(&group.connections).copied();
            all.extend(group.too_slow(echo).map(|fault| (group.name(), fault)));
        }
        if !self.audit.ok() {
            let fault = Fault {
                kind: "audit",
                why: format!("violated: {}", self.audit.violated().join(", ")),
            };
            all.push(("all".to_owned(), fault));
        }
        if cfg!(debug_assertions) {
            let fault = Fault {
                kind: "build",
                why: "a debug build says nothing about speed".to_owned(),
            };
            all.push(("all".to_owned(), fault));
        }
        all
    }

    /// One object.
    #[must_use]
    pub fn json(&self) -> Value {
        let groups = self.groups.iter();
        let ratios: Map<String, Value> = groups
            .map(|group| (group.name(), group.ratio_to_best().into()))
            .collect();
        let faults: Vec<Value> = self
            .faults()
            .into_iter()
            .map(|(place, Fault { kind, why })| json!({ "where": place, "kind": kind, "why": why }))
            .collect();
        let echo: BTreeMap<String, f64> = self
            .echo
            .iter()
            .map(|(connections, rate)| (connections.to_string(), *rate))
            .collect();
        json!({
            "bench": C::BENCH,
            "version": env!("CARGO_PKG_VERSION"),
            "revision": self.revision,
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "machine": self.machine,
            "postgresSettings": self.settings,
            "requestsPerRun": self.size.requests,
            "warmUpRequests": self.size.warm_up,
            "echoAnswersPerS": echo,
            "cases": self.groups.iter().map(Group::json).collect::<Vec<_>>(),
            "ratios": ratios,
            "beside": self.beside_json(),
            "void": self.is_void(),
            "faults": faults,
            "audit": self.audit.json(),
            "tookS": self.took.as_secs_f64(),
        })
    }

    /// Pairs of cases that are to be seen beside each other, with the pipeline's rate in the first
    /// over that in the second.
    fn beside(&self) -> Vec<(&Group<C>, &Group<C>, f64)> {
        let groups = self.groups.iter();
        let pairs = groups.filter_map(|group| {
            let beside = group.case.beside()?;
            let same =
                |other: &&Group<C>| (other.case, other.connections) == (beside, group.connections);
            let other = self.groups.iter().find(same)?;
            let rate = other.rate(Design::Pipeline);
            let ratio = group.rate(Design::Pipeline) / rate.max(1e-9);
            Some((group, other, ratio))
        });
        pairs.collect()
    }

    fn beside_json(&self) -> Map<String, Value> {
        let pairs = self.beside().into_iter();
        pairs
            .map(|(group, other, ratio)| {
                (
                    group.name(),
                    json!({ "case": other.name(), "ratio": ratio }),
                )
            })
            .collect()
    }

    fn speeds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>6}  {:<10}{:>10}{:>13}{:>11}{:>9}{:>9}{:>9}{:>9}",
            "case",
            "conns",
            "design",
            "wins/s",
            "refusals/s",
            "commits/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "ratio"
        )?;
        for group in &self.groups {
            for design in group.designs() {
                let Some(run) = group.median(design) else {
                    continue;
                };
                let seconds = run.tally.elapsed.as_secs_f64();
                let rate = |status| run.tally.status(status) as f64 / seconds;
                let percentile = |percent| run.tally.latency.percentile_ms(percent);
                let ratio = match design {
                    Design::Pipeline => String::new(),
                    Design::Direct(rival) => format!("{:.2} x", group.ratio(rival)),
                };
                writeln!(
                    f,
                    "{:<12}{:>6}  {:<10}{:>10.0}{:>13.0}{:>11.0}{:>9.2}{:>9.2}{:>9.2}{ratio:>9}",
                    group.case,
                    group.connections,
                    design,
                    rate(201),
                    rate(409),
                    run.commits() / seconds,
                    percentile(50.0),
                    percentile(95.0),
                    percentile(99.0),
                )?;
            }
        }
        Ok(())
    }

    fn costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ROLES: [&str; 6] = ["postgres", "nats", "ingress", "workers", "rival", "load"];
        write!(f, "{:<12}{:>6}  {:<10}", "CPU ms", "conns", "design")?;
        for role in ROLES {
            write!(f, "{role:>10}")?;
        }
        writeln!(f, "{:>10}{:>10}{:>9}", "all", "WAL B/req", "others")?;
        for group in &self.groups {
            for design in group.designs() {
                let Some(run) = group.median(design) else {
                    continue;
                };
                write!(
                    f,
                    "{:<12}{:>6}  {:<10}",
                    group.case, group.connections, design
                )?;
                let answers = run.tally.latency.count().max(1) as f64;
                let cost = |spent: Duration| spent.as_secs_f64() * 1e6 / answers;
                for role in ROLES {
                    let spent = run.cpu.get(role).copied().unwrap_or_default();
                    write!(f, "{:>10.1}", cost(spent))?;
                }
                let all: Duration = run.cpu.values().sum();
                let wal = run.wal_bytes as f64 / answers;
                let others = run.foreign_share * 100.0;
                writeln!(f, "{:>10.1}{wal:>10.0}{others:>7.0} %", cost(all))?;
            }
        }
        Ok(())
    }

    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const COLUMNS: [(&str, &str); 8] = [
            ("messages", "messages"),
            ("cmds/msg", "commandsPerMessage"),
            ("puback ms", "pubackMeanMs"),
            ("age ms", "messageAgeMeanMs"),
            ("commits", "commits"),
            ("cmds/commit", "commandsPerCommit"),
            ("commit ms", "commitMeanMs"),
            ("busy", "committerBusy"),
        ];
        write!(f, "{:<12}{:>6}", "pipeline", "conns")?;
        for (title, _) in COLUMNS {
            write!(f, "{title:>12}")?;
        }
        // What is applied and published after the last answer, notices and facts; its CPU is
        // counted above.
        writeln!(f, "{:>12}{:>12}", "run ms", "and then ms")?;
        for group in &self.groups {
            let Some(run) = group.median(Design::Pipeline) else {
                continue;
            };
            let Some(times) = run.pipeline.as_ref() else {
                continue;
            };
            write!(f, "{:<12}{:>6}", group.case, group.connections)?;
            for (_, key) in COLUMNS {
                write!(f, "{:>12.2}", times[key].as_f64().unwrap_or(0.0))?;
            }
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            writeln!(
                f,
                "{:>12.0}{:>12.0}",
                ms(run.tally.elapsed),
                ms(run.settled)
            )?;
        }
        Ok(())
    }
}

impl<C: Contested> fmt::Display for Report<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        writeln!(
            f,
            "\n{} cores ({}), {}, {}; a write to disk takes {:.2} ms; revision {}",
            self.machine["cores"],
            text(&self.machine["cpu"]),
            text(&self.machine["postgres"]),
            text(&self.machine["nats"]),
            self.machine["fdatasyncMs"].as_f64().unwrap_or(0.0),
            self.revision.as_deref().unwrap_or("unknown"),
        )?;
        for (connections, rate) in &self.echo {
            writeln!(
                f,
                "plain echo, {connections} connections: {rate:.0} answers/s"
            )?;
        }
        writeln!(
            f,
            "medians of the runs, {} requests each; decided and durable\n",
            self.size.requests
        )?;
        self.speeds(f)?;
        for (group, other, ratio) in self.beside() {
            let (name, other) = (group.name(), other.name());
            writeln!(
                f,
                "the pipeline's rate in {name} is {ratio:.2} x that in {other}"
            )?;
        }
        writeln!(f, "\nper 1,000 requests:")?;
        self.costs(f)?;
        writeln!(f, "\nwhere the pipeline's time goes (means):")?;
        self.times(f)?;
        let verdict = if self.audit.ok() {
            "all hold"
        } else {
            "VIOLATED"
        };
        writeln!(f, "\ninvariants, afterwards: {verdict}")?;
        for (place, fault) in self.faults() {
            writeln!(f, "VOID ({place}, {}): {}", fault.kind, fault.why)?;
        }
        write!(f, "took {:.0} s", self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::Case;
    use super::super::load::Tally;
    use super::super::money;
    use super::super::run::Course;
    use super::*;

    /// A run that answered so many in its one second.
    fn run<C>(case: C, design: Design, answers: u32) -> Run<C> {
        let mut tally = Tally {
            elapsed: Duration::from_secs(1),
            ..Tally::default()
        };
        for _ in 0..answers {
            tally.latency.record(Duration::from_millis(1));
        }
        Run {
            course: Course {
                design,
                case,
                connections: 64,
                size: Size {
                    requests: 1,
                    warm_up: 0,
                },
                seed: 0,
            },
            tally,
            cpu: BTreeMap::new(),
            foreign_share: 0.0,
            wal_bytes: 0,
            settled: Duration::ZERO,
            pipeline: None,
            faults: Vec::new(),
        }
    }

    /// One run of each of these designs.
    fn group<C: Contested>(case: C, rates: &[(Rival, u32)]) -> Group<C> {
        let runs = rates.iter();
        Group {
            case,
            connections: 64,
            pools: rates.iter().map(|(rival, _)| (*rival, 8)).collect(),
            runs: runs
                .map(|(rival, rate)| run(case, Design::Direct(*rival), *rate))
                .collect(),
        }
    }

    fn slow<C: Contested>(group: &Group<C>, echo: f64) -> usize {
        group.too_slow(Some(echo)).count()
    }

    #[test]
    fn a_rival_far_below_the_yardstick_voids_the_group() {
        let of = |rates: &[_]| slow(&group(Case::Hot, rates), 7400.0);
        assert_eq!(of(&[(Rival::Cte, 400), (Rival::LeanCte, 1000)]), 0);
        assert_eq!(of(&[(Rival::Cte, 399), (Rival::LeanCte, 1000)]), 1);
        assert_eq!(of(&[(Rival::LeanCte, 1000)]), 0);
    }

    #[test]
    fn the_yardstick_is_held_to_its_share_of_the_echo() {
        let mut group = group(Case::AllWin, &[(Rival::LeanCte, 630)]);
        // A tenth of the machine: 0.6 of 1,050 is its least.
        assert_eq!(slow(&group, 7400.0), 0);
        assert_eq!(slow(&group, 7500.0), 1);
        group.connections = 65;
        assert_eq!(slow(&group, 7500.0), 0);
    }

    #[test]
    fn money_is_void_when_the_yardstick_or_the_row_lock_is_far_below_its_share() {
        use money::Case::{Charges, HotAccount, Payments};
        for (case, row_lock, yardstick, faults) in [
            // Half of 1,050 where the echo does a tenth of what it did, and half of 46 in 105 of that.
            (Payments, 116, 526, 0),
            (Charges, 116, 526, 0),
            (Payments, 300, 524, 1),
            (Charges, 300, 524, 1),
            (Payments, 219, 1000, 1),
            (Charges, 219, 1000, 1),
            (Payments, 1, 524, 2),
            // One account is no matter of the echo: each waits for the commit of another.
            (HotAccount, 3, 10, 0),
            (HotAccount, 2, 10, 1),
        ] {
            let rates = [(Rival::RowLock, row_lock), (Rival::LeanCte, yardstick)];
            let found = slow(&group(case, &rates), 7400.0);
            assert_eq!(found, faults, "{case}: {row_lock}, {yardstick}");
        }
    }
}
