//! The one place that says "no" over HTTP: RFC 9457 problem documents with a stable code.
//!
//! A [`Problem`] never repeats what the client sent and never shows what a server said. The
//! middleware ([`crate::stack`]) writes it out, because only there the trace id is known; it also
//! turns the framework's own rejections into problems.

mod code;

pub use code::Code;

use crate::trace::TraceId;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use onsale_platform::db;
use onsale_schema::Money;
use onsale_schema::status::ReservationStatus;
use serde::Serialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// The content type of problems.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");
/// The `Retry-After` of a 503 that says nothing more exact, in seconds.
const RETRY_AFTER_S: u32 = 1;

/// A refusal or a fault, as told to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    code: Code,
    detail: Option<&'static str>,
    retry_after_s: Option<u32>,
    more: More,
}

/// What a code says besides.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
enum More {
    #[default]
    Nothing,
    Errors(Vec<FieldError>),
    /// Seats, and places.
    Taken(Vec<Box<str>>, Vec<PlacesLeft>),
    Limit(u32),
    Cap(Money),
    ReservationStatus(ReservationStatus),
}

/// A section with fewer places left than were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlacesLeft {
    /// Its name.
    #[schema(value_type = String, example = "FLOOR")]
    pub section: Box<str>,
    /// So many are left.
    pub available: u32,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where, as a JSON pointer into the body (a query parameter is `/name`).
    #[schema(value_type = String, example = "/seats/1")]
    pub pointer: Cow<'static, str>,
    /// What.
    #[schema(example = "unknown-seat")]
    pub code: &'static str,
}

impl FieldError {
    /// Something at a fixed place.
    #[must_use]
    pub fn at(pointer: &'static str, code: &'static str) -> Self {
        Self {
            pointer: Cow::Borrowed(pointer),
            code,
        }
    }
}

impl Problem {
    /// Nothing but a code.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self {
            code,
            detail: None,
            retry_after_s: (code.status() == StatusCode::SERVICE_UNAVAILABLE)
                .then_some(RETRY_AFTER_S),
            more: More::Nothing,
        }
    }

    /// A sentence about this occurrence. It must not contain what the client sent.
    #[must_use]
    pub fn detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// When to come again, in seconds.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// `validation-failed`, with what and where.
    #[must_use]
    pub fn validation(errors: Vec<FieldError>) -> Self {
        Self::new(Code::ValidationFailed).errors(errors)
    }

    /// What is wrong, and where.
    #[must_use]
    pub fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.more = More::Errors(errors);
        self
    }

    /// `seat-unavailable`, with the labels that were taken and the sections with too few places.
    #[must_use]
    pub fn seats_taken(labels: Vec<Box<str>>, places: Vec<PlacesLeft>) -> Self {
        let mut problem = Self::new(Code::SeatUnavailable);
        problem.more = More::Taken(labels, places);
        problem
    }

    /// `orphan-seat`, with the labels that would be left alone.
    #[must_use]
    pub fn orphans(labels: Vec<Box<str>>) -> Self {
        let mut problem = Self::new(Code::OrphanSeat);
        problem.more = More::Taken(labels, Vec::new());
        problem
    }

    /// `seat-limit-exceeded`, with the limit.
    #[must_use]
    pub fn seat_limit(limit: u32) -> Self {
        let mut problem = Self::new(Code::SeatLimitExceeded);
        problem.more = More::Limit(limit);
        problem
    }

    /// `too-many-open-charges`, with how many may be.
    #[must_use]
    pub fn open_charges(limit: u32) -> Self {
        let mut problem = Self::new(Code::TooManyOpenCharges);
        problem.more = More::Limit(limit);
        problem
    }

    /// `balance-cap-exceeded`, with the cap.
    #[must_use]
    pub fn balance_cap(cap: Money) -> Self {
        let mut problem = Self::new(Code::BalanceCapExceeded);
        problem.more = More::Cap(cap);
        problem
    }

    /// `reservation-state-conflict`, with the state.
    #[must_use]
    pub fn state_conflict(status: ReservationStatus) -> Self {
        let mut problem = Self::new(Code::ReservationStateConflict);
        problem.more = More::ReservationStatus(status);
        problem
    }

    /// A fault of ours; the cause was logged.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Code::InternalError)
    }

    /// A server that we need is away.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(Code::DependencyUnavailable)
    }

    /// Why not, for programs.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The document.
    ///
    /// # Panics
    /// Never: all members have a JSON form.
    #[must_use]
    pub fn to_json(&self, trace: &TraceId) -> Vec<u8> {
        let mut document = Document {
            kind: KindUri(self.code),
            title: self.code.title(),
            status: self.code.status_number(),
            code: self.code,
            detail: self.detail,
            retryable: self.code.retryable(),
            trace_id: trace.as_str(),
            errors: None,
            seats: None,
            places: None,
            limit: None,
            cap: None,
            reservation_status: None,
        };
        match &self.more {
            More::Nothing => {}
            More::Errors(errors) => document.errors = Some(errors),
            More::Taken(seats, places) => {
                document.seats = Some(seats);
                document.places = Some(&**places).filter(|places| !places.is_empty());
            }
            More::Limit(limit) => document.limit = Some(*limit),
            More::Cap(cap) => document.cap = Some(*cap),
            More::ReservationStatus(status) => document.reservation_status = Some(*status),
        }
        serde_json::to_vec(&document).expect("all members have a JSON form")
    }
}

/// Why not (RFC 9457). Programs decide by `code`; the other members are for people, or say more
/// about some codes.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    /// A name of the kind of problem; not an address.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "urn:onsale:problem:seat-unavailable")]
    kind: KindUri,
    /// A sentence about the code.
    #[schema(example = "Seats are taken")]
    title: &'static str,
    /// The HTTP status, once more.
    #[schema(minimum = 400, maximum = 599, example = 409)]
    status: u16,
    #[schema(inline)]
    code: Code,
    /// A sentence about this occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<&'static str>,
    /// Whether the same request may succeed a little later.
    retryable: bool,
    /// Names this request in our logs.
    #[schema(
        pattern = "^[0-9a-f]{32}$",
        example = "4bf92f3577b34da6a3ce929d0e0e4736"
    )]
    trace_id: &'a str,
    /// With `validation-failed` and `unknown-seat`: what is wrong, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<FieldError>, required = false)]
    errors: Option<&'a [FieldError]>,
    /// With `seat-unavailable`: the labels of the seats that were taken. With `orphan-seat`: of
    /// those that would be left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false, example = json!(["A-1-2"]))]
    seats: Option<&'a [Box<str>]>,
    /// With `seat-unavailable`: the sections that have fewer places left than were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<PlacesLeft>, required = false, min_items = 1)]
    places: Option<&'a [PlacesLeft]>,
    /// With `seat-limit-exceeded`: the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<u32>,
    /// With `balance-cap-exceeded`: the cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cap: Option<Money>,
    /// With `reservation-state-conflict`: the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_status: Option<ReservationStatus>,
}

/// The `type` of a problem: a name, not an address.
struct KindUri(Code);

impl Serialize for KindUri {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("urn:onsale:problem:{}", self.0.as_str()))
    }
}

impl IntoResponse for Problem {
    /// Leaves the writing to [`finish`].
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes out the problem in a response, and makes one of any error that is none yet.
pub fn finish(response: &mut Response, trace: &TraceId) {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return;
    }
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if response.headers().get(header::CONTENT_TYPE) == Some(&CONTENT_TYPE) => return,
        None => Problem::new(Code::of_status(status)),
    };
    *response.status_mut() = problem.code.status();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = problem.retry_after_s {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if problem.code.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = Body::from(problem.to_json(trace));
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        match &error {
            db::Error::Unavailable(_) | db::Error::Contended(_) => {
                tracing::warn!(%error, "a request could not be served");
                Self::unavailable()
            }
            db::Error::NotFound => Self::new(Code::NotFound),
            db::Error::Constraint { .. }
            | db::Error::Taken(_)
            | db::Error::Aborted(_)
            | db::Error::Refused(_) => {
                tracing::error!(%error, "a request could not be served");
                Self::internal()
            }
        }
    }
}

impl From<diesel::result::Error> for Problem {
    fn from(error: diesel::result::Error) -> Self {
        db::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;
    use std::collections::HashSet;

    fn trace() -> TraceId {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        TraceId::of(&HeaderMap::from_iter([(
            "traceparent".parse().unwrap(),
            parent.parse().unwrap(),
        )]))
    }

    fn json(problem: &Problem) -> String {
        String::from_utf8(problem.to_json(&trace())).unwrap()
    }

    #[test]
    fn documents() {
        assert_eq!(
            json(&Problem::new(Code::Overloaded)),
            r#"{"type":"urn:onsale:problem:overloaded","title":"Too many requests are waiting","status":503,"code":"overloaded","retryable":true,"traceId":"4bf92f3577b34da6a3ce929d0e0e4736"}"#
        );
        let errors = vec![FieldError::at("/seats", "too-many")];
        assert_eq!(
            json(&Problem::validation(errors)),
            r#"{"type":"urn:onsale:problem:validation-failed","title":"The request is not valid","status":422,"code":"validation-failed","retryable":false,"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","errors":[{"pointer":"/seats","code":"too-many"}]}"#
        );
        let taken = Problem::seats_taken(vec!["A-1-2".into()], vec![]);
        assert!(json(&taken).ends_with(r#""seats":["A-1-2"]}"#));
        let left = PlacesLeft {
            section: "F".into(),
            available: 1,
        };
        let too_few = json(&Problem::seats_taken(vec![], vec![left]));
        assert!(too_few.ends_with(r#""seats":[],"places":[{"section":"F","available":1}]}"#));
        assert!(json(&Problem::seat_limit(4)).ends_with(r#""limit":4}"#));
        let conflict = Problem::state_conflict(ReservationStatus::Paid);
        assert!(json(&conflict).ends_with(r#""reservationStatus":"PAID"}"#));
        let capped = Problem::balance_cap(Money::won(5));
        assert!(json(&capped).ends_with(r#""cap":{"amount":5,"currency":"KRW"}}"#));
    }

    #[test]
    fn codes_are_told_apart() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }
}
