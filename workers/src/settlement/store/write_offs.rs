//! What people have written off of payments.

use crate::settlement::needs::Needs;
use diesel::sql_types::{Array, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{NewWriteOff, WriteOffs};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::WrittenOff;
use onsale_schema::{CommandId, Money, PaymentOrderId, Timestamp};
use uuid::Uuid;

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
    #[diesel(sql_type = Array<Numeric>)]
    amounts: Vec<Money>,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
}

/// Loads what the batch's commands have written off before.
///
/// # Errors
/// When Postgres fails.
pub async fn load(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
    state: &mut WriteOffs,
) -> Result<(), db::Error> {
    if !needs.has_write_offs {
        return Ok(());
    }
    let rows: Vec<Row> = statement(
        "SELECT command_id, fingerprint, order_id, amounts, at FROM write_off \
         WHERE command_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(&needs.commands)
    .load(&mut conn)
    .await?;
    for row in rows {
        let done = WrittenOff {
            order_id: row.order_id,
            amounts: row.amounts,
            at: row.at,
        };
        state.load(row.command_id, Fingerprint(row.fingerprint), done);
    }
    Ok(())
}

/// Stores what was written off, and has the orders, which are locked and have ended, looked up at once.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn changes(mut conn: &AsyncPgConnection, rows: &[NewWriteOff]) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    // A row by itself: an array of arrays has no rows of different lengths.
    for row in rows {
        statement(
            "INSERT INTO write_off (command_id, fingerprint, order_id, amounts, user_id, note, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind::<SqlUuid, _>(row.command_id)
        .bind::<SqlUuid, _>(row.fingerprint.0)
        .bind::<SqlUuid, _>(row.order_id)
        .bind::<Array<Numeric>, _>(&row.amounts)
        .bind::<SqlUuid, _>(row.user_id)
        .bind::<Text, _>(&row.note)
        .bind::<Timestamptz, _>(row.at)
        .execute(&mut conn)
        .await?;
    }
    let orders: Vec<PaymentOrderId> = rows.iter().map(|row| row.order_id).collect();
    statement(
        "UPDATE payment_order SET next_at = clock_timestamp(), step_no = step_no + 1, attempts = 0 \
         WHERE order_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(orders)
    .execute(&mut conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct AmountsRow {
    #[diesel(sql_type = Array<Numeric>)]
    amounts: Vec<Money>,
}

/// What is written off of an order.
///
/// # Errors
/// When Postgres fails.
pub async fn written_off(
    mut conn: &AsyncPgConnection,
    order_id: PaymentOrderId,
) -> Result<Vec<Money>, db::Error> {
    let row: Option<AmountsRow> = statement(
        "SELECT amounts FROM write_off WHERE order_id = $1 ORDER BY at DESC, command_id DESC LIMIT 1",
    )
    .bind::<SqlUuid, _>(order_id)
    .get_result(&mut conn)
    .await
    .optional()?;
    Ok(row.map_or_else(Vec::new, |row| row.amounts))
}
