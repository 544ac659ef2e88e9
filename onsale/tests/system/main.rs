//! The whole system, as real processes on real servers, seen through HTTP as its users see it.

mod admin;
mod authorization;
mod best;
mod blocks;
mod cancellation;
mod catalogue;
mod crash;
mod forged;
mod general_admission;
mod hall;
mod idempotency;
mod journey;
mod limits;
mod links;
mod live_map;
mod load;
mod money;
mod ownership;
mod prefer;
mod problems;
mod race;
mod servers;
mod streams;
mod terms;
mod tls;
