//! Keys of commands, and what else there is one of, that two batches want at once and that no lock of
//! theirs has in common: who comes second looks again, and no batch is taken apart for it.

use crate::rig::{Rig, charge, command, job, ledger, pay};
use onsale_platform::db;
use onsale_schema::ledger::SALES_ACCOUNT;
use onsale_schema::message::Command;
use onsale_schema::settlement::{Kind, Outcome, Refusal};
use onsale_schema::{Money, PaymentOrderId, ReservationId, ScheduleId, UserId};
use onsale_workers::compete::commit;
use onsale_workers::settlement::Settlement;
use tokio::task::JoinSet;
use uuid::Uuid;

const TOTAL: i64 = 1000;

fn order(user: UserId, reservation_id: ReservationId) -> Command<Kind> {
    let order_id = PaymentOrderId(Uuid::now_v7());
    let kind = Kind::Order {
        order_id,
        reservation_id,
    };
    command(user, kind)
}

/// Another batch makes an order and has not committed yet.
async fn another_orders(
    rig: &mut Rig,
    user: UserId,
    (reservation, schedule): (ReservationId, ScheduleId),
    command: Uuid,
) -> PaymentOrderId {
    let id = PaymentOrderId(Uuid::now_v7());
    rig.sql(&format!(
        "BEGIN;
         INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                    fingerprint, amount, status, created_at, updated_at)
         VALUES ('{id}', '{reservation}', '{schedule}', '{user}', '{command}', '{command}', {TOTAL},
                 'READY', now(), now());
         INSERT INTO payment_order_key VALUES ('{command}', '{id}', now())"
    ))
    .await;
    id
}

/// Decides a command together with others while another batch is in the way, which commits then.
async fn decided_meanwhile(rig: &mut Rig, command: Command<Kind>) -> Result<Outcome, db::Error> {
    let job = job(Settlement::new(true), 1, vec![command]);
    let pool = rig.pool(2);
    let mut deciding = JoinSet::from_iter([async move { commit::run(&pool, job).await }]);
    rig.until(
        "SELECT count(*) AS n FROM pg_locks
         WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))",
        1,
    )
    .await;
    rig.sql("COMMIT").await;
    let done = deciding.join_next().await.unwrap().unwrap()?;
    Ok(done.decided[0].outcomes[0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_for_two_reservations_at_once_is_refused_in_one_piece() {
    let mut rig = Rig::new().await;
    let user = rig.user(0).await;
    let first = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let (second, _) = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let command = order(user, second);
    another_orders(&mut rig, user, first, command.id.0).await;
    let outcome = decided_meanwhile(&mut rig, command).await.unwrap();
    assert_eq!(outcome, Outcome::Refused(Refusal::KeyReused));
    let orders = "SELECT count(*) AS n FROM payment_order";
    assert_eq!(rig.number(orders).await, 1);
}

/// What a command has paid is looked for before its payer's account is locked.
#[tokio::test(flavor = "multi_thread")]
async fn one_key_for_two_payments_at_once_is_refused_in_one_piece() {
    let mut rig = Rig::new().await;
    let user = rig.user(2 * TOTAL).await;
    let (first, _) = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let (second, _) = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let command = pay(user, second);
    let (key, id) = (command.id.0, Uuid::now_v7());
    rig.sql(&format!(
        "BEGIN;
         UPDATE account SET balance = balance - {TOTAL} WHERE account_id = '{user}';
         UPDATE reservation SET status = 'PAID' WHERE reservation_id = '{first}';
         INSERT INTO transfer (transfer_id, cause, fingerprint, kind, debit, credit, amount,
                               user_balance, at)
         VALUES ('{id}', '{first}', '{id}', 'PAYMENT', '{user}', '{SALES_ACCOUNT}', {TOTAL},
                 {TOTAL}, now());
         INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, method,
                              amount, status, transfer_id, at)
         VALUES ('{id}', '{first}', '{user}', '{key}', '{id}', 'POINTS', {TOTAL}, 'PAID', '{id}',
                 now())"
    ))
    .await;
    let outcome = decided_meanwhile(&mut rig, command).await.unwrap();
    assert_eq!(outcome, Outcome::Refused(Refusal::KeyReused));
    let payments = "SELECT count(*) AS n FROM payment";
    assert_eq!(rig.number(payments).await, 1);
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_makes_orders_there_is_one_that_is_ready() {
    let mut rig = Rig::new().await;
    let user = rig.user(0).await;
    let held = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    // Whoever makes it has not locked the reservation.
    let id = another_orders(&mut rig, user, held, Uuid::now_v7()).await;
    let command = order(user, held.0);
    match decided_meanwhile(&mut rig, command).await.unwrap() {
        Outcome::Ordered(order) => assert_eq!(order.order_id, id),
        other => panic!("{other:?}"),
    }
    let orders = "SELECT count(*) AS n FROM payment_order";
    assert_eq!(rig.number(orders).await, 1);
}

/// Who gives a payment to an order without having locked its name.
#[tokio::test(flavor = "multi_thread")]
async fn one_payment_for_two_orders_at_once_is_refused_to_one() {
    let mut rig = Rig::new().await;
    let user = rig.user(0).await;
    let mut orders = Vec::new();
    for _ in 0..2 {
        let held = rig.reservation(user, TOTAL, "HELD", 60_000).await;
        orders.push(another_orders(&mut rig, user, held, Uuid::now_v7()).await);
        rig.sql("COMMIT").await;
    }
    rig.sql(&format!(
        "BEGIN;
         UPDATE payment_order SET status = 'SECURING', payment_key = 'one',
                confirm_command_id = order_id, confirm_fingerprint = order_id
         WHERE order_id = '{}'",
        orders[0]
    ))
    .await;
    let kind = Kind::Confirm {
        order_id: orders[1],
        payment_key: "one".to_owned(),
        amount: Money::won(TOTAL),
    };
    let outcome = decided_meanwhile(&mut rig, command(user, kind)).await;
    assert_eq!(outcome.unwrap(), Outcome::Refused(Refusal::PaymentKeyUsed));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_orders_of_before_the_newest_stays_ready() {
    let mut rig = Rig::new().await;
    let user = rig.user(0).await;
    rig.sql(include_str!(
        "../../../migrations/2026-11-28-191000_one_ready_order/down.sql"
    ))
    .await;
    let several = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let one = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let mut orders = Vec::new();
    for held in [several, several, several, one] {
        orders.push(another_orders(&mut rig, user, held, Uuid::now_v7()).await);
        rig.sql("COMMIT").await;
    }
    rig.sql(include_str!(
        "../../../migrations/2026-11-28-191000_one_ready_order/up.sql"
    ))
    .await;
    let (newest, other) = (orders[2], orders[3]);
    let ready = format!(
        "SELECT count(*) AS n FROM payment_order \
         WHERE status = 'READY' AND order_id IN ('{newest}', '{other}')"
    );
    assert_eq!(rig.number(&ready).await, 2);
    let failed = "SELECT count(*) AS n FROM payment_order WHERE status = 'FAILED'";
    assert_eq!(rig.number(failed).await, 2);
    let kept = "SELECT count(*) AS n FROM pg_indexes WHERE indexname = 'payment_order_one_ready'";
    assert_eq!(rig.number(kept).await, 1);
}

/// Whoever asks twice at once for what was made before is told of it, in one batch with all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_comes_twice_in_a_message_is_found_once() {
    let mut rig = Rig::new().await;
    let user = rig.user(2 * TOTAL).await;
    let (reservation, _) = rig.reservation(user, TOTAL, "HELD", 60_000).await;
    let pool = rig.pool(1);
    let (charged, paid) = (charge(user, 1), pay(user, reservation));
    for (seq, times) in [(1, 1), (2, 2)] {
        let charges = job(ledger(), seq, vec![charged.clone(); times]);
        let done = commit::run(&pool, charges).await.unwrap();
        assert_eq!(done.labels, vec![("charge", "accepted"); times]);
        let payments = job(Settlement::new(false), seq, vec![paid.clone(); times]);
        let done = commit::run(&pool, payments).await.unwrap();
        assert_eq!(done.labels, vec![("pay", "accepted"); times]);
    }
    assert_eq!(rig.number("SELECT count(*) AS n FROM transfer").await, 3);
    rig.assert_balanced().await;
}
