//! What a person sees while things start: one line per step, with its time, on standard error.

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Writes a line to standard error. Nobody may be reading any more: that is no reason to die, as
/// `eprintln!` would.
pub fn say(line: impl Display) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// The steps of one start.
#[derive(Debug)]
pub struct Steps {
    started: Instant,
    /// Whether a line can be written over while its step runs.
    live: bool,
}

impl Steps {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            live: std::io::stderr().is_terminal(),
        }
    }

    /// Does one step. `done` says what came of it, after its name.
    ///
    /// # Errors
    /// That of the step, untouched.
    pub async fn step<T, D: Display>(
        &self,
        name: &str,
        work: impl Future<Output = anyhow::Result<T>>,
        done: impl FnOnce(&T) -> D,
    ) -> anyhow::Result<T> {
        let from = Instant::now();
        if self.live {
            let mut err = std::io::stderr();
            drop(write!(err, "       … s  {name}").and_then(|()| err.flush()));
        }
        let outcome = work.await;
        let back = if self.live { "\r\x1b[2K" } else { "" };
        let seconds = from.elapsed().as_secs_f64();
        match &outcome {
            Ok(value) => say(format!("{back}  {seconds:>6.2} s  {name}: {}", done(value))),
            Err(_) => say(format!("{back}  {seconds:>6.2} s  {name}: FAILED")),
        }
        outcome
    }

    /// Does a step that can't fail.
    pub async fn wait(&self, name: &str, done: &str, work: impl Future<Output = ()>) {
        let work = async {
            work.await;
            Ok::<_, anyhow::Error>(())
        };
        drop(self.step(name, work, |()| done).await);
    }

    /// Seconds since the start.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
