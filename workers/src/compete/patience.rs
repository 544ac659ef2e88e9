//! Waiting for a server that is away: a little longer each time, and with one log line when it
//! goes and one when it is back.

use std::fmt::Display;
use std::time::Duration;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause: how late, at most, a return is noticed.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The patience of one loop.
#[derive(Debug)]
pub struct Patience {
    what: &'static str,
    failures: u32,
}

impl Patience {
    /// `what` names the loop in the log.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, failures: 0 }
    }

    /// Takes note of a failure and waits.
    pub async fn wait(&mut self, error: impl Display) {
        if self.failures == 0 {
            tracing::warn!(%error, worker = self.what, "waiting until it heals");
        } else {
            tracing::debug!(%error, worker = self.what, failures = self.failures, "still waiting");
        }
        let pause = PAUSE_MIN * (1 << self.failures.min(6));
        self.failures += 1;
        tokio::time::sleep(pause.min(PAUSE_MAX)).await;
    }

    /// Takes note of a success.
    pub fn healed(&mut self) {
        if self.failures > 0 {
            tracing::info!(worker = self.what, failures = self.failures, "healed");
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_longer_each_time_up_to_a_bound() {
        let mut patience = Patience::new("test");
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let before = tokio::time::Instant::now();
            patience.wait("away").await;
            pauses.push(before.elapsed().as_millis());
        }
        assert_eq!(pauses[..2], [50, 100]);
        assert_eq!(pauses[5..], [1000, 1000]);
        patience.healed();
        let before = tokio::time::Instant::now();
        patience.wait("away").await;
        assert_eq!(before.elapsed().as_millis(), 50);
    }
}
