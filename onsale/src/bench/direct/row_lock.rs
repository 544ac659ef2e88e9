//! The usual direct design: a transaction per request that first locks the rows of its seats, so
//! that others who want them wait, and then looks and writes.

use diesel::OptionalExtension;
use diesel::sql_types::{Array, Integer, Numeric, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_platform::tx;
use std::sync::Arc;

use super::cte::{HOLD, Row, bound};
use super::holds::{Attempt, Wanted, overtaken};

const LOCK: &str = "SELECT seat_no FROM seat WHERE schedule_id = $1 AND seat_no = ANY ($2) \
                    ORDER BY seat_no FOR UPDATE";

/// Decides once.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn attempt(pool: &Pool, wanted: &Wanted) -> Result<Attempt, db::Error> {
    let wanted = Arc::new(wanted.clone());
    let decided = tx::run(pool, move |conn| {
        let wanted = Arc::clone(&wanted);
        async move { locked(conn, &wanted).await }.boxed()
    });
    decided.await.or_else(overtaken)
}

async fn locked(conn: &mut AsyncPgConnection, wanted: &Wanted) -> Result<Attempt, db::Error> {
    let lock = statement(LOCK)
        .bind::<SqlUuid, _>(wanted.schedule_id)
        .bind::<Array<Integer>, _>(&wanted.seats);
    lock.execute(conn).await?;
    let hold = bound!(HOLD, wanted);
    let row = hold.get_result::<Row>(conn).await.optional()?;
    Ok(row.map_or(Attempt::UnknownSchedule, |row| row.outcome(wanted)))
}
