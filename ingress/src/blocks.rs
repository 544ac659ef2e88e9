//! Blocks: seats that are taken off sale for a reason, and put on sale again. Both are commands to
//! the owner of the seats, so that each seat is somebody's, blocked or free in one order of events.

mod store;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, Ids, LongJsonBody, Query};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::layout::Layout;
use crate::page::{Cursor, Page, PageQuery};
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::refusal;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::seats::{BLOCK_SEATS_MAX, Kind, Outcome, REASON_CHARS};
use onsale_schema::{BlockId, CommandId, Lane, ScheduleId, SeatNo, Timestamp, UserId, partition};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use store::Row;
use utoipa::{IntoParams, ToSchema};

const ROUTE_ONE: &str = "/api/v1/admin/schedules/{scheduleId}/blocks/{blockId}";
/// The most seats that a lift names; all are lifted by naming none.
const LIFTED_MAX: usize = 1000;
/// The most errors that are told of one request.
const ERRORS_MAX: usize = 100;

/// Where the blocks of a date are.
fn route(schedule: ScheduleId) -> String {
    format!("/api/v1/admin/schedules/{schedule}/blocks")
}

/// Seats to be taken off sale, all or none.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewBlock {
    /// The labels of seats, up to 5,000. A place of a section without rows has one, too:
    /// `<section>-<number>`.
    #[schema(min_items = 1, example = json!(["A-1-1", "A-1-2"]))]
    seats: Vec<String>,
    /// Why, without line breaks.
    #[schema(min_length = 1, max_length = 500, example = "A camera stands there")]
    reason: String,
}

impl NewBlock {
    fn validate(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        match self.seats.len() {
            0 => errors.push(FieldError::at("/seats", "too-few")),
            1..=BLOCK_SEATS_MAX => errors.extend(duplicates(&self.seats, |at| format!("/{at}"))),
            _ => errors.push(FieldError::at("/seats", "too-many")),
        }
        if !is_reason(&self.reason) {
            errors.push(FieldError::at("/reason", "invalid-value"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::validation(errors))
        }
    }
}

fn is_reason(text: &str) -> bool {
    REASON_CHARS.contains(&text.chars().count())
        && !text.trim().is_empty()
        && !text.chars().any(char::is_control)
}

fn seat_error(place: &str, code: &'static str) -> FieldError {
    FieldError {
        pointer: Cow::Owned(format!("/seats{place}")),
        code,
    }
}

/// Those that are named again, each at its place.
fn duplicates<L: AsRef<str>>(labels: &[L], place: impl Fn(usize) -> String) -> Vec<FieldError> {
    let mut seen = HashSet::with_capacity(labels.len());
    let again = labels.iter().map(AsRef::as_ref).enumerate();
    let again = again.filter(|(_, label)| !seen.insert(*label));
    again
        .map(|(at, _)| seat_error(&place(at), "duplicate"))
        .take(ERRORS_MAX)
        .collect()
}

/// The seats of these labels.
fn seat_nos<L: AsRef<str>>(
    labels: &[L],
    layout: &Layout,
    place: impl Fn(usize) -> String,
) -> Result<Vec<SeatNo>, Problem> {
    let found = |label: &L| layout.by_any_label(label.as_ref());
    if let Some(seats) = labels.iter().map(found).collect() {
        return Ok(seats);
    }
    let unknown = labels.iter().enumerate();
    let unknown = unknown.filter(|(_, label)| found(label).is_none());
    let errors = unknown.map(|(at, _)| seat_error(&place(at), "unknown-seat"));
    Err(Problem::new(Code::UnknownSeat).errors(errors.take(ERRORS_MAX).collect()))
}

fn labels(seats: &[SeatNo], layout: &Layout) -> Vec<Box<str>> {
    seats.iter().map(|seat| layout.label(*seat)).collect()
}

/// Seats that are off sale.
#[derive(Serialize, ToSchema)]
#[schema(as = Block)]
#[serde(rename_all = "camelCase")]
pub struct BlockView {
    block_id: BlockId,
    schedule_id: ScheduleId,
    /// Labels: of all seats when it is made, of those that it still holds in a list.
    #[schema(value_type = Vec<String>, example = json!(["A-1-1", "A-1-2"]))]
    seats: Vec<Box<str>>,
    /// Why.
    reason: String,
    /// Who took them off sale.
    blocked_by: UserId,
    blocked_at: Timestamp,
}

fn view(row: Row, layout: &Layout) -> BlockView {
    BlockView {
        block_id: row.block_id,
        schedule_id: layout.schedule_id(),
        seats: labels(&row.seat_nos, layout),
        reason: row.reason.unwrap_or_default(),
        blocked_by: row.user_id,
        blocked_at: row.at,
    }
}

/// What was put on sale again.
#[derive(Serialize, ToSchema)]
#[schema(as = Lift)]
#[serde(rename_all = "camelCase")]
pub struct LiftView {
    block_id: BlockId,
    schedule_id: ScheduleId,
    /// The labels of those that came back by this request.
    #[schema(value_type = Vec<String>, example = json!(["A-1-1"]))]
    lifted: Vec<Box<str>>,
    /// The labels of those that the block still holds.
    #[schema(value_type = Vec<String>, example = json!(["A-1-2"]))]
    left: Vec<Box<str>>,
}

/// Take seats off sale
///
/// All of them or none, whether the date sells or not, and for as long as the block is there: nobody
/// can hold them, and the map shows them as `B`. Seats that somebody holds or has bought can't be
/// blocked. A key belongs to the date.
#[utoipa::path(post, path = "/admin/schedules/{scheduleId}/blocks", operation_id = "createBlock",
    tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), IdempotencyKey, Prefer),
    request_body = NewBlock,
    extensions(("x-problems" = json!([Code::SeatUnavailable, Code::UnknownSeat,
        Code::LayoutChanged]))),
    responses((status = 201, description = "Off sale", body = BlockView)))]
pub async fn create(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    LongJsonBody(body): LongJsonBody,
) -> Result<Response, Problem> {
    let wanted: NewBlock = body.parse()?;
    wanted.validate()?;
    let asking = Asking {
        id: key.command(user.id, &route(schedule)),
        user,
        prefer,
        trace,
        wanted,
    };
    let known = app.layouts.find(&app.catalogue, schedule).await?;
    let refused = match asking.block(&app, &known).await {
        Err(problem) if matches!(problem.code(), Code::UnknownSeat | Code::LayoutChanged) => {
            problem
        }
        answered => return answered,
    };
    // The layout may have been replaced since it was read, as for a hold.
    let current = app.layouts.current(schedule).await?;
    if current.no() > known.no() {
        asking.block(&app, &current).await
    } else {
        Err(refused)
    }
}

/// Who wants which seats off sale.
struct Asking {
    id: CommandId,
    user: User,
    prefer: Prefer,
    trace: TraceParent,
    wanted: NewBlock,
}

impl Asking {
    /// Asks for the seats that the labels mean by this layout.
    async fn block(&self, app: &App, layout: &Layout) -> Result<Response, Problem> {
        let schedule = layout.schedule_id();
        let seats = seat_nos(&self.wanted.seats, layout, |at| format!("/{at}"))?;
        let partition = partition::of_schedule(schedule, app.partitions);
        let submission = Submission {
            id: self.id,
            user: self.user.id,
            asker: self.user.id,
            fingerprint: fingerprint(&route(schedule), &self.wanted),
            in_flight: app.gate.admit_operator(Lane::Seats, schedule),
            prefer: self.prefer,
            trace: self.trace.clone(),
            kind: Kind::Block {
                block_id: BlockId(ids::new_v7(app.clock.now())),
                schedule_id: schedule,
                seats,
                reason: self.wanted.reason.clone(),
                layout_no: Some(layout.no()),
            },
            asked: Asked::Block(schedule),
            partition: Some(partition),
        };
        let batcher = app.batchers.seats(partition);
        submit(app, batcher, submission, async |outcome| {
            blocked(app, layout, outcome).await
        })
        .await
    }
}

/// What a decided block is answered with.
///
/// # Errors
/// The refusal, as a problem; `dependency-unavailable`.
pub async fn blocked(app: &App, layout: &Layout, outcome: &Outcome) -> Result<Answer, Problem> {
    let block = match outcome {
        Outcome::Blocked { block_id } => *block_id,
        other => return Err(refused(other, layout)),
    };
    let schedule = layout.schedule_id();
    let row = store::find(&app.pool, schedule, block).await?;
    let row = row.ok_or_else(Problem::internal)?;
    // By a retry of its key it may be of a newer layout than that which was looked at.
    let layout = app.layouts.settled(schedule).await?;
    Answer::created(None, &view(row, &layout))
}

/// What a decided lift is answered with.
///
/// # Errors
/// The refusal, as a problem; `dependency-unavailable`.
pub async fn lifted(app: &App, schedule: ScheduleId, outcome: &Outcome) -> Result<Answer, Problem> {
    let layout = app.layouts.settled(schedule).await?;
    let (block_id, command) = match outcome {
        Outcome::Unblocked {
            block_id,
            command_id,
        } => (*block_id, *command_id),
        other => return Err(refused(other, &layout)),
    };
    let lifted = store::lift_find(&app.pool, command).await?;
    let left = store::left(&app.pool, schedule, block_id).await?;
    let view = LiftView {
        block_id,
        schedule_id: schedule,
        lifted: labels(&lifted, &layout),
        left: labels(&left, &layout),
    };
    Ok(Answer {
        status: StatusCode::OK,
        location: None,
        json: answer::to_json(&view)?,
    })
}

fn refused(outcome: &Outcome, layout: &Layout) -> Problem {
    match outcome {
        Outcome::Refused(why) => refusal::of_seats(why, |no| layout.label(no)),
        Outcome::DeadLettered => Problem::unavailable(),
        Outcome::Held(_)
        | Outcome::Released { .. }
        | Outcome::Extended { .. }
        | Outcome::Applied
        | Outcome::Policy(_)
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. } => {
            tracing::error!("a command was answered as another kind");
            Problem::internal()
        }
    }
}

/// What is off sale
///
/// The blocks that still hold seats, each with those that it still holds, the newest first. All that
/// ever was blocked on the date is read for it.
#[utoipa::path(get, path = "/admin/schedules/{scheduleId}/blocks", operation_id = "listBlocks",
    tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), PageQuery),
    responses((status = 200, description = "A page", body = Page<BlockView>)))]
pub async fn list(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    app.catalogue.schedule(schedule).await?;
    let rows = store::list(&app.pool, schedule, &start).await?;
    let layout = match rows.is_empty() {
        // Before the first block it may yet be replaced.
        true => None,
        false => Some(app.layouts.settled(schedule).await?),
    };
    let cursor = |row: &Row| Cursor {
        key: row.at.micros(),
        id: row.block_id.0,
    };
    answer::ok(&start.page(rows, cursor, |row| {
        let layout: &Arc<Layout> = layout.as_ref().expect("there are rows");
        view(row, layout)
    }))
}

/// Which seats, and why.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Lifting {
    /// Labels of seats of the block, with commas between them, up to 1,000 and as many as fit into an
    /// address (`431` otherwise); all that it still holds without them.
    #[param(value_type = String, required = false, example = "A-1-1,A-1-2")]
    seats: Option<String>,
    /// Why.
    #[param(value_type = String, required = false, min_length = 1, max_length = 500)]
    reason: Option<String>,
}

impl Lifting {
    /// The labels, if any are named.
    fn labels(&self) -> Result<Option<Vec<&str>>, Problem> {
        let mut errors = Vec::new();
        let labels = self.seats.as_ref().map(|text| {
            let labels: Vec<&str> = text.split(',').collect();
            if labels.len() > LIFTED_MAX {
                errors.push(FieldError::at("/seats", "too-many"));
            } else if !duplicates(&labels, |_| String::new()).is_empty() {
                errors.push(FieldError::at("/seats", "duplicate"));
            }
            labels
        });
        if self.reason.as_deref().is_some_and(|text| !is_reason(text)) {
            errors.push(FieldError::at("/reason", "invalid-value"));
        }
        if errors.is_empty() {
            Ok(labels)
        } else {
            Err(Problem::validation(errors))
        }
    }
}

/// Put seats on sale again
///
/// Those that are named, or all that the block still holds. Once more is no mistake: what is on sale
/// already stays so.
#[utoipa::path(delete, path = "/admin/schedules/{scheduleId}/blocks/{blockId}",
    operation_id = "liftBlock", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"),
        ("blockId" = BlockId, Path, description = "The block"), Lifting, Prefer),
    extensions(("x-problems" = json!([Code::UnknownSeat]))),
    responses((status = 200, description = "On sale again", body = LiftView)))]
pub async fn lift(
    State(app): State<App>,
    user: User,
    Ids(schedule, block): Ids<ScheduleId, BlockId>,
    Query(query): Query<Lifting>,
    prefer: Prefer,
    trace: TraceParent,
) -> Result<Response, Problem> {
    let named = query.labels()?;
    let row = store::find(&app.pool, schedule, block).await?;
    row.ok_or_else(|| Problem::new(Code::NotFound))?;
    let layout = app.layouts.settled(schedule).await?;
    let seats = named.map(|labels| seat_nos(&labels, &layout, |_| String::new()));
    let seats = seats.transpose()?;
    let partition = partition::of_schedule(schedule, app.partitions);
    // Lifting twice is harmless, so each request is a command of its own.
    let once = ids::new_v7(app.clock.now());
    let submission = Submission {
        id: CommandId::derive(user.id, ROUTE_ONE, &format!("{block} {once}")),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE_ONE, &(block, &seats, &query.reason)),
        in_flight: app.gate.admit_operator(Lane::Seats, schedule),
        prefer,
        trace,
        kind: Kind::Unblock {
            block_id: block,
            schedule_id: schedule,
            seats,
            reason: query.reason,
        },
        asked: Asked::Unblock(schedule),
        partition: Some(partition),
    };
    let batcher = app.batchers.seats(partition);
    submit(&app, batcher, submission, async |outcome| {
        lifted(&app, schedule, outcome).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(seats: &[&str], reason: &str) -> Option<Problem> {
        let wanted = NewBlock {
            seats: seats.iter().map(|&label| label.to_owned()).collect(),
            reason: reason.to_owned(),
        };
        wanted.validate().err()
    }

    #[test]
    fn seats_are_named_once_and_there_is_a_reason() {
        let expected = |at, code| Some(Problem::validation(vec![FieldError::at(at, code)]));
        let long = "가".repeat(500);
        assert_eq!(wrong(&["A-1-1", "A-1-2"], "why"), None);
        assert_eq!(wrong(&["A-1-1"], &long), None);
        assert_eq!(wrong(&[], "why"), expected("/seats", "too-few"));
        let many: Vec<String> = (0..=BLOCK_SEATS_MAX).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(wrong(&many, "why"), expected("/seats", "too-many"));
        assert_eq!(wrong(&many[1..], "why"), None);
        let twice = ["a", "b", "a"];
        assert_eq!(wrong(&twice, "why"), expected("/seats/2", "duplicate"));
        for reason in ["", " ", "a\0b", "a\nb", &format!("{long}x")] {
            assert_eq!(wrong(&["a"], reason), expected("/reason", "invalid-value"));
        }
    }
}
