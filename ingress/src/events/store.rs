//! The only writer of `stream_token`.

use diesel::prelude::Insertable;
use diesel::sql_types::{Binary, Bool, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::{Statement, statement};
use onsale_schema::tables::stream_token;
use onsale_schema::{SessionId, Timestamp, UserId};

/// A token that was not used yet.
#[derive(Insertable)]
#[diesel(table_name = stream_token)]
pub struct NewToken {
    /// SHA-256 of the token.
    pub digest: Vec<u8>,
    /// Whose.
    pub user_id: UserId,
    /// The session that it was made in, and ends with.
    pub session_id: SessionId,
    /// When it is good no more.
    pub expires_at: Timestamp,
}

/// Makes a token.
///
/// # Errors
/// When the database can't be asked.
pub async fn token_insert(pool: &Pool, new: &NewToken) -> Result<(), db::Error> {
    let mut conn = pool.get().await?;
    diesel::insert_into(stream_token::table)
        .values(new)
        .execute(&mut conn)
        .await?;
    Ok(())
}

/// Whose a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The user.
    pub user_id: UserId,
    /// The session that it was made in.
    pub session_id: SessionId,
}

/// Uses a token up, wherever it is tried at the same time; whose it is, if it was good.
///
/// # Errors
/// When the database can't be asked.
pub async fn token_use(pool: &Pool, digest: &[u8]) -> Result<Option<Bearer>, db::Error> {
    let taken = statement(
        "DELETE FROM stream_token USING session \
         WHERE digest = $1 AND session.session_id = stream_token.session_id \
         RETURNING session.session_id, stream_token.user_id, \
             stream_token.expires_at > clock_timestamp() AND revoked_at IS NULL AS is_good",
    );
    bearer_of(pool, taken, digest).await
}

/// Whose a token is, if it is good. It stays so.
///
/// # Errors
/// When the database can't be asked.
pub async fn token_find(pool: &Pool, digest: &[u8]) -> Result<Option<Bearer>, db::Error> {
    let found = statement(
        "SELECT session.session_id, stream_token.user_id, \
             stream_token.expires_at > clock_timestamp() AND revoked_at IS NULL AS is_good \
         FROM stream_token JOIN session USING (session_id) WHERE digest = $1",
    );
    bearer_of(pool, found, digest).await
}

async fn bearer_of(
    pool: &Pool,
    asked: Statement,
    digest: &[u8],
) -> Result<Option<Bearer>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        session_id: SessionId,
        #[diesel(sql_type = SqlUuid)]
        user_id: UserId,
        #[diesel(sql_type = Bool)]
        is_good: bool,
    }
    let mut conn = pool.get().await?;
    let row: Option<Row> = asked
        .bind::<Binary, _>(digest)
        .get_result(&mut conn)
        .await
        .optional()?;
    let good = row.filter(|row| row.is_good);
    Ok(good.map(|row| Bearer {
        user_id: row.user_id,
        session_id: row.session_id,
    }))
}

/// Rows that [`token_purge`] removes at most.
pub const PURGE_MAX: usize = 1000;

/// Removes tokens that nobody used in time; at most [`PURGE_MAX`]. Returns how many.
///
/// # Errors
/// When the database can't be asked.
pub async fn token_purge(pool: &Pool) -> Result<usize, db::Error> {
    let piece = statement(
        "DELETE FROM stream_token WHERE ctid = ANY (ARRAY (SELECT ctid FROM stream_token \
         WHERE expires_at < now() ORDER BY expires_at LIMIT 1000))",
    );
    let mut conn = pool.get().await?;
    Ok(piece.execute(&mut conn).await?)
}
