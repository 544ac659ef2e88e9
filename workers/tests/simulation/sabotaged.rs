//! The simulation catches what it is there for: each bug that can be switched on is found within a
//! few histories, which are clean without it.

use crate::history;
use onsale_workers::sabotage::{self, Bug};

/// A bug must show within so many histories.
const WITHIN: u64 = 150;

fn caught(bug: Bug) -> Option<(u64, String)> {
    (0..WITHIN).find_map(|seed| {
        sabotage::set(Some(bug));
        let violation = history::run(seed, false).violation;
        sabotage::set(None);
        violation.map(|violation| (seed, violation.to_string()))
    })
}

#[test]
fn sabotage_is_caught() {
    history::record_panics();
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let Some((seed, violation)) = caught(bug) else {
            missed.push(bug);
            continue;
        };
        println!("{bug:?} in history {seed}: {violation:.200}");
        let clean = history::run(seed, false).violation;
        assert!(clean.is_none(), "history {seed} without {bug:?}: {clean:?}");
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
