//! Accounts and transfers: the one module that writes them, for charges and for payments.
//!
//! Accounts are locked in the order of their ids, by `NO KEY UPDATE`: such locks exclude each other.
//! System accounts keep no balance and are never locked: all charges and all payments have one of them,
//! which is why a transfer has a check of its sides (`transfer_sides`) and no foreign keys to accounts,
//! which lock what they refer to.

use diesel::QueryableByName;
use diesel::sql_types::{Array, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::ledger::{Accounts, Cause, Changes};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::TransferKind;
use onsale_schema::{AccountId, Money, Timestamp, TransferId, UserId};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Makes accounts with nothing on them, where they are missing.
///
/// # Errors
/// When Postgres fails.
pub async fn account_open(
    mut conn: &AsyncPgConnection,
    users: &BTreeSet<AccountId>,
) -> Result<(), db::Error> {
    statement(
        "INSERT INTO account (account_id, balance) \
         SELECT x.account_id, 0 FROM unnest($1::uuid[]) AS x(account_id) ORDER BY x.account_id \
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(users))
    .execute(&mut conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct AccountRow {
    #[diesel(sql_type = SqlUuid)]
    account_id: AccountId,
    #[diesel(sql_type = Numeric)]
    balance: Money,
}

/// Locks users' accounts, in order, and loads their balances; one that is missing has nothing.
///
/// # Errors
/// When Postgres fails.
pub async fn account_lock(
    mut conn: &AsyncPgConnection,
    users: &BTreeSet<AccountId>,
) -> Result<Accounts, db::Error> {
    let rows: Vec<AccountRow> = statement(
        "SELECT account_id, balance FROM account \
         WHERE account_id = ANY($1) AND balance IS NOT NULL \
         ORDER BY account_id FOR NO KEY UPDATE",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(users))
    .load(&mut conn)
    .await?;
    let mut missing = users.clone();
    let mut accounts = Accounts::default();
    for row in rows {
        missing.remove(&row.account_id);
        Accounts::load(&mut accounts, row.account_id, row.balance);
    }
    for account in missing {
        Accounts::load(&mut accounts, account, Money::ZERO);
    }
    Ok(accounts)
}

/// A charge that was made.
#[derive(QueryableByName)]
pub struct ChargeRow {
    #[diesel(sql_type = SqlUuid)]
    cause: Uuid,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = SqlUuid)]
    transfer_id: TransferId,
    #[diesel(sql_type = SqlUuid)]
    credit: AccountId,
    #[diesel(sql_type = Numeric)]
    user_balance: Money,
}

/// The charges that these causes have made, each by a look-up of its own, however many transfers there
/// were when the plan was made.
///
/// # Errors
/// When Postgres fails.
pub async fn charge_list(
    mut conn: &AsyncPgConnection,
    causes: &BTreeSet<Uuid>,
) -> Result<Vec<ChargeRow>, db::Error> {
    let rows = statement(
        "SELECT t.cause, t.fingerprint, t.transfer_id, t.credit, t.user_balance \
         FROM unnest($1::uuid[]) AS x (cause) \
             CROSS JOIN LATERAL (SELECT * FROM transfer WHERE cause = x.cause OFFSET 0) AS t \
         WHERE t.kind = $2",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(causes))
    .bind::<Text, _>(TransferKind::Charge)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the accounts of charges that were made.
pub fn charge_load(rows: Vec<ChargeRow>, accounts: &mut Accounts) {
    for row in rows {
        accounts.load_transfer(
            Cause(row.cause),
            Fingerprint(row.fingerprint),
            row.transfer_id,
            row.user_balance,
            // A charge credits its user's account, which has the user's id.
            UserId(row.credit.0),
        );
    }
}

/// Stores transfers and the balances that follow from them.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    if changes.transfers.is_empty() {
        return Ok(());
    }
    let (transfers, balances) = futures_util::future::join(
        transfer_insert(conn, changes),
        balance_update(conn, changes),
    )
    .await;
    db::both(transfers, balances)?;
    Ok(())
}

async fn transfer_insert(mut conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    let rows = &changes.transfers;
    statement(
        "INSERT INTO transfer (transfer_id, cause, fingerprint, kind, debit, credit, amount, \
                               user_balance, at) \
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], \
                              $6::uuid[], $7::numeric[], $8::numeric[], $9::timestamptz[])",
    )
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|t| t.transfer_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|t| t.cause.0).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|t| t.fingerprint.0).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|t| t.kind).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|t| t.debit).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|t| t.credit).collect::<Vec<_>>())
    .bind::<Array<Numeric>, _>(rows.iter().map(|t| t.amount).collect::<Vec<_>>())
    .bind::<Array<Numeric>, _>(rows.iter().map(|t| t.user_balance).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(rows.iter().map(|t| t.at).collect::<Vec<Timestamp>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn balance_update(mut conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    let (accounts, balances): (Vec<AccountId>, Vec<Money>) = changes.balances.iter().unzip();
    let expected = accounts.len();
    let updated = statement(
        "UPDATE account a SET balance = x.balance \
         FROM unnest($1::uuid[], $2::numeric[]) AS x(account_id, balance) \
         WHERE a.account_id = x.account_id AND a.balance IS NOT NULL",
    )
    .bind::<Array<SqlUuid>, _>(accounts)
    .bind::<Array<Numeric>, _>(balances)
    .execute(&mut conn)
    .await?;
    if updated == expected {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "L1: {updated} balances of {expected} are kept"
        )))
    }
}
