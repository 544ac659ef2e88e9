//! Publishes open notices to the partitions of their receivers, at once and again until they are
//! done. PubAck is not done: a stream can lose what it has acknowledged.

use super::pace::{Found, Pace};
use super::parcels::Parcels;
use super::system::{Outgoing, message_id, publish};
use crate::compete::patience::Patience;
use crate::context::Context;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Binary, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use onsale_schema::message::{COMMANDS_PER_MESSAGE_MAX, Command, decode};
use onsale_schema::partition::of_schedule;
use onsale_schema::seats::Kind;
use onsale_schema::{Lane, MessageId, NoticeId, PartitionNo, ScheduleId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use tokio::time::Instant;

/// Open notices that one look sees, the oldest ones.
const OPEN_MAX: i64 = 65_536;
/// Notices that one look sends.
const SEND_MAX: usize = 4096;

/// Why a look failed; always transient.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// NATS.
    #[error(transparent)]
    Nats(#[from] super::system::Error),
}

/// What the publisher needs from outside. Production is [`Context`]; a simulation is another.
pub trait Post: Sync {
    /// Partitions of the seats lane.
    fn partitions(&self) -> u16;
    /// The oldest open notices, at most `max`.
    fn list_open(&self, max: i64) -> impl Future<Output = Result<Vec<NoticeId>, db::Error>> + Send;
    /// Those of these that are open.
    fn list(&self, ids: &[NoticeId]) -> impl Future<Output = Result<Vec<Row>, db::Error>> + Send;
    /// Publishes messages of commands, in order, then waits for each to be stored.
    fn send(
        &self,
        messages: Vec<(PartitionNo, MessageId, Vec<Command<Kind>>)>,
    ) -> impl Future<Output = Vec<Result<(), super::system::Error>>> + Send;
}

impl Post for Context {
    fn partitions(&self) -> u16 {
        self.config.common.partitions
    }

    async fn list_open(&self, max: i64) -> Result<Vec<NoticeId>, db::Error> {
        notice_list_open(self, max).await
    }

    async fn list(&self, ids: &[NoticeId]) -> Result<Vec<Row>, db::Error> {
        notice_list(self, ids).await
    }

    async fn send(
        &self,
        messages: Vec<(PartitionNo, MessageId, Vec<Command<Kind>>)>,
    ) -> Vec<Result<(), super::system::Error>> {
        let messages = messages
            .into_iter()
            .map(|(partition, id, commands)| Outgoing::commands(self, partition, id, commands))
            .collect();
        publish(self, messages).await
    }
}

/// Publishes for ever.
pub async fn run(ctx: &Context) -> Infallible {
    let mut patience = Patience::new("outbox notices");
    let nudges = loop {
        match ctx.nats.subscribe(ctx.subjects.outbox_nudge()).await {
            Ok(nudges) => break nudges,
            Err(error) => patience.wait(error).await,
        }
    };
    let mut pace = Pace::new(Some(nudges));
    let mut notices = Notices::default();
    loop {
        let started = Instant::now();
        match notices.look(ctx).await {
            Ok(found) => {
                patience.healed();
                pace.wait(started, found).await;
            }
            Err(error) => patience.wait(error).await,
        }
    }
}

/// What a publisher knows: what it has sent and is not done.
#[derive(Default)]
pub struct Notices {
    parcels: Parcels,
    /// What this version can't read; said once each.
    unreadable: HashSet<NoticeId>,
}

/// A message with notices, before it is on its stream.
struct Letter {
    parcel: MessageId,
    message: MessageId,
    partition: PartitionNo,
    notices: Vec<(NoticeId, Command<Kind>)>,
}

impl Notices {
    /// Looks once, and sends what is due.
    ///
    /// # Errors
    /// When a server is away; look again.
    pub async fn look(&mut self, post: &impl Post) -> Result<Found, Error> {
        let open = post.list_open(OPEN_MAX).await?;
        let is_open: HashSet<NoticeId> = open.iter().copied().collect();
        self.parcels.keep(&is_open);
        self.unreadable.retain(|id| is_open.contains(id));
        let unsent = |id: &NoticeId| !self.parcels.has(*id) && !self.unreadable.contains(id);
        let new: Vec<NoticeId> = open.iter().copied().filter(unsent).take(SEND_MAX).collect();
        let letters = self.letters(post, &new).await?;
        let sent = letters.iter().map(|letter| letter.notices.len()).sum();
        self.send(post, letters).await?;
        Ok(match sent {
            0 => Found::Nothing,
            SEND_MAX.. => Found::More,
            _ => Found::Some,
        })
    }

    /// What goes out now.
    async fn letters(&mut self, post: &impl Post, new: &[NoticeId]) -> Result<Vec<Letter>, Error> {
        let due: Vec<(MessageId, MessageId, Vec<NoticeId>)> = self
            .parcels
            .due(Instant::now())
            .into_iter()
            .map(|(parcel, message, notices)| (parcel, message, notices.to_vec()))
            .take(SEND_MAX / COMMANDS_PER_MESSAGE_MAX)
            .collect();
        let mut ids = new.to_vec();
        ids.extend(due.iter().flat_map(|(_, _, notices)| notices));
        let mut bodies = self.bodies(post, &ids).await?;
        let mut letters = Vec::new();
        for (parcel, message, notices) in due {
            let mut partition = None;
            let mut open = Vec::with_capacity(notices.len());
            for id in notices {
                if let Some((of_notice, command)) = bodies.remove(&id) {
                    partition = Some(of_notice);
                    open.push((id, command));
                }
            }
            if let Some(partition) = partition {
                letters.push(Letter {
                    parcel,
                    message,
                    partition,
                    notices: open,
                });
            }
        }
        let mut by_partition: BTreeMap<PartitionNo, Vec<_>> = BTreeMap::new();
        for id in new {
            if let Some((partition, command)) = bodies.remove(id) {
                by_partition
                    .entry(partition)
                    .or_default()
                    .push((*id, command));
            }
        }
        for (partition, notices) in by_partition {
            for part in notices.chunks(COMMANDS_PER_MESSAGE_MAX) {
                let parcel = message_id(part.iter().map(|(id, _)| id.0), 0);
                letters.push(Letter {
                    parcel,
                    message: parcel,
                    partition,
                    notices: part.to_vec(),
                });
            }
        }
        Ok(letters)
    }

    async fn send(&mut self, post: &impl Post, letters: Vec<Letter>) -> Result<(), Error> {
        let (parcels, messages): (Vec<_>, Vec<_>) = letters
            .into_iter()
            .map(|letter| {
                let (ids, commands): (Vec<NoticeId>, Vec<_>) = letter.notices.into_iter().unzip();
                (
                    (letter.parcel, ids),
                    (letter.partition, letter.message, commands),
                )
            })
            .unzip();
        let stored = post.send(messages).await;
        let mut failed = None;
        for ((parcel, notices), stored) in parcels.into_iter().zip(stored) {
            match stored {
                Ok(()) => {
                    metrics::counter!(metric::OUTBOX_PUBLISHED, "kind" => "notice")
                        .increment(notices.len() as u64);
                    self.parcels.sent(parcel, notices, Instant::now());
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The commands of notices that are still open, with their partitions.
    async fn bodies(
        &mut self,
        post: &impl Post,
        ids: &[NoticeId],
    ) -> Result<HashMap<NoticeId, (PartitionNo, Command<Kind>)>, Error> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut bodies = HashMap::with_capacity(ids.len());
        for row in post.list(ids).await? {
            let partition = of_schedule(row.schedule_id, post.partitions());
            match decode(&row.payload) {
                Ok(command) if row.lane == Lane::Seats.as_str() => {
                    bodies.insert(row.notice_id, (partition, command));
                }
                _ => {
                    tracing::error!(notice = %row.notice_id, lane = row.lane, "can't read a notice");
                    self.unreadable.insert(row.notice_id);
                }
            }
        }
        Ok(bodies)
    }
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    notice_id: NoticeId,
}

async fn notice_list_open(ctx: &Context, max: i64) -> Result<Vec<NoticeId>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows: Vec<IdRow> = statement(
        "SELECT notice_id FROM notice WHERE done_at IS NULL ORDER BY created_at LIMIT $1",
    )
    .bind::<BigInt, _>(max)
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.notice_id).collect())
}

/// An open notice.
#[derive(QueryableByName)]
pub struct Row {
    /// Which.
    #[diesel(sql_type = SqlUuid)]
    pub notice_id: NoticeId,
    /// The lane that it is for.
    #[diesel(sql_type = Text)]
    pub lane: String,
    /// The schedule, whose partition's owner receives it.
    #[diesel(sql_type = SqlUuid)]
    pub schedule_id: ScheduleId,
    /// A command.
    #[diesel(sql_type = Binary)]
    pub payload: Vec<u8>,
}

async fn notice_list(ctx: &Context, ids: &[NoticeId]) -> Result<Vec<Row>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows = statement(
        "SELECT notice_id, lane, schedule_id, payload FROM notice \
         WHERE notice_id = ANY($1) AND done_at IS NULL",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    Ok(rows)
}
