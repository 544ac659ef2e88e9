//! What a benchmark says while it runs.

use std::time::Instant;

/// Lines on standard error, each with the time since the start.
pub struct Progress(Instant);

impl Progress {
    /// From now on.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Says how far it is.
    pub fn say(&self, what: impl std::fmt::Display) {
        eprintln!("{:>7.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}
