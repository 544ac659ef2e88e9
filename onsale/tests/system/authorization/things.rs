//! Operations of the document, and what their paths may name.

use crate::hall::{Hall, reservation};
use onsale_schema::admission::PolicyChange;
use onsale_schema::status::QueueMode;
use onsale_testkit::api::{id, text};
use onsale_testkit::spawn::Signal;
use onsale_testkit::{Answer, Api, Buyer};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

/// An operation of the document.
pub struct Operation {
    pub method: Method,
    pub path: String,
    pub description: Value,
}

pub async fn operations(api: &Api) -> (Vec<Operation>, Value) {
    let document = api.get(None, "//openapi.json").await.expect(200).body;
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, description) in item.as_object().expect("operations") {
            all.push(Operation {
                method: method.to_ascii_uppercase().parse().expect("a method"),
                path: path.clone(),
                description: description.clone(),
            });
        }
    }
    (all, document["components"]["schemas"].clone())
}

/// What paths may name; all that is somebody's is one buyer's.
pub struct Things {
    pub concert: String,
    pub date: Uuid,
    /// The date with a waiting room.
    pub room: Uuid,
    pub reservation: Uuid,
    pub payment: String,
    pub order: Uuid,
    pub token: String,
    pub dead_letter: Uuid,
    pub refund: Uuid,
    pub block: Uuid,
    pub access_code: Uuid,
    pub webhook: Uuid,
    /// One that may be deleted.
    pub doomed_webhook: Uuid,
}

impl Things {
    /// Makes them.
    pub async fn of(hall: &mut Hall, buyer: &Buyer) -> Self {
        let api = hall.api.clone();
        let date = hall.date(10).await;
        let concert = api.get(None, "/concerts").await.expect(200).body;
        api.charge(buyer, 50_000).await.expect(201);
        let held = api.hold(buyer, date, &["A-1-1"]).await.expect(201);
        let sold = api.hold(buyer, date, &["A-1-2"]).await.expect(201);
        let paid = api.pay(buyer, reservation(&sold.body)).await.expect(201);
        let body = json!({ "reservationId": reservation(&held.body) });
        let order = api.post(buyer, "/payment-orders", "an-order", &body).await;
        let order = order.expect(201).body;
        // With its owner at rest the command is still open when it is answered.
        hall.system.workers[0].signal(Signal::SIGSTOP);
        let body = json!({ "scheduleId": date, "seats": ["A-1-3"] });
        let request = api.post_request(buyer, "/reservations", "left-open", &body);
        let open = api
            .send(request.header("prefer", "respond-async"))
            .await
            .expect(202);
        hall.system.workers[0].signal(Signal::SIGCONT);
        let path = format!("/admin/schedules/{date}/access-codes");
        let body = json!({ "label": "x", "grants": "VIP", "validFrom": "2026-01-01T00:00:00Z",
                           "validUntil": "2040-01-01T00:00:00Z" });
        let codes = api.post(&hall.admin(), &path, "some-codes", &body).await;
        let codes = codes.expect(201).body;
        let dead_letter = Uuid::now_v7();
        hall.sql(&format!(
            "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, \
                                      payload, error, dead_letter_id) \
             VALUES ('ledger', -1, 0, 1, -1, '', '', '{dead_letter}')"
        ))
        .await;
        // One that is never worked off.
        hall.sql(&format!(
            "INSERT INTO show_cancellation (schedule_id, command_id, fingerprint, user_id, reason, \
                                            next_at) \
             VALUES ('{date}', '{dead_letter}', '{dead_letter}', '{dead_letter}', 'x', 'infinity')"
        ))
        .await;
        let refund = Uuid::now_v7();
        hall.sql(&format!(
            "INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, \
                                        payment_key, confirm_command_id, confirm_fingerprint, \
                                        captured, created_at, updated_at) \
             SELECT '{refund}', user_id, '{refund}', '{refund}', 1, 'REFUNDING', '{refund}', \
                    gen_random_uuid(), '{refund}', 1, now(), now() \
             FROM payment_order WHERE order_id = '{}'; \
             INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, \
                                 stuck_at, created_at) \
             SELECT order_id, order_id, user_id, order_id, 'GATEWAY', 1, 'STUCK', now(), now() \
             FROM payment_order WHERE order_id = '{refund}'",
            id(&order["orderId"])
        ))
        .await;
        let path = format!("/admin/schedules/{date}/blocks");
        let body = json!({ "seats": ["A-1-9"], "reason": "x" });
        let block = api.post(&hall.admin(), &path, "off-sale", &body).await;
        let block = block.expect(201).body;
        let subscriber = async |key: &str| {
            let body = json!({ "url": "http://127.0.0.1:9/" });
            let made = api.post(&hall.admin(), "/admin/webhooks", key, &body).await;
            id(&made.expect(201).body["webhookId"])
        };
        let (webhook, doomed_webhook) = (
            subscriber("a-subscriber").await,
            subscriber("another-one").await,
        );
        // A room that is still closed, in which the buyer has a ticket; of a date of its own, since
        // holds would need passes.
        let room = hall.date(1).await;
        let opens = PolicyChange {
            mode: Some(QueueMode::Fifo),
            opens_at: Some(crate::room::line::never()),
            ..PolicyChange::default()
        };
        crate::room::line::amend(hall, room, opens).await;
        let path = format!("/schedules/{room}/queue");
        let joined = api.post(buyer, &path, "in-the-line", &Value::Null).await;
        let _ = joined.expect(201);
        let location = open.headers["location"].to_str().expect("ASCII");
        let (_, token) = location.rsplit_once('/').expect("a path");
        Self {
            concert: text(&concert["items"][0]["concertId"]).to_owned(),
            date,
            room,
            reservation: reservation(&held.body),
            payment: text(&paid.body["paymentId"]).to_owned(),
            order: id(&order["orderId"]),
            token: token.to_owned(),
            dead_letter,
            refund,
            block: id(&block["blockId"]),
            access_code: id(&codes["items"][0]["accessCodeId"]),
            webhook,
            doomed_webhook,
        }
    }

    /// The same kinds of names for what is not there.
    pub fn missing(&self) -> Self {
        let mut token = self.token.clone();
        let last = token.pop().expect("a token is not empty");
        token.push(if last == 'A' { 'B' } else { 'A' });
        Self {
            concert: Uuid::now_v7().to_string(),
            date: Uuid::now_v7(),
            room: Uuid::now_v7(),
            reservation: Uuid::now_v7(),
            payment: Uuid::now_v7().to_string(),
            order: Uuid::now_v7(),
            token,
            dead_letter: Uuid::now_v7(),
            refund: Uuid::now_v7(),
            block: Uuid::now_v7(),
            access_code: Uuid::now_v7(),
            webhook: Uuid::now_v7(),
            doomed_webhook: Uuid::now_v7(),
        }
    }

    /// The path of an operation: one that removes something has its own.
    pub fn path(&self, operation: &Operation) -> String {
        match operation.method {
            Method::DELETE => {
                let doomed = self.doomed_webhook.to_string();
                self.fill(&operation.path.replace("{webhookId}", &doomed))
            }
            _ => self.fill(&operation.path),
        }
    }

    pub fn fill(&self, template: &str) -> String {
        let path = template
            .replace("{concertId}", &self.concert)
            .replace("{scheduleId}/queue", &format!("{}/queue", self.room))
            .replace("{scheduleId}", &self.date.to_string())
            .replace("{reservationId}", &self.reservation.to_string())
            .replace("{paymentId}", &self.payment)
            .replace("{orderId}", &self.order.to_string())
            .replace("{token}", &self.token)
            .replace("{deadLetterId}", &self.dead_letter.to_string())
            .replace("{refundId}", &self.refund.to_string())
            .replace("{blockId}", &self.block.to_string())
            .replace("{accessCodeId}", &self.access_code.to_string())
            .replace("{webhookId}", &self.webhook.to_string())
            .replace("{label}", "A-1-1")
            .replace("{file}", "start.js");
        assert!(!path.contains('{'), "nothing for {template}");
        path
    }
}

/// Calls an operation with a body that says nothing, so that it is looked at and nothing is done.
/// Of a stream only the head is read.
pub async fn call(api: &Api, operation: &Operation, path: &str, token: Option<&str>) -> Answer {
    let mut request = api
        .request(operation.method.clone(), &format!("/{path}"))
        .header("idempotency-key", Uuid::now_v7().to_string());
    if operation.path.ends_with("/events") {
        request = request.header("accept", "text/event-stream");
    }
    if operation.description.get("requestBody").is_some() {
        request = request.json(&json!({}));
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    match api.open(request).await {
        Ok(stream) => Answer {
            status: stream.status(),
            headers: stream.headers().clone(),
            body: Value::Null,
        },
        Err(answer) => answer,
    }
}
