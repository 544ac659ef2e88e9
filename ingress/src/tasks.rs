//! Tasks for people: refunds that the payment gateway would not make, or of which nobody can tell
//! whether it has made them. They are shown here; what somebody does about one is decided by
//! settlement, which alone writes refunds.

mod store;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, Query};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::page::{Cursor, Page, PageQuery};
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::{Kind, NOTE_CHARS, Outcome};
use onsale_schema::status::RefundStatus;
use onsale_schema::{
    CancellationId, CommandId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp, UserId,
};
use serde::{Deserialize, Serialize};
use store::{Row, Which};
use utoipa::{IntoParams, ToSchema};

const ROUTE_RETRY: &str = "/api/v1/admin/tasks/{refundId}/retry";
const ROUTE_RESOLUTION: &str = "/api/v1/admin/tasks/{refundId}/resolution";

/// What is to be done.
///
/// - `REFUND_STUCK`: The gateway would not make a refund.
/// - `REFUND_IN_DOUBT`: A refund has been on its way for a day, and perhaps the gateway has made it. It
///   can neither be tried again nor be paid back by other means before that is known.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
enum TaskKind {
    /// The gateway would not make a refund.
    #[serde(rename = "REFUND_STUCK")]
    RefundStuck,
    /// The refund has been on its way for a day: as a rule, nobody can tell whether the gateway has made
    /// it. It can neither be tried again nor be paid back by other means before that is known; look the
    /// payment up in the gateway's own pages.
    #[serde(rename = "REFUND_IN_DOUBT")]
    RefundInDoubt,
}

/// Whether somebody has to see to it.
///
/// - `OPEN`: Somebody has to.
/// - `RESOLVING`: Somebody says to have paid the money back by other means; it does not count yet.
///   Don't pay it back again.
/// - `RESOLVED`: Somebody has paid the money back by other means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum TaskState {
    /// Somebody has to.
    Open,
    /// Somebody says to have paid the money back by other means, and the gateway is yet to say that it
    /// has not made the refund, too. Don't pay it back again.
    Resolving,
    /// Somebody has paid the money back by other means.
    Resolved,
}

/// Something for a person to see to: money that is owed, and that the gateway would not give back, or
/// has perhaps.
#[derive(Serialize, ToSchema)]
#[schema(as = Task)]
#[serde(rename_all = "camelCase")]
struct TaskView {
    refund_id: RefundId,
    kind: TaskKind,
    state: TaskState,
    /// Since when it is a task; of what was paid back by other means, since when that counts.
    since: Timestamp,
    /// The payment's order, by which the gateway knows it, too.
    order_id: PaymentOrderId,
    /// What was paid; left out where that was no reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<ReservationId>,
    /// What the refund is for; left out for a payment that came too late for its seats.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cancellation_id: Option<CancellationId>,
    /// Whose money it is.
    user_id: UserId,
    amount: Money,
    /// Since when it is owed.
    owed_since: Timestamp,
    /// How often the gateway was asked, since somebody last had it tried again.
    #[schema(minimum = 0)]
    attempts: i32,
    /// What the gateway said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_error: Option<String>,
    /// How often somebody had it tried again.
    #[schema(minimum = 0)]
    retries: i64,
    /// When, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retried_at: Option<Timestamp>,
    /// Who, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retried_by: Option<UserId>,
    /// Who says to have paid it back by other means.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resolved_by: Option<UserId>,
    /// By which means.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<String>,
}

impl From<Row> for TaskView {
    fn from(row: Row) -> Self {
        Self {
            refund_id: row.refund_id,
            kind: match row.status {
                RefundStatus::Pending => TaskKind::RefundInDoubt,
                RefundStatus::Stuck
                | RefundStatus::Resolving
                | RefundStatus::Resolved
                | RefundStatus::Done => TaskKind::RefundStuck,
            },
            state: match row.status {
                RefundStatus::Resolved => TaskState::Resolved,
                RefundStatus::Resolving => TaskState::Resolving,
                // What is done is nobody's task, and is not read.
                RefundStatus::Stuck | RefundStatus::Pending | RefundStatus::Done => TaskState::Open,
            },
            since: row.since,
            order_id: row.order_id,
            reservation_id: row.reservation_id,
            cancellation_id: row.cancellation_id,
            user_id: row.user_id,
            amount: row.amount,
            owed_since: row.created_at,
            attempts: row.attempts,
            last_error: row.last_error,
            retries: row.retries,
            retried_at: row.retried_at,
            retried_by: row.retried_by,
            resolved_by: row.resolved_by,
            note: row.note,
        }
    }
}

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Those that somebody has to see to (`OPEN`), or of which somebody says to have paid the money back
    /// by other means, and the gateway is yet to be asked (`RESOLVING`), or has said that it has not
    /// (`RESOLVED`). Without it, those that are `OPEN` and `RESOLVING`.
    #[param(value_type = TaskState, required = false)]
    state: Option<String>,
    /// Where the page before ended; the first page without it.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
    /// How many items, at most 100.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<String>,
}

/// What somebody has to see to
///
/// Refunds that the payment gateway would not make (`REFUND_STUCK`): each that is `OPEN` can be tried
/// again, or be paid back by other means. And those that have been on their way for a day
/// (`REFUND_IN_DOUBT`), as a rule as nobody can tell whether the gateway has made them: somebody has to
/// look at the payment in the gateway's own pages. What has been a task for longest comes first.
#[utoipa::path(get, path = "/admin/tasks", operation_id = "listTasks", tag = "Administration",
    params(Wanted),
    responses((status = 200, description = "A page", body = Page<TaskView>)))]
pub async fn list(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let which = match wanted.state.as_deref() {
        None => Which::Unresolved,
        Some("OPEN") => Which::Open,
        Some("RESOLVING") => Which::Resolving,
        Some("RESOLVED") => Which::Resolved,
        Some(_) => {
            let error = FieldError::at("/state", "invalid-value");
            return Err(Problem::validation(vec![error]));
        }
    };
    let page = PageQuery {
        cursor: wanted.cursor,
        limit: wanted.limit,
    };
    let start = page.read()?;
    let rows = store::task_list(&app.pool, which, &start).await?;
    let cursor = |row: &Row| Cursor {
        key: row.since.micros(),
        id: row.refund_id.0,
    };
    answer::ok(&start.page(rows, cursor, TaskView::from))
}

/// Try a refund again
///
/// Has the gateway asked again, as often as at first. It is the same refund: the gateway is asked first
/// whether it has made it in the meantime, so that it is not made twice.
#[utoipa::path(post, path = "/admin/tasks/{refundId}/retry", operation_id = "retryTask",
    tag = "Administration",
    params(("refundId" = RefundId, Path, description = "The refund"), IdempotencyKey, Prefer),
    extensions(("x-problems" = json!([Code::RefundStateConflict]))),
    responses((status = 200, description = "It is on its way", body = AttendedView)))]
pub async fn retry(
    State(app): State<App>,
    user: User,
    Id(refund_id): Id<RefundId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
) -> Result<Response, Problem> {
    let path = ROUTE_RETRY.replace("{refundId}", &refund_id.to_string());
    let wish = Wish {
        id: key.command(user.id, &path),
        print: fingerprint(&path, &()),
        kind: Kind::RetryRefund { refund_id },
    };
    wish.submit(&app, user, prefer, trace).await
}

/// How a refund was paid back without the gateway.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewResolution {
    /// By which means, for whoever asks later; without line breaks.
    #[schema(
        min_length = 1,
        max_length = 500,
        example = "Bank transfer 2026-11-28, ref. 4711"
    )]
    note: String,
}

/// Say that a refund was paid back by other means
///
/// For a refund that the gateway does not make whatever is tried. It counts as refunded (`RESOLVED`) as
/// soon as the gateway has said once more that it has not made it, a moment later as a rule; should it
/// have, the refund is `DONE`. Who has said so, when, and the note are kept. It can't be taken back, so
/// pay first.
#[utoipa::path(post, path = "/admin/tasks/{refundId}/resolution", operation_id = "resolveTask",
    tag = "Administration",
    params(("refundId" = RefundId, Path, description = "The refund"), IdempotencyKey, Prefer),
    request_body = NewResolution,
    extensions(("x-problems" = json!([Code::RefundStateConflict]))),
    responses((status = 200, description = "It is noted", body = AttendedView)))]
#[allow(
    clippy::too_many_arguments,
    reason = "each is a part of the request, and the framework takes them apart"
)]
pub async fn resolve(
    State(app): State<App>,
    user: User,
    Id(refund_id): Id<RefundId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewResolution = body.parse()?;
    let is_note = NOTE_CHARS.contains(&wanted.note.chars().count())
        && !wanted.note.trim().is_empty()
        && !wanted.note.chars().any(char::is_control);
    if !is_note {
        let error = FieldError::at("/note", "invalid-value");
        return Err(Problem::validation(vec![error]));
    }
    let path = ROUTE_RESOLUTION.replace("{refundId}", &refund_id.to_string());
    let wish = Wish {
        id: key.command(user.id, &path),
        print: fingerprint(&path, &wanted),
        kind: Kind::ResolveRefund {
            refund_id,
            note: wanted.note,
        },
    };
    wish.submit(&app, user, prefer, trace).await
}

/// What somebody wants done about a refund.
struct Wish {
    id: CommandId,
    print: Fingerprint,
    kind: Kind,
}

impl Wish {
    async fn submit(
        self,
        app: &App,
        user: User,
        prefer: Prefer,
        trace: TraceParent,
    ) -> Result<Response, Problem> {
        let submission = Submission {
            id: self.id,
            user: user.id,
            asker: user.id,
            fingerprint: self.print,
            in_flight: app.gate.admit_payment()?,
            prefer,
            trace,
            kind: self.kind,
            asked: Asked::Task,
            partition: None,
        };
        let decided = async |outcome: &_| attended(outcome);
        submit(app, &app.batchers.settlement, submission, decided).await
    }
}

/// A refund that somebody has seen to.
#[derive(Serialize, ToSchema)]
#[schema(as = Attended)]
#[serde(rename_all = "camelCase")]
pub struct AttendedView {
    refund_id: RefundId,
    /// How far the refund was then.
    status: RefundStatus,
    at: Timestamp,
}

/// What is answered when it is decided.
///
/// # Errors
/// The refusal, as a problem.
pub fn attended(outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Attended(task) => Ok(Answer {
            status: StatusCode::OK,
            location: None,
            json: answer::to_json(&AttendedView {
                refund_id: task.refund_id,
                status: task.status,
                at: task.at,
            })?,
        }),
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Paid(_)
        | Outcome::Cancelled(_)
        | Outcome::Ordered(_)
        | Outcome::Confirmed(_)
        | Outcome::Noted => {
            tracing::error!("a command was answered as another kind");
            Err(Problem::internal())
        }
    }
}
