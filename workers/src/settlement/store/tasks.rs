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
use onsale_schema::{CommandId, RefundId, Timestamp};
use uuid::Uuid;

#[derive(QueryableByName)]
struct RefundRow {
    #[diesel(sql_type = SqlUuid)]
    refund_id: RefundId,
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

/// Locks refunds, in order, and loads them, with what the batch's commands have done before. Whoever
/// locks orders, too, has them by now.
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
        "SELECT refund_id, status FROM refund WHERE refund_id = ANY($1) \
         ORDER BY refund_id FOR NO KEY UPDATE",
    )
    .bind::<Array<SqlUuid>, _>(Vec::from_iter(&needs.refunds))
    .load(&mut conn)
    .await?;
    for row in locked {
        state.load(row.refund_id, row.status);
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
            RefundActionKind::Resolution => RefundStatus::Resolving,
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
/// When Postgres fails, or when a refund was not stuck.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    let actions = &changes.actions;
    if actions.is_empty() {
        return Ok(());
    }
    action_insert(conn, actions).await?;
    refund_attend(conn, actions).await
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
        Action::Retry => RefundStatus::Pending,
        Action::Resolution { .. } => RefundStatus::Resolving,
    };
    let attended = statement(
        "UPDATE refund r SET status = x.status, attempts = 0, step_no = r.step_no + 1, \
                next_at = clock_timestamp(), \
                settles_at = greatest(r.settles_at, clock_timestamp()), \
                stuck_at = CASE x.status WHEN 'RESOLVING' THEN r.stuck_at END \
         FROM unnest($1::uuid[], $2::text[]) AS x (refund_id, status) \
         WHERE r.refund_id = x.refund_id AND r.status = 'STUCK'",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(actions.iter().map(|a| a.refund_id).collect())
    .bind::<Array<Text>, Vec<RefundStatus>>(actions.iter().map(status).collect())
    .execute(&mut conn)
    .await?;
    if attended == actions.len() {
        Ok(())
    } else {
        Err(db::Error::Refused(format!(
            "P3: {attended} refunds of {} were stuck",
            actions.len()
        )))
    }
}
