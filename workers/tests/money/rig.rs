//! A system without ingress and seats owner, and somebody who asks it things.

#[path = "../common/worker.rs"]
mod worker;

use async_nats::{Client, Subscriber, jetstream};
use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::StreamExt;
use onsale_domain::ledger::{Cards, Limits};
use onsale_platform::config::Streams;
use onsale_platform::{Clock, db, nats};
use onsale_schema::ledger::{self, CARD_ACCOUNT};
use onsale_schema::message::{Command, CommandMessage, Fingerprint, Reply, decode, encode};
use onsale_schema::settlement;
use onsale_schema::status::{ChargeMethod, PaymentMethod};
use onsale_schema::subjects::Subjects;
use onsale_schema::{
    CommandId, IngressId, Lane, MessageId, Money, PaymentId, ReservationId, ScheduleId, Timestamp,
    UserId,
};
use onsale_testkit::{TestDb, shared};
use onsale_workers::compete::Queue;
use onsale_workers::compete::commit::{Job, Mode};
use onsale_workers::config::Role;
use onsale_workers::ledger::Ledger;
use onsale_workers::runtime::core::Inbound;
use onsale_workers::{Config, Context, expiry, ledger as charges, outbox, settlement as payments};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
pub use worker::Worker;

/// No wait of these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Partitions of the test systems.
pub const PARTITIONS: u16 = 4;

pub struct Rig {
    pub conn: AsyncPgConnection,
    pub client: Client,
    pub jetstream: jetstream::Context,
    pub subjects: Subjects,
    database_url: String,
    nats_url: String,
    prefix: String,
    _db: Option<TestDb>,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

impl Rig {
    /// On the shared servers.
    pub async fn new() -> Self {
        let db = TestDb::create().await.unwrap();
        let nats_url = &shared().await.unwrap().nats_url;
        let mut rig = Self::on(db.url(), nats_url).await;
        rig._db = Some(db);
        rig
    }

    /// On these servers.
    pub async fn on(database_url: &str, nats_url: &str) -> Self {
        db::migrate(database_url).await.unwrap();
        let client = nats::connect(nats_url, "test").await.unwrap();
        let prefix = format!("t{}", Uuid::now_v7().simple());
        let subjects = Subjects::new(&prefix).unwrap();
        let jetstream = nats::jetstream(client.clone());
        nats::update_streams(&jetstream, &subjects, &Streams::default())
            .await
            .unwrap();
        Self {
            conn: db::connect(database_url).await.unwrap(),
            client,
            jetstream,
            subjects,
            database_url: database_url.into(),
            nats_url: nats_url.into(),
            prefix,
            _db: None,
        }
    }

    /// Starts a role as a process of its own would.
    pub async fn worker(&self, role: Role) -> Worker {
        let partitions = PARTITIONS.to_string();
        let config = <Config as clap::Parser>::parse_from([
            "test",
            "--database-url",
            &self.database_url,
            "--nats-url",
            &self.nats_url,
            "--subject-prefix",
            &self.prefix,
            "--partitions",
            &partitions,
            "--cards",
            "terminal",
            "--cash",
            "true",
        ]);
        let ctx = Context::connect(config).await.unwrap();
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        match role {
            Role::Ledger => task.spawn(charges::run(ctx, stop.clone())),
            Role::Settlement => task.spawn(payments::run(ctx, stop.clone())),
            Role::Expiry => task.spawn(expiry::run(ctx, stop.clone())),
            Role::Outbox => task.spawn(outbox::run(ctx, stop.clone())),
            Role::Seats | Role::Admission | Role::Gateway => unreachable!("has tests of its own"),
        };
        Worker { stop, task }
    }

    pub fn pool(&self, size: usize) -> db::Pool {
        db::pool_with_generic_plans(&self.database_url, size).unwrap()
    }

    pub async fn sql(&mut self, sql: &str) {
        self.conn.batch_execute(sql).await.expect(sql);
    }

    /// What a query that selects one number as `n` says.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let row: Number = sql_query(sql).get_result(&mut self.conn).await.expect(sql);
        row.n
    }

    /// Waits until a query says this.
    pub async fn until(&mut self, sql: &str, expected: i64) {
        let started = Instant::now();
        loop {
            let n = self.number(sql).await;
            if n == expected {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{sql}: {n}, not {expected}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A user with so much on the account, charged as it ought to be.
    pub async fn user(&mut self, balance: i64) -> UserId {
        let user = UserId(Uuid::now_v7());
        let (transfer, cause) = (Uuid::now_v7(), Uuid::now_v7());
        self.sql(&format!(
            "INSERT INTO account VALUES ('{user}', {balance});
             INSERT INTO transfer SELECT '{transfer}', '{cause}', '{cause}', 'CHARGE', account_id,
                    '{user}', {balance}, {balance}, now()
                 FROM account WHERE account_id = '{CARD_ACCOUNT}' AND {balance} > 0;"
        ))
        .await;
        user
    }

    /// A reservation with this status; a hold that ends in so many milliseconds.
    pub async fn reservation(
        &mut self,
        user: UserId,
        total: i64,
        status: &str,
        ends_in_ms: i64,
    ) -> (ReservationId, ScheduleId) {
        let (id, schedule) = (ReservationId(Uuid::now_v7()), ScheduleId(Uuid::now_v7()));
        let command = Uuid::now_v7();
        self.sql(&format!(
            "INSERT INTO reservation SELECT '{id}', '{schedule}', '{user}', '{command}',
                '{command}', '{{1,2}}', {total}, 4, '{status}', now() - interval '1 hour',
                now() + {ends_in_ms} * interval '1 ms',
                CASE WHEN '{status}' IN ('HELD', 'PAID') THEN NULL ELSE now() END"
        ))
        .await;
        (id, schedule)
    }

    /// L1, L2, P1 and the state of paid reservations, straight from the tables.
    pub async fn assert_balanced(&mut self) {
        let wrong = self
            .number(
                "SELECT count(*) AS n FROM account a WHERE balance IS NOT NULL AND balance <>
                   (SELECT coalesce(sum(CASE WHEN credit = account_id THEN amount ELSE -amount END),
                                    0)
                    FROM transfer WHERE account_id IN (credit, debit))",
            )
            .await;
        assert_eq!(wrong, 0, "L1");
        let wrong = self
            .number(
                "SELECT count(*) AS n FROM payment p JOIN reservation r USING (reservation_id)
                 LEFT JOIN transfer t ON t.transfer_id = p.transfer_id
                 WHERE p.status = 'PAID' AND (r.status <> 'PAID' OR t.amount <> r.total)",
            )
            .await;
        assert_eq!(wrong, 0, "P1");
    }
}

/// Somebody who publishes commands to a lane and waits for outcomes.
pub struct Asker<O> {
    lane: Lane,
    jetstream: jetstream::Context,
    subject: String,
    ingress: IngressId,
    replies: Subscriber,
    outcomes: HashMap<MessageId, Vec<O>>,
}

impl<O: DeserializeOwned> Asker<O> {
    pub async fn new(rig: &Rig, lane: Lane) -> Self {
        let ingress = IngressId(Uuid::now_v7());
        let replies = rig.subjects.replies(ingress);
        let replies = rig.client.subscribe(replies).await.unwrap();
        rig.client.flush().await.unwrap();
        Self {
            lane,
            jetstream: rig.jetstream.clone(),
            subject: rig.subjects.queue(lane),
            ingress,
            replies,
            outcomes: HashMap::new(),
        }
    }

    /// Publishes commands as one message.
    pub async fn send<K: Serialize>(&self, commands: Vec<Command<K>>) -> MessageId {
        let message = self.message(commands);
        self.send_bytes(encode(&message)).await;
        message.id
    }

    pub fn message<K>(&self, commands: Vec<Command<K>>) -> CommandMessage<K> {
        CommandMessage {
            id: MessageId(Uuid::now_v7()),
            reply_to: Some(self.ingress),
            commands,
        }
    }

    pub async fn send_bytes(&self, payload: Vec<u8>) {
        let publish = || async {
            let payload = payload.clone().into();
            let ack = self.jetstream.publish(self.subject.clone(), payload).await;
            ack?.await
        };
        let started = Instant::now();
        while let Err(error) = publish().await {
            assert!(started.elapsed() < PATIENCE, "{}: {error}", self.lane);
        }
    }

    /// Waits for the outcomes of a message.
    pub async fn outcomes(&mut self, message: MessageId) -> Vec<O> {
        let wait = async {
            while !self.outcomes.contains_key(&message) {
                self.hear().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a reply in time");
        self.outcomes.remove(&message).unwrap()
    }

    /// Waits for any reply.
    pub async fn hear(&mut self) {
        let reply = self.replies.next().await.unwrap();
        assert!(reply.subject.ends_with(self.lane.as_str()));
        let reply: Reply<O> = decode(&reply.payload).unwrap();
        for message in reply.messages {
            self.outcomes.insert(message.message_id, message.outcomes);
        }
    }

    /// Sends one command and waits for its outcome.
    pub async fn ask<K: Serialize>(&mut self, command: Command<K>) -> O {
        let message = self.send(vec![command]).await;
        self.outcomes(message).await.remove(0)
    }
}

/// One message of these commands, to be decided in one transaction.
pub fn job<Q: Queue>(queue: Q, seq: u64, commands: Vec<Command<Q::Kind>>) -> Arc<Job<Q>> {
    let message = CommandMessage {
        id: MessageId(Uuid::now_v7()),
        reply_to: None,
        commands,
    };
    Arc::new(Job {
        queue: Arc::new(queue),
        incarnation: Arc::default(),
        messages: vec![Arc::new(Inbound {
            seq,
            at: Timestamp::EPOCH,
            after: Timestamp::EPOCH,
            body: Ok(message),
        })],
        mode: Mode::Together,
    })
}

/// The lane of charges, with cards that a terminal takes.
pub fn ledger() -> Ledger {
    Ledger::new(Limits {
        charge_max: Money::won(1_000_000),
        balance_cap: Money::won(1_000_000),
        cards: Cards::Terminal,
        cash: true,
    })
}

pub fn command<K>(user: UserId, kind: K) -> Command<K> {
    Command {
        id: CommandId(Uuid::now_v7()),
        user,
        fingerprint: Fingerprint(Uuid::now_v7()),
        deadline: Clock::default().now().plus_ms(120_000),
        trace: None,
        kind,
    }
}

pub fn charge(user: UserId, won: i64) -> Command<ledger::Kind> {
    command(
        user,
        ledger::Kind::Charge {
            amount: Money::won(won),
            method: ChargeMethod::Card,
        },
    )
}

pub fn pay(user: UserId, reservation_id: ReservationId) -> Command<settlement::Kind> {
    command(
        user,
        settlement::Kind::Pay {
            payment_id: PaymentId(Uuid::now_v7()),
            reservation_id,
            method: PaymentMethod::Points,
        },
    )
}
