//! Which words of other workers count: a notice is done when its receiver has marked it in the transaction
//! that applied it, and what its command says after that is old.

use diesel::QueryableByName;
use diesel::sql_types::{Array, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::NoticeId;
use std::collections::HashSet;

/// Which of these notices are there and not done.
///
/// # Errors
/// When that can't be read now.
pub async fn open(pool: &Pool, ids: &[NoticeId]) -> Result<HashSet<NoticeId>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        notice_id: NoticeId,
    }
    let mut conn = pool.get().await?;
    // Each by its id, not by the index of all that are open.
    let rows: Vec<Row> = statement(
        "SELECT n.notice_id FROM unnest($1::uuid[]) AS x (notice_id) CROSS JOIN LATERAL ( \
             SELECT notice_id, done_at FROM notice WHERE notice_id = x.notice_id OFFSET 0) AS n \
         WHERE n.done_at IS NULL",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.notice_id).collect())
}
