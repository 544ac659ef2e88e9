//! Before the opening, and the opening.

use crate::common::{at_s, schedule_id};
use crate::{Case, OPENS, SECRET};
use onsale_domain::admission::{OPENING_GRACE_MS, StoredTicket};
use onsale_schema::ArrivalNo;
use onsale_schema::admission::{Kind, Order, Outcome, PolicyChange, Refusal};
use onsale_schema::draw::{Draw, Place};
use onsale_schema::status::{QueueMode, TicketStatus};

fn lobby(capacity: u32) -> Case {
    let mut case = Case::new(|policy| {
        policy.mode = QueueMode::Draw;
        policy.capacity = capacity;
    });
    case.now = at_s(OPENS - 60);
    case
}

#[test]
fn a_lobby_is_drawn_at_its_opening_without_a_write_per_ticket() {
    let mut case = lobby(0);
    case.join_all(0..500);
    case.tick();
    assert_eq!(case.all(TicketStatus::Lobby).len(), 500);
    assert_eq!(case.room.place(ArrivalNo(0)), None);
    let digest = case.room.row().digest;
    case.now = at_s(OPENS).plus_ms(OPENING_GRACE_MS);
    case.tick();
    let mine = &case.last.rooms[&schedule_id(1)];
    assert!(mine.joined.is_empty() && mine.updates.is_empty());
    let update = mine.room.as_ref().unwrap();
    let opened = update.after.lobby.as_ref().unwrap();
    let seed = SECRET.seed(digest, b"");
    assert_eq!((opened.size, opened.digest), (500, digest));
    assert_eq!(opened.order, Some(Order::Drawn { seed }));
    // Who comes later is behind all of them, and whoever is let in is let in by the draw.
    case.join_all(500..503);
    let draw = Draw::new(seed, 500);
    for no in (0..500).map(ArrivalNo) {
        assert_eq!(case.room.place(no), draw.place(no));
    }
    assert_eq!(case.room.place(ArrivalNo(502)), Some(Place(502)));
    case.amend(PolicyChange {
        capacity: Some(3),
        ..PolicyChange::default()
    });
    case.tick();
    let mut first: Vec<_> = (0..3)
        .map(|at| draw.arrival(Place(at)).unwrap().0)
        .collect();
    first.sort_unstable();
    assert_eq!(case.admitted(), first);
}

#[test]
fn who_came_in_time_is_in_the_lobby_also_if_that_is_decided_late() {
    let mut case = lobby(0);
    case.join(1);
    // The owner's clock is past the opening, the messages are from before.
    case.now = at_s(OPENS).plus_ms(OPENING_GRACE_MS - 1);
    case.tick();
    // However long after it: what is from before may still wait to be decided.
    case.now = at_s(OPENS + 60);
    case.heard = Some(at_s(OPENS).plus_ms(-1));
    case.tick();
    case.now = at_s(OPENS).plus_ms(-1);
    case.join(2);
    assert_eq!(case.room.row().lobby, None);
    // The first message from after it shows that nobody else was in time.
    case.now = at_s(OPENS);
    case.join(3);
    let closed = case.room.row().lobby.as_ref().unwrap();
    assert_eq!((closed.size, closed.closed_at), (2, at_s(OPENS)));
    case.now = at_s(OPENS).plus_ms(-1);
    case.join(4);
    assert_eq!(case.room.row().lobby.as_ref().unwrap().size, 2);
    assert_eq!(case.room.place(ArrivalNo(3)), Some(Place(3)));
}

#[test]
fn an_order_is_settled_once() {
    let mut case = lobby(0);
    case.join_all(0..50);
    case.now = at_s(OPENS);
    case.join(50);
    let places = |case: &Case| -> Vec<_> {
        let all = (0..51).map(ArrivalNo);
        all.map(|no| case.room.place(no).unwrap()).collect()
    };
    let drawn = places(&case);
    for mode in [
        QueueMode::Fifo,
        QueueMode::Off,
        QueueMode::Open,
        QueueMode::Draw,
    ] {
        case.amend(PolicyChange {
            mode: Some(mode),
            opens_at: Some(case.now.plus_ms(1000)),
            ..PolicyChange::default()
        });
        case.pass(2000);
        case.tick();
        assert_eq!(places(&case), drawn);
    }
}

#[test]
fn a_new_owner_has_the_same_order_and_knows_who_was_passed_over() {
    let mut case = lobby(5);
    case.join_all(0..40);
    case.hear(50, (0..40).filter(|no| no % 2 == 0));
    case.hear(50, (0..40).filter(|no| no % 2 == 0));
    case.tick();
    case.leave(7);
    let stored: Vec<_> = (0..40u32)
        .map(|no| {
            let status = match case.status(no) {
                TicketStatus::Lobby => TicketStatus::Waiting,
                status => status,
            };
            StoredTicket {
                ticket_id: case.join_id(no),
                user_id: crate::user(u128::from(no)),
                fingerprint: crate::fingerprint(1),
                status,
                slot: case.room.slot(ArrivalNo(no)).cloned(),
                access_code_id: None,
            }
        })
        .collect();
    let before = crate::essence(&case.room);
    let (row, front) = (case.room.row().clone(), case.room.row().front);
    assert!(front.0 > 5, "some were passed over");
    case.room = onsale_domain::admission::Room::load(row, SECRET, stored);
    assert_eq!(crate::essence(&case.room), before);
    // Those come back and are let in first.
    let passed: Vec<u32> = (0..front.0)
        .map(|at| (0..40).find(|no| case.room.place(ArrivalNo(*no)) == Some(Place(at))))
        .map(Option::unwrap)
        .filter(|no| case.status(*no) == TicketStatus::Waiting)
        .collect();
    case.hear(1, [passed[0]]);
    case.amend(PolicyChange {
        capacity: Some(6),
        ..PolicyChange::default()
    });
    case.tick();
    assert_eq!(case.status(passed[0]), TicketStatus::Admitted);
    assert_eq!(case.room.row().front, front);
}

#[test]
fn a_beacon_is_named_before_anybody_comes_and_waited_for() {
    let schedule_id = schedule_id(1);
    let name = |name: &str| Kind::NameBeacon {
        schedule_id,
        name: name.to_owned(),
    };
    let reveal = |value: &[u8]| Kind::RevealBeacon {
        schedule_id,
        value: value.to_vec(),
    };
    let refused = Outcome::Refused;
    let mut case = lobby(10);
    assert_eq!(case.send(0, name("")), refused(Refusal::PolicyInvalid));
    assert_eq!(case.send(0, name("one")), Outcome::Applied);
    assert_eq!(case.send(0, name("another")), Outcome::Applied);
    case.join_all(1..4);
    assert_eq!(case.send(0, name("one")), refused(Refusal::BeaconFixed));
    assert_eq!(case.send(0, name("another")), Outcome::Applied);
    assert_eq!(case.send(0, reveal(b"1")), refused(Refusal::NotDue));
    case.now = at_s(OPENS);
    case.join(4);
    case.tick();
    // The lobby is closed, and nobody has a place in it, whereas who came later knows it is behind.
    assert_eq!(case.all(TicketStatus::Lobby), [0, 1, 2]);
    assert_eq!(case.all(TicketStatus::Waiting), [3]);
    assert_eq!(case.send(0, reveal(b"")), refused(Refusal::PolicyInvalid));
    assert_eq!(case.send(0, reveal(b"1")), Outcome::Applied);
    assert_eq!(case.send(0, reveal(b"1")), Outcome::Applied);
    assert_eq!(case.send(0, reveal(b"2")), refused(Refusal::BeaconFixed));
    let opened = case.room.row().lobby.as_ref().unwrap();
    let seed = SECRET.seed(opened.digest, b"1");
    assert_eq!(opened.order, Some(Order::Drawn { seed }));
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3]);
}

#[test]
fn a_beacon_that_never_speaks_can_be_given_up_in_front_of_everybody() {
    let mut case = lobby(10);
    let schedule_id = schedule_id(1);
    let name = "a source".to_owned();
    case.send(0, Kind::NameBeacon { schedule_id, name });
    case.join_all(1..4);
    case.now = at_s(OPENS);
    case.hear(60, [0, 1, 2]);
    assert_eq!(case.all(TicketStatus::Lobby), [0, 1, 2]);
    case.amend(PolicyChange {
        mode: Some(QueueMode::Fifo),
        ..PolicyChange::default()
    });
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2]);
    let opened = case.room.row().lobby.as_ref().unwrap();
    assert_eq!(opened.order, Some(Order::Arrival), "as anybody can see");
}
