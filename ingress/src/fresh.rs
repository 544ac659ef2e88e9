//! What was read a moment ago: a small cache whose entries count for less than half a second, so that
//! however many ask, Postgres is asked a few times a second per question.

use crate::problem::Problem;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long an answer counts. Readers see an edit within a second, also one that needs two answers,
/// of which the first says what to ask next.
const TTL: Duration = Duration::from_millis(400);

/// Answers of the last moment, by question.
pub struct Fresh<K, V>(Cache<K, (Instant, V)>);

impl<K: Hash + Eq + Clone, V: Clone> Fresh<K, V> {
    /// Keeps at most `capacity` answers.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Cache::new(capacity))
    }

    /// Forgets an answer that was just made untrue, so that whoever edits sees it at once.
    pub fn forget(&self, key: &K) {
        self.0.remove(key);
    }

    /// The answer, asked for with `load` if there is none of the last moment; once, also when many
    /// ask at once.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn get(
        &self,
        key: &K,
        load: impl Future<Output = Result<V, Problem>>,
    ) -> Result<V, Problem> {
        if let Some((at, value)) = self.0.get(key)
            && at.elapsed() < TTL
        {
            return Ok(value);
        }
        let entry = self.0.entry_async(key, |_, (at, value)| {
            if at.elapsed() < TTL {
                EntryAction::Retain(value.clone())
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        match entry.await {
            EntryResult::Retained(value) => Ok(value),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                let value = load.await?;
                // A refused insertion means that it was evicted meanwhile.
                drop(guard.insert((Instant::now(), value.clone())));
                Ok(value)
            }
            EntryResult::Removed(..) | EntryResult::Timeout => load.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn many_ask_once() {
        let fresh = Fresh::<u32, u32>::new(10);
        let asked = AtomicU32::new(0);
        let load = || async {
            tokio::task::yield_now().await;
            Ok(asked.fetch_add(1, Ordering::Relaxed))
        };
        let (a, b) = tokio::join!(fresh.get(&1, load()), fresh.get(&1, load()));
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(fresh.get(&1, load()).await.unwrap(), 0);
        assert_eq!(fresh.get(&2, load()).await.unwrap(), 1);
        let failed = fresh.get(&3, async { Err(Problem::unavailable()) }).await;
        assert!(failed.is_err());
        assert_eq!(fresh.get(&3, load()).await.unwrap(), 2);
        fresh.forget(&1);
        assert_eq!(fresh.get(&1, load()).await.unwrap(), 3);
        assert_eq!(fresh.get(&2, load()).await.unwrap(), 1);
    }
}
