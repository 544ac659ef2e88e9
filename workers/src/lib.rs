//! The workers: the partition runtime with its lanes, and the workers that compete for messages,
//! sweep and publish. One process runs any subset of the roles.

pub mod admission;
pub mod compete;
pub mod config;
pub mod context;
pub mod counting;
pub mod expiry;
pub mod gateway;
pub mod ledger;
pub mod notices;
pub mod outbox;
pub mod process;
pub mod runtime;
pub mod sabotage;
pub mod seats;
pub mod settlement;

pub use config::Config;
pub use context::Context;
