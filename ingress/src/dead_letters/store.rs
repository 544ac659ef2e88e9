//! Reading dead letters, and noting who tried one again. The workers write the rest.

use crate::page::PageStart;
use diesel::dsl::now;
use diesel::prelude::Queryable;
use diesel::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_schema::tables::dead_letter::{self as table, dsl};
use onsale_schema::{DeadLetterId, Lane, Timestamp, UserId};

/// One that can't be processed, as stored.
#[derive(Queryable)]
pub struct Row {
    pub dead_letter_id: DeadLetterId,
    pub lane: Lane,
    pub seq: i64,
    /// -1 for a whole message.
    pub command_index: i32,
    pub payload: Vec<u8>,
    pub error: String,
    pub at: Timestamp,
    pub retries: i32,
    pub retried_at: Option<Timestamp>,
    pub retried_by: Option<UserId>,
}

type Columns = (
    table::dead_letter_id,
    table::lane,
    table::seq,
    table::command_index,
    table::payload,
    table::error,
    table::at,
    table::retries,
    table::retried_at,
    table::retried_by,
);
const COLUMNS: Columns = (
    table::dead_letter_id,
    table::lane,
    table::seq,
    table::command_index,
    table::payload,
    table::error,
    table::at,
    table::retries,
    table::retried_at,
    table::retried_by,
);

/// Which of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Of one lane.
    pub lane: Option<Lane>,
    /// That were tried again, or never.
    pub retried: Option<bool>,
}

/// The newest first.
pub async fn list(pool: &Pool, filter: Filter, start: &PageStart) -> Result<Vec<Row>, Error> {
    let mut query = dsl::dead_letter
        .select(COLUMNS)
        .order((dsl::at.desc(), dsl::dead_letter_id.desc()))
        .limit(start.rows())
        .into_boxed();
    if let Some(lane) = filter.lane {
        query = query.filter(dsl::lane.eq(lane.as_str()));
    }
    query = match filter.retried {
        Some(true) => query.filter(dsl::retries.gt(0)),
        Some(false) => query.filter(dsl::retries.eq(0)),
        None => query,
    };
    if let Some(after) = start.after {
        let same_time = dsl::at.eq(after.at()).and(dsl::dead_letter_id.lt(after.id));
        query = query.filter(dsl::at.lt(after.at()).or(same_time));
    }
    let mut conn = pool.get().await?;
    Ok(query.load(&mut conn).await?)
}

pub async fn find(pool: &Pool, id: DeadLetterId) -> Result<Option<Row>, Error> {
    let mut conn = pool.get().await?;
    let row = dsl::dead_letter
        .filter(dsl::dead_letter_id.eq(id))
        .select(COLUMNS)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// Notes who tries it again. That does not count as a try: it may not come to one.
pub async fn note_by(pool: &Pool, id: DeadLetterId, by: UserId) -> Result<(), Error> {
    let mut conn = pool.get().await?;
    diesel::update(dsl::dead_letter.filter(dsl::dead_letter_id.eq(id)))
        .set(dsl::retried_by.eq(by))
        .execute(&mut conn)
        .await?;
    Ok(())
}

/// Notes that it was tried again, now: from now on it need not be kept for ever.
pub async fn note_retry(pool: &Pool, id: DeadLetterId) -> Result<(), Error> {
    let mut conn = pool.get().await?;
    diesel::update(dsl::dead_letter.filter(dsl::dead_letter_id.eq(id)))
        .set((dsl::retries.eq(dsl::retries + 1), dsl::retried_at.eq(now)))
        .execute(&mut conn)
        .await?;
    Ok(())
}
