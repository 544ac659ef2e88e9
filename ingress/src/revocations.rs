//! Sessions that were ended before their access tokens expired: known at every ingress at once.
//!
//! A revocation is stored, then told to all ingresses on core NATS. A word that was lost heals by
//! itself: each ingress also reads what was revoked lately from Postgres, before it listens, and once
//! a second, which covers any reconnect too. Only what was revoked within the life of an access token
//! counts: an older token has expired.

use crate::auth::Tokens;
use crate::users::store::revocation_list;
use async_nats::Subscriber;
use futures_util::StreamExt;
use onsale_platform::Clock;
use onsale_platform::db::{self, Pool};
use onsale_schema::message::{Revocation, decode};
use onsale_schema::{SessionId, Timestamp};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the table is read.
const READ: Duration = Duration::from_secs(1);
/// What was revoked so long before the last reading is read again, in milliseconds: a transaction may
/// commit that much later than it says. Longer than any statement may take.
const OVERLAP_MS: i64 = 30_000;
/// Revocations in one answer of Postgres.
const PAGE: i64 = 1000;
/// How often those whose tokens have expired are forgotten, in milliseconds.
const FORGET_MS: i64 = 60_000;
/// Revocations that are kept, some 40 bytes each.
const KEPT_MAX: usize = 1 << 19;

/// The sessions whose tokens are refused.
pub struct Revocations {
    kept_max: usize,
    count: AtomicUsize,
    at: RwLock<HashMap<SessionId, Timestamp>>,
    /// Tokens that were issued until then count as expired; see [`Self::insert`].
    horizon_us: AtomicI64,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::with_room(KEPT_MAX)
    }
}

impl Revocations {
    fn with_room(kept_max: usize) -> Self {
        Self {
            kept_max,
            count: AtomicUsize::new(0),
            at: RwLock::default(),
            horizon_us: AtomicI64::new(i64::MIN),
        }
    }

    /// Whether the session was ended.
    #[must_use]
    pub fn contains(&self, session: SessionId) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && self
                .at
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(&session)
    }

    /// Whether a token that was issued then is too old to tell whether its session was ended.
    #[must_use]
    pub fn forgot(&self, issued_at: Timestamp) -> bool {
        issued_at.micros() <= self.horizon_us.load(Ordering::Relaxed)
    }

    /// Takes in revocations. When there are more than memory has room for, the older half is let go,
    /// and every token from before its end counts as expired: its client renews it, unless its
    /// session was ended. So nobody slips through, and nobody is signed out.
    pub fn insert(&self, revocations: impl IntoIterator<Item = Revocation>) {
        let mut at = self.write();
        for revocation in revocations {
            at.insert(revocation.session, revocation.at);
            if at.len() > self.kept_max {
                let mut times: Vec<Timestamp> = at.values().copied().collect();
                let middle = times.len() / 2;
                let (_, horizon, _) = times.select_nth_unstable(middle);
                self.horizon_us
                    .fetch_max(horizon.micros(), Ordering::Relaxed);
                at.retain(|_, at| *at > *horizon);
                tracing::warn!(
                    kept = at.len(),
                    "too many sessions were ended to know them all"
                );
            }
        }
        self.count.store(at.len(), Ordering::Relaxed);
    }

    /// Forgets those from before `then`, whose tokens have all expired.
    fn forget(&self, then: Timestamp) {
        let mut at = self.write();
        at.retain(|_, at| *at > then);
        self.count.store(at.len(), Ordering::Relaxed);
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<SessionId, Timestamp>> {
        self.at.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what was revoked after `since`, a page at a time.
    ///
    /// # Errors
    /// When the database can't be asked; what was read so far counts.
    pub async fn read(&self, pool: &Pool, since: Timestamp) -> Result<(), db::Error> {
        let mut after = (since, SessionId(Uuid::nil()));
        loop {
            let page = revocation_list(pool, after, PAGE).await?;
            let is_last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            if let Some(last) = page.last() {
                after = (last.at, last.session);
            }
            self.insert(page);
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Takes in what other ingresses say, until `stop` or the end of the subscription.
pub async fn follow(tokens: Tokens, mut broadcasts: Subscriber, stop: CancellationToken) {
    while let Some(Some(message)) = stop.run_until_cancelled(broadcasts.next()).await {
        match decode::<Revocation>(&message.payload) {
            Ok(revocation) => tokens.revocations().insert([revocation]),
            Err(error) => tracing::error!(%error, "a revocation could not be read"),
        }
    }
}

/// Reads the table once a second, until `stop`. `read_at` is when that was done last.
pub async fn keep_reading(
    tokens: Tokens,
    pool: Pool,
    clock: Clock,
    mut read_at: Timestamp,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(READ);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forgot_at = read_at;
    let mut is_well = true;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let now = clock.now();
        let alive = tokens.oldest_alive(now);
        // After an outage this reaches back to before it.
        let since = read_at.plus_ms(-OVERLAP_MS).max(alive);
        let result = tokens.revocations().read(&pool, since).await;
        match &result {
            Ok(()) => read_at = now,
            Err(error) if is_well => {
                tracing::warn!(%error, "revoked sessions could not be read");
            }
            Err(_) => {}
        }
        is_well = result.is_ok();
        if now.ms_since(forgot_at) > FORGET_MS {
            tokens.revocations().forget(alive);
            forgot_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(n: i64) -> Revocation {
        Revocation {
            session: SessionId(Uuid::from_u128(u128::from(n.unsigned_abs()))),
            at: Timestamp::from_micros(n),
        }
    }

    #[test]
    fn old_ones_are_forgotten() {
        let revocations = Revocations::default();
        revocations.insert((1..=4).map(revocation));
        revocations.forget(Timestamp::from_micros(2));
        for n in 1..=4 {
            assert_eq!(revocations.contains(revocation(n).session), n > 2, "{n}");
        }
        assert!(!revocations.forgot(Timestamp::EPOCH));
        revocations.forget(Timestamp::from_micros(4));
        assert!(!revocations.contains(revocation(4).session));
    }

    #[test]
    fn with_too_many_memory_stays_bounded_and_nobody_slips_through() {
        let revocations = Revocations::with_room(100);
        for n in (1..=1000).rev() {
            revocations.insert([revocation(n)]);
            assert!(revocations.count.load(Ordering::Relaxed) <= 100);
        }
        // A session's tokens were issued before it was ended.
        for n in 1..=1000 {
            let revocation = revocation(n);
            assert!(
                revocations.contains(revocation.session) || revocations.forgot(revocation.at),
                "{n}"
            );
        }
        assert!(!revocations.forgot(Timestamp::from_micros(1001)));
    }
}
