//! What a client is willing to read (RFC 9110 section 12.5.1).

use axum::http::{HeaderMap, header};

/// Whether the client takes this media type. Of the ranges that match it the most exact counts. Who
/// says nothing takes anything.
#[must_use]
pub fn accepts(headers: &HeaderMap, offered: &str) -> bool {
    let kind = offered.split('/').next().unwrap_or_default();
    let (mut best, mut is_said) = (None, false);
    let lines = headers.get_all(header::ACCEPT).iter();
    let lines = lines.filter_map(|value| value.to_str().ok());
    for part in lines.flat_map(|line| line.split(',')) {
        let mut pieces = part.split(';').map(str::trim);
        let range = pieces.next().unwrap_or_default();
        if range.is_empty() {
            continue;
        }
        is_said = true;
        let is_kind = |range: &str| range.eq_ignore_ascii_case(kind);
        let exactness = if range.eq_ignore_ascii_case(offered) {
            2
        } else if range.strip_suffix("/*").is_some_and(is_kind) {
            1
        } else if range == "*/*" || range == "*" {
            0
        } else {
            continue;
        };
        let weight = pieces.find_map(|piece| {
            let (name, value) = piece.split_once('=')?;
            let is_weight = name.trim_end().eq_ignore_ascii_case("q");
            is_weight.then(|| value.trim().parse::<f32>().unwrap_or(1.0))
        });
        if best.is_none_or(|(other, _)| exactness >= other) {
            best = Some((exactness, weight.is_none_or(|weight| weight > 0.0)));
        }
    }
    best.map_or(!is_said, |(_, takes)| takes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_weights() {
        for (accept, json) in [
            (&[][..], true),
            (&[""], true),
            (&["*/*"], true),
            (&["application/json"], true),
            (&["Application/JSON; charset=utf-8"], true),
            (&["application/*"], true),
            (&["text/html", "application/json;q=0.1"], true),
            (&["text/html,*/*;q=0.8"], true),
            (&["text/html, *; q=.2"], true),
            (&["application/json; q = 0.0"], false),
            (&["*/*, application/json;q=0"], false),
            (&["application/json;q=0, */*"], false),
            (&["*/*;q=0, application/json"], true),
            (&["application/*;q=0, */*"], false),
            (&["text/html"], false),
            (&["application/problem+json"], false),
            (&["text/*, application/xml"], false),
            (&["nonsense"], false),
        ] {
            let headers = accept
                .iter()
                .map(|text| (header::ACCEPT, text.parse().unwrap()));
            let mut all = HeaderMap::new();
            for (name, value) in headers {
                all.append(name, value);
            }
            assert_eq!(accepts(&all, "application/json"), json, "{accept:?}");
        }
        let stream = HeaderMap::from_iter([(header::ACCEPT, "text/event-stream".parse().unwrap())]);
        assert!(accepts(&stream, "text/event-stream"));
        assert!(!accepts(&stream, "application/json"));
    }
}
