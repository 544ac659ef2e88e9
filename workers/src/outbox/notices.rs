//! Publishes open notices to the partitions of their receivers, at once and again until they are
//! done. PubAck is not done: a stream can lose what it has acknowledged. Whoever has something to tell
//! writes it with [`insert`], in the transaction that makes it true.

use super::pace::{Found, Pace};
use super::parcels::Parcels;
use super::system::{self, Outgoing, message_id, publish};
use crate::compete::patience::Patience;
use crate::context::Context;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Binary, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use onsale_schema::message::{
    COMMANDS_PER_MESSAGE_MAX, Command, MESSAGE_BYTES_MAX, decode, encode,
};
use onsale_schema::partition::of_schedule;
use onsale_schema::{
    CommandId, Lane, MessageId, NoticeId, PartitionNo, ScheduleId, admission, seats,
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use tokio::time::Instant;
use uuid::Uuid;

/// Open notices of a lane that one look sees, the oldest ones.
const OPEN_MAX: i64 = 65_536;
/// Notices that one look sends.
const SEND_MAX: usize = 4096;
/// Notices of one message, in bytes, so that it is within its bound with all that is said besides.
const LETTER_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// Why a look failed; always transient.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// NATS.
    #[error(transparent)]
    Nats(#[from] system::Error),
}

/// What a notice says: a command of the lane that it is for. It is written as that lane's is.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Kind {
    /// To an owner of seats.
    Seats(seats::Kind),
    /// To an owner of waiting rooms.
    Admission(admission::Kind),
}

/// A notice to be written.
#[derive(Clone, Debug)]
pub struct NewNotice {
    notice_id: NoticeId,
    lane: Lane,
    schedule_id: ScheduleId,
    payload: Vec<u8>,
}

impl NewNotice {
    /// To the owner of a schedule's seats; `subject` is what it is about.
    #[must_use]
    pub fn to_seats(notice_id: NoticeId, subject: Uuid, kind: seats::Kind) -> Self {
        let id = CommandId::of_system(kind.name(), subject, 0);
        Self {
            notice_id,
            lane: Lane::Seats,
            schedule_id: kind.schedule_id(),
            payload: encode(&system::command(id, kind)),
        }
    }

    /// To the owner of a schedule's waiting room.
    #[must_use]
    pub fn to_room(notice_id: NoticeId, kind: admission::Kind) -> Self {
        let id = CommandId::of_system(kind.name(), notice_id.0, 0);
        Self {
            notice_id,
            lane: Lane::Admission,
            schedule_id: kind.schedule_id(),
            payload: encode(&system::command(id, kind)),
        }
    }
}

/// The owner of a partition.
pub type Receiver = (Lane, PartitionNo);
/// Notices to be published as one message.
pub type Message = (Receiver, MessageId, Vec<Command<Kind>>);

/// What the publisher needs from outside. Production is [`Context`]; a simulation is another.
pub trait Post: Sync {
    /// Partitions of each lane.
    fn partitions(&self) -> u16;
    /// The oldest open notices of each lane, at most `max` of each: those of one that stands still
    /// hide nobody else's.
    fn list_open(&self, max: i64) -> impl Future<Output = Result<Vec<NoticeId>, db::Error>> + Send;
    /// Those of these that are open.
    fn list(&self, ids: &[NoticeId]) -> impl Future<Output = Result<Vec<Row>, db::Error>> + Send;
    /// Publishes messages of commands, in order, then waits for each to be stored.
    fn send(
        &self,
        messages: Vec<Message>,
    ) -> impl Future<Output = Vec<Result<(), system::Error>>> + Send;
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

    async fn send(&self, messages: Vec<Message>) -> Vec<Result<(), system::Error>> {
        let messages = messages
            .into_iter()
            .map(|((lane, partition), id, commands)| {
                Outgoing::commands(self, lane, partition, id, commands)
            });
        publish(self, messages.collect()).await
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
    let mut pace = Pace::gathering(Some(nudges));
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
    to: Receiver,
    notices: Vec<(NoticeId, Command<Kind>)>,
}

/// A notice that was read.
struct Body {
    to: Receiver,
    bytes: usize,
    command: Command<Kind>,
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
            let bodies = notices.into_iter().filter_map(|id| {
                let body = bodies.remove(&id)?;
                Some((body.to, (id, body.command)))
            });
            let (to, open): (Vec<Receiver>, Vec<_>) = bodies.unzip();
            if let Some(to) = to.as_slice().first() {
                letters.push(Letter {
                    parcel,
                    message,
                    to: *to,
                    notices: open,
                });
            }
        }
        let mut by_receiver: BTreeMap<Receiver, Vec<(NoticeId, Body)>> = BTreeMap::new();
        for id in new {
            if let Some(body) = bodies.remove(id) {
                by_receiver.entry(body.to).or_default().push((*id, body));
            }
        }
        for (to, notices) in by_receiver {
            for notices in parts(notices) {
                let parcel = message_id(notices.iter().map(|(id, _)| id.0), 0);
                letters.push(Letter {
                    parcel,
                    message: parcel,
                    to,
                    notices,
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
                ((letter.parcel, ids), (letter.to, letter.message, commands))
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

    /// The commands of notices that are still open, with those who receive them.
    async fn bodies(
        &mut self,
        post: &impl Post,
        ids: &[NoticeId],
    ) -> Result<HashMap<NoticeId, Body>, Error> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut bodies = HashMap::with_capacity(ids.len());
        for row in post.list(ids).await? {
            if let Some((lane, command)) = row.read() {
                let partition = of_schedule(row.schedule_id, post.partitions());
                let body = Body {
                    to: (lane, partition),
                    bytes: row.payload.len(),
                    command,
                };
                bodies.insert(row.notice_id, body);
            } else {
                tracing::error!(notice = %row.notice_id, lane = row.lane, "can't read a notice");
                self.unreadable.insert(row.notice_id);
            }
        }
        Ok(bodies)
    }
}

/// Notices of one receiver, in parts that each fit into a message.
fn parts(notices: Vec<(NoticeId, Body)>) -> Vec<Vec<(NoticeId, Command<Kind>)>> {
    let mut parts: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for (id, body) in notices {
        bytes += body.bytes;
        match parts.last_mut() {
            Some(part) if part.len() < COMMANDS_PER_MESSAGE_MAX && bytes <= LETTER_BYTES_MAX => {
                part.push((id, body.command));
            }
            Some(_) | None => {
                bytes = body.bytes;
                parts.push(vec![(id, body.command)]);
            }
        }
    }
    parts
}

/// Adds notices, to be published after the commit.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn insert(mut conn: &AsyncPgConnection, rows: &[NewNotice]) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload) \
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bytea[])",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|n| n.notice_id).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|n| n.lane).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|n| n.schedule_id).collect())
    .bind::<Array<Binary>, Vec<_>>(rows.iter().map(|n| n.payload.as_slice()).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    notice_id: NoticeId,
}

async fn notice_list_open(ctx: &Context, max: i64) -> Result<Vec<NoticeId>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows: Vec<IdRow> = statement(
        "(SELECT notice_id FROM notice WHERE done_at IS NULL AND lane = $1 \
          ORDER BY created_at LIMIT $3) \
         UNION ALL \
         (SELECT notice_id FROM notice WHERE done_at IS NULL AND lane = $2 \
          ORDER BY created_at LIMIT $3)",
    )
    .bind::<Text, _>(Lane::Seats.as_str())
    .bind::<Text, _>(Lane::Admission.as_str())
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

impl Row {
    /// The lane that decides it, and what it says; none if this version can't read it.
    fn read(&self) -> Option<(Lane, Command<Kind>)> {
        let lane = Lane::ALL
            .into_iter()
            .find(|lane| lane.as_str() == self.lane)?;
        let command = match lane {
            Lane::Seats => decode::<Command<seats::Kind>>(&self.payload)
                .ok()?
                .map(Kind::Seats),
            Lane::Admission => {
                let command = decode::<Command<admission::Kind>>(&self.payload).ok()?;
                command.map(Kind::Admission)
            }
            Lane::Ledger | Lane::Settlement => return None,
        };
        Some((lane, command))
    }
}

async fn notice_list(ctx: &Context, ids: &[NoticeId]) -> Result<Vec<Row>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows = statement(
        "SELECT notice_id, lane, schedule_id, payload FROM notice \
         WHERE notice_id = ANY($1) AND num_nulls(done_at) = 1",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::message::CommandMessage;
    use onsale_schema::{ArrivalNo, ReservationId};

    fn id(n: u128) -> NoticeId {
        NoticeId(Uuid::from_u128(n))
    }

    fn to_seats(n: u128) -> NewNotice {
        let kind = seats::Kind::Paid {
            notice_id: id(n),
            reservation_id: ReservationId(Uuid::from_u128(2)),
            schedule_id: ScheduleId(Uuid::from_u128(3)),
        };
        NewNotice::to_seats(id(n), Uuid::from_u128(2), kind)
    }

    fn to_room(n: u128) -> NewNotice {
        let kind = admission::Kind::Seen {
            schedule_id: ScheduleId(Uuid::from_u128(3)),
            tickets: vec![ArrivalNo(4)],
            others: false,
        };
        NewNotice::to_room(id(n), kind)
    }

    fn row(notice: NewNotice) -> Row {
        Row {
            notice_id: notice.notice_id,
            lane: notice.lane.as_str().to_owned(),
            schedule_id: notice.schedule_id,
            payload: notice.payload,
        }
    }

    /// In memory there is one kind of notice, on a stream there are those of its lane.
    #[test]
    fn each_lane_is_told_in_its_own_words() {
        let (lane, command) = row(to_room(1)).read().expect("it can be read");
        assert_eq!(lane, Lane::Admission);
        let message = CommandMessage {
            id: MessageId(Uuid::nil()),
            reply_to: None,
            commands: vec![command],
        };
        let heard: CommandMessage<admission::Kind> =
            decode(&encode(&message)).expect("the lane can read it");
        let kind = &heard.commands[0].kind;
        assert!(matches!(kind, admission::Kind::Seen { tickets, .. } if tickets[0].0 == 4));

        let (lane, command) = row(to_seats(1)).read().expect("it can be read");
        assert_eq!(lane, Lane::Seats);
        let heard: Command<seats::Kind> = decode(&encode(&command)).expect("the lane can read it");
        assert!(matches!(heard.kind, seats::Kind::Paid { notice_id, .. } if notice_id == id(1)));
    }

    #[test]
    fn what_is_for_another_lane_than_it_says_is_not_read() {
        for lane in ["admission", "ledger", "settlement", "", "attic"] {
            let row = Row {
                lane: lane.to_owned(),
                ..row(to_seats(1))
            };
            assert!(row.read().is_none(), "{lane}");
        }
    }

    #[test]
    fn a_letter_is_within_the_bounds_of_a_message() {
        let body = |bytes| {
            let (lane, command) = row(to_seats(1)).read().expect("it can be read");
            let to = (lane, PartitionNo(0));
            Body { to, bytes, command }
        };
        for (count, bytes, expected) in [
            (0, 1, vec![]),
            (257, 1, vec![256, 1]),
            (5, LETTER_BYTES_MAX / 2, vec![2, 2, 1]),
            // One alone goes out whatever it is: the server says whether it is too large.
            (2, LETTER_BYTES_MAX + 1, vec![1, 1]),
        ] {
            let notices = (0..count).map(|n| (id(n), body(bytes))).collect();
            let sizes: Vec<usize> = parts(notices).iter().map(Vec::len).collect();
            assert_eq!(sizes, expected, "{count} of {bytes}");
        }
    }
}
