//! Removes what has served: outcomes, done notices, published facts and the rows of processes that
//! are gone, a day after their time and in pieces, so that no transaction is long.

use crate::compete::patience::Patience;
use crate::context::Context;
use diesel_async::RunQueryDsl;
use onsale_platform::db;
use onsale_platform::sql::{Statement, statement};
use std::convert::Infallible;
use std::time::Duration;

/// The pause between two rounds.
const ROUND: Duration = Duration::from_secs(5 * 60);
/// The pause between two pieces, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// Rows in a piece, as each statement says.
const PIECE: usize = 1000;

/// One piece of each table.
const PIECES: &[(&str, &str)] = &[
    // An ingress counts on outcomes for 23 h after a command's deadline (its `commands.rs`).
    (
        "outcome",
        "DELETE FROM outcome WHERE ctid = ANY (ARRAY (SELECT ctid FROM outcome \
         WHERE decided_at < now() - interval '24 hours' ORDER BY decided_at LIMIT 1000))",
    ),
    (
        "notice",
        "DELETE FROM notice WHERE ctid = ANY (ARRAY (SELECT ctid FROM notice \
         WHERE created_at < now() - interval '24 hours' AND done_at IS NOT NULL \
         ORDER BY created_at LIMIT 1000))",
    ),
    (
        "outbox",
        "DELETE FROM outbox WHERE ctid = ANY (ARRAY (SELECT ctid FROM outbox \
         WHERE created_at < now() - interval '24 hours' AND published_at IS NOT NULL \
         ORDER BY created_at LIMIT 1000))",
    ),
    (
        "worker",
        "DELETE FROM worker WHERE worker_id = ANY (ARRAY (SELECT worker_id FROM worker \
         WHERE heartbeat_at < now() - interval '24 hours' LIMIT 1000))",
    ),
];

/// Purges for ever.
pub async fn run(ctx: &Context) -> Infallible {
    let mut patience = Patience::new("purge");
    loop {
        for (table, sql) in PIECES {
            match purge(ctx, table, statement(sql)).await {
                Ok(()) => patience.healed(),
                Err(error) => patience.wait(error).await,
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

async fn purge(ctx: &Context, table: &str, piece: Statement) -> Result<(), db::Error> {
    let mut total = 0;
    loop {
        let deleted = {
            let mut conn = ctx.pool.get().await?;
            piece.execute(&mut conn).await?
        };
        total += deleted;
        if deleted < PIECE {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if total > 0 {
        tracing::info!(table, rows = total, "purged");
    }
    Ok(())
}
