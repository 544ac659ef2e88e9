//! What the payment gateway tells by itself. Of a notification that is really by the gateway nothing
//! is believed but which order it is about: that is looked up, and what the gateway says then counts.
//! So late, repeated and reordered ones are harmless.

use crate::answer::Answer;
use crate::app::App;
use crate::extract::RawBody;
use crate::ids;
use crate::orders::Decided;
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use onsale_platform::webhook::{self, Headers};
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::{Kind, Outcome, Refusal};
use onsale_schema::{CommandId, PaymentOrderId, UserId};
use serde::Deserialize;
use uuid::Uuid;

/// What a payment's change is called.
const CHANGED: &str = "PAYMENT_STATUS_CHANGED";
/// The most characters of a notification's id.
const ID_CHARS_MAX: usize = 200;

/// What is read of a notification; the gateway may say more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_type: String,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    /// None of ours, if it is no UUID.
    #[serde(default)]
    order_id: String,
    #[serde(default)]
    status: String,
}

impl Data {
    /// Whether it says that money was captured, and is not all given back. That is not believed either,
    /// but heard where nobody knows the order.
    fn is_captured(&self) -> bool {
        ["DONE", "PARTIAL_CANCELED"].contains(&self.status.as_str())
    }

    /// Whether there is more to look for than what is captured, of an order that is known to be: each
    /// sale has a notification that says so.
    fn may_be_back(&self) -> bool {
        self.status != "DONE"
    }
}

/// A notification of the payment gateway
///
/// Signed by Standard Webhooks. Kinds that are not known have no effect.
#[utoipa::path(post, path = "/webhooks/payments", operation_id = "takePaymentNotification",
    tag = "Payments", request_body = Object,
    extensions(("x-problems" = json!([Code::WebhookSignatureInvalid, Code::Overloaded]))),
    responses((status = 204, description = "Taken")))]
pub async fn take(
    State(app): State<App>,
    headers: HeaderMap,
    trace: TraceParent,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let event_id = verified(&app, &headers, &body)?;
    let taken = || StatusCode::NO_CONTENT.into_response();
    let Ok(event) = serde_json::from_slice::<Event>(&body) else {
        // Signed, and nothing that we know; sent again it would be the same.
        return Ok(taken());
    };
    let order = Uuid::parse_str(&event.data.order_id);
    let (CHANGED, Ok(order)) = (event.event_type.as_str(), order) else {
        return Ok(taken());
    };
    let nobody = UserId(Uuid::nil());
    let submission = Submission {
        id: CommandId(ids::new_v7(app.clock.now())),
        user: nobody,
        asker: nobody,
        fingerprint: Fingerprint(Uuid::nil()),
        in_flight: app.gate.admit_payment()?,
        prefer: Prefer::default(),
        trace,
        kind: Kind::GatewayEvent {
            event_id,
            order_id: PaymentOrderId(order),
            is_captured: event.data.is_captured(),
            may_be_back: event.data.may_be_back(),
        },
        asked: Asked::Payment,
        partition: None,
    };
    let decided = async |outcome: &_| noted(PaymentOrderId(order), outcome)?.at_once();
    let answer = submit(&app, &app.batchers.settlement, submission, decided).await?;
    // What is not decided for sure has to be sent again.
    if answer.status() == StatusCode::NO_CONTENT {
        Ok(answer)
    } else {
        Err(Problem::unavailable())
    }
}

/// A notification is taken when it is decided, whatever that was; the gateway need not send it again.
/// Without an order that we know there is nothing to look up: somebody has to hear of it.
fn noted(order: PaymentOrderId, outcome: &Outcome) -> Result<Decided, Problem> {
    match outcome {
        Outcome::Refused(Refusal::NotFound) => {
            tracing::warn!(%order, "the gateway tells of an order that nobody knows");
        }
        // It is kept, and a dead letter is somebody's to see to.
        Outcome::DeadLettered => {
            tracing::error!(%order, "a notification of the gateway is a dead letter");
        }
        decided => return crate::payments::paid(decided),
    }
    Ok(Decided::Answer(Answer::done()))
}

/// The id of a notification that is by the gateway. Why one is not, is not said.
fn verified(app: &App, headers: &HeaderMap, body: &[u8]) -> Result<String, Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let invalid = || Problem::new(Code::WebhookSignatureInvalid);
    let signed = Headers {
        id: text(webhook::ID).ok_or_else(invalid)?,
        timestamp: text(webhook::TIMESTAMP).ok_or_else(invalid)?,
        signature: text(webhook::SIGNATURE).ok_or_else(invalid)?,
    };
    let now_s = u64::try_from(app.clock.now().micros() / 1_000_000).unwrap_or_default();
    let settings = &app.notifications;
    let by = webhook::verify(
        settings.secrets(),
        signed,
        body,
        now_s,
        settings.tolerance_s,
    );
    by.map_err(|error| {
        tracing::debug!(%error, "a notification is not believed");
        invalid()
    })?;
    if signed.id.len() > ID_CHARS_MAX {
        return Err(invalid());
    }
    Ok(signed.id.to_owned())
}
