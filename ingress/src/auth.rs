//! Access tokens: signed here, checked here, and remembered while they are valid, because checking
//! a signature costs more than the rest of a request's head.
//!
//! There may be several keys: the first signs, all verify, so that a key is replaced without signing
//! anybody out. A token names its key (`kid`, RFC 7515 section 4.1.4).

use crate::config;
use crate::problem::{Code, Problem};
use crate::revocations::Revocations;
use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use onsale_platform::Clock;
use onsale_schema::status::Role;
use onsale_schema::{SessionId, Timestamp, UserId};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who issues tokens and whom they are for.
const ISSUER: &str = "onsale";
const AUDIENCE: &str = "onsale-api";
/// What a token is, so that another kind under the same key is never taken for it (RFC 9068).
const TYPE: &str = "at+jwt";
/// Verified tokens that are remembered.
const CACHED_TOKENS: usize = 1 << 16;
/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 1024;

/// Who makes a request, by a valid access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub id: UserId,
    /// The session that the token belongs to.
    pub session: SessionId,
    /// What the user may do.
    pub role: Role,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: UserId,
    sid: SessionId,
    role: Role,
    iat: i64,
    exp: i64,
}

/// Issues and checks access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    encoding: EncodingKey,
    /// With their ids. The first belongs to `encoding`.
    decoding: Vec<(String, DecodingKey)>,
    validation: Validation,
    header: Header,
    ttl_s: i64,
    clock: Clock,
    verified: Cache<Box<str>, Verified>,
    revocations: Revocations,
}

#[derive(Clone, Copy)]
struct Verified {
    user: User,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl Tokens {
    /// Tokens under the secrets of `settings`, in `clock`'s time.
    #[must_use]
    pub fn new(settings: &config::Auth, clock: Clock) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // By our own clock, below: for a token that is remembered as for one that is new.
        validation.validate_exp = false;
        let secrets = &settings.token_secret;
        let signing = secrets.signing();
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(signing.id());
        let decoding = |secret: &config::Secret| {
            let key = DecodingKey::from_secret(secret.bytes());
            (secret.id(), key)
        };
        Self(Arc::new(Inner {
            encoding: EncodingKey::from_secret(signing.bytes()),
            decoding: secrets.all().iter().map(decoding).collect(),
            validation,
            header,
            ttl_s: settings.access_token_ttl_s,
            clock,
            verified: Cache::new(CACHED_TOKENS),
            revocations: Revocations::default(),
        }))
    }

    /// A new token, and when it expires.
    ///
    /// # Panics
    /// Never: signing with a symmetric key can't fail.
    #[must_use]
    pub fn issue(&self, user: User) -> (String, Timestamp) {
        let issued_s = self.0.clock.now().micros() / 1_000_000;
        let expires_s = issued_s + self.0.ttl_s;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id,
            sid: user.session,
            role: user.role,
            iat: issued_s,
            exp: expires_s,
        };
        let token = jsonwebtoken::encode(&self.0.header, &claims, &self.0.encoding)
            .expect("a symmetric key signs anything");
        (token, at_second(expires_s))
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// `token-invalid` or `token-expired`.
    pub fn verify(&self, token: &str) -> Result<User, Problem> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Problem::new(Code::TokenInvalid));
        }
        let verified = match self.0.verified.get(token) {
            Some(verified) => verified,
            None => {
                let verified = self.verify_signature(token)?;
                self.0.verified.insert(token.into(), verified);
                verified
            }
        };
        if self.0.revocations.contains(verified.user.session) {
            return Err(Problem::new(Code::TokenInvalid));
        }
        if verified.expires_at <= self.0.clock.now()
            || self.0.revocations.forgot(verified.issued_at)
        {
            return Err(Problem::new(Code::TokenExpired));
        }
        Ok(verified.user)
    }

    fn verify_signature(&self, token: &str) -> Result<Verified, Problem> {
        let inner = &*self.0;
        let invalid = || Problem::new(Code::TokenInvalid);
        let kid = jsonwebtoken::decode_header(token)
            .map_err(|_| invalid())?
            .kid;
        // Tokens from before there were several keys name none.
        let keys = inner.decoding.iter();
        let mut keys = keys.filter(|(id, _)| kid.as_ref().is_none_or(|kid| kid == id));
        let data = keys
            .find_map(|(_, key)| jsonwebtoken::decode::<Claims>(token, key, &inner.validation).ok())
            .ok_or_else(invalid)?;
        if data.header.typ.as_deref() != Some(TYPE) {
            return Err(invalid());
        }
        // By today's setting at the latest: revocations are remembered for no longer.
        let latest_s = data.claims.iat.saturating_add(inner.ttl_s);
        Ok(Verified {
            user: User {
                id: data.claims.sub,
                session: data.claims.sid,
                role: data.claims.role,
            },
            issued_at: at_second(data.claims.iat),
            expires_at: at_second(data.claims.exp.min(latest_s)),
        })
    }

    /// The sessions whose tokens are refused.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// No token from before this can be valid at `now`.
    #[must_use]
    pub fn oldest_alive(&self, now: Timestamp) -> Timestamp {
        now.plus_ms(self.0.ttl_s.saturating_mul(-1000))
    }
}

fn at_second(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

/// The access token that a request carries.
///
/// # Errors
/// `token-missing`, or `token-invalid` when it is of another kind.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| Problem::new(Code::TokenMissing))?;
    let invalid = || Problem::new(Code::TokenInvalid);
    let text = value.to_str().map_err(|_| invalid())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(invalid)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    use onsale_platform::clock;
    use onsale_schema::message::Revocation;
    use uuid::Uuid;

    fn settings() -> config::Auth {
        config::Auth {
            token_secret: "ab".repeat(32).parse().unwrap(),
            access_token_ttl_s: 3600,
            refresh_token_ttl_s: 1,
            password_hashes_max: 1,
        }
    }

    fn tokens() -> Tokens {
        Tokens::new(&settings(), Clock::default())
    }

    fn user() -> User {
        User {
            id: UserId(Uuid::from_u128(7)),
            session: SessionId(Uuid::from_u128(8)),
            role: Role::Buyer,
        }
    }

    fn claims(exp: i64) -> Claims {
        Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: user().id,
            sid: user().session,
            role: Role::Buyer,
            iat: exp - 60,
            exp,
        }
    }

    fn sign(header: &Header, claims: &Claims) -> String {
        let key = EncodingKey::from_secret(settings().token_secret.signing().bytes());
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    fn refused(token: &str) -> Code {
        tokens().verify(token).unwrap_err().code()
    }

    fn soon() -> i64 {
        clock::host_now().micros() / 1_000_000 + 60
    }

    #[test]
    fn ours_are_taken_also_from_another_process_and_again() {
        let (token, expires_at) = tokens().issue(user());
        assert!(expires_at > clock::host_now());
        let other = tokens();
        assert_eq!(other.verify(&token).unwrap(), user());
        assert_eq!(other.verify(&token).unwrap(), user());
    }

    #[test]
    fn edited_and_foreign_ones_are_not() {
        let (token, _) = tokens().issue(user());
        let parts: Vec<&str> = token.split('.').collect();
        let payload = BASE64.decode(parts[1]).unwrap();
        let edited = String::from_utf8(payload)
            .unwrap()
            .replace("buyer", "admin");
        let edited = format!("{}.{}.{}", parts[0], BASE64.encode(edited), parts[2]);
        assert_eq!(refused(&edited), Code::TokenInvalid);

        let none = BASE64.encode(r#"{"typ":"at+jwt","alg":"none"}"#);
        assert_eq!(
            refused(&format!("{none}.{}.", parts[1])),
            Code::TokenInvalid
        );
        assert_eq!(
            refused(&format!("{none}.{}.{}", parts[1], parts[2])),
            Code::TokenInvalid
        );

        let mut other = settings();
        other.token_secret = "cd".repeat(32).parse().unwrap();
        let (foreign, _) = Tokens::new(&other, Clock::default()).issue(user());
        assert_eq!(refused(&foreign), Code::TokenInvalid);
        for garbage in ["", "x", "..", &"x".repeat(5000)] {
            assert_eq!(refused(garbage), Code::TokenInvalid);
        }
    }

    #[test]
    fn the_claims_and_the_header_must_be_ours() {
        let ours = tokens().0.header.clone();
        assert!(tokens().verify(&sign(&ours, &claims(soon()))).is_ok());
        let wrong_audience = Claims {
            aud: "other".into(),
            ..claims(soon())
        };
        assert_eq!(refused(&sign(&ours, &wrong_audience)), Code::TokenInvalid);
        let wrong_issuer = Claims {
            iss: "other".into(),
            ..claims(soon())
        };
        assert_eq!(refused(&sign(&ours, &wrong_issuer)), Code::TokenInvalid);
        let plain = Header::new(Algorithm::HS256);
        assert_eq!(refused(&sign(&plain, &claims(soon()))), Code::TokenInvalid);
        let mut longer = Header::new(Algorithm::HS512);
        longer.typ = Some(TYPE.into());
        assert_eq!(refused(&sign(&longer, &claims(soon()))), Code::TokenInvalid);
    }

    #[test]
    fn expiry_has_no_leeway_and_counts_for_remembered_ones() {
        let header = tokens().0.header.clone();
        let now_s = clock::host_now().micros() / 1_000_000;
        assert_eq!(refused(&sign(&header, &claims(now_s))), Code::TokenExpired);

        let clock = Clock::default();
        let tokens = Tokens::new(&settings(), clock.clone());
        let (token, expires_at) = tokens.issue(user());
        assert!(tokens.verify(&token).is_ok());
        let now = clock::host_now();
        clock.observe(now, expires_at.plus_ms(1), now);
        assert_eq!(
            tokens.verify(&token).unwrap_err().code(),
            Code::TokenExpired
        );
    }

    #[test]
    fn a_signed_out_session_is_refused() {
        let tokens = tokens();
        let (token, _) = tokens.issue(user());
        assert!(tokens.verify(&token).is_ok());
        tokens.revocations().insert([Revocation {
            session: user().session,
            at: clock::host_now(),
        }]);
        assert_eq!(
            tokens.verify(&token).unwrap_err().code(),
            Code::TokenInvalid
        );
    }

    #[test]
    fn a_key_is_replaced_without_signing_anybody_out() {
        let under = |secrets: &[&str]| {
            let secrets: Vec<String> = secrets.iter().map(|two| two.repeat(32)).collect();
            let mut settings = settings();
            settings.token_secret = secrets.join(",").parse().unwrap();
            Tokens::new(&settings, Clock::default())
        };
        let (old, both, new) = (under(&["ab"]), under(&["cd", "ab"]), under(&["cd"]));
        let (of_old, of_both) = (old.issue(user()).0, both.issue(user()).0);
        let knows = |tokens: &Tokens, token: &str| tokens.verify(token).is_ok();
        assert_eq!((knows(&old, &of_old), knows(&old, &of_both)), (true, false));
        assert_eq!(
            (knows(&both, &of_old), knows(&both, &of_both)),
            (true, true)
        );
        assert_eq!((knows(&new, &of_old), knows(&new, &of_both)), (false, true));

        let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        assert_ne!(kid(&of_old), kid(&of_both));
        assert_eq!(kid(&of_both), kid(&new.issue(user()).0));
        assert!(!kid(&of_old).contains("abab"));
        // One that names another key than it is signed with.
        let mut lying = old.0.header.clone();
        lying.kid = both.0.header.kid.clone();
        assert!(!knows(&both, &sign(&lying, &claims(soon()))));
        // One from before there were several keys.
        let mut nameless = old.0.header.clone();
        nameless.kid = None;
        assert!(knows(&both, &sign(&nameless, &claims(soon()))));
    }

    #[test]
    fn a_shorter_life_counts_for_tokens_that_are_out() {
        let (token, _) = tokens().issue(user());
        let mut settings = settings();
        settings.access_token_ttl_s = -1;
        let refused = Tokens::new(&settings, Clock::default()).verify(&token);
        assert_eq!(refused.unwrap_err().code(), Code::TokenExpired);
    }

    #[test]
    fn bearer_headers() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, text.parse().unwrap())]);
            bearer(&headers).map(str::to_owned).map_err(|p| p.code())
        };
        assert_eq!(of("Bearer x"), Ok("x".into()));
        assert_eq!(of("bearer x"), Ok("x".into()));
        assert_eq!(of("Basic x"), Err(Code::TokenInvalid));
        assert_eq!(of("Bearer"), Err(Code::TokenInvalid));
        assert_eq!(
            bearer(&HeaderMap::new()).unwrap_err().code(),
            Code::TokenMissing
        );
    }
}
