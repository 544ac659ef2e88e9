//! The NATS connection and the streams.

use crate::{address, config, metric, nats_users, tls};
use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use onsale_schema::Lane;
use onsale_schema::subjects::Subjects;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What can go wrong with NATS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can't be used.
    #[error("NATS_URL {0}")]
    Address(String),
    /// The server can't be reached.
    #[error("NATS is unavailable: {0}")]
    Unavailable(String),
    /// A stream could not be made or changed.
    #[error("stream {stream}: {reason}")]
    Stream {
        /// Its name.
        stream: String,
        /// What the server said.
        reason: String,
    },
}

/// A server that has gone silent is given up when it has left out the third ping, after six seconds.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Messages that a subscription may hold before new ones are dropped; bursts are large.
const SUBSCRIPTION_CAPACITY: usize = 1 << 16;
/// Messages that a client may have waiting to be written.
const CLIENT_CAPACITY: usize = 1 << 14;
/// How long a publish waits for its PubAck.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream keeps commands. It protects the disk; the cursor in Postgres is what
/// acknowledges.
const STREAM_MAX_AGE: Duration = Duration::from_secs(48 * 3600);
/// How long the server remembers message ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Connects, and reconnects for ever after. User and password are those in the address. With
/// `tls://` the connection is encrypted and the server verified, by the authorities in the parameter
/// `ca` or else by those of the system; it never goes on in plain text.
///
/// # Errors
/// When the server can't be reached now.
pub async fn connect(url: &str, name: &str) -> Result<Client, Error> {
    let (server, mut options) = options(url)?;
    let is_encrypted = server.tls_required();
    options = options
        .name(name)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(CLIENT_CAPACITY)
        .connection_timeout(Duration::from_secs(2))
        .reconnect_delay_callback(|attempts| Duration::from_millis((50 << attempts.min(5)) as u64))
        .event_callback(|event| async move {
            match event {
                Event::Disconnected => {
                    metrics::counter!(metric::NATS_DISCONNECTS).increment(1);
                    tracing::warn!("NATS connection lost");
                }
                Event::SlowConsumer(id) => tracing::error!(id, "a subscription dropped messages"),
                // Above all what a user has no right to.
                Event::ServerError(error) => tracing::error!(%error, "NATS refuses"),
                other => tracing::info!(event = %other, "NATS"),
            }
        });
    let connected = options.connect(server).await;
    connected.map_err(|error| {
        let error = error.to_string();
        // What TLS makes of a server's greeting in plain text.
        let is_plain = is_encrypted && error.contains("corrupt message");
        let hint = if is_plain {
            "; it does not speak TLS"
        } else {
            ""
        };
        Error::Unavailable(format!("{error}{hint}"))
    })
}

/// The server of an address, and what the address says about speaking to it.
fn options(url: &str) -> Result<(ServerAddr, ConnectOptions), Error> {
    let refused = |why: String| Error::Address(why);
    let mut options = ConnectOptions::new();
    if let Some((user, password)) = address::credentials(url) {
        if is_token(&user) {
            options = options.custom_inbox_prefix(nats_users::inbox_prefix(&user));
        }
        options = options.user_and_password(user, password);
    }
    let (rest, ca) = address::take_parameter(url, "ca");
    let is_encrypted = rest.starts_with("tls://");
    if is_encrypted {
        let config = tls::client_config(ca.as_deref().map(Path::new));
        let config = config.map_err(|error| refused(error.to_string()))?;
        // Also of servers that the first one names.
        options = options.require_tls(true).tls_client_config(config);
    } else if ca.is_some() {
        let why = "names a certificate authority but encrypts nothing; take tls://";
        return Err(refused(why.into()));
    }
    // What the client keeps of the address it also logs, and the password may be in any part of it
    // that does not belong there. So would the error name what it could not read.
    let place = address::without_user(&rest);
    let (_, host) = place.split_once("://").unwrap_or(("", &place));
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.contains(['/', '?', '#', '@']) {
        let why = "is malformed: after the scheme come user, password, host and port, with what is \
                   special in them encoded";
        return Err(refused(why.into()));
    }
    let server = place.parse().map_err(|_| refused("is malformed".into()))?;
    Ok((server, options))
}

/// What is wrong with an address of NATS, if something is.
///
/// # Errors
/// When it can't be used.
pub fn check_url(url: &str) -> Result<(), Error> {
    options(url).map(drop)
}

/// Whether a text can be one token of a subject.
fn is_token(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.chars().all(fits)
}

/// How often it is worth looking whether a connection is still the same.
pub const LINK_CHECK: Duration = Duration::from_millis(100);

/// The connection that a client has now. What is on its way on it, and the acknowledgements of
/// that, are lost with it: nobody need wait for them any longer.
#[derive(Clone)]
pub struct Link {
    client: Client,
    connects: u64,
}

impl Link {
    /// The present connection of `client`.
    #[must_use]
    pub fn of(client: &Client) -> Self {
        Self {
            client: client.clone(),
            connects: connects(client),
        }
    }

    /// Whether this is the connection that the client has.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.connects == connects(&self.client)
            && self.client.connection_state() == State::Connected
    }

    /// Whether the connection was lost since it was looked at last; from then on it is the next
    /// one.
    pub fn was_lost(&mut self) -> bool {
        let before = std::mem::replace(&mut self.connects, connects(&self.client));
        before != self.connects || self.client.connection_state() != State::Connected
    }

    /// Returns when the connection is lost.
    pub async fn lost(mut self) {
        while !self.was_lost() {
            tokio::time::sleep(LINK_CHECK).await;
        }
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// A JetStream context with our time limits.
#[must_use]
pub fn jetstream(client: Client) -> jetstream::Context {
    jetstream::ContextBuilder::new()
        .timeout(Duration::from_secs(5))
        .ack_timeout(ACK_TIMEOUT)
        .max_ack_inflight(1 << 14)
        .build(client)
}

/// Makes the streams that are missing. One that is there is left as it is: changing it is the
/// operator's right.
///
/// # Errors
/// When the server refuses one.
pub async fn create_streams(
    jetstream: &jetstream::Context,
    subjects: &Subjects,
    settings: &config::Streams,
) -> Result<(), Error> {
    for config in stream_configs(subjects, settings) {
        let stream = config.name.clone();
        match jetstream.create_stream(config).await {
            Ok(_) => {}
            Err(error) if says(&error, ErrorCode::STREAM_NAME_EXIST) => {
                tracing::warn!(
                    stream,
                    "the stream is not as the settings say; `onsale migrate` changes it"
                );
            }
            Err(error) => {
                let reason = refusal(&error, settings);
                return Err(Error::Stream { stream, reason });
            }
        }
    }
    Ok(())
}

/// Makes the streams, or brings them up to date.
///
/// # Errors
/// When the server refuses one.
pub async fn update_streams(
    jetstream: &jetstream::Context,
    subjects: &Subjects,
    settings: &config::Streams,
) -> Result<(), Error> {
    for config in stream_configs(subjects, settings) {
        let stream = config.name.clone();
        let made = jetstream.create_or_update_stream(config).await;
        made.map_err(|error| Error::Stream {
            stream,
            reason: refusal(&error, settings),
        })?;
    }
    Ok(())
}

fn stream_configs(subjects: &Subjects, settings: &config::Streams) -> Vec<stream::Config> {
    let base = |name: String, filter: String| stream::Config {
        name,
        subjects: vec![filter],
        storage: stream::StorageType::File,
        num_replicas: usize::from(settings.replicas),
        max_age: STREAM_MAX_AGE,
        max_bytes: settings.bytes_max,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        ..Default::default()
    };
    let mut events = base(subjects.events_stream(), subjects.events_filter());
    events.max_age = Duration::from_secs(u64::from(settings.events_keep_h) * 3600);
    let mut configs = vec![events];
    for lane in Lane::ALL {
        let mut config = base(subjects.stream(lane), subjects.lane_filter(lane));
        match lane {
            // What is decided stays until it is old, so a full stream is the rule, and its oldest
            // messages are decided long ago: back-pressure shuts a partition much earlier.
            Lane::Seats | Lane::Admission => config.discard = stream::DiscardPolicy::Old,
            // What is decided is gone. A full queue holds nothing but undecided commands, of which
            // none may vanish: the next is refused, and its client learns of it at once.
            Lane::Ledger | Lane::Settlement => {
                config.retention = stream::RetentionPolicy::WorkQueue;
                config.discard = stream::DiscardPolicy::New;
            }
        }
        configs.push(config);
    }
    configs
}

fn says(error: &CreateStreamError, code: ErrorCode) -> bool {
    match error.kind() {
        CreateStreamErrorKind::JetStream(why) => why.error_code() == code,
        _ => false,
    }
}

fn refusal(error: &CreateStreamError, settings: &config::Streams) -> String {
    const NO_ROOM: [ErrorCode; 3] = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ];
    match error.kind() {
        CreateStreamErrorKind::JetStream(why) if NO_ROOM.contains(&why.error_code()) => format!(
            "{why}: each of the five streams reserves {} bytes on the NATS server; raise its \
             max_file_store, or lower ONSALE_STREAM_BYTES_MAX",
            settings.bytes_max
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_encrypted_and_verified_or_plain() {
        let why = |url: &str| options(url).err().map(|error| error.to_string());
        for fine in ["nats://h:1", "nats://h:1/", "nats://u:p%40@h", "h"] {
            assert_eq!(why(fine), None, "{fine}");
            let (server, _) = options(fine).unwrap();
            assert!(!format!("{server:?}").contains("p%40"), "{server:?}");
        }
        for (wrong, part) in [
            ("nats://u:canary@h:port", "malformed"),
            ("nats://u:1?canary@h", "malformed"),
            ("nats//u:canary@h", "malformed"),
            ("http://u:canary@h", "malformed"),
            ("nats://h?ca=/ca.pem", "take tls://"),
            ("tls://h?ca=/none.pem", "/none.pem"),
        ] {
            let why = why(wrong).unwrap_or_default();
            assert!(
                why.contains(part) && !why.contains("canary"),
                "{wrong}: {why}"
            );
        }
    }
}
