//! Shows that are cancelled: asked for here, worked off by settlement, shown as it goes.

mod store;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use onsale_schema::seats::REASON_CHARS;
use onsale_schema::{Money, ScheduleId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use store::is_cancelled;

/// Where the cancellation of a show is.
fn route(schedule: ScheduleId) -> String {
    format!("/api/v1/admin/schedules/{schedule}/cancellation")
}

/// A show to be cancelled.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewShowCancellation {
    /// Why, without line breaks.
    #[schema(min_length = 1, max_length = 500, example = "The singer is ill")]
    reason: String,
}

/// How far a cancellation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Progress {
    /// Something may be sold still, or a payment is on its way.
    Running,
    /// Nothing is sold, nothing can be any more, and no payment is on its way; refunds may be.
    Finished,
}

/// A show that is cancelled, and how far that is.
#[derive(Serialize, ToSchema)]
#[schema(as = ShowCancellation)]
#[serde(rename_all = "camelCase")]
struct ShowView {
    schedule_id: ScheduleId,
    state: Progress,
    reason: String,
    /// Who wanted it.
    cancelled_by: UserId,
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    finished_at: Option<Timestamp>,
    /// Reservations that were sold; grows while payments that were on their way come in.
    #[schema(minimum = 0)]
    total: i64,
    /// Those of them that are cancelled.
    #[schema(minimum = 0)]
    done: i64,
    /// What went back for them, or is on its way.
    refunded: Money,
    /// Refunds of the date through the gateway that are on their way: also of a payment that came in when
    /// nothing was sold any more, and of what a buyer had cancelled before.
    #[schema(minimum = 0)]
    pending: i64,
    /// Refunds of the date that the gateway did not take; somebody has to see to them.
    #[schema(minimum = 0)]
    failed: i64,
    /// Reservations that could not be cancelled: tried again now and then, somebody has to see to
    /// them.
    #[schema(minimum = 0)]
    set_aside: i64,
    server_time: Timestamp,
}

fn view(row: store::Row, now: Timestamp) -> ShowView {
    ShowView {
        schedule_id: row.schedule_id,
        state: if row.finished_at.is_some() {
            Progress::Finished
        } else {
            Progress::Running
        },
        reason: row.reason,
        cancelled_by: row.user_id,
        started_at: row.started_at,
        finished_at: row.finished_at,
        total: row.done + row.sold,
        done: row.done,
        refunded: row.refunded,
        pending: row.pending,
        failed: row.failed,
        set_aside: row.set_aside,
        server_time: now,
    }
}

/// Cancel a show
///
/// Its sale is closed for good, holds are given back, and everybody who has paid gets all of it back;
/// who had cancelled before gets no more than then. That takes a while: ask how far it is where
/// `Location` says. Once more is no mistake, and changes nothing.
#[utoipa::path(post, path = "/admin/schedules/{scheduleId}/cancellation",
    operation_id = "cancelShow", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), IdempotencyKey),
    request_body = NewShowCancellation,
    responses((status = 202, description = "It is being cancelled", body = ShowView,
        headers(("Location" = String, description = "How far it is")))))]
pub async fn create(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewShowCancellation = body.parse()?;
    let is_reason = REASON_CHARS.contains(&wanted.reason.chars().count())
        && !wanted.reason.trim().is_empty()
        && !wanted.reason.chars().any(char::is_control);
    if !is_reason {
        let error = FieldError::at("/reason", "invalid-value");
        return Err(Problem::validation(vec![error]));
    }
    app.catalogue.schedule(schedule).await?;
    let path = route(schedule);
    let print = fingerprint(&path, &wanted);
    let id = key.command(user.id, &path);
    let is_new =
        store::show_insert(&app.pool, schedule, id, print, user.id, &wanted.reason).await?;
    if is_new {
        tracing::info!(%schedule, "a show is to be cancelled");
    }
    let row = store::show_find(&app.pool, schedule).await?;
    let row = row.ok_or_else(Problem::internal)?;
    if row.command_id == id && row.fingerprint != print.0 {
        return Err(Problem::new(Code::IdempotencyKeyReused));
    }
    let answer = Answer {
        status: StatusCode::ACCEPTED,
        location: Some(path),
        json: answer::to_json(&view(row, app.clock.now()))?,
    };
    Ok(answer.into_response())
}

/// How far the cancellation of a show is
#[utoipa::path(get, path = "/admin/schedules/{scheduleId}/cancellation",
    operation_id = "getShowCancellation", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date")),
    responses((status = 200, description = "So far", body = ShowView)))]
pub async fn get(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
) -> Result<Response, Problem> {
    let row = store::show_find(&app.pool, schedule).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    answer::ok(&view(row, app.clock.now()))
}
