//! Keeps our own processes running: started, started again when they die, stopped in order.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use onsale_testkit::spawn::{self, Child, Signal, Tie};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::steps::say;
use crate::running::Process;

const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Who lived this long gets a fresh start.
const LONG_LIFE: Duration = Duration::from_secs(30);
/// Requests and batches under way are finished in this time, or never.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// One process to keep running.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `ingress`, `workers` or `gateway`.
    pub role: &'static str,
    /// Its number among those of its role.
    pub index: u32,
    /// The program.
    pub program: PathBuf,
    /// What it is asked to do.
    pub arguments: Vec<&'static str>,
    /// Its settings.
    pub environment: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// Who runs at the moment, for whoever wants to know.
#[derive(Debug, Clone)]
pub struct Board {
    pids: Arc<Mutex<BTreeMap<(&'static str, u32), u32>>>,
    changed: watch::Sender<u64>,
    deaths: watch::Sender<u32>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            pids: Arc::default(),
            changed: watch::Sender::new(0),
            deaths: watch::Sender::new(0),
        }
    }
}

impl Board {
    /// Notes that a process runs.
    pub fn set(&self, role: &'static str, index: u32, pid: u32) {
        self.pids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((role, index), pid);
        self.changed.send_modify(|version| *version += 1);
    }

    /// All that run.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        let list = pids
            .iter()
            .map(|((role, index), pid)| ((*role).to_owned(), *index, *pid));
        list.map(|(role, index, pid)| Process { role, index, pid })
            .collect()
    }

    /// Told of every change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many processes have died so far.
    #[must_use]
    pub fn deaths(&self) -> u32 {
        *self.deaths.borrow()
    }
}

/// The processes of one role.
#[derive(Debug)]
pub struct Crew {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Crew {
    /// Starts them and keeps them running.
    #[must_use]
    pub fn start(specs: Vec<Spec>, board: &Board) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        for spec in specs {
            tasks.spawn(keep(spec, board.clone(), stop.clone()));
        }
        Self { tasks, stop }
    }

    /// Asks all to finish what they are doing, and waits until they have.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One life after another.
async fn keep(spec: Spec, board: Board, stop: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let born = Instant::now();
        let end = match start(&spec).await {
            Ok(child) => {
                board.set(spec.role, spec.index, child.pid());
                tokio::select! {
                    status = child.wait() => format!("ended with {status}"),
                    () = stop.cancelled() => {
                        child.stop(Signal::SIGTERM, STOP_LIMIT).await;
                        return;
                    }
                }
            }
            Err(error) => format!("could not be started: {error}"),
        };
        board.deaths.send_modify(|deaths| *deaths += 1);
        if born.elapsed() >= LONG_LIFE {
            backoff = BACKOFF_MIN;
        }
        say(format!(
            "  {} {} {end}; again in {:.1} s ({})",
            spec.role,
            spec.index,
            backoff.as_secs_f64(),
            spec.log.display()
        ));
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stop.cancelled() => return,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn start(spec: &Spec) -> io::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)?;
    // Killed outright when we are gone: what it has not answered it has not promised.
    let mut command = Tie::new(Signal::SIGKILL).command(&spec.program);
    command.args(&spec.arguments);
    command.envs(spec.environment.iter().map(|(name, value)| (name, value)));
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    spawn::spawn(command).await
}
