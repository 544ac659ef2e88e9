//! The committer's and the loader's connections to Postgres.

use crate::database::{Begun, Key, Session, Transaction};
use crate::process::{Gone, Link, Process};
use crate::rows::{Met, Rows, Staged};
use crate::sim::{Sim, lock};
use onsale_platform::db;
use onsale_schema::{PartitionNo, WorkerId};
use onsale_workers::runtime::core::Proposal;
use onsale_workers::runtime::world::{Attempt, Owner, Store};
use onsale_workers::seats::Seats;
use std::sync::Arc;
use std::time::Duration;

/// As in the sessions of production.
const LOCK_TIMEOUT: Duration = Duration::from_millis(2000);
const IDLE_IN_TRANSACTION_MS: i64 = 2000;

pub fn unavailable(what: &str) -> db::Error {
    db::Error::Unavailable(what.to_owned())
}

impl From<Gone> for db::Error {
    fn from(_: Gone) -> Self {
        unavailable("connection lost")
    }
}

/// A connection that is opened when it is needed and dropped when it broke.
pub struct Connection {
    pub process: Process,
    session: Option<Session>,
}

impl Connection {
    pub fn new(process: Process) -> Self {
        Self {
            process,
            session: None,
        }
    }

    fn sim(&self) -> &Arc<Sim> {
        &self.process.sim
    }

    /// The session, a new one if there is none.
    pub async fn session(&mut self) -> Result<Session, db::Error> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        self.process.leg(Link::Postgres).await?;
        let session = lock(&self.sim().database).connect(Some(self.process.no));
        let session = session.ok_or_else(|| unavailable("not up"))?;
        self.session = Some(session);
        Ok(session)
    }

    pub fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Closes the session.
    pub fn end(&mut self) {
        if let Some(session) = self.session.take() {
            lock(&self.sim().database).close(session);
        }
    }

    /// A message to the server or back, on the session.
    pub async fn leg(&mut self) -> Result<(), db::Error> {
        let arrived = self.process.leg(Link::Postgres).await;
        let is_open = |session| lock(&self.sim().database).has(session);
        if arrived.is_ok() && self.session.is_some_and(is_open) {
            return Ok(());
        }
        self.drop_session();
        Err(Gone.into())
    }

    /// The server learns of a broken connection sooner or later.
    pub fn drop_session(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let sim = self.sim().clone();
        let after_ms = if sim.percent(70) {
            sim.range(0, 20)
        } else {
            sim.range(100, IDLE_IN_TRANSACTION_MS)
        };
        self.sim().spawn(async move {
            sim.sleep(after_ms, after_ms).await;
            lock(&sim.database).close(session);
            sim.database_changed.notify_waiters();
        });
    }

    /// Looks unless a row is locked.
    pub fn if_free<T>(&self, key: Key, look: impl FnOnce(&mut Rows) -> T) -> Option<T> {
        let mut database = lock(&self.sim().database);
        (!database.is_locked(key)).then(|| look(&mut database.rows))
    }

    /// Waits for a row's lock and looks.
    pub async fn when_free<T>(
        &mut self,
        key: Key,
        mut look: impl FnMut(&mut Rows) -> T,
    ) -> Result<T, db::Error> {
        let sim = self.sim().clone();
        let wait = async {
            loop {
                let changed = sim.database_changed.notified();
                {
                    let mut database = lock(&sim.database);
                    if !database.is_locked(key) {
                        return look(&mut database.rows);
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(LOCK_TIMEOUT, wait)
            .await
            .map_err(|_| db::Error::Contended("due to lock timeout".to_owned()))
    }

    async fn begin(
        &mut self,
        me: WorkerId,
        proposals: &[&Proposal<Seats>],
    ) -> Result<(Transaction, Met), db::Error> {
        let session = self.session().await?;
        let mut batch = Some(proposals.iter().map(Staged::from).collect());
        self.leg().await?;
        let sim = self.sim().clone();
        let wait = async {
            loop {
                let changed = sim.database_changed.notified();
                match lock(&sim.database).begin(session, me, &mut batch) {
                    Begun::Blocked => {}
                    begun => return begun,
                }
                changed.await;
            }
        };
        match tokio::time::timeout(LOCK_TIMEOUT, wait).await {
            Ok(Begun::Open(transaction, met)) => Ok((transaction, met)),
            Ok(Begun::Failed(error)) => {
                self.drop_session();
                Err(error)
            }
            Ok(Begun::Gone | Begun::Blocked) => {
                self.drop_session();
                Err(Gone.into())
            }
            Err(_) => {
                self.drop_session();
                Err(db::Error::Contended("due to lock timeout".to_owned()))
            }
        }
    }

    /// A session that does nothing in a transaction for too long is ended.
    fn watch(&self, session: Session, transaction: Transaction) {
        let sim = self.sim().clone();
        self.sim().spawn(async move {
            sim.sleep(IDLE_IN_TRANSACTION_MS, IDLE_IN_TRANSACTION_MS)
                .await;
            if lock(&sim.database).end_if_idle(session, transaction) {
                sim.note("idle in transaction", || format!("s{session}"));
                sim.database_changed.notify_waiters();
            }
        });
    }

    /// The server's part of a COMMIT that has arrived: it ends whether or not the client does.
    fn finish(&self, transaction: Transaction) -> tokio::sync::oneshot::Receiver<bool> {
        let (done, committed) = tokio::sync::oneshot::channel();
        let sim = self.sim().clone();
        self.sim().spawn(async move {
            sim.travel().await;
            let latest = sim.latest_business();
            let violations = lock(&sim.database).commit(transaction, latest);
            sim.database_changed.notify_waiters();
            let is_committed = violations.is_some();
            for violation in violations.into_iter().flatten() {
                sim.fail(violation);
            }
            // A client that is gone needs no answer.
            done.send(is_committed).ok();
        });
        committed
    }

    async fn commit(&mut self, transaction: Transaction) -> Attempt {
        if let Err(error) = self.leg().await {
            return Attempt::Unknown(error.to_string());
        }
        if !lock(&self.sim().database).is_committing(transaction) {
            self.drop_session();
            return Attempt::Unknown("the session was ended".to_owned());
        }
        let committed = self.finish(transaction);
        // The answer may be lost while the commit goes on.
        if let Err(error) = self.leg().await {
            return Attempt::Unknown(error.to_string());
        }
        match committed.await {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                self.drop_session();
                return Attempt::Unknown("the server went away".to_owned());
            }
        }
        match self.leg().await {
            Ok(()) => Attempt::Committed,
            Err(error) => Attempt::Unknown(error.to_string()),
        }
    }
}

impl Store<Seats> for Connection {
    async fn write(&mut self, me: WorkerId, proposals: &[&Proposal<Seats>]) -> Attempt {
        let (transaction, met) = match self.begin(me, proposals).await {
            Ok(begun) => begun,
            Err(error) => return Attempt::Failed(error),
        };
        let session = self.session.expect("the transaction is on it");
        self.watch(session, transaction);
        if let Err(error) = self.leg().await {
            return Attempt::Failed(error);
        }
        let no = self.process.no;
        if met.deposed.is_empty() && met.missed.is_empty() {
            let attempt = self.commit(transaction).await;
            self.sim().note("commit", || {
                let of = proposals.iter().map(|p| (p.partition, p.expect, p.cursor));
                format!("w{no} {attempt:?} {:?}", of.collect::<Vec<_>>())
            });
            return attempt;
        }
        if met.is_replaced {
            self.sim().note("layout missed", String::new);
        }
        self.sim().note("refused", || {
            format!("w{no} deposed {:?} missed {:?}", met.deposed, met.missed)
        });
        if let Err(error) = self.leg().await {
            return Attempt::Failed(error);
        }
        lock(&self.sim().database).roll_back(transaction);
        self.sim().database_changed.notify_waiters();
        match self.leg().await {
            Ok(()) => Attempt::Refused {
                deposed: met.deposed,
                missed: met.missed,
            },
            Err(error) => Attempt::Failed(error),
        }
    }

    async fn look_up(&mut self, partition: PartitionNo) -> Result<Owner, db::Error> {
        self.session().await?;
        self.leg().await?;
        let owner = self
            .when_free(Key::Partition(partition), |rows| {
                let row = rows.partition(partition);
                Owner {
                    owner: row.owner,
                    fence: row.fence,
                }
            })
            .await;
        self.leg().await?;
        let no = self.process.no;
        self.sim()
            .note("look up", || format!("w{no} {partition} {owner:?}"));
        owner
    }
}
