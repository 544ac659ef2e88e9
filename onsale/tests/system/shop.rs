//! What a buyer's page does at the payment gateway, and what only the gateway's own people can do.

use crate::hall::{Hall, PATIENCE, reservation};
use onsale::audit;
use onsale_testkit::api::{id, text};
use onsale_testkit::{Answer, Buyer, SystemOptions, system};
use onsale_workers::Config;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// What each seat costs, in won.
pub const PRICE: i64 = 10_000;

/// A system with a simulated gateway that is given up after a short time.
pub fn with_gateway() -> SystemOptions {
    SystemOptions::default()
        .gateway()
        .setting("ONSALE_GATEWAY_TIMEOUT_MS", 400)
        .setting("ONSALE_GATEWAY_ATTEMPTS", 1)
}

/// An order, and the payment that its buyer has agreed to.
#[derive(Clone, Debug)]
pub struct Order {
    pub id: Uuid,
    pub reservation: Uuid,
    pub payment_key: String,
    pub amount: i64,
}

impl Order {
    pub fn confirmation(&self) -> Value {
        json!({ "paymentKey": self.payment_key, "amount": won(self.amount) })
    }

    pub fn path(&self) -> String {
        format!("/payment-orders/{}", self.id)
    }
}

pub fn won(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

impl Hall {
    /// Asks the gateway; the answer's body.
    pub async fn gateway(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let gateway = self.system.gateway.as_ref().expect("a gateway");
        let addr = gateway.http_addr.expect("an address");
        let request = reqwest::Client::new()
            .request(method, format!("http://{addr}{path}"))
            .basic_auth(system::GATEWAY_SECRET, Some(""));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.expect("the gateway answers");
        assert!(answer.status().is_success(), "{answer:?}");
        answer.json().await.unwrap_or_default()
    }

    /// Sets the gateway's faults.
    pub async fn switch(&self, to: Value) {
        self.gateway(Method::POST, "/switches", Some(to)).await;
    }

    /// The amounts of the gateway's book: captures above zero, refunds below, oldest first.
    pub async fn book(&self) -> Vec<i64> {
        let entries = self.entries().await;
        entries.into_iter().map(|(_, amount)| amount).collect()
    }

    /// The same for each order by itself.
    pub async fn book_by_order(&self) -> HashMap<Uuid, Vec<i64>> {
        let mut book: HashMap<Uuid, Vec<i64>> = HashMap::new();
        for (order, amount) in self.entries().await {
            book.entry(order).or_default().push(amount);
        }
        book
    }

    async fn entries(&self) -> Vec<(Uuid, i64)> {
        // All on one page.
        let path = "/v1/transactions?startDate=2020-01-01T00:00:00&endDate=2100-01-01T00:00:00\
                    &limit=10000";
        let book = self.gateway(Method::GET, path, None).await;
        let entries = book.as_array().expect("a list").iter();
        let signed = |entry: &Value| {
            let amount = entry["amount"].as_i64().expect("a number");
            let amount = match entry["status"] == "DONE" {
                true => amount,
                false => -amount,
            };
            (id(&entry["orderId"]), amount)
        };
        entries.map(signed).collect()
    }

    /// Waits until the gateway has captured or refunded so often.
    pub async fn booked(&self, entries: usize) {
        let reached = tokio::time::timeout(PATIENCE, async {
            while self.book().await.len() < entries {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let reached = reached.await;
        assert!(reached.is_ok(), "not {entries} entries\n{}", self.logs());
    }

    /// Cancels all of a reservation, or some of its seats.
    pub async fn cancel(
        &self,
        by: &Buyer,
        reservation: Uuid,
        key: &str,
        seats: Option<&[&str]>,
    ) -> Answer {
        let path = format!("/reservations/{reservation}/cancellation");
        let body = match seats {
            Some(seats) => json!({ "seats": seats }),
            None => json!({}),
        };
        self.api.post(by, &path, key, &body).await
    }

    /// Seats that are held and ordered, and agreed to at the gateway.
    pub async fn order(&self, by: &Buyer, date: Uuid, seats: &[&str]) -> Order {
        let held = self.api.hold(by, date, seats).await.expect(201);
        self.order_of(by, reservation(&held.body)).await
    }

    pub async fn order_of(&self, by: &Buyer, reservation: Uuid) -> Order {
        let key = Uuid::now_v7().to_string();
        let body = json!({ "reservationId": reservation });
        let order = self.api.post(by, "/payment-orders", &key, &body).await;
        let order = order.expect(201).body;
        assert_eq!(order["status"], "READY");
        let amount = order["amount"]["amount"].as_i64().expect("won");
        let body = json!({ "orderId": order["orderId"], "amount": amount });
        let checkout = self.gateway(Method::POST, "/v1/checkout", Some(body)).await;
        Order {
            id: id(&order["orderId"]),
            reservation,
            payment_key: text(&checkout["paymentKey"]).to_owned(),
            amount,
        }
    }

    /// Confirms an order, under a key of its own.
    pub async fn confirm(&self, by: &Buyer, order: &Order) -> Answer {
        let key = Uuid::now_v7().to_string();
        self.confirm_as(by, order, &key, &order.confirmation())
            .await
    }

    pub async fn confirm_as(&self, by: &Buyer, order: &Order, key: &str, body: &Value) -> Answer {
        let path = format!("{}/confirm", order.path());
        self.api.post(by, &path, key, body).await
    }

    /// Confirms an order and does not wait for what comes of it.
    pub async fn confirm_later(&self, by: &Buyer, order: &Order, key: &str) {
        let path = format!("{}/confirm", order.path());
        let request = self.api.post_request(by, &path, key, &order.confirmation());
        let answer = self
            .api
            .send(request.header("prefer", "respond-async"))
            .await;
        answer.expect(202);
    }

    /// Confirms an order again and again under one key, as a client does whose answers are lost.
    pub async fn insist(&self, by: &Buyer, order: &Order) {
        let key = Uuid::now_v7().to_string();
        let paid = tokio::time::timeout(PATIENCE, async {
            loop {
                let answer = self
                    .confirm_as(by, order, &key, &order.confirmation())
                    .await;
                match answer.status.as_u16() {
                    200 => return,
                    202 | 503 => {}
                    _ => drop(answer.expect_problem(410, "command-expired")),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(paid.await.is_ok(), "never paid\n{}", self.logs());
    }

    /// Waits until an order has come so far.
    pub async fn order_becomes(&self, by: &Buyer, order: &Order, status: &str) -> Value {
        let mut found = Value::Null;
        let reached = tokio::time::timeout(PATIENCE, async {
            while found["status"] != status {
                let answer = self.api.get(Some(by), &order.path()).await;
                found = answer.expect(200).body;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let reached = reached.await;
        assert!(reached.is_ok(), "{found}, not {status}\n{}", self.logs());
        found
    }

    /// What an audit finds that holds the gateway's book against our rows.
    pub async fn reconcile(&self) -> audit::Report {
        let gateway = self.system.gateway.as_ref().expect("a gateway");
        let addr = gateway.http_addr.expect("an address");
        let arguments = [
            "test",
            "--database-url",
            self.system.db.url(),
            "--gateway-url",
            &format!("http://{addr}"),
            "--gateway-secret",
            system::GATEWAY_SECRET,
        ];
        let settings = <Config as clap::Parser>::parse_from(arguments).gateway;
        let options = audit::Options::new(self.reader_url())
            .with_nats(self.operator_url(), &self.system.prefix)
            .with_gateway(settings);
        audit::audit(&options).await.expect("the audit runs")
    }

    /// Every invariant holds, and the gateway's book says what our rows say.
    pub async fn assert_reconciled(&self) {
        let report = self.reconcile().await;
        assert!(report.ok(), "{report}\n{}", self.logs());
        assert!(
            report.to_string().contains("entries of the gateway's book"),
            "{report}"
        );
    }
}
