//! The pure decisions of onsale: who is let in, who gets a seat, what a charge and a payment do.
//!
//! Everything here is synchronous and total. Times and ids are arguments; a refusal is a value.
//! State goes in by `load…`, a decision changes it and appends what must be written to `Changes`;
//! what is in memory afterwards is true only once those are committed. This crate must never do
//! I/O, read a clock, draw a random number or log.

pub mod admission;
pub mod ledger;
pub mod seats;
pub mod settlement;
