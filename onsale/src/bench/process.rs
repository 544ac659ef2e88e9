//! A process of ours that a benchmark runs: started, waited for, ended.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use onsale_testkit::spawn::{self, Child, Signal, Tie};
use onsale_testkit::{log_tail, ports};
use tokio::time::Instant;

/// How long it may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(25);

/// A process to start.
pub struct Spec {
    role: &'static str,
    program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    http: Option<SocketAddr>,
}

/// A child of ours.
pub struct Process {
    /// Where it serves; nowhere that anybody asks, for workers.
    pub http: SocketAddr,
    /// Where it tells its metrics.
    pub metrics: SocketAddr,
    /// Where it logs.
    pub log: PathBuf,
    child: Child,
}

impl Spec {
    /// A program of ours, to be started with this environment.
    pub fn new(
        role: &'static str,
        program: PathBuf,
        environment: &[(&'static str, String)],
    ) -> Self {
        Self {
            role,
            program,
            arguments: Vec::new(),
            environment: environment.to_vec(),
            http: None,
        }
    }

    /// One that serves HTTP.
    ///
    /// # Errors
    /// When no port is free.
    pub fn http(self) -> anyhow::Result<Self> {
        Ok(Self {
            http: Some(free_addr()?),
            ..self
        })
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// With the end of its log, when it does not.
    pub async fn start(self, dir: &Path) -> anyhow::Result<Process> {
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
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.child.exit_status().is_some()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Ends it by a signal, for good if that takes too long.
    pub async fn end(&self, signal: Signal) {
        self.child.stop(signal, STOP_LIMIT).await;
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(&self) {
        self.end(Signal::SIGTERM).await;
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
///
/// # Errors
/// When it is not there.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
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
