//! The invariants, checked from the tables: by `onsale audit`, and by the ingress for those who
//! administer. Whoever checks needs to read, and nothing else.

mod checks;
mod draw;
mod orders;
mod queue;

use crate::db::{self, Error};
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_schema::invariant::Invariant;

/// How long a notice or fact may be open, in milliseconds, where nothing else is said: longer than
/// a takeover after a crash.
pub const OPEN_LIMIT_MS: u32 = 10_000;
/// How long captured money may be without a sale (also: with one for a show that is cancelled) or on
/// its way back, in milliseconds, where nothing else is said: longer than the retries of a refund while
/// the gateway is away for a moment.
pub const REFUND_LIMIT_MS: u32 = 600_000;
/// So many violations of one invariant are shown.
pub const EXAMPLES_MAX: usize = 5;

/// What an invariant may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a notice or fact may be open, in milliseconds.
    pub open_ms: u32,
    /// How long captured money may be without a sale or on its way back, in milliseconds.
    pub refund_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_ms: OPEN_LIMIT_MS,
            refund_ms: REFUND_LIMIT_MS,
        }
    }
}

/// One invariant, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Which.
    pub invariant: Invariant,
    /// How often it does not hold.
    pub violations: u64,
    /// The first of them, in words.
    pub examples: Vec<String>,
    /// What was not looked at, or how much was.
    pub note: Option<String>,
}

/// Makes room for long queries on a session that is to audit. The bounds of other sessions are for
/// the sake of partitions; this one holds no locks.
///
/// # Errors
/// When Postgres fails.
pub async fn prepare(conn: &mut AsyncPgConnection) -> Result<(), Error> {
    conn.batch_execute(
        "SET statement_timeout = '5min'; SET idle_in_transaction_session_timeout = '1min';
         SET work_mem = '128MB'",
    )
    .await?;
    conn.batch_execute(db::WHOLE_TABLES).await?;
    Ok(())
}

/// Checks all of them. They are as true under load as at rest if the caller has begun a read-only
/// transaction that is REPEATABLE READ.
///
/// # Errors
/// When Postgres fails.
pub async fn check_all(conn: &mut AsyncPgConnection, limits: Limits) -> Result<Vec<Check>, Error> {
    let mut all = Vec::with_capacity(Invariant::ALL.len());
    for invariant in Invariant::ALL {
        let mut check = check(conn, *invariant, limits).await?;
        if *invariant == Invariant::Q2 {
            draw::Drawn::check(conn).await?.tell(&mut check);
        }
        all.push(check);
    }
    Ok(all)
}

/// The same in a snapshot of its own.
///
/// # Errors
/// When Postgres fails.
pub async fn check_now(conn: &mut AsyncPgConnection, limits: Limits) -> Result<Vec<Check>, Error> {
    prepare(conn).await?;
    conn.build_transaction()
        .read_only()
        .repeatable_read()
        .run(async |conn| check_all(conn, limits).await)
        .await
}

#[derive(QueryableByName)]
struct Violation {
    #[diesel(sql_type = BigInt)]
    violations: i64,
    #[diesel(sql_type = Text)]
    what: String,
}

async fn check(
    conn: &mut AsyncPgConnection,
    invariant: Invariant,
    limits: Limits,
) -> Result<Check, Error> {
    let query = checks::query(invariant, limits);
    let found: Vec<Violation> = sql_query(format!(
        "SELECT count(*) OVER () AS violations, what FROM ({query}) AS violation (what) \
         LIMIT {EXAMPLES_MAX}"
    ))
    .load(conn)
    .await?;
    let violations = found.as_slice().first().map_or(0, |row| row.violations);
    Ok(Check {
        invariant,
        violations: u64::try_from(violations).unwrap_or(0),
        examples: found.into_iter().map(|row| row.what).collect(),
        note: None,
    })
}
