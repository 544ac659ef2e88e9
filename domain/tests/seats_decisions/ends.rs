//! How reservations end or are sold: releases, expiries, ticks and notices.

use super::*;

#[test]
fn paid_seats_count_for_the_limit_and_never_lapse() {
    for state in [ClaimState::Held, ClaimState::Sold] {
        let mut sale = sale();
        sale.load_reservation(row(1, &[0, 1, 2], ReservationStatus::Paid, 1000));
        for seat in 0..3 {
            sale.load_claim(SeatNo(seat), Some(reservation_id(1)), state);
        }
        assert_eq!(sale.next_due(), None);
        assert_eq!(sale.lapse_due(at_s(9999), 10, &mut Changes::default()), 0);
        assert_eq!(refusal(&mut sale, &hold(2, &[0]), 1900), unavailable(&[0]));
        let more = Command {
            user: user(1),
            ..hold(2, &[8, 9])
        };
        let limit = Refusal::SeatLimitExceeded { limit: 4 };
        assert_eq!(refusal(&mut sale, &more, 1900), limit);

        // The notice turns what is left to turn, once.
        let (applied, changes) = decide(&mut sale, &paid(1), 1900);
        assert_eq!(applied, Outcome::Applied);
        assert_eq!(changes.notices_done, [notice_id(1)]);
        let is_left = state == ClaimState::Held;
        assert_eq!(
            changes.claims.net().updates.len(),
            if is_left { 3 } else { 0 }
        );
        assert_eq!(changes.facts.len(), usize::from(is_left));
        let (applied, changes) = decide(&mut sale, &paid(1), 1901);
        assert_eq!(applied, Outcome::Applied);
        assert_eq!(changes.notices_done, [notice_id(1)]);
        assert_eq!(changes.claims.net(), Net::default());
        assert!(changes.facts.is_empty() && changes.maps.is_empty());
    }
}

#[test]
fn a_cancelled_reservation_keeps_its_seats_until_its_notice_but_does_not_count() {
    let mut sale = sale();
    sale.load_reservation(row(1, &[0, 1, 2, 3], ReservationStatus::Cancelled, 1000));
    sale.load_claim(SeatNo(0), Some(reservation_id(1)), ClaimState::Sold);
    assert_eq!(refusal(&mut sale, &hold(2, &[0]), 1900), unavailable(&[0]));
    let (applied, changes) = decide(&mut sale, &paid(1), 1900);
    assert_eq!(applied, Outcome::Applied);
    assert!(changes.maps.is_empty());
    let again = Command {
        user: user(1),
        ..hold(2, &[8, 9])
    };
    held(&mut sale, &again, 1900);
}

#[test]
fn releases() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    for stranger in [release(2, 1), release(1, 5)] {
        assert_eq!(refusal(&mut sale, &stranger, 1101), Refusal::NotFound);
    }
    let released = Outcome::Released {
        reservation_id: reservation_id(1),
    };
    let mut in_time = release(1, 1);
    in_time.deadline = at_s(1102);
    assert_eq!(
        refusal(&mut sale, &in_time, 1103),
        Refusal::CommandExpired,
        "the owner's clock counts"
    );
    let (answer, changes) = decide(&mut sale, &in_time, 1102);
    assert_eq!(answer, released);
    assert_eq!(changes.ended[0].to, ReservationStatus::Released);
    let (again, changes) = decide(&mut sale, &release(1, 1), 1103);
    assert_eq!(again, released);
    assert!(changes.is_empty());

    for status in [
        ReservationStatus::Paid,
        ReservationStatus::Expired,
        ReservationStatus::Cancelled,
    ] {
        let mut sale = super::sale();
        sale.load_reservation(row(1, &[0], status, 1000));
        assert_eq!(outcome(&mut sale, &release(1, 1), 1100), conflict(status));
    }
}

#[test]
fn a_due_hold_can_only_lapse() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    let (answer, changes) = decide(&mut sale, &release(1, 1), 1400);
    assert_eq!(answer, conflict(ReservationStatus::Expired));
    assert_eq!(changes.ended[0].to, ReservationStatus::Expired);
    assert_eq!(changes.claims.net().deletes.len(), 1);
}

#[test]
fn expiries() {
    let mut sale = sale();
    assert_eq!(outcome(&mut sale, &expire(1, 1400), 1500), Outcome::Applied);
    held(&mut sale, &hold(1, &[0]), 1100);
    assert_eq!(refusal(&mut sale, &expire(1, 1399), 1500), Refusal::NotDue);
    assert_eq!(refusal(&mut sale, &expire(1, 1400), 1399), Refusal::NotDue);
    let mut late = expire(1, 1400);
    late.deadline = at_s(1);
    let (applied, changes) = decide(&mut sale, &late, 1400);
    assert_eq!(applied, Outcome::Applied);
    assert_eq!(changes.ended[0].at, at_s(1400));
    let (again, changes) = decide(&mut sale, &late, 1401);
    assert_eq!(again, Outcome::Applied);
    assert!(changes.is_empty());
}

#[test]
fn a_notice_about_nothing_is_done_and_sells_nothing() {
    let mut sale = sale();
    let mut changes = Changes::default();
    // Made by this very batch, so nobody can have paid it.
    sale.decide(&hold(1, &[0]), times(1100), &mut changes);
    for of in [1, 2] {
        let applied = sale.decide(&paid(of), times(1100), &mut changes);
        assert_eq!(applied, Outcome::Applied);
    }
    assert_eq!(changes.notices_done, [notice_id(1), notice_id(2)]);
    assert_eq!(changes.claims.net().inserts[0].state, ClaimState::Held);
    // Ended by this very batch: its conditional update will miss.
    let mut changes = Changes::default();
    sale.decide(&hold(3, &[0]), times(1400), &mut changes);
    sale.decide(&paid(1), times(1400), &mut changes);
    let owner = changes.claims.net().updates[0].to;
    assert_eq!(owner, Some(reservation_id(3)));
}

#[test]
fn the_tick_lapses_what_is_due_in_order_and_within_its_bound() {
    let mut sale = sale();
    for (n, seat, at) in [(1, 0, 1100), (2, 1, 1101), (3, 2, 1102)] {
        held(&mut sale, &hold(n, &[seat]), at);
    }
    assert_eq!(sale.next_due(), Some(at_s(1400)));
    let mut changes = Changes::default();
    assert_eq!(sale.lapse_due(at_s(1399), 10, &mut changes), 0);
    assert!(changes.is_empty());
    assert_eq!(sale.lapse_due(at_s(1401), 1, &mut changes), 1);
    assert_eq!(sale.lapse_due(at_s(1401), 10, &mut changes), 1);
    let ended: Vec<_> = changes
        .ended
        .iter()
        .map(|e| (e.reservation_id, e.at))
        .collect();
    assert_eq!(
        ended,
        [
            (reservation_id(1), at_s(1401)),
            (reservation_id(2), at_s(1401))
        ]
    );
    assert_eq!(sale.next_due(), Some(at_s(1402)));
}
