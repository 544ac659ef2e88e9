//! Who comes with an access code.

use crate::common::{at_s, command_id, fingerprint, schedule_id, user};
use crate::{Case, OPENS, SECRET, essence};
use onsale_domain::admission::{Loading, StoredCode, StoredTicket};
use onsale_schema::admission::{Code, Kind, Outcome, PolicyChange, Refusal, Ticket};
use onsale_schema::message::Command;
use onsale_schema::status::{AccessGrant, TicketStatus};
use onsale_schema::{AccessCodeId, ArrivalNo};

/// For a presale; good from ten seconds before the opening until ten seconds after it.
fn code(no: u128, uses: u32) -> Code {
    Code {
        code_id: AccessCodeId(command_id(no).0),
        schedule_id: schedule_id(1),
        grant: AccessGrant::Presale,
        uses,
        from: at_s(OPENS - 10),
        until: at_s(OPENS + 10),
    }
}

/// For who is not let in before the opening; good long after it.
pub fn vip() -> Code {
    Code {
        grant: AccessGrant::Vip,
        until: at_s(OPENS + 100),
        ..code(1, 10)
    }
}

fn with(code: Code) -> Kind {
    Kind::Join {
        schedule_id: schedule_id(1),
        code: Some(code),
    }
}

fn revoke(code: Code) -> Kind {
    Kind::RevokeCode {
        schedule_id: schedule_id(1),
        code_id: code.code_id,
    }
}

fn refused(why: Refusal) -> Outcome {
    Outcome::Refused(why)
}

impl Case {
    pub fn invite(&mut self, by: u128, code: Code) -> Ticket {
        match self.send(by, with(code)) {
            Outcome::Joined(ticket) => ticket,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// As the next owner has it, where the n-th ticket is of the n-th user.
    fn take_over(&mut self, code: Code, guests: &[u32]) {
        let mut loading = Loading::new(self.room.row().clone(), SECRET);
        loading.code(StoredCode {
            code_id: code.code_id,
            grant: code.grant,
            until: code.until,
            is_revoked: false,
        });
        for no in 0..self.room.row().arrivals {
            let status = match self.status(no) {
                TicketStatus::Lobby => TicketStatus::Waiting,
                status => status,
            };
            loading.push(StoredTicket {
                ticket_id: self.join_id(no),
                user_id: user(u128::from(no)),
                fingerprint: fingerprint(1),
                status,
                slot: self.room.slot(ArrivalNo(no)).cloned(),
                access_code_id: guests.contains(&no).then_some(code.code_id),
            });
        }
        self.room = loading.finish();
    }
}

#[test]
fn a_code_is_good_for_its_room_its_time_and_so_many_tickets() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 60));
    let code = code(1, 2);
    let elsewhere = Code {
        schedule_id: schedule_id(2),
        ..code
    };
    assert_eq!(case.send(1, with(elsewhere)), refused(Refusal::CodeInvalid));
    let early = Code {
        from: at_s(OPENS + 1),
        ..code
    };
    assert_eq!(case.send(1, with(early)), refused(Refusal::CodeNotYet));
    let first = case.invite(1, code);
    assert!(first.is_guest && first.is_new && first.status == TicketStatus::Waiting);
    // Once more is no further use, also with another code, or with none.
    for again in [with(code), with(self::code(2, 1)), crate::join()] {
        let expected = Ticket {
            is_new: false,
            ..first
        };
        assert_eq!(case.send(1, again), Outcome::Joined(expected));
    }
    case.invite(2, code);
    assert_eq!(case.send(3, with(code)), refused(Refusal::CodeUsedUp));
    // A ticket that has ended has used it.
    case.leave(2);
    assert_eq!(case.send(3, with(code)), refused(Refusal::CodeUsedUp));
    assert_eq!(case.send(1, revoke(self::code(2, 1))), Outcome::Applied);
    assert_eq!(
        case.last.rooms[&schedule_id(1)].revoked,
        [(self::code(2, 1).code_id, case.now)]
    );
    assert_eq!(case.send(1, revoke(self::code(2, 1))), Outcome::Applied);
    assert!(case.last.is_empty(), "it was before");
    let revoked = case.send(3, with(self::code(2, 1)));
    assert_eq!(revoked, refused(Refusal::CodeRevoked));
    case.pass(10_000);
    let expired = case.send(3, with(self::code(3, 1)));
    assert_eq!(expired, refused(Refusal::CodeExpired));
    assert!(!case.join(3).is_guest);
}

#[test]
fn guests_are_let_in_before_the_opening_and_before_the_line_within_both_limits() {
    let mut case = Case::new(|policy| {
        policy.opens_at = at_s(OPENS + 5);
        policy.rate_per_second = 1;
    });
    case.join_all(0..3);
    for by in 3..7 {
        case.invite(by, code(1, 10));
    }
    case.tick();
    assert_eq!(case.admitted(), [3], "one a second");
    case.pass(1000);
    case.tick();
    assert_eq!(case.admitted(), [3, 4]);
    case.pass(1000);
    case.tick();
    assert_eq!(case.admitted(), [3, 4], "two at a time");
    assert_eq!(case.room.row().front.0, 0);
    assert!(
        case.room
            .slot(ArrivalNo(3))
            .unwrap()
            .admission
            .place
            .is_none()
    );
    case.leave(3);
    case.tick();
    assert_eq!(case.admitted(), [4, 5]);
    // The room opens; the last guest is before the line all the same.
    case.pass(6000);
    case.tick();
    let places: Vec<_> = (0..7).map(|no| case.room.place(ArrivalNo(no))).collect();
    case.leave(4);
    case.tick();
    assert_eq!(case.admitted(), [5, 6]);
    case.leave(5);
    case.leave(6);
    case.pass(2000);
    case.tick();
    case.pass(1000);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    // The front comes to the places of guests, and goes on.
    case.leave(0);
    case.leave(1);
    case.join(9);
    case.pass(1000);
    case.tick();
    case.pass(1000);
    case.tick();
    assert_eq!(case.admitted(), [2, 7]);
    let after: Vec<_> = (0..7).map(|no| case.room.place(ArrivalNo(no))).collect();
    assert_eq!(places, after);
}

#[test]
fn a_guest_whose_code_is_over_waits_for_the_opening_and_is_first_then() {
    let mut case = Case::new(|policy| {
        policy.opens_at = at_s(OPENS + 60);
        policy.capacity = 0;
    });
    case.join(0);
    case.invite(1, code(1, 1));
    case.pass(20_000);
    let room_for_one = PolicyChange {
        capacity: Some(1),
        ..PolicyChange::default()
    };
    case.amend(room_for_one);
    case.tick();
    assert!(case.admitted().is_empty());
    case.pass(43_000);
    case.tick();
    assert_eq!(case.admitted(), [1]);
    let slot = case.room.slot(ArrivalNo(1)).unwrap();
    assert!(!slot.admission.was_passed, "it was there all the time");
}

#[test]
fn who_is_a_guest_without_a_presale_lets_those_by_that_are_and_is_next_at_the_opening() {
    let mut case = Case::new(|policy| {
        policy.opens_at = at_s(OPENS + 20);
        policy.capacity = 1;
        policy.presence_ms = 5000;
    });
    let vip = vip();
    case.join(0);
    case.invite(1, vip);
    case.invite(2, vip);
    case.invite(3, vip);
    case.invite(4, code(2, 1));
    case.tick();
    assert_eq!(case.admitted(), [4]);
    let early = essence(&case.room);
    case.tick();
    assert_eq!(essence(&case.room), early, "nobody is called twice in vain");
    case.leave(4);
    case.tick();
    assert!(case.admitted().is_empty());
    // A new owner does not know who was heard, and need not hear guests in their order.
    case.take_over(vip, &[1, 2, 3, 4]);
    case.hear(6, [0, 2, 3]);
    case.hear(1, [1]);
    case.tick();
    assert!(case.admitted().is_empty());
    let mut admitted = Vec::new();
    case.pass(15_000);
    case.invite(5, vip);
    for _ in 0..5 {
        case.hear(1, [0, 1, 2, 3, 5]);
        case.tick();
        let [no] = case.admitted()[..] else {
            panic!("one at a time: {:?}", case.admitted());
        };
        admitted.push(no);
        let slot = case.room.slot(ArrivalNo(no)).unwrap();
        assert!(!slot.admission.was_passed, "{no}");
        case.leave(u128::from(no));
        case.pass(1000);
    }
    assert_eq!(admitted, [1, 2, 3, 5, 0]);
}

/// However long ago it was decided, and whatever the account has done since.
#[test]
fn a_retry_of_a_join_with_a_code_has_its_answer_also_when_another_ticket_is_newer() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 60));
    let code = code(1, 2);
    let join = |print| Command {
        id: command_id(5),
        user: user(1),
        fingerprint: fingerprint(print),
        deadline: at_s(OPENS + 1),
        trace: None,
        kind: with(code),
    };
    let Outcome::Joined(guest) = case.decide(&join(1)) else {
        panic!("a guest");
    };
    case.leave(1);
    let other = case.join(1);
    assert!(other.is_new && other.ticket_id != guest.ticket_id);
    case.pass(30_000);
    let before = essence(&case.room);
    let left = Outcome::Joined(Ticket {
        status: TicketStatus::Left,
        ..guest
    });
    assert_eq!(case.decide(&join(1)), left);
    assert_eq!(case.decide(&join(1 << 100)), refused(Refusal::KeyReused));
    assert_eq!(case.send(1, with(code)), refused(Refusal::CodeExpired));
    assert_eq!(essence(&case.room), before, "the place in line is kept");
}

#[test]
fn a_silent_guest_is_passed_over_and_the_next_owner_calls_it_again() {
    let mut case = Case::new(|policy| {
        policy.opens_at = at_s(OPENS + 1000);
        policy.capacity = 1;
        policy.presence_ms = 5000;
    });
    let code = Code {
        until: at_s(OPENS + 900),
        ..code(1, 3)
    };
    for by in 0..3 {
        case.invite(by, code);
    }
    case.tick();
    assert_eq!(case.admitted(), [0]);
    case.hear(10, [0, 2]);
    case.leave(0);
    case.tick();
    assert_eq!(case.admitted(), [2]);
    case.take_over(code, &[0, 1, 2]);
    assert_eq!(case.send(7, with(code)), refused(Refusal::CodeUsedUp));
    case.leave(2);
    case.tick();
    assert_eq!(case.admitted(), [1]);
    assert!(case.room.slot(ArrivalNo(1)).unwrap().admission.was_passed);
}

#[test]
fn guests_of_the_lobby_are_the_first_also_with_a_new_owner_that_has_heard_nobody() {
    let mut case = Case::new(|policy| {
        policy.opens_at = at_s(OPENS + 20);
        policy.capacity = 2;
    });
    let vip = vip();
    for by in 1..=3 {
        case.join(by);
    }
    for by in 4..=5 {
        case.invite(by, vip);
    }
    case.tick();
    assert!(case.admitted().is_empty());
    case.take_over(vip, &[3, 4]);
    case.pass(25_000);
    case.tick();
    assert_eq!(case.admitted(), [3, 4]);
}

#[test]
fn guests_count_for_how_fast_the_line_is_and_for_how_long_it_takes() {
    let mut case = Case::new(|policy| {
        policy.capacity = 1000;
        policy.rate_per_second = 1;
    });
    case.join_all(0..10);
    case.tick();
    for by in 10..16 {
        case.invite(by, vip());
    }
    assert_eq!(case.room.watermark(case.now).guests, 6);
    for _ in 0..4 {
        case.pass(1000);
        case.tick();
    }
    let told = case.room.watermark(case.now);
    assert_eq!((told.guests, told.front.0), (2, 1));
    assert_eq!((told.moved, told.measured_ms), (4, 4000));
    case.leave(15);
    assert_eq!(case.room.watermark(case.now).guests, 1);
}

#[test]
fn guests_are_told_how_far_their_line_is_and_so_by_the_next_owner() {
    let mut case = Case::new(|policy| {
        policy.capacity = 1;
        policy.opens_at = at_s(OPENS + 60);
    });
    case.join(0);
    let front = |case: &Case| case.room.watermark(case.now).guest_line.map(|it| it.front);
    assert_eq!(front(&case), None);
    let all: Vec<_> = (1..5).map(|by| case.invite(by, vip()).guest_no).collect();
    assert_eq!(all, [0, 1, 2, 3].map(Some));
    // All are called, and set aside for the opening.
    case.tick();
    assert_eq!(front(&case), Some(0));
    case.leave(1);
    case.leave(3);
    assert_eq!(front(&case), Some(1));
    case.take_over(vip(), &[1, 2, 3, 4]);
    assert_eq!(front(&case), Some(1));
    case.pass(63_000);
    case.tick();
    assert_eq!((case.admitted(), front(&case)), (vec![2], Some(3)));
    case.leave(2);
    case.tick();
    assert_eq!((case.admitted(), front(&case)), (vec![4], Some(4)));
}

#[test]
fn what_was_not_stored_has_used_and_revoked_nothing() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 60));
    case.invite(1, code(1, 2));
    let before = essence(&case.room);
    case.invite(2, code(1, 2));
    case.room.undo(&case.last);
    case.tick();
    assert_eq!(case.admitted(), [0]);
    case.room.undo(&case.last);
    assert_eq!(essence(&case.room), before);
    case.send(1, revoke(code(1, 2)));
    case.room.undo(&case.last);
    case.tick();
    assert_eq!(case.admitted(), [0], "its turn comes again");
    case.invite(3, code(1, 2));
    assert_eq!(case.send(4, with(code(1, 2))), refused(Refusal::CodeUsedUp));
}

#[test]
fn an_account_uses_a_code_once() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 60));
    let code = code(1, 3);
    case.invite(0, code);
    assert_eq!(
        case.last.rooms[&schedule_id(1)].used,
        [(code.code_id, 1)].into()
    );
    case.leave(0);
    assert_eq!(case.send(0, with(code)), refused(Refusal::CodeUsedUp));
    // Without it, it stands in line as everybody does, and keeps that place when it tries again.
    case.join_all(0..1);
    assert_eq!(case.send(0, with(code)), refused(Refusal::CodeUsedUp));
    assert_eq!(case.status(1), TicketStatus::Lobby);
    // Taken back, it was never used.
    case.invite(1, code);
    case.room.undo(&case.last);
    case.invite(1, code);
    // Another code is another use.
    case.leave(0);
    case.invite(0, self::code(2, 1));
}

#[test]
fn who_was_let_in_or_has_left_has_used_its_code_whoever_owns_the_room() {
    let mut case = Case::new(|_| {});
    let code = code(1, 3);
    case.invite(0, code);
    case.invite(1, code);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
    case.leave(0);
    case.take_over(code, &[0, 1]);
    assert_eq!(case.send(0, with(code)), refused(Refusal::CodeUsedUp));
    case.invite(2, code);
    assert_eq!(case.send(3, with(code)), refused(Refusal::CodeUsedUp));
}

#[test]
fn who_is_in_line_becomes_a_guest_by_a_good_code_alone() {
    let mut case = Case::new(|policy| policy.opens_at = at_s(OPENS + 5));
    case.join_all(0..3);
    let before = essence(&case.room);
    let wrong = Code {
        from: at_s(OPENS + 50),
        ..code(2, 1)
    };
    assert_eq!(case.send(2, with(wrong)), refused(Refusal::CodeNotYet));
    assert_eq!(case.status(2), TicketStatus::Lobby);
    let guest = case.invite(2, code(1, 1));
    assert!(guest.is_new && guest.is_guest && guest.arrival_no == ArrivalNo(3));
    assert_eq!(case.status(2), TicketStatus::Left);
    let mine = &case.last.rooms[&schedule_id(1)];
    assert_eq!(mine.updates[&ArrivalNo(2)].to, TicketStatus::Left);
    assert_eq!(mine.used.values().sum::<u32>(), 1);
    case.room.undo(&case.last);
    assert_eq!(essence(&case.room), before, "in one decision");
    case.invite(2, code(1, 1));
    // A guest stays the guest that it is, and so does who was let in.
    let again = case.send(2, with(code(2, 1)));
    assert!(matches!(again, Outcome::Joined(ticket) if !ticket.is_new));
    case.pass(8000);
    case.tick();
    assert_eq!(case.admitted(), [0, 3]);
    let again = case.send(0, with(code(2, 1)));
    assert!(matches!(again, Outcome::Joined(ticket) if !ticket.is_new && !ticket.is_guest));
    // Late is late: nothing is given up for it.
    case.leave(2);
    case.tick();
    assert_eq!(case.admitted(), [0, 1]);
}
