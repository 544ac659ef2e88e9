//! Notices to the owners of seats.

use crate::outbox::notices::{self, NewNotice};
use diesel_async::AsyncPgConnection;
use onsale_domain::settlement;
use onsale_platform::db;

/// Adds notices, to be published after the commit.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn notice_insert(
    conn: &AsyncPgConnection,
    rows: &[settlement::NewNotice],
) -> Result<(), db::Error> {
    let notice = |row: &settlement::NewNotice| {
        NewNotice::to_seats(row.notice_id, row.subject, row.kind.clone())
    };
    let rows: Vec<NewNotice> = rows.iter().map(notice).collect();
    notices::insert(conn, &rows).await
}
