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
    #[diesel(sql_type = Numeric)]
    amount: Money,
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
        "SELECT command_id, fingerprint, order_id, amount, at FROM write_off \
         WHERE command_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(&needs.commands)
    .load(&mut conn)
    .await?;
    for row in rows {
        let done = WrittenOff {
            order_id: row.order_id,
            amount: row.amount,
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
    let orders: Vec<PaymentOrderId> = rows.iter().map(|row| row.order_id).collect();
    statement(
        "INSERT INTO write_off (command_id, fingerprint, order_id, amount, user_id, note, at) \
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::numeric[], $5::uuid[], \
                              $6::text[], $7::timestamptz[])",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|row| row.command_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|row| row.fingerprint.0).collect())
    .bind::<Array<SqlUuid>, _>(&orders)
    .bind::<Array<Numeric>, Vec<_>>(rows.iter().map(|row| row.amount).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|row| row.user_id).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|row| row.note.as_str()).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(rows.iter().map(|row| row.at).collect())
    .execute(&mut conn)
    .await?;
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
struct AmountRow {
    #[diesel(sql_type = Numeric)]
    amount: Money,
}

/// How much of an order is written off. It is locked, and so does not change.
///
/// # Errors
/// When Postgres fails.
pub async fn written_off(
    mut conn: &AsyncPgConnection,
    order_id: PaymentOrderId,
) -> Result<Money, db::Error> {
    let row: Option<AmountRow> = statement(
        "SELECT amount FROM write_off WHERE order_id = $1 ORDER BY at DESC, command_id DESC LIMIT 1",
    )
    .bind::<SqlUuid, _>(order_id)
    .get_result(&mut conn)
    .await
    .optional()?;
    Ok(row.map_or(Money::ZERO, |row| row.amount))
}
