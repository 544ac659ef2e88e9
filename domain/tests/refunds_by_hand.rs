//! Refunds of one payment through the gateway, some of which somebody gives back by hand: looked up in any
//! order, and by several at once.

mod common;

use common::{Rng, entry, for_seeds, ours};
use onsale_domain::settlement::refund::{Entry, Learned, Ours, State, Step, found, step};
use onsale_schema::status::RefundStatus;
use onsale_schema::{Money, RefundId};
use std::cell::Cell;
use std::collections::BTreeSet;

/// Nothing was asked of the gateway yet.
const NEW: State = State {
    status: RefundStatus::Pending,
    asked: None,
    is_old: false,
    attempts: 1,
    is_seen_to: false,
};

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

/// Refunds of one payment that are taken up by several at once, each of whom looks the payment up before
/// it asks, while somebody gives money back by hand: what that was for goes back once, and what it was not
/// for stops all that is not asked for yet.
#[test]
fn what_somebody_gives_back_is_not_asked_for_as_well() {
    let stops = Cell::new(0);
    for_seeds(3000, |seed| {
        let mut rng = Rng::new(seed);
        let mut all: Vec<Ours> = (1..=u128::try_from(rng.range(1, 5)).unwrap())
            .map(|n| ours(n, 10 * rng.range(1, 2), RefundStatus::Pending))
            .collect();
        let mut given: Vec<Entry> = Vec::new();
        // Who has looked, and will ask; and what was made, and is not written yet.
        let (mut asks, mut made) = (BTreeSet::new(), BTreeSet::new());
        let mut by_hand = rng.range(0, 2);
        for turn in 0.. {
            assert!(turn < 1000, "it does not end: {all:?} {given:?}");
            // What is given back by hand after somebody has looked is seen too late.
            if by_hand > 0 && asks.is_empty() && rng.percent(20) {
                by_hand -= 1;
                given.push(entry(None, 10 * rng.range(1, 3)));
            }
            let is_open = |n: &usize| all[*n].status == RefundStatus::Pending;
            let open: Vec<usize> = (0..all.len()).filter(is_open).collect();
            if open.is_empty() {
                break;
            }
            let last = i64::try_from(open.len() - 1).unwrap();
            let nth = open[usize::try_from(rng.range(0, last)).unwrap()];
            let Ours {
                refund_id, amount, ..
            } = all[nth];
            if made.remove(&refund_id) {
                all[nth].status = RefundStatus::Done;
            } else if asks.remove(&refund_id) {
                let refund_id = Some(refund_id);
                given.push(Entry { refund_id, amount });
                made.extend(refund_id);
                let (back, owed) = totals(&all, &given, amount);
                assert!(back <= owed, "{all:?} {given:?}");
            } else {
                match step(&NEW, found(refund_id, &all, &given)) {
                    Step::Ask => drop(asks.insert(refund_id)),
                    Step::Done { .. } => all[nth].status = RefundStatus::Done,
                    Step::Stuck { .. } => all[nth].status = RefundStatus::Stuck,
                    Step::Wait => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        let totals = [10, 20, 30].map(|won| totals(&all, &given, Money::won(won)));
        if all.iter().any(|one| one.status == RefundStatus::Stuck) {
            stops.set(stops.get() + 1);
            let is_more = totals.iter().any(|(back, owed)| back > owed);
            assert!(is_more, "{all:?} {given:?}");
        } else {
            let are_back = totals.iter().all(|(back, owed)| back >= owed);
            assert!(are_back, "{all:?} {given:?}");
        }
    });
    assert!(stops.get() > 100, "{stops:?}");
}

/// How many times so much was given back, and how many refunds there are of it.
fn totals(all: &[Ours], given: &[Entry], amount: Money) -> (usize, usize) {
    let back = given.iter().filter(|entry| entry.amount == amount);
    let owed = all.iter().filter(|one| one.amount == amount);
    (back.count(), owed.count())
}
