//! What people do about refunds, among other commands of the settlement lane.

use crate::rig::{Asker, Rig, command};
use onsale_schema::settlement::{Kind, Outcome};
use onsale_schema::{Lane, PaymentOrderId, RefundId, UserId};
use onsale_workers::config::Role;
use uuid::Uuid;

/// Two charges by card, whose orders come in this order; the refund of the second one is stuck.
async fn charges(rig: &mut Rig, user: UserId) -> (PaymentOrderId, PaymentOrderId, RefundId) {
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let refund = Uuid::now_v7();
    for order in [first, second] {
        rig.sql(&format!(
            "INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, \
                                        payment_key, confirm_command_id, confirm_fingerprint, \
                                        captured, created_at, updated_at) \
             VALUES ('{order}', '{user}', '{order}', '{order}', 1, 'REFUNDING', '{order}', \
                     '{order}', '{order}', 1, now(), now())"
        ))
        .await;
    }
    rig.sql(&format!(
        "INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, stuck_at, \
                             created_at) \
         VALUES ('{refund}', '{second}', '{user}', '{second}', 'GATEWAY', 1, 'STUCK', now(), now())"
    ))
    .await;
    (
        PaymentOrderId(first),
        PaymentOrderId(second),
        RefundId(refund),
    )
}

/// One batch attends to the refund of one charge and hears of another one. Whoever has the lock of that
/// one may want the rows of the first: who waits for an earlier lock must hold no later one.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_order_holds_no_later_one() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let user = rig.user(0).await;
    let (first, second, refund_id) = charges(&mut rig, user).await;
    let worker = rig.worker(Role::Settlement).await;
    rig.sql(&format!(
        "BEGIN; SELECT FROM payment_order WHERE order_id = '{first}' FOR NO KEY UPDATE"
    ))
    .await;
    let event = Kind::GatewayEvent {
        event_id: "an-event".to_owned(),
        order_id: first,
        is_captured: false,
        may_be_back: false,
    };
    let retry = command(user, Kind::RetryRefund { refund_id });
    let message = asker.send(vec![retry, command(user, event)]).await;
    rig.until(
        "SELECT count(*) AS n FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
        1,
    )
    .await;
    rig.sql(&format!(
        "SELECT FROM payment_order WHERE order_id = '{second}' FOR NO KEY UPDATE NOWAIT; \
         SELECT FROM refund WHERE refund_id = '{refund_id}' FOR NO KEY UPDATE NOWAIT; \
         COMMIT"
    ))
    .await;
    let outcomes = asker.outcomes(message).await;
    assert!(
        matches!(outcomes[..], [Outcome::Attended(_), Outcome::Noted]),
        "{outcomes:?}"
    );
    worker.stop().await;
    let sql = "SELECT count(*) AS n FROM refund
               WHERE status = 'PENDING' AND next_at IS NOT NULL AND settles_at IS NOT NULL";
    assert_eq!(rig.number(sql).await, 1);
}
