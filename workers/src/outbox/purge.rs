//! Removes what has served, in pieces, so that no transaction is long: outcomes, done notices and the
//! rows of processes that are gone a day after their time, facts a set time after their publication,
//! dead letters a set time after they were tried again. A dead letter that is a command stays until
//! somebody has tried it: what it asked for was not done, and only a person knows whether it matters.
//!
//! Facts go in the order of their numbers, whether or not every webhook subscriber has them, or one
//! that is dead would fill the disk. Up to which number they are gone is written with it, so that a
//! subscriber that is behind learns that it has missed facts. Those that have all they want are moved
//! to the end before: what goes behind them, they have not missed.

use super::webhooks::store::{Whom, webhook_advance_idle};
use crate::compete::patience::Patience;
use crate::context::Context;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer};
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
        "worker",
        "DELETE FROM worker WHERE worker_id = ANY (ARRAY (SELECT worker_id FROM worker \
         WHERE heartbeat_at < now() - interval '24 hours' LIMIT 1000))",
    ),
];

/// What is removed.
#[derive(Clone, Copy)]
enum What {
    /// Of a table, by a statement that has no arguments.
    Rows(&'static str, Statement),
    /// Published facts.
    Facts,
    /// Dead letters that nobody has to see to.
    DeadLetters,
}

/// Purges for ever.
pub async fn run(ctx: &Context) -> Infallible {
    let mut patience = Patience::new("purge");
    loop {
        let rows = PIECES
            .iter()
            .map(|(table, sql)| What::Rows(table, statement(sql)));
        for what in rows.chain([What::Facts, What::DeadLetters]) {
            match purge(ctx, what).await {
                Ok(()) => patience.healed(),
                Err(error) => patience.wait(error).await,
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

#[derive(QueryableByName)]
struct Gone {
    #[diesel(sql_type = BigInt)]
    gone: i64,
}

async fn fact_purge(ctx: &Context) -> Result<usize, db::Error> {
    let keep_h = i32::try_from(ctx.config.facts.keep_h).unwrap_or(i32::MAX);
    let mut conn = ctx.pool.get().await?;
    let row: Gone = statement(
        "WITH oldest AS (SELECT feed_no, published_at FROM outbox WHERE feed_no IS NOT NULL \
                         ORDER BY feed_no LIMIT 1000), \
         kept AS (SELECT min(feed_no) AS first FROM oldest \
                  WHERE published_at >= now() - make_interval(hours => $1)), \
         gone AS (DELETE FROM outbox o USING oldest, kept \
                  WHERE o.feed_no = oldest.feed_no \
                    AND (kept.first IS NULL OR o.feed_no < kept.first) RETURNING o.feed_no), \
         noted AS (UPDATE fact_feed \
                   SET purged_no = greatest(purged_no, (SELECT max(feed_no) FROM gone)) \
                   WHERE EXISTS (SELECT FROM gone)) \
         SELECT count(*) AS gone FROM gone",
    )
    .bind::<Integer, _>(keep_h)
    .get_result(&mut conn)
    .await?;
    Ok(usize::try_from(row.gone).unwrap_or_default())
}

async fn dead_letter_purge(ctx: &Context) -> Result<usize, db::Error> {
    let keep_d = i32::try_from(ctx.config.dead_letters.keep_d).unwrap_or(i32::MAX);
    let mut conn = ctx.pool.get().await?;
    let gone = statement(
        "DELETE FROM dead_letter WHERE dead_letter_id = ANY (ARRAY ( \
             SELECT dead_letter_id FROM dead_letter \
             WHERE CASE WHEN command_index < 0 THEN at ELSE retried_at END \
                   < now() - make_interval(days => $1) LIMIT 1000))",
    )
    .bind::<Integer, _>(keep_d)
    .execute(&mut conn)
    .await?;
    Ok(gone)
}

async fn purge(ctx: &Context, what: What) -> Result<(), db::Error> {
    let (mut total, mut table) = (0, "outbox");
    if let What::Facts = what {
        webhook_advance_idle(&ctx.pool, Whom::All).await?;
    }
    loop {
        let deleted = match what {
            What::Rows(name, piece) => {
                table = name;
                let mut conn = ctx.pool.get().await?;
                piece.execute(&mut conn).await?
            }
            What::Facts => fact_purge(ctx).await?,
            What::DeadLetters => {
                table = "dead_letter";
                dead_letter_purge(ctx).await?
            }
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
