//! Reads the rows of Postgres that state is loaded from.

use super::{Accepted, Rows, blocks};
use crate::context::Context;
use crate::notices;
use diesel::sql_types::{
    Array, BigInt, Bool, Float, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::seats::plan::Spot;
use onsale_domain::seats::{Entry, Gate, Layout, Policy, Reservation, Sale, Term};
use onsale_platform::sql::statement;
use onsale_platform::{db, tx};
use onsale_schema::message::Fingerprint;
use onsale_schema::seats::Hold;
use onsale_schema::status::{ClaimState, ReservationStatus, SaleState};
use onsale_schema::{
    ArrivalNo, CommandId, Generation, Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId,
    SeatNo, TicketId, Timestamp, UserId,
};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

#[derive(QueryableByName)]
struct SaleRow {
    #[diesel(sql_type = Text)]
    state: SaleState,
    #[diesel(sql_type = Timestamptz)]
    booking_opens_at: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    booking_closes_at: Timestamp,
    #[diesel(sql_type = BigInt)]
    hold_ms: i64,
    #[diesel(sql_type = Integer)]
    seats_per_user: i32,
    #[diesel(sql_type = Integer)]
    extensions_max: i32,
    #[diesel(sql_type = BigInt)]
    hold_total_ms: i64,
    #[diesel(sql_type = Bool)]
    prevents_orphans: bool,
    #[diesel(sql_type = BigInt)]
    release_jitter_ms: i64,
    #[diesel(sql_type = Bool)]
    cancelled: bool,
    #[diesel(sql_type = SqlUuid)]
    release_seed: uuid::Uuid,
    #[diesel(sql_type = BigInt)]
    map_version: i64,
    #[diesel(sql_type = BigInt)]
    layout_no: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pass_required_since: Option<Timestamp>,
    #[diesel(sql_type = BigInt)]
    generation: Generation,
    #[diesel(sql_type = BigInt)]
    room_version: i64,
}

#[derive(QueryableByName)]
struct SeatRow {
    #[diesel(sql_type = Text)]
    section: String,
    #[diesel(sql_type = Text)]
    row_name: String,
    #[diesel(sql_type = Integer)]
    seat_number: i32,
    #[diesel(sql_type = Text)]
    grade: String,
    #[diesel(sql_type = Numeric)]
    price: Money,
    #[diesel(sql_type = Float)]
    x: f32,
    #[diesel(sql_type = Float)]
    y: f32,
}

impl SeatRow {
    fn spot(&self) -> Spot<'_> {
        Spot {
            section: &self.section,
            row: &self.row_name,
            number: self.seat_number,
            grade: &self.grade,
            price: self.price,
            x: self.x,
            y: self.y,
        }
    }
}

#[derive(QueryableByName)]
struct ReservationRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: uuid::Uuid,
    #[diesel(sql_type = Array<Integer>)]
    seat_nos: Vec<SeatNo>,
    #[diesel(sql_type = Numeric)]
    total: Money,
    #[diesel(sql_type = Integer)]
    seat_limit: i32,
    #[diesel(sql_type = Text)]
    status: ReservationStatus,
    #[diesel(sql_type = Timestamptz)]
    held_at: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    expires_at: Timestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    ended_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    release_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Text>)]
    ends_as: Option<ReservationStatus>,
    #[diesel(sql_type = Nullable<Array<SqlUuid>>)]
    extended_by: Option<Vec<CommandId>>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    given_back_by: Option<CommandId>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    first_expires_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    paying_order: Option<PaymentOrderId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    rehold_order: Option<PaymentOrderId>,
    #[diesel(sql_type = Nullable<Array<Integer>>)]
    cancelled_seat_nos: Option<Vec<SeatNo>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    cancelled_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    ticket_id: Option<TicketId>,
    #[diesel(sql_type = Nullable<Integer>)]
    arrival_no: Option<i32>,
}

/// Reads [`ReservationRow`]s.
macro_rules! reservations {
    ($where:literal) => {
        concat!(
            "SELECT reservation_id, schedule_id, user_id, command_id, fingerprint, seat_nos, \
             total, seat_limit, status, held_at, expires_at, ended_at, release_at, ends_as, \
             extended_by, given_back_by, first_expires_at, paying_order, rehold_order, \
             cancelled_seat_nos, CASE WHEN cancelled_seat_nos IS NOT NULL THEN \
                 (SELECT max(at) FROM cancellation AS c \
                  WHERE c.reservation_id = reservation.reservation_id) END AS cancelled_at, \
             ticket_id, CASE WHEN ticket_id IS NOT NULL THEN \
                 (SELECT arrival_no FROM ticket AS t \
                  WHERE t.ticket_id = reservation.ticket_id) END AS arrival_no \
             FROM reservation WHERE ",
            $where
        )
    };
}

#[derive(QueryableByName)]
struct ClaimRow {
    #[diesel(sql_type = Integer)]
    seat_no: SeatNo,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Text)]
    state: ClaimState,
}

/// How long a schedule may take to be read: seconds, if it has had a million reservations.
const READ_MAX: Duration = Duration::from_secs(60);

impl Rows for Context {
    async fn sale(&self, schedule_id: ScheduleId) -> Result<Option<Sale>, db::Error> {
        let read = async {
            let (mut conn, _one_of_few) = self.snapshot().await?;
            let sale = read_sale(&mut conn, schedule_id).await?;
            tx::commit(&mut conn).await?;
            Ok(sale)
        };
        tokio::time::timeout(READ_MAX, read)
            .await
            .unwrap_or_else(|_| Err(db::Error::Unavailable("it does not answer".into())))
    }

    async fn layout_nos(&self, ids: &[ScheduleId]) -> Result<HashMap<ScheduleId, i64>, db::Error> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = SqlUuid)]
            schedule_id: ScheduleId,
            #[diesel(sql_type = BigInt)]
            layout_no: i64,
        }
        let mut conn = self.pool.get().await?;
        let rows: Vec<Row> =
            statement("SELECT schedule_id, layout_no FROM sale WHERE schedule_id = ANY($1)")
                .bind::<Array<SqlUuid>, _>(ids)
                .load(&mut conn)
                .await?;
        let pairs = rows.into_iter().map(|row| (row.schedule_id, row.layout_no));
        Ok(pairs.collect())
    }

    async fn statuses(
        &self,
        ids: &[ReservationId],
    ) -> Result<HashMap<ReservationId, ReservationStatus>, db::Error> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = SqlUuid)]
            reservation_id: ReservationId,
            #[diesel(sql_type = Text)]
            status: ReservationStatus,
        }
        let mut conn = self.pool.get().await?;
        let rows: Vec<Row> = statement(
            "SELECT reservation_id, status FROM reservation WHERE reservation_id = ANY($1)",
        )
        .bind::<Array<SqlUuid>, _>(ids)
        .load(&mut conn)
        .await?;
        let pairs = rows.into_iter().map(|row| (row.reservation_id, row.status));
        Ok(pairs.collect())
    }

    async fn open_notices(&self, ids: &[NoticeId]) -> Result<HashSet<NoticeId>, db::Error> {
        notices::open(&self.pool, ids).await
    }

    async fn accepted(&self, ids: &[CommandId]) -> Result<Vec<Accepted>, db::Error> {
        let mut conn = self.pool.get().await?;
        let rows: Vec<ReservationRow> = statement(reservations!("command_id = ANY($1)"))
            .bind::<Array<SqlUuid>, _>(ids)
            .load(&mut conn)
            .await?;
        let accepted = rows.into_iter().map(|row| {
            let hold = Hold {
                reservation_id: row.reservation_id,
                schedule_id: row.schedule_id,
                seats: row.seat_nos,
                total: row.total,
                held_at: row.held_at,
                expires_at: row.first_expires_at.unwrap_or(row.expires_at),
            };
            (row.command_id, Fingerprint(row.fingerprint), hold)
        });
        Ok(accepted.collect())
    }
}

async fn read_sale(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Option<Sale>, db::Error> {
    let row: Option<SaleRow> = statement(
        "SELECT state, booking_opens_at, booking_closes_at, hold_ms, seats_per_user, \
                extensions_max, hold_total_ms, prevents_orphans, release_jitter_ms, cancelled, \
                release_seed, map_version, layout_no, pass_required_since, room_version, \
                coalesce((SELECT generation FROM system), 0) AS generation \
         FROM sale WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .get_result(conn)
    .await
    .optional()?;
    let Some(row) = row else { return Ok(None) };
    let seats: Vec<SeatRow> = statement(
        "SELECT section, row_name, seat_number, grade, price, x, y FROM seat \
         WHERE schedule_id = $1 ORDER BY seat_no",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .load(conn)
    .await?;
    let reservations: Vec<ReservationRow> = statement(reservations!(
        "schedule_id = $1 AND (ended_at IS NULL \
         OR ended_at > clock_timestamp() - $2 * interval '1 millisecond')"
    ))
    .bind::<SqlUuid, _>(schedule_id)
    .bind::<BigInt, _>(super::REMEMBER_MS)
    .load(conn)
    .await?;
    let claims: Vec<ClaimRow> =
        statement("SELECT seat_no, reservation_id, state FROM seat_claim WHERE schedule_id = $1")
            .bind::<SqlUuid, _>(schedule_id)
            .load(conn)
            .await?;

    let blocks = blocks::list(conn, schedule_id).await?;

    let policy = Policy {
        state: row.state,
        booking_opens_at: row.booking_opens_at,
        booking_closes_at: row.booking_closes_at,
        hold_ms: row.hold_ms,
        seats_per_user: u32::try_from(row.seats_per_user).unwrap_or(0),
        extensions_max: u32::try_from(row.extensions_max).unwrap_or(0),
        hold_total_ms: row.hold_total_ms,
        prevents_orphans: row.prevents_orphans,
        release_jitter_ms: row.release_jitter_ms,
        cancelled: row.cancelled,
    };
    let layout = Layout::new(row.layout_no, seats.iter().map(SeatRow::spot));
    let sale = Sale::new(schedule_id, policy, layout, row.map_version);
    let gate = Gate {
        pass_required_since: row.pass_required_since,
        room_version: row.room_version,
    };
    let sale = sale.with_release_seed(row.release_seed).with_gate(gate);
    let mut sale = sale.with_generation(row.generation);
    for row in reservations {
        sale.load_reservation(row.into_reservation());
    }
    for row in claims {
        sale.load_claim(row.seat_no, row.reservation_id, row.state);
    }
    sale.load_blocks(&blocks);
    for row in over(conn, schedule_id).await? {
        sale.load_over(arrival_no(row.arrival_no), row.ended_at);
    }
    for row in entries(conn, schedule_id).await? {
        sale.load_entries(row.ticket_id, u32::try_from(row.holds).unwrap_or(u32::MAX));
    }
    Ok(Some(sale))
}

#[derive(QueryableByName)]
struct EntriesRow {
    #[diesel(sql_type = SqlUuid)]
    ticket_id: TicketId,
    #[diesel(sql_type = BigInt)]
    holds: i64,
}

fn arrival_no(no: i32) -> ArrivalNo {
    ArrivalNo(u32::try_from(no).unwrap_or(u32::MAX))
}

#[derive(QueryableByName)]
struct OverRow {
    #[diesel(sql_type = Integer)]
    arrival_no: i32,
    #[diesel(sql_type = Timestamptz)]
    ended_at: Timestamp,
}

/// The tickets that have ended and whose passes would still be good, also for a hold that was asked for
/// a while ago: passes end by the time of messages, which may wait.
async fn over(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Vec<OverRow>, db::Error> {
    let rows = statement(
        "SELECT arrival_no, ended_at FROM ticket \
         WHERE schedule_id = $1 AND ended_at IS NOT NULL \
           AND (pass_until > ended_at OR holds IS NOT NULL) \
           AND greatest(pass_until, \
                        (SELECT max('epoch'::timestamptz + (hold ->> 1)::bigint * interval '1 us') \
                         FROM jsonb_array_elements(holds) AS made (hold))) \
               > clock_timestamp() - interval '5 minutes'",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .load(conn)
    .await?;
    Ok(rows)
}

/// How many holds were made with each ticket, whatever became of them, unless its pass is long over.
async fn entries(
    conn: &mut AsyncPgConnection,
    schedule_id: ScheduleId,
) -> Result<Vec<EntriesRow>, db::Error> {
    let rows = statement(
        "SELECT r.ticket_id, count(*) AS holds \
         FROM reservation AS r JOIN ticket AS t USING (ticket_id) \
         WHERE r.schedule_id = $1 \
           AND (t.ended_at IS NULL \
                OR t.ended_at > clock_timestamp() - $2 * interval '1 millisecond') \
         GROUP BY r.ticket_id",
    )
    .bind::<SqlUuid, _>(schedule_id)
    .bind::<BigInt, _>(super::REMEMBER_MS)
    .load(conn)
    .await?;
    Ok(rows)
}

impl ReservationRow {
    fn into_reservation(self) -> Reservation {
        Reservation {
            reservation_id: self.reservation_id,
            user_id: self.user_id,
            command_id: self.command_id,
            fingerprint: Fingerprint(self.fingerprint),
            seats: self.seat_nos,
            total: self.total,
            seat_limit: u32::try_from(self.seat_limit).unwrap_or(0),
            status: self.status,
            held_at: self.held_at,
            term: Term {
                expires_at: self.expires_at,
                first_expires_at: self.first_expires_at.unwrap_or(self.expires_at),
                release_at: self.release_at.unwrap_or(self.expires_at),
                ends_as: self.ends_as,
                extended_by: self.extended_by.unwrap_or_default(),
                given_back_by: self.given_back_by,
                paying_order: self.paying_order,
            },
            rehold_order: self.rehold_order,
            cancelled: self.cancelled_seat_nos.unwrap_or_default(),
            cancelled_at: self.cancelled_at,
            entry: self
                .ticket_id
                .zip(self.arrival_no)
                .map(|(ticket_id, no)| Entry {
                    ticket_id,
                    arrival_no: arrival_no(no),
                }),
            ended_at: self.ended_at,
        }
    }
}
