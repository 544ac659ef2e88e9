//! How fast a line moves, as measured while people were let in.

use onsale_schema::Timestamp;
use std::collections::VecDeque;

/// Over how long it is measured, in milliseconds.
const MEASURED_MS: i64 = 60_000;
/// How often a measurement is kept, in milliseconds.
const STEP_MS: i64 = 1000;

/// How far the line was, each second of the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Speed {
    seen: VecDeque<(Timestamp, u32)>,
    last: Option<(Timestamp, u32)>,
}

impl Speed {
    /// People are let in, and so many places and guests had their turn.
    pub(super) fn see(&mut self, now: Timestamp, turns: u32) {
        self.last = Some((now, turns));
        let is_new = |(at, _): &(Timestamp, u32)| now.ms_since(*at) >= STEP_MS;
        if self.seen.back().is_none_or(is_new) {
            self.seen.push_back((now, turns));
        }
        while let Some((at, _)) = self.seen.front()
            && now.ms_since(*at) > MEASURED_MS
        {
            self.seen.pop_front();
        }
    }

    /// Nobody is let in for now.
    pub(super) fn stop(&mut self) {
        self.seen.clear();
        self.last = None;
    }

    /// How many places and guests had their turn, and in how many milliseconds.
    pub(super) fn measured(&self) -> (u32, u32) {
        let (Some((from, first)), Some((to, last))) = (self.seen.front(), self.last) else {
            return (0, 0);
        };
        let ms = u32::try_from(to.ms_since(*from)).unwrap_or(0);
        (last.saturating_sub(*first), ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_measured_over_the_last_minute() {
        let at = |ms: i64| Timestamp::from_micros(1_000_000_000).plus_ms(ms);
        let mut speed = Speed::default();
        assert_eq!(speed.measured(), (0, 0));
        for step in 0..=1000 {
            let front = u32::try_from(step).unwrap() * 2;
            speed.see(at(step * 200), front);
        }
        assert_eq!(speed.measured(), (600, 60_000));
        assert!(speed.seen.len() <= 61);
        speed.stop();
        assert_eq!(speed.measured(), (0, 0));
    }
}
