//! More time to pay.

use super::{ROUTE_ONE, misanswered, store};
use crate::answer::Answer;
use crate::app::App;
use crate::auth::User;
use crate::extract::Id;
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::refusal;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::seats::{Kind, Outcome};
use onsale_schema::{ReservationId, Timestamp, partition};
use serde::Serialize;
use utoipa::ToSchema;

/// A hold that lasts longer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    reservation_id: ReservationId,
    /// When it lapses.
    expires_at: Timestamp,
    /// So often it may be extended again.
    extensions_left: u32,
    /// Now, by our clock.
    server_time: Timestamp,
}

/// Extend a hold
///
/// From now on it lasts as long as a new one would, but not longer than the date's
/// `holdTotalSeconds` in all, and not more than `holdExtensionsMax` times. The same key once more is
/// told how long it lasts now.
#[utoipa::path(post, path = "/reservations/{reservationId}/extension",
    operation_id = "extendReservation", tag = "Reservations",
    params(("reservationId" = ReservationId, Path, description = "The reservation"),
        IdempotencyKey, Prefer),
    extensions(("x-problems" = json!([Code::ReservationStateConflict,
        Code::ExtensionLimitReached, Code::SaleNotOpen, Code::SaleClosed]))),
    responses((status = 200, description = "It lasts longer", body = Extension)))]
pub async fn extend(
    State(app): State<App>,
    user: User,
    Id(id): Id<ReservationId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
) -> Result<Response, Problem> {
    let row = store::reservation_find(&app.pool, user.id, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    // The key is one of this hold: its commands are known by its row.
    let path = ROUTE_ONE.replace("{reservationId}", &format!("{id}/extension"));
    let partition = partition::of_schedule(row.schedule_id, app.partitions);
    let in_flight = app.gate.admit_schedule(row.schedule_id, partition)?;
    let submission = Submission {
        id: key.command(user.id, &path),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(&path, &()),
        in_flight,
        prefer,
        trace,
        kind: Kind::Extend {
            reservation_id: id,
            schedule_id: row.schedule_id,
        },
        asked: Asked::Extension,
        partition: Some(partition),
    };
    let batcher = app.batchers.seats(partition);
    submit(&app, batcher, submission, async |outcome| {
        extended(&app, outcome)
    })
    .await
}

/// What a decided extension is answered with.
///
/// # Errors
/// The refusal, as a problem.
pub fn extended(app: &App, outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Extended {
            reservation_id,
            expires_at,
            left,
        } => Ok(Answer {
            status: StatusCode::OK,
            location: None,
            json: crate::answer::to_json(&Extension {
                reservation_id: *reservation_id,
                expires_at: *expires_at,
                extensions_left: *left,
                server_time: app.clock.now(),
            })?,
        }),
        // A refused extension names no seats.
        Outcome::Refused(why) => Err(refusal::of_seats(why, |_| Box::default())),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Held(_)
        | Outcome::Released { .. }
        | Outcome::Applied
        | Outcome::Policy(_)
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. } => Err(misanswered()),
    }
}
