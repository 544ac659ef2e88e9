//! How many are let in per second.
//!
//! The rule: an admission uses up `⌈1 s / rate⌉` of time, from [`RoomRow::rate_used`] on, and may take
//! place when all of that lies in the past. Time that nobody used is kept for [`BURST_MS`]. So within
//! any stretch of time there are at most `rate × (its length + BURST_MS)` admissions, whatever stood
//! still before.

use super::RoomRow;
use onsale_schema::Timestamp;

/// What was not used of the rate can be caught up with for so long, in milliseconds; at least what
/// one admission takes at the lowest rate.
pub const BURST_MS: i64 = 1000;

/// What an admission uses up, in microseconds: rounded up, so that there are never more.
fn cost_us(rate_per_second: u32) -> i64 {
    i64::from(1_000_000_u32.div_ceil(rate_per_second.max(1)))
}

impl RoomRow {
    /// Until when the rate would be used up after one more admission now; none if that is too many.
    pub(super) fn rate_allows(&self, now: Timestamp) -> Option<Timestamp> {
        let from = self.rate_used.max(now.plus_ms(-BURST_MS));
        let until = from.micros() + cost_us(self.policy.rate_per_second);
        (until <= now.micros()).then(|| Timestamp::from_micros(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::ScheduleId;
    use onsale_schema::admission::Policy;
    use onsale_schema::status::QueueMode;
    use uuid::Uuid;

    fn admit_all(row: &mut RoomRow, now: Timestamp) -> u32 {
        let mut admitted = 0;
        while let Some(until) = row.rate_allows(now) {
            row.rate_used = until;
            admitted += 1;
        }
        admitted
    }

    #[test]
    fn the_rate_holds_over_any_time_and_a_pause_is_caught_up_with_by_a_second() {
        let start = Timestamp::from_micros(1_000_000_000_000);
        for rate in [1, 3, 7, 10, 999, 10_000] {
            let policy = Policy {
                rate_per_second: rate,
                ..Policy::new(QueueMode::Fifo, start)
            };
            let mut row = RoomRow::new(ScheduleId(Uuid::nil()), policy);
            // A pause of thirty years.
            let first = admit_all(&mut row, start);
            assert!(
                first <= rate && first >= rate - rate / 1000 - 1,
                "{first} of {rate}"
            );
            let mut later = 0;
            for step in 1..=1000 {
                later += admit_all(&mut row, start.plus_ms(step * 10));
            }
            assert!(
                later <= 10 * rate + 1 && later >= 10 * rate - rate / 50 - 1,
                "{later}"
            );
            let after_pause = admit_all(&mut row, start.plus_ms(3_600_000));
            assert!(after_pause <= rate, "{after_pause} of {rate}");
        }
    }
}
