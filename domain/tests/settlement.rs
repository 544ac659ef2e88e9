//! Every outcome of a payment, the order of the checks, what a batch writes, and a property test
//! against a plain retelling of the rules.

mod common;

use common::{
    Rng, at_s, command_id, fingerprint, for_seeds, notice_id, payment_id, refund_id,
    reservation_id, schedule_id, transfer_id, user,
};
use onsale_domain::ledger::Cause;
use onsale_domain::settlement::{
    Changes, INSUFFICIENT_POINTS, Ids, NewNotice, NewPayment, Reservation, Settlement,
};
use onsale_schema::ledger::SALES_ACCOUNT;
use onsale_schema::message::Command;
use onsale_schema::settlement::{Kind, Outcome, Payment, Refusal};
use onsale_schema::status::{PaymentMethod, PaymentStatus, ReservationStatus, TransferKind};
use onsale_schema::{AccountId, Money, ReservationId, Timestamp, seats};
use std::collections::BTreeMap;

const EXPIRES_S: i64 = 50;
const DEADLINE_S: i64 = 40;

/// Command, payment and fingerprint `n`, of user 1.
fn pay(n: u128, reservation: u128) -> Command<Kind> {
    Command {
        id: command_id(n),
        user: user(1),
        fingerprint: fingerprint(n),
        deadline: at_s(DEADLINE_S),
        trace: None,
        kind: Kind::Pay {
            payment_id: payment_id(n),
            reservation_id: reservation_id(reservation),
            method: PaymentMethod::Points,
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

fn reservation(n: u128, status: ReservationStatus, total: i64) -> Reservation {
    Reservation {
        reservation_id: reservation_id(n),
        schedule_id: schedule_id(5),
        user_id: user(1),
        status,
        held_at: Timestamp::EPOCH,
        expires_at: at_s(EXPIRES_S),
        total: Money::won(total),
        show_cancelled: false,
    }
}

fn payment(n: u128, reservation: u128, amount: i64, paid_at: Timestamp) -> Payment {
    Payment {
        payment_id: payment_id(n),
        reservation_id: reservation_id(reservation),
        amount: Money::won(amount),
        paid_at,
    }
}

fn settlement(balance: i64, reservations: &[Reservation]) -> Settlement {
    let mut settlement = Settlement::default();
    let account = AccountId::of_user(user(1));
    settlement.accounts.load(account, Money::won(balance));
    for reservation in reservations {
        settlement.load_reservation(reservation.clone());
    }
    settlement
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

#[test]
fn a_payment_moves_points_and_tells_the_owner_of_the_seats() {
    let held = reservation(1, ReservationStatus::Held, 300);
    let mut settlement = settlement(500, &[held]);
    let mut changes = Changes::default();
    let outcome = settlement.decide(&pay(7, 1), ids(7), at_s(30), &mut changes);
    assert_eq!(outcome, Outcome::Paid(payment(7, 1, 300, at_s(30))));
    let row = NewPayment {
        payment_id: payment_id(7),
        reservation_id: reservation_id(1),
        user_id: user(1),
        command_id: command_id(7),
        fingerprint: fingerprint(7),
        method: PaymentMethod::Points,
        amount: Money::won(300),
        status: PaymentStatus::Paid,
        fail_code: None,
        transfer_id: Some(transfer_id(7)),
        order_id: None,
        at: at_s(30),
    };
    assert_eq!(changes.payments, [row]);
    assert_eq!(changes.paid, [reservation_id(1)]);
    let notice = NewNotice {
        notice_id: notice_id(7),
        subject: notice_id(7).0,
        kind: seats::Kind::PaidAll {
            notice_id: notice_id(7),
            reservation_ids: vec![reservation_id(1)],
            schedule_id: schedule_id(5),
        },
    };
    assert_eq!(changes.notices, [notice]);
    let transfer = &changes.ledger.transfers[0];
    assert_eq!(transfer.cause, Cause::payment(reservation_id(1)));
    assert_eq!(transfer.kind, TransferKind::Payment);
    assert_eq!(transfer.debit, AccountId::of_user(user(1)));
    assert_eq!(transfer.credit, SALES_ACCOUNT);
    assert_eq!(transfer.user_balance, Money::won(200));
}

#[test]
fn each_refusal_in_the_order_of_the_checks() {
    let conflict = |status| Refusal::StateConflict { status };
    let stranger = Command {
        user: user(2),
        ..pay(1, 1)
    };
    let late = DEADLINE_S + 1;
    // The balance of 0 is too little in every case: each check comes before it.
    let cases = [
        (
            "reused, late",
            ReservationStatus::Paid,
            pay(9, 1),
            late,
            Refusal::KeyReused,
        ),
        (
            "unknown, late",
            ReservationStatus::Held,
            pay(1, 2),
            late,
            Refusal::NotFound,
        ),
        (
            "somebody else's, late",
            ReservationStatus::Paid,
            stranger,
            late,
            Refusal::NotFound,
        ),
        (
            "paid, late",
            ReservationStatus::Paid,
            pay(1, 1),
            late,
            Refusal::CommandExpired,
        ),
        (
            "paid",
            ReservationStatus::Paid,
            pay(1, 1),
            40,
            Refusal::AlreadyPaid,
        ),
        (
            "released",
            ReservationStatus::Released,
            pay(1, 1),
            40,
            conflict(ReservationStatus::Released),
        ),
        (
            "cancelled",
            ReservationStatus::Cancelled,
            pay(1, 1),
            40,
            conflict(ReservationStatus::Cancelled),
        ),
        (
            "expired",
            ReservationStatus::Expired,
            pay(1, 1),
            40,
            Refusal::HoldExpired,
        ),
    ];
    for (name, status, command, now, refusal) in cases {
        let mut settlement = settlement(0, &[reservation(1, status, 300)]);
        let other = payment(9, 8, 1, at_s(1));
        settlement.load_payment(command_id(9), fingerprint(99), other);
        let mut changes = Changes::default();
        let outcome = settlement.decide(&command, ids(1), at_s(now), &mut changes);
        assert_eq!(outcome, refused(refusal), "{name}");
        assert!(changes.is_empty(), "{name}");
    }
}

#[test]
fn a_hold_is_over_at_its_last_moment() {
    let patient = Command {
        deadline: at_s(100),
        ..pay(1, 1)
    };
    for (now, balance, expected) in [
        (EXPIRES_S, 0, Some(Refusal::HoldExpired)),
        (EXPIRES_S - 1, 299, Some(Refusal::InsufficientPoints)),
        (EXPIRES_S - 1, 300, None),
    ] {
        let held = reservation(1, ReservationStatus::Held, 300);
        let mut settlement = settlement(balance, &[held]);
        let outcome = settlement.decide(&patient, ids(1), at_s(now), &mut Changes::default());
        match expected {
            Some(refusal) => assert_eq!(outcome, refused(refusal)),
            None => assert!(matches!(outcome, Outcome::Paid(_))),
        }
    }
}

#[test]
fn too_few_points_are_recorded_as_a_failed_attempt() {
    let held = reservation(1, ReservationStatus::Held, 300);
    let mut settlement = settlement(299, std::slice::from_ref(&held));
    let mut changes = Changes::default();
    let outcome = settlement.decide(&pay(1, 1), ids(1), at_s(30), &mut changes);
    assert_eq!(outcome, refused(Refusal::InsufficientPoints));
    assert_eq!(changes.payments.len(), 1);
    let row = &changes.payments[0];
    assert_eq!(row.status, PaymentStatus::Failed);
    assert_eq!(row.fail_code, Some(INSUFFICIENT_POINTS));
    assert_eq!(row.transfer_id, None);
    assert!(changes.paid.is_empty() && changes.notices.is_empty());
    assert!(changes.ledger.is_empty());

    // The same delivery again is the same attempt, in this batch and later.
    let again = settlement.decide(&pay(1, 1), ids(2), at_s(30), &mut changes);
    assert_eq!(again, outcome);
    assert_eq!(changes.payments.len(), 1);
    let mut settlement = self::settlement(300, &[held]);
    settlement.load_failed(payment_id(1));
    let again = settlement.decide(&pay(1, 1), ids(2), at_s(30), &mut changes);
    assert_eq!(again, outcome);
    // The client's retry with the same key is a new attempt.
    let mut retry = pay(1, 1);
    retry.kind = pay(2, 1).kind;
    let paid = settlement.decide(&retry, ids(3), at_s(30), &mut changes);
    assert_eq!(paid, Outcome::Paid(payment(2, 1, 300, at_s(30))));
}

#[test]
fn a_price_of_zero_is_paid_without_a_transfer() {
    let free = reservation(1, ReservationStatus::Held, 0);
    let mut settlement = settlement(0, &[free]);
    let mut changes = Changes::default();
    let outcome = settlement.decide(&pay(1, 1), ids(1), at_s(30), &mut changes);
    assert_eq!(outcome, Outcome::Paid(payment(1, 1, 0, at_s(30))));
    assert_eq!(changes.payments[0].transfer_id, None);
    assert!(changes.ledger.is_empty());
    assert_eq!((changes.paid.len(), changes.notices.len()), (1, 1));
}

#[test]
fn the_same_payment_again_gets_the_same_answer() {
    let held = reservation(1, ReservationStatus::Held, 300);
    let mut settlement = settlement(300, &[held]);
    let mut changes = Changes::default();
    let first = settlement.decide(&pay(1, 1), ids(1), at_s(30), &mut changes);
    let written = changes.clone();
    let mut retry = pay(1, 1);
    retry.kind = pay(2, 1).kind;
    // Past its deadline and the hold's end, with no points left.
    assert_eq!(
        settlement.decide(&retry, ids(2), at_s(99), &mut changes),
        first
    );
    retry.fingerprint = fingerprint(9);
    let reused = settlement.decide(&retry, ids(3), at_s(30), &mut changes);
    assert_eq!(reused, refused(Refusal::KeyReused));
    // Another key for the same reservation: the first has won.
    let other = settlement.decide(&pay(4, 1), ids(4), at_s(30), &mut changes);
    assert_eq!(other, refused(Refusal::AlreadyPaid));
    assert_eq!(changes, written);

    // In a later batch.
    let mut settlement = self::settlement(0, &[reservation(1, ReservationStatus::Paid, 300)]);
    settlement.load_payment(command_id(1), fingerprint(1), payment(1, 1, 300, at_s(30)));
    let again = settlement.decide(&pay(1, 1), ids(5), at_s(99), &mut Changes::default());
    assert_eq!(again, first);
}

/// The reservations of which the owners of seats are told.
fn told(changes: &Changes) -> Vec<ReservationId> {
    let told = changes.notices.iter().map(|notice| match &notice.kind {
        seats::Kind::PaidAll {
            reservation_ids, ..
        } => reservation_ids.clone(),
        other => panic!("{other:?}"),
    });
    told.collect::<Vec<_>>().concat()
}

#[test]
fn owners_are_told_of_many_payments_at_once() {
    let count = seats::PAID_MAX as u128 + 2;
    let held: Vec<_> = (1..=count)
        .map(|n| reservation(n, ReservationStatus::Held, 1))
        .collect();
    let mut settlement = settlement(500, &held);
    let mut changes = Changes::default();
    for n in 1..=count {
        let paid = settlement.decide(&pay(n, n), ids(n), at_s(30), &mut changes);
        assert!(matches!(paid, Outcome::Paid(_)));
    }
    assert_eq!(told(&changes), changes.paid);
    let ids: Vec<_> = changes.notices.iter().map(|n| n.notice_id).collect();
    let second = seats::PAID_MAX as u128 + 1;
    assert_eq!(ids, [notice_id(1), notice_id(second)]);
    assert!(changes.notices.iter().all(|n| n.subject == n.notice_id.0));
}

#[test]
fn two_payments_of_one_user_spend_no_point_twice() {
    let held = [1, 2].map(|n| reservation(n, ReservationStatus::Held, 300));
    let mut settlement = settlement(500, &held);
    let mut changes = Changes::default();
    let first = settlement.decide(&pay(1, 1), ids(1), at_s(30), &mut changes);
    let second = settlement.decide(&pay(2, 2), ids(2), at_s(30), &mut changes);
    assert!(matches!(first, Outcome::Paid(_)));
    assert_eq!(second, refused(Refusal::InsufficientPoints));
    assert_eq!(changes.paid, [reservation_id(1)]);
    let failed = &changes.payments[1];
    assert_eq!(failed.reservation_id, reservation_id(2));
    assert_eq!(failed.status, PaymentStatus::Failed);
    assert_eq!(failed.fail_code, Some(INSUFFICIENT_POINTS));
    assert_eq!(failed.transfer_id, None);
    assert_eq!(changes.ledger.transfers.len(), 1);
    let balance = changes.ledger.balances[&AccountId::of_user(user(1))];
    assert_eq!(balance, Money::won(200));
}

#[test]
#[should_panic(expected = "P1")]
fn a_held_reservation_with_a_live_payment_stops_the_batch() {
    let mut settlement = settlement(500, &[reservation(1, ReservationStatus::Held, 300)]);
    settlement.load_payment(command_id(9), fingerprint(9), payment(9, 1, 300, at_s(1)));
    settlement.decide(&pay(1, 1), ids(1), at_s(30), &mut Changes::default());
}

/// Random batches of payments against sums that are kept by hand.
#[test]
fn what_is_paid_is_captured_once() {
    for_seeds(1000, |seed| {
        let mut rng = Rng::new(seed);
        let mut balance = rng.range(0, 2000);
        let mut rows: Vec<_> = (0..6)
            .map(|n| reservation(n, ReservationStatus::Held, rng.range(0, 5) * 100))
            .collect();
        let mut live: BTreeMap<u128, (u128, Payment)> = BTreeMap::new();
        for _ in 0..4 {
            let mut settlement = settlement(balance, &rows);
            for (command, (_, payment)) in &live {
                let (id, print) = (command_id(*command), fingerprint(*command));
                settlement.load_payment(id, print, payment.clone());
            }
            let mut changes = Changes::default();
            for _ in 0..5 {
                let command = u128::try_from(rng.range(100, 115)).unwrap();
                let n = command % 6;
                let now = at_s(rng.range(20, 45));
                let mut asked = pay(command, n);
                asked.kind = pay(rng.uuid().as_u128(), n).kind;
                let row = &mut rows[usize::try_from(n).unwrap()];
                let expected = if let Some((_, payment)) = live.get(&command) {
                    Outcome::Paid(payment.clone())
                } else if now > at_s(DEADLINE_S) {
                    refused(Refusal::CommandExpired)
                } else if row.status == ReservationStatus::Paid {
                    refused(Refusal::AlreadyPaid)
                } else if balance < row.total.to_won() {
                    refused(Refusal::InsufficientPoints)
                } else {
                    balance -= row.total.to_won();
                    row.status = ReservationStatus::Paid;
                    let Kind::Pay { payment_id, .. } = asked.kind else {
                        unreachable!("only payments are asked");
                    };
                    let payment = Payment {
                        payment_id,
                        ..payment(0, n, row.total.to_won(), now)
                    };
                    live.insert(command, (n, payment.clone()));
                    Outcome::Paid(payment)
                };
                let any = ids(rng.uuid().as_u128());
                assert_eq!(settlement.decide(&asked, any, now, &mut changes), expected);
            }
            let account = AccountId::of_user(user(1));
            if let Some(written) = changes.ledger.balances.get(&account) {
                assert_eq!(*written, Money::won(balance));
            }
            let is_paid = |p: &&NewPayment| p.status == PaymentStatus::Paid;
            let paid: Vec<_> = changes.payments.iter().filter(is_paid).collect();
            assert_eq!(paid.len(), changes.paid.len());
            assert_eq!(told(&changes), changes.paid);
            let captured: Money = paid.iter().map(|p| p.amount).sum();
            let moved: Money = changes.ledger.transfers.iter().map(|t| t.amount).sum();
            assert_eq!(captured, moved, "P1");
        }
        let mut reservations: Vec<_> = live.values().map(|(n, _)| n).collect();
        reservations.sort_unstable();
        reservations.dedup();
        assert_eq!(reservations.len(), live.len(), "P1");
    });
}
