//! Who is alive and who owns what: life-signs, heartbeats, leases, epochs.

use crate::database::{Key, Session};
use crate::process::Process;
use crate::rows::WorkerRow;
use crate::sim::lock;
use crate::store::{Connection, unavailable};
use onsale_platform::db;
use onsale_schema::PartitionNo;
use onsale_workers::runtime::core::{Cursor, Fence};
use onsale_workers::runtime::ownership::{Partition, Snapshot, Worker};
use onsale_workers::runtime::world::Registry;

/// The connection that holds a worker's life-sign.
pub struct LifeSign {
    process: Process,
    connection: Connection,
    is_living: bool,
}

impl LifeSign {
    pub fn new(process: Process) -> Self {
        Self {
            connection: Connection::new(process.clone()),
            process,
            is_living: false,
        }
    }

    /// The session, with the life-sign.
    async fn connect(&mut self) -> Result<Session, db::Error> {
        if !self.connection.is_open() {
            self.is_living = false;
        }
        let session = self.connection.session().await?;
        if self.is_living {
            return Ok(session);
        }
        self.connection.leg().await?;
        lock(&self.process.sim.database).live(session);
        self.connection.leg().await?;
        self.is_living = true;
        Ok(session)
    }

    fn snapshot(&self) -> Snapshot {
        let now = self.process.sim.now();
        let database = lock(&self.process.sim.database);
        let workers = database.rows.workers.iter().map(|(id, row)| Worker {
            id: *id,
            heartbeat_age_ms: now.ms_since(row.heartbeat_at),
            uptime_ms: now.ms_since(row.started_at),
            life_sign: database.is_living(row.life),
            leaving: row.leaving,
        });
        let partitions = (0..).zip(&database.rows.partitions);
        Snapshot {
            quiet_ms: now.ms_since(database.started_at),
            workers: workers.collect(),
            partitions: partitions
                .map(|(no, row)| Partition {
                    no: PartitionNo(no),
                    owner: row.owner,
                    epoch: row.fence.epoch,
                })
                .collect(),
        }
    }
}

impl Registry for LifeSign {
    async fn beat(&mut self) -> Result<Snapshot, db::Error> {
        let life = self.connect().await?;
        self.connection.leg().await?;
        let now = self.process.sim.now();
        {
            let mut database = lock(&self.process.sim.database);
            let row = database.rows.workers.entry(self.process.worker);
            let row = row.or_insert(WorkerRow {
                started_at: now,
                heartbeat_at: now,
                life,
                leaving: false,
            });
            row.heartbeat_at = now;
            row.life = life;
        }
        let snapshot = self.snapshot();
        self.connection.leg().await?;
        Ok(snapshot)
    }

    async fn take(
        &mut self,
        partition: PartitionNo,
        seen_epoch: i64,
    ) -> Result<Option<(Fence, Cursor)>, db::Error> {
        self.connect().await?;
        self.connection.leg().await?;
        let worker = self.process.worker;
        let key = Key::Partition(partition);
        let taken = self.connection.if_free(key, |rows| {
            let row = rows.partition(partition);
            (row.fence.epoch == seen_epoch).then(|| {
                row.fence.epoch += 1;
                row.owner = Some(worker);
                (row.fence, row.cursor)
            })
        });
        let no = self.process.no;
        let sim = &self.process.sim;
        sim.note("take", || format!("w{no} p{partition} {taken:?}"));
        self.connection.leg().await?;
        Ok(taken.flatten())
    }

    async fn release(&mut self, partition: PartitionNo, epoch: i64) -> Result<(), db::Error> {
        self.connect().await?;
        self.connection.leg().await?;
        let worker = self.process.worker;
        let key = Key::Partition(partition);
        let released = self.connection.if_free(key, |rows| {
            let row = rows.partition(partition);
            let is_ours = row.fence.epoch == epoch && row.owner == Some(worker);
            if is_ours {
                row.owner = None;
            }
            is_ours
        });
        let no = self.process.no;
        let sim = &self.process.sim;
        sim.note("release", || format!("w{no} p{partition} {released:?}"));
        self.connection.leg().await
    }

    async fn changed(&mut self) {
        self.process.sim.nudged.notified().await;
        self.process.gate().await;
    }

    async fn retire(&mut self) -> Result<(), db::Error> {
        self.connect().await?;
        self.connection.leg().await?;
        {
            let mut database = lock(&self.process.sim.database);
            if let Some(row) = database.rows.workers.get_mut(&self.process.worker) {
                row.leaving = true;
            }
        }
        self.connection.leg().await
    }

    async fn leave(&mut self) {
        let gone = async {
            self.connect().await?;
            self.connection.leg().await?;
            let mut database = lock(&self.process.sim.database);
            database
                .rows
                .workers
                .remove(&self.process.worker)
                .map(|_| ())
                .ok_or_else(|| unavailable("no row"))
        };
        if let Err(error) = gone.await {
            let no = self.process.no;
            let sim = self.process.sim.clone();
            sim.note("not left", || format!("w{no} {error}"));
        }
    }
}
