//! Who gets a seat, and every way not to.

use super::*;

#[test]
fn a_hold_takes_its_seats_and_says_so_everywhere() {
    let mut sale = sale();
    let (outcome, changes) = decide(&mut sale, &hold(1, &[7, 3]), 1100);
    let expected = Hold {
        reservation_id: reservation_id(1),
        schedule_id: schedule_id(1),
        seats: seat_nos(&[7, 3]),
        total: Money::won(1000),
        held_at: at_s(1100),
        expires_at: at_s(1400),
    };
    assert_eq!(outcome, Outcome::Held(expected.clone()));
    assert_eq!(changes.reservations.len(), 1);
    assert_eq!(
        changes.reservations[0].reservation,
        row(1, &[7, 3], ReservationStatus::Held, 1100)
    );
    let insert = |seat| ClaimInsert {
        schedule_id: schedule_id(1),
        seat_no: SeatNo(seat),
        reservation_id: Some(reservation_id(1)),
        state: ClaimState::Held,
    };
    let net = Net {
        inserts: vec![insert(3), insert(7)],
        ..Net::default()
    };
    assert_eq!(changes.claims.net(), net);
    assert_eq!(changes.maps.len(), 1);
    let map = &changes.maps[0];
    assert_eq!((map.from_version, map.version), (10, 11));
    assert_eq!(map.at, at_s(1100));
    let h = Some(ClaimState::Held);
    assert_eq!(map.changes, [(SeatNo(3), h), (SeatNo(7), h)]);
    assert_eq!(changes.facts[0].version, 11);
    let fact = Fact::Held {
        user_id: user(1),
        command_id: command_id(1),
        hold: expected,
    };
    assert_eq!(changes.facts[0].facts, [fact]);
    assert_eq!(sale.map_version(), 11);
    assert_eq!(sale.next_due(), Some(at_s(1400)));
}

#[test]
fn each_refusal_of_a_hold() {
    let state = |state| Policy { state, ..policy() };
    let cases = [
        (
            "paused",
            state(SaleState::Paused),
            hold(1, &[0]),
            1100,
            Refusal::SaleNotOpen,
        ),
        (
            "closed",
            state(SaleState::Closed),
            hold(1, &[0]),
            1100,
            Refusal::SaleClosed,
        ),
        (
            "early",
            policy(),
            hold(1, &[0]),
            OPENS_S - 1,
            Refusal::SaleNotOpen,
        ),
        (
            "late",
            policy(),
            hold(1, &[0]),
            CLOSES_S,
            Refusal::SaleClosed,
        ),
        (
            "paused, late",
            state(SaleState::Paused),
            hold(1, &[0]),
            CLOSES_S,
            Refusal::SaleClosed,
        ),
        (
            "closed, early",
            state(SaleState::Closed),
            hold(1, &[0]),
            1,
            Refusal::SaleClosed,
        ),
        (
            "deadline",
            policy(),
            hold(1, &[0]),
            5001,
            Refusal::CommandExpired,
        ),
        (
            "no seat",
            policy(),
            hold(1, &[]),
            1100,
            Refusal::UnknownSeat,
        ),
        (
            "beyond",
            policy(),
            hold(1, &[0, SEATS]),
            1100,
            Refusal::UnknownSeat,
        ),
        (
            "negative",
            policy(),
            hold(1, &[-1]),
            1100,
            Refusal::UnknownSeat,
        ),
        (
            "far beyond",
            policy(),
            hold(1, &[i32::MAX, i32::MIN]),
            1100,
            Refusal::UnknownSeat,
        ),
        (
            "twice",
            policy(),
            hold(1, &[2, 3, 2]),
            1100,
            Refusal::UnknownSeat,
        ),
        (
            "too many",
            policy(),
            hold(1, &[0, 1, 2, 3, 4]),
            1100,
            Refusal::SeatLimitExceeded { limit: 4 },
        ),
        (
            "blocked",
            policy(),
            hold(1, &[19, 0]),
            1100,
            unavailable(&[19]),
        ),
    ];
    for (name, policy, command, at, expected) in cases {
        let mut sale = sale_with(policy);
        sale.load_claim(SeatNo(19), None, ClaimState::Blocked);
        assert_eq!(refusal(&mut sale, &command, at), expected, "{name}");
    }
}

#[test]
fn the_first_and_last_moments() {
    held(&mut sale(), &hold(1, &[0]), OPENS_S);
    held(&mut sale(), &hold(1, &[0]), CLOSES_S - 1);
    let mut patient = hold(1, &[0]);
    patient.deadline = at_s(1100);
    held(&mut sale(), &patient, 1100);
    held(&mut sale(), &hold(1, &[0, 1, 2, SEATS - 1]), 1100);
}

/// Each command has every defect that is checked after the named one, too.
#[test]
fn checks_come_in_their_order() {
    let late = |mut command: Command<Kind>| {
        command.deadline = at_s(1);
        command
    };
    let with = |state, command: Command<Kind>, at, expected: Refusal| {
        let mut sale = sale_with(Policy { state, ..policy() });
        for (n, seats) in [(1, &[0, 1][..]), (2, &[5])] {
            sale.load_reservation(row(n, seats, ReservationStatus::Held, 1050));
            for seat in seats {
                let id = Some(reservation_id(n));
                sale.load_claim(SeatNo(*seat), id, ClaimState::Held);
            }
        }
        assert_eq!(refusal(&mut sale, &command, at), expected);
    };
    let by_user_1 = |n, seats: &[i32]| Command {
        user: user(1),
        ..hold(n, seats)
    };
    let reused = Command {
        fingerprint: fingerprint(9),
        ..late(hold(1, &[99, 5]))
    };
    with(SaleState::Closed, reused, 1100, Refusal::KeyReused);
    let id_taken = Command {
        id: command_id(9),
        ..late(hold(1, &[99, 5]))
    };
    with(SaleState::Closed, id_taken, 1100, Refusal::KeyReused);
    let command = late(by_user_1(9, &[99, 5]));
    with(SaleState::Closed, command, 1100, Refusal::CommandExpired);
    let command = by_user_1(9, &[99, 5, 6]);
    with(
        SaleState::Closed,
        command.clone(),
        1100,
        Refusal::SaleClosed,
    );
    with(
        SaleState::Paused,
        command.clone(),
        1100,
        Refusal::SaleNotOpen,
    );
    with(SaleState::Open, command, 1100, Refusal::UnknownSeat);
    let command = by_user_1(9, &[4, 5, 6]);
    let limit = Refusal::SeatLimitExceeded { limit: 4 };
    with(SaleState::Open, command, 1100, limit);
    with(
        SaleState::Open,
        by_user_1(9, &[4, 5]),
        1100,
        unavailable(&[5]),
    );
}

#[test]
fn taken_seats_are_listed_in_the_order_asked() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[2, 4, 8]), 1100);
    assert_eq!(
        refusal(&mut sale, &hold(2, &[8, 3, 2]), 1100),
        unavailable(&[8, 2])
    );
    // All or none: the free one stays free.
    held(&mut sale, &hold(2, &[3]), 1100);
}

#[test]
fn many_seats_at_once_are_told_apart() {
    let all: Vec<i32> = (0..SEATS).collect();
    let mut sale = sale_with(Policy {
        seats_per_user: 100,
        ..policy()
    });
    let twice: Vec<i32> = all.iter().copied().chain([3]).collect();
    assert_eq!(
        refusal(&mut sale, &hold(1, &twice), 1100),
        Refusal::UnknownSeat
    );
    held(&mut sale, &hold(1, &all), 1100);
}

#[test]
fn the_same_command_gets_the_same_answer_whatever_became_of_it() {
    let mut sale = sale();
    let first = held(&mut sale, &hold(1, &[0, 1]), 1100);
    let mut retry = hold(1, &[0, 1]);
    retry.deadline = at_s(1);
    retry.kind = hold(77, &[0, 1]).kind;
    for (end, at) in [(None, 1101), (Some(release(1, 1)), 1102)] {
        if let Some(end) = end {
            outcome(&mut sale, &end, at);
        }
        let (again, changes) = decide(&mut sale, &retry, at);
        assert_eq!(again, Outcome::Held(first.clone()));
        assert!(changes.is_empty());
    }
    let reused = Command {
        fingerprint: fingerprint(9),
        ..retry.clone()
    };
    assert_eq!(refusal(&mut sale, &reused, 1103), Refusal::KeyReused);

    // A day later it is forgotten, and told again by a conflict.
    sale.prune(at_s(1102));
    assert_eq!(
        outcome(&mut sale, &retry, 1104),
        Outcome::Held(first.clone())
    );
    sale.prune(at_s(1103));
    assert_eq!(refusal(&mut sale, &retry, 1104), Refusal::CommandExpired);
    sale.load_foreign(command_id(1), fingerprint(1), first.clone());
    assert_eq!(outcome(&mut sale, &retry, 1104), Outcome::Held(first));
    assert_eq!(refusal(&mut sale, &reused, 1104), Refusal::KeyReused);
}

#[test]
fn a_refusal_is_not_remembered() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    assert_eq!(refusal(&mut sale, &hold(2, &[0]), 1100), unavailable(&[0]));
    outcome(&mut sale, &release(1, 1), 1101);
    held(&mut sale, &hold(2, &[0]), 1102);
}

#[test]
fn a_lapsed_hold_is_free_for_whoever_comes_next() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0, 1]), 1100);
    assert_eq!(
        refusal(&mut sale, &hold(2, &[1, 2]), 1399),
        unavailable(&[1])
    );
    let (outcome, changes) = decide(&mut sale, &hold(2, &[1, 2]), 1400);
    assert!(matches!(outcome, Outcome::Held(_)));
    let ended = Ended {
        reservation_id: reservation_id(1),
        schedule_id: schedule_id(1),
        from: ReservationStatus::Held,
        to: ReservationStatus::Expired,
        given_back_by: None,
        at: at_s(1400),
    };
    assert_eq!(changes.ended, [ended]);
    let net = changes.claims.net();
    let freed = ClaimDelete {
        schedule_id: schedule_id(1),
        seat_no: SeatNo(0),
        from: Some(reservation_id(1)),
    };
    let passed_on = ClaimUpdate {
        schedule_id: schedule_id(1),
        seat_no: SeatNo(1),
        from: Some(reservation_id(1)),
        to: Some(reservation_id(2)),
        state: ClaimState::Held,
    };
    assert_eq!(net.deletes, [freed]);
    assert_eq!(net.updates, [passed_on]);
    assert_eq!(net.inserts.len(), 1);
    // Seat 1 shows what it showed before.
    let changes_shown = [(SeatNo(0), None), (SeatNo(2), Some(ClaimState::Held))];
    assert_eq!(changes.maps[0].changes, changes_shown);
}

#[test]
fn a_refused_hold_leaves_what_is_due_alone() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    held(&mut sale, &hold(2, &[1]), 1200);
    // Seat 0 is due, seat 1 is not.
    assert_eq!(
        refusal(&mut sale, &hold(3, &[0, 1]), 1450),
        unavailable(&[1])
    );
}

#[test]
fn due_holds_of_the_user_do_not_count_and_end_first() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0, 1, 2, 3]), 1100);
    let more = Command {
        user: user(1),
        ..hold(2, &[8, 9])
    };
    let limit = Refusal::SeatLimitExceeded { limit: 4 };
    assert_eq!(refusal(&mut sale, &more, 1399), limit);
    let (outcome, changes) = decide(&mut sale, &more, 1400);
    assert!(matches!(outcome, Outcome::Held(_)));
    assert_eq!(changes.ended.len(), 1);
    assert_eq!(changes.claims.net().deletes.len(), 4);
}
