//! The replies to this ingress: one subscription, and a table of the messages that wait for one.
//!
//! An entry leaves the table when its reply comes, when it is certain that none will, or when all
//! who waited have gone; so a lost reply costs nothing in the end.

use crate::flight::{Flight, NotSent};
use crate::lane::{Admission, Commands, Ledger, Seats, Settlement};
use async_nats::Subscriber;
use futures_util::StreamExt;
use metrics::Gauge;
use onsale_platform::{Clock, metric};
use onsale_schema::message::{Reply, decode};
use onsale_schema::{Lane, MessageId, Timestamp};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often those are dropped for whom nobody waits any more.
const SWEEP: Duration = Duration::from_secs(1);

/// The messages of one lane that wait for a reply.
pub struct Waiting<L: Commands> {
    flights: Mutex<HashMap<MessageId, Entry<L>>>,
    pending: Gauge,
}

struct Entry<L: Commands> {
    flight: Arc<Flight<L>>,
    commands: usize,
    /// Nobody waits after it.
    until: Timestamp,
}

impl<L: Commands> Default for Waiting<L> {
    fn default() -> Self {
        Self {
            flights: Mutex::default(),
            pending: metrics::gauge!(metric::INGRESS_PENDING, "lane" => L::LANE.as_str()),
        }
    }
}

impl<L: Commands> Waiting<L> {
    fn flights(&self) -> MutexGuard<'_, HashMap<MessageId, Entry<L>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the outcomes of a message's `commands`, at most until `until`.
    pub fn insert(&self, flight: Arc<Flight<L>>, commands: usize, until: Timestamp) {
        self.pending.increment(commands as f64);
        let entry = Entry {
            flight,
            commands,
            until,
        };
        self.flights().insert(entry.flight.message_id(), entry);
    }

    /// Ends the wait: the message is certainly not on the stream.
    pub fn not_sent(&self, message_id: MessageId) {
        if let Some(entry) = self.take(message_id) {
            entry.flight.end(Err(NotSent));
        }
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self, message_id: MessageId) -> Option<Entry<L>> {
        let entry = self.flights().remove(&message_id)?;
        self.pending.decrement(entry.commands as f64);
        Some(entry)
    }

    fn resolve(&self, payload: &[u8]) {
        let reply: Reply<L::Outcome> = match decode(payload) {
            Ok(reply) => reply,
            Err(error) => {
                tracing::error!(%error, lane = %L::LANE, "a reply could not be read");
                return;
            }
        };
        for message in reply.messages {
            let Some(entry) = self.take(message.message_id) else {
                continue;
            };
            if entry.commands == message.outcomes.len() {
                entry.flight.end(Ok(message.outcomes));
            } else {
                tracing::error!(lane = %L::LANE, "a reply has the wrong number of outcomes");
            }
        }
    }

    fn sweep(&self, now: Timestamp) {
        let mut dropped = 0;
        self.flights().retain(|_, entry| {
            let keep = entry.until > now;
            if !keep {
                dropped += entry.commands;
            }
            keep
        });
        self.pending.decrement(dropped as f64);
    }
}

/// The tables of all lanes.
#[derive(Default)]
pub struct Replies {
    /// Of the seats' owners.
    pub seats: Arc<Waiting<Seats>>,
    /// Of the rooms' owners.
    pub admission: Arc<Waiting<Admission>>,
    /// Of the ledger.
    pub ledger: Arc<Waiting<Ledger>>,
    /// Of settlement.
    pub settlement: Arc<Waiting<Settlement>>,
}

impl Replies {
    /// Hands replies to those who wait, until `stop` or the end of the subscription.
    pub async fn run(&self, mut replies: Subscriber, clock: Clock, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                message = replies.next() => match message {
                    Some(message) => self.dispatch(&message),
                    None => return,
                },
                _ = sweep.tick() => {
                    let now = clock.now();
                    self.seats.sweep(now);
                    self.admission.sweep(now);
                    self.ledger.sweep(now);
                    self.settlement.sweep(now);
                }
            }
        }
    }

    fn dispatch(&self, message: &async_nats::Message) {
        match lane_of(&message.subject) {
            Some(Lane::Seats) => self.seats.resolve(&message.payload),
            Some(Lane::Admission) => self.admission.resolve(&message.payload),
            Some(Lane::Ledger) => self.ledger.resolve(&message.payload),
            Some(Lane::Settlement) => self.settlement.resolve(&message.payload),
            None => tracing::error!("a reply came on no lane"),
        }
    }
}

/// The lane is the last token of a reply's subject.
fn lane_of(subject: &str) -> Option<Lane> {
    let name = subject.rsplit('.').next()?;
    Lane::ALL.into_iter().find(|lane| lane.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::Ticket;
    use onsale_schema::ledger::{Outcome, Refusal};
    use onsale_schema::message::{MessageOutcomes, encode};
    use uuid::Uuid;

    fn flight(n: u128) -> Arc<Flight<Ledger>> {
        Flight::new(MessageId(Uuid::from_u128(n)))
    }

    fn reply(n: u128, outcomes: Vec<Outcome>) -> Vec<u8> {
        encode(&Reply {
            messages: vec![MessageOutcomes {
                message_id: MessageId(Uuid::from_u128(n)),
                outcomes,
            }],
        })
    }

    #[tokio::test]
    async fn outcomes_reach_their_commands() {
        let waiting = Waiting::<Ledger>::default();
        let flight = flight(1);
        let tickets = [0, 1].map(|index| Ticket::new(Arc::clone(&flight), index));
        waiting.insert(flight, 2, Timestamp::from_micros(1));
        let outcomes = vec![
            Outcome::Refused(Refusal::AmountInvalid),
            Outcome::DeadLettered,
        ];
        waiting.resolve(&reply(2, outcomes.clone()));
        waiting.resolve(b"garbage");
        waiting.resolve(&reply(1, outcomes.clone()));
        for (ticket, outcome) in tickets.iter().zip(&outcomes) {
            assert_eq!(ticket.outcome().await, Ok(outcome));
        }
        assert!(waiting.is_empty());
    }

    #[tokio::test]
    async fn entries_leave_when_nobody_waits_or_nothing_was_sent() {
        let waiting = Waiting::<Ledger>::default();
        let sent = flight(2);
        let ticket = Ticket::new(Arc::clone(&sent), 0);
        waiting.insert(flight(1), 1, Timestamp::from_micros(10));
        waiting.insert(sent, 1, Timestamp::from_micros(20));
        waiting.sweep(Timestamp::from_micros(10));
        assert_eq!(waiting.len(), 1);
        waiting.not_sent(MessageId(Uuid::from_u128(2)));
        assert_eq!(ticket.outcome().await, Err(NotSent));
        assert!(waiting.is_empty());
    }

    #[test]
    fn lanes_of_subjects() {
        assert_eq!(lane_of("t.rsp.0123.seats"), Some(Lane::Seats));
        assert_eq!(lane_of("rsp.0123.settlement"), Some(Lane::Settlement));
        assert_eq!(lane_of("rsp.0123.other"), None);
    }
}
