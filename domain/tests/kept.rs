//! Whether the gateway keeps of a payment what our rows say.

mod common;

use RefundStatus::{Done, Pending, Resolved, Resolving, Stuck};
use common::{Rng, for_seeds, refund_id};
use onsale_domain::settlement::kept::{agrees, rest};
use onsale_domain::settlement::refund::{self, Entry, Learned, Ours};
use onsale_schema::Money;
use onsale_schema::status::RefundStatus;

/// A refund by its number, its amount and how far it is.
fn ours((no, won, status): (u128, i64, RefundStatus)) -> Ours {
    Ours {
        refund_id: refund_id(no),
        amount: Money::won(won),
        status,
    }
}

/// What was given back: by which refund, or by nobody that we know, and how much.
fn entry((no, won): (Option<u128>, i64)) -> Entry {
    Entry {
        refund_id: no.map(refund_id),
        amount: Money::won(won),
    }
}

type Refunds<'a> = &'a [(u128, i64, RefundStatus)];
type Given<'a> = &'a [(Option<u128>, i64)];

#[test]
fn what_was_given_back_is_refunds_of_ours_or_somebody_has_to_see_to_it() {
    let (hand, first, second) = (None, Some(1), Some(2));
    let table: &[(&str, Refunds<'_>, Given<'_>, bool)] = &[
        ("all is there", &[], &[], true),
        ("somebody has cancelled it", &[], &[(hand, 5)], false),
        ("in part", &[(1, 5, Done)], &[(first, 5), (hand, 2)], false),
        ("on its way", &[(1, 5, Pending)], &[], true),
        (
            "made, and not written",
            &[(1, 5, Pending)],
            &[(first, 5)],
            true,
        ),
        ("made", &[(1, 5, Done)], &[(first, 5)], true),
        ("made by hand", &[(1, 5, Done)], &[(hand, 5)], true),
        ("done and not there", &[(1, 5, Done)], &[], false),
        ("done, and another", &[(1, 5, Done)], &[(hand, 4)], false),
        ("of another amount", &[(1, 5, Done)], &[(first, 4)], false),
        (
            "on its way and another",
            &[(1, 5, Pending)],
            &[(hand, 4)],
            false,
        ),
        (
            "twice by name",
            &[(1, 5, Done)],
            &[(first, 5), (first, 5)],
            false,
        ),
        (
            "and by hand",
            &[(1, 5, Done)],
            &[(first, 5), (hand, 5)],
            false,
        ),
        ("stuck", &[(1, 5, Stuck)], &[], true),
        (
            "stuck, by hand meanwhile",
            &[(1, 5, Stuck)],
            &[(hand, 5)],
            true,
        ),
        (
            "by hand, and said so",
            &[(1, 5, Resolving)],
            &[(hand, 5)],
            true,
        ),
        ("paid otherwise", &[(1, 5, Resolved)], &[], true),
        ("and here as well", &[(1, 5, Resolved)], &[(hand, 5)], false),
        ("and by its name", &[(1, 5, Resolved)], &[(first, 5)], false),
        (
            "a refund of nobody's",
            &[(1, 5, Done)],
            &[(first, 5), (Some(9), 3)],
            false,
        ),
        (
            "one of two",
            &[(1, 5, Done), (2, 5, Pending)],
            &[(first, 5)],
            true,
        ),
        (
            "both, one of them by hand",
            &[(1, 5, Done), (2, 5, Pending)],
            &[(hand, 5), (second, 5)],
            true,
        ),
        (
            "three of two",
            &[(1, 5, Done), (2, 5, Pending)],
            &[(hand, 5), (hand, 5), (second, 5)],
            false,
        ),
    ];
    for (what, all, given, expected) in table {
        let all: Vec<Ours> = all.iter().copied().map(ours).collect();
        let given: Vec<Entry> = given.iter().copied().map(entry).collect();
        assert_eq!(agrees(&all, &given), *expected, "{what}");
    }
}

/// Refunds of ours go their ways, each made once, by its name or by hand, or paid otherwise. Whenever the
/// gateway tells of one, it agrees; and what somebody else gives back never does, unless it may be one
/// that is open.
#[test]
fn no_refund_of_ours_is_taken_for_somebody_elses_nor_the_other_way_round() {
    for_seeds(2000, |seed| {
        let mut rng = Rng::new(seed);
        let (mut all, mut given) = (Vec::new(), Vec::new());
        for no in 1..=u128::try_from(rng.range(0, 6)).unwrap() {
            let won = rng.range(1, 3);
            let (status, by) = match rng.range(0, 8) {
                0 => (Pending, None),
                1 => (Pending, Some(Some(no))),
                2 => (Done, Some(Some(no))),
                3 => (Done, Some(None)),
                4 => (Stuck, None),
                5 => (Stuck, Some(None)),
                6 => (Resolving, None),
                7 => (Resolving, Some(None)),
                _ => (Resolved, None),
            };
            all.push(ours((no, won, status)));
            given.extend(by.map(|by| entry((by, won))));
        }
        assert!(agrees(&all, &given), "{all:?} {given:?}");
        let won = rng.range(1, 3);
        let is_named = |one: &Ours| given.iter().any(|e| e.refund_id == Some(one.refund_id));
        let unnamed = all.iter().filter(|one| {
            one.amount == Money::won(won) && one.status != Resolved && !is_named(one)
        });
        let by_hand = given
            .iter()
            .filter(|e| e.amount == Money::won(won) && e.refund_id.is_none());
        let may_be_ours = by_hand.count() < unnamed.count();
        given.push(entry((None, won)));
        assert_eq!(agrees(&all, &given), may_be_ours, "{all:?} {given:?}");
    });
}

/// What was written off is taken out, each amount once, and never a refund of ours by its name; what is left
/// must be our refunds.
#[test]
fn what_is_written_off_is_no_refund_of_ours() {
    let (hand, first, other) = (None, Some(1), Some(9));
    let table: &[(&str, Refunds<'_>, Given<'_>, &[i64], bool)] = &[
        ("all of it", &[], &[(hand, 5)], &[5], true),
        ("another amount", &[], &[(hand, 5)], &[4], false),
        ("nothing went back", &[], &[], &[5], false),
        ("one of two", &[], &[(hand, 5), (hand, 5)], &[5], false),
        ("two of two", &[], &[(hand, 5), (hand, 5)], &[5, 5], true),
        ("two in one", &[], &[(hand, 5)], &[2, 3], false),
        ("another's refund", &[], &[(other, 5)], &[5], true),
        (
            "beside a refund",
            &[(1, 5, Done)],
            &[(first, 5), (hand, 5)],
            &[5],
            true,
        ),
        (
            "in place of one by hand",
            &[(1, 5, Done)],
            &[(hand, 5)],
            &[5],
            false,
        ),
        (
            "in place of one",
            &[(1, 5, Done)],
            &[(first, 5)],
            &[5],
            false,
        ),
        (
            "beside one on its way",
            &[(1, 5, Pending)],
            &[(hand, 5)],
            &[5],
            true,
        ),
        (
            "beside one that was made",
            &[(1, 5, Pending)],
            &[(first, 5), (hand, 5)],
            &[5],
            true,
        ),
        (
            "paid otherwise",
            &[(1, 5, Resolved)],
            &[(hand, 5)],
            &[5],
            true,
        ),
    ];
    for (what, all, given, written_off, expected) in table {
        let all: Vec<Ours> = all.iter().copied().map(ours).collect();
        let given: Vec<Entry> = given.iter().copied().map(entry).collect();
        let written_off: Vec<Money> = written_off.iter().copied().map(Money::won).collect();
        let (rest, is_there) = rest(&all, &given, &written_off);
        assert_eq!(is_there && agrees(&all, &rest), *expected, "{what}");
        // No refund that is on its way is taken for what was written off.
        for one in all.iter().filter(|one| one.status == Pending) {
            let learned = refund::found(one.refund_id, &all, &rest);
            assert_ne!(learned, Learned::MadeByHand, "{what}");
        }
    }
}
