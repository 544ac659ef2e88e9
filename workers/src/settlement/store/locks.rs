//! Locks what settlement decides by: reservations, then accounts, and the clock under them.

use diesel::QueryableByName;
use diesel::sql_types::{Array, Bool, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::ledger::Accounts;
use onsale_domain::settlement::Reservation;
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{AccountId, Money, ReservationId, ScheduleId, Timestamp, UserId};
use std::collections::BTreeSet;

/// What was locked, and when.
#[derive(Debug)]
pub struct Locked {
    /// Those of the reservations that there are.
    pub reservations: Vec<Reservation>,
    /// Those of them whose seats are kept for a capture.
    pub paying: Vec<ReservationId>,
    /// The accounts; one that is missing has nothing.
    pub accounts: Accounts,
    /// The database's clock, read under the locks.
    pub now: Timestamp,
}

/// A reservation or, without one, an account, or, without either, only the time.
#[derive(QueryableByName)]
struct LockedRow {
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    schedule_id: Option<ScheduleId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    user_id: Option<UserId>,
    #[diesel(sql_type = Nullable<Text>)]
    status: Option<ReservationStatus>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    held_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<Timestamp>,
    /// Of a reservation its total, of an account its balance.
    #[diesel(sql_type = Nullable<Numeric>)]
    amount: Option<Money>,
    #[diesel(sql_type = Nullable<Bool>)]
    show_cancelled: Option<bool>,
    #[diesel(sql_type = Nullable<Bool>)]
    is_paying: Option<bool>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    account_id: Option<AccountId>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    now: Option<Timestamp>,
}

/// Locks reservations, then accounts, each in order, loads them, and then reads the clock: by one
/// statement, of which each part counts the rows of the one before, and so waits for its locks.
///
/// # Errors
/// When Postgres fails.
pub async fn lock(
    mut conn: &AsyncPgConnection,
    reservations: &BTreeSet<ReservationId>,
    accounts: &BTreeSet<AccountId>,
) -> Result<Locked, db::Error> {
    let rows: Vec<LockedRow> = statement(
        "WITH r AS MATERIALIZED ( \
             SELECT reservation_id, schedule_id, user_id, coalesce(ends_as, status) AS status, \
                    held_at, expires_at, total, \
                    EXISTS (SELECT FROM show_cancellation AS s \
                            WHERE s.schedule_id = reservation.schedule_id) AS show_cancelled, \
                    paying_order IS NOT NULL AS is_paying \
             FROM reservation WHERE reservation_id = ANY($1) \
             ORDER BY reservation_id FOR NO KEY UPDATE OF reservation), \
         a AS MATERIALIZED ( \
             SELECT account_id, balance FROM account \
             WHERE account_id = ANY($2) AND balance IS NOT NULL \
               AND (SELECT count(*) FROM r) >= 0 \
             ORDER BY account_id FOR NO KEY UPDATE) \
         SELECT reservation_id, schedule_id, user_id, status, held_at, expires_at, \
                total AS amount, show_cancelled, is_paying, NULL::uuid AS account_id, \
                NULL::timestamptz AS now \
         FROM r \
         UNION ALL \
         SELECT NULL, NULL, NULL, NULL, NULL, NULL, balance, NULL, NULL, account_id, NULL FROM a \
         UNION ALL \
         SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, clock_timestamp() \
         FROM (SELECT count(*) AS n FROM a) AS counted WHERE n >= 0",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(reservations))
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(accounts))
    .load(&mut conn)
    .await?;
    let mut locked = Locked {
        reservations: Vec::with_capacity(reservations.len()),
        paying: Vec::new(),
        accounts: Accounts::default(),
        now: Timestamp::EPOCH,
    };
    let mut missing = accounts.clone();
    for row in rows {
        if let Some(account) = row.account_id {
            missing.remove(&account);
        }
        locked.add(row)?;
    }
    for account in missing {
        Accounts::load(&mut locked.accounts, account, Money::ZERO);
    }
    Ok(locked)
}

impl Locked {
    fn add(&mut self, row: LockedRow) -> Result<(), db::Error> {
        let missing = || db::Error::Refused("a locked row has no value".into());
        if let Some(now) = row.now {
            self.now = now;
        } else if let Some(account_id) = row.account_id {
            let balance = row.amount.ok_or_else(missing)?;
            Accounts::load(&mut self.accounts, account_id, balance);
        } else {
            let reservation_id = row.reservation_id.ok_or_else(missing)?;
            if row.is_paying == Some(true) {
                self.paying.push(reservation_id);
            }
            self.reservations.push(Reservation {
                reservation_id,
                schedule_id: row.schedule_id.ok_or_else(missing)?,
                user_id: row.user_id.ok_or_else(missing)?,
                status: row.status.ok_or_else(missing)?,
                held_at: row.held_at.ok_or_else(missing)?,
                expires_at: row.expires_at.ok_or_else(missing)?,
                total: row.amount.ok_or_else(missing)?,
                show_cancelled: row.show_cancelled.ok_or_else(missing)?,
            });
        }
        Ok(())
    }
}

/// Locks reservations, in order, and loads them.
///
/// # Errors
/// When Postgres fails.
pub async fn reservation_lock(
    conn: &AsyncPgConnection,
    reservations: &BTreeSet<ReservationId>,
) -> Result<Vec<Reservation>, db::Error> {
    let locked = lock(conn, reservations, &BTreeSet::new()).await?;
    Ok(locked.reservations)
}
