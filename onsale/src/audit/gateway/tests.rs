//! What is a difference, and what is not.

use super::*;
use onsale_workers::gateway::{Payment, Refunded, Status};
use uuid::Uuid;

const AT: Timestamp = Timestamp(1_700_000_000_000_000);

fn order(n: u128, captured: i64, refunded: i64, refunding: i64, is_open: bool) -> Order {
    Order {
        order_id: PaymentOrderId(Uuid::from_u128(n)),
        payment_key: None,
        amount: Money::won(if captured == 0 { 500 } else { captured }),
        captured: Money::won(captured),
        is_captured_before: false,
        refunded: Money::won(refunded),
        refunded_since: Money::won(refunded),
        refunded_ever: Money::won(refunded),
        written_off: Money::ZERO,
        refunding: Money::won(refunding),
        is_open,
        is_whole: true,
        is_odd: false,
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

/// What comes of holding a snapshot's orders against a book.
fn held(orders: &[Order], book: &[Transaction]) -> (Vec<Difference>, Vec<Doubt>) {
    let mut held = Held::of(book, AT);
    for order in orders {
        held.hold(order, Read::BeforeTheBook);
    }
    held.hold_nothing();
    (held.differences, held.doubts)
}

/// What differs where no payment has to be looked up.
#[track_caller]
fn differences(orders: &[Order], book: &[Transaction]) -> usize {
    let (differences, doubts) = held(orders, book);
    assert!(doubts.is_empty(), "{doubts:?}");
    differences.len()
}

/// A payment of order `n`: what was captured, and what was given back, each so long ago.
fn payment(n: u128, captured: (i64, i64), given: &[(i64, i64)]) -> Payment {
    let back: i64 = given.iter().map(|(amount, _)| amount).sum();
    let cancel = |(amount, age_ms): &(i64, i64)| Refunded {
        transaction_key: "t".parse().unwrap(),
        refund_id: None,
        amount: Money::won(*amount),
        at: AT.plus_ms(-age_ms),
    };
    Payment {
        payment_key: "p".parse().unwrap(),
        order_id: Uuid::from_u128(n).into(),
        status: match (captured.0, captured.0 - back) {
            (0, _) => Status::Aborted,
            (_, 0) => Status::Canceled,
            (_, _) if back > 0 => Status::PartialCanceled,
            (_, _) => Status::Done,
        },
        total: Money::won(captured.0),
        balance: Money::won(captured.0 - back),
        cancels: given.iter().map(cancel).collect(),
        approved_at: Some(AT.plus_ms(-captured.1)),
    }
}

/// What differs when exactly one payment is looked up, and the gateway says this of it.
#[track_caller]
fn looked_up(orders: &[Order], book: &[Transaction], payment: Option<&Payment>) -> usize {
    let (differences, mut doubts) = held(orders, book);
    let doubt = doubts.pop().expect("a payment is looked up");
    assert!(doubts.is_empty(), "{doubts:?}");
    differences.len() + doubt.settle(payment, AT).len()
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
    ] {
        assert_ne!(differences(&unconfirmed, book), 0, "{what}");
        assert_eq!(differences(&[], book), 1, "{what}, and purged");
    }
    // It can't be older than the window, as the order isn't.
    assert_ne!(differences(&unconfirmed, &undone[1..]), 0);
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
        ("refund that nobody asked for", vec![entry(1, -301, old)]),
        (
            "captured twice",
            vec![entry(1, 500, old), entry(1, -100, old)],
        ),
    ] {
        assert_eq!(differences(&orders, &book), 1, "{what}");
    }
    // A refund that never was: it is in the window no more than before it.
    let without = payment(1, (500, 2 * old), &[(200, 2 * old)]);
    assert_eq!(looked_up(&orders, &[], Some(&without)), 1);
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
    let unheard = [older(1, 0, 0, 0)];
    assert_eq!(differences(&unheard, &[entry(1, 500, old)]), 1);
    assert_eq!(differences(&unheard, &[]), 0);
}

/// Somebody undid a capture that we never heard of, and that is older than the window, be the order purged
/// since or not: by the book alone nobody knows whether that was all.
#[test]
fn what_was_captured_before_the_window_is_looked_up_when_it_is_given_back() {
    let (old, month) = (60_000, 30 * 86_400_000);
    for orders in [&[older(1, 0, 0, 0)][..], &[]] {
        for (captured, before, since, differences) in [
            (500, 0, 500, 0),
            (501, 0, 501, 0),
            (700, 200, 500, 0),
            (700, 0, 500, 1),
            (700, 100, 500, 1),
        ] {
            let book = [entry(1, -since, old)];
            let given = [(before, month), (since, old)];
            let payment = payment(1, (captured, month), &given);
            let case = format!("{captured} {before} {since} {}", orders.len());
            assert_eq!(
                looked_up(orders, &book, Some(&payment)),
                differences,
                "{case}"
            );
        }
        // A gateway whose book has what it does not know is not right.
        let book = [entry(1, -500, old)];
        assert_eq!(looked_up(orders, &book, None), 1);
        let never = payment(1, (0, month), &[]);
        assert_eq!(looked_up(orders, &book, Some(&never)), 1);
    }
}

/// Somebody gave it back at the gateway before the window, and here it was asked for in it.
#[test]
fn what_is_missing_in_the_window_is_looked_up() {
    let (old, month) = (60_000, 30 * 86_400_000);
    let refunded = |ever| Order {
        refunded_ever: Money::won(ever),
        ..older(1, 500, 200, 200)
    };
    for (what, ever, given, differences) in [
        ("before it", 200, &[(200, month)][..], 0),
        ("not at all", 200, &[], 1),
        ("less", 200, &[(199, month)], 1),
        ("more", 200, &[(201, month)], 1),
        ("more, just now", 200, &[(200, month), (50, 10)], 0),
        ("once for two", 400, &[(200, month)], 1),
        ("each of two", 400, &[(200, month), (200, month)], 0),
    ] {
        let payment = payment(1, (500, month), given);
        let found = looked_up(&[refunded(ever)], &[], Some(&payment));
        assert_eq!(found, differences, "{what}");
    }
    assert_eq!(looked_up(&[refunded(200)], &[], None), 1);
    // What was captured is held against the window as ever.
    let again = [entry(1, 500, old)];
    let payment = payment(1, (500, month), &[(200, month)]);
    assert_eq!(looked_up(&[refunded(200)], &again, Some(&payment)), 1);
    // Nobody looks for what is all in the window.
    assert_eq!(
        differences(&[order(1, 500, 200, 0, false)], &[entry(1, 500, old)]),
        1
    );
}

/// However old the money of an odd order is, and whatever the order has come to.
#[test]
fn an_odd_order_is_right_only_when_it_was_put_right() {
    let (old, month) = (60_000, 30 * 86_400_000);
    let odd = |order: Order| Order {
        is_odd: true,
        ..order
    };
    let paid = odd(older(1, 500, 0, 0));
    let unpaid = odd(older(1, 0, 0, 0));
    for (what, order, captured, given, differences) in [
        ("another amount", &unpaid, 700, &[][..], 1),
        ("given back in part", &unpaid, 700, &[(200, month)], 2),
        ("as it was ordered", &unpaid, 500, &[], 1),
        ("put right", &unpaid, 700, &[(700, month)], 0),
        ("not captured", &unpaid, 0, &[], 0),
        (
            "paid, and given back in part",
            &paid,
            500,
            &[(200, month)],
            1,
        ),
        ("paid, and given back", &paid, 500, &[(500, month)], 1),
        ("paid, and captured again", &paid, 600, &[], 1),
        ("paid, and put right", &paid, 500, &[], 0),
    ] {
        let payment = payment(1, (captured, month), given);
        for (when, is_whole) in [("before the window", false), ("in no entry", true)] {
            let order = Order {
                is_whole: is_whole && order.captured == Money::ZERO,
                ..order.clone()
            };
            let found = looked_up(&[order], &[], Some(&payment));
            assert_eq!(found, differences, "{what}, {when}");
        }
    }
    assert_eq!(looked_up(std::slice::from_ref(&unpaid), &[], None), 0);
    assert_eq!(looked_up(&[paid], &[], None), 1);
    // What the window says already is said once.
    let (found, doubts) = held(&[odd(order(1, 0, 0, 0, false))], &[entry(1, 700, old)]);
    assert_eq!((found.len(), doubts.len()), (1, 0));
    assert!(found[0].says.contains("odd"), "{found:?}");
    let back = payment(1, (700, month), &[(200, old)]);
    let given = [entry(1, -200, old)];
    assert_eq!(looked_up(&[unpaid], &given, Some(&back)), 1);
}

#[test]
fn a_doubt_is_about_the_payment_that_the_book_names_or_else_ours() {
    let odd = Order {
        payment_key: Some("ours".to_owned()),
        is_odd: true,
        ..older(1, 0, 0, 0)
    };
    let undone = [entry(1, -500, 60_000)];
    for (orders, book, expected) in [
        (&[odd.clone()][..], &[][..], "ours"),
        (&[odd], &undone, "p"),
        (&[], &undone, "p"),
        (&[older(1, 0, 0, 0)], &undone, "p"),
    ] {
        let mut held = Held::of(book, AT);
        for order in orders {
            held.hold(order, Read::BeforeTheBook);
        }
        held.hold_nothing();
        let keys = held.doubts.iter().map(|doubt| held.payment_key(doubt));
        let keys: Vec<_> = keys.flatten().collect();
        assert_eq!(keys, [expected.parse().unwrap()]);
    }
}

#[test]
fn it_says_what_was_compared() {
    let ours = |older| Ours {
        orders: Vec::new(),
        older,
        since: AT.plus_ms(-60_000),
        at: AT,
    };
    assert_eq!(
        ours(0).what(0),
        "compared with 0 entries of the gateway's book"
    );
    let said = ours(1).what(0);
    assert!(
        said.starts_with("compared in part, with 0 entries"),
        "{said}"
    );
    assert!(said.contains("since 2023-11-14T22:12:20.000Z"), "{said}");
    assert!(said.contains("of 1 orders"), "{said}");
}

/// Between the book and the row that is read after it, an order may have moved on.
#[test]
fn what_a_row_says_beyond_an_older_book_is_looked_up() {
    let old = 60_000;
    let after = |order: &Order, book: &[Transaction], payment: &Payment| {
        let mut held = Held::of(book, AT);
        held.hold(order, Read::AfterTheBook);
        held.hold_nothing();
        let doubts = std::mem::take(&mut held.doubts).into_iter();
        let looked_up = doubts.len();
        let settled = doubts.flat_map(|doubt| doubt.settle(Some(payment), AT));
        (looked_up, settled.count() + held.differences.len())
    };
    let (young, given) = (order(1, 500, 0, 0, false), order(1, 500, 200, 0, false));
    let since = older(1, 500, 200, 200);
    let captured = [entry(1, 500, old)];
    let twice = [entry(1, 500, old), entry(1, 500, old)];
    let whole = payment(1, (500, old), &[]);
    let back = payment(1, (500, old), &[(200, old)]);
    let never = payment(1, (0, old), &[]);
    for (what, order, book, payment, expected) in [
        ("nothing new", &young, &captured[..], &never, (0, 0)),
        ("captured since", &young, &[], &whole, (1, 0)),
        ("captured never", &young, &[], &never, (1, 1)),
        ("given back since", &given, &captured, &back, (1, 0)),
        ("given back never", &given, &captured, &whole, (1, 1)),
        ("of an older order", &since, &[], &back, (1, 0)),
        ("of an older one never", &since, &[], &whole, (1, 1)),
        // What the book says beyond the row, the row should know by now.
        ("more than the row", &young, &twice, &whole, (0, 1)),
        ("as well as less", &given, &twice, &back, (0, 2)),
    ] {
        assert_eq!(after(order, book, payment), expected, "{what}");
    }
}

/// What was found by a row that has changed since is nothing any more, that of others is.
#[test]
fn only_who_has_moved_on_is_held_again() {
    let old = 60_000;
    let book = [entry(1, 500, old), entry(2, 500, old), entry(3, 500, old)];
    let mut held = Held::of(&book, AT);
    for n in [1, 2] {
        held.hold(&order(n, 0, 0, 0, false), Read::BeforeTheBook);
    }
    held.hold_nothing();
    let differ = |held: &Held| {
        held.differing()
            .map(|id| id.0.as_u128())
            .collect::<Vec<_>>()
    };
    assert_eq!(differ(&held), [1, 2, 3]);
    held.hold_again(&[order(1, 500, 0, 0, false)]);
    assert_eq!(differ(&held), [2, 3]);
    held.hold_again(&[order(2, 400, 0, 0, false), order(3, 500, 0, 0, false)]);
    assert_eq!(differ(&held), [2]);
    assert!(held.doubts.is_empty(), "{held:?}");
}

/// Whenever it went back, it is looked up, and must be just that.
#[test]
fn what_is_written_off_is_what_went_back_besides_our_refunds() {
    let old = 60_000;
    let with = |captured, refunded, written_off, is_whole| Order {
        written_off: Money::won(written_off),
        is_whole,
        is_captured_before: !is_whole,
        ..order(1, captured, refunded, 0, false)
    };
    let last = [entry(1, -300, old)];
    for (is_whole, book) in [(true, &[][..]), (true, &last), (false, &last)] {
        for (written_off, refunded, given, expected) in [
            (300, 0, &[(300, old)][..], 0),
            (300, 0, &[(200, old)], 1),
            (300, 0, &[(400, old)], 1),
            (300, 0, &[], 1),
            (300, 200, &[(300, old), (200, old)], 0),
            (300, 200, &[(300, old)], 1),
        ] {
            let orders = [with(1000, refunded, written_off, is_whole)];
            let theirs = payment(1, (1000, old), given);
            let found = looked_up(&orders, book, Some(&theirs));
            assert_eq!(
                found, expected,
                "{written_off} {refunded} {given:?} {is_whole}"
            );
        }
        let lost = looked_up(&[with(1000, 0, 300, is_whole)], book, None);
        assert_eq!(lost, 2, "{is_whole}");
    }
    // What the window has nothing of is as old as it.
    assert_eq!(differences(&[with(1000, 0, 300, false)], &[]), 0);
    assert_eq!(looked_up(&[with(1000, 200, 300, false)], &[], None), 2);
}
