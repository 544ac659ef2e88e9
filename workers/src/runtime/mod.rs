//! The partition runtime: **load, decide, commit, act**, never in another order.
//!
//! A partition's commands are read in order from JetStream by its one owner, decided in memory by
//! the lane's pure functions, written with the cursor and behind the fence in one Postgres
//! transaction, and only then answered. JetStream orders, Postgres remembers: the cursor in
//! Postgres is the acknowledgement that counts.
//!
//! - [`membership`] keeps this process's sign of life and takes and releases partitions, as
//!   [`ownership`] plans from one snapshot.
//! - [`driver`] runs one owned partition; [`core`] is its part without I/O; [`reader`] reads its
//!   commands, [`quiet`] knows when there were none, [`tail`] judges whether the log still has what
//!   was applied.
//! - [`committer`] merges the batches of all partitions of the process into one transaction.
//! - [`world`] says what all of them need from outside; [`servers`] is that on NATS and Postgres,
//!   with the statements that every lane shares in [`fence`].
//!
//! It must never decide anything about a lane's business, and never answer before the commit.

pub mod act;
pub mod committer;
pub mod core;
pub mod driver;
pub mod fence;
pub mod lag;
pub mod lane;
pub mod membership;
pub mod ownership;
pub mod quiet;
pub mod reader;
pub mod servers;
pub mod tail;
pub mod world;

pub use lane::PartitionedLane;
pub use membership::run;
pub use world::World;
