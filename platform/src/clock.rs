//! The clock of this process, corrected by its measured offset to Postgres.
//!
//! Deadlines are set by an ingress and judged by an owner, on two hosts: both read this clock, so
//! that what differs is the error of a measurement, not of two hosts' time services.

use onsale_schema::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that can be corrected. Clones share the correction.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_us: Arc<AtomicI64>,
}

impl Clock {
    /// The present, as Postgres would say it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let local = host_now().micros();
        Timestamp::from_micros(local.saturating_add(self.offset_us.load(Ordering::Relaxed)))
    }

    /// The correction in force, in microseconds; positive when this host's clock is behind.
    #[must_use]
    pub fn offset_us(&self) -> i64 {
        self.offset_us.load(Ordering::Relaxed)
    }

    /// Takes in one measurement: Postgres said `remote` to a question asked at `asked` and answered
    /// at `answered` by this host's clock. A measurement is only as good as half its round trip, so
    /// a slow one (over 100 ms) is ignored.
    pub fn observe(&self, asked: Timestamp, remote: Timestamp, answered: Timestamp) {
        let round_trip_us = answered.micros() - asked.micros();
        if (0..=100_000).contains(&round_trip_us) {
            let offset = remote.micros() - (asked.micros() + round_trip_us / 2);
            self.offset_us.store(offset, Ordering::Relaxed);
        }
    }
}

/// This host's own clock, uncorrected.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "the one home of the system clock"
)]
pub fn host_now() -> Timestamp {
    chrono::Utc::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_middle_of_a_quick_round_trip_only() {
        let clock = Clock::default();
        let at = |us| Timestamp::from_micros(us);
        clock.observe(at(1_000_000), at(3_005_000), at(1_010_000));
        assert_eq!(clock.offset_us(), 2_000_000);
        clock.observe(at(1_000_000), at(9_000_000), at(1_200_000));
        assert_eq!(clock.offset_us(), 2_000_000);
    }
}
