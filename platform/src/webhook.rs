//! Signed notifications over HTTP, as the Standard Webhooks specification 1.0 has them: what is
//! signed is `id.timestamp.body` with HMAC-SHA256, so that neither of the three can be changed, and
//! an old one can't be sent again later than the tolerance.
//!
//! The body is the raw bytes, before anybody reads them: what is not signed is not looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;

/// Names the notification; the same one sent again has the same id.
pub const ID: &str = "webhook-id";
/// When this attempt was sent, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// One or more signatures with spaces between them, each `v1,<base64>`.
pub const SIGNATURE: &str = "webhook-signature";
/// How far the time of a notification may be from ours, in seconds, if nothing else is set.
pub const TOLERANCE_S: u64 = 300;

/// What a secret begins with where it is written.
const SECRET_PREFIX: &str = "whsec_";
/// What a signature of this kind begins with.
const VERSION: &str = "v1,";
/// How many bytes a key has, at least and at most; the specification's bounds.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The most signatures that are looked at.
const SIGNATURES_MAX: usize = 16;

/// A key that sender and receiver share. It is shown by [`Secret::expose`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Not a secret as the specification writes one. It is not repeated here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is whsec_ and 24 to 64 bytes in base64")]
pub struct InvalidSecret;

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(InvalidSecret)?;
        let key = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        Self::of_bytes(&key)
    }
}

impl Secret {
    /// A secret of random bytes, or of those that were stored.
    ///
    /// # Errors
    /// When there are fewer than 24 or more than 64.
    pub fn of_bytes(key: &[u8]) -> Result<Self, InvalidSecret> {
        if KEY_BYTES.contains(&key.len()) {
            Ok(Self(key.to_vec()))
        } else {
            Err(InvalidSecret)
        }
    }

    /// The key's bytes, to be stored.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As it is written for whoever has to know it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.0))
    }

    fn mac(&self, id: &str, timestamp_s: u64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        mac
    }
}

/// The value of [`SIGNATURE`]: a signature by each secret, so that a receiver who knows only the
/// older or only the newer one can verify it. The id must not have a dot.
#[must_use]
pub fn sign(secrets: &[Secret], id: &str, timestamp_s: u64, body: &[u8]) -> String {
    let signature = |secret: &Secret| {
        let mac = secret.mac(id, timestamp_s, body).finalize();
        format!("{VERSION}{}", STANDARD.encode(mac.into_bytes()))
    };
    let all: Vec<String> = secrets.iter().map(signature).collect();
    all.join(" ")
}

/// Why a notification is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A header is missing or is not what it should be.
    #[error("the webhook headers are missing or malformed")]
    Malformed,
    /// It was signed too long ago, or not yet.
    #[error("the webhook's time is too far from ours")]
    Stale,
    /// No signature is by any of the secrets.
    #[error("no signature of the webhook is by a secret that is known")]
    Unsigned,
}

/// Whether a notification is by somebody who knows one of the secrets, and recent. The headers'
/// values come as they were sent; `now_s` is in seconds since 1970.
///
/// # Errors
/// Why not.
pub fn verify(
    secrets: &[Secret],
    headers: Headers<'_>,
    body: &[u8],
    now_s: u64,
    tolerance_s: u64,
) -> Result<(), Invalid> {
    let Headers {
        id,
        timestamp,
        signature,
    } = headers;
    if id.is_empty() || id.contains('.') {
        return Err(Invalid::Malformed);
    }
    let is_plain = !timestamp.is_empty() && timestamp.bytes().all(|b| b.is_ascii_digit());
    let timestamp_s = timestamp
        .parse::<u64>()
        .ok()
        .filter(|_| is_plain)
        .ok_or(Invalid::Malformed)?;
    let signatures: Vec<Vec<u8>> = signature
        .split(' ')
        .take(SIGNATURES_MAX)
        .filter_map(|one| one.strip_prefix(VERSION))
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .collect();
    if signatures.is_empty() {
        return Err(Invalid::Malformed);
    }
    let is_signed = secrets.iter().any(|secret| {
        let mac = secret.mac(id, timestamp_s, body);
        // In constant time, each.
        let mut each = signatures.iter();
        each.any(|signature| mac.clone().verify_slice(signature).is_ok())
    });
    if !is_signed {
        return Err(Invalid::Unsigned);
    }
    if now_s.abs_diff(timestamp_s) > tolerance_s {
        return Err(Invalid::Stale);
    }
    Ok(())
}

/// The three headers of a notification.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// Of [`ID`].
    pub id: &'a str,
    /// Of [`TIMESTAMP`].
    pub timestamp: &'a str,
    /// Of [`SIGNATURE`].
    pub signature: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT_S: u64 = 1_614_265_330;

    fn secret(byte: u8) -> Secret {
        Secret::of_bytes(&[byte; 24]).unwrap()
    }

    fn check(
        secrets: &[Secret],
        signature: &str,
        timestamp: &str,
        now_s: u64,
    ) -> Result<(), Invalid> {
        let headers = Headers {
            id: ID,
            timestamp,
            signature,
        };
        verify(secrets, headers, BODY, now_s, TOLERANCE_S)
    }

    /// The example that the specification's own libraries are tested with.
    #[test]
    fn it_signs_as_the_specification_says() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        assert_eq!(
            sign(std::slice::from_ref(&secret), ID, AT_S, BODY),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(secret.expose(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert!(!format!("{secret:?}").contains("MfKQ"));
    }

    #[test]
    fn old_and_new_secret_are_both_good_while_they_overlap() {
        let (old, new) = (secret(1), secret(2));
        let both = sign(&[new.clone(), old.clone()], ID, AT_S, BODY);
        let at = AT_S.to_string();
        for known in [vec![old.clone()], vec![new.clone()], vec![new, old]] {
            assert_eq!(check(&known, &both, &at, AT_S), Ok(()));
        }
        assert_eq!(
            check(&[secret(3)], &both, &at, AT_S),
            Err(Invalid::Unsigned)
        );
    }

    #[test]
    fn what_is_changed_old_or_malformed_is_not_believed() {
        let key = [secret(1)];
        let good = sign(&key, ID, AT_S, BODY);
        let at = AT_S.to_string();
        assert_eq!(check(&key, &good, &at, AT_S + TOLERANCE_S), Ok(()));
        assert_eq!(check(&key, &good, &at, AT_S - TOLERANCE_S), Ok(()));
        for now_s in [AT_S + TOLERANCE_S + 1, AT_S - TOLERANCE_S - 1] {
            assert_eq!(check(&key, &good, &at, now_s), Err(Invalid::Stale));
        }
        let later = (AT_S + 1).to_string();
        assert_eq!(check(&key, &good, &later, AT_S), Err(Invalid::Unsigned));
        let headers = Headers {
            id: ID,
            timestamp: &at,
            signature: &good,
        };
        let other = verify(&key, headers, b"{}", AT_S, TOLERANCE_S);
        assert_eq!(other, Err(Invalid::Unsigned));
        let other_id = Headers {
            id: "msg_2",
            ..headers
        };
        let other = verify(&key, other_id, BODY, AT_S, TOLERANCE_S);
        assert_eq!(other, Err(Invalid::Unsigned));
        for (signature, timestamp) in [
            ("", at.as_str()),
            ("v2,AAAA", &at),
            ("v1,not base64", &at),
            (&good, ""),
            (&good, "+1614265330"),
            (&good, "soon"),
        ] {
            let found = check(&key, signature, timestamp, AT_S);
            assert_eq!(found, Err(Invalid::Malformed), "{signature} {timestamp}");
        }
    }

    #[test]
    fn a_secret_has_its_form() {
        for wrong in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_%",
        ] {
            assert_eq!(wrong.parse::<Secret>(), Err(InvalidSecret), "{wrong}");
        }
        assert!(Secret::of_bytes(&[0; 65]).is_err());
    }
}
