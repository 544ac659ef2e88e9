//! An admission worker on real servers, spoken to by messages as an ingress would.

use async_nats::jetstream;
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::StreamExt;
use onsale_platform::config::Streams;
use onsale_platform::{Clock, db, nats};
use onsale_schema::admission::{Broadcast, Code, Kind, Outcome, Ticket, Watermark};
use onsale_schema::message::{Command, CommandMessage, Fingerprint, Reply, decode, encode};
use onsale_schema::partition::of_schedule;
use onsale_schema::subjects::Subjects;
use onsale_schema::{CommandId, IngressId, Lane, MessageId, ScheduleId, UserId};
use onsale_testkit::{TestDb, shared};
use onsale_workers::{Config, Context, process};
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Partitions of the test systems.
const PARTITIONS: u16 = 4;
/// No wait of these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub db: TestDb,
    pub conn: AsyncPgConnection,
    pub subjects: Subjects,
    pub clock: Clock,
    jetstream: jetstream::Context,
    prefix: String,
    ingress: IngressId,
    replies: async_nats::Subscriber,
    outcomes: HashMap<MessageId, Vec<Outcome>>,
    watermarks: async_nats::Subscriber,
}

pub struct Worker {
    stop: CancellationToken,
    task: JoinSet<Result<(), onsale_workers::context::Error>>,
}

impl Worker {
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = self.task.join_next().await.expect("one task");
        ended.expect("no panic").expect("a clean end");
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

impl Rig {
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
        let watermarks = client.subscribe(subjects.watermarks()).await;
        let jetstream = nats::jetstream(client);
        nats::update_streams(&jetstream, &subjects, &Streams::default())
            .await
            .expect("streams");
        Self {
            db,
            conn,
            subjects,
            clock: Clock::default(),
            jetstream,
            prefix,
            ingress,
            replies: replies.expect("replies"),
            outcomes: HashMap::new(),
            watermarks: watermarks.expect("watermarks"),
        }
    }

    pub async fn worker(&self) -> Worker {
        let ctx = self.context().await;
        let stop = CancellationToken::new();
        let task = JoinSet::from_iter([process::run(ctx, stop.clone())]);
        Worker { stop, task }
    }

    /// What a worker runs with.
    pub async fn context(&self) -> Context {
        let nats_url = &shared().await.expect("servers").nats_url;
        let partitions = PARTITIONS.to_string();
        let settings = [
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
            "admission",
        ];
        let config = <Config as clap::Parser>::parse_from(settings);
        Context::connect(config).await.expect("a context")
    }

    pub async fn sql(&mut self, sql: &str) {
        self.conn.batch_execute(sql).await.expect(sql);
    }

    /// The column `n` of the one row that a query finds.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let row: Number = sql_query(sql).get_result(&mut self.conn).await.expect(sql);
        row.n
    }

    /// A schedule on sale.
    pub async fn schedule(&mut self) -> ScheduleId {
        let (concert, schedule) = (Uuid::now_v7(), ScheduleId(Uuid::now_v7()));
        self.sql(&format!(
            "INSERT INTO concert (concert_id, title, artist, venue, starts_on, ends_on)
                 VALUES ('{concert}', 'c', 'a', 'v', '2030-01-01', '2030-01-01');
             INSERT INTO schedule VALUES ('{schedule}', '{concert}', '2030-01-01', 'h');
             INSERT INTO sale (schedule_id, booking_opens_at, booking_closes_at, hold_ms,
                               seats_per_user)
                 VALUES ('{schedule}', '2020-01-01', '2030-01-01', 1000, 4);"
        ))
        .await;
        schedule
    }

    /// Writes the row of a code, as an ingress does before it tells of it.
    pub async fn access_code(&mut self, code: &Code) {
        let Code {
            code_id,
            schedule_id,
            grant,
            uses,
            from,
            until,
        } = code;
        self.sql(&format!(
            "INSERT INTO access_code (access_code_id, schedule_id, fingerprint, label, granted, uses,
                                      valid_from, valid_until, made_by, made_at)
             VALUES ('{code_id}', '{schedule_id}', gen_random_uuid(), 'a code', '{grant}', {uses},
                     '{from}', '{until}', gen_random_uuid(), now())"
        ))
        .await;
    }

    pub fn command(&self, user: UserId, kind: Kind) -> Command<Kind> {
        Command {
            id: CommandId(Uuid::now_v7()),
            user,
            fingerprint: Fingerprint(Uuid::nil()),
            deadline: self.clock.now().plus_ms(60_000),
            trace: None,
            kind,
        }
    }

    pub fn join(&self, schedule_id: ScheduleId) -> Command<Kind> {
        self.command(
            UserId(Uuid::now_v7()),
            Kind::Join {
                schedule_id,
                code: None,
            },
        )
    }

    /// Publishes commands as one message, to the partition of the first.
    pub async fn send(&self, commands: Vec<Command<Kind>>) -> MessageId {
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
        let partition = of_schedule(schedule, PARTITIONS);
        let subject = self.subjects.partition(Lane::Admission, partition);
        let ack = self
            .jetstream
            .publish(subject, payload.into())
            .await
            .expect("published");
        ack.await.expect("stored");
    }

    /// Waits for a message's outcomes.
    pub async fn outcomes(&mut self, message: MessageId) -> Vec<Outcome> {
        let wait = async {
            loop {
                if let Some(outcomes) = self.outcomes.remove(&message) {
                    return outcomes;
                }
                let reply = self.replies.next().await.expect("the subscription lives");
                let reply: Reply<Outcome> = decode(&reply.payload).expect("a reply");
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
    pub async fn ask(&mut self, command: Command<Kind>) -> Outcome {
        let message = self.send(vec![command]).await;
        self.outcomes(message).await.remove(0)
    }

    /// The ticket that a command gets.
    pub async fn ticket(&mut self, command: Command<Kind>) -> Ticket {
        ticket(self.ask(command).await)
    }

    /// Waits until everybody is told something like this of a room.
    pub async fn told(&mut self, room: ScheduleId, like: impl Fn(&Watermark) -> bool) -> Watermark {
        let wait = async {
            loop {
                let message = self
                    .watermarks
                    .next()
                    .await
                    .expect("the subscription lives");
                let told: Broadcast = decode(&message.payload).expect("a broadcast");
                let of_room = |told: &Watermark| told.schedule_id == room && like(told);
                if let Some(told) = told.rooms.into_iter().find(of_room) {
                    return told;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a word in time")
    }
}

pub fn ticket(outcome: Outcome) -> Ticket {
    match outcome {
        Outcome::Joined(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}
