//! A layout in place of another, for those who administer.

use super::read::{self, NewLayout};
use super::store::{self, Replaced};
use crate::answer;
use crate::app::App;
use crate::extract::{Id, LayoutBody};
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::response::Response;
use onsale_schema::ScheduleId;
use onsale_schema::layout::{self, Seat};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The layout that a date has now.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredLayout)]
#[serde(rename_all = "camelCase")]
struct View {
    schedule_id: ScheduleId,
    /// Names this version.
    layout_hash: String,
    /// How many seats and places it has.
    seats: usize,
}

/// Replace the seats of a date
///
/// As JSON, or as CSV with the header `section,row,number,grade,price` and one seat a line. A section
/// is of rows or, for general admission, of places, of which only the count is said: as `places` in
/// place of `rows`, or as a line with an empty row and the count as number (`FLOOR,,500,R,99000`).
/// All of the layout is replaced, or nothing; the same layout again changes nothing. Once a seat has
/// been held or blocked, the layout stays as it is. What is wrong is told by JSON pointer or by line
/// (`/lines/17`), up to a hundred errors.
#[utoipa::path(put, path = "/admin/schedules/{scheduleId}/layout", operation_id = "replaceLayout",
    tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date")),
    request_body(description = "All seats", content(
        (NewLayout = "application/json"),
        (String = "text/csv", example = "section,row,number,grade,price\nA,1,1,VIP,165000\n"))),
    extensions(("x-problems" = json!([Code::LayoutInUse]))),
    responses((status = 200, description = "It is the layout now", body = View)))]
pub async fn put(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    body: LayoutBody,
) -> Result<Response, Problem> {
    let read = tokio::task::spawn_blocking(move || read(body));
    let (seats, hash) = read.await.map_err(|error| {
        tracing::error!(%error, "layout task");
        Problem::internal()
    })??;
    let view = View {
        schedule_id: schedule,
        layout_hash: hash.clone(),
        seats: seats.len(),
    };
    let replaced = store::layout_replace(&app.pool, schedule, Arc::new(seats), hash).await?;
    match replaced {
        Replaced::Done | Replaced::Unchanged => {}
        Replaced::InUse => return Err(Problem::new(Code::LayoutInUse)),
        Replaced::NotFound => return Err(Problem::new(Code::NotFound)),
    }
    // Here it is seen at once; elsewhere when what was read before counts no more.
    app.catalogue.refresh(schedule).await?;
    answer::ok(&view)
}

/// Tens of thousands of seats take some 100 ms.
fn read(body: LayoutBody) -> Result<(Vec<Seat>, String), Problem> {
    let seats = match body {
        LayoutBody::Json(bytes) => read::json(bytes)?,
        LayoutBody::Csv(bytes) => read::csv(&bytes)?,
    };
    let hash = layout::hash(&seats);
    Ok((seats, hash))
}
