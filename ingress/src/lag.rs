//! Back-pressure is lag: what owners say about their partitions, how long they have said nothing, and
//! what waits here decide whether a command is let in. A queue that grows for ever helps nobody.

use crate::config::Flow;
use crate::problem::{Code, Problem};
use async_nats::Subscriber;
use futures_util::StreamExt;
use metrics::Counter;
use onsale_platform::{Clock, metric};
use onsale_schema::message::{Lag, decode};
use onsale_schema::{Lane, PartitionNo, ScheduleId, Timestamp};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;

/// Owners report four times a second: a shorter silence says nothing, in milliseconds.
const SILENCE_MIN_MS: u64 = 1000;
/// The longest that a client is told to stay away, in seconds.
const RETRY_AFTER_MAX_S: u64 = 10;
/// As which partition the lanes of competing consumers tell their lag.
const QUEUE: PartitionNo = PartitionNo(0);

/// Decides whether commands are let in.
pub struct Gate {
    clock: Clock,
    lag_max_ms: u64,
    schedule_in_flight_max: u32,
    money_in_flight_max: u32,
    seats: Vec<Report>,
    admission: Vec<Report>,
    ledger: Report,
    settlement: Report,
    schedules: RwLock<HashMap<(Lane, ScheduleId), Arc<AtomicU32>>>,
    charges: Arc<AtomicU32>,
    payments: Arc<AtomicU32>,
    shed_lag: Counter,
    shed_in_flight: Counter,
}

/// The last word of a partition's owner.
#[derive(Default)]
struct Report {
    epoch: AtomicI64,
    undecided: AtomicU64,
    age_ms: AtomicU64,
    /// When it was heard; 0 before the first.
    at_us: AtomicI64,
}

impl Report {
    fn store(&self, lag: &Lag, now: Timestamp) {
        // An owner that was paused and deposed doesn't know it yet.
        if lag.epoch < self.epoch.fetch_max(lag.epoch, Ordering::Relaxed) {
            return;
        }
        self.undecided.store(lag.undecided, Ordering::Relaxed);
        self.age_ms.store(lag.age_ms, Ordering::Relaxed);
        self.at_us.store(now.micros(), Ordering::Relaxed);
    }

    /// The age of the oldest undecided message, or how long nobody has decided any, in
    /// milliseconds. Of a partition that was never heard of nothing is known, so it does not lag.
    fn lag_ms(&self, now: Timestamp) -> u64 {
        let at_us = self.at_us.load(Ordering::Relaxed);
        if at_us == 0 {
            return 0;
        }
        let silent_ms = u64::try_from(now.ms_since(Timestamp::from_micros(at_us))).unwrap_or(0);
        let age_ms = match self.undecided.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.age_ms.load(Ordering::Relaxed),
        };
        if silent_ms > SILENCE_MIN_MS {
            age_ms.max(silent_ms)
        } else {
            age_ms
        }
    }
}

/// A command that waits for its outcome; dropped when it doesn't any more.
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// A gate with the bounds of `flow`.
    #[must_use]
    pub fn new(clock: Clock, partitions: u16, flow: &Flow) -> Self {
        Self {
            clock,
            lag_max_ms: flow.lag_max_ms,
            schedule_in_flight_max: flow.schedule_in_flight_max,
            money_in_flight_max: flow.money_in_flight_max,
            seats: (0..partitions).map(|_| Report::default()).collect(),
            admission: (0..partitions).map(|_| Report::default()).collect(),
            ledger: Report::default(),
            settlement: Report::default(),
            schedules: RwLock::default(),
            charges: Arc::default(),
            payments: Arc::default(),
            shed_lag: metrics::counter!(metric::INGRESS_SHED, "reason" => "lag"),
            shed_in_flight: metrics::counter!(metric::INGRESS_SHED, "reason" => "in-flight"),
        }
    }

    fn report(&self, lane: Lane, partition: PartitionNo) -> Option<&Report> {
        match lane {
            Lane::Seats => self.seats.get(usize::from(partition.0)),
            Lane::Admission => self.admission.get(usize::from(partition.0)),
            Lane::Ledger => Some(&self.ledger),
            Lane::Settlement => Some(&self.settlement),
        }
    }

    /// Lets a command in unless its lane lags.
    ///
    /// # Errors
    /// `overloaded`, with when to come again.
    pub fn admit(&self, lane: Lane, partition: PartitionNo) -> Result<(), Problem> {
        let now = self.clock.now();
        let lag_ms = self.report(lane, partition).map_or(0, |r| r.lag_ms(now));
        if lag_ms <= self.lag_max_ms {
            return Ok(());
        }
        self.shed_lag.increment(1);
        let seconds = (lag_ms / 1000).clamp(1, RETRY_AFTER_MAX_S);
        let seconds = u32::try_from(seconds).unwrap_or(1);
        Err(Problem::new(Code::Overloaded).retry_after_s(seconds))
    }

    /// The same for a command of a schedule, of which only so many may wait here.
    ///
    /// # Errors
    /// `overloaded`, with when to come again.
    pub fn admit_schedule(
        &self,
        schedule: ScheduleId,
        partition: PartitionNo,
    ) -> Result<InFlight, Problem> {
        self.admit(Lane::Seats, partition)?;
        let waiting = self.schedule(Lane::Seats, schedule);
        self.let_in(waiting, self.schedule_in_flight_max)
    }

    /// The same for a command to a schedule's waiting room. They are counted apart: who waits for a
    /// ticket takes nobody's turn who holds seats.
    ///
    /// # Errors
    /// `overloaded`, with when to come again.
    pub fn admit_room(
        &self,
        schedule: ScheduleId,
        partition: PartitionNo,
    ) -> Result<InFlight, Problem> {
        self.admit(Lane::Admission, partition)?;
        let waiting = self.schedule(Lane::Admission, schedule);
        self.let_in(waiting, self.schedule_in_flight_max)
    }

    /// Lets in whoever runs the sale, however far its lane lags and however many wait: there are few of them,
    /// and what they say may be what ends a rush. It is counted like all others.
    pub fn admit_operator(&self, lane: Lane, schedule: ScheduleId) -> InFlight {
        let waiting = self.schedule(lane, schedule);
        waiting.fetch_add(1, Ordering::Relaxed);
        InFlight(waiting)
    }

    /// Lets a charge in, like a command of a schedule.
    ///
    /// # Errors
    /// `overloaded`, with when to come again.
    pub fn admit_charge(&self) -> Result<InFlight, Problem> {
        self.admit(Lane::Ledger, QUEUE)?;
        self.let_in(Arc::clone(&self.charges), self.money_in_flight_max)
    }

    /// The same for a payment.
    ///
    /// # Errors
    /// `overloaded`, with when to come again.
    pub fn admit_payment(&self) -> Result<InFlight, Problem> {
        self.admit(Lane::Settlement, QUEUE)?;
        self.let_in(Arc::clone(&self.payments), self.money_in_flight_max)
    }

    fn let_in(&self, waiting: Arc<AtomicU32>, max: u32) -> Result<InFlight, Problem> {
        let in_flight = InFlight(waiting);
        if in_flight.0.fetch_add(1, Ordering::Relaxed) < max {
            Ok(in_flight)
        } else {
            self.shed_in_flight.increment(1);
            Err(Problem::new(Code::Overloaded))
        }
    }

    /// Commands about the seats of a schedule that wait for their outcome here.
    #[must_use]
    pub fn waiting(&self, schedule: ScheduleId) -> u32 {
        self.schedule(Lane::Seats, schedule).load(Ordering::Relaxed)
    }

    fn schedule(&self, lane: Lane, schedule: ScheduleId) -> Arc<AtomicU32> {
        let key = (lane, schedule);
        let known = self
            .schedules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self
                .schedules
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key).or_default())
        })
    }

    /// Takes in what the owners say, until `stop` or the end of the subscription.
    pub async fn run(&self, mut lags: Subscriber, stop: CancellationToken) {
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                message = lags.next() => message,
            };
            let Some(message) = message else {
                return;
            };
            match decode::<Lag>(&message.payload) {
                Ok(lag) => {
                    if let Some(report) = self.report(lag.lane, lag.partition) {
                        report.store(&lag, self.clock.now());
                    }
                }
                Err(error) => tracing::error!(%error, "a lag report could not be read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_platform::clock::host_now;
    use uuid::Uuid;

    const P: PartitionNo = PartitionNo(1);

    fn lag(undecided: u64, age_ms: u64) -> Lag {
        Lag {
            lane: Lane::Seats,
            partition: P,
            epoch: 0,
            undecided,
            age_ms,
        }
    }

    fn flow(lag_max_ms: u64, in_flight_max: u32) -> Flow {
        Flow {
            request_timeout_ms: 1000,
            publish_window: 1,
            schedule_in_flight_max: in_flight_max,
            money_in_flight_max: in_flight_max,
            lag_max_ms,
        }
    }

    #[test]
    fn a_lagging_partition_is_shut_until_it_has_caught_up() {
        let clock = Clock::default();
        let gate = Gate::new(clock.clone(), 2, &flow(1000, 10));
        let report = |undecided, age_ms| {
            gate.report(Lane::Seats, P)
                .unwrap()
                .store(&lag(undecided, age_ms), clock.now());
            gate.admit(Lane::Seats, P).is_ok()
        };
        assert!(gate.admit(Lane::Seats, P).is_ok());
        assert!(report(5, 1000));
        assert!(!report(5, 1001));
        assert!(gate.admit(Lane::Seats, PartitionNo(0)).is_ok());
        assert!(gate.admit(Lane::Ledger, P).is_ok());
        assert!(report(0, 1001));
    }

    #[test]
    fn one_that_has_fallen_silent_is_shut_until_it_is_heard_again() {
        // (longest lag, silence) in milliseconds.
        for (lag_max_ms, silent_ms, is_open) in [
            (2000, 2000, true),
            (2000, 2100, false),
            (10, 900, true),
            (10, 1100, false),
        ] {
            let report = Report::default();
            let heard = host_now();
            report.store(&lag(0, 0), heard);
            let lag_ms = report.lag_ms(heard.plus_ms(silent_ms));
            assert_eq!(lag_ms <= lag_max_ms, is_open, "{lag_max_ms} {silent_ms}");
        }

        let clock = Clock::default();
        let gate = Gate::new(clock.clone(), 2, &flow(2000, 10));
        let reports = || gate.report(Lane::Seats, P).unwrap();
        reports().store(&lag(0, 0), clock.now());
        let now = host_now();
        clock.observe(now, now.plus_ms(4500), now);
        let shut = gate.admit(Lane::Seats, P).unwrap_err();
        assert_eq!(shut, Problem::new(Code::Overloaded).retry_after_s(4));
        assert!(
            gate.admit(Lane::Seats, PartitionNo(0)).is_ok(),
            "unheard of"
        );
        reports().store(&lag(0, 0), clock.now());
        assert!(gate.admit(Lane::Seats, P).is_ok());
    }

    #[test]
    fn so_many_of_a_schedule_or_queue_may_wait() {
        let gate = Gate::new(Clock::default(), 2, &flow(1000, 2));
        let (a, b) = (
            ScheduleId(Uuid::from_u128(1)),
            ScheduleId(Uuid::from_u128(2)),
        );
        let first = gate.admit_schedule(a, P).unwrap();
        let _second = gate.admit_schedule(a, P).unwrap();
        let refused = gate.admit_schedule(a, P).map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
        assert!(gate.admit_schedule(b, P).is_ok());
        let operator = gate.admit_operator(Lane::Seats, a);
        assert_eq!(gate.waiting(a), 3);
        drop((first, operator));
        assert!(gate.admit_schedule(a, P).is_ok());

        let charges = [gate.admit_charge().unwrap(), gate.admit_charge().unwrap()];
        let refused = gate.admit_charge().map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
        let _payments = [gate.admit_payment().unwrap(), gate.admit_payment().unwrap()];
        assert!(gate.admit_payment().is_err());
        drop(charges);
        assert!(gate.admit_charge().is_ok());
    }
}
