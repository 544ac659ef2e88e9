//! Addresses of servers as URLs: `scheme://user:password@host:port/path?name=value`.
//!
//! All that is needed to reach a server stands in its address, so that whoever hands one on hands
//! on user, password and trust, too. An address is a secret: it must never be logged.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What need not be encoded in a part of an address.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
/// The same in a value that may be a path.
const VALUE: &AsciiSet = &PART.remove(b'/');

/// The same address for another user.
#[must_use]
pub fn with_user(url: &str, user: &str, password: &str) -> String {
    let encode = |text| utf8_percent_encode(text, PART);
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    let (user, password) = (encode(user), encode(password));
    format!("{scheme}://{user}:{password}@{}", &rest[host..])
}

/// The same address with one more parameter.
#[must_use]
pub fn with_parameter(url: &str, name: &str, value: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}{name}={}", utf8_percent_encode(value, VALUE))
}

/// The same address without user and password.
pub(crate) fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// User and password of an address, if it has them.
pub(crate) fn credentials(url: &str) -> Option<(String, String)> {
    let (_, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (credentials, _) = rest[..end].rsplit_once('@')?;
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    Some((decoded(user), decoded(password)))
}

/// Takes a parameter out of an address, and out of all that is left of it.
pub(crate) fn take_parameter(url: &str, name: &str) -> (String, Option<String>) {
    let Some((place, parameters)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let is_it = |parameter: &&str| {
        parameter
            .split_once('=')
            .is_some_and(|(found, _)| found == name)
    };
    let all = || {
        parameters
            .split('&')
            .filter(|parameter| !parameter.is_empty())
    };
    let value = all().find(is_it).and_then(|it| it.split_once('='));
    let left: Vec<&str> = all().filter(|parameter| !is_it(parameter)).collect();
    let left = match left.as_slice() {
        [] => place.to_owned(),
        left => format!("{place}?{}", left.join("&")),
    };
    (left, value.map(|(_, value)| decoded(value)))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user() {
        for (url, expected) in [
            (
                "postgres://a:b@h:1/d?x=y",
                "postgres://u:p%40%2F%3A@h:1/d?x=y",
            ),
            ("nats://h:1", "nats://u:p%40%2F%3A@h:1"),
            ("nats://token@h", "nats://u:p%40%2F%3A@h"),
            (
                "postgres://h/d?options=a@b",
                "postgres://u:p%40%2F%3A@h/d?options=a@b",
            ),
        ] {
            let changed = with_user(url, "u", "p@/:");
            assert_eq!(changed, expected);
            let credentials = credentials(&changed).unwrap();
            assert_eq!(credentials, ("u".to_owned(), "p@/:".to_owned()));
            assert_eq!(with_user(&without_user(&changed), "u", "p@/:"), expected);
        }
        assert_eq!(without_user("nats://h:1"), "nats://h:1");
        assert_eq!(credentials("nats://h:1"), None);
    }

    #[test]
    fn parameters_come_and_go() {
        let url = with_parameter("tls://h?a=1", "ca", "/tmp/a b&c@d.pem");
        assert_eq!(url, "tls://h?a=1&ca=/tmp/a%20b%26c%40d.pem");
        let (left, value) = take_parameter(&url, "ca");
        assert_eq!(
            (left.as_str(), value.as_deref()),
            ("tls://h?a=1", Some("/tmp/a b&c@d.pem"))
        );
        assert_eq!(take_parameter(&left, "a").0, "tls://h");
        assert_eq!(take_parameter("tls://h", "a"), ("tls://h".to_owned(), None));
    }
}
