//! What the gateway answers when it does not do what it is asked.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An answer: remembered with its idempotency key, so it is data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    pub fn error(refusal: Refusal) -> Self {
        let (status, code, message) = refusal.parts();
        Self {
            status: status.as_u16(),
            body: json!({ "code": code, "message": message }),
        }
    }
}

/// All refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    UnauthorizedKey,
    InvalidRequest,
    NotFound,
    NotFoundPayment,
    SessionExpired,
    OrderMismatch,
    CustomerMismatch,
    AmountMismatch,
    AlreadyProcessed,
    DuplicatedOrder,
    CardDeclined,
    NotCancelable,
    NotCancelableAmount,
    AlreadyCanceled,
    KeyReused,
    KeyInvalid,
    Processing,
    Failed,
    Unavailable,
}

impl Refusal {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::UnauthorizedKey => (
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED_KEY",
                "The secret key is unknown.",
            ),
            Self::InvalidRequest => (bad, "INVALID_REQUEST", "The request is malformed."),
            Self::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND", "There is no such path."),
            Self::NotFoundPayment => (
                StatusCode::NOT_FOUND,
                "NOT_FOUND_PAYMENT",
                "There is no such payment.",
            ),
            Self::SessionExpired => (
                StatusCode::NOT_FOUND,
                "NOT_FOUND_PAYMENT_SESSION",
                "The payment was not confirmed in time.",
            ),
            Self::OrderMismatch => (bad, "ORDER_MISMATCH", "The payment is for another order."),
            Self::CustomerMismatch => (
                bad,
                "NOT_MATCHES_CUSTOMER_KEY",
                "The billing key is another customer's.",
            ),
            Self::AmountMismatch => (
                bad,
                "AMOUNT_MISMATCH",
                "The buyer agreed to another amount.",
            ),
            Self::AlreadyProcessed => (
                bad,
                "ALREADY_PROCESSED_PAYMENT",
                "The payment was processed before.",
            ),
            Self::DuplicatedOrder => (bad, "DUPLICATED_ORDER_ID", "The order is paid already."),
            Self::CardDeclined => (
                StatusCode::FORBIDDEN,
                "REJECT_CARD_COMPANY",
                "The card company declined.",
            ),
            Self::NotCancelable => (
                StatusCode::FORBIDDEN,
                "NOT_CANCELABLE_PAYMENT",
                "The payment can't be cancelled.",
            ),
            Self::NotCancelableAmount => (
                StatusCode::FORBIDDEN,
                "NOT_CANCELABLE_AMOUNT",
                "That is more than what is left of the payment.",
            ),
            Self::AlreadyCanceled => (
                bad,
                "ALREADY_CANCELED_PAYMENT",
                "All of the payment was cancelled before.",
            ),
            Self::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "IDEMPOTENCY_KEY_REUSED",
                "The idempotency key was used for another request.",
            ),
            Self::KeyInvalid => (
                bad,
                "INVALID_IDEMPOTENCY_KEY",
                "The idempotency key is empty or has more than 300 characters.",
            ),
            Self::Processing => (
                StatusCode::CONFLICT,
                "IDEMPOTENT_REQUEST_PROCESSING",
                "A request with this idempotency key is being processed.",
            ),
            Self::Failed => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "FAILED_INTERNAL_SYSTEM_PROCESSING",
                "Something went wrong.",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "SERVICE_UNAVAILABLE",
                "Nothing was done; try again later.",
            ),
        }
    }
}
