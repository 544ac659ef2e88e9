//! What an answer other than success means. It leans to the unknown: that costs a look-up, and the
//! contrary could cost a buyer's money twice.

use super::super::Error;
use serde::Deserialize;

/// The longest code that is kept.
const CODE_CHARS_MAX: usize = 64;
/// A code that is none.
const UNREADABLE: &str = "UNREADABLE";

/// We ask wrongly, or without the right key, whatever the payment is.
const OURS: &[&str] = &[
    "FORBIDDEN_REQUEST",
    "IDEMPOTENCY_KEY_REUSED",
    "INCORRECT_BASIC_AUTH_FORMAT",
    "INVALID_API_KEY",
    "INVALID_IDEMPOTENCY_KEY",
    "INVALID_REQUEST",
    "UNAUTHORIZED_KEY",
];
/// It was done or is being done by another request, or may have been.
const IN_DOUBT: &[&str] = &[
    "ALREADY_PROCESSED_PAYMENT",
    "DUPLICATED_ORDER_ID",
    "FORBIDDEN_CONSECUTIVE_REQUEST",
    "IDEMPOTENT_REQUEST_PROCESSING",
    "PROVIDER_ERROR",
    UNREADABLE,
];

#[derive(Deserialize)]
struct Body {
    code: String,
}

/// The kind of an answer that is no success.
pub fn error(status: u16, body: &[u8]) -> Error {
    let code = serde_json::from_slice::<Body>(body).map(|body| body.code);
    let code = code.ok().filter(|code| is_code(code));
    let code = code.unwrap_or_else(|| UNREADABLE.to_owned());
    let is_ours = OURS.contains(&code.as_str());
    let unknown = |reason| Error::Unknown { reason };
    match status {
        401 => Error::Rejected { status, code },
        404 if code == "NOT_FOUND_PAYMENT" => Error::NotFound,
        404 if code == "NOT_FOUND_PAYMENT_SESSION" => Error::Declined { code },
        // Another path than theirs.
        300..=399 | 404 | 405 | 415 => Error::Rejected { status, code },
        429 => Error::Unavailable {
            reason: "it is asked too often",
        },
        // By its own word only: a proxy may say so of a request that went through.
        503 if code == "SERVICE_UNAVAILABLE" => Error::Unavailable {
            reason: "it says so",
        },
        408 | 409 | 425 => unknown("the same is being processed"),
        400..=499 if is_ours => Error::Rejected { status, code },
        400..=499 if IN_DOUBT.contains(&code.as_str()) => unknown("it may have been done before"),
        400..=499 => Error::Declined { code },
        _ => unknown("it failed"),
    }
}

fn is_code(code: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=CODE_CHARS_MAX).contains(&code.len()) && code.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        for (status, code, kind) in [
            (400, "INVALID_CARD_EXPIRATION", "declined"),
            (400, "AMOUNT_MISMATCH", "declined"),
            (403, "REJECT_CARD_COMPANY", "declined"),
            (403, "NOT_CANCELABLE_AMOUNT", "declined"),
            (404, "NOT_FOUND_PAYMENT_SESSION", "declined"),
            (404, "NOT_FOUND_PAYMENT", "not-found"),
            (404, "", "rejected"),
            (301, "", "rejected"),
            (401, "", "key-refused"),
            (401, "UNAUTHORIZED_KEY", "key-refused"),
            (403, "INVALID_API_KEY", "key-refused"),
            (400, "INVALID_REQUEST", "rejected"),
            (403, "FORBIDDEN_REQUEST", "key-refused"),
            (422, "IDEMPOTENCY_KEY_REUSED", "rejected"),
            (400, "ALREADY_PROCESSED_PAYMENT", "unknown"),
            (400, "PROVIDER_ERROR", "unknown"),
            (400, "DUPLICATED_ORDER_ID", "unknown"),
            (403, "FORBIDDEN_CONSECUTIVE_REQUEST", "unknown"),
            (400, "no code", "unknown"),
            (409, "IDEMPOTENT_REQUEST_PROCESSING", "unknown"),
            (500, "FAILED_INTERNAL_SYSTEM_PROCESSING", "unknown"),
            (502, "", "unknown"),
            (503, "", "unknown"),
            (504, "", "unknown"),
            (201, "", "unknown"),
            (429, "", "unavailable"),
            (503, "SERVICE_UNAVAILABLE", "unavailable"),
        ] {
            let body = format!(r#"{{"code":"{code}","message":"for people"}}"#);
            let found = error(status, body.as_bytes());
            assert_eq!(found.kind(), kind, "{status} {code}");
            assert!(!found.to_string().contains("people"));
        }
        assert_eq!(error(400, b"<html>").kind(), "unknown");
    }
}
