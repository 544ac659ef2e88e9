//! How far each owned partition is behind, told to the ingresses four times a second: the measure
//! of back-pressure. It is told while a commit hangs, too; that is when it matters.

use super::world::Publish;
use onsale_platform::metric;
use onsale_schema::message::{self, encode};
use onsale_schema::{Lane, PartitionNo, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_millis(250);

/// One partition's progress, written by its driver.
#[derive(Debug, Default)]
pub struct Progress {
    /// The owner's epoch; 0 where there is none.
    epoch: i64,
    /// Messages read but not committed, and those that the server has behind them.
    undecided: AtomicU64,
    /// Time of the oldest message that is not committed, in microseconds; 0 when there is none.
    oldest_us: AtomicI64,
}

impl Progress {
    /// These many messages are read or pending, the oldest of them from `oldest`.
    pub fn set(&self, undecided: u64, oldest: Option<Timestamp>) {
        self.undecided.store(undecided, Ordering::Relaxed);
        self.oldest_us
            .store(oldest.map_or(0, Timestamp::micros), Ordering::Relaxed);
    }

    /// What was set last.
    #[cfg(test)]
    pub fn get(&self) -> (u64, Option<Timestamp>) {
        let oldest = match self.oldest_us.load(Ordering::Relaxed) {
            0 => None,
            us => Some(Timestamp::from_micros(us)),
        };
        (self.undecided.load(Ordering::Relaxed), oldest)
    }
}

/// The progress of the partitions that this process owns.
#[derive(Clone, Default)]
pub struct Board {
    partitions: Arc<Mutex<BTreeMap<PartitionNo, Arc<Progress>>>>,
}

impl Board {
    /// Begins to report a partition.
    #[must_use]
    pub fn enter(&self, partition: PartitionNo, epoch: i64) -> Arc<Progress> {
        let progress = Arc::new(Progress {
            epoch,
            ..Progress::default()
        });
        self.lock().insert(partition, progress.clone());
        progress
    }

    /// Stops reporting it.
    pub fn leave(&self, lane: Lane, partition: PartitionNo) {
        self.lock().remove(&partition);
        // What a former owner said last must not stand beside what the present one says.
        gauge(lane, partition).set(0.0);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PartitionNo, Arc<Progress>>> {
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports until stopped.
    pub async fn report(
        self,
        world: impl Publish,
        clock: impl Fn() -> Timestamp,
        lane: Lane,
        stop: CancellationToken,
    ) {
        let mut every = tokio::time::interval(EVERY);
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            let now = clock();
            let partitions: Vec<_> = self.lock().iter().map(|(p, x)| (*p, x.clone())).collect();
            for (partition, progress) in partitions {
                let undecided = progress.undecided.load(Ordering::Relaxed);
                let oldest_us = progress.oldest_us.load(Ordering::Relaxed);
                let age_ms = match oldest_us {
                    0 => 0,
                    us => u64::try_from(now.ms_since(Timestamp::from_micros(us))).unwrap_or(0),
                };
                gauge(lane, partition).set(undecided as f64);
                let lag = message::Lag {
                    lane,
                    partition,
                    epoch: progress.epoch,
                    undecided,
                    age_ms,
                };
                let subject = world.subjects().lag(lane, partition);
                world.publish(subject, encode(&lag)).await;
            }
        }
    }
}

fn gauge(lane: Lane, partition: PartitionNo) -> metrics::Gauge {
    metrics::gauge!(
        metric::PARTITION_UNDECIDED,
        "lane" => lane.as_str(), "partition" => partition.to_string()
    )
}
