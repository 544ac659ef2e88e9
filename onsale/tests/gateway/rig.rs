//! A gateway of a test's own, who pays at it, and who asks it.

use std::time::{Duration, Instant};

use onsale_schema::{Money, RefundId, UserId};
use onsale_testkit::Scratch;
use onsale_testkit::system::{GATEWAY_SECRET, Process};
use onsale_workers::config;
use onsale_workers::gateway::toss::Toss;
use onsale_workers::gateway::{Cancel, Charge, Confirm, IdempotencyKey, OrderId, PaymentKey};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// A running gateway.
pub struct Rig {
    pub gateway: Process,
    client: Client,
    // After the process.
    pub scratch: Scratch,
}

/// A checkout.
#[derive(Clone, Debug)]
pub struct Paying {
    pub key: String,
    pub order: Uuid,
    pub amount: i64,
}

impl Paying {
    pub fn confirm(&self) -> Confirm {
        Confirm {
            payment_key: self.payment_key(),
            order_id: self.order_id(),
            amount: Money::won(self.amount),
            idempotency_key: IdempotencyKey(self.order),
        }
    }

    /// The same, of a card on file.
    pub fn charge(&self, by: UserId) -> Charge {
        Charge {
            customer: by.into(),
            order_id: self.order_id(),
            order_name: "points",
            amount: Money::won(self.amount),
            idempotency_key: IdempotencyKey(self.order),
        }
    }

    pub fn cancel(&self, amount: i64, key: Uuid) -> Cancel {
        Cancel {
            payment_key: self.payment_key(),
            refund_id: RefundId(key),
            amount: Money::won(amount),
            reason: "a test",
            idempotency_key: IdempotencyKey(key),
        }
    }

    pub fn payment_key(&self) -> PaymentKey {
        self.key.parse().unwrap()
    }

    pub fn order_id(&self) -> OrderId {
        OrderId::from(self.order)
    }

    /// The body of a confirmation.
    pub fn body(&self) -> Value {
        json!({"paymentKey": self.key, "orderId": self.order, "amount": self.amount})
    }
}

impl Rig {
    pub async fn start() -> Self {
        Self::telling(None).await
    }

    /// A gateway that tells a URL what happens.
    pub async fn telling(webhook_url: Option<String>) -> Self {
        let scratch = Scratch::new("gateway").unwrap();
        let gateway = Process::gateway(scratch.path(), webhook_url).await.unwrap();
        Self {
            gateway,
            client: Client::builder().no_proxy().build().unwrap(),
            scratch,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.gateway.http_addr.unwrap())
    }

    /// Our settings for it; tests are quick.
    pub fn settings(&self) -> config::Gateway {
        config::Gateway {
            url: Some(self.url().parse().unwrap()),
            secret: Some(GATEWAY_SECRET.parse().unwrap()),
            ca: None,
            unsafe_plain_http: false,
            timeout_ms: 2000,
            attempts: 1,
            breaker_failures: 1000,
            breaker_open_ms: 200,
        }
    }

    pub fn adapter(&self) -> Toss {
        adapter(&self.settings())
    }

    /// Asks as a merchant does.
    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>, key: &str) -> Answer {
        self.try_ask(method, path, body, key).await.unwrap()
    }

    pub async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: &str,
    ) -> reqwest::Result<Answer> {
        let url = format!("{}{path}", self.url());
        let request = self.client.request(method, url);
        let mut request = request.basic_auth(GATEWAY_SECRET, Some(""));
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status, body })
    }

    pub async fn confirm(&self, paying: &Paying, key: &str) -> Answer {
        let body = Some(paying.body());
        self.ask(Method::POST, "/v1/payments/confirm", body, key)
            .await
    }

    pub async fn cancel(&self, paying: &Paying, amount: i64, key: &str) -> Answer {
        let body = json!({"cancelReason": "a test", "cancelAmount": amount});
        let path = format!("/v1/payments/{}/cancel", paying.key);
        self.ask(Method::POST, &path, Some(body), key).await
    }

    pub async fn find(&self, paying: &Paying) -> Answer {
        let path = format!("/v1/payments/{}", paying.key);
        self.ask(Method::GET, &path, None, "").await
    }

    /// Entries of the book: payment, status and amount.
    pub async fn book(&self) -> Vec<(String, String, i64)> {
        let path = "/v1/transactions?startDate=2020-01-01T00:00:00&endDate=2100-01-01T00:00:00&limit=10000";
        let answer = self.ask(Method::GET, path, None, "").await;
        let entry = |entry: &Value| {
            let text = |name: &str| entry[name].as_str().unwrap().to_owned();
            (
                text("paymentKey"),
                text("status"),
                entry["amount"].as_i64().unwrap(),
            )
        };
        answer.body.as_array().unwrap().iter().map(entry).collect()
    }

    /// Entries of one payment.
    pub async fn moved(&self, paying: &Paying) -> Vec<(String, i64)> {
        let book = self.book().await.into_iter();
        let own = book.filter(|(key, _, _)| *key == paying.key);
        own.map(|(_, status, amount)| (status, amount)).collect()
    }

    /// What nobody has to agree to.
    pub fn unasked(&self, amount: i64) -> Paying {
        Paying {
            key: String::new(),
            order: Uuid::now_v7(),
            amount,
        }
    }

    /// What a buyer does.
    pub async fn checkout(&self, amount: i64) -> Paying {
        self.checkout_of(Uuid::now_v7(), amount).await
    }

    pub async fn checkout_of(&self, order: Uuid, amount: i64) -> Paying {
        let body = json!({"orderId": order, "amount": amount});
        let answer = self.ask(Method::POST, "/v1/checkout", Some(body), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Paying {
            key: answer.body["paymentKey"].as_str().unwrap().to_owned(),
            order,
            amount,
        }
    }

    pub async fn switch(&self, to: Value) {
        let answer = self.ask(Method::POST, "/switches", Some(to), "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Waits until the gateway says this of a payment.
    pub async fn until(&self, paying: &Paying, status: &str) {
        let started = Instant::now();
        loop {
            let found = self.find(paying).await;
            if found.body["status"] == status {
                return;
            }
            assert!(
                started.elapsed() < LIMIT,
                "{found:?} never becomes {status}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub fn adapter(settings: &config::Gateway) -> Toss {
    Toss::of_settings(settings).unwrap().unwrap()
}

/// What the gateway said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// Status and code, or status of the payment.
    pub fn said(&self) -> (u16, &str) {
        let word = self.body["code"].as_str().or(self.body["status"].as_str());
        (self.status, word.unwrap_or_default())
    }
}
