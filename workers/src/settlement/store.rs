//! Payments, and the step of a reservation from HELD to PAID: the one module that writes either.

use crate::ledger;
use crate::outbox::system;
use diesel::QueryableByName;
use diesel::sql_types::Binary;
use diesel::sql_types::{Array, Bool, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join3;
use onsale_domain::settlement::{Changes, NewNotice, NewPayment, Reservation, Settlement};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::{Command, Fingerprint, encode};
use onsale_schema::settlement::{Kind, Payment};
use onsale_schema::status::{PaymentStatus, ReservationStatus};
use onsale_schema::{
    CommandId, Lane, Money, PaymentId, ReservationId, ScheduleId, Timestamp, UserId, seats,
};
use std::collections::BTreeSet;
use uuid::Uuid;

#[derive(QueryableByName)]
struct ReservationRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = Text)]
    status: ReservationStatus,
    #[diesel(sql_type = Timestamptz)]
    expires_at: Timestamp,
    #[diesel(sql_type = Numeric)]
    total: Money,
}

/// Locks reservations, in order, and loads them.
///
/// # Errors
/// When Postgres fails.
pub async fn reservation_lock(
    conn: &mut AsyncPgConnection,
    reservations: &BTreeSet<ReservationId>,
) -> Result<Vec<Reservation>, db::Error> {
    let rows: Vec<ReservationRow> = statement(
        "SELECT reservation_id, schedule_id, user_id, coalesce(ends_as, status) AS status, \
                expires_at, total \
         FROM reservation WHERE reservation_id = ANY($1) \
         ORDER BY reservation_id FOR NO KEY UPDATE",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(reservations))
    .load(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Reservation {
            reservation_id: row.reservation_id,
            schedule_id: row.schedule_id,
            user_id: row.user_id,
            status: row.status,
            expires_at: row.expires_at,
            total: row.total,
        })
        .collect())
}

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
}

/// The live payments of these commands and reservations, and those of their attempts that failed.
///
/// # Errors
/// When Postgres fails.
pub async fn payment_list(
    mut conn: &AsyncPgConnection,
    commands: &[&Command<Kind>],
    reservations: &BTreeSet<ReservationId>,
) -> Result<Vec<PaymentRow>, db::Error> {
    let attempts: Vec<PaymentId> = commands
        .iter()
        .map(|command| {
            let Kind::Pay { payment_id, .. } = command.kind;
            payment_id
        })
        .collect();
    // Three look-ups, each by its own index.
    let rows = statement(
        "SELECT payment_id, reservation_id, command_id, fingerprint, amount, true AS is_paid, at \
         FROM payment WHERE status = 'PAID' AND command_id = ANY($1) \
         UNION \
         SELECT payment_id, reservation_id, command_id, fingerprint, amount, true, at \
         FROM payment WHERE status = 'PAID' AND reservation_id = ANY($2) \
         UNION \
         SELECT payment_id, reservation_id, command_id, fingerprint, amount, false, at \
         FROM payment WHERE status = 'FAILED' AND payment_id = ANY($3)",
    )
    .bind::<Array<SqlUuid>, _>(commands.iter().map(|c| c.id).collect::<Vec<CommandId>>())
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(reservations))
    .bind::<Array<SqlUuid>, _>(attempts)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Tells the state of payments and attempts that were made.
pub fn payment_load(rows: Vec<PaymentRow>, state: &mut Settlement) {
    for row in rows {
        if row.is_paid {
            let payment = Payment {
                payment_id: row.payment_id,
                reservation_id: row.reservation_id,
                amount: row.amount,
                paid_at: row.at,
            };
            state.load_payment(row.command_id, Fingerprint(row.fingerprint), payment);
        } else {
            state.load_failed(row.payment_id);
        }
    }
}

/// Stores payments, transfers, balances, the new state of reservations, and notices.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    // Payments refer to transfers. Everything else is locked already, so that order is free.
    ledger::store::changes(conn, &changes.ledger).await?;
    let (payments, paid, notices) = join3(
        payment_insert(conn, &changes.payments),
        reservation_set_paid(conn, &changes.paid),
        notice_insert(conn, &changes.notices),
    )
    .await;
    // The first error in the order of the statements is the cause of the others.
    payments?;
    paid?;
    notices
}

async fn payment_insert(
    mut conn: &AsyncPgConnection,
    rows: &[NewPayment],
) -> Result<(), db::Error> {
    statement(
        "INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, \
                              method, amount, status, fail_code, transfer_id, at) \
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], \
                              $6::text[], $7::numeric[], $8::text[], $9::text[], $10::uuid[], \
                              $11::timestamptz[])",
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
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn reservation_set_paid(
    mut conn: &AsyncPgConnection,
    reservations: &[ReservationId],
) -> Result<(), db::Error> {
    let paid = statement(
        "UPDATE reservation SET status = 'PAID' \
         WHERE reservation_id = ANY($1) AND status = 'HELD'",
    )
    .bind::<Array<SqlUuid>, _>(reservations)
    .execute(&mut conn)
    .await?;
    if paid == reservations.len() {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "S4: {paid} reservations of {} were held",
            reservations.len()
        )))
    }
}

async fn notice_insert(mut conn: &AsyncPgConnection, rows: &[NewNotice]) -> Result<(), db::Error> {
    let payload = |notice: &NewNotice| {
        let id = CommandId::of_system("paid", notice.reservation_id.0, 0);
        encode(&system::command(
            id,
            seats::Kind::Paid {
                notice_id: notice.notice_id,
                reservation_id: notice.reservation_id,
                schedule_id: notice.schedule_id,
            },
        ))
    };
    statement(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload) \
         SELECT x.notice_id, $1, x.schedule_id, x.payload \
         FROM unnest($2::uuid[], $3::uuid[], $4::bytea[]) AS x(notice_id, schedule_id, payload)",
    )
    .bind::<Text, _>(Lane::Seats.as_str())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|n| n.notice_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|n| n.schedule_id).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(rows.iter().map(payload).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}
