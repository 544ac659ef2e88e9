//! Settings of a worker process.

use clap::{Args, Parser, ValueEnum};
use onsale_platform::config;
use onsale_platform::http::Address;
use onsale_platform::settings::{Settings, Wrong};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

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
    #[command(flatten)]
    #[allow(missing_docs)]
    pub gateway: Gateway,
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
        if self.gateway.url.is_some() != self.gateway.secret.is_some() {
            wrong.push(Wrong {
                setting: "ONSALE_GATEWAY_URL and ONSALE_GATEWAY_SECRET".to_owned(),
                why: "must be set together, or neither".to_owned(),
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

/// The payment gateway; without its address and secret nothing is paid through one.
#[derive(Args, Clone, Debug)]
pub struct Gateway {
    /// Address of the payment gateway, in the shape of Toss Payments, as
    /// `https://api.tosspayments.com`; `http://` on loopback only. None without it.
    #[arg(
        long = "gateway-url",
        env = "ONSALE_GATEWAY_URL",
        hide_env_values = true
    )]
    pub url: Option<Address>,

    /// The secret key that the payment gateway knows us by.
    #[arg(
        long = "gateway-secret",
        env = "ONSALE_GATEWAY_SECRET",
        hide_env_values = true
    )]
    pub secret: Option<GatewaySecret>,

    /// File with the certificate authorities (PEM) that the payment gateway is verified by; those of
    /// the system without it.
    #[arg(long = "gateway-ca", env = "ONSALE_GATEWAY_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// How long one request to the payment gateway may take, in milliseconds.
    #[arg(long = "gateway-timeout-ms", env = "ONSALE_GATEWAY_TIMEOUT_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub timeout_ms: u64,

    /// How often the same is asked of the payment gateway, at most, before it is left for later.
    #[arg(long = "gateway-attempts", env = "ONSALE_GATEWAY_ATTEMPTS", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=10))]
    pub attempts: u32,

    /// Failures in a row after which nobody asks the payment gateway for a while.
    #[arg(long = "gateway-breaker-failures", env = "ONSALE_GATEWAY_BREAKER_FAILURES",
          default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub breaker_failures: u32,

    /// How long nobody asks the payment gateway then, in milliseconds, before one tries again.
    #[arg(long = "gateway-breaker-open-ms", env = "ONSALE_GATEWAY_BREAKER_OPEN_MS",
          default_value_t = 5000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub breaker_open_ms: u64,
}

/// A key that is shown by [`GatewaySecret::expose`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewaySecret(Arc<str>);

impl GatewaySecret {
    /// As it is sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for GatewaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewaySecret")
    }
}

/// Text that is no such key. It is not repeated here.
#[derive(Debug, thiserror::Error)]
#[error("must be 16 to 200 visible ASCII characters without a colon")]
pub struct InvalidSecret;

impl FromStr for GatewaySecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        match (16..=200).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(Self(text.into())),
            false => Err(InvalidSecret),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }

    #[test]
    fn the_secret_of_the_gateway_is_silent() {
        let secret: GatewaySecret = "test_sk_0123456789".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "GatewaySecret");
        assert_eq!(secret.expose(), "test_sk_0123456789");
        for bad in [
            "",
            "short",
            "with a space in it",
            "with:a-colon-in-it",
            &"x".repeat(201),
        ] {
            assert!(bad.parse::<GatewaySecret>().is_err(), "{bad}");
        }
    }
}
