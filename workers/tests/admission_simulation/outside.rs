//! The world of one simulated worker: delays, failures, pauses and its end lie between it and what is
//! stored.

use crate::log::Reader;
use crate::tables::{PARTITIONS, Sim, WorkerRow};
use onsale_domain::admission::{Room, Selling};
use onsale_platform::db;
use onsale_schema::admission::{Broadcast, Kind, Outcome};
use onsale_schema::message::{Command, Reply, decode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{NoticeId, PartitionNo, ScheduleId, TicketId, Timestamp, WorkerId};
use onsale_workers::admission::{Admission, Found, Rows, State};
use onsale_workers::runtime::core::{Cursor, Fence, Proposal};
use onsale_workers::runtime::ownership::{Partition, Snapshot, Worker};
use onsale_workers::runtime::world::{Attempt, Owner, Publish, Registry, Settings, Store, World};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The lease of production, in milliseconds.
const LEASE_MS: i64 = 3000;

/// One worker's surroundings.
#[derive(Clone)]
pub struct Outside {
    pub sim: Arc<Sim>,
    worker: WorkerId,
    subjects: Arc<Subjects>,
    paused_until: Arc<Mutex<Instant>>,
    /// How wrong its clock is, in milliseconds.
    clock_ms: Arc<Mutex<i64>>,
}

impl Outside {
    pub fn new(sim: Arc<Sim>) -> Self {
        Self {
            worker: WorkerId(sim.uuid()),
            sim,
            subjects: Arc::new(Subjects::new("").unwrap()),
            paused_until: Arc::new(Mutex::new(Instant::now())),
            clock_ms: Arc::default(),
        }
    }

    /// Stands still for so long, and knows nothing of it.
    pub fn pause(&self, ms: i64) {
        let until = Instant::now() + Duration::from_millis(ms.unsigned_abs());
        *self.paused_until.lock().unwrap() = until;
    }

    /// Its clock is wrong by so much from now on.
    pub fn jump(&self, ms: i64) {
        *self.clock_ms.lock().unwrap() = ms;
    }

    /// The process is no more: its life-sign is free.
    pub fn die(&self) {
        if let Some(row) = self.sim.tables().workers.get_mut(&self.worker) {
            row.is_living = false;
        }
    }

    pub async fn gate(&self) {
        let until = *self.paused_until.lock().unwrap();
        tokio::time::sleep_until(until).await;
    }

    /// The way to a server or back; a connection may break on it.
    pub async fn leg(&self) -> Result<(), db::Error> {
        self.gate().await;
        let us = self.sim.range(100, 5000).unsigned_abs();
        tokio::time::sleep(Duration::from_micros(us)).await;
        self.gate().await;
        if self.sim.fails(1) {
            return Err(db::Error::Unavailable("connection lost".to_owned()));
        }
        Ok(())
    }
}

impl Publish for Outside {
    fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    async fn publish(&self, subject: String, payload: Vec<u8>) {
        self.gate().await;
        if subject.starts_with("watermark.") {
            let told: Broadcast = decode(&payload).unwrap();
            told.rooms.iter().for_each(|room| self.sim.tell(room));
        } else if subject.starts_with("rsp.") {
            let reply: Reply<Outcome> = decode(&payload).unwrap();
            reply.messages.iter().for_each(|told| self.sim.answer(told));
        }
    }
}

impl World<Admission> for Outside {
    type Log = Reader;
    type Store = Connection;
    type Registry = LifeSign;

    fn me(&self) -> WorkerId {
        self.worker
    }

    fn now(&self) -> Timestamp {
        let wrong_ms = *self.clock_ms.lock().unwrap();
        self.sim.now().plus_ms(wrong_ms)
    }

    fn settings(&self) -> Settings {
        Settings {
            partitions: PARTITIONS,
            lease_ms: LEASE_MS,
            tick_ms: 200,
            batch_commands: 16,
        }
    }

    fn log(&self, partition: PartitionNo, cursor: Cursor) -> Reader {
        Reader::new(self.clone(), partition, cursor)
    }

    fn store(&self) -> Connection {
        Connection(self.clone())
    }

    fn registry(&self) -> LifeSign {
        LifeSign(self.clone())
    }

    async fn load(
        &self,
        state: &mut State,
        commands: &[&Command<Kind>],
        thorough: bool,
    ) -> Result<(), db::Error> {
        state.load(self, commands, thorough).await
    }
}

impl Rows for Outside {
    async fn room(&self, schedule_id: ScheduleId) -> Result<Option<Room>, db::Error> {
        self.leg().await?;
        let tables = self.sim.tables();
        Ok(tables.rooms.get(&schedule_id).map(|rows| rows.load()))
    }

    /// What the dates sell is no matter of this simulation.
    async fn selling(&self, ids: &[ScheduleId]) -> Result<HashMap<ScheduleId, Selling>, db::Error> {
        self.leg().await?;
        let selling = ids.iter().map(|id| (*id, Selling::ALWAYS));
        Ok(selling.collect())
    }

    async fn open_notices(&self, ids: &[NoticeId]) -> Result<HashSet<NoticeId>, db::Error> {
        self.leg().await?;
        Ok(self.sim.tables().open_notices(ids))
    }

    async fn tickets(&self, ids: &[TicketId]) -> Result<Vec<Found>, db::Error> {
        self.leg().await?;
        Ok(self.sim.tables().find(ids))
    }
}

/// The committer's connection.
pub struct Connection(Outside);

impl Store<Admission> for Connection {
    async fn write(&mut self, me: WorkerId, proposals: &[&Proposal<Admission>]) -> Attempt {
        let Self(outside) = self;
        let sim = outside.sim.clone();
        if let Err(error) = outside.leg().await {
            return Attempt::Failed(error);
        }
        if sim.fails(2) {
            sim.note("unknown");
            return Attempt::Unknown("lost on its way".to_owned());
        }
        let attempt = sim.write(me, proposals);
        match (outside.leg().await, attempt) {
            (Ok(()), attempt) => attempt,
            (Err(_), Attempt::Committed) => {
                sim.note("unknown");
                Attempt::Unknown("the answer was lost".to_owned())
            }
            (Err(error), _) => Attempt::Failed(error),
        }
    }

    async fn look_up(&mut self, partition: PartitionNo) -> Result<Owner, db::Error> {
        let Self(outside) = self;
        outside.leg().await?;
        Ok(outside.sim.tables().owner(partition))
    }
}

/// The sign of life.
pub struct LifeSign(Outside);

impl Registry for LifeSign {
    async fn beat(&mut self) -> Result<Snapshot, db::Error> {
        let Self(outside) = self;
        outside.leg().await?;
        let now = outside.sim.now();
        let mut tables = outside.sim.tables();
        let row = tables.workers.entry(outside.worker).or_insert(WorkerRow {
            started_at: now,
            heartbeat_at: now,
            is_living: true,
            leaving: false,
        });
        row.heartbeat_at = now;
        let workers = tables.workers.iter().map(|(id, row)| Worker {
            id: *id,
            heartbeat_age_ms: now.ms_since(row.heartbeat_at),
            uptime_ms: now.ms_since(row.started_at),
            life_sign: row.is_living,
            leaving: row.leaving,
        });
        let partitions = (0..).zip(&tables.partitions);
        Ok(Snapshot {
            quiet_ms: 3_600_000,
            workers: workers.collect(),
            partitions: partitions
                .map(|(no, row)| Partition {
                    no: PartitionNo(no),
                    owner: row.owner,
                    epoch: row.fence.epoch,
                })
                .collect(),
        })
    }

    async fn take(
        &mut self,
        partition: PartitionNo,
        seen_epoch: i64,
    ) -> Result<Option<(Fence, Cursor)>, db::Error> {
        let Self(outside) = self;
        outside.leg().await?;
        let taken = {
            let mut tables = outside.sim.tables();
            let row = &mut tables.partitions[usize::from(partition.0)];
            (row.fence.epoch == seen_epoch).then(|| {
                row.fence.epoch += 1;
                row.owner = Some(outside.worker);
                (row.fence, row.cursor)
            })
        };
        outside.leg().await?;
        if taken.is_some() {
            outside.sim.note("take");
        }
        Ok(taken)
    }

    async fn release(&mut self, partition: PartitionNo, epoch: i64) -> Result<(), db::Error> {
        let Self(outside) = self;
        outside.leg().await?;
        let mut tables = outside.sim.tables();
        let row = &mut tables.partitions[usize::from(partition.0)];
        if row.owner == Some(outside.worker) && row.fence.epoch == epoch {
            row.owner = None;
        }
        Ok(())
    }

    async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }

    async fn retire(&mut self) -> Result<(), db::Error> {
        let Self(outside) = self;
        outside.leg().await?;
        if let Some(row) = outside.sim.tables().workers.get_mut(&outside.worker) {
            row.leaving = true;
        }
        Ok(())
    }

    async fn leave(&mut self) {
        let Self(outside) = self;
        outside.sim.tables().workers.remove(&outside.worker);
    }
}
