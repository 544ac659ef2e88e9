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
    pub ownership: Ownership,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub money: Money,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub gateway: Gateway,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub in_hand: InHand,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub facts: Facts,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub dead_letters: DeadLetters,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub webhooks: Webhooks,
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
        let cards = match (self.money.cards, &self.gateway.url) {
            (Cards::Gateway, None) => {
                Some("gateway needs ONSALE_GATEWAY_URL: nobody has the cards")
            }
            // What the gateway takes money for must not be had for nothing by another way.
            (Cards::Terminal, Some(_)) => Some("must not be terminal where there is a gateway"),
            (Cards::Gateway, Some(_)) | (Cards::Terminal, None) | (Cards::Refused, _) => None,
        };
        wrong.extend(cards.map(|why| Wrong {
            setting: "ONSALE_CARDS (--cards)".to_owned(),
            why: why.to_owned(),
        }));
        if self.gateway.url.is_some() != self.gateway.secret.is_some() {
            wrong.push(Wrong {
                setting: "ONSALE_GATEWAY_URL and ONSALE_GATEWAY_SECRET".to_owned(),
                why: "must be set together, or neither".to_owned(),
            });
        }
        let is_plain = |url: &Address| !url.is_confidential();
        if self.gateway.url.as_ref().is_some_and(is_plain) && !self.gateway.unsafe_plain_http {
            wrong.push(Wrong {
                setting: "ONSALE_GATEWAY_URL (--gateway-url)".to_owned(),
                why: "must be https://, or http:// on loopback".to_owned(),
            });
        }
        let is_live = |secret: &GatewaySecret| !secret.expose().starts_with("test_");
        if self.gateway.url.as_ref().is_some_and(is_plain)
            && self.gateway.secret.as_ref().is_some_and(is_live)
        {
            wrong.push(Wrong {
                setting: "ONSALE_GATEWAY_SECRET".to_owned(),
                why:
                    "must begin with test_ where the gateway is asked in the clear: the key of one \
                      that moves money would be everybody's"
                        .to_owned(),
            });
        }
        if self.webhooks.retry_min_ms > self.webhooks.retry_max_ms {
            wrong.push(Wrong {
                setting: "ONSALE_WEBHOOK_RETRY_MIN_MS (--webhook-retry-min-ms)".to_owned(),
                why: "must not exceed ONSALE_WEBHOOK_RETRY_MAX_MS".to_owned(),
            });
        }
        if self.webhooks.give_up_s / 3600 >= self.facts.keep_h {
            wrong.push(Wrong {
                setting: "ONSALE_FACTS_KEEP_HOURS (--facts-keep-hours)".to_owned(),
                why: "must be longer than ONSALE_WEBHOOK_GIVE_UP_S: a subscriber that is still \
                      tried would miss facts"
                    .to_owned(),
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
          default_values_t = [Role::Seats, Role::Admission, Role::Ledger, Role::Settlement,
                              Role::Gateway, Role::Expiry, Role::Outbox])]
    pub roles: Vec<Role>,
}

/// One job of a worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Role {
    /// Owns partitions and decides their seats.
    Seats,
    /// Owns partitions and decides who is let in from their waiting rooms.
    Admission,
    /// Moves points.
    Ledger,
    /// Pays reservations.
    Settlement,
    /// Has payments captured and refunded by the payment gateway.
    Gateway,
    /// Finds what is due and asks its owner to end it.
    Expiry,
    /// Publishes notices and facts.
    Outbox,
}

/// How partitions are owned and read.
#[derive(Args, Clone)]
pub struct Ownership {
    /// How long an owner that gives no sign of life keeps its partitions, in milliseconds. Longer
    /// than the time-outs of a session (2 s), so that what it has open ends first.
    #[arg(long, env = "ONSALE_LEASE_MS", default_value_t = 3000,
          value_parser = clap::value_parser!(i64).range(3000..=60_000))]
    pub lease_ms: i64,
    /// Commands decided in one batch of a partition, at most.
    #[arg(long, env = "ONSALE_BATCH_COMMANDS", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch_commands: u32,
    /// How often an owner looks for what is due, in milliseconds: holds that lapse, and who is the
    /// next to be let in.
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
    /// Who asks the card for the money of a charge by card. The same for all workers.
    #[arg(long, env = "ONSALE_CARDS", value_enum, default_value_t = Cards::Refused)]
    pub cards: Cards,
    /// Whether charges in cash are made: points at once for whoever asks, since a desk has taken the
    /// money. Only where desks do, and what stands between them and the API sees to that. The same for
    /// all workers.
    #[arg(long, env = "ONSALE_CASH", default_value_t = false, action = clap::ArgAction::Set)]
    pub cash: bool,
    /// Charges by card that a user may have at the payment gateway at once. Until one is points it
    /// does not count against the cap of balances, and what comes over the cap is given back.
    #[arg(long, env = "ONSALE_OPEN_CHARGES_MAX", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub open_charges_max: u32,
}

/// Who asks cards for money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cards {
    /// Nobody: charges by card are refused.
    Refused,
    /// A terminal that is none of ours: the points are there at once, for nothing if there is no such
    /// terminal. Never beside a payment gateway.
    Terminal,
    /// The payment gateway, which has a card on file for each user who charges, under a billing key
    /// that is the user's id. Cards are registered there by others, not by onsale.
    Gateway,
}

/// The payment gateway; without its address and secret nothing is paid through one.
#[derive(Args, Clone, Debug)]
pub struct Gateway {
    /// Address of the payment gateway, in the shape of Toss Payments, as
    /// `https://api.tosspayments.com`; `http://` on loopback only (but see
    /// ONSALE_GATEWAY_UNSAFE_PLAIN_HTTP). Without it there is none, and payments through it are
    /// refused; charges by card are for ONSALE_CARDS to say. The same for all workers.
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

    /// Unsafe, and for development only: whether the payment gateway may be asked over `http://`
    /// elsewhere than on loopback, on a private network. Whoever is on the way reads the secret and
    /// can say that money was paid; so the secret must be one of those that move none (`test_…`).
    #[arg(long = "gateway-unsafe-plain-http", env = "ONSALE_GATEWAY_UNSAFE_PLAIN_HTTP",
          default_value_t = false, action = clap::ArgAction::Set)]
    pub unsafe_plain_http: bool,

    /// How long one request to the payment gateway may take, in milliseconds.
    #[arg(long = "gateway-timeout-ms", env = "ONSALE_GATEWAY_TIMEOUT_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub timeout_ms: u64,

    /// How often the same is asked of the payment gateway at once, with short pauses. Whatever fails
    /// comes again by itself, after a pause that grows.
    #[arg(long = "gateway-attempts", env = "ONSALE_GATEWAY_ATTEMPTS", default_value_t = 1,
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

/// How much a worker asks of the payment gateway at once.
#[derive(Args, Clone, Copy, Debug)]
pub struct InHand {
    /// Payments that one worker with the role `gateway` has in hand at the payment gateway at once, and
    /// as many refunds: with a gateway that takes a second to answer, so many captures a second. Buyers
    /// wait for them, for a minute at most, so a large sale wants more workers or more of these; a
    /// gateway may have limits of its own. Beside them, a quarter as many orders that had ended are
    /// looked up once more, which nobody waits for.
    #[arg(long = "gateway-in-hand", env = "ONSALE_GATEWAY_IN_HAND", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub gateway_in_hand: u16,
}

impl InHand {
    /// Payments, and refunds, at once.
    #[must_use]
    pub fn asked_for(self) -> usize {
        usize::from(self.gateway_in_hand)
    }

    /// Last looks at once.
    #[must_use]
    pub fn looks(self) -> usize {
        self.asked_for().div_ceil(4)
    }
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

/// How long facts for other systems are kept in Postgres.
#[derive(Args, Clone)]
pub struct Facts {
    /// How long facts are kept in Postgres after they were published, in hours. A webhook
    /// subscriber that was dead for longer misses facts; the events stream has an age of its own.
    #[arg(long = "facts-keep-hours", env = "ONSALE_FACTS_KEEP_HOURS", default_value_t = 72,
          value_parser = clap::value_parser!(u32).range(24..=87_600))]
    pub keep_h: u32,
}

/// How long dead letters are kept.
#[derive(Args, Clone)]
pub struct DeadLetters {
    /// How long dead letters are kept after they were tried again the last time, in days; those of
    /// bytes that are no command, after they were given up. What nobody has had tried again stays.
    /// Notifications of the payment gateway are known again for so long, so that none of an order that
    /// is not known here makes a second letter.
    #[arg(long = "dead-letters-keep-days", env = "ONSALE_DEAD_LETTERS_KEEP_DAYS", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(7..=3650))]
    pub keep_d: u32,
}

/// How facts are delivered to webhook subscribers.
#[derive(Args, Clone)]
pub struct Webhooks {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: config::WebhookTargets,

    /// File with the certificate authorities (PEM) that subscribers with https are verified by; those
    /// of the system without it.
    #[arg(
        id = "webhook_ca",
        long = "webhook-ca",
        env = "ONSALE_WEBHOOK_CA",
        value_name = "FILE"
    )]
    pub ca: Option<PathBuf>,

    /// How long a subscriber may take to answer, in milliseconds.
    #[arg(id = "webhook_timeout_ms", long = "webhook-timeout-ms", env = "ONSALE_WEBHOOK_TIMEOUT_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub timeout_ms: u32,

    /// The pause after the first failed attempt, in milliseconds; it doubles with each further one.
    #[arg(long = "webhook-retry-min-ms", env = "ONSALE_WEBHOOK_RETRY_MIN_MS",
          default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=3_600_000))]
    pub retry_min_ms: u32,

    /// The longest pause between two attempts, in milliseconds. Up to a half of each pause is left
    /// out at random.
    #[arg(long = "webhook-retry-max-ms", env = "ONSALE_WEBHOOK_RETRY_MAX_MS",
          default_value_t = 900_000, value_parser = clap::value_parser!(u32).range(10..=86_400_000))]
    pub retry_max_ms: u32,

    /// Failed attempts to deliver one fact after which its subscriber is dead.
    #[arg(long = "webhook-attempts-max", env = "ONSALE_WEBHOOK_ATTEMPTS_MAX",
          default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub attempts_max: u32,

    /// How long attempts to deliver one fact may fail before its subscriber is dead, in seconds.
    #[arg(long = "webhook-give-up-s", env = "ONSALE_WEBHOOK_GIVE_UP_S", default_value_t = 86_400,
          value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
    pub give_up_s: u32,
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
    fn what_a_gateway_is_trusted_with_is_asked_for() {
        let wrong = |more: &[&str]| {
            let mut arguments = vec!["test", "--database-url", "postgres://u@h/d"];
            arguments.extend(more);
            let config = Config::try_parse_from(arguments).unwrap();
            let wrong = config.contradictions().into_iter();
            wrong.map(|wrong| wrong.setting).collect::<Vec<_>>()
        };
        let gateway = [
            "--gateway-url=https://gateway.example",
            "--gateway-secret=test_sk_0123456789",
            "--cards=gateway",
        ];
        assert!(wrong(&[]).is_empty());
        assert!(wrong(&gateway[..2]).is_empty());
        assert!(wrong(&gateway).is_empty());
        let cards = ["ONSALE_CARDS (--cards)"];
        assert_eq!(wrong(&gateway[2..]), cards);
        // What the gateway is paid for is had for nothing at a terminal that nobody has.
        assert!(wrong(&["--cards=terminal"]).is_empty());
        assert_eq!(wrong(&[gateway[0], gateway[1], "--cards=terminal"]), cards);
        let plain = ["--gateway-url=http://gateway:8090", gateway[1]];
        assert_eq!(wrong(&plain), ["ONSALE_GATEWAY_URL (--gateway-url)"]);
        let told = "--gateway-unsafe-plain-http=true";
        assert!(wrong(&[plain[0], plain[1], told]).is_empty());
        let local = ["--gateway-url=http://127.0.0.1:8090", gateway[1]];
        assert!(wrong(&local).is_empty());
    }

    #[test]
    fn points_are_for_nothing_only_where_somebody_has_said_so() {
        let bare = ["test", "--database-url", "postgres://u@h/d"];
        let money = Config::try_parse_from(bare).unwrap().money;
        assert_eq!((money.cards, money.cash), (Cards::Refused, false));
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
