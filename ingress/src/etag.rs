//! Conditional reads.

use axum::http::{HeaderMap, HeaderValue, header};
use utoipa::IntoParams;

/// The header of a conditional read, as documented.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(
    dead_code,
    reason = "only described: a list of tags has no type of its own"
)]
pub struct IfNoneMatch {
    /// The `ETag` of the version that the client has; if it is still the one, the answer is 304.
    #[param(rename = "If-None-Match", required = false, example = "W/\"7\"")]
    if_none_match: String,
}

/// Whether the client has this version already (`If-None-Match`, compared weakly).
#[must_use]
pub fn matches(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(ours) = etag.to_str().map(opaque) else {
        return false;
    };
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == ours)
}

/// A tag without its mark of weakness.
fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_comparison() {
        let ours = HeaderValue::from_static("W/\"7\"");
        let has = |text: &str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, text.parse().unwrap())]);
            matches(&headers, &ours)
        };
        assert!(has("W/\"7\""));
        assert!(has("\"7\""));
        assert!(has("\"6\", W/\"7\""));
        assert!(has("*"));
        assert!(!has("W/\"8\""));
        assert!(!has("7"));
        assert!(!matches(&HeaderMap::new(), &ours));
    }
}
