//! Other rules for a schedule, and layouts that are not the schedule's any more.

use super::*;

fn change(n: u128, change: PolicyChange) -> Command<Kind> {
    let kind = Kind::Policy {
        schedule_id: schedule_id(1),
        change,
    };
    Command {
        id: command_id(n + 2000),
        ..command(n, kind)
    }
}

fn state(state: SaleState) -> PolicyChange {
    PolicyChange {
        state: Some(state),
        ..PolicyChange::default()
    }
}

#[test]
fn the_sale_of_a_cancelled_show_stays_closed_whatever_comes_late() {
    let mut sale = sale();
    let mut changes = Changes::default();
    let mut decide = |command| sale.decide(&command, times(1100), &mut changes);
    // Also before anybody has said CLOSED.
    let cancelled = PolicyChange {
        cancelled: true,
        ..PolicyChange::default()
    };
    let closed = Policy {
        state: SaleState::Closed,
        cancelled: true,
        ..policy()
    };
    assert_eq!(decide(change(1, cancelled)), Outcome::Policy(closed));
    let over = Outcome::Refused(Refusal::SaleClosed);
    for (n, late) in [(2, SaleState::Open), (3, SaleState::Paused)] {
        assert_eq!(decide(change(n, state(late))), over);
    }
    // The rest of a policy may change, and a state that is so already is no mistake.
    assert_eq!(
        decide(change(4, state(SaleState::Closed))),
        Outcome::Policy(closed)
    );
    let limit = PolicyChange {
        seats_per_user: Some(2),
        ..PolicyChange::default()
    };
    let after = Policy {
        seats_per_user: 2,
        ..closed
    };
    assert_eq!(decide(change(5, limit)), Outcome::Policy(after));
    assert_eq!(decide(hold(1, &[0])), over);
}

#[test]
fn the_next_hold_is_decided_by_it_also_in_the_same_batch() {
    let mut sale = sale();
    held(&mut sale, &hold(1, &[0]), 1100);
    let mut changes = Changes::default();
    let mut decide = |command| sale.decide(&command, times(1101), &mut changes);
    let paused = Policy {
        state: SaleState::Paused,
        ..policy()
    };
    assert_eq!(
        decide(change(1, state(SaleState::Paused))),
        Outcome::Policy(paused)
    );
    let refused = Outcome::Refused(Refusal::SaleNotOpen);
    assert_eq!(decide(hold(2, &[1])), refused);
    let brief = PolicyChange {
        state: Some(SaleState::Open),
        hold_ms: Some(1000),
        seats_per_user: Some(1),
        ..PolicyChange::default()
    };
    let after = Policy {
        hold_ms: 1000,
        seats_per_user: 1,
        ..policy()
    };
    assert_eq!(decide(change(2, brief)), Outcome::Policy(after));
    let limit = Outcome::Refused(Refusal::SeatLimitExceeded { limit: 1 });
    assert_eq!(decide(hold(3, &[1, 2])), limit);
    match decide(hold(4, &[1])) {
        Outcome::Held(hold) => assert_eq!(hold.expires_at, at_s(1102)),
        other => panic!("{other:?}"),
    }
    sale.seal(at_s(1101), &mut changes);

    // One row, one version, and each change is a fact.
    let update = PolicyUpdate {
        schedule_id: schedule_id(1),
        before: policy(),
        after,
    };
    assert_eq!(changes.policies, [update]);
    assert_eq!(changes.maps.len(), 1);
    let facts = &changes.facts[0].facts;
    assert!(
        matches!(
            facts.as_slice(),
            [
                Fact::Policy { policy: first, .. },
                Fact::Policy { policy: second, .. },
                Fact::Held { .. }
            ] if (*first, *second) == (paused, after)
        ),
        "{facts:?}"
    );
    // What was held before keeps its end.
    assert_eq!(sale.next_due(), Some(at_s(1102)));
    let mut later = Changes::default();
    assert_eq!(sale.lapse_due(at_s(1200), 10, &mut later), 1);
    assert_eq!(sale.next_due(), Some(at_s(1100 + HOLD_S)));
}

#[test]
fn what_is_so_already_changes_nothing() {
    let mut sale = sale();
    for command in [
        change(1, PolicyChange::default()),
        change(2, state(SaleState::Open)),
    ] {
        let (outcome, changes) = decide(&mut sale, &command, 1100);
        assert_eq!(outcome, Outcome::Policy(policy()));
        assert!(changes.is_empty());
    }
    let pause = change(3, state(SaleState::Paused));
    let first = outcome(&mut sale, &pause, 1100);
    let (again, changes) = decide(&mut sale, &pause, 1101);
    assert_eq!((again, changes.is_empty()), (first, true));
}

#[test]
fn nonsense_and_what_comes_too_late_are_refused() {
    let with = |change: PolicyChange| super::policies::change(1, change);
    let window = |opens_s, closes_s| PolicyChange {
        booking_opens_at: Some(at_s(opens_s)),
        booking_closes_at: Some(at_s(closes_s)),
        ..PolicyChange::default()
    };
    let closes = |closes_s| PolicyChange {
        booking_closes_at: Some(at_s(closes_s)),
        ..PolicyChange::default()
    };
    let hold_ms = |hold_ms| PolicyChange {
        hold_ms: Some(hold_ms),
        ..PolicyChange::default()
    };
    let seats = |seats| PolicyChange {
        seats_per_user: Some(seats),
        ..PolicyChange::default()
    };
    let day_ms = 24 * 3600 * 1000;
    for bad in [
        window(1500, 1500),
        window(1600, 1500),
        closes(OPENS_S),
        hold_ms(0),
        hold_ms(-1),
        hold_ms(day_ms + 1),
        seats(0),
        seats(101),
    ] {
        let why = refusal(&mut sale(), &with(bad), 1100);
        assert_eq!(why, Refusal::PolicyInvalid, "{bad:?}");
    }
    for good in [
        window(0, 1),
        closes(OPENS_S + 1),
        hold_ms(1),
        hold_ms(day_ms),
        seats(1),
        seats(100),
    ] {
        let outcome = outcome(&mut sale(), &with(good), 1100);
        assert!(matches!(outcome, Outcome::Policy(_)), "{good:?}");
    }
    // A limit from before these bounds doesn't keep a sale from being paused.
    let mut generous = sale_with(Policy {
        seats_per_user: 1000,
        ..policy()
    });
    let paused = outcome(&mut generous, &with(state(SaleState::Paused)), 1100);
    assert!(matches!(paused, Outcome::Policy(_)));

    let late = Command {
        deadline: at_s(1099),
        ..with(state(SaleState::Closed))
    };
    assert_eq!(refusal(&mut sale(), &late, 1100), Refusal::CommandExpired);
    // Its deadline is later than what is wrong with it.
    let late = Command {
        deadline: at_s(1099),
        ..with(seats(0))
    };
    assert_eq!(refusal(&mut sale(), &late, 1100), Refusal::CommandExpired);
}

#[test]
fn an_undone_batch_leaves_the_policy_as_it_was() {
    let mut sale = sale();
    let before = sale.clone();
    let mut changes = Changes::default();
    sale.decide(
        &change(1, state(SaleState::Paused)),
        times(1100),
        &mut changes,
    );
    sale.decide(
        &change(2, state(SaleState::Closed)),
        times(1100),
        &mut changes,
    );
    sale.seal(at_s(1100), &mut changes);
    assert_ne!(sale, before);
    sale.undo(&changes);
    assert_eq!(sale, before);
    held(&mut sale, &hold(1, &[0]), 1101);
}

#[test]
fn seats_of_another_layout_are_refused_after_what_stops_the_sale() {
    let meant = |n, layout: i64| {
        let mut command = hold(n, &[0]);
        if let Kind::Hold { layout_no, .. } = &mut command.kind {
            *layout_no = Some(layout);
        }
        command
    };
    let mut sale = sale();
    for other in [LAYOUT_NO - 1, LAYOUT_NO + 1] {
        let why = refusal(&mut sale, &meant(1, other), 1100);
        assert_eq!(why, Refusal::LayoutChanged);
    }
    let late = refusal(&mut sale, &meant(1, LAYOUT_NO - 1), OPENS_S - 1);
    assert_eq!(late, Refusal::SaleNotOpen);
    // A refusal is not remembered: the same command may mean the right one later.
    let first = held(&mut sale, &meant(1, LAYOUT_NO), 1100);
    // A duplicate is one, whatever layout it was read by.
    assert_eq!(held(&mut sale, &meant(1, LAYOUT_NO - 1), 1101), first);
    // The map's change says whose seats they are.
    let (_, changes) = decide(&mut sale, &hold(2, &[1]), 1102);
    assert_eq!(changes.maps[0].layout_no, Some(LAYOUT_NO));
}
