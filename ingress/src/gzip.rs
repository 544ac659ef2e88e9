//! Bodies that are compressed once, not for each request, and sent so to whoever takes it (RFC 9110
//! section 12.5.3).

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{self, Read, Write};

/// A body in both forms.
pub struct Body {
    plain: Bytes,
    gzip: Bytes,
}

impl Body {
    /// Compresses it; some 50 ms for a large layout.
    ///
    /// # Panics
    /// Never: writing to memory can't fail.
    #[must_use]
    pub fn pack(plain: Vec<u8>) -> Self {
        Self {
            gzip: pack(&plain, Compression::default()),
            plain: plain.into(),
        }
    }

    /// One that is compressed already.
    ///
    /// # Errors
    /// When it is not.
    pub fn unpack(gzip: Bytes) -> io::Result<Self> {
        let mut plain = Vec::new();
        GzDecoder::new(&*gzip).read_to_end(&mut plain)?;
        Ok(Self {
            gzip,
            plain: plain.into(),
        })
    }

    /// The memory that both forms take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.plain.len() + self.gzip.len()
    }

    /// As it is without compression.
    #[must_use]
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The form for a client that accepts gzip, or does not, and the header that says so.
    #[must_use]
    pub fn form(&self, gzip: bool) -> (HeaderMap, Bytes) {
        if gzip {
            (encoding(), self.gzip.clone())
        } else {
            (HeaderMap::new(), self.plain.clone())
        }
    }
}

/// The header of the compressed form.
#[must_use]
pub fn encoding() -> HeaderMap {
    let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    HeaderMap::from_iter([encoding])
}

/// The compressed form.
///
/// # Panics
/// Never: writing to memory can't fail.
#[must_use]
pub fn pack(plain: &[u8], level: Compression) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    let packed = encoder.write_all(plain).and_then(|()| encoder.finish());
    packed.expect("writing to memory can't fail").into()
}

/// For caches: there are two forms.
pub const VARY: (HeaderName, HeaderValue) =
    (header::VARY, HeaderValue::from_static("accept-encoding"));

/// Whether the client takes gzip; who says nothing does not.
#[must_use]
pub fn is_accepted(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    let lines = lines.filter_map(|value| value.to_str().ok());
    let (mut named, mut any) = (None, false);
    for part in lines.flat_map(|line| line.split(',')) {
        let mut pieces = part.split(';').map(str::trim);
        let coding = pieces.next().unwrap_or_default();
        let weight = pieces.find_map(|piece| {
            let (name, value) = piece.split_once('=')?;
            let is_weight = name.trim_end().eq_ignore_ascii_case("q");
            is_weight.then(|| value.trim().parse::<f32>().unwrap_or(1.0))
        });
        let takes = weight.is_none_or(|weight| weight > 0.0);
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            named = Some(takes);
        } else if coding == "*" {
            any = takes;
        }
    }
    named.unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_and_weights() {
        for (text, expected) in [
            ("", false),
            ("gzip", true),
            ("GZIP;q=0.1, br", true),
            ("br, x-gzip", true),
            ("*", true),
            ("gzip;q=0, *", false),
            ("*;q=0, gzip", true),
            ("*;q=0", false),
            ("br;q=1.0, identity", false),
            ("gzip; q=0.000", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, text.parse().unwrap())]);
            assert_eq!(is_accepted(&headers), expected, "{text}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }

    #[test]
    fn both_forms_say_the_same() {
        let packed = Body::pack(b"seats, seats, seats, seats, seats".repeat(20));
        let (_, gzip) = packed.form(true);
        assert!(gzip.len() < packed.plain().len() / 4);
        assert_eq!(Body::unpack(gzip).unwrap().plain(), packed.plain());
        assert!(Body::unpack(Bytes::from_static(b"seats")).is_err());
    }
}
