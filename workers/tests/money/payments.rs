//! Payments through the settlement lane.

use crate::rig::{Asker, Rig, charge, pay};
use onsale_schema::settlement::{Outcome, Refusal};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{Lane, ledger};
use onsale_workers::config::Role;

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_payments_at_once_charge_once() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let user = rig.user(10_000).await;
    let (reservation, _) = rig.reservation(user, 3000, "HELD", 60_000).await;
    let (a, b) = (
        rig.worker(Role::Settlement).await,
        rig.worker(Role::Settlement).await,
    );
    let mut messages = Vec::new();
    for _ in 0..50 {
        messages.push(asker.send(vec![pay(user, reservation)]).await);
    }
    let mut outcomes = Vec::new();
    for message in messages {
        outcomes.extend(asker.outcomes(message).await);
    }
    let is_paid =
        |outcome: &&Outcome| matches!(outcome, Outcome::Paid(p) if p.amount.to_won() == 3000);
    assert_eq!(outcomes.iter().filter(is_paid).count(), 1);
    let already = refused(Refusal::AlreadyPaid);
    assert_eq!(outcomes.iter().filter(|o| **o == already).count(), 49);
    a.stop().await;
    b.stop().await;
    for (sql, expected) in [
        (
            "SELECT balance::bigint AS n FROM account WHERE balance IS NOT NULL",
            7000,
        ),
        ("SELECT count(*) AS n FROM payment", 1),
        ("SELECT count(*) AS n FROM notice WHERE done_at IS NULL", 1),
        (
            "SELECT count(*) AS n FROM transfer WHERE kind = 'PAYMENT'",
            1,
        ),
        (
            "SELECT count(*) AS n FROM reservation WHERE status = 'PAID'",
            1,
        ),
    ] {
        assert_eq!(rig.number(sql).await, expected, "{sql}");
    }
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_what_may_not_be_paid_and_moves_nothing() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let (user, poor) = (rig.user(10_000).await, rig.user(10).await);
    let worker = rig.worker(Role::Settlement).await;
    let (held, _) = rig.reservation(user, 1000, "HELD", 60_000).await;
    let (lapsed, _) = rig.reservation(user, 1000, "HELD", -1).await;
    let (expired, _) = rig.reservation(user, 1000, "EXPIRED", -1).await;
    let (released, _) = rig.reservation(user, 1000, "RELEASED", 60_000).await;
    let (dear, _) = rig.reservation(poor, 1000, "HELD", 60_000).await;
    let mut late = pay(user, held);
    late.deadline = late.deadline.plus_ms(-240_000);
    let status = ReservationStatus::Released;
    for (command, refusal) in [
        (pay(poor, held), Refusal::NotFound),
        (pay(user, dear), Refusal::NotFound),
        (late, Refusal::CommandExpired),
        (pay(user, lapsed), Refusal::HoldExpired),
        (pay(user, expired), Refusal::HoldExpired),
        (pay(user, released), Refusal::StateConflict { status }),
        (pay(poor, dear), Refusal::InsufficientPoints),
    ] {
        assert_eq!(asker.ask(command).await, refused(refusal));
    }
    for (sql, expected) in [
        (
            "SELECT count(*) AS n FROM transfer WHERE kind = 'PAYMENT'",
            0,
        ),
        ("SELECT count(*) AS n FROM notice", 0),
        (
            "SELECT count(*) AS n FROM reservation WHERE status = 'PAID'",
            0,
        ),
        (
            "SELECT count(*) AS n FROM payment WHERE fail_code = 'insufficient-points'",
            1,
        ),
        ("SELECT count(*) AS n FROM payment", 1),
    ] {
        assert_eq!(rig.number(sql).await, expected, "{sql}");
    }
    // With points it is paid, by another attempt with the same key or another.
    let charger = rig.worker(Role::Ledger).await;
    let mut ledger = Asker::<ledger::Outcome>::new(&rig, Lane::Ledger).await;
    let charged = ledger.ask(charge(poor, 5000)).await;
    assert!(matches!(charged, ledger::Outcome::Charged { .. }));
    assert!(matches!(asker.ask(pay(poor, dear)).await, Outcome::Paid(_)));
    charger.stop().await;
    worker.stop().await;
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_paid_once_and_answered_alike() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let user = rig.user(10_000).await;
    let (first, schedule) = rig.reservation(user, 1000, "HELD", 60_000).await;
    let (second, _) = rig.reservation(user, 0, "HELD", 60_000).await;
    let worker = rig.worker(Role::Settlement).await;
    let command = pay(user, first);
    let mut other = pay(user, second);
    other.id = command.id;
    let message = asker
        .send(vec![command.clone(), command.clone(), other])
        .await;
    let outcomes = asker.outcomes(message).await;
    assert!(matches!(&outcomes[0], Outcome::Paid(p) if p.reservation_id == first));
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[2], refused(Refusal::KeyReused));
    assert_eq!(asker.ask(command).await, outcomes[0], "a later retry");
    // What costs nothing is paid without moving anything.
    assert!(matches!(
        asker.ask(pay(user, second)).await,
        Outcome::Paid(_)
    ));
    worker.stop().await;
    rig.assert_balanced().await;

    let sql = format!("SELECT count(*) AS n FROM notice WHERE schedule_id = '{schedule}'");
    assert_eq!(rig.number(&sql).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_payments_in_one_batch_by_one_user_who_can_afford_one_one_fails() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let user = rig.user(5000).await;
    let (first, _) = rig.reservation(user, 3000, "HELD", 60_000).await;
    let (second, _) = rig.reservation(user, 3000, "HELD", 60_000).await;
    let worker = rig.worker(Role::Settlement).await;
    let commands = vec![pay(user, first), pay(user, second)];
    let message = asker.send(commands.clone()).await;
    let outcomes = asker.outcomes(message).await;
    assert!(matches!(&outcomes[0], Outcome::Paid(p) if p.reservation_id == first));
    assert_eq!(outcomes[1], refused(Refusal::InsufficientPoints));
    // The same two attempts again, as another message: nothing more happens.
    let again = asker.send(commands).await;
    assert_eq!(asker.outcomes(again).await, outcomes);
    worker.stop().await;
    for (sql, expected) in [
        ("SELECT count(*) AS n FROM payment".to_owned(), 2),
        (
            format!(
                "SELECT count(*) AS n FROM payment \
                 WHERE status = 'FAILED' AND fail_code = 'insufficient-points' \
                   AND reservation_id = '{second}' AND transfer_id IS NULL"
            ),
            1,
        ),
        (
            format!(
                "SELECT count(*) AS n FROM reservation WHERE (reservation_id, status) \
                 IN (('{first}', 'PAID'), ('{second}', 'HELD'))"
            ),
            2,
        ),
        ("SELECT count(*) AS n FROM notice".to_owned(), 1),
        (
            "SELECT balance::bigint AS n FROM account WHERE balance IS NOT NULL".to_owned(),
            2000,
        ),
    ] {
        assert_eq!(rig.number(&sql).await, expected, "{sql}");
    }
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapse_that_is_under_way_wins() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let user = rig.user(10_000).await;
    let (reservation, _) = rig.reservation(user, 1000, "HELD", 60_000).await;
    let worker = rig.worker(Role::Settlement).await;
    rig.sql("BEGIN; UPDATE reservation SET status = 'EXPIRED', ended_at = now()")
        .await;
    let message = asker.send(vec![pay(user, reservation)]).await;
    rig.until(
        "SELECT count(*) AS n FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
        1,
    )
    .await;
    rig.sql("COMMIT").await;
    let outcomes = asker.outcomes(message).await;
    assert_eq!(outcomes, [refused(Refusal::HoldExpired)]);
    worker.stop().await;
    rig.assert_balanced().await;
}
