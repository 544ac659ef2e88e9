//! The best direct design: one statement, and so one transaction and one round trip, per request.
//!
//! It sees what is there, decides, and writes reservation and claims, all or none. A seat that
//! another request takes in the same moment violates the key of `seat_claim`, which undoes the whole
//! statement; the next attempt sees it. The limit of a user is judged by what the statement sees: two
//! requests of one user at once may exceed it, which a lock would prevent, at a price.

use diesel::sql_types::{Array, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::seats::{Hold, Outcome, Refusal};
use onsale_schema::{Money, ReservationId, ScheduleId, SeatNo, Timestamp};
use uuid::Uuid;

use super::holds::{Attempt, Wanted, overtaken};

/// Checks in the order of the pipeline: duplicate, sale, limit, seats. What is not needed for the
/// verdict is not looked up. (`IS NOT DISTINCT FROM` leaves the planner no other index than that of
/// the user: on young tables it would take that of the schedule, and read all its reservations.)
pub(super) const HOLD: &str = "\
WITH seen AS MATERIALIZED (
    SELECT sale.hold_ms, sale.seats_per_user, statement_timestamp() AS now,
           known.reservation_id, known.schedule_id, known.fingerprint, known.seat_nos, known.total,
           known.held_at, known.expires_at, taken.seats AS taken,
           CASE
               WHEN known.reservation_id IS NOT NULL THEN 'known'
               WHEN sale.state = 'CLOSED' OR statement_timestamp() >= sale.booking_closes_at
                   THEN 'closed'
               WHEN sale.state = 'PAUSED' OR statement_timestamp() < sale.booking_opens_at
                   THEN 'not-open'
               WHEN (SELECT coalesce(sum(cardinality(seat_nos)), 0) FROM reservation
                     WHERE user_id = $3 AND schedule_id IS NOT DISTINCT FROM $2
                       AND status IN ('HELD', 'PAID'))
                    + cardinality($6) > sale.seats_per_user
                   THEN 'limit'
               WHEN taken.seats IS NOT NULL THEN 'taken'
               ELSE 'held'
           END AS verdict
    FROM sale
         CROSS JOIN (SELECT array_agg(seat_no) AS seats FROM seat_claim
                     WHERE schedule_id = $2 AND seat_no = ANY ($6)) AS taken
         LEFT JOIN reservation AS known ON known.command_id = $4
    WHERE sale.schedule_id = $2
), made AS (
    INSERT INTO reservation (reservation_id, schedule_id, user_id, command_id, fingerprint,
                             seat_nos, total, seat_limit, status, held_at, expires_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, seats_per_user, 'HELD', now,
           now + hold_ms * interval '1 millisecond'
    FROM seen WHERE verdict = 'held'
    RETURNING reservation_id, schedule_id, fingerprint, seat_nos, total, held_at, expires_at
), claimed AS (
    INSERT INTO seat_claim (schedule_id, seat_no, reservation_id, state)
    SELECT $2, seat_no, $1, 'H'
    FROM made CROSS JOIN unnest($6) AS seats (seat_no) ORDER BY seat_no
)
SELECT verdict, taken, seats_per_user,
       coalesce(made.reservation_id, seen.reservation_id) AS reservation_id,
       coalesce(made.schedule_id, seen.schedule_id) AS schedule_id,
       coalesce(made.fingerprint, seen.fingerprint) AS fingerprint,
       coalesce(made.seat_nos, seen.seat_nos) AS seat_nos,
       coalesce(made.total, seen.total) AS total,
       coalesce(made.held_at, seen.held_at) AS held_at,
       coalesce(made.expires_at, seen.expires_at) AS expires_at
FROM seen LEFT JOIN made ON true";

/// The verdict of one statement, and what it is about.
#[derive(QueryableByName, Debug)]
pub(super) struct Row {
    #[diesel(sql_type = Text)]
    verdict: String,
    #[diesel(sql_type = Nullable<Array<Integer>>)]
    taken: Option<Vec<SeatNo>>,
    #[diesel(sql_type = Integer)]
    seats_per_user: i32,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    schedule_id: Option<ScheduleId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    fingerprint: Option<Uuid>,
    #[diesel(sql_type = Nullable<Array<Integer>>)]
    seat_nos: Option<Vec<SeatNo>>,
    #[diesel(sql_type = Nullable<Numeric>)]
    total: Option<Money>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    held_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<Timestamp>,
}

impl Row {
    /// What the row says.
    pub(super) fn outcome(self, wanted: &Wanted) -> Attempt {
        let limit = u32::try_from(self.seats_per_user).unwrap_or(0);
        let refusal = match self.verdict.as_str() {
            "closed" => Refusal::SaleClosed,
            "not-open" => Refusal::SaleNotOpen,
            "limit" => Refusal::SeatLimitExceeded { limit },
            "taken" => Refusal::SeatUnavailable {
                seats: self.taken.unwrap_or_default(),
                places: Vec::new(),
            },
            "known" if self.fingerprint.map(Fingerprint) != Some(wanted.fingerprint) => {
                Refusal::KeyReused
            }
            _ => {
                return self.hold().map_or(Attempt::Overtaken, |hold| {
                    Attempt::Decided(Outcome::Held(hold))
                });
            }
        };
        Attempt::Decided(Outcome::Refused(refusal))
    }

    fn hold(self) -> Option<Hold> {
        Some(Hold {
            reservation_id: self.reservation_id?,
            schedule_id: self.schedule_id?,
            seats: self.seat_nos?,
            total: self.total?,
            held_at: self.held_at?,
            expires_at: self.expires_at?,
        })
    }
}

/// Binds a hold's values in the order of [`HOLD`].
macro_rules! bound {
    ($sql:expr, $wanted:expr) => {
        statement($sql)
            .bind::<SqlUuid, _>($wanted.reservation_id)
            .bind::<SqlUuid, _>($wanted.schedule_id)
            .bind::<SqlUuid, _>($wanted.user_id)
            .bind::<SqlUuid, _>($wanted.command_id)
            .bind::<SqlUuid, _>($wanted.fingerprint.0)
            .bind::<Array<Integer>, _>(&$wanted.seats)
            .bind::<Numeric, _>($wanted.total)
    };
}
pub(super) use bound;

/// Decides once.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn attempt(pool: &Pool, wanted: &Wanted) -> Result<Attempt, db::Error> {
    let hold = bound!(HOLD, wanted);
    let mut conn = pool.get().await?;
    let row = hold.get_result::<Row>(&mut conn).await.optional();
    match row {
        Ok(Some(row)) => Ok(row.outcome(wanted)),
        Ok(None) => Ok(Attempt::UnknownSchedule),
        Err(error) => overtaken(error.into()),
    }
}
