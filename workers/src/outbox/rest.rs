//! Aggregates whose next fact can't be published while those of others can: they are left out for a
//! while, ever longer, so that they don't fill what one look takes. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// A topic, and of whom its facts are.
pub type Aggregate = (String, Uuid);

/// So many are remembered; what fails beyond that is simply tried again.
const RESTING_MAX: usize = 4096;
/// The first rest.
const REST_MIN: Duration = Duration::from_millis(500);
/// The longest rest: how late, at most, it is noticed that one is published again.
const REST_MAX: Duration = Duration::from_secs(8);

#[derive(Debug)]
struct Rest {
    until: Instant,
    length: Duration,
}

/// Those that rest, or did until now and have not been published since.
#[derive(Debug, Default)]
pub struct Resting(HashMap<Aggregate, Rest>);

impl Resting {
    /// Those that are left out of a look at `now`.
    pub fn left_out(&self, now: Instant) -> impl Iterator<Item = &Aggregate> {
        let rests = self.0.iter().filter(move |(_, rest)| rest.until > now);
        rests.map(|(aggregate, _)| aggregate)
    }

    /// Its next fact could not be published.
    pub fn failed(&mut self, aggregate: Aggregate, now: Instant) {
        if self.0.len() >= RESTING_MAX && !self.0.contains_key(&aggregate) {
            return;
        }
        let before = self.0.get(&aggregate).map(|rest| rest.length * 2);
        let length = before.unwrap_or(REST_MIN).min(REST_MAX);
        let until = now + length;
        self.0.insert(aggregate, Rest { until, length });
    }

    /// A fact of it was published.
    pub fn healed(&mut self, aggregate: &Aggregate) {
        self.0.remove(aggregate);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_ever_longer_until_it_is_published() {
        let start = Instant::now();
        let one = ("seats".to_owned(), Uuid::from_u128(1));
        let mut resting = Resting::default();
        let left_out =
            |resting: &Resting, ms| resting.left_out(start + Duration::from_millis(ms)).count();
        assert_eq!(left_out(&resting, 0), 0);
        resting.failed(one.clone(), start);
        assert_eq!((left_out(&resting, 499), left_out(&resting, 500)), (1, 0));
        resting.failed(one.clone(), start);
        assert_eq!((left_out(&resting, 999), left_out(&resting, 1000)), (1, 0));
        for _ in 0..100 {
            resting.failed(one.clone(), start);
        }
        assert_eq!((left_out(&resting, 7999), left_out(&resting, 8000)), (1, 0));
        resting.healed(&one);
        assert_eq!((left_out(&resting, 0), resting.count()), (0, 0));
    }
}
