//! One message on its way, and those who wait for what becomes of its commands.
//!
//! All commands of a message end together, so they share one waiting place: a request costs no
//! channel of its own.

use crate::lag::InFlight;
use crate::lane::Commands;
use onsale_schema::MessageId;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// A message that gathers, is published, or is answered.
pub struct Flight<L: Commands> {
    message_id: MessageId,
    end: OnceLock<Result<Vec<L::Outcome>, NotSent>>,
    is_stored: OnceLock<()>,
    changed: Notify,
    /// Its commands count as in flight until it ends, or is forgotten.
    in_flight: Mutex<Vec<InFlight>>,
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
            is_stored: OnceLock::new(),
            in_flight: Mutex::default(),
            changed: Notify::new(),
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
            self.counted().clear();
            self.changed.notify_waiters();
        }
    }

    /// One more of its commands is in flight.
    pub(crate) fn count(&self, in_flight: InFlight) {
        self.counted().push(in_flight);
    }

    fn counted(&self) -> MutexGuard<'_, Vec<InFlight>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The message is on the stream: sooner or later its commands are decided.
    pub fn stored(&self) {
        if self.is_stored.set(()).is_ok() {
            self.changed.notify_waiters();
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        self.until(|flight| flight.end.get()).await;
    }

    async fn until<'a, T>(&'a self, look: impl Fn(&'a Self) -> Option<T>) -> T {
        loop {
            // Made before looking, so that a change in between wakes it.
            let changed = self.changed.notified();
            if let Some(found) = look(self) {
                return found;
            }
            changed.await;
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
        match self.flight.until(|flight| flight.end.get()).await {
            Ok(outcomes) => match outcomes.get(usize::from(self.index)) {
                Some(outcome) => Ok(outcome),
                // Not answered, so its outcome is open.
                None => std::future::pending().await,
            },
            Err(NotSent) => Err(NotSent),
        }
    }

    /// Waits until the command is on the stream.
    pub async fn stored(&self) {
        self.flight.until(|flight| flight.is_stored.get()).await;
    }
}
