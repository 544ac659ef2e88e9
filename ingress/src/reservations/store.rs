//! Reading reservations. The seats' owners write them.

use crate::page::PageStart;
use diesel::prelude::Queryable;
use diesel::sql_types::{Array, Numeric, Uuid as SqlUuid};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::status::ReservationStatus;
use onsale_schema::tables::reservation::{self as table, dsl};
use onsale_schema::{Money, ReservationId, ScheduleId, SeatNo, Timestamp, UserId};

/// One reservation.
#[derive(Queryable)]
pub struct Row {
    pub reservation_id: ReservationId,
    pub schedule_id: ScheduleId,
    pub seat_nos: Vec<SeatNo>,
    pub total: Money,
    pub status: ReservationStatus,
    pub held_at: Timestamp,
    pub expires_at: Timestamp,
    /// What a hold that lasts no longer ends as, if that is settled.
    pub ends_as: Option<ReservationStatus>,
    /// Those of its seats that were cancelled, if any were.
    pub cancelled_seat_nos: Option<Vec<SeatNo>>,
}

impl Row {
    /// Those of its seats that were cancelled.
    pub fn cancelled(&self) -> &[SeatNo] {
        self.cancelled_seat_nos.as_deref().unwrap_or_default()
    }
}

/// What the cancellations of a reservation came to.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Sums {
    #[diesel(sql_type = SqlUuid)]
    pub reservation_id: ReservationId,
    #[diesel(sql_type = Numeric)]
    pub fee: Money,
    #[diesel(sql_type = Numeric)]
    pub refunded: Money,
}

/// What the cancellations of these reservations came to.
pub async fn cancellation_sum(pool: &Pool, rows: &[Row]) -> Result<Vec<Sums>, Error> {
    let ids: Vec<ReservationId> = (rows.iter())
        .filter(|row| row.cancelled_seat_nos.is_some())
        .map(|row| row.reservation_id)
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut conn = pool.get().await?;
    let sums = statement(
        "SELECT reservation_id, sum(fee) AS fee, sum(refunded) AS refunded FROM cancellation \
         WHERE reservation_id = ANY($1) GROUP BY reservation_id",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    Ok(sums)
}

type Columns = (
    table::reservation_id,
    table::schedule_id,
    table::seat_nos,
    table::total,
    table::status,
    table::held_at,
    table::expires_at,
    table::ends_as,
    table::cancelled_seat_nos,
);
const COLUMNS: Columns = (
    table::reservation_id,
    table::schedule_id,
    table::seat_nos,
    table::total,
    table::status,
    table::held_at,
    table::expires_at,
    table::ends_as,
    table::cancelled_seat_nos,
);

/// A user's reservation.
pub async fn reservation_find(
    pool: &Pool,
    user: UserId,
    id: ReservationId,
) -> Result<Option<Row>, Error> {
    let mut conn = pool.get().await?;
    let row = dsl::reservation
        .find(id)
        .filter(dsl::user_id.eq(user))
        .select(COLUMNS)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row)
}

/// A user's reservations, the newest first.
pub async fn reservation_list(
    pool: &Pool,
    user: UserId,
    start: &PageStart,
) -> Result<Vec<Row>, Error> {
    let mut query = dsl::reservation
        .filter(dsl::user_id.eq(user))
        .select(COLUMNS)
        .order((dsl::held_at.desc(), dsl::reservation_id.desc()))
        .limit(start.rows())
        .into_boxed();
    if let Some(after) = start.after {
        let same_time = dsl::held_at
            .eq(after.at())
            .and(dsl::reservation_id.lt(after.id));
        query = query.filter(dsl::held_at.lt(after.at()).or(same_time));
    }
    let mut conn = pool.get().await?;
    Ok(query.load(&mut conn).await?)
}
