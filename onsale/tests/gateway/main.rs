//! The simulated payment gateway as a process, and our adapter against it, over HTTP.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

mod adapter;
mod exposed;
mod faults;
mod receiver;
mod rig;
mod server;
mod webhooks;
