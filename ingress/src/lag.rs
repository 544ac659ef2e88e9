//! Back-pressure is lag: what owners say about their partitions, and what waits here per schedule,
//! decide whether a command is let in. A queue that grows for ever helps nobody.

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

/// How long a report counts, in milliseconds: an owner that died must not keep its partition shut.
const REPORT_VALID_MS: i64 = 5000;
/// The longest that a client is told to stay away, in seconds.
const RETRY_AFTER_MAX_S: u64 = 10;

/// Decides whether commands are let in.
pub struct Gate {
    clock: Clock,
    lag_max_ms: u64,
    in_flight_max: u32,
    seats: Vec<Report>,
    ledger: Report,
    settlement: Report,
    schedules: RwLock<HashMap<ScheduleId, Arc<AtomicU32>>>,
    shed_lag: Counter,
    shed_in_flight: Counter,
}

/// The last word of a partition's owner.
#[derive(Default)]
struct Report {
    epoch: AtomicI64,
    undecided: AtomicU64,
    age_ms: AtomicU64,
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

    /// The age of the oldest undecided message, in milliseconds; 0 when there is none.
    fn age_ms(&self, now: Timestamp) -> u64 {
        let at = Timestamp::from_micros(self.at_us.load(Ordering::Relaxed));
        let counts = now.ms_since(at) <= REPORT_VALID_MS;
        if counts && self.undecided.load(Ordering::Relaxed) > 0 {
            self.age_ms.load(Ordering::Relaxed)
        } else {
            0
        }
    }
}

/// A command of a schedule that waits for its outcome; dropped when it doesn't any more.
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// A gate with these bounds.
    #[must_use]
    pub fn new(clock: Clock, partitions: u16, lag_max_ms: u64, in_flight_max: u32) -> Self {
        Self {
            clock,
            lag_max_ms,
            in_flight_max,
            seats: (0..partitions).map(|_| Report::default()).collect(),
            ledger: Report::default(),
            settlement: Report::default(),
            schedules: RwLock::default(),
            shed_lag: metrics::counter!(metric::INGRESS_SHED, "reason" => "lag"),
            shed_in_flight: metrics::counter!(metric::INGRESS_SHED, "reason" => "in-flight"),
        }
    }

    fn report(&self, lane: Lane, partition: PartitionNo) -> Option<&Report> {
        match lane {
            Lane::Seats => self.seats.get(usize::from(partition.0)),
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
        let age_ms = self.report(lane, partition).map_or(0, |r| r.age_ms(now));
        if age_ms <= self.lag_max_ms {
            return Ok(());
        }
        self.shed_lag.increment(1);
        let seconds = (age_ms / 1000).clamp(1, RETRY_AFTER_MAX_S);
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
        let in_flight = InFlight(self.schedule(schedule));
        if in_flight.0.fetch_add(1, Ordering::Relaxed) < self.in_flight_max {
            Ok(in_flight)
        } else {
            self.shed_in_flight.increment(1);
            Err(Problem::new(Code::Overloaded))
        }
    }

    /// Commands of a schedule that wait for their outcome here.
    #[must_use]
    pub fn waiting(&self, schedule: ScheduleId) -> u32 {
        self.schedule(schedule).load(Ordering::Relaxed)
    }

    fn schedule(&self, schedule: ScheduleId) -> Arc<AtomicU32> {
        let known = self
            .schedules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&schedule)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self
                .schedules
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(schedule).or_default())
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

    #[test]
    fn a_lagging_partition_is_shut_until_it_has_caught_up_or_falls_silent() {
        let clock = Clock::default();
        let gate = Gate::new(clock.clone(), 2, 1000, 10);
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
        assert!(!report(5, 9000));
        let now = host_now();
        clock.observe(now, now.plus_ms(REPORT_VALID_MS + 1000), now);
        assert!(gate.admit(Lane::Seats, P).is_ok());
    }

    #[test]
    fn so_many_of_a_schedule_may_wait() {
        let gate = Gate::new(Clock::default(), 2, 1000, 2);
        let (a, b) = (
            ScheduleId(Uuid::from_u128(1)),
            ScheduleId(Uuid::from_u128(2)),
        );
        let first = gate.admit_schedule(a, P).unwrap();
        let _second = gate.admit_schedule(a, P).unwrap();
        let refused = gate.admit_schedule(a, P).map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::Overloaded);
        assert!(gate.admit_schedule(b, P).is_ok());
        drop(first);
        assert!(gate.admit_schedule(a, P).is_ok());
    }
}
