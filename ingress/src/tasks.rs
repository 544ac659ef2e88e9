//! Tasks for people: refunds that the payment gateway would not make, or of which nobody can tell
//! whether it has made them; money that went back twice, or has perhaps; and orders whose payment is not
//! what was ordered. They are shown here; what somebody does about one is decided by settlement, which
//! alone writes refunds and orders.

mod store;
mod view;
mod write_off;

pub use write_off::{__path_write_off, WrittenOffView, write_off};

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
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use onsale_schema::settlement::{Kind, NOTE_CHARS, Outcome};
use onsale_schema::status::RefundStatus;
use onsale_schema::{RefundId, Timestamp};
use serde::{Deserialize, Serialize};
use store::{Row, Which};
use utoipa::{IntoParams, ToSchema};
use view::{TaskState, TaskView};

const ROUTE_RETRY: &str = "/api/v1/admin/tasks/{refundId}/retry";
const ROUTE_RESOLUTION: &str = "/api/v1/admin/tasks/{refundId}/resolution";
const ROUTE_COMPARISON: &str = "/api/v1/admin/tasks/{refundId}/comparison";

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Those that somebody has to see to (`OPEN`), or of which somebody says to have paid the money back
    /// by other means, and the gateway is yet to be asked (`RESOLVING`), or has said that it has not
    /// (`RESOLVED`, as is what somebody has compared or written off). Without it, those that are `OPEN` and `RESOLVING`.
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
/// look at the payment in the gateway's own pages. Money that went back twice (`REFUND_TWICE`) or has
/// perhaps (`REFUND_TO_COMPARE`): somebody has to compare, and to say so. And orders whose payment at the
/// gateway is not what was ordered (`ORDER_ODD`), which end by themselves when that is put right there, or
/// by a write-off.
/// What has been a task for longest comes first.
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
        id: row.id,
    };
    answer::ok(&start.page(rows, cursor, TaskView::from))
}

/// Try a refund again
///
/// Has the gateway asked again, as often as at first. It is the same refund: the gateway is asked first
/// whether it has made it in the meantime, so that it is not made twice. What was given back of the payment
/// besides does not hold it up any more. As long as another refund of the
/// same payment is `REFUND_TWICE` or `REFUND_TO_COMPARE` it is refused (`refund-state-conflict`): perhaps it
/// was this one that was paid.
#[utoipa::path(post, path = "/admin/tasks/{refundId}/retry", operation_id = "retryTask",
    tag = "Administration",
    params(("refundId" = RefundId, Path, description = "The refund"), IdempotencyKey, Prefer),
    extensions(("x-problems" = json!([Code::RefundStateConflict]))),
    responses((status = 200, description = "It is on its way", body = AttendedView)))]
pub async fn retry(
    State(app): State<App>,
    Id(refund_id): Id<RefundId>,
    wish: Wish,
) -> Result<Response, Problem> {
    let path = ROUTE_RETRY.replace("{refundId}", &refund_id.to_string());
    let kind = Kind::RetryRefund { refund_id };
    wish.submit(&app, &path, &(), kind).await
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
pub async fn resolve(
    State(app): State<App>,
    Id(refund_id): Id<RefundId>,
    wish: Wish,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewResolution = body.parse()?;
    let path = ROUTE_RESOLUTION.replace("{refundId}", &refund_id.to_string());
    let kind = Kind::ResolveRefund {
        refund_id,
        note: wanted.note.clone(),
    };
    wish.say(&app, &path, (&wanted, &wanted.note), kind).await
}

/// What came of comparing.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewComparison {
    /// What was found, and done about it, for whoever asks later; without line breaks.
    #[schema(
        min_length = 1,
        max_length = 500,
        example = "The resolution means what was given back in the gateway's pages"
    )]
    note: String,
}

/// Say that what was paid back has been compared
///
/// For a refund that went back twice (`REFUND_TWICE`), or has perhaps (`REFUND_TO_COMPARE`). Look at all that
/// went back of its order, in the gateway's own pages and by other means, and see that each refund of it was
/// paid once; then say what was found and done. That closes the task: who has, when, and the note are kept.
/// Nothing is paid by it, and it can't be taken back.
#[utoipa::path(post, path = "/admin/tasks/{refundId}/comparison", operation_id = "compareTask",
    tag = "Administration",
    params(("refundId" = RefundId, Path, description = "The refund"), IdempotencyKey, Prefer),
    request_body = NewComparison,
    extensions(("x-problems" = json!([Code::RefundStateConflict]))),
    responses((status = 200, description = "It is noted", body = AttendedView)))]
pub async fn compare(
    State(app): State<App>,
    Id(refund_id): Id<RefundId>,
    wish: Wish,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewComparison = body.parse()?;
    let path = ROUTE_COMPARISON.replace("{refundId}", &refund_id.to_string());
    let kind = Kind::CompareRefund {
        refund_id,
        note: wanted.note.clone(),
    };
    wish.say(&app, &path, (&wanted, &wanted.note), kind).await
}

/// Whether a note says something, in one line.
fn check_note(note: &str) -> Result<(), Problem> {
    let is_note = NOTE_CHARS.contains(&note.chars().count())
        && !note.trim().is_empty()
        && !note.chars().any(char::is_control);
    if is_note {
        return Ok(());
    }
    let error = FieldError::at("/note", "invalid-value");
    Err(Problem::validation(vec![error]))
}

/// Somebody wants something done about a refund, or an order.
pub struct Wish {
    user: User,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
}

impl<S: Send + Sync> FromRequestParts<S> for Wish {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Ok(prefer) = Prefer::from_request_parts(parts, state).await;
        let Ok(trace) = TraceParent::from_request_parts(parts, state).await;
        Ok(Self {
            user: User::from_request_parts(parts, state).await?,
            key: IdempotencyKey::from_request_parts(parts, state).await?,
            prefer,
            trace,
        })
    }
}

impl Wish {
    /// Asks for what is said in words: a body, and the note in it.
    async fn say(
        self,
        app: &App,
        path: &str,
        (body, note): (&impl Serialize, &str),
        kind: Kind,
    ) -> Result<Response, Problem> {
        check_note(note)?;
        self.submit(app, path, body, kind).await
    }

    async fn submit(
        self,
        app: &App,
        path: &str,
        body: &impl Serialize,
        kind: Kind,
    ) -> Result<Response, Problem> {
        let submission = Submission {
            id: self.key.command(self.user.id, path),
            user: self.user.id,
            asker: self.user.id,
            fingerprint: fingerprint(path, body),
            in_flight: app.gate.admit_payment()?,
            prefer: self.prefer,
            trace: self.trace,
            kind,
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
        Outcome::WrittenOff(done) => write_off::written_off(done),
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
