//! Origins whose pages may call the API (CORS), as browsers write them: compared byte by byte, so one
//! that is written in another way would never match.

use axum::http::HeaderValue;
use std::str::FromStr;
use std::sync::Arc;

/// Origins, separated by commas; `*` is all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any.
    All,
    /// These; none is none.
    These(Arc<[HeaderValue]>),
}

/// Text that is no list of origins.
#[derive(Debug, thiserror::Error)]
#[error(
    "must be * or origins such as https://shop.example, separated by commas, each as browsers write \
     it: scheme and host in lower case, a port that is not the scheme's own, and nothing after"
)]
pub struct InvalidOrigins;

impl FromStr for Origins {
    type Err = InvalidOrigins;

    fn from_str(text: &str) -> Result<Self, InvalidOrigins> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let (mut is_all, mut these) = (false, Vec::new());
        for part in parts {
            if part == "*" {
                is_all = true;
                continue;
            }
            let value = HeaderValue::from_str(part).ok();
            these.push(value.filter(|_| is_origin(part)).ok_or(InvalidOrigins)?);
        }
        Ok(if is_all {
            Self::All
        } else {
            Self::These(these.into())
        })
    }
}

/// Whether it is the form in which browsers send an origin (WHATWG HTML, "serialization of an
/// origin").
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let is_scheme = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c);
    let is_host = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-._".contains(&c);
    // An IPv6 address has colons of its own.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match v6 {
        Some(v6) => {
            let addr = v6.parse::<std::net::Ipv6Addr>();
            addr.is_ok_and(|addr| addr.to_string() == v6)
        }
        None => !host.is_empty() && host.bytes().all(is_host),
    };
    let is_port = port.is_none_or(|port| {
        let number = port.parse::<u16>();
        let is_default = matches!((scheme, port), ("http", "80") | ("https", "443"));
        !is_default && number.is_ok_and(|number| number > 0 && number.to_string() == port)
    });
    scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(is_scheme)
        && is_host
        && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_can_match() {
        for good in [
            "https://shop.example",
            "http://localhost:3000",
            "https://shop.example:8443",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "http://[2001:db8::5]",
            "https://xn--3e0b707e.example",
            "capacitor://localhost",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "https://shop.example/",
            "https://shop.example/path",
            "https://shop.example?x",
            "https://shop.example#x",
            "https://Shop.example",
            "HTTPS://shop.example",
            "https://shop.example:443",
            "http://shop.example:80",
            "https://shop.example:",
            "https://shop.example:0",
            "https://shop.example:08443",
            "https://shop.example:99999",
            "https://user@shop.example",
            "https://*.shop.example",
            "https://쇼핑.example",
            "https://",
            "http://[::1",
            "http://[0:0::1]",
            "http://::1",
            "://shop.example",
            "shop.example",
            "null",
            "https://a b",
        ] {
            assert!(!is_origin(bad), "{bad}");
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_origins() {
        let origins = |text: &str| text.parse::<Origins>().unwrap();
        let (a, b) = ("https://a.example", "http://b.example:81");
        let both = [a, b].map(HeaderValue::from_static);
        assert_eq!(origins(&format!("{a}, {b},")), Origins::These(both.into()));
        assert_eq!(origins(""), Origins::These([].into()));
        assert_eq!(origins(&format!("{a},*")), Origins::All);
        assert!(format!("{a},{b}/").parse::<Origins>().is_err());
    }
}
