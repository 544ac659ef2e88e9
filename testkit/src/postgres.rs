//! One Postgres of our own, on loopback, that is gone when we are.

mod data;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::place::Place;
use crate::ports;
use crate::server::{self, Error, Log, POLL, io_error};
use crate::spawn::{self, Child, Signal, Tie};
use crate::tools::Tools;

const SERVER: &str = "Postgres";
/// The only role that is made: the owner of everything.
const ROLE: &str = "onsale";
/// Longer than a replay of the largest WAL that the settings below allow.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long a server that was told to stop may write its last checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A free port may be taken before Postgres listens on it.
const PORT_TRIES: u32 = 5;

/// How a server shall run.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Folder of its data; made when it is not there.
    pub data_dir: PathBuf,
    /// The port on loopback; any free one when there is none.
    pub port: Option<u16>,
    /// Whether a commit survives a power cut (fsync). Anything measured without it is void.
    pub durable: bool,
    /// More settings, each as `name=value`.
    pub settings: Vec<String>,
    /// Where it logs; beside the data when there is none.
    pub log: Option<PathBuf>,
}

impl PostgresOptions {
    /// A durable server on any free port.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            durable: true,
            settings: Vec::new(),
            log: None,
        }
    }
}

/// How a running server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ends all sessions and writes a checkpoint.
    Fast,
    /// At once; the next start recovers.
    Immediate,
}

/// A running Postgres. Dropping it stops it at once, its data stays.
#[derive(Debug)]
pub struct PostgresServer {
    child: Option<Child>,
    place: Place,
    options: PostgresOptions,
    password: String,
    port: u16,
    version: u32,
}

impl PostgresServer {
    /// Starts a server, on new data or on what a former one has left, however that one ended. It
    /// accepts connections when this returns.
    ///
    /// # Errors
    /// With the end of the server's log, when it does not start.
    pub async fn start(tools: &Tools, options: PostgresOptions) -> Result<Self, Error> {
        let place = find_place(tools, &options.data_dir).await?;
        let version = major_version(&place.bin)?;
        let password = data::password(&place)?;
        data::settle(&place).await?;
        data::init(&place, version).await?;
        data::check_version(&place, version)?;
        let mut server = Self {
            child: None,
            place,
            port: 0,
            version,
            password,
            options,
        };
        server.launch(server.options.port).await?;
        Ok(server)
    }

    /// Waits until a server that a killed run has left on this data has gone.
    ///
    /// # Errors
    /// [`Error::InUse`] when it stays.
    pub async fn settled(tools: &Tools, data_dir: &Path) -> Result<(), Error> {
        data::settle(&find_place(tools, data_dir).await?).await
    }

    /// Where the data of `data_dir` really lies; another folder when root's Postgres could not
    /// reach that one.
    ///
    /// # Errors
    /// When no place can be made.
    pub fn place(tools: &Tools, data_dir: &Path) -> Result<Place, Error> {
        Ok(Place::find(tools, data_dir)?)
    }

    /// The address of a database, with the password in it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{ROLE}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// The process id of the postmaster; 0 when it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::pid)
    }

    /// The port on loopback. It stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The major version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where its data lies and who runs it.
    #[must_use]
    pub fn location(&self) -> &Place {
        &self.place
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| child.exit_status().is_none())
    }

    /// Waits until the server ends; for ever when it does not run.
    pub async fn ended(&self) -> ExitStatus {
        match &self.child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Creates a database, unless it is there.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        create_database(&self.url("postgres"), name).await
    }

    /// Sends a signal to the postmaster, for instance SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            child.signal(signal);
        }
    }

    /// Stops the server and waits for its end.
    pub async fn stop(&mut self, how: Stop) {
        if let Some(child) = self.child.take() {
            let signal = match how {
                Stop::Fast => Signal::SIGINT,
                Stop::Immediate => Signal::SIGQUIT,
            };
            child.stop(signal, STOP_LIMIT).await;
        }
    }

    /// Kills the postmaster as a crash would; its other processes notice and follow.
    pub async fn kill9(&mut self) {
        if let Some(child) = self.child.take() {
            child.stop(Signal::SIGKILL, STOP_LIMIT).await;
        }
    }

    /// Starts again on the same data and port, after stopping what still runs.
    ///
    /// # Errors
    /// As [`PostgresServer::start`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop(Stop::Fast).await;
        data::settle(&self.place).await?;
        self.launch(Some(self.port)).await
    }

    async fn launch(&mut self, port: Option<u16>) -> Result<(), Error> {
        let mut port_tries = if port.is_some() { 1 } else { PORT_TRIES };
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            self.port = match port {
                Some(port) => port,
                None => ports::free().map_err(io_error("looking for a free port"))?,
            };
            port_tries -= 1;
            match self.launch_once().await {
                Ok(child) => {
                    self.child = Some(child);
                    return Ok(());
                }
                Err(Error::Start { log_tail, .. })
                    if port_tries > 0 && log_tail.contains("could not bind") => {}
                // Sessions of a killed postmaster need a moment to notice.
                Err(Error::Start { log_tail, .. })
                    if log_tail.contains("shared memory block")
                        && tokio::time::Instant::now() < deadline =>
                {
                    port_tries += 1;
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn launch_once(&self) -> Result<Child, Error> {
        let log_path = self
            .options
            .log
            .clone()
            .unwrap_or_else(|| self.place.dir.join("postgres.log"));
        let (log, log_file) = Log::open(&log_path)?;
        let data = data::path(&self.place);
        let tie = Tie::new(Signal::SIGINT).run_by(self.place.account.as_ref());
        let mut command = tie.command(self.place.bin.join("postgres"));
        command.arg("-D").arg(&data);
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        data::plain_environment(&mut command);
        let errors = log_file.try_clone().map_err(io_error("sharing a log"))?;
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(errors);
        let child = spawn::spawn(command)
            .await
            .map_err(io_error("starting Postgres"))?;

        let (pid_file, pid) = (data.join("postmaster.pid"), child.pid());
        server::until_ready(SERVER, &child, &log, READY_LIMIT, || {
            says_ready(&pid_file, pid)
        })
        .await?;
        Ok(child)
    }

    fn settings(&self) -> Vec<String> {
        let on = if self.options.durable { "on" } else { "off" };
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            // A path of a socket may not be longer than 107 bytes; nobody needs one.
            "unix_socket_directories=".to_owned(),
            "max_connections=400".to_owned(),
            "shared_buffers=256MB".to_owned(),
            "max_wal_size=2GB".to_owned(),
            "min_wal_size=256MB".to_owned(),
            "checkpoint_timeout=15min".to_owned(),
            "timezone=UTC".to_owned(),
            "log_timezone=UTC".to_owned(),
            "log_line_prefix=%m [%p] %a ".to_owned(),
            "log_checkpoints=off".to_owned(),
            format!("fsync={on}"),
            format!("synchronous_commit={on}"),
            format!("full_page_writes={on}"),
        ];
        settings.extend(self.options.settings.iter().cloned());
        settings
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.signal(Signal::SIGQUIT);
            child.wait_blocking(Duration::from_secs(10));
        }
    }
}

/// Creates a database on the server behind `url`, unless it is there.
pub(crate) async fn create_database(url: &str, name: &str) -> Result<(), Error> {
    let failed = |source| Error::Database {
        what: format!("create database {name}"),
        source,
    };
    let client = connect(url).await.map_err(failed)?;
    let there = client
        .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name])
        .await
        .map_err(failed)?;
    if there.is_none() {
        client
            .batch_execute(&format!("CREATE DATABASE {}", quoted(name)))
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Drops a database, with the sessions that still use it.
pub(crate) async fn drop_database(url: &str, name: &str) -> Result<(), Error> {
    let failed = |source| Error::Database {
        what: format!("drop database {name}"),
        source,
    };
    let client = connect(url).await.map_err(failed)?;
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
    client.batch_execute(&statement).await.map_err(failed)
}

/// Drops a role that owns nothing, if it is there.
pub(crate) async fn drop_role(url: &str, name: &str) -> Result<(), Error> {
    let failed = |source| Error::Database {
        what: format!("drop role {name}"),
        source,
    };
    let client = connect(url).await.map_err(failed)?;
    let statement = format!("DROP ROLE IF EXISTS {}", quoted(name));
    client.batch_execute(&statement).await.map_err(failed)
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    // Ends when the client is dropped; its error reaches the caller through the client.
    #[allow(
        clippy::disallowed_methods,
        reason = "it lives exactly as long as the client"
    )]
    drop(tokio::spawn(connection));
    Ok(client)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `pg_ctl` judges readiness in the same way: by the last line of the pid file.
fn says_ready(pid_file: &Path, pid: u32) -> bool {
    let Ok(text) = fs::read_to_string(pid_file) else {
        return false;
    };
    let mut lines = text.lines();
    lines.next().and_then(|first| first.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

async fn find_place(tools: &Tools, dir: &Path) -> Result<Place, Error> {
    let (tools, dir) = (tools.clone(), dir.to_owned());
    // It may copy the programs, which is no work for a runtime's thread.
    let found = tokio::task::spawn_blocking(move || Place::find(&tools, &dir)).await;
    Ok(found.expect("finding a place does not panic and is not cancelled")?)
}

fn major_version(bin: &Path) -> Result<u32, Error> {
    let program = bin.join("postgres");
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(io_error(format!("running {}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().nth(2).and_then(|version| {
        let digits = version
            .find(|c: char| !c.is_ascii_digit())
            .map_or(version, |end| &version[..end]);
        digits.parse().ok()
    });
    number.ok_or_else(|| Error::Start {
        server: SERVER,
        reason: format!("{} --version answered {text:?}", program.display()),
        log_tail: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
