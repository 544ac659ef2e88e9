//! What follows for a refund through the gateway from what was learned of it, and whether the gateway
//! has made it.

mod common;

use common::{entry, ours, refund_id};
use onsale_domain::settlement::refund::{
    Asked, Learned, State, Step, compare, found, is_guess, is_to_compare, key, step,
};
use onsale_schema::Money;
use onsale_schema::status::{RefundCompare, RefundStatus};
use std::collections::BTreeSet;

const LEARNED: [Learned; 9] = [
    Learned::Nothing,
    Learned::Made,
    Learned::MadeByHand,
    Learned::NotMade,
    Learned::Differs,
    Learned::Contested,
    Learned::Refused,
    Learned::Unavailable,
    Learned::Unknown,
];
const ENOUGH: i32 = 20;

const NEW: State = State {
    status: RefundStatus::Pending,
    asked: None,
    is_old: false,
    attempts: 1,
    is_seen_to: false,
};

fn asked(is_settled: bool, was_old: bool) -> Option<Asked> {
    Some(Asked {
        is_settled,
        was_old,
    })
}

#[test]
fn each_status_goes_on_as_the_table_says() {
    use Learned as L;
    let refused = Step::Stuck { is_refused: true };
    let given_up = Step::Stuck { is_refused: false };
    let (once, twice) = (
        Step::Done { is_twice: false },
        Step::Done { is_twice: true },
    );
    let again = State {
        asked: asked(true, false),
        ..NEW
    };
    let on_its_way = State {
        asked: asked(false, false),
        ..NEW
    };
    let old = |state: State, attempts| State {
        is_old: true,
        attempts,
        ..state
    };
    let last = State {
        asked: asked(true, true),
        ..old(NEW, ENOUGH)
    };
    let resolving = |state: State| State {
        status: RefundStatus::Resolving,
        ..state
    };
    let seen_to = |state: State| State {
        is_seen_to: true,
        ..state
    };
    for (state, learned, expected) in [
        (NEW, L::Nothing, Step::LookUp),
        (NEW, L::NotMade, Step::Ask),
        (old(NEW, ENOUGH), L::NotMade, Step::Ask),
        (NEW, L::Made, once),
        (NEW, L::MadeByHand, once),
        (NEW, L::Refused, refused),
        (NEW, L::Unavailable, Step::Wait),
        (NEW, L::Unknown, Step::Wait),
        (again, L::Nothing, Step::LookUp),
        (again, L::Made, once),
        (again, L::MadeByHand, once),
        (again, L::NotMade, Step::Ask),
        (again, L::Unknown, Step::Wait),
        // The key keeps it from being made twice, as long as it is known.
        (on_its_way, L::NotMade, Step::Ask),
        (old(on_its_way, 1), L::NotMade, Step::Wait),
        (on_its_way, L::Refused, Step::Wait),
        (again, L::Refused, refused),
        (old(again, 1), L::NotMade, Step::Ask),
        // After long, it is asked for once more before it is given up.
        (old(again, ENOUGH), L::NotMade, Step::Ask),
        (last, L::NotMade, given_up),
        (last, L::Unavailable, given_up),
        (old(NEW, ENOUGH), L::Unavailable, given_up),
        (old(NEW, ENOUGH - 1), L::Unavailable, Step::Wait),
        (old(on_its_way, ENOUGH), L::Unavailable, Step::Wait),
        (last, L::Unknown, Step::Wait),
        (last, L::Refused, refused),
        // Somebody has given something back that is no refund of ours: that is a person's to see to.
        (NEW, L::Differs, given_up),
        (again, L::Differs, given_up),
        (on_its_way, L::Differs, Step::Wait),
        (seen_to(NEW), L::Differs, Step::Ask),
        (seen_to(again), L::Differs, Step::Ask),
        (seen_to(on_its_way), L::Differs, Step::Ask),
        (old(seen_to(on_its_way), 1), L::Differs, Step::Wait),
        (seen_to(last), L::Differs, given_up),
        (NEW, L::Contested, Step::Wait),
        (seen_to(last), L::Contested, Step::Wait),
        (resolving(again), L::Differs, Step::Resolved),
        (resolving(on_its_way), L::Differs, Step::Wait),
        (resolving(again), L::Contested, Step::Wait),
        (resolving(again), L::Nothing, Step::LookUp),
        (resolving(again), L::NotMade, Step::Resolved),
        (resolving(on_its_way), L::NotMade, Step::Wait),
        (resolving(again), L::Made, twice),
        (resolving(again), L::MadeByHand, once),
        (resolving(last), L::Unknown, Step::Wait),
    ] {
        assert_eq!(step(&state, learned), expected, "{state:?} {learned:?}");
    }
}

/// All states: nothing is asked anew, left to a person or said to be paid otherwise that may be made.
#[test]
fn nothing_that_may_be_made_is_paid_once_more() {
    let asked_before = [
        None,
        asked(true, true),
        asked(true, false),
        asked(false, true),
        asked(false, false),
    ];
    for status in RefundStatus::ALL {
        for (asked, is_old) in asked_before.iter().flat_map(|a| [(*a, false), (*a, true)]) {
            for attempts in [1, ENOUGH - 1, ENOUGH, i32::MAX] {
                for (learned, is_seen_to) in LEARNED.iter().flat_map(|l| [(*l, false), (*l, true)])
                {
                    let state = State {
                        status,
                        asked,
                        is_old,
                        attempts,
                        is_seen_to,
                    };
                    check(&state, learned);
                }
            }
        }
    }
}

fn check(state: &State, learned: Learned) {
    let next = step(state, learned);
    let case = format!("{state:?} {learned:?} {next:?}");
    let is_settled = state.asked.is_none_or(|asked| asked.is_settled);
    match next {
        Step::Ask => {
            let is_not_made = match learned {
                Learned::NotMade => true,
                Learned::Differs => state.is_seen_to,
                _ => false,
            };
            assert!(is_not_made && (is_settled || !state.is_old), "{case}");
            assert_eq!(state.status, RefundStatus::Pending, "{case}");
        }
        Step::Stuck { is_refused } => {
            assert_eq!(is_refused, learned == Learned::Refused, "{case}");
            let is_over = match learned {
                Learned::NotMade | Learned::Unavailable => state.is_old,
                Learned::Differs => state.is_old || !state.is_seen_to,
                _ => false,
            };
            assert!(is_settled && (is_refused || is_over), "{case}");
            assert_eq!(state.status, RefundStatus::Pending, "{case}");
        }
        Step::Resolved => {
            let is_not_made = matches!(learned, Learned::NotMade | Learned::Differs);
            assert!(is_not_made && is_settled, "{case}");
            assert_eq!(state.status, RefundStatus::Resolving, "{case}");
        }
        Step::Done { is_twice } => {
            let is_made = learned == Learned::Made;
            assert!(is_made || learned == Learned::MadeByHand, "{case}");
            let is_resolving = state.status == RefundStatus::Resolving;
            assert_eq!(is_twice, is_made && is_resolving, "{case}");
        }
        Step::LookUp => assert_eq!(learned, Learned::Nothing, "{case}"),
        Step::Wait => assert!(
            !matches!(learned, Learned::Made | Learned::MadeByHand),
            "{case}"
        ),
        Step::Rest => assert!(
            matches!(
                state.status,
                RefundStatus::Done | RefundStatus::Stuck | RefundStatus::Resolved
            ),
            "{case}"
        ),
    }
}

#[test]
fn each_refusal_is_followed_by_a_key_of_its_own() {
    let keys = |n| (0..10).map(move |refusals| key(refund_id(n), refusals));
    assert_eq!(key(refund_id(1), 0), refund_id(1).0);
    assert!(keys(1).eq(keys(1)));
    let distinct: BTreeSet<_> = (1..=10).flat_map(keys).collect();
    assert_eq!(distinct.len(), 100);
}

#[test]
fn what_the_gateway_has_given_back_says_which_refunds_are_made() {
    use RefundStatus::{Done, Pending, Resolved, Stuck};
    let (made, by_hand, not_made) = (Learned::Made, Learned::MadeByHand, Learned::NotMade);
    let (differs, contested) = (Learned::Differs, Learned::Contested);
    let two = [ours(1, 50, Pending), ours(2, 50, Stuck)];
    let both = [ours(1, 50, Pending), ours(2, 50, Pending)];
    let done = [ours(1, 50, Done), ours(2, 50, Pending)];
    let resolved = [ours(1, 50, Resolved), ours(2, 50, Pending)];
    for (all, given, of, expected) in [
        (&two, vec![], 1, not_made),
        (&two, vec![entry(Some(1), 50)], 1, made),
        (&two, vec![entry(Some(1), 50)], 2, not_made),
        (&two, vec![entry(Some(2), 50)], 1, not_made),
        // By hand: the older one first.
        (&two, vec![entry(None, 50)], 1, by_hand),
        (&two, vec![entry(None, 50)], 2, not_made),
        (&two, vec![entry(None, 50), entry(Some(1), 50)], 2, by_hand),
        (&two, vec![entry(None, 50), entry(None, 50)], 2, by_hand),
        (&two, vec![entry(None, 50), entry(Some(1), 50)], 1, made),
        // What is no refund of ours, or perhaps another's that is on its way.
        (&two, vec![entry(None, 49), entry(None, 100)], 1, differs),
        (&two, vec![entry(None, 49), entry(Some(1), 50)], 1, made),
        (
            &two,
            vec![entry(Some(2), 50), entry(Some(8), 1)],
            1,
            differs,
        ),
        (&both, vec![entry(None, 50)], 1, by_hand),
        (&both, vec![entry(None, 50)], 2, contested),
        (&both, vec![entry(None, 50), entry(Some(1), 50)], 2, by_hand),
        (&both, vec![entry(Some(1), 50)], 2, not_made),
        (&both, vec![entry(None, 50), entry(None, 9)], 2, differs),
        (&both, vec![entry(None, 50), entry(None, 50)], 2, by_hand),
        // A refund that is no refund of this payment.
        (&two, vec![entry(Some(7), 50)], 1, by_hand),
        // Done before refunds were named.
        (&done, vec![entry(None, 50)], 2, not_made),
        (&done, vec![entry(Some(1), 50), entry(None, 50)], 2, by_hand),
        (&resolved, vec![entry(None, 50)], 2, by_hand),
        (&resolved, vec![entry(Some(1), 50)], 2, differs),
        // What can't be.
        (&two, vec![entry(Some(1), 49)], 1, Learned::Unknown),
        (&both, vec![entry(Some(1), 49)], 2, differs),
        (
            &two,
            vec![entry(Some(1), 50), entry(Some(1), 50)],
            1,
            Learned::Unknown,
        ),
        (&two, vec![], 3, Learned::Unknown),
    ] {
        assert_eq!(
            found(refund_id(of), all, &given),
            expected,
            "{of} of {all:?} by {given:?}"
        );
    }
}

/// Somebody gives one of two back by hand, and somebody says to have paid one by other means: the money
/// does not go back a third time without anybody hearing of it.
#[test]
fn what_is_asked_for_is_found_before_what_is_said_to_be_paid_otherwise() {
    use RefundStatus::{Done, Pending, Resolved, Resolving, Stuck};
    let (by_hand, not_made) = (Learned::MadeByHand, Learned::NotMade);
    let one = [entry(None, 50)];
    let two = [entry(None, 50), entry(None, 50)];
    let other = [entry(None, 49), entry(Some(1), 50)];
    for (first, second, given, of, expected, compares) in [
        // One has it tried again, one says to have paid the other, in any order.
        (Resolving, Pending, &one[..], 1, not_made, true),
        (Resolving, Pending, &one, 2, by_hand, true),
        (Pending, Resolving, &one, 1, by_hand, true),
        (Pending, Resolving, &one, 2, not_made, true),
        (Resolved, Pending, &one, 2, by_hand, true),
        (Resolving, Done, &one, 1, not_made, true),
        (Resolving, Pending, &two, 1, by_hand, true),
        // Nobody has told of the other yet.
        (Stuck, Pending, &one, 2, by_hand, false),
        (Stuck, Resolving, &one, 2, by_hand, true),
        (Resolving, Stuck, &one, 1, by_hand, true),
        (Resolving, Resolving, &one, 1, by_hand, true),
        (Resolving, Resolving, &one, 2, not_made, true),
        // There is nothing to compare.
        (Resolving, Pending, &[], 1, not_made, false),
        (Resolved, Pending, &[], 2, not_made, false),
        (Resolving, Pending, &other, 1, Learned::Made, false),
        (Done, Pending, &one, 2, not_made, false),
    ] {
        let all = [ours(1, 50, first), ours(2, 50, second)];
        let case = format!("{of} of {all:?} by {given:?}");
        assert_eq!(found(refund_id(of), &all, given), expected, "{case}");
        assert_eq!(
            is_to_compare(refund_id(of), &all, given),
            compares,
            "{case}"
        );
    }
    let unlike = [ours(1, 60, Resolved), ours(2, 50, Pending)];
    assert!(!is_to_compare(refund_id(2), &unlike, &one));
    assert!(!is_to_compare(refund_id(3), &unlike, &one));
}

#[test]
fn what_is_taken_for_a_refund_that_nobody_has_told_of_is_a_guess() {
    let left = Money::won;
    let seen_to = State {
        is_seen_to: true,
        ..NEW
    };
    for (state, learned, left, expected) in [
        (NEW, Learned::MadeByHand, left(50), true),
        (NEW, Learned::MadeByHand, left(90), true),
        // No more could be given back.
        (NEW, Learned::MadeByHand, left(49), false),
        (seen_to, Learned::MadeByHand, left(50), false),
        (NEW, Learned::Made, left(50), false),
        (NEW, Learned::NotMade, left(50), false),
    ] {
        let found = is_guess(&state, learned, Money::won(50), left);
        assert_eq!(found, expected, "{state:?} {learned:?} {left:?}");
    }
}

/// It is compared when it ends, and only then: every step, with and without something that was given back by
/// hand.
#[test]
fn what_went_back_twice_or_has_perhaps_is_to_be_compared_when_it_ends() {
    use RefundCompare::{ByHand, Twice};
    for (step, alone, with_by_hand) in [
        (Step::Done { is_twice: true }, Some(Twice), Some(Twice)),
        (Step::Done { is_twice: false }, None, Some(ByHand)),
        (Step::Resolved, None, Some(ByHand)),
        (Step::Stuck { is_refused: true }, None, None),
        (Step::Stuck { is_refused: false }, None, None),
        (Step::LookUp, None, None),
        (Step::Ask, None, None),
        (Step::Wait, None, None),
        (Step::Rest, None, None),
    ] {
        assert_eq!(compare(step, false), alone, "{step:?}");
        assert_eq!(compare(step, true), with_by_hand, "{step:?}");
    }
}
