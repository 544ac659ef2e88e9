//! How long a pass lasts, and what frees its slot.

use crate::Case;
use crate::common::{notice_id, reservation_id, schedule_id};
use onsale_domain::admission::{LINGER_MS, true_while_open};
use onsale_schema::ArrivalNo;
use onsale_schema::admission::{HoldChange, HoldState, Kind, Outcome};
use onsale_schema::status::TicketStatus;

fn admitted() -> (Case, onsale_schema::admission::Ticket) {
    let mut case = Case::new(|policy| policy.pass_ms = 60_000);
    let ticket = case.join(0);
    case.join_all(1..4);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    (case, ticket)
}

#[test]
fn a_pass_ends_and_frees_its_slot() {
    let (mut case, ticket) = admitted();
    let until = case.now.plus_ms(60_000);
    assert_eq!(case.join(0).pass_expires_at, Some(until));
    // Word of a last hold may be on its way.
    case.pass(60_000 + LINGER_MS - 1);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    case.pass(1);
    case.tick();
    assert_eq!(case.all(TicketStatus::Expired), [0, 1]);
    assert_eq!(case.admitted(), [2, 3]);
    let last = case.join(0);
    assert_eq!((last.is_new, last.arrival_no), (true, ArrivalNo(4)));
    assert_ne!(last.ticket_id, ticket.ticket_id);
}

/// Its owner has taken over, or lags: word of a hold may not be read yet.
#[test]
fn a_slot_is_kept_until_all_that_was_said_of_its_pass_is_heard() {
    let (mut case, ticket) = admitted();
    let ended = case.now.plus_ms(60_000);
    case.heard = Some(ended.plus_ms(LINGER_MS - 1));
    case.pass(600_000);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    case.hold(&ticket, 1, HoldState::Until(case.now.plus_ms(300_000)));
    case.heard = None;
    case.tick();
    assert_eq!(case.all(TicketStatus::Expired), [1]);
    assert_eq!(case.admitted(), [0, 2]);
}

#[test]
fn a_hold_keeps_a_pass_until_it_is_over() {
    let (mut case, ticket) = admitted();
    let long = case.now.plus_ms(200_000);
    case.hold(&ticket, 1, HoldState::Until(long));
    case.hold(&ticket, 2, HoldState::Until(case.now));
    assert_eq!(case.join(0).pass_expires_at, Some(long));
    case.pass(100_000);
    case.tick();
    assert_eq!(case.status(0), TicketStatus::Admitted);
    assert_eq!(case.status(1), TicketStatus::Expired);
    // An end is for good, in whatever order words of it come.
    case.hold(&ticket, 3, HoldState::Over);
    case.hold(&ticket, 3, HoldState::Until(long.plus_ms(1_000_000)));
    assert_eq!(case.join(0).pass_expires_at, Some(long));
    case.hold(&ticket, 1, HoldState::Over);
    case.tick();
    assert_eq!(case.status(0), TicketStatus::Expired);
    // Too late for anything.
    case.hold(&ticket, 1, HoldState::Paid);
    assert_eq!(case.status(0), TicketStatus::Expired);
}

#[test]
fn who_has_paid_is_done_and_who_leaves_is_gone() {
    let (mut case, ticket) = admitted();
    case.hold(&ticket, 1, HoldState::Until(case.now.plus_ms(300_000)));
    case.hold(&ticket, 1, HoldState::Paid);
    assert_eq!(case.status(0), TicketStatus::Done);
    case.leave(1);
    case.tick();
    assert_eq!(case.admitted(), [2, 3]);
    // Word of it that comes again, or late, frees no other slot and ends nothing twice.
    case.join_all(4..5);
    for state in [
        HoldState::Paid,
        HoldState::Over,
        HoldState::Until(case.now.plus_ms(900_000)),
    ] {
        case.hold(&ticket, 1, state);
        case.hold(&ticket, 2, state);
        assert!(case.last.rooms.is_empty(), "nothing is written");
        case.tick();
        assert_eq!(case.admitted(), [2, 3]);
    }
    // Somebody else's ticket is not meant.
    let other = onsale_schema::admission::Ticket {
        arrival_no: ArrivalNo(2),
        ..ticket
    };
    case.hold(&other, 9, HoldState::Paid);
    assert_eq!(case.admitted(), [2, 3]);
}

/// After a restore of Postgres the stream says again what the rows do not know.
#[test]
fn word_of_a_hold_counts_while_its_notice_is_open() {
    let (mut case, ticket) = admitted();
    let paid = Kind::Holds {
        notice_id: notice_id(7),
        schedule_id: schedule_id(1),
        changes: vec![HoldChange {
            ticket_id: ticket.ticket_id,
            arrival_no: ticket.arrival_no,
            reservation_id: reservation_id(1),
            state: HoldState::Paid,
        }],
    };
    assert_eq!(true_while_open(&paid), Some(notice_id(7)));
    case.room.load_told(notice_id(7));
    assert_eq!(case.send(0, paid.clone()), Outcome::Applied);
    assert_eq!(case.last.notices_done, [notice_id(7)]);
    assert!(case.last.rooms.is_empty(), "nothing is written");
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    assert_eq!(case.send(0, paid), Outcome::Applied);
    assert_eq!(case.all(TicketStatus::Done), [0]);
}
