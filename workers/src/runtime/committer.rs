//! The one committer of a worker process: merges the batches of all its partitions into one
//! transaction, because a commit per partition would pay for an fsync each.
//!
//! While one transaction runs, the next proposals gather by themselves. It must never answer
//! `Committed` for anything that is not in Postgres, and never lose a partition's proposal, nor hold
//! it up, because of another's trouble: what can't be committed together is tried alone, and what
//! waits for somebody's lock, waits outside.

use super::core::Proposal;
use super::lane::PartitionedLane;
use super::world::{Attempt, Store, World};
use onsale_platform::{db, metric};
use onsale_schema::outcome::DECIDED_MAX_MS;
use onsale_schema::{Timestamp, WorkerId};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What became of a proposal.
pub enum Verdict<L: PartitionedLane> {
    /// It is in Postgres.
    Committed(Proposal<L>),
    /// The partition has another owner; nothing was written.
    Deposed,
    /// A conditional write missed; nothing was written. Take it back, and decide again.
    Again(Proposal<L>),
    /// Postgres refuses it, and would again; nothing was written.
    Poisoned(String),
    /// The process is stopping while Postgres is away: whether it is in Postgres is unknown.
    Unknown,
}

/// Hands proposals to the committer.
pub struct Handle<L: PartitionedLane> {
    sender: mpsc::Sender<Submitted<L>>,
}

impl<L: PartitionedLane> Clone for Handle<L> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<L: PartitionedLane> Handle<L> {
    /// Waits until the proposal's fate is known.
    pub async fn commit(&self, mut proposal: Proposal<L>) -> Verdict<L> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.submit(proposal).await {
                Answer::Settled(verdict) => return verdict,
                Answer::Blocked(blocked) => proposal = blocked,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn submit(&self, proposal: Proposal<L>) -> Answer<L> {
        let (answer, verdict) = oneshot::channel();
        if self
            .sender
            .send(Submitted { proposal, answer })
            .await
            .is_err()
        {
            return Answer::Settled(Verdict::Unknown);
        }
        let unknown = Answer::Settled(Verdict::Unknown);
        verdict.await.unwrap_or(unknown)
    }
}

/// What the committer says.
enum Answer<L: PartitionedLane> {
    Settled(Verdict<L>),
    /// Somebody has a lock that it needs; nothing was written. It may be tried again, but not in
    /// the way of others.
    Blocked(Proposal<L>),
}

struct Submitted<L: PartitionedLane> {
    proposal: Proposal<L>,
    answer: oneshot::Sender<Answer<L>>,
}

impl<L: PartitionedLane> Submitted<L> {
    fn answer(self, verdict: impl FnOnce(Proposal<L>) -> Verdict<L>) {
        // A driver that is gone needs no answer.
        drop(self.answer.send(Answer::Settled(verdict(self.proposal))));
    }

    fn hand_back(self) {
        drop(self.answer.send(Answer::Blocked(self.proposal)));
    }
}

/// A handle, and the task to run behind it until the last handle is dropped.
pub fn committer<L: PartitionedLane, W: World<L>>(
    world: W,
    stop: CancellationToken,
) -> (Handle<L>, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(1024);
    let clock = world.clone();
    let committer = Committer {
        me: world.me(),
        store: world.store(),
        clock: move || clock.now(),
        stop,
    };
    (Handle { sender }, committer.run(receiver))
}

struct Committer<S, C> {
    me: WorkerId,
    store: S,
    clock: C,
    stop: CancellationToken,
}

/// The first pause between attempts, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// With so many commands a batch is large enough: more would make its transaction take longer, and
/// nothing quicker.
const COMMANDS_MAX: usize = 8192;

impl<S: Send, C: Fn() -> Timestamp + Send> Committer<S, C> {
    async fn run<L: PartitionedLane>(mut self, mut receiver: mpsc::Receiver<Submitted<L>>)
    where
        S: Store<L>,
    {
        while let Some(first) = receiver.recv().await {
            let mut commands = first.proposal.labels.len();
            let mut batch = vec![first];
            while commands < COMMANDS_MAX
                && let Ok(next) = receiver.try_recv()
            {
                commands += next.proposal.labels.len();
                batch.push(next);
            }
            self.commit(batch).await;
        }
    }

    /// Settles the fate of every proposal of the batch.
    async fn commit<L: PartitionedLane>(&mut self, mut batch: Vec<Submitted<L>>)
    where
        S: Store<L>,
    {
        let mut pause = PAUSE_MIN;
        loop {
            batch = self.fresh(batch);
            if batch.is_empty() {
                return;
            }
            let started = Instant::now();
            let proposals: Vec<&Proposal<L>> = batch.iter().map(|s| &s.proposal).collect();
            match self.store.write(self.me, &proposals).await {
                Attempt::Committed => {
                    observe(&batch, started.elapsed());
                    for submitted in batch.drain(..) {
                        submitted.answer(Verdict::Committed);
                    }
                }
                Attempt::Refused { deposed, missed } => {
                    batch = split(batch, &deposed, &missed);
                }
                Attempt::Failed(db::Error::Contended(error)) => {
                    retried::<L>("blocked");
                    tracing::warn!(error, partitions = batch.len(), "a lock is in the way");
                    if self.stop.is_cancelled() {
                        give_up(&mut batch);
                    } else if batch.len() == 1 {
                        for submitted in batch.drain(..) {
                            submitted.hand_back();
                        }
                    } else {
                        self.each_alone(&mut batch).await;
                    }
                }
                Attempt::Failed(error) if error.retryable() => {
                    retried::<L>("unavailable");
                    tracing::warn!(%error, "commit failed; trying again");
                    if longer(&self.stop, &mut pause).await {
                        give_up(&mut batch);
                    }
                }
                Attempt::Failed(error) if batch.len() == 1 => {
                    retried::<L>("poisoned");
                    for submitted in batch.drain(..) {
                        submitted.answer(|_| Verdict::Poisoned(error.to_string()));
                    }
                }
                Attempt::Failed(error) => {
                    retried::<L>("alone");
                    tracing::warn!(%error, "commit was refused; each partition is tried alone");
                    self.each_alone(&mut batch).await;
                }
                Attempt::Unknown(error) => {
                    retried::<L>("unknown");
                    tracing::warn!(error, "connection lost while committing; finding out");
                    self.resolve(&mut batch).await;
                    // Perhaps it was too much for the time that it had.
                    if batch.len() > 1 {
                        self.each_alone(&mut batch).await;
                    }
                }
            }
        }
    }

    async fn each_alone<L: PartitionedLane>(&mut self, batch: &mut Vec<Submitted<L>>)
    where
        S: Store<L>,
    {
        for submitted in batch.drain(..) {
            Box::pin(self.commit(vec![submitted])).await;
        }
    }

    /// Sends back what was decided too long ago.
    fn fresh<L: PartitionedLane>(&self, batch: Vec<Submitted<L>>) -> Vec<Submitted<L>> {
        let oldest = (self.clock)().plus_ms(-DECIDED_MAX_MS);
        let is_stale = |submitted: &Submitted<L>| submitted.proposal.decided_at < oldest;
        if !batch.iter().any(is_stale) {
            return batch;
        }
        let (stale, fresh): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_stale);
        for submitted in stale {
            retried::<L>("stale");
            submitted.answer(Verdict::Again);
        }
        fresh
    }

    /// Finds out what became of a commit by reading each partition's row, however long Postgres
    /// stays away; leaves in `batch` what is known not to be committed.
    async fn resolve<L: PartitionedLane>(&mut self, batch: &mut Vec<Submitted<L>>)
    where
        S: Store<L>,
    {
        let mut pause = PAUSE_MIN;
        let mut open = std::mem::take(batch);
        while let Some(submitted) = open.pop() {
            match self.look_up(&submitted.proposal).await {
                Ok(Fate::Committed) => submitted.answer(Verdict::Committed),
                Ok(Fate::NotCommitted) => batch.push(submitted),
                Ok(Fate::Deposed) => submitted.answer(|_| Verdict::Deposed),
                Err(error) => {
                    tracing::warn!(%error, "can't tell yet whether the commit took place");
                    open.push(submitted);
                    if longer(&self.stop, &mut pause).await {
                        give_up(&mut open);
                        give_up(batch);
                    }
                }
            }
        }
    }

    async fn look_up<L: PartitionedLane>(&mut self, p: &Proposal<L>) -> Result<Fate, db::Error>
    where
        S: Store<L>,
    {
        let row = self.store.look_up(p.partition).await?;
        Ok(
            if row.fence.epoch != p.expect.epoch || row.owner != Some(self.me) {
                // The successor began from the rows as they are. If ours is among them, its outcome
                // row answers the clients that wait.
                Fate::Deposed
            } else if row.fence.commit_no == p.expect.commit_no + 1 {
                Fate::Committed
            } else {
                assert_eq!(
                    row.fence.commit_no, p.expect.commit_no,
                    "F1: only the owner commits"
                );
                Fate::NotCommitted
            },
        )
    }
}

/// Waits a little longer each time; true when the process is stopping.
async fn longer(stop: &CancellationToken, pause: &mut Duration) -> bool {
    tokio::select! {
        biased;
        () = stop.cancelled() => return true,
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(PAUSE_MAX);
    false
}

enum Fate {
    Committed,
    NotCommitted,
    Deposed,
}

/// Answers those that were refused and returns the others.
fn split<L: PartitionedLane>(
    batch: Vec<Submitted<L>>,
    deposed: &HashSet<usize>,
    missed: &HashSet<usize>,
) -> Vec<Submitted<L>> {
    let mut rest = Vec::with_capacity(batch.len());
    for (index, submitted) in batch.into_iter().enumerate() {
        if deposed.contains(&index) {
            retried::<L>("deposed");
            submitted.answer(|_| Verdict::Deposed);
        } else if missed.contains(&index) {
            retried::<L>("missed");
            submitted.answer(Verdict::Again);
        } else {
            rest.push(submitted);
        }
    }
    rest
}

fn give_up<L: PartitionedLane>(batch: &mut Vec<Submitted<L>>) {
    for submitted in batch.drain(..) {
        submitted.answer(|_| Verdict::Unknown);
    }
}

fn retried<L: PartitionedLane>(reason: &'static str) {
    metrics::counter!(metric::COMMIT_RETRIES, "lane" => L::LANE.as_str(), "reason" => reason)
        .increment(1);
}

fn observe<L: PartitionedLane>(batch: &[Submitted<L>], took: Duration) {
    let lane = L::LANE.as_str();
    let commands: usize = batch.iter().map(|s| s.proposal.labels.len()).sum();
    metrics::histogram!(metric::COMMIT_DURATION, "lane" => lane).record(took.as_secs_f64());
    metrics::histogram!(metric::COMMIT_COMMANDS, "lane" => lane).record(commands as f64);
    metrics::histogram!(metric::COMMIT_PARTITIONS, "lane" => lane).record(batch.len() as f64);
}
