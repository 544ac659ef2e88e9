//! Refunds that are tasks for people, and what people have done about them. A refund is locked after
//! its reservation and its order, as by whoever asks the gateway for it.

use crate::settlement::needs::Needs;
use diesel::QueryableByName;
use diesel::sql_types::{Array, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{Action, Changes, NewAction, Refund, Tasks};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::RefundTask;
use onsale_schema::status::{RefundActionKind, RefundStatus};
use onsale_schema::{
    CancellationId, CommandId, Money, PaymentOrderId, RefundId, ReservationId, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(QueryableByName)]
struct ReservationRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
}

#[derive(QueryableByName)]
struct RefundRow {
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
    #[diesel(sql_type = SqlUuid)]
    key: Uuid,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    order_id: Option<PaymentOrderId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    reservation_id: Option<ReservationId>,
    #[diesel(sql_type = Numeric)]
    amount: Money,
    #[diesel(sql_type = Text)]
    status: RefundStatus,
}

#[derive(QueryableByName)]
struct ActionRow {
    #[diesel(sql_type = SqlUuid)]
    command_id: CommandId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
    #[diesel(sql_type = Text)]
    kind: RefundActionKind,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
}

/// The reservations whose money goes back by refunds, where it was paid for one; that never changes.
///
/// # Errors
/// When Postgres fails.
pub async fn refund_list_reservations(
    mut conn: &AsyncPgConnection,
    refunds: &BTreeSet<RefundId>,
) -> Result<Vec<ReservationId>, db::Error> {
    if refunds.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<ReservationRow> = statement(
        "SELECT reservation_id \
         FROM (SELECT coalesce(p.reservation_id, o.reservation_id) AS reservation_id \
               FROM refund AS r LEFT JOIN payment AS p USING (payment_id) \
                    LEFT JOIN payment_order AS o ON o.order_id = r.order_id \
               WHERE r.refund_id = ANY($1)) AS x \
         WHERE reservation_id IS NOT NULL",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(refunds))
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.reservation_id).collect())
}

/// Locks refunds and their orders, their reservations being locked already, and loads them, with
/// what the batch's commands have done before.
///
/// # Errors
/// When Postgres fails.
pub async fn load(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
    state: &mut Tasks,
) -> Result<(), db::Error> {
    if needs.refunds.is_empty() {
        return Ok(());
    }
    let refunds = Vec::from_iter(&needs.refunds);
    statement(
        "SELECT FROM payment_order \
         WHERE order_id IN (SELECT order_id FROM refund WHERE refund_id = ANY($1)) \
         ORDER BY order_id FOR NO KEY UPDATE",
    )
    .bind::<Array<SqlUuid>, _>(&refunds)
    .execute(&mut conn)
    .await?;
    let locked: Vec<RefundRow> = statement(
        "SELECT r.refund_id, r.key, r.order_id, r.amount, r.status, \
                coalesce(p.reservation_id, o.reservation_id) AS reservation_id \
         FROM refund AS r LEFT JOIN payment AS p USING (payment_id) \
              LEFT JOIN payment_order AS o ON o.order_id = r.order_id \
         WHERE r.refund_id = ANY($1) ORDER BY r.refund_id FOR NO KEY UPDATE OF r",
    )
    .bind::<Array<SqlUuid>, _>(&refunds)
    .load(&mut conn)
    .await?;
    for row in locked {
        let is_late = row.order_id.is_some_and(|order| order.0 == row.key);
        state.load(Refund {
            refund_id: row.refund_id,
            order_id: row.order_id,
            reservation_id: row.reservation_id,
            cancellation_id: (!is_late).then_some(CancellationId(row.key)),
            amount: row.amount,
            status: row.status,
        });
    }
    // After the locks: what somebody else has done meanwhile is seen.
    let done: Vec<ActionRow> = statement(
        "SELECT command_id, fingerprint, refund_id, kind, at FROM refund_action \
         WHERE command_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(&needs.commands)
    .load(&mut conn)
    .await?;
    for row in done {
        let status = match row.kind {
            RefundActionKind::Retry => RefundStatus::Pending,
            RefundActionKind::Resolution => RefundStatus::Resolved,
        };
        let task = RefundTask {
            refund_id: row.refund_id,
            status,
            at: row.at,
        };
        state.load_done(row.command_id, Fingerprint(row.fingerprint), task);
    }
    Ok(())
}

/// Stores what was done, and what follows: the gateway is asked again at once, or the money is back.
///
/// # Errors
/// When Postgres fails, or when a refund was not stuck.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    let actions = &changes.actions;
    if actions.is_empty() {
        return Ok(());
    }
    action_insert(conn, actions).await?;
    let is_retry = |action: &&NewAction| action.action == Action::Retry;
    let (retries, resolutions): (Vec<&NewAction>, Vec<&NewAction>) =
        actions.iter().partition(is_retry);
    refund_retry(conn, &retries).await?;
    refund_resolve(conn, &resolutions).await?;
    order_add_refunded(conn, &resolutions).await
}

async fn action_insert(
    mut conn: &AsyncPgConnection,
    actions: &[NewAction],
) -> Result<(), db::Error> {
    let kind = |action: &NewAction| match action.action {
        Action::Retry => RefundActionKind::Retry,
        Action::Resolution { .. } => RefundActionKind::Resolution,
    };
    let note = |action: &NewAction| match &action.action {
        Action::Retry => None,
        Action::Resolution { note } => Some(note.clone()),
    };
    statement(
        "INSERT INTO refund_action (command_id, fingerprint, refund_id, kind, user_id, note, at) \
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], \
                              $6::text[], $7::timestamptz[])",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.command_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.fingerprint.0).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.refund.refund_id).collect())
    .bind::<Array<Text>, Vec<_>>(actions.iter().map(kind).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.user_id).collect())
    .bind::<Array<Nullable<Text>>, Vec<_>>(actions.iter().map(note).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(actions.iter().map(|a| a.at).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn refund_retry(
    mut conn: &AsyncPgConnection,
    actions: &[&NewAction],
) -> Result<(), db::Error> {
    if actions.is_empty() {
        return Ok(());
    }
    let retried = statement(
        "UPDATE refund SET status = 'PENDING', attempts = 0, step_no = step_no + 1, \
                next_at = clock_timestamp(), stuck_at = NULL \
         WHERE refund_id = ANY($1) AND status = 'STUCK'",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.refund.refund_id).collect())
    .execute(&mut conn)
    .await?;
    all_were_stuck(retried, actions.len())
}

async fn refund_resolve(
    mut conn: &AsyncPgConnection,
    actions: &[&NewAction],
) -> Result<(), db::Error> {
    if actions.is_empty() {
        return Ok(());
    }
    let resolved = statement(
        "UPDATE refund r SET status = 'RESOLVED', done_at = x.at, step_no = r.step_no + 1, \
                stuck_at = NULL \
         FROM unnest($1::uuid[], $2::timestamptz[]) AS x (refund_id, at) \
         WHERE r.refund_id = x.refund_id AND r.status = 'STUCK'",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.refund.refund_id).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(actions.iter().map(|a| a.at).collect())
    .execute(&mut conn)
    .await?;
    all_were_stuck(resolved, actions.len())
}

fn all_were_stuck(were: usize, expected: usize) -> Result<(), db::Error> {
    if were == expected {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "P3: {were} refunds of {expected} were stuck"
        )))
    }
}

/// What was paid back by other means counts as given back, and ends an order that gave it back.
async fn order_add_refunded(
    mut conn: &AsyncPgConnection,
    actions: &[&NewAction],
) -> Result<(), db::Error> {
    let mut sums: BTreeMap<PaymentOrderId, Money> = BTreeMap::new();
    for action in actions {
        if let Some(order) = action.refund.order_id {
            let sum = sums.entry(order).or_default();
            *sum = *sum + action.refund.amount;
        }
    }
    if sums.is_empty() {
        return Ok(());
    }
    let (orders, amounts): (Vec<PaymentOrderId>, Vec<Money>) = sums.into_iter().unzip();
    statement(
        "UPDATE payment_order o \
         SET refunded = o.refunded + x.amount, step_no = o.step_no + 1, \
             updated_at = clock_timestamp(), \
             status = CASE o.status WHEN 'REFUNDING' THEN 'REFUNDED' ELSE o.status END \
         FROM unnest($1::uuid[], $2::numeric[]) AS x (order_id, amount) \
         WHERE o.order_id = x.order_id",
    )
    .bind::<Array<SqlUuid>, _>(orders)
    .bind::<Array<Numeric>, _>(amounts)
    .execute(&mut conn)
    .await?;
    Ok(())
}
