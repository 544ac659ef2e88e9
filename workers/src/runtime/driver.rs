//! Runs one owned partition: load, decide, commit, act, until it is stopped or deposed.

use super::act;
use super::committer::{Handle, Verdict};
use super::core::{CLOCK_SKEW_MAX_MS, Core, DeadLetter, Inbound, Proposal, Skew};
use super::lag::Progress;
use super::lane::PartitionedLane;
use super::world::{Log, LogError, Settings, Tail, World};
use crate::sabotage::{self, Bug};
use futures_util::FutureExt;
use onsale_platform::metric;
use onsale_schema::Timestamp;
use onsale_schema::message::{Command, encode};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// How the stream's clock was wrong in the last batch.
    skew: Option<Skew>,
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
            skew: None,
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
                _ = beat.tick() => {
                    beats += 1;
                    self.beat(beats).await;
                    Batch::Done
                }
                _ = tick.tick() => {
                    let (step, is_more) = self.tick().await;
                    if is_more {
                        tick.reset_immediately();
                    }
                    match step {
                        // However much is due, nobody waits for more than one tick.
                        Batch::Done if is_more => self.between(commands_max).await,
                        step => step,
                    }
                }
                batch = self.log.next_batch(commands_max) => self.take(batch).await,
            };
            match step {
                Batch::Done => {}
                Batch::Lost => return Ended::Lost,
                Batch::Stopped => return Ended::Stopped,
            }
        }
    }

    /// Between two ticks: what is there to read, without waiting for it.
    async fn between(&mut self, commands_max: usize) -> Batch {
        match self.log.next_batch(commands_max).now_or_never() {
            Some(batch) => self.take(batch).await,
            None => Batch::Done,
        }
    }

    async fn take(&mut self, batch: Result<Vec<Inbound<L::Kind>>, LogError>) -> Batch {
        match batch {
            Ok(batch) => self.process(&batch).await,
            Err(error) => {
                tracing::debug!(%error, partition = %self.core.partition(), "reopening");
                Batch::Done
            }
        }
    }

    /// Opens the reader, and then looks whether the stream still has what was applied: without it,
    /// the new messages of a stream that lost its tail would be taken for the applied ones. In this
    /// order, as a loss between the look and the reader's beginning would go unnoticed.
    async fn open(&mut self) {
        // What comes meanwhile waits; how much it is, nobody knows.
        self.progress.set(1, Some(self.world.now()));
        while !self.log.is_open() {
            self.log.reopen().await;
            let mut pause = Duration::from_millis(10);
            while !self.check_tail().await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        self.progress.set(self.log.pending(), None);
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

    /// Decides. A decision that panics must not take the partition down with it, or its next owner
    /// would panic at the same command, and so on for ever: what is in memory is dropped, and the
    /// caller finds the culprit.
    fn deciding<T>(&mut self, decide: impl FnOnce(&mut Core<L>) -> T) -> Result<T, String> {
        catch_unwind(AssertUnwindSafe(|| decide(&mut self.core))).map_err(|panic| {
            self.core.forget();
            format!("deciding panicked: {}", text_of(panic.as_ref()))
        })
    }

    /// What time alone changes, and whether there is more of that.
    fn count_failed_tick(&self) {
        metrics::counter!(metric::TICKS_FAILED, "lane" => L::LANE.as_str()).increment(1);
    }

    async fn tick(&mut self) -> (Batch, bool) {
        let now = self.world.now();
        let quiet_at = self.log.quiet_at();
        let (proposal, is_more) = match self.deciding(|core| core.tick(now, quiet_at)) {
            Ok(ticked) => ticked,
            Err(error) => {
                tracing::error!(error, partition = %self.core.partition(), "a tick failed");
                self.count_failed_tick();
                return (Batch::Done, false);
            }
        };
        if proposal.is_idle() {
            return (Batch::Done, false);
        }
        // While this commit takes its time, nothing else is decided.
        let pending = self.log.pending();
        self.progress.set(pending.max(1), Some(now));
        let ended = self.commit_tick(proposal).await;
        self.progress.set(pending, (pending > 0).then_some(now));
        (ended, is_more)
    }

    async fn commit_tick(&mut self, proposal: Proposal<L>) -> Batch {
        match self.committer.commit(proposal).await {
            Verdict::Committed(proposal) => self.acted(proposal).await,
            // What is still due is found by the next tick.
            Verdict::Again(proposal) => {
                self.core.undo(&proposal);
                if let Loaded::Stopped = self.load_commands(&[], true).await {
                    return Batch::Stopped;
                }
            }
            Verdict::Poisoned(error) => {
                tracing::error!(error, "a tick can't be committed");
                self.count_failed_tick();
                self.core.forget();
            }
            Verdict::Deposed | Verdict::Unknown => return Batch::Lost,
        }
        Batch::Done
    }

    async fn beat(&mut self, beats: u32) {
        let now = self.world.now();
        L::watch(&self.core.state, now);
        for payload in L::beat(&self.core.state, now) {
            let subject = L::broadcasts_to(self.world.subjects(), self.core.partition());
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
        let read = self.world.now();
        let since = |inbound: &Inbound<L::Kind>| inbound.waits_since(read);
        self.note_skew(batch, read);
        let undecided = self.log.pending() + batch.len() as u64;
        self.progress.set(undecided, batch.first().map(since));
        let done = self.settle(batch).await;
        let pending = self.log.pending();
        // Behind this batch the next is pending; its age is not known before it is read.
        let last = batch.last().filter(|_| pending > 0);
        self.progress.set(pending, last.map(since));
        done
    }

    async fn settle(&mut self, batch: &[Inbound<L::Kind>]) -> Batch {
        for attempt in 0..MISSES_MAX {
            // After a miss the reason is looked up.
            match self.load(batch, attempt > 0).await {
                Loaded::Yes => {}
                Loaded::Stopped => return Batch::Stopped,
                Loaded::Never(error) => return self.settle_in_parts(batch, &error).await,
            }
            let now = self.world.now();
            if let Some(first) = batch.first() {
                let age_s = now.ms_since(first.waits_since(now)) as f64 / 1e3;
                metrics::histogram!(metric::PARTITION_AGE, "lane" => L::LANE.as_str())
                    .record(age_s);
            }
            let proposal = match self.deciding(|core| core.decide(batch, now)) {
                Ok(proposal) => proposal,
                Err(error) => return self.settle_in_parts(batch, &error).await,
            };
            if sabotage::is(Bug::ReplyBeforeCommit) {
                act::reply_all::<L>(&self.world, proposal.decided.clone()).await;
            }
            match self.committer.commit(proposal).await {
                Verdict::Committed(proposal) => {
                    self.acted(proposal).await;
                    return Batch::Done;
                }
                Verdict::Deposed | Verdict::Unknown => return Batch::Lost,
                Verdict::Again(proposal) => self.core.undo(&proposal),
                Verdict::Poisoned(error) => {
                    self.core.forget();
                    return self.settle_in_parts(batch, &error).await;
                }
            }
        }
        self.settle_in_parts(batch, "others keep being quicker")
            .await
    }

    /// Says that the stream's clock is wrong: holds and windows then go by the owner's.
    fn note_skew(&mut self, batch: &[Inbound<L::Kind>], now: Timestamp) {
        let mut latest = None;
        for skew in batch.iter().filter_map(|inbound| inbound.skew(now)) {
            metrics::counter!(
                metric::CLAMPED, "lane" => L::LANE.as_str(), "reason" => skew.as_str()
            )
            .increment(1);
            latest = Some(skew);
        }
        if let Some(skew) = latest
            && self.skew != latest
        {
            tracing::error!(
                partition = %self.core.partition(),
                "the stream's clock is {} of ours by more than {CLOCK_SKEW_MAX_MS} ms",
                skew.as_str()
            );
        }
        self.skew = latest;
    }

    /// A batch that can't be decided or that Postgres refuses, message by message and then command
    /// by command: only what fails for itself is dead-lettered.
    async fn settle_in_parts(&mut self, batch: &[Inbound<L::Kind>], error: &str) -> Batch {
        tracing::error!(
            error, partition = %self.core.partition(), messages = batch.len(),
            "a batch can't be committed; it is tried in parts"
        );
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
            Verdict::Deposed | Verdict::Unknown | Verdict::Again(_) => Batch::Lost,
        }
    }

    async fn settle_one(
        &mut self,
        inbound: &Inbound<L::Kind>,
        command: &Command<L::Kind>,
    ) -> One<L> {
        for _ in 0..MISSES_MAX {
            match self.load_commands(&[command], true).await {
                Loaded::Yes => {}
                Loaded::Stopped => return One::Ended(Batch::Stopped),
                Loaded::Never(error) => return One::Poisoned(error),
            }
            let now = self.world.now();
            let decided = self.deciding(|core| core.decide_one(inbound, command, now));
            let (proposal, outcome) = match decided {
                Ok(decided) => decided,
                Err(error) => return One::Poisoned(error),
            };
            match self.committer.commit(proposal).await {
                Verdict::Committed(proposal) => {
                    self.acted(proposal).await;
                    return One::Decided(outcome);
                }
                Verdict::Poisoned(error) => {
                    self.core.forget();
                    return One::Poisoned(error);
                }
                Verdict::Again(proposal) => self.core.undo(&proposal),
                Verdict::Deposed | Verdict::Unknown => return One::Ended(Batch::Lost),
            }
        }
        One::Poisoned("its conditional writes kept missing".to_owned())
    }

    async fn load(&mut self, batch: &[Inbound<L::Kind>], thorough: bool) -> Loaded {
        let commands: Vec<&Command<L::Kind>> = batch
            .iter()
            .filter_map(|inbound| inbound.body.as_ref().ok())
            .flat_map(|message| &message.commands)
            .collect();
        self.load_commands(&commands, thorough).await
    }

    /// Loads what commands need, however long Postgres stays away.
    async fn load_commands(&mut self, commands: &[&Command<L::Kind>], thorough: bool) -> Loaded {
        let mut pause = Duration::from_millis(10);
        loop {
            let loading = self.world.load(&mut self.core.state, commands, thorough);
            let loading = AssertUnwindSafe(loading).catch_unwind();
            // It may take long, and somebody waits for the partition.
            let Some(loaded) = self.stop.run_until_cancelled(loading).await else {
                return Loaded::Stopped;
            };
            match loaded {
                Ok(Ok(())) => return Loaded::Yes,
                Ok(Err(error)) if error.retryable() => {
                    tracing::warn!(%error, partition = %self.core.partition(), "can't load");
                }
                Ok(Err(error)) => {
                    self.core.forget();
                    return Loaded::Never(format!("can't load: {error}"));
                }
                Err(panic) => {
                    self.core.forget();
                    return Loaded::Never(format!("loading panicked: {}", text_of(panic.as_ref())));
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Loaded::Stopped,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn acted(&mut self, proposal: Proposal<L>) {
        self.core.committed(&proposal);
        act::committed(&self.world, proposal, self.world.now()).await;
    }
}

/// What became of a command that was committed alone.
enum One<L: PartitionedLane> {
    Decided(L::Outcome),
    Poisoned(String),
    Ended(Batch),
}

/// How loading went.
enum Loaded {
    Yes,
    /// The driver was stopped while Postgres was away.
    Stopped,
    /// It failed, and would again.
    Never(String),
}

/// What a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a word")
}
