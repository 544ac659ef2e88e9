//! Postgres: sessions, transactions that hold row locks, restarts.

use crate::ghost::Ghost;
use crate::rng::Rng;
use crate::rows::{Met, NoticeRow, Rows, Staged};
use crate::sim::{BASE, Plan, Violation};
use onsale_platform::db;
use onsale_schema::{
    CommandId, NoticeId, PartitionNo, ReservationId, ScheduleId, SeatNo, Timestamp, WorkerId,
};
use std::collections::{BTreeMap, BTreeSet};

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
    Pay((NoticeId, NoticeRow)),
    Cancel(Vec<SeatNo>, Timestamp, (NoticeId, NoticeRow)),
    Tell((NoticeId, NoticeRow)),
}

struct Open {
    session: Session,
    work: Work,
    is_committing: bool,
}

struct SessionState {
    process: Option<usize>,
    /// Whether it holds a life-sign; its key is the session.
    is_life_sign: bool,
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
                is_life_sign: false,
            },
        );
        Some(self.next)
    }

    pub fn has(&self, session: Session) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Takes a life-sign.
    pub fn live(&mut self, session: Session) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.is_life_sign = true;
        }
    }

    pub fn is_living(&self, session: Session) -> bool {
        let state = self.sessions.get(&session);
        state.is_some_and(|state| state.is_life_sign)
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
    pub fn begin(
        &mut self,
        session: Session,
        me: WorkerId,
        batch: &mut Option<Vec<Staged>>,
    ) -> Begun {
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

    /// Statements of settlement, on a session of their own; none when there is none to be had.
    pub fn begin_settlement(
        &mut self,
        reservation: ReservationId,
        work: Work,
    ) -> Option<Transaction> {
        let session = self.connect(None)?;
        let keys = BTreeSet::from([Key::Reservation(reservation)]);
        Some(self.open(session, keys, work))
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

    /// Makes a transaction's work visible; nothing when it is no more. `latest` is the latest that
    /// business time may be.
    pub fn commit(
        &mut self,
        transaction: Transaction,
        latest: Timestamp,
    ) -> Option<Vec<Violation>> {
        let open = self.open.remove(&transaction)?;
        self.locks.retain(|_, holder| *holder != transaction);
        let mut violations = Vec::new();
        match open.work {
            Work::Batch(staged) => {
                for p in &staged {
                    self.ghost
                        .before_commit(&self.rows, p, latest, &mut violations);
                    self.rows.apply(p);
                }
            }
            Work::Pay((notice, row)) => {
                self.rows.pay(row.reservation);
                self.ghost.paid.insert(row.reservation);
                self.rows.notices.insert(notice, row);
                self.sessions.remove(&open.session);
            }
            Work::Cancel(seats, at, (notice, row)) => {
                self.rows.cancel(row.reservation, &seats, at);
                self.rows.notices.insert(notice, row);
                self.sessions.remove(&open.session);
            }
            Work::Tell((notice, row)) => {
                self.rows.notices.insert(notice, row);
                self.sessions.remove(&open.session);
            }
        }
        Some(violations)
    }

    /// Ends a session whose transaction has done nothing for too long; whether it was so.
    pub fn end_if_idle(&mut self, session: Session, transaction: Transaction) -> bool {
        let open = self.open.get(&transaction);
        let is_idle = open.is_some_and(|open| !open.is_committing);
        if is_idle {
            self.close(session);
        }
        is_idle
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
    let terms = changes.terms.iter();
    keys.extend(terms.map(|t| Key::Reservation(t.reservation_id)));
    let made = changes.reservations.iter().map(|n| &n.reservation);
    keys.extend(made.map(|r| Key::Command(r.command_id)));
    keys.extend(changes.blocks.iter().map(|b| Key::Command(b.command_id)));
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
