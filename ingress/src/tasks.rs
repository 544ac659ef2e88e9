//! Tasks for people: refunds that the payment gateway would not make, or of which nobody can tell
//! whether it has made them; money that went back twice, or has perhaps; and orders whose payment is not
//! what was ordered. They are shown here; what somebody does about one is decided by settlement, which
//! alone writes refunds and orders.

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
use onsale_schema::settlement::{Kind, NOTE_CHARS, Outcome};
use onsale_schema::status::{OrderStatus, RefundCompare, RefundStatus};
use onsale_schema::{
    CancellationId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp, UserId,
};
use serde::{Deserialize, Serialize};
use store::{Row, Which};
use utoipa::{IntoParams, ToSchema};

const ROUTE_RETRY: &str = "/api/v1/admin/tasks/{refundId}/retry";
const ROUTE_RESOLUTION: &str = "/api/v1/admin/tasks/{refundId}/resolution";
const ROUTE_COMPARISON: &str = "/api/v1/admin/tasks/{refundId}/comparison";

/// What is to be done.
///
/// - `REFUND_STUCK`: The gateway would not make a refund; or it was not asked, as something was given back
///   of the payment that is no refund of ours (`lastError` says so). Look in the gateway's own pages what
///   that was for: where it was for this, say so (`…/resolution`), and else have it tried again
///   (`…/retry`), which asks for it all the same.
/// - `REFUND_IN_DOUBT`: A refund has been on its way for a day, and perhaps the gateway has made it. It
///   can neither be tried again nor be paid back by other means before that is known.
/// - `REFUND_TWICE`: The gateway has made a refund that somebody has paid back by other means as well: the
///   money went back twice. See that one of both comes back, or is written off, and say so
///   (`…/comparison`).
/// - `REFUND_TO_COMPARE`: As much was given back in the gateway's own pages as somebody says to have paid
///   by other means, or as a refund that nobody has told of: it was taken for that. If that is one and the same, say so (`…/comparison`); if not, see first that each
///   refund of the payment was paid once.
/// - `ORDER_ODD`: The gateway has captured money that is not what was ordered, or has given some of it back
///   without us. Put it right in the gateway's own pages, as a rule by giving all of it back; the order is
///   looked up again every ten minutes, and the task ends by itself.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
enum TaskKind {
    /// The gateway would not make a refund, or something else was given back of the payment.
    #[serde(rename = "REFUND_STUCK")]
    RefundStuck,
    /// The refund has been on its way for a day: as a rule, nobody can tell whether the gateway has made
    /// it. It can neither be tried again nor be paid back by other means before that is known; look the
    /// payment up in the gateway's own pages.
    #[serde(rename = "REFUND_IN_DOUBT")]
    RefundInDoubt,
    /// The gateway has made a refund that somebody has paid back by other means as well.
    #[serde(rename = "REFUND_TWICE")]
    RefundTwice,
    /// What was given back in the gateway's own pages may be what somebody says to have paid by other
    /// means, or the refund itself, or not.
    #[serde(rename = "REFUND_TO_COMPARE")]
    RefundToCompare,
    /// The gateway's payment is not what was ordered.
    #[serde(rename = "ORDER_ODD")]
    OrderOdd,
}

/// Whether somebody has to see to it.
///
/// - `OPEN`: Somebody has to.
/// - `RESOLVING`: Somebody says to have paid the money back by other means; it does not count yet.
///   Don't pay it back again.
/// - `RESOLVED`: Somebody has paid the money back by other means, or has compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum TaskState {
    /// Somebody has to.
    Open,
    /// Somebody says to have paid the money back by other means, and the gateway is yet to say that it
    /// has not made the refund, too. Don't pay it back again.
    Resolving,
    /// Somebody has paid the money back by other means, or has compared what was paid.
    Resolved,
}

/// Something for a person to see to: money that is owed, and that the gateway would not give back, or
/// has perhaps; money that went back twice, or has perhaps; or a payment that is not what was ordered.
#[derive(Serialize, ToSchema)]
#[schema(as = Task)]
#[serde(rename_all = "camelCase")]
struct TaskView {
    /// The refund; left out where it is no refund's (`ORDER_ODD`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refund_id: Option<RefundId>,
    kind: TaskKind,
    state: TaskState,
    /// Since when it is a task; of what was paid back by other means, since when that counts, and of what
    /// was compared, since when it is.
    since: Timestamp,
    /// The payment's order, by which the gateway knows it, too.
    order_id: PaymentOrderId,
    order_status: OrderStatus,
    /// What we take as captured of the order; of one that is odd, that need not be what the gateway has.
    captured: Money,
    /// What we take as given back of it.
    refunded: Money,
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
    /// Of the refund; of an order that is odd, what was ordered.
    amount: Money,
    /// Since when it is owed; left out where nothing is (`ORDER_ODD`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    owed_since: Option<Timestamp>,
    /// How often the gateway was asked, since somebody last had it tried again, or since it last said
    /// something new about the order.
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
    /// Who has compared what the gateway has given back with what was paid by other means.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    compared_by: Option<UserId>,
    /// What was found then, and done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    finding: Option<String>,
}

/// What a row is a task for.
fn kind(row: &Row) -> TaskKind {
    match (row.compare, row.status) {
        (Some(RefundCompare::Twice), _) => TaskKind::RefundTwice,
        (Some(RefundCompare::ByHand), _) => TaskKind::RefundToCompare,
        (None, Some(RefundStatus::Pending)) => TaskKind::RefundInDoubt,
        (
            None,
            Some(
                RefundStatus::Stuck
                | RefundStatus::Resolving
                | RefundStatus::Resolved
                | RefundStatus::Done,
            ),
        ) => TaskKind::RefundStuck,
        (None, None) => TaskKind::OrderOdd,
    }
}

fn state(row: &Row) -> TaskState {
    match (row.compare, row.status) {
        (Some(RefundCompare::Twice | RefundCompare::ByHand), _) if row.is_compared => {
            TaskState::Resolved
        }
        (Some(RefundCompare::Twice | RefundCompare::ByHand), _) => TaskState::Open,
        (None, Some(RefundStatus::Resolved)) => TaskState::Resolved,
        (None, Some(RefundStatus::Resolving)) => TaskState::Resolving,
        // What is done is nobody's task, and is not read.
        (None, Some(RefundStatus::Stuck | RefundStatus::Pending | RefundStatus::Done) | None) => {
            TaskState::Open
        }
    }
}

impl From<Row> for TaskView {
    fn from(row: Row) -> Self {
        Self {
            refund_id: row.refund_id,
            kind: kind(&row),
            state: state(&row),
            since: row.since,
            order_id: row.order_id,
            order_status: row.order_status,
            captured: row.captured,
            refunded: row.refunded,
            reservation_id: row.reservation_id,
            cancellation_id: row.cancellation_id,
            user_id: row.user_id,
            amount: row.amount,
            owed_since: row.owed_since,
            attempts: row.attempts,
            last_error: row.last_error,
            retries: row.retries,
            retried_at: row.retried_at,
            retried_by: row.retried_by,
            resolved_by: row.resolved_by,
            note: row.note,
            compared_by: row.compared_by,
            finding: row.finding,
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
    /// (`RESOLVED`, as is what somebody has compared). Without it, those that are `OPEN` and `RESOLVING`.
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
/// gateway is not what was ordered (`ORDER_ODD`), which end by themselves when that is put right there.
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
    user: User,
    Id(refund_id): Id<RefundId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
) -> Result<Response, Problem> {
    let wish = Wish {
        route: ROUTE_RETRY,
        refund_id,
        user,
        key,
        prefer,
        trace,
    };
    let kind = Kind::RetryRefund { refund_id };
    wish.submit(&app, &(), kind).await
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
    let wish = Wish {
        route: ROUTE_RESOLUTION,
        refund_id,
        user,
        key,
        prefer,
        trace,
    };
    let kind = Kind::ResolveRefund {
        refund_id,
        note: wanted.note.clone(),
    };
    wish.say(&app, &wanted, &wanted.note, kind).await
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
#[allow(
    clippy::too_many_arguments,
    reason = "each is a part of the request, and the framework takes them apart"
)]
pub async fn compare(
    State(app): State<App>,
    user: User,
    Id(refund_id): Id<RefundId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewComparison = body.parse()?;
    let wish = Wish {
        route: ROUTE_COMPARISON,
        refund_id,
        user,
        key,
        prefer,
        trace,
    };
    let kind = Kind::CompareRefund {
        refund_id,
        note: wanted.note.clone(),
    };
    wish.say(&app, &wanted, &wanted.note, kind).await
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

/// Somebody wants something done about a refund.
struct Wish {
    route: &'static str,
    refund_id: RefundId,
    user: User,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
}

impl Wish {
    /// Asks for what is said in words.
    async fn say(
        self,
        app: &App,
        body: &impl Serialize,
        note: &str,
        kind: Kind,
    ) -> Result<Response, Problem> {
        check_note(note)?;
        self.submit(app, body, kind).await
    }

    async fn submit(
        self,
        app: &App,
        body: &impl Serialize,
        kind: Kind,
    ) -> Result<Response, Problem> {
        let path = (self.route).replace("{refundId}", &self.refund_id.to_string());
        let submission = Submission {
            id: self.key.command(self.user.id, &path),
            user: self.user.id,
            asker: self.user.id,
            fingerprint: fingerprint(&path, body),
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
