//! Accounts for a crowd: many buyers who need not sign in, since a password takes a core for some
//! 20 ms to check.

use anyhow::Context;
use onsale_ingress::users::open_sessions;
use onsale_ingress::users::store::{self, NewUser};
use onsale_platform::{clock, db};
use onsale_schema::UserId;
use onsale_schema::status::Role;
use uuid::Uuid;

use super::accounts::{BUYER_PASSWORD, password_hash};

/// Rows of one statement.
const CHUNK: usize = 1000;
/// How long a session may be renewed, in milliseconds.
const SESSION_MS: i64 = 3600 * 1000;

/// The first so many of the crowd, each with a new session: their refresh tokens. Who is there already
/// stays as it is. They begin without points.
///
/// # Errors
/// When the database refuses.
pub async fn sessions(database_url: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let pool = db::pool(database_url, 1)?;
    let hash = password_hash(BUYER_PASSWORD).await?;
    let all: Vec<usize> = (0..count).collect();
    let mut tokens = Vec::with_capacity(count);
    for chunk in all.chunks(CHUNK) {
        let users: Vec<NewUser> = chunk.iter().map(|no| member(*no, &hash)).collect();
        let made = store::user_insert_new(&pool, &users).await;
        made.context("creating the crowd's accounts")?;
        let ids: Vec<UserId> = users.iter().map(|user| user.user_id).collect();
        let opened = open_sessions(&pool, &ids, clock::host_now(), SESSION_MS).await;
        tokens.extend(opened.context("opening the crowd's sessions")?);
    }
    Ok(tokens)
}

fn member(no: usize, hash: &str) -> NewUser {
    let id = 0x0190_0000_0000_7000_8000_000c_0000_0000 + no as u128;
    NewUser {
        user_id: UserId(Uuid::from_u128(id)),
        email: format!("crowd{no:06}@example.com"),
        name: format!("Crowd {no:06}"),
        password_hash: hash.to_owned(),
        role: Role::Buyer,
    }
}
