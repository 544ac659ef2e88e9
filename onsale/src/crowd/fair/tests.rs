use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A ticket's history: when was asked, in milliseconds, and what was told, 10 ms later. All are told
/// to ask again after a second. Guests have no position.
fn witness(position: Option<u32>, history: &[(u64, Told)]) -> Witness {
    let mut witness = Witness::new(position.is_none());
    witness.comes(ms(history[0].0));
    for &(sent, told) in history {
        let seen = Sighting {
            sent: ms(sent),
            answered: ms(sent + 10),
            told,
            position,
            ahead: None,
            poll_after: (told != Told::Over).then_some(ms(1000)),
        };
        witness.see(&seen).unwrap();
    }
    witness
}

/// Waits from a time on until another, asking each second, and is told something at its end.
fn waits(position: u32, from: u64, until: u64, end: Told) -> Witness {
    witness(Some(position), &history(from, until, end))
}

/// The same, as a guest.
fn guest(from: u64, until: u64, end: Told) -> Witness {
    witness(None, &history(from, until, end))
}

fn history(from: u64, until: u64, end: Told) -> Vec<(u64, Told)> {
    let waiting = (from..until).step_by(1000).map(|at| (at, Told::Waiting));
    waiting.chain([(until, end)]).collect()
}

const fn places(position: u32, by: u32) -> Overtaken {
    Overtaken {
        who: Who::Place(position),
        by: Who::Place(by),
    }
}

#[test]
fn a_line_in_order_is_fair() {
    let line: Vec<_> = (1..=50)
        .map(|nth| waits(nth, 0, u64::from(nth) * 300, Told::Admitted))
        .collect();
    assert!(line.iter().all(Witness::is_admitted));
    assert_eq!(overtaken(&line), []);
    assert_eq!(judged(&line), 50);
    let nothing = Witness::new(false);
    let no_place = history(0, 3000, Told::Admitted);
    let mut unplaced = Witness::new(false);
    for (sent, told) in no_place {
        let seen = Sighting {
            sent: ms(sent),
            answered: ms(sent),
            told,
            position: None,
            ahead: None,
            poll_after: None,
        };
        assert_eq!(unplaced.see(&seen), Ok(()));
    }
    assert_eq!(judged(&[nothing, unplaced]), 0);
}

#[test]
fn who_is_told_to_wait_long_after_somebody_behind_was_let_in_was_overtaken() {
    let line = [
        waits(1, 0, 2000, Told::Admitted),
        waits(2, 0, 9000, Told::Admitted),
        waits(3, 0, 3000, Told::Admitted),
        waits(4, 0, 9000, Told::Over),
    ];
    assert_eq!(overtaken(&line), [places(2, 3)]);
    // Also when it is never let in.
    let line = [
        waits(2, 0, 9000, Told::Waiting),
        waits(3, 0, 3000, Told::Admitted),
    ];
    assert_eq!(overtaken(&line), [places(2, 3)]);
}

#[test]
fn each_who_was_overtaken_counts_once() {
    let mut line: Vec<_> = (1..=5)
        .map(|nth| waits(nth, 0, 20_000, Told::Admitted))
        .collect();
    line.extend((6..=9).map(|nth| waits(nth, 0, 3000, Told::Admitted)));
    let found = overtaken(&line);
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn what_an_ingress_may_tell_late_is_no_reproach() {
    // The last WAITING was asked for 1.99 s after the other was told.
    let line = [
        waits(2, 0, 5000, Told::Admitted),
        waits(3, 0, 2000, Told::Admitted),
    ];
    assert_eq!(overtaken(&line), []);
}

#[test]
fn who_was_silent_is_passed_over_by_right() {
    let silent = [
        (0, Told::Waiting),
        (6000, Told::Waiting),
        (7000, Told::Waiting),
        (8000, Told::Admitted),
    ];
    let line = [witness(Some(2), &silent), waits(3, 0, 3000, Told::Admitted)];
    assert_eq!(overtaken(&line), []);
    // A little late is not silent.
    let slow: Vec<_> = (0..8)
        .map(|nth| (nth * 1900, Told::Waiting))
        .chain([(15_200, Told::Admitted)])
        .collect();
    let line = [witness(Some(2), &slow), waits(3, 0, 3000, Told::Admitted)];
    assert_eq!(overtaken(&line), [places(2, 3)]);
}

#[test]
fn who_has_come_back_is_next() {
    let mut back = vec![(0, Told::Waiting)];
    back.extend((6..15).map(|s| (s * 1000, Told::Waiting)));
    // Let in after it was back.
    let line = [witness(Some(2), &back), waits(3, 0, 10_000, Told::Admitted)];
    assert_eq!(overtaken(&line), [places(2, 3)]);
    // Let in when it may have been away.
    let line = [witness(Some(2), &back), waits(3, 0, 7500, Told::Admitted)];
    assert_eq!(overtaken(&line), []);
}

#[test]
fn guests_are_before_the_line_by_right() {
    let line = [
        guest(4000, 6000, Told::Admitted),
        guest(0, 1000, Told::Admitted),
        waits(1, 0, 20_000, Told::Admitted),
        waits(2, 0, 20_000, Told::Over),
    ];
    assert_eq!(overtaken(&line), []);
}

#[test]
fn a_guest_is_overtaken_by_one_who_came_later() {
    let (first, second) = (
        guest(0, 9000, Told::Admitted),
        guest(1000, 4000, Told::Admitted),
    );
    let found = [Overtaken {
        who: Who::Guest(ms(10)),
        by: Who::Guest(ms(1010)),
    }];
    assert_eq!(overtaken(&[second.clone(), first]), found);
    // Not if it was away, nor if nobody can say who came first.
    let away = [(0, Told::Waiting), (8000, Told::Waiting)];
    assert_eq!(overtaken(&[witness(None, &away), second.clone()]), []);
    let at_once = guest(995, 8995, Told::Admitted);
    assert_eq!(overtaken(&[at_once, second]), []);
}

/// In a presale, while all others are in a lobby that has no order.
#[test]
fn guests_are_judged_among_themselves_before_the_others_have_places() {
    let mut lobby = Witness::new(false);
    for (sent, told) in history(0, 20_000, Told::Waiting) {
        let seen = Sighting {
            sent: ms(sent),
            answered: ms(sent + 10),
            told,
            position: None,
            ahead: None,
            poll_after: Some(ms(1000)),
        };
        assert_eq!(lobby.see(&seen), Ok(()));
    }
    let (first, second) = (
        guest(0, 2000, Told::Admitted),
        guest(1000, 5000, Told::Admitted),
    );
    let line = [lobby.clone(), first.clone(), second.clone()];
    assert_eq!((overtaken(&line), judged(&line)), (vec![], 2));
    let kept_waiting = guest(500, 12_000, Told::Waiting);
    let found = [Overtaken {
        who: Who::Guest(ms(510)),
        by: Who::Guest(ms(1010)),
    }];
    assert_eq!(overtaken(&[lobby, first, second, kept_waiting]), found);
}

#[test]
fn a_guest_who_has_joined_is_overtaken_by_the_line() {
    let line = waits(7, 0, 6000, Told::Admitted);
    let found = [Overtaken {
        who: Who::Guest(ms(1010)),
        by: Who::Place(7),
    }];
    assert_eq!(
        overtaken(&[guest(1000, 9000, Told::Waiting), line.clone()]),
        found
    );
    // It may have been let in before that one joined, as far as an ingress told.
    assert_eq!(overtaken(&[guest(4000, 9000, Told::Waiting), line]), []);
    // Who is let in at once may have been so at any time since it came.
    let at_once = waits(7, 2000, 2000, Told::Admitted);
    assert_eq!(overtaken(&[guest(1000, 9000, Told::Waiting), at_once]), []);
}

#[test]
fn contradictions_are_found() {
    let seen = |position, ahead| Sighting {
        sent: ms(0),
        answered: ms(1),
        told: Told::Waiting,
        position,
        ahead,
        poll_after: None,
    };
    let mut witness = Witness::new(false);
    assert_eq!(witness.see(&seen(None, None)), Ok(()));
    assert_eq!(witness.see(&seen(Some(7), Some(6))), Ok(()));
    assert_eq!(witness.see(&seen(Some(7), Some(2))), Ok(()));
    let grown = witness.see(&seen(Some(7), Some(3)));
    assert_eq!(grown, Err(Contradiction::Ahead));
    let moved = witness.see(&seen(Some(8), Some(2)));
    assert_eq!(moved, Err(Contradiction::Position));
    assert_eq!(witness.see(&seen(None, None)), Ok(()));
}
