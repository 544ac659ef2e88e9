//! Users and their sessions: sign up, sign in, renew, sign out. The ingress alone writes them.

mod refresh_token;
pub mod store;

use crate::address::ClientAddress;
use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::JsonBody;
use crate::idempotency::IdempotencyKey;
use crate::ids;
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onsale_platform::db::{self, Pool};
use onsale_platform::metric;
use onsale_schema::message::{Revocation, encode};
use onsale_schema::status::Role;
use onsale_schema::{SessionId, Timestamp, UserId};
use refresh_token::RefreshToken;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{NewSession, NewUser};
use utoipa::ToSchema;

pub use refresh_token::Successors;

const EMAIL_BYTES_MAX: usize = 254;
const NAME_CHARS: std::ops::RangeInclusive<usize> = 1..=100;
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=256;
/// How long after a renewal the token that was exchanged may come again without being taken for
/// stolen, in seconds. It is answered with its successor again, as long as that was not used.
const REUSE_GRACE_S: i64 = 10;
/// How long a sign-out waits until its word is on the way to the other ingresses. They read it from
/// Postgres within a second in any case.
const ANNOUNCE: Duration = Duration::from_millis(250);

/// Who wants to become a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignUp {
    /// Compared without regard to case.
    #[schema(format = "email", max_length = 254, example = "buyer@example.com")]
    email: String,
    #[schema(min_length = 1, max_length = 100, example = "김하늘")]
    name: String,
    #[schema(format = Password, min_length = 8, max_length = 256)]
    password: String,
}

/// Who wants to sign in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignIn {
    #[schema(example = "buyer@example.com")]
    email: String,
    #[schema(format = Password)]
    password: String,
}

/// A session that is to go on, or to end.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Renewal {
    /// The session's refresh token; each is good for one renewal.
    refresh_token: String,
}

/// A user that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = NewUser)]
#[serde(rename_all = "camelCase")]
struct NewUserView {
    user_id: UserId,
}

/// A user, as told to themselves.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
#[serde(rename_all = "camelCase")]
struct UserView {
    user_id: UserId,
    email: String,
    name: String,
    role: Role,
}

impl SignUp {
    fn validate(&self, email: &str) -> Result<(), Problem> {
        let name = self.name.trim();
        let checks = [
            ("/email", is_email(email)),
            (
                "/name",
                NAME_CHARS.contains(&name.chars().count()) && !name.chars().any(char::is_control),
            ),
            (
                "/password",
                PASSWORD_CHARS.contains(&self.password.chars().count()),
            ),
        ];
        let errors: Vec<FieldError> = checks
            .into_iter()
            .filter(|(_, valid)| !valid)
            .map(|(pointer, _)| FieldError::at(pointer, "invalid-value"))
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::validation(errors))
        }
    }
}

/// An email as it is stored and compared.
fn normalized(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Whether it looks like an email: whether it is one, only a letter could tell.
fn is_email(text: &str) -> bool {
    let plain =
        text.len() <= EMAIL_BYTES_MAX && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let mut labels = domain.split('.');
    plain
        && !local.is_empty()
        && !domain.contains('@')
        && domain.contains('.')
        && labels.all(|label| !label.is_empty())
}

/// Sign up
///
/// Makes a user who may buy.
#[utoipa::path(post, path = "/users", operation_id = "createUser", tag = "Users",
    params(IdempotencyKey), request_body = SignUp,
    extensions(("x-problems" = json!([Code::EmailTaken, Code::Overloaded]))),
    responses((status = 201, description = "The user", body = NewUserView,
        headers(("Location" = String, description = "The user's own page")))))]
pub async fn create(
    State(app): State<App>,
    key: IdempotencyKey,
    from: ClientAddress,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: SignUp = body.parse()?;
    let email = normalized(&wanted.email);
    wanted.validate(&email)?;
    app.sign_ins.admit_sign_up(from)?;
    let user = NewUser {
        user_id: key.user(&email),
        email,
        name: wanted.name.trim().to_owned(),
        password_hash: app.passwords.hash(wanted.password.clone()).await?,
        role: Role::Buyer,
    };
    if !store::user_insert(&app.pool, &user).await? {
        is_same(&app, &user, wanted.password, from).await?;
    }
    let view = NewUserView {
        user_id: user.user_id,
    };
    Ok(Answer::created(Some("/api/v1/users/me".into()), &view)?.into_response())
}

/// Refuses unless the user who is there is the one that is to be made: its first answer was lost. This
/// tells whether a password is right, as a sign-in does, and so counts as one.
async fn is_same(
    app: &App,
    user: &NewUser,
    password: String,
    from: ClientAddress,
) -> Result<(), Problem> {
    let known = store::user_find(&app.pool, user.user_id).await?;
    let known = known.ok_or_else(|| Problem::new(Code::EmailTaken))?;
    app.sign_ins.admit_sign_in(&user.email, from)?;
    let credentials = store::credentials_find(&app.pool, &user.email).await?;
    let hash = credentials.map(|credentials| credentials.password_hash);
    if known.name == user.name && app.passwords.check(password, hash).await? {
        Ok(())
    } else {
        Err(Problem::new(Code::IdempotencyKeyReused))
    }
}

/// Who am I
#[utoipa::path(get, path = "/users/me", operation_id = "getMe", tag = "Users",
    responses((status = 200, description = "The user", body = UserView)))]
pub async fn me(State(app): State<App>, user: User) -> Result<Response, Problem> {
    let row = store::user_find(&app.pool, user.id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::TokenInvalid))?;
    answer::ok(&UserView {
        user_id: row.user_id,
        email: row.email,
        name: row.name,
        role: row.role,
    })
}

/// A signed-in session, as told to its user.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
#[serde(rename_all = "camelCase")]
struct SessionView {
    /// To be sent as `Authorization: Bearer …`.
    access_token: String,
    /// When the access token expires.
    expires_at: Timestamp,
    /// For one renewal.
    refresh_token: String,
    /// Now, by our clock.
    server_time: Timestamp,
}

/// Sign in
#[utoipa::path(post, path = "/sessions", operation_id = "createSession", tag = "Sessions",
    request_body = SignIn, extensions(("x-problems" = json!([Code::CredentialsInvalid, Code::Overloaded]))),
    responses((status = 201, description = "A session", body = SessionView)))]
pub async fn sign_in(
    State(app): State<App>,
    from: ClientAddress,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: SignIn = body.parse()?;
    let refused = || Problem::new(Code::CredentialsInvalid);
    let email = normalized(&wanted.email);
    // Neither can belong to anybody, which is no secret.
    if !is_email(&email) || !PASSWORD_CHARS.contains(&wanted.password.chars().count()) {
        return Err(refused());
    }
    app.sign_ins.admit_sign_in(&email, from)?;
    let known = store::credentials_find(&app.pool, &email).await?;
    let hash = known.as_ref().map(|known| known.password_hash.clone());
    let matches = app.passwords.check(wanted.password, hash).await?;
    let known = known.filter(|_| matches).ok_or_else(refused)?;
    app.sign_ins.succeeded(&email, from);
    let refresh = RefreshToken::new();
    let digests = refresh.digests();
    let now = app.clock.now();
    let session = NewSession {
        session_id: SessionId(ids::new_v7(now)),
        user_id: known.user_id,
        refresh_digest: digests.token,
        family_digest: digests.family,
        expires_at: refresh_end(&app, now),
    };
    store::session_insert(&app.pool, &session).await?;
    let user = User {
        id: known.user_id,
        session: session.session_id,
        role: known.role,
    };
    signed_in(&app, user, refresh)
}

/// Renew a session
///
/// Gives new tokens for a refresh token, which is used up by that. If the answer is lost, the same
/// token gives the same new one for ten seconds more, unless that was used. After that, or once there
/// is a newer one, who comes with it is taken for a thief, and the session ends.
#[utoipa::path(post, path = "/sessions/refresh", operation_id = "refreshSession", tag = "Sessions",
    request_body = Renewal, extensions(("x-problems" = json!([Code::TokenInvalid]))),
    responses((status = 201, description = "The session goes on", body = SessionView)))]
pub async fn refresh(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let wanted: Renewal = body.parse()?;
    let token = RefreshToken::from(wanted.refresh_token);
    let mut successors = app.successors.of(&token);
    let old = token.digests();
    let now = app.clock.now();
    let (end, new) = (refresh_end(&app, now), successors[0].digests());
    if let Some(user) = store::session_renew(&app.pool, &old, &new, now, end).await? {
        return signed_in(&app, user, successors.swap_remove(0));
    }
    // Under whichever key it was renewed.
    for new in successors {
        let digests = new.digests();
        let renewed = store::session_renewed(&app.pool, &old, &digests, REUSE_GRACE_S).await?;
        if let Some(user) = renewed {
            return signed_in(&app, user, new);
        }
    }
    let reused = store::session_revoke_reused(&app.pool, &old, REUSE_GRACE_S).await?;
    if let Some(revocation) = reused {
        tracing::warn!(session = %revocation.session, "a refresh token was used again; its session is ended");
        announce(&app, revocation, "reuse").await;
    }
    Err(Problem::new(Code::TokenInvalid))
}

/// Sign out
///
/// Ends the session of the access token: neither token is good for anything any more. When the access
/// token has expired, `POST /sessions/revoke` does the same.
#[utoipa::path(delete, path = "/sessions", operation_id = "deleteSession", tag = "Sessions",
    responses((status = 204, description = "Signed out")))]
pub async fn sign_out(State(app): State<App>, user: User) -> Result<Response, Problem> {
    let revoked = store::session_revoke(&app.pool, user.session).await?;
    // Ended already, and known to be soon; here and now in any case.
    let revocation = revoked.unwrap_or(Revocation {
        session: user.session,
        at: app.clock.now(),
    });
    announce(&app, revocation, "sign-out").await;
    Ok(Answer::done().into_response())
}

/// Sign out by the refresh token
///
/// Ends its session, also when its access token has expired. A token that is good for nothing is
/// answered the same (RFC 7009 section 2.2).
#[utoipa::path(post, path = "/sessions/revoke", operation_id = "revokeSession", tag = "Sessions",
    request_body = Renewal, responses((status = 204, description = "Signed out")))]
pub async fn revoke(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let wanted: Renewal = body.parse()?;
    let digests = RefreshToken::from(wanted.refresh_token).digests();
    if let Some(revocation) = store::session_revoke_by_token(&app.pool, &digests).await? {
        announce(&app, revocation, "sign-out").await;
    }
    Ok(Answer::done().into_response())
}

/// Makes a session for each of these users, as if they had signed in, and returns their refresh tokens
/// in the same order. For demo data only: nobody is asked for a password. `ttl_ms` is how long they may
/// be renewed.
///
/// # Errors
/// When the database refuses.
pub async fn open_sessions(
    pool: &Pool,
    users: &[UserId],
    now: Timestamp,
    ttl_ms: i64,
) -> Result<Vec<String>, db::Error> {
    let tokens: Vec<RefreshToken> = users.iter().map(|_| RefreshToken::new()).collect();
    let sessions: Vec<NewSession> = users
        .iter()
        .zip(&tokens)
        .map(|(user_id, token)| {
            let digests = token.digests();
            NewSession {
                session_id: SessionId(ids::new_v7(now)),
                user_id: *user_id,
                refresh_digest: digests.token,
                family_digest: digests.family,
                expires_at: now.plus_ms(ttl_ms),
            }
        })
        .collect();
    store::session_insert_new(pool, &sessions).await?;
    Ok(tokens.into_iter().map(RefreshToken::into_text).collect())
}

/// Makes a stored revocation count at every ingress, now.
async fn announce(app: &App, revocation: Revocation, reason: &'static str) {
    app.tokens.revocations().insert([revocation]);
    metrics::counter!(metric::SESSIONS_REVOKED, "reason" => reason).increment(1);
    let subject = app.subjects.revocations();
    let sent = async {
        let published = app.nats.publish(subject, encode(&revocation).into());
        // Else it would only be queued, and the answer could be there before the word is on its way.
        published.await.is_ok() && app.nats.flush().await.is_ok()
    };
    // When NATS is away it can't be sent.
    if !matches!(tokio::time::timeout(ANNOUNCE, sent).await, Ok(true)) {
        tracing::warn!("a revocation could not be told to the other ingresses; they will read it");
    }
}

fn refresh_end(app: &App, now: Timestamp) -> Timestamp {
    now.plus_ms(app.refresh_token_ttl_s.saturating_mul(1000))
}

fn signed_in(app: &App, user: User, refresh: RefreshToken) -> Result<Response, Problem> {
    let (access_token, expires_at) = app.tokens.issue(user);
    let view = SessionView {
        access_token,
        expires_at,
        refresh_token: refresh.into_text(),
        server_time: app.clock.now(),
    };
    Ok(Answer::created(None, &view)?.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails() {
        assert_eq!(normalized("  Kim@Example.COM "), "kim@example.com");
        for good in ["a@b.c", "first.last+tag@sub.example.org", "키@예.한국"] {
            assert!(is_email(good), "{good}");
        }
        let long = format!("{}@b.c", "a".repeat(251));
        for bad in [
            "", "a", "@b.c", "a@", "a@b", "a@b.", "a@.c", "a@@b.c", "a@b@c.d", "a b@c.d",
            "a\0@b.c", &long,
        ] {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn sign_ups() {
        let errors = |email: &str, name: &str, password: &str| {
            let wanted = SignUp {
                email: email.into(),
                name: name.into(),
                password: password.into(),
            };
            wanted.validate(&normalized(email)).is_err()
        };
        assert!(!errors("a@b.c", "김", "12345678"));
        assert!(errors("a", "김", "12345678"));
        assert!(errors("a@b.c", "  ", "12345678"));
        assert!(errors("a@b.c", "a\0b", "12345678"));
        assert!(errors("a@b.c", &"x".repeat(101), "12345678"));
        assert!(errors("a@b.c", "김", "1234567"));
        assert!(errors("a@b.c", "김", &"x".repeat(257)));
    }
}
