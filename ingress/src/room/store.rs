//! Reading rooms and tickets; their owner alone writes them.

use super::state::{Room, Tickets};
use crate::problem::{Code, Problem};
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::admission::{Lobby, Order, Policy, Ticketed, Watermark};
use onsale_schema::draw::{Digest, Place};
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, Generation, ScheduleId, TicketId, Timestamp, UserId};

/// Reads a room and all its tickets that are not simply in line, in one statement, which sees one
/// moment. Whatever a million tickets have become, it is some bytes for each.
///
/// # Errors
/// `not-found` where nobody has ever made a room; `dependency-unavailable`.
pub async fn snapshot(pool: &Pool, schedule: ScheduleId) -> Result<Room, Problem> {
    let mut conn = pool.get().await?;
    let row: Option<Row> = statement(
        "SELECT mode, paused, opens_at, capacity, rate_per_second, pass_ms, presence_ms, \
                holds_per_pass, version, arrivals, closed_at, lobby_size, lobby_digest, beacon, \
                lobby_order, seed, front, latest, cancelled, \
                (SELECT state <> 'OPEN' OR booking_closes_at <= clock_timestamp() FROM sale \
                 WHERE schedule_id = room.schedule_id) AS is_sale_stopped, \
                coalesce((SELECT generation FROM system), 0) AS generation, \
                (SELECT count(*)::int FROM ticket \
                 WHERE schedule_id = room.schedule_id AND status = 'WAITING' \
                   AND access_code_id IS NOT NULL) AS guests, \
                ARRAY(SELECT arrival_no FROM ticket \
                      WHERE schedule_id = room.schedule_id AND status <> 'WAITING' \
                      ORDER BY arrival_no) AS arrival_nos, \
                (SELECT string_agg(left(status, 1), '' ORDER BY arrival_no) FROM ticket \
                 WHERE schedule_id = room.schedule_id AND status <> 'WAITING') AS letters, \
                ARRAY(SELECT greatest( \
                          (extract(epoch FROM pass_until) * 1000000)::bigint, \
                          (SELECT max((hold ->> 1)::bigint) \
                           FROM jsonb_array_elements(holds) AS hold \
                           WHERE NOT (hold ->> 2)::boolean)) \
                      FROM ticket WHERE schedule_id = room.schedule_id AND status = 'ADMITTED' \
                      ORDER BY arrival_no) AS passes_us \
         FROM waiting_room AS room WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule)
    .get_result(&mut conn)
    .await
    .optional()?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(row.into_room(schedule)?)
}

/// The newest ticket of a user, and as what it has ended, if it has.
///
/// # Errors
/// When the database can't be asked.
pub async fn newest(
    pool: &Pool,
    schedule: ScheduleId,
    user: UserId,
) -> Result<Option<(Ticketed, Option<TicketStatus>)>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        ticket_id: TicketId,
        #[diesel(sql_type = Integer)]
        arrival_no: i32,
        #[diesel(sql_type = Text)]
        status: TicketStatus,
        #[diesel(sql_type = Bool)]
        is_guest: bool,
        #[diesel(sql_type = Nullable<Integer>)]
        guest_no: Option<i32>,
        #[diesel(sql_type = BigInt)]
        generation: Generation,
    }
    let mut conn = pool.get().await?;
    // There is an index for either part. Who has a live ticket got it last.
    let row: Option<Row> = statement(
        "SELECT ticket_id, arrival_no, status, access_code_id IS NOT NULL AS is_guest, \
                CASE WHEN access_code_id IS NOT NULL THEN \
                    (SELECT count(*)::int FROM ticket AS earlier \
                     WHERE earlier.schedule_id = $1 AND earlier.access_code_id IS NOT NULL \
                       AND earlier.arrival_no < newest.arrival_no) END AS guest_no, \
                coalesce((SELECT generation FROM system), 0) AS generation \
         FROM ((SELECT ticket_id, arrival_no, status, access_code_id FROM ticket \
                WHERE schedule_id = $1 AND user_id = $2 AND status IN ('WAITING', 'ADMITTED')) \
               UNION ALL \
               (SELECT ticket_id, arrival_no, status, access_code_id FROM ticket \
                WHERE schedule_id = $1 AND user_id = $2 AND ended_at IS NOT NULL \
                ORDER BY arrival_no DESC LIMIT 1) \
               ORDER BY arrival_no DESC LIMIT 1) AS newest",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<SqlUuid, _>(user)
    .get_result(&mut conn)
    .await
    .optional()?;
    let found = row.map(|row| {
        let ticketed = Ticketed {
            user_id: user,
            schedule_id: schedule,
            ticket_id: row.ticket_id,
            arrival_no: ArrivalNo(count(row.arrival_no)?),
            is_guest: row.is_guest,
            guest_no: row.guest_no.map(count).transpose()?,
            generation: row.generation,
        };
        Ok((ticketed, Some(row.status).filter(|it| !it.is_live())))
    });
    found.transpose()
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    mode: QueueMode,
    #[diesel(sql_type = Bool)]
    paused: bool,
    #[diesel(sql_type = Timestamptz)]
    opens_at: Timestamp,
    #[diesel(sql_type = Integer)]
    capacity: i32,
    #[diesel(sql_type = Integer)]
    rate_per_second: i32,
    #[diesel(sql_type = BigInt)]
    pass_ms: i64,
    #[diesel(sql_type = BigInt)]
    presence_ms: i64,
    #[diesel(sql_type = Integer)]
    holds_per_pass: i32,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = Integer)]
    arrivals: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    closed_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Integer>)]
    lobby_size: Option<i32>,
    #[diesel(sql_type = Nullable<Binary>)]
    lobby_digest: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    beacon: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    lobby_order: Option<String>,
    #[diesel(sql_type = Nullable<Binary>)]
    seed: Option<Vec<u8>>,
    #[diesel(sql_type = Integer)]
    front: i32,
    #[diesel(sql_type = Timestamptz)]
    latest: Timestamp,
    #[diesel(sql_type = Bool)]
    cancelled: bool,
    #[diesel(sql_type = Bool)]
    is_sale_stopped: bool,
    #[diesel(sql_type = BigInt)]
    generation: Generation,
    /// That wait. Whether one was passed over is in no row.
    #[diesel(sql_type = Integer)]
    guests: i32,
    /// Of the tickets that are not WAITING.
    #[diesel(sql_type = Array<Integer>)]
    arrival_nos: Vec<i32>,
    /// The first letter of the status of each.
    #[diesel(sql_type = Nullable<Text>)]
    letters: Option<String>,
    /// Until when the pass lasts of each that is ADMITTED, in microseconds.
    #[diesel(sql_type = Array<BigInt>)]
    passes_us: Vec<i64>,
}

impl Row {
    fn into_room(mut self, schedule_id: ScheduleId) -> Result<Room, db::Error> {
        let policy = Policy {
            mode: self.mode,
            paused: self.paused,
            opens_at: self.opens_at,
            capacity: count(self.capacity)?,
            rate_per_second: count(self.rate_per_second)?,
            pass_ms: self.pass_ms,
            presence_ms: self.presence_ms,
            holds_per_pass: count(self.holds_per_pass)?,
        };
        let told = Watermark {
            schedule_id,
            from_version: self.version,
            version: self.version,
            at: self.latest,
            policy,
            arrivals: count(self.arrivals)?,
            lobby: self.take_lobby()?,
            front: Place(count(self.front)?),
            window: policy.window(),
            active: u32::try_from(self.passes_us.len()).unwrap_or(u32::MAX),
            guests: count(self.guests)?,
            // Who was set aside is in no row, nor who was passed over.
            guest_line: None,
            passed: None,
            // Only the owner measures.
            moved: 0,
            measured_ms: 0,
            is_sale_stopped: self.is_sale_stopped,
            is_cancelled: self.cancelled,
            generation: self.generation,
            changes: Vec::new(),
        };
        Ok(Room::new(told, self.tickets()?))
    }

    fn take_lobby(&mut self) -> Result<Option<Lobby>, db::Error> {
        let order = match (self.lobby_order.as_deref(), self.seed.as_deref()) {
            (None, _) => None,
            (Some("ARRIVAL"), _) => Some(Order::Arrival),
            (Some("DRAWN"), Some(seed)) => Some(Order::Drawn {
                seed: digest(seed)?,
            }),
            (Some(other), _) => return Err(wrong(format!("no order of a lobby: {other}"))),
        };
        let (Some(closed_at), Some(size), Some(tickets)) =
            (self.closed_at, self.lobby_size, &self.lobby_digest)
        else {
            return Ok(None);
        };
        Ok(Some(Lobby {
            closed_at,
            size: count(size)?,
            digest: digest(tickets)?,
            beacon: self.beacon.take(),
            order,
        }))
    }

    fn tickets(&self) -> Result<Tickets, db::Error> {
        let letters = self.letters.as_deref().unwrap_or_default();
        if letters.len() != self.arrival_nos.len() {
            return Err(wrong(format!("{} statuses of tickets", letters.len())));
        }
        let mut passes = self.passes_us.iter();
        let mut tickets = Tickets::default();
        for (no, letter) in self.arrival_nos.iter().zip(letters.bytes()) {
            let (status, pass) = match letter {
                b'A' => (TicketStatus::Admitted, passes.next()),
                b'E' => (TicketStatus::Expired, None),
                b'L' => (TicketStatus::Left, None),
                b'D' => (TicketStatus::Done, None),
                other => return Err(wrong(format!("no status of a ticket: {other}"))),
            };
            let pass = pass.map(|us| Timestamp::from_micros(*us));
            tickets.set((ArrivalNo(count(*no)?), status, pass));
        }
        Ok(tickets)
    }
}

fn count(value: i32) -> Result<u32, db::Error> {
    u32::try_from(value).map_err(|_| wrong(format!("{value} is no count")))
}

fn digest(value: &[u8]) -> Result<Digest, db::Error> {
    let bytes = value.try_into();
    bytes
        .map(Digest)
        .map_err(|_| wrong(format!("{} bytes in place of 32", value.len())))
}

/// Rows that can't be: their owner writes them, and constraints say the same.
fn wrong(what: String) -> db::Error {
    db::Error::Refused(what)
}
