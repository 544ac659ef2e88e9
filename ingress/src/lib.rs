//! HTTP in, commands out, replies back; caches for reads. The only writer of users and sessions.
//!
//! A request that changes something is checked, becomes a command, and is published to its owner's
//! partition; the answer comes back by a reply, after the owner has committed. The ingress decides
//! nothing about seats or money, and it never sees the code that does.
//!
//! The HTTP stack (`server`, `stack`, `problem`, `extract`, `auth`, `layout`) stands on its own, so
//! that a benchmark can put another design behind it.

pub mod accept;
pub mod access;
pub mod access_codes;
pub mod address;
pub mod answer;
pub mod app;
pub mod audit;
pub mod auth;
pub mod batcher;
pub mod blocks;
pub mod catalogue;
pub mod commands;
pub mod config;
pub mod dead_letters;
pub mod docs;
pub mod draw;
pub mod etag;
pub mod events;
pub mod extract;
pub mod flight;
pub mod fresh;
pub mod gzip;
pub mod health;
pub mod idempotency;
pub mod ids;
pub mod lag;
pub mod lane;
pub mod layout;
pub mod limits;
pub mod notifications;
pub mod openapi;
pub mod order_ends;
pub mod orders;
pub mod origins;
pub mod page;
pub mod password;
pub mod payments;
mod places;
pub mod points;
pub mod policy;
pub mod prefer;
pub mod problem;
pub mod refusal;
pub mod replies;
pub mod reservations;
pub mod revocations;
pub mod room;
pub mod routes;
pub mod seat_history;
pub mod seat_map;
pub mod server;
pub mod shows;
pub mod stack;
pub mod submit;
pub mod tasks;
pub mod token;
pub mod trace;
pub mod users;
pub mod webhooks;

pub use app::{App, Error, Ingress};
pub use config::Config;

use tokio_util::sync::CancellationToken;

/// Runs an ingress until `shutdown`.
///
/// # Errors
/// When it can't start or go on.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Ingress::bind(config).await?.serve(shutdown).await
}
