//! The only contact with the outside that is shared: settings, telemetry, the Postgres pool, NATS,
//! shutdown and the clock. It decides no business; what must be true of the tables it can check.

pub mod address;
pub mod audit;
pub mod clock;
pub mod config;
pub mod db;
mod dial;
pub mod http;
pub mod metric;
pub mod nats;
pub mod nats_users;
pub mod outward;
mod pool;
pub mod rights;
pub mod settings;
pub mod shutdown;
pub mod sql;
pub mod telemetry;
pub mod tls;
pub mod tx;
pub mod webhook;

pub use clock::Clock;
