//! Removes what orders leave behind, in pieces: notifications of the gateway, orders that nobody has
//! confirmed, and by which commands orders were asked for. A notification about an order that nobody
//! knows is known again for as long as dead letters are kept: sent once more, or tried once more by who
//! has seen to its letter, it makes no other letter.
//! An order that was ever confirmed may have moved money and is never removed; Postgres sees to that,
//! too.

use super::store;
use crate::context::Context;
use diesel_async::RunQueryDsl;
use onsale_platform::db;
use onsale_platform::sql::{Statement, statement};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The pause between two rounds.
const ROUND: Duration = Duration::from_secs(600);
/// The pause between two pieces, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// Rows in a piece, as each statement says.
const PIECE: usize = 1000;

/// Commands that have asked for an order: nobody is promised the same answer for longer.
const KEYS: &str = "DELETE FROM payment_order_key WHERE command_id = ANY (ARRAY ( \
         SELECT command_id FROM payment_order_key WHERE at < now() - interval '24 hours' \
         ORDER BY at LIMIT 1000))";
/// Orders that nobody has confirmed, a week after they were made; a gateway takes no payment that was
/// agreed to so long ago. Not as long as the reservation is held, and not one that somebody looks at.
const READY: &str = "DELETE FROM payment_order WHERE status = 'READY' AND order_id = ANY (ARRAY ( \
         SELECT order_id FROM payment_order o JOIN reservation r USING (reservation_id) \
         WHERE o.status = 'READY' AND o.next_at IS NULL \
           AND o.created_at < now() - interval '7 days' AND r.status <> 'HELD' \
           AND NOT EXISTS (SELECT FROM payment_order_key k WHERE k.order_id = o.order_id) \
         ORDER BY o.created_at LIMIT 1000 FOR UPDATE OF o SKIP LOCKED))";

/// Purges until `shutdown`.
pub(super) async fn run(ctx: &Context, shutdown: &CancellationToken) {
    let mut every = tokio::time::interval(ROUND);
    while shutdown.run_until_cancelled(every.tick()).await.is_some() {
        let round = async {
            store::event_purge(&ctx.pool, ctx.config.dead_letters.keep_d).await?;
            purge(ctx, "payment_order_key", statement(KEYS)).await?;
            purge(ctx, "payment_order", statement(READY)).await
        };
        if let Some(Err(error)) = shutdown.run_until_cancelled(round).await {
            let error: db::Error = error;
            tracing::debug!(%error, "what orders leave behind is purged later");
        }
    }
}

async fn purge(ctx: &Context, table: &str, piece: Statement) -> Result<(), db::Error> {
    let mut total = 0;
    loop {
        let mut conn = ctx.pool.get().await?;
        let gone = piece.execute(&mut conn).await?;
        drop(conn);
        total += gone;
        if gone < PIECE {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if total > 0 {
        tracing::info!(table, rows = total, "purged");
    }
    Ok(())
}
