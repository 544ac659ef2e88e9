//! Notices to the owners of seats.

use crate::outbox::system;
use diesel::sql_types::{Array, Binary, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::settlement::NewNotice;
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::message::encode;
use onsale_schema::{CommandId, Lane};

/// Adds notices, to be published after the commit.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn notice_insert(
    mut conn: &AsyncPgConnection,
    rows: &[NewNotice],
) -> Result<(), db::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let payload = |notice: &NewNotice| {
        let id = CommandId::of_system(notice.kind.name(), notice.subject, 0);
        encode(&system::command(id, notice.kind.clone()))
    };
    statement(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload) \
         SELECT x.notice_id, $1, x.schedule_id, x.payload \
         FROM unnest($2::uuid[], $3::uuid[], $4::bytea[]) AS x(notice_id, schedule_id, payload)",
    )
    .bind::<Text, _>(Lane::Seats.as_str())
    .bind::<Array<SqlUuid>, _>(rows.iter().map(|n| n.notice_id).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(
        rows.iter()
            .map(|n| n.kind.schedule_id())
            .collect::<Vec<_>>(),
    )
    .bind::<Array<Binary>, _>(rows.iter().map(payload).collect::<Vec<_>>())
    .execute(&mut conn)
    .await?;
    Ok(())
}
