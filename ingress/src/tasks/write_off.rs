//! What went back of a sold payment at the gateway apart from its refunds, and is to stay so.

use super::Wish;
use crate::answer::{self, Answer};
use crate::app::App;
use crate::extract::{Id, JsonBody};
use crate::idempotency::IdempotencyKey;
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::settlement::{Kind, WrittenOff};
use onsale_schema::{Money, PaymentOrderId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/admin/tasks/orders/{orderId}/write-off";

/// What is to be written off.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewWriteOff {
    /// What went back at the gateway apart from the order's refunds, each amount as the gateway has it: in
    /// place of what was written off before, so that none takes that back.
    #[schema(max_items = 100)]
    amounts: Vec<Money>,
    /// Why, for whoever asks later; without line breaks.
    #[schema(
        min_length = 1,
        max_length = 500,
        example = "Chargeback of the buyer's bank, case 4711"
    )]
    note: String,
}

/// Write off what went back of a sold order
///
/// For an order that is sold, or was (`PAID`, `REFUNDING`, `REFUNDED`), of which money went back at the gateway
/// without us, by the buyer's bank for one, when that is to stay so (`ORDER_ODD`). Nothing is paid by it, and
/// nothing of the sale changes; no refund of the order is taken for it. The payment is looked up at once, a
/// moment later as a rule: if what the gateway has given back is this and the order's refunds, the task ends; if
/// not, it stays. Who has written it off, when, and the note are kept. More than was captured is refused
/// (`amount-mismatch`).
#[utoipa::path(post, path = "/admin/tasks/orders/{orderId}/write-off", operation_id = "writeOffOrder",
    tag = "Administration",
    params(("orderId" = PaymentOrderId, Path, description = "The order"), IdempotencyKey, Prefer),
    request_body = NewWriteOff,
    extensions(("x-problems" = json!([Code::OrderStateConflict, Code::AmountMismatch]))),
    responses((status = 200, description = "It is noted", body = WrittenOffView)))]
pub async fn write_off(
    State(app): State<App>,
    Id(order_id): Id<PaymentOrderId>,
    wish: Wish,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewWriteOff = body.parse()?;
    let path = ROUTE.replace("{orderId}", &order_id.to_string());
    let kind = Kind::WriteOff {
        order_id,
        amounts: wanted.amounts.clone(),
        note: wanted.note.clone(),
    };
    wish.say(&app, &path, (&wanted, &wanted.note), kind).await
}

/// What is written off of an order.
#[derive(Serialize, ToSchema)]
#[schema(as = WrittenOff)]
#[serde(rename_all = "camelCase")]
pub struct WrittenOffView {
    order_id: PaymentOrderId,
    amounts: Vec<Money>,
    at: Timestamp,
}

pub(super) fn written_off(done: &WrittenOff) -> Result<Answer, Problem> {
    Ok(Answer {
        status: StatusCode::OK,
        location: None,
        json: answer::to_json(&WrittenOffView {
            order_id: done.order_id,
            amounts: done.amounts.clone(),
            at: done.at,
        })?,
    })
}
