//! The only writer of `app_user` and `session`.

use crate::auth::User;
use diesel::prelude::{Insertable, Queryable};
use diesel::sql_types::{BigInt, Binary, Text, Uuid as SqlUuid};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, OptionalExtension,
    QueryDsl, QueryableByName,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::message::Revocation;
use onsale_schema::status::Role;
use onsale_schema::tables::{app_user, session};
use onsale_schema::{SessionId, Timestamp, UserId};

diesel::define_sql_function! {
    /// Postgres' own.
    fn lower(text: Text) -> Text;
}
diesel::define_sql_function! {
    /// Postgres' own: the present, also within a transaction.
    fn clock_timestamp() -> Timestamptz;
}

/// A user to be made.
#[derive(Insertable)]
#[diesel(table_name = app_user)]
pub struct NewUser {
    /// The id.
    pub user_id: UserId,
    /// Trimmed and in lower case.
    pub email: String,
    /// What the user is called.
    pub name: String,
    /// See [`crate::password::hash`].
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
}

/// A session to be made.
#[derive(Insertable)]
#[diesel(table_name = session)]
pub struct NewSession {
    /// The id.
    pub session_id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// SHA-256 of the refresh token.
    pub refresh_digest: Vec<u8>,
    /// SHA-256 of the part of it that all refresh tokens of the session have in common.
    pub family_digest: Vec<u8>,
    /// When it can't be renewed any more.
    pub expires_at: Timestamp,
}

/// A user.
#[derive(Queryable)]
pub struct UserRow {
    /// The id.
    pub user_id: UserId,
    /// The email.
    pub email: String,
    /// The name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
}

/// What signing in needs.
#[derive(Queryable)]
pub struct Credentials {
    /// The id.
    pub user_id: UserId,
    /// What the user may do.
    pub role: Role,
    /// The password's hash.
    pub password_hash: String,
}

/// Makes a user, unless the email has one; whether it did.
///
/// # Errors
/// When the database can't be asked.
pub async fn user_insert(pool: &Pool, user: &NewUser) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let inserted = diesel::insert_into(app_user::table)
        .values(user)
        .on_conflict_do_nothing()
        .execute(&mut conn)
        .await?;
    Ok(inserted == 1)
}

/// Makes users whose emails are new, and leaves the others as they are; for demo data.
///
/// # Errors
/// When the database can't be asked.
pub async fn user_insert_new(pool: &Pool, users: &[NewUser]) -> Result<usize, Error> {
    let mut conn = pool.get().await?;
    let inserted = diesel::insert_into(app_user::table)
        .values(users)
        .on_conflict_do_nothing()
        .execute(&mut conn)
        .await?;
    Ok(inserted)
}

/// A user by id.
///
/// # Errors
/// When the database can't be asked.
pub async fn user_find(pool: &Pool, id: UserId) -> Result<Option<UserRow>, Error> {
    let mut conn = pool.get().await?;
    let row = app_user::table
        .find(id)
        .select((
            app_user::user_id,
            app_user::email,
            app_user::name,
            app_user::role,
        ))
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// What signing in with an email (trimmed, in lower case) needs.
///
/// # Errors
/// When the database can't be asked.
pub async fn credentials_find(pool: &Pool, email: &str) -> Result<Option<Credentials>, Error> {
    let mut conn = pool.get().await?;
    let row = app_user::table
        .filter(lower(app_user::email).eq(email))
        .select((app_user::user_id, app_user::role, app_user::password_hash))
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// Makes a session.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_insert(pool: &Pool, new: &NewSession) -> Result<(), db::Error> {
    let mut conn = pool.get().await?;
    diesel::insert_into(session::table)
        .values(new)
        .execute(&mut conn)
        .await?;
    Ok(())
}

/// Makes sessions; for demo data.
///
/// # Errors
/// When the database can't be asked, or a session is there already.
pub async fn session_insert_new(pool: &Pool, new: &[NewSession]) -> Result<(), db::Error> {
    let mut conn = pool.get().await?;
    diesel::insert_into(session::table)
        .values(new)
        .execute(&mut conn)
        .await?;
    Ok(())
}

/// The digests of a refresh token.
pub struct RefreshDigests {
    /// Of all of it.
    pub token: Vec<u8>,
    /// Of the part that all refresh tokens of its session have in common.
    pub family: Vec<u8>,
}

/// Exchanges a live session's refresh token for another, and says whose it is. Of two renewals with
/// one token, one finds it.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_renew(
    pool: &Pool,
    old: &RefreshDigests,
    new: &RefreshDigests,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<Option<User>, db::Error> {
    let mut conn = pool.get().await?;
    let live = session::table
        .filter(session::refresh_digest.eq(&old.token))
        .filter(session::revoked_at.is_null())
        .filter(session::expires_at.gt(now));
    let renewed: Option<(SessionId, UserId)> = diesel::update(live)
        .set((
            session::previous_digest.eq(session::refresh_digest.nullable()),
            session::refresh_digest.eq(&new.token),
            session::family_digest.eq(&new.family),
            session::renewed_at.eq(clock_timestamp().nullable()),
            session::expires_at.eq(expires_at),
        ))
        .returning((session::session_id, session::user_id))
        .get_result(&mut conn)
        .await
        .optional()?;
    let Some((session, user)) = renewed else {
        return Ok(None);
    };
    let role = app_user::table
        .find(user)
        .select(app_user::role)
        .first(&mut conn)
        .await?;
    Ok(Some(User {
        id: user,
        session,
        role,
    }))
}

/// Whose a session is that was renewed in the last `grace_s`, from `old` to `new`, and not since: the
/// answer was lost, or two asked at once.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_renewed(
    pool: &Pool,
    old: &RefreshDigests,
    new: &RefreshDigests,
    grace_s: i64,
) -> Result<Option<User>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        session_id: SessionId,
        #[diesel(sql_type = SqlUuid)]
        user_id: UserId,
        #[diesel(sql_type = Text)]
        role: Role,
    }
    let renewed = statement(
        "SELECT session_id, user_id, role FROM session JOIN app_user USING (user_id) \
         WHERE refresh_digest = $1 AND previous_digest = $2 AND revoked_at IS NULL \
             AND expires_at > clock_timestamp() \
             AND renewed_at > clock_timestamp() - $3 * interval '1 second'",
    );
    let mut conn = pool.get().await?;
    let row: Option<Row> = renewed
        .bind::<Binary, _>(&new.token)
        .bind::<Binary, _>(&old.token)
        .bind::<BigInt, _>(grace_s)
        .get_result(&mut conn)
        .await
        .optional()?;
    Ok(row.map(|row| User {
        id: row.user_id,
        session: row.session_id,
        role: row.role,
    }))
}

/// Ends a session; none when it had ended before, or is unknown.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_revoke(pool: &Pool, id: SessionId) -> Result<Option<Revocation>, db::Error> {
    let mut conn = pool.get().await?;
    let live = session::table
        .find(id)
        .filter(session::revoked_at.is_null());
    let revoked_at: Option<Option<Timestamp>> = diesel::update(live)
        .set(session::revoked_at.eq(clock_timestamp().nullable()))
        .returning(session::revoked_at)
        .get_result(&mut conn)
        .await
        .optional()?;
    let at = revoked_at.flatten();
    Ok(at.map(|at| Revocation { session: id, at }))
}

/// Ends the session to which a refresh token belonged that was exchanged before: either this one or
/// the one who exchanged it is a thief, and nobody can tell which (RFC 9700 section 4.14.2). For
/// `grace_s` after an exchange the token that was exchanged is let go: two tabs renewed at once, or
/// an answer was lost and the client asked again.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_revoke_reused(
    pool: &Pool,
    old: &RefreshDigests,
    grace_s: i64,
) -> Result<Option<Revocation>, db::Error> {
    let reused = statement(
        "UPDATE session SET revoked_at = clock_timestamp() \
         WHERE family_digest = $1 AND revoked_at IS NULL AND refresh_digest <> $2 \
             AND NOT (previous_digest = $2 \
                      AND renewed_at > clock_timestamp() - $3 * interval '1 second') \
         RETURNING session_id, revoked_at",
    );
    let mut conn = pool.get().await?;
    let row: Option<Ended> = reused
        .bind::<Binary, _>(&old.family)
        .bind::<Binary, _>(&old.token)
        .bind::<BigInt, _>(grace_s)
        .get_result(&mut conn)
        .await
        .optional()?;
    Ok(row.and_then(Ended::revocation))
}

/// Ends the session to which a refresh token belongs, or has belonged; none when there is none that
/// was not ended before.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_revoke_by_token(
    pool: &Pool,
    token: &RefreshDigests,
) -> Result<Option<Revocation>, db::Error> {
    let ended = statement(
        "UPDATE session SET revoked_at = clock_timestamp() \
         WHERE (family_digest = $1 OR refresh_digest = $2) AND revoked_at IS NULL \
         RETURNING session_id, revoked_at",
    );
    let mut conn = pool.get().await?;
    let row: Option<Ended> = ended
        .bind::<Binary, _>(&token.family)
        .bind::<Binary, _>(&token.token)
        .get_result(&mut conn)
        .await
        .optional()?;
    Ok(row.and_then(Ended::revocation))
}

/// A session that was just ended.
#[derive(QueryableByName)]
#[diesel(table_name = session)]
struct Ended {
    session_id: SessionId,
    revoked_at: Option<Timestamp>,
}

impl Ended {
    fn revocation(self) -> Option<Revocation> {
        let at = self.revoked_at?;
        Some(Revocation {
            session: self.session_id,
            at,
        })
    }
}

/// Sessions that were ended after `after`, in order, at most `limit`.
///
/// # Errors
/// When the database can't be asked.
pub async fn revocation_list(
    pool: &Pool,
    (after, id): (Timestamp, SessionId),
    limit: i64,
) -> Result<Vec<Revocation>, db::Error> {
    let mut conn = pool.get().await?;
    let later = session::revoked_at.gt(after).or(session::revoked_at
        .eq(after)
        .and(session::session_id.gt(id)));
    let rows: Vec<(SessionId, Option<Timestamp>)> = session::table
        // Said twice, so that the index is enough.
        .filter(session::revoked_at.ge(after))
        .filter(later)
        .order((session::revoked_at, session::session_id))
        .limit(limit)
        .select((session::session_id, session::revoked_at))
        .load(&mut conn)
        .await?;
    let revocations = rows.into_iter().filter_map(|(session, at)| {
        let at = at?;
        Some(Revocation { session, at })
    });
    Ok(revocations.collect())
}

/// Rows that [`session_purge`] removes at most.
pub const PURGE_MAX: usize = 1000;

/// Removes sessions that ended more than a day ago, when no access token of theirs is valid any
/// more; at most [`PURGE_MAX`], so that no transaction is long. Returns how many.
///
/// # Errors
/// When the database can't be asked.
pub async fn session_purge(pool: &Pool) -> Result<usize, db::Error> {
    let piece = statement(
        "DELETE FROM session WHERE ctid = ANY (ARRAY (SELECT ctid FROM session \
         WHERE expires_at < now() - interval '1 day' ORDER BY expires_at LIMIT 1000))",
    );
    let mut conn = pool.get().await?;
    Ok(piece.execute(&mut conn).await?)
}
