//! Lines that stand still, and those that only wait for what they should.

use crate::common::{at_s, command_id, fingerprint, schedule_id, user};
use crate::guests::vip;
use crate::{Case, OPENS, SECRET};
use onsale_domain::admission::{
    BURST_MS, Changes, Counts, LINGER_MS, Policy, Room, RoomRow, Selling, StoredTicket,
};
use onsale_schema::TicketId;
use onsale_schema::admission::{Kind, PolicyChange};
use onsale_schema::status::{QueueMode, SaleState, TicketStatus};

/// How often the rooms of these tests tick, in milliseconds.
const TICK_MS: i64 = 100;
/// A line that moves is never told to stand still for longer.
const LONGEST_MS: i64 = BURST_MS + TICK_MS;

impl Case {
    fn still_ms(&self) -> i64 {
        let since = self.room.still_since();
        since.map_or(0, |since| self.now.ms_since(since))
    }

    /// Ticks for so many seconds; for how long the line stood still at most.
    fn watch(&mut self, seconds: i64) -> i64 {
        let ticks = (0..seconds * 1000 / TICK_MS).map(|_| {
            self.pass(TICK_MS);
            let before = self.still_ms();
            self.tick();
            before.max(self.still_ms())
        });
        ticks.max().unwrap_or(0)
    }

    /// The same where nothing that is decided can be stored.
    fn watch_in_vain(&mut self, seconds: i64) -> i64 {
        for _ in 0..seconds * 1000 / TICK_MS {
            self.pass(TICK_MS);
            let mut changes = Changes::default();
            self.room.tick(self.now, self.now, &mut changes);
            self.room.seal(self.now, &mut changes);
            self.room.undo(&changes);
        }
        self.still_ms()
    }
}

#[test]
fn a_line_at_the_lowest_rate_does_not_stand_still() {
    let mut case = Case::new(|policy| (policy.rate_per_second, policy.capacity) = (1, 100));
    case.join_all(0..20);
    let longest = case.watch(30);
    assert_eq!(case.admitted().len(), 20);
    assert!((1..=LONGEST_MS).contains(&longest), "{longest}");
    assert_eq!(case.room.still_since(), None, "nobody waits any more");
}

#[test]
fn who_can_t_be_let_in_does_not_stand_still() {
    let none = PolicyChange::default();
    let amended = |change| {
        move |case: &mut Case| {
            case.amend(change);
        }
    };
    let sells = |state, closes_at| {
        move |case: &mut Case| {
            case.room.sells(Selling {
                state,
                booking_closes_at: closes_at,
                ..Selling::ALWAYS
            });
        }
    };
    let later = at_s(OPENS + 1000);
    type Change = Box<dyn Fn(&mut Case)>;
    let whys: [(&str, Change); 8] = [
        (
            "it is full",
            Box::new(|case| {
                case.tick();
            }),
        ),
        (
            "nobody may have a pass",
            Box::new(amended(PolicyChange {
                capacity: Some(0),
                ..none
            })),
        ),
        (
            "paused",
            Box::new(amended(PolicyChange {
                paused: Some(true),
                ..none
            })),
        ),
        (
            "cancelled",
            Box::new(amended(PolicyChange {
                cancelled: true,
                ..none
            })),
        ),
        (
            "off",
            Box::new(amended(PolicyChange {
                mode: Some(QueueMode::Off),
                ..none
            })),
        ),
        (
            "it opens later",
            Box::new(amended(PolicyChange {
                opens_at: Some(later),
                ..none
            })),
        ),
        (
            "the date does not sell",
            Box::new(sells(SaleState::Paused, later)),
        ),
        (
            "the booking is over",
            Box::new(sells(SaleState::Open, at_s(OPENS))),
        ),
    ];
    for (why, hold) in whys {
        let mut case = Case::new(|_| {});
        case.join_all(0..10);
        case.invite(90, vip());
        hold(&mut case);
        assert!(case.watch(60) <= TICK_MS, "{why}");
        assert_eq!(case.room.still_since(), None, "{why}");
        assert!(case.admitted().len() <= 2, "{why}");
    }
}

#[test]
fn a_lobby_that_waits_for_its_beacon_does_not_stand_still() {
    let mut case = Case::new(|policy| {
        (policy.mode, policy.opens_at) = (QueueMode::Draw, at_s(OPENS + 1));
    });
    let name = Kind::NameBeacon {
        schedule_id: schedule_id(1),
        name: "a beacon".to_owned(),
    };
    case.send(0, name);
    case.join_all(0..10);
    assert_eq!(case.watch(60), 0);
    assert!(case.admitted().is_empty());
    assert_eq!(case.all(TicketStatus::Lobby).len(), 10);
}

#[test]
fn those_who_are_all_silent_do_not_stand_still() {
    let mut case = Case::new(|policy| policy.capacity = 1);
    case.join_all(0..10);
    assert!(case.watch(1) <= TICK_MS);
    case.hear_others(100);
    case.leave(0);
    assert!(case.watch(60) <= TICK_MS);
    assert_eq!(case.all(TicketStatus::Waiting).len(), 9);
    let counts = |line, passed, active| Counts {
        line,
        guests: 0,
        passed,
        active,
        capacity: 1,
    };
    assert_eq!(case.room.counts(), counts(0, 9, 0));
    // One is heard again.
    case.hear(1, [5]);
    assert_eq!(case.room.counts(), counts(1, 8, 0));
    assert!(case.watch(1) <= TICK_MS);
    assert_eq!(case.room.counts(), counts(0, 8, 1));
    assert_eq!(case.room.watermark(case.now).passed, Some(8));
}

#[test]
fn a_room_that_empties_for_a_smaller_one_does_not_stand_still() {
    let mut case = Case::new(|policy| (policy.capacity, policy.pass_ms) = (100, 10_000));
    case.join_all(0..150);
    assert!(case.watch(8) <= LONGEST_MS);
    assert_eq!(case.room.active(), 100);
    case.amend(PolicyChange {
        capacity: Some(10),
        ..PolicyChange::default()
    });
    // Until ten more have been let in and their passes are over, too.
    let seconds = 2 * (10_000 + LINGER_MS) / 1000 - 8 + 2;
    assert!(case.watch(seconds) <= LONGEST_MS);
    assert_eq!(case.all(TicketStatus::Expired).len(), 110);
}

#[test]
fn a_line_whose_owner_can_t_store_what_it_decides_stands_still() {
    let mut case = Case::new(|_| {});
    case.join_all(0..10);
    case.tick();
    assert_eq!(case.watch_in_vain(60), 0, "it is full");
    case.leave(0);
    let still_ms = case.watch_in_vain(60);
    assert_eq!(still_ms, 60_000 - TICK_MS);
    case.tick();
    assert_eq!(case.admitted(), [1, 2]);
    case.pass(TICK_MS);
    case.tick();
    assert_eq!(case.room.still_since(), None);

    // Passes that are over and can't be ended hold nobody up, and so they do.
    case.pass(1000 * 600 + LINGER_MS);
    assert_eq!(case.watch_in_vain(30), 30_000 - TICK_MS);
}

#[test]
fn a_presale_whose_guests_are_not_called_stands_still() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 1000));
    case.join_all(0..10);
    assert_eq!(case.watch_in_vain(60), 0, "it is not open");
    // Set aside until then, once that could be stored.
    case.invite(90, vip());
    assert_eq!(case.watch_in_vain(30), 30_000 - TICK_MS);
    assert!(case.watch(30) <= 30_000 + TICK_MS);
    assert_eq!(case.room.still_since(), None);
    let counts = case.room.counts();
    assert_eq!((counts.line, counts.guests, counts.passed), (10, 1, 0));
}

#[test]
fn a_rate_that_is_used_up_far_into_the_future_stands_still() {
    let policy = Policy {
        capacity: 100,
        ..Policy::new(QueueMode::Open, at_s(OPENS))
    };
    for mode in [QueueMode::Fifo, QueueMode::Draw] {
        let row = RoomRow {
            version: 1,
            arrivals: 1,
            rate_used: at_s(OPENS + 3600),
            ..RoomRow::new(schedule_id(1), Policy { mode, ..policy })
        };
        let ticket = StoredTicket {
            ticket_id: TicketId(command_id(1).0),
            user_id: user(1),
            fingerprint: fingerprint(1),
            status: TicketStatus::Waiting,
            slot: None,
            access_code_id: None,
        };
        let mut case = Case::new(|_| {});
        case.room = Room::load(row, SECRET, [ticket]);
        // From when its lobby is closed.
        assert!(case.watch(60) > 57_000);
    }
}
