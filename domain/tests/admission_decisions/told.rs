//! What the owner of the seats has to be told of.

use crate::Case;
use crate::common::at_s;
use onsale_domain::admission::LINGER_MS;
use onsale_schema::ArrivalNo;
use onsale_schema::admission::{HoldState, PolicyChange};
use onsale_schema::status::{QueueMode, TicketStatus};

/// The tickets of the last batch that left a pass behind.
fn outlived(case: &Case) -> Vec<u32> {
    let rooms = case.last.rooms.values();
    let updates = rooms.flat_map(|room| &room.updates);
    updates
        .filter(|(_, update)| update.leaves_a_pass())
        .map(|(no, _)| no.0)
        .collect()
}

fn turned(case: &Case) -> Option<bool> {
    let rooms = case.last.rooms.values();
    let mut updates = rooms.filter_map(|room| room.room.as_ref());
    updates.find_map(|update| update.turned())
}

#[test]
fn it_is_told_of_tickets_that_end_before_their_passes() {
    let mut case = Case::new(|policy| (policy.capacity, policy.pass_ms) = (5, 10_000));
    let tickets: Vec<_> = (0..7).map(|by| case.join(by)).collect();
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3, 4]);
    assert_eq!(outlived(&case), Vec::<u32>::new());
    // Who waits has none.
    case.leave(6);
    assert_eq!(outlived(&case), Vec::<u32>::new());
    case.leave(0);
    assert_eq!(outlived(&case), [0]);
    let until = HoldState::Until(case.now.plus_ms(30_000));
    case.hold(&tickets[1], 1, until);
    case.hold(&tickets[2], 2, until);
    case.hold(&tickets[3], 3, until);
    assert_eq!(outlived(&case), Vec::<u32>::new());
    case.hold(&tickets[1], 1, HoldState::Paid);
    assert_eq!(outlived(&case), [1]);
    // Its pass had been made longer by the hold, and ends as if it had not.
    case.hold(&tickets[2], 2, HoldState::Over);
    case.pass(10_000 + LINGER_MS);
    case.tick();
    let expired = [2, 4].map(|no| case.room.status(ArrivalNo(no)));
    assert_eq!(expired, [Some(TicketStatus::Expired); 2]);
    assert_eq!(outlived(&case), [2]);
    // As long as its pass lasted, and no longer.
    case.pass(30_000);
    case.tick();
    assert_eq!(case.all(TicketStatus::Expired), [2, 3, 4, 5]);
    assert_eq!(outlived(&case), Vec::<u32>::new());
}

#[test]
fn it_is_told_when_a_room_is_turned_on_or_off() {
    let mut case = Case::new(|policy| policy.mode = QueueMode::Off);
    let mode = |mode| PolicyChange {
        mode: Some(mode),
        ..PolicyChange::default()
    };
    let other = PolicyChange {
        opens_at: Some(at_s(5)),
        ..PolicyChange::default()
    };
    for (change, expected) in [
        (other, None),
        (mode(QueueMode::Off), None),
        (mode(QueueMode::Open), Some(true)),
        (mode(QueueMode::Fifo), None),
        (mode(QueueMode::Draw), None),
        (mode(QueueMode::Off), Some(false)),
        (mode(QueueMode::Fifo), Some(true)),
        (mode(QueueMode::Fifo), None),
    ] {
        case.amend(change);
        assert_eq!(turned(&case), expected, "{change:?}");
    }
    // The first word of a room that is on.
    let mut case = Case::new(|policy| policy.mode = QueueMode::Off);
    case.amend(mode(QueueMode::Fifo));
    assert_eq!(turned(&case), Some(true));
}
