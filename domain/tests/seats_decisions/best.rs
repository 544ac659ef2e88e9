//! Holds of the best seats: which those are is judged elsewhere, here what comes of them.

use super::*;

fn seats_of(outcome: &Outcome) -> &[SeatNo] {
    match outcome {
        Outcome::Held(hold) => &hold.seats,
        refused => panic!("{refused:?}"),
    }
}

#[test]
fn it_is_a_hold_like_any_other() {
    let mut sale = sale();
    let (outcome, changes) = decide(&mut sale, &hold_best(1, 3), 1100);
    let expected = Hold {
        reservation_id: reservation_id(1),
        schedule_id: schedule_id(1),
        seats: seat_nos(&[0, 1, 2]),
        total: Money::won(300),
        held_at: at_s(1100),
        expires_at: at_s(1400),
    };
    assert_eq!(outcome, Outcome::Held(expected.clone()));
    assert_eq!(changes.claims.net().inserts.len(), 3);
    // Again it is the same, whatever is best by now.
    let (again, changes) = decide(&mut sale, &hold_best(1, 3), 1101);
    assert_eq!(again, Outcome::Held(expected));
    assert!(changes.is_empty());
    let reused = Command {
        fingerprint: fingerprint(9),
        ..hold_best(1, 2)
    };
    let (reused, _) = decide(&mut sale, &reused, 1101);
    assert_eq!(reused, Outcome::Refused(Refusal::KeyReused));
}

#[test]
fn what_is_due_is_free_and_ends_for_it() {
    let mut sale = sale();
    decide(&mut sale, &hold(1, &[0, 1]), 1100);
    let (before, changes) = decide(&mut sale, &hold_best(2, 2), 1399);
    assert_eq!(seats_of(&before), seat_nos(&[2, 3]));
    assert!(changes.ended.is_empty());
    let (after, changes) = decide(&mut sale, &hold_best(3, 2), 1400);
    assert_eq!(seats_of(&after), seat_nos(&[0, 1]));
    assert_eq!(changes.ended.len(), 1);
    assert_eq!(changes.ended[0].reservation_id, reservation_id(1));
}

#[test]
fn each_refusal() {
    let closed = Policy {
        state: SaleState::Closed,
        ..policy()
    };
    let (outcome, _) = decide(&mut sale_with(closed), &hold_best(1, 1), 1100);
    assert_eq!(outcome, Outcome::Refused(Refusal::SaleClosed));
    let other_layout = |mut command: Command<Kind>| {
        if let Kind::HoldBest { layout_no, .. } = &mut command.kind {
            *layout_no = Some(LAYOUT_NO - 1);
        }
        command
    };
    let none = Refusal::SeatUnavailable {
        seats: vec![],
        places: vec![],
    };
    let limit = Refusal::SeatLimitExceeded { limit: 4 };
    for (command, at, expected) in [
        (hold_best(1, 0), 1100, Refusal::UnknownSeat),
        (hold_best(1, 5), 1100, limit.clone()),
        (hold_best(1, u32::MAX), 1100, limit),
        (hold_best(1, 1), OPENS_S - 1, Refusal::SaleNotOpen),
        (hold_best(1, 1), CLOSES_S, Refusal::SaleClosed),
        (hold_best(1, 1), 5001, Refusal::CommandExpired),
        (other_layout(hold_best(1, 1)), 1100, Refusal::LayoutChanged),
    ] {
        let mut sale = sale();
        let (outcome, changes) = decide(&mut sale, &command, at);
        assert_eq!(outcome, Outcome::Refused(expected), "{command:?}");
        assert!(changes.is_empty());
    }
    let mut sale = sale();
    for n in 1..=5 {
        decide(&mut sale, &hold_best(n, 4), 1100);
    }
    let (outcome, _) = decide(&mut sale, &hold_best(6, 1), 1100);
    assert_eq!(outcome, Outcome::Refused(none));
}

#[test]
fn what_was_taken_back_is_free_again() {
    let mut sale = sale();
    let (_, changes) = decide(&mut sale, &hold_best(1, 2), 1100);
    sale.undo(&changes);
    let (outcome, _) = decide(&mut sale, &hold_best(2, 2), 1100);
    assert_eq!(seats_of(&outcome), seat_nos(&[0, 1]));
}
