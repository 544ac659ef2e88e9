//! Reading the catalogue.

use super::{Grade, Search};
use chrono::NaiveDate;
use diesel::dsl::{exists, not};
use diesel::prelude::Queryable;
use diesel::{
    BoolExpressionMethods, ExpressionMethods, OptionalExtension, PgTextExpressionMethods, QueryDsl,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_schema::status::SaleState;
use onsale_schema::tables::{concert, sale, schedule, seat};
use onsale_schema::{ConcertId, Money, ScheduleId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

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
}

impl ScheduleRow {
    /// Whether it sells at `now`, as far as a reader can tell.
    #[must_use]
    pub fn is_bookable(&self, now: Timestamp) -> bool {
        self.state == SaleState::Open
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
);
const SCHEDULE_COLUMNS: ScheduleColumns = (
    schedule::schedule_id,
    schedule::concert_id,
    schedule::starts_at,
    schedule::layout_hash,
    sale::state,
    sale::booking_opens_at,
    sale::booking_closes_at,
    sale::hold_ms,
    sale::seats_per_user,
);

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
                .filter(sale::booking_closes_at.gt(now)),
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
        .filter(schedule::concert_id.eq(id))
        .order((schedule::starts_at, schedule::schedule_id))
        .select(SCHEDULE_COLUMNS)
        .load(&mut conn)
        .await?;
    Ok(rows)
}

/// One date.
pub async fn schedule_find(pool: &Pool, id: ScheduleId) -> Result<Option<ScheduleRow>, Error> {
    let mut conn = pool.get().await?;
    let row = schedule::table
        .inner_join(sale::table)
        .filter(schedule::schedule_id.eq(id))
        .select(SCHEDULE_COLUMNS)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_text_means_only_itself() {
        assert_eq!(pattern("100%_\\"), "%100\\%\\_\\\\%");
    }
}
