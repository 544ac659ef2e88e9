//! The key that makes a POST safe to repeat, and the digest that notices a key used twice.

use crate::problem::{Code, Problem};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use onsale_schema::message::Fingerprint;
use onsale_schema::{CommandId, UserId};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use uuid::Uuid;

/// The header that carries the key.
pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const ROUTE_USERS: &str = "/api/v1/users";
/// How many characters a key has.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// A client's name for one thing it wants done once.
#[derive(Clone, Debug)]
pub struct IdempotencyKey(HeaderValue);

impl IdempotencyKey {
    fn new(value: &HeaderValue) -> Result<Self, Problem> {
        let bytes = value.as_bytes();
        if LENGTH.contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
            Ok(Self(value.clone()))
        } else {
            Err(Problem::new(Code::IdempotencyKeyInvalid))
        }
    }

    /// The command that this user means by this key on this route.
    #[must_use]
    pub fn command(&self, user: UserId, route_template: &str) -> CommandId {
        CommandId::derive(user, route_template, self.text())
    }

    /// The user that somebody means to become by this key and email (in the form that is compared).
    #[must_use]
    pub fn user(&self, email: &str) -> UserId {
        // Nobody is signed in, and a key that two happen to use must not make them one.
        let key = format!("{} {email}", self.text());
        UserId(CommandId::derive(UserId(Uuid::nil()), ROUTE_USERS, &key).0)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("visible ASCII was checked")
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(*LENGTH.start()))
            .max_length(Some(*LENGTH.end()))
            .pattern(Some("^[!-~]+$"));
        let description = "Names this request, so that it is done once however often it is sent: \
                           the same key with the same body gets the same answer for 24 hours. A \
                           new random UUID is a good key.";
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(schema))
            .example(Some("0b7cf1de-64bb-4a35-a9c4-2cf1e2b2f5d0".into()));
        vec![parameter.build()]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(HEADER).iter();
        match (values.next(), values.next()) {
            (None, _) => Err(Problem::new(Code::IdempotencyKeyMissing)),
            (Some(value), None) => Self::new(value),
            (Some(_), Some(_)) => Err(Problem::new(Code::IdempotencyKeyInvalid)),
        }
    }
}

/// Digests a request: its concrete path, and its body in our own form, so that white space and the
/// order of members don't count.
///
/// # Panics
/// When the body has no JSON form.
#[must_use]
pub fn fingerprint(path: &str, body: &impl Serialize) -> Fingerprint {
    let mut digest = Digester(Sha256::new());
    digest.0.update(path);
    digest.0.update([0]);
    serde_json::to_writer(&mut digest, body).expect("a parsed body has a JSON form");
    let mut first = [0; 16];
    first.copy_from_slice(&digest.0.finalize()[..16]);
    Fingerprint(Uuid::from_bytes(first))
}

struct Digester(Sha256);

impl io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let valid = |text: &'static str| IdempotencyKey::new(&HeaderValue::from_static(text));
        assert!(valid("12345678").is_ok());
        assert!(valid("~!@#$%^&*()").is_ok());
        assert_eq!(
            valid("1234567").unwrap_err().code(),
            Code::IdempotencyKeyInvalid
        );
        assert!(valid("1234 5678").is_err());
        assert!(
            IdempotencyKey::new(&HeaderValue::from_bytes("키키키키".as_bytes()).unwrap()).is_err()
        );
        let long = HeaderValue::from_str(&"k".repeat(129)).unwrap();
        assert!(IdempotencyKey::new(&long).is_err());
        let longest = HeaderValue::from_str(&"k".repeat(128)).unwrap();
        assert!(IdempotencyKey::new(&longest).is_ok());
    }

    #[test]
    fn a_key_is_a_users_and_a_routes() {
        let key = IdempotencyKey::new(&HeaderValue::from_static("12345678")).unwrap();
        let (a, b) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        assert_eq!(key.command(a, "/x"), key.command(a, "/x"));
        assert_ne!(key.command(a, "/x"), key.command(b, "/x"));
        assert_ne!(key.command(a, "/x"), key.command(a, "/y"));
    }

    #[test]
    fn a_new_user_is_a_keys_and_an_emails() {
        let key = |text: &'static str| IdempotencyKey::new(&HeaderValue::from_static(text));
        let user = |text, email| key(text).unwrap().user(email);
        assert_eq!(user("12345678", "a@b.c"), user("12345678", "a@b.c"));
        assert_ne!(user("12345678", "a@b.c"), user("12345678", "d@b.c"));
        assert_ne!(user("12345678", "a@b.c"), user("12345679", "a@b.c"));
    }

    #[test]
    fn fingerprints_depend_on_path_and_body() {
        let one = fingerprint("/a", &["x", "y"]);
        assert_eq!(one, fingerprint("/a", &["x", "y"]));
        assert_ne!(one, fingerprint("/b", &["x", "y"]));
        assert_ne!(one, fingerprint("/a", &["y", "x"]));
    }
}
