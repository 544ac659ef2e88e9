//! Reading layouts, and replacing them: the only writer of `seat`, of `schedule.layout_hash` and of
//! `sale.layout_no`.

use diesel::sql_types::{Array, BigInt, Bool, Float, Integer, Numeric, Text, Uuid as SqlUuid};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_platform::tx;
use onsale_schema::layout::Seat;
use onsale_schema::tables::{sale, seat};
use onsale_schema::{Money, ScheduleId};
use std::sync::Arc;

/// A seat's row, in `seat_no` order.
pub type Row = (i32, String, String, i32, String, Money, f32, f32);

/// A layout's rows as they were at one moment.
pub struct Rows {
    /// How often the layout was replaced before.
    pub no: i64,
    /// Its name.
    pub hash: String,
    /// Whether there was a reservation or a block, so that it is not replaced any more.
    pub is_settled: bool,
    /// The seats.
    pub seats: Vec<Row>,
}

#[derive(QueryableByName)]
struct Head {
    #[diesel(sql_type = BigInt)]
    layout_no: i64,
    #[diesel(sql_type = Text)]
    layout_hash: String,
    #[diesel(sql_type = Bool)]
    is_settled: bool,
}

/// The layout of a schedule, if there is one: number, name and seats of one moment. It has a
/// connection of its own, since a large one may take longer than one of the pool is lent for.
pub async fn layout_find(pool: &Pool, schedule: ScheduleId) -> Result<Option<Rows>, Error> {
    let mut conn = pool.own_connection().await?;
    tx::begin(&mut conn).await?;
    let rows = read(&mut conn, schedule).await?;
    tx::commit(&mut conn).await?;
    Ok(rows)
}

async fn read(conn: &mut AsyncPgConnection, schedule: ScheduleId) -> Result<Option<Rows>, Error> {
    // Nobody waits for a reader, so it may take its time with what it was sent.
    conn.batch_execute(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; \
         SET LOCAL idle_in_transaction_session_timeout = 0",
    )
    .await?;
    let head: Option<Head> = statement(
        "SELECT layout_no, layout_hash, \
                EXISTS (SELECT FROM reservation WHERE schedule_id = $1) \
                    OR EXISTS (SELECT FROM seat_block WHERE schedule_id = $1) AS is_settled \
         FROM schedule JOIN sale USING (schedule_id) WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule)
    .get_result(conn)
    .await
    .optional()?;
    let Some(head) = head else { return Ok(None) };
    let seats = seat::table
        .filter(seat::schedule_id.eq(schedule))
        .order(seat::seat_no)
        .select((
            seat::seat_no,
            seat::section,
            seat::row_name,
            seat::seat_number,
            seat::grade,
            seat::price,
            seat::x,
            seat::y,
        ))
        .load(conn)
        .await?;
    Ok(Some(Rows {
        no: head.layout_no,
        hash: head.layout_hash,
        is_settled: head.is_settled,
        seats,
    }))
}

/// The number of a schedule's layout.
pub async fn layout_no_find(pool: &Pool, schedule: ScheduleId) -> Result<Option<i64>, Error> {
    let mut conn = pool.get().await?;
    let no = sale::table
        .find(schedule)
        .select(sale::layout_no)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(no)
}

/// What became of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is the layout now.
    Done,
    /// It was the layout before.
    Unchanged,
    /// There was a claim, so that the layout stays as it is.
    InUse,
    /// There is no such schedule.
    NotFound,
}

/// Replaces a layout, unless there ever was a claim: whole, or not at all.
///
/// The row of the sale stays locked meanwhile, which the owner waits for before it stores a claim;
/// and the new number makes it look again at what it decided by the old one.
///
/// It has a connection of its own, see [`layout_find`], and a task of its own, so that a client that
/// goes away doesn't take it back.
pub async fn layout_replace(
    pool: &Pool,
    schedule: ScheduleId,
    seats: Arc<Vec<Seat>>,
    hash: String,
) -> Result<Replaced, Error> {
    let mut conn = pool.own_connection().await?;
    #[allow(clippy::disallowed_methods, reason = "joined right here")]
    let task = tokio::spawn(async move {
        // Before the row is locked: whoever is idle with a lock is soon cut off.
        let columns = Columns::new(&seats);
        tx::begin(&mut conn).await?;
        let replaced = replace(&mut conn, schedule, columns, &hash).await?;
        tx::commit(&mut conn).await?;
        Ok(replaced)
    });
    task.await
        .unwrap_or_else(|error| Err(Error::Refused(format!("layout task: {error}"))))
}

async fn replace(
    conn: &mut AsyncPgConnection,
    schedule: ScheduleId,
    columns: Columns<'_>,
    hash: &str,
) -> Result<Replaced, Error> {
    // First the lock, and what is true under it with the next statement.
    let locked: Option<i64> = sale::table
        .find(schedule)
        .select(sale::layout_no)
        .for_update()
        .first(conn)
        .await
        .optional()?;
    let Some(layout_no) = locked else {
        return Ok(Replaced::NotFound);
    };
    #[derive(QueryableByName)]
    struct State {
        #[diesel(sql_type = Text)]
        layout_hash: String,
        #[diesel(sql_type = Bool)]
        in_use: bool,
    }
    let state: State = statement(
        "SELECT layout_hash, EXISTS (SELECT FROM reservation WHERE schedule_id = $1) \
             OR EXISTS (SELECT FROM seat_block WHERE schedule_id = $1) \
             OR EXISTS (SELECT FROM seat_claim WHERE schedule_id = $1) AS in_use \
         FROM schedule WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule)
    .get_result(conn)
    .await?;
    if state.layout_hash == hash {
        return Ok(Replaced::Unchanged);
    }
    if state.in_use {
        return Ok(Replaced::InUse);
    }
    seats_replace(conn, schedule, columns).await?;
    statement(
        "WITH named AS (UPDATE schedule SET layout_hash = $2 WHERE schedule_id = $1) \
         UPDATE sale SET layout_no = $3 WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Text, _>(hash)
    .bind::<BigInt, _>(layout_no + 1)
    .execute(conn)
    .await?;
    Ok(Replaced::Done)
}

/// The columns of seats, in the order of their numbers.
struct Columns<'a> {
    sections: Vec<&'a str>,
    rows: Vec<&'a str>,
    numbers: Vec<i32>,
    grades: Vec<&'a str>,
    prices: Vec<Money>,
    xs: Vec<f32>,
    ys: Vec<f32>,
}

impl<'a> Columns<'a> {
    fn new(seats: &'a [Seat]) -> Self {
        Self {
            sections: seats.iter().map(|seat| &*seat.section).collect(),
            rows: seats.iter().map(|seat| &*seat.row).collect(),
            numbers: seats.iter().map(|seat| seat.number).collect(),
            grades: seats.iter().map(|seat| &*seat.grade).collect(),
            prices: seats.iter().map(|seat| seat.price).collect(),
            xs: seats.iter().map(|seat| seat.x).collect(),
            ys: seats.iter().map(|seat| seat.y).collect(),
        }
    }
}

async fn seats_replace(
    conn: &mut AsyncPgConnection,
    schedule: ScheduleId,
    columns: Columns<'_>,
) -> Result<(), Error> {
    statement("DELETE FROM seat WHERE schedule_id = $1")
        .bind::<SqlUuid, _>(schedule)
        .execute(conn)
        .await?;
    statement(
        "INSERT INTO seat (schedule_id, seat_no, section, row_name, seat_number, grade, price, \
                           x, y) \
         SELECT $1, (ordinality - 1)::integer, section, row_name, seat_number, grade, price, x, y \
         FROM unnest($2::text[], $3::text[], $4::integer[], $5::text[], $6::numeric[], \
                     $7::real[], $8::real[]) \
              WITH ORDINALITY \
              AS new (section, row_name, seat_number, grade, price, x, y, ordinality)",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Array<Text>, _>(columns.sections)
    .bind::<Array<Text>, _>(columns.rows)
    .bind::<Array<Integer>, _>(columns.numbers)
    .bind::<Array<Text>, _>(columns.grades)
    .bind::<Array<Numeric>, _>(columns.prices)
    .bind::<Array<Float>, _>(columns.xs)
    .bind::<Array<Float>, _>(columns.ys)
    .execute(conn)
    .await?;
    Ok(())
}
