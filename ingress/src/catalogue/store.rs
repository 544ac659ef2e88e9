//! Reading and writing the catalogue: concerts, dates, and the first row of a date's sale, which its
//! owner writes from then on.

use super::room::{ROOM_COLUMNS, RoomColumns, RoomRow};
use super::{Grade, Search};
use chrono::NaiveDate;
use diesel::dsl::{Nullable, exists, not};
use diesel::prelude::{AsChangeset, Queryable};
use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, OptionalExtension,
    PgTextExpressionMethods, QueryDsl, QueryableByName,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::cancellation::Rules;
use onsale_schema::layout;
use onsale_schema::message::Fingerprint;
use onsale_schema::seats::Policy;
use onsale_schema::status::SaleState;
use onsale_schema::tables::{concert, sale, schedule, seat, waiting_room};
use onsale_schema::{ConcertId, Money, ScheduleId, Timestamp};
use serde::Serialize;
use std::sync::LazyLock;
use utoipa::ToSchema;
use uuid::Uuid;

/// The name of the layout that a date has before its first.
static NO_SEATS: LazyLock<String> = LazyLock::new(|| layout::hash(&[]));

/// A concert, as stored and as shown.
#[derive(Clone, Debug, Queryable, Serialize, ToSchema)]
#[schema(as = Concert)]
#[serde(rename_all = "camelCase")]
pub struct ConcertRow {
    /// Its id.
    pub concert_id: ConcertId,
    /// Its title.
    pub title: String,
    /// Who plays.
    pub artist: String,
    /// Where.
    pub venue: String,
    /// What to know.
    pub description: String,
    /// The first day.
    pub starts_on: NaiveDate,
    /// The last day.
    pub ends_on: NaiveDate,
}

/// A date of a concert, with its sale.
#[derive(Clone, Debug, Queryable)]
pub struct ScheduleRow {
    /// Its id.
    pub schedule_id: ScheduleId,
    /// Of which concert.
    pub concert_id: ConcertId,
    /// When it begins.
    pub starts_at: Timestamp,
    /// Names the layout.
    pub layout_hash: String,
    /// As its operator set it.
    pub state: SaleState,
    /// First moment of the booking window.
    pub booking_opens_at: Timestamp,
    /// First moment after it.
    pub booking_closes_at: Timestamp,
    /// How long a hold lasts, in milliseconds.
    pub hold_ms: i64,
    /// The most live seats of one user.
    pub seats_per_user: i32,
    /// How often a hold may be extended.
    pub extensions_max: i32,
    /// How long a hold lasts with all its extensions, in milliseconds.
    pub hold_total_ms: i64,
    /// Whether seats are refused that leave a single one alone.
    pub prevents_orphans: bool,
    /// Within so many milliseconds after a hold its seats are on sale again.
    pub release_jitter_ms: i64,
    /// How often its layout was replaced.
    pub layout_no: i64,
    /// Until when buyers may cancel, and what it costs.
    pub cancellation_rules: Rules,
    /// Its waiting room; none as long as nobody has said anything about one.
    pub room: Option<RoomRow>,
}

impl ScheduleRow {
    /// The same date under a policy.
    #[must_use]
    pub fn under(&self, policy: &Policy) -> Self {
        Self {
            state: policy.state,
            booking_opens_at: policy.booking_opens_at,
            booking_closes_at: policy.booking_closes_at,
            hold_ms: policy.hold_ms,
            seats_per_user: i32::try_from(policy.seats_per_user).unwrap_or(i32::MAX),
            extensions_max: i32::try_from(policy.extensions_max).unwrap_or(i32::MAX),
            hold_total_ms: policy.hold_total_ms,
            prevents_orphans: policy.prevents_orphans,
            release_jitter_ms: policy.release_jitter_ms,
            ..self.clone()
        }
    }

    /// Whether it sells at `now`, as far as a reader can tell: it needs seats, too.
    #[must_use]
    pub fn is_bookable(&self, now: Timestamp) -> bool {
        self.state == SaleState::Open
            && self.layout_hash != *NO_SEATS
            && (self.booking_opens_at..self.booking_closes_at).contains(&now)
    }
}

type ConcertColumns = (
    concert::concert_id,
    concert::title,
    concert::artist,
    concert::venue,
    concert::description,
    concert::starts_on,
    concert::ends_on,
);
const CONCERT_COLUMNS: ConcertColumns = (
    concert::concert_id,
    concert::title,
    concert::artist,
    concert::venue,
    concert::description,
    concert::starts_on,
    concert::ends_on,
);

type ScheduleColumns = (
    schedule::schedule_id,
    schedule::concert_id,
    schedule::starts_at,
    schedule::layout_hash,
    sale::state,
    sale::booking_opens_at,
    sale::booking_closes_at,
    sale::hold_ms,
    sale::seats_per_user,
    sale::extensions_max,
    sale::hold_total_ms,
    sale::prevents_orphans,
    sale::release_jitter_ms,
    sale::layout_no,
    schedule::cancellation_rules,
    Nullable<RoomColumns>,
);

fn schedule_columns() -> ScheduleColumns {
    (
        schedule::schedule_id,
        schedule::concert_id,
        schedule::starts_at,
        schedule::layout_hash,
        sale::state,
        sale::booking_opens_at,
        sale::booking_closes_at,
        sale::hold_ms,
        sale::seats_per_user,
        sale::extensions_max,
        sale::hold_total_ms,
        sale::prevents_orphans,
        sale::release_jitter_ms,
        sale::layout_no,
        schedule::cancellation_rules,
        ROOM_COLUMNS.nullable(),
    )
}

/// The text anywhere in a column, with nothing in it that means more than itself.
fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// Concerts by their first day.
pub async fn concert_list(
    pool: &Pool,
    search: &Search,
    now: Timestamp,
) -> Result<Vec<ConcertRow>, Error> {
    let mut query = concert::table
        .select(CONCERT_COLUMNS)
        .order((concert::starts_on, concert::concert_id))
        .limit(search.rows)
        .into_boxed();
    if let Some(text) = &search.text {
        let pattern = pattern(text);
        let title = concert::title.ilike(pattern.clone());
        let artist = concert::artist.ilike(pattern.clone());
        query = query.filter(title.or(artist).or(concert::venue.ilike(pattern)));
    }
    if let Some(artist) = &search.artist {
        query = query.filter(concert::artist.ilike(pattern(artist)));
    }
    if let Some(from) = search.from {
        query = query.filter(concert::ends_on.ge(from));
    }
    if let Some(to) = search.to {
        query = query.filter(concert::starts_on.le(to));
    }
    if let Some(bookable) = search.bookable {
        let dates = exists(
            schedule::table
                .inner_join(sale::table)
                .filter(schedule::concert_id.eq(concert::concert_id))
                .filter(sale::state.eq(SaleState::Open))
                .filter(sale::booking_opens_at.le(now))
                .filter(sale::booking_closes_at.gt(now))
                .filter(schedule::layout_hash.ne(&*NO_SEATS)),
        );
        query = if bookable {
            query.filter(dates)
        } else {
            query.filter(not(dates))
        };
    }
    if let Some((day, id)) = search.after {
        let same_day = concert::starts_on.eq(day).and(concert::concert_id.gt(id));
        query = query.filter(concert::starts_on.gt(day).or(same_day));
    }
    let mut conn = pool.get().await?;
    Ok(query.load(&mut conn).await?)
}

/// One concert.
pub async fn concert_find(pool: &Pool, id: ConcertId) -> Result<Option<ConcertRow>, Error> {
    let mut conn = pool.get().await?;
    let row = concert::table
        .find(id)
        .select(CONCERT_COLUMNS)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// The dates of a concert that are or were on sale.
pub async fn schedule_list(pool: &Pool, id: ConcertId) -> Result<Vec<ScheduleRow>, Error> {
    let mut conn = pool.get().await?;
    let rows = schedule::table
        .inner_join(sale::table)
        .left_join(waiting_room::table)
        .filter(schedule::concert_id.eq(id))
        .order((schedule::starts_at, schedule::schedule_id))
        .select(schedule_columns())
        .load(&mut conn)
        .await?;
    Ok(rows)
}

/// One date.
pub async fn schedule_find(pool: &Pool, id: ScheduleId) -> Result<Option<ScheduleRow>, Error> {
    let mut conn = pool.get().await?;
    let row = schedule::table
        .inner_join(sale::table)
        .left_join(waiting_room::table)
        .filter(schedule::schedule_id.eq(id))
        .select(schedule_columns())
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// Whether the lobby of a date's room is closed, and then its order, if it has one.
pub async fn lobby_find(pool: &Pool, id: ScheduleId) -> Result<(bool, Option<String>), Error> {
    let mut conn = pool.get().await?;
    let row: Option<(Option<Timestamp>, Option<String>)> = waiting_room::table
        .find(id)
        .select((waiting_room::closed_at, waiting_room::lobby_order))
        .first(&mut conn)
        .await
        .optional()?;
    let (closed_at, order) = row.unwrap_or_default();
    Ok((closed_at.is_some(), order))
}

/// The grades of a date's layout, the dearest first.
pub async fn grade_list(pool: &Pool, id: ScheduleId) -> Result<Vec<Grade>, Error> {
    let mut conn = pool.get().await?;
    let rows: Vec<(String, Money, i64)> = seat::table
        .filter(seat::schedule_id.eq(id))
        .group_by((seat::grade, seat::price))
        .order((seat::price.desc(), seat::grade))
        .select((seat::grade, seat::price, diesel::dsl::count_star()))
        .load(&mut conn)
        .await?;
    let grade = |(grade, price, seats)| Grade {
        grade,
        price,
        seats,
    };
    Ok(rows.into_iter().map(grade).collect())
}

/// Makes a concert, unless there is one with its id; whether it did.
pub async fn concert_insert(
    pool: &Pool,
    row: &ConcertRow,
    print: Fingerprint,
) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let made = diesel::insert_into(concert::table)
        .values((
            concert::concert_id.eq(row.concert_id),
            concert::title.eq(&row.title),
            concert::artist.eq(&row.artist),
            concert::venue.eq(&row.venue),
            concert::description.eq(&row.description),
            concert::starts_on.eq(row.starts_on),
            concert::ends_on.eq(row.ends_on),
            concert::fingerprint.eq(print.0),
        ))
        .on_conflict_do_nothing()
        .execute(&mut conn)
        .await?;
    Ok(made == 1)
}

/// What was asked when a concert was made, if a request made it.
pub async fn concert_fingerprint(pool: &Pool, id: ConcertId) -> Result<Option<Fingerprint>, Error> {
    let mut conn = pool.get().await?;
    let print: Option<Option<Uuid>> = concert::table
        .find(id)
        .select(concert::fingerprint)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(print.flatten().map(Fingerprint))
}

/// What changes on a concert.
#[derive(AsChangeset, Debug, Default, PartialEq)]
#[diesel(table_name = concert)]
pub struct ConcertEdit {
    /// Its title.
    pub title: Option<String>,
    /// Who plays.
    pub artist: Option<String>,
    /// Where.
    pub venue: Option<String>,
    /// What to know.
    pub description: Option<String>,
    /// The first day.
    pub starts_on: Option<NaiveDate>,
    /// The last day.
    pub ends_on: Option<NaiveDate>,
}

/// Edits a concert, if it is there; the concert after it.
pub async fn concert_update(
    pool: &Pool,
    id: ConcertId,
    edit: &ConcertEdit,
) -> Result<Option<ConcertRow>, Error> {
    if *edit == ConcertEdit::default() {
        return concert_find(pool, id).await;
    }
    let mut conn = pool.get().await?;
    let row = diesel::update(concert::table.find(id))
        .set(edit)
        .returning(CONCERT_COLUMNS)
        .get_result(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// A date to be made.
#[derive(Debug)]
pub struct NewScheduleRow {
    /// Its id.
    pub schedule_id: ScheduleId,
    /// Of which concert.
    pub concert_id: ConcertId,
    /// When it begins.
    pub starts_at: Timestamp,
    /// First moment of the booking window.
    pub booking_opens_at: Timestamp,
    /// First moment after it.
    pub booking_closes_at: Timestamp,
    /// Whether it sells.
    pub state: SaleState,
    /// How long a hold lasts, in milliseconds.
    pub hold_ms: i64,
    /// The most live seats of one user.
    pub seats_per_user: i32,
    /// How often a hold may be extended.
    pub extensions_max: i32,
    /// How long a hold lasts with all its extensions, in milliseconds.
    pub hold_total_ms: i64,
    /// Whether seats are refused that leave a single one alone.
    pub prevents_orphans: bool,
    /// Within so many milliseconds after a hold its seats are on sale again.
    pub release_jitter_ms: i64,
    /// Until when buyers may cancel, and what it costs.
    pub cancellation_rules: Rules,
    /// What was asked.
    pub fingerprint: Fingerprint,
}

/// Makes a date without seats, and its sale, unless there is one with its id or there is no such
/// concert; whether it did.
pub async fn schedule_insert(pool: &Pool, row: &NewScheduleRow) -> Result<bool, Error> {
    #[derive(QueryableByName)]
    struct Made {
        #[diesel(sql_type = BigInt)]
        made: i64,
    }
    let mut conn = pool.get().await?;
    let answer: Made = statement(
        "WITH made AS ( \
             INSERT INTO schedule (schedule_id, concert_id, starts_at, layout_hash, fingerprint, \
                                   cancellation_rules) \
             SELECT $1, concert_id, $3, $4, $5, $15 FROM concert WHERE concert_id = $2 \
             ON CONFLICT DO NOTHING RETURNING schedule_id), \
         on_sale AS ( \
             INSERT INTO sale (schedule_id, state, booking_opens_at, booking_closes_at, hold_ms, \
                               seats_per_user, extensions_max, hold_total_ms, \
                               prevents_orphans, release_jitter_ms) \
             SELECT schedule_id, $6, $7, $8, $9, $10, $11, $12, $13, $14 FROM made) \
         SELECT count(*) AS made FROM made",
    )
    .bind::<SqlUuid, _>(row.schedule_id)
    .bind::<SqlUuid, _>(row.concert_id)
    .bind::<Timestamptz, _>(row.starts_at)
    .bind::<Text, _>(&*NO_SEATS)
    .bind::<SqlUuid, _>(row.fingerprint.0)
    .bind::<Text, _>(row.state)
    .bind::<Timestamptz, _>(row.booking_opens_at)
    .bind::<Timestamptz, _>(row.booking_closes_at)
    .bind::<BigInt, _>(row.hold_ms)
    .bind::<Integer, _>(row.seats_per_user)
    .bind::<Integer, _>(row.extensions_max)
    .bind::<BigInt, _>(row.hold_total_ms)
    .bind::<Bool, _>(row.prevents_orphans)
    .bind::<BigInt, _>(row.release_jitter_ms)
    .bind::<Jsonb, _>(&row.cancellation_rules)
    .get_result(&mut conn)
    .await?;
    Ok(answer.made == 1)
}

/// What was asked when a date was made, if there is such a date and a request made it.
pub async fn schedule_fingerprint(
    pool: &Pool,
    id: ScheduleId,
) -> Result<Option<Option<Fingerprint>>, Error> {
    let mut conn = pool.get().await?;
    let print: Option<Option<Uuid>> = schedule::table
        .find(id)
        .select(schedule::fingerprint)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(print.map(|print| print.map(Fingerprint)))
}

/// What changes on a date, besides the rules of its sale.
#[derive(AsChangeset, Debug, Default, PartialEq)]
#[diesel(table_name = schedule)]
pub struct ScheduleEdit {
    /// When it begins.
    pub starts_at: Option<Timestamp>,
    /// Until when buyers may cancel, and what it costs.
    pub cancellation_rules: Option<Rules>,
}

/// Edits a date, if it is there; whether it is.
pub async fn schedule_update(
    pool: &Pool,
    id: ScheduleId,
    edit: &ScheduleEdit,
) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let edited = diesel::update(schedule::table.find(id))
        .set(edit)
        .execute(&mut conn)
        .await?;
    Ok(edited == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_text_means_only_itself() {
        assert_eq!(pattern("100%_\\"), "%100\\%\\_\\\\%");
    }
}
