//! What a decided command is answered with: the same whether the client waited for it or looks it up
//! later.

use crate::problem::Problem;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The content type of answers.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How soon to look at what is on its way, in seconds.
const LOOK_AGAIN_S: HeaderValue = HeaderValue::from_static("1");
const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// A success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200, 201 or 204; 202 for what is on its way, at its location.
    pub status: StatusCode,
    /// Where the new resource is.
    pub location: Option<String>,
    /// JSON, or nothing.
    pub json: Vec<u8>,
}

impl Answer {
    /// 201, with what was made.
    ///
    /// # Errors
    /// When `body` has no JSON form, which would be a fault of ours.
    pub fn created(location: Option<String>, body: &impl Serialize) -> Result<Self, Problem> {
        Ok(Self {
            status: StatusCode::CREATED,
            location,
            json: to_json(body)?,
        })
    }

    /// 204.
    #[must_use]
    pub fn done() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            location: None,
            json: Vec::new(),
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let has_body = !self.json.is_empty();
        let is_open = self.status == StatusCode::ACCEPTED;
        let mut response = (self.status, [NO_STORE], self.json).into_response();
        let headers = response.headers_mut();
        if has_body {
            headers.insert(header::CONTENT_TYPE, JSON);
        } else {
            headers.remove(header::CONTENT_TYPE);
        }
        if is_open {
            headers.insert(header::RETRY_AFTER, LOOK_AGAIN_S);
        }
        if let Some(location) = self.location.and_then(|l| HeaderValue::try_from(l).ok()) {
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

/// 200 with something that changes and is not to be kept.
///
/// # Errors
/// When `body` has no JSON form, which would be a fault of ours.
pub fn ok(body: &impl Serialize) -> Result<Response, Problem> {
    let answer = Answer {
        status: StatusCode::OK,
        location: None,
        json: to_json(body)?,
    };
    Ok(answer.into_response())
}

/// JSON bytes.
///
/// # Errors
/// When `body` has no JSON form, which would be a fault of ours.
pub fn to_json(body: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(body).map_err(|error| {
        tracing::error!(%error, "an answer could not be written");
        Problem::internal()
    })
}
