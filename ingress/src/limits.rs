//! How often one user and one address may ask, so that nobody takes what belongs to all.
//!
//! Each ingress counts by itself: behind n of them a client may get n times as much. That is enough
//! against abuse, and costs a look into memory.

pub mod gcra;
mod sign_in;

use crate::config;
use crate::problem::{Code, Problem};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use gcra::{Buckets, Policy};
use metrics::Counter;
use onsale_platform::metric;
pub use sign_in::SignIns;
use std::hash::Hash;
use std::time::Duration;

/// Keys that each limit remembers.
const KEYS: usize = 1 << 17;

/// What may come at all, and what is left: draft-ietf-httpapi-ratelimit-headers-10, section 3.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// See [`RATELIMIT_POLICY`].
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// A limit that tells its clients about itself.
pub struct Rate {
    buckets: Buckets,
    policy: HeaderValue,
    /// By how many more requests may come at once: a header's value for each.
    left: Box<[HeaderValue]>,
    refused: Counter,
}

impl Rate {
    /// The limit per user; none when it is off.
    #[must_use]
    pub fn of_users(settings: &config::Limits) -> Option<Self> {
        let (per_s, burst) = (settings.rate_user_per_s, settings.rate_user_burst);
        Self::new("user", per_s, burst)
    }

    /// The limit per address; none when it is off.
    #[must_use]
    pub fn of_addresses(settings: &config::Limits) -> Option<Self> {
        let (per_s, burst) = (settings.rate_address_per_s, settings.rate_address_burst);
        Self::new("address", per_s, burst)
    }

    fn new(name: &'static str, per_s: u32, burst: u32) -> Option<Self> {
        if per_s == 0 {
            return None;
        }
        let policy = Policy::new(per_s, Duration::from_secs(1), burst);
        let value = |text: String| {
            HeaderValue::try_from(text).expect("letters, digits and quotes are visible ASCII")
        };
        let left = (0..=burst).map(|left| {
            // Until the whole burst is there again; when nothing is left, until the next request.
            let missing = if left == 0 { 1 } else { burst - left };
            let seconds = whole_seconds(policy.time_of(missing));
            value(format!("\"{name}\";r={left};t={seconds}"))
        });
        let window_s = whole_seconds(policy.time_of(burst)).max(1);
        Some(Self {
            left: left.collect(),
            policy: value(format!("\"{name}\";q={burst};w={window_s}")),
            buckets: Buckets::new(policy, KEYS),
            refused: metrics::counter!(metric::HTTP_REFUSED, "reason" => name),
        })
    }

    /// Takes one request of `key`.
    ///
    /// # Errors
    /// `rate-limited`, with when to come again.
    pub fn take(&self, key: &impl Hash) -> Result<Left, Problem> {
        match self.buckets.take(key) {
            Ok(left) => Ok(Left(left)),
            Err(wait) => {
                self.refused.increment(1);
                Err(refusal(wait))
            }
        }
    }

    /// Gives back a request of `key` that is not to count after all.
    pub fn give_back(&self, key: &impl Hash) {
        self.buckets.give_back(key);
    }

    /// Tells what is left after a request; nothing after one that was refused.
    pub fn tell(&self, left: Option<Left>, headers: &mut HeaderMap) {
        let left = left.map_or(0, |Left(left)| usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(left) = self.left.get(left) {
            headers.append(RATELIMIT_POLICY, self.policy.clone());
            headers.append(RATELIMIT, left.clone());
        }
    }
}

/// How many more requests may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left(u32);

fn refusal(wait: Duration) -> Problem {
    let seconds = u32::try_from(whole_seconds(wait)).unwrap_or(u32::MAX);
    Problem::new(Code::RateLimited).retry_after_s(seconds.max(1))
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_policy_and_rest() {
        let rate = Rate::new("user", 2, 5).unwrap();
        let told = |left: Option<Left>| {
            let mut headers = HeaderMap::new();
            rate.tell(left, &mut headers);
            assert_eq!(headers[RATELIMIT_POLICY], r#""user";q=5;w=3"#);
            headers[RATELIMIT].to_str().unwrap().to_owned()
        };
        assert_eq!(told(Some(rate.take(&1).unwrap())), r#""user";r=4;t=1"#);
        assert_eq!(told(Some(rate.take(&1).unwrap())), r#""user";r=3;t=1"#);
        assert_eq!(told(Some(rate.take(&1).unwrap())), r#""user";r=2;t=2"#);
        assert_eq!(told(Some(rate.take(&2).unwrap())), r#""user";r=4;t=1"#);
        assert!(rate.take(&1).is_ok() && rate.take(&1).is_ok());
        let refused = rate.take(&1).unwrap_err();
        assert_eq!(refused, Problem::new(Code::RateLimited).retry_after_s(1));
        assert_eq!(told(None), r#""user";r=0;t=1"#);
        assert!(Rate::new("user", 0, 5).is_none());
    }
}
