//! The codes of points, payments and orders.

use super::{Met, tell};
use crate::hall::{Hall, open_policy, reservation, soon};
use crate::shop::{with_gateway, won};
use onsale::seed::Policy;
use onsale_schema::seats::Kind;
use onsale_schema::{PaymentOrderId, ReservationId, ScheduleId};
use reqwest::Method;
use serde_json::json;

/// A hold that a payment through the gateway has secured; settlement's word for it is put in by hand.
pub async fn payment_on_its_way(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(5).await;
    let held = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let id = reservation(&held.body);
    tell(hall, |notice_id| Kind::Secure {
        notice_id,
        order_id: PaymentOrderId(uuid::Uuid::now_v7()),
        reservation_id: ReservationId(id),
        schedule_id: ScheduleId(date),
        until: soon(60),
    })
    .await;
    let path = format!("/reservations/{id}");
    met.expect(api.delete(&buyer, &path).await, "payment-in-progress");
}

/// What the payment gateway refuses, and what is refused for its sake.
pub async fn orders(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(4).await;
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let less = json!({ "paymentKey": order.payment_key, "amount": won(1) });
    let answer = hall.confirm_as(&buyer, &order, "less-money", &less).await;
    met.expect(answer, "amount-mismatch");
    hall.switch(json!({ "decline": 1 })).await;
    met.expect(hall.confirm(&buyer, &order).await, "payment-declined");
    met.expect(hall.confirm(&buyer, &order).await, "order-state-conflict");
    let refund = uuid::Uuid::now_v7();
    hall.sql(&format!(
        "INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, \
                             created_at) \
         SELECT '{refund}', order_id, user_id, order_id, 'GATEWAY', 1, 'PENDING', \
                clock_timestamp() \
         FROM payment_order WHERE order_id = '{}'",
        order.id
    ))
    .await;
    let path = format!("/admin/tasks/{refund}/retry");
    let answer = api
        .post(&hall.admin(), &path, "not-stuck", &json!({}))
        .await;
    met.expect(answer, "refund-state-conflict");
    let next = hall.order(&buyer, date, &["A-1-2"]).await;
    let used = json!({ "paymentKey": order.payment_key, "amount": won(next.amount) });
    let answer = hall.confirm_as(&buyer, &next, "used-before", &used).await;
    met.expect(answer, "payment-key-used");
    // As long as its hold lasts the gateway is asked again; here it is over at once.
    hall.switch(json!({ "error": "all" })).await;
    hall.confirm_later(&buyer, &next, "nobody-there").await;
    hall.becomes(
        "SELECT count(*) AS n FROM payment_order WHERE status IN ('CAPTURING', 'UNKNOWN')",
        1,
    )
    .await;
    hall.sql(&format!(
        "UPDATE payment_order SET status = 'FAILED', fail_code = 'payment-gateway-unavailable', \
                next_at = NULL, step_no = step_no + 1 WHERE order_id = '{}'",
        next.id
    ))
    .await;
    let same = json!({ "paymentKey": next.payment_key, "amount": won(next.amount) });
    let answer = hall.confirm_as(&buyer, &next, "nobody-there", &same).await;
    met.expect(answer, "payment-gateway-unavailable");
    hall.charge_later(&buyer, 10_000, "still-waiting").await;
    let open = "SELECT count(*) AS n FROM payment_order WHERE reservation_id IS NULL";
    hall.becomes(open, 1).await;
    let answer = hall.charge_card(&buyer, 10_000, "one-too-many").await;
    assert_eq!(answer.body["limit"], 1, "{answer:?}");
    met.expect(answer, "too-many-open-charges");
    let unsigned = api.request(Method::POST, "/webhooks/payments");
    let answer = api.send(unsigned.json(&json!({}))).await;
    met.expect(answer, "webhook-signature-invalid");
}

/// A system that nothing is paid through a gateway in.
pub async fn without_gateway(met: &mut Met) {
    let mut hall = Hall::open().await;
    let (date, buyer) = (hall.date(1).await, hall.buyer());
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let body = json!({ "reservationId": held.body["reservationId"] });
    let answer = hall
        .api
        .post(&buyer, "/payment-orders", "nowhere-to-pay", &body);
    met.expect(answer.await, "gateway-not-configured");
}

/// A system whose gateway has no cards on file, and that has no desk.
pub async fn without_cards(met: &mut Met) {
    let options = with_gateway()
        .setting("ONSALE_CARDS", "refused")
        .setting("ONSALE_CASH", false);
    let mut hall = Hall::open_with(options).await;
    let buyer = hall.buyer();
    let answer = hall.charge_card(&buyer, 10_000, "no-such-card").await;
    met.expect(answer, "cards-not-configured");
    met.expect(hall.api.charge(&buyer, 10_000).await, "cash-not-configured");
    let points = hall.api.get(Some(&buyer), "/users/me/points").await;
    assert_eq!(points.expect(200).body["balance"], won(0));
    let orders = "SELECT count(*) AS n FROM payment_order";
    assert_eq!(hall.number(orders).await, 0);
    assert!(hall.book().await.is_empty());
}

/// What can't be paid.
pub async fn money(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    met.expect(api.charge(&buyer, 0).await, "amount-invalid");
    met.expect(api.charge(&buyer, 5_000_000).await, "amount-invalid");
    api.charge(&buyer, 1_000_000).await.expect(201);
    met.expect(api.charge(&buyer, 1).await, "balance-cap-exceeded");
    let brief = hall
        .date_with(
            5,
            Policy {
                hold_ms: 300,
                ..open_policy()
            },
        )
        .await;
    let held = api.hold(&buyer, brief, &["A-1-1"]).await.expect(201);
    hall.map_becomes(brief, "AAAAA").await;
    met.expect(
        api.pay(&buyer, reservation(&held.body)).await,
        "hold-expired",
    );
    let poor = hall.buyer();
    let date = hall.date(5).await;
    let held = api.hold(&poor, date, &["A-1-1"]).await.expect(201);
    met.expect(
        api.pay(&poor, reservation(&held.body)).await,
        "insufficient-points",
    );
}
