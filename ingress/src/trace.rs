//! The trace of a request: taken from the client's `traceparent` if it is valid, else made here, and
//! given back as `trace-id` with every answer.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngCore;
use std::convert::Infallible;

/// The header that carries the trace id of an answer.
pub const TRACE_ID: HeaderName = HeaderName::from_static("trace-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// 32 hexadecimal digits that name one request in answers and logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The trace that the request belongs to, else a new one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match parent(headers) {
            Some(traceparent) => {
                let mut digits = [0; 32];
                digits.copy_from_slice(&traceparent.as_bytes()[3..35]);
                Self(digits)
            }
            None => Self::random(),
        }
    }

    fn random() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let mut digits = [0; 32];
        for (two, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            two[0] = DIGITS[usize::from(byte >> 4)];
            two[1] = DIGITS[usize::from(byte & 15)];
        }
        Self(digits)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }

    /// As a header's value.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("hexadecimal digits are visible ASCII")
    }
}

/// The request's `traceparent`, to be handed on with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for TraceParent {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parent(&parts.headers).map(str::to_owned)))
    }
}

/// The request's W3C `traceparent` (version 00), if it has a valid one.
#[must_use]
pub fn parent(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let bytes = text.as_bytes();
    if bytes.len() != 55 || !text.starts_with("00-") || bytes[35] != b'-' || bytes[52] != b'-' {
        return None;
    }
    let (trace, span, flags) = (&bytes[3..35], &bytes[36..52], &bytes[53..55]);
    let hex = |part: &[u8]| {
        part.iter()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    };
    let zero = |part: &[u8]| part.iter().all(|&b| b == b'0');
    (hex(trace) && hex(span) && hex(flags) && !zero(trace) && !zero(span)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(traceparent: &str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, traceparent.parse().unwrap())])
    }

    #[test]
    fn a_valid_parent_is_taken() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parent(&headers(text)), Some(text));
        assert_eq!(
            TraceId::of(&headers(text)).as_str(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
    }

    #[test]
    fn an_invalid_one_is_not() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parent(&headers(text)), None, "{text}");
        }
        assert_ne!(
            TraceId::of(&HeaderMap::new()).as_str(),
            TraceId::of(&HeaderMap::new()).as_str()
        );
    }
}
