//! The outbox worker: publishes what was written in the transactions that made it true.
//!
//! [`notices`] are word from one worker to another, published until their receiver marks them done
//! in the transaction that applies them. [`facts`] are for other systems, published at least once,
//! in order per aggregate; what their stream loses is put back ([`events`]). Both take what is *open*, never what is "greater than the last", because
//! transactions become visible in another order than they began. What was published has a number in
//! the order in which it became visible; [`webhooks`] go by that.
//!
//! One replica publishes at a time, the one that holds an advisory lock; the others wait to take
//! over, also from one that has lost NATS. Two at once would be harmless: receivers know every id.
//! What is open is counted by every replica ([`watch`]): it matters most where nobody publishes.

pub mod events;
pub mod facts;
pub mod notices;
pub mod pace;
pub mod parcels;
pub mod purge;
pub mod rest;
pub mod system;
mod watch;
pub mod webhooks;

use crate::compete::patience::Patience;
use crate::context::{self, Context};
use async_nats::connection::State;
use diesel::QueryableByName;
use diesel::sql_types::{Bool, Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_platform::db;
use onsale_platform::sql::statement;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The advisory lock of the publisher.
const LOCK: (i32, i32) = (7093, 1);
/// How often a replica that waits asks for the lock.
const LOCK_RETRY: Duration = Duration::from_millis(500);
/// How often the publisher makes sure that it still has the lock.
const LOCK_CHECK: Duration = Duration::from_secs(1);
/// How long Postgres may take to answer on the connection with the lock, before it counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// A publisher that is paused or cut off loses the lock after some seconds: without these, its
/// session could stay for hours.
const LOCK_SESSION: &str = "SET idle_session_timeout = 5000; SET tcp_keepalives_idle = 2; \
     SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3";

/// Publishes, and says what is open, until `shutdown`.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), context::Error> {
    let mut patience = Patience::new("outbox");
    let publish = async {
        loop {
            let Err(error) = lead(&ctx, &mut patience).await;
            patience.wait(error).await;
        }
    };
    let watch = watch::run(&ctx, shutdown.clone());
    let publish = shutdown.run_until_cancelled(publish);
    let (stopped, ()): (Option<Infallible>, ()) = tokio::join!(publish, watch);
    match stopped {
        None => Ok(()),
        Some(never) => match never {},
    }
}

/// Waits for the lock and publishes as long as it is held.
async fn lead(ctx: &Context, patience: &mut Patience) -> Result<Infallible, db::Error> {
    let mut conn = db::connect(&ctx.config.common.servers.database_url())
        .await
        .map_err(|e| db::Error::Unavailable(e.to_string()))?;
    in_time(conn.batch_execute(LOCK_SESSION)).await?;
    patience.healed();
    while !hears(ctx) || !in_time(lock(&mut conn)).await? {
        tokio::time::sleep(LOCK_RETRY).await;
    }
    tracing::info!("this replica publishes notices and facts");
    let numbered = Notify::new();
    tokio::select! {
        lost = keep(ctx, &mut conn) => lost,
        never = notices::run(ctx) => match never {},
        never = Box::pin(facts::run(ctx, &numbered)) => match never {},
        never = Box::pin(webhooks::run(ctx, &numbered)) => match never {},
        never = purge::run(ctx) => match never {},
    }
}

#[derive(QueryableByName)]
struct LockRow {
    #[diesel(sql_type = Bool)]
    held: bool,
}

/// A connection that says nothing must be dropped: its lock goes to another replica.
async fn in_time<T, E>(asked: impl Future<Output = Result<T, E>>) -> Result<T, db::Error>
where
    db::Error: From<E>,
{
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(db::Error::Unavailable("it does not answer".into())),
    }
}

async fn lock(conn: &mut AsyncPgConnection) -> Result<bool, diesel::result::Error> {
    let row: LockRow = statement("SELECT pg_try_advisory_lock($1, $2) AS held")
        .bind::<Integer, _>(LOCK.0)
        .bind::<Integer, _>(LOCK.1)
        .get_result(conn)
        .await?;
    Ok(row.held)
}

fn hears(ctx: &Context) -> bool {
    ctx.nats.connection_state() == State::Connected
}

/// Returns when the connection, and with it the lock, is lost, or NATS is.
async fn keep(ctx: &Context, conn: &mut AsyncPgConnection) -> Result<Infallible, db::Error> {
    loop {
        if !hears(ctx) {
            tracing::warn!("NATS is away; another replica may publish");
            return Err(db::Error::Unavailable("given up, with the lock".into()));
        }
        in_time(conn.batch_execute("SELECT")).await?;
        tokio::time::sleep(LOCK_CHECK).await;
    }
}
