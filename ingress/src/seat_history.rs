//! What became of a seat, for those who administer: who had it, when, why and by which command. It
//! is read from the rows that are there anyway, so that no hold pays for it.

mod store;

use crate::answer;
use crate::app::App;
use crate::extract::{Ids, Query};
use crate::page::{Cursor, Page, PageQuery};
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::response::Response;
use onsale_schema::status::SeatEvent;
use onsale_schema::{BlockId, CommandId, ReservationId, ScheduleId, Timestamp, UserId};
use serde::Serialize;
use std::time::Duration;
use store::Row;
use utoipa::ToSchema;
use uuid::Uuid;

/// Histories that are read at once, see [`crate::app::Parts::histories`].
pub const READS_MAX: usize = 2;
/// How long one waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// Something that became of a seat.
#[derive(Serialize, ToSchema)]
#[schema(as = SeatHistoryEvent)]
#[serde(rename_all = "camelCase")]
struct View {
    event: SeatEvent,
    at: Timestamp,
    /// Who did it; not there for what time did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<ReservationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    block_id: Option<BlockId>,
    /// By which command; a hold lapses without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    command_id: Option<CommandId>,
    /// Why, where somebody said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
}

impl From<Row> for View {
    fn from(row: Row) -> Self {
        Self {
            event: row.event,
            at: row.at,
            user_id: row.user_id,
            reservation_id: row.reservation_id,
            block_id: row.block_id,
            command_id: row.command_id,
            reason: row.reason,
        }
    }
}

/// What became of a seat
///
/// All that ever happened to it, in the order of time: holds and how they ended, payments, blocks and
/// lifts. Nothing is written for it and no index is kept, so each page reads all reservations of the
/// date: some tenths of a second for a date that has had 100,000 of them. An ingress reads two
/// histories at once.
#[utoipa::path(get, path = "/admin/schedules/{scheduleId}/seats/{label}/history",
    operation_id = "getSeatHistory", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"),
        ("label" = String, Path, description = "The label of the seat or place", example = "A-1-1"), PageQuery),
    extensions(("x-problems" = json!([Code::Overloaded]))),
    responses((status = 200, description = "A page", body = Page<View>)))]
pub async fn get(
    State(app): State<App>,
    Ids(schedule, label): Ids<ScheduleId, String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    let row = app.catalogue.schedule(schedule).await?;
    // What is kept of a seat is of the layout as it is: one that has been used is never replaced.
    let layout = app.layouts.since(schedule, row.layout_no).await?;
    let seat = layout.by_any_label(&label);
    let seat = seat.ok_or_else(|| Problem::new(Code::NotFound))?;
    let turn = tokio::time::timeout(TURN_WAIT, app.histories.acquire()).await;
    // Never closed.
    let _turn = turn.map_err(|_| Problem::new(Code::Overloaded))?;
    let rows = store::list(&app.pool, schedule, seat, &start).await?;
    let cursor = |row: &Row| Cursor {
        key: row.place,
        id: Uuid::nil(),
    };
    answer::ok(&start.page(rows, cursor, View::from))
}
