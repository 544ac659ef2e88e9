//! Rooms to be measured: made and opened by commands on the lane, in messages as an ingress
//! sends them. Their owner decides each command and writes each row as it always does.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::{Client, Subscriber, jetstream};
use diesel::sql_types::{BigInt, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::StreamExt;
use onsale_platform::{clock, nats};
use onsale_schema::admission::{Broadcast, Kind, Lobby, PolicyChange};
use onsale_schema::message::{Command, CommandMessage, Fingerprint, decode, encode};
use onsale_schema::status::QueueMode;
use onsale_schema::subjects::Subjects;
use onsale_schema::{CommandId, Lane, MessageId, ScheduleId, Timestamp, UserId, partition};
use uuid::Uuid;

use super::super::case::PARTITIONS;
use super::super::rig::Rig;

/// What is written when somebody joins.
pub const TABLES: &[&str] = &["ticket", "waiting_room", "outcome", "partition", "app_user"];
/// For so long an owner may decide nothing.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// From asking for an opening to it, in milliseconds: by then the owner knows of it.
const OPENS_AFTER_MS: i64 = 2_000;
/// How long after that the order may be told.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(25);
const HOUR_MS: i64 = 3600 * 1000;
/// How long a worker may take until a command is refused for its age, in milliseconds.
const DEADLINE_MS: i64 = HOUR_MS;

/// Speaks to the owners of rooms as an ingress does.
pub struct Owners {
    client: Client,
    jetstream: jetstream::Context,
    subjects: Subjects,
}

/// How a room was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Tickets in the lobby.
    pub lobby: u32,
    /// From the time that was set for the opening until the lobby was closed.
    pub closed_ms: f64,
    /// From then until its order was told: deciding, committing and sending.
    pub settled_ms: f64,
    /// From the time that was set until a watermark with an order was here.
    pub told_ms: f64,
}

impl Owners {
    /// Connects.
    ///
    /// # Errors
    /// When NATS refuses.
    pub async fn connect(rig: &Rig) -> anyhow::Result<Self> {
        let client = nats::connect(&rig.nats_url(), "bench")
            .await
            .context("connecting to NATS")?;
        Ok(Self {
            jetstream: nats::jetstream(client.clone()),
            client,
            subjects: Subjects::new("")?,
        })
    }

    /// Gives a date a room that draws, whose lobby is not opened by itself, and whose line then goes on
    /// by one a second: it moves as lines do, and does not run out while it is measured.
    ///
    /// # Errors
    /// When its owner does not decide it in time.
    pub async fn make(
        &self,
        conn: &mut AsyncPgConnection,
        schedule: ScheduleId,
    ) -> anyhow::Result<()> {
        let policy = PolicyChange {
            mode: Some(QueueMode::Draw),
            opens_at: Some(clock::host_now().plus_ms(24 * HOUR_MS)),
            capacity: Some(100_000),
            rate_per_second: Some(1),
            pass_ms: Some(24 * HOUR_MS),
            presence_ms: Some(HOUR_MS),
            ..PolicyChange::default()
        };
        self.amend(schedule, policy).await?;
        let asked = Instant::now();
        while arrivals(conn, schedule).await?.is_none() {
            if asked.elapsed() >= STALL_LIMIT {
                bail!("a waiting room was not made in time");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Opens a room that is still in its lobby, and waits until its order is told.
    ///
    /// # Errors
    /// When NATS fails, or nothing is told in time.
    pub async fn open(&self, schedule: ScheduleId) -> anyhow::Result<Opening> {
        let no = partition::of_schedule(schedule, PARTITIONS);
        let told = self.client.subscribe(self.subjects.watermark(no)).await;
        let mut told = told.context("subscribing to watermarks")?;
        self.client.flush().await.context("asking NATS")?;
        let opens_at = clock::host_now().plus_ms(OPENS_AFTER_MS);
        let opening = PolicyChange {
            opens_at: Some(opens_at),
            ..PolicyChange::default()
        };
        self.amend(schedule, opening).await?;
        let (lobby, sent_at) = tokio::time::timeout(ORDER_LIMIT, order(&mut told, schedule))
            .await
            .context("waiting for the order of a lobby")??;
        Ok(Opening {
            lobby: lobby.size,
            closed_ms: ms_between(opens_at, lobby.closed_at),
            settled_ms: ms_between(lobby.closed_at, sent_at),
            told_ms: ms_between(opens_at, clock::host_now()),
        })
    }

    async fn amend(&self, schedule: ScheduleId, change: PolicyChange) -> anyhow::Result<()> {
        let amend = Kind::Policy {
            schedule_id: schedule,
            change,
        };
        let command = Command {
            id: CommandId(Uuid::now_v7()),
            user: UserId(Uuid::now_v7()),
            fingerprint: Fingerprint(Uuid::nil()),
            deadline: clock::host_now().plus_ms(DEADLINE_MS),
            trace: None,
            kind: amend,
        };
        let message = CommandMessage {
            id: MessageId(Uuid::now_v7()),
            reply_to: None,
            commands: vec![command],
        };
        let no = partition::of_schedule(schedule, PARTITIONS);
        let subject = self.subjects.partition(Lane::Admission, no);
        let sent = self.jetstream.publish(subject, encode(&message).into());
        sent.await
            .context("sending commands")?
            .await
            .context("waiting until commands are on the stream")?;
        Ok(())
    }
}

/// The first lobby of this date that is told with an order, and when that was sent.
async fn order(told: &mut Subscriber, schedule: ScheduleId) -> anyhow::Result<(Lobby, Timestamp)> {
    loop {
        let message = told.next().await.context("no watermarks come any more")?;
        let Broadcast { rooms, sent_at } = decode(&message.payload)?;
        let ours = rooms.into_iter().find(|room| room.schedule_id == schedule);
        let lobby = ours.and_then(|room| room.lobby);
        if let Some(lobby) = lobby.filter(|lobby| lobby.order.is_some()) {
            return Ok((lobby, sent_at));
        }
    }
}

fn ms_between(from: Timestamp, to: Timestamp) -> f64 {
    (to.micros() - from.micros()) as f64 / 1e3
}

/// How many have joined a room; none if there is no room.
async fn arrivals(
    conn: &mut AsyncPgConnection,
    schedule: ScheduleId,
) -> anyhow::Result<Option<u32>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        arrivals: i64,
    }
    let query = "SELECT arrivals::bigint FROM waiting_room WHERE schedule_id = $1";
    let rows: Vec<Row> = sql_query(query)
        .bind::<SqlUuid, _>(schedule)
        .load(conn)
        .await?;
    let row = rows.as_slice().first();
    Ok(row.map(|row| u32::try_from(row.arrivals)).transpose()?)
}

/// What Postgres has of a room's tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct Rows {
    /// Tickets.
    #[diesel(sql_type = BigInt)]
    pub tickets: i64,
    /// Q1: their numbers, which are dense if the last is one less than there are.
    #[diesel(sql_type = BigInt)]
    pub numbers: i64,
    /// The last of them.
    #[diesel(sql_type = BigInt)]
    pub last: i64,
    /// Whose they are.
    #[diesel(sql_type = BigInt)]
    pub users: i64,
}

impl Rows {
    /// Counts them.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn count(conn: &mut AsyncPgConnection, schedule: ScheduleId) -> anyhow::Result<Self> {
        let rows = sql_query(
            "SELECT count(*) AS tickets, count(DISTINCT arrival_no) AS numbers,
                    coalesce(max(arrival_no), -1)::bigint AS last,
                    count(DISTINCT user_id) AS users
             FROM ticket WHERE schedule_id = $1",
        )
        .bind::<SqlUuid, _>(schedule)
        .get_result(conn)
        .await?;
        Ok(rows)
    }

    /// What is wrong when so many joined, each another user, and all were given a ticket.
    #[must_use]
    pub fn complaint(&self, joined: u64) -> Option<String> {
        let joined = i64::try_from(joined).unwrap_or(i64::MAX);
        let right = Self {
            tickets: joined,
            numbers: joined,
            last: joined - 1,
            users: joined,
        };
        (*self != right).then(|| format!("{joined} have joined, but Postgres has {self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_answers_must_agree() {
        let rows = Rows {
            tickets: 3,
            numbers: 3,
            last: 2,
            users: 3,
        };
        assert_eq!(rows.complaint(3), None);
        assert!(rows.complaint(2).is_some());
        let sparse = Rows { last: 3, ..rows };
        assert!(
            sparse
                .complaint(3)
                .is_some_and(|text| text.contains("last: 3"))
        );
    }
}
