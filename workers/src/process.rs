//! A worker process: its roles as tasks of one set, joined at shutdown.

use crate::admission::Admission;
use crate::config::Role;
use crate::context::{Context, Error};
use crate::runtime;
use crate::runtime::lane::Persistent;
use crate::seats::Seats;
use onsale_platform::db;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the clock is measured against Postgres.
const CLOCK_EVERY: Duration = Duration::from_secs(5);

/// Runs the configured roles until `shutdown`, then lets each finish what it has begun.
///
/// # Errors
/// When a role can't go on; the others are stopped first.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), Error> {
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_clock(ctx.clone(), stop.clone()));
    for role in &ctx.config.roles.roles {
        let (ctx, stop) = (ctx.clone(), stop.clone());
        match role {
            Role::Seats => tasks.spawn(own::<Seats>(ctx.member(), stop)),
            Role::Admission => tasks.spawn(own::<Admission>(ctx.member(), stop)),
            Role::Ledger => tasks.spawn(crate::ledger::run(ctx, stop)),
            Role::Settlement => tasks.spawn(crate::settlement::run(ctx, stop)),
            Role::Gateway => tasks.spawn(crate::settlement::orders::run(ctx, stop)),
            Role::Expiry => tasks.spawn(crate::expiry::run(ctx, stop)),
            Role::Outbox => tasks.spawn(crate::outbox::run(ctx, stop)),
        };
    }
    tracing::info!(roles = ?ctx.config.roles.roles, "working");
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(Error::Task(e.to_string())));
        if let Err(error) = ended {
            stop.cancel();
            result = result.and(Err(error));
        }
    }
    result
}

async fn keep_clock(ctx: Context, stop: CancellationToken) -> Result<(), Error> {
    let mut every = tokio::time::interval(CLOCK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let measured = async {
            let mut conn = ctx.pool.get().await?;
            db::measure_clock(&mut conn, &ctx.clock).await
        };
        if let Err(error) = measured.await {
            tracing::debug!(%error, "the clock can't be measured; the last offset holds");
        }
    }
    Ok(())
}

/// Owns a share of a lane's partitions.
async fn own<L: Persistent>(ctx: Context, stop: CancellationToken) -> Result<(), Error> {
    tracing::info!(worker = %ctx.worker_id, lane = %L::LANE, "owning partitions");
    runtime::run::<L, Context>(ctx, stop).await;
    Ok(())
}
