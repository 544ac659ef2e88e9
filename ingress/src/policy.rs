//! By which rules a date sells: changed by a command on its partition, so that every hold is decided
//! by exactly one of them.

pub mod queue;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::catalogue::{self, ScheduleDetail, ScheduleEdit, WantedRules, Wrong};
use crate::extract::{Id, JsonBody, not_null};
use crate::idempotency::fingerprint;
use crate::ids;
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::refusal;
use crate::shows;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::seats::{Kind, Outcome, PolicyChange};
use onsale_schema::status::SaleState;
use onsale_schema::{CommandId, Lane, ScheduleId, Timestamp, partition};
use queue::{Asking, QueuePatch};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/admin/schedules/{scheduleId}";

/// What changes on a date.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SchedulePatch {
    /// When it begins: on one of the concert's days. Alone: it is no rule of the sale.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    starts_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    sale_state: Option<SaleState>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    booking_opens_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    booking_closes_at: Option<Timestamp>,
    /// How long a hold lasts; those that are there keep their end.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 86_400)]
    hold_seconds: Option<i64>,
    /// The most live seats of one user; nobody loses any.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    seats_per_user: Option<u32>,
    /// How often a hold may be extended.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 20)]
    hold_extensions_max: Option<u32>,
    /// How long a hold lasts with all its extensions, at most.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 86_400)]
    hold_total_seconds: Option<i64>,
    /// Whether to refuse seats that are named if that leaves a single one alone, as long as there
    /// is another choice.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    prevent_orphan_seats: Option<bool>,
    /// Seats that were held are on sale again at a random moment within so many seconds after the
    /// hold, so that nobody can wait for it. Until then they count to who held them, for a second limit
    /// of twice `seatsPerUser`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 600)]
    release_jitter_seconds: Option<i64>,
    /// Until when buyers may cancel, and what it costs, from now on; all of it anew. No rule of the
    /// sale either. It counts for what was sold before, too, as a new `startsAt` does, from which the times are
    /// reckoned: whoever bought by other rules is yours to keep your word to.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    cancellation: Option<WantedRules>,
    /// How the waiting room lets people in, from now on. Alone: it is its own owner who decides it.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    queue: Option<QueuePatch>,
}

impl SchedulePatch {
    fn validate(&self) -> Result<(), Problem> {
        let mut wrong = Wrong::default();
        wrong.time(self.starts_at, "/startsAt");
        wrong.time(self.booking_opens_at, "/bookingOpensAt");
        wrong.time(self.booking_closes_at, "/bookingClosesAt");
        wrong.window(self.booking_opens_at, self.booking_closes_at);
        wrong.rules(self.hold_seconds, self.seats_per_user);
        wrong.terms(
            self.hold_extensions_max,
            self.hold_total_seconds,
            self.release_jitter_seconds,
        );
        wrong.cancellation(self.cancellation.as_ref());
        let is_apart = self.change() == PolicyChange::default();
        let is_alone = self.starts_at.is_none() || is_apart;
        wrong.unless(is_alone, "/startsAt", "not-alone");
        let is_alone = self.cancellation.is_none() || is_apart;
        wrong.unless(is_alone, "/cancellation", "not-alone");
        if let Some(queue) = &self.queue {
            queue.validate(&mut wrong);
            let is_alone = is_apart && self.starts_at.is_none() && self.cancellation.is_none();
            wrong.unless(is_alone, "/queue", "not-alone");
        }
        wrong.check()
    }

    fn change(&self) -> PolicyChange {
        PolicyChange {
            state: self.sale_state,
            booking_opens_at: self.booking_opens_at,
            booking_closes_at: self.booking_closes_at,
            hold_ms: self.hold_seconds.map(|seconds| seconds * 1000),
            seats_per_user: self.seats_per_user,
            extensions_max: self.hold_extensions_max,
            hold_total_ms: self.hold_total_seconds.map(|seconds| seconds * 1000),
            prevents_orphans: self.prevent_orphan_seats,
            release_jitter_ms: self.release_jitter_seconds.map(|seconds| seconds * 1000),
            cancelled: false,
        }
    }
}

/// Edit a date
///
/// Open, pause or close its sale, move its booking window, change how long holds last, how many
/// seats a user may have and which. The next hold goes by it. What is not said stays as it is;
/// `startsAt` is changed alone, and `cancellation` without rules of the sale. `queue` is changed alone,
/// too: whoever comes next to the waiting room is let in by it, while those who have a pass keep it, and
/// nobody gets another place. No waiting room lets people in before the booking opens: to move both
/// later, begin with `queue`, and with `bookingOpensAt` to move both earlier. Of a cancelled show neither
/// the sale nor the waiting room opens again.
#[utoipa::path(patch, path = "/admin/schedules/{scheduleId}", operation_id = "editSchedule",
    tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), Prefer),
    request_body = SchedulePatch,
    extensions(("x-problems" = json!([Code::SaleClosed]))),
    responses((status = 200, description = "The date as it is now", body = ScheduleDetail)))]
pub async fn edit(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let patch: SchedulePatch = body.parse()?;
    patch.validate()?;
    if let Some(queue) = &patch.queue {
        let asking = Asking {
            user,
            prefer,
            trace,
        };
        return queue::edit(&app, asking, schedule, queue).await;
    }
    if let Some(starts_at) = patch.starts_at {
        let date = app.catalogue.schedule(schedule).await?;
        let concert = app.catalogue.concert(date.concert_id).await?;
        catalogue::check_day(starts_at, &concert)?;
    }
    let catalogued = ScheduleEdit {
        starts_at: patch.starts_at,
        cancellation_rules: patch.cancellation.as_ref().map(WantedRules::rules),
    };
    if catalogued != ScheduleEdit::default()
        && !catalogue::edit_schedule(&app, schedule, &catalogued).await?
    {
        return Err(Problem::new(Code::NotFound));
    }
    may_sell(&app, schedule, patch.sale_state).await?;
    if let Some(opens_at) = patch.booking_opens_at {
        may_open(&app, schedule, opens_at).await?;
    }
    let change = patch.change();
    if change == PolicyChange::default() {
        let row = app.catalogue.refresh(schedule).await?;
        return answer::ok(&catalogue::detail(&app, &row).await?);
    }
    let partition = partition::of_schedule(schedule, app.partitions);
    let in_flight = app.gate.admit_operator(Lane::Seats, schedule);
    // Values, not steps: to set them twice is harmless, so each request is a command of its own.
    let once = ids::new_v7(app.clock.now());
    let submission = Submission {
        id: CommandId::derive(user.id, ROUTE, &format!("{schedule} {once}")),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE, &patch),
        in_flight,
        prefer,
        trace,
        kind: Kind::Policy {
            schedule_id: schedule,
            change,
        },
        asked: Asked::Policy(schedule),
        partition: Some(partition),
    };
    let batcher = app.batchers.seats(partition);
    submit(&app, batcher, submission, async |outcome| {
        changed(&app, schedule, outcome).await
    })
    .await
}

/// A show that is cancelled is never on sale again. That is said here before anybody is asked; who
/// gets by meanwhile is refused by the owner of its seats, who has the last word.
async fn may_sell(
    app: &App,
    schedule: ScheduleId,
    state: Option<SaleState>,
) -> Result<(), Problem> {
    match state {
        None | Some(SaleState::Closed) => Ok(()),
        Some(SaleState::Open | SaleState::Paused) => {
            if shows::is_cancelled(&app.pool, schedule).await? {
                Err(Problem::new(Code::SaleClosed))
            } else {
                Ok(())
            }
        }
    }
}

/// Refuses to move the booking behind the opening of a waiting room that lets people in, as that is now.
async fn may_open(app: &App, schedule: ScheduleId, opens_at: Timestamp) -> Result<(), Problem> {
    let row = app.catalogue.refresh(schedule).await?;
    let is_early = queue::lets_in_to_nothing(&row.queue(), opens_at, app.clock.now());
    if row.room.is_none() || !is_early {
        return Ok(());
    }
    let error = FieldError::at("/bookingOpensAt", "after-queue-opening");
    Err(Problem::validation(vec![error]).detail(
        "The waiting room would let people in before that: let it open later, or pause it.",
    ))
}

/// What a decided change is answered with.
///
/// # Errors
/// The refusal, as a problem; `dependency-unavailable`.
pub async fn changed(
    app: &App,
    schedule: ScheduleId,
    outcome: &Outcome,
) -> Result<Answer, Problem> {
    let policy = match outcome {
        Outcome::Policy(policy) => policy,
        // A refused change names no seats.
        Outcome::Refused(why) => return Err(refusal::of_seats(why, |_| Box::default())),
        Outcome::DeadLettered => return Err(Problem::unavailable()),
        Outcome::Held(_)
        | Outcome::Released { .. }
        | Outcome::Extended { .. }
        | Outcome::Applied
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. } => {
            tracing::error!("a command was answered as another kind");
            return Err(Problem::internal());
        }
    };
    let row = app.catalogue.refresh(schedule).await?;
    // As it was decided, also if somebody has changed it again since.
    let row = row.under(policy);
    Ok(Answer {
        status: StatusCode::OK,
        location: None,
        json: answer::to_json(&catalogue::detail(app, &row).await?)?,
    })
}
