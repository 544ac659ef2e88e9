//! Settings that every process has: a flag, an environment variable, a default.

use crate::settings::Wrong;
use crate::{address, db, nats};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where Postgres and NATS are and how to use them.
#[derive(Args, Clone)]
pub struct Common {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub servers: Servers,

    /// Prefix of all subjects and streams, so that several systems can share one server.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// Partitions per lane. Stored in Postgres at the first start; a process that is configured
    /// otherwise refuses to start.
    #[arg(long, env = "ONSALE_PARTITIONS", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,

    /// Connections to Postgres in the pool of this process. A worker may hold up to 7 more of its
    /// own.
    #[arg(long, env = "ONSALE_DB_POOL", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(2..=200))]
    pub db_pool: u16,
}

/// The two servers. Whoever needs an address asks for it, so that none goes without its authority.
#[derive(Args, Clone)]
pub struct Servers {
    /// Postgres, as `postgres://user:password@host:port/database`. With `?sslmode=verify-full` the
    /// connection is encrypted and the server verified.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,

    /// File with the certificate authorities (PEM) that Postgres is verified by; those of the system
    /// without it.
    #[arg(long, env = "ONSALE_DATABASE_CA", value_name = "FILE")]
    database_ca: Option<PathBuf>,

    /// NATS, as `nats://user:password@host:port`. With `tls://` the connection is encrypted and the
    /// server verified.
    #[arg(
        long,
        env = "NATS_URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222"
    )]
    nats_url: String,

    /// File with the certificate authorities (PEM) that NATS is verified by; those of the system
    /// without it.
    #[arg(long, env = "ONSALE_NATS_CA", value_name = "FILE")]
    nats_ca: Option<PathBuf>,
}

impl Servers {
    /// The address of Postgres, with all that it takes to connect.
    #[must_use]
    pub fn database_url(&self) -> String {
        database_with_ca(&self.database_url, self.database_ca.as_deref())
    }

    /// The address of NATS, with all that it takes to connect.
    #[must_use]
    pub fn nats_url(&self) -> String {
        nats_with_ca(&self.nats_url, self.nats_ca.as_deref())
    }

    /// What is wrong with settings that are right one by one.
    #[must_use]
    pub fn contradictions(&self) -> Vec<Wrong> {
        let database = db::check_url(&self.database_url()).err();
        let nats = nats::check_url(&self.nats_url()).err();
        let of_database = |error: db::Error| Wrong {
            setting: "DATABASE_URL and ONSALE_DATABASE_CA".to_owned(),
            why: error.to_string(),
        };
        let of_nats = |error: nats::Error| Wrong {
            setting: "NATS_URL and ONSALE_NATS_CA".to_owned(),
            why: error.to_string(),
        };
        let all = [database.map(of_database), nats.map(of_nats)];
        all.into_iter().flatten().collect()
    }
}

/// An address of Postgres with the authority that it is verified by.
#[must_use]
pub fn database_with_ca(url: &str, ca: Option<&Path>) -> String {
    with_ca(url, "sslrootcert", ca)
}

/// An address of NATS with the authority that it is verified by.
#[must_use]
pub fn nats_with_ca(url: &str, ca: Option<&Path>) -> String {
    with_ca(url, "ca", ca)
}

fn with_ca(url: &str, parameter: &str, ca: Option<&Path>) -> String {
    match ca {
        Some(path) => address::with_parameter(url, parameter, &path.to_string_lossy()),
        None => url.to_owned(),
    }
}

/// How NATS keeps our streams. Workers make those that are missing, `onsale migrate` and `onsale up`
/// also change those that are there.
#[derive(Args, Clone, Copy, Debug)]
pub struct Streams {
    /// Copies of each stream on the NATS cluster: 1 in development, 3 in production.
    #[arg(long = "stream-replicas", env = "ONSALE_STREAM_REPLICAS", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,

    /// The most that each of the five streams may take on the disk of each NATS server that has a
    /// copy, in bytes. JetStream reserves it.
    #[arg(long = "stream-bytes-max", env = "ONSALE_STREAM_BYTES_MAX", default_value_t = 1 << 30,
          value_parser = clap::value_parser!(i64).range(1_048_576..))]
    pub bytes_max: i64,

    /// How long the events stream keeps facts, in hours: so far back can a consumer begin. The disk
    /// may hold less.
    #[arg(long = "events-keep-hours", env = "ONSALE_EVENTS_KEEP_HOURS", default_value_t = 72,
          value_parser = clap::value_parser!(u32).range(24..=87_600))]
    pub events_keep_h: u32,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            replicas: 1,
            bytes_max: 1 << 30,
            events_keep_h: 72,
        }
    }
}

/// Who may get facts over HTTP.
#[derive(Args, Clone, Copy, Debug)]
pub struct WebhookTargets {
    /// Whether subscribers may have addresses that are not public: of this host, or of a private
    /// network. The same for all ingresses and workers. Who may make subscribers could otherwise
    /// reach, by way of us, what only we can reach.
    #[arg(long = "webhook-private-targets", env = "ONSALE_WEBHOOK_PRIVATE_TARGETS",
          default_value_t = false, action = clap::ArgAction::Set)]
    pub private_targets: bool,
}

/// What is told about the process while it runs.
#[derive(Args, Clone)]
pub struct Telemetry {
    /// Address of the metrics endpoint (`/metrics`, Prometheus text); none without it.
    #[arg(long, env = "ONSALE_METRICS_ADDR")]
    pub metrics_addr: Option<SocketAddr>,

    /// What to log, as a tracing filter, for example `info,onsale_workers=debug`.
    #[arg(long, env = "ONSALE_LOG", default_value = "info")]
    pub log: String,

    /// How to log.
    #[arg(long, env = "ONSALE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
