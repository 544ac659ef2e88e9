//! Who may do what in Postgres: a role per kind of process, beside the owner that migrates.
//!
//! This is the only list of these rights. A role is a role of the whole cluster, so its name begins
//! with that of the database: systems that share a cluster share no role. No role may change the
//! schema, empty a table, or change or remove a transfer.

use crate::db::{self, Error};
use crate::sql::statement;
use diesel::QueryableByName;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{Array, Bool, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use std::fmt::Write as _;

/// A kind of process, as Postgres knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Writes users, sessions and the catalogue, and reads.
    Ingress,
    /// Write what is decided.
    Workers,
    /// Reads: audit and dashboards.
    Reader,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Workers, Self::Reader];

    /// The kind of process.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Workers => "workers",
            Self::Reader => "reader",
        }
    }

    /// The role's name for a database: `onsale_ingress` for `onsale`.
    #[must_use]
    pub fn name(self, database: &str) -> String {
        format!("{database}_{}", self.as_str())
    }
}

/// The rights on a table, as GRANT takes them; empty for none.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Of the ingress.
    pub ingress: &'static str,
    /// Of the workers.
    pub workers: &'static str,
    /// Of the reader.
    pub reader: &'static str,
}

impl Table {
    /// The rights of a role.
    #[must_use]
    pub fn of(&self, role: Role) -> &'static str {
        match role {
            Role::Ingress => self.ingress,
            Role::Workers => self.workers,
            Role::Reader => self.reader,
        }
    }
}

const fn table(
    name: &'static str,
    ingress: &'static str,
    workers: &'static str,
    reader: &'static str,
) -> Table {
    Table {
        name,
        ingress,
        workers,
        reader,
    }
}

/// Every table, with all rights on it. To lock a row takes the right to update it; to write a row
/// unless it is there takes the right to read it.
#[rustfmt::skip]
pub const TABLES: &[Table] = &[
    //                      ingress                           workers                           reader
    table("access_code",    "SELECT, INSERT (access_code_id, schedule_id, fingerprint, label, granted, uses, valid_from, valid_until, made_by, made_at)", "SELECT, UPDATE (revoked_at, used)", "SELECT"),
    table("account",        "SELECT",                         "SELECT, INSERT, UPDATE",         "SELECT"),
    table("app_user",       "SELECT, INSERT",                 "",                               "SELECT (user_id, role, created_at)"),
    table("cancellation",   "SELECT",                         "SELECT, INSERT",                 "SELECT"),
    table("concert",        "SELECT, INSERT, UPDATE",         "",                               "SELECT"),
    table("dead_letter",    "SELECT, UPDATE (retries, retried_at, retried_by)", "SELECT, INSERT, UPDATE (error), DELETE", "SELECT"),
    table("fact_feed",      "SELECT",                         "SELECT, UPDATE",                 "SELECT"),
    table("gateway_event",  "",                               "SELECT, INSERT, DELETE",         "SELECT"),
    table("notice",         "SELECT",                         "SELECT, INSERT, UPDATE, DELETE", "SELECT"),
    table("outbox",         "SELECT",                         "SELECT, INSERT, UPDATE, DELETE", "SELECT"),
    table("outcome",        "SELECT",                         "SELECT, INSERT, DELETE",         "SELECT"),
    table("partition",      "SELECT",                         "SELECT, INSERT, UPDATE",         "SELECT"),
    table("payment",        "SELECT",                         "SELECT, INSERT, UPDATE (refunded)", "SELECT"),
    table("payment_facts",  "",                               "SELECT, INSERT, UPDATE",         "SELECT"),
    table("payment_order",  "SELECT",                         "SELECT, INSERT, UPDATE (status, step_no, attempts, next_at, payment_key, confirm_command_id, confirm_fingerprint, notice_id, rehold_id, fail_code, captured, refunded, confirmed_at, updated_at, odd_at, may_be_back), DELETE", "SELECT"),
    table("payment_order_key", "",                            "SELECT, INSERT, DELETE",         "SELECT"),
    table("refund",         "SELECT",                         "SELECT, INSERT, UPDATE (status, step_no, attempts, next_at, last_error, stuck_at, done_at, settles_at, key_no, compare, compare_at, compared_at)", "SELECT"),
    table("refund_action",  "SELECT",                         "SELECT, INSERT",                 "SELECT"),
    table("reservation",    "SELECT",                         "SELECT, INSERT, UPDATE",         "SELECT"),
    table("sale",           "SELECT, INSERT, UPDATE (layout_no)", "SELECT, UPDATE (state, booking_opens_at, booking_closes_at, hold_ms, seats_per_user, extensions_max, hold_total_ms, prevents_orphans, release_jitter_ms, cancelled, map_version, pass_required_since, room_version)", "SELECT"),
    table("schedule",       "SELECT, INSERT, UPDATE",         "SELECT",                         "SELECT"),
    table("seat",           "SELECT, INSERT, DELETE",         "SELECT",                         "SELECT"),
    table("seat_block",     "SELECT",                         "SELECT, INSERT",                 "SELECT"),
    table("seat_claim",     "SELECT",                         "SELECT, INSERT, UPDATE, DELETE", "SELECT"),
    table("session",        "SELECT, INSERT, UPDATE, DELETE", "",                               ""),
    table("show_aside",     "SELECT",                         "SELECT, INSERT, UPDATE (attempts, error, next_at), DELETE", "SELECT"),
    table("show_cancellation", "SELECT, INSERT (schedule_id, command_id, fingerprint, user_id, reason)", "SELECT, UPDATE (finished_at, next_at, done, refunded, after_at, after_id, pass_is_last, pass_at)", "SELECT"),
    table("stream_token",   "SELECT, INSERT, DELETE",         "",                               ""),
    table("system",         "SELECT, INSERT",                 "SELECT, INSERT",                 "SELECT"),
    table("ticket",         "SELECT",                         "SELECT, INSERT, UPDATE (status, ended_at, admission_no, admitted_at, place, active_before, capacity, was_passed, pass_until, holds)", "SELECT"),
    table("transfer",       "SELECT",                         "SELECT, INSERT",                 "SELECT"),
    // The secret of a draw is seen when it was drawn.
    table("waiting_room",   "SELECT (schedule_id, commitment, mode, paused, opens_at, capacity, rate_per_second, pass_ms, presence_ms, holds_per_pass, beacon_name, version, arrivals, digest, closed_at, lobby_size, lobby_digest, beacon, lobby_order, seed, revealed, front, admissions, rate_used, latest, guest_front, holds_per_pass_before, cancelled)", "SELECT, INSERT, UPDATE (mode, paused, opens_at, capacity, rate_per_second, pass_ms, presence_ms, holds_per_pass, beacon_name, version, arrivals, digest, closed_at, lobby_size, lobby_digest, beacon, lobby_order, seed, front, admissions, rate_used, latest, guest_front, holds_per_pass_before, cancelled)", "SELECT (schedule_id, commitment, mode, paused, opens_at, capacity, rate_per_second, pass_ms, presence_ms, holds_per_pass, beacon_name, version, arrivals, digest, closed_at, lobby_size, lobby_digest, beacon, lobby_order, seed, revealed, front, admissions, rate_used, latest, guest_front, holds_per_pass_before, cancelled)"),
    table("webhook",        "SELECT, INSERT, UPDATE (url, topics, secret, previous_secret, previous_secret_until, rotation_id, earlier_rotations, rotation_print, generation, state, attempts, failing_since, next_at), DELETE", "SELECT, UPDATE (state, cursor_no, sequence, attempts, failing_since, next_at, delivered_at, missed_at, recent)", "SELECT (webhook_id, topics, created_at, created_by, generation, state, cursor_no, sequence, attempts, failing_since, next_at, delivered_at, missed_at)"),
    table("worker",         "SELECT",                         "SELECT, INSERT, UPDATE, DELETE", "SELECT"),
    table("write_off",      "SELECT",                         "SELECT, INSERT",                 "SELECT"),
];

/// Locked while rights are given: two that give them to one table at once would collide.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7091, 3)";
/// Somebody else may change the same role at the same time; so often it is tried again.
const TRIES: usize = 20;

/// Why roles or rights could not be given.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The connected user may not make roles.
    #[error(
        "user {user} may not make roles. Either let one that may make them, and run this again:\n{sql}\
         or go on without (--no-roles): then every process connects as {user} and may do anything"
    )]
    MayNotCreate {
        /// Who.
        user: String,
        /// What somebody else has to run.
        sql: String,
    },
    /// Anything else.
    #[error(transparent)]
    Db(#[from] Error),
}

impl From<DieselError> for Refused {
    fn from(error: DieselError) -> Self {
        Self::Db(error.into())
    }
}

/// What [`apply`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The name of the database.
    pub database: String,
    /// The user who did it.
    pub user: String,
    /// The names of the roles that were made.
    pub made: Vec<String>,
    /// Whether roles got the passwords that they shall have. Where the connected user may not make
    /// roles, each keeps the one that it has.
    pub has_set_passwords: bool,
}

#[derive(QueryableByName)]
struct Facts {
    #[diesel(sql_type = Text)]
    database: String,
    #[diesel(sql_type = Text)]
    me: String,
    #[diesel(sql_type = Bool)]
    may_create: bool,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Makes the roles that are missing, gives a role the password that `password` has for it, and all
/// roles their rights and no others. The user must own the tables; again changes nothing. Returns
/// what came of it.
///
/// # Errors
/// When a role is missing and the connected user may not make roles; when Postgres refuses or can't
/// be reached.
pub async fn apply(
    database_url: &str,
    password: impl Fn(Role) -> Option<String>,
) -> Result<Applied, Refused> {
    let mut conn = db::connect(database_url)
        .await
        .map_err(|e| Error::Unavailable(e.to_string()))?;
    let facts: Facts = statement(
        "SELECT current_database()::text AS database, current_user::text AS me, \
                rolsuper OR rolcreaterole AS may_create FROM pg_roles WHERE rolname = current_user",
    )
    .get_result(&mut conn)
    .await?;
    let names = Role::ALL.map(|role| role.name(&facts.database));
    let known: Vec<Name> =
        statement("SELECT rolname::text AS name FROM pg_roles WHERE rolname = ANY ($1)")
            .bind::<Array<Text>, _>(names.to_vec())
            .load(&mut conn)
            .await?;
    let is_known = |name: &String| known.iter().any(|known| known.name == *name);
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !is_known(name))
        .cloned()
        .collect();
    if !facts.may_create && !missing.is_empty() {
        let lines = missing
            .iter()
            .map(|name| format!("  CREATE ROLE {} LOGIN PASSWORD '…';\n", quoted(name)));
        return Err(Refused::MayNotCreate {
            user: facts.me,
            sql: lines.collect(),
        });
    }
    for (role, name) in Role::ALL.iter().zip(&names) {
        if !is_known(name) {
            create(&mut conn, name).await?;
        }
        if let Some(password) = password(*role).filter(|_| facts.may_create) {
            set_password(&mut conn, name, &password).await?;
        }
    }
    grant(&mut conn, &facts.database).await?;
    Ok(Applied {
        database: facts.database,
        user: facts.me,
        made: missing,
        has_set_passwords: facts.may_create,
    })
}

/// Two may do it at once.
async fn create(conn: &mut AsyncPgConnection, name: &str) -> Result<(), Error> {
    let sql = format!(
        "DO $$ BEGIN CREATE ROLE {} LOGIN; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        quoted(name)
    );
    Ok(conn.batch_execute(&sql).await?)
}

/// Sends what proves the password, so that the password itself is in no log of the server.
async fn set_password(
    conn: &mut AsyncPgConnection,
    name: &str,
    password: &str,
) -> Result<(), Error> {
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    let sql = format!("ALTER ROLE {} PASSWORD '{verifier}'", quoted(name));
    for _ in 1..TRIES {
        match conn.batch_execute(&sql).await {
            // A lock would not help: advisory locks are those of one database, roles of all.
            Err(DieselError::DatabaseError(DatabaseErrorKind::Unknown, info))
                if info.message() == "tuple concurrently updated" => {}
            other => return Ok(other?),
        }
    }
    Ok(conn.batch_execute(&sql).await?)
}

/// Takes all rights and gives those of the list, in one transaction.
async fn grant(conn: &mut AsyncPgConnection, database: &str) -> Result<(), Error> {
    let names = Role::ALL
        .map(|role| quoted(&role.name(database)))
        .join(", ");
    let tables: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let mut sql = format!(
        "{LOCK}; GRANT CONNECT ON DATABASE {} TO {names}; GRANT USAGE ON SCHEMA public TO {names}; \
         REVOKE ALL ON {} FROM {names};",
        quoted(database),
        tables.join(", ")
    );
    for table in TABLES {
        for role in Role::ALL {
            let (rights, name) = (table.of(role), quoted(&role.name(database)));
            if !rights.is_empty() {
                write!(sql, "GRANT {rights} ON {} TO {name};", table.name)
                    .expect("writing to a string can't fail");
            }
        }
    }
    conn.transaction(async |conn| {
        conn.batch_execute(&sql).await?;
        Ok(())
    })
    .await
}

/// A name as SQL takes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
