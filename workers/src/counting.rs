//! Counts from the rows, again and again, what somebody may be woken for: so a restart forgets none of
//! it, and every replica says the same, whatever else it does or waits for. One that can't read the rows
//! says for how long its numbers have been old.

use onsale_platform::db;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it counts.
const EVERY: Duration = Duration::from_secs(2);

/// Has it counted until `shutdown`; `age` is the gauge that says how old the numbers are.
pub async fn run<F>(age: &'static str, count: impl Fn() -> F, shutdown: CancellationToken)
where
    F: Future<Output = Result<(), db::Error>>,
{
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut counted_at = Instant::now();
    while shutdown.run_until_cancelled(every.tick()).await.is_some() {
        match count().await {
            Ok(()) => counted_at = Instant::now(),
            Err(error) => tracing::debug!(%error, age, "it is counted later"),
        }
        metrics::gauge!(age).set(counted_at.elapsed().as_secs_f64());
    }
}
