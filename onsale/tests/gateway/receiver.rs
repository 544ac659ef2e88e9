//! Who takes the gateway's notifications in a test, checks their signatures and keeps them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use onsale_platform::clock::host_now;
use onsale_platform::webhook::{self, Headers, Secret};
use onsale_testkit::system::WEBHOOK_SECRET;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(30);

/// A notification.
#[derive(Clone, Debug)]
pub struct Taken {
    pub id: String,
    pub body: Value,
    pub at: Instant,
}

impl Taken {
    pub fn payment(&self) -> &str {
        self.body["data"]["paymentKey"].as_str().unwrap()
    }

    pub fn status(&self) -> &str {
        self.body["data"]["status"].as_str().unwrap()
    }
}

#[derive(Default)]
struct Shared {
    taken: Mutex<Vec<Taken>>,
    /// So many are not taken first.
    refusals: AtomicUsize,
}

pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap();
    let found = Headers {
        id: header(webhook::ID),
        timestamp: header(webhook::TIMESTAMP),
        signature: header(webhook::SIGNATURE),
    };
    let secret: Secret = WEBHOOK_SECRET.parse().unwrap();
    let now_s = u64::try_from(host_now().micros() / 1_000_000).unwrap();
    webhook::verify(&[secret], found, &body, now_s, 10).unwrap();
    let less = |left: usize| left.checked_sub(1);
    let refused = shared
        .refusals
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    if refused.is_ok() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["eventType"], "PAYMENT_STATUS_CHANGED");
    let taken = Taken {
        id: found.id.to_owned(),
        body,
        at: Instant::now(),
    };
    shared.taken.lock().unwrap().push(taken);
    StatusCode::NO_CONTENT
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let router = Router::new()
            .route("/", post(take))
            .with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            addr,
            shared,
            _serving: serving,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    pub fn refuse(&self, count: usize) {
        self.shared.refusals.store(count, Ordering::SeqCst);
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// Waits until so many have come of a payment.
    pub async fn of(&self, payment: &str, count: usize) -> Vec<Taken> {
        let started = Instant::now();
        loop {
            let mut own = self.taken();
            own.retain(|taken| taken.payment() == payment);
            if own.len() >= count {
                return own;
            }
            assert!(
                started.elapsed() < LIMIT,
                "{} of {count} came: {own:?}",
                own.len()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
