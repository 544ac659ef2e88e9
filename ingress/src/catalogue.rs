//! Concerts and their dates, for everybody. What was read counts for a moment; how many seats are
//! left comes from the seat map in memory.

mod cancellation;
pub mod edit;
pub mod new_schedule;
mod room;
mod store;
mod wrong;

use crate::answer;
use crate::app::App;
use crate::extract::{Id, Query};
use crate::fresh::Fresh;
use crate::page::{Cursor, Page, PageQuery};
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::response::Response;
use chrono::{Datelike, NaiveDate};
use onsale_platform::db::Pool;
use onsale_schema::cancellation::Rules;
use onsale_schema::status::{QueueMode, SaleState};
use onsale_schema::{ConcertId, Money, ScheduleId, Timestamp};
use quick_cache::sync::Cache;
pub(crate) use room::QueueView;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

pub(crate) use cancellation::WantedRules;
pub(crate) use edit::check_day;
pub use store::{ConcertRow, ScheduleRow};
pub(crate) use store::{ScheduleEdit, lobby_find};
pub(crate) use wrong::Wrong;

/// Questions of each kind whose answers are kept for a moment.
const FRESH_ENTRIES: usize = 1024;
/// The longest search text, in characters.
const TEXT_CHARS_MAX: usize = 100;

/// The catalogue as it was read a moment ago.
pub struct Catalogue {
    pool: Pool,
    lists: Fresh<Search, Arc<Vec<ConcertRow>>>,
    concerts: Fresh<ConcertId, Option<Arc<ConcertRow>>>,
    schedules_of: Fresh<ConcertId, Arc<Vec<ScheduleRow>>>,
    schedules: Fresh<ScheduleId, Option<Arc<ScheduleRow>>>,
    /// By schedule and layout number, which no other layout ever has.
    grades: Cache<(ScheduleId, i64), Arc<Vec<Grade>>>,
}

/// A grade of seats of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Grade {
    /// Its name.
    #[schema(example = "VIP")]
    pub grade: String,
    /// What a seat costs.
    pub price: Money,
    /// How many there are.
    #[schema(minimum = 0)]
    pub seats: i64,
}

/// What a list of concerts is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Search {
    text: Option<String>,
    artist: Option<String>,
    from: Option<NaiveDate>,
    to: Option<NaiveDate>,
    bookable: Option<bool>,
    after: Option<(NaiveDate, uuid::Uuid)>,
    rows: i64,
}

/// The query of `GET /concerts`, as text.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Part of the title, the artist or the venue.
    #[param(value_type = String, required = false, max_length = 100)]
    query: Option<String>,
    /// Part of the artist's name.
    #[param(value_type = String, required = false, max_length = 100)]
    artist: Option<String>,
    /// Concerts that end on this day or later.
    #[param(value_type = NaiveDate, required = false)]
    from: Option<String>,
    /// Concerts that begin on this day or earlier.
    #[param(value_type = NaiveDate, required = false)]
    to: Option<String>,
    /// Whether a date of the concert can be booked now.
    #[param(value_type = bool, required = false)]
    bookable: Option<String>,
    /// Where the page before ended; the first page without it.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
    /// How many items, at most 100.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<String>,
}

impl ListQuery {
    fn page(&self) -> PageQuery {
        PageQuery {
            cursor: self.cursor.clone(),
            limit: self.limit.clone(),
        }
    }

    fn search(&self, after: Option<Cursor>, rows: i64) -> Result<Search, Problem> {
        let invalid = |pointer| Problem::validation(vec![FieldError::at(pointer, "invalid-value")]);
        let after = match after {
            None => None,
            Some(cursor) => {
                let date = date_of_key(cursor.key).ok_or_else(|| invalid("/cursor"))?;
                Some((date, cursor.id))
            }
        };
        Ok(Search {
            text: text(self.query.as_deref()).map_err(|()| invalid("/query"))?,
            artist: text(self.artist.as_deref()).map_err(|()| invalid("/artist"))?,
            from: date(self.from.as_deref()).map_err(|()| invalid("/from"))?,
            to: date(self.to.as_deref()).map_err(|()| invalid("/to"))?,
            bookable: match self.bookable.as_deref() {
                None => None,
                Some("true") => Some(true),
                Some("false") => Some(false),
                Some(_) => return Err(invalid("/bookable")),
            },
            after,
            rows,
        })
    }
}

/// Search text, if there is any.
fn text(text: Option<&str>) -> Result<Option<String>, ()> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    match text {
        Some(text) if text.chars().count() > TEXT_CHARS_MAX => Err(()),
        Some(text) if text.chars().any(char::is_control) => Err(()),
        other => Ok(other.map(str::to_owned)),
    }
}

/// Years that clients may ask about, all of which Postgres knows.
const YEARS: std::ops::RangeInclusive<i32> = 1..=9999;

fn date(text: Option<&str>) -> Result<Option<NaiveDate>, ()> {
    let Some(text) = text else { return Ok(None) };
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| ())?;
    if YEARS.contains(&date.year()) {
        Ok(Some(date))
    } else {
        Err(())
    }
}

/// A date as a cursor's key: days from 1 January of year 1.
fn key_of_date(date: NaiveDate) -> i64 {
    use chrono::Datelike;
    i64::from(date.num_days_from_ce())
}

fn date_of_key(key: i64) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(i32::try_from(key).ok()?)
}

impl Catalogue {
    /// A catalogue read through `pool`.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            lists: Fresh::new(FRESH_ENTRIES),
            concerts: Fresh::new(FRESH_ENTRIES),
            schedules_of: Fresh::new(FRESH_ENTRIES),
            schedules: Fresh::new(FRESH_ENTRIES),
            grades: Cache::new(FRESH_ENTRIES),
        }
    }

    async fn list(&self, search: Search, now: Timestamp) -> Result<Arc<Vec<ConcertRow>>, Problem> {
        let load = async {
            Ok(Arc::new(
                store::concert_list(&self.pool, &search, now).await?,
            ))
        };
        self.lists.get(&search, load).await
    }

    pub(crate) async fn concert(&self, id: ConcertId) -> Result<Arc<ConcertRow>, Problem> {
        let load = async { Ok(store::concert_find(&self.pool, id).await?.map(Arc::new)) };
        let concert = self.concerts.get(&id, load).await?;
        concert.ok_or_else(|| Problem::new(Code::NotFound))
    }

    async fn schedules_of(&self, id: ConcertId) -> Result<Arc<Vec<ScheduleRow>>, Problem> {
        let load = async { Ok(Arc::new(store::schedule_list(&self.pool, id).await?)) };
        self.schedules_of.get(&id, load).await
    }

    /// A date.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn schedule(&self, id: ScheduleId) -> Result<Arc<ScheduleRow>, Problem> {
        let load = async { Ok(store::schedule_find(&self.pool, id).await?.map(Arc::new)) };
        let schedule = self.schedules.get(&id, load).await?;
        schedule.ok_or_else(|| Problem::new(Code::NotFound))
    }

    /// Forgets a concert and its dates that were just edited here.
    pub fn forget_concert(&self, id: ConcertId) {
        self.concerts.forget(&id);
        self.schedules_of.forget(&id);
    }

    /// A date that was just edited here, as it is now.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn refresh(&self, id: ScheduleId) -> Result<Arc<ScheduleRow>, Problem> {
        self.schedules.forget(&id);
        let row = self.schedule(id).await?;
        self.schedules_of.forget(&row.concert_id);
        Ok(row)
    }

    async fn grades(&self, row: &ScheduleRow) -> Result<Arc<Vec<Grade>>, Problem> {
        let key = (row.schedule_id, row.layout_no);
        let load = async {
            let grades = store::grade_list(&self.pool, row.schedule_id).await?;
            Ok::<_, Problem>(Arc::new(grades))
        };
        self.grades.get_or_insert_async(&key, load).await
    }
}

/// Concerts
///
/// By their first day.
#[utoipa::path(get, path = "/concerts", operation_id = "listConcerts", tag = "Catalogue",
    params(ListQuery),
    responses((status = 200, description = "A page", body = Page<ConcertRow>)))]
pub async fn list(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let start = query.page().read()?;
    let search = query.search(start.after, start.rows())?;
    let rows = app.catalogue.list(search, app.clock.now()).await?;
    let cursor = |row: &&ConcertRow| Cursor {
        key: key_of_date(row.starts_on),
        id: row.concert_id.0,
    };
    let page: Page<&ConcertRow> = start.page(rows.iter().collect(), cursor, |row| row);
    answer::ok(&page)
}

/// A concert
#[utoipa::path(get, path = "/concerts/{concertId}", operation_id = "getConcert", tag = "Catalogue",
    params(("concertId" = ConcertId, Path, description = "The concert")),
    responses((status = 200, description = "The concert", body = ConcertRow)))]
pub async fn concert(State(app): State<App>, Id(id): Id<ConcertId>) -> Result<Response, Problem> {
    answer::ok(&*app.catalogue.concert(id).await?)
}

/// A date in a concert's list.
#[derive(Serialize, ToSchema)]
#[schema(as = Schedule)]
#[serde(rename_all = "camelCase")]
struct ScheduleView {
    schedule_id: ScheduleId,
    concert_id: ConcertId,
    starts_at: Timestamp,
    booking_opens_at: Timestamp,
    booking_closes_at: Timestamp,
    /// Whether it can be booked now: it is on sale, and has seats.
    bookable: bool,
    /// Seats that nobody has.
    remaining: u32,
    /// Seats in all.
    #[schema(minimum = 0)]
    total: i64,
    /// Whether holding needs an entry pass.
    waiting_room: bool,
    #[schema(value_type = Vec<Grade>)]
    prices: Arc<Vec<Grade>>,
}

/// One date, with what it is sold by.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleDetail {
    #[serde(flatten)]
    schedule: ScheduleView,
    sale_state: SaleState,
    /// How long a hold lasts.
    #[schema(minimum = 0)]
    hold_seconds: i64,
    /// The most live seats of one user.
    #[schema(minimum = 0)]
    seats_per_user: i32,
    /// How often a hold may be extended.
    #[schema(minimum = 0)]
    hold_extensions_max: i32,
    /// How long a hold lasts with all its extensions.
    #[schema(minimum = 0)]
    hold_total_seconds: i64,
    /// Whether seats that are named are refused if that leaves a single one alone, as long as there
    /// is another choice.
    prevent_orphan_seats: bool,
    /// Seats that were held are on sale again at a random moment within so many seconds after the
    /// hold.
    #[schema(minimum = 0)]
    release_jitter_seconds: i64,
    /// Until when buyers may cancel, and what it costs.
    cancellation: Rules,
    /// Names the version of the layout.
    layout_hash: String,
    queue: QueueView,
    server_time: Timestamp,
}

async fn schedule_view(app: &App, row: &ScheduleRow) -> Result<ScheduleView, Problem> {
    let prices = app.catalogue.grades(row).await?;
    Ok(ScheduleView {
        schedule_id: row.schedule_id,
        concert_id: row.concert_id,
        starts_at: row.starts_at,
        booking_opens_at: row.booking_opens_at,
        booking_closes_at: row.booking_closes_at,
        bookable: row.is_bookable(app.clock.now()),
        remaining: (app.seat_maps)
            .remaining(row.schedule_id, row.layout_no)
            .await?,
        total: prices.iter().map(|grade| grade.seats).sum(),
        waiting_room: row.queue().mode != QueueMode::Off,
        prices,
    })
}

/// The dates of a concert
#[utoipa::path(get, path = "/concerts/{concertId}/schedules", operation_id = "listSchedules",
    tag = "Catalogue", params(("concertId" = ConcertId, Path, description = "The concert")),
    responses((status = 200, description = "Its dates, the earliest first",
        body = Vec<ScheduleView>)))]
pub async fn schedules(State(app): State<App>, Id(id): Id<ConcertId>) -> Result<Response, Problem> {
    app.catalogue.concert(id).await?;
    let rows = app.catalogue.schedules_of(id).await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        views.push(schedule_view(&app, row).await?);
    }
    answer::ok(&views)
}

/// One date of a concert
///
/// With what it is sold by.
#[utoipa::path(get, path = "/schedules/{scheduleId}", operation_id = "getSchedule",
    tag = "Catalogue", params(("scheduleId" = ScheduleId, Path, description = "The date")),
    responses((status = 200, description = "The date", body = ScheduleDetail)))]
pub async fn schedule(State(app): State<App>, Id(id): Id<ScheduleId>) -> Result<Response, Problem> {
    let row = app.catalogue.schedule(id).await?;
    answer::ok(&detail(&app, &row).await?)
}

/// One date, as it is shown.
pub(crate) async fn detail(app: &App, row: &ScheduleRow) -> Result<ScheduleDetail, Problem> {
    Ok(ScheduleDetail {
        schedule: schedule_view(app, row).await?,
        sale_state: row.state,
        hold_seconds: row.hold_ms / 1000,
        seats_per_user: row.seats_per_user,
        hold_extensions_max: row.extensions_max,
        hold_total_seconds: row.hold_total_ms / 1000,
        prevent_orphan_seats: row.prevents_orphans,
        release_jitter_seconds: row.release_jitter_ms / 1000,
        cancellation: row.cancellation_rules.clone(),
        layout_hash: row.layout_hash.clone(),
        queue: row.queue().into(),
        server_time: app.clock.now(),
    })
}

/// Edits what of a date is no rule of its sale; false when there is no such date.
pub(crate) async fn edit_schedule(
    app: &App,
    id: ScheduleId,
    edit: &ScheduleEdit,
) -> Result<bool, Problem> {
    Ok(store::schedule_update(&app.pool, id, edit).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_refused() {
        let query = ListQuery {
            query: Some("  아이유 ".into()),
            from: Some("2027-01-31".into()),
            bookable: Some("true".into()),
            ..ListQuery::default()
        };
        let search = query.search(None, 21).unwrap();
        assert_eq!(search.text.as_deref(), Some("아이유"));
        assert_eq!(search.from, NaiveDate::from_ymd_opt(2027, 1, 31));
        assert_eq!(search.bookable, Some(true));
        let bad = [
            ListQuery {
                from: Some("soon".into()),
                ..ListQuery::default()
            },
            ListQuery {
                bookable: Some("yes".into()),
                ..ListQuery::default()
            },
            ListQuery {
                query: Some("a\0b".into()),
                ..ListQuery::default()
            },
            ListQuery {
                artist: Some("x".repeat(101)),
                ..ListQuery::default()
            },
        ];
        for query in bad {
            assert!(query.search(None, 21).is_err(), "{query:?}");
        }
        let beyond = Cursor {
            key: i64::MAX,
            id: uuid::Uuid::nil(),
        };
        assert!(ListQuery::default().search(Some(beyond), 21).is_err());
    }

    #[test]
    fn dates_make_cursors() {
        let date = NaiveDate::from_ymd_opt(2027, 1, 31).unwrap();
        assert_eq!(date_of_key(key_of_date(date)), Some(date));
    }
}
