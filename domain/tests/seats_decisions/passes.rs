//! Holds where the date has a waiting room.

use super::*;
use onsale_domain::seats::{Entry, Gate, GateUpdate};
use onsale_schema::admission::{HoldChange, HoldState, Pass, Ticketed};
use onsale_schema::{ArrivalNo, Generation, TicketId};
use uuid::Uuid;

fn ticket(n: u128) -> TicketId {
    TicketId(Uuid::from_u128(n))
}

/// The pass of user `n`, good for two holds until second 1500.
fn pass(n: u128) -> Pass {
    Pass {
        ticket: Ticketed {
            user_id: user(n),
            schedule_id: schedule_id(1),
            ticket_id: ticket(n),
            arrival_no: ArrivalNo(u32::try_from(n).expect("a small number")),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        },
        expires_at: at_s(1500),
        holds_max: 2,
    }
}

fn with(mut command: Command<Kind>, shown: Option<Pass>) -> Command<Kind> {
    match &mut command.kind {
        Kind::Hold { pass, .. } | Kind::HoldBest { pass, .. } => *pass = shown,
        other => panic!("no hold: {other:?}"),
    }
    command
}

fn room(n: u128, pass_required: bool, version: i64) -> Command<Kind> {
    let kind = Kind::Room {
        notice_id: notice_id(n),
        schedule_id: schedule_id(1),
        pass_required,
        version,
    };
    command(n, kind)
}

/// A schedule whose room was turned on at second 1001.
fn guarded(policy: Policy) -> Sale {
    let mut sale = sale_with(policy);
    assert_eq!(
        outcome(&mut sale, &room(900, true, 1), 1001),
        Outcome::Applied
    );
    sale
}

/// What the owner of the room is told by a batch.
fn told(changes: &Changes) -> Vec<(u128, HoldState)> {
    let all = changes.pass_holds.get(&schedule_id(1));
    let all = all.into_iter().flatten();
    all.map(|hold| (hold.reservation_id.0.as_u128(), hold.state))
        .collect()
}

#[test]
fn a_pass_of_before_a_restore_holds_nothing_and_retries_are_answered() {
    let good = pass(1);
    let mut before = guarded(policy());
    let first = with(hold(1, &[0]), Some(good));
    let (held, _) = decide(&mut before, &first, 1100);
    assert!(matches!(held, Outcome::Held(_)), "{held:?}");
    let mut restored = before.with_generation(Generation(7));
    let another = |pass| with(hold(2, &[1]), Some(pass));
    let old = pass(2);
    assert_eq!(
        refusal(&mut restored, &another(old), 1100),
        Refusal::PassExpired
    );
    assert_eq!(decide(&mut restored, &first, 1200).0, held);
    let mut new = old;
    new.ticket.generation = Generation(7);
    let (held, _) = decide(&mut restored, &another(new), 1200);
    assert!(matches!(held, Outcome::Held(_)), "{held:?}");
}

#[test]
fn a_hold_takes_a_pass_of_its_user_and_date_that_is_good() {
    let mut sale = guarded(policy());
    let good = pass(1);
    let foreign = |change: fn(&mut Pass)| {
        let mut pass = pass(1);
        change(&mut pass);
        Some(pass)
    };
    for (shown, at, expected) in [
        (None, 1100, Refusal::PassRequired),
        (Some(pass(2)), 1100, Refusal::PassInvalid),
        (
            foreign(|pass| pass.ticket.schedule_id = schedule_id(2)),
            1100,
            Refusal::PassInvalid,
        ),
        (
            // Of after a restore that this owner knows nothing of.
            foreign(|pass| pass.ticket.generation = Generation(1)),
            1100,
            Refusal::PassExpired,
        ),
        (Some(good), 1500, Refusal::PassExpired),
        (Some(good), 2000, Refusal::SaleClosed),
        (None, 900, Refusal::SaleNotOpen),
    ] {
        for command in [hold(1, &[0]), hold_best(1, 1)] {
            let command = with(command, shown);
            assert_eq!(refusal(&mut sale, &command, at), expected, "{shown:?}");
        }
    }
    // Seats are looked at by those only who may have them.
    let nonsense = with(hold(1, &[999]), None);
    assert_eq!(refusal(&mut sale, &nonsense, 1100), Refusal::PassRequired);

    let (outcome, changes) = decide(&mut sale, &with(hold(1, &[0]), Some(good)), 1499);
    assert!(matches!(outcome, Outcome::Held(_)), "{outcome:?}");
    let entry = Entry {
        ticket_id: ticket(1),
        arrival_no: ArrivalNo(1),
    };
    assert_eq!(changes.reservations[0].reservation.entry, Some(entry));
    let until = HoldState::Until(at_s(1499 + HOLD_S));
    assert_eq!(
        changes.pass_holds[&schedule_id(1)],
        [HoldChange {
            ticket_id: ticket(1),
            arrival_no: ArrivalNo(1),
            reservation_id: reservation_id(1),
            state: until,
        }]
    );
}

#[test]
fn holds_are_counted_by_ticket_whatever_becomes_of_them() {
    let mut sale = guarded(policy());
    let try_it = |sale: &mut Sale, n: u128, at: i64| {
        let command = Command {
            user: user(1),
            ..with(hold(n, &[0]), Some(pass(1)))
        };
        outcome(sale, &command, at)
    };
    assert!(matches!(try_it(&mut sale, 1, 1100), Outcome::Held(_)));
    let mut give_back = release(1, 1);
    give_back.user = user(1);
    outcome(&mut sale, &give_back, 1101);
    assert!(matches!(try_it(&mut sale, 2, 1102), Outcome::Held(_)));
    let mut give_back = release(2, 2);
    give_back.user = user(1);
    outcome(&mut sale, &give_back, 1103);
    let used_up = Outcome::Refused(Refusal::PassUsedUp);
    assert_eq!(try_it(&mut sale, 3, 1104), used_up);

    // What is not in memory any more counts, too, and so it does for the next owner.
    sale.prune(at_s(1103));
    assert_eq!(try_it(&mut sale, 4, 1201), used_up);
    let mut next = sale_with(policy()).with_gate(sale.gate());
    next.load_entries(ticket(1), 2);
    assert_eq!(try_it(&mut next, 5, 1202), used_up);

    // A retry is no second hold, also with another pass or none.
    let again = |shown| with(hold(6, &[1]), shown);
    let first = outcome(&mut sale, &again(Some(pass(6))), 1210);
    assert!(matches!(first, Outcome::Held(_)), "{first:?}");
    let mut renewed = pass(6);
    renewed.expires_at = at_s(1900);
    for shown in [Some(renewed), Some(pass(7)), None] {
        assert_eq!(outcome(&mut sale, &again(shown), 1600), first);
    }
}

#[test]
fn a_hold_that_is_taken_back_does_not_count() {
    let mut sale = guarded(policy());
    let before = sale.clone();
    let (_, changes) = decide(&mut sale, &with(hold(1, &[0]), Some(pass(1))), 1100);
    sale.undo(&changes);
    assert_eq!(sale, before);
    let mut changes = Changes::default();
    sale.decide(&room(901, false, 7), times(1101), &mut changes);
    sale.seal(at_s(1101), &mut changes);
    assert_ne!(sale, before);
    sale.undo(&changes);
    assert_eq!(sale, before);
}

#[test]
fn the_room_is_told_what_becomes_of_a_hold() {
    let mut sale = guarded(policy());
    let mut enter = |n: u128| {
        let seat = i32::try_from(n).unwrap();
        let command = with(hold(n, &[seat]), Some(pass(n)));
        held(&mut sale, &command, 1100);
    };
    [1, 2, 3].into_iter().for_each(&mut enter);
    let (_, changes) = decide(&mut sale, &extend(1, 1), 1200);
    let until = HoldState::Until(at_s(1200 + HOLD_S));
    assert_eq!(told(&changes), [(1, until)]);
    let mut give_back = release(2, 2);
    give_back.user = user(2);
    let (_, changes) = decide(&mut sale, &give_back, 1201);
    assert_eq!(told(&changes), [(2, HoldState::Over)]);
    let (_, changes) = decide(&mut sale, &paid(1), 1202);
    assert_eq!(told(&changes), [(1, HoldState::Paid)]);
    let mut changes = Changes::default();
    sale.lapse_due(at_s(1400), 10, &mut changes);
    sale.seal(at_s(1400), &mut changes);
    assert_eq!(told(&changes), [(3, HoldState::Over)]);

    // Made and given back in one batch.
    let mut changes = Changes::default();
    sale.decide(
        &with(hold(4, &[9]), Some(pass(4))),
        times(1401),
        &mut changes,
    );
    let mut give_back = release(4, 4);
    give_back.user = user(4);
    sale.decide(&give_back, times(1401), &mut changes);
    sale.seal(at_s(1401), &mut changes);
    let until = HoldState::Until(at_s(1401 + HOLD_S));
    assert_eq!(told(&changes), [(4, until), (4, HoldState::Over)]);
}

/// What is kept from others for a while is over for its pass at once, and is said to be so once.
#[test]
fn seats_that_are_kept_keep_no_pass() {
    let jitter = Policy {
        release_jitter_ms: 60_000,
        ..policy()
    };
    let mut sale = guarded(jitter);
    held(&mut sale, &with(hold(1, &[0]), Some(pass(1))), 1100);
    let mut give_back = release(1, 1);
    give_back.user = user(1);
    let (_, changes) = decide(&mut sale, &give_back, 1101);
    assert_eq!(told(&changes), [(1, HoldState::Over)]);
    let mut changes = Changes::default();
    assert_eq!(sale.lapse_due(at_s(1300), 10, &mut changes), 1);
    sale.seal(at_s(1300), &mut changes);
    assert_eq!(told(&changes), []);
}

#[test]
fn a_room_is_turned_on_and_off_by_its_newest_word() {
    let mut sale = sale();
    let gate = |since: Option<i64>, room_version| Gate {
        pass_required_since: since.map(at_s),
        room_version,
    };
    for (n, pass_required, version, at, expected) in [
        (1, true, 3, 1001, gate(Some(1001), 3)),
        // Twice, and late.
        (1, true, 3, 1002, gate(Some(1001), 3)),
        (2, false, 2, 1003, gate(Some(1001), 3)),
        // What was said between was lost for a while.
        (3, true, 9, 1004, gate(Some(1001), 9)),
        (4, false, 10, 1005, gate(None, 10)),
        (5, true, 12, 1006, gate(Some(1006), 12)),
    ] {
        let before = sale.gate();
        let (outcome, changes) = decide(&mut sale, &room(n, pass_required, version), at);
        assert_eq!(outcome, Outcome::Applied);
        assert_eq!(changes.notices_done, [notice_id(n)]);
        assert_eq!(sale.gate(), expected);
        let update = GateUpdate {
            schedule_id: schedule_id(1),
            before,
            after: expected,
        };
        let updates = if before == expected {
            vec![]
        } else {
            vec![update]
        };
        // What has no effect needs no look at its notice.
        let open = updates.iter().map(|_| notice_id(n));
        assert_eq!(changes.notices_open, open.collect::<Vec<_>>());
        assert_eq!(changes.gates, updates);
        assert!(changes.maps.is_empty(), "the map is as it was");
    }
}

/// After a restore of Postgres the stream says again what a room did that is older now: its versions,
/// and the numbers of its tickets, will be given to others.
#[test]
fn word_of_a_room_counts_only_while_its_notice_is_open() {
    let mut sale = guarded(policy());
    let before = sale.clone();
    let over = |n| Kind::PassesOver {
        notice_id: notice_id(n),
        schedule_id: schedule_id(1),
        tickets: vec![ArrivalNo(1)],
    };
    let words = [room(902, false, 9), command(903, over(903))];
    for word in &words {
        let (_, changes) = decide(&mut sale, word, 1100);
        // There is no such notice, so that it can't be marked as done.
        let no = word.id.0.as_u128();
        assert_eq!(changes.notices_open, [notice_id(no)]);
        sale.undo(&changes);
        sale.load_told(notice_id(no));
        let (outcome, changes) = decide(&mut sale, word, 1100);
        assert_eq!(outcome, Outcome::Applied);
        assert!(changes.notices_open.is_empty() && changes.gates.is_empty());
        assert_eq!(sale, before);
    }
    held(&mut sale, &with(hold(1, &[0]), Some(pass(1))), 1101);
    // What the room says from now on counts, though its version was said before.
    decide(&mut sale, &room(904, false, 9), 1102);
    held(&mut sale, &hold(2, &[1]), 1103);
}

/// Who has left or paid may not come in again with the same pass; what is held stays held.
#[test]
fn a_pass_is_over_when_its_ticket_is() {
    let mut sale = guarded(policy());
    held(&mut sale, &with(hold(1, &[0]), Some(pass(1))), 1100);
    let before = sale.clone();
    let over = Kind::PassesOver {
        notice_id: notice_id(902),
        schedule_id: schedule_id(1),
        tickets: [1, 3].map(ArrivalNo).to_vec(),
    };
    let over = command(902, over);
    for _ in 0..2 {
        let (outcome, changes) = decide(&mut sale, &over, 1101);
        assert_eq!(outcome, Outcome::Applied);
        assert_eq!(changes.notices_done, [notice_id(902)]);
        assert!(changes.maps.is_empty() && changes.ended.is_empty());
    }
    let mut again = with(hold(4, &[1]), Some(pass(1)));
    again.user = user(1);
    let third = with(hold(3, &[1]), Some(pass(3)));
    for command in [&again, &third] {
        assert_eq!(refusal(&mut sale, command, 1102), Refusal::PassExpired);
    }
    held(&mut sale, &with(hold(2, &[1]), Some(pass(2))), 1102);
    let (outcome, _) = decide(&mut sale, &extend(1, 1), 1150);
    assert!(matches!(outcome, Outcome::Extended { .. }), "{outcome:?}");

    // The next owner knows it from the rows; a batch that is taken back says nothing.
    let mut next = before.clone();
    next.load_over(ArrivalNo(3), at_s(1101));
    assert_eq!(refusal(&mut next, &third, 1102), Refusal::PassExpired);
    let mut taken_back = before.clone();
    let (_, changes) = decide(&mut taken_back, &over, 1101);
    taken_back.undo(&changes);
    assert_eq!(taken_back, before);
}

/// What is known of tickets takes no memory for longer than their passes last.
#[test]
fn tickets_whose_passes_are_over_are_forgotten() {
    let mut sale = guarded(policy());
    held(&mut sale, &with(hold(1, &[0]), Some(pass(1))), 1100);
    let mut give_back = release(1, 1);
    give_back.user = user(1);
    outcome(&mut sale, &give_back, 1101);
    let over = Kind::PassesOver {
        notice_id: notice_id(902),
        schedule_id: schedule_id(1),
        tickets: vec![ArrivalNo(3)],
    };
    outcome(&mut sale, &command(902, over), 1102);
    sale.prune(at_s(1101));
    assert_eq!(sale.knows_tickets(), (1, 1), "no longer ago than that");
    // In earnest a day is between, and the passes are over anyway.
    sale.prune(at_s(1103));
    assert_eq!(sale.knows_tickets(), (0, 0));
}

/// Word of a payment may come twice, and after all of it was cancelled.
#[test]
fn the_room_is_told_of_a_payment_once_and_also_of_one_that_was_cancelled() {
    let mut sale = guarded(policy());
    for n in [1, 2] {
        let seat = i32::try_from(n).unwrap();
        held(&mut sale, &with(hold(n, &[seat]), Some(pass(n))), 1100);
    }
    let (_, changes) = decide(&mut sale, &paid(1), 1101);
    assert_eq!(told(&changes), [(1, HoldState::Paid)]);
    let (_, changes) = decide(&mut sale, &paid(1), 1102);
    assert_eq!(told(&changes), []);
    // It is told again if what was decided is not stored.
    let before = sale.clone();
    let (_, changes) = decide(&mut sale, &paid(2), 1103);
    sale.undo(&changes);
    let cancelled = Kind::Cancelled {
        notice_id: notice_id(903),
        schedule_id: schedule_id(1),
        reservation_id: reservation_id(2),
        seats: vec![SeatNo(2)],
        at: at_s(1103),
    };
    for mut sale in [sale, before] {
        let (_, changes) = decide(&mut sale, &command(903, cancelled.clone()), 1104);
        assert_eq!(told(&changes), []);
        let (_, changes) = decide(&mut sale, &paid(2), 1105);
        assert_eq!(told(&changes), [(2, HoldState::Paid)]);
    }
}

#[test]
fn without_a_room_a_pass_is_nothing() {
    let mut sale = sale();
    let (outcome, changes) = decide(&mut sale, &with(hold(1, &[0]), Some(pass(2))), 1100);
    assert!(matches!(outcome, Outcome::Held(_)));
    assert_eq!(changes.reservations[0].reservation.entry, None);
    assert_eq!(told(&changes), []);
    // Who has a hold keeps it when the room is turned on.
    decide(&mut sale, &room(900, true, 1), 1101);
    let (outcome, changes) = decide(&mut sale, &extend(1, 1), 1150);
    assert!(matches!(outcome, Outcome::Extended { .. }), "{outcome:?}");
    assert_eq!(told(&changes), []);
}
