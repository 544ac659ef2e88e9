//! What follows for a refund through the gateway from what was learned of it, and whether the gateway
//! has made it.

mod common;

use common::{Rng, for_seeds, refund_id};
use onsale_domain::settlement::refund::{
    Asked, Entry, Learned, Ours, State, Step, compare, found, is_to_compare, key, step,
};
use onsale_schema::status::{RefundCompare, RefundStatus};
use onsale_schema::{Money, RefundId};
use std::collections::BTreeSet;

const LEARNED: [Learned; 7] = [
    Learned::Nothing,
    Learned::Made,
    Learned::MadeByHand,
    Learned::NotMade,
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
    for (state, learned, expected) in [
        (NEW, L::Nothing, Step::Ask),
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
                for learned in LEARNED {
                    let state = State {
                        status,
                        asked,
                        is_old,
                        attempts,
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
            let is_first = learned == Learned::Nothing && state.asked.is_none();
            let is_known = learned == Learned::NotMade && (is_settled || !state.is_old);
            assert!(is_first || is_known, "{case}");
            assert_eq!(state.status, RefundStatus::Pending, "{case}");
        }
        Step::Stuck { is_refused } => {
            assert_eq!(is_refused, learned == Learned::Refused, "{case}");
            let is_over = matches!(learned, Learned::NotMade | Learned::Unavailable);
            assert!(is_settled, "{case}");
            assert!(is_refused || is_over && state.is_old, "{case}");
            assert_eq!(state.status, RefundStatus::Pending, "{case}");
        }
        Step::Resolved => {
            assert!(learned == Learned::NotMade && is_settled, "{case}");
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

fn ours(n: u128, won: i64, status: RefundStatus) -> Ours {
    Ours {
        refund_id: refund_id(n),
        amount: Money::won(won),
        status,
    }
}

fn entry(named: Option<u128>, won: i64) -> Entry {
    Entry {
        refund_id: named.map(refund_id),
        amount: Money::won(won),
    }
}

#[test]
fn what_the_gateway_has_given_back_says_which_refunds_are_made() {
    use RefundStatus::{Done, Pending, Resolved, Stuck};
    let (made, by_hand, not_made) = (Learned::Made, Learned::MadeByHand, Learned::NotMade);
    let two = [ours(1, 50, Pending), ours(2, 50, Stuck)];
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
        (&two, vec![entry(None, 49), entry(None, 100)], 1, not_made),
        // A refund that is no refund of this payment.
        (&two, vec![entry(Some(7), 50)], 1, by_hand),
        // Done before refunds were named.
        (&done, vec![entry(None, 50)], 2, not_made),
        (&done, vec![entry(Some(1), 50), entry(None, 50)], 2, by_hand),
        (&resolved, vec![entry(None, 50)], 2, by_hand),
        // What can't be.
        (&two, vec![entry(Some(1), 49)], 1, Learned::Unknown),
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

fn is_made(learned: Learned) -> bool {
    matches!(learned, Learned::Made | Learned::MadeByHand)
}

/// Refunds of one payment that are looked up in any order, each being done when it was made: of each
/// amount as many are as the gateway has given back, and never one that names another.
#[test]
fn as_many_are_made_as_were_given_back() {
    for_seeds(2000, |seed| {
        let mut rng = Rng::new(seed);
        let (mut all, mut given) = (Vec::new(), Vec::new());
        for n in 1..=u128::try_from(rng.range(1, 6)).unwrap() {
            let won = 10 * rng.range(1, 2);
            let status = match rng.percent(30) {
                true => RefundStatus::Resolving,
                false => RefundStatus::Pending,
            };
            all.push(ours(n, won, status));
            if rng.percent(40) {
                given.push(entry(Some(n), won));
            }
        }
        let named: BTreeSet<RefundId> = given.iter().filter_map(|entry| entry.refund_id).collect();
        for _ in 0..rng.range(0, 3) {
            given.push(entry(None, 10 * rng.range(1, 2)));
        }
        for _ in 0..40 {
            let nth = usize::try_from(rng.range(0, i64::try_from(all.len()).unwrap() - 1)).unwrap();
            if all[nth].status != RefundStatus::Done
                && is_made(found(all[nth].refund_id, &all, &given))
            {
                all[nth].status = RefundStatus::Done;
            }
        }
        // Whoever was not asked yet.
        for nth in 0..all.len() {
            if is_made(found(all[nth].refund_id, &all, &given)) {
                all[nth].status = RefundStatus::Done;
            }
        }
        for won in [10, 20].map(Money::won) {
            let of = |is: &dyn Fn(&&Ours) -> bool| {
                all.iter()
                    .filter(|one| one.amount == won)
                    .filter(is)
                    .count()
            };
            let back = given.iter().filter(|entry| entry.amount == won).count();
            let done = of(&|one| one.status == RefundStatus::Done);
            assert_eq!(done, back.min(of(&|_| true)), "{all:?} {given:?}");
            let unmade =
                of(&|one| one.status != RefundStatus::Done && named.contains(&one.refund_id));
            assert_eq!(unmade, 0, "{all:?} {given:?}");
        }
    });
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
