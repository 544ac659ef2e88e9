//! Postgres: sessions, transactions that hold row locks, restarts; and the committer's and the
//! loader's connections to it.

use crate::checks::Ghost;
use crate::process::{Gone, Link, Process};
use crate::rng::Rng;
use crate::rows::{Met, NoticeRow, Rows, Staged};
use crate::sim::{BASE, Plan, Sim, Violation, lock};
use onsale_platform::db;
use onsale_schema::{
    CommandId, NoticeId, PartitionNo, ReservationId, ScheduleId, SeatNo, Timestamp, WorkerId,
};
use onsale_workers::runtime::core::Proposal;
use onsale_workers::runtime::world::{Attempt, Owner, Store};
use onsale_workers::seats::Seats;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// As in the sessions of production.
const LOCK_TIMEOUT: Duration = Duration::from_millis(2000);
const IDLE_IN_TRANSACTION_MS: i64 = 2000;

/// A row or unique key that a transaction locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Partition(PartitionNo),
    Reservation(ReservationId),
    Command(CommandId),
    Claim(ScheduleId, SeatNo),
    Sale(ScheduleId),
}

pub type Session = u64;
pub type Transaction = u64;

/// What a transaction does when it commits.
pub enum Work {
    Batch(Vec<Staged>),
    Pay(ReservationId, NoticeId, NoticeRow),
}

struct Open {
    session: Session,
    work: Work,
    is_committing: bool,
}

struct SessionState {
    process: Option<usize>,
    /// Whose life-sign it holds.
    life: Option<WorkerId>,
}

/// The server.
pub struct Database {
    pub rows: Rows,
    pub ghost: Ghost,
    pub is_up: bool,
    pub started_at: Timestamp,
    sessions: BTreeMap<Session, SessionState>,
    open: BTreeMap<Transaction, Open>,
    locks: BTreeMap<Key, Transaction>,
    next: u64,
}

/// What beginning a transaction met.
pub enum Begun {
    /// Somebody else has a lock on a row.
    Blocked,
    /// The session is no more.
    Gone,
    Failed(db::Error),
    Open(Transaction, Met),
}

impl Database {
    pub fn new(plan: &Plan, rng: &mut Rng) -> Self {
        Self {
            rows: Rows::new(plan, rng),
            ghost: Ghost::default(),
            is_up: true,
            started_at: BASE.plus_ms(-3_600_000),
            sessions: BTreeMap::new(),
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            next: 1,
        }
    }

    /// A new session, unless the server is away.
    pub fn connect(&mut self, process: Option<usize>) -> Option<Session> {
        if !self.is_up {
            return None;
        }
        self.next += 1;
        self.sessions.insert(
            self.next,
            SessionState {
                process,
                life: None,
            },
        );
        Some(self.next)
    }

    pub fn has(&self, session: Session) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Takes a life-sign, unless another session has it.
    pub fn live(&mut self, session: Session, worker: WorkerId) -> bool {
        if self.is_living(worker) {
            return false;
        }
        if let Some(state) = self.sessions.get_mut(&session) {
            state.life = Some(worker);
        }
        true
    }

    pub fn is_living(&self, worker: WorkerId) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|state| state.life == Some(worker))
    }

    pub fn is_locked(&self, key: Key) -> bool {
        self.locks.contains_key(&key)
    }

    /// Opens a transaction that holds these keys.
    fn open(&mut self, session: Session, keys: BTreeSet<Key>, work: Work) -> Transaction {
        self.next += 1;
        for key in keys {
            self.locks.insert(key, self.next);
        }
        self.open.insert(
            self.next,
            Open {
                session,
                work,
                is_committing: false,
            },
        );
        self.next
    }

    /// The statements of a batch.
    fn begin(&mut self, session: Session, me: WorkerId, batch: &mut Option<Vec<Staged>>) -> Begun {
        if !self.has(session) {
            return Begun::Gone;
        }
        let staged = batch.take().expect("a batch begins once");
        let keys: BTreeSet<Key> = staged.iter().flat_map(keys_of).collect();
        if keys.iter().any(|key| self.is_locked(*key)) {
            *batch = Some(staged);
            return Begun::Blocked;
        }
        match self.rows.execute(me, &staged) {
            Err(error) => Begun::Failed(error),
            Ok(met) => Begun::Open(self.open(session, keys, Work::Batch(staged)), met),
        }
    }

    /// A payment's statements, on a session of its own; none when the hold is not payable.
    pub fn begin_payment(
        &mut self,
        reservation: ReservationId,
        notice: NoticeId,
        row: NoticeRow,
    ) -> Option<Transaction> {
        let session = self.connect(None)?;
        let keys = BTreeSet::from([Key::Reservation(reservation)]);
        Some(self.open(session, keys, Work::Pay(reservation, notice, row)))
    }

    /// COMMIT has arrived: from now on the client's end changes nothing. False when the
    /// transaction is no more.
    pub fn is_committing(&mut self, transaction: Transaction) -> bool {
        match self.open.get_mut(&transaction) {
            Some(open) => {
                open.is_committing = true;
                true
            }
            None => false,
        }
    }

    /// Makes a transaction's work visible; nothing when it is no more.
    pub fn commit(&mut self, transaction: Transaction) -> Option<Vec<Violation>> {
        let open = self.open.remove(&transaction)?;
        self.locks.retain(|_, holder| *holder != transaction);
        let mut violations = Vec::new();
        match open.work {
            Work::Batch(staged) => {
                for p in &staged {
                    self.ghost.before_commit(&self.rows, p, &mut violations);
                    self.rows.apply(p);
                }
            }
            Work::Pay(reservation, notice, row) => {
                self.rows.pay(reservation, notice, row);
                self.ghost.paid.insert(reservation);
                self.sessions.remove(&open.session);
            }
        }
        Some(violations)
    }

    pub fn roll_back(&mut self, transaction: Transaction) {
        self.open.remove(&transaction);
        self.locks.retain(|_, holder| *holder != transaction);
    }

    /// Ends a session, and the transaction on it unless it is committing already.
    pub fn close(&mut self, session: Session) {
        self.sessions.remove(&session);
        let left = self.open.iter();
        let left: Vec<Transaction> = left
            .filter(|(_, open)| open.session == session && !open.is_committing)
            .map(|(id, _)| *id)
            .collect();
        for transaction in left {
            self.roll_back(transaction);
        }
    }

    /// The other end of these sessions is no more.
    pub fn close_sessions_of(&mut self, process: usize) {
        let sessions = self.sessions.iter();
        let sessions: Vec<Session> = sessions
            .filter(|(_, state)| state.process == Some(process))
            .map(|(id, _)| *id)
            .collect();
        for session in sessions {
            self.close(session);
        }
    }

    /// Ends everything that is under way.
    pub fn crash(&mut self) {
        self.is_up = false;
        self.sessions.clear();
        self.open.clear();
        self.locks.clear();
    }
}

fn keys_of(p: &Staged) -> impl Iterator<Item = Key> {
    let changes = &p.changes;
    let net = changes.claims.net();
    let mut keys = vec![Key::Partition(p.partition)];
    keys.extend(
        changes
            .ended
            .iter()
            .map(|e| Key::Reservation(e.reservation_id)),
    );
    let made = changes.reservations.iter().map(|n| &n.reservation);
    keys.extend(made.map(|r| Key::Command(r.command_id)));
    keys.extend(changes.maps.iter().map(|m| Key::Sale(m.schedule_id)));
    keys.extend(
        net.inserts
            .iter()
            .map(|c| Key::Claim(c.schedule_id, c.seat_no)),
    );
    keys.extend(
        net.updates
            .iter()
            .map(|c| Key::Claim(c.schedule_id, c.seat_no)),
    );
    keys.extend(
        net.deletes
            .iter()
            .map(|c| Key::Claim(c.schedule_id, c.seat_no)),
    );
    keys.into_iter()
}

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
            let is_idle = {
                let mut database = lock(&sim.database);
                let open = database.open.get(&transaction);
                let is_idle = open.is_some_and(|open| !open.is_committing);
                if is_idle {
                    database.close(session);
                }
                is_idle
            };
            if is_idle {
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
            let violations = lock(&sim.database).commit(transaction);
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
