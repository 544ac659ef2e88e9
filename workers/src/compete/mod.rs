//! Competing consumers: commands that need no order, only atomicity. Any replica decides any
//! message; rows, constraints and unique keys say who wins.
//!
//! The loop is the partition runtime's: **load, decide, commit, act**. A batch is decided in one
//! transaction that locks its rows in order and writes one outcome row per message; then the
//! replies go out; then the messages are acknowledged. Never another order. A message that comes
//! again, because a replica died in between, finds its outcomes and is answered alike.
//!
//! It must never acknowledge what is not in Postgres, and never skip a message because a server is
//! away.

pub mod commit;
pub mod patience;
pub mod reader;
pub mod store;

use crate::context::{self, Context};
use crate::runtime::act;
use crate::runtime::lag::{Board, Progress};
use commit::{Done, Job, Mode};
use diesel_async::AsyncPgConnection;
use futures_util::future::join_all;
use onsale_platform::{db, metric};
use onsale_schema::message::{Command, MessageOutcomes};
use onsale_schema::{IngressId, Lane, PartitionNo, Timestamp};
use patience::Patience;
use reader::{Behind, Reader, Taken};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long replies and acknowledgements may take to be handed to NATS. What is not sent by then
/// is found in Postgres, or comes again.
const ACT_TIMEOUT: Duration = Duration::from_secs(2);
/// Batches that one replica has in hand at once: while Postgres writes one, the next is decided.
const JOBS: usize = 2;
/// As which partition these lanes tell their lag.
const LAG_PARTITION: PartitionNo = PartitionNo(0);

/// A lane whose messages any replica may decide, in any order.
pub trait Queue: Send + Sync + 'static {
    /// Its name.
    const LANE: Lane;
    /// A command.
    type Kind: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What became of one.
    type Outcome: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// What commands are decided by.
    type State: Send;
    /// What is to be stored of it.
    type Changes: Send + Sync;

    /// Locks what the commands touch, in the order that all workers keep (reservation, order, what the
    /// gateway calls payments, refund, account, counter of facts, show), and loads it with a fixed
    /// number of statements, inside the open transaction.
    fn load(
        &self,
        conn: &AsyncPgConnection,
        commands: &[&Command<Self::Kind>],
    ) -> impl Future<Output = Result<Self::State, db::Error>> + Send;

    /// Decides each command in memory: one outcome per command, in their order. Repeatable: a command
    /// that was accepted before has the same outcome.
    fn decide(
        &self,
        state: Self::State,
        commands: &[&Command<Self::Kind>],
    ) -> (Vec<Self::Outcome>, Self::Changes);

    /// Stores the changes with a fixed number of statements, inside the open transaction.
    fn store(
        &self,
        conn: &AsyncPgConnection,
        changes: &Self::Changes,
    ) -> impl Future<Output = Result<(), db::Error>> + Send;

    /// All three, one after the other.
    fn settle(
        &self,
        conn: &AsyncPgConnection,
        commands: &[&Command<Self::Kind>],
    ) -> impl Future<Output = Result<Vec<Self::Outcome>, db::Error>> + Send {
        async move {
            let state = self.load(conn, commands).await?;
            let (outcomes, changes) = self.decide(state, commands);
            self.store(conn, &changes).await?;
            Ok(outcomes)
        }
    }

    /// What follows a commit besides replies. It may be lost.
    fn committed(
        &self,
        ctx: &Context,
        outcomes: &[MessageOutcomes<Self::Outcome>],
    ) -> impl Future<Output = ()> + Send;

    /// The outcome of a command that could not be processed.
    fn dead_lettered() -> Self::Outcome;

    /// Why a command is set aside that was decided so, to be kept as a dead letter; none for all others.
    fn set_aside(kind: &Self::Kind, outcome: &Self::Outcome) -> Option<String>;

    /// The command's and the outcome's names in metrics.
    fn labels(kind: &Self::Kind, outcome: &Self::Outcome) -> (&'static str, &'static str);
}

/// Decides a lane's messages until `shutdown`, whatever becomes of the servers meanwhile.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run<Q: Queue>(
    ctx: Context,
    queue: Q,
    shutdown: CancellationToken,
) -> Result<(), context::Error> {
    let board = Board::default();
    let tally = Arc::new(Tally {
        progress: board.enter(LAG_PARTITION, 0),
        in_hand: Mutex::default(),
    });
    let queue = Arc::new(queue);
    let incarnation = Arc::default();
    let workers = (0..JOBS).map(|job| Worker {
        ctx: ctx.clone(),
        queue: Arc::clone(&queue),
        incarnation: Arc::clone(&incarnation),
        job,
        tally: Arc::clone(&tally),
        shutdown: shutdown.clone(),
    });
    let workers = join_all(workers.map(|worker| async move { worker.run().await }));
    let clock = ctx.clock.clone();
    let report = board.report(ctx.clone(), move || clock.now(), Q::LANE, shutdown);
    tokio::join!(workers, report);
    Ok(())
}

/// What all jobs of this replica have in hand.
struct Tally {
    progress: Arc<Progress>,
    in_hand: Mutex<InHand>,
}

#[derive(Default)]
struct InHand {
    /// Of each job: messages, and the time of the oldest.
    jobs: [(u64, Option<Timestamp>); JOBS],
    /// What the server had behind the message that it has delivered last, as far as any job knows.
    behind: Behind,
}

impl Tally {
    /// A job has these messages in hand, and this is what its reader knows of those behind them. That
    /// may be older than what another one knows, which then counts.
    fn set(&self, job: usize, messages: usize, oldest: Option<Timestamp>, behind: Behind) {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        in_hand.jobs[job] = (messages as u64, oldest);
        if behind.delivery >= in_hand.behind.delivery {
            in_hand.behind = behind;
        }
        self.tell(&in_hand);
    }

    /// A job has opened the consumer anew: it may count from the beginning.
    fn opened(&self, behind: Behind) {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        in_hand.behind = behind;
        self.tell(&in_hand);
    }

    fn tell(&self, in_hand: &InHand) {
        let messages: u64 = in_hand.jobs.iter().map(|job| job.0).sum();
        let oldest = in_hand.jobs.iter().filter_map(|job| job.1).min();
        self.progress.set(in_hand.behind.pending + messages, oldest);
    }
}

struct Worker<Q: Queue> {
    ctx: Context,
    queue: Arc<Q>,
    incarnation: Arc<AtomicI32>,
    job: usize,
    tally: Arc<Tally>,
    shutdown: CancellationToken,
}

type Batch<Q> = Vec<Taken<<Q as Queue>::Kind>>;

/// What became of a transaction.
enum Verdict<O> {
    Committed(Done<O>),
    /// It would be refused again.
    Refused(db::Error),
    /// The process is stopping while Postgres is away.
    Stopped,
}

impl<Q: Queue> Worker<Q> {
    async fn run(&self) {
        let mut patience = Patience::new(Q::LANE.as_str());
        while !self.shutdown.is_cancelled() {
            let opened = tokio::select! {
                opened = Reader::open(&self.ctx, Q::LANE) => opened,
                () = self.shutdown.cancelled() => return,
            };
            let error = match opened {
                Ok(mut reader) => {
                    self.tally.opened(reader.behind());
                    let error = self.read(&mut reader, &mut patience).await;
                    reader.close(&self.ctx).await;
                    error
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.shutdown
                    .run_until_cancelled(patience.wait(error))
                    .await;
            }
        }
    }

    /// Decides batch after batch until the consumer breaks, or until it is time to stop (`None`).
    async fn read(&self, reader: &mut Reader, patience: &mut Patience) -> Option<reader::Error> {
        loop {
            let batch = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                batch = reader.next_batch::<Q::Kind>() => match batch {
                    Ok(batch) => batch,
                    Err(error) => return Some(error),
                },
            };
            patience.healed();
            self.begun(&batch, reader.behind());
            self.process(batch).await;
            // Behind this batch the next is pending; its age is not known before it is read.
            self.tally.set(self.job, 0, None, reader.behind());
        }
    }

    fn begun(&self, batch: &Batch<Q>, behind: Behind) {
        let now = self.ctx.clock.now();
        let since = batch.iter().map(|taken| taken.inbound.waits_since(now));
        let oldest = since.min();
        self.tally.set(self.job, batch.len(), oldest, behind);
        if let Some(oldest) = oldest {
            let age_s = now.ms_since(oldest) as f64 / 1e3;
            metrics::histogram!(metric::PARTITION_AGE, "lane" => Q::LANE.as_str()).record(age_s);
        }
    }

    async fn process(&self, batch: Batch<Q>) {
        match self.commit(&batch, Mode::Together).await {
            Verdict::Committed(done) => self.act(done, batch).await,
            Verdict::Stopped => hand_back(batch).await,
            Verdict::Refused(error) => {
                tracing::error!(
                    %error, lane = %Q::LANE, messages = batch.len(),
                    "a batch is refused; it is tried in parts"
                );
                for taken in batch {
                    self.process_apart(vec![taken]).await;
                }
            }
        }
    }

    async fn process_apart(&self, message: Batch<Q>) {
        match self.commit(&message, Mode::Apart).await {
            Verdict::Committed(done) => self.act(done, message).await,
            Verdict::Stopped => hand_back(message).await,
            // It is not acknowledged, so nothing is lost: it comes again, and others go on.
            Verdict::Refused(error) => {
                tracing::error!(%error, lane = %Q::LANE, "a message can't be put away");
            }
        }
    }

    /// Commits, however long Postgres stays away.
    async fn commit(&self, batch: &Batch<Q>, mode: Mode) -> Verdict<Q::Outcome> {
        let lane = Q::LANE.as_str();
        let job = Arc::new(Job {
            queue: Arc::clone(&self.queue),
            incarnation: Arc::clone(&self.incarnation),
            messages: batch.iter().map(|t| Arc::clone(&t.inbound)).collect(),
            mode,
        });
        let mut patience = Patience::new(lane);
        loop {
            let started = Instant::now();
            let reason = match commit::run(&self.ctx.pool, Arc::clone(&job)).await {
                Ok(done) => {
                    let took_s = started.elapsed().as_secs_f64();
                    metrics::histogram!(metric::COMMIT_DURATION, "lane" => lane).record(took_s);
                    metrics::histogram!(metric::COMMIT_COMMANDS, "lane" => lane)
                        .record(done.labels.len() as f64);
                    patience.healed();
                    return Verdict::Committed(done);
                }
                Err(error) if error.retryable() => {
                    let waited = patience.wait(error);
                    if self.shutdown.run_until_cancelled(waited).await.is_none() {
                        return Verdict::Stopped;
                    }
                    "unavailable"
                }
                Err(error) => return Verdict::Refused(error),
            };
            metrics::counter!(metric::COMMIT_RETRIES, "lane" => lane, "reason" => reason)
                .increment(1);
        }
    }

    /// Replies, then acknowledges.
    async fn act(&self, done: Done<Q::Outcome>, batch: Batch<Q>) {
        act::count(Q::LANE, &done.labels);
        if done.dead > 0 {
            metrics::counter!(metric::DEAD_LETTERS, "lane" => Q::LANE.as_str())
                .increment(done.dead as u64);
        }
        let act = async {
            self.reply(done).await;
            for taken in batch {
                taken.done().await;
            }
        };
        if tokio::time::timeout(ACT_TIMEOUT, act).await.is_err() {
            tracing::warn!(lane = %Q::LANE, "NATS is away; messages will come again");
        }
    }

    async fn reply(&self, done: Done<Q::Outcome>) {
        let mut replies: HashMap<Option<IngressId>, Vec<MessageOutcomes<Q::Outcome>>> =
            HashMap::new();
        for decided in done.decided {
            let messages = replies.entry(decided.reply_to).or_default();
            messages.push(MessageOutcomes {
                message_id: decided.message_id,
                outcomes: decided.outcomes,
            });
        }
        for (ingress, messages) in replies {
            self.queue.committed(&self.ctx, &messages).await;
            if let Some(ingress) = ingress {
                act::reply(&self.ctx, ingress, Q::LANE, messages).await;
            }
        }
    }
}

/// Gives messages back at once, so that another replica need not wait until they count as lost.
async fn hand_back<K>(batch: Vec<Taken<K>>) {
    let hand_back = async {
        for taken in batch {
            taken.hand_back().await;
        }
    };
    if tokio::time::timeout(ACT_TIMEOUT, hand_back).await.is_err() {
        tracing::debug!("NATS is away; messages come again by themselves");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(delivery: u64, pending: u64) -> Behind {
        Behind { delivery, pending }
    }

    #[test]
    fn what_one_job_read_before_another_is_not_what_is_pending_now() {
        let progress = Board::default().enter(LAG_PARTITION, 0);
        let tally = Tally {
            progress: Arc::clone(&progress),
            in_hand: Mutex::default(),
        };
        let at = Timestamp::from_micros;
        tally.opened(behind(0, 100));
        assert_eq!(progress.get(), (100, None));
        tally.set(0, 40, Some(at(1)), behind(40, 60));
        tally.set(1, 50, Some(at(2)), behind(90, 10));
        assert_eq!(progress.get(), (100, Some(at(1))));
        // The first one ends later than the second one has read.
        tally.set(0, 0, None, behind(40, 60));
        assert_eq!(progress.get(), (60, Some(at(2))));
        tally.set(1, 0, None, behind(90, 10));
        assert_eq!(progress.get(), (10, None));
        // What comes again is a delivery of its own.
        tally.set(0, 1, Some(at(1)), behind(91, 12));
        assert_eq!(progress.get(), (13, Some(at(1))));
        // A consumer that was made anew counts from the beginning.
        tally.opened(behind(0, 3));
        tally.set(0, 1, Some(at(3)), behind(1, 2));
        assert_eq!(progress.get(), (3, Some(at(3))));
    }
}
