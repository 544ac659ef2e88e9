//! Concerts and their dates, created whole: a date is there with its seats and its sale, or not.

use chrono::NaiveDate;
use diesel::sql_types::{
    Array, BigInt, Float, Integer, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{ExpressionMethods, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::status::SaleState;
use onsale_schema::{ConcertId, ScheduleId, Timestamp, tables};

use super::layout::{Layout, Seat};

/// A concert to create.
#[derive(Clone, Copy, Debug)]
pub struct NewConcert<'a> {
    /// Its id.
    pub concert_id: ConcertId,
    /// What it is called.
    pub title: &'a str,
    /// Who plays.
    pub artist: &'a str,
    /// Where.
    pub venue: &'a str,
    /// A sentence or two.
    pub description: &'a str,
    /// Its first day.
    pub starts_on: NaiveDate,
    /// Its last day.
    pub ends_on: NaiveDate,
}

/// What the owner of a date decides by.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Whether it sells.
    pub state: SaleState,
    /// First moment of the booking window.
    pub booking_opens_at: Timestamp,
    /// First moment after it.
    pub booking_closes_at: Timestamp,
    /// How long a hold lasts, in milliseconds.
    pub hold_ms: i64,
    /// The most live seats of one user.
    pub seats_per_user: i32,
}

/// A date to create.
#[derive(Clone, Copy, Debug)]
pub struct NewSchedule<'a> {
    /// Its id.
    pub schedule_id: ScheduleId,
    /// Whose date it is; must be there.
    pub concert_id: ConcertId,
    /// When it begins.
    pub starts_at: Timestamp,
    /// Its seats.
    pub layout: &'a Layout,
    /// How it sells.
    pub policy: Policy,
}

/// Creates a concert; `false` when it was there already, and is left as it is.
///
/// # Errors
/// When the database refuses.
pub async fn concert_create(
    conn: &mut AsyncPgConnection,
    new: &NewConcert<'_>,
) -> Result<bool, db::Error> {
    use tables::concert::dsl;
    let rows = diesel::insert_into(dsl::concert)
        .values((
            dsl::concert_id.eq(new.concert_id),
            dsl::title.eq(new.title),
            dsl::artist.eq(new.artist),
            dsl::venue.eq(new.venue),
            dsl::description.eq(new.description),
            dsl::starts_on.eq(new.starts_on),
            dsl::ends_on.eq(new.ends_on),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(rows == 1)
}

#[derive(QueryableByName)]
struct Created {
    #[diesel(sql_type = BigInt)]
    created: i64,
}

/// Creates a date with its seats and its sale; `false` when it was there already, and is left as it
/// is. It is one statement, so that it is whole, and no transaction waits while a large layout is
/// on its way.
///
/// # Errors
/// When the concert is not there, or the policy makes no sense (a window that ends before it
/// begins, a hold without duration), or the database can't be reached.
pub async fn schedule_create(
    conn: &mut AsyncPgConnection,
    new: &NewSchedule<'_>,
) -> Result<bool, db::Error> {
    let NewSchedule { layout, policy, .. } = new;
    let seats = &layout.seats;
    let texts = |of: fn(&Seat) -> &str| seats.iter().map(of).collect::<Vec<_>>();
    let answer: Created = diesel::sql_query(
        "WITH created AS (
             INSERT INTO schedule (schedule_id, concert_id, starts_at, layout_hash)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING
             RETURNING schedule_id
         ), placed AS (
             INSERT INTO seat (schedule_id, seat_no, section, row_name, seat_number, grade, price,
                               x, y)
             SELECT schedule_id, (ordinality - 1)::integer, section, row_name, seat_number, grade,
                    price, x, y
             FROM created,
                  unnest($5::text[], $6::text[], $7::integer[], $8::text[], $9::numeric[],
                         $10::real[], $11::real[])
                  WITH ORDINALITY
                  AS new (section, row_name, seat_number, grade, price, x, y, ordinality)
         ), on_sale AS (
             INSERT INTO sale (schedule_id, state, booking_opens_at, booking_closes_at, hold_ms,
                               seats_per_user)
             SELECT schedule_id, $12, $13, $14, $15, $16 FROM created
         )
         SELECT count(*) AS created FROM created",
    )
    .bind::<SqlUuid, _>(new.schedule_id)
    .bind::<SqlUuid, _>(new.concert_id)
    .bind::<Timestamptz, _>(new.starts_at)
    .bind::<Text, _>(layout.hash())
    .bind::<Array<Text>, _>(texts(|seat| &seat.section))
    .bind::<Array<Text>, _>(texts(|seat| &seat.row))
    .bind::<Array<Integer>, _>(seats.iter().map(|seat| seat.number).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(texts(|seat| &seat.grade))
    .bind::<Array<Numeric>, _>(seats.iter().map(|seat| seat.price).collect::<Vec<_>>())
    .bind::<Array<Float>, _>(seats.iter().map(|seat| seat.x).collect::<Vec<_>>())
    .bind::<Array<Float>, _>(seats.iter().map(|seat| seat.y).collect::<Vec<_>>())
    .bind::<Text, _>(policy.state)
    .bind::<Timestamptz, _>(policy.booking_opens_at)
    .bind::<Timestamptz, _>(policy.booking_closes_at)
    .bind::<BigInt, _>(policy.hold_ms)
    .bind::<Integer, _>(policy.seats_per_user)
    .get_result(conn)
    .await?;
    Ok(answer.created == 1)
}
