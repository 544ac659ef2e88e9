//! Fees, every outcome of a cancellation, what a batch writes, and property tests: the fee is within
//! the price and falls with the days that are left, seat by seat costs what all at once does, and
//! what goes back is never more than what was captured.

mod common;

use common::{
    Rng, at_s, cancellation_id, command_id, fingerprint, for_seeds, notice_id, payment_id,
    refund_id, reservation_id, schedule_id, seat_nos, transfer_id, user,
};
use onsale_domain::ledger::Cause;
use onsale_domain::settlement::{
    Asker, Captured, Changes, Ids, Reservation, Settlement, Terms, fee,
};
use onsale_schema::cancellation::{DAY_MS, Rounding, Rules, Step};
use onsale_schema::ledger::SALES_ACCOUNT;
use onsale_schema::message::Command;
use onsale_schema::settlement::{Cancellation, Fact, Kind, Outcome, Refund, Refusal};
use onsale_schema::status::{PaymentMethod, RefundStatus, ReservationStatus, TransferKind};
use onsale_schema::{AccountId, Money, PaymentOrderId, SeatNo, Timestamp, seats};
use uuid::Uuid;

const DAY_S: i64 = DAY_MS / 1000;
/// When reservations were held.
const HELD_S: i64 = -300;
/// When the show begins.
const STARTS_S: i64 = 100 * DAY_S;

fn rules(steps: &[(i64, u32)]) -> Rules {
    let step = |&(days_before, percent): &(i64, u32)| Step {
        days_before,
        percent,
    };
    Rules {
        fees: steps.iter().map(step).collect(),
        ..Rules::default()
    }
}

#[test]
fn steps_count_whole_days_before_the_beginning() {
    let steps = rules(&[(10, 0), (3, 10), (1, 20), (0, 30)]);
    for (before_s, percent) in [
        (11 * DAY_S, Some(0)),
        (10 * DAY_S, Some(0)),
        (10 * DAY_S - 1, Some(10)),
        (3 * DAY_S, Some(10)),
        (3 * DAY_S - 1, Some(20)),
        (DAY_S, Some(20)),
        (DAY_S - 1, Some(30)),
        (1, Some(30)),
        (0, None),
        (-1, None),
    ] {
        let found = fee::percent(&steps, at_s(STARTS_S), at_s(STARTS_S - before_s));
        assert_eq!(found, percent, "{before_s} s before");
    }
    let early = Rules {
        until_seconds_before: Some(DAY_S),
        ..steps.clone()
    };
    let at =
        |rules: &Rules, before_s| fee::percent(rules, at_s(STARTS_S), at_s(STARTS_S - before_s));
    assert_eq!(at(&early, DAY_S), None);
    assert_eq!(at(&early, DAY_S + 1), Some(20));
    let never = Rules {
        until_seconds_before: None,
        ..steps
    };
    assert_eq!(at(&never, 50 * DAY_S), None);
    assert_eq!(at(&Rules::default(), 1), Some(0));
}

#[test]
fn fees_are_rounded_as_is_said() {
    for (price, percent, unit, rounding, fee) in [
        (99_999, 10, 1, Rounding::HalfUp, 10_000),
        (99_999, 10, 1, Rounding::Down, 9_999),
        (5, 10, 1, Rounding::HalfUp, 1),
        (5, 10, 1, Rounding::HalfDown, 0),
        (15, 10, 1, Rounding::HalfEven, 2),
        (25, 10, 1, Rounding::HalfEven, 2),
        (1, 1, 1, Rounding::Up, 1),
        (99_000, 15, 100, Rounding::HalfUp, 14_900),
        (99_000, 15, 1000, Rounding::Down, 14_000),
        (99_000, 15, 1000, Rounding::Up, 15_000),
        // Never more than the seat costs.
        (700, 50, 1000, Rounding::Up, 700),
        (700, 100, 1000, Rounding::HalfUp, 700),
        (0, 100, 1, Rounding::Up, 0),
    ] {
        let rules = Rules {
            rounding,
            unit,
            ..Rules::default()
        };
        let found = fee::of_seats(&rules, percent, [Money::won(price)]);
        assert_eq!(
            found,
            Money::won(fee),
            "{percent} % of {price}, {rounding:?} to {unit}"
        );
    }
}

fn random_rules(rng: &mut Rng) -> Rules {
    let (mut days, mut percent) = (rng.range(0, 40), 0);
    let mut fees = Vec::new();
    while days > 0 {
        fees.push((days, u32::try_from(percent).expect("a percentage")));
        days -= rng.range(1, 15);
        percent = rng.range(percent, 100);
    }
    fees.push((0, u32::try_from(percent).expect("a percentage")));
    let roundings = [
        Rounding::HalfUp,
        Rounding::HalfDown,
        Rounding::HalfEven,
        Rounding::Up,
        Rounding::Down,
    ];
    Rules {
        rounding: *rng.pick(&roundings).expect("there are some"),
        unit: *rng.pick(&[1, 10, 100, 1000]).expect("there are some"),
        ..rules(&fees)
    }
}

#[test]
fn the_fee_is_within_the_price_and_falls_with_the_days_left() {
    for_seeds(500, |seed| {
        let mut rng = Rng::new(seed);
        let rules = random_rules(&mut rng);
        assert_eq!(rules.check(), []);
        let prices: Vec<Money> = (0..rng.range(1, 5))
            .map(|_| Money::won(rng.range(0, 200_000)))
            .collect();
        let total: Money = prices.iter().copied().sum();
        let mut before = Money::ZERO;
        for hours in (1..50 * 24).rev().step_by(7) {
            let now = at_s(STARTS_S - hours * 3600);
            let percent = fee::percent(&rules, at_s(STARTS_S), now).unwrap();
            let whole = fee::of_seats(&rules, percent, prices.iter().copied());
            assert!(Money::ZERO <= whole && whole <= total);
            assert!(before <= whole, "it never falls as the day comes nearer");
            let by_seat: Money = prices
                .iter()
                .map(|price| fee::of_seats(&rules, percent, [*price]))
                .sum();
            assert_eq!(by_seat, whole, "one by one is never cheaper");
            before = whole;
        }
    });
}

/// Command, cancellation and fingerprint `n`, by user 1.
fn cancel(n: u128, reservation: u128, seats: Option<&[i32]>) -> Command<Kind> {
    Command {
        id: command_id(n),
        user: user(1),
        fingerprint: fingerprint(n),
        deadline: at_s(STARTS_S + DAY_S),
        trace: None,
        kind: Kind::Cancel {
            cancellation_id: cancellation_id(n),
            reservation_id: reservation_id(reservation),
            seats: seats.map(seat_nos),
        },
    }
}

fn ids(n: u128) -> Ids {
    Ids {
        transfer_id: transfer_id(n),
        notice_id: notice_id(n),
        refund_id: refund_id(n),
    }
}

/// Reservation 1 of user 1: seats 1 to 3 for 1000, 2000 and 3000, paid so; user 1 has 500 points.
fn settlement(status: ReservationStatus, method: PaymentMethod, rules: Rules) -> Settlement {
    with_show(status, method, rules, false)
}

fn of_show(show_cancelled: bool, rules: Rules) -> Settlement {
    let (status, method) = (ReservationStatus::Paid, PaymentMethod::Points);
    with_show(status, method, rules, show_cancelled)
}

fn with_show(
    status: ReservationStatus,
    method: PaymentMethod,
    rules: Rules,
    show_cancelled: bool,
) -> Settlement {
    let mut settlement = Settlement::default();
    let account = AccountId::of_user(user(1));
    settlement.accounts.load(account, Money::won(500));
    settlement.load_reservation(Reservation {
        reservation_id: reservation_id(1),
        schedule_id: schedule_id(5),
        user_id: user(1),
        status,
        held_at: at_s(HELD_S),
        expires_at: at_s(HELD_S + 300),
        total: Money::won(6000),
        show_cancelled,
    });
    let price = |seat: i32| (SeatNo(seat), Money::won(1000 * i64::from(seat)));
    let terms = Terms {
        seats: (1..=3).map(price).collect(),
        cancelled: Vec::new(),
        places: [2, 3].map(|no| (SeatNo(no), "FLOOR".into())).into(),
        starts_at: at_s(STARTS_S),
        rules,
    };
    settlement.load_terms(reservation_id(1), terms);
    settlement.load_captured(reservation_id(1), captured(method));
    settlement
}

fn captured(method: PaymentMethod) -> Captured {
    Captured {
        payment_id: payment_id(1),
        method,
        order_id: match method {
            PaymentMethod::Points => None,
            PaymentMethod::Gateway => Some(PaymentOrderId(Uuid::from_u128(77))),
        },
        amount: Money::won(6000),
        refunded: Money::ZERO,
    }
}

fn paid(rules: Rules) -> Settlement {
    settlement(ReservationStatus::Paid, PaymentMethod::Points, rules)
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

/// Two days before the beginning.
fn now() -> Timestamp {
    at_s(STARTS_S - 2 * DAY_S)
}

/// The stream's clock may be ahead of the database's.
#[test]
fn nothing_is_cancelled_before_it_was_held() {
    let mut settlement = paid(rules(&[]));
    let mut changes = Changes::default();
    let early = at_s(HELD_S - 3);
    let outcome = settlement.decide(&cancel(7, 1, None), ids(7), early, &mut changes);
    let Outcome::Cancelled(cancellation) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(cancellation.at, at_s(HELD_S));
    assert_eq!(changes.cancellations[0].at, at_s(HELD_S));
    let ended_at = changes.cancelled[&reservation_id(1)].ended_at;
    assert_eq!(ended_at, Some(at_s(HELD_S)));
}

#[test]
fn places_are_chosen_when_it_is_decided() {
    let mut settlement = paid(rules(&[]));
    let mut changes = Changes::default();
    let floor = |n, seats: &[i32], count| {
        let mut command = cancel(n, 1, None);
        command.kind = Kind::CancelPlaces {
            cancellation_id: cancellation_id(n),
            reservation_id: reservation_id(1),
            seats: seat_nos(seats),
            places: vec![seats::Places {
                section: "FLOOR".into(),
                count,
            }],
        };
        command
    };
    let mut decide = |command: &Command<Kind>, n| match settlement.decide(
        command,
        ids(n),
        now(),
        &mut changes,
    ) {
        Outcome::Cancelled(cancellation) => Ok(cancellation.seats),
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    };
    // More than there ever were, and none of a section of rows.
    assert_eq!(decide(&floor(6, &[], 3), 6), Err(Refusal::UnknownSeat));
    let mut rows = floor(6, &[], 1);
    let Kind::CancelPlaces { places, .. } = &mut rows.kind else {
        panic!();
    };
    places[0].section = "A".into();
    assert_eq!(decide(&rows, 6), Err(Refusal::UnknownSeat));
    // One that is named is not chosen, too; the same command again is the same place, another one the
    // next.
    let status = ReservationStatus::Paid;
    let conflict = Err(Refusal::StateConflict { status });
    assert_eq!(decide(&floor(6, &[2], 2), 6), conflict);
    assert_eq!(decide(&floor(7, &[1], 1), 7), Ok(seat_nos(&[1, 2])));
    assert_eq!(decide(&floor(7, &[1], 1), 8), Ok(seat_nos(&[1, 2])));
    assert_eq!(decide(&floor(9, &[], 2), 9), conflict);
    assert_eq!(decide(&floor(10, &[], 1), 10), Ok(seat_nos(&[3])));
    let status = ReservationStatus::Cancelled;
    let over = Err(Refusal::StateConflict { status });
    assert_eq!(decide(&floor(11, &[], 1), 11), over);
}

#[test]
fn a_part_and_then_the_rest_go_back_but_for_their_fees() {
    let mut settlement = paid(rules(&[(3, 0), (0, 10)]));
    let mut changes = Changes::default();
    let outcome = settlement.decide(&cancel(7, 1, Some(&[2])), ids(7), now(), &mut changes);
    let refund = Some(Refund {
        method: PaymentMethod::Points,
        status: RefundStatus::Done,
    });
    let part = Cancellation {
        cancellation_id: cancellation_id(7),
        reservation_id: reservation_id(1),
        schedule_id: schedule_id(5),
        seats: seat_nos(&[2]),
        fee: Money::won(200),
        refunded: Money::won(1800),
        refund,
        at: now(),
    };
    assert_eq!(outcome, Outcome::Cancelled(part.clone()));
    let cancelled = &changes.cancelled[&reservation_id(1)];
    assert_eq!(
        (&cancelled.seats, cancelled.ended_at),
        (&seat_nos(&[2]), None)
    );
    let transfer = &changes.ledger.transfers[0];
    assert_eq!(transfer.kind, TransferKind::Refund);
    assert_eq!(transfer.cause, Cause::cancellation(cancellation_id(7)));
    assert_eq!(transfer.debit, SALES_ACCOUNT);
    assert_eq!(transfer.credit, AccountId::of_user(user(1)));
    assert_eq!(
        (transfer.amount, transfer.user_balance),
        (Money::won(1800), Money::won(2300))
    );
    let notice = seats::Kind::Cancelled {
        notice_id: notice_id(7),
        reservation_id: reservation_id(1),
        schedule_id: schedule_id(5),
        seats: seat_nos(&[2]),
        at: now(),
    };
    assert_eq!(changes.notices[0].kind, notice);

    // The same again, also when it is too late; another body; a seat that is gone.
    let late = at_s(STARTS_S + 1);
    let again = settlement.decide(&cancel(7, 1, Some(&[2])), ids(8), late, &mut changes);
    assert_eq!(again, Outcome::Cancelled(part));
    let mut other = cancel(7, 1, Some(&[1]));
    other.fingerprint = fingerprint(8);
    let reused = settlement.decide(&other, ids(8), now(), &mut changes);
    assert_eq!(reused, refused(Refusal::KeyReused));
    let gone = settlement.decide(&cancel(8, 1, Some(&[2, 3])), ids(8), now(), &mut changes);
    let status = ReservationStatus::Paid;
    assert_eq!(gone, refused(Refusal::StateConflict { status }));

    let rest = settlement.decide(&cancel(9, 1, None), ids(9), now(), &mut changes);
    let Outcome::Cancelled(rest) = rest else {
        panic!("{rest:?}")
    };
    assert_eq!(rest.seats, seat_nos(&[1, 3]));
    assert_eq!(
        (rest.fee, rest.refunded),
        (Money::won(400), Money::won(3600))
    );
    let cancelled = &changes.cancelled[&reservation_id(1)];
    assert_eq!(cancelled.seats, seat_nos(&[2, 1, 3]));
    assert_eq!(cancelled.ended_at, Some(now()));
    let facts = &changes.facts.values().next().expect("there are facts");
    assert_eq!((changes.facts.len(), facts.len()), (1, 2), "by date");
    assert!(matches!(facts[1], Fact::Cancelled { is_whole: true, .. }));
    let over = settlement.decide(&cancel(10, 1, None), ids(10), now(), &mut changes);
    let status = ReservationStatus::Cancelled;
    assert_eq!(over, refused(Refusal::StateConflict { status }));
    assert_eq!(changes.refunds.len(), 2);
}

#[test]
fn each_refusal_in_the_order_of_the_checks() {
    let conflict = |status| Refusal::StateConflict { status };
    let stranger = Command {
        user: user(2),
        ..cancel(1, 1, Some(&[9]))
    };
    let expired = Command {
        deadline: at_s(0),
        ..cancel(1, 1, Some(&[9]))
    };
    let late = at_s(STARTS_S);
    use ReservationStatus::{Cancelled, Expired, Held, Paid, Released};
    let cases = [
        (
            "unknown",
            Paid,
            cancel(1, 2, None),
            now(),
            Refusal::NotFound,
        ),
        ("somebody else's", Paid, stranger, now(), Refusal::NotFound),
        (
            "past its deadline",
            Held,
            expired,
            late,
            Refusal::CommandExpired,
        ),
        (
            "held, late",
            Held,
            cancel(1, 1, Some(&[9])),
            late,
            conflict(Held),
        ),
        (
            "released",
            Released,
            cancel(1, 1, None),
            late,
            conflict(Released),
        ),
        (
            "expired",
            Expired,
            cancel(1, 1, None),
            late,
            conflict(Expired),
        ),
        (
            "cancelled",
            Cancelled,
            cancel(1, 1, None),
            late,
            conflict(Cancelled),
        ),
        (
            "no such seat, late",
            Paid,
            cancel(1, 1, Some(&[1, 9])),
            late,
            Refusal::UnknownSeat,
        ),
        (
            "no seat",
            Paid,
            cancel(1, 1, Some(&[])),
            now(),
            Refusal::UnknownSeat,
        ),
        (
            "late",
            Paid,
            cancel(1, 1, None),
            late,
            Refusal::CancellationClosed,
        ),
    ];
    for (name, status, command, now, refusal) in cases {
        let mut settlement = settlement(status, PaymentMethod::Points, Rules::default());
        let mut changes = Changes::default();
        let outcome = settlement.decide(&command, ids(1), now, &mut changes);
        assert_eq!(outcome, refused(refusal), "{name}");
        assert!(changes.is_empty(), "{name}");
    }
}

#[test]
fn money_goes_back_the_way_that_it_came() {
    let free = Rules::default();
    let mut settlement = settlement(ReservationStatus::Paid, PaymentMethod::Gateway, free);
    let mut changes = Changes::default();
    settlement.decide(&cancel(7, 1, None), ids(7), now(), &mut changes);
    assert!(changes.ledger.is_empty(), "no points move");
    let refund = &changes.refunds[0];
    assert_eq!(refund.method, PaymentMethod::Gateway);
    assert_eq!(refund.status, RefundStatus::Pending);
    assert_eq!(
        (refund.amount, refund.transfer_id),
        (Money::won(6000), None)
    );
    assert_eq!(refund.order_id, captured(PaymentMethod::Gateway).order_id);
}

#[test]
fn where_all_is_fee_nothing_goes_back() {
    let mut settlement = paid(rules(&[(0, 100)]));
    let mut changes = Changes::default();
    let outcome = settlement.decide(&cancel(7, 1, None), ids(7), now(), &mut changes);
    let Outcome::Cancelled(made) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((made.fee, made.refund), (Money::won(6000), None));
    assert!(changes.refunds.is_empty() && changes.ledger.is_empty());
    assert_eq!((changes.cancellations.len(), changes.notices.len()), (1, 1));
}

#[test]
fn a_cancelled_show_refunds_all_that_is_left_whatever_the_rules() {
    let never = Rules {
        until_seconds_before: None,
        ..rules(&[(0, 50)])
    };
    let mut settlement = paid(rules(&[(0, 50)]));
    let mut changes = Changes::default();
    settlement.decide(&cancel(7, 1, Some(&[1])), ids(7), now(), &mut changes);
    let asker = Asker {
        command_id: command_id(20),
        fingerprint: fingerprint(20),
        user_id: user(9),
        of_show: true,
    };
    let id = reservation_id(1);
    let made = settlement
        .cancel_for_show(id, cancellation_id(20), asker, ids(20), now(), &mut changes)
        .unwrap();
    // The fee of who had cancelled a seat before stays.
    assert_eq!((made.fee, made.refunded), (Money::ZERO, Money::won(5000)));
    assert_eq!(
        changes.refunds[1].user_id,
        user(1),
        "the buyer, not who cancelled"
    );
    let again =
        settlement.cancel_for_show(id, cancellation_id(21), asker, ids(21), now(), &mut changes);
    assert_eq!(again, None);

    // A buyer who is quicker than the show's cancellation loses nothing by it.
    for (show_cancelled, back) in [(true, Some(Money::won(6000))), (false, None)] {
        let mut settlement = of_show(show_cancelled, never.clone());
        let outcome = settlement.decide(&cancel(8, 1, None), ids(8), now(), &mut changes);
        match back {
            Some(back) => {
                assert!(matches!(outcome, Outcome::Cancelled(made) if made.refunded == back));
            }
            None => assert_eq!(outcome, refused(Refusal::CancellationClosed)),
        }
    }
}

/// Random cancellations at random times: what goes back and what stays are the price.
#[test]
fn refunds_and_fees_make_the_price() {
    for_seeds(500, |seed| {
        let mut rng = Rng::new(seed);
        let mut settlement = paid(random_rules(&mut rng));
        let mut changes = Changes::default();
        let mut at = STARTS_S - 50 * DAY_S;
        for n in 0..8 {
            at += rng.range(0, 10 * DAY_S);
            let seat = i32::try_from(rng.range(1, 3)).unwrap();
            let some = [seat];
            let wanted = rng.percent(80).then_some(&some[..]);
            settlement.decide(&cancel(n, 1, wanted), ids(n), at_s(at), &mut changes);
        }
        let back: Money = changes.refunds.iter().map(|r| r.amount).sum();
        let fees: Money = changes.cancellations.iter().map(|c| c.fee).sum();
        let prices: Money = changes.cancellations.iter().map(|c| c.price).sum();
        assert_eq!(back + fees, prices);
        assert!(back <= Money::won(6000), "P3");
        let moved: Money = changes.ledger.transfers.iter().map(|t| t.amount).sum();
        assert_eq!(moved, back);
        if let Some(balance) = changes.ledger.balances.get(&AccountId::of_user(user(1))) {
            assert_eq!(*balance, Money::won(500) + back, "L1");
        }
        let is_whole = prices == Money::won(6000);
        let ended = changes
            .cancelled
            .get(&reservation_id(1))
            .and_then(|c| c.ended_at);
        assert_eq!(ended.is_some(), is_whole);
    });
}
