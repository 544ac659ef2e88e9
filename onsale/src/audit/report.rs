//! What an audit found, for people and for programs.

use std::fmt;

use onsale_platform::audit::Check;
use onsale_schema::invariant::Invariant;
use serde_json::{Value, json};

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order of their list.
    pub checks: Vec<Check>,
    /// What should have been held against the tables, too, and could not be read.
    pub not_compared: Vec<NotCompared>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// The half of a check that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCompared {
    /// Which invariant's.
    pub invariant: Invariant,
    /// What the tables were not compared with.
    pub with: &'static str,
    /// Why not.
    pub why: String,
}

impl Report {
    /// Whether everything holds, and everything that was to be compared was.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.violated().is_empty() && self.not_compared.is_empty()
    }

    /// The ids of what does not hold.
    #[must_use]
    pub fn violated(&self) -> Vec<&'static str> {
        let broken = self.checks.iter().filter(|check| check.violations > 0);
        broken.map(|check| check.invariant.id()).collect()
    }

    /// One object: `{"ok":true,"checks":[{"id":"S1","violations":0}],"durationMs":12}`; a check
    /// also has `examples` where it found something, and a `note` where there is one. With what could not
    /// be compared there is `"notCompared":[{"id":"P2","with":"…","why":"…"}]`, and `ok` is false.
    #[must_use]
    pub fn json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| {
                let mut object =
                    json!({ "id": check.invariant.id(), "violations": check.violations });
                if !check.examples.is_empty() {
                    object["examples"] = json!(check.examples);
                }
                if let Some(note) = &check.note {
                    object["note"] = json!(note);
                }
                object
            })
            .collect();
        let mut object =
            json!({ "ok": self.ok(), "checks": checks, "durationMs": self.duration_ms });
        if !self.not_compared.is_empty() {
            let not_compared = self
                .not_compared
                .iter()
                .map(|one| json!({ "id": one.invariant.id(), "with": one.with, "why": one.why }));
            object["notCompared"] = not_compared.collect();
        }
        object
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check {
            invariant,
            violations,
            examples,
            note,
        } in &self.checks
        {
            let missing = self.not_compared.iter();
            let missing: Vec<_> = missing.filter(|one| one.invariant == *invariant).collect();
            let mark = match (*violations, missing.is_empty()) {
                (0, true) => "ok",
                (0, false) => "IN PART",
                (_, _) => "VIOLATED",
            };
            writeln!(
                f,
                "{:3} {mark:<9}{violations:>5}  {}",
                invariant.id(),
                invariant.statement()
            )?;
            if let Some(note) = note {
                writeln!(f, "{:20} ({note})", "")?;
            }
            for NotCompared { with, why, .. } in missing {
                writeln!(f, "{:20} (NOT COMPARED with {with}: {why})", "")?;
            }
            for example in examples {
                writeln!(f, "{:20} - {example}", "")?;
            }
            let more = violations.saturating_sub(examples.len() as u64);
            if more > 0 {
                writeln!(f, "{:20} - and {more} more", "")?;
            }
        }
        let verdict = match self.violated() {
            broken if !broken.is_empty() => format!("violated: {}", broken.join(", ")),
            _ if self.ok() => format!("all {} hold", self.checks.len()),
            _ => format!("all {} hold in the tables", self.checks.len()),
        };
        write!(f, "\n{verdict}")?;
        for NotCompared {
            invariant, with, ..
        } in &self.not_compared
        {
            write!(f, "; NOT COMPARED with {with}: {}", invariant.id())?;
        }
        write!(f, " ({} ms)", self.duration_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(violations: u64) -> Report {
        let check = |invariant, violations, note: Option<&str>| Check {
            invariant,
            violations,
            examples: (0..violations.min(2))
                .map(|n| format!("example {n}"))
                .collect(),
            note: note.map(str::to_owned),
        };
        Report {
            checks: vec![
                check(Invariant::S1, violations, None),
                check(Invariant::F2, 0, Some("no stream")),
            ],
            not_compared: Vec::new(),
            duration_ms: 12,
        }
    }

    #[test]
    fn the_json_has_the_documented_shape() {
        assert_eq!(
            report(0).json(),
            json!({"ok": true, "durationMs": 12, "checks": [
                {"id": "S1", "violations": 0},
                {"id": "F2", "violations": 0, "note": "no stream"}]})
        );
        let broken = report(3).json();
        assert_eq!(broken["ok"], json!(false));
        assert_eq!(
            broken["checks"][0]["examples"],
            json!(["example 0", "example 1"])
        );
    }

    #[test]
    fn the_table_names_what_is_broken() {
        assert!(report(0).to_string().ends_with("all 2 hold (12 ms)"));
        let text = report(3).to_string();
        assert!(
            text.contains("VIOLATED") && text.contains("and 1 more"),
            "{text}"
        );
        assert!(text.ends_with("violated: S1 (12 ms)"), "{text}");
    }

    #[test]
    fn what_was_not_compared_is_no_success() {
        let without = |violations| Report {
            not_compared: vec![NotCompared {
                invariant: Invariant::F2,
                with: "the stream",
                why: "it is away".into(),
            }],
            ..report(violations)
        };
        let sound = without(0);
        assert!(!sound.ok());
        assert_eq!(sound.violated(), [""; 0]);
        assert_eq!(
            sound.json()["notCompared"],
            json!([{"id": "F2", "with": "the stream", "why": "it is away"}])
        );
        assert_eq!(sound.json()["ok"], json!(false));
        let text = sound.to_string();
        assert!(text.contains("F2  IN PART"), "{text}");
        assert!(
            text.contains("(NOT COMPARED with the stream: it is away)"),
            "{text}"
        );
        let verdict = "all 2 hold in the tables; NOT COMPARED with the stream: F2 (12 ms)";
        assert!(text.ends_with(verdict), "{text}");
        let verdict = "violated: S1; NOT COMPARED with the stream: F2 (12 ms)";
        let text = without(1).to_string();
        assert!(text.ends_with(verdict), "{text}");
    }
}
