//! What settlement says besides that a hold is paid: case by case, and in hostile orders.

use super::*;
use crate::common::order_id;
use onsale_domain::seats::PAYING_MS;

fn secure(notice: u128, order: u128, of: u128, until_s: i64) -> Command<Kind> {
    let kind = Kind::Secure {
        notice_id: notice_id(notice),
        order_id: order_id(order),
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
        until: at_s(until_s),
    };
    command(notice + 3000, kind)
}

fn unsecure(notice: u128, order: u128, of: u128) -> Command<Kind> {
    let kind = Kind::Unsecure {
        notice_id: notice_id(notice),
        order_id: order_id(order),
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
    };
    command(notice + 3000, kind)
}

/// Of user `lapsed`, as reservation `of`.
fn rehold(notice: u128, of: u128, lapsed: u128, seats: &[i32]) -> Command<Kind> {
    let kind = Kind::Rehold {
        notice_id: notice_id(notice),
        order_id: order_id(notice),
        reservation_id: reservation_id(of),
        lapsed_id: reservation_id(lapsed),
        schedule_id: schedule_id(1),
        user_id: user(lapsed),
        seats: seat_nos(seats),
        total: Money::won(7),
    };
    command(notice + 3000, kind)
}

fn cancelled(notice: u128, of: u128, seats: &[i32], at: i64) -> Command<Kind> {
    let kind = Kind::Cancelled {
        notice_id: notice_id(notice),
        reservation_id: reservation_id(of),
        schedule_id: schedule_id(1),
        seats: seat_nos(seats),
        at: at_s(at),
    };
    command(notice + 3000, kind)
}

/// Applies it, and says what it changed.
fn apply(sale: &mut Sale, command: &Command<Kind>, at: i64) -> Changes {
    let (applied, changes) = decide(sale, command, at);
    assert_eq!(applied, Outcome::Applied);
    assert_eq!(changes.notices_done.len(), 1);
    changes
}

/// Whether it marks its notice done, and that is all.
fn is_in_vain(changes: &Changes) -> bool {
    let mut rest = changes.clone();
    rest.notices_done.clear();
    rest.is_empty() && rest.notices_open.is_empty()
}

fn paying(changes: &Changes) -> (Option<onsale_schema::PaymentOrderId>, Timestamp) {
    let term = &changes.terms[0].after;
    (term.paying_order, term.expires_at)
}

#[test]
fn a_secured_hold_lasts_within_bounds_and_is_not_given_back() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    // Not shorter, not beyond what a payment may take.
    let changes = apply(&mut sale, &secure(1, 1, 1, 1200), 1150);
    assert_eq!(paying(&changes), (Some(order_id(1)), at_s(1400)));
    assert_eq!(changes.notices_open, [notice_id(1)]);
    assert!(changes.facts.is_empty(), "its end is as it was");
    let changes = apply(&mut sale, &secure(2, 1, 1, 1500), 1151);
    assert_eq!(paying(&changes), (Some(order_id(1)), at_s(1500)));
    assert_eq!(changes.facts.len(), 1);
    let changes = apply(&mut sale, &secure(3, 1, 1, 9999), 1152);
    let most = 1100 + 2 * HOLD_S + PAYING_MS / 1000;
    assert_eq!(paying(&changes), (Some(order_id(1)), at_s(most)));
    assert!(is_in_vain(&apply(&mut sale, &secure(4, 1, 1, 9999), 1153)));

    let refused = refusal(&mut sale, &release(1, 1), 1154);
    assert_eq!(refused, Refusal::PaymentInProgress);
    assert_eq!(refusal(&mut sale, &expire(1, 1400), 1401), Refusal::NotDue);
    assert!(is_in_vain(&apply(&mut sale, &unsecure(5, 2, 1), 1402)));
    let changes = apply(&mut sale, &unsecure(6, 1, 1), 1403);
    assert_eq!(paying(&changes), (None, at_s(most)));
    let released = outcome(&mut sale, &release(1, 1), 1404);
    assert!(matches!(released, Outcome::Released { .. }));
}

#[test]
fn what_is_no_live_hold_is_not_secured() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    held(&mut sale, &hold(2, &[1]), 1100);
    outcome(&mut sale, &release(2, 2), 1101);
    sale.load_reservation(row(3, &[2], ReservationStatus::Paid, 1000));
    for (of, at) in [(2, 1102), (3, 1102), (9, 1102), (1, 1400)] {
        let changes = apply(&mut sale, &secure(of, 1, of, 9999), at);
        assert!(is_in_vain(&changes), "{of}");
    }
}

#[test]
fn a_late_capture_is_given_the_seats_of_its_lapsed_hold() {
    let closed = Policy {
        state: SaleState::Closed,
        seats_per_user: 1,
        ..policy()
    };
    let lapsed = row(1, &[0, 1], ReservationStatus::Held, 1100);
    let due = row(2, &[2], ReservationStatus::Held, 1050);
    let mut sale = sale_with(closed);
    for r in [&lapsed, &due] {
        sale.load_reservation(r.clone());
        for seat in &r.seats {
            sale.load_claim(*seat, Some(r.reservation_id), ClaimState::Held);
        }
    }
    let changes = apply(&mut sale, &rehold(1, 5, 1, &[0, 1, 2]), 1500);
    assert_eq!(changes.ended.len(), 2, "who is due ends for it");
    let made = &changes.reservations[0].reservation;
    assert_eq!(made.status, ReservationStatus::Paid);
    assert_eq!((made.user_id, made.total), (user(1), Money::won(7)));
    assert_eq!(
        (made.held_at, made.term.expires_at),
        (at_s(1500), at_s(1500))
    );
    assert_eq!(made.rehold_order, Some(order_id(1)));
    let sold = changes.claims.net().updates;
    assert!(sold.iter().all(|claim| claim.state == ClaimState::Sold));
    assert!(matches!(
        changes.facts[0].facts.last(),
        Some(Fact::Reheld { .. })
    ));
    // Once, and never again.
    assert!(is_in_vain(&apply(
        &mut sale,
        &rehold(1, 5, 1, &[0, 1, 2]),
        1501
    )));
    assert_eq!(
        outcome(&mut sale, &release(1, 5), 1502),
        conflict(ReservationStatus::Paid)
    );
}

#[test]
fn seats_that_only_their_own_lapsed_hold_keeps_are_free_for_its_capture() {
    let mut sale = sale_with(Policy {
        release_jitter_ms: 600_000,
        ..policy()
    });
    held(&mut sale, &hold(1, &[0]), 1100);
    let kept = sale.next_due().expect("a hold");
    assert!(kept > at_s(1400), "the secret says so");
    // Somebody else's capture has no luck.
    assert!(is_in_vain(&apply(&mut sale, &rehold(1, 5, 2, &[0]), 1400)));
    let changes = apply(&mut sale, &rehold(2, 6, 1, &[0]), 1400);
    assert_eq!(changes.ended[0].at, at_s(1400));
    assert_eq!(changes.terms[0].after.release_at, at_s(1400));
    assert_eq!(changes.claims.net().updates.len(), 1);
}

#[test]
fn a_late_capture_is_given_all_of_its_seats_or_none() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0, 1]), 1100);
    held(&mut sale, &hold(2, &[1]), 1400);
    for (notice, seats) in [(1, &[0, 1][..]), (2, &[]), (3, &[0, 0]), (4, &[0, SEATS])] {
        let changes = apply(&mut sale, &rehold(notice, 5, 1, seats), 1401);
        assert!(is_in_vain(&changes), "{seats:?}");
    }
    // One that is found to have been decided is not decided again.
    sale.load_told(notice_id(6));
    assert!(is_in_vain(&apply(&mut sale, &rehold(6, 5, 1, &[0]), 1402)));
    let changes = apply(&mut sale, &rehold(7, 5, 1, &[0]), 1403);
    assert_eq!(changes.notices_open, [notice_id(7)]);
}

#[test]
fn cancelled_seats_are_on_sale_again_and_held_later() {
    let mut sale = sale();
    sale.load_reservation(row(1, &[0, 1, 2], ReservationStatus::Paid, 1000));
    for seat in 0..3 {
        sale.load_claim(SeatNo(seat), Some(reservation_id(1)), ClaimState::Sold);
    }
    let changes = apply(&mut sale, &cancelled(1, 1, &[1], 1300), 1200);
    assert_eq!(changes.claims.net().deletes.len(), 1);
    assert_eq!(changes.facts[0].facts.len(), 1);
    // The other clock was ahead; who comes next is later all the same.
    let next = held(&mut sale, &hold(2, &[1]), 1201);
    assert_eq!(next.held_at, at_s(1300));
    let changes = apply(&mut sale, &cancelled(1, 1, &[1], 1300), 1301);
    assert!(is_in_vain(&changes), "it is somebody else's");
    // Two are left of four.
    let more = |n, seats: &[i32]| Command {
        user: user(1),
        ..hold(n, seats)
    };
    let limit = Refusal::SeatLimitExceeded { limit: 4 };
    assert_eq!(refusal(&mut sale, &more(3, &[8, 9, 10]), 1302), limit);
    held(&mut sale, &more(4, &[8, 9]), 1302);
    apply(&mut sale, &cancelled(2, 1, &[0, 2], 1303), 1303);
    assert_eq!(
        outcome(&mut sale, &release(1, 1), 1304),
        conflict(ReservationStatus::Cancelled)
    );
}

/// The owner hears of it in any order, and whether it knows the rows already makes no difference.
#[test]
fn a_cancellation_may_be_heard_before_the_payment() {
    for knows_it in [false, true] {
        for is_all in [false, true] {
            let mut sale = sale();
            let seats = if is_all { &[0, 1][..] } else { &[0] };
            let status = match (knows_it, is_all) {
                (false, _) => ReservationStatus::Held,
                (true, false) => ReservationStatus::Paid,
                (true, true) => ReservationStatus::Cancelled,
            };
            let mut r = row(1, &[0, 1], status, 1000);
            if knows_it {
                (r.cancelled, r.cancelled_at) = (seat_nos(seats), Some(at_s(1100)));
            }
            sale.load_reservation(r);
            for seat in 0..2 {
                sale.load_claim(SeatNo(seat), Some(reservation_id(1)), ClaimState::Held);
            }
            let freed = apply(&mut sale, &cancelled(1, 1, seats, 1100), 1100);
            assert_eq!(freed.claims.net().deletes.len(), seats.len());
            let sold = apply(&mut sale, &paid(1), 1101);
            assert_eq!(sold.claims.net().updates.len(), 2 - seats.len());
            assert_eq!(sale.next_due(), None, "it never lapses");
            held(&mut sale, &hold(2, &[0]), 1102);
        }
    }
}

/// What notices have told stays known when their batch is not stored: the rows say it.
#[test]
fn a_cancellation_that_is_taken_back_is_heard_again() {
    let mut sale = sale();
    sale.load_reservation(row(1, &[0, 1], ReservationStatus::Paid, 1000));
    for seat in 0..2 {
        sale.load_claim(SeatNo(seat), Some(reservation_id(1)), ClaimState::Sold);
    }
    let changes = apply(&mut sale, &cancelled(1, 1, &[0, 1], 1300), 1200);
    sale.undo(&changes);
    assert_eq!(refusal(&mut sale, &hold(2, &[0]), 1201), unavailable(&[0]));
    let changes = apply(&mut sale, &cancelled(1, 1, &[0, 1], 1300), 1201);
    assert_eq!(changes.claims.net().deletes.len(), 2);
    assert_eq!(held(&mut sale, &hold(2, &[0]), 1202).held_at, at_s(1300));
}
