//! The competing workers, the sweeper and the publisher, on a real nats-server and a real
//! Postgres, spoken to by messages as an ingress would.

#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

mod charges;
mod keys;
mod outages;
mod payments;
mod plans;
mod publishing;
mod rig;
mod tasks;
