//! A webhook subscriber of a test: keeps what it gets, and answers as it is told.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::serve::Listener;
use onsale_platform::clock;
use onsale_platform::webhook::{self, Headers, Invalid, Secret};
use onsale_schema::facts::Delivery;
use onsale_testkit::tls;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::hall::PATIENCE;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Status(u16),
    /// With success, after so many milliseconds.
    Late(u64),
    Never,
}

/// Something that it got.
#[derive(Clone, Debug)]
pub struct Received {
    headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("ASCII")
    }

    pub fn delivery(&self) -> Delivery {
        serde_json::from_slice(&self.body).expect("a delivery")
    }

    /// Whether this secret has signed it.
    pub fn verify(&self, secret: &str) -> Result<(), Invalid> {
        let headers = Headers {
            id: self.header(webhook::ID),
            timestamp: self.header(webhook::TIMESTAMP),
            signature: self.header(webhook::SIGNATURE),
        };
        let secret: Secret = secret.parse().expect("a secret");
        let now_s = clock::host_now().micros() / 1_000_000;
        let now_s = u64::try_from(now_s).expect("after 1970");
        webhook::verify(&[secret], headers, &self.body, now_s, webhook::TOLERANCE_S)
    }
}

struct Shared {
    received: Vec<Received>,
    answers: Answers,
}

/// Listens until it is dropped.
pub struct Receiver {
    base: String,
    shared: Arc<Mutex<Shared>>,
    _server: JoinSet<()>,
}

impl Receiver {
    pub async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        Self::serve(listener, format!("http://{addr}"), answers)
    }

    /// One that speaks HTTPS only, with certificate and key for 127.0.0.1 in PEM files.
    pub async fn start_tls(pem: &(PathBuf, PathBuf), answers: Answers) -> Self {
        let listener = tls::Listener::bind(pem).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        Self::serve(listener, format!("https://{addr}"), answers)
    }

    fn serve<L>(listener: L, base: String, answers: Answers) -> Self
    where
        L: Listener,
        L::Addr: std::fmt::Debug,
    {
        let received = Vec::new();
        let shared = Arc::new(Mutex::new(Shared { received, answers }));
        let router = Router::new().fallback(take).with_state(Arc::clone(&shared));
        let server = JoinSet::from_iter([async move {
            axum::serve(listener, router).await.expect("it serves");
        }]);
        Self {
            base,
            shared,
            _server: server,
        }
    }

    pub fn url(&self) -> String {
        format!("{}/hooks?for=us", self.base)
    }

    pub fn answer(&self, answers: Answers) {
        self.shared.lock().expect("no panic").answers = answers;
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().expect("no panic").received.clone()
    }

    /// Waits until this is so of what it got.
    pub async fn until(&self, what: &str, is_so: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let received = self.received();
                if is_so(&received) {
                    return received;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        match waited.await {
            Ok(received) => received,
            Err(_) => panic!("{what}: {} received", self.received().len()),
        }
    }
}

async fn take(
    State(shared): State<Arc<Mutex<Shared>>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let answers = {
        let mut shared = shared.lock().expect("no panic");
        shared.received.push(Received {
            headers,
            body,
            at: Instant::now(),
        });
        shared.answers
    };
    match answers {
        Answers::Status(status) => StatusCode::from_u16(status).expect("a status"),
        Answers::Late(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            StatusCode::NO_CONTENT
        }
        Answers::Never => std::future::pending().await,
    }
}
