//! What became of a crowd, for a person or a program.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use onsale_schema::ScheduleId;
use serde::Serialize;

use super::fair::Overtaken;
use super::tally::{Counts, Guests, Stage};

/// The object that `onsale crowd --json` prints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The date.
    pub schedule_id: ScheduleId,
    /// What it took from chance.
    pub seed: u64,
    /// All of them.
    pub buyers: usize,
    /// What became of them.
    pub outcomes: Outcomes,
    /// How far those came who had an access code; they are among the buyers, too.
    pub guests: Guests,
    /// The hall at the end.
    pub seats: Seats,
    /// So many were told that they are admitted.
    pub admitted: usize,
    /// From joining until then.
    pub wait: Wait,
    /// So many were overtaken, each counted once; see [`super::fair`].
    pub unfair: usize,
    /// Of so many: the others were told of no place in an order.
    pub judged: usize,
    /// Questions how far a ticket is.
    pub polls: u64,
    /// All requests.
    pub requests: u64,
    /// Tries of the greedy to get what is not theirs, none of which may succeed.
    pub tried: u64,
    /// Refusals by code; also those that were provoked, and those that were followed by another try.
    pub errors: BTreeMap<String, u64>,
    /// What should not have happened.
    pub unexpected: u64,
    /// Some of that, in words.
    pub samples: Vec<String>,
    /// How long it took from when the first could come, in milliseconds.
    pub elapsed_ms: u64,
}

/// Buyers by what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcomes {
    /// Have paid for seats.
    pub sold: usize,
    /// Were let in, and nothing was left.
    pub sold_out: usize,
    /// Left the line.
    pub gave_up: usize,
    /// Stopped asking.
    pub silent: usize,
    /// Were not let in, or not sold anything, by the rules.
    pub refused: usize,
    /// Met something that should not happen.
    pub failed: usize,
    /// Were still at it when it was ended.
    pub unfinished: usize,
}

/// Seats, as the map shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seats {
    /// All.
    pub total: usize,
    /// Sold.
    pub sold: usize,
    /// Held.
    pub held: usize,
    /// Free.
    pub left: usize,
    /// Paid for by this crowd.
    pub bought: usize,
}

/// How long it took to be let in, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// By half of them.
    pub p50_ms: u64,
    /// By all but a twentieth.
    pub p95_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Wait {
    fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let at = |percent: usize| {
            let place = (waits.len() * percent).div_ceil(100).saturating_sub(1);
            let wait = waits.get(place).copied().unwrap_or_default();
            u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
        };
        Self {
            p50_ms: at(50),
            p95_ms: at(95),
            max_ms: at(100),
        }
    }
}

impl Outcomes {
    fn of(counts: &Counts) -> Self {
        let unfinished = Stage::ALL.into_iter().filter(|stage| !stage.is_end());
        Self {
            sold: counts.of(Stage::Sold),
            sold_out: counts.of(Stage::SoldOut),
            gave_up: counts.of(Stage::GaveUp),
            silent: counts.of(Stage::Silent),
            refused: counts.of(Stage::Refused),
            failed: counts.of(Stage::Failed),
            unfinished: unfinished.map(|stage| counts.of(stage)).sum(),
        }
    }
}

impl Summary {
    /// Of what was counted, and who was overtaken.
    #[must_use]
    pub fn of(
        (schedule_id, seed): (ScheduleId, u64),
        counts: Counts,
        (judged, overtaken): (usize, &[Overtaken]),
        elapsed: Duration,
    ) -> Self {
        let outcomes = Outcomes::of(&counts);
        let hall = counts.hall;
        let mut samples = counts.samples;
        let unfair = overtaken.iter().take(3).map(|Overtaken { who, by }| {
            format!("{by} was let in while {who} was there and waited")
        });
        samples.extend(unfair);
        if judged == 0 && !counts.waits.is_empty() {
            samples.push("people were let in, and nobody could be judged".to_owned());
        }
        Self {
            schedule_id,
            seed,
            buyers: counts.stages.values().sum(),
            outcomes,
            guests: counts.guests,
            seats: Seats {
                total: hall.total,
                sold: hall.sold,
                held: hall.held,
                left: hall.left,
                bought: counts.bought,
            },
            admitted: counts.waits.len(),
            wait: Wait::of(counts.waits),
            unfair: overtaken.len(),
            judged,
            polls: counts.polls,
            requests: counts.requests,
            tried: counts.tried,
            errors: counts.errors,
            unexpected: counts.unexpected,
            samples,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Whether everything was as it should be. A verdict about nobody is none.
    #[must_use]
    pub fn ok(&self) -> bool {
        let is_judged = self.judged > 0 || self.admitted == 0;
        self.unfair == 0 && self.unexpected == 0 && is_judged
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            outcomes,
            guests,
            seats,
            wait,
            ..
        } = self;
        let seconds = |ms: u64| ms as f64 / 1000.0;
        writeln!(
            f,
            "{} buyers, in {:.0} s",
            self.buyers,
            seconds(self.elapsed_ms)
        )?;
        for (name, count) in [
            ("bought", outcomes.sold),
            ("found nothing left", outcomes.sold_out),
            ("gave up", outcomes.gave_up),
            ("fell silent", outcomes.silent),
            ("refused", outcomes.refused),
            ("failed", outcomes.failed),
            ("unfinished", outcomes.unfinished),
        ] {
            writeln!(f, "  {name:<20} {count:>8}")?;
        }
        if guests.joined > 0 {
            writeln!(
                f,
                "guests joined          {:>8}, {} admitted, {} bought",
                guests.joined, guests.admitted, guests.sold
            )?;
        }
        writeln!(
            f,
            "seats sold             {:>8} of {}, {} to this crowd",
            seats.sold, seats.total, seats.bought
        )?;
        writeln!(f, "admitted               {:>8}", self.admitted)?;
        writeln!(
            f,
            "waited                 {:>8.1} s by half, {:.1} s by 95 %, {:.1} s at most",
            seconds(wait.p50_ms),
            seconds(wait.p95_ms),
            seconds(wait.max_ms)
        )?;
        writeln!(
            f,
            "unfair                 {:>8} of {} judged",
            self.unfair, self.judged
        )?;
        writeln!(
            f,
            "polls                  {:>8} of {} requests",
            self.polls, self.requests
        )?;
        writeln!(
            f,
            "tried to cheat         {:>8} times; what succeeded is below",
            self.tried
        )?;
        for (code, count) in &self.errors {
            let code = if code.is_empty() { "(no code)" } else { code };
            writeln!(f, "  {code:<20} {count:>8}")?;
        }
        write!(f, "unexpected             {:>8}", self.unexpected)?;
        for sample in &self.samples {
            write!(f, "\n  {sample}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fair::Who;
    use super::*;

    #[test]
    fn waits_are_told_by_their_share() {
        let waits: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let wait = Wait::of(waits);
        assert_eq!((wait.p50_ms, wait.p95_ms, wait.max_ms), (50, 95, 100));
        assert_eq!(Wait::of(Vec::new()).max_ms, 0);
        assert_eq!(Wait::of(vec![Duration::from_secs(1)]).p50_ms, 1000);
    }

    #[test]
    fn everybody_is_told_of_once() {
        let mut counts = Counts::default();
        for (nth, stage) in Stage::ALL.into_iter().enumerate() {
            counts.stages.insert(stage, 1 << nth);
        }
        let schedule = ScheduleId(uuid::Uuid::nil());
        let summary = Summary::of((schedule, 1), counts, (0, &[]), Duration::ZERO);
        let told = serde_json::to_value(summary.outcomes).unwrap();
        let told: u64 = told
            .as_object()
            .unwrap()
            .values()
            .filter_map(|n| n.as_u64())
            .sum();
        assert_eq!((told, summary.buyers), ((1 << 11) - 1, (1 << 11) - 1));
        assert_eq!(summary.outcomes.unfinished, 0b11111);
        assert!(summary.ok());
    }

    #[test]
    fn who_was_overtaken_is_said() {
        let schedule = ScheduleId(uuid::Uuid::nil());
        let overtaken = [
            Overtaken {
                who: Who::Place(3),
                by: Who::Place(9),
            },
            Overtaken {
                who: Who::Guest(Duration::from_millis(1500)),
                by: Who::Place(9),
            },
        ];
        let summary = Summary::of(
            (schedule, 1),
            Counts::default(),
            (2, &overtaken),
            Duration::ZERO,
        );
        assert!(!summary.ok());
        for said in [
            "position 9 was let in while position 3 was there",
            "position 9 was let in while the guest of 1.5 s was there",
        ] {
            assert!(summary.to_string().contains(said), "{summary}");
        }
    }

    #[test]
    fn a_verdict_about_nobody_is_none() {
        let told = |judged, waits: &[Duration]| {
            let counts = Counts {
                waits: waits.to_vec(),
                ..Counts::default()
            };
            let schedule = ScheduleId(uuid::Uuid::nil());
            Summary::of((schedule, 1), counts, (judged, &[]), Duration::ZERO)
        };
        let wait = [Duration::from_secs(1)];
        assert!(told(0, &[]).ok() && told(1, &wait).ok());
        let nobody = told(0, &wait);
        assert!(!nobody.ok());
        let text = nobody.to_string();
        assert!(text.contains("0 of 0 judged") && text.contains("nobody could be judged"));
        assert!(told(4812, &wait).to_string().contains("0 of 4812 judged"));
        assert_eq!(serde_json::to_value(told(7, &wait)).unwrap()["judged"], 7);
    }

    #[test]
    fn guests_are_told_of_where_there_are_some() {
        let told = |guests| {
            let counts = Counts {
                guests,
                ..Counts::default()
            };
            let schedule = ScheduleId(uuid::Uuid::nil());
            Summary::of((schedule, 1), counts, (0, &[]), Duration::ZERO)
        };
        let summary = told(Guests {
            joined: 30,
            admitted: 20,
            sold: 10,
        });
        let line = "guests joined                30, 20 admitted, 10 bought\n";
        assert!(summary.to_string().contains(line), "{summary}");
        let object = serde_json::to_value(&summary).unwrap();
        let expected = serde_json::json!({ "joined": 30, "admitted": 20, "sold": 10 });
        assert_eq!(object["guests"], expected);
        assert!(!told(Guests::default()).to_string().contains("guests"));
    }
}
