//! Tells merchants what happened, signed as Standard Webhooks are: at least once, with retries, until
//! the receiver takes it; also what was not told before the gateway was killed.

use super::Options;
use super::faults::Delivery;
use super::ledger::{Line, Webhook};
use super::server::Server;
use onsale_platform::clock::host_now;
use onsale_platform::webhook::{self, Secret};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// The first pause before a retry, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Attempts; after them the next start tries again.
const ATTEMPTS_MAX: u32 = 60;
/// How long the receiver may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long a webhook waits for another one to be told before it.
const REORDER_LIMIT: Duration = Duration::from_secs(5);
/// Webhooks that wait or are being sent; those beyond are left for the next start.
const OPEN_MAX: usize = 10_000;
/// Webhooks that are being sent at once.
const SENDING_MAX: usize = 16;

/// Who tells.
pub struct Sender {
    client: reqwest::Client,
    url: Option<String>,
    secrets: Vec<Secret>,
    told: Notify,
    open: Arc<Semaphore>,
    sending: Semaphore,
}

impl Sender {
    pub fn new(options: &Options) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_LIMIT)
            .build()?;
        Ok(Self {
            client,
            url: options.webhook_url.clone(),
            secrets: options.webhook_secrets.clone(),
            told: Notify::new(),
            open: Arc::new(Semaphore::new(OPEN_MAX)),
            sending: Semaphore::new(SENDING_MAX),
        })
    }

    /// Whether the receiver took it.
    async fn attempt(&self, url: &str, webhook: &Webhook) -> bool {
        let Ok(_sending) = self.sending.acquire().await else {
            return false;
        };
        let body = webhook.body.to_string();
        let now_s = u64::try_from(host_now().micros() / 1_000_000).unwrap_or(0);
        let signature = webhook::sign(&self.secrets, &webhook.id, now_s, body.as_bytes());
        let request = self.client.post(url).body(body);
        let request = request
            .header("content-type", "application/json")
            .header(webhook::ID, &webhook.id)
            .header(webhook::TIMESTAMP, now_s)
            .header(webhook::SIGNATURE, signature);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => true,
            Ok(answer) => {
                tracing::warn!(webhook = webhook.id, status = %answer.status(), "not taken");
                false
            }
            Err(error) => {
                let error = error.without_url();
                tracing::warn!(webhook = webhook.id, %error, "not delivered");
                false
            }
        }
    }
}

/// Begins to tell; whoever asks has its answer before.
pub fn send(server: &Arc<Server>, webhook: Webhook) {
    let Some(url) = server.sender.url.clone() else {
        return;
    };
    let Ok(place) = Arc::clone(&server.sender.open).try_acquire_owned() else {
        tracing::warn!(
            webhook = webhook.id,
            "too many webhooks wait; left for the next start"
        );
        return;
    };
    let delivery = server
        .faults()
        .of_webhook(webhook.amount, webhook.is_capture);
    let owned = Arc::clone(server);
    server.tasks.spawn(async move {
        let stop = owned.stop.clone();
        let telling = tell(&owned, &url, &webhook, delivery);
        stop.run_until_cancelled(telling).await;
        drop(place);
    });
}

async fn tell(server: &Server, url: &str, webhook: &Webhook, delivery: Delivery) {
    tokio::time::sleep(delivery.delay).await;
    if delivery.waits_for_another {
        // When none comes, it is only late.
        drop(tokio::time::timeout(REORDER_LIMIT, server.sender.told.notified()).await);
    }
    if !delivery.lost {
        for _ in 0..delivery.copies {
            if !deliver(server, url, webhook).await {
                tracing::error!(webhook = webhook.id, "given up until the next start");
                return;
            }
        }
        server.sender.told.notify_waiters();
    }
    let line = Line {
        told: Some(webhook.id.clone()),
        ..Line::default()
    };
    if server.book.change(|_| (Some(line), ())).await.is_err() {
        tracing::error!("the book is closed");
    }
}

async fn deliver(server: &Server, url: &str, webhook: &Webhook) -> bool {
    let mut backoff = BACKOFF_MIN;
    for _ in 0..ATTEMPTS_MAX {
        if server.sender.attempt(url, webhook).await {
            return true;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    false
}
