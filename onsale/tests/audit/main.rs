//! The audit can fail: each violation that is planted here, past the constraints that stand against
//! it, is reported under exactly its own name, and what only looks like one is not.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

mod book;
mod cases;
mod meanwhile;
mod planted;
mod rig;
mod stream;
mod telling;
