//! Looks at the command lines of all processes that this one has started, and those have, until it is
//! told to stop: also of the ones that live for a moment only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Much less than the shortest life of a program.
const EVERY: Duration = Duration::from_millis(3);

/// A watch that is kept.
pub struct Watch {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<BTreeSet<String>>,
}

impl Watch {
    /// Begins.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watching = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                look(&mut seen);
                thread::sleep(EVERY);
            }
            seen
        });
        Self { stop, watching }
    }

    /// Ends; all command lines that were seen.
    pub fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().unwrap()
    }
}

fn look(seen: &mut BTreeSet<String>) {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let parents: BTreeMap<u32, u32> = processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let is_ours = |pid: &u32| {
        let above = std::iter::successors(Some(*pid), |pid| parents.get(pid).copied());
        above.skip(1).any(|pid| pid == std::process::id())
    };
    for pid in parents.keys().filter(|pid| is_ours(pid)) {
        if let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) {
            seen.insert(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
}

/// The second word after the name, which is in parentheses and may contain anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
