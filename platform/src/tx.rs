//! Transactions that can't be left half open and that are tried again when others were in the way.

use crate::db::{Error, Pool};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// How often a transaction is tried when others are in the way.
const ATTEMPTS_MAX: u32 = 5;

/// Runs `body` in a transaction: committed when it returns `Ok`, rolled back otherwise.
///
/// It runs in a task of its own, so that a caller that goes away can't leave a transaction open on
/// a pooled connection. A deadlock, a serialization failure and a key that was taken meanwhile are
/// tried again, at most five times; `body` must therefore be repeatable.
///
/// # Errors
/// What `body` returned, or the database's error as `E`. After `Unavailable` it is unknown whether
/// a commit took place.
pub async fn run<T, E, F>(pool: &Pool, body: F) -> Result<T, E>
where
    F: for<'c> Fn(&'c mut AsyncPgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    T: Send + 'static,
    E: From<Error> + Retry + Send + 'static,
{
    let pool = pool.clone();
    let body = Arc::new(body);
    #[allow(
        clippy::disallowed_methods,
        reason = "joined right here; see the comment above"
    )]
    let task = tokio::spawn(async move {
        let mut attempt = 1;
        loop {
            match once(&pool, &*body).await {
                Err(error) if error.contended() && attempt < ATTEMPTS_MAX => {
                    tracing::debug!(attempt, "transaction is tried again");
                    tokio::time::sleep(Duration::from_millis(2 << attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    });
    task.await
        .unwrap_or_else(|e| Err(Error::Refused(format!("transaction task: {e}")).into()))
}

/// Tells whether the transaction as a whole may be tried again.
pub trait Retry {
    /// Whether another transaction was in the way and nothing was changed.
    fn contended(&self) -> bool;
}

impl Retry for Error {
    fn contended(&self) -> bool {
        matches!(self, Self::Contended(_) | Self::Taken(_))
    }
}

async fn once<T, E, F>(pool: &Pool, body: &F) -> Result<T, E>
where
    F: for<'c> Fn(&'c mut AsyncPgConnection) -> BoxFuture<'c, Result<T, E>>,
    E: From<Error>,
{
    let mut conn = pool.get().await?;
    begin(&mut conn).await?;
    match body(&mut conn).await {
        Ok(value) => {
            commit(&mut conn).await?;
            Ok(value)
        }
        Err(error) => {
            rollback(&mut conn).await;
            Err(error)
        }
    }
}

/// Opens a transaction.
///
/// # Errors
/// When the connection is gone.
pub async fn begin(conn: &mut AsyncPgConnection) -> Result<(), Error> {
    Ok(AnsiTransactionManager::begin_transaction(conn).await?)
}

/// Commits. `Unavailable` means that it is unknown whether it took place.
///
/// # Errors
/// When the connection is gone or a deferred check fails.
pub async fn commit(conn: &mut AsyncPgConnection) -> Result<(), Error> {
    Ok(AnsiTransactionManager::commit_transaction(conn).await?)
}

/// Rolls back; a connection that can't is marked broken and leaves the pool.
pub async fn rollback(conn: &mut AsyncPgConnection) {
    if let Err(error) = AnsiTransactionManager::rollback_transaction(conn).await {
        tracing::debug!(%error, "rollback failed; the connection is dropped");
    }
}
