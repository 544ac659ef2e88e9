//! The wish that a show be cancelled, and what has come of it. Settlement writes the rest.

use diesel::dsl::exists;
use diesel::sql_types::{BigInt, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::money_on_its_way;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::tables::show_cancellation::dsl;
use onsale_schema::{CommandId, Money, ScheduleId, Timestamp, UserId};
use uuid::Uuid;

/// Notes that a show is to be cancelled, unless it is noted; whether it did.
pub async fn show_insert(
    pool: &Pool,
    schedule: ScheduleId,
    command: CommandId,
    print: Fingerprint,
    by: UserId,
    reason: &str,
) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let made = diesel::insert_into(dsl::show_cancellation)
        .values((
            dsl::schedule_id.eq(schedule),
            dsl::command_id.eq(command),
            dsl::fingerprint.eq(print.0),
            dsl::user_id.eq(by),
            dsl::reason.eq(reason),
        ))
        .on_conflict_do_nothing()
        .execute(&mut conn)
        .await?;
    Ok(made == 1)
}

/// Whether a show is cancelled, or about to be.
pub async fn is_cancelled(pool: &Pool, schedule: ScheduleId) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let found = diesel::select(exists(dsl::show_cancellation.find(schedule)));
    Ok(found.get_result(&mut conn).await?)
}

/// A show that is cancelled, and how far that is.
#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = SqlUuid)]
    pub schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    pub command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    pub fingerprint: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Timestamptz)]
    pub started_at: Timestamp,
    /// None as long as a payment for it is on its way, too: one may come to light after the end.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub finished_at: Option<Timestamp>,
    #[diesel(sql_type = BigInt)]
    pub done: i64,
    #[diesel(sql_type = Numeric)]
    pub refunded: Money,
    /// Reservations that are still paid.
    #[diesel(sql_type = BigInt)]
    pub sold: i64,
    /// Refunds of the date on their way.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
    /// Refunds that the gateway did not take.
    #[diesel(sql_type = BigInt)]
    pub failed: i64,
    /// Reservations that could not be cancelled.
    #[diesel(sql_type = BigInt)]
    pub set_aside: i64,
}

/// A show that is cancelled, in one snapshot.
pub async fn show_find(pool: &Pool, schedule: ScheduleId) -> Result<Option<Row>, Error> {
    let mut conn = pool.get().await?;
    let row = statement(concat!(
        "SELECT s.schedule_id, s.command_id, s.fingerprint, s.user_id, s.reason, s.started_at, \
                CASE WHEN NOT money.is_paying THEN s.finished_at END AS finished_at, \
                s.done, s.refunded, \
                (SELECT count(*) FROM reservation AS r \
                 WHERE r.schedule_id = s.schedule_id AND r.status = 'PAID') AS sold, \
                money.pending, money.failed, \
                (SELECT count(*) FROM show_aside AS a \
                 WHERE a.schedule_id = s.schedule_id) AS set_aside \
         FROM show_cancellation AS s CROSS JOIN LATERAL ",
        money_on_its_way!("s.schedule_id"),
        " AS money WHERE s.schedule_id = $1"
    ))
    .bind::<SqlUuid, _>(schedule)
    .get_result(&mut conn)
    .await
    .optional()?;
    Ok(row)
}
