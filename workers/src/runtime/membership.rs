//! This process among the workers: its sign of life, and the partitions that it takes and gives
//! back.
//!
//! It must never run two drivers of one partition, nor release a partition whose driver still runs.

use super::committer::{self, Handle};
use super::core::Core;
use super::driver::{Driver, Ended};
use super::lag::Board;
use super::lane::PartitionedLane;
use super::ownership::{self, Plan};
use super::world::{Registry, World};
use onsale_platform::{db, metric};
use onsale_schema::PartitionNo;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often a sign of life is given and the snapshot read.
const EVERY: Duration = Duration::from_millis(200);

/// Owns its share of a lane's partitions until `shutdown`. Trouble that heals is waited for.
///
/// # Panics
/// When the committer did: the process has to end, so that others take its partitions.
pub async fn run<L: PartitionedLane, W: World<L>>(world: W, shutdown: CancellationToken) {
    let (handle, committer) = committer::committer(world.clone(), shutdown.clone());
    let board = Board::default();
    let mut background = JoinSet::new();
    background.spawn(committer);
    let (teller, clock) = (world.clone(), world.clone());
    let report = board
        .clone()
        .report(teller, move || clock.now(), L::LANE, shutdown.clone());
    background.spawn(report);
    let mut member = Member {
        registry: world.registry(),
        world,
        committer: Some(handle),
        board,
        drivers: JoinSet::new(),
        owned: BTreeMap::new(),
    };
    tokio::select! {
        biased;
        // Without its committer this process must not keep its partitions.
        Some(Err(error)) = background.join_next() => panic!("the runtime failed: {error}"),
        () = member.serve(&shutdown) => {}
    }
    member.leave().await;
    member.committer = None;
    while background.join_next().await.is_some() {}
}

struct Owned {
    epoch: i64,
    stop: CancellationToken,
    task: Id,
}

struct Member<L: PartitionedLane, W: World<L>> {
    world: W,
    registry: W::Registry,
    committer: Option<Handle<L>>,
    board: Board,
    drivers: JoinSet<(PartitionNo, Ended)>,
    owned: BTreeMap<PartitionNo, Owned>,
}

impl<L: PartitionedLane, W: World<L>> Member<L, W> {
    async fn serve(&mut self, shutdown: &CancellationToken) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(ended) = self.drivers.join_next_with_id() => {
                    self.driver_ended(ended).await;
                    continue;
                }
                _ = every.tick() => {}
                () = self.registry.changed() => {}
            }
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "no sign of life can be given; trying again");
            }
        }
    }

    /// One sign of life, one snapshot, and what follows from it.
    async fn round(&mut self) -> Result<(), db::Error> {
        let snapshot = self.registry.beat().await?;
        let lease_ms = self.world.settings().lease_ms;
        let driven = |partition| self.owned.get(&partition).map(|owned| owned.epoch);
        let plan = ownership::plan(L::LANE, self.world.me(), lease_ms, &snapshot, driven);
        self.carry_out(plan).await
    }

    async fn carry_out(&mut self, plan: Plan) -> Result<(), db::Error> {
        for partition in plan.release {
            if let Some(owned) = self.owned.get(&partition) {
                owned.stop.cancel();
            }
        }
        for (partition, epoch) in plan.forgotten {
            tracing::warn!(lane = %L::LANE, %partition, epoch, "ours, but not driven; released");
            self.release(partition, epoch).await;
        }
        for (partition, seen_epoch, reason) in plan.take {
            if self.owned.contains_key(&partition) {
                continue;
            }
            let Some((fence, cursor)) = self.registry.take(partition, seen_epoch).await? else {
                continue;
            };
            tracing::info!(
                lane = %L::LANE, %partition, epoch = fence.epoch, seq = cursor.seq,
                reason = reason.as_str(), "partition taken"
            );
            metrics::counter!(
                metric::TAKEOVERS, "lane" => L::LANE.as_str(), "reason" => reason.as_str()
            )
            .increment(1);
            self.drive(Core::new(partition, fence, cursor));
        }
        metrics::gauge!(metric::PARTITIONS_OWNED, "lane" => L::LANE.as_str())
            .set(self.owned.len() as f64);
        Ok(())
    }

    fn drive(&mut self, core: Core<L>) {
        let Some(committer) = self.committer.clone() else {
            return;
        };
        let (partition, epoch) = (core.partition(), core.epoch());
        metrics::gauge!(
            metric::PARTITION_EPOCH,
            "lane" => L::LANE.as_str(), "partition" => partition.to_string()
        )
        .set(epoch as f64);
        let stop = CancellationToken::new();
        let progress = self.board.enter(partition, epoch);
        let driver = Driver::new(self.world.clone(), core, committer, progress, stop.clone());
        let task = self
            .drivers
            .spawn(async move { (partition, driver.run().await) })
            .id();
        self.owned.insert(partition, Owned { epoch, stop, task });
    }

    async fn driver_ended(
        &mut self,
        ended: Result<(Id, (PartitionNo, Ended)), tokio::task::JoinError>,
    ) {
        let (partition, ended) = match ended {
            Ok((_, ended)) => ended,
            Err(error) => {
                // A broken invariant. The partition is released: whoever takes it begins from the
                // rows, which hold.
                tracing::error!(%error, "a partition's driver panicked");
                let found = self
                    .owned
                    .iter()
                    .find(|(_, owned)| owned.task == error.id());
                let Some((partition, _)) = found else { return };
                (*partition, Ended::Stopped)
            }
        };
        self.board.leave(L::LANE, partition);
        let Some(owned) = self.owned.remove(&partition) else {
            return;
        };
        match ended {
            Ended::Stopped => {
                self.release(partition, owned.epoch).await;
                tracing::info!(lane = %L::LANE, %partition, "partition released");
            }
            Ended::Lost => {
                tracing::warn!(lane = %L::LANE, %partition, epoch = owned.epoch, "partition lost");
                // If it is still ours (the fate of a commit was unknown), it is taken anew from
                // the rows, by us or another.
                self.release(partition, owned.epoch).await;
            }
        }
    }

    async fn release(&mut self, partition: PartitionNo, epoch: i64) {
        if let Err(error) = self.registry.release(partition, epoch).await {
            tracing::warn!(%error, %partition, "not released; the next round tries again");
        }
        let nudge = self.world.subjects().ownership_nudge();
        self.world.publish(nudge, Vec::new()).await;
    }

    /// Stops all drivers, gives everything back and takes the sign of life away.
    async fn leave(&mut self) {
        // Those who stay must know before the first partition is free that it is theirs.
        if let Err(error) = self.registry.retire().await {
            tracing::warn!(%error, "leaving unannounced; others take over when we are gone");
        }
        for owned in self.owned.values() {
            owned.stop.cancel();
        }
        while let Some(ended) = self.drivers.join_next_with_id().await {
            self.driver_ended(ended).await;
        }
        self.registry.leave().await;
    }
}
