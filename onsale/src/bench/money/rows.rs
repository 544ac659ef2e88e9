//! Whether a run of charges or payments did what it said: rows against answers.

use diesel::sql_types::{Array, BigInt, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_platform::db;
use onsale_schema::{ReservationId, ScheduleId, UserId};

/// A reservation that waits to be paid.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Held {
    /// Which.
    #[diesel(sql_type = SqlUuid)]
    pub reservation_id: ReservationId,
    /// By whom.
    #[diesel(sql_type = SqlUuid)]
    pub user_id: UserId,
}

/// The live holds of these dates, in the order in which they were made.
///
/// # Errors
/// When Postgres fails.
pub async fn held(
    conn: &mut AsyncPgConnection,
    dates: &[ScheduleId],
) -> Result<Vec<Held>, db::Error> {
    let rows = sql_query(
        "SELECT reservation_id, user_id FROM reservation
         WHERE schedule_id = ANY ($1) AND status = 'HELD' ORDER BY held_at, reservation_id",
    )
    .bind::<Array<SqlUuid>, _>(dates)
    .load(conn)
    .await?;
    Ok(rows)
}

/// What Postgres has of a run's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct Charged {
    /// Transfers to them, and none from them.
    #[diesel(sql_type = BigInt)]
    pub transfers: i64,
    /// L1: accounts whose balance is not the sum of their transfers.
    #[diesel(sql_type = BigInt)]
    pub unbalanced: i64,
    /// L2: causes with more than one transfer.
    #[diesel(sql_type = BigInt)]
    pub twice: i64,
}

impl Charged {
    /// Counts them.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn count(conn: &mut AsyncPgConnection, users: &[UserId]) -> Result<Self, db::Error> {
        let counts = sql_query(
            "WITH moved AS (
                 SELECT credit AS account_id, amount, cause FROM transfer WHERE credit = ANY ($1)
                 UNION ALL
                 SELECT debit, -amount, cause FROM transfer WHERE debit = ANY ($1)
             ), sums AS (
                 SELECT account_id, sum(amount) AS balance FROM moved GROUP BY account_id
             ), kept AS (
                 SELECT account_id, balance FROM account WHERE account_id = ANY ($1)
             )
             SELECT (SELECT count(*) FROM moved) AS transfers,
                    (SELECT count(*) FROM kept FULL JOIN sums USING (account_id)
                     WHERE kept.balance IS DISTINCT FROM coalesce(sums.balance, 0)) AS unbalanced,
                    (SELECT count(*) FROM (SELECT FROM moved GROUP BY cause
                                           HAVING count(*) > 1) AS x) AS twice",
        )
        .bind::<Array<SqlUuid>, _>(users)
        .get_result(conn)
        .await?;
        Ok(counts)
    }

    /// What is wrong when so many charges were answered with 201.
    #[must_use]
    pub fn complaint(self, answered: i64) -> Option<String> {
        let right = Self {
            transfers: answered,
            unbalanced: 0,
            twice: 0,
        };
        differs(answered, self, right)
    }
}

/// What Postgres has of a run's dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct Paid {
    /// Reservations that are paid.
    #[diesel(sql_type = BigInt)]
    pub reservations: i64,
    /// P1: live payments of them.
    #[diesel(sql_type = BigInt)]
    pub payments: i64,
    /// P1: transfers of exactly their prices, from who pays.
    #[diesel(sql_type = BigInt)]
    pub captured: i64,
    /// Seats that are marked as sold.
    #[diesel(sql_type = BigInt)]
    pub sold: i64,
}

impl Paid {
    /// Counts them.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn count(
        conn: &mut AsyncPgConnection,
        dates: &[ScheduleId],
    ) -> Result<Self, db::Error> {
        // What was held when it was looked at last is paid now.
        conn.batch_execute("ANALYZE reservation, payment, transfer, seat_claim")
            .await?;
        let counts = sql_query(
            "WITH paid AS (
                 SELECT reservation_id, user_id, total FROM reservation
                 WHERE schedule_id = ANY ($1) AND status = 'PAID'
             ), live AS (
                 SELECT p.transfer_id, paid.user_id, paid.total
                 FROM payment p JOIN paid USING (reservation_id) WHERE p.status = 'PAID'
             )
             SELECT (SELECT count(*) FROM paid) AS reservations,
                    (SELECT count(*) FROM live) AS payments,
                    (SELECT count(*) FROM live JOIN transfer t USING (transfer_id)
                     WHERE t.kind = 'PAYMENT' AND t.amount = live.total
                       AND t.debit = live.user_id) AS captured,
                    (SELECT count(*) FROM seat_claim JOIN paid USING (reservation_id)
                     WHERE schedule_id = ANY ($1) AND state = 'S') AS sold",
        )
        .bind::<Array<SqlUuid>, _>(dates)
        .get_result(conn)
        .await?;
        Ok(counts)
    }

    /// Counts them where the yardstick has them, on the date on which it held.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn count_lean(
        conn: &mut AsyncPgConnection,
        date: ScheduleId,
        won: i64,
    ) -> Result<Self, db::Error> {
        conn.batch_execute(
            "ANALYZE lean_reservation, lean_payment, lean_transfer, lean_seat_claim",
        )
        .await?;
        let counts = sql_query(
            "WITH paid AS (
                 SELECT reservation_id, user_id FROM lean_reservation
                 WHERE schedule_id = $1 AND status = 'PAID'
             ), live AS (
                 SELECT p.transfer_id, paid.user_id
                 FROM lean_payment p JOIN paid USING (reservation_id)
             )
             SELECT (SELECT count(*) FROM paid) AS reservations,
                    (SELECT count(*) FROM live) AS payments,
                    (SELECT count(*) FROM live JOIN lean_transfer t USING (transfer_id)
                     WHERE t.amount = -$2 AND t.account_id = live.user_id) AS captured,
                    (SELECT count(*) FROM lean_seat_claim JOIN paid USING (reservation_id)
                     WHERE schedule_id = $1 AND state = 'S') AS sold",
        )
        .bind::<SqlUuid, _>(date)
        .bind::<BigInt, _>(won)
        .get_result(conn)
        .await?;
        Ok(counts)
    }

    /// What is wrong when so many payments, each of one seat, were answered with 201.
    #[must_use]
    pub fn complaint(self, answered: i64) -> Option<String> {
        let right = Self {
            reservations: answered,
            payments: answered,
            captured: answered,
            sold: answered,
        };
        differs(answered, self, right)
    }
}

/// Opens accounts of the yardstick, with so much on each.
///
/// # Errors
/// When Postgres fails.
pub async fn lean_open(
    conn: &mut AsyncPgConnection,
    users: &[UserId],
    won: i64,
) -> Result<(), db::Error> {
    sql_query("INSERT INTO lean_account SELECT id, $2 FROM unnest($1) AS users (id)")
        .bind::<Array<SqlUuid>, _>(users)
        .bind::<BigInt, _>(won)
        .execute(conn)
        .await?;
    Ok(())
}

/// Holds a seat of the yardstick for each of these, in order, on one date.
///
/// # Errors
/// When Postgres fails.
pub async fn lean_hold(
    conn: &mut AsyncPgConnection,
    date: ScheduleId,
    held: &[Held],
) -> Result<(), db::Error> {
    sql_query(
        "WITH held AS MATERIALIZED (
             SELECT * FROM unnest($2, $3) WITH ORDINALITY AS x (reservation_id, user_id, seat_no)
         ), claimed AS (
             INSERT INTO lean_seat_claim SELECT $1, seat_no, reservation_id, 'H' FROM held
         )
         INSERT INTO lean_reservation
         SELECT reservation_id, $1, user_id, ARRAY[seat_no], 'HELD', now() + interval '5 minutes'
         FROM held",
    )
    .bind::<SqlUuid, _>(date)
    .bind::<Array<SqlUuid>, _>(held.iter().map(|h| h.reservation_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(held.iter().map(|h| h.user_id).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// What Postgres has of the yardstick's accounts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct Moved {
    /// Rows of what was charged or paid.
    #[diesel(sql_type = BigInt)]
    pub transfers: i64,
    /// Accounts whose balance is not what was on them and their transfers, or is below zero.
    #[diesel(sql_type = BigInt)]
    pub unbalanced: i64,
}

impl Moved {
    /// Counts them, of accounts with so much on each before the run.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn count(
        conn: &mut AsyncPgConnection,
        users: &[UserId],
        won: i64,
    ) -> Result<Self, db::Error> {
        let counts = sql_query(
            "WITH sums AS (
                 SELECT account_id, count(*) AS transfers, sum(amount) AS amount
                 FROM lean_transfer WHERE account_id = ANY ($1) GROUP BY account_id
             )
             SELECT (SELECT coalesce(sum(transfers), 0)::bigint FROM sums) AS transfers,
                    (SELECT count(*) FROM unnest($1) AS users (account_id)
                          LEFT JOIN lean_account USING (account_id)
                          LEFT JOIN sums USING (account_id)
                     WHERE balance IS DISTINCT FROM $2 + coalesce(amount, 0)
                        OR balance < 0) AS unbalanced",
        )
        .bind::<Array<SqlUuid>, _>(users)
        .bind::<BigInt, _>(won)
        .get_result(conn)
        .await?;
        Ok(counts)
    }

    /// What is wrong when so many charges or payments were answered with 201.
    #[must_use]
    pub fn complaint(self, answered: i64) -> Option<String> {
        let right = Self {
            transfers: answered,
            unbalanced: 0,
        };
        differs(answered, self, right)
    }
}

/// What is there, if it is not what ought to be there.
fn differs<T: PartialEq + std::fmt::Debug>(answered: i64, found: T, right: T) -> Option<String> {
    (found != right)
        .then(|| format!("{answered} were answered with 201, but Postgres has {found:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_answers_must_agree() {
        let charged = Charged {
            transfers: 3,
            unbalanced: 0,
            twice: 0,
        };
        assert_eq!(charged.complaint(3), None);
        assert!(charged.complaint(4).is_some());
        let torn = Charged {
            unbalanced: 1,
            ..charged
        };
        assert!(torn.complaint(3).is_some());
        let paid = Paid {
            reservations: 2,
            payments: 2,
            captured: 2,
            sold: 2,
        };
        assert_eq!(paid.complaint(2), None);
        let moved = Moved {
            transfers: 2,
            unbalanced: 0,
        };
        assert_eq!(moved.complaint(2), None);
        assert!(moved.complaint(3).is_some());
        let short = Paid {
            captured: 1,
            ..paid
        };
        assert!(
            short
                .complaint(2)
                .is_some_and(|why| why.contains("captured: 1"))
        );
    }
}
