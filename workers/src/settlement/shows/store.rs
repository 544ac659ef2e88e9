//! How far shows that are cancelled are: the rows of `show_cancellation` that settlement writes once
//! they are there, and those of `show_aside`.

use diesel::sql_types::{
    Array, BigInt, Bool, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db::{Error, Pool};
use onsale_platform::money_on_its_way;
use onsale_platform::sql::statement;
use onsale_schema::{Money, ReservationId, ScheduleId, Timestamp, UserId};
use uuid::Uuid;

/// A show that was taken.
#[derive(QueryableByName, Clone, Copy, Debug)]
pub struct ShowRow {
    #[diesel(sql_type = SqlUuid)]
    pub schedule_id: ScheduleId,
    /// Who wants it cancelled.
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
    #[diesel(sql_type = SqlUuid)]
    pub fingerprint: Uuid,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    after_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    after_id: Option<ReservationId>,
    /// Whether a pass is due that is not the last one.
    #[diesel(sql_type = Bool)]
    pub is_pass_due: bool,
}

impl ShowRow {
    /// How far the pass that is under way is.
    pub fn after(&self) -> Option<Place> {
        Some(Place {
            held_at: self.after_at?,
            reservation_id: self.after_id?,
        })
    }
}

/// A place in the order in which a pass goes over the reservations of a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub held_at: Timestamp,
    pub reservation_id: ReservationId,
}

impl Place {
    /// Before all of them.
    pub const BEGIN: Self = Self {
        held_at: Timestamp::EPOCH,
        reservation_id: ReservationId(Uuid::nil()),
    };
}

/// Takes a show that is due: for `lease_ms` nobody else does, whatever becomes of who took it. So one
/// that makes trouble keeps none of the others waiting.
pub async fn show_take(pool: &Pool, lease_ms: i64) -> Result<Option<ShowRow>, Error> {
    let mut conn = pool.get().await?;
    let show = statement(
        "UPDATE show_cancellation \
         SET next_at = clock_timestamp() + $1 * interval '1 millisecond' \
         WHERE schedule_id = (SELECT schedule_id FROM show_cancellation \
                              WHERE next_at <= (SELECT clock_timestamp()) \
                              ORDER BY next_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) \
         RETURNING schedule_id, user_id, fingerprint, after_at, after_id, \
                   pass_at <= clock_timestamp() AS is_pass_due",
    )
    .bind::<BigInt, _>(lease_ms)
    .get_result(&mut conn)
    .await
    .optional()?;
    Ok(show)
}

/// Has a show looked at again in `pause_ms`.
pub async fn show_wait(pool: &Pool, show: &ShowRow, pause_ms: i64) -> Result<(), Error> {
    let mut conn = pool.get().await?;
    statement(
        "UPDATE show_cancellation \
         SET next_at = clock_timestamp() + $2 * interval '1 millisecond' \
         WHERE schedule_id = $1 AND finished_at IS NULL",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<BigInt, _>(pause_ms)
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// What may still be sold of a show, in one snapshot.
#[derive(QueryableByName, Debug)]
pub struct LeftRow {
    /// Whether the owner of its seats has closed it for good.
    #[diesel(sql_type = Bool)]
    pub is_closed: bool,
    /// Whether it has a waiting room that is not paused for good.
    #[diesel(sql_type = Bool)]
    pub has_room: bool,
    /// Whether money may still be captured for it.
    #[diesel(sql_type = Bool)]
    pub is_paying: bool,
    #[diesel(sql_type = Array<SqlUuid>)]
    holds: Vec<ReservationId>,
    #[diesel(sql_type = Array<SqlUuid>)]
    holders: Vec<UserId>,
}

impl LeftRow {
    /// Whether nothing of it can be sold any more, and nobody is let in for that.
    pub fn is_nothing(&self) -> bool {
        self.is_closed && !self.has_room && !self.is_paying && self.holds.is_empty()
    }

    /// Holds that could still be paid, and who has them.
    pub fn holds(self) -> impl Iterator<Item = (ReservationId, UserId)> {
        self.holds.into_iter().zip(self.holders)
    }
}

/// What may still be sold of a show, with at most `holds_max` holds. It takes as long as there are
/// holds and payments under way, not as the date had reservations.
pub async fn left_find(
    pool: &Pool,
    schedule: ScheduleId,
    holds_max: i64,
) -> Result<LeftRow, Error> {
    let mut conn = pool.get().await?;
    let left = statement(concat!(
        "WITH held AS MATERIALIZED (SELECT reservation_id, user_id FROM reservation \
                                    WHERE schedule_id = $1 AND status = 'HELD' \
                                      AND ends_as IS NULL LIMIT $2) \
         SELECT cancelled AS is_closed, \
                (SELECT coalesce(array_agg(reservation_id ORDER BY reservation_id), '{}') \
                 FROM held) AS holds, \
                (SELECT coalesce(array_agg(user_id ORDER BY reservation_id), '{}') \
                 FROM held) AS holders, \
                EXISTS (SELECT FROM waiting_room WHERE schedule_id = $1 \
                          AND NOT cancelled) AS has_room, \
                money.is_paying \
         FROM sale CROSS JOIN ",
        money_on_its_way!("$1"),
        " AS money WHERE schedule_id = $1"
    ))
    .bind::<SqlUuid, _>(schedule)
    .bind::<BigInt, _>(holds_max)
    .get_result(&mut conn)
    .await?;
    Ok(left)
}

/// Begins a pass; whether it did, and nobody else.
pub async fn pass_begin(pool: &Pool, show: &ShowRow, is_last: bool) -> Result<bool, Error> {
    let mut conn = pool.get().await?;
    let begun = statement(
        "UPDATE show_cancellation SET after_at = $2, after_id = $3, pass_is_last = $4 \
         WHERE schedule_id = $1 AND after_id IS NULL AND finished_at IS NULL",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<Timestamptz, _>(Place::BEGIN.held_at)
    .bind::<SqlUuid, _>(Place::BEGIN.reservation_id)
    .bind::<Bool, _>(is_last)
    .execute(&mut conn)
    .await?;
    Ok(begun == 1)
}

/// Moves a pass on from one place to another, unless somebody else has.
pub async fn pass_move(pool: &Pool, show: &ShowRow, from: Place, to: Place) -> Result<(), Error> {
    let mut conn = pool.get().await?;
    statement(
        "UPDATE show_cancellation SET after_at = $3, after_id = $4, next_at = clock_timestamp() \
         WHERE schedule_id = $1 AND after_id = $2 AND finished_at IS NULL",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<SqlUuid, _>(from.reservation_id)
    .bind::<Timestamptz, _>(to.held_at)
    .bind::<SqlUuid, _>(to.reservation_id)
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// Ends a pass at `from`, and the show with it if it was the last one and nothing is set aside;
/// whether it did. Else it is looked at again in `pause_ms`, or when what is set aside is due, and
/// there is another pass in `pass_pause_ms`, or as soon as it is the last one.
pub async fn pass_end(
    conn: &mut AsyncPgConnection,
    show: ShowRow,
    from: Place,
    pause_ms: i64,
    pass_pause_ms: i64,
) -> Result<bool, Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        is_finished: bool,
    }
    // Who is refunded by other means meanwhile needs nobody any more.
    statement(
        "DELETE FROM show_aside AS a USING reservation AS r \
         WHERE a.schedule_id = $1 AND r.reservation_id = a.reservation_id AND r.status <> 'PAID'",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .execute(conn)
    .await?;
    // The row's own word counts, not what was read of it: whoever sells something after all takes
    // pass_is_last back, in the transaction of the sale.
    let row: Option<Row> = statement(
        "UPDATE show_cancellation AS s \
         SET after_at = NULL, after_id = NULL, \
             finished_at = CASE WHEN s.pass_is_last AND a.due_at IS NULL \
                                THEN clock_timestamp() END, \
             next_at = CASE WHEN s.pass_is_last AND a.due_at IS NULL THEN NULL \
                            WHEN s.pass_is_last \
                            THEN greatest(a.due_at, \
                                          clock_timestamp() + $3 * interval '1 millisecond') \
                            ELSE clock_timestamp() + $3 * interval '1 millisecond' END, \
             pass_at = clock_timestamp() + $4 * interval '1 millisecond' \
         FROM (SELECT min(next_at) AS due_at FROM show_aside WHERE schedule_id = $1) AS a \
         WHERE s.schedule_id = $1 AND s.after_id = $2 AND s.finished_at IS NULL \
         RETURNING s.finished_at IS NOT NULL AS is_finished",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<SqlUuid, _>(from.reservation_id)
    .bind::<BigInt, _>(pause_ms)
    .bind::<BigInt, _>(pass_pause_ms)
    .get_result(conn)
    .await
    .optional()?;
    Ok(row.is_some_and(|row| row.is_finished))
}

/// Counts what was cancelled. The last statement of its transaction: a show is locked after
/// everything else.
pub async fn show_add_done(
    conn: &mut AsyncPgConnection,
    show: &ShowRow,
    done: i64,
    refunded: Money,
) -> Result<(), Error> {
    statement(
        "UPDATE show_cancellation SET done = done + $2, refunded = refunded + $3 \
         WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<BigInt, _>(done)
    .bind::<Numeric, _>(refunded)
    .execute(conn)
    .await?;
    Ok(())
}

/// A reservation of a show.
#[derive(QueryableByName, Clone, Copy, Debug)]
pub struct ReservationRow {
    #[diesel(sql_type = SqlUuid)]
    pub reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
    #[diesel(sql_type = Timestamptz)]
    held_at: Timestamp,
    /// Whether it is to be cancelled now.
    #[diesel(sql_type = Bool)]
    pub is_sold: bool,
}

impl ReservationRow {
    /// The `n`th of some that differ in nothing else.
    #[cfg(test)]
    pub fn sample(n: usize, is_sold: bool) -> Self {
        let n = u32::try_from(n).expect("few");
        Self {
            reservation_id: ReservationId(Uuid::from_u128(n.into())),
            user_id: UserId(Uuid::nil()),
            held_at: Timestamp::from_micros((n / 7).into()),
            is_sold,
        }
    }

    pub fn place(&self) -> Place {
        Place {
            held_at: self.held_at,
            reservation_id: self.reservation_id,
        }
    }
}

/// The next reservations of a show behind a place, at most `rows_max`, whatever became of them. One
/// that was sold again to a late capture counts as sold when its payment is there, one that is set
/// aside when it is due.
pub async fn reservation_list_after(
    pool: &Pool,
    schedule: ScheduleId,
    after: Place,
    rows_max: i64,
) -> Result<Vec<ReservationRow>, Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "SELECT reservation_id, user_id, held_at, \
                status = 'PAID' \
                AND EXISTS (SELECT FROM payment AS p \
                            WHERE p.reservation_id = r.reservation_id AND p.status = 'PAID') \
                AND NOT EXISTS (SELECT FROM show_aside AS a \
                                WHERE a.reservation_id = r.reservation_id \
                                  AND a.next_at > clock_timestamp()) AS is_sold \
         FROM reservation AS r \
         WHERE schedule_id = $1 AND held_at >= $2 AND (held_at, reservation_id) > ($2, $3) \
         ORDER BY held_at, reservation_id LIMIT $4",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Timestamptz, _>(after.held_at)
    .bind::<SqlUuid, _>(after.reservation_id)
    .bind::<BigInt, _>(rows_max)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Sets a reservation aside: it is tried again after `pause_ms`, twice as long after each time, at
/// most `pause_max_ms`. How often it was tried.
pub async fn aside_upsert(
    pool: &Pool,
    schedule: ScheduleId,
    reservation: ReservationId,
    error: &str,
    pause_ms: i64,
    pause_max_ms: i64,
) -> Result<i32, Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        attempts: i32,
    }
    let mut conn = pool.get().await?;
    let row: Row = statement(
        "INSERT INTO show_aside AS a (reservation_id, schedule_id, error, next_at) \
         VALUES ($1, $2, left($3, 500), clock_timestamp() + $4 * interval '1 millisecond') \
         ON CONFLICT (reservation_id) DO UPDATE \
         SET attempts = a.attempts + 1, error = excluded.error, \
             next_at = clock_timestamp() \
                       + least($4 * 2 ^ least(a.attempts, 20), $5) * interval '1 millisecond' \
         RETURNING attempts",
    )
    .bind::<SqlUuid, _>(reservation)
    .bind::<SqlUuid, _>(schedule)
    .bind::<Text, _>(error)
    .bind::<BigInt, _>(pause_ms)
    .bind::<BigInt, _>(pause_max_ms)
    .get_result(&mut conn)
    .await?;
    Ok(row.attempts)
}
