//! Waiting rooms, as whoever waits sees them.

mod signed;

pub use signed::Signer;
