//! General admission: places are asked for by their count.

use super::*;
use onsale_domain::seats::plan::Spot;
use onsale_schema::seats::{Places, PlacesLeft};

/// Seats 0 to 3 are in a row, 4 to 8 are the places of `F`, and 9 and 10 those of `G`.
pub fn mixed() -> Sale {
    let spots = (0..11).map(|no| {
        let (section, row, number) = match no {
            0..=3 => ("A", "1", no + 1),
            4..=8 => ("F", "", no - 3),
            _ => ("G", "", no - 8),
        };
        Spot {
            section,
            row,
            number,
            grade: "R",
            price: Money::won(i64::from(no) * 100),
            x: 0.0,
            y: 5.0,
        }
    });
    let layout = Layout::new(LAYOUT_NO, spots);
    Sale::new(schedule_id(1), policy(), layout, 10)
}

fn hold_places(n: u128, named: &[i32], wanted: &[(&str, u32)]) -> Command<Kind> {
    let mut command = hold(n, named);
    if let Kind::Hold { places, .. } = &mut command.kind {
        *places = wanted
            .iter()
            .map(|&(section, count)| some(section, count))
            .collect();
    }
    command
}

fn some(section: &str, count: u32) -> Places {
    let section = section.to_owned();
    Places { section, count }
}

fn too_few(seats: &[i32], left: &[(&str, u32)]) -> Refusal {
    let left = left.iter().map(|&(section, available)| PlacesLeft {
        section: section.to_owned(),
        available,
    });
    Refusal::SeatUnavailable {
        seats: seat_nos(seats),
        places: left.collect(),
    }
}

#[test]
fn places_are_given_by_number_and_each_once() {
    let mut sale = mixed();
    let (first, changes) = decide(&mut sale, &hold_places(1, &[], &[("F", 2)]), 1000);
    let Outcome::Held(first) = first else {
        panic!("{first:?}");
    };
    assert_eq!(first.seats, seat_nos(&[4, 5]));
    assert_eq!(first.total, Money::won(900));
    // Each has a claim of its own: nobody waits for a count.
    let inserts = changes.claims.net().inserts;
    assert_eq!(inserts.len(), 2);
    assert_eq!(changes.maps[0].changes.len(), 2);
    let second = held(&mut sale, &hold_places(2, &[], &[("F", 2)]), 1001);
    assert_eq!(second.seats, seat_nos(&[6, 7]));
    let refused = refusal(&mut sale, &hold_places(3, &[], &[("F", 2)]), 1002);
    assert_eq!(refused, too_few(&[], &[("F", 1)]));
    let last = held(&mut sale, &hold_places(3, &[], &[("F", 1)]), 1003);
    assert_eq!(last.seats, seat_nos(&[8]));
    let refused = refusal(&mut sale, &hold_places(4, &[], &[("F", 1)]), 1004);
    assert_eq!(refused, too_few(&[], &[("F", 0)]));
    let _ = outcome(&mut sale, &release(1, 1), 1005);
    let again = held(&mut sale, &hold_places(4, &[], &[("F", 1)]), 1006);
    assert_eq!(again.seats, seat_nos(&[4]));
}

#[test]
fn a_hold_may_mix_seats_and_places_all_or_none() {
    let mut sale = mixed();
    let ask = hold_places(1, &[2], &[("G", 1), ("F", 2)]);
    let both = held(&mut sale, &ask, 1000);
    assert_eq!(both.seats, seat_nos(&[2, 9, 4, 5]));
    assert_eq!(both.total, Money::won(200 + 900 + 400 + 500));
    // The same command again, also when others would be lower by now.
    assert_eq!(held(&mut sale, &ask, 1001), both);
    let other = hold_places(2, &[1, 2], &[("F", 1)]);
    assert_eq!(refusal(&mut sale, &other, 1002), unavailable(&[2]));
    let other = hold_places(2, &[1], &[("F", 1), ("G", 2)]);
    assert_eq!(refusal(&mut sale, &other, 1003), too_few(&[], &[("G", 1)]));
    let other = hold_places(2, &[2], &[("G", 2)]);
    assert_eq!(refusal(&mut sale, &other, 1004), too_few(&[2], &[("G", 1)]));
}

#[test]
fn places_count_for_the_limit() {
    let mut sale = mixed();
    let limit = Refusal::SeatLimitExceeded { limit: 4 };
    for wanted in [&[("F", 5)][..], &[("F", 3), ("G", 2)], &[("F", u32::MAX)]] {
        let refused = refusal(&mut sale, &hold_places(1, &[], wanted), 1000);
        assert_eq!(refused, limit, "{wanted:?}");
    }
    let refused = refusal(&mut sale, &hold_places(1, &[0, 1], &[("F", 3)]), 1000);
    assert_eq!(refused, limit);
    let _ = held(&mut sale, &hold_places(1, &[0], &[("F", 2)]), 1000);
    let mut more = hold_places(2, &[], &[("F", 2)]);
    more.user = user(1);
    assert_eq!(refusal(&mut sale, &more, 1001), limit);
}

#[test]
fn what_is_no_section_of_places_is_refused() {
    let mut sale = mixed();
    for (named, wanted) in [
        (&[][..], &[][..]),
        (&[], &[("Z", 1)]),
        (&[], &[("A", 1)]),
        (&[], &[("F", 0)]),
        (&[], &[("F", 1), ("F", 1)]),
        (&[0], &[("F", 1), ("Z", 1)]),
        // A place has no name.
        (&[4], &[]),
        (&[0, 4], &[("F", 1)]),
    ] {
        let refused = refusal(&mut sale, &hold_places(1, named, wanted), 1000);
        assert_eq!(refused, Refusal::UnknownSeat, "{named:?} {wanted:?}");
    }
}

#[test]
fn what_is_due_is_free_and_lapses() {
    let mut sale = mixed();
    let _ = held(&mut sale, &hold_places(1, &[], &[("F", 3)]), 1000);
    let _ = held(&mut sale, &hold_places(2, &[], &[("F", 2)]), 1001);
    let due = 1000 + HOLD_S;
    let none = refusal(&mut sale, &hold_places(3, &[], &[("F", 1)]), due - 1);
    assert_eq!(none, too_few(&[], &[("F", 0)]));
    // All that was due ends with it, and the rest of it is free as well.
    let (got, changes) = decide(&mut sale, &hold_places(3, &[], &[("F", 1)]), due);
    assert!(matches!(got, Outcome::Held(hold) if hold.seats == seat_nos(&[4])));
    assert_eq!(changes.ended[0].reservation_id, reservation_id(1));
    assert_eq!(changes.ended.len(), 1);
    let rest = held(&mut sale, &hold_places(4, &[], &[("F", 2)]), due);
    assert_eq!(rest.seats, seat_nos(&[5, 6]));
}

#[test]
fn what_is_refused_ends_nobody_else() {
    let mut sale = mixed();
    let _ = held(&mut sale, &hold_places(1, &[0], &[("F", 2)]), 1000);
    let _ = held(&mut sale, &hold_places(2, &[], &[("G", 1)]), 1299);
    // Seat 0 is due, and one place is not.
    let refused = refusal(&mut sale, &hold_places(3, &[0], &[("G", 2)]), 1000 + HOLD_S);
    assert_eq!(refused, too_few(&[], &[("G", 1)]));
}

#[test]
fn the_best_seats_are_never_places() {
    let mut sale = mixed();
    let best = held(&mut sale, &hold_best(1, 4), 1000);
    assert_eq!(best.seats, seat_nos(&[0, 1, 2, 3]));
    assert_eq!(refusal(&mut sale, &hold_best(2, 1), 1001), unavailable(&[]));
}

#[test]
fn a_batch_with_places_is_taken_back_and_decided_the_same_again() {
    let mut sale = mixed();
    let _ = held(&mut sale, &hold_places(1, &[], &[("F", 2)]), 1000);
    let before = sale.clone();
    let ask = hold_places(2, &[3], &[("F", 2)]);
    let (first, changes) = decide(&mut sale, &ask, 1001);
    sale.undo(&changes);
    assert_eq!(sale, before);
    assert_eq!(outcome(&mut sale, &ask, 1001), first);
}

#[test]
fn another_owner_knows_which_places_are_free() {
    let mut sale = mixed();
    sale.load_reservation(row(1, &[4, 6], ReservationStatus::Held, 1000));
    for seat in [4, 6] {
        sale.load_claim(SeatNo(seat), Some(reservation_id(1)), ClaimState::Held);
    }
    sale.load_claim(SeatNo(5), None, ClaimState::Blocked);
    let next = held(&mut sale, &hold_places(2, &[], &[("F", 1)]), 1001);
    assert_eq!(next.seats, seat_nos(&[7]));
}
