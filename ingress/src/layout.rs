//! Layouts: which seats a schedule has. A layout never changes after its first claim, so it is read
//! once and kept; a hold looks its labels up here without asking anybody.

use crate::app::App;
use crate::etag::IfNoneMatch;
use crate::extract::{Id, Query};
use crate::problem::{Code, Problem};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::Pool;
use onsale_schema::{Money, ScheduleId, SeatNo, tables};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Seats of all layouts that are kept; some 200 bytes each.
const SEATS_MAX: u64 = 2_000_000;
/// Schedules that are expected to be kept.
const LAYOUTS: usize = 256;

/// The seats of one schedule.
pub struct Layout {
    schedule_id: ScheduleId,
    seats: Vec<Seat>,
    by_label: HashMap<Box<str>, SeatNo>,
    hash: Box<str>,
    etag: HeaderValue,
    json: Bytes,
}

/// One seat.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// `<section>-<row>-<number>`.
    pub label: Box<str>,
    /// What it costs.
    pub price: Money,
}

/// A seat's row, in `seat_no` order.
type Row = (i32, String, String, i32, String, Money, f32, f32);

impl Layout {
    /// The schedule.
    #[must_use]
    pub fn schedule_id(&self) -> ScheduleId {
        self.schedule_id
    }

    /// The seat with this label.
    #[must_use]
    pub fn by_label(&self, label: &str) -> Option<SeatNo> {
        self.by_label.get(label).copied()
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

    fn new(schedule_id: ScheduleId, hash: &str, rows: Vec<Row>) -> Result<Self, Problem> {
        let broken = |what: &'static str| {
            tracing::error!(%schedule_id, what, "a layout is broken");
            Problem::internal()
        };
        if (0..).zip(&rows).any(|(at, row)| row.0 != at) {
            return Err(broken("seat numbers are not dense"));
        }
        let mut seats = Vec::with_capacity(rows.len());
        let mut by_label = HashMap::with_capacity(rows.len());
        for (seat_no, section, row_name, seat_number, _, price, ..) in &rows {
            let label = format!("{section}-{row_name}-{seat_number}").into_boxed_str();
            by_label.insert(label.clone(), SeatNo(*seat_no));
            seats.push(Seat {
                label,
                price: *price,
            });
        }
        if by_label.len() != seats.len() {
            return Err(broken("two seats have one label"));
        }
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(|_| broken("hash"))?;
        let json = document(hash, &rows, &seats).into();
        Ok(Self {
            schedule_id,
            seats,
            by_label,
            hash: hash.into(),
            etag,
            json,
        })
    }
}

/// The seats of a date, in the order of their numbers.
#[derive(Serialize, ToSchema)]
#[schema(as = Layout)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    /// Names this version.
    layout_hash: &'a str,
    sections: Vec<SectionView<'a>>,
}

/// A section of a layout.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutSection)]
struct SectionView<'a> {
    #[schema(example = "A")]
    name: &'a str,
    rows: Vec<RowView<'a>>,
}

/// A row of a section.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutRow)]
struct RowView<'a> {
    #[schema(example = "1")]
    name: &'a str,
    seats: Vec<SeatView<'a>>,
}

/// A seat of a row.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutSeat)]
#[serde(rename_all = "camelCase")]
struct SeatView<'a> {
    /// Its index in the seat map.
    #[schema(minimum = 0)]
    seat_no: i32,
    /// What it is called: `<section>-<row>-<number>`.
    #[schema(example = "A-1-12")]
    label: &'a str,
    #[schema(example = "VIP")]
    grade: &'a str,
    price: Money,
    /// Where it is drawn.
    x: f32,
    /// Where it is drawn.
    y: f32,
}

/// The layout, as it is sent.
fn document(hash: &str, rows: &[Row], seats: &[Seat]) -> Vec<u8> {
    let mut sections: Vec<SectionView<'_>> = Vec::new();
    for ((seat_no, section, row_name, _, grade, price, x, y), seat) in rows.iter().zip(seats) {
        if sections.last().is_none_or(|last| last.name != section) {
            sections.push(SectionView {
                name: section,
                rows: Vec::new(),
            });
        }
        let rows = &mut sections.last_mut().expect("one was just pushed").rows;
        if rows.last().is_none_or(|last| last.name != row_name) {
            rows.push(RowView {
                name: row_name,
                seats: Vec::new(),
            });
        }
        let in_row = &mut rows.last_mut().expect("one was just pushed").seats;
        in_row.push(SeatView {
            seat_no: *seat_no,
            label: &seat.label,
            grade,
            price: *price,
            x: *x,
            y: *y,
        });
    }
    let document = Document {
        layout_hash: hash,
        sections,
    };
    serde_json::to_vec(&document).expect("a layout has a JSON form")
}

/// The layouts that are in use. Cheap to clone.
#[derive(Clone)]
pub struct Layouts {
    pool: Pool,
    cache: Arc<Cache<ScheduleId, Arc<Layout>, BySeats>>,
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
        }
    }

    /// The layout of a schedule; read once, also when many ask at once.
    ///
    /// # Errors
    /// `not-found` when there is no such schedule, `dependency-unavailable`.
    pub async fn get(&self, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        if let Some(layout) = self.cache.get(&schedule) {
            return Ok(layout);
        }
        self.cache
            .get_or_insert_async(&schedule, self.load(schedule))
            .await
    }

    async fn load(&self, schedule: ScheduleId) -> Result<Arc<Layout>, Problem> {
        use tables::{schedule as s, seat};
        let mut conn = self.pool.get().await?;
        let hash: Option<String> = s::table
            .find(schedule)
            .select(s::layout_hash)
            .first(&mut conn)
            .await
            .optional()?;
        let hash = hash.ok_or_else(|| Problem::new(Code::NotFound))?;
        let rows: Vec<Row> = seat::table
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
            .load(&mut conn)
            .await?;
        drop(conn);
        // A large one takes some 100 ms to prepare.
        let prepared = tokio::task::spawn_blocking(move || Layout::new(schedule, &hash, rows));
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
/// Where they are and what they cost. With `hash`, the answer may be kept for ever.
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
    let layout = app.layouts.get(schedule).await?;
    // Before its first claim a layout may be replaced, and only an address that names it stays true.
    let kept = if query.hash.as_deref() == Some(&*layout.hash) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let caching = [
        (header::ETAG, layout.etag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static(kept)),
    ];
    if crate::etag::matches(&headers, &layout.etag) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let json = [(header::CONTENT_TYPE, crate::answer::JSON)];
    Ok((caching, json, layout.json.clone()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

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
        Layout::new(ScheduleId(Uuid::nil()), "h", rows)
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
        let json: serde_json::Value = serde_json::from_slice(&layout.json).unwrap();
        assert_eq!(json["layoutHash"], "h");
        assert_eq!(json["sections"][0]["rows"][1]["seats"][0]["seatNo"], 2);
        assert_eq!(json["sections"][0]["rows"][0]["seats"][1]["label"], "A-1-2");
        assert_eq!(
            json["sections"][1]["rows"][0]["seats"][0]["price"]["amount"],
            9
        );
    }

    #[test]
    fn broken_ones_are_refused() {
        assert!(layout(vec![row(1, "A", "1", 1)]).is_err());
        assert!(layout(vec![row(0, "A-1", "1", 1), row(1, "A", "1-1", 1)]).is_err());
    }
}
