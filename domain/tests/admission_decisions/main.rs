//! What a waiting room decides, case by case.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
mod guests;
mod lobby;
mod passes;
mod still;
mod told;
mod turns;

use common::{at_s, command_id, fingerprint, notice_id, reservation_id, schedule_id, user};
use onsale_domain::admission::{Changes, Policy, Room, RoomRow, StoredTicket, Times};
use onsale_schema::admission::{
    HoldChange, HoldState, Kind, Outcome, PolicyChange, Refusal, TICKETS_PER_USER, Ticket,
};
use onsale_schema::draw::Secret;
use onsale_schema::message::Command;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, TicketId, Timestamp};

const SECRET: Secret = Secret([9; 32]);
/// When rooms open, unless they say otherwise; in seconds.
const OPENS: i64 = 1_000_000;

/// A room of which every batch is one command or one tick.
struct Case {
    room: Room,
    now: Timestamp,
    commands: u128,
    /// Until when all commands are decided; until now when it is not said.
    heard: Option<Timestamp>,
    /// The changes of the last batch.
    last: Changes,
}

impl Case {
    /// A room that opened just now, and lets people in one after the other.
    fn new(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy {
            capacity: 2,
            rate_per_second: 100,
            ..Policy::new(QueueMode::Fifo, at_s(OPENS))
        };
        change(&mut policy);
        Self {
            room: Room::load(RoomRow::new(schedule_id(1), policy), SECRET, []),
            now: at_s(OPENS),
            commands: 0,
            heard: None,
            last: Changes::default(),
        }
    }

    fn pass(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
    }

    fn send(&mut self, by: u128, kind: Kind) -> Outcome {
        self.commands += 1;
        let id = command_id(1_000_000 + self.commands);
        let command = Command {
            id,
            user: user(by),
            fingerprint: fingerprint(1),
            deadline: self.now.plus_ms(5000),
            trace: None,
            kind,
        };
        self.decide(&command)
    }

    fn decide(&mut self, command: &Command<Kind>) -> Outcome {
        let times = Times {
            business: self.now,
            clock: self.now,
        };
        self.last = Changes::default();
        let outcome = self.room.decide(command, times, &mut self.last);
        self.room.seal(self.now, &mut self.last);
        outcome
    }

    /// Ticks until there is no more to do now; how often.
    fn tick(&mut self) -> usize {
        for ticks in 1..1000 {
            self.last = Changes::default();
            let is_more = self
                .room
                .tick(self.now, self.heard.unwrap_or(self.now), &mut self.last);
            self.room.seal(self.now, &mut self.last);
            if !is_more {
                return ticks;
            }
        }
        panic!("a tick without an end");
    }

    fn join(&mut self, by: u128) -> Ticket {
        match self.send(by, join()) {
            Outcome::Joined(ticket) => ticket,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Users with these numbers join.
    fn join_all(&mut self, users: std::ops::Range<u128>) {
        for by in users {
            self.join(by);
        }
    }

    /// The id of the ticket that the n-th command made.
    fn join_id(&self, no: u32) -> TicketId {
        TicketId(command_id(1_000_001 + u128::from(no)).0)
    }

    fn leave(&mut self, by: u128) -> Outcome {
        self.send(by, leave(None))
    }

    /// Reports come for so many seconds, in which these tickets are heard.
    fn hear(&mut self, seconds: i64, tickets: impl IntoIterator<Item = u32> + Clone) {
        for _ in 0..seconds {
            self.pass(1000);
            let tickets = tickets.clone().into_iter().map(ArrivalNo).collect();
            let schedule_id = schedule_id(1);
            self.send(
                0,
                Kind::Seen {
                    schedule_id,
                    tickets,
                    others: false,
                },
            );
        }
    }

    /// Reports come for so many seconds of clients who wait where nobody listens to them.
    fn hear_others(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.pass(1000);
            let seen = Kind::Seen {
                schedule_id: schedule_id(1),
                tickets: Vec::new(),
                others: true,
            };
            self.send(0, seen);
        }
    }

    fn amend(&mut self, change: PolicyChange) -> Outcome {
        let schedule_id = schedule_id(1);
        self.send(
            0,
            Kind::Policy {
                schedule_id,
                change,
            },
        )
    }

    fn hold(&mut self, ticket: &Ticket, reservation: u128, state: HoldState) {
        let change = HoldChange {
            ticket_id: ticket.ticket_id,
            arrival_no: ticket.arrival_no,
            reservation_id: reservation_id(reservation),
            state,
        };
        let kind = Kind::Holds {
            notice_id: notice_id(self.commands),
            schedule_id: schedule_id(1),
            changes: vec![change],
        };
        assert_eq!(self.send(0, kind), Outcome::Applied);
        assert_eq!(self.last.notices_done.len(), 1);
    }

    fn status(&self, no: u32) -> TicketStatus {
        self.room.status(ArrivalNo(no)).unwrap()
    }

    /// The numbers of the tickets of a status.
    fn all(&self, status: TicketStatus) -> Vec<u32> {
        let all = 0..self.room.row().arrivals;
        all.filter(|no| self.status(*no) == status).collect()
    }

    fn admitted(&self) -> Vec<u32> {
        self.all(TicketStatus::Admitted)
    }
}

fn join() -> Kind {
    Kind::Join {
        schedule_id: schedule_id(1),
        code: None,
    }
}

fn leave(ticket_id: Option<TicketId>) -> Kind {
    Kind::Leave {
        schedule_id: schedule_id(1),
        ticket_id,
    }
}

#[test]
fn joining_again_is_the_same_ticket_until_that_has_ended() {
    let mut case = Case::new(|_| {});
    let first = case.join(1);
    assert!(first.is_new);
    let again = case.join(1);
    assert_eq!(
        again,
        Ticket {
            is_new: false,
            ..first
        }
    );
    case.join(2);
    let only = |ticket: &Ticket| leave(Some(ticket.ticket_id));
    let left = Outcome::Left {
        ticket_id: first.ticket_id,
    };
    assert_eq!(case.send(1, only(&first)), left);
    assert_eq!(case.leave(1), left, "leaving again is no other thing");
    let second = case.join(1);
    assert_eq!((second.arrival_no, second.is_new), (ArrivalNo(2), true));
    // A leave that comes late means the first one.
    let not_found = Outcome::Refused(Refusal::NotFound);
    assert_eq!(case.send(1, only(&first)), not_found);
    assert_eq!(case.status(2), TicketStatus::Waiting);
    assert_eq!(case.leave(3), not_found);
}

#[test]
fn nobody_gets_tickets_without_end() {
    let mut case = Case::new(|_| {});
    case.join(2);
    let rows: Vec<StoredTicket> = (0..TICKETS_PER_USER)
        .map(|_| {
            let ticket = case.join(1);
            case.leave(1);
            StoredTicket {
                ticket_id: ticket.ticket_id,
                user_id: user(1),
                fingerprint: fingerprint(1),
                status: TicketStatus::Left,
                access_code_id: None,
                slot: None,
            }
        })
        .collect();
    let used_up = Outcome::Refused(Refusal::TicketsUsedUp);
    assert_eq!(case.send(1, join()), used_up);
    assert!(case.last.is_empty(), "nothing is written");
    // What others have counts for them, and who is in line stays so.
    assert!(!case.join(2).is_new && case.join(3).is_new);

    // A new owner knows as much; and one that is taken back was never given.
    let (last, before) = rows.split_last().unwrap();
    for (rows, is_refused) in [(&rows[..], true), (before, false)] {
        let row = RoomRow {
            version: 9,
            arrivals: u32::try_from(rows.len()).unwrap(),
            ..RoomRow::new(schedule_id(1), case.room.row().policy)
        };
        case.room = Room::load(row, SECRET, rows.to_vec());
        assert_eq!(case.send(1, join()) == used_up, is_refused, "{last:?}");
    }
    case.room.undo(&case.last);
    assert!(case.join(1).is_new);
    case.leave(1);
    assert_eq!(case.send(1, join()), used_up);
}

#[test]
fn the_same_key_is_the_same_ticket_whatever_has_become_of_it() {
    let mut case = Case::new(|_| {});
    let command = |fingerprint_of, deadline| Command {
        id: command_id(5),
        user: user(1),
        fingerprint: fingerprint(fingerprint_of),
        deadline,
        trace: None,
        kind: join(),
    };
    let (now, print) = (case.now, 1 << 127);
    let outcome = case.decide(&command(print, now));
    let Outcome::Joined(ticket) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(ticket.ticket_id, TicketId(command_id(5).0));
    case.leave(1);
    // Past its deadline, too: it was decided before.
    case.pass(60_000);
    let left = Outcome::Joined(Ticket {
        status: TicketStatus::Left,
        ..ticket
    });
    assert_eq!(case.decide(&command(print, now)), left);
    assert!(case.last.is_empty());
    let reused = Outcome::Refused(Refusal::KeyReused);
    assert_eq!(case.decide(&command(print + (1 << 100), now)), reused);
    // Another command past its deadline.
    let late = Command {
        id: command_id(6),
        ..command(1, now)
    };
    assert_eq!(
        case.decide(&late),
        Outcome::Refused(Refusal::CommandExpired)
    );
}

#[test]
fn a_room_that_is_off_gives_no_tickets_and_keeps_those_it_gave() {
    let mut case = Case::new(|_| {});
    case.join_all(1..5);
    let mode = |mode| PolicyChange {
        mode: Some(mode),
        ..PolicyChange::default()
    };
    case.amend(mode(QueueMode::Off));
    case.tick();
    assert!(case.admitted().is_empty());
    assert_eq!(case.send(9, join()), Outcome::Refused(Refusal::RoomOff));
    assert!(!case.join(1).is_new);
    case.amend(mode(QueueMode::Draw));
    case.tick();
    assert_eq!(case.admitted(), [0, 1], "the order was settled before");
    // Open to everybody, whatever the limits are; and then not any more.
    case.amend(mode(QueueMode::Open));
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3]);
    case.join(9);
    case.amend(mode(QueueMode::Fifo));
    case.pass(10_000);
    case.tick();
    assert_eq!(case.admitted(), [0, 1, 2, 3], "nobody loses a pass");
}

#[test]
fn a_policy_is_within_bounds() {
    let mut case = Case::new(|_| {});
    let none = PolicyChange::default();
    for wrong in [
        PolicyChange {
            capacity: Some(100_001),
            ..none
        },
        PolicyChange {
            rate_per_second: Some(0),
            ..none
        },
        PolicyChange {
            pass_ms: Some(999),
            ..none
        },
        PolicyChange {
            presence_ms: Some(0),
            ..none
        },
        PolicyChange {
            holds_per_pass: Some(0),
            capacity: Some(7),
            ..none
        },
    ] {
        let before = case.room.row().clone();
        assert_eq!(case.amend(wrong), Outcome::Refused(Refusal::PolicyInvalid));
        assert_eq!(case.room.row().policy, before.policy);
    }
    let outcome = case.amend(none);
    assert_eq!(outcome, Outcome::Policy(case.room.row().policy));
}

#[test]
fn the_room_of_a_cancelled_show_stays_paused_whatever_comes_late() {
    let mut case = Case::new(|_| {});
    case.join_all(1..4);
    let none = PolicyChange::default();
    let before = essence(&case.room);
    let cancelled = PolicyChange {
        cancelled: true,
        paused: Some(false),
        ..none
    };
    let outcome = case.amend(cancelled);
    assert_eq!(outcome, Outcome::Policy(case.room.row().policy));
    case.room.undo(&case.last);
    assert_eq!(essence(&case.room), before);
    case.amend(cancelled);
    assert!(case.room.row().is_cancelled && case.room.row().policy.paused);
    let unpaused = PolicyChange {
        paused: Some(false),
        capacity: Some(7),
        ..none
    };
    let outcome = case.amend(unpaused);
    assert_eq!(outcome, Outcome::Refused(Refusal::ShowCancelled));
    // Nobody gets in line any more; who is there has what it had.
    let outcome = case.send(9, join());
    assert_eq!(outcome, Outcome::Refused(Refusal::ShowCancelled));
    assert!(!case.join(1).is_new);
    // All else may change.
    let off = PolicyChange {
        mode: Some(QueueMode::Off),
        ..none
    };
    let open = PolicyChange {
        mode: Some(QueueMode::Open),
        capacity: Some(50),
        ..none
    };
    for change in [off, open] {
        assert!(matches!(case.amend(change), Outcome::Policy(policy) if policy.paused));
    }
    case.pass(60_000);
    case.tick();
    assert!(case.admitted().is_empty());
}

/// Everything in memory but who was heard when, and what was looked at.
fn essence(room: &Room) -> String {
    let all = (0..room.row().arrivals).map(ArrivalNo);
    let all: Vec<_> = all
        .map(|no| (room.status(no), room.slot(no), room.place(no)))
        .collect();
    format!("{:?} {all:?} {}", room.row(), room.active())
}

#[test]
fn a_batch_that_was_not_stored_leaves_nothing_behind() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 10));
    case.join_all(1..30);
    let before = essence(&case.room);
    case.pass(12_000);
    case.tick();
    assert_eq!(case.admitted().len(), 2);
    case.room.undo(&case.last);
    assert_eq!(essence(&case.room), before, "the opening");
    case.tick();
    let before = essence(&case.room);
    // Several commands in one batch.
    let times = Times {
        business: case.now,
        clock: case.now,
    };
    let mut changes = Changes::default();
    for (no, (by, kind)) in [
        (40, join()),
        (3, leave(None)),
        (40, leave(None)),
        (40, join()),
    ]
    .into_iter()
    .enumerate()
    {
        let command = Command {
            id: command_id(70 + no as u128),
            user: user(by),
            fingerprint: fingerprint(1),
            deadline: case.now,
            trace: None,
            kind,
        };
        case.room.decide(&command, times, &mut changes);
    }
    case.room.seal(case.now, &mut changes);
    let mine = &changes.rooms[&schedule_id(1)];
    let joined = mine.joined.iter().map(|new| (new.arrival_no.0, new.status));
    let expected = [(29, TicketStatus::Left), (30, TicketStatus::Waiting)];
    assert!(joined.eq(expected));
    assert_eq!(mine.updates.len(), 1);
    case.room.undo(&changes);
    assert_eq!(essence(&case.room), before, "joins and leaves");
    assert_eq!(case.join(40).arrival_no, ArrivalNo(29));
}
