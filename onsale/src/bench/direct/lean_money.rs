//! The yardstick of charges and payments: a bare statement that moves a balance and writes the row of
//! that, and nothing else: no idempotency, no reservation, no limit but that a balance stays above
//! zero, no index but the keys, no foreign key. It is no rival, for it does not do the work; but what
//! it does beside a plain echo tells whether the machine and the harness are in order, and how far the
//! row lock may be below it (`money/case.rs` has the shares).

use diesel::sql_types::{Numeric, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::{AccountId, Money, TransferId};

/// Its tables. What is charged raises, and what is paid lowers the balance.
pub const TABLES: &str = "\
CREATE TABLE IF NOT EXISTS lean_account (
    account_id uuid PRIMARY KEY,
    balance numeric(16, 0) NOT NULL
);
CREATE TABLE IF NOT EXISTS lean_transfer (
    transfer_id uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    amount numeric(16, 0) NOT NULL,
    user_balance numeric(16, 0) NOT NULL,
    at timestamptz NOT NULL
);";

const MOVE: &str = "\
WITH kept AS (
    UPDATE lean_account SET balance = balance + $3 WHERE account_id = $2 AND balance + $3 >= 0
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

/// Moves a balance by an amount, which is below zero when it is paid; the balance after that, or none
/// when there is no account with as much.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn moved(
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
