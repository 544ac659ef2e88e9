//! What is a difference, and what is not.

use super::*;
use uuid::Uuid;

const AT: Timestamp = Timestamp(1_700_000_000_000_000);

fn order(n: u128, captured: i64, refunded: i64, refunding: i64, is_open: bool) -> Order {
    Order {
        order_id: PaymentOrderId(Uuid::from_u128(n)),
        amount: Money::won(if captured == 0 { 500 } else { captured }),
        captured: Money::won(captured),
        refunded: Money::won(refunded),
        refunded_since: Money::won(refunded),
        refunding: Money::won(refunding),
        is_open,
        is_whole: true,
    }
}

fn entry(n: u128, amount: i64, age_ms: i64) -> Transaction {
    let (movement, amount) = if amount < 0 {
        (Movement::Refund, -amount)
    } else {
        (Movement::Capture, amount)
    };
    Transaction {
        transaction_key: "t".parse().unwrap(),
        payment_key: "p".parse().unwrap(),
        order_id: Uuid::from_u128(n).into(),
        movement,
        amount: Money::won(amount),
        at: AT.plus_ms(-age_ms),
    }
}

fn differences(orders: &[Order], book: &[Transaction]) -> usize {
    super::differences(orders, book, AT).len()
}

#[test]
fn the_same_on_both_sides_is_no_difference() {
    let old = 60_000;
    assert_eq!(differences(&[], &[]), 0);
    let orders = [order(1, 1000, 300, 0, false), order(2, 0, 0, 0, false)];
    let book = [
        entry(1, 1000, old),
        entry(1, -100, old),
        entry(1, -200, old),
    ];
    assert_eq!(differences(&orders, &book), 0);
    // Somebody gave it back before we had heard of it.
    let undone = [entry(1, 500, old), entry(1, -200, old), entry(1, -300, old)];
    assert_eq!(differences(&[order(1, 0, 0, 0, false)], &undone), 0);
    assert_eq!(differences(&[order(1, 0, 0, 0, false)], &undone[..2]), 2);
    let twice = [undone.clone(), undone].concat();
    assert_eq!(differences(&[order(1, 0, 0, 0, false)], &twice), 2);
}

#[test]
fn what_is_on_its_way_may_be_in_the_book_alone() {
    let old = 60_000;
    assert_eq!(
        differences(&[order(1, 0, 0, 0, true)], &[entry(1, 500, old)]),
        0
    );
    assert_eq!(
        differences(&[order(1, 0, 0, 0, false)], &[entry(1, 500, 10)]),
        0
    );
    let refunding = [order(1, 500, 100, 400, false)];
    let book = [entry(1, 500, old), entry(1, -100, old), entry(1, -400, old)];
    assert_eq!(differences(&refunding, &book), 0);
    assert_eq!(differences(&refunding, &book[..2]), 0);
    assert_eq!(differences(&[], &[entry(7, 500, 10)]), 0);
}

#[test]
fn what_one_side_says_alone_is_a_difference() {
    let old = 60_000;
    for (what, orders, book) in [
        ("never captured", vec![order(1, 500, 0, 0, false)], vec![]),
        (
            "another sum",
            vec![order(1, 500, 0, 0, false)],
            vec![entry(1, 400, old)],
        ),
        (
            "captured twice",
            vec![order(1, 500, 0, 0, false)],
            vec![entry(1, 500, old), entry(1, 500, old)],
        ),
        (
            "captured, not noticed",
            vec![order(1, 0, 0, 0, false)],
            vec![entry(1, 500, old)],
        ),
        (
            "captured twice while it is open",
            vec![order(1, 0, 0, 0, true)],
            vec![entry(1, 500, old), entry(1, 500, 10)],
        ),
        ("unknown order", vec![], vec![entry(1, 500, old)]),
        (
            "refund that never was",
            vec![order(1, 500, 500, 0, false)],
            vec![entry(1, 500, old)],
        ),
        (
            "refund that nobody asked for",
            vec![order(1, 500, 0, 100, false)],
            vec![entry(1, 500, old), entry(1, -200, old)],
        ),
    ] {
        assert_eq!(differences(&orders, &book), 1, "{what}");
    }
    let strange = Transaction {
        order_id: "somebody-elses".parse().unwrap(),
        ..entry(1, 500, 10)
    };
    assert_eq!(differences(&[], &[strange]), 1);
}

/// An order from before the window, whose later refunds are in it.
fn older(n: u128, captured: i64, refunded: i64, refunded_since: i64) -> Order {
    Order {
        refunded_since: Money::won(refunded_since),
        is_whole: false,
        ..order(n, captured, refunded, 0, false)
    }
}

#[test]
fn of_an_older_order_its_beginning_may_be_missing() {
    let old = 60_000;
    let orders = [older(1, 500, 300, 100)];
    assert_eq!(differences(&orders, &[entry(1, -100, old)]), 0);
    // Of what was given back before, the book may or may not have something.
    assert_eq!(
        differences(&orders, &[entry(1, -200, old), entry(1, -100, old)]),
        0
    );
    for (what, book) in [
        ("refund that never was", vec![]),
        ("refund that nobody asked for", vec![entry(1, -301, old)]),
        (
            "captured twice",
            vec![entry(1, 501, old), entry(1, -100, old)],
        ),
    ] {
        assert_eq!(differences(&orders, &book), 1, "{what}");
    }
    // Somebody undid a capture that we never heard of.
    let unheard = [older(1, 0, 0, 0)];
    assert_eq!(differences(&unheard, &[entry(1, -500, old)]), 0);
    assert_eq!(differences(&unheard, &[entry(1, -501, old)]), 1);
    assert_eq!(differences(&unheard, &[entry(1, 500, old)]), 1);
    assert_eq!(differences(&unheard, &[]), 0);
}

#[test]
fn it_says_what_was_compared() {
    let ours = |orders: &[Order]| Ours {
        orders: orders.to_vec(),
        since: AT.plus_ms(-60_000),
        at: AT,
    };
    let whole = ours(&[order(1, 0, 0, 0, false)]).compare_with(&[]);
    assert_eq!(whole.what, "compared with 0 entries of the gateway's book");
    let partly = ours(&[older(1, 500, 0, 0), order(2, 0, 0, 0, false)]).compare_with(&[]);
    assert_eq!(partly.differences, Vec::<String>::new());
    let said = partly.what;
    assert!(
        said.starts_with("compared in part, with 0 entries"),
        "{said}"
    );
    assert!(said.contains("since 2023-11-14T22:12:20.000Z"), "{said}");
    assert!(said.contains("of 1 orders"), "{said}");
}
