//! Refunds that are tasks for people, and what people have done about them. What follows is done by
//! whoever asks the gateway: the money has not moved here.

use crate::settlement::needs::Needs;
use diesel::QueryableByName;
use diesel::sql_types::{Array, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::{Action, Changes, NewAction, Tasks};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::RefundTask;
use onsale_schema::status::{RefundActionKind, RefundStatus};
use onsale_schema::{CommandId, PaymentOrderId, RefundId, Timestamp};
use uuid::Uuid;

#[derive(QueryableByName)]
struct RefundRow {
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
    #[diesel(sql_type = Text)]
    status: RefundStatus,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    order_id: Option<PaymentOrderId>,
}

#[derive(QueryableByName)]
struct OrderRow {
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
}

#[derive(QueryableByName)]
struct CompareRow {
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
    #[diesel(sql_type = SqlUuid)]
    order_id: PaymentOrderId,
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
    #[diesel(sql_type = Text)]
    status: RefundStatus,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
}

/// Adds the orders of refunds that somebody wants to see to, to be locked with all others: by their locks
/// nobody finds that one of them has to be compared while another is tried again.
///
/// # Errors
/// When Postgres fails.
pub async fn with_orders(
    mut conn: &AsyncPgConnection,
    mut needs: Needs,
) -> Result<Needs, db::Error> {
    if needs.refunds.is_empty() {
        return Ok(needs);
    }
    // Of which order a refund is, never changes.
    let rows: Vec<OrderRow> = statement(
        "SELECT DISTINCT order_id FROM refund \
         WHERE refund_id = ANY($1) AND order_id IS NOT NULL",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(&needs.refunds))
    .load(&mut conn)
    .await?;
    needs.has_orders |= !rows.is_empty();
    needs
        .orders
        .extend(rows.into_iter().map(|row| row.order_id));
    Ok(needs)
}

/// Locks refunds, in order, and loads them, with what has to be compared of their orders, which are locked
/// by now, and what the batch's commands have done before.
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
    let locked: Vec<RefundRow> = statement(
        "SELECT refund_id, status, order_id FROM refund WHERE refund_id = ANY($1) \
         ORDER BY refund_id FOR NO KEY UPDATE",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(&needs.refunds))
    .load(&mut conn)
    .await?;
    let orders: Vec<PaymentOrderId> = locked.iter().filter_map(|row| row.order_id).collect();
    for row in locked {
        state.load(row.refund_id, row.status, row.order_id);
    }
    // After the locks: what somebody else has done meanwhile is seen.
    let compare: Vec<CompareRow> = statement(
        "SELECT refund_id, order_id FROM refund \
         WHERE order_id = ANY($1) AND compare_at IS NOT NULL AND compared_at IS NULL",
    )
    .bind::<Array<SqlUuid>, _>(orders)
    .load(&mut conn)
    .await?;
    for row in compare {
        state.load_compare(row.order_id, row.refund_id);
    }
    let done: Vec<ActionRow> = statement(
        "SELECT a.command_id, a.fingerprint, a.refund_id, a.kind, r.status, a.at \
         FROM refund_action AS a JOIN refund AS r USING (refund_id) WHERE a.command_id = ANY($1)",
    )
    .bind::<Array<SqlUuid>, _>(&needs.commands)
    .load(&mut conn)
    .await?;
    for row in done {
        let status = match row.kind {
            RefundActionKind::Retry => RefundStatus::Pending,
            RefundActionKind::Resolution => RefundStatus::Resolving,
            // It had ended by then, for good.
            RefundActionKind::Comparison => row.status,
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

/// Stores what was done; whoever asks the gateway goes on at once.
///
/// # Errors
/// When Postgres fails, or when a refund was not stuck, or need not be compared.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    let actions = &changes.actions;
    if actions.is_empty() {
        return Ok(());
    }
    action_insert(conn, actions).await?;
    refund_attend(conn, actions).await?;
    refund_compare(conn, actions).await
}

async fn action_insert(
    mut conn: &AsyncPgConnection,
    actions: &[NewAction],
) -> Result<(), db::Error> {
    let kind = |action: &NewAction| match action.action {
        Action::Retry => RefundActionKind::Retry,
        Action::Resolution { .. } => RefundActionKind::Resolution,
        Action::Comparison { .. } => RefundActionKind::Comparison,
    };
    let note = |action: &NewAction| match &action.action {
        Action::Retry => None,
        Action::Resolution { note } | Action::Comparison { note } => Some(note.clone()),
    };
    statement(
        "INSERT INTO refund_action (command_id, fingerprint, refund_id, kind, user_id, note, at) \
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], \
                              $6::text[], $7::timestamptz[])",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.command_id).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.fingerprint.0).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.refund_id).collect())
    .bind::<Array<Text>, Vec<_>>(actions.iter().map(kind).collect())
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.user_id).collect())
    .bind::<Array<Nullable<Text>>, Vec<_>>(actions.iter().map(note).collect())
    .bind::<Array<Timestamptz>, Vec<_>>(actions.iter().map(|a| a.at).collect())
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// It is looked up first in any case: a person may have given the money back at the gateway since.
async fn refund_attend(
    mut conn: &AsyncPgConnection,
    actions: &[NewAction],
) -> Result<(), db::Error> {
    let status = |action: &NewAction| match action.action {
        Action::Retry => Some((action.refund_id, RefundStatus::Pending)),
        Action::Resolution { .. } => Some((action.refund_id, RefundStatus::Resolving)),
        Action::Comparison { .. } => None,
    };
    let (refunds, statuses): (Vec<RefundId>, Vec<RefundStatus>) =
        actions.iter().filter_map(status).unzip();
    if refunds.is_empty() {
        return Ok(());
    }
    let attended = statement(
        "UPDATE refund r SET status = x.status, attempts = 0, step_no = r.step_no + 1, \
                next_at = clock_timestamp(), \
                settles_at = greatest(r.settles_at, clock_timestamp()), \
                stuck_at = CASE x.status WHEN 'RESOLVING' THEN r.stuck_at END \
         FROM unnest($1::uuid[], $2::text[]) AS x (refund_id, status) \
         WHERE r.refund_id = x.refund_id AND r.status = 'STUCK'",
    )
    .bind::<Array<SqlUuid>, _>(&refunds)
    .bind::<Array<Text>, _>(&statuses)
    .execute(&mut conn)
    .await?;
    if attended == refunds.len() {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "P3: {attended} refunds of {} were stuck",
            refunds.len()
        )))
    }
}

/// Nothing of it goes on: both payments were made long ago.
async fn refund_compare(
    mut conn: &AsyncPgConnection,
    actions: &[NewAction],
) -> Result<(), db::Error> {
    let compared = |action: &NewAction| match action.action {
        Action::Comparison { .. } => Some((action.refund_id, action.at)),
        Action::Retry | Action::Resolution { .. } => None,
    };
    let (refunds, at): (Vec<RefundId>, Vec<Timestamp>) =
        actions.iter().filter_map(compared).unzip();
    if refunds.is_empty() {
        return Ok(());
    }
    let closed = statement(
        "UPDATE refund AS r SET compared_at = x.at \
         FROM unnest($1::uuid[], $2::timestamptz[]) AS x (refund_id, at) \
         WHERE r.refund_id = x.refund_id AND r.compare_at IS NOT NULL AND r.compared_at IS NULL",
    )
    .bind::<Array<SqlUuid>, _>(&refunds)
    .bind::<Array<Timestamptz>, _>(&at)
    .execute(&mut conn)
    .await?;
    if closed == refunds.len() {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "P2: {closed} refunds of {} were to be compared",
            refunds.len()
        )))
    }
}
