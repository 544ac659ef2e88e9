//! Refresh tokens: first what all tokens of a session have in common, then what is good for one
//! renewal. Only digests are stored.
//!
//! The first of a session is random. Each further one follows from the one before and a secret of
//! ours, so that a client whose answer was lost gets the same one again, and nobody else can tell it.

use super::store::RefreshDigests;
use crate::config::Secrets;
use crate::token::derived;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::{Digest, Sha256};

/// What the keys are for, so that they sign nothing else.
const PURPOSE: &[u8] = b"onsale refresh token";
/// Bytes in each part of a token.
const PART_BYTES: usize = 24;
/// Characters of its first part.
const FAMILY_CHARS: usize = PART_BYTES / 3 * 4;

/// See above.
pub struct RefreshToken(String);

impl From<String> for RefreshToken {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl RefreshToken {
    /// The first of a session.
    pub fn new() -> Self {
        let random = || {
            let mut bytes = [0; PART_BYTES];
            rand::rng().fill_bytes(&mut bytes);
            URL_SAFE_NO_PAD.encode(bytes)
        };
        Self(random() + &random())
    }

    /// As its user is told.
    pub fn into_text(self) -> String {
        self.0
    }

    fn family(&self) -> Option<&str> {
        let is_whole = self.0.len() == 2 * FAMILY_CHARS;
        self.0.get(..FAMILY_CHARS).filter(|_| is_whole)
    }

    /// What is stored of it.
    pub fn digests(&self) -> RefreshDigests {
        let digest = |text: &str| Sha256::digest(text.as_bytes()).to_vec();
        RefreshDigests {
            token: digest(&self.0),
            family: digest(self.family().unwrap_or_default()),
        }
    }
}

/// Says what tokens are exchanged for.
pub struct Successors(Vec<Hmac<Sha256>>);

impl Successors {
    /// Under keys that are derived from each of the secrets.
    #[must_use]
    pub fn new(secrets: &Secrets) -> Self {
        let keys = secrets.all().iter();
        Self(keys.map(|secret| derived(secret, PURPOSE)).collect())
    }

    /// The tokens that this one may have been exchanged for: at least one, by the secret that signs
    /// first.
    pub fn of(&self, old: &RefreshToken) -> Vec<RefreshToken> {
        let successor = |key: &Hmac<Sha256>| {
            let part = |name: &[u8]| {
                let mac = key.clone().chain_update(name).chain_update(&old.0);
                URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..PART_BYTES])
            };
            // Tokens from before there were families are shorter; their successors are not.
            let family = old.family().map_or_else(|| part(b"family"), str::to_owned);
            RefreshToken(family + &part(b"next"))
        };
        self.0.iter().map(successor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successors(digits: &str) -> Successors {
        let all: Vec<String> = digits.chars().map(|d| d.to_string().repeat(64)).collect();
        Successors::new(&all.join(",").parse().unwrap())
    }

    #[test]
    fn tokens_of_a_session_have_one_family() {
        let (first, other) = (RefreshToken::new(), RefreshToken::new());
        let second = successors("a").of(&first).remove(0);
        assert_eq!((first.0.len(), second.0.len()), (64, 64));
        assert_eq!(first.digests().family, second.digests().family);
        assert_ne!(first.digests().token, second.digests().token);
        assert_ne!(first.digests().family, other.digests().family);
        // From before there were families, or nonsense.
        for text in ["x".repeat(43), String::new(), "키".repeat(22)] {
            let next = successors("a").of(&RefreshToken(text)).remove(0);
            assert_eq!(next.0.len(), 64);
            assert!(next.family().is_some());
        }
    }

    #[test]
    fn a_token_has_one_successor_under_each_key() {
        let first = RefreshToken::new();
        let of = |digits: &str| -> Vec<String> {
            let all = successors(digits).of(&first).into_iter();
            all.map(RefreshToken::into_text).collect()
        };
        let (old, new) = (of("a").remove(0), of("b").remove(0));
        assert_ne!(old, new);
        assert_eq!(of("ba"), [new, old.clone()]);
        let third = successors("a").of(&RefreshToken(old.clone())).remove(0);
        assert_ne!(third.0, old);
    }
}
