//! Payments through the gateway: an order is made, the buyer agrees to it at the gateway, and a
//! confirmation has it captured. The gateway is never asked here.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::submit::{Submission, open_at, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use diesel::prelude::Queryable;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_schema::settlement::{self, Kind};
use onsale_schema::status::OrderStatus;
use onsale_schema::tables::payment_order::{self as table, dsl};
use onsale_schema::{Money, PaymentOrderId, ReservationId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/payment-orders";
const CONFIRM: &str = "/api/v1/payment-orders/{orderId}/confirm";
/// The most characters of what the gateway calls a payment.
const KEY_CHARS_MAX: usize = 200;
/// The first pause between two looks at an order that is on its way.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// A reservation to be paid through the gateway.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewOrder {
    reservation_id: ReservationId,
}

/// What the buyer agreed to at the gateway.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Confirmation {
    /// What the gateway calls the payment.
    #[schema(min_length = 1, max_length = 200)]
    payment_key: String,
    amount: Money,
}

/// What a confirmation is known by: the same body for another order is another one.
#[derive(Serialize)]
struct Confirmed<'a> {
    order_id: PaymentOrderId,
    confirmation: &'a Confirmation,
}

/// A payment through the gateway, and how far it is.
#[derive(Serialize, ToSchema)]
#[schema(as = PaymentOrder)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    order_id: PaymentOrderId,
    reservation_id: ReservationId,
    amount: Money,
    status: OrderStatus,
    /// The reservation that was paid, if not the one that was ordered: the hold had lapsed, and its
    /// seats were free.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    paid_reservation_id: Option<ReservationId>,
    /// Why it was not paid, or why the money goes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fail_code: Option<String>,
    /// What came back.
    refunded: Money,
    created_at: Timestamp,
}

/// Order a reservation
///
/// The buyer agrees to it at the payment gateway, by its id, and then it is confirmed here.
#[utoipa::path(post, path = "/payment-orders", operation_id = "createPaymentOrder",
    tag = "Payments", params(IdempotencyKey, Prefer), request_body = NewOrder,
    extensions(("x-problems" = json!([Code::NotFound, Code::AlreadyPaid, Code::HoldExpired,
        Code::ReservationStateConflict, Code::PaymentInProgress, Code::AmountInvalid,
        Code::SaleClosed]))),
    responses((status = 201, description = "Ordered", body = OrderMade,
        headers(("Location" = String, description = "The order")))))]
pub async fn create(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewOrder = body.parse()?;
    let submission = Submission {
        id: key.command(user.id, ROUTE),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE, &wanted),
        in_flight: app.gate.admit_payment()?,
        prefer,
        trace,
        kind: Kind::Order {
            order_id: PaymentOrderId(ids::new_v7(app.clock.now())),
            reservation_id: wanted.reservation_id,
        },
        asked: Asked::Payment,
        partition: None,
    };
    let decided = async |outcome: &_| crate::payments::paid(outcome, app.clock.now());
    submit(&app, &app.batchers.settlement, submission, decided).await
}

/// An order that may be confirmed.
#[derive(Serialize, ToSchema)]
#[schema(as = NewPaymentOrder)]
#[serde(rename_all = "camelCase")]
struct OrderMade {
    order_id: PaymentOrderId,
    reservation_id: ReservationId,
    amount: Money,
    status: OrderStatus,
}

/// 201: the order is there.
///
/// # Errors
/// Never in practice; see [`answer::to_json`].
pub fn ordered(order: &settlement::Order) -> Result<Answer, Problem> {
    let location = format!("{ROUTE}/{}", order.order_id);
    Answer::created(
        Some(location),
        &OrderMade {
            order_id: order.order_id,
            reservation_id: order.reservation_id,
            amount: order.amount,
            status: OrderStatus::Ready,
        },
    )
}

/// 202: it is being captured; how far that is, is at the order.
///
/// # Errors
/// Never in practice; see [`answer::to_json`].
pub fn open(order: &settlement::Order, now: Timestamp) -> Result<Answer, Problem> {
    open_at(format!("{ROUTE}/{}", order.order_id), now)
}

/// Confirm an order
///
/// Has what the buyer agreed to captured, and sells the seats. When that has not ended in time, the
/// answer is 202, and the order says how it ends.
#[utoipa::path(post, path = "/payment-orders/{orderId}/confirm",
    operation_id = "confirmPaymentOrder", tag = "Payments",
    params(("orderId" = PaymentOrderId, Path, description = "The order"), IdempotencyKey, Prefer),
    request_body = Confirmation,
    extensions(("x-problems" = json!([Code::NotFound, Code::AlreadyPaid, Code::HoldExpired,
        Code::ReservationStateConflict, Code::PaymentInProgress, Code::AmountMismatch,
        Code::OrderStateConflict, Code::PaymentKeyUsed, Code::PaymentDeclined,
        Code::PaymentGatewayUnavailable, Code::SaleClosed]))),
    responses((status = 200, description = "Paid", body = OrderView)))]
pub async fn confirm(
    State(app): State<App>,
    user: User,
    Id(order_id): Id<PaymentOrderId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: Confirmation = body.parse()?;
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte);
    let length = wanted.payment_key.len();
    if !(1..=KEY_CHARS_MAX).contains(&length) || !wanted.payment_key.bytes().all(is_key) {
        let errors = vec![FieldError::at("/paymentKey", "invalid-value")];
        return Err(Problem::validation(errors));
    }
    let confirmed = Confirmed {
        order_id,
        confirmation: &wanted,
    };
    let started = tokio::time::Instant::now();
    let submission = Submission {
        id: key.command(user.id, CONFIRM),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(CONFIRM, &confirmed),
        in_flight: app.gate.admit_payment()?,
        prefer,
        trace,
        kind: Kind::Confirm {
            order_id,
            payment_key: wanted.payment_key,
            amount: wanted.amount,
        },
        asked: Asked::Payment,
        partition: None,
    };
    let most = app.flow.request_timeout();
    let patience = match prefer.wait {
        Some(wait) => wait.min(most),
        None if prefer.respond_async => Duration::ZERO,
        None => most,
    };
    let decided = async |outcome: &settlement::Outcome| match outcome {
        settlement::Outcome::Confirmed(order) => {
            let until = started + patience;
            match ended(&app.pool, user.id, order.order_id, until).await? {
                Some(row) => end(row),
                None => open(order, app.clock.now()),
            }
        }
        settlement::Outcome::Paid(_)
        | settlement::Outcome::Cancelled(_)
        | settlement::Outcome::Ordered(_)
        | settlement::Outcome::Noted
        | settlement::Outcome::Attended(_)
        | settlement::Outcome::Refused(_)
        | settlement::Outcome::DeadLettered => crate::payments::paid(outcome, app.clock.now()),
    };
    submit(&app, &app.batchers.settlement, submission, decided).await
}

/// The order once it has ended; none when it has not in time.
async fn ended(
    pool: &Pool,
    user: UserId,
    order_id: PaymentOrderId,
    until: tokio::time::Instant,
) -> Result<Option<Row>, Problem> {
    let mut pause = PAUSE_MIN;
    loop {
        let row = order_find(pool, user, order_id).await?;
        if let Some(row) = row.filter(|row| has_ended(row.status)) {
            return Ok(Some(row));
        }
        if tokio::time::Instant::now() + pause >= until {
            return Ok(None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether the buyer need not wait any longer.
fn has_ended(status: OrderStatus) -> bool {
    match status {
        OrderStatus::Paid
        | OrderStatus::Failed
        | OrderStatus::Refunding
        | OrderStatus::Refunded => true,
        OrderStatus::Ready
        | OrderStatus::Securing
        | OrderStatus::Capturing
        | OrderStatus::Unknown
        | OrderStatus::Captured
        | OrderStatus::Reholding => false,
    }
}

/// How it ended. Codes of failures are those of problems.
fn end(row: Row) -> Result<Answer, Problem> {
    if row.status == OrderStatus::Paid {
        return Ok(Answer {
            status: StatusCode::OK,
            location: None,
            json: answer::to_json(&OrderView::from(row))?,
        });
    }
    let codes = [
        Code::PaymentDeclined,
        Code::HoldExpired,
        Code::AlreadyPaid,
        Code::SaleClosed,
        Code::PaymentGatewayUnavailable,
    ];
    let why = row.fail_code.unwrap_or_default();
    let code = codes.into_iter().find(|code| code.as_str() == why);
    Err(code.map_or_else(Problem::internal, Problem::new))
}

/// One of my orders
#[utoipa::path(get, path = "/payment-orders/{orderId}", operation_id = "getPaymentOrder",
    tag = "Payments",
    params(("orderId" = PaymentOrderId, Path, description = "The order")),
    responses((status = 200, description = "The order", body = OrderView)))]
pub async fn get(
    State(app): State<App>,
    user: User,
    Id(id): Id<PaymentOrderId>,
) -> Result<Response, Problem> {
    let row = order_find(&app.pool, user.id, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    answer::ok(&OrderView::from(row))
}

#[derive(Queryable)]
struct Row {
    order_id: PaymentOrderId,
    reservation_id: ReservationId,
    amount: Money,
    status: OrderStatus,
    rehold_id: Option<ReservationId>,
    fail_code: Option<String>,
    refunded: Money,
    created_at: Timestamp,
}

impl From<Row> for OrderView {
    fn from(row: Row) -> Self {
        let is_paid = row.status == OrderStatus::Paid;
        Self {
            order_id: row.order_id,
            reservation_id: row.reservation_id,
            amount: row.amount,
            status: row.status,
            paid_reservation_id: row.rehold_id.filter(|_| is_paid),
            fail_code: row.fail_code,
            refunded: row.refunded,
            created_at: row.created_at,
        }
    }
}

async fn order_find(
    pool: &Pool,
    user: UserId,
    id: PaymentOrderId,
) -> Result<Option<Row>, db::Error> {
    let mut conn = pool.get().await?;
    let row = dsl::payment_order
        .find(id)
        .filter(dsl::user_id.eq(user))
        .select((
            table::order_id,
            table::reservation_id,
            table::amount,
            table::status,
            table::rehold_id,
            table::fail_code,
            table::refunded,
            table::created_at,
        ))
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}
