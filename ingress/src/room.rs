//! Waiting rooms, as whoever waits sees them.

mod pass;
mod signed;

pub use pass::{QUEUE_PASS, QueuePass};
pub use signed::Signer;
