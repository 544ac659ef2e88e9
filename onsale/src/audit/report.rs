//! What an audit found, for people and for programs.

use std::fmt;

use onsale_platform::audit::Check;
use serde_json::{Value, json};

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order of their list.
    pub checks: Vec<Check>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl Report {
    /// Whether everything holds.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.violations == 0)
    }

    /// The ids of what does not hold.
    #[must_use]
    pub fn violated(&self) -> Vec<&'static str> {
        let broken = self.checks.iter().filter(|check| check.violations > 0);
        broken.map(|check| check.invariant.id()).collect()
    }

    /// One object: `{"ok":true,"checks":[{"id":"S1","violations":0}],"durationMs":12}`; a check
    /// also has `examples` where it found something, and a `note` where there is one.
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
        json!({ "ok": self.ok(), "checks": checks, "durationMs": self.duration_ms })
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
            let mark = if *violations == 0 { "ok" } else { "VIOLATED" };
            writeln!(
                f,
                "{:3} {mark:<9}{violations:>5}  {}",
                invariant.id(),
                invariant.statement()
            )?;
            if let Some(note) = note {
                writeln!(f, "{:20} ({note})", "")?;
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
            broken if broken.is_empty() => format!("all {} hold", self.checks.len()),
            broken => format!("violated: {}", broken.join(", ")),
        };
        write!(f, "\n{verdict} ({} ms)", self.duration_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::invariant::Invariant;

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
}
