//! Layouts: which seats a schedule has. A hold looks its labels up here without asking anybody.
//!
//! A layout may be replaced until its first claim, and is never changed after it. Each has a number
//! that grows, by which a hold says which layout its seats are meant by: one that was read before a
//! replacement is refused by the owner, and read again. What is shown of a reservation is shown by
//! a layout that is known not to be replaced any more.

mod document;
mod put;
mod read;
mod store;

use crate::app::App;
use crate::catalogue::Catalogue;
use crate::etag::{self, IfNoneMatch};
use crate::extract::{Id, Query};
use crate::gzip;
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use document::{Document, document};
use onsale_platform::db::Pool;
use onsale_schema::layout::label;
use onsale_schema::{Money, ScheduleId, SeatNo};
use quick_cache::Weighter;
use quick_cache::sync::{Cache, EntryAction, EntryResult};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Rows;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

pub use put::{__path_put, put};

/// Seats of all layouts that are kept; some 200 bytes each.
const SEATS_MAX: u64 = 2_000_000;
/// Layouts that are read at once; each has a connection of its own.
const LOADS_MAX: usize = 4;
/// How long one waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// Schedules that are expected to be kept.
const LAYOUTS: usize = 256;

/// The seats of one schedule.
pub struct Layout {
    schedule_id: ScheduleId,
    no: i64,
    /// Whether it is known not to be replaced any more.
    settled: AtomicBool,
    seats: Vec<Seat>,
    /// Of places as well.
    by_label: HashMap<Box<str>, SeatNo>,
    /// Of rows.
    sections: HashSet<Box<str>>,
    /// Sections of places.
    standing: HashSet<Box<str>>,
    /// Of seats.
    grades: HashSet<Box<str>>,
    hash: Box<str>,
    /// Of the plain form and of the compressed one: they are not the same bytes.
    etag: HeaderValue,
    etag_gzip: HeaderValue,
    json: gzip::Body,
}

/// One seat, or one place of a section without rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// See [`label`].
    pub label: Box<str>,
    /// What it costs.
    pub price: Money,
    /// Whether it is a place: buyers ask for a number of them, not for it.
    pub is_place: bool,
}

impl Seat {
    /// Its section, if it is a place.
    #[must_use]
    pub fn place_in(&self) -> Option<&str> {
        // `<section>-<number>`
        let (section, _) = self.label.rsplit_once('-')?;
        self.is_place.then_some(section)
    }
}

impl Layout {
    /// The schedule.
    #[must_use]
    pub fn schedule_id(&self) -> ScheduleId {
        self.schedule_id
    }

    /// How often the schedule's layout was replaced before.
    #[must_use]
    pub fn no(&self) -> i64 {
        self.no
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// There is a reservation that was made by this layout.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// The seat with this label; no place.
    #[must_use]
    pub fn by_label(&self, label: &str) -> Option<SeatNo> {
        let is_seat = |no: &SeatNo| {
            let seat = no.index().and_then(|at| self.seats.get(at));
            seat.is_some_and(|seat| !seat.is_place)
        };
        self.by_any_label(label).filter(is_seat)
    }

    /// The seat or place with this label. Buyers don't choose a place; who administers may.
    #[must_use]
    pub fn by_any_label(&self, label: &str) -> Option<SeatNo> {
        self.by_label.get(label).copied()
    }

    /// Whether it has a section of rows of this name.
    #[must_use]
    pub fn has_section(&self, name: &str) -> bool {
        self.sections.contains(name)
    }

    /// Whether it has a section of places of this name.
    #[must_use]
    pub fn has_places(&self, name: &str) -> bool {
        self.standing.contains(name)
    }

    /// Whether it has seats of a grade of this name.
    #[must_use]
    pub fn has_grade(&self, name: &str) -> bool {
        self.grades.contains(name)
    }

    /// Whether seats are beside each other: in one row, without another between them. Places are
    /// not looked at.
    #[must_use]
    pub fn are_together(&self, seats: &[SeatNo]) -> bool {
        let mut places = Vec::with_capacity(seats.len());
        let is_place = |seat: &SeatNo| self.seat(*seat).is_some_and(|seat| seat.is_place);
        for seat in seats.iter().filter(|seat| !is_place(seat)) {
            // `<section>-<row>-<number>`
            let place = self
                .seat(*seat)
                .and_then(|seat| seat.label.rsplit_once('-'));
            let Some((row, number)) = place else {
                return false;
            };
            places.push((row, number.parse::<i64>().unwrap_or_default()));
        }
        places.sort_unstable();
        let mut pairs = places.windows(2);
        pairs.all(|pair| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1)
    }

    /// The seat with this number.
    #[must_use]
    pub fn seat(&self, seat: SeatNo) -> Option<&Seat> {
        self.seats.get(seat.index()?)
    }

    /// The label of a seat; empty when there is none.
    #[must_use]
    pub fn label(&self, seat: SeatNo) -> Box<str> {
        self.seat(seat)
            .map(|seat| seat.label.clone())
            .unwrap_or_default()
    }

    fn new(schedule_id: ScheduleId, rows: Rows) -> Result<Self, Problem> {
        let Rows {
            no,
            hash,
            is_settled,
            seats: rows,
        } = rows;
        let broken = |what: &'static str| {
            tracing::error!(%schedule_id, what, "a layout is broken");
            Problem::internal()
        };
        if (0..).zip(&rows).any(|(at, row)| row.0 != at) {
            return Err(broken("seat numbers are not dense"));
        }
        let mut seats = Vec::with_capacity(rows.len());
        let mut by_label = HashMap::with_capacity(rows.len());
        let (mut sections, mut grades) = (HashSet::new(), HashSet::new());
        let mut standing = HashSet::new();
        for (seat_no, section, row_name, seat_number, grade, price, ..) in &rows {
            let is_place = row_name.is_empty();
            let of_section = match is_place {
                true => &mut standing,
                false => &mut sections,
            };
            let of_grade = (!is_place).then_some((&mut grades, grade));
            for (names, name) in [(of_section, section)].into_iter().chain(of_grade) {
                if !names.contains(name.as_str()) {
                    names.insert(name.clone().into_boxed_str());
                }
            }
            let label = label(section, row_name, *seat_number).into_boxed_str();
            by_label.insert(label.clone(), SeatNo(*seat_no));
            seats.push(Seat {
                label,
                price: *price,
                is_place,
            });
        }
        if by_label.len() != seats.len() {
            return Err(broken("two seats have one label"));
        }
        let etag = |suffix: &str| {
            HeaderValue::try_from(format!("\"{hash}{suffix}\"")).map_err(|_| broken("hash"))
        };
        let (etag, etag_gzip) = (etag("")?, etag(".gzip")?);
        let json = gzip::Body::pack(document(&hash, &rows, &seats));
        Ok(Self {
            schedule_id,
            no,
            settled: AtomicBool::new(is_settled),
            seats,
            by_label,
            sections,
            standing,
            grades,
            hash: hash.into(),
            etag,
            etag_gzip,
            json,
        })
    }
}

/// The layouts that are in use. Cheap to clone.
#[derive(Clone)]
pub struct Layouts {
    pool: Pool,
    cache: Arc<Cache<ScheduleId, Arc<Layout>, BySeats>>,
    loads: Arc<Semaphore>,
}

#[derive(Clone)]
struct BySeats;

impl Weighter<ScheduleId, Arc<Layout>> for BySeats {
    fn weight(&self, _: &ScheduleId, layout: &Arc<Layout>) -> u64 {
        u64::try_from(layout.seats.len()).unwrap_or(u64::MAX).max(1)
    }
}

impl Layouts {
    /// Layouts read through `pool`.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            cache: Arc::new(Cache::with_weighter(LAYOUTS, SEATS_MAX, BySeats)),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
        }
    }

    /// A layout of a schedule, read once, also when many ask at once. It may have been replaced
    /// since: who acts on it says its number.
    ///
    /// # Errors
    /// `not-found` when there is no such schedule, `dependency-unavailable`.
    pub async fn get(&self, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        self.since(schedule, 0).await
    }

    /// The same for an id that somebody may have made up: the catalogue is asked first, whose "no"
    /// counts for a moment, while a layout costs a turn and a connection of its own.
    ///
    /// # Errors
    /// `not-found` when there is no such schedule, `dependency-unavailable`.
    pub async fn find(
        &self,
        catalogue: &Catalogue,
        schedule: ScheduleId,
    ) -> Result<Arc<Layout>, Problem> {
        if let Some(layout) = self.cache.get(&schedule) {
            return Ok(layout);
        }
        let row = catalogue.schedule(schedule).await?;
        self.since(schedule, row.layout_no).await
    }

    /// A layout that is not older than number `no`.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn since(&self, schedule: ScheduleId, no: i64) -> Result<Arc<Layout>, Problem> {
        if let Some(layout) = self.cache.get(&schedule)
            && layout.no >= no
        {
            return Ok(layout);
        }
        let entry = self.cache.entry_async(&schedule, |_, layout| {
            if layout.no >= no {
                EntryAction::Retain(Arc::clone(layout))
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        match entry.await {
            EntryResult::Retained(layout) => Ok(layout),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                let layout = self.load(schedule).await?;
                // A refused insertion means that it was evicted meanwhile.
                drop(guard.insert(Arc::clone(&layout)));
                Ok(layout)
            }
            EntryResult::Removed(..) | EntryResult::Timeout => self.load(schedule).await,
        }
    }

    /// The layout as it is now; Postgres is asked for its number.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn current(&self, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        let no = store::layout_no_find(&self.pool, schedule).await?;
        let no = no.ok_or_else(|| Problem::new(Code::NotFound))?;
        self.since(schedule, no).await
    }

    /// The layout of a schedule of which the caller has seen a reservation: it is not replaced any
    /// more, so that Postgres is asked once.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn settled(&self, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        if let Some(layout) = self.cache.get(&schedule)
            && layout.is_settled()
        {
            return Ok(layout);
        }
        let layout = self.current(schedule).await?;
        layout.settle();
        Ok(layout)
    }

    /// The layout to show: one that readers elsewhere may see by now, too.
    async fn shown(&self, app: &App, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        let known = self.cache.get(&schedule);
        if let Some(layout) = known.as_ref().filter(|layout| layout.is_settled()) {
            return Ok(Arc::clone(layout));
        }
        match (app.catalogue.schedule(schedule).await, known) {
            (Ok(row), _) => self.since(schedule, row.layout_no).await,
            // What is in memory is better than nothing.
            (Err(problem), Some(layout)) if problem.code() == Code::DependencyUnavailable => {
                Ok(layout)
            }
            (Err(problem), _) => Err(problem),
        }
    }

    async fn load(&self, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        let turn = tokio::time::timeout(TURN_WAIT, self.loads.acquire()).await;
        // Never closed.
        let _turn = turn.map_err(|_| Problem::unavailable())?;
        let rows = store::layout_find(&self.pool, schedule).await?;
        let rows = rows.ok_or_else(|| Problem::new(Code::NotFound))?;
        // A large one takes some 100 ms to prepare.
        let prepared = tokio::task::spawn_blocking(move || Layout::new(schedule, rows));
        let layout = prepared.await.map_err(|error| {
            tracing::error!(%error, "layout task");
            Problem::internal()
        })??;
        Ok(Arc::new(layout))
    }
}

/// Which layout a client means.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LayoutQuery {
    /// The `layoutHash` that is meant: the answer under this address never changes.
    #[param(value_type = String, required = false)]
    hash: Option<String>,
}

/// The seats of a date
///
/// Where they are and what they cost; compressed for who takes gzip. With `hash`, the answer may be
/// kept for ever.
#[utoipa::path(get, path = "/schedules/{scheduleId}/layout", operation_id = "getLayout",
    tag = "Catalogue",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), LayoutQuery, IfNoneMatch),
    responses((status = 200, description = "The layout", body = Document)))]
pub async fn get(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    Query(query): Query<LayoutQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let layout = app.layouts.shown(&app, schedule).await?;
    // Before its first claim a layout may be replaced, and only an address that names it stays true.
    let kept = if query.hash.as_deref() == Some(&*layout.hash) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let is_gzip = gzip::is_accepted(&headers);
    let etag = if is_gzip {
        &layout.etag_gzip
    } else {
        &layout.etag
    };
    let caching = [
        (header::ETAG, etag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static(kept)),
        gzip::VARY,
    ];
    let etags = [&layout.etag, &layout.etag_gzip];
    if etags.iter().any(|etag| etag::matches(&headers, etag)) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let json = [(header::CONTENT_TYPE, crate::answer::JSON)];
    Ok((caching, json, layout.json.form(is_gzip)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    use super::store::Row;

    fn row(seat_no: i32, section: &str, row_name: &str, number: i32) -> Row {
        let (section, row_name) = (section.to_owned(), row_name.to_owned());
        (
            seat_no,
            section,
            row_name,
            number,
            "R".into(),
            Money::won(9),
            1.5,
            2.0,
        )
    }

    fn layout(rows: Vec<Row>) -> Result<Layout, Problem> {
        let rows = Rows {
            no: 0,
            hash: "h".into(),
            is_settled: false,
            seats: rows,
        };
        Layout::new(ScheduleId(Uuid::nil()), rows)
    }

    #[test]
    fn labels_and_document() {
        let rows = vec![
            row(0, "A", "1", 1),
            row(1, "A", "1", 2),
            row(2, "A", "2", 1),
            row(3, "B", "1", 1),
        ];
        let layout = layout(rows).unwrap();
        assert_eq!(layout.by_label("A-2-1"), Some(SeatNo(2)));
        assert_eq!(layout.by_label("A-2-2"), None);
        assert_eq!(&*layout.label(SeatNo(3)), "B-1-1");
        assert_eq!(layout.seat(SeatNo(4)), None);
        assert_eq!(layout.seat(SeatNo(-1)), None);
        let json: serde_json::Value = serde_json::from_slice(layout.json.plain()).unwrap();
        assert_eq!(json["layoutHash"], "h");
        assert_eq!(json["sections"][0]["rows"][1]["seats"][0]["seatNo"], 2);
        assert_eq!(json["sections"][0]["rows"][0]["seats"][1]["label"], "A-1-2");
        assert_eq!(
            json["sections"][1]["rows"][0]["seats"][0]["price"]["amount"],
            9
        );
    }

    #[test]
    fn places_are_counted_and_not_named() {
        let rows = vec![
            row(0, "A", "1", 1),
            row(1, "F", "", 1),
            row(2, "F", "", 2),
            row(3, "G", "", 1),
        ];
        let layout = layout(rows).unwrap();
        assert_eq!(layout.by_label("A-1-1"), Some(SeatNo(0)));
        assert_eq!(layout.by_label("F-1"), None);
        assert_eq!(&*layout.label(SeatNo(2)), "F-2");
        assert_eq!(layout.seat(SeatNo(2)).unwrap().place_in(), Some("F"));
        assert_eq!(layout.seat(SeatNo(0)).unwrap().place_in(), None);
        assert!(layout.has_section("A") && !layout.has_section("F"));
        assert!(layout.has_places("F") && !layout.has_places("A"));
        assert!(layout.are_together(&[SeatNo(0), SeatNo(3), SeatNo(1)]));
        let json: serde_json::Value = serde_json::from_slice(layout.json.plain()).unwrap();
        let floor = serde_json::json!({ "name": "F", "places": {
            "firstSeatNo": 1, "count": 2, "grade": "R",
            "price": { "amount": 9, "currency": "KRW" }, "x": 1.5, "y": 2.0,
        } });
        assert_eq!(json["sections"][1], floor);
        assert_eq!(json["sections"][2]["places"]["firstSeatNo"], 3);
        assert_eq!(json["sections"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn broken_ones_are_refused() {
        assert!(layout(vec![row(1, "A", "1", 1)]).is_err());
        assert!(layout(vec![row(0, "A-1", "1", 1), row(1, "A", "1-1", 1)]).is_err());
    }
}
