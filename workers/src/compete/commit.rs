//! One batch, one transaction: what was decided before is answered alike, the rest is decided and
//! stored with its outcomes. Only what Postgres refuses for itself is set aside.

use super::Queue;
use super::store::{self, Taken};
use crate::runtime::core::{DeadLetter, Decided, Inbound};
use diesel_async::AsyncPgConnection;
use futures_util::FutureExt;
use futures_util::future::join;
use onsale_platform::{db, metric, tx};
use onsale_schema::MessageId;
use onsale_schema::message::{Command, CommandMessage, encode};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The outcomes of messages that were decided before.
type Known<O> = HashMap<MessageId, Vec<O>>;

/// The kind of a command, and its outcome, as metrics have them.
pub type Label = (&'static str, &'static str);

/// How a batch is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With one pass of statements for all its commands.
    Together,
    /// Each command by itself, so that one that can't be processed harms no other.
    Apart,
}

/// Messages to decide in one transaction.
pub struct Job<Q: Queue> {
    /// Who decides.
    pub queue: Arc<Q>,
    /// The stream's incarnation, as far as this process knows it. Sequences of a stream that lost
    /// its tail, or that was made anew, belong to older messages already.
    pub incarnation: Arc<AtomicI32>,
    /// What.
    pub messages: Vec<Arc<Inbound<Q::Kind>>>,
    /// How.
    pub mode: Mode,
}

/// What a transaction has made durable.
pub struct Done<O> {
    /// Every decodable message with its outcomes, also those that were decided before.
    pub decided: Vec<Decided<O>>,
    /// Kind and outcome of each command that was decided now.
    pub labels: Vec<Label>,
    /// Dead letters written.
    pub dead: usize,
}

/// Runs a job in one transaction.
///
/// # Errors
/// The database's; nothing is written then, except that after `Unavailable` it is unknown. The same
/// job again is safe.
pub async fn run<Q: Queue>(
    pool: &db::Pool,
    job: Arc<Job<Q>>,
) -> Result<Done<Q::Outcome>, db::Error> {
    tx::run(pool, move |conn| {
        let job = Arc::clone(&job);
        async move { job.run(conn).await }.boxed()
    })
    .await
}

impl<Q: Queue> Job<Q> {
    async fn run(&self, conn: &mut AsyncPgConnection) -> Result<Done<Q::Outcome>, db::Error> {
        match self.mode {
            Mode::Together => self.run_together(conn).await,
            Mode::Apart => self.run_apart(conn).await,
        }
    }

    /// In two goes of statements that need not wait for each other: what the messages are known by and
    /// what their commands need; then what is decided, and that it is.
    async fn run_together(&self, conn: &AsyncPgConnection) -> Result<Done<Q::Outcome>, db::Error> {
        let ids = self.ids();
        let all: Vec<&Command<Q::Kind>> = self
            .decodable()
            .flat_map(|(_, message)| &message.commands)
            .collect();
        let load = async {
            match all.is_empty() {
                true => Ok(None),
                false => self.queue.load(conn, &all).await.map(Some),
            }
        };
        let known = store::outcome_list_known::<Q::Outcome>(conn, Q::LANE, &ids);
        // What another replica commits in between is found when the outcomes are written.
        let (known, state) = join(known, load).await;
        let (known, state) = db::both(known, state)?;
        let open = self.open(&known);
        let commands: Vec<&Command<Q::Kind>> = open
            .iter()
            .flat_map(|(_, message)| &message.commands)
            .collect();
        let (outcomes, changes) = match state {
            Some(state) if !commands.is_empty() => {
                let (outcomes, changes) = self.queue.decide(state, &commands);
                (outcomes, Some(changes))
            }
            _ => (Vec::new(), None),
        };
        assert_eq!(
            outcomes.len(),
            commands.len(),
            "each command has one outcome"
        );
        let mut outcomes = outcomes.into_iter();
        let per_message = |(_, message): &(u64, &CommandMessage<Q::Kind>)| {
            outcomes.by_ref().take(message.commands.len()).collect()
        };
        let outcomes: Vec<Vec<Q::Outcome>> = open.iter().map(per_message).collect();
        let mut dead = self.undecodable();
        for ((seq, message), outcomes) in open.iter().zip(&outcomes) {
            for (index, command) in message.commands.iter().enumerate() {
                let why = Q::set_aside(&command.kind, &outcomes[index]);
                dead.extend(why.map(|why| dead_letter::<Q>(*seq, index, command, why)));
            }
        }
        let (decided, labels) = decided::<Q>(&open, outcomes);
        let store = async {
            match &changes {
                Some(changes) => self.queue.store(conn, changes).await,
                None => Ok(()),
            }
        };
        let (stored, written) = join(store, self.write(conn, &decided, &dead)).await;
        db::both(stored, written)?;
        Ok(self.done(decided, known, labels, &dead))
    }

    async fn run_apart(&self, conn: &mut AsyncPgConnection) -> Result<Done<Q::Outcome>, db::Error> {
        let known = store::outcome_list_known::<Q::Outcome>(conn, Q::LANE, &self.ids()).await?;
        let open = self.open(&known);
        let mut dead = self.undecodable();
        let outcomes = self.decide_apart(conn, &open, &mut dead).await?;
        let (decided, labels) = decided::<Q>(&open, outcomes);
        self.write(conn, &decided, &dead).await?;
        Ok(self.done(decided, known, labels, &dead))
    }

    /// Those that were not decided before.
    fn open(&self, known: &Known<Q::Outcome>) -> Vec<(u64, &CommandMessage<Q::Kind>)> {
        self.decodable()
            .filter(|(_, message)| !known.contains_key(&message.id))
            .collect()
    }

    fn ids(&self) -> Vec<MessageId> {
        self.decodable().map(|(_, message)| message.id).collect()
    }

    /// What is durable with the commit; what was decided before is answered alike.
    fn done(
        &self,
        mut decided: Vec<Decided<Q::Outcome>>,
        mut known: Known<Q::Outcome>,
        labels: Vec<Label>,
        dead: &[DeadLetter],
    ) -> Done<Q::Outcome> {
        for (seq, message) in self.decodable() {
            if let Some(outcomes) = known.remove(&message.id) {
                decided.push(answer(seq, message, outcomes));
            }
        }
        Done {
            decided,
            labels,
            dead: dead.len(),
        }
    }

    fn decodable(&self) -> impl Iterator<Item = (u64, &CommandMessage<Q::Kind>)> {
        let body = |inbound: &'_ Arc<Inbound<Q::Kind>>| inbound.seq;
        self.messages
            .iter()
            .filter_map(move |inbound| Some((body(inbound), inbound.body.as_ref().ok()?)))
    }

    fn undecodable(&self) -> Vec<DeadLetter> {
        let errors = |inbound: &Arc<Inbound<Q::Kind>>| {
            let bytes = inbound.body.as_ref().err()?;
            Some(DeadLetter {
                seq: inbound.seq,
                command_index: -1,
                payload: bytes.payload.clone(),
                error: bytes.error.clone(),
            })
        };
        self.messages.iter().filter_map(errors).collect()
    }

    /// Outcomes per message; what can't be processed goes to `dead`.
    async fn decide_apart(
        &self,
        conn: &mut AsyncPgConnection,
        open: &[(u64, &CommandMessage<Q::Kind>)],
        dead: &mut Vec<DeadLetter>,
    ) -> Result<Vec<Vec<Q::Outcome>>, db::Error> {
        let mut per_message = Vec::with_capacity(open.len());
        for (seq, message) in open {
            let mut outcomes = Vec::with_capacity(message.commands.len());
            for (index, command) in message.commands.iter().enumerate() {
                match self.decide_one(conn, command).await {
                    Ok(outcome) => {
                        let why = Q::set_aside(&command.kind, &outcome);
                        dead.extend(why.map(|why| dead_letter::<Q>(*seq, index, command, why)));
                        outcomes.push(outcome);
                    }
                    Err(error) if error.retryable() => return Err(error),
                    Err(error) => {
                        outcomes.push(Q::dead_lettered());
                        dead.push(dead_letter::<Q>(*seq, index, command, error.to_string()));
                    }
                }
            }
            per_message.push(outcomes);
        }
        Ok(per_message)
    }

    /// Decides one command. Whoever has taken a key of it meanwhile has committed, and is found.
    async fn decide_one(
        &self,
        conn: &mut AsyncPgConnection,
        command: &Command<Q::Kind>,
    ) -> Result<Q::Outcome, db::Error> {
        /// Each time but the last another one was quicker.
        const TRIES: u32 = 3;
        for _ in 1..TRIES {
            match self.try_one(conn, command).await {
                Err(db::Error::Taken(_)) => {}
                other => return other,
            }
        }
        self.try_one(conn, command).await
    }

    /// Decides one command under a savepoint. Also a broken assertion harms only this command.
    async fn try_one(
        &self,
        conn: &mut AsyncPgConnection,
        command: &Command<Q::Kind>,
    ) -> Result<Q::Outcome, db::Error> {
        tx::begin(conn).await?;
        let commands = [command];
        let settled = AssertUnwindSafe(self.queue.settle(conn, &commands))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(db::Error::Refused("an assertion is broken".into())));
        match settled.map(|mut outcomes| outcomes.pop()) {
            Ok(outcome) => {
                tx::commit(conn).await?;
                Ok(outcome.expect("each command has one outcome"))
            }
            Err(error) => {
                tx::rollback(conn).await;
                Err(error)
            }
        }
    }

    async fn write(
        &self,
        conn: &AsyncPgConnection,
        decided: &[Decided<Q::Outcome>],
        dead: &[DeadLetter],
    ) -> Result<(), db::Error> {
        let incarnation = self.incarnation.load(Ordering::Relaxed);
        let mut written = store::outcome_insert(conn, Q::LANE, incarnation, decided).await?;
        if written.is_ok() {
            written = store::dead_letter_insert(conn, Q::LANE, incarnation, dead).await?;
        }
        match written {
            Ok(()) => Ok(()),
            Err(Taken::Meanwhile) => Err(db::Error::Contended(
                "another replica has decided a message meanwhile".into(),
            )),
            Err(Taken::Earlier) => {
                if self
                    .incarnation
                    .fetch_max(incarnation + 1, Ordering::Relaxed)
                    == incarnation
                {
                    metrics::counter!(metric::TAIL_LOST, "lane" => Q::LANE.as_str()).increment(1);
                    tracing::error!(
                        lane = %Q::LANE,
                        incarnation = incarnation + 1,
                        "the stream counts anew: it lost its tail or was made again"
                    );
                }
                Err(db::Error::Contended("the stream counts anew".into()))
            }
        }
    }
}

/// What of a command is kept that is set aside.
fn dead_letter<Q: Queue>(
    seq: u64,
    index: usize,
    command: &Command<Q::Kind>,
    error: String,
) -> DeadLetter {
    tracing::error!(error, lane = %Q::LANE, seq, index, "dead letter");
    DeadLetter {
        seq,
        command_index: i32::try_from(index).unwrap_or(i32::MAX),
        payload: encode(command),
        error,
    }
}

/// Messages with their outcomes, and kind and outcome of each command.
fn decided<Q: Queue>(
    open: &[(u64, &CommandMessage<Q::Kind>)],
    outcomes: Vec<Vec<Q::Outcome>>,
) -> (Vec<Decided<Q::Outcome>>, Vec<Label>) {
    let mut labels = Vec::new();
    let mut decided = Vec::with_capacity(open.len());
    for ((seq, message), outcomes) in open.iter().zip(outcomes) {
        let commands = message.commands.iter().zip(&outcomes);
        labels.extend(commands.map(|(command, outcome)| Q::labels(&command.kind, outcome)));
        decided.push(answer(*seq, message, outcomes));
    }
    (decided, labels)
}

fn answer<K, O>(seq: u64, message: &CommandMessage<K>, outcomes: Vec<O>) -> Decided<O> {
    Decided {
        seq,
        message_id: message.id,
        reply_to: message.reply_to,
        outcomes,
    }
}
