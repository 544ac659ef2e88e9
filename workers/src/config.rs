//! Settings of a worker process.

use clap::{Args, Parser, ValueEnum};
use onsale_platform::config;
use onsale_platform::settings::{Settings, Wrong};

/// Decides, pays, sweeps and publishes: any subset of the roles, so that each scales alone.
#[derive(Parser, Clone)]
#[command(name = "onsale-workers", version, about, max_term_width = 100)]
pub struct Config {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: config::Common,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub streams: config::Streams,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: config::Telemetry,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub roles: Roles,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub seats: Seats,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub money: Money,
}

impl Settings for Config {
    fn contradictions(&self) -> Vec<Wrong> {
        let mut wrong = self.common.servers.contradictions();
        if self.money.charge_max > self.money.balance_cap {
            wrong.push(Wrong {
                setting: "ONSALE_CHARGE_MAX (--charge-max)".to_owned(),
                why: "must not exceed ONSALE_BALANCE_CAP: no such charge could be made".to_owned(),
            });
        }
        wrong
    }
}

/// What this process does.
#[derive(Args, Clone)]
pub struct Roles {
    /// Roles of this process.
    #[arg(long, env = "ONSALE_ROLES", value_enum, value_delimiter = ',',
          default_values_t = [Role::Seats, Role::Ledger, Role::Settlement, Role::Expiry, Role::Outbox])]
    pub roles: Vec<Role>,
}

/// One job of a worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Role {
    /// Owns partitions and decides their seats.
    Seats,
    /// Moves points.
    Ledger,
    /// Pays reservations.
    Settlement,
    /// Finds what is due and asks its owner to end it.
    Expiry,
    /// Publishes notices and facts.
    Outbox,
}

/// How partitions are owned and read.
#[derive(Args, Clone)]
pub struct Seats {
    /// How long an owner that gives no sign of life keeps its partitions, in milliseconds. Longer
    /// than the time-outs of a session (2 s), so that what it has open ends first.
    #[arg(long, env = "ONSALE_LEASE_MS", default_value_t = 3000,
          value_parser = clap::value_parser!(i64).range(3000..=60_000))]
    pub lease_ms: i64,
    /// Commands decided in one batch of a partition, at most.
    #[arg(long, env = "ONSALE_BATCH_COMMANDS", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch_commands: u32,
    /// How often an owner looks for holds that are due, in milliseconds.
    #[arg(long, env = "ONSALE_TICK_MS", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(10..=5000))]
    pub tick_ms: u64,
}

/// Limits on points.
#[derive(Args, Clone)]
pub struct Money {
    /// The most points one charge may buy, in won.
    #[arg(long, env = "ONSALE_CHARGE_MAX", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(i64).range(1..))]
    pub charge_max: i64,
    /// The most points a user may have after a charge, in won.
    #[arg(long, env = "ONSALE_BALANCE_CAP", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(i64).range(1..))]
    pub balance_cap: i64,
}
