//! The NATS connection and the streams.

use crate::{config, metric};
use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream};
use async_nats::{Client, ConnectOptions, Event};
use onsale_schema::Lane;
use onsale_schema::subjects::Subjects;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What can go wrong with NATS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
/// How long the stream keeps commands and events. It protects the disk; the cursor in Postgres is
/// what acknowledges.
const STREAM_MAX_AGE: Duration = Duration::from_secs(48 * 3600);
/// How long the server remembers message ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Connects, and reconnects for ever after.
///
/// # Errors
/// When the server can't be reached now.
pub async fn connect(url: &str, name: &str) -> Result<Client, Error> {
    ConnectOptions::new()
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
                other => tracing::info!(event = %other, "NATS"),
            }
        })
        .connect(url)
        .await
        .map_err(|e| Error::Unavailable(e.to_string()))
}

/// How often it is worth looking whether a connection is still the same.
pub const LINK_CHECK: Duration = Duration::from_millis(100);

/// The connection that a client has now. What is on its way on it, and the acknowledgements of
/// that, are lost with it: nobody need wait for them any longer.
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

/// Makes the streams or brings them up to date.
///
/// # Errors
/// When the server refuses one.
pub async fn ensure_streams(
    jetstream: &jetstream::Context,
    subjects: &Subjects,
    settings: &config::Streams,
) -> Result<(), Error> {
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
    let mut configs = vec![base(subjects.events_stream(), subjects.events_filter())];
    for lane in [Lane::Seats, Lane::Ledger, Lane::Settlement] {
        let mut config = base(subjects.stream(lane), subjects.lane_filter(lane));
        match lane {
            // What is decided stays until it is old, so a full stream is the rule, and its oldest
            // messages are decided long ago: back-pressure shuts a partition much earlier.
            Lane::Seats => config.discard = stream::DiscardPolicy::Old,
            // What is decided is gone. A full queue holds nothing but undecided commands, of which
            // none may vanish: the next is refused, and its client learns of it at once.
            Lane::Ledger | Lane::Settlement => {
                config.retention = stream::RetentionPolicy::WorkQueue;
                config.discard = stream::DiscardPolicy::New;
            }
        }
        configs.push(config);
    }
    for config in configs {
        let name = config.name.clone();
        let made = jetstream.create_or_update_stream(config).await;
        made.map_err(|error| Error::Stream {
            stream: name,
            reason: refusal(&error, settings),
        })?;
    }
    Ok(())
}

fn refusal(error: &CreateStreamError, settings: &config::Streams) -> String {
    const NO_ROOM: [ErrorCode; 3] = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ];
    match error.kind() {
        CreateStreamErrorKind::JetStream(why) if NO_ROOM.contains(&why.error_code()) => format!(
            "{why}: each of the four streams reserves {} bytes on the NATS server; raise its \
             max_file_store, or lower ONSALE_STREAM_BYTES_MAX",
            settings.bytes_max
        ),
        _ => error.to_string(),
    }
}
