//! What is decided when somebody writes off what went back of a payment: every state, and the order of the
//! checks.

mod common;

use common::{at_s, command_id, fingerprint, notice_id, order_id, refund_id, transfer_id, user};
use onsale_domain::settlement::{Changes, Ids, NewWriteOff, Order, Purpose, Settlement};
use onsale_schema::Money;
use onsale_schema::message::Command;
use onsale_schema::settlement::{AMOUNTS_MAX, Kind, Outcome, Refusal, WrittenOff};
use onsale_schema::status::OrderStatus;

const DEADLINE_S: i64 = 40;
const CAPTURED: i64 = 500;
const NOTE: &str = "Chargeback 4711";

fn amounts(won: &[i64]) -> Vec<Money> {
    won.iter().copied().map(Money::won).collect()
}

/// Command and fingerprint `n`, about order 1.
fn write_off(n: u128, won: &[i64]) -> Command<Kind> {
    Command {
        id: command_id(n),
        user: user(1),
        fingerprint: fingerprint(n),
        deadline: at_s(DEADLINE_S),
        trace: None,
        kind: Kind::WriteOff {
            order_id: order_id(1),
            amounts: amounts(won),
            note: NOTE.to_owned(),
        },
    }
}

fn is_sold(status: OrderStatus) -> bool {
    [
        OrderStatus::Paid,
        OrderStatus::Refunding,
        OrderStatus::Refunded,
    ]
    .contains(&status)
}

/// Somebody else's order in this state.
fn with(status: OrderStatus) -> Settlement {
    let captured = if is_sold(status) { CAPTURED } else { 0 };
    let mut settlement = Settlement::default();
    settlement.ordering.load(Order {
        order_id: order_id(1),
        purpose: Purpose::Charge,
        user_id: user(2),
        command_id: command_id(1),
        fingerprint: fingerprint(1),
        amount: Money::won(CAPTURED),
        status,
        step_no: 0,
        attempts: 0,
        payment_key: None,
        confirmed_by: None,
        notice_id: None,
        rehold_id: None,
        fail_code: None,
        captured: Money::won(captured),
        created_at: at_s(1),
    });
    settlement
}

fn decide(settlement: &mut Settlement, command: &Command<Kind>, now_s: i64) -> (Outcome, Changes) {
    let ids = Ids {
        transfer_id: transfer_id(1),
        notice_id: notice_id(1),
        refund_id: refund_id(9),
    };
    let mut changes = Changes::default();
    let outcome = settlement.decide(command, ids, at_s(now_s), &mut changes);
    (outcome, changes)
}

#[test]
fn only_what_was_sold_is_written_off_up_to_what_was_captured() {
    for status in OrderStatus::ALL {
        let too_many = vec![1; AMOUNTS_MAX + 1];
        let fine: &[&[i64]] = &[&[], &[1], &[1, 1], &[CAPTURED], &[CAPTURED - 1, 1]];
        let wrong: &[&[i64]] = &[
            &[-1],
            &[0],
            &[1, -1],
            &[CAPTURED + 1],
            &[CAPTURED, 1],
            &too_many,
        ];
        for won in fine.iter().chain(wrong) {
            let (outcome, changes) = decide(&mut with(status), &write_off(7, won), 30);
            let case = format!("{status} {won:?}");
            if !is_sold(status) {
                let conflict = Outcome::Refused(Refusal::OrderConflict { status });
                assert_eq!(outcome, conflict, "{case}");
            } else if fine.contains(won) {
                let done = WrittenOff {
                    order_id: order_id(1),
                    amounts: amounts(won),
                    at: at_s(30),
                };
                assert_eq!(outcome, Outcome::WrittenOff(done), "{case}");
                let written = NewWriteOff {
                    command_id: command_id(7),
                    fingerprint: fingerprint(7),
                    order_id: order_id(1),
                    amounts: amounts(won),
                    user_id: user(1),
                    note: NOTE.to_owned(),
                    at: at_s(30),
                };
                assert_eq!(changes.write_offs, [written], "{case}");
                // Nothing is paid by it, and nobody is told so.
                assert!(changes.refunds.is_empty() && changes.facts.is_empty());
                continue;
            } else {
                let mismatch = Outcome::Refused(Refusal::AmountMismatch);
                assert_eq!(outcome, mismatch, "{case}");
            }
            assert!(changes.is_empty(), "{case}");
        }
    }
}

#[test]
fn each_refusal_in_the_order_of_the_checks() {
    let late = DEADLINE_S + 1;
    let mut settlement = with(OrderStatus::Paid);
    let (first, _) = decide(&mut settlement, &write_off(7, &[1]), 30);
    assert!(matches!(first, Outcome::WrittenOff(_)), "{first:?}");
    let (again, changes) = decide(&mut settlement, &write_off(7, &[1]), late);
    assert_eq!((again, changes.is_empty()), (first, true));
    let mut other = write_off(7, &[2]);
    other.fingerprint = fingerprint(8);
    let (reused, _) = decide(&mut settlement, &other, late);
    assert_eq!(reused, Outcome::Refused(Refusal::KeyReused));

    let (unknown, _) = decide(&mut Settlement::default(), &write_off(7, &[1]), late);
    assert_eq!(unknown, Outcome::Refused(Refusal::NotFound));
    for status in OrderStatus::ALL {
        let (expired, _) = decide(&mut with(status), &write_off(7, &[-1]), late);
        assert_eq!(expired, Outcome::Refused(Refusal::CommandExpired));
    }
    let (conflict, _) = decide(&mut with(OrderStatus::Ready), &write_off(7, &[-1]), 30);
    let status = OrderStatus::Ready;
    assert_eq!(
        conflict,
        Outcome::Refused(Refusal::OrderConflict { status })
    );
}

/// The latest of an order counts, also of one batch.
#[test]
fn of_two_in_one_batch_the_second_one_is_later() {
    let mut settlement = with(OrderStatus::Paid);
    let moments = [(1, 300), (2, 200), (3, 100)].map(|(n, won)| {
        let (outcome, _) = decide(&mut settlement, &write_off(n, &[won]), 10);
        match outcome {
            Outcome::WrittenOff(done) => done.at,
            outcome => panic!("{outcome:?}"),
        }
    });
    assert_eq!(moments[0], at_s(10));
    assert!(moments.is_sorted_by(|a, b| a < b), "{moments:?}");
}
