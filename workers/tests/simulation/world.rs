//! The world of a simulated worker: everything that the runtime needs, from the simulated outside.

use crate::people;
use crate::process::{Link, Process};
use crate::registry::LifeSign;
use crate::rows;
use crate::sim::{Sim, Violation, lock};
use crate::store::Connection;
use crate::stream::Reader;
use onsale_domain::seats::Sale;
use onsale_platform::db;
use onsale_schema::message::{Command, Reply, decode};
use onsale_schema::seats::{Kind, MapBroadcast, Outcome};
use onsale_schema::status::ReservationStatus;
use onsale_schema::subjects::Subjects;
use onsale_schema::{
    CommandId, NoticeId, PartitionNo, ReservationId, ScheduleId, Timestamp, WorkerId,
};
use onsale_workers::runtime::core::Cursor;
use onsale_workers::runtime::world::{Publish, Settings, World};
use onsale_workers::seats::{Accepted, Rows, Seats, State};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// The lease of production.
pub const LEASE_MS: i64 = 3000;

/// One worker's surroundings.
#[derive(Clone)]
pub struct Outside {
    process: Process,
    subjects: Arc<Subjects>,
    /// The last map version that this process broadcast; a process may own a schedule again.
    told: Arc<Mutex<BTreeMap<ScheduleId, i64>>>,
}

impl Outside {
    pub fn new(process: Process) -> Self {
        Self {
            process,
            subjects: Arc::new(Subjects::new("").expect("no prefix is a good one")),
            told: Arc::default(),
        }
    }

    fn sim(&self) -> &Arc<Sim> {
        &self.process.sim
    }

    /// What a broadcast says is committed, and a process never goes back.
    fn check_map(&self, broadcast: &MapBroadcast) {
        let mut violation = None;
        let mut told = lock(&self.told);
        let database = lock(&self.sim().database);
        for map in &broadcast.maps {
            let last = told.insert(map.schedule_id, map.version);
            if last.is_some_and(|last| last > map.version) {
                let text = format!("{} went back to {}", map.schedule_id, map.version);
                violation = Some(Violation::promise("map versions", text));
            }
            if let Err(text) = database.ghost.is_told_truly(&database.rows, map) {
                violation = Some(Violation::promise("map broadcasts", text));
            }
        }
        drop((told, database));
        if let Some(violation) = violation {
            self.sim().fail(violation);
        }
    }

    /// An answer says what is committed.
    fn check_reply(&self, reply: &Reply<Outcome>) {
        let mut violation = None;
        {
            let database = lock(&self.sim().database);
            for message in &reply.messages {
                let keys = database.rows.outcomes_of.get(&message.message_id);
                let rows = keys.into_iter().flatten();
                let mut rows = rows.map(|key| &database.rows.outcomes[key].outcomes);
                if !rows.any(|outcomes| *outcomes == message.outcomes) {
                    let text = format!("{message:?} is not committed");
                    violation = Some(Violation::promise("answers are committed", text));
                }
            }
        }
        if let Some(violation) = violation {
            self.sim().fail(violation);
        }
    }
}

impl Publish for Outside {
    fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    async fn publish(&self, subject: String, payload: Vec<u8>) {
        self.process.gate().await;
        let sim = self.sim().clone();
        if subject.starts_with("map.") {
            let broadcast: MapBroadcast = decode(&payload).expect("it was just encoded");
            self.check_map(&broadcast);
        } else if subject.starts_with("rsp.") {
            let reply: Reply<Outcome> = decode(&payload).expect("it was just encoded");
            self.check_reply(&reply);
            if self.process.cut_until(Link::Nats).is_none() {
                self.sim().spawn(people::deliver(sim, reply));
            }
        } else if subject.starts_with("nudge.") && self.process.cut_until(Link::Nats).is_none() {
            sim.nudged.notify_waiters();
        }
    }
}

impl World<Seats> for Outside {
    type Log = Reader;
    type Store = Connection;
    type Registry = LifeSign;

    fn me(&self) -> WorkerId {
        self.process.worker
    }

    fn now(&self) -> Timestamp {
        self.process.now()
    }

    fn settings(&self) -> Settings {
        let plan = &self.sim().plan;
        Settings {
            partitions: plan.partitions,
            lease_ms: LEASE_MS,
            tick_ms: 200,
            batch_commands: plan.batch_commands,
        }
    }

    fn log(&self, partition: PartitionNo, cursor: Cursor) -> Reader {
        Reader::new(self.process.clone(), partition, cursor)
    }

    fn store(&self) -> Connection {
        Connection::new(self.process.clone())
    }

    fn registry(&self) -> LifeSign {
        LifeSign::new(self.process.clone())
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
    async fn sale(&self, schedule_id: ScheduleId) -> Result<Option<Sale>, db::Error> {
        self.read(|rows| rows.sale(schedule_id)).await
    }

    async fn layout_nos(&self, ids: &[ScheduleId]) -> Result<HashMap<ScheduleId, i64>, db::Error> {
        self.read(|rows| rows.layout_nos(ids)).await
    }

    async fn statuses(
        &self,
        ids: &[ReservationId],
    ) -> Result<HashMap<ReservationId, ReservationStatus>, db::Error> {
        self.read(|rows| rows.statuses(ids)).await
    }

    async fn open_notices(&self, ids: &[NoticeId]) -> Result<HashSet<NoticeId>, db::Error> {
        self.read(|rows| rows.open_notices(ids)).await
    }

    async fn accepted(&self, ids: &[CommandId]) -> Result<Vec<Accepted>, db::Error> {
        self.read(|rows| rows.accepted(ids)).await
    }
}

impl Outside {
    /// One read on a connection of the pool.
    async fn read<T>(&self, read: impl FnOnce(&rows::Rows) -> T) -> Result<T, db::Error> {
        let mut connection = Connection::new(self.process.clone());
        connection.session().await?;
        connection.leg().await?;
        let found = read(&lock(&self.sim().database).rows);
        connection.leg().await?;
        connection.end();
        Ok(found)
    }
}
