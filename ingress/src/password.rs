//! Passwords: argon2id, off the async threads, a few at a time.

use crate::problem::{Code, Problem};
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use metrics::Counter;
use onsale_platform::metric;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a request waits for its turn before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Hashing failed; the library's parameters are wrong.
#[derive(Debug, thiserror::Error)]
#[error("hashing a password failed: {0}")]
pub struct Error(argon2::password_hash::Error);

/// Hashes a password with a random salt, to a PHC string. Takes a core for some 20 ms: not for an
/// async thread.
///
/// # Errors
/// When the system has no randomness.
pub fn hash(password: &str) -> Result<String, Error> {
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(Error)
}

fn matches(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

/// Hashes and checks passwords, a few at a time. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    slots: Arc<Semaphore>,
    /// Checked for unknown users, so that time doesn't tell who is known.
    nobody: Arc<str>,
    done: Arc<AtomicU64>,
    counted: Counter,
}

impl Passwords {
    /// At most `at_once` at a time.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(at_once: u16) -> Result<Self, Error> {
        Ok(Self {
            slots: Arc::new(Semaphore::new(usize::from(at_once))),
            nobody: hash("nobody's password")?.into(),
            done: Arc::default(),
            counted: metrics::counter!(metric::PASSWORD_HASHES),
        })
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// `overloaded` when too many wait.
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        self.run(move || hash(&password)).await?.map_err(|error| {
            tracing::error!(%error, "a user could not be made");
            Problem::internal()
        })
    }

    /// Whether it is the password of `hash`; with none it takes as long and is not.
    ///
    /// # Errors
    /// `overloaded` when too many wait.
    pub async fn check(&self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        let nobody = Arc::clone(&self.nobody);
        self.run(move || {
            let same = matches(&password, hash.as_deref().unwrap_or(&nobody));
            same && hash.is_some()
        })
        .await
    }

    /// How many were hashed or checked: each costs the same, whoever asked and whatever came of it.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let slot = Arc::clone(&self.slots).acquire_owned();
        let Ok(Ok(slot)) = tokio::time::timeout(WAIT_MAX, slot).await else {
            return Err(Problem::new(Code::Overloaded));
        };
        self.done.fetch_add(1, Ordering::Relaxed);
        self.counted.increment(1);
        // The slot goes with the work, which goes on if the request goes away.
        let work = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        });
        work.await.map_err(|error| {
            tracing::error!(%error, "password task");
            Problem::internal()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_right_one_and_no_other() {
        let passwords = Passwords::new(1).unwrap();
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        let check = |password: &str, hash| passwords.check(password.into(), hash);
        assert!(check("correct horse", Some(hash.clone())).await.unwrap());
        assert!(!check("wrong", Some(hash.clone())).await.unwrap());
        assert!(
            !check("correct horse", Some("garbage".into()))
                .await
                .unwrap()
        );
        assert!(!check("nobody's password", None).await.unwrap());
    }
}
