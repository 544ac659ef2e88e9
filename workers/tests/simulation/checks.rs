//! What must be true: of the tables at any moment, and of the whole when all is quiet.

use crate::rows::{ReservationRow, Rows};
use crate::sim::{Sim, Violation, lock};
use onsale_domain::seats::{BlockRow, Reservation};
use onsale_schema::invariant::Invariant;
use onsale_schema::seats::Outcome;
use onsale_schema::status::{ClaimState, ReservationStatus};
use onsale_schema::{BlockId, SeatNo, Timestamp};
use std::collections::BTreeMap;

/// What is true of the tables at any moment.
pub fn now(sim: &Sim) {
    let mut found = Vec::new();
    {
        let database = lock(&sim.database);
        check_tables(&database.rows, &mut found);
        database.ghost.check_maps(&database.rows, &mut found);
    }
    for violation in found {
        sim.fail(violation);
    }
}

fn check_tables(rows: &Rows, found: &mut Vec<Violation>) {
    check_owners_never_overlapped(rows, found);
    check_claims_agree(rows, found);
    check_limits_were_kept(rows, found);
    for (key, error) in &rows.dead {
        if error != "junk" {
            let text = format!("{key:?}: {error}");
            found.push(Violation::promise("no command is given up", text));
        }
    }
}

/// S2. An owner who came and went at one moment never was one.
fn check_owners_never_overlapped(rows: &Rows, found: &mut Vec<Violation>) {
    let mut spans = Vec::new();
    for row in rows.reservations.values() {
        let r = &row.reservation;
        for seat in &r.seats {
            let cancelled_at = rows.cancellations.get(&(r.reservation_id, *seat)).copied();
            let end = cancelled_at.or(r.ended_at);
            let end = end.map_or(i64::MAX, Timestamp::micros);
            if r.held_at.micros() > end {
                found.push(Violation::of(Invariant::S2, format!("{r:?}")));
            } else if r.held_at.micros() < end {
                spans.push(((row.schedule, *seat), r.held_at.micros(), end));
            }
        }
    }
    for (block, seat, lifted_at) in blocked_seats(rows) {
        let (since, until) = (
            block.at.micros(),
            lifted_at.map_or(i64::MAX, Timestamp::micros),
        );
        if since < until {
            spans.push(((block.schedule_id, seat), since, until));
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let ((seat, _, end), (next_seat, start, _)) = (pair[0], pair[1]);
        if seat == next_seat && end > start {
            found.push(Violation::of(Invariant::S2, format!("{seat:?}")));
        }
    }
}

/// S1 and S3. Each seat of a live reservation is claimed by it, and nothing else is claimed; those
/// that were cancelled may be until their owner has heard of it.
fn check_claims_agree(rows: &Rows, found: &mut Vec<Violation>) {
    let mut claimed = 0;
    for row in rows.reservations.values() {
        let r = &row.reservation;
        for seat in &r.seats {
            if rows.cancellations.contains_key(&(r.reservation_id, *seat)) {
                let mut open = rows.notices.values().filter(|notice| !notice.is_done);
                let is_its = rows.is_claimed_by(row, *seat);
                claimed += usize::from(is_its);
                if is_its
                    && !open.any(|notice| {
                        notice.reservation == r.reservation_id && notice.cancels.contains(seat)
                    })
                {
                    let text = format!("nobody tells of {seat:?}: {r:?}");
                    found.push(Violation::of(Invariant::S3, text));
                }
                continue;
            }
            if !r.status.is_live() {
                continue;
            }
            claimed += 1;
            let claim = rows.claims.get(&(row.schedule, *seat));
            let agrees = claim.is_some_and(|claim| {
                claim.reservation == Some(r.reservation_id)
                    && (claim.state == ClaimState::Held || r.status == ReservationStatus::Paid)
            });
            if !agrees {
                let text = format!("{claim:?}, but {r:?}");
                found.push(Violation::of(Invariant::S3, text));
            }
        }
    }
    for (block, seat, lifted_at) in blocked_seats(rows) {
        if lifted_at.is_some() {
            continue;
        }
        claimed += 1;
        let claim = rows.claims.get(&(block.schedule_id, seat));
        if claim.is_none_or(|claim| claim.state != ClaimState::Blocked) {
            let text = format!("{claim:?} on seat {}, but {block:?}", seat.0);
            found.push(Violation::of(Invariant::S3, text));
        }
    }
    if rows.claims.len() != claimed {
        found.push(Violation::of(Invariant::S3, "nobody's claims"));
    }
}

/// Every seat that ever was blocked, and when it came back.
fn blocked_seats(rows: &Rows) -> Vec<(&BlockRow, SeatNo, Option<Timestamp>)> {
    let lifts = rows.blocks.values().filter(|row| row.lifts);
    let lifted: BTreeMap<(BlockId, SeatNo), Timestamp> = lifts
        .flat_map(|row| row.seats.iter().map(|seat| ((row.block_id, *seat), row.at)))
        .collect();
    let blocks = rows.blocks.values().filter(|row| !row.lifts);
    let seats = blocks.flat_map(|row| row.seats.iter().map(move |seat| (row, *seat)));
    seats
        .map(|(row, seat)| (row, seat, lifted.get(&(row.block_id, seat)).copied()))
        .collect()
}

/// S5. Of what began in one moment the order is not known, so that its highest limit counts.
fn check_limits_were_kept(rows: &Rows, found: &mut Vec<Violation>) {
    // Who has paid gets the seats whatever limit there is.
    let is_asked = |row: &&ReservationRow| row.reservation.rehold_order.is_none();
    for row in rows.reservations.values().filter(is_asked) {
        let (r, at) = (&row.reservation, row.reservation.held_at);
        let others = rows.reservations.values().filter(is_asked);
        let others = others.filter(|o| o.schedule == row.schedule);
        let others = others.map(|other| &other.reservation).filter(|o| {
            o.user_id == r.user_id
                && o.held_at <= at
                && o.ended_at.is_none_or(|ended_at| at < ended_at)
                && (o.term.ends_as.is_none() || at < o.term.expires_at)
        });
        let is_cancelled = |o: &Reservation, seat: &SeatNo| {
            let cancelled_at = rows.cancellations.get(&(o.reservation_id, *seat));
            cancelled_at.is_some_and(|cancelled_at| *cancelled_at <= at)
        };
        let seats = others.clone().map(|o| {
            let cancelled = o.seats.iter().filter(|seat| is_cancelled(o, seat));
            o.seats.len() - cancelled.count()
        });
        let seats: usize = seats.sum();
        let limits = others.filter(|o| o.held_at == at).map(|o| o.seat_limit);
        let limit = limits.max().unwrap_or(r.seat_limit);
        if seats > limit as usize {
            found.push(Violation::of(Invariant::S5, format!("{seats}: {r:?}")));
        }
    }
}

/// What is still to come; none when all is quiet.
pub fn unfinished(sim: &Sim, ingresses: usize) -> Option<Violation> {
    let (done, open, orders) = {
        let people = lock(&sim.people);
        let open = people.open.values().next().cloned();
        (people.done, open, people.orders)
    };
    let stream = lock(&sim.stream);
    let database = lock(&sim.database);
    let rows = &database.rows;
    let mut messages = stream.messages.iter().rev();
    if let Some(message) = messages.find(|message| !rows.is_decided(message)) {
        let row = &rows.partitions[usize::from(message.partition.0)];
        let text = format!(
            "{message:?} is undecided; the cursor is {:?}, the owner {:?}",
            row.cursor, row.owner
        );
        return Some(Violation::of(Invariant::F2, text));
    }
    if done < ingresses {
        let text = format!("requests are open: {open:?}");
        return Some(Violation::promise("every request is answered", text));
    }
    if orders > 0 {
        let text = format!("{orders} are on their way");
        return Some(Violation::promise("every payment comes to an end", text));
    }
    let open = rows.notices.iter().find(|(_, row)| !row.is_done);
    if let Some((id, row)) = open {
        let text = format!("notice {id} for {}", row.reservation);
        return Some(Violation::of(Invariant::O1, text));
    }
    let mut reservations = rows.reservations.values();
    let held = reservations.find(|row| row.reservation.status == ReservationStatus::Held);
    held.map(|row| Violation::promise("holds end", format!("{:?}", row.reservation)))
}

/// What is true when all is quiet.
pub fn at_the_end(sim: &Sim) {
    now(sim);
    let mut found = Vec::new();
    check_every_message_has_its_outcome(sim, &mut found);
    check_answers_are_true(sim, &mut found);
    {
        let database = lock(&sim.database);
        for id in &database.ghost.paid {
            let row = &database.rows.reservations[id];
            let sold = row.reservation.seats.iter().all(|seat| {
                let claim = database.rows.claims.get(&(row.schedule, *seat));
                let is_sold = claim.is_some_and(|claim| claim.state == ClaimState::Sold);
                let is_its = database.rows.is_claimed_by(row, *seat);
                match row.reservation.cancelled.contains(seat) {
                    true => !is_its,
                    false => is_its && is_sold,
                }
            });
            let is_paid = match row.reservation.status {
                ReservationStatus::Paid | ReservationStatus::Cancelled => true,
                ReservationStatus::Held
                | ReservationStatus::Expired
                | ReservationStatus::Released => false,
            };
            if !is_paid || !sold {
                let text = format!("paid, but not sold: {:?}", row.reservation);
                found.push(Violation::of(Invariant::S3, text));
            }
        }
        for row in database.rows.reservations.values() {
            let order = row.reservation.rehold_order;
            if order.is_some_and(|order| database.ghost.refunded.contains(&order)) {
                let text = format!("sold for money that went back: {:?}", row.reservation);
                found.push(Violation::promise("seats or the money", text));
            }
        }
        for (schedule, sale) in &database.rows.sales {
            let facts = database
                .rows
                .facts
                .range((*schedule, i64::MIN)..=(*schedule, i64::MAX));
            if !facts.map(|(_, version)| *version).eq(1..=sale.map_version) {
                found.push(Violation::promise(
                    "facts have no gap",
                    format!("{schedule}"),
                ));
            }
        }
    }
    for violation in found {
        sim.fail(violation);
    }
}

/// F2. What is on the stream has one outcome under its sequence, or is a dead letter. One that was
/// lost and came again under its sequence may have another of its former life.
fn check_every_message_has_its_outcome(sim: &Sim, found: &mut Vec<Violation>) {
    let stream = lock(&sim.stream);
    let database = lock(&sim.database);
    for message in &stream.messages {
        let count = database.rows.outcomes_of_stored(message);
        if !database.rows.is_decided(message) || count > 1 + stream.former(message) {
            let text = format!("{count} outcomes of {message:?}");
            found.push(Violation::of(Invariant::F2, text));
        }
    }
}

/// Whether a hold has not become shorter, but by being given back.
fn lasts(r: &Reservation, expires_at: Timestamp) -> bool {
    r.term.expires_at >= expires_at || r.term.ends_as == Some(ReservationStatus::Released)
}

/// Whatever somebody was told is still so.
fn check_answers_are_true(sim: &Sim, found: &mut Vec<Violation>) {
    let people = lock(&sim.people);
    let database = lock(&sim.database);
    let rows = &database.rows;
    for (command, outcome) in &people.acknowledged {
        let is_true = match outcome {
            Outcome::Held(hold) => {
                let row = rows.reservations.get(&hold.reservation_id);
                row.is_some_and(|row| {
                    let is_over = database.ghost.is_over(hold.reservation_id);
                    row.hold() == *hold
                        && (is_over || lasts(&row.reservation, hold.expires_at))
                        && row.reservation.user_id == command.user
                })
            }
            Outcome::Extended {
                reservation_id,
                expires_at,
                ..
            } => {
                let row = rows.reservations.get(reservation_id);
                row.is_some_and(|row| {
                    let is_over = database.ghost.is_over(*reservation_id);
                    row.reservation.term.extended_by.contains(&command.id)
                        && (is_over || lasts(&row.reservation, *expires_at))
                })
            }
            Outcome::Released { reservation_id } => {
                let row = rows.reservations.get(reservation_id);
                row.is_some_and(|row| row.reservation.status == ReservationStatus::Released)
            }
            Outcome::Blocked { block_id } => {
                let row = rows.blocks.get(&command.id);
                row.is_some_and(|row| row.block_id == *block_id && !row.lifts)
            }
            Outcome::Unblocked {
                block_id,
                command_id,
            } => {
                let row = rows.blocks.get(command_id);
                let is_so = row.is_none_or(|row| row.block_id == *block_id && row.lifts);
                is_so && *command_id == command.id
            }
            Outcome::Applied | Outcome::Policy(_) | Outcome::Refused(_) | Outcome::DeadLettered => {
                true
            }
        };
        if !is_true {
            let text = format!("{outcome:?} for {command:?}");
            found.push(Violation::promise("answers stay true", text));
        }
    }
}
