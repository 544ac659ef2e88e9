//! Orders of charges by card, as the ledger makes them: they pay no reservation, and are captured
//! without anybody's confirming them.

use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::ledger::{Accounts, NewOrder};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::OrderStatus;
use onsale_schema::{CommandId, PaymentOrderId, UserId};
use uuid::Uuid;

/// An order that was made.
#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
}

/// The orders that these commands have made.
///
/// # Errors
/// When Postgres fails.
pub async fn list(
    mut conn: &AsyncPgConnection,
    commands: &[CommandId],
) -> Result<Vec<Row>, db::Error> {
    let rows = statement(
        "SELECT command_id, fingerprint, order_id, user_id FROM payment_order \
         WHERE command_id = ANY($1) AND num_nulls(reservation_id) = 1",
    )
    .bind::<Array<SqlUuid>, _>(commands)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the accounts of orders that were made.
pub fn load(rows: Vec<Row>, accounts: &mut Accounts) {
    for row in rows {
        let print = Fingerprint(row.fingerprint);
        accounts.load_order(row.command_id, print, row.order_id, row.user_id);
    }
}

/// How many charges a user has at the gateway.
#[derive(QueryableByName)]
pub struct Open {
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = BigInt)]
    open: i64,
}

/// Counts the charges of these users that are neither points yet nor known to have failed. What is
/// on its way back counts no more: it is captured, and nothing is to be captured again.
///
/// # Errors
/// When Postgres fails.
pub async fn count_open(
    mut conn: &AsyncPgConnection,
    users: &[UserId],
) -> Result<Vec<Open>, db::Error> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    // As the index payment_order_open_charge says it.
    let rows = statement(
        "SELECT user_id, count(*) AS open FROM payment_order \
         WHERE user_id = ANY($1) AND reservation_id IS NULL \
           AND status IN ('CAPTURING', 'UNKNOWN', 'CAPTURED') \
         GROUP BY user_id",
    )
    .bind::<Array<SqlUuid>, _>(users)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the accounts of charges that are open.
pub fn load_open(rows: Vec<Open>, accounts: &mut Accounts) {
    for row in rows {
        accounts.load_open(row.user_id, u32::try_from(row.open).unwrap_or(u32::MAX));
    }
}

/// Adds orders, to be captured at once.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn insert(mut conn: &AsyncPgConnection, rows: &[NewOrder]) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, \
                                    next_at, created_at, updated_at) \
         SELECT id, who, command, print, amount, $7, at, at, at \
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::numeric[], \
                     $6::timestamptz[]) AS x(id, who, command, print, amount, at)",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.order_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.user_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.command_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|o| o.fingerprint.0).collect())
    .bind::<Array<Numeric>, Vec<_>>(rows.iter().map(|o| o.amount).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(rows.iter().map(|o| o.at).collect())
    .bind::<Text, _>(OrderStatus::Capturing)
    .execute(&mut conn)
    .await?;
    Ok(())
}
