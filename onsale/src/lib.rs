//! The operator's command: everything that is done *to* a system rather than by it.
//!
//! One file per command; [`running`] is how the commands find the system that `onsale up` runs.

pub mod at_rest;
pub mod audit;
pub mod bench;
pub mod config;
pub mod crowd;
pub mod demo;
pub mod doctor;
pub mod down;
pub mod events;
pub mod gateway;
pub mod migrate;
pub mod nats_users;
pub mod openapi;
pub mod partitions;
pub mod repartition;
pub mod restored;
pub mod running;
pub mod seed;
pub mod target;
pub mod up;
pub mod verify_draw;
pub mod when;
