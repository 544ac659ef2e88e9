//! A worker of one ordered lane on real servers, spoken to by messages as an ingress would. What only one
//! lane is told and asked stands in the rig of its own tests.

#[path = "worker.rs"]
mod worker;

use async_nats::jetstream;
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::StreamExt;
use onsale_platform::config::Streams;
use onsale_platform::{Clock, db, nats};
use onsale_schema::message::{Command, CommandMessage, Fingerprint, Reply, decode, encode};
use onsale_schema::partition::of_schedule;
use onsale_schema::subjects::Subjects;
use onsale_schema::{
    CommandId, IngressId, Lane, MessageId, PartitionNo, ScheduleId, UserId, admission, seats,
};
use onsale_testkit::{TestDb, shared};
use onsale_workers::runtime::lane::PartitionedLane;
use onsale_workers::{Config, Context, process};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
pub use worker::Worker;

/// Partitions of the test systems.
const PARTITIONS: u16 = 4;
/// No wait of these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A command, which is for the owner of a schedule's partition.
pub trait OfSchedule {
    fn schedule_id(&self) -> ScheduleId;
}

impl OfSchedule for seats::Kind {
    fn schedule_id(&self) -> ScheduleId {
        self.schedule_id()
    }
}

impl OfSchedule for admission::Kind {
    fn schedule_id(&self) -> ScheduleId {
        self.schedule_id()
    }
}

pub struct LaneRig<L: PartitionedLane> {
    pub db: TestDb,
    pub conn: AsyncPgConnection,
    pub subjects: Subjects,
    pub nats: async_nats::Client,
    pub jetstream: jetstream::Context,
    pub clock: Clock,
    /// What the owners tell everybody.
    pub broadcasts: async_nats::Subscriber,
    prefix: String,
    ingress: IngressId,
    replies: async_nats::Subscriber,
    outcomes: HashMap<MessageId, Vec<L::Outcome>>,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

impl<L> LaneRig<L>
where
    L: PartitionedLane<Kind: OfSchedule, Outcome: DeserializeOwned>,
{
    pub async fn new() -> Self {
        let db = TestDb::create().await.expect("a database");
        db::migrate(db.url()).await.expect("migrations");
        let conn = db::connect(db.url()).await.expect("a connection");
        let nats_url = &shared().await.expect("servers").nats_url;
        let client = nats::connect(nats_url, "test").await.expect("NATS");
        let prefix = format!("t{}", Uuid::now_v7().simple());
        let subjects = Subjects::new(&prefix).expect("a plain token");
        let ingress = IngressId(Uuid::now_v7());
        let replies = client.subscribe(subjects.replies(ingress)).await;
        let told = match L::LANE {
            Lane::Seats => subjects.maps(),
            Lane::Admission => subjects.watermarks(),
            Lane::Ledger | Lane::Settlement => panic!("a lane without an order"),
        };
        let broadcasts = client.subscribe(told).await;
        let jetstream = nats::jetstream(client.clone());
        nats::update_streams(&jetstream, &subjects, &Streams::default())
            .await
            .expect("streams");
        Self {
            db,
            conn,
            subjects,
            nats: client,
            jetstream,
            clock: Clock::default(),
            broadcasts: broadcasts.expect("broadcasts"),
            prefix,
            ingress,
            replies: replies.expect("replies"),
            outcomes: HashMap::new(),
        }
    }

    pub async fn worker(&self) -> Worker {
        self.worker_with(&[]).await
    }

    /// A worker with more settings.
    pub async fn worker_with(&self, settings: &[&str]) -> Worker {
        let ctx = self.context_with(settings).await;
        let stop = CancellationToken::new();
        let task = JoinSet::from_iter([process::run(ctx, stop.clone())]);
        Worker { stop, task }
    }

    /// What a worker runs with.
    pub async fn context(&self) -> Context {
        self.context_with(&[]).await
    }

    async fn context_with(&self, settings: &[&str]) -> Context {
        let nats_url = &shared().await.expect("servers").nats_url;
        let partitions = PARTITIONS.to_string();
        let usual = [
            "test",
            "--database-url",
            self.db.url(),
            "--nats-url",
            nats_url,
            "--subject-prefix",
            &self.prefix,
            "--partitions",
            &partitions,
            "--roles",
            L::LANE.as_str(),
        ];
        let config = <Config as clap::Parser>::parse_from(usual.iter().chain(settings));
        Context::connect(config).await.expect("a context")
    }

    /// The partition of a schedule.
    pub fn partition_of(&self, schedule: ScheduleId) -> PartitionNo {
        of_schedule(schedule, PARTITIONS)
    }

    pub async fn sql(&mut self, sql: &str) {
        self.conn.batch_execute(sql).await.expect(sql);
    }

    /// The column `n` of the one row that a query finds.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let row: Number = sql_query(sql).get_result(&mut self.conn).await.expect(sql);
        row.n
    }

    /// A schedule on sale, without seats.
    pub async fn empty_schedule(&mut self, hold_ms: u32, seats_per_user: u32) -> ScheduleId {
        let (concert, schedule) = (Uuid::now_v7(), ScheduleId(Uuid::now_v7()));
        self.sql(&format!(
            "INSERT INTO concert (concert_id, title, artist, venue, starts_on, ends_on)
                 VALUES ('{concert}', 'c', 'a', 'v', '2030-01-01', '2030-01-01');
             INSERT INTO schedule VALUES ('{schedule}', '{concert}', '2030-01-01', 'h');
             INSERT INTO sale (schedule_id, booking_opens_at, booking_closes_at, hold_ms,
                               seats_per_user)
                 VALUES ('{schedule}', '2020-01-01', '2030-01-01', {hold_ms}, {seats_per_user});"
        ))
        .await;
        schedule
    }

    pub fn command(&self, user: UserId, kind: L::Kind) -> Command<L::Kind> {
        Command {
            id: CommandId(Uuid::now_v7()),
            user,
            fingerprint: Fingerprint(Uuid::nil()),
            deadline: self.clock.now().plus_ms(60_000),
            trace: None,
            kind,
        }
    }

    /// Publishes commands as one message, to the partition of the first.
    pub async fn send(&self, commands: Vec<Command<L::Kind>>) -> MessageId {
        let id = MessageId(Uuid::now_v7());
        let schedule = commands[0].kind.schedule_id();
        let message = CommandMessage {
            id,
            reply_to: Some(self.ingress),
            commands,
        };
        self.send_bytes(schedule, encode(&message)).await;
        id
    }

    /// Publishes bytes to a schedule's partition.
    pub async fn send_bytes(&self, schedule: ScheduleId, payload: Vec<u8>) {
        let partition = self.partition_of(schedule);
        let subject = self.subjects.partition(L::LANE, partition);
        let ack = self
            .jetstream
            .publish(subject, payload.into())
            .await
            .expect("published");
        ack.await.expect("stored");
    }

    /// Waits for a message's outcomes.
    pub async fn outcomes(&mut self, message: MessageId) -> Vec<L::Outcome> {
        let wait = async {
            loop {
                if let Some(outcomes) = self.outcomes.remove(&message) {
                    return outcomes;
                }
                let reply = self.replies.next().await.expect("the subscription lives");
                let reply: Reply<L::Outcome> = decode(&reply.payload).expect("a reply");
                for message in reply.messages {
                    self.outcomes.insert(message.message_id, message.outcomes);
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a reply in time")
    }

    /// Sends one command and waits for its outcome.
    pub async fn ask(&mut self, command: Command<L::Kind>) -> L::Outcome {
        let message = self.send(vec![command]).await;
        self.outcomes(message).await.remove(0)
    }
}
