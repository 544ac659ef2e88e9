//! Secrets are planted wherever one can be, and then looked for in all that the programs tell: logs
//! at their most talkative, answers, errors, metrics, command lines.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

mod canary;
mod failing;
mod journey;
mod running;
mod watch;
