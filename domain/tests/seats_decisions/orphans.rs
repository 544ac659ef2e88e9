//! Named seats that would leave a single seat alone.

use super::*;

const NONE: [i32; 0] = [];

fn careful() -> Sale {
    sale_with(Policy {
        prevents_orphans: true,
        seats_per_user: 100,
        ..policy()
    })
}

fn alone(sale: &mut Sale, seats: &[i32]) -> Vec<i32> {
    let mut copy = sale.clone();
    match outcome(&mut copy, &hold(99, seats), 1100) {
        Outcome::Held(_) => Vec::new(),
        Outcome::Refused(Refusal::OrphanSeat { seats }) => seats.iter().map(|s| s.0).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_seat_is_not_left_alone_while_there_is_a_choice() {
    let mut sale = careful();
    assert_eq!(alone(&mut sale, &[0, 1]), NONE);
    assert_eq!(alone(&mut sale, &[1, 2]), [0]);
    assert_eq!(alone(&mut sale, &[2, 3]), NONE);
    assert_eq!(alone(&mut sale, &[17, 18]), [19]);
    assert_eq!(alone(&mut sale, &[1, 18]), [0, 19]);
    // Between those that are taken together.
    assert_eq!(alone(&mut sale, &[4, 6]), [5]);
    assert_eq!(alone(&mut sale, &[4, 7]), NONE);

    // Who is alone already is nobody's fault, and may be taken.
    held(&mut sale, &hold(1, &[0, 1, 2]), 1100);
    assert_eq!(alone(&mut sale, &[4]), [3]);
    assert_eq!(alone(&mut sale, &[3]), NONE);

    // Not every schedule wants it so.
    let mut careless = super::sale();
    assert_eq!(alone(&mut careless, &[1, 2]), NONE);
}

#[test]
fn when_nothing_else_is_left_anything_may_be_taken() {
    let mut sale = careful();
    // Only 17, 18 and 19 are left: two of three leave one alone, whichever.
    held(&mut sale, &hold(1, &(0..17).collect::<Vec<_>>()), 1100);
    assert_eq!(alone(&mut sale, &[17, 18]), NONE);
    assert_eq!(alone(&mut sale, &[17, 19]), NONE);
    // One of three can be had without.
    assert_eq!(alone(&mut sale, &[18]), [17, 19]);
    assert_eq!(alone(&mut sale, &[17]), NONE);

    // Two of a pair can't be had twice, but one pair and one single seat can.
    let mut sale = careful();
    let taken = [3, 7, 10, 13, 14, 15, 16, 17, 18, 19];
    held(&mut sale, &hold(1, &taken), 1100);
    // Left: 0 to 2, 4 to 6, 8 and 9, 11 and 12.
    assert_eq!(alone(&mut sale, &[1, 2]), [0]);
    assert_eq!(alone(&mut sale, &[1, 2, 5, 6]), [0, 4]);
    assert_eq!(alone(&mut sale, &[8, 9, 11, 12]), NONE);
    held(&mut sale, &hold(2, &[8, 9, 11, 12]), 1100);
    assert_eq!(alone(&mut sale, &[1, 2]), NONE);

    // What is due counts as free.
    let mut sale = careful();
    held(&mut sale, &hold(1, &(0..17).collect::<Vec<_>>()), 1100);
    let answer = outcome(&mut sale, &hold(2, &[18, 19]), 1100 + HOLD_S);
    assert!(matches!(answer, Outcome::Held(_)), "{answer:?}");
    let mut sale = careful();
    held(&mut sale, &hold(1, &(0..17).collect::<Vec<_>>()), 1100);
    let answer = outcome(&mut sale, &hold(2, &[17, 18]), 1100 + HOLD_S);
    let seats = seat_nos(&[19]);
    assert_eq!(answer, Outcome::Refused(Refusal::OrphanSeat { seats }));
}
