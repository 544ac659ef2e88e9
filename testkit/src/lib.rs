//! Real servers for whoever needs them: tests, benchmarks and `onsale up`.
//!
//! Nothing is simulated here but the payment gateway, which is another company's. A test talks to the same nats-server and Postgres that production
//! runs, started by the same code that starts them for an operator, so that what this module knows
//! about starting, stopping and killing them is used, and tried, all day.

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "api")]
pub mod contract;
pub mod gateway;
pub mod links;
pub mod nats;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod proxy;
mod scratch;
mod shared;
pub mod spawn;
pub mod system;
mod test_db;
pub mod tls;
pub mod tools;

mod server;

#[cfg(feature = "api")]
pub use api::{Answer, Api, Buyer};
pub use nats::{NatsOptions, NatsServer, NatsUsers};
pub use postgres::{PostgresOptions, PostgresServer};
pub use scratch::Scratch;
pub use server::{Error, log_tail};
pub use shared::{DATABASE_URL_VARIABLE, NATS_URL_VARIABLE, Servers, Shared, shared};
pub use system::{System, SystemOptions};
pub use test_db::{TestDb, TestNats};
pub use tools::Tools;
