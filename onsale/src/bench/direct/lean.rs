//! The yardstick: a bare statement that writes a reservation and a seat, and nothing else: no
//! idempotency, no window, no limit of a user, no index but the keys, no foreign key. It is no
//! rival, for it does not do the work. But what it does where a plain echo does so much was measured
//! before (`case.rs` has the figures), so it tells whether the machine and the harness are in
//! order, which a rival that does the work can't.

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Integer, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::seats::{Hold, Outcome, Refusal};
use onsale_schema::{SeatNo, Timestamp};

use super::holds::{Attempt, Wanted};

/// Its tables, with room for updates as ours; what the checks after a run read has the names that it has
/// in ours.
pub const TABLES: &str = "\
CREATE TABLE IF NOT EXISTS lean_reservation (
    reservation_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL,
    user_id uuid NOT NULL,
    seat_nos integer[] NOT NULL,
    status text NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE TABLE IF NOT EXISTS lean_seat_claim (
    schedule_id uuid NOT NULL,
    seat_no integer NOT NULL,
    reservation_id uuid NOT NULL,
    state text NOT NULL,
    PRIMARY KEY (schedule_id, seat_no)
) WITH (fillfactor = 80);";

const HOLD: &str = "\
WITH claimed AS (
    INSERT INTO lean_seat_claim SELECT $2, seat_no, $1, 'H' FROM unnest($4) AS seats (seat_no)
    ON CONFLICT DO NOTHING RETURNING seat_no
), made AS (
    INSERT INTO lean_reservation
    SELECT $1, $2, $3, $4, 'HELD', statement_timestamp() + interval '5 minutes'
    WHERE EXISTS (SELECT FROM claimed)
)
SELECT count(*) AS count FROM claimed";

#[derive(QueryableByName)]
struct Claimed {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Decides once. Not all or none, so it may be asked for one seat only.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn attempt(
    pool: &Pool,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Attempt, db::Error> {
    assert_eq!(wanted.seats.len(), 1, "the yardstick is for single seats");
    let hold = statement(HOLD)
        .bind::<SqlUuid, _>(wanted.reservation_id)
        .bind::<SqlUuid, _>(wanted.schedule_id)
        .bind::<SqlUuid, _>(wanted.user_id)
        .bind::<Array<Integer>, _>(&wanted.seats);
    let mut conn = pool.get().await?;
    let claimed: Claimed = hold.get_result(&mut conn).await?;
    let seats: Vec<SeatNo> = wanted.seats.clone();
    Ok(Attempt::Decided(if claimed.count == 1 {
        Outcome::Held(Hold {
            reservation_id: wanted.reservation_id,
            schedule_id: wanted.schedule_id,
            seats,
            total: wanted.total,
            held_at: now,
            expires_at: now.plus_ms(5 * 60 * 1000),
        })
    } else {
        Outcome::Refused(Refusal::SeatUnavailable {
            seats,
            places: Vec::new(),
        })
    }))
}
