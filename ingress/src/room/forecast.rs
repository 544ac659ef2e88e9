//! How good the forecasts are that clients are told: some of them are kept until their ticket is
//! admitted. A sample, so that it costs the same however many wait. Which tickets are in it follows from
//! their numbers alone, mixed, and not from when they ask or how near they are: else those who wait for
//! long would keep all others out of it, or never come into it.
//!
//! One by whose end its ticket still waits is wrong, and counts when so much of its wait is over that it
//! is by half: by at least that much. So a line that was halted, or much slower than was said, is seen,
//! and not only what was said of those who were let in.

use onsale_schema::admission::Eta;
use onsale_schema::{ArrivalNo, Timestamp};
use std::collections::{BTreeSet, HashMap};

/// Forecasts of one room that are kept at once.
const KEPT_MAX: usize = 256;
/// A forecast is given up when its ticket has waited for so many times what was told at most, and for
/// so long, in milliseconds: the shortest ones may be late by a beat.
const GIVEN_UP: (u64, u64) = (2, 5000);

/// One that was found wrong is kept for so long, in milliseconds.
const JUDGED_MS: u64 = 600_000;

/// What a ticket was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Timestamp,
    eta: Eta,
    /// Whether it was found wrong already.
    is_judged: bool,
}

impl Told {
    fn waited_ms(&self, now: Timestamp) -> u64 {
        u64::try_from(now.ms_since(self.at)).unwrap_or(0).max(1)
    }

    /// By how much of its wait so far the forecast was wrong.
    fn error(&self, now: Timestamp) -> f64 {
        let waited_ms = self.waited_ms(now);
        let early_ms = self.eta.low_ms.saturating_sub(waited_ms);
        let late_ms = waited_ms.saturating_sub(self.eta.high_ms);
        early_ms.max(late_ms) as f64 / waited_ms as f64
    }
}

/// Forecasts that wait for what happens: those of the tickets whose mixed numbers are the least.
#[derive(Debug, Default)]
pub struct Forecasts {
    told: HashMap<ArrivalNo, Told>,
    /// By mixed number.
    sample: BTreeSet<(u32, ArrivalNo)>,
}

/// A number that says nothing about the other. Each has its own (MurmurHash3's finalizer, which is one to
/// one).
fn mixed(no: ArrivalNo) -> u32 {
    let mut mixed = no.0;
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85eb_ca6b);
    mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    mixed ^ (mixed >> 16)
}

impl Forecasts {
    /// A ticket is told how long it waits. The first forecast that is kept of it counts.
    pub fn note(&mut self, no: ArrivalNo, eta: Eta, now: Timestamp) {
        let mine = (mixed(no), no);
        if self.sample.len() >= KEPT_MAX {
            match self.sample.last() {
                Some(last) if mine < *last => {}
                _ => return,
            }
        }
        if !self.sample.insert(mine) {
            return;
        }
        let told = Told {
            at: now,
            eta,
            is_judged: false,
        };
        self.told.insert(no, told);
        if self.sample.len() > KEPT_MAX
            && let Some((_, no)) = self.sample.pop_last()
        {
            self.told.remove(&no);
        }
    }

    fn take(&mut self, no: ArrivalNo) -> Option<Told> {
        self.sample.remove(&(mixed(no), no));
        self.told.remove(&no)
    }

    /// A ticket is admitted now: by how much of its wait the forecast was wrong, if one was kept and not
    /// found wrong before; 0 if it was within the range.
    pub fn admitted(&mut self, no: ArrivalNo, now: Timestamp) -> Option<f64> {
        let told = self.take(no)?;
        (!told.is_judged).then(|| told.error(now))
    }

    /// A ticket has ended.
    pub fn ended(&mut self, no: ArrivalNo) {
        self.take(no);
    }

    /// By how much at least those are wrong that their tickets have waited much longer than, each once.
    /// They stay in the sample until their tickets are admitted or end, so that nothing else of those is
    /// judged, but not for ever: somebody may have gone without a word.
    pub fn sweep(&mut self, now: Timestamp) -> Vec<f64> {
        let (times, least_ms) = GIVEN_UP;
        let is_kept = |told: &Told| {
            let kept_ms = (times * told.eta.high_ms).max(least_ms) + JUDGED_MS;
            !told.is_judged || told.waited_ms(now) < kept_ms
        };
        self.told.retain(|_, told| is_kept(told));
        self.sample.retain(|(_, no)| self.told.contains_key(no));
        let late = self.told.values_mut().filter(|told| {
            let given_up_ms = (times * told.eta.high_ms).max(least_ms);
            !told.is_judged && told.waited_ms(now) >= given_up_ms
        });
        let judge = |told: &mut Told| {
            told.is_judged = true;
            told.error(now)
        };
        late.map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETA: Eta = Eta {
        low_ms: 8000,
        high_ms: 12_000,
    };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_micros(1_000_000_000).plus_ms(ms)
    }

    #[test]
    fn a_forecast_is_held_against_what_happened() {
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
    fn a_forecast_whose_ticket_still_waits_long_after_it_is_wrong_once() {
        let mut forecasts = Forecasts::default();
        let (near, far) = (ArrivalNo(0), ArrivalNo(1));
        forecasts.note(near, ETA, at(0));
        let hour = Eta {
            low_ms: 0,
            high_ms: 3_600_000,
        };
        forecasts.note(far, hour, at(0));
        assert!(forecasts.sweep(at(23_999)).is_empty());
        assert_eq!(forecasts.sweep(at(24_000)), [0.5]);
        assert!(forecasts.sweep(at(90_000)).is_empty());
        // Nor is it right or wrong once more, also if it goes on asking.
        forecasts.note(near, hour, at(90_000));
        assert_eq!(forecasts.admitted(near, at(91_000)), None);
        assert_eq!(forecasts.admitted(far, at(91_000)), Some(0.0));
        // What was told as nothing at all may be late by a beat.
        let soon = Eta {
            low_ms: 0,
            high_ms: 0,
        };
        forecasts.note(near, soon, at(0));
        assert!(forecasts.sweep(at(4999)).is_empty());
        assert_eq!(forecasts.sweep(at(5000)), [1.0]);
        // Who has gone without a word does not keep others out.
        assert!(forecasts.sweep(at(604_999)).is_empty() && forecasts.told.len() == 1);
        assert!(forecasts.sweep(at(605_000)).is_empty());
        assert!(forecasts.told.is_empty() && forecasts.sample.is_empty());
    }

    #[test]
    fn they_are_a_bounded_sample_of_all_whoever_asks_first() {
        let kept = |all: &mut dyn Iterator<Item = u32>| {
            let mut forecasts = Forecasts::default();
            all.for_each(|no| forecasts.note(ArrivalNo(no), ETA, at(0)));
            assert_eq!(forecasts.told.len(), forecasts.sample.len());
            let mut kept: Vec<u32> = forecasts.told.keys().map(|no| no.0).collect();
            kept.sort_unstable();
            kept
        };
        let near_first = kept(&mut (0..10_000));
        assert_eq!(near_first.len(), KEPT_MAX);
        assert_eq!(kept(&mut (0..10_000).rev()), near_first);
        // As many of each part of the line, within what chance does.
        for part in near_first.chunk_by(|a, b| a / 2500 == b / 2500) {
            assert!((40..=90).contains(&part.len()), "{near_first:?}");
        }
    }

    #[test]
    fn who_has_ended_makes_room_for_another() {
        let mut forecasts = Forecasts::default();
        (0..10_000).for_each(|no| forecasts.note(ArrivalNo(no), ETA, at(0)));
        let first = *forecasts.told.keys().next().unwrap();
        forecasts.ended(first);
        assert_eq!(forecasts.admitted(first, at(0)), None);
        assert_eq!(forecasts.told.len(), KEPT_MAX - 1);
        (0..10_000).for_each(|no| forecasts.note(ArrivalNo(no), ETA, at(1)));
        assert_eq!(forecasts.told.len(), KEPT_MAX);
    }
}
