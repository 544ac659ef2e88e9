//! One message on its way, and those who wait for what becomes of its commands.
//!
//! All commands of a message end together, so they share one waiting place: a request costs no
//! channel of its own.

use crate::lane::Commands;
use onsale_schema::MessageId;
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// A message that gathers, is published, or is answered.
pub struct Flight<L: Commands> {
    message_id: MessageId,
    end: OnceLock<Result<Vec<L::Outcome>, NotSent>>,
    ended: Notify,
}

/// The message is certainly not on the stream: nothing was changed, and nothing will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSent;

impl<L: Commands> Flight<L> {
    /// A message that gathers.
    #[must_use]
    pub fn new(message_id: MessageId) -> Arc<Self> {
        Arc::new(Self {
            message_id,
            end: OnceLock::new(),
            ended: Notify::new(),
        })
    }

    /// The message.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        self.message_id
    }

    /// Tells all who wait. Only the first end counts.
    pub fn end(&self, end: Result<Vec<L::Outcome>, NotSent>) {
        if self.end.set(end).is_ok() {
            self.ended.notify_waiters();
        }
    }

    async fn wait(&self) -> &Result<Vec<L::Outcome>, NotSent> {
        loop {
            // Made before looking, so that an end in between wakes it.
            let ended = self.ended.notified();
            if let Some(end) = self.end.get() {
                return end;
            }
            ended.await;
        }
    }
}

/// A command's place in a message.
pub struct Ticket<L: Commands> {
    flight: Arc<Flight<L>>,
    index: u16,
}

impl<L: Commands> Ticket<L> {
    pub(crate) fn new(flight: Arc<Flight<L>>, index: u16) -> Self {
        Self { flight, index }
    }

    /// The message.
    #[must_use]
    pub fn message_id(&self) -> MessageId {
        self.flight.message_id
    }

    /// The command's index in it.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Waits for what becomes of the command; for ever if no word comes.
    ///
    /// # Errors
    /// [`NotSent`] when it is certain that nothing will.
    pub async fn outcome(&self) -> Result<&L::Outcome, NotSent> {
        match self.flight.wait().await {
            Ok(outcomes) => match outcomes.get(usize::from(self.index)) {
                Some(outcome) => Ok(outcome),
                // Not answered, so its outcome is open.
                None => std::future::pending().await,
            },
            Err(NotSent) => Err(NotSent),
        }
    }
}
