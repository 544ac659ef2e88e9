//! Whether a system is at rest, for commands that change what its processes agree on.

use diesel::sql_types::{Array, BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::rights::Role;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

#[derive(QueryableByName)]
struct Database {
    #[diesel(sql_type = Text)]
    name: String,
}

/// How many sessions ingresses and workers hold.
///
/// # Errors
/// When the database can't be asked.
pub async fn sessions(conn: &mut AsyncPgConnection) -> anyhow::Result<i64> {
    let database: Database = sql_query("SELECT current_database()::text AS name")
        .get_result(conn)
        .await?;
    let roles = [Role::Ingress, Role::Workers].map(|role| role.name(&database.name));
    // Every process keeps at least one session, by which it measures its clock. Of another role's
    // sessions only the role is shown to everybody.
    let sessions: Count = sql_query(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() \
         AND (application_name = 'onsale' OR usename::text = ANY ($1)) \
         AND pid <> pg_backend_pid()",
    )
    .bind::<Array<Text>, _>(roles.to_vec())
    .get_result(conn)
    .await?;
    Ok(sessions.n)
}

/// How many sessions they hold while no further process can start until the end of the transaction: one
/// that starts waits for this before it agrees on anything, and one that has agreed has a session.
///
/// # Errors
/// When the database can't be asked.
pub async fn sessions_with_nobody_starting(conn: &mut AsyncPgConnection) -> anyhow::Result<i64> {
    sql_query("SELECT pg_advisory_xact_lock(7091, 4)")
        .execute(conn)
        .await?;
    sessions(conn).await
}
