//! The yardstick of charges and payments: a bare statement that writes the rows that one writes, a
//! balance and a transfer, and of a payment its own, the reservation's and the claim's, and nothing
//! else: no idempotency, no window, no limit but that nobody pays more than he has, no index but the
//! keys, no foreign key, no check. It is no rival, for it does not do the work; but what it does beside
//! a plain echo tells whether the machine and the harness are in order, and how far the row lock may be
//! below it (`money/case.rs` has the shares).

use diesel::sql_types::{Numeric, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::{AccountId, Money, PaymentId, ReservationId, Timestamp, TransferId};

/// Its tables, beside those that [`super::lean`] has of what is held. What is charged raises, and what
/// is paid lowers the balance.
pub const TABLES: &str = "\
CREATE TABLE IF NOT EXISTS lean_account (
    account_id uuid PRIMARY KEY,
    balance numeric(16, 0) NOT NULL
) WITH (fillfactor = 80);
CREATE TABLE IF NOT EXISTS lean_transfer (
    transfer_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    amount numeric(16, 0) NOT NULL,
    user_balance numeric(16, 0) NOT NULL,
    at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS lean_payment (
    payment_id uuid PRIMARY KEY,
    reservation_id uuid NOT NULL,
    transfer_id uuid NOT NULL,
    at timestamptz NOT NULL
);";

const MOVE: &str = "\
WITH kept AS (
    UPDATE lean_account SET balance = balance + $3 WHERE account_id = $2
    RETURNING balance
), made AS (
    INSERT INTO lean_transfer SELECT $1, $2, $3, balance, statement_timestamp() FROM kept
)
SELECT balance FROM kept";

#[derive(QueryableByName)]
struct Kept {
    #[diesel(sql_type = Numeric)]
    balance: Money,
}

/// Adds an amount to a balance; the balance after that, or none when there is no such account.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn charged(
    pool: &Pool,
    transfer_id: TransferId,
    account: AccountId,
    amount: Money,
) -> Result<Option<Money>, db::Error> {
    let by = statement(MOVE)
        .bind::<SqlUuid, _>(transfer_id)
        .bind::<SqlUuid, _>(account)
        .bind::<Numeric, _>(amount);
    let mut conn = pool.get().await?;
    let kept: Option<Kept> = by.get_result(&mut conn).await.optional()?;
    Ok(kept.map(|kept| kept.balance))
}

/// It believes that the reservation is there and held; of one that is not, the checks after a run would
/// find that it was paid for nothing.
const PAY: &str = "\
WITH kept AS (
    UPDATE lean_account SET balance = balance - $3 WHERE account_id = $2 AND balance >= $3
    RETURNING balance
), ended AS (
    UPDATE lean_reservation SET status = 'PAID' FROM kept WHERE reservation_id = $4
    RETURNING schedule_id, seat_nos
), sold AS (
    UPDATE lean_seat_claim AS c SET state = 'S' FROM ended
    WHERE c.schedule_id = ended.schedule_id AND c.seat_no = ANY (ended.seat_nos)
), made AS (
    INSERT INTO lean_transfer SELECT $1, $2, -$3, balance, statement_timestamp() FROM kept
), paid AS (
    INSERT INTO lean_payment SELECT $5, $4, $1, statement_timestamp() FROM ended RETURNING at
)
SELECT at FROM paid";

#[derive(QueryableByName)]
struct PaidRow {
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
}

/// Pays a reservation with so much from an account; when that was, or none when there is no account
/// with as much.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn paid(
    pool: &Pool,
    payment_id: PaymentId,
    reservation_id: ReservationId,
    transfer_id: TransferId,
    account: AccountId,
    amount: Money,
) -> Result<Option<Timestamp>, db::Error> {
    let by = statement(PAY)
        .bind::<SqlUuid, _>(transfer_id)
        .bind::<SqlUuid, _>(account)
        .bind::<Numeric, _>(amount)
        .bind::<SqlUuid, _>(reservation_id)
        .bind::<SqlUuid, _>(payment_id);
    let mut conn = pool.get().await?;
    let paid: Option<PaidRow> = by.get_result(&mut conn).await.optional()?;
    Ok(paid.map(|paid| paid.at))
}
