//! Every outcome of a seat decision, and the order of the checks, case by case.

mod batches;
mod best;
mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod holds;
mod orphans;
mod passes;
mod payments;
mod places;
mod policies;
mod terms;

use common::{
    at_s, command_id, fingerprint, notice_id, reservation_id, schedule_id, seat_nos, user,
};
use onsale_domain::seats::{
    Changes, ClaimDelete, ClaimInsert, ClaimUpdate, Ended, Layout, Net, Policy, PolicyUpdate,
    Reservation, Sale, Term, Times,
};
use onsale_schema::message::Command;
use onsale_schema::seats::{Fact, Hold, Kind, Outcome, PolicyChange, Refusal};
use onsale_schema::status::{ClaimState, ReservationStatus, SaleState};
use onsale_schema::{Money, SeatNo, Timestamp};

const OPENS_S: i64 = 1000;
const CLOSES_S: i64 = 2000;
const HOLD_S: i64 = 300;
const SEATS: i32 = 20;
/// The layout was replaced before.
const LAYOUT_NO: i64 = 3;

fn policy() -> Policy {
    Policy {
        state: SaleState::Open,
        booking_opens_at: at_s(OPENS_S),
        booking_closes_at: at_s(CLOSES_S),
        hold_ms: HOLD_S * 1000,
        seats_per_user: 4,
        extensions_max: 2,
        hold_total_ms: 2 * HOLD_S * 1000,
        prevents_orphans: false,
        release_jitter_ms: 0,
        cancelled: false,
    }
}

fn sale_with(policy: Policy) -> Sale {
    let prices: Vec<_> = (0..SEATS).map(|n| Money::won(i64::from(n) * 100)).collect();
    let layout = Layout::row(LAYOUT_NO, &prices);
    Sale::new(schedule_id(1), policy, layout, 10)
}

fn sale() -> Sale {
    sale_with(policy())
}

/// A hold of user `n`, command `n`, reservation `n`.
fn hold(n: u128, seats: &[i32]) -> Command<Kind> {
    command(
        n,
        Kind::Hold {
            reservation_id: reservation_id(n),
            schedule_id: schedule_id(1),
            seats: seat_nos(seats),
            places: vec![],
            layout_no: None,
            pass: None,
        },
    )
}

fn hold_best(n: u128, count: u32) -> Command<Kind> {
    command(
        n,
        Kind::HoldBest {
            reservation_id: reservation_id(n),
            schedule_id: schedule_id(1),
            count,
            section: None,
            grade: None,
            max_price: None,
            layout_no: None,
            pass: None,
        },
    )
}

fn release(n: u128, of: u128) -> Command<Kind> {
    let kind = Kind::Release {
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
    };
    Command {
        id: command_id(n + 1000),
        ..command(n, kind)
    }
}

fn extend(n: u128, of: u128) -> Command<Kind> {
    let kind = Kind::Extend {
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
    };
    Command {
        id: command_id(n + 2000),
        ..command(of, kind)
    }
}

fn expire(of: u128, expires_at_s: i64) -> Command<Kind> {
    let kind = Kind::Expire {
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
        expires_at: at_s(expires_at_s),
    };
    command(0, kind)
}

fn paid(of: u128) -> Command<Kind> {
    let kind = Kind::Paid {
        notice_id: notice_id(of),
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
    };
    command(0, kind)
}

fn command(n: u128, kind: Kind) -> Command<Kind> {
    Command {
        id: command_id(n),
        user: user(n),
        fingerprint: fingerprint(n),
        deadline: at_s(5000),
        trace: None,
        kind,
    }
}

fn times(seconds: i64) -> Times {
    Times {
        business: at_s(seconds),
        clock: at_s(seconds),
    }
}

fn row(n: u128, seats: &[i32], status: ReservationStatus, held_at_s: i64) -> Reservation {
    Reservation {
        reservation_id: reservation_id(n),
        user_id: user(n),
        command_id: command_id(n),
        fingerprint: fingerprint(n),
        seats: seat_nos(seats),
        total: Money::won(seats.iter().map(|s| i64::from(*s) * 100).sum()),
        seat_limit: 4,
        status,
        held_at: at_s(held_at_s),
        term: Term::until(at_s(held_at_s + HOLD_S)),
        ended_at: (!status.is_live()).then(|| at_s(held_at_s + 1)),
        rehold_order: None,
        cancelled: Vec::new(),
        cancelled_at: None,
        entry: None,
    }
}

/// Decides at a second, in a batch of its own.
fn decide(sale: &mut Sale, command: &Command<Kind>, at: i64) -> (Outcome, Changes) {
    let mut changes = Changes::default();
    let outcome = sale.decide(command, times(at), &mut changes);
    sale.seal(at_s(at), &mut changes);
    (outcome, changes)
}

fn outcome(sale: &mut Sale, command: &Command<Kind>, at: i64) -> Outcome {
    decide(sale, command, at).0
}

/// Decides what must be refused, and must change nothing.
fn refusal(sale: &mut Sale, command: &Command<Kind>, at: i64) -> Refusal {
    let before = sale.clone();
    let (outcome, changes) = decide(sale, command, at);
    assert!(changes.is_empty(), "a refusal changes nothing: {changes:?}");
    assert_eq!(*sale, before);
    match outcome {
        Outcome::Refused(refusal) => refusal,
        Outcome::Held(_)
        | Outcome::Released { .. }
        | Outcome::Extended { .. }
        | Outcome::Applied
        | Outcome::Policy(_)
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. }
        | Outcome::DeadLettered => panic!("not refused: {outcome:?}"),
    }
}

fn held(sale: &mut Sale, command: &Command<Kind>, at: i64) -> Hold {
    match outcome(sale, command, at) {
        Outcome::Held(hold) => hold,
        other => panic!("not held: {other:?}"),
    }
}

fn unavailable(seats: &[i32]) -> Refusal {
    Refusal::SeatUnavailable {
        seats: seat_nos(seats),
        places: vec![],
    }
}

fn conflict(status: ReservationStatus) -> Outcome {
    Outcome::Refused(Refusal::StateConflict { status })
}
