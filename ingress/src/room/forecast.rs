//! How good the forecasts are that clients are told: some of them are kept until their ticket is
//! admitted. A sample, so that it costs the same however many wait.

use onsale_schema::admission::Eta;
use onsale_schema::{ArrivalNo, Timestamp};
use std::collections::HashMap;

/// Forecasts of one room that are kept at once.
const KEPT_MAX: usize = 256;
/// A forecast by whose end nothing happened is dropped after as long again, and this, in
/// milliseconds: its ticket was passed over, or the line was halted.
const LATE_MS: u64 = 60_000;

/// What a ticket was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Timestamp,
    eta: Eta,
}

/// Forecasts that wait for what happens.
#[derive(Debug, Default)]
pub struct Forecasts(HashMap<ArrivalNo, Told>);

impl Forecasts {
    /// A ticket is told how long it waits. The first forecast that is kept of it counts.
    pub fn note(&mut self, no: ArrivalNo, eta: Eta, now: Timestamp) {
        if self.0.len() < KEPT_MAX {
            self.0.entry(no).or_insert(Told { at: now, eta });
        }
    }

    /// A ticket is admitted now: by how much of its wait the forecast was wrong, if one was kept; 0 if
    /// it was within the range.
    pub fn admitted(&mut self, no: ArrivalNo, now: Timestamp) -> Option<f64> {
        let told = self.0.remove(&no)?;
        let waited_ms = u64::try_from(now.ms_since(told.at)).unwrap_or(0).max(1);
        let early_ms = told.eta.low_ms.saturating_sub(waited_ms);
        let late_ms = waited_ms.saturating_sub(told.eta.high_ms);
        Some(early_ms.max(late_ms) as f64 / waited_ms as f64)
    }

    /// A ticket has ended.
    pub fn ended(&mut self, no: ArrivalNo) {
        self.0.remove(&no);
    }

    /// Drops those of which nothing is to be expected any more.
    pub fn sweep(&mut self, now: Timestamp) {
        self.0.retain(|_, told| {
            let waited_ms = u64::try_from(now.ms_since(told.at)).unwrap_or(0);
            waited_ms < 2 * told.eta.high_ms + LATE_MS
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETA: Eta = Eta {
        low_ms: 8000,
        high_ms: 12_000,
    };

    #[test]
    fn a_forecast_is_held_against_what_happened() {
        let at = |ms: i64| Timestamp::from_micros(1_000_000_000).plus_ms(ms);
        let mut forecasts = Forecasts::default();
        for (no, waited_ms, error) in [
            (0, 10_000, 0.0),
            (1, 8000, 0.0),
            (2, 4000, 1.0),
            (3, 24_000, 0.5),
        ] {
            let no = ArrivalNo(no);
            forecasts.note(no, ETA, at(0));
            // Later ones don't count.
            let later = Eta {
                low_ms: 0,
                high_ms: 1,
            };
            forecasts.note(no, later, at(1000));
            assert_eq!(forecasts.admitted(no, at(waited_ms)), Some(error));
            assert_eq!(forecasts.admitted(no, at(waited_ms)), None);
        }
    }

    #[test]
    fn they_are_bounded_and_dropped() {
        let at = |ms: i64| Timestamp::from_micros(1_000_000_000).plus_ms(ms);
        let mut forecasts = Forecasts::default();
        for no in 0..10_000 {
            forecasts.note(ArrivalNo(no), ETA, at(0));
        }
        assert_eq!(forecasts.0.len(), KEPT_MAX);
        forecasts.ended(ArrivalNo(0));
        assert_eq!(forecasts.admitted(ArrivalNo(0), at(0)), None);
        forecasts.sweep(at(83_000));
        assert_eq!(forecasts.0.len(), KEPT_MAX - 1);
        forecasts.sweep(at(84_000));
        assert!(forecasts.0.is_empty());
    }
}
