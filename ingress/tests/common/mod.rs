//! One ingress of a test's own, in this process, on a real Postgres and nats-server; and the other
//! end of its streams, so that a test says itself what the owners answer, and when.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test program uses its part of this, and may panic"
)]

use async_nats::jetstream::consumer;
use clap::Parser;
use diesel_async::SimpleAsyncConnection;
use futures_util::StreamExt;
use onsale_ingress::{App, Config, Ingress};
use onsale_platform::config::Streams;
use onsale_platform::db;
use onsale_schema::message::{CommandMessage, MessageOutcomes, Reply, decode, encode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{IngressId, Lane};
use onsale_testkit::{Api, Buyer, TestDb, TestNats};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Nothing in these tests takes longer unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The secret of these ingresses.
pub const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub const CONCERT: Uuid = Uuid::from_u128(0xc0);
pub const SCHEDULE: Uuid = Uuid::from_u128(0x50);

pub struct Bench {
    pub db: TestDb,
    pub nats: TestNats,
    pub addr: SocketAddr,
    pub api: Api,
    pub app: App,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Result<(), onsale_ingress::Error>>,
}

/// Starts an ingress on a migrated database with one small schedule.
pub async fn start(settings: &[&str]) -> Bench {
    let db = TestDb::create().await.unwrap();
    db::migrate(db.url()).await.unwrap();
    let nats = TestNats::start().await.unwrap();
    keep_streams(&nats.url(), &Streams::default()).await;
    let Served {
        addr,
        api,
        app,
        shutdown,
        served,
    } = serve(db.url(), &nats.url(), settings).await;
    let bench = Bench {
        db,
        nats,
        addr,
        api,
        app,
        shutdown,
        served,
    };
    bench.sql(CATALOGUE).await;
    bench
}

/// An ingress that serves.
pub struct Served {
    pub addr: SocketAddr,
    pub api: Api,
    pub app: App,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Result<(), onsale_ingress::Error>>,
}

/// The settings of these ingresses, unless a test has its own.
const SETTINGS: &[(&str, &str)] = &[
    ("--http-addr", "127.0.0.1:0"),
    ("--token-secret", SECRET),
    ("--partitions", "4"),
    ("--rate-address-per-s", "0"),
    ("--rate-user-per-s", "0"),
    ("--sign-in-address-per-min", "0"),
    ("--sign-in-account-per-min", "0"),
];

async fn serve(database_url: &str, nats_url: &str, settings: &[&str]) -> Served {
    let mut arguments = vec!["onsale-ingress"];
    arguments.extend(["--database-url", database_url, "--nats-url", nats_url]);
    for (name, value) in SETTINGS {
        if !settings.contains(name) {
            arguments.extend([name, value]);
        }
    }
    arguments.extend(settings);
    let config = Config::try_parse_from(arguments).unwrap();
    let ingress = Ingress::bind(config).await.unwrap();
    let (addr, app) = (ingress.local_addr(), ingress.app().clone());
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    #[allow(clippy::disallowed_methods, reason = "joined by the test that cares")]
    let served = tokio::spawn(ingress.serve(token));
    Served {
        addr,
        api: Api::new(format!("http://{addr}")),
        app,
        shutdown,
        served,
    }
}

/// Makes the streams, as workers do, or changes them, as the operator does.
pub async fn keep_streams(nats_url: &str, settings: &Streams) {
    let client = onsale_platform::nats::connect(nats_url, "test")
        .await
        .unwrap();
    let jetstream = onsale_platform::nats::jetstream(client);
    let subjects = Subjects::new("").unwrap();
    let kept = onsale_platform::nats::update_streams(&jetstream, &subjects, settings);
    kept.await.unwrap();
}

/// A concert with one date and a hall of 2 rows of 3 seats, on sale.
const CATALOGUE: &str = "
INSERT INTO concert VALUES
  ('00000000-0000-0000-0000-0000000000c0', 'Spring 100%', '아이유', 'Hall', '', '2027-05-01', '2027-05-02'),
  ('00000000-0000-0000-0000-0000000000c1', 'Autumn', 'Band', 'Club', '', '2027-09-01', '2027-09-01');
INSERT INTO schedule VALUES
  ('00000000-0000-0000-0000-000000000050', '00000000-0000-0000-0000-0000000000c0', '2027-05-01T10:00:00Z', 'hash-1');
INSERT INTO seat
  SELECT '00000000-0000-0000-0000-000000000050', n, 'A', (n / 3 + 1)::text, n % 3 + 1,
         CASE WHEN n < 3 THEN 'VIP' ELSE 'R' END, CASE WHEN n < 3 THEN 150000 ELSE 99000 END, n, 0
  FROM generate_series(0, 5) AS n;
INSERT INTO sale (schedule_id, booking_opens_at, booking_closes_at, hold_ms, seats_per_user) VALUES
  ('00000000-0000-0000-0000-000000000050', now() - interval '1 hour', now() + interval '1 day', 300000, 4);
";

impl Bench {
    /// One more ingress on the same servers.
    pub async fn another(&self, settings: &[&str]) -> Served {
        serve(self.db.url(), &self.nats.url(), settings).await
    }

    /// Somebody new who administers.
    pub async fn admin(&self) -> Buyer {
        let user = self.api.buyer().await;
        let id = user.user_id;
        self.sql(&format!(
            "UPDATE app_user SET role = 'admin' WHERE user_id = '{id}'"
        ))
        .await;
        let email = format!("SELECT email FROM app_user WHERE user_id = '{id}'");
        let email = self.text(&email).await;
        let body = json!({ "email": email, "password": "correct horse battery" });
        let request = self.api.request(Method::POST, "/sessions").json(&body);
        let session = self.api.send(request).await.expect(201);
        let token = session.body["accessToken"].as_str().unwrap().to_owned();
        Buyer { token, ..user }
    }

    pub async fn sql(&self, sql: &str) {
        let mut conn = db::connect(self.db.url()).await.unwrap();
        conn.batch_execute(sql).await.unwrap();
    }

    /// The one text that a query selects.
    pub async fn text(&self, sql: &str) -> String {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Text)]
            text: String,
        }
        let mut conn = db::connect(self.db.url()).await.unwrap();
        let sql = format!("SELECT text FROM ({sql}) AS it (text)");
        let query = diesel::sql_query(sql);
        let row: Row = diesel_async::RunQueryDsl::get_result(query, &mut conn)
            .await
            .unwrap();
        row.text
    }

    /// The messages of a lane, in order, from the first; and the way to answer them.
    pub async fn owner<K: DeserializeOwned>(&self, lane: Lane) -> Owner<K> {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client.clone());
        let subjects = Subjects::new("").unwrap();
        let stream = jetstream.get_stream(subjects.stream(lane)).await.unwrap();
        let config = consumer::pull::Config {
            ack_policy: match lane {
                Lane::Seats | Lane::Admission => consumer::AckPolicy::None,
                Lane::Ledger | Lane::Settlement => consumer::AckPolicy::Explicit,
            },
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        Owner {
            messages: consumer.messages().await.unwrap(),
            client,
            subjects,
            lane,
            _kind: std::marker::PhantomData,
        }
    }

    /// Publishes on core NATS, as an owner would.
    pub async fn broadcast(&self, subject: String, payload: Vec<u8>) {
        let client = async_nats::connect(self.nats.url()).await.unwrap();
        client.publish(subject, payload.into()).await.unwrap();
        client.flush().await.unwrap();
    }
}

pub struct Owner<K> {
    messages: consumer::pull::Stream,
    client: async_nats::Client,
    subjects: Subjects,
    lane: Lane,
    _kind: std::marker::PhantomData<K>,
}

impl<K: DeserializeOwned> Owner<K> {
    pub async fn next(&mut self) -> CommandMessage<K> {
        let message = tokio::time::timeout(PATIENCE, self.messages.next());
        let message = message.await.expect("a message comes").unwrap().unwrap();
        let id = message
            .headers
            .as_ref()
            .unwrap()
            .get("Nats-Msg-Id")
            .unwrap();
        let decoded: CommandMessage<K> = decode(&message.payload).unwrap();
        assert_eq!(id.as_str(), decoded.id.to_string());
        decoded
    }

    pub async fn reply<O: Serialize>(&self, to: &CommandMessage<K>, outcomes: Vec<O>) {
        let reply = Reply {
            messages: vec![MessageOutcomes {
                message_id: to.id,
                outcomes,
            }],
        };
        let ingress: IngressId = to.reply_to.unwrap();
        let subject = self.subjects.reply(ingress, self.lane);
        let payload = encode(&reply).into();
        self.client.publish(subject, payload).await.unwrap();
        self.client.flush().await.unwrap();
    }
}

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}
