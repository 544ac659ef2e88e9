//! The tickets that a draw was made among, in pages that never change: a page is made once, kept
//! compressed, and may be kept by everybody else. So a list of a million of them is no burden, however
//! many look at it.

use super::{Draws, FOR_EVER, store};
use crate::answer;
use crate::app::App;
use crate::etag::{self, IfNoneMatch};
use crate::extract::{Id, Query};
use crate::gzip;
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use onsale_schema::{ScheduleId, TicketId};
use quick_cache::Weighter;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// Tickets of a page.
const PAGE: u32 = 10_000;
/// How long one waits for its turn to read one.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// Pages by the bytes of both of their forms.
#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<(ScheduleId, u32), Arc<gzip::Body>> for ByBytes {
    fn weight(&self, _: &(ScheduleId, u32), page: &Arc<gzip::Body>) -> u64 {
        u64::try_from(page.bytes()).unwrap_or(u64::MAX).max(1)
    }
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageOfTickets {
    /// The number of its first ticket: the `next` of the page before; the first page without it.
    #[param(value_type = u32, required = false, minimum = 0, example = 0)]
    from: Option<String>,
}

impl PageOfTickets {
    /// The first ticket of a page that a list of so many has. One of none has a page.
    fn first(&self, size: u32) -> Result<u32, Problem> {
        let Some(text) = &self.from else { return Ok(0) };
        let first = text.parse().ok();
        let first = first.filter(|first| first % PAGE == 0 && *first < size.max(1));
        first.ok_or_else(|| Problem::validation(vec![FieldError::at("/from", "invalid-value")]))
    }
}

/// A page of the tickets that were in a lobby when it was closed.
#[derive(Serialize, ToSchema)]
#[schema(as = DrawTickets)]
#[serde(rename_all = "camelCase")]
struct TicketsView {
    schedule_id: ScheduleId,
    /// So many tickets are in the whole list.
    size: u32,
    /// The arrival number of the first one here, from 0; each other has the next.
    from: u32,
    /// Their ids, in the order of arrival.
    ticket_ids: Vec<TicketId>,
    /// Where the next page begins; none after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<u32>,
}

/// The tickets of a draw
///
/// Those that were in the lobby when it was closed, in the order of their arrival and in pages of
/// 10,000. They say nothing of who has them; who knows their own ticket finds it here. A page never
/// changes and may be kept for ever.
#[utoipa::path(get, path = "/schedules/{scheduleId}/queue/draw/tickets",
    operation_id = "listDrawTickets", tag = "Waiting room",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), PageOfTickets, IfNoneMatch),
    extensions(("x-problems" = json!([Code::LobbyOpen, Code::ValidationFailed, Code::Overloaded]))),
    responses((status = 200, description = "A page", body = TicketsView)))]
pub async fn list(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    Query(query): Query<PageOfTickets>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let draw = app.draws.get(schedule).await?;
    let (Some(size), Some(digest)) = (draw.size, draw.digest) else {
        return Err(Problem::new(Code::LobbyOpen));
    };
    let first = query.first(size)?;
    let is_gzip = gzip::is_accepted(&headers);
    let etag = |suffix: &str| super::tag(&format!("{digest}.{first}{suffix}"));
    let etags = [etag(""), etag(".gzip")];
    let caching = [
        (header::CACHE_CONTROL, FOR_EVER),
        (header::ETAG, etags[usize::from(is_gzip)].clone()),
        gzip::VARY,
    ];
    if etags.iter().any(|etag| etag::matches(&headers, etag)) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let page = app.draws.page(schedule, size, first).await?;
    let json = [(header::CONTENT_TYPE, answer::JSON)];
    Ok((caching, json, page.form(is_gzip)).into_response())
}

impl Draws {
    /// A page, read once, also when many ask at once.
    async fn page(
        &self,
        schedule: ScheduleId,
        size: u32,
        first: u32,
    ) -> Result<Arc<gzip::Body>, Problem> {
        let key = (schedule, first);
        let load = self.load(schedule, size, first);
        self.pages.get_or_insert_async(&key, load).await
    }

    async fn load(
        &self,
        schedule: ScheduleId,
        size: u32,
        first: u32,
    ) -> Result<Arc<gzip::Body>, Problem> {
        let turn = tokio::time::timeout(TURN_WAIT, self.loads.acquire()).await;
        // Never closed.
        let _turn = turn.map_err(|_| Problem::new(Code::Overloaded))?;
        let until = size.min(first.saturating_add(PAGE));
        let ticket_ids = store::tickets(&self.pool, schedule, first, until).await?;
        if u32::try_from(ticket_ids.len()) != Ok(until - first) {
            tracing::error!(%schedule, first, "Q1: tickets are missing");
            return Err(Problem::internal());
        }
        let view = TicketsView {
            schedule_id: schedule,
            size,
            from: first,
            ticket_ids,
            next: (until < size).then_some(until),
        };
        let packed = tokio::task::spawn_blocking(move || {
            Ok(Arc::new(gzip::Body::pack(answer::to_json(&view)?)))
        });
        packed.await.map_err(|error| {
            tracing::error!(%error, "a list of tickets");
            Problem::internal()
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_where_pages_begin() {
        let first = |from: Option<&str>, size| {
            let from = from.map(str::to_owned);
            PageOfTickets { from }.first(size).ok()
        };
        for (from, size, expected) in [
            (None, 0, Some(0)),
            (Some("0"), 0, Some(0)),
            (Some("10000"), 10_000, None),
            (Some("10000"), 10_001, Some(10_000)),
            (Some("1"), 10_001, None),
            (Some("-1"), 10_001, None),
            (Some("x"), 10_001, None),
            (Some("4294960000"), u32::MAX, Some(4_294_960_000)),
        ] {
            assert_eq!(first(from, size), expected, "{from:?} of {size}");
        }
    }
}
