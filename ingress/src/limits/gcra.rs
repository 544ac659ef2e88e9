//! The generic cell rate algorithm, for many keys in a fixed piece of memory.
//!
//! GCRA is a leaky bucket that keeps one number: the time at which a bucket would be empty again
//! (the "theoretical arrival time", ITU-T I.371 annex A). A key that has not come for a while has an
//! empty bucket, which is what an unknown one has, so that it may be forgotten. The table is a fixed
//! array of small sets; a key lives in one set, by its hash, and takes the place of the emptiest
//! bucket there. So a request costs one short look, under a lock of that set alone, no allocation and
//! no clean-up; and whoever floods it with keys makes it forget, but never grow.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Buckets in a set.
const WAYS: usize = 8;

/// How much is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The time that one request takes from its bucket, in nanoseconds.
    interval_ns: u64,
    /// How many may come at once.
    burst: u32,
}

impl Policy {
    /// So many requests per so much time on average, and at most `burst` at once.
    ///
    /// # Panics
    /// When `requests` or `burst` is 0.
    #[must_use]
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        assert!(requests > 0 && burst > 0, "a policy lets something through");
        let per_ns = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        Self {
            interval_ns: (per_ns / u64::from(requests)).max(1),
            burst,
        }
    }

    /// How many may come at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// The time after which so many more may come.
    #[must_use]
    pub fn time_of(self, requests: u32) -> Duration {
        Duration::from_nanos(self.interval_ns.saturating_mul(requests.into()))
    }

    /// Takes one request at `now_ns` from a bucket that is empty at `empty_ns`: when it is then
    /// empty, and how many more may come at once. Else, how long to wait for the next.
    fn take(self, empty_ns: u64, now_ns: u64) -> Result<(u64, u32), u64> {
        let full_ns = self.interval_ns.saturating_mul(self.burst.into());
        let empty_ns = empty_ns.max(now_ns).saturating_add(self.interval_ns);
        let used_ns = empty_ns - now_ns;
        match full_ns.checked_sub(used_ns) {
            Some(left_ns) => {
                let left = u32::try_from(left_ns / self.interval_ns).unwrap_or(u32::MAX);
                Ok((empty_ns, left))
            }
            None => Err(used_ns - full_ns),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    key: u64,
    empty_ns: u64,
}

/// A bucket for each key that has come lately.
pub struct Buckets {
    policy: Policy,
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
    /// Random, so that nobody can choose keys that meet in one set.
    hasher: RandomState,
    started: Instant,
}

impl Buckets {
    /// Room for about `keys` keys, of 16 bytes each.
    #[must_use]
    pub fn new(policy: Policy, keys: usize) -> Self {
        let sets = keys.div_ceil(WAYS).next_power_of_two();
        Self {
            policy,
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            started: Instant::now(),
        }
    }

    /// What it lets through.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Takes one request of `key`; how many more it may make at once.
    ///
    /// # Errors
    /// How long to wait until the next.
    pub fn take(&self, key: &impl Hash) -> Result<u32, Duration> {
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.take_at(key, now_ns)
    }

    /// Gives back a request of `key` that was taken and is not to count. Of a key that was forgotten
    /// meanwhile the bucket is empty anyway.
    pub fn give_back(&self, key: &impl Hash) {
        let (key, set) = self.find(key);
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = set.iter_mut().find(|bucket| bucket.key == key) {
            bucket.empty_ns = bucket.empty_ns.saturating_sub(self.policy.interval_ns);
        }
    }

    /// A key's hash, and the set in which it lives.
    fn find(&self, key: &impl Hash) -> (u64, &Mutex<[Bucket; WAYS]>) {
        let key = self.hasher.hash_one(key);
        let at = usize::try_from(key).unwrap_or(usize::MAX) & (self.sets.len() - 1);
        (key, &self.sets[at])
    }

    fn take_at(&self, key: &impl Hash, now_ns: u64) -> Result<u32, Duration> {
        let (key, set) = self.find(key);
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|bucket| bucket.key == key);
        let place = known.unwrap_or_else(|| {
            let emptiest = (0..WAYS).min_by_key(|&at| set[at].empty_ns).unwrap_or(0);
            set[emptiest] = Bucket { key, empty_ns: 0 };
            emptiest
        });
        match self.policy.take(set[place].empty_ns, now_ns) {
            Ok((empty_ns, left)) => {
                set[place].empty_ns = empty_ns;
                Ok(left)
            }
            Err(wait_ns) => Err(Duration::from_nanos(wait_ns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn policy(requests: u32, burst: u32) -> Policy {
        Policy::new(requests, Duration::from_secs(1), burst)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let buckets = Buckets::new(policy(10, 3), 8);
        let take = |ms: u64| buckets.take_at(&"key", SECOND + ms * 1_000_000);
        assert_eq!([take(0), take(0), take(0)], [Ok(2), Ok(1), Ok(0)]);
        assert_eq!(take(0), Err(Duration::from_millis(100)));
        assert_eq!(take(60), Err(Duration::from_millis(40)));
        assert_eq!(take(100), Ok(0));
        assert_eq!(take(100), Err(Duration::from_millis(100)));
        // Who waits gets it all back, and no more.
        assert_eq!(take(10_000), Ok(2));
        assert_eq!(buckets.take_at(&"other", SECOND), Ok(2));
    }

    #[test]
    fn what_is_given_back_may_be_taken_again() {
        let buckets = Buckets::new(policy(10, 2), 8);
        let take = || buckets.take_at(&"key", SECOND);
        for _ in 0..100 {
            assert_eq!(take(), Ok(1));
            buckets.give_back(&"key");
        }
        assert_eq!([take(), take()], [Ok(1), Ok(0)]);
        assert!(take().is_err());
        buckets.give_back(&"key");
        assert_eq!(take(), Ok(0));
        // A key that nobody knows has all that there is, and no more.
        buckets.give_back(&"other");
        assert_eq!(buckets.take_at(&"other", SECOND), Ok(1));
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_who_is_busy_is_not_forgotten() {
        let buckets = Buckets::new(policy(1, 4), 8);
        assert_eq!(buckets.sets.len(), 1);
        for left in (0..4).rev() {
            assert_eq!(buckets.take_at(&"busy", SECOND), Ok(left));
        }
        for key in 0..10_000 {
            assert_eq!(buckets.take_at(&key, SECOND), Ok(3), "{key}");
            assert!(buckets.take_at(&"busy", SECOND).is_err(), "{key}");
        }
    }

    proptest! {
        /// Within any stretch of time no more comes through than the burst and what the rate gives
        /// meanwhile; a refusal says exactly when the next is let through; and what is said to be
        /// left can be had at once.
        #[test]
        fn no_more_and_no_less_than_the_policy(
            rate in 1u32..1000,
            burst in 1u32..50,
            pauses_us in prop::collection::vec(0u64..200_000, 1..200),
        ) {
            let policy = policy(rate, burst);
            let (mut empty_ns, mut now_ns) = (0, SECOND);
            let mut passed = Vec::new();
            for pause_us in pauses_us {
                now_ns += pause_us * 1000;
                match policy.take(empty_ns, now_ns) {
                    Ok((next_ns, left)) => {
                        passed.push(now_ns);
                        empty_ns = next_ns;
                        let mut at_once = empty_ns;
                        for _ in 0..left {
                            let (next_ns, _) = policy.take(at_once, now_ns).expect("it is left");
                            at_once = next_ns;
                        }
                        prop_assert!(policy.take(at_once, now_ns).is_err());
                    }
                    Err(wait_ns) => {
                        prop_assert!(wait_ns > 0 && wait_ns <= policy.interval_ns);
                        prop_assert!(policy.take(empty_ns, now_ns + wait_ns).is_ok());
                        prop_assert!(policy.take(empty_ns, now_ns + wait_ns - 1).is_err());
                    }
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, until) in passed.iter().enumerate().skip(first) {
                    let count = u64::try_from(last - first).expect("few") + 1;
                    let given = (until - from) / policy.interval_ns;
                    prop_assert!(count <= u64::from(burst) + given, "{count} {given}");
                }
            }
        }

        /// Who keeps to the rate is never refused.
        #[test]
        fn who_keeps_to_the_rate_is_never_refused(
            rate in 1u32..1000,
            burst in 1u32..50,
            late_ns in prop::collection::vec(0u64..10_000_000, 1..300),
        ) {
            let policy = policy(rate, burst);
            let (mut empty_ns, mut now_ns) = (0, SECOND);
            for late_ns in late_ns {
                now_ns += policy.interval_ns + late_ns;
                let (next_ns, left) = policy.take(empty_ns, now_ns).expect("it is let through");
                prop_assert_eq!(left, burst - 1);
                empty_ns = next_ns;
            }
        }
    }
}
