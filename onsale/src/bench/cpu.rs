//! CPU time by process, from `/proc`: what each part of a design costs.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Nanoseconds in one tick of `/proc/<pid>/stat`: USER_HZ is 100 on every Linux that we run on.
const TICK_NS: u64 = 10_000_000;

/// A process whose CPU time is of interest.
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// What it is.
    pub role: &'static str,
    /// Its process id.
    pub pid: u32,
    /// Whether its children count as well, the former ones too.
    pub with_children: bool,
}

/// CPU time so far, by role.
#[derive(Clone, Debug, Default)]
pub struct Times(BTreeMap<&'static str, u64>);

impl Times {
    /// Reads the clocks of these processes.
    #[must_use]
    pub fn read(watched: &[Watched]) -> Self {
        let mut times = BTreeMap::new();
        for Watched {
            role,
            pid,
            with_children,
        } in watched
        {
            let ns = if *with_children {
                family_ns(*pid)
            } else {
                stat(*pid).map_or(0, |stat| stat.own_ns)
            };
            *times.entry(*role).or_default() += ns;
        }
        Self(times)
    }

    /// What was spent since `before`, by role.
    #[must_use]
    pub fn since(&self, before: &Self) -> BTreeMap<&'static str, Duration> {
        let spent = |(role, now): (&&'static str, &u64)| {
            let before = before.0.get(role).copied().unwrap_or(0);
            (*role, Duration::from_nanos(now.saturating_sub(before)))
        };
        self.0.iter().map(spent).collect()
    }
}

/// Time of all cores together: what was worked, and what could have been.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cores {
    busy_ns: u64,
    total_ns: u64,
}

impl Cores {
    /// Reads the machine's clocks.
    #[must_use]
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
        let ticks: Vec<u64> = first
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|tick| tick.parse().ok())
            .collect();
        let total: u64 = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self {
            busy_ns: (total - idle) * TICK_NS,
            total_ns: total * TICK_NS,
        }
    }

    /// The share of all cores' time since `before` that went to others than those who spent
    /// `known`: 0 on a quiet machine. (The kernel's own threads are others as well.)
    #[must_use]
    pub fn foreign_share(&self, before: &Self, known: &BTreeMap<&'static str, Duration>) -> f64 {
        let known_ns: u128 = known.values().map(Duration::as_nanos).sum();
        let busy_ns = self.busy_ns.saturating_sub(before.busy_ns) as f64;
        let total_ns = self.total_ns.saturating_sub(before.total_ns) as f64;
        if total_ns > 0.0 {
            ((busy_ns - known_ns as f64) / total_ns).max(0.0)
        } else {
            0.0
        }
    }
}

struct Stat {
    own_ns: u64,
    /// Of children that have ended and were waited for.
    ended_children_ns: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; behind it are numbers.
    let numbers: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // utime, stime, cutime and cstime are fields 14 to 17, and the first behind the name is 3.
    let ticks = |field: usize| numbers.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        own_ns: (ticks(14)? + ticks(15)?) * TICK_NS,
        ended_children_ns: (ticks(16)? + ticks(17)?) * TICK_NS,
    })
}

/// A process of single-threaded children, such as Postgres. There are many, so ticks would be too
/// coarse: the scheduler's own count is used where the kernel keeps it.
fn family_ns(pid: u32) -> u64 {
    let Some(parent) = stat(pid) else { return 0 };
    let children = children(pid);
    let of_children: u64 = children.iter().map(|child| thread_ns(*child)).sum();
    thread_ns(pid) + parent.ended_children_ns + of_children
}

fn thread_ns(pid: u32) -> u64 {
    let exact = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    let exact = exact.and_then(|text| text.split_whitespace().next()?.parse().ok());
    exact.unwrap_or_else(|| stat(pid).map_or(0, |stat| stat.own_ns))
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works in rounds until the clocks show it; a round that is never seen fails.
    fn is_seen(watched: Watched, work: impl Fn()) {
        let before = Times::read(&[watched]);
        let seen = (0..1000).any(|_| {
            work();
            Times::read(&[watched]).since(&before)["me"] >= Duration::from_millis(20)
        });
        assert!(seen, "{watched:?}");
    }

    #[test]
    fn own_work_is_seen() {
        let me = Watched {
            role: "me",
            pid: std::process::id(),
            with_children: false,
        };
        is_seen(me, || {
            std::hint::black_box(
                (0..1_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n)),
            );
        });
    }

    #[test]
    fn the_work_of_children_is_seen() {
        let family = Watched {
            role: "me",
            pid: std::process::id(),
            with_children: true,
        };
        is_seen(family, || {
            let worked = std::process::Command::new("sh")
                .args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
                .status();
            assert!(worked.is_ok_and(|status| status.success()));
        });
    }

    #[test]
    fn who_is_gone_spends_nothing() {
        let gone = Watched {
            role: "gone",
            pid: u32::MAX,
            with_children: true,
        };
        let times = Times::read(&[gone]);
        assert_eq!(times.since(&Times::default())["gone"], Duration::ZERO);
    }
}
