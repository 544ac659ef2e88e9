//! What is a difference, and what is not.

use super::*;
use uuid::Uuid;

const AT: Timestamp = Timestamp(1_700_000_000_000_000);

fn order(n: u128, captured: i64, refunded: i64, refunding: i64, is_open: bool) -> Order {
    Order {
        order_id: PaymentOrderId(Uuid::from_u128(n)),
        amount: Money::won(if captured == 0 { 500 } else { captured }),
        captured: Money::won(captured),
        is_captured_before: false,
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
}

/// What a person does about a payment that is not what was ordered.
#[test]
fn what_was_captured_behind_us_and_given_back_in_full_is_no_difference() {
    let month = 30 * 86_400_000;
    let unconfirmed = [order(1, 0, 0, 0, false)];
    let undone = [
        entry(1, 500, month),
        entry(1, -200, month),
        entry(1, -300, month),
    ];
    let more = [entry(1, 700, month), entry(1, -700, month)];
    let twice = [undone.clone(), undone.clone()].concat();
    for (what, book) in [
        ("what was ordered", &undone[..]),
        ("more than that", &more),
        ("twice", &twice),
    ] {
        assert_eq!(differences(&unconfirmed, book), 0, "{what}");
        assert_eq!(differences(&[], book), 0, "{what}, and purged");
    }
    for (what, book) in [
        ("nothing given back", &undone[..1]),
        ("given back in part", &undone[..2]),
        ("given back alone", &undone[1..]),
    ] {
        assert_ne!(differences(&unconfirmed, book), 0, "{what}");
        assert_eq!(differences(&[], book), 1, "{what}, and purged");
    }
    // It is not as if nothing was where we have sold something for it.
    assert_ne!(differences(&[order(1, 500, 0, 0, false)], &undone), 0);
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

/// An order from before the window: what of its refunds may be in it, and what must be.
fn older(n: u128, captured: i64, refunded: i64, refunded_since: i64) -> Order {
    Order {
        is_captured_before: captured > 0,
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
    // Of what was asked for before, and was perhaps given back since, the book may have something.
    assert_eq!(
        differences(&orders, &[entry(1, -200, old), entry(1, -100, old)]),
        0
    );
    for (what, book) in [
        ("refund that never was", vec![]),
        ("refund that nobody asked for", vec![entry(1, -301, old)]),
        (
            "captured twice",
            vec![entry(1, 500, old), entry(1, -100, old)],
        ),
    ] {
        assert_eq!(differences(&orders, &book), 1, "{what}");
    }
    // What was given back before the window allows nothing in it.
    let before = [older(1, 500, 0, 0)];
    assert_eq!(differences(&before, &[]), 0);
    assert_eq!(differences(&before, &[entry(1, -50, old)]), 1);
    assert_eq!(differences(&before, &[entry(1, -50, 10)]), 0);
    let refunding = [Order {
        refunding: Money::won(50),
        ..older(1, 500, 0, 0)
    }];
    assert_eq!(differences(&refunding, &[entry(1, -50, old)]), 0);
    // We have heard of its capture only since.
    let between = [Order {
        is_captured_before: false,
        ..older(1, 500, 0, 0)
    }];
    assert_eq!(differences(&between, &[entry(1, 500, old)]), 0);
    assert_eq!(differences(&between, &[]), 0);
    assert_eq!(differences(&between, &[entry(1, 501, old)]), 1);
    // Somebody undid a capture that we never heard of.
    let unheard = [older(1, 0, 0, 0)];
    assert_eq!(differences(&unheard, &[entry(1, -500, old)]), 0);
    assert_eq!(differences(&unheard, &[entry(1, -501, old)]), 0);
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
