//! Random histories of one waiting room, decided by the real code and by a naive model: joins, leaves,
//! silence, holds, other rules, retries, batches that are taken back, owners that die and others that
//! start from the rows. Every batch must agree and leave the invariants true: both limits at every
//! step, the order kept, places that never change, and nobody who waits for ever while there is room.
//!
//! A failure says its seed; `ONSALE_TEST_SEED=<seed>` replays it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod asking;
#[path = "../common/mod.rs"]
mod common;
mod guests;
mod model;
mod rows;
mod world;

use common::{for_seeds, is_replay};
use onsale_schema::admission::{Outcome, Refusal};
use std::cell::RefCell;
use std::collections::BTreeMap;
use world::World;

const HISTORIES: u64 = 1000;

/// How often something happened, so that a generator which no longer reaches it is noticed.
type Seen = BTreeMap<&'static str, u64>;

const EXPECTED: [&str; 35] = [
    "joined",
    "joined again",
    "joined before",
    "left",
    "applied",
    "policy",
    "command expired",
    "key reused",
    "room off",
    "not found",
    "policy invalid",
    "beacon fixed",
    "not due",
    "missed",
    "taken back",
    "died",
    "loaded",
    "admitted",
    "admitted after it was passed over",
    "admitted to an open room",
    "passed over",
    "expired",
    "done",
    "drawn",
    "drawn with a beacon",
    "code invalid",
    "code revoked",
    "code not yet",
    "code expired",
    "code used up",
    "admitted as a guest",
    "admitted in a presale",
    "admitted after it was called early",
    "a guest who was in line",
    "show cancelled",
];

#[test]
fn decisions_agree_with_the_model_and_keep_the_invariants() {
    let seen = RefCell::new(Seen::new());
    for_seeds(HISTORIES, |seed| {
        let mut world = World::new(seed);
        let seen = &mut seen.borrow_mut();
        for _ in 0..world.rng.range(5, 60) {
            world.batch(seen);
        }
        world.finish(seen);
    });
    let seen = seen.into_inner();
    println!("{seen:#?}");
    if !is_replay() {
        for what in EXPECTED {
            let count = seen.get(what).copied().unwrap_or_default();
            assert!(count >= 30, "{what} was seen {count} times only");
        }
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Joined(ticket) if !ticket.is_new => "joined again",
        Outcome::Joined(ticket) if !ticket.status.is_live() => "joined before",
        Outcome::Joined(_) => "joined",
        Outcome::Left { .. } => "left",
        Outcome::Applied => "applied",
        Outcome::Policy(_) => "policy",
        Outcome::DeadLettered => "dead-lettered",
        Outcome::Refused(refusal) => match refusal {
            Refusal::CommandExpired => "command expired",
            Refusal::KeyReused => "key reused",
            Refusal::UnknownSchedule => "unknown schedule",
            Refusal::RoomOff => "room off",
            Refusal::RoomFull => "room full",
            Refusal::TicketsUsedUp => "tickets used up",
            Refusal::CodeInvalid => "code invalid",
            Refusal::CodeRevoked => "code revoked",
            Refusal::CodeNotYet => "code not yet",
            Refusal::CodeExpired => "code expired",
            Refusal::CodeUsedUp => "code used up",
            Refusal::ShowCancelled => "show cancelled",
            Refusal::NotFound => "not found",
            Refusal::PolicyInvalid => "policy invalid",
            Refusal::BeaconFixed => "beacon fixed",
            Refusal::NotDue => "not due",
        },
    }
}
