//! When a publisher looks into Postgres again: at once when it is told to or when more is there,
//! else after a while that grows as long as there is nothing; never in a hot loop.

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use std::time::Duration;
use tokio::time::Instant;

/// The shortest pause between two looks.
const GAP_MIN: Duration = Duration::from_millis(5);
/// A look that takes long is followed by a pause this many times as long, unless there is more; by
/// [`WAIT_MAX`] at most.
const GAP_FACTOR: u32 = 4;
/// The same where what comes meanwhile is cheaper together: it is sent, received and written at once. As
/// long as the pause is not over [`GATHER_MAX`], whoever waits for it hardly notices.
const GATHER_FACTOR: u32 = 16;
const GATHER_MAX: Duration = Duration::from_millis(100);
/// The pause without a nudge, while there is something to do.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest pause, so that a lost nudge costs no more.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something; it may be all.
    Some,
    /// As much as one look takes; there is more.
    More,
}

/// The pace of one publisher.
pub struct Pace {
    nudges: Option<Subscriber>,
    gathers: bool,
    wait: Duration,
}

impl Pace {
    /// A pace that nudges quicken.
    #[must_use]
    pub fn new(nudges: Option<Subscriber>) -> Self {
        Self {
            nudges,
            gathers: false,
            wait: WAIT_MIN,
        }
    }

    /// A pace that nudges quicken, and that lets much gather where much comes.
    #[must_use]
    pub fn gathering(nudges: Option<Subscriber>) -> Self {
        Self {
            gathers: true,
            ..Self::new(nudges)
        }
    }

    /// The pause after a look that took so long; it may have done so because a link was cut.
    fn gap(&self, look: Duration) -> Duration {
        let gap = (look * GAP_FACTOR).min(WAIT_MAX);
        match self.gathers {
            true => gap.max((look * GATHER_FACTOR).min(GATHER_MAX)),
            false => gap,
        }
    }

    /// Waits until the next look, after one that began at `started`.
    pub async fn wait(&mut self, started: Instant, found: Found) {
        let gap = match found {
            Found::Nothing | Found::Some => self.gap(started.elapsed()),
            Found::More => Duration::ZERO,
        };
        tokio::time::sleep(GAP_MIN.max(gap)).await;
        self.wait = match found {
            Found::Nothing => (self.wait * 2).min(WAIT_MAX),
            Found::Some | Found::More => WAIT_MIN,
        };
        if found != Found::More {
            let nudged = tokio::time::timeout(self.wait, self.nudged()).await.is_ok();
            if nudged {
                self.wait = WAIT_MIN;
            }
        }
        // One look answers all nudges so far.
        while let Some(nudges) = &mut self.nudges
            && let Some(nudge) = nudges.next().now_or_never()
        {
            if nudge.is_none() {
                self.nudges = None;
            }
        }
    }

    async fn nudged(&mut self) {
        if let Some(nudges) = &mut self.nudges {
            if nudges.next().await.is_some() {
                return;
            }
            self.nudges = None;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_gathers_for_a_moment_and_a_slow_server_is_spared() {
        let ms = Duration::from_millis;
        for (look, usual, gathering) in [
            (ms(0), ms(0), ms(0)),
            (ms(2), ms(8), ms(32)),
            (ms(10), ms(40), ms(100)),
            (ms(50), ms(200), ms(200)),
            (ms(7000), ms(500), ms(500)),
        ] {
            assert_eq!(Pace::new(None).gap(look), usual);
            assert_eq!(Pace::gathering(None).gap(look), gathering);
        }
    }

    /// How long it waits after a look that took so long.
    async fn wait_after(look: Duration, found: Found) -> Duration {
        let mut pace = Pace::new(None);
        let started = Instant::now();
        tokio::time::advance(look).await;
        let looked = Instant::now();
        pace.wait(started, found).await;
        looked.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_followed_by_a_pause_that_grows_with_it_up_to_a_bound() {
        let ms = Duration::from_millis;
        for (look, found, least, most) in [
            (ms(0), Found::More, ms(5), ms(7)),
            (ms(7000), Found::More, ms(5), ms(7)),
            (ms(0), Found::Some, ms(100), ms(110)),
            (ms(50), Found::Some, ms(300), ms(310)),
            (ms(7000), Found::Some, ms(600), ms(610)),
            (ms(7000), Found::Nothing, ms(700), ms(710)),
        ] {
            let waited = wait_after(look, found).await;
            assert!(
                (least..=most).contains(&waited),
                "{look:?}, {found:?}: {waited:?}"
            );
        }
    }
}
