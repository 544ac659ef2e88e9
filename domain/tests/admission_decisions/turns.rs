//! Whose turn it is, and the limits.

use crate::Case;
use crate::common::schedule_id;
use onsale_domain::admission::Selling;
use onsale_schema::admission::PolicyChange;
use onsale_schema::status::{SaleState, TicketStatus};

fn capacity(capacity: u32) -> PolicyChange {
    PolicyChange {
        capacity: Some(capacity),
        ..PolicyChange::default()
    }
}

#[test]
fn a_batch_in_which_everybody_left_does_not_stall_the_line() {
    let mut case = Case::new(|policy| policy.rate_per_second = 10_000);
    case.join_all(0..3000);
    for by in 0..2990 {
        case.leave(by);
    }
    let ticks = case.tick();
    assert_eq!(case.admitted(), [2990, 2991]);
    assert!(
        ticks > 1,
        "a tick does a bounded amount, and says that there is more"
    );
}

#[test]
fn a_lower_capacity_revokes_nothing_and_admits_nobody_until_there_is_room() {
    let mut case = Case::new(|policy| policy.capacity = 4);
    case.join_all(0..10);
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3]);
    case.amend(capacity(2));
    case.pass(1000);
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3]);
    case.leave(0);
    case.leave(1);
    case.tick();
    assert_eq!(case.admitted(), [2, 3]);
    case.leave(2);
    case.tick();
    assert_eq!(case.admitted(), [3, 4]);
    let slot = case.room.slot(onsale_schema::ArrivalNo(4)).unwrap();
    let how = slot.admission;
    assert_eq!((how.no, how.active_before, how.capacity), (4, 1, Some(2)));
}

#[test]
fn the_rate_holds_and_a_pause_is_caught_up_with_by_a_second_at_most() {
    let mut case = Case::new(|policy| {
        policy.capacity = 1000;
        policy.rate_per_second = 5;
    });
    case.join_all(0..200);
    case.tick();
    assert_eq!(case.admitted().len(), 5);
    case.pass(399);
    case.tick();
    assert_eq!(case.admitted().len(), 6);
    case.pass(1);
    case.tick();
    assert_eq!(case.admitted().len(), 7);
    let pause = |paused| PolicyChange {
        paused: Some(paused),
        ..PolicyChange::default()
    };
    case.amend(pause(true));
    case.pass(60_000);
    case.tick();
    assert_eq!(case.admitted().len(), 7);
    case.amend(pause(false));
    case.tick();
    assert_eq!(case.admitted().len(), 12);
}

#[test]
fn who_is_silent_is_passed_over_and_is_next_when_it_returns() {
    let mut case = Case::new(|policy| policy.presence_ms = 10_000);
    case.join_all(0..6);
    case.amend(capacity(0));
    case.hear(12, [1, 3, 4, 5]);
    case.amend(capacity(2));
    case.tick();
    assert_eq!(case.admitted(), [1, 3]);
    // It is next, under both limits, before those that waited behind it.
    case.hear(1, [2]);
    case.tick();
    assert_eq!(case.admitted(), [1, 3]);
    case.leave(1);
    case.tick();
    assert_eq!(case.admitted(), [2, 3]);
    // Once more in time, and silent again at its turn.
    case.hear(1, [0]);
    case.hear(11, [4, 5]);
    case.leave(2);
    case.tick();
    assert_eq!(case.admitted(), [3, 4]);
    // To join again is to be heard.
    assert!(!case.join(0).is_new);
    case.leave(3);
    case.tick();
    assert_eq!(case.admitted(), [0, 4]);
}

#[test]
fn an_outage_passes_over_nobody() {
    let mut case = Case::new(|policy| {
        policy.presence_ms = 10_000;
        policy.capacity = 0;
    });
    case.join_all(0..6);
    case.hear(5, 0..6);
    // Nothing is heard of anybody, for an hour; then the first report, of some of them.
    case.pass(3_600_000);
    case.hear(1, [5]);
    case.amend(capacity(3));
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2]);
}

#[test]
fn an_outage_between_clients_and_ingresses_passes_over_nobody() {
    for (before, outage, after) in [(19, 60, 19), (18, 61, 18), (0, 7200, 19), (19, 3, 19)] {
        let mut case = Case::new(|policy| policy.presence_ms = 60_000);
        case.amend(capacity(0));
        case.join_all(0..6);
        // The first asked just before the last time that others did, and is the last to come back.
        case.hear(before, [4, 5]);
        case.hear(outage, []);
        case.hear(after, [5]);
        case.amend(capacity(3));
        case.tick();
        assert_eq!(case.admitted(), [0, 1, 2], "{outage} s");
    }
}

#[test]
fn those_who_have_gone_without_a_word_do_not_stall_the_line_for_whoever_comes() {
    let mut case = Case::new(|policy| {
        policy.presence_ms = 60_000;
        policy.pass_ms = 3_600_000;
    });
    case.join_all(0..2);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    // Three who wait go away, all of them, and long after that somebody comes who asks every 15 s.
    case.join_all(2..5);
    case.hear(600, []);
    case.join(5);
    for _ in 0..6 {
        case.hear(14, []);
        case.hear(1, [5]);
    }
    case.leave(0);
    case.tick();
    assert_eq!(case.admitted(), [1, 5]);
    // As well if whoever comes is too far behind to be listened to.
    let mut case = Case::new(|policy| policy.presence_ms = 60_000);
    case.join_all(0..1300);
    case.hear(600, []);
    case.hear_others(61);
    case.tick();
    assert_eq!(
        case.admitted(),
        [1000, 1001],
        "who comes near is listened to"
    );
}

#[test]
fn what_is_broadcast_says_how_fast_the_line_is() {
    let mut case = Case::new(|policy| {
        policy.capacity = 5000;
        policy.rate_per_second = 20;
    });
    case.join_all(0..2000);
    for _ in 0..300 {
        case.pass(200);
        case.tick();
    }
    let told = case.last.rooms[&schedule_id(1)].watermark.as_ref().unwrap();
    assert_eq!(
        (told.from_version + 1, told.changes.len()),
        (told.version, 4)
    );
    assert!((1190..=1200).contains(&told.moved), "{told:?}");
    let eta = told.eta(600).unwrap();
    assert!(
        eta.low_ms < 30_000 && 30_000 < eta.high_ms && eta.high_ms < 40_000,
        "{eta:?}"
    );
    assert_eq!(case.status(0), TicketStatus::Admitted);
}

/// Neither guests of a presale nor a line: the booking was moved behind the opening.
#[test]
fn nobody_is_let_in_before_the_booking_opens() {
    let mut case = Case::new(|policy| policy.capacity = 1000);
    case.join_all(0..3);
    case.room.sells(Selling {
        booking_opens_at: case.now.plus_ms(10_000),
        ..Selling::ALWAYS
    });
    case.pass(9999);
    case.tick();
    assert!(case.admitted().is_empty());
    let told = case.room.watermark(case.now);
    assert!(!told.is_sale_stopped, "it has not begun");
    case.pass(1);
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2]);
}

#[test]
fn nobody_is_let_in_while_the_date_does_not_sell() {
    let mut case = Case::new(|policy| policy.capacity = 1000);
    let closes_at = case.now.plus_ms(60_000);
    let selling = |state| Selling {
        state,
        booking_closes_at: closes_at,
        ..Selling::ALWAYS
    };
    case.join_all(0..3);
    for state in [SaleState::Paused, SaleState::Closed] {
        case.room.sells(selling(state));
        case.pass(1000);
        case.tick();
        assert!(case.admitted().is_empty(), "{state:?}");
        assert!(case.room.watermark(case.now).is_sale_stopped);
    }
    case.room.sells(selling(SaleState::Open));
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2]);
    assert!(!case.room.watermark(case.now).is_sale_stopped);

    // Whether it sells or not, the operator's own pause stays.
    case.amend(PolicyChange {
        paused: Some(true),
        ..PolicyChange::default()
    });
    case.join(3);
    for state in [SaleState::Paused, SaleState::Open] {
        case.room.sells(selling(state));
        case.pass(1000);
        case.tick();
        assert_eq!(case.admitted(), [0, 1, 2], "{state:?}");
    }
    case.amend(PolicyChange {
        paused: Some(false),
        ..PolicyChange::default()
    });
    case.pass(55_999);
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3]);
    case.join(4);
    case.pass(1);
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3], "its booking is over");
}
