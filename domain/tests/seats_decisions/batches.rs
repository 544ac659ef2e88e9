//! What a batch writes, and what must hold over its end.

use super::*;

#[test]
fn a_batch_is_written_as_its_net_effect() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    let mut changes = Changes::default();
    sale.decide(&release(1, 1), times(1101), &mut changes);
    sale.decide(&hold(2, &[0, 1]), times(1101), &mut changes);
    sale.decide(&release(2, 2), times(1102), &mut changes);
    sale.decide(&hold(3, &[0]), times(1102), &mut changes);
    sale.seal(at_s(1102), &mut changes);

    let statuses: Vec<_> = changes
        .reservations
        .iter()
        .map(|n| n.reservation.status)
        .collect();
    assert_eq!(
        statuses,
        [ReservationStatus::Released, ReservationStatus::Held]
    );
    assert_eq!(
        changes.reservations[0].reservation.ended_at,
        Some(at_s(1102))
    );
    let ended: Vec<_> = changes.ended.iter().map(|e| e.reservation_id).collect();
    assert_eq!(ended, [reservation_id(1)]);
    let net = changes.claims.net();
    assert!(net.inserts.is_empty() && net.deletes.is_empty());
    assert_eq!(net.updates.len(), 1);
    assert_eq!(net.updates[0].from, Some(reservation_id(1)));
    assert_eq!(net.updates[0].to, Some(reservation_id(3)));
    // Nothing to see, but four things happened: the version counts them once.
    assert!(changes.maps[0].changes.is_empty());
    assert_eq!(
        (changes.maps[0].from_version, changes.maps[0].version),
        (11, 12)
    );
    assert_eq!(changes.facts[0].facts.len(), 4);
}

#[test]
fn an_idle_batch_leaves_the_version() {
    let mut sale = sale();
    let mut changes = Changes::default();
    sale.seal(at_s(1100), &mut changes);
    assert!(changes.is_empty());
    assert_eq!(sale.map_version(), 10);
}

#[test]
fn time_as_it_is_written_never_goes_back() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    // A tick whose clock runs ahead of the stream's.
    sale.lapse_due(at_s(1405), 10, &mut Changes::default());
    sale.seal(at_s(1405), &mut Changes::default());
    let next = held(&mut sale, &hold(2, &[0]), 1403);
    assert_eq!((next.held_at, next.expires_at), (at_s(1405), at_s(1705)));

    // The next owner knows it from the rows.
    let mut sale = super::sale();
    let mut ended = row(1, &[0], ReservationStatus::Expired, 1100);
    ended.ended_at = Some(at_s(1405));
    sale.load_reservation(ended);
    let next = held(&mut sale, &hold(2, &[0]), 1403);
    assert_eq!(next.held_at, at_s(1405));
}

#[test]
fn what_is_known_does_not_depend_on_the_order_of_rows() {
    let rows: Vec<_> = [3, 1, 2]
        .map(|n| Reservation {
            user_id: user(1),
            ..row(
                n,
                &[i32::try_from(n).unwrap()],
                ReservationStatus::Held,
                1100,
            )
        })
        .into();
    let load = |rows: &[Reservation]| {
        let mut sale = sale();
        for r in rows {
            sale.load_claim(r.seats[0], Some(r.reservation_id), ClaimState::Held);
            sale.load_reservation(r.clone());
        }
        sale
    };
    let mut sorted = rows.clone();
    sorted.sort_by_key(|r| r.reservation_id);
    assert_eq!(load(&rows), load(&sorted));
}

#[test]
fn changes_of_other_schedules_are_merged() {
    let elsewhere = |n, seats: &[i32]| {
        let mut command = hold(n, seats);
        if let Kind::Hold { schedule_id, .. } = &mut command.kind {
            *schedule_id = super::common::schedule_id(2);
        }
        command
    };
    let (_, mut changes) = decide(&mut sale(), &hold(1, &[0]), 1100);
    let layout = Layout::row(0, &[Money::ZERO; 3]);
    let mut other = Sale::new(schedule_id(2), policy(), layout, 0);
    let mut others = Changes::default();
    other.decide(&elsewhere(2, &[0]), times(1100), &mut others);
    other.seal(at_s(1100), &mut others);
    changes.merge(others);
    assert_eq!(changes.reservations.len(), 2);
    assert_eq!(changes.claims.net().inserts.len(), 2);
    assert_eq!((changes.maps.len(), changes.facts.len()), (2, 2));

    // Both can still be ended as new ones.
    let mut give_back = release(2, 2);
    if let Kind::Release { schedule_id, .. } = &mut give_back.kind {
        *schedule_id = super::common::schedule_id(2);
    }
    other.decide(&give_back, times(1101), &mut changes);
    assert!(changes.ended.is_empty());
    let statuses = changes.reservations.iter().map(|n| n.reservation.status);
    let expected = [ReservationStatus::Held, ReservationStatus::Released];
    assert!(statuses.eq(expected));
}

#[test]
#[should_panic(expected = "a batch is sealed once")]
fn a_batch_is_sealed_once() {
    let mut sale = sale();
    let (_, mut changes) = decide(&mut sale, &hold(1, &[0]), 1100);
    sale.seal(at_s(1100), &mut changes);
}

#[test]
#[should_panic(expected = "S1")]
fn two_claims_of_one_seat_stop_the_owner() {
    let mut sale = sale();
    for n in [1, 2] {
        sale.load_claim(SeatNo(0), Some(reservation_id(n)), ClaimState::Held);
    }
}

#[test]
#[should_panic(expected = "S3")]
fn a_hold_without_its_claims_stops_the_owner() {
    let mut sale = sale();
    sale.load_reservation(row(1, &[0], ReservationStatus::Held, 1100));
    sale.lapse_due(Timestamp::from_micros(i64::MAX), 1, &mut Changes::default());
}
