//! A whole system of a test's own: ingress and worker processes on a database of the shared Postgres
//! and a nats-server of its own, or on a pair of its own. Each process has the rights that it has in
//! production and no others, so that every test shows that they suffice.

mod gateway;
mod options;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use onsale_platform::config::{Streams, nats_with_ca};
use onsale_platform::nats;
use onsale_platform::nats_users::User;
use onsale_platform::rights::Role;
use onsale_schema::subjects::Subjects;
use tokio::task::JoinSet;

use crate::links::{Links, by_way_of};
use crate::server::{Error, io_error};
use crate::spawn::{Child, Signal, Tie, spawn};
use crate::tls::{Authority, PostgresTls};
use crate::{
    NatsOptions, NatsServer, NatsUsers, Scratch, Servers, TestDb, TestNats, Tools, links, ports,
};

/// A running system. Dropping it kills its processes and drops its database.
#[derive(Debug)]
pub struct System {
    /// Its database.
    pub db: TestDb,
    /// Its ingresses.
    pub ingresses: Vec<Process>,
    /// Its workers.
    pub workers: Vec<Process>,
    /// Its payment gateway, if it has one.
    pub gateway: Option<Process>,
    /// The address of its nats-server, for a user who may do anything.
    pub nats_url: String,
    /// The prefix of its subjects.
    pub prefix: String,
    // After the processes: fields are dropped in this order.
    own: Option<Servers>,
    nats: Option<TestNats>,
    tls: Option<Tls>,
    _scratch: Scratch,
}

/// What TLS to both servers takes.
#[derive(Debug)]
struct Tls {
    authority: Authority,
    postgres: PostgresTls,
}

/// One process of a system.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<&'static str>,
    settings: Vec<(String, String)>,
    log: PathBuf,
    /// Where it tells its metrics.
    pub metrics_addr: SocketAddr,
    /// Where it serves HTTP, if it is an ingress or a gateway.
    pub http_addr: Option<SocketAddr>,
    links: Option<Links>,
    child: Child,
}

/// The secret that signs the tokens of test systems.
pub const TOKEN_SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// All clients of a test come from one address, and some ask as quickly as they can: limits are for
/// the tests that set them.
const UNLIMITED: [(&str, &str); 6] = [
    ("ONSALE_RATE_ADDRESS_PER_S", "0"),
    ("ONSALE_RATE_USER_PER_S", "0"),
    ("ONSALE_SIGN_IN_ADDRESS_PER_MIN", "0"),
    ("ONSALE_SIGN_IN_ACCOUNT_PER_MIN", "0"),
    ("ONSALE_CONNECTIONS_PER_ADDRESS_MAX", "0"),
    ("ONSALE_EVENT_STREAMS_PER_ADDRESS_MAX", "0"),
];
pub use gateway::{GATEWAY_SECRET, WEBHOOK_SECRET};
pub use options::SystemOptions;

/// Where the servers of a test are reached.
const HOST: &str = "127.0.0.1";
/// No process of a test may take longer to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

impl System {
    /// Starts a system on a migrated database; returns when its ingresses are ready and its
    /// partitions have owners.
    ///
    /// # Errors
    /// When something does not start; the error has the end of its log.
    pub async fn start(options: SystemOptions) -> Result<Self, Error> {
        // On the heap: it is large, and so would be everything that waits for it.
        Box::pin(Self::launch(options)).await
    }

    async fn launch(options: SystemOptions) -> Result<Self, Error> {
        let scratch = Scratch::new("system").map_err(io_error("making a temporary folder"))?;
        let dir = scratch.path().to_owned();
        let prefix = format!("t{:016x}", rand::random::<u64>());
        let subjects = Subjects::new(&prefix).expect("letters and digits make a prefix");
        let authority = match options.tls {
            true => Some(Authority::make(&dir).map_err(io_error("making an authority"))?),
            false => None,
        };
        let certificate = authority.as_ref().map(|authority| authority.issue(HOST));
        let certificate = certificate
            .transpose()
            .map_err(io_error("issuing a certificate"))?;
        let adjust = |nats| NatsOptions {
            users: Some(NatsUsers::of_test(subjects)),
            tls: certificate.clone(),
            ..nats
        };
        let (own, nats) = match options.own_servers {
            true => {
                let tools = Tools::locate()?;
                (
                    Some(Servers::start_adjusted(&tools, "own", adjust).await?),
                    None,
                )
            }
            false => (None, Some(TestNats::start_with(adjust).await?)),
        };
        let db = match &own {
            Some(own) => TestDb::create_on(&own.postgres.url("postgres")).await?,
            None => TestDb::create().await?,
        };
        onsale_platform::db::migrate(db.url())
            .await
            .map_err(|error| failed("migrations", error, String::new()))?;
        db.make_roles()
            .await
            .map_err(|error| failed("roles", error, String::new()))?;
        let tls = match authority.zip(certificate) {
            Some((authority, certificate)) => {
                let upstream = links::address(db.url())?;
                let started = PostgresTls::start(upstream, &certificate).await;
                let postgres = started.map_err(io_error("starting TLS"))?;
                Some(Tls {
                    authority,
                    postgres,
                })
            }
            None => None,
        };
        let mut system = Self {
            db,
            ingresses: Vec::new(),
            workers: Vec::new(),
            gateway: None,
            nats_url: String::new(),
            prefix,
            own,
            nats,
            tls,
            _scratch: scratch,
        };
        system.nats_url = system.nats_url_of(None);
        system.keep_streams().await?;
        let addrs = (0..options.ingresses).map(|_| free_addr());
        let addrs = addrs.collect::<Result<Vec<_>, _>>()?;
        if options.gateway {
            // Futures of tests are large enough.
            let starting = gateway::start(&dir, addrs.first().copied());
            let gateway = Box::pin(starting).await?;
            system.gateway = Some(gateway);
        }
        for index in 0..options.workers {
            let worker = system
                .process("onsale-workers", index, &dir, &options, None)
                .await?;
            system.workers.push(worker);
        }
        for (index, addr) in addrs.into_iter().enumerate() {
            let ingress = system
                .process("onsale-ingress", index, &dir, &options, Some(addr))
                .await?;
            system.ingresses.push(ingress);
        }
        for ingress in &system.ingresses {
            ingress.ready().await?;
        }
        if !system.workers.is_empty() {
            system.owned().await?;
        }
        Ok(system)
    }

    async fn process(
        &self,
        name: &'static str,
        index: usize,
        dir: &Path,
        options: &SystemOptions,
        http_addr: Option<SocketAddr>,
    ) -> Result<Process, Error> {
        let metrics_addr = free_addr()?;
        let (role, user) = match http_addr {
            Some(_) => (Role::Ingress, User::Ingress),
            None => (Role::Workers, User::Workers),
        };
        let (mut nats_url, mut database_url) =
            (self.nats_server().url_of(user), self.db.url_of(role));
        if let Some(tls) = &self.tls {
            database_url = links::to(tls.postgres.addr(), &database_url) + "?sslmode=verify-full";
        }
        let mut links = None;
        if options.proxied {
            let proxies = Links::start(&nats_url, &database_url).await?;
            nats_url = by_way_of(&proxies.nats, &nats_url);
            database_url = by_way_of(&proxies.postgres, &database_url);
            links = Some(proxies);
        }
        let mut settings = vec![
            ("DATABASE_URL".to_owned(), database_url),
            ("NATS_URL".to_owned(), nats_url),
            ("ONSALE_SUBJECT_PREFIX".to_owned(), self.prefix.clone()),
            ("ONSALE_METRICS_ADDR".to_owned(), metrics_addr.to_string()),
            // A test's subscribers are on this host.
            (
                "ONSALE_WEBHOOK_PRIVATE_TARGETS".to_owned(),
                "true".to_owned(),
            ),
        ];
        if let Some(tls) = &self.tls {
            let ca = tls.authority.file().display().to_string();
            settings.push(("ONSALE_DATABASE_CA".to_owned(), ca.clone()));
            settings.push(("ONSALE_NATS_CA".to_owned(), ca));
        }
        // Whoever charges in cash has paid at a desk.
        settings.push(("ONSALE_CASH".to_owned(), "true".to_owned()));
        match &self.gateway {
            Some(gateway) => {
                settings.extend(gateway::settings_for(gateway, http_addr.is_some()));
            }
            // Whoever charges by card has paid at a terminal.
            None => settings.push(("ONSALE_CARDS".to_owned(), "terminal".to_owned())),
        }
        if let Some(addr) = http_addr {
            settings.push(("ONSALE_HTTP_ADDR".to_owned(), addr.to_string()));
            settings.push(("ONSALE_TOKEN_SECRET".to_owned(), TOKEN_SECRET.to_owned()));
            settings.extend(UNLIMITED.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        settings.extend(options.settings.iter().cloned());
        let log = dir.join(format!("{name}-{index}.log"));
        let launch = Process::launch(name, &[], settings, log, metrics_addr, http_addr);
        let process = Box::pin(launch).await?;
        Ok(Process { links, ..process })
    }

    /// Its own servers. Whoever restarts one finds it at the same address.
    ///
    /// # Panics
    /// When it was not started with [`SystemOptions::own_servers`].
    pub fn servers(&mut self) -> &mut Servers {
        self.own.as_mut().expect("a system with its own servers")
    }

    /// The address of NATS for a user; without one, for who may do anything.
    #[must_use]
    pub fn nats_url_of(&self, user: Option<User>) -> String {
        let server = self.nats_server();
        let url = user.map_or_else(|| server.url(), |user| server.url_of(user));
        nats_with_ca(&url, self.tls.as_ref().map(|tls| tls.authority.file()))
    }

    /// As `onsale migrate` does.
    async fn keep_streams(&self) -> Result<(), Error> {
        let refused = |error: nats::Error| failed("streams", error, String::new());
        let url = self.nats_url_of(Some(User::Operator));
        let client = nats::connect(&url, "onsale-migrate")
            .await
            .map_err(refused)?;
        let subjects = Subjects::new(&self.prefix).expect("it was a prefix before");
        let jetstream = nats::jetstream(client);
        let settings = Streams::default();
        let kept = nats::update_streams(&jetstream, &subjects, &settings);
        kept.await.map_err(refused)
    }

    fn nats_server(&self) -> &NatsServer {
        let own = self.own.as_ref().map(|own| &own.nats);
        let single = self.nats.as_ref().map(|nats| &nats.server);
        own.or(single).expect("a system has a nats-server")
    }

    /// The base URL of an ingress.
    #[must_use]
    pub fn url(&self, ingress: usize) -> String {
        let addr = self.ingresses[ingress]
            .http_addr
            .expect("an ingress has an address");
        format!("http://{addr}")
    }

    /// The base URL of its payment gateway, where it has one.
    #[must_use]
    pub fn gateway_url(&self) -> Option<String> {
        let gateway = self.gateway.as_ref()?;
        let addr = gateway.http_addr.expect("a gateway has an address");
        Some(format!("http://{addr}"))
    }

    /// Waits until every partition has an owner that is alive.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn owned(&self) -> Result<(), Error> {
        let (client, connection) = tokio_postgres::connect(self.db.url(), tokio_postgres::NoTls)
            .await
            .map_err(|error| failed("Postgres", error, String::new()))?;
        let mut background = JoinSet::new();
        background.spawn(connection);
        let sql = "SELECT count(*) > 0 AND count(*) = count(w.worker_id) FROM partition \
                   LEFT JOIN worker w ON w.worker_id = owner";
        let owned = async {
            loop {
                let row = client.query_one(sql, &[]).await;
                if row.is_ok_and(|row| row.get(0)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let owned = tokio::time::timeout(PATIENCE, owned).await;
        owned.map_err(|_| {
            let logs: Vec<_> = self.workers.iter().map(Process::log_tail).collect();
            failed(
                "onsale-workers",
                "partitions have no owner",
                logs.join("\n"),
            )
        })
    }
}

impl Process {
    async fn launch(
        name: &'static str,
        arguments: &[&'static str],
        settings: Vec<(String, String)>,
        log: PathBuf,
        metrics_addr: SocketAddr,
        http_addr: Option<SocketAddr>,
    ) -> Result<Self, Error> {
        let program = binary(name)?;
        let child = launch(&program, arguments, &settings, &log).await?;
        Ok(Self {
            name,
            program,
            arguments: arguments.to_vec(),
            settings,
            log,
            metrics_addr,
            http_addr,
            links: None,
            child,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its links to the servers.
    ///
    /// # Panics
    /// When its system was not started as [`SystemOptions::proxied`].
    #[must_use]
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("a proxied system")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Another setting, from its next start on.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_string()));
    }

    /// Waits for its end.
    pub async fn ended(&self) -> std::process::ExitStatus {
        self.child.wait().await
    }

    /// Kills it with SIGKILL and waits for its end.
    pub async fn kill9(&self) {
        self.child.stop(Signal::SIGKILL, PATIENCE).await;
    }

    /// Asks it to end and waits for that.
    pub async fn stop(&self) -> std::process::ExitStatus {
        self.child.stop(Signal::SIGTERM, PATIENCE).await
    }

    /// Starts it again, after its end.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.child = launch(&self.program, &self.arguments, &self.settings, &self.log).await?;
        if self.http_addr.is_some() {
            self.ready().await?;
        }
        Ok(())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of that.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits until an ingress, or a gateway, answers `/readyz` with 200.
    async fn ready(&self) -> Result<(), Error> {
        let Some(addr) = self.http_addr else {
            return Ok(());
        };
        let ready = async {
            loop {
                if let Some(status) = self.child.exit_status() {
                    return Err(failed(self.name, status, self.log_tail()));
                }
                let answer = reqwest::get(format!("http://{addr}/readyz")).await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(failed(self.name, "not ready in time", self.log_tail())),
        }
    }
}

/// An address on loopback that nobody has.
fn free_addr() -> Result<SocketAddr, Error> {
    let port = ports::free().map_err(io_error("finding a free port"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn launch(
    program: &Path,
    arguments: &[&str],
    settings: &[(String, String)],
    log: &Path,
) -> Result<Child, Error> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(io_error("opening a log"))?;
    let mut command = Tie::new(Signal::SIGKILL).command(program);
    command.args(arguments);
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    spawn(command).await.map_err(io_error("starting a process"))
}

/// A binary of this workspace, built beside the test.
fn binary(name: &'static str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(io_error("finding this test's own path"))?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|p| p.exists());
    found.ok_or_else(|| {
        let mend = "it is not built: run `cargo build --workspace --bins`";
        failed(name, mend, String::new())
    })
}

fn failed(server: &'static str, reason: impl ToString, log_tail: String) -> Error {
    Error::Start {
        server,
        reason: reason.to_string(),
        log_tail,
    }
}
