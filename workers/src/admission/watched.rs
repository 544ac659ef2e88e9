//! How the rooms of this process are, as metrics: sums over all of them and never one by one, since a
//! date must be no label.
//!
//! Each partition that is owned tells once a second how its rooms are, and all are added up then. How long
//! a line has stood still is counted on from what its partition said last, so that one whose owner hangs
//! is told of by the others.

use crate::runtime::core::CLOCK_SKEW_MAX_MS;
use metrics::{counter, gauge};
use onsale_domain::admission::{Counts, Room};
use onsale_platform::metric;
use onsale_schema::Timestamp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The shares of all partitions, as the recorder is one for the process.
static SHARES: Mutex<BTreeMap<u64, Sums>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How some rooms are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    line: u64,
    guests: u64,
    passed: u64,
    active: u64,
    capacity: u64,
    /// Since when lines stand still: the first and the last.
    still_since: Option<(Timestamp, Timestamp)>,
}

impl Sums {
    fn of(room: &Room) -> Self {
        let Counts {
            line,
            guests,
            passed,
            active,
            capacity,
        } = room.counts();
        Self {
            line: line.into(),
            guests: guests.into(),
            passed: passed.into(),
            active: active.into(),
            capacity: capacity.into(),
            still_since: room.still_since().map(|at| (at, at)),
        }
    }

    fn and(self, other: Self) -> Self {
        let both = self.still_since.into_iter().chain(other.still_since);
        Self {
            line: self.line + other.line,
            guests: self.guests + other.guests,
            passed: self.passed + other.passed,
            active: self.active + other.active,
            capacity: self.capacity + other.capacity,
            still_since: both.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))),
        }
    }

    /// The clock of a room may be somewhat ahead of ours. Where it is far ahead, as that of Postgres was, the
    /// line stands still until then: as long as that takes is told.
    fn still_ms(&self, now: Timestamp) -> i64 {
        let Some((first, last)) = self.still_since else {
            return 0;
        };
        let ahead_ms = Some(last.ms_since(now)).filter(|ms| *ms > CLOCK_SKEW_MAX_MS);
        now.ms_since(first).max(ahead_ms.unwrap_or(0)).max(0)
    }

    fn tell(&self, now: Timestamp) {
        let waiting = |kind, count| gauge!(metric::ADMISSION_WAITING, "kind" => kind).set(count);
        waiting("line", self.line as f64);
        waiting("guests", self.guests as f64);
        waiting("passed", self.passed as f64);
        gauge!(metric::ADMISSION_ACTIVE).set(self.active as f64);
        gauge!(metric::ADMISSION_CAPACITY).set(self.capacity as f64);
        gauge!(metric::ADMISSION_STALLED).set(self.still_ms(now) as f64 / 1e3);
        // There before anybody is let in, so that the first rise is one.
        counter!(metric::ADMISSIONS).increment(0);
    }
}

/// What the rooms of one partition add, as long as it is owned.
pub(super) struct Share(u64);

impl Default for Share {
    fn default() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Share {
    /// The rooms of this partition are like this now.
    pub fn tell<'a>(&self, rooms: impl Iterator<Item = &'a Room>, now: Timestamp) {
        let Self(id) = self;
        let mine = rooms.map(Sums::of).fold(Sums::default(), Sums::and);
        let mut shares = SHARES.lock().unwrap_or_else(PoisonError::into_inner);
        shares.insert(*id, mine);
        let all = shares.values().copied().fold(Sums::default(), Sums::and);
        all.tell(now);
    }
}

impl Drop for Share {
    /// Whoever owns it now tells of it. If nobody here is left to add up, nothing is.
    fn drop(&mut self) {
        let Self(id) = self;
        let mut shares = SHARES.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.remove(id).is_some() && shares.is_empty() {
            Sums::default().tell(Timestamp::EPOCH);
        }
    }
}

/// So many more were let in, and that is stored.
pub(super) fn admitted(count: u64) {
    counter!(metric::ADMISSIONS).increment(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_added_up_and_the_line_that_stands_still_longest_is_told() {
        let at = |s: i64| Timestamp::EPOCH.plus_ms(s * 1000);
        let sums = |line, active, since: Option<Timestamp>| Sums {
            line,
            active,
            still_since: since.map(|at| (at, at)),
            ..Sums::default()
        };
        let all = [
            sums(3, 1, Some(at(20))),
            sums(4, 0, None),
            sums(0, 2, Some(at(10))),
        ];
        let all = all.into_iter().fold(Sums::default(), Sums::and);
        let expected = Sums {
            still_since: Some((at(10), at(20))),
            ..sums(7, 3, None)
        };
        assert_eq!(all, expected);
        assert_eq!(all.still_ms(at(70)), 60_000);
        let one = sums(3, 1, Some(at(10)));
        assert_eq!(one.still_ms(at(9)), 0, "its clock is ahead");
        assert_eq!(sums(3, 1, None).still_ms(at(70)), 0);
        let far = [sums(3, 1, Some(at(68))), sums(1, 0, Some(at(3670)))];
        let far = far.into_iter().fold(Sums::default(), Sums::and);
        assert_eq!(far.still_ms(at(70)), 3_600_000);
    }
}
