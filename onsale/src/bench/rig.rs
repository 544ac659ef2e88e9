//! What a benchmark runs on: servers and processes of its own in a temporary folder, which are gone
//! with it, however it ends.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_ingress::auth::Tokens;
use onsale_ingress::config::Auth;
use onsale_platform::{Clock, db};
use onsale_testkit::postgres::Stop;
use onsale_testkit::spawn::{self, Child, Signal, Tie};
use onsale_testkit::{
    NatsOptions, NatsServer, PostgresOptions, PostgresServer, Scratch, Tools, log_tail, ports,
};
use tokio::time::Instant;

use super::case::PARTITIONS;
use super::cpu::Watched;
use super::direct::{Rival, lean};

const DATABASE: &str = "bench";
/// How long a process may take until it serves: a first takeover waits for a lease.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long facts of a run may take to be published.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(25);
/// Longer than any benchmark.
const TOKEN_TTL_S: i64 = 86_400;

/// The servers, and our processes on them.
pub struct Rig {
    rival: Option<Process>,
    ingress: Process,
    workers: Process,
    postgres: PostgresServer,
    nats: NatsServer,
    database_url: String,
    secret: String,
    // After the servers: fields are dropped in this order.
    scratch: Scratch,
}

impl Rig {
    /// Starts everything but the rivals.
    ///
    /// # Errors
    /// With the end of a log, when something does not start.
    pub async fn start(tools: &Tools) -> anyhow::Result<Self> {
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
        drop(conn);

        let secret = hex(&rand::random::<[u8; 32]>());
        let environment = vec![
            ("DATABASE_URL", database_url.clone()),
            ("NATS_URL", nats.url()),
            ("ONSALE_PARTITIONS", PARTITIONS.to_string()),
            ("ONSALE_TOKEN_SECRET", secret.clone()),
        ];
        let dir = scratch.path();
        let workers = Spec::new("workers", sibling("onsale-workers")?, &environment);
        let ingress = Spec::new("ingress", sibling("onsale-ingress")?, &environment).http()?;
        let (workers, ingress) = tokio::try_join!(workers.start(dir), ingress.start(dir))?;
        let rig = Self {
            rival: None,
            ingress,
            workers,
            postgres,
            nats,
            database_url,
            secret,
            scratch,
        };
        rig.until_owned().await?;
        Ok(rig)
    }

    /// Where the pipeline serves.
    #[must_use]
    pub fn pipeline(&self) -> SocketAddr {
        self.ingress.http
    }

    /// Where the pipeline tells its metrics.
    #[must_use]
    pub fn pipeline_metrics(&self) -> [SocketAddr; 2] {
        [self.ingress.metrics, self.workers.metrics]
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
        let environment = [
            ("DATABASE_URL", self.database_url.clone()),
            ("ONSALE_TOKEN_SECRET", self.secret.clone()),
        ];
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
            one("ingress", self.ingress.child.pid()),
            one("workers", self.workers.child.pid()),
            one("load", std::process::id()),
        ];
        all.extend(
            self.rival
                .iter()
                .map(|rival| one("rival", rival.child.pid())),
        );
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

    /// Stops everything in good order.
    pub async fn stop(mut self) {
        if let Some(rival) = self.rival.take() {
            rival.stop().await;
        }
        self.ingress.stop().await;
        self.workers.stop().await;
        tokio::join!(self.postgres.stop(Stop::Fast), self.nats.stop());
    }

    /// Waits until every partition has its owner.
    async fn until_owned(&self) -> anyhow::Result<()> {
        let mut conn = self.connect().await?;
        let deadline = Instant::now() + READY_LIMIT;
        let owned =
            "SELECT count(*) AS count FROM partition WHERE lane = 'seats' AND owner IS NOT NULL";
        while count(&mut conn, owned).await? < i64::from(PARTITIONS) {
            if Instant::now() >= deadline || self.workers.child.exit_status().is_some() {
                bail!(
                    "the partitions have no owner\n{}",
                    log_tail(&self.workers.log)
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// Waits until the facts of former runs are published; false when they are not in time.
///
/// # Errors
/// When Postgres fails.
pub async fn drained(conn: &mut AsyncPgConnection) -> anyhow::Result<bool> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    let open = "SELECT count(*) AS count FROM outbox WHERE published_at IS NULL";
    while count(conn, open).await? > 0 {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// Brings every run to the same start: no dead rows, fresh statistics, nothing left to write.
///
/// # Errors
/// When Postgres fails.
pub async fn tidy(conn: &mut AsyncPgConnection) -> anyhow::Result<()> {
    // Each by itself: VACUUM takes no transaction, and several in one text are one.
    for statement in [
        "VACUUM (ANALYZE) reservation, seat_claim, seat, sale, outcome, outbox, partition, app_user, \
         lean_reservation, lean_seat_claim",
        "CHECKPOINT",
    ] {
        conn.batch_execute(statement).await.context(statement)?;
    }
    Ok(())
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

/// A process to start.
struct Spec {
    role: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    http: Option<SocketAddr>,
}

/// A child of ours.
struct Process {
    /// Where it serves; nowhere that anybody asks, for workers.
    http: SocketAddr,
    metrics: SocketAddr,
    log: PathBuf,
    child: Child,
}

impl Spec {
    fn new(role: &'static str, program: PathBuf, environment: &[(&'static str, String)]) -> Self {
        Self {
            role,
            program,
            arguments: Vec::new(),
            environment: environment.to_vec(),
            http: None,
        }
    }

    fn http(self) -> anyhow::Result<Self> {
        Ok(Self {
            http: Some(free_addr()?),
            ..self
        })
    }

    /// Starts it and waits until it serves.
    async fn start(self, dir: &Path) -> anyhow::Result<Process> {
        let log = dir.join(format!("{}.log", self.role));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let metrics = free_addr()?;
        let mut command = Tie::new(Signal::SIGKILL).command(&self.program);
        command.args(&self.arguments).envs(self.environment);
        command.env("ONSALE_METRICS_ADDR", metrics.to_string());
        if let Some(http) = self.http {
            command.env("ONSALE_HTTP_ADDR", http.to_string());
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        let child = spawn::spawn(command)
            .await
            .with_context(|| format!("starting {}", self.program.display()))?;
        let url = match self.http {
            Some(http) => format!("http://{http}/readyz"),
            None => format!("http://{metrics}/metrics"),
        };
        until_ready(&url, &child, &log).await?;
        Ok(Process {
            http: self.http.unwrap_or(metrics),
            metrics,
            log,
            child,
        })
    }
}

impl Process {
    async fn stop(&self) {
        self.child.stop(Signal::SIGTERM, STOP_LIMIT).await;
    }
}

async fn until_ready(url: &str, child: &Child, log: &Path) -> anyhow::Result<()> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .no_proxy()
        .build()?;
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        let answer = client.get(url).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if let Some(status) = child.exit_status() {
            bail!("it ended with {status}\n{}", log_tail(log));
        }
        if Instant::now() >= deadline {
            bail!("{url} is not ready\n{}", log_tail(log));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn free_addr() -> anyhow::Result<SocketAddr> {
    let port = ports::free().context("looking for a free port")?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Our other programs are built into the folder of this one.
fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()
        .context("finding this program")?
        .with_file_name(name);
    if !path.is_file() {
        bail!(
            "{} is not there; build it with `cargo build --release -p {name}`",
            path.display()
        );
    }
    Ok(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
