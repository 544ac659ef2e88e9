//! What a benchmark runs on: servers and processes of its own in a temporary folder, which are gone
//! with it, however it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_ingress::auth::Tokens;
use onsale_ingress::config::Auth;
use onsale_ingress::room::Signer;
use onsale_platform::{Clock, db};
use onsale_testkit::postgres::Stop;
use onsale_testkit::spawn::Signal;
use onsale_testkit::{
    NatsOptions, NatsServer, PostgresOptions, PostgresServer, Scratch, Tools, log_tail,
};
use tokio::time::Instant;

use super::case::PARTITIONS;
use super::cpu::Watched;
use super::direct::{Rival, lean, lean_money};
use super::process::{Process, Spec, sibling};

const DATABASE: &str = "bench";
/// How long it may take until every partition has its owner: a first takeover waits for a lease.
const OWNED_LIMIT: Duration = Duration::from_secs(60);
/// How long facts of a run may take to be published.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Nothing changes hands for so long when all have what they should have.
const QUIET: Duration = Duration::from_millis(1200);
const POLL: Duration = Duration::from_millis(25);
/// The load comes from one address and from few users, as quickly as it can; no limit stops it, nor
/// the rivals'.
const UNLIMITED: [&str; 4] = [
    "ONSALE_RATE_ADDRESS_PER_S",
    "ONSALE_RATE_USER_PER_S",
    "ONSALE_CONNECTIONS_PER_ADDRESS_MAX",
    "ONSALE_EVENT_STREAMS_PER_ADDRESS_MAX",
];
/// Longer than any benchmark.
const TOKEN_TTL_S: i64 = 86_400;

/// The servers, and our processes on them.
pub struct Rig {
    rival: Option<Process>,
    /// At least one, all alike.
    ingresses: Vec<Process>,
    /// The workers, each with all roles.
    pub workers: Vec<Process>,
    environment: Vec<(&'static str, String)>,
    postgres: PostgresServer,
    nats: NatsServer,
    database_url: String,
    secret: String,
    // After the servers: fields are dropped in this order.
    scratch: Scratch,
}

impl Rig {
    /// Starts everything but the rivals, with one ingress.
    ///
    /// # Errors
    /// With the end of a log, when something does not start.
    pub async fn start(tools: &Tools, workers: usize) -> anyhow::Result<Self> {
        Self::start_with(tools, workers, 1).await
    }

    /// Starts everything but the rivals, with so many ingresses.
    ///
    /// # Errors
    /// With the end of a log, when something does not start.
    pub async fn start_with(
        tools: &Tools,
        workers: usize,
        ingresses: usize,
    ) -> anyhow::Result<Self> {
        let mut scratch = Scratch::new("bench").context("making a temporary folder")?;
        let postgres_dir = scratch.path().join("postgres");
        let nats_dir = scratch.path().join("nats");
        let (postgres, nats) = tokio::try_join!(
            PostgresServer::start(tools, PostgresOptions::new(&postgres_dir)),
            NatsServer::start(tools, NatsOptions::new(nats_dir))
        )?;
        let real_dir = &postgres.location().dir;
        if *real_dir != postgres_dir {
            scratch
                .also_remove(real_dir)
                .context("telling the janitor")?;
        }
        for pid in [postgres.pid(), nats.pid()] {
            scratch.outlive(pid).context("telling the janitor")?;
        }
        postgres.create_database(DATABASE).await?;
        let database_url = postgres.url(DATABASE);
        db::migrate(&database_url).await?;
        let mut conn = db::connect(&database_url)
            .await
            .context("connecting to Postgres")?;
        conn.batch_execute(lean::TABLES).await?;
        conn.batch_execute(lean_money::TABLES).await?;
        drop(conn);

        let secret = hex(&rand::random::<[u8; 32]>());
        let mut environment = vec![
            ("DATABASE_URL", database_url.clone()),
            ("NATS_URL", nats.url()),
            ("ONSALE_PARTITIONS", PARTITIONS.to_string()),
            ("ONSALE_TOKEN_SECRET", secret.clone()),
            ("ONSALE_ACCESS_TOKEN_TTL_S", TOKEN_TTL_S.to_string()),
            // As it is with the rivals: a charge by card is points at once.
            ("ONSALE_CARDS", "terminal".to_owned()),
            ("ONSALE_CASH", "true".to_owned()),
        ];
        environment.extend(UNLIMITED.map(|limit| (limit, "0".to_owned())));
        let mut rig = Self {
            rival: None,
            ingresses: Vec::new(),
            workers: Vec::new(),
            environment,
            postgres,
            nats,
            database_url,
            secret,
            scratch,
        };
        while rig.ingresses.len() < ingresses {
            let ingress = rig.ingress().await?;
            rig.ingresses.push(ingress);
        }
        rig.scale(workers).await?;
        Ok(rig)
    }

    /// Has so many workers running, and the partitions shared among them.
    ///
    /// # Errors
    /// With the end of a log, when that does not come to be.
    pub async fn scale(&mut self, workers: usize) -> anyhow::Result<()> {
        for worker in self.workers.drain(workers.min(self.workers.len())..) {
            worker.stop().await;
        }
        while self.workers.len() < workers {
            let worker = self.worker().await?;
            self.workers.push(worker);
        }
        self.until_shared().await
    }

    /// One more ingress.
    async fn ingress(&self) -> anyhow::Result<Process> {
        let program = sibling("onsale-ingress")?;
        let spec = Spec::new("ingress", program, &self.environment).http()?;
        spec.start(self.scratch.path()).await
    }

    /// Kills the last ingress and puts a new one in its place.
    ///
    /// # Errors
    /// With the end of its log, when it does not start.
    pub async fn renew_ingress(&mut self) -> anyhow::Result<()> {
        if let Some(former) = self.ingresses.pop() {
            former.end(Signal::SIGKILL).await;
        }
        let ingress = self.ingress().await?;
        self.ingresses.push(ingress);
        Ok(())
    }

    /// One more worker process.
    async fn worker(&self) -> anyhow::Result<Process> {
        let program = sibling("onsale-workers")?;
        let spec = Spec::new("workers", program, &self.environment);
        spec.start(self.scratch.path()).await
    }

    /// Puts a new worker in the place of one that has ended.
    ///
    /// # Errors
    /// With the end of its log, when it does not start.
    pub async fn replace(&mut self, index: usize) -> anyhow::Result<()> {
        self.workers[index] = self.worker().await?;
        Ok(())
    }

    /// Kills nats-server and starts it again.
    ///
    /// # Errors
    /// With the end of its log, when it does not start.
    pub async fn crash_nats(&mut self) -> anyhow::Result<()> {
        self.nats.kill9().await;
        self.nats.restart().await?;
        Ok(self.scratch.outlive(self.nats.pid())?)
    }

    /// Stops Postgres without a checkpoint and starts it again.
    ///
    /// # Errors
    /// With the end of its log, when it does not start.
    pub async fn crash_postgres(&mut self) -> anyhow::Result<()> {
        self.postgres.stop(Stop::Immediate).await;
        self.postgres.restart().await?;
        Ok(self.scratch.outlive(self.postgres.pid())?)
    }

    /// Where the pipeline serves: its first ingress.
    #[must_use]
    pub fn pipeline(&self) -> SocketAddr {
        self.ingresses[0].http
    }

    /// Where each ingress serves.
    #[must_use]
    pub fn pipelines(&self) -> Vec<SocketAddr> {
        self.ingresses.iter().map(|ingress| ingress.http).collect()
    }

    /// Where each ingress tells its metrics.
    #[must_use]
    pub fn ingress_metrics(&self) -> Vec<SocketAddr> {
        let ingresses = self.ingresses.iter();
        ingresses.map(|ingress| ingress.metrics).collect()
    }

    /// Where the pipeline tells its metrics.
    #[must_use]
    pub fn pipeline_metrics(&self) -> Vec<SocketAddr> {
        let all = self.ingresses.iter().chain(&self.workers);
        all.map(|process| process.metrics).collect()
    }

    /// Starts a rival in place of the one that runs.
    ///
    /// # Errors
    /// With the end of its log, when it does not start.
    pub async fn rival(&mut self, rival: Rival, pool: u16) -> anyhow::Result<SocketAddr> {
        if let Some(former) = self.rival.take() {
            former.stop().await;
        }
        let own = std::env::current_exe().context("finding this program")?;
        let mut environment = vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("ONSALE_TOKEN_SECRET", self.secret.clone()),
            ("ONSALE_ACCESS_TOKEN_TTL_S", TOKEN_TTL_S.to_string()),
        ];
        environment.extend(UNLIMITED.map(|limit| (limit, "0".to_owned())));
        let mut spec = Spec::new("rival", own, &environment).http()?;
        let pool = pool.to_string();
        spec.arguments = ["bench-direct", "--rival", rival.name(), "--pool", &pool]
            .map(str::to_owned)
            .to_vec();
        let process = spec.start(self.scratch.path()).await?;
        let addr = process.http;
        self.rival = Some(process);
        Ok(addr)
    }

    /// All processes that do any of the work.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let one = |role, pid| Watched {
            role,
            pid,
            with_children: false,
        };
        let mut all = vec![
            Watched {
                role: "postgres",
                pid: self.postgres.pid(),
                with_children: true,
            },
            one("nats", self.nats.pid()),
            one("load", std::process::id()),
        ];
        all.extend(
            self.ingresses
                .iter()
                .map(|ingress| one("ingress", ingress.pid())),
        );
        all.extend(
            self.workers
                .iter()
                .map(|worker| one("workers", worker.pid())),
        );
        all.extend(self.rival.iter().map(|rival| one("rival", rival.pid())));
        all
    }

    /// Where the data lies.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.postgres.location().dir
    }

    /// A connection of the benchmark's own, without bounds on its time.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn connect(&self) -> anyhow::Result<AsyncPgConnection> {
        let mut conn = db::connect(&self.database_url)
            .await
            .context("connecting to Postgres")?;
        conn.batch_execute("SET statement_timeout = 0").await?;
        conn.batch_execute(db::WHOLE_TABLES).await?;
        Ok(conn)
    }

    /// The address of the database, with its password.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The address of NATS.
    #[must_use]
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// Signs tickets of waiting rooms that the ingresses accept.
    ///
    /// # Errors
    /// Never in practice: the secret is well-formed.
    pub fn signer(&self) -> anyhow::Result<Signer> {
        let secrets = self.secret.parse().context("reading the secret")?;
        Ok(Signer::new(&secrets))
    }

    /// Issues tokens that ingress and rivals accept.
    ///
    /// # Errors
    /// Never in practice: the secret is well-formed.
    pub fn tokens(&self) -> anyhow::Result<Tokens> {
        let auth = Auth {
            token_secret: self.secret.parse().context("reading the secret")?,
            access_token_ttl_s: TOKEN_TTL_S,
            refresh_token_ttl_s: TOKEN_TTL_S,
            password_hashes_max: 1,
        };
        Ok(Tokens::new(&auth, Clock::default()))
    }

    /// Stops the first ingress in good order.
    pub async fn stop_ingress(&self) {
        self.ingresses[0].stop().await;
    }

    /// Stops everything in good order.
    pub async fn stop(mut self) {
        if let Some(rival) = self.rival.take() {
            rival.stop().await;
        }
        for process in self.ingresses.iter().chain(&self.workers) {
            process.stop().await;
        }
        tokio::join!(self.postgres.stop(Stop::Fast), self.nats.stop());
    }

    /// Waits until the partitions are owned by exactly the workers that run, and stay so: a
    /// newcomer gets its share only after a moment.
    ///
    /// # Errors
    /// With the end of a log, when that does not come to be.
    pub async fn until_shared(&self) -> anyhow::Result<()> {
        let mut conn = self.connect().await?;
        let deadline = Instant::now() + OWNED_LIMIT;
        let mut quiet_since: Option<(Shares, Instant)> = None;
        loop {
            let shares = shares(&mut conn).await?;
            let is_whole =
                shares.owned == i64::from(PARTITIONS) && shares.living == self.workers.len() as i64;
            quiet_since = quiet_since.filter(|(before, _)| *before == shares && is_whole);
            match quiet_since {
                Some((_, since)) if since.elapsed() >= QUIET => return Ok(()),
                Some(_) => {}
                None => quiet_since = Some((shares, Instant::now())),
            }
            let ended = self.workers.iter().find(|worker| worker.has_ended());
            if Instant::now() >= deadline || ended.is_some() {
                let log = self
                    .workers
                    .as_slice()
                    .first()
                    .map(|worker| log_tail(&worker.log));
                bail!("the partitions have no owner\n{}", log.unwrap_or_default());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Who owns how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
struct Shares {
    /// Partitions with a living owner.
    #[diesel(sql_type = BigInt)]
    owned: i64,
    /// Living workers.
    #[diesel(sql_type = BigInt)]
    living: i64,
    /// Takeovers so far.
    #[diesel(sql_type = BigInt)]
    epochs: i64,
}

async fn shares(conn: &mut AsyncPgConnection) -> anyhow::Result<Shares> {
    let query = "WITH living AS (SELECT worker_id FROM worker
                                 WHERE heartbeat_at > clock_timestamp() - interval '1 second'
                                   AND 'seats' = ANY (lanes))
                 SELECT (SELECT count(*) FROM partition JOIN living ON worker_id = owner
                         WHERE lane = 'seats') AS owned,
                        (SELECT count(*) FROM living) AS living,
                        (SELECT coalesce(sum(epoch), 0)::bigint FROM partition
                         WHERE lane = 'seats') AS epochs";
    Ok(sql_query(query).get_result(conn).await?)
}

/// Waits until the facts of former runs are published and their notices applied; how long that took,
/// or none when they are not in time.
///
/// # Errors
/// When Postgres fails.
pub async fn drained(conn: &mut AsyncPgConnection) -> anyhow::Result<Option<Duration>> {
    let started = Instant::now();
    let open = "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL)
                     + (SELECT count(*) FROM notice WHERE done_at IS NULL) AS count";
    while count(conn, open).await? > 0 {
        if started.elapsed() >= DRAIN_LIMIT {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Some(started.elapsed()))
}

/// Brings every run to the same start: no dead rows in these tables, fresh statistics, nothing left to
/// write. An empty table is left alone: one that was looked at when it was empty counts as one that is,
/// and plans are made for that.
///
/// # Errors
/// When Postgres fails.
pub async fn tidy(conn: &mut AsyncPgConnection, tables: &[&str]) -> anyhow::Result<()> {
    let mut filled = Vec::with_capacity(tables.len());
    for table in tables {
        let first = format!("SELECT count(*) FROM (SELECT FROM {table} LIMIT 1) AS first");
        if count(conn, &first).await? > 0 {
            filled.push(*table);
        }
    }
    // Each by itself: VACUUM takes no transaction, and several in one text are one. Without a name it
    // takes all tables.
    if !filled.is_empty() {
        let vacuum = format!("VACUUM (ANALYZE) {}", filled.join(", "));
        conn.batch_execute(&vacuum).await.context(vacuum)?;
    }
    conn.batch_execute("CHECKPOINT").await.context("CHECKPOINT")
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

async fn count(conn: &mut AsyncPgConnection, query: &str) -> anyhow::Result<i64> {
    let row: Count = sql_query(query).get_result(conn).await?;
    Ok(row.count)
}

/// Bytes of WAL that were ever written.
///
/// # Errors
/// When Postgres fails.
pub async fn wal_bytes(conn: &mut AsyncPgConnection) -> anyhow::Result<i64> {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint AS count";
    count(conn, query).await
}

/// The settings of Postgres that durability and speed hang on.
///
/// # Errors
/// When Postgres fails.
pub async fn settings(conn: &mut AsyncPgConnection) -> anyhow::Result<serde_json::Value> {
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Text)]
        value: String,
    }
    let rows: Vec<Setting> = sql_query(
        "SELECT name, current_setting(name) AS value FROM pg_settings
         WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method',
                        'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'commit_delay')
         ORDER BY name",
    )
    .load(conn)
    .await?;
    let pairs = rows
        .into_iter()
        .map(|Setting { name, value }| (name, value.into()));
    Ok(serde_json::Value::Object(pairs.collect()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
