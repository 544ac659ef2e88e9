//! The half of F2 that needs the stream: every message up to a partition's cursor has its outcome.
//!
//! Cursors and outcomes come from the audit's snapshot, and the stream is read after it: messages
//! that arrive meanwhile lie beyond the cursors and don't count.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::StreamExt;
use onsale_platform::{clock, db, nats};
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, MessageId, Timestamp};

use super::Comparison;

/// So many of the newest messages are looked at; a longer history would take minutes.
pub const MESSAGES_MAX: u64 = 100_000;
/// Outcomes are kept for a day; what is older than this may have lost its own by right.
const AGE_MAX_MS: i64 = 23 * 3600 * 1000;
/// How long the server may be silent while it has messages for us.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Where the stream is.
#[derive(Clone, Debug)]
pub struct Nats {
    /// Its server, as `nats://host:port`.
    pub url: String,
    /// The prefix of all subjects and streams.
    pub subject_prefix: String,
}

/// What the snapshot knows of the partitioned lanes.
#[derive(Debug, Default)]
pub struct Decided(Vec<LaneDecided>);

#[derive(Debug)]
struct LaneDecided {
    lane: Lane,
    /// By partition.
    cursors: HashMap<i32, Cursor>,
    /// Messages from this sequence on are looked at.
    from: u64,
    /// Incarnation and message of each outcome.
    outcomes: HashMap<Place, Vec<(i32, Option<MessageId>)>>,
    dead: HashSet<Place>,
}

/// Partition and sequence of a message.
type Place = (i32, u64);

#[derive(Clone, Copy, Debug)]
struct Cursor {
    incarnation: i32,
    seq: u64,
}

#[derive(Debug, Default)]
struct Found {
    /// Messages that were looked at.
    messages: u64,
    /// Those without an outcome.
    missing: Vec<String>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    partition_no: i32,
    #[diesel(sql_type = Integer)]
    incarnation: i32,
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    message_id: Option<MessageId>,
}

impl Row {
    fn place(&self) -> Place {
        (self.partition_no, unsigned(self.seq))
    }
}

impl Decided {
    /// Reads cursors, and what is decided up to them, in the transaction that is open on `conn`.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn load(conn: &mut AsyncPgConnection) -> Result<Self, db::Error> {
        let mut lanes = Vec::new();
        for lane in Lane::partitioned() {
            lanes.push(LaneDecided::load(conn, lane).await?);
        }
        Ok(Self(lanes))
    }

    /// Compares with the stream.
    ///
    /// # Errors
    /// When NATS can't be reached, or goes silent.
    pub async fn compare(&self, nats: &Nats) -> anyhow::Result<Comparison> {
        let subjects = Subjects::new(&nats.subject_prefix)?;
        let client = nats::connect(&nats.url, "onsale-audit").await?;
        let mut found = Found::default();
        for lane in &self.0 {
            lane.compare(&client, &subjects, &mut found).await?;
        }
        Ok(Comparison {
            differences: found.missing,
            what: format!("compared with {} messages on the stream", found.messages),
        })
    }
}

impl LaneDecided {
    async fn load(conn: &mut AsyncPgConnection, lane: Lane) -> Result<Self, db::Error> {
        let rows = async |conn: &mut AsyncPgConnection, sql: &str, from: i64| {
            let query = sql_query(sql.to_owned());
            query
                .bind::<Text, _>(lane.as_str())
                .bind::<BigInt, _>(from)
                .load::<Row>(conn)
                .await
        };
        const CURSORS: &str = "
            SELECT partition_no, incarnation, applied_seq AS seq, NULL::uuid AS message_id
            FROM partition WHERE lane = $1 AND applied_seq >= $2";
        let cursors: HashMap<i32, Cursor> = rows(conn, CURSORS, 0)
            .await?
            .iter()
            .map(|row| {
                let cursor = Cursor {
                    incarnation: row.incarnation,
                    seq: unsigned(row.seq),
                };
                (row.partition_no, cursor)
            })
            .collect();
        let newest = cursors.values().map(|cursor| cursor.seq).max().unwrap_or(0);
        let from = (newest + 1).saturating_sub(MESSAGES_MAX).max(1);
        let signed_from = i64::try_from(from).unwrap_or(i64::MAX);

        const OUTCOMES: &str = "
            SELECT partition_no, incarnation, seq, message_id
            FROM outcome WHERE lane = $1 AND partition_no >= 0 AND seq >= $2";
        let mut outcomes: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows(conn, OUTCOMES, signed_from).await? {
            outcomes
                .entry(row.place())
                .or_default()
                .push((row.incarnation, row.message_id));
        }
        const DEAD: &str = "
            SELECT partition_no, incarnation, seq, NULL::uuid AS message_id
            FROM dead_letter WHERE lane = $1 AND partition_no >= 0 AND seq >= $2";
        let dead = rows(conn, DEAD, signed_from)
            .await?
            .iter()
            .map(Row::place)
            .collect();
        Ok(Self {
            lane,
            cursors,
            from,
            outcomes,
            dead,
        })
    }

    async fn compare(
        &self,
        client: &async_nats::Client,
        subjects: &Subjects,
        found: &mut Found,
    ) -> anyhow::Result<()> {
        let to = self
            .cursors
            .values()
            .map(|cursor| cursor.seq)
            .max()
            .unwrap_or(0);
        if to == 0 {
            return Ok(());
        }
        let name = subjects.stream(self.lane);
        let stream = nats::jetstream(client.clone())
            .get_stream(&name)
            .await
            .with_context(|| format!("looking for stream {name}"))?;
        let consumer = stream
            .create_consumer(pull::Config {
                description: Some("onsale audit".into()),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: self.from,
                },
                ack_policy: AckPolicy::None,
                filter_subject: subjects.lane_filter(self.lane),
                headers_only: true,
                memory_storage: true,
                inactive_threshold: Duration::from_secs(30),
                ..Default::default()
            })
            .await
            .with_context(|| format!("reading stream {name}"))?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(());
        }
        let oldest = clock::host_now().plus_ms(-AGE_MAX_MS);
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(10_000)
            .messages()
            .await
            .context("reading")?;
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, messages.next()).await;
            let Ok(Some(message)) = next else {
                bail!("stream {name} went silent")
            };
            let message = message.with_context(|| format!("reading stream {name}"))?;
            let info = message
                .info()
                .map_err(|error| anyhow::anyhow!("a message of {name} has no place: {error}"))?;
            if info.stream_sequence > to {
                break;
            }
            let published = Timestamp::from(info.published);
            let (seq, is_last) = (info.stream_sequence, info.pending == 0);
            if published >= oldest
                && let Some(partition) = partition_of(&message.subject)
                && self
                    .cursors
                    .get(&partition)
                    .is_some_and(|cursor| seq <= cursor.seq)
            {
                found.messages += 1;
                let id = message.headers.as_ref().and_then(id_of);
                if !self.is_decided(partition, seq, id) {
                    let lane = self.lane;
                    found.missing.push(format!(
                        "{lane} {partition}: message {seq} of {published} has no outcome"
                    ));
                }
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// A message of the cursor's incarnation is known by its sequence alone. One that an older
    /// incarnation applied, and that the stream still has, is known by its id, since sequences of
    /// what the stream lost were given again.
    fn is_decided(&self, partition: i32, seq: u64, id: Option<MessageId>) -> bool {
        let place = (partition, seq);
        let current = self
            .cursors
            .get(&partition)
            .map(|cursor| cursor.incarnation);
        let rows = self
            .outcomes
            .get(&place)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let by_outcome = rows.iter().any(|(incarnation, known)| {
            Some(*incarnation) == current || (id.is_some() && *known == id)
        });
        by_outcome || self.dead.contains(&place)
    }
}

fn partition_of(subject: &str) -> Option<i32> {
    subject.rsplit('.').next()?.parse().ok()
}

fn id_of(headers: &HeaderMap) -> Option<MessageId> {
    headers
        .get(async_nats::header::NATS_MESSAGE_ID)?
        .as_str()
        .parse()
        .ok()
}

fn unsigned(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}
