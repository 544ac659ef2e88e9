//! The pool of Postgres connections of one process.
//!
//! A connection is lent for a few statements, and the loan has a bound: a server that has fallen
//! silent, or a network that swallows without a word, must never keep a task waiting for ever. What
//! is overdue is cut off, so that whoever waits on it gets an error, as if the server had gone.
//! Work that may take longer has a connection of its own ([`db::connect`]).

use crate::db::{self, Address, Error, POOL_WAIT, TlsStream};
use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Socket;

/// How long a connection may be on loan. A transaction of ours takes a small part of it, also under
/// load.
const LOAN_MAX: Duration = Duration::from_secs(5);
/// How often a connection looks whether its loan is overdue.
const LOAN_CHECK: Duration = Duration::from_millis(500);

/// The pool of one process. Cheap to clone.
#[derive(Clone)]
pub struct Pool(managed::Pool<Manager>);

impl Pool {
    /// A pool of at most `size` connections; they are made when first needed.
    pub(crate) fn new(address: Address, size: usize) -> Result<Self, Error> {
        managed::Pool::builder(Manager { address })
            .max_size(size)
            .runtime(deadpool::Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(POOL_WAIT))
            .build()
            .map(Self)
            .map_err(|e| Error::Refused(e.to_string()))
    }

    /// A connection that is nobody else's, for what may take longer than a loan.
    ///
    /// # Errors
    /// `Unavailable` when none can be made.
    pub async fn own_connection(&self) -> Result<AsyncPgConnection, Error> {
        let made = db::connect_to(&self.0.manager().address).await;
        made.map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// Borrows a connection, for five seconds at most.
    ///
    /// # Errors
    /// `Unavailable` when none is free in time, or none can be made.
    pub async fn get(&self) -> Result<Connection, Error> {
        let lent = self.0.get().await;
        let lent = lent.map_err(|e| Error::Unavailable(e.to_string()))?;
        lent.loan.set(Some(Instant::now()));
        Ok(Connection(lent))
    }
}

/// A connection on loan from the pool.
pub struct Connection(managed::Object<Manager>);

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.0.conn
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.0.conn
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.loan.set(None);
    }
}

/// Since when a connection is on loan.
#[derive(Clone, Default)]
struct Loan(Arc<Mutex<Option<Instant>>>);

impl Loan {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn is_overdue(&self) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > LOAN_MAX)
    }
}

struct Pooled {
    conn: AsyncPgConnection,
    loan: Loan,
    /// Moves the bytes; the connection lives as long as this.
    driver: JoinSet<()>,
}

struct Manager {
    address: Address,
}

impl managed::Manager for Manager {
    type Type = Pooled;
    type Error = Error;

    async fn create(&self) -> Result<Pooled, Error> {
        // Boxed, or every future that borrows a connection would have room for it.
        let opened = Box::pin(self.address.open()).await;
        let (client, connection) = opened.map_err(|e| Error::Unavailable(db::explained(&e)))?;
        let loan = Loan::default();
        let driver = JoinSet::from_iter([drive(connection, loan.clone())]);
        let conn = Box::pin(AsyncPgConnection::try_from(client)).await;
        Ok(Pooled {
            conn: conn.map_err(|e| Error::Unavailable(e.to_string()))?,
            loan,
            driver,
        })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<Error> {
        // A broken connection is noticed by its driver; a query per loan would cost a round trip.
        let ended = pooled.driver.try_join_next().is_some();
        if ended || AnsiTransactionManager::is_broken_transaction_manager(&mut pooled.conn) {
            return Err(RecycleError::message("broken"));
        }
        Ok(())
    }
}

/// Moves a connection's bytes until it ends, or until a loan is overdue.
async fn drive(connection: tokio_postgres::Connection<Socket, TlsStream>, loan: Loan) {
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a pooled connection has ended");
                }
                return;
            }
            () = tokio::time::sleep(LOAN_CHECK) => {
                if loan.is_overdue() {
                    tracing::warn!("Postgres does not answer; a pooled connection is cut off");
                    return;
                }
            }
        }
    }
}
