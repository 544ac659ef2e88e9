//! Settings that every process has: a flag, an environment variable, a default.

use clap::Args;
use std::net::SocketAddr;

/// Where Postgres and NATS are and how to use them.
#[derive(Args, Clone)]
pub struct Common {
    /// Postgres, as `postgres://user:password@host:port/database`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// NATS, as `nats://host:port`.
    #[arg(
        long,
        env = "NATS_URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222"
    )]
    pub nats_url: String,

    /// Prefix of all subjects and streams, so that several systems can share one server.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// Partitions per lane. Stored in Postgres at the first start; a process that is configured
    /// otherwise refuses to start.
    #[arg(long, env = "ONSALE_PARTITIONS", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub partitions: u16,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub streams: Streams,

    /// Connections to Postgres that this process may hold.
    #[arg(long, env = "ONSALE_DB_POOL", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(2..=200))]
    pub db_pool: u16,
}

/// How NATS keeps our streams. The same for all processes: each brings them up to date as it starts.
#[derive(Args, Clone, Copy, Debug)]
pub struct Streams {
    /// Copies of each stream on the NATS cluster: 1 in development, 3 in production.
    #[arg(long = "stream-replicas", env = "ONSALE_STREAM_REPLICAS", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,

    /// The most that each of the four streams may take on the disk of each NATS server that has a
    /// copy, in bytes. JetStream reserves it.
    #[arg(long = "stream-bytes-max", env = "ONSALE_STREAM_BYTES_MAX", default_value_t = 1 << 30,
          value_parser = clap::value_parser!(i64).range(1_048_576..))]
    pub bytes_max: i64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            replicas: 1,
            bytes_max: 1 << 30,
        }
    }
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
