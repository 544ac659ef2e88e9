//! What a client prefers (RFC 7240): `respond-async`, a 202 as soon as the command is on its way,
//! and `wait`, for how many seconds it would wait for the outcome first.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use std::convert::Infallible;
use std::time::Duration;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// The header of a request.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The header that says which preference was followed.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The preferences that are known here; others are ignored, as the RFC has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// Whether an answer that says where the outcome will be is as good as the outcome.
    pub respond_async: bool,
    /// How long to wait for the outcome; no longer than the ingress would.
    pub wait: Option<Duration>,
}

impl Prefer {
    fn of(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let values = headers.get_all(PREFER);
        let texts = values.iter().filter_map(|value| value.to_str().ok());
        for preference in texts.flat_map(|text| text.split(',')) {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            // The first of several counts.
            if name.eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && prefer.wait.is_none() {
                prefer.wait = value.parse().ok().map(Duration::from_secs);
            }
        }
        prefer
    }
}

impl IntoParams for Prefer {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "How to be answered (RFC 7240). With `respond-async`, 202 as soon as the \
                           request is sure to be decided; with `wait=SECONDS`, after waiting so \
                           long for the outcome.";
        let parameter = ParameterBuilder::new()
            .name("Prefer")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .example(Some("respond-async, wait=2".into()));
        vec![parameter.build()]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Prefer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_as_the_rfc_writes_them() {
        let wait = |seconds| Some(Duration::from_secs(seconds));
        for (values, respond_async, expected) in [
            (&[][..], false, None),
            (&["respond-async"], true, None),
            (&["respond-async, wait=10"], true, wait(10)),
            (&["Respond-Async", "WAIT = 3"], true, wait(3)),
            (&["wait=\"2\"; x=1, wait=9"], false, wait(2)),
            (&["handling=lenient, wait=soon"], false, None),
        ] {
            let headers = values.iter().map(|value| (PREFER, value.parse().unwrap()));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value)| {
                map.append(name, value);
            });
            let prefer = Prefer {
                respond_async,
                wait: expected,
            };
            assert_eq!(Prefer::of(&map), prefer, "{values:?}");
        }
    }
}
