//! Payments through the gateway: an order is made, the buyer agrees to it at the gateway, and a
//! confirmation has it captured. The gateway is never asked here.

mod end;

pub use end::{Decided, OrderView, patience};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::order_ends::order_find;
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::Response;
use onsale_schema::settlement::{self, Kind};
use onsale_schema::{Money, PaymentOrderId, ReservationId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/payment-orders";
const CONFIRM: &str = "/api/v1/payment-orders/{orderId}/confirm";
/// The most characters of what the gateway calls a payment.
const KEY_CHARS_MAX: usize = 200;

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

/// Order a reservation
///
/// The buyer agrees to it at the payment gateway, by its id, and then it is confirmed here. A
/// reservation has one order that is `READY`: who asks for another, is told of that one.
#[utoipa::path(post, path = "/payment-orders", operation_id = "createPaymentOrder",
    tag = "Payments", params(IdempotencyKey, Prefer), request_body = NewOrder,
    extensions(("x-problems" = json!([Code::NotFound, Code::AlreadyPaid, Code::HoldExpired,
        Code::ReservationStateConflict, Code::PaymentInProgress, Code::AmountInvalid,
        Code::SaleClosed, Code::GatewayNotConfigured]))),
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
    let decided = async |outcome: &_| crate::payments::paid(outcome)?.at_once();
    submit(&app, &app.batchers.settlement, submission, decided).await
}

/// An order that may be confirmed.
#[derive(Serialize, ToSchema)]
#[schema(as = NewPaymentOrder)]
#[serde(rename_all = "camelCase")]
pub struct OrderMade {
    order_id: PaymentOrderId,
    reservation_id: ReservationId,
    amount: Money,
    status: MadeStatus,
}

/// It may be confirmed.
#[derive(Serialize, ToSchema)]
enum MadeStatus {
    #[serde(rename = "READY")]
    Ready,
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
            status: MadeStatus::Ready,
        },
    )
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
        Code::PaymentGatewayUnavailable, Code::SaleClosed, Code::GatewayNotConfigured]))),
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
    let until = Instant::now() + patience(&app, prefer);
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
    let decided = async |outcome: &_| crate::payments::paid(outcome)?.told(&app, until).await;
    submit(&app, &app.batchers.settlement, submission, decided).await
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
    let order = order_find(&app.pool, id).await?;
    let order = order.filter(|order| order.user_id == user.id);
    let order = order.ok_or_else(|| Problem::new(Code::NotFound))?;
    answer::ok(&OrderView::load(&app.pool, order).await?)
}
