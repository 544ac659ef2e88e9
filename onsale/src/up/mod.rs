//! `onsale up`: a whole system on one machine, in the foreground.
//!
//! It starts the servers, prepares the database, starts our processes and keeps all of them
//! running until it is asked to stop. It decides nothing about seats or money, and everything it
//! starts can be started without it.

mod banner;
mod owners;
mod plan;
mod room;
mod secrets;
mod servers;
mod start;
mod steps;
mod supervisor;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use onsale_platform::config;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::running::{DEFAULT_DATA_DIR, Lock};
pub(crate) use plan::{check_disk, default_ports_taken};
use start::System;
use steps::{Steps, say};

/// Runs everything on this machine, in the foreground, until Ctrl-C.
///
/// Starts Postgres and nats-server on loopback (the pinned ones from `make tools`; or those that
/// ONSALE_POSTGRES_BIN and ONSALE_NATS_SERVER name; none, where DATABASE_URL or NATS_URL names a
/// running one), migrates, seeds a demo catalogue, and starts a simulated payment gateway, ingresses
/// and workers, which are started again when they die. The first start on a data directory plays the demo. Ctrl-C stops
/// all in good order, a second one at once; the data stays.
#[derive(ClapArgs, Debug, Clone)]
#[command(max_term_width = 100)]
pub struct Args {
    /// Remove the data of former runs first.
    #[arg(long)]
    pub fresh: bool,

    /// Where the data lives, kept between runs.
    #[arg(long, env = "ONSALE_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Take any free ports. Without it: API 8080 and following, metrics 9601 and following,
    /// Postgres 5433, NATS 4222, the simulated payment gateway 8090.
    #[arg(long)]
    pub random_ports: bool,

    /// How many ingress processes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub ingresses: u16,

    /// How many worker processes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub workers: u16,

    /// Start no simulated payment gateway: nothing can be paid through one then.
    #[arg(long)]
    pub no_gateway: bool,

    /// No demo and no banner.
    #[arg(long)]
    pub headless: bool,

    /// When ready, print one line of JSON with all addresses, accounts and processes on standard
    /// output, in place of demo and banner.
    #[arg(long)]
    pub json: bool,

    /// Use this Postgres, as `postgres://user:password@host:port/database`, and start none. Its user
    /// makes a role for each kind of process, unless --no-roles is given.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,

    /// File with the certificate authorities (PEM) that this Postgres is verified by, where its
    /// address has `sslmode=verify-full`; those of the system without it.
    #[arg(
        long,
        env = "ONSALE_DATABASE_CA",
        value_name = "FILE",
        requires = "database_url"
    )]
    database_ca: Option<PathBuf>,

    /// Make no roles of Postgres: every process connects as the same user, and may do anything in
    /// the database.
    #[arg(long)]
    pub no_roles: bool,

    /// Use this NATS, as `nats://user:password@host:port`, and start none. All processes then use
    /// this user.
    #[arg(long, env = "NATS_URL", hide_env_values = true)]
    nats_url: Option<String>,

    /// File with the certificate authorities (PEM) that this NATS is verified by, where its address
    /// begins with `tls://`; those of the system without it.
    #[arg(
        long,
        env = "ONSALE_NATS_CA",
        value_name = "FILE",
        requires = "nats_url"
    )]
    nats_ca: Option<PathBuf>,

    /// Prefix of all subjects and streams.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub streams: config::Streams,
}

/// What the simulated payment gateway knows us by, of a system that runs on this data directory.
///
/// # Errors
/// When it can't be read.
pub(crate) fn gateway_key(data_dir: &Path) -> anyhow::Result<String> {
    secrets::gateway_key(&DataDir(data_dir.to_owned()))
}

impl Args {
    /// The Postgres that was named.
    fn named_database(&self) -> Option<String> {
        let url = self.database_url.as_ref()?;
        Some(config::database_with_ca(url, self.database_ca.as_deref()))
    }

    /// The NATS that was named.
    fn named_nats(&self) -> Option<String> {
        let url = self.nats_url.as_ref()?;
        Some(config::nats_with_ca(url, self.nats_ca.as_deref()))
    }
}

/// What lies where in a data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    pub(crate) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }
    pub(crate) fn nats(&self) -> PathBuf {
        self.0.join("nats")
    }
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }
    fn token_secret(&self) -> PathBuf {
        self.0.join("token-secret")
    }
    /// Passwords of roles and users, each in a file.
    fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }
    /// The book of the simulated payment gateway.
    fn gateway(&self) -> PathBuf {
        self.0.join("gateway")
    }
    fn demo_was_played(&self) -> PathBuf {
        self.0.join("demo-was-played")
    }
    /// Everything that a run leaves. The directory itself may hold what is not ours.
    fn contents(&self) -> [PathBuf; 7] {
        [
            self.postgres(),
            self.nats(),
            self.gateway(),
            self.logs(),
            self.token_secret(),
            self.secrets(),
            self.demo_was_played(),
        ]
    }
}

/// Runs the command.
///
/// # Errors
/// When something is in the way, or does not start.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let wished = args.data_dir.clone();
    let data_dir =
        std::path::absolute(&wished).with_context(|| format!("finding {}", wished.display()))?;
    let lock = match Lock::take(&data_dir)? {
        Ok(lock) => lock,
        Err(pid) => bail!(
            "an `onsale up` (process {pid}) already runs on {}; `onsale down` stops it, --data-dir takes another one",
            data_dir.display()
        ),
    };
    // A connection is a file; a shell often allows no more than 1,024.
    if let Err(error) = onsale_testkit::spawn::allow_many_files() {
        say(format!(
            "  many connections at once may be refused: {error}"
        ));
    }
    let stop = CancellationToken::new();
    // Aborted when it is dropped.
    let mut signals = JoinSet::new();
    signals.spawn(listen(stop.clone()));
    live(&args, DataDir(data_dir), &lock, &stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// From the first step to the last process.
async fn live(
    args: &Args,
    dir: DataDir,
    lock: &Lock,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let steps = Steps::start();
    let mut system = tokio::select! {
        started = Box::pin(System::start(args, dir, &steps)) => started?,
        () = stop.cancelled() => bail!("stopped before it was ready"),
    };
    if !args.json && !args.headless {
        let running = system.running();
        lock.describe(&running).context("describing what runs")?;
        tokio::select! {
            played = system.play_demo_once() => played?,
            () = stop.cancelled() => {}
        }
    }
    // Last, so that there is time to send somebody there.
    tokio::select! {
        () = system.open_room(&steps) => {}
        () = stop.cancelled() => {}
    }
    let running = system.running();
    lock.describe(&running).context("describing what runs")?;
    if args.json {
        let mut out = std::io::stdout();
        writeln!(out, "{}", serde_json::to_string(&running)?)
            .and_then(|()| out.flush())
            .context("printing")?;
    } else if !args.headless {
        say(banner::text(&running, system.place(), steps.elapsed_s()));
    }
    system.keep(lock, stop).await;
    let stopping = Steps::start();
    system.stop(&stopping).await;
    Ok(())
}

/// The first SIGINT or SIGTERM asks for a clean end, the second forces it. Whatever still runs
/// then is tied to this process and ends with it.
async fn listen(stop: CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.is_cancelled() {
            std::process::exit(130);
        }
        say("\nstopping; again to force");
        stop.cancel();
    }
}
