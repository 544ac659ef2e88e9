//! How long holds last: extensions, and seats that come back at a random moment.

use super::*;
use onsale_domain::seats::{Term, release_delay_ms};
use onsale_schema::seats::Fact;
use uuid::Uuid;

fn extended(sale: &mut Sale, command: &Command<Kind>, at: i64) -> Result<i64, Refusal> {
    match outcome(sale, command, at) {
        Outcome::Extended { expires_at, .. } => Ok(expires_at.micros() / 1_000_000),
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hold_lasts_longer_so_often_and_so_long() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    // From now on as a new hold would.
    assert_eq!(extended(&mut sale, &extend(1, 1), 1200), Ok(1500));
    // The same command has the same answer.
    assert_eq!(extended(&mut sale, &extend(1, 1), 1300), Ok(1500));
    // Not beyond the total.
    assert_eq!(extended(&mut sale, &extend(2, 1), 1450), Ok(1700));
    let over = Err(Refusal::ExtensionLimitReached);
    assert_eq!(extended(&mut sale, &extend(3, 1), 1600), over);
    assert_eq!(extended(&mut sale, &extend(1, 1), 1650), Ok(1700));
    assert_eq!(sale.next_due(), Some(at_s(1700)));

    // The total alone is a limit, too.
    let mut brief = sale_with(Policy {
        hold_total_ms: HOLD_S * 1000,
        ..policy()
    });
    held(&mut brief, &hold(1, &[0]), 1100);
    assert_eq!(extended(&mut brief, &extend(1, 1), 1200), over);
}

#[test]
fn who_may_extend_what() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    let foreign = Command {
        user: user(2),
        ..extend(1, 1)
    };
    assert_eq!(extended(&mut sale, &foreign, 1200), Err(Refusal::NotFound));
    assert_eq!(
        extended(&mut sale, &extend(1, 7), 1200),
        Err(Refusal::NotFound)
    );
    let late = Command {
        deadline: at_s(1199),
        ..extend(1, 1)
    };
    let too_late = Err(Refusal::CommandExpired);
    assert_eq!(extended(&mut sale, &late, 1200), too_late);
    let status = ReservationStatus::Expired;
    let lapsed = Err(Refusal::StateConflict { status });
    assert_eq!(extended(&mut sale, &extend(1, 1), 1400), lapsed);

    held(&mut sale, &hold(2, &[1]), 1500);
    outcome(&mut sale, &release(2, 2), 1501);
    let status = ReservationStatus::Released;
    let ended = Err(Refusal::StateConflict { status });
    assert_eq!(extended(&mut sale, &extend(2, 2), 1502), ended);

    held(&mut sale, &hold(3, &[2]), 1900);
    let over = Err(Refusal::SaleClosed);
    assert_eq!(extended(&mut sale, &extend(3, 3), CLOSES_S), over);
}

#[test]
fn what_an_extension_writes() {
    let mut sale = sale();
    sale.load_claim(SeatNo(0), Some(reservation_id(1)), ClaimState::Held);
    sale.load_reservation(row(1, &[0], ReservationStatus::Held, 1100));
    let before = sale.clone();
    let mut changes = Changes::default();
    for (n, at) in [(1, 1200), (2, 1300)] {
        let outcome = sale.decide(&extend(n, 1), times(at), &mut changes);
        assert!(matches!(outcome, Outcome::Extended { .. }), "{outcome:?}");
    }
    sale.seal(at_s(1300), &mut changes);
    let [update] = changes.terms.as_slice() else {
        panic!("one row, one update: {:?}", changes.terms);
    };
    assert_eq!(update.before, Term::until(at_s(1400)));
    assert_eq!(update.after.expires_at, at_s(1600));
    assert_eq!(
        update.after.extended_by,
        [command_id(2001), command_id(2002)]
    );
    assert_eq!(changes.facts[0].facts.len(), 2);
    assert!(changes.maps[0].changes.is_empty(), "the map stays");

    sale.undo(&changes);
    assert_eq!(sale.doubtful(), [reservation_id(1)]);
    assert!(sale.assure(reservation_id(1), ReservationStatus::Held));
    assert_eq!(sale, before);
}

fn jittery() -> Sale {
    let jitter = Policy {
        release_jitter_ms: 60_000,
        ..policy()
    };
    sale_with(jitter).with_release_seed(Uuid::from_u128(5))
}

/// When the seats of hold `n` come back that lapses at a second.
fn released_at(n: u128, expires_s: i64) -> Timestamp {
    let ends = at_s(expires_s);
    let delay = release_delay_ms(Uuid::from_u128(5), reservation_id(n), ends, 60_000);
    ends.plus_ms(delay)
}

#[test]
fn delays_are_within_the_jitter_and_all_over_it() {
    let seed = Uuid::from_u128(5);
    let delays = |seed, jitter| {
        (1..=1000).map(move |n| release_delay_ms(seed, reservation_id(n), at_s(1400), jitter))
    };
    assert!(delays(seed, 0).all(|delay| delay == 0));
    assert!(delays(seed, 100).all(|delay| (0..=100).contains(&delay)));
    for tenth in 0..10 {
        let range = tenth * 10_000..(tenth + 1) * 10_000;
        let there = delays(seed, 99_999).filter(|delay| range.contains(delay));
        assert!((60..=140).contains(&there.count()), "{range:?}");
    }
    let same = delays(seed, 60_000).zip(delays(Uuid::from_u128(6), 60_000));
    assert!(same.filter(|(a, b)| a == b).count() < 5);
}

#[test]
fn seats_of_a_lapsed_hold_are_kept_for_a_while() {
    let mut sale = jittery();
    held(&mut sale, &hold(1, &[0, 1, 2, 3]), 1100);
    let back = released_at(1, 1400);
    assert!(back > at_s(1400) && back <= at_s(1460), "{back:?}");
    // For nobody, also not for who held them.
    for n in [1, 2] {
        let again = Command {
            user: user(n),
            ..hold(10 + n, &[0])
        };
        assert!(matches!(
            outcome(&mut sale, &again, 1400),
            Outcome::Refused(Refusal::SeatUnavailable { .. })
        ));
    }
    // They don't count for the limit any more.
    let others = Command {
        user: user(1),
        ..hold(20, &[4, 5, 6, 7])
    };
    held(&mut sale, &others, 1400);
    // It can be neither given back nor lapsed by others before.
    let status = ReservationStatus::Expired;
    let over = Outcome::Refused(Refusal::StateConflict { status });
    assert_eq!(outcome(&mut sale, &release(1, 1), 1400), over);
    let early = Outcome::Refused(Refusal::NotDue);
    assert_eq!(outcome(&mut sale, &expire(1, 1400), 1400), early);
    assert_eq!(sale.next_due(), Some(back));

    let mut changes = Changes::default();
    assert_eq!(sale.lapse_due(back, 10, &mut changes), 1);
    let ended = &changes.reservations.is_empty().then(|| &changes.ended[0]);
    assert_eq!(
        ended.map(|ended| (ended.to, ended.at)),
        Some((status, back))
    );
    held(&mut sale, &hold(2, &[0]), 1461);
}

#[test]
fn what_is_given_back_is_kept_for_a_while_as_well() {
    let mut sale = jittery();
    held(&mut sale, &hold(1, &[0]), 1100);
    let released = Outcome::Released {
        reservation_id: reservation_id(1),
    };
    let mut changes = Changes::default();
    assert_eq!(
        sale.decide(&release(1, 1), times(1200), &mut changes),
        released
    );
    sale.seal(at_s(1200), &mut changes);
    assert!(changes.maps[0].changes.is_empty(), "the map stays");
    assert!(matches!(
        changes.facts[0].facts[..],
        [.., Fact::GivenBack { .. }]
    ));
    // Once more is no mistake, and changes nothing.
    assert_eq!(outcome(&mut sale, &release(1, 1), 1210), released);
    let back = released_at(1, 1200);
    assert_eq!(sale.next_due(), Some(back));
    assert!(matches!(
        outcome(&mut sale, &hold(2, &[0]), 1200),
        Outcome::Refused(Refusal::SeatUnavailable { .. })
    ));
    let status = ReservationStatus::Released;
    let over = Err(Refusal::StateConflict { status });
    assert_eq!(extended(&mut sale, &extend(1, 1), 1201), over);

    // It ends as released, not as expired.
    let mut changes = Changes::default();
    sale.lapse_due(back, 10, &mut changes);
    assert_eq!(changes.ended[0].to, ReservationStatus::Released);
    held(&mut sale, &hold(2, &[0]), 1261);
}

#[test]
fn nobody_empties_the_hall_by_holding_and_giving_back() {
    let mut sale = jittery();
    let of_one = |n, seats: &[i32]| Command {
        user: user(1),
        ..hold(n, seats)
    };
    let given_back = |n, of| Command {
        user: user(1),
        ..release(n, of)
    };
    held(&mut sale, &of_one(1, &[0, 1, 2, 3]), 1100);
    outcome(&mut sale, &given_back(1, 1), 1100);
    // Others may be chosen at once,
    held(&mut sale, &of_one(2, &[4, 5, 6, 7]), 1100);
    outcome(&mut sale, &given_back(2, 2), 1100);
    // but not again and again.
    let third = of_one(3, &[8]);
    let full = Refusal::SeatLimitExceeded { limit: 4 };
    assert_eq!(refusal(&mut sale, &third, 1100), full);
    let back = released_at(1, 1100).max(released_at(2, 1100));
    held(&mut sale, &third, back.micros() / 1_000_000 + 1);
}
