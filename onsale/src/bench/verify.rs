//! Whether a run did what it said: the rows of its schedules against its answers.

use diesel::sql_types::{Array, BigInt, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::ScheduleId;

use super::direct::Rival;
use super::run::Design;

/// What Postgres has of a run's schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct Rows {
    /// Holds that are committed.
    #[diesel(sql_type = BigInt)]
    pub reservations: i64,
    /// Seats that are claimed.
    #[diesel(sql_type = BigInt)]
    pub claims: i64,
    /// S1: seats with more than one claim.
    #[diesel(sql_type = BigInt)]
    pub claimed_twice: i64,
    /// S3: holds without their claim, and claims without their hold.
    #[diesel(sql_type = BigInt)]
    pub disagreements: i64,
}

/// Counts them.
///
/// # Errors
/// When Postgres fails.
pub async fn rows(
    conn: &mut AsyncPgConnection,
    design: Design,
    schedules: &[ScheduleId],
) -> Result<Rows, db::Error> {
    let tables = match design {
        Design::Direct(Rival::LeanCte) => "lean_",
        Design::Direct(Rival::Cte | Rival::RowLock) | Design::Pipeline => "",
    };
    let rows = sql_query(format!(
        "WITH held AS (
             SELECT schedule_id, unnest(seat_nos) AS seat_no, reservation_id
             FROM {tables}reservation WHERE schedule_id = ANY ($1) AND status = 'HELD'
         ), claimed AS (
             SELECT schedule_id, seat_no, reservation_id, state
             FROM {tables}seat_claim WHERE schedule_id = ANY ($1)
         )
         SELECT (SELECT count(*) FROM {tables}reservation WHERE schedule_id = ANY ($1)) AS reservations,
                (SELECT count(*) FROM claimed) AS claims,
                (SELECT count(*) FROM (SELECT FROM claimed GROUP BY schedule_id, seat_no
                                       HAVING count(*) > 1) AS twice) AS claimed_twice,
                (SELECT count(*)
                 FROM held FULL JOIN claimed USING (schedule_id, seat_no, reservation_id)
                 WHERE claimed.state IS DISTINCT FROM 'H'
                    OR held.seat_no IS NULL) AS disagreements",
    ))
    .bind::<Array<SqlUuid>, _>(schedules)
    .get_result(conn)
    .await?;
    Ok(rows)
}

impl Rows {
    /// What is wrong when so many requests were answered with 201; each asked for one seat.
    #[must_use]
    pub fn complaint(&self, wins: u64) -> Option<String> {
        let wins = i64::try_from(wins).unwrap_or(i64::MAX);
        let right = Self {
            reservations: wins,
            claims: wins,
            claimed_twice: 0,
            disagreements: 0,
        };
        (*self != right)
            .then(|| format!("{wins} were answered with 201, but Postgres has {self:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_answers_must_agree() {
        let rows = Rows {
            reservations: 3,
            claims: 3,
            claimed_twice: 0,
            disagreements: 0,
        };
        assert_eq!(rows.complaint(3), None);
        assert!(rows.complaint(2).is_some());
        let torn = Rows {
            disagreements: 1,
            ..rows
        };
        assert!(
            torn.complaint(3)
                .is_some_and(|text| text.contains("disagreements: 1"))
        );
    }
}
