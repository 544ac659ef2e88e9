//! Spares a gateway that fails, and us the waiting: after so many failures in a row nobody asks for a
//! while, then one at a time tries whether it has healed. Pure: the time is an argument.

use std::time::Duration;
use tokio::time::Instant;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So many failures in a row, and it opens.
    pub failures: u32,
    /// How long nobody asks then; also how long a trial may stay without a result.
    pub open: Duration,
}

/// The breaker of one gateway.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    /// Counts the changes of state, so that a late result of an earlier one is told apart.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { trial_until: Instant },
}

/// What one sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All may ask.
    Closed,
    /// One at a time may try.
    HalfOpen,
    /// Nobody may ask.
    Open,
}

/// Leave to ask once; its result is to be told with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit(u64);

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Closed { failures: 0 },
            generation: 0,
        }
    }

    /// How it is now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    /// Whether somebody may ask now.
    pub fn admit(&mut self, now: Instant) -> Option<Permit> {
        match self.state {
            State::Closed { .. } => {}
            // A trial without a result by now was given up by who made it.
            State::Open { until: then } | State::HalfOpen { trial_until: then } if then <= now => {
                let trial_until = now + self.limits.open;
                self.change(State::HalfOpen { trial_until });
            }
            State::Open { .. } | State::HalfOpen { .. } => return None,
        }
        Some(Permit(self.generation))
    }

    /// What came of it: whether the gateway works. Only what was admitted in the present state counts.
    pub fn report(&mut self, permit: Permit, works: bool, now: Instant) {
        let Permit(generation) = permit;
        if generation != self.generation {
            return;
        }
        match (&mut self.state, works) {
            (State::Closed { failures }, true) => *failures = 0,
            (State::Closed { failures }, false) => {
                *failures += 1;
                if *failures >= self.limits.failures {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, true) => self.change(State::Closed { failures: 0 }),
            (State::HalfOpen { .. }, false) => self.open(now),
            (State::Open { .. }, _) => unreachable!("nobody is admitted by an open breaker"),
        }
    }

    fn open(&mut self, now: Instant) {
        let until = now + self.limits.open;
        self.change(State::Open { until });
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        failures: 3,
        open: Duration::from_millis(100),
    };

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// (time, works or not, phase after it, or not admitted)
    #[test]
    fn it_opens_tries_and_heals() {
        let start = Instant::now();
        let mut breaker = Breaker::new(LIMITS);
        for (ms, works, phase) in [
            (0, Some(false), Phase::Closed),
            (1, Some(false), Phase::Closed),
            (2, Some(true), Phase::Closed),
            (3, Some(false), Phase::Closed),
            (4, Some(false), Phase::Closed),
            (5, Some(false), Phase::Open),
            (6, None, Phase::Open),
            (104, None, Phase::Open),
            (105, Some(false), Phase::Open),
            (204, None, Phase::Open),
            (205, Some(true), Phase::Closed),
            (206, Some(false), Phase::Closed),
        ] {
            let permit = breaker.admit(at(start, ms));
            assert_eq!(permit.is_some(), works.is_some(), "at {ms}");
            if let (Some(permit), Some(works)) = (permit, works) {
                breaker.report(permit, works, at(start, ms));
            }
            assert_eq!(breaker.phase(), phase, "at {ms}");
        }
    }

    #[test]
    fn one_at_a_time_tries_and_who_gives_up_is_followed() {
        let start = Instant::now();
        let mut breaker = Breaker::new(Limits {
            failures: 1,
            ..LIMITS
        });
        let (late, first) = (breaker.admit(start), breaker.admit(start));
        breaker.report(first.unwrap(), false, start);
        let given_up = breaker.admit(at(start, 100));
        assert!(given_up.is_some());
        assert_eq!(breaker.admit(at(start, 199)), None);
        let trial = breaker.admit(at(start, 200)).unwrap();
        // Results of earlier states say nothing about now.
        breaker.report(late.unwrap(), true, at(start, 201));
        breaker.report(given_up.unwrap(), true, at(start, 202));
        assert_eq!(breaker.phase(), Phase::HalfOpen);
        breaker.report(trial, true, at(start, 203));
        assert_eq!(breaker.phase(), Phase::Closed);
    }

    proptest! {
        /// Whatever happens in whatever order: while it is open nobody is admitted, of trials there
        /// is one per span, it opens only by a failure, and it always heals.
        #[test]
        fn it_keeps_its_word(steps in proptest::collection::vec((0..60_u64, 0..4_u8), 1..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(LIMITS);
            let mut permits = Vec::new();
            let mut opened: Option<Instant> = None;
            let mut trial: Option<Instant> = None;
            for (ms, what) in steps {
                now += Duration::from_millis(ms);
                let before = breaker.phase();
                if what < 2 {
                    let admitted = breaker.admit(now);
                    let waits = |since: Option<Instant>| since.is_some_and(|at| now < at + LIMITS.open);
                    match before {
                        Phase::Closed => prop_assert!(admitted.is_some()),
                        Phase::Open => prop_assert_eq!(admitted.is_none(), waits(opened)),
                        Phase::HalfOpen => prop_assert_eq!(admitted.is_none(), waits(trial)),
                    }
                    if before != Phase::Closed && admitted.is_some() {
                        trial = Some(now);
                    }
                    permits.extend(admitted);
                } else if !permits.is_empty() {
                    let works = what == 2;
                    let permit = permits.swap_remove(usize::try_from(ms).unwrap() % permits.len());
                    breaker.report(permit, works, now);
                    if breaker.phase() == Phase::Open && before != Phase::Open {
                        prop_assert!(!works);
                        opened = Some(now);
                    }
                    if breaker.phase() == Phase::Closed && before != Phase::Closed {
                        prop_assert!(works);
                    }
                }
            }
            now += LIMITS.open;
            let permit = breaker.admit(now).unwrap();
            breaker.report(permit, true, now);
            prop_assert_eq!(breaker.phase(), Phase::Closed);
        }
    }
}
