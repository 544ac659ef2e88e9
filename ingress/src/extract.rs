//! Bodies, queries and ids of requests, read so that each mistake gets its problem.

use crate::app::App;
use crate::problem::{Code, FieldError, Problem};
use axum::body::Bytes;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

/// Bounds of a request's body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// The most bytes.
    pub bytes_max: usize,
    /// The most bytes of a layout.
    pub layout_bytes_max: usize,
    /// How long it may take to come.
    pub timeout: Duration,
    /// How long a layout may take.
    pub layout_timeout: Duration,
}

impl From<&crate::config::Http> for BodyLimits {
    fn from(settings: &crate::config::Http) -> Self {
        Self {
            bytes_max: usize::try_from(settings.body_bytes_max).unwrap_or(usize::MAX),
            layout_bytes_max: usize::try_from(settings.layout_bytes_max).unwrap_or(usize::MAX),
            timeout: settings.body_timeout(),
            layout_timeout: settings.layout_body_timeout(),
        }
    }
}

impl FromRef<App> for BodyLimits {
    fn from_ref(app: &App) -> Self {
        app.body_limits
    }
}

/// A body that says it is JSON, whole and within its bounds; not parsed yet, so that what is parsed
/// may borrow from it.
#[derive(Clone, Debug)]
pub struct JsonBody(Bytes);

impl<S> FromRequest<S> for JsonBody
where
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limits = BodyLimits::from_ref(state);
        json(request, limits.bytes_max, limits.timeout)
            .await
            .map(Self)
    }
}

/// The same where a body is not needed: none, or null, is as good as an empty object.
#[derive(Clone, Debug)]
pub struct OptionalJsonBody(pub JsonBody);

impl<S> FromRequest<S> for OptionalJsonBody
where
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limits = BodyLimits::from_ref(state);
        let is_said = request.headers().contains_key(header::CONTENT_TYPE);
        let body = if is_said {
            json(request, limits.bytes_max, limits.timeout).await?
        } else {
            whole(request, limits.bytes_max, limits.timeout).await?
        };
        let is_nothing = matches!(body.trim_ascii(), b"" | b"null");
        match (is_nothing, is_said) {
            (true, _) => Ok(Self(JsonBody(Bytes::from_static(b"{}")))),
            (false, true) => Ok(Self(JsonBody(body))),
            (false, false) => Err(Problem::new(Code::UnsupportedMediaType)),
        }
    }
}

/// The same with the bounds of a layout, for what names the seats of a hall.
#[derive(Clone, Debug)]
pub struct LongJsonBody(pub JsonBody);

impl<S> FromRequest<S> for LongJsonBody
where
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limits = BodyLimits::from_ref(state);
        json(request, limits.layout_bytes_max, limits.layout_timeout)
            .await
            .map(|bytes| Self(JsonBody(bytes)))
    }
}

/// The bytes of a body as they were sent, within bounds: for what is signed.
#[derive(Clone, Debug)]
pub struct RawBody(pub Bytes);

impl<S> FromRequest<S> for RawBody
where
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limits = BodyLimits::from_ref(state);
        let body = whole(request, limits.bytes_max, limits.timeout).await;
        body.map(Self)
    }
}

impl From<Bytes> for JsonBody {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// All of a body that says it is JSON, within its bounds.
async fn json(request: Request, bytes_max: usize, timeout: Duration) -> Result<Bytes, Problem> {
    if !is_of_type(request.headers(), "application/json") {
        return Err(Problem::new(Code::UnsupportedMediaType));
    }
    whole(request, bytes_max, timeout).await
}

/// All of a body, within its bounds.
async fn whole(request: Request, bytes_max: usize, timeout: Duration) -> Result<Bytes, Problem> {
    let body = Limited::new(request.into_body(), bytes_max).collect();
    match tokio::time::timeout(timeout, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if is_too_large(&*error) => Err(Problem::new(Code::BodyTooLarge)),
        Ok(Err(_)) => Err(Problem::new(Code::MalformedJson)),
        Err(_) => Err(Problem::new(Code::RequestTimeout)),
    }
}

fn is_of_type(headers: &HeaderMap, expected: &str) -> bool {
    let Some(Ok(text)) = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str())
    else {
        return false;
    };
    let kind = text.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case(expected)
}

/// A layout, whole and within bounds of its own; not read yet.
#[derive(Clone, Debug)]
pub enum LayoutBody {
    /// It says that it is JSON.
    Json(Bytes),
    /// It says that it is CSV.
    Csv(Bytes),
}

impl<S> FromRequest<S> for LayoutBody
where
    S: Send + Sync,
    BodyLimits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limits = BodyLimits::from_ref(state);
        let made = if is_of_type(request.headers(), "application/json") {
            Self::Json
        } else if is_of_type(request.headers(), "text/csv") {
            Self::Csv
        } else {
            return Err(Problem::new(Code::UnsupportedMediaType));
        };
        whole(request, limits.layout_bytes_max, limits.layout_timeout)
            .await
            .map(made)
    }
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<LengthLimitError>())
}

impl JsonBody {
    /// Reads it as an object.
    ///
    /// # Errors
    /// `malformed-json`, or `validation-failed` with where and what.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Problem> {
        match serde_json::from_slice(&self.0) {
            Ok(value) if self.is_object() => Ok(value),
            Ok(_) => Err(not_an_object()),
            // To serde, null for an enum is a fault of the text.
            Err(_) => Err(self.explain::<T>()),
        }
    }

    /// A derived `Deserialize` takes an array for an object.
    fn is_object(&self) -> bool {
        self.0.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
    }

    /// Parses again, the slow way, to learn where it went wrong. The rest of the text may be no
    /// JSON at all, which counts for more.
    fn explain<'a, T: Deserialize<'a>>(&'a self) -> Problem {
        if serde_json::from_slice::<serde::de::IgnoredAny>(&self.0).is_err() {
            return Problem::new(Code::MalformedJson);
        }
        if !self.is_object() {
            return not_an_object();
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&self.0);
        match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
            Ok(_) => Problem::new(Code::ValidationFailed),
            Err(error) => Problem::validation(vec![field_error(&error)]),
        }
    }
}

/// Reads a member that may be left out and may not be null, for `deserialize_with` beside `default`: a
/// derived `Deserialize` takes null for left out.
///
/// # Errors
/// Those of the value.
pub fn not_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

fn not_an_object() -> Problem {
    Problem::validation(vec![FieldError::at("", "invalid-type")])
}

/// Where and what, in our own words: serde's message repeats the input.
fn field_error(error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    use serde_path_to_error::Segment;
    let message = error.inner().to_string();
    let mut segments: Vec<_> = error.path().iter().collect();
    let code = if message.starts_with("unknown field") {
        // Its name is the client's, so only the object is named.
        segments.pop();
        "unknown-field"
    } else if message.starts_with("missing field") {
        "missing-field"
    } else if message.starts_with("duplicate field") {
        segments.pop();
        "duplicate-field"
    } else if message.starts_with("invalid type") || message.starts_with("expected value") {
        "invalid-type"
    } else {
        "invalid-value"
    };
    let mut pointer = String::new();
    for segment in segments {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{key}")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if code == "missing-field"
        && let Some(name) = message.split('`').nth(1)
    {
        pointer.push_str(&format!("/{name}"));
    }
    FieldError {
        pointer: Cow::Owned(pointer),
        code,
    }
}

/// The query of a request. Parameters that are not known are refused.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str(query)
            .map(Self)
            .map_err(|error| Problem::validation(vec![parameter_error(&error)]))
    }
}

/// What is wrong with a query, and with which parameter, if it is one of ours: what the client made
/// up is not repeated.
fn parameter_error(error: &serde_urlencoded::de::Error) -> FieldError {
    let message = error.to_string();
    if message.starts_with("unknown field") {
        return FieldError::at("", "unknown-parameter");
    }
    let name = message.strip_prefix("duplicate field `");
    match name.and_then(|rest| rest.split('`').next()) {
        Some(name) => FieldError {
            pointer: Cow::Owned(format!("/{name}")),
            code: "duplicate-parameter",
        },
        None => FieldError::at("", "invalid-parameter"),
    }
}

/// The one id in a path. What is no id names nothing.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(Code::NotFound))?;
        text.parse()
            .map(Self)
            .map_err(|_| Problem::new(Code::NotFound))
    }
}

/// The two ids in a path, in their order; a name is one as well.
#[derive(Clone, Debug)]
pub struct Ids<A, B>(pub A, pub B);

impl<S: Send + Sync, A: FromStr, B: FromStr> FromRequestParts<S> for Ids<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = || Problem::new(Code::NotFound);
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found())?;
        let first = first.parse().map_err(|_| not_found())?;
        let second = second.parse().map_err(|_| not_found())?;
        Ok(Self(first, second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceId;
    use onsale_schema::Money;

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code, reason = "only whether it parses counts")]
    struct Wanted {
        seat_count: u32,
        amount: Option<Money>,
        labels: Option<Vec<String>>,
        #[serde(default, deserialize_with = "not_null")]
        name: Option<String>,
    }

    fn problem(body: &'static str) -> String {
        let problem = JsonBody(Bytes::from_static(body.as_bytes()))
            .parse::<Wanted>()
            .unwrap_err();
        let json = problem.to_json(&TraceId::of(&HeaderMap::new()));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        format!("{} {}", json["code"].as_str().unwrap(), json["errors"])
    }

    #[test]
    fn mistakes_are_told_apart_without_repeating_them() {
        for (body, expected) in [
            ("", "malformed-json null"),
            ("{", "malformed-json null"),
            ("{\"seatCount\":1}x", "malformed-json null"),
            ("{\"secret\":1,", "malformed-json null"),
            (
                "[1]",
                r#"validation-failed [{"code":"invalid-type","pointer":""}]"#,
            ),
            (
                "\"secret\"",
                r#"validation-failed [{"code":"invalid-type","pointer":""}]"#,
            ),
            (
                "{\"seatCount\":1,\"secret\":2}",
                r#"validation-failed [{"code":"unknown-field","pointer":""}]"#,
            ),
            (
                "{\"seatCount\":\"secret\"}",
                r#"validation-failed [{"code":"invalid-type","pointer":"/seatCount"}]"#,
            ),
            (
                "{\"seatCount\":-1}",
                r#"validation-failed [{"code":"invalid-value","pointer":"/seatCount"}]"#,
            ),
            (
                "{}",
                r#"validation-failed [{"code":"missing-field","pointer":"/seatCount"}]"#,
            ),
            (
                "{\"seatCount\":1,\"seatCount\":1}",
                r#"validation-failed [{"code":"duplicate-field","pointer":""}]"#,
            ),
            (
                "{\"seatCount\":1,\"labels\":[\"a\",2]}",
                r#"validation-failed [{"code":"invalid-type","pointer":"/labels/1"}]"#,
            ),
            (
                "{\"seatCount\":1,\"amount\":{\"amount\":1,\"currency\":null}}",
                r#"validation-failed [{"code":"invalid-type","pointer":"/amount/currency"}]"#,
            ),
            (
                "{\"seatCount\":1,\"name\":null}",
                r#"validation-failed [{"code":"invalid-type","pointer":"/name"}]"#,
            ),
            (
                "{\"seatCount\":1,\"amount\":{\"amount\":1,\"currency\":\"secret\"}}",
                r#"validation-failed [{"code":"invalid-value","pointer":"/amount/currency"}]"#,
            ),
        ] {
            assert_eq!(problem(body), expected, "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_layout_may_take_longer_than_another_body() {
        let limits = BodyLimits {
            bytes_max: 1 << 20,
            layout_bytes_max: 1 << 20,
            timeout: Duration::from_secs(10),
            layout_timeout: Duration::from_secs(60),
        };
        let request = |seconds: u64, kind: &str| {
            let late = async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{}"))
            };
            let body = axum::body::Body::from_stream(futures_util::stream::once(late));
            let request = Request::builder().header(header::CONTENT_TYPE, kind);
            request.body(body).unwrap()
        };
        let json = "application/json";
        let late = JsonBody::from_request(request(20, json), &limits).await;
        assert_eq!(late.unwrap_err().code(), Code::RequestTimeout);
        for kind in [json, "text/csv"] {
            let layout = LayoutBody::from_request(request(20, kind), &limits).await;
            assert!(layout.is_ok(), "{kind}");
            let late = LayoutBody::from_request(request(61, kind), &limits).await;
            assert_eq!(late.unwrap_err().code(), Code::RequestTimeout);
        }
    }

    #[test]
    fn mistakes_in_queries_are_told_apart() {
        type Read = Query<crate::page::PageQuery>;
        for (query, expected) in [
            ("limit=1&limit=2", "/limit duplicate-parameter"),
            ("cursor=a&limit=1&cursor=a", "/cursor duplicate-parameter"),
            ("page=2", " unknown-parameter"),
            ("limit=1&duplicate+field+`limit`=2", " unknown-parameter"),
            ("=", " unknown-parameter"),
        ] {
            let request = Request::get(format!("/?{query}")).body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            let read = Read::from_request_parts(&mut parts, &());
            let refused = futures_util::FutureExt::now_or_never(read).unwrap();
            let json = refused
                .unwrap_err()
                .to_json(&TraceId::of(&HeaderMap::new()));
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let error = &json["errors"][0];
            let told = [&error["pointer"], &error["code"]].map(|text| text.as_str().unwrap());
            assert_eq!(told.join(" "), expected, "{query}");
        }
    }

    #[test]
    fn content_types() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jsonx", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(is_of_type(&headers, "application/json"), json, "{text}");
        }
        assert!(!is_of_type(&HeaderMap::new(), "application/json"));
    }
}
