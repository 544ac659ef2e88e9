//! Runs one owned partition: load, decide, commit, act, until it is stopped or deposed.

use super::act;
use super::committer::{Handle, Verdict};
use super::core::{Core, DeadLetter, Inbound, Proposal};
use super::lag::Progress;
use super::lane::PartitionedLane;
use super::world::{Log, Settings, Tail, World};
use crate::sabotage::{self, Bug};
use onsale_platform::metric;
use onsale_schema::message::{Command, encode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How a driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, between two batches: the partition may be released.
    Stopped,
    /// The partition has another owner, or it is unknown what became of the last commit: nothing
    /// may be done in its name any more.
    Lost,
}

/// Loaded state is looked through for what is idle or old this often, in beats (seconds).
const EVICT_EVERY_BEATS: u32 = 30;
/// A batch whose conditional writes missed so often is tried in parts. Each miss needs somebody who
/// was quicker, a payment or another partition, so that a second one in a row is rare.
const MISSES_MAX: u32 = 10;
/// The longest pause between attempts while Postgres is away.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a look at the stream's tail may take.
const TAIL_TIMEOUT: Duration = Duration::from_secs(2);

/// One owned partition.
pub struct Driver<L: PartitionedLane, W: World<L>> {
    world: W,
    settings: Settings,
    core: Core<L>,
    log: W::Log,
    committer: Handle<L>,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

/// What a batch ended in.
enum Batch {
    Done,
    Lost,
    Stopped,
}

impl<L: PartitionedLane, W: World<L>> Driver<L, W> {
    /// A driver for a partition that was just taken.
    #[must_use]
    pub fn new(
        world: W,
        core: Core<L>,
        committer: Handle<L>,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        let log = world.log(core.partition(), core.cursor());
        Self {
            settings: world.settings(),
            world,
            core,
            log,
            committer,
            progress,
            stop,
        }
    }

    /// Runs until stopped or deposed.
    pub async fn run(mut self) -> Ended {
        let stop = self.stop.clone();
        let commands_max = self.settings.batch_commands;
        let mut tick = tokio::time::interval(Duration::from_millis(self.settings.tick_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0;
        loop {
            if !self.log.is_open() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ended::Stopped,
                    () = self.open() => {}
                }
            }
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                _ = tick.tick() => self.tick().await,
                _ = beat.tick() => {
                    beats += 1;
                    self.beat(beats).await;
                    Batch::Done
                }
                batch = self.log.next_batch(commands_max) => match batch {
                    Ok(batch) => self.process(&batch).await,
                    Err(error) => {
                        tracing::debug!(%error, partition = %self.core.partition(), "reopening");
                        Batch::Done
                    }
                }
            };
            match step {
                Batch::Done => {}
                Batch::Lost => return Ended::Lost,
                Batch::Stopped => return Ended::Stopped,
            }
        }
    }

    /// Opens the reader, and then looks whether the stream still has what was applied: without it,
    /// the new messages of a stream that lost its tail would be taken for the applied ones. In this
    /// order, as a loss between the look and the reader's beginning would go unnoticed.
    async fn open(&mut self) {
        while !self.log.is_open() {
            self.log.reopen().await;
            let mut pause = Duration::from_millis(10);
            while !self.check_tail().await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Looks at the stream's tail, and begins anew behind a loss; false when it can't be seen now.
    async fn check_tail(&mut self) -> bool {
        let cursor = self.core.cursor();
        match tokio::time::timeout(TAIL_TIMEOUT, self.log.tail(cursor)).await {
            Ok(Ok(Tail::Intact)) => {}
            Ok(Ok(Tail::Lost)) if sabotage::is(Bug::TailLossIgnored) => {}
            Ok(Ok(Tail::Lost)) => {
                metrics::counter!(metric::TAIL_LOST, "lane" => L::LANE.as_str()).increment(1);
                tracing::error!(
                    partition = %self.core.partition(), seq = cursor.seq,
                    "the stream lost applied messages; going on from the cursor's time"
                );
                self.core.begin_incarnation();
                self.log.rewind(self.core.cursor());
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "can't look at the stream's tail");
                return false;
            }
            Err(_) => {
                tracing::debug!("looking at the stream's tail takes too long");
                return false;
            }
        }
        true
    }

    async fn tick(&mut self) -> Batch {
        let proposal = self.core.tick(self.world.now());
        if proposal.is_idle() {
            return Batch::Done;
        }
        match self.committer.commit(proposal).await {
            Verdict::Committed(proposal) => self.acted(proposal).await,
            // What is due stays due: the next tick, or the expiry worker, finds it in the rows.
            Verdict::Again => self.core.forget(),
            Verdict::Poisoned(error) => {
                tracing::error!(error, "a tick can't be committed");
                self.core.forget();
            }
            Verdict::Deposed | Verdict::Unknown => return Batch::Lost,
        }
        Batch::Done
    }

    async fn beat(&mut self, beats: u32) {
        let now = self.world.now();
        if let Some(payload) = L::beat(&self.core.state, now) {
            let subject = self.world.subjects().map(self.core.partition());
            self.world.publish(subject, payload).await;
        }
        if beats.is_multiple_of(EVICT_EVERY_BEATS) {
            L::evict(&mut self.core.state, now);
        }
        // Not seen now is seen at the next beat.
        self.check_tail().await;
    }

    /// Decides and commits a batch, whatever it takes.
    async fn process(&mut self, batch: &[Inbound<L::Kind>]) -> Batch {
        let undecided = self.log.pending() + batch.len() as u64;
        self.progress
            .set(undecided, batch.first().map(|inbound| inbound.at));
        let done = self.settle(batch).await;
        let pending = self.log.pending();
        // Behind this batch the next is pending; its age is not known before it is read.
        self.progress.set(
            pending,
            batch.last().filter(|_| pending > 0).map(|last| last.at),
        );
        done
    }

    async fn settle(&mut self, batch: &[Inbound<L::Kind>]) -> Batch {
        for attempt in 0..MISSES_MAX {
            // After a miss the reason is looked up.
            if !self.load(batch, attempt > 0).await {
                return Batch::Stopped;
            }
            let now = self.world.now();
            if let Some(first) = batch.first() {
                let age_s = now.ms_since(first.at).max(0) as f64 / 1e3;
                metrics::histogram!(metric::PARTITION_AGE, "lane" => L::LANE.as_str())
                    .record(age_s);
            }
            let proposal = self.core.decide(batch, now);
            if sabotage::is(Bug::ReplyBeforeCommit) {
                act::reply_all::<L>(&self.world, proposal.decided.clone()).await;
            }
            match self.committer.commit(proposal).await {
                Verdict::Committed(proposal) => {
                    self.acted(proposal).await;
                    return Batch::Done;
                }
                Verdict::Deposed | Verdict::Unknown => return Batch::Lost,
                Verdict::Again => self.core.forget(),
                Verdict::Poisoned(error) => {
                    self.core.forget();
                    tracing::error!(
                        error, partition = %self.core.partition(), messages = batch.len(),
                        "a batch can't be committed; it is tried in parts"
                    );
                    return self.settle_in_parts(batch).await;
                }
            }
        }
        tracing::warn!(
            partition = %self.core.partition(), messages = batch.len(),
            "others keep being quicker than this batch; it is tried in parts"
        );
        self.settle_in_parts(batch).await
    }

    /// A batch that Postgres refuses, message by message and then command by command: only what is
    /// refused for itself is dead-lettered.
    async fn settle_in_parts(&mut self, batch: &[Inbound<L::Kind>]) -> Batch {
        if batch.len() > 1 {
            for inbound in batch {
                match Box::pin(self.settle(std::slice::from_ref(inbound))).await {
                    Batch::Done => {}
                    ended => return ended,
                }
            }
            return Batch::Done;
        }
        let Some(inbound) = batch.first() else {
            return Batch::Done;
        };
        let (mut outcomes, mut dead) = (Vec::new(), Vec::new());
        if let Ok(message) = &inbound.body {
            for (index, command) in message.commands.iter().enumerate() {
                match self.settle_one(inbound, command).await {
                    One::Decided(outcome) => outcomes.push(outcome),
                    One::Poisoned(error) => {
                        outcomes.push(L::dead_lettered());
                        dead.push(DeadLetter {
                            seq: inbound.seq,
                            command_index: i32::try_from(index).unwrap_or(i32::MAX),
                            payload: encode(command),
                            error,
                        });
                    }
                    One::Ended(ended) => return ended,
                }
            }
        }
        let proposal = self.core.finish(inbound, outcomes, dead, self.world.now());
        match self.committer.commit(proposal).await {
            Verdict::Committed(proposal) => {
                self.acted(proposal).await;
                Batch::Done
            }
            Verdict::Poisoned(error) => {
                // Only bookkeeping is in it. Going on would lose the message, so the partition is
                // given up, loudly, and taken anew.
                tracing::error!(error, seq = inbound.seq, "a message can't be put away");
                Batch::Lost
            }
            Verdict::Deposed | Verdict::Unknown | Verdict::Again => Batch::Lost,
        }
    }

    async fn settle_one(
        &mut self,
        inbound: &Inbound<L::Kind>,
        command: &Command<L::Kind>,
    ) -> One<L> {
        for _ in 0..MISSES_MAX {
            if !self.load_commands(&[command], true).await {
                return One::Ended(Batch::Stopped);
            }
            let (proposal, outcome) = self.core.decide_one(inbound.at, command, self.world.now());
            match self.committer.commit(proposal).await {
                Verdict::Committed(proposal) => {
                    self.acted(proposal).await;
                    return One::Decided(outcome);
                }
                Verdict::Poisoned(error) => {
                    self.core.forget();
                    return One::Poisoned(error);
                }
                Verdict::Again => self.core.forget(),
                Verdict::Deposed | Verdict::Unknown => return One::Ended(Batch::Lost),
            }
        }
        One::Poisoned("its conditional writes kept missing".to_owned())
    }

    async fn load(&mut self, batch: &[Inbound<L::Kind>], thorough: bool) -> bool {
        let commands: Vec<&Command<L::Kind>> = batch
            .iter()
            .filter_map(|inbound| inbound.body.as_ref().ok())
            .flat_map(|message| &message.commands)
            .collect();
        self.load_commands(&commands, thorough).await
    }

    /// Loads what commands need, however long Postgres stays away; false when stopped meanwhile.
    async fn load_commands(&mut self, commands: &[&Command<L::Kind>], thorough: bool) -> bool {
        let mut pause = Duration::from_millis(10);
        loop {
            match self
                .world
                .load(&mut self.core.state, commands, thorough)
                .await
            {
                Ok(()) => return true,
                Err(error) => {
                    tracing::warn!(%error, partition = %self.core.partition(), "can't load");
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn acted(&mut self, proposal: Proposal<L>) {
        self.core.committed(&proposal);
        act::committed(&self.world, proposal).await;
    }
}

/// What became of a command that was committed alone.
enum One<L: PartitionedLane> {
    Decided(L::Outcome),
    Poisoned(String),
    Ended(Batch),
}
