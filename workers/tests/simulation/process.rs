//! Worker processes: started, paused, killed, cut off from a server, with a clock of their own.
//!
//! Whatever a process does outside itself passes [`Process::leg`] or [`Process::gate`]: there it
//! waits while it is paused, and there it ends when it was killed, before or after the effect.

use crate::sim::{BASE, Sim, lock};
use crate::world::Outside;
use onsale_platform::clock::Correction;
use onsale_schema::{Timestamp, WorkerId};
use onsale_workers::runtime;
use onsale_workers::sabotage::{self, Bug};
use onsale_workers::seats::Seats;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All processes that there were.
#[derive(Default)]
pub struct Processes(Vec<State>);

struct State {
    worker: WorkerId,
    is_alive: bool,
    /// It was asked to stop.
    is_leaving: bool,
    started_at: Instant,
    paused_until: Option<Instant>,
    /// It dies at the end of so many more steps.
    dies_in: Option<u32>,
    clock: HostClock,
    postgres_cut_until: Option<Instant>,
    nats_cut_until: Option<Instant>,
    shutdown: CancellationToken,
    task: Option<AbortHandle>,
}

/// The clocks of a process' host, and what was measured of them.
struct HostClock {
    /// By how much the host's clock was set wrong.
    wrong_us: i64,
    /// When the monotonic clock stood still.
    suspended: Vec<(Instant, Instant)>,
    correction: Option<Correction>,
}

impl HostClock {
    /// What the corrected clock counts on from.
    fn local(&self, sim: &Sim) -> Timestamp {
        if sabotage::is(Bug::ClockOfTheHost) {
            return Timestamp(sim.now().0 + self.wrong_us);
        }
        let now = Instant::now();
        let still = self.suspended.iter();
        let still: Duration = still.map(|&(since, until)| until.min(now) - since).sum();
        let counted = sim.elapsed() - still;
        Timestamp(BASE.0 + i64::try_from(counted.as_micros()).expect("a short history"))
    }
}

/// One process.
#[derive(Clone)]
pub struct Process {
    pub sim: Arc<Sim>,
    pub no: usize,
    pub worker: WorkerId,
}

/// The connection broke.
#[derive(Debug)]
pub struct Gone;

/// What the other end knows of a process' end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its connections are closed.
    OfProcess,
    /// Nobody is told.
    OfHost,
}

/// A server that a process talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Postgres,
    Nats,
}

/// Bytes that are not acknowledged for so long end a connection.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the clock is measured, as in production.
const CLOCK_EVERY: Duration = Duration::from_secs(5);

impl Process {
    /// Starts a worker with a fresh id.
    pub fn start(sim: &Arc<Sim>) {
        let worker = WorkerId(sim.uuid());
        let shutdown = CancellationToken::new();
        let wrong_us = sim.range(-20, 20) * 1000;
        let no = {
            let mut processes = lock(&sim.processes);
            processes.0.push(State {
                worker,
                is_alive: true,
                is_leaving: false,
                started_at: Instant::now(),
                paused_until: None,
                dies_in: None,
                clock: HostClock {
                    wrong_us,
                    suspended: Vec::new(),
                    correction: None,
                },
                postgres_cut_until: None,
                nats_cut_until: None,
                shutdown: shutdown.clone(),
                task: None,
            });
            processes.0.len() - 1
        };
        let sim = sim.clone();
        sim.note("start", || format!("w{no} {worker}"));
        let process = Self {
            sim: sim.clone(),
            no,
            worker,
        };
        let world = Outside::new(process.clone());
        let ended = process.clone();
        let run = async move {
            tokio::select! {
                biased;
                () = process.keep_clock() => {}
                () = process.serve(world, shutdown) => {}
            }
            ended.sim.note("left", || format!("w{no}"));
            ended.end(Death::OfProcess);
        };
        let handle = tokio::runtime::Handle::current().spawn(run);
        lock(&sim.processes).0[no].task = Some(handle.abort_handle());
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut lock(&self.sim.processes).0[self.no])
    }

    async fn serve(&self, world: Outside, shutdown: CancellationToken) {
        while self.with(|state| state.clock.correction.is_none()) {
            self.sim.sleep(10, 10).await;
        }
        runtime::run::<Seats, _>(world, shutdown).await;
    }

    /// Measures the clock, as often as in production, for ever.
    async fn keep_clock(&self) {
        loop {
            let measured = self.measure_clock().await;
            let pause = match measured {
                Ok(()) => CLOCK_EVERY,
                Err(Gone) => Duration::from_millis(100),
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn measure_clock(&self) -> Result<(), Gone> {
        let local = || self.with(|state| state.clock.local(&self.sim));
        let (asked, began) = (local(), Instant::now());
        self.leg(Link::Postgres).await?;
        if !lock(&self.sim.database).is_up {
            return Err(Gone);
        }
        let remote = self.sim.now();
        self.leg(Link::Postgres).await?;
        let answered = local();
        let is_first = self.with(|state| {
            let correction = &mut state.clock.correction;
            let is_first = correction.is_none();
            let correction = correction.get_or_insert_default();
            correction.observe(asked, remote, answered);
            is_first
        });
        if is_first {
            // A later one only makes it better.
            self.sim.tolerate(began.elapsed() / 2);
        }
        Ok(())
    }

    /// The process' own clock.
    pub fn now(&self) -> Timestamp {
        self.with(|state| {
            let correction = state.clock.correction.unwrap_or_default();
            correction.apply(state.clock.local(&self.sim))
        })
    }

    /// A step that takes no time. Waits while the process is paused, and for ever when it is dead.
    pub async fn gate(&self) {
        loop {
            let paused_until = self.with(|state| {
                if state.is_alive {
                    Ok(state.paused_until)
                } else {
                    Err(())
                }
            });
            match paused_until {
                Err(()) => std::future::pending().await,
                Ok(Some(until)) if until > Instant::now() => tokio::time::sleep_until(until).await,
                Ok(_) => break,
            }
        }
        let dies = self.with(|state| match &mut state.dies_in {
            Some(0) => true,
            Some(steps) => {
                *steps -= 1;
                false
            }
            None => false,
        });
        if dies {
            let death = if self.sim.percent(75) {
                Death::OfProcess
            } else {
                Death::OfHost
            };
            self.kill(death);
            std::future::pending().await
        }
    }

    /// A message to a server or back.
    pub async fn leg(&self, link: Link) -> Result<(), Gone> {
        self.sim.travel().await;
        self.gate().await;
        if let Some(until) = self.cut_until(link) {
            let left = until - Instant::now();
            tokio::time::sleep(left.min(TCP_TIMEOUT)).await;
            self.gate().await;
            if left > TCP_TIMEOUT {
                return Err(Gone);
            }
        }
        let resets = self.sim.plan.resets;
        if link == Link::Postgres && !self.sim.is_calm() && self.sim.range(1, 10_000) <= resets {
            self.sim.note("reset", || format!("w{} {link:?}", self.no));
            return Err(Gone);
        }
        Ok(())
    }

    /// Until when a link is cut, if it is.
    pub fn cut_until(&self, link: Link) -> Option<Instant> {
        let until = self.with(|state| match link {
            Link::Postgres => state.postgres_cut_until,
            Link::Nats => state.nats_cut_until,
        });
        until.filter(|until| *until > Instant::now())
    }

    pub fn cut(&self, link: Link, time: Duration) {
        self.sim
            .note("cut", || format!("w{} {link:?} for {time:?}", self.no));
        let until = Some(Instant::now() + time);
        self.with(|state| match link {
            Link::Postgres => state.postgres_cut_until = until,
            Link::Nats => state.nats_cut_until = until,
        });
    }

    /// When its last pause ended, or ends; its beginning if it had none.
    pub fn resumed_at(&self) -> Instant {
        self.with(|state| state.paused_until.unwrap_or(state.started_at))
    }

    pub fn pause(&self, time: Duration) {
        self.sim
            .note("pause", || format!("w{} for {time:?}", self.no));
        self.with(|state| state.paused_until = Some(Instant::now() + time));
    }

    /// Its host's clock is set.
    pub fn jump(&self, offset_us: i64) {
        self.sim
            .note("clock jump", || format!("w{} {offset_us} us", self.no));
        self.with(|state| state.clock.wrong_us += offset_us);
    }

    /// Its host is paused, as a virtual machine may be: its monotonic clock stands still.
    pub fn suspend(&self, time: Duration) {
        let (since, until) = (Instant::now(), Instant::now() + time);
        let begins = self.with(|state| {
            let suspended = &mut state.clock.suspended;
            let begins = suspended.last().is_none_or(|last| last.1 <= since);
            if begins {
                suspended.push((since, until));
                state.paused_until = Some(until);
            }
            begins
        });
        if begins {
            self.sim
                .note("suspend", || format!("w{} for {time:?}", self.no));
        }
    }

    /// It dies at the end of so many more steps.
    pub fn die_in(&self, steps: u32) {
        self.with(|state| state.dies_in = Some(steps));
    }

    pub fn kill(&self, death: Death) {
        self.sim.note("kill", || format!("w{} {death:?}", self.no));
        self.end(death);
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.sim.note("stop", || format!("w{}", self.no));
        let shutdown = self.with(|state| {
            state.is_leaving = true;
            state.shutdown.clone()
        });
        shutdown.cancel();
    }

    fn end(&self, death: Death) {
        let task = self.with(|state| {
            state.is_alive = false;
            state.task.take()
        });
        if let Some(task) = task {
            task.abort();
        }
        let sim = self.sim.clone();
        let no = self.no;
        let notice_ms = match death {
            Death::OfProcess => sim.range(0, 30),
            Death::OfHost => sim.range(5000, 9000),
        };
        self.sim.spawn(async move {
            sim.sleep(notice_ms, notice_ms).await;
            lock(&sim.database).close_sessions_of(no);
            sim.database_changed.notify_waiters();
        });
    }

    /// Ends all that is wrong with it.
    pub fn heal(&self) {
        self.with(|state| {
            if let Some((_, until)) = state.clock.suspended.last_mut() {
                *until = Instant::now().min(*until);
            }
            state.paused_until = None;
            state.postgres_cut_until = None;
            state.nats_cut_until = None;
            state.dies_in = None;
        });
    }

    /// Those that are alive and were not asked to stop.
    pub fn all(sim: &Arc<Sim>) -> Vec<Self> {
        let processes = lock(&sim.processes);
        let all = processes.0.iter().enumerate();
        all.filter(|(_, state)| state.is_alive && !state.is_leaving)
            .map(|(no, state)| Self {
                sim: sim.clone(),
                no,
                worker: state.worker,
            })
            .collect()
    }

    /// All that run, also those that are leaving.
    pub fn running(sim: &Arc<Sim>) -> Vec<Self> {
        let processes = lock(&sim.processes);
        let all = processes.0.iter().enumerate();
        all.filter(|(_, state)| state.is_alive)
            .map(|(no, state)| Self {
                sim: sim.clone(),
                no,
                worker: state.worker,
            })
            .collect()
    }
}
