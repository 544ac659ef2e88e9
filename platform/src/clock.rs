//! The clock of this process: Postgres' time, as near as it can be measured.
//!
//! Deadlines are set by an ingress and judged by an owner, on two hosts, and holds end by Postgres'
//! clock: all of them read this one, so that what differs is the error of a measurement, not of the
//! hosts' time services. The host's own clock is read once; from then on a monotonic one counts on,
//! and only measurements correct it. Whoever sets the host's clock, by a second or by a year, moves
//! nothing here. After the host was suspended, this clock is behind until the next measurement:
//! nothing ends early by it.

use onsale_schema::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A clock that can be corrected. Clones share the correction.
#[derive(Clone, Debug)]
pub struct Clock {
    begun: Instant,
    begun_at: Timestamp,
    correction: Arc<Mutex<Correction>>,
}

impl Default for Clock {
    /// A clock that has not been measured: the host's.
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            begun_at: host_now(),
            correction: Arc::default(),
        }
    }
}

impl Clock {
    /// The present, as Postgres would say it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let correction = *self.lock();
        correction.apply(self.local())
    }

    /// What the host's clock would say if nobody had set it since this one was made.
    #[must_use]
    pub fn local(&self) -> Timestamp {
        let elapsed_us = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.begun_at.micros().saturating_add(elapsed_us))
    }

    /// By how much the host's clock is behind, in microseconds.
    #[must_use]
    pub fn host_offset_us(&self) -> i64 {
        self.now().micros() - host_now().micros()
    }

    /// Takes in one measurement: Postgres said `remote` to a question asked at `asked` and answered
    /// at `answered` by [`Self::local`].
    pub fn observe(&self, asked: Timestamp, remote: Timestamp, answered: Timestamp) {
        self.lock().observe(asked, remote, answered);
    }

    fn lock(&self) -> MutexGuard<'_, Correction> {
        self.correction
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far a clock is from Postgres', by what was measured.
///
/// A measurement bounds it: what Postgres said was so at some moment between question and answer.
/// The correction is moved into these bounds if it lies outside, and no further. So the quick
/// answers decide, slow ones do no harm, and an error never grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Correction {
    offset_us: Option<i64>,
}

impl Correction {
    /// The corrected time.
    #[must_use]
    pub fn apply(&self, local: Timestamp) -> Timestamp {
        let offset_us = self.offset_us.unwrap_or(0);
        Timestamp::from_micros(local.micros().saturating_add(offset_us))
    }

    /// Takes in one measurement: Postgres said `remote` to a question asked at `asked` and answered
    /// at `answered`.
    pub fn observe(&mut self, asked: Timestamp, remote: Timestamp, answered: Timestamp) {
        let most_us = remote.micros().saturating_sub(asked.micros());
        let least_us = remote.micros().saturating_sub(answered.micros());
        if least_us > most_us {
            return;
        }
        let offset_us = match self.offset_us {
            Some(offset_us) => offset_us.clamp(least_us, most_us),
            None => least_us.midpoint(most_us),
        };
        self.offset_us = Some(offset_us);
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
    fn a_measurement_moves_the_correction_no_further_than_it_must() {
        let at = Timestamp::from_micros;
        let mut correction = Correction::default();
        assert_eq!(correction.apply(at(7)), at(7));
        // (asked, remote, answered, correction)
        for (asked, remote, answered, expected) in [
            (1_000_000, 3_005_000, 1_010_000, 2_000_000),
            // Says only that it is from 1.9 s to 2.1 s.
            (1_000_000, 3_100_000, 1_200_000, 2_000_000),
            (1_000_000, 3_001_000, 1_000_500, 2_000_500),
            (1_000_000, 3_001_000, 1_005_000, 2_000_500),
            (1_000_000, 3_000_100, 1_000_200, 2_000_100),
            // Postgres' clock was set, or ours stood still.
            (1_000_000, 9_000_000, 1_100_000, 7_900_000),
            (1_000_000, 1_500_000, 1_000_000, 500_000),
            // No measurement.
            (1_000_000, 9_000_000, 900_000, 500_000),
        ] {
            correction.observe(at(asked), at(remote), at(answered));
            assert_eq!(correction.apply(at(0)), at(expected), "{asked} {remote}");
        }
    }

    #[test]
    fn clones_share_the_correction() {
        let clock = Clock::default();
        let other = clock.clone();
        let local = clock.local();
        clock.observe(local, local.plus_ms(3_600_000), local);
        let ahead_us = other.now().micros() - host_now().micros();
        assert!((3_599_000_000..3_660_000_000).contains(&ahead_us));
        assert!(other.host_offset_us() >= 3_599_000_000);
        assert!(other.now() <= other.now(), "it never goes back by itself");
    }
}
