//! What is decided when somebody sees to a refund: every state with every action, and the order of the
//! checks.

mod common;

use common::{at_s, command_id, fingerprint, notice_id, order_id, refund_id, transfer_id, user};
use onsale_domain::settlement::{Action, Changes, Ids, NewAction, Settlement};
use onsale_schema::message::Command;
use onsale_schema::settlement::{Kind, Outcome, RefundTask, Refusal};
use onsale_schema::status::RefundStatus;

const DEADLINE_S: i64 = 40;
const NOTE: &str = "Bank transfer 4711";

fn actions() -> [Action; 3] {
    let note = || NOTE.to_owned();
    [
        Action::Retry,
        Action::Resolution { note: note() },
        Action::Comparison { note: note() },
    ]
}

/// Command and fingerprint `n`, about refund 1.
fn attend(n: u128, action: &Action) -> Command<Kind> {
    attend_to(1, n, action)
}

fn attend_to(refund: u128, n: u128, action: &Action) -> Command<Kind> {
    let refund_id = refund_id(refund);
    Command {
        id: command_id(n),
        user: user(1),
        fingerprint: fingerprint(n),
        deadline: at_s(DEADLINE_S),
        trace: None,
        kind: match action {
            Action::Retry => Kind::RetryRefund { refund_id },
            Action::Resolution { note } => Kind::ResolveRefund {
                refund_id,
                note: note.clone(),
            },
            Action::Comparison { note } => Kind::CompareRefund {
                refund_id,
                note: note.clone(),
            },
        },
    }
}

fn ids() -> Ids {
    Ids {
        transfer_id: transfer_id(1),
        notice_id: notice_id(1),
        refund_id: refund_id(9),
    }
}

fn with(status: RefundStatus) -> Settlement {
    let mut settlement = Settlement::default();
    let order = Some(order_id(1));
    settlement.tasks.load(refund_id(1), status, order);
    settlement
}

/// What comes of an action in a state.
fn leads_to(status: RefundStatus, action: &Action) -> Result<RefundStatus, Refusal> {
    match status {
        RefundStatus::Stuck => Ok(match action {
            Action::Retry => RefundStatus::Pending,
            Action::Resolution { .. } => RefundStatus::Resolving,
            // Nothing of it has to be compared.
            Action::Comparison { .. } => return Err(Refusal::RefundConflict { status }),
        }),
        RefundStatus::Pending
        | RefundStatus::Done
        | RefundStatus::Resolved
        | RefundStatus::Resolving => Err(Refusal::RefundConflict { status }),
    }
}

#[test]
fn only_what_is_stuck_is_seen_to() {
    for status in RefundStatus::ALL {
        for action in actions() {
            let mut settlement = with(status);
            let mut changes = Changes::default();
            let outcome = settlement.decide(&attend(7, &action), ids(), at_s(30), &mut changes);
            let case = format!("{status} {action:?}");
            match leads_to(status, &action) {
                Ok(status) => {
                    let task = RefundTask {
                        refund_id: refund_id(1),
                        status,
                        at: at_s(30),
                    };
                    assert_eq!(outcome, Outcome::Attended(task), "{case}");
                    let written = NewAction {
                        command_id: command_id(7),
                        fingerprint: fingerprint(7),
                        refund_id: refund_id(1),
                        user_id: user(1),
                        action: action.clone(),
                        at: at_s(30),
                    };
                    assert_eq!(changes.actions, [written], "{case}");
                    // No money has moved, and nobody is told so.
                    assert!(
                        changes.facts.is_empty() && changes.refunds.is_empty(),
                        "{case}"
                    );
                }
                Err(refusal) => {
                    assert_eq!(outcome, Outcome::Refused(refusal), "{case}");
                    assert!(changes.is_empty(), "{case}");
                }
            }
        }
    }
}

/// Each pair of actions of one batch: what the first one has made of it decides about the second.
#[test]
fn of_two_in_one_batch_the_second_finds_what_the_first_has_done() {
    let [retry, resolution, comparison] = actions();
    for first in [retry.clone(), resolution.clone()] {
        for second in [&retry, &resolution, &comparison] {
            let mut settlement = with(RefundStatus::Stuck);
            let mut changes = Changes::default();
            let mut decide =
                |n, action| settlement.decide(&attend(n, action), ids(), at_s(30), &mut changes);
            let done = decide(7, &first);
            let status = leads_to(RefundStatus::Stuck, &first).unwrap();
            let conflict = Outcome::Refused(Refusal::RefundConflict { status });
            assert_eq!(decide(8, second), conflict, "{first:?} {second:?}");
            // The same again is the same.
            assert_eq!(decide(7, &first), done, "{first:?}");
            assert_eq!(changes.actions.len(), 1);
        }
    }
}

/// What has to be compared: every state of it, and of another refund of the same payment or of another one,
/// with every action, before it is compared and after it, in one batch.
#[test]
fn as_long_as_something_has_to_be_compared_no_refund_of_its_payment_is_tried_again() {
    let [retry, resolution, comparison] = actions();
    for ended in [RefundStatus::Done, RefundStatus::Resolved] {
        for order in [1, 2] {
            let mut settlement = Settlement::default();
            let tasks = &mut settlement.tasks;
            tasks.load(refund_id(1), ended, Some(order_id(1)));
            tasks.load(refund_id(2), ended, Some(order_id(1)));
            for compare in [1, 2] {
                tasks.load_compare(order_id(1), refund_id(compare));
            }
            for (refund, of) in [(3, order), (4, order)] {
                tasks.load(refund_id(refund), RefundStatus::Stuck, Some(order_id(of)));
            }
            let mut changes = Changes::default();
            let mut decide = |refund, n, action: &Action| {
                let command = attend_to(refund, n, action);
                settlement.decide(&command, ids(), at_s(30), &mut changes)
            };
            let attended = |refund, status| {
                let (refund_id, at) = (refund_id(refund), at_s(30));
                Outcome::Attended(RefundTask {
                    refund_id,
                    status,
                    at,
                })
            };
            let refused = |status| Outcome::Refused(Refusal::RefundConflict { status });
            let to_compare = Outcome::Refused(Refusal::RefundToCompare);
            let case = format!("{ended} {order}");
            // Both have to be; a retry of another payment's refund is free to go.
            for (n, closed) in [(10, 1), (20, 2)] {
                match order {
                    1 => assert_eq!(decide(3, n, &retry), to_compare, "{case}"),
                    _ if n == 10 => {
                        let pending = attended(3, RefundStatus::Pending);
                        assert_eq!(decide(3, n, &retry), pending, "{case}");
                    }
                    _ => {}
                }
                for action in [&retry, &resolution] {
                    assert_eq!(decide(closed, n + 1, action), refused(ended), "{case}");
                }
                let stuck = refused(RefundStatus::Stuck);
                assert_eq!(decide(4, n + 2, &comparison), stuck, "{case}");
                // It has ended as it had.
                let done = attended(closed, ended);
                assert_eq!(decide(closed, n + 3, &comparison), done, "{case}");
                assert_eq!(decide(closed, n + 3, &comparison), done, "{case}");
                assert_eq!(decide(closed, n + 4, &comparison), refused(ended), "{case}");
            }
            if order == 1 {
                let pending = attended(3, RefundStatus::Pending);
                assert_eq!(decide(3, 30, &retry), pending, "{case}");
            }
            // Who has paid one by other means says so in any case.
            let resolving = attended(4, RefundStatus::Resolving);
            assert_eq!(decide(4, 31, &resolution), resolving, "{case}");
            assert_eq!(changes.actions.len(), 4, "{case}");
        }
    }
}

#[test]
fn what_is_paid_may_be_resolved_while_another_has_to_be_compared() {
    let mut settlement = with(RefundStatus::Stuck);
    settlement.tasks.load_compare(order_id(1), refund_id(2));
    let [_, resolution, _] = actions();
    let mut changes = Changes::default();
    let outcome = settlement.decide(&attend(7, &resolution), ids(), at_s(30), &mut changes);
    assert!(matches!(outcome, Outcome::Attended(_)), "{outcome:?}");
    assert_eq!(changes.actions.len(), 1);
}

#[test]
fn each_refusal_in_the_order_of_the_checks() {
    let late = at_s(DEADLINE_S + 1);
    for action in actions() {
        let decide = |settlement: &mut Settlement, command: &Command<Kind>| {
            let mut changes = Changes::default();
            let outcome = settlement.decide(command, ids(), late, &mut changes);
            assert!(changes.is_empty(), "{action:?}");
            outcome
        };
        let task = RefundTask {
            refund_id: refund_id(1),
            status: RefundStatus::Pending,
            at: at_s(1),
        };
        // Done before, whatever the refund has become since, and however late it is asked again.
        for status in RefundStatus::ALL {
            let mut settlement = with(status);
            (settlement.tasks).load_done(command_id(7), fingerprint(7), task);
            let same = decide(&mut settlement, &attend(7, &action));
            assert_eq!(same, Outcome::Attended(task), "{status}");
            let mut other = attend(7, &action);
            other.fingerprint = fingerprint(8);
            let reused = decide(&mut settlement, &other);
            assert_eq!(reused, Outcome::Refused(Refusal::KeyReused), "{status}");
        }
        let unknown = decide(&mut Settlement::default(), &attend(7, &action));
        assert_eq!(unknown, Outcome::Refused(Refusal::NotFound));
        for status in RefundStatus::ALL {
            let expired = decide(&mut with(status), &attend(7, &action));
            assert_eq!(
                expired,
                Outcome::Refused(Refusal::CommandExpired),
                "{status}"
            );
        }
    }
}
