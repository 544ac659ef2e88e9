//! Payments, and attempts that failed.

use crate::settlement::needs::Needs;
use diesel::QueryableByName;
use diesel::sql_types::{Array, Bool, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{Captured, NewPayment, Settlement};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::Payment;
use onsale_schema::status::{PaymentMethod, PaymentStatus};
use onsale_schema::{CommandId, Money, PaymentId, PaymentOrderId, ReservationId, Timestamp};
use std::collections::HashSet;
use uuid::Uuid;

/// A payment, or an attempt that failed.
#[derive(QueryableByName)]
pub struct PaymentRow {
    #[diesel(sql_type = SqlUuid)]
    payment_id: PaymentId,
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = Numeric)]
    amount: Money,
    #[diesel(sql_type = Bool)]
    is_paid: bool,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
    #[diesel(sql_type = Text)]
    method: PaymentMethod,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    order_id: Option<PaymentOrderId>,
    #[diesel(sql_type = Numeric)]
    refunded: Money,
}

/// The live payments of these commands, and those of their attempts that failed.
///
/// # Errors
/// When Postgres fails.
pub async fn payment_list_by_command(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
) -> Result<Vec<PaymentRow>, db::Error> {
    // Each key is a look-up of its own: for all of them at once, a plan that is made while there are
    // few payments reads every one of them, also when there are many.
    let rows = statement(
        "SELECT p.* FROM unnest($1::uuid[]) AS x (command_id) CROSS JOIN LATERAL ( \
             SELECT payment_id, reservation_id, command_id, fingerprint, amount, true AS is_paid, \
                    at, method, order_id, refunded \
             FROM payment WHERE command_id = x.command_id AND status = 'PAID' OFFSET 0) AS p \
         UNION ALL \
         SELECT p.* FROM unnest($2::uuid[]) AS x (payment_id) CROSS JOIN LATERAL ( \
             SELECT payment_id, reservation_id, command_id, fingerprint, amount, false, at, \
                    method, order_id, refunded \
             FROM payment WHERE payment_id = x.payment_id AND status = 'FAILED' OFFSET 0) AS p",
    )
    .bind::<Array<SqlUuid>, _>(&needs.commands)
    .bind::<Array<SqlUuid>, _>(&needs.attempts)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// The live payments of these reservations, which are locked.
///
/// # Errors
/// When Postgres fails.
pub async fn payment_list_by_reservation(
    mut conn: &AsyncPgConnection,
    reservations: &[ReservationId],
) -> Result<Vec<PaymentRow>, db::Error> {
    if reservations.is_empty() {
        return Ok(Vec::new());
    }
    let rows = statement(
        "SELECT p.* FROM unnest($1::uuid[]) AS x (reservation_id) CROSS JOIN LATERAL ( \
             SELECT payment_id, reservation_id, command_id, fingerprint, amount, true AS is_paid, \
                    at, method, order_id, refunded FROM payment \
             WHERE reservation_id = x.reservation_id AND status = 'PAID' OFFSET 0) AS p",
    )
    .bind::<Array<SqlUuid>, _>(reservations)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the state of payments and attempts that were made; of one that comes twice, the first.
pub fn payment_load(rows: impl Iterator<Item = PaymentRow>, state: &mut Settlement) {
    let mut loaded = HashSet::new();
    for row in rows {
        if !loaded.insert(row.payment_id) {
            continue;
        }
        if row.is_paid {
            let payment = Payment {
                payment_id: row.payment_id,
                reservation_id: row.reservation_id,
                amount: row.amount,
                paid_at: row.at,
            };
            let captured = Captured {
                payment_id: row.payment_id,
                method: row.method,
                order_id: row.order_id,
                amount: row.amount,
                refunded: row.refunded,
            };
            state.load_captured(row.reservation_id, captured);
            state.load_payment(row.command_id, Fingerprint(row.fingerprint), payment);
        } else {
            state.load_failed(row.payment_id);
        }
    }
}

/// Adds payments and attempts.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn payment_insert(
    mut conn: &AsyncPgConnection,
    rows: &[NewPayment],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    statement(
        "INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, \
                              method, amount, status, fail_code, transfer_id, at, order_id) \
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], \
                              $6::text[], $7::numeric[], $8::text[], $9::text[], $10::uuid[], \
                              $11::timestamptz[], $12::uuid[])",
    )
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|p| p.payment_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|p| p.reservation_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|p| p.user_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|p| p.command_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|p| p.fingerprint.0).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|p| p.method).collect::<Vec<_>>())
    .bind::<Array<Numeric>, _>(rows.iter().map(|p| p.amount).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(
        rows.iter()
            .map(|p| p.status)
            .collect::<Vec<PaymentStatus>>(),
    )
    .bind::<Array<Nullable<Text>>, _>(rows.iter().map(|p| p.fail_code).collect::<Vec<_>>())
    .bind::<Array<Nullable<SqlUuid>>, _>(rows.iter().map(|p| p.transfer_id).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(rows.iter().map(|p| p.at).collect::<Vec<_>>())
    .bind::<Array<Nullable<SqlUuid>>, _>(rows.iter().map(|p| p.order_id).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}
