//! Payments of reservations.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, Query};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::orders::{self, Decided};
use crate::page::{Cursor, Page, PageQuery, PageStart};
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::Response;
use diesel::prelude::Queryable;
use diesel::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_schema::settlement::{Kind, Outcome};
use onsale_schema::status::{PaymentMethod, PaymentStatus};
use onsale_schema::tables::payment::{self as table, dsl};
use onsale_schema::{Money, PaymentId, PaymentOrderId, ReservationId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where reservations are paid.
pub const ROUTE: &str = "/api/v1/payments";

/// How a reservation is paid at once; through the gateway it is by an order.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
enum DirectMethod {
    /// With points.
    #[serde(rename = "POINTS")]
    Points,
}

impl From<DirectMethod> for PaymentMethod {
    fn from(method: DirectMethod) -> Self {
        match method {
            DirectMethod::Points => Self::Points,
        }
    }
}

/// A reservation to be paid, and how.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPayment {
    reservation_id: ReservationId,
    method: DirectMethod,
}

/// A payment, also a failed one.
#[derive(Serialize, ToSchema)]
#[schema(as = Payment)]
#[serde(rename_all = "camelCase")]
pub struct PaymentView {
    payment_id: PaymentId,
    reservation_id: ReservationId,
    method: PaymentMethod,
    /// Of one through the gateway: the order that it paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order_id: Option<PaymentOrderId>,
    amount: Money,
    /// What of it came back, or is on its way.
    refunded: Money,
    status: PaymentStatus,
    /// Of a paid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    paid_at: Option<Timestamp>,
    /// Of a failed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failed_at: Option<Timestamp>,
    /// Of a failed one: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fail_code: Option<String>,
}

/// Pay a reservation with points
///
/// Sells the seats of a hold that has not lapsed.
#[utoipa::path(post, path = "/payments", operation_id = "createPayment", tag = "Payments",
    params(IdempotencyKey, Prefer), request_body = NewPayment,
    extensions(("x-problems" = json!([Code::NotFound, Code::AlreadyPaid, Code::HoldExpired, Code::PaymentInProgress,
        Code::ReservationStateConflict, Code::InsufficientPoints, Code::SaleClosed]))),
    responses((status = 201, description = "Paid", body = PaymentView,
        headers(("Location" = String, description = "The payment")))))]
pub async fn create(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewPayment = body.parse()?;
    let in_flight = app.gate.admit_payment()?;
    let submission = Submission {
        id: key.command(user.id, ROUTE),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE, &wanted),
        in_flight,
        prefer,
        trace,
        kind: Kind::Pay {
            payment_id: PaymentId(ids::new_v7(app.clock.now())),
            reservation_id: wanted.reservation_id,
            method: wanted.method.into(),
        },
        asked: Asked::Payment,
        partition: None,
    };
    submit(
        &app,
        &app.batchers.settlement,
        submission,
        async |outcome| paid(outcome)?.at_once(),
    )
    .await
}

/// What a decided payment is answered with.
///
/// # Errors
/// The refusal, as a problem.
pub fn paid(outcome: &Outcome) -> Result<Decided, Problem> {
    let answer = match outcome {
        Outcome::Paid(payment) => Answer::created(
            Some(format!("{ROUTE}/{}", payment.payment_id)),
            &PaymentView {
                payment_id: payment.payment_id,
                reservation_id: payment.reservation_id,
                method: PaymentMethod::Points,
                order_id: None,
                amount: payment.amount,
                refunded: Money::ZERO,
                status: PaymentStatus::Paid,
                paid_at: Some(payment.paid_at),
                failed_at: None,
                fail_code: None,
            },
        )?,
        Outcome::Ordered(order) => orders::ordered(order)?,
        Outcome::Confirmed(order) => return Ok(Decided::Order(order.order_id)),
        Outcome::Noted => Answer::done(),
        Outcome::Cancelled(_) | Outcome::Attended(_) | Outcome::WrittenOff(_) => {
            tracing::error!("a command was answered as another kind");
            return Err(Problem::internal());
        }
        Outcome::Refused(refusal) => return Err(refusal.into()),
        Outcome::DeadLettered => return Err(Problem::unavailable()),
    };
    Ok(Decided::Answer(answer))
}

#[derive(Queryable)]
struct Row {
    payment_id: PaymentId,
    reservation_id: ReservationId,
    method: PaymentMethod,
    amount: Money,
    status: PaymentStatus,
    fail_code: Option<String>,
    at: Timestamp,
    refunded: Money,
    order_id: Option<PaymentOrderId>,
}

type Columns = (
    table::payment_id,
    table::reservation_id,
    table::method,
    table::amount,
    table::status,
    table::fail_code,
    table::at,
    table::refunded,
    table::order_id,
);
const COLUMNS: Columns = (
    table::payment_id,
    table::reservation_id,
    table::method,
    table::amount,
    table::status,
    table::fail_code,
    table::at,
    table::refunded,
    table::order_id,
);

impl From<Row> for PaymentView {
    fn from(row: Row) -> Self {
        let at = |status| (row.status == status).then_some(row.at);
        Self {
            paid_at: at(PaymentStatus::Paid),
            failed_at: at(PaymentStatus::Failed),
            payment_id: row.payment_id,
            reservation_id: row.reservation_id,
            method: row.method,
            order_id: row.order_id,
            amount: row.amount,
            refunded: row.refunded,
            status: row.status,
            fail_code: row.fail_code,
        }
    }
}

/// One of my payments
#[utoipa::path(get, path = "/payments/{paymentId}", operation_id = "getPayment", tag = "Payments",
    params(("paymentId" = PaymentId, Path, description = "The payment")),
    responses((status = 200, description = "The payment", body = PaymentView)))]
pub async fn get(
    State(app): State<App>,
    user: User,
    Id(id): Id<PaymentId>,
) -> Result<Response, Problem> {
    let row = payment_find(&app.pool, user.id, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    answer::ok(&PaymentView::from(row))
}

/// My payments
///
/// Also failed ones, the newest first.
#[utoipa::path(get, path = "/payments", operation_id = "listPayments", tag = "Payments",
    params(PageQuery),
    responses((status = 200, description = "A page", body = Page<PaymentView>)))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    let rows = payment_list(&app.pool, user.id, &start).await?;
    let cursor = |row: &Row| Cursor {
        key: row.at.micros(),
        id: row.payment_id.0,
    };
    answer::ok(&start.page(rows, cursor, PaymentView::from))
}

/// The payment that an order has come to.
///
/// # Errors
/// When Postgres fails.
pub async fn of_order(
    pool: &Pool,
    reservation: ReservationId,
    order: PaymentOrderId,
) -> Result<Option<PaymentView>, db::Error> {
    let mut conn = pool.get().await?;
    let row: Option<Row> = dsl::payment
        .filter(dsl::reservation_id.eq(reservation))
        .filter(dsl::status.eq(PaymentStatus::Paid))
        .filter(dsl::order_id.eq(order))
        .select(COLUMNS)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row.map(PaymentView::from))
}

async fn payment_find(pool: &Pool, user: UserId, id: PaymentId) -> Result<Option<Row>, db::Error> {
    let mut conn = pool.get().await?;
    let row = dsl::payment
        .find(id)
        .filter(dsl::user_id.eq(user))
        .select(COLUMNS)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// A user's payments, the newest first.
async fn payment_list(pool: &Pool, user: UserId, start: &PageStart) -> Result<Vec<Row>, db::Error> {
    let mut query = dsl::payment
        .filter(dsl::user_id.eq(user))
        .select(COLUMNS)
        .order((dsl::at.desc(), dsl::payment_id.desc()))
        .limit(start.rows())
        .into_boxed();
    if let Some(after) = start.after {
        let same_time = dsl::at.eq(after.at()).and(dsl::payment_id.lt(after.id));
        query = query.filter(dsl::at.lt(after.at()).or(same_time));
    }
    let mut conn = pool.get().await?;
    Ok(query.load(&mut conn).await?)
}
