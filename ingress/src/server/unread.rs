//! Answers that nobody takes, on HTTP/2. A client that opens no window for one leaves it waiting
//! where no write waits ([`super::stalls`] sees none), for as long as it answers pings. So a piece
//! of an answer must be taken in the time that a write has; else its stream is reset. What else the
//! connection carries goes on: it may be a proxy's, of many clients.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

tokio::task_local! {
    /// Since when a piece of the answer waits to be taken; none while the answer waits for us.
    static GIVEN: Cell<Option<Instant>>;
}

/// The answer's body was asked for its next piece, so what it gave before was taken. Of what nobody
/// watches nothing is noted.
pub fn asked(is_given: bool) {
    let since = is_given.then(Instant::now);
    // An error says that it is not an HTTP/2 stream's.
    GIVEN.try_with(|given| given.set(since)).ok();
}

/// Runs the streams of HTTP/2 connections, each until its client takes nothing for so long.
#[derive(Clone, Copy)]
pub struct Executor {
    /// See [`crate::config::Http::write_timeout_ms`].
    pub timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        #[allow(
            clippy::disallowed_methods,
            reason = "hyper has it: a stream ends with its connection, which is joined"
        )]
        drop(tokio::spawn(Watched {
            stream: Box::pin(stream),
            timeout: self.timeout,
            given: None,
            timer: None,
        }));
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    timeout: Duration,
    given: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (before, stream) = (self.given, self.stream.as_mut());
        let (polled, given) = GIVEN.sync_scope(Cell::new(before), || {
            let polled = stream.poll(cx);
            (polled, GIVEN.with(Cell::get))
        });
        self.given = given;
        let Some(since) = given.filter(|_| polled.is_pending()) else {
            self.timer = None;
            return polled;
        };
        let until = since + self.timeout;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        // To drop the stream resets it.
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    async fn run(stream: impl Future<Output = ()>) -> Duration {
        let started = Instant::now();
        Watched {
            stream: Box::pin(stream),
            timeout: TIMEOUT,
            given: None,
            timer: None,
        }
        .await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_takes_is_given_up() {
        let slowly_taken = async {
            for _ in 0..10 {
                asked(true);
                tokio::time::sleep(TIMEOUT / 2).await;
            }
            // It is silent, which is not the client's doing.
            asked(false);
            tokio::time::sleep(TIMEOUT * 10).await;
        };
        assert_eq!(run(slowly_taken).await, TIMEOUT * 15);
        let unread = async {
            tokio::time::sleep(TIMEOUT * 2).await;
            asked(true);
            tokio::time::sleep(TIMEOUT * 100).await;
        };
        assert_eq!(run(unread).await, TIMEOUT * 3);
    }
}
