//! Settings of an ingress process.

mod gateway_webhooks;

use crate::address::Networks;
use crate::origins::Origins;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Parser};
use onsale_platform::config;
use onsale_platform::settings::{Settings, Wrong};
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use gateway_webhooks::{GatewayWebhooks, WebhookSecrets};

/// HTTP in, commands out, replies back.
#[derive(Parser, Clone)]
#[command(name = "onsale-ingress", version, about, max_term_width = 100)]
pub struct Config {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: config::Common,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: config::Telemetry,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub http: Http,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub auth: Auth,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub events: Events,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sales: Sales,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub flow: Flow,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub webhooks: Webhooks,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub gateway_webhooks: GatewayWebhooks,
}

impl Settings for Config {
    fn contradictions(&self) -> Vec<Wrong> {
        let mut wrong = self.common.servers.contradictions();
        if self.auth.access_token_ttl_s > self.auth.refresh_token_ttl_s {
            wrong.push(Wrong {
                setting: "ONSALE_ACCESS_TOKEN_TTL_S (--access-token-ttl-s)".to_owned(),
                why: "must not exceed ONSALE_REFRESH_TOKEN_TTL_S: a session would end before its \
                      token"
                    .to_owned(),
            });
        }
        wrong
    }
}

/// What webhook subscribers may be, and how their secrets change.
#[derive(Args, Clone, Copy, Debug)]
pub struct Webhooks {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: config::WebhookTargets,

    /// How long the secret of a webhook subscriber still signs after another one was made, in seconds.
    #[arg(long = "webhook-secret-overlap-s", env = "ONSALE_WEBHOOK_SECRET_OVERLAP_S",
          default_value_t = 86_400, value_parser = clap::value_parser!(i64).range(0..=2_592_000))]
    pub secret_overlap_s: i64,
}

/// The HTTP server and its bounds.
#[derive(Args, Clone, Debug)]
pub struct Http {
    /// Address of the HTTP API.
    #[arg(
        long = "http-addr",
        env = "ONSALE_HTTP_ADDR",
        default_value = "127.0.0.1:8080"
    )]
    pub addr: SocketAddr,

    /// Time in which a new connection must have sent its first request's head, in milliseconds.
    #[arg(long, env = "ONSALE_FIRST_REQUEST_TIMEOUT_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub first_request_timeout_ms: u64,

    /// Time in which a further request's head must have come on a connection that is kept alive,
    /// in milliseconds; also how long such a connection may be idle.
    #[arg(long, env = "ONSALE_HEADER_TIMEOUT_MS", default_value_t = 60_000,
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub header_timeout_ms: u64,

    /// Time in which a request's body must have come, but for a layout, in milliseconds.
    #[arg(long, env = "ONSALE_BODY_TIMEOUT_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub body_timeout_ms: u64,

    /// Time in which a layout must have come, in milliseconds: it may be large.
    #[arg(long, env = "ONSALE_LAYOUT_BODY_TIMEOUT_MS", default_value_t = 60_000,
          value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub layout_body_timeout_ms: u64,

    /// How long a write may make no progress because the client reads nothing, and what was sent may be
    /// without word that it came, in milliseconds.
    #[arg(long, env = "ONSALE_WRITE_TIMEOUT_MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub write_timeout_ms: u64,

    /// The largest request body, in bytes.
    #[arg(long, env = "ONSALE_BODY_BYTES_MAX", default_value_t = 64 * 1024,
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub body_bytes_max: u32,

    /// The largest layout that may be put in one request, in bytes.
    #[arg(long, env = "ONSALE_LAYOUT_BYTES_MAX", default_value_t = 16 * 1024 * 1024,
          value_parser = clap::value_parser!(u32).range(1024..=67_108_864))]
    pub layout_bytes_max: u32,

    /// The most bytes of path and headers of one request.
    #[arg(long, env = "ONSALE_HEADER_BYTES_MAX", default_value_t = 16 * 1024,
          value_parser = clap::value_parser!(u32).range(1024..=65_536))]
    pub header_bytes_max: u32,

    /// The most headers of one request.
    #[arg(long, env = "ONSALE_HEADERS_MAX", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(16..=100))]
    pub headers_max: u16,

    /// The most connections at once; further ones wait until one ends.
    #[arg(long, env = "ONSALE_CONNECTIONS_MAX", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// How long requests under way may take to end when the process stops, in milliseconds.
    #[arg(long, env = "ONSALE_DRAIN_MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub drain_ms: u64,

    /// Origins whose pages may call the API from a browser, as `https://shop.example`, separated by
    /// commas; `*` for all.
    #[arg(long, env = "ONSALE_CORS_ORIGINS", default_value = "")]
    pub cors_origins: Origins,

    /// Threads that serve requests.
    #[arg(long, env = "ONSALE_HTTP_THREADS", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: Limits,
}

/// What one client may take. Each ingress counts by itself. An address is an IPv4 address or a /64 of
/// IPv6.
#[derive(Args, Clone, Debug)]
pub struct Limits {
    /// Proxies whose `X-Forwarded-For` is believed, as addresses or networks separated by commas; the
    /// client is the right-most address there that is none of them. Of others it is ignored.
    #[arg(long, env = "ONSALE_TRUSTED_PROXIES", default_value = "")]
    pub trusted_proxies: Networks,

    /// The most connections of one address, but for trusted proxies; further ones are closed. 0 is no
    /// bound.
    #[arg(long, env = "ONSALE_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub connections_per_address_max: u32,

    /// Requests that one address may make, on average; further ones are answered 429. 0 is no limit.
    /// Many people may share an address.
    #[arg(long, env = "ONSALE_RATE_ADDRESS_PER_S", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub rate_address_per_s: u32,

    /// Requests that one address may make at once, before its average counts.
    #[arg(long, env = "ONSALE_RATE_ADDRESS_BURST", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate_address_burst: u32,

    /// Requests that one user may make, on average; further ones are answered 429. 0 is no limit.
    #[arg(long, env = "ONSALE_RATE_USER_PER_S", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub rate_user_per_s: u32,

    /// Requests that one user may make at once, before the average counts.
    #[arg(long, env = "ONSALE_RATE_USER_BURST", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate_user_burst: u32,

    /// Sign-ups and sign-ins that one address may try in a minute, on average; each takes a core for
    /// some 20 ms. 0 is no limit.
    #[arg(long, env = "ONSALE_SIGN_IN_ADDRESS_PER_MIN", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub sign_in_address_per_min: u32,

    /// Sign-ups and sign-ins that one address may try at once, before its average counts.
    #[arg(long, env = "ONSALE_SIGN_IN_ADDRESS_BURST", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub sign_in_address_burst: u32,

    /// Sign-ins to one account that one address may try in a minute, on average; all addresses
    /// together ten times as many, not counting one from which the owner has signed in lately. 0 is
    /// no limit.
    #[arg(long, env = "ONSALE_SIGN_IN_ACCOUNT_PER_MIN", default_value_t = 6,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub sign_in_account_per_min: u32,

    /// Sign-ins to one account that one address may try at once, before the average counts.
    #[arg(long, env = "ONSALE_SIGN_IN_ACCOUNT_BURST", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub sign_in_account_burst: u32,
}

impl Http {
    /// See [`Self::first_request_timeout_ms`].
    #[must_use]
    pub fn first_request_timeout(&self) -> Duration {
        Duration::from_millis(self.first_request_timeout_ms)
    }

    /// See [`Self::header_timeout_ms`].
    #[must_use]
    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// See [`Self::body_timeout_ms`].
    #[must_use]
    pub fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    /// See [`Self::layout_body_timeout_ms`].
    #[must_use]
    pub fn layout_body_timeout(&self) -> Duration {
        Duration::from_millis(self.layout_body_timeout_ms)
    }

    /// See [`Self::write_timeout_ms`].
    #[must_use]
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    /// See [`Self::drain_ms`].
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// Users, passwords and tokens.
#[derive(Args, Clone, Debug)]
pub struct Auth {
    /// The secrets that sign tokens, separated by commas, each at least 32 bytes as 64 or more
    /// hexadecimal digits. The first signs, all verify. The same for all ingresses. To replace one
    /// without signing anybody out: add the new one at the end everywhere, then put it first, and
    /// remove the old one a day later, when nothing that it signed counts any more but access codes:
    /// those that are out are not valid without it.
    #[arg(long, env = "ONSALE_TOKEN_SECRET", hide_env_values = true)]
    pub token_secret: Secrets,

    /// How long an access token is valid, in seconds.
    #[arg(long, env = "ONSALE_ACCESS_TOKEN_TTL_S", default_value_t = 3600,
          value_parser = clap::value_parser!(i64).range(1..=86_400))]
    pub access_token_ttl_s: i64,

    /// How long a refresh token is valid, in seconds.
    #[arg(long, env = "ONSALE_REFRESH_TOKEN_TTL_S", default_value_t = 30 * 86_400,
          value_parser = clap::value_parser!(i64).range(1..=31_536_000))]
    pub refresh_token_ttl_s: i64,

    /// Passwords that may be hashed at once; each takes 19 MiB and a core for some 20 ms.
    #[arg(long, env = "ONSALE_PASSWORD_HASHES_MAX", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub password_hashes_max: u16,
}

/// Streams of events.
#[derive(Args, Clone, Debug)]
pub struct Events {
    /// The most event streams at once; further ones are refused.
    #[arg(long = "event-streams-max", env = "ONSALE_EVENT_STREAMS_MAX", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub streams_max: u32,

    /// The most event streams of one address; further ones are answered 429. 0 is no bound. An address
    /// is an IPv4 address or a /64 of IPv6, and many people may share one.
    #[arg(long = "event-streams-per-address-max", env = "ONSALE_EVENT_STREAMS_PER_ADDRESS_MAX",
          default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub streams_per_address_max: u32,

    /// How long an event stream may be silent before a comment shows that it lives, in milliseconds.
    #[arg(long = "event-heartbeat-ms", env = "ONSALE_EVENT_HEARTBEAT_MS", default_value_t = 15_000,
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub heartbeat_ms: u64,

    /// How long a token for an event stream is good, in seconds.
    #[arg(long, env = "ONSALE_STREAM_TOKEN_TTL_S", default_value_t = 60,
          value_parser = clap::value_parser!(i64).range(1..=3600))]
    pub stream_token_ttl_s: i64,
}

impl Events {
    /// See [`Self::heartbeat_ms`].
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }
}

/// What a new schedule sells by, where its maker says nothing else.
#[derive(Args, Clone, Copy, Debug)]
pub struct Sales {
    /// How long a hold lasts, in seconds.
    #[arg(long, env = "ONSALE_HOLD_DEFAULT_S", default_value_t = 300,
          value_parser = clap::value_parser!(i64).range(1..=86_400))]
    pub hold_default_s: i64,

    /// The most live seats of one user.
    #[arg(long, env = "ONSALE_SEATS_PER_USER_DEFAULT", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub seats_per_user_default: u32,
}

/// How commands flow to their owners, and what is refused so that it keeps flowing.
#[derive(Args, Clone, Debug)]
pub struct Flow {
    /// How long a request waits for its outcome, in milliseconds; also the deadline that a command
    /// carries. After it the answer is 202.
    #[arg(long, env = "ONSALE_REQUEST_TIMEOUT_MS", default_value_t = 5000,
          value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub request_timeout_ms: u32,

    /// Messages to one partition that may be on their way at once; meanwhile commands gather. More
    /// of them make smaller messages, of which each costs the stream, the owner and a row.
    #[arg(long, env = "ONSALE_PUBLISH_WINDOW", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub publish_window: u16,

    /// Commands of one schedule that may wait for their outcome here; further ones are refused. So
    /// few that an owner decides them in well under the lag at which its whole partition, with the
    /// schedule's neighbours, would be refused.
    #[arg(long, env = "ONSALE_SCHEDULE_IN_FLIGHT_MAX", default_value_t = 4000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub schedule_in_flight_max: u32,

    /// Charges that may wait for their outcome here, and as many payments; further ones are refused.
    #[arg(long, env = "ONSALE_MONEY_IN_FLIGHT_MAX", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub money_in_flight_max: u32,

    /// The age of a partition's oldest undecided message, or the silence of an owner that was heard
    /// before, above which its commands are refused, in milliseconds. Silence counts from a second.
    /// Below the time that a request waits, so that what is accepted can still be decided in time,
    /// and above the lease of an owner, so that a takeover is waited for.
    #[arg(long, env = "ONSALE_LAG_MAX_MS", default_value_t = 4000,
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub lag_max_ms: u64,
}

impl Flow {
    /// See [`Self::request_timeout_ms`].
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.request_timeout_ms))
    }
}

/// Key material. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

/// The least key material, in bytes.
const SECRET_BYTES_MIN: usize = 32;
/// The most secrets at a time: each that a token doesn't name may have to be tried.
const SECRETS_MAX: usize = 8;

impl Secret {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its name, for all to see: a digest that tells nothing about it.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = Sha256::new_with_prefix("onsale key id").chain_update(&self.0);
        URL_SAFE_NO_PAD.encode(&digest.finalize()[..9])
    }
}

/// One or more secrets. The first signs, all verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets(Arc<[Secret]>);

impl Secrets {
    /// The one that signs.
    #[must_use]
    pub fn signing(&self) -> &Secret {
        &self.0[0]
    }

    /// Those that verify.
    #[must_use]
    pub fn all(&self) -> &[Secret] {
        &self.0
    }
}

impl FromStr for Secrets {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let secrets = text.split(',').map(|one| one.trim().parse());
        let secrets = secrets.collect::<Result<Vec<Secret>, _>>()?;
        if secrets.len() > SECRETS_MAX {
            return Err(InvalidSecret);
        }
        Ok(Self(secrets.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let digits = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<Vec<u8>>>()
            .ok_or(InvalidSecret)?;
        if digits.len() % 2 != 0 || digits.len() < 2 * SECRET_BYTES_MIN {
            return Err(InvalidSecret);
        }
        let bytes = digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]);
        Ok(Self(bytes.collect()))
    }
}

/// Text that is no key material. It is not repeated here.
#[derive(Debug, thiserror::Error)]
#[error("must be 64 or more hexadecimal digits, or up to 8 such separated by commas")]
pub struct InvalidSecret;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }

    #[test]
    fn secrets_are_long_and_silent() {
        let secret: Secret = "0f".repeat(32).parse().unwrap();
        assert_eq!(secret.bytes(), [15; 32]);
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in [
            "",
            "0f",
            &"0f".repeat(31),
            &"0g".repeat(32),
            &"0".repeat(65),
        ] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_of_several_secrets_signs() {
        let (a, b) = ("0a".repeat(32), "0b".repeat(33));
        let secrets: Secrets = format!("{a}, {b}").parse().unwrap();
        assert_eq!(secrets.signing(), &a.parse().unwrap());
        assert_eq!(secrets.all()[1], b.parse().unwrap());
        assert_ne!(secrets.all()[0].id(), secrets.all()[1].id());
        assert_eq!(format!("{secrets:?}"), "Secrets([Secret, Secret])");
        let many = [a.as_str(); 9].join(",");
        for bad in ["", ",", &format!("{a},"), &format!("{a},0b"), &many] {
            assert!(bad.parse::<Secrets>().is_err(), "{bad}");
        }
    }
}
