//! Reads the rows of Postgres that rooms are loaded from: a room and its tickets in one snapshot, some
//! at a time, so that a million of them are neither in memory twice nor in the way of other tasks.

use super::{Found, Rows};
use crate::context::Context;
use crate::notices;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt, TryFutureExt};
use onsale_domain::admission::{
    Admission, Loading, Room, RoomRow, Selling, Slot, SlotHold, StoredCode, StoredTicket,
};
use onsale_platform::sql::statement;
use onsale_platform::{db, tx};
use onsale_schema::admission::{Lobby, Order, Policy};
use onsale_schema::draw::{Digest, Place, Secret};
use onsale_schema::message::Fingerprint;
use onsale_schema::status::{AccessGrant, QueueMode, SaleState, TicketStatus};
use onsale_schema::{
    AccessCodeId, ArrivalNo, Generation, NoticeId, ReservationId, ScheduleId, TicketId, Timestamp,
    UserId,
};
use rand::RngCore;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a room may take to be read: seconds, if it has a million tickets.
const READ_MAX: Duration = Duration::from_secs(60);
/// Tickets that are read at once.
const PAGE: i32 = 10_000;
/// Pages that are read ahead of what is taken in.
const PAGES_AHEAD: usize = 2;

impl Rows for Context {
    async fn room(&self, schedule_id: ScheduleId) -> Result<Option<Room>, db::Error> {
        let read = async {
            let (mut conn, _one_of_few) = self.snapshot().await?;
            let taking = read_room(&mut conn, schedule_id).await?;
            // Nothing more is asked: no transaction waits for the order of a long line.
            tx::commit(&mut conn).await?;
            match taking {
                Some(taking) => taking.await.map(Some),
                None => Ok(None),
            }
        };
        tokio::time::timeout(READ_MAX, read)
            .await
            .unwrap_or_else(|_| Err(db::Error::Unavailable("it does not answer".into())))
    }

    async fn selling(&self, ids: &[ScheduleId]) -> Result<HashMap<ScheduleId, Selling>, db::Error> {
        let mut conn = self.pool.get().await?;
        selling(&mut conn, ids).await
    }

    async fn open_notices(&self, ids: &[NoticeId]) -> Result<HashSet<NoticeId>, db::Error> {
        notices::open(&self.pool, ids).await
    }

    async fn tickets(&self, ids: &[TicketId]) -> Result<Vec<Found>, db::Error> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = SqlUuid)]
            ticket_id: TicketId,
            #[diesel(sql_type = SqlUuid)]
            schedule_id: ScheduleId,
            #[diesel(sql_type = Integer)]
            arrival_no: i32,
        }
        let mut conn = self.pool.get().await?;
        let rows: Vec<Row> = statement(
            "SELECT ticket_id, schedule_id, arrival_no FROM ticket WHERE ticket_id = ANY($1)",
        )
        .bind::<Array<SqlUuid>, _>(ids)
        .load(&mut conn)
        .await?;
        let found = rows.into_iter().map(|row| {
            Ok((
                row.ticket_id,
                row.schedule_id,
                ArrivalNo(count(row.arrival_no)?),
            ))
        });
        found.collect()
    }
}

/// A room that was read, while another thread takes the last of it in.
type Taking = BoxFuture<'static, Result<Room, db::Error>>;

async fn read_room(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Option<Taking>, db::Error> {
    let row: Option<RoomRecord> = statement(
        "SELECT secret, mode, paused, opens_at, capacity, rate_per_second, pass_ms, presence_ms, \
                holds_per_pass, beacon_name, version, arrivals, digest, closed_at, lobby_size, \
                lobby_digest, beacon, lobby_order, seed, front, admissions, rate_used, latest, \
                guest_front, cancelled, \
                coalesce((SELECT generation FROM system), 0) AS generation \
         FROM waiting_room WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .get_result(conn)
    .await
    .optional()?;
    let selling = selling(conn, &[schedule_id]).await?;
    let Some(selling) = selling.get(&schedule_id).copied() else {
        return Ok(None);
    };
    let taking = match row {
        Some(row) => known_room(conn, schedule_id, row).await?,
        None => match no_room(conn, schedule_id).await? {
            Some(room) => ready(Ok(room)).boxed(),
            None => return Ok(None),
        },
    };
    let sells = move |mut room: Room| {
        room.sells(selling);
        room
    };
    Ok(Some(taking.map_ok(sells).boxed()))
}

async fn known_room(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
    row: RoomRecord,
) -> Result<Taking, db::Error> {
    let secret = Secret(bytes(&row.secret)?);
    let row = row.into_row(schedule_id)?;
    let slots = slots(conn, schedule_id).await?;
    let codes = codes(conn, schedule_id).await?;
    let mut loading = Loading::new(row, secret);
    codes.into_iter().for_each(|code| loading.code(code));
    read_tickets(conn, loading, slots).await
}

/// How schedules sell.
async fn selling(
    conn: &mut AsyncPgConnection,
    ids: &[ScheduleId],
) -> Result<HashMap<ScheduleId, Selling>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        schedule_id: ScheduleId,
        #[diesel(sql_type = Text)]
        state: SaleState,
        #[diesel(sql_type = Timestamptz)]
        booking_opens_at: Timestamp,
        #[diesel(sql_type = Timestamptz)]
        booking_closes_at: Timestamp,
    }
    let rows: Vec<Row> = statement(
        "SELECT schedule_id, state, booking_opens_at, booking_closes_at FROM sale \
         WHERE schedule_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(conn)
    .await?;
    let selling = rows.into_iter().map(|row| {
        let selling = Selling {
            state: row.state,
            booking_opens_at: row.booking_opens_at,
            booking_closes_at: row.booking_closes_at,
        };
        (row.schedule_id, selling)
    });
    Ok(selling.collect())
}

/// What a schedule has whose room nobody has ever said anything about. Its secret is written with
/// the first version of its row; until then nothing depends on it.
async fn no_room(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Option<Room>, db::Error> {
    #[derive(QueryableByName)]
    struct Sale {
        #[diesel(sql_type = Timestamptz)]
        booking_opens_at: Timestamp,
        #[diesel(sql_type = BigInt)]
        generation: Generation,
    }
    let sale: Option<Sale> = statement(
        "SELECT booking_opens_at, coalesce((SELECT generation FROM system), 0) AS generation \
         FROM sale WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .get_result(conn)
    .await
    .optional()?;
    Ok(sale.map(|sale| {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let policy = Policy::new(QueueMode::Off, sale.booking_opens_at);
        let row = RoomRow {
            generation: sale.generation,
            ..RoomRow::new(schedule_id, policy)
        };
        Room::load(row, Secret(secret), [])
    }))
}

/// Reads all tickets, some at a time, while another thread takes them in: to find the places of a
/// long line takes some tenths of a second.
async fn read_tickets(
    conn: &mut AsyncPgConnection,
    mut loading: Loading,
    mut slots: BTreeMap<ArrivalNo, Slot>,
) -> Result<Taking, db::Error> {
    let (schedule_id, arrivals) = (loading.row().schedule_id, loading.row().arrivals);
    let (pages, mut read) = mpsc::channel::<Vec<StoredTicket>>(PAGES_AHEAD);
    let loading = tokio::task::spawn_blocking(move || {
        while let Some(page) = read.blocking_recv() {
            page.into_iter().for_each(|ticket| loading.push(ticket));
        }
        // It is not whole when nobody wants it any more, too.
        match loading.missing() {
            0 => Ok(loading.finish()),
            missing => Err(missing),
        }
    });
    let mut from: i32 = 0;
    while count(from)? < arrivals {
        let rows = page(conn, schedule_id, from).await?;
        let stored = rows.into_iter().map(|row| {
            let slot = slots.remove(&ArrivalNo(count(row.arrival_no)?));
            Ok(row.into_stored(slot))
        });
        let stored = stored.collect::<Result<Vec<_>, db::Error>>()?;
        if pages.send(stored).await.is_err() {
            break;
        }
        from = from.saturating_add(PAGE);
    }
    drop(pages);
    let taking = loading.map(|taken| match taken {
        Ok(Ok(room)) => Ok(room),
        Ok(Err(missing)) => Err(wrong(format!("Q1: {missing} tickets are missing"))),
        Err(panic) => Err(wrong(format!("a room can't be loaded: {panic}"))),
    });
    Ok(taking.boxed())
}

#[derive(QueryableByName)]
struct TicketRow {
    #[diesel(sql_type = Integer)]
    arrival_no: i32,
    #[diesel(sql_type = SqlUuid)]
    ticket_id: TicketId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: uuid::Uuid,
    #[diesel(sql_type = Text)]
    status: TicketStatus,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    access_code_id: Option<AccessCodeId>,
}

impl TicketRow {
    fn into_stored(self, slot: Option<Slot>) -> StoredTicket {
        StoredTicket {
            ticket_id: self.ticket_id,
            user_id: self.user_id,
            fingerprint: Fingerprint(self.fingerprint),
            status: self.status,
            slot,
            access_code_id: self.access_code_id,
        }
    }
}

async fn page(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
    from: i32,
) -> Result<Vec<TicketRow>, db::Error> {
    let rows = statement(
        "SELECT arrival_no, ticket_id, user_id, fingerprint, status, access_code_id FROM ticket \
         WHERE schedule_id = $1 AND arrival_no >= $2 AND arrival_no < $3 ORDER BY arrival_no",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .bind::<Integer, _>(from)
    .bind::<Integer, _>(from.saturating_add(PAGE))
    .load(conn)
    .await?;
    Ok(rows)
}

/// The codes that were used or revoked. Who has used them say the tickets.
async fn codes(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Vec<StoredCode>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        access_code_id: AccessCodeId,
        #[diesel(sql_type = Text)]
        granted: AccessGrant,
        #[diesel(sql_type = Timestamptz)]
        valid_until: Timestamp,
        #[diesel(sql_type = Bool)]
        is_revoked: bool,
    }
    let rows: Vec<Row> = statement(
        "SELECT access_code_id, granted, valid_until, revoked_at IS NOT NULL AS is_revoked \
         FROM access_code AS c \
         WHERE schedule_id = $1 \
           AND (revoked_at IS NOT NULL \
                OR EXISTS (SELECT FROM ticket WHERE ticket.access_code_id = c.access_code_id))",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .load(conn)
    .await?;
    let codes = rows.into_iter().map(|row| StoredCode {
        code_id: row.access_code_id,
        grant: row.granted,
        until: row.valid_until,
        is_revoked: row.is_revoked,
    });
    Ok(codes.collect())
}

/// What those have who have a pass.
async fn slots(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<BTreeMap<ArrivalNo, Slot>, db::Error> {
    let rows: Vec<SlotRow> = statement(
        "SELECT arrival_no, admission_no, admitted_at, place, active_before, capacity, was_passed, \
                pass_until, holds FROM ticket WHERE schedule_id = $1 AND status = 'ADMITTED'",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .load(conn)
    .await?;
    rows.into_iter().map(SlotRow::into_slot).collect()
}

/// A hold that was made with a pass, as it is stored: which, until when (in microseconds), and
/// whether it is over.
pub(super) type StoredHold = (ReservationId, i64, bool);

#[derive(QueryableByName)]
struct SlotRow {
    #[diesel(sql_type = Integer)]
    arrival_no: i32,
    #[diesel(sql_type = Integer)]
    admission_no: i32,
    #[diesel(sql_type = Timestamptz)]
    admitted_at: Timestamp,
    #[diesel(sql_type = Nullable<Integer>)]
    place: Option<i32>,
    #[diesel(sql_type = Integer)]
    active_before: i32,
    #[diesel(sql_type = Nullable<Integer>)]
    capacity: Option<i32>,
    #[diesel(sql_type = Bool)]
    was_passed: bool,
    #[diesel(sql_type = Timestamptz)]
    pass_until: Timestamp,
    #[diesel(sql_type = Nullable<Jsonb>)]
    holds: Option<serde_json::Value>,
}

impl SlotRow {
    fn into_slot(self) -> Result<(ArrivalNo, Slot), db::Error> {
        let holds: Vec<StoredHold> = match self.holds {
            None => Vec::new(),
            Some(value) => serde_json::from_value(value)
                .map_err(|error| wrong(format!("the holds of a pass can't be read: {error}")))?,
        };
        let slot = Slot {
            admission: Admission {
                no: count(self.admission_no)?,
                at: self.admitted_at,
                place: self.place.map(count).transpose()?.map(Place),
                active_before: count(self.active_before)?,
                capacity: self.capacity.map(count).transpose()?,
                was_passed: self.was_passed,
            },
            pass_until: self.pass_until,
            holds: holds
                .into_iter()
                .map(|(reservation_id, until_us, is_over)| SlotHold {
                    reservation_id,
                    until: Timestamp::from_micros(until_us),
                    is_over,
                })
                .collect(),
        };
        Ok((ArrivalNo(count(self.arrival_no)?), slot))
    }
}

#[derive(QueryableByName)]
struct RoomRecord {
    #[diesel(sql_type = Binary)]
    secret: Vec<u8>,
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
    #[diesel(sql_type = Nullable<Text>)]
    beacon_name: Option<String>,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = Integer)]
    arrivals: i32,
    #[diesel(sql_type = Binary)]
    digest: Vec<u8>,
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
    #[diesel(sql_type = Integer)]
    admissions: i32,
    #[diesel(sql_type = Timestamptz)]
    rate_used: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    latest: Timestamp,
    #[diesel(sql_type = Integer)]
    guest_front: i32,
    #[diesel(sql_type = Bool)]
    cancelled: bool,
    #[diesel(sql_type = BigInt)]
    generation: Generation,
}

impl RoomRecord {
    fn into_row(self, schedule_id: ScheduleId) -> Result<RoomRow, db::Error> {
        let order = match (self.lobby_order.as_deref(), self.seed) {
            (None, _) => None,
            (Some(ARRIVAL), _) => Some(Order::Arrival),
            (Some(DRAWN), Some(seed)) => Some(Order::Drawn {
                seed: Digest(bytes(&seed)?),
            }),
            (Some(other), _) => return Err(wrong(format!("no order of a lobby: {other}"))),
        };
        let lobby = match (self.closed_at, self.lobby_size, self.lobby_digest) {
            (Some(closed_at), Some(size), Some(digest)) => Some(Lobby {
                closed_at,
                size: count(size)?,
                digest: Digest(bytes(&digest)?),
                beacon: self.beacon,
                order,
            }),
            _ => None,
        };
        Ok(RoomRow {
            schedule_id,
            policy: Policy {
                mode: self.mode,
                paused: self.paused,
                opens_at: self.opens_at,
                capacity: count(self.capacity)?,
                rate_per_second: count(self.rate_per_second)?,
                pass_ms: self.pass_ms,
                presence_ms: self.presence_ms,
                holds_per_pass: count(self.holds_per_pass)?,
            },
            is_cancelled: self.cancelled,
            beacon_name: self.beacon_name,
            version: self.version,
            arrivals: count(self.arrivals)?,
            digest: Digest(bytes(&self.digest)?),
            lobby,
            front: Place(count(self.front)?),
            guest_front: ArrivalNo(count(self.guest_front)?),
            admissions: count(self.admissions)?,
            rate_used: self.rate_used,
            generation: self.generation,
            latest: self.latest,
        })
    }
}

/// How the order of a lobby is written.
pub(super) const ARRIVAL: &str = "ARRIVAL";
pub(super) const DRAWN: &str = "DRAWN";

fn count(value: i32) -> Result<u32, db::Error> {
    u32::try_from(value).map_err(|_| wrong(format!("{value} is no count")))
}

fn bytes(value: &[u8]) -> Result<[u8; 32], db::Error> {
    value
        .try_into()
        .map_err(|_| wrong(format!("{} bytes in place of 32", value.len())))
}

/// Rows that can't be: nobody else writes them, and constraints say the same.
fn wrong(what: String) -> db::Error {
    db::Error::Refused(what)
}
