//! Seats that are taken off sale and put on sale again.

use super::common::block_id;
use super::*;
use onsale_domain::seats::BlockRow;

/// Block `n`, by command `n + 3000` of user `n`.
fn block(n: u128, seats: &[i32]) -> Command<Kind> {
    let kind = Kind::Block {
        block_id: block_id(n),
        schedule_id: schedule_id(1),
        seats: seat_nos(seats),
        reason: format!("reason {n}"),
        layout_no: None,
    };
    Command {
        id: command_id(n + 3000),
        ..command(n, kind)
    }
}

/// Lift `n`, by command `n + 4000` of user `n`.
fn lift(n: u128, of: u128, seats: Option<&[i32]>) -> Command<Kind> {
    let kind = Kind::Unblock {
        block_id: block_id(of),
        schedule_id: schedule_id(1),
        seats: seats.map(seat_nos),
        reason: (n > 1).then(|| format!("reason {n}")),
    };
    Command {
        id: command_id(n + 4000),
        ..command(n, kind)
    }
}

fn blocked(n: u128) -> Outcome {
    Outcome::Blocked {
        block_id: block_id(n),
    }
}

fn unblocked(n: u128, of: u128) -> Outcome {
    Outcome::Unblocked {
        block_id: block_id(of),
        command_id: command_id(n + 4000),
    }
}

fn row(n: u128, of: u128, lifts: bool, seats: &[i32], at: i64) -> BlockRow {
    BlockRow {
        schedule_id: schedule_id(1),
        block_id: block_id(of),
        lifts,
        command_id: command_id(n + if lifts { 4000 } else { 3000 }),
        fingerprint: fingerprint(n),
        user_id: user(n),
        seats: seat_nos(seats),
        reason: (n > 1 || !lifts).then(|| format!("reason {n}")),
        at: at_s(at),
    }
}

/// What the batch did to the map: seats that are blocked, and that are free.
fn shown(changes: &Changes) -> (Vec<i32>, Vec<i32>) {
    let (blocked, free): (Vec<_>, Vec<_>) = changes.maps[0]
        .changes
        .iter()
        .partition(|(_, state)| *state == Some(ClaimState::Blocked));
    assert!(free.iter().all(|(_, state)| state.is_none()));
    let numbers = |seats: Vec<(SeatNo, _)>| seats.iter().map(|(seat, _)| seat.0).collect();
    (numbers(blocked), numbers(free))
}

#[test]
fn a_block_takes_seats_off_sale_and_a_lift_puts_them_back() {
    let mut sale = sale();
    let (outcome, changes) = decide(&mut sale, &block(1, &[3, 1, 2]), 1100);
    assert_eq!(outcome, blocked(1));
    assert_eq!(changes.blocks, [row(1, 1, false, &[3, 1, 2], 1100)]);
    let inserted = changes.claims.net().inserts;
    assert_eq!(inserted.len(), 3);
    assert!(inserted.iter().all(|claim| claim.reservation_id.is_none()));
    assert_eq!(shown(&changes), (vec![1, 2, 3], vec![]));
    assert_eq!(
        changes.facts[0].facts,
        [Fact::Blocked {
            user_id: user(1),
            command_id: command_id(3001),
            block_id: block_id(1),
            seats: seat_nos(&[3, 1, 2]),
            reason: "reason 1".into(),
            at: at_s(1100),
        }]
    );
    assert_eq!(
        refusal(&mut sale, &hold(2, &[0, 2, 3]), 1101),
        unavailable(&[2, 3])
    );

    let (outcome, changes) = decide(&mut sale, &lift(2, 1, Some(&[2])), 1102);
    assert_eq!(outcome, unblocked(2, 1));
    assert_eq!(changes.blocks, [row(2, 1, true, &[2], 1102)]);
    assert_eq!(changes.claims.net().deletes.len(), 1);
    assert_eq!(shown(&changes), (vec![], vec![2]));
    assert!(matches!(
        &changes.facts[0].facts[..],
        [Fact::Unblocked { reason: Some(reason), seats, .. }]
            if reason == "reason 2" && *seats == seat_nos(&[2])
    ));
    held(&mut sale, &hold(2, &[2]), 1103);

    // What is left, without naming it; what somebody holds meanwhile stays theirs.
    let (outcome, changes) = decide(&mut sale, &lift(3, 1, None), 1104);
    assert_eq!(outcome, unblocked(3, 1));
    assert_eq!(changes.blocks, [row(3, 1, true, &[3, 1], 1104)]);
    assert_eq!(shown(&changes), (vec![], vec![1, 3]));
}

#[test]
fn a_lift_of_what_is_on_sale_again_changes_nothing() {
    let mut sale = sale();
    outcome(&mut sale, &block(1, &[1, 2]), 1100);
    outcome(&mut sale, &lift(1, 1, Some(&[1])), 1101);
    for (n, seats) in [(2, Some(&[1][..])), (3, Some(&[1, 1][..]))] {
        let (outcome, changes) = decide(&mut sale, &lift(n, 1, seats), 1102);
        assert_eq!(outcome, unblocked(n, 1));
        assert!(changes.is_empty());
    }
    // With one that is blocked only that comes back, however often it is named.
    let (_, changes) = decide(&mut sale, &lift(4, 1, Some(&[1, 2, 2])), 1103);
    assert_eq!(changes.blocks[0].seats, seat_nos(&[2]));
    let (outcome, changes) = decide(&mut sale, &lift(5, 1, None), 1104);
    assert_eq!((outcome, changes.is_empty()), (unblocked(5, 1), true));
}

#[test]
fn lapsed_holds_make_way_and_live_ones_do_not() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0, 1]), 1100);
    held(&mut sale, &hold(2, &[2]), 1350);
    // All or none.
    let why = refusal(&mut sale, &block(1, &[0, 1, 2, 3]), 1399);
    assert_eq!(why, unavailable(&[0, 1, 2]));
    let why = refusal(&mut sale, &block(1, &[0, 2, 3]), 1400);
    assert_eq!(why, unavailable(&[2]));
    let (outcome, changes) = decide(&mut sale, &block(1, &[1, 3]), 1400);
    assert_eq!(outcome, blocked(1));
    assert_eq!(changes.ended.len(), 1, "the first hold has lapsed");
    assert_eq!(shown(&changes), (vec![1, 3], vec![0]));
    let Net {
        inserts,
        updates,
        deletes,
    } = changes.claims.net();
    assert_eq!((inserts.len(), updates.len(), deletes.len()), (1, 1, 1));
    assert_eq!(updates[0].from, Some(reservation_id(1)));
    assert_eq!(
        (updates[0].to, updates[0].state),
        (None, ClaimState::Blocked)
    );
    // Sold and blocked seats stay so.
    outcome_of_paid(&mut sale, 2);
    let why = refusal(&mut sale, &block(2, &[1, 2, 4]), 1401);
    assert_eq!(why, unavailable(&[1, 2]));
}

fn outcome_of_paid(sale: &mut Sale, n: u128) {
    assert_eq!(outcome(sale, &paid(n), 1400), Outcome::Applied);
}

#[test]
fn neither_the_sale_nor_a_limit_is_in_the_way() {
    let all: Vec<i32> = (0..SEATS).collect();
    for (state, at) in [
        (SaleState::Open, OPENS_S - 1),
        (SaleState::Open, CLOSES_S),
        (SaleState::Paused, 1100),
        (SaleState::Closed, 1100),
    ] {
        let mut sale = sale_with(Policy { state, ..policy() });
        assert_eq!(outcome(&mut sale, &block(1, &all), at), blocked(1));
        assert_eq!(outcome(&mut sale, &lift(1, 1, None), at), unblocked(1, 1));
    }
}

#[test]
fn the_same_command_is_answered_as_before_and_its_key_is_no_others() {
    let mut sale = sale();
    outcome(&mut sale, &block(1, &[1, 2]), 1100);
    let retry = |n| match block(1, &[1, 2]) {
        Command {
            kind:
                Kind::Block {
                    schedule_id,
                    seats,
                    reason,
                    layout_no,
                    ..
                },
            id,
            user,
            fingerprint,
            ..
        } => Command {
            id,
            user,
            fingerprint,
            deadline: at_s(1100),
            trace: None,
            kind: Kind::Block {
                block_id: block_id(n),
                schedule_id,
                seats,
                reason,
                layout_no,
            },
        },
        other => panic!("{other:?}"),
    };
    let reused = Command {
        fingerprint: fingerprint(77),
        ..block(1, &[5])
    };
    let same_id = Command {
        id: command_id(3009),
        ..block(1, &[5])
    };
    let as_hold = Command {
        id: command_id(3001),
        ..hold(1, &[5])
    };
    let as_lift = Command {
        id: command_id(3001),
        ..lift(1, 1, None)
    };
    let loaded = |rows: &[BlockRow]| {
        let mut sale = super::sale();
        sale.load_blocks(rows);
        sale
    };
    let rows = [
        row(1, 1, false, &[1, 2], 1100),
        row(1, 1, true, &[1, 2], 1200),
    ];
    // While it holds, when it is lifted, and for the next owner; also past the deadline.
    outcome(&mut sale, &lift(1, 1, None), 1200);
    for sale in [&mut sale.clone(), &mut loaded(&rows)] {
        for n in [1, 8] {
            let (outcome, changes) = decide(sale, &retry(n), 1300);
            assert_eq!((outcome, changes.is_empty()), (blocked(1), true));
        }
        let (outcome, changes) = decide(sale, &lift(1, 1, None), 5001);
        assert_eq!((outcome, changes.is_empty()), (unblocked(1, 1), true));
        for other in [&reused, &same_id, &as_hold, &as_lift] {
            assert_eq!(refusal(sale, other, 1300), Refusal::KeyReused);
        }
    }
    held(&mut sale, &hold(2, &[7]), 1300);
    let as_block = Command {
        id: command_id(2),
        ..block(2, &[5])
    };
    assert_eq!(refusal(&mut sale, &as_block, 1301), Refusal::KeyReused);
}

#[test]
fn what_makes_no_sense_or_comes_too_late_is_refused() {
    let mut sale = sale();
    outcome(&mut sale, &block(1, &[1, 2]), 1100);
    for seats in [&[][..], &[SEATS], &[-1], &[5, 5]] {
        assert_eq!(
            refusal(&mut sale, &block(2, seats), 1100),
            Refusal::UnknownSeat
        );
    }
    for seats in [&[][..], &[3], &[1, 3], &[1, 2, 1, 2, 1, 3]] {
        let why = refusal(&mut sale, &lift(1, 1, Some(seats)), 1100);
        assert_eq!(why, Refusal::UnknownSeat, "{seats:?}");
    }
    let why = refusal(&mut sale, &lift(1, 2, None), 1100);
    assert_eq!(why, Refusal::NotFound);
    let late = |command| Command {
        deadline: at_s(1099),
        ..command
    };
    for command in [
        block(2, &[5]),
        block(2, &[]),
        lift(1, 1, None),
        lift(1, 2, None),
    ] {
        let why = refusal(&mut sale, &late(command), 1100);
        assert_eq!(why, Refusal::CommandExpired);
    }
    // A place is blocked like a seat.
    let mut mixed = super::places::mixed();
    let made = outcome(&mut mixed, &block(2, &[0, 4]), 1100);
    assert!(matches!(made, Outcome::Blocked { .. }), "{made:?}");
    let mut old = block(2, &[5]);
    if let Kind::Block { layout_no, .. } = &mut old.kind {
        *layout_no = Some(LAYOUT_NO - 1);
    }
    assert_eq!(refusal(&mut sale, &old, 1100), Refusal::LayoutChanged);
}

#[test]
fn the_best_seats_are_never_blocked_ones() {
    let mut sale = sale();
    outcome(&mut sale, &block(1, &[0, 1, 2, 5]), 1100);
    let best = held(&mut sale, &hold_best(2, 2), 1101);
    assert_eq!(best.seats, seat_nos(&[3, 4]));
    let rest: Vec<i32> = (6..SEATS - 1).collect();
    outcome(&mut sale, &block(2, &rest), 1102);
    let last = held(&mut sale, &hold_best(3, 1), 1103);
    assert_eq!(last.seats, seat_nos(&[SEATS - 1]));
    assert_eq!(refusal(&mut sale, &hold_best(4, 1), 1104), unavailable(&[]));
    outcome(&mut sale, &lift(1, 1, Some(&[2])), 1105);
    let best = held(&mut sale, &hold_best(4, 1), 1106);
    assert_eq!(best.seats, seat_nos(&[2]));
}

#[test]
fn blocked_and_lifted_in_one_batch() {
    let mut sale = sale();
    let mut changes = Changes::default();
    for command in [
        block(1, &[1, 2]),
        lift(1, 1, Some(&[1])),
        hold(2, &[1]),
        lift(2, 1, None),
        block(3, &[2]),
    ] {
        sale.decide(&command, times(1100), &mut changes);
    }
    sale.seal(at_s(1100), &mut changes);
    assert_eq!(changes.blocks.len(), 4);
    assert_eq!(changes.claims.net().inserts.len(), 2);
    let mut next = super::sale();
    next.load_blocks(&changes.blocks.iter().rev().cloned().collect::<Vec<_>>());
    let mut again = super::sale();
    again.load_blocks(&changes.blocks);
    assert_eq!(next, again, "in whatever order they are read");
}

#[test]
fn an_undone_batch_leaves_the_blocks_as_they_were() {
    let mut sale = sale();
    outcome(&mut sale, &block(1, &[1, 2, 3]), 1100);
    outcome(&mut sale, &lift(1, 1, Some(&[3])), 1101);
    held(&mut sale, &hold(9, &[9]), 1102);
    let before = sale.clone();
    let mut changes = Changes::default();
    for command in [
        lift(2, 1, Some(&[1])),
        block(2, &[1, 5]),
        lift(3, 2, Some(&[5])),
        lift(4, 1, None),
        hold(3, &[5, 2]),
    ] {
        sale.decide(&command, times(1200), &mut changes);
    }
    sale.seal(at_s(1200), &mut changes);
    assert_eq!(changes.blocks.len(), 4);
    sale.undo(&changes);
    assert_eq!(sale, before);
    // Neither its key nor its id is taken.
    assert_eq!(outcome(&mut sale, &block(2, &[5]), 1201), blocked(2));
}

#[test]
fn time_as_a_block_writes_it_never_goes_back() {
    let mut sale = sale();
    sale.load_blocks(&[row(1, 1, false, &[1], 1405)]);
    sale.load_claim(SeatNo(1), None, ClaimState::Blocked);
    let next = held(&mut sale, &hold(2, &[0]), 1403);
    assert_eq!(next.held_at, at_s(1405));
    let (_, changes) = decide(&mut sale, &lift(1, 1, None), 1404);
    assert_eq!(changes.blocks[0].at, at_s(1405));
}

#[test]
#[should_panic(expected = "S3")]
fn a_block_without_its_claims_stops_the_owner() {
    let mut sale = sale();
    sale.load_blocks(&[row(1, 1, false, &[1], 1100)]);
    outcome(&mut sale, &lift(1, 1, None), 1101);
}
