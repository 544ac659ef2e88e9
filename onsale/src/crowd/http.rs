//! How the crowd speaks with an ingress: a bounded number of requests at once, each timed and counted.
//!
//! What a system may say under load (503 and 429 with a time to wait, 202 and where the outcome will be)
//! is followed as a client should; whoever asks gets the last word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::tally::Tally;

/// Requests at once: so many connections there are, however many buyers.
const AT_ONCE: usize = 256;
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// So many times a busy system is asked, and one that can't be reached.
const TRIES: u32 = 20;
/// The longest wait before another try, and the shortest.
const WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(200));

/// A client for everybody.
pub struct Http {
    client: reqwest::Client,
    origin: String,
    slots: Semaphore,
    began: Instant,
    tally: Arc<Tally>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    method: Method,
    path: &'a str,
    token: Option<&'a str>,
    headers: Vec<(&'static str, &'a str)>,
    body: Option<Value>,
}

/// What was answered in the end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When the request that was answered was sent, since the beginning; of a command that was looked up,
    /// when it was sent first, since the outcome is as old as its decision.
    pub sent: Duration,
    /// When its answer was there.
    pub answered: Duration,
    /// The status.
    pub status: StatusCode,
    /// The body; null where there is none.
    pub body: Value,
}

impl<'a> Ask<'a> {
    /// A request to a path below `/api/v1`.
    #[must_use]
    pub fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            token: None,
            headers: Vec::new(),
            body: None,
        }
    }

    /// Of who is signed in.
    #[must_use]
    pub fn by(self, token: &'a str) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }
}

impl Answer {
    /// The problem's code, if it is one.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// Status and code, for who reads.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.code())
    }
}

/// A command that was looked up.
#[derive(Deserialize)]
struct Decided {
    status: u16,
    #[serde(default)]
    body: Value,
}

impl Http {
    /// To an ingress at `http://host:port`; what is asked counts in `tally`.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(origin: &str, tally: Arc<Tally>) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(REQUEST_LIMIT)
            .pool_max_idle_per_host(AT_ONCE)
            .no_proxy()
            .build()?;
        Ok(Self {
            client,
            origin: origin.trim_end_matches('/').to_owned(),
            slots: Semaphore::new(AT_ONCE),
            began: Instant::now(),
            tally,
        })
    }

    /// Since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asks until there is an answer that is one.
    ///
    /// # Errors
    /// In words, when there is none.
    pub async fn send(&self, ask: &Ask<'_>) -> Result<Answer, String> {
        let Ask { method, path, .. } = ask;
        let url = format!("{}/api/v1{path}", self.origin);
        let mut url = url.as_str();
        let mut location = String::new();
        let mut last = String::new();
        let first_sent = self.elapsed();
        for _ in 0..TRIES {
            let is_look_up = !location.is_empty();
            let (answer, wait) = match self.once(ask, url, is_look_up).await {
                Ok(answered) => answered,
                Err(why) => {
                    last = why;
                    self.tally.error("no-answer");
                    tokio::time::sleep(WAIT.1).await;
                    continue;
                }
            };
            match answer.status {
                StatusCode::ACCEPTED => {
                    if !is_look_up {
                        let path = wait.location.ok_or("202 without a Location")?;
                        location = format!("{}{path}", self.origin);
                        url = &location;
                    }
                    last = "202, and no outcome".to_owned();
                }
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                    last = answer.words();
                }
                StatusCode::OK if is_look_up => return decided(answer, first_sent),
                _ => return Ok(answer),
            }
            tokio::time::sleep(wait.pause).await;
        }
        Err(format!("{method} {path}: {last} ({TRIES} times)"))
    }

    /// Sends it once.
    async fn once(
        &self,
        ask: &Ask<'_>,
        url: &str,
        is_look_up: bool,
    ) -> Result<(Answer, Wait), String> {
        let mut request = match is_look_up {
            true => self.client.get(url),
            false => self.client.request(ask.method.clone(), url),
        };
        if let Some(token) = ask.token {
            request = request.bearer_auth(token);
        }
        if !is_look_up {
            for (name, value) in &ask.headers {
                request = request.header(*name, *value);
            }
            if let Some(body) = &ask.body {
                request = request.json(body);
            }
        }
        let _slot = self.slots.acquire().await.map_err(|e| e.to_string())?;
        self.tally.lock().requests += 1;
        let sent = self.elapsed();
        let failed = |error: reqwest::Error| format!("{:#}", anyhow::Error::from(error));
        let response = request.send().await.map_err(failed)?;
        let (status, wait) = (response.status(), Wait::of(&response));
        let body = response.bytes().await.map_err(failed)?;
        let answer = Answer {
            sent,
            answered: self.elapsed(),
            status,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        if !answer.status.is_success() {
            self.tally.error(answer.code());
        }
        Ok((answer, wait))
    }
}

/// Where to look later, and when.
struct Wait {
    location: Option<String>,
    pause: Duration,
}

impl Wait {
    fn of(response: &Response) -> Self {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let seconds = header(header::RETRY_AFTER).and_then(|value| value.parse().ok());
        let pause = seconds.map_or(WAIT.1, Duration::from_secs);
        Self {
            location: header(header::LOCATION).map(str::to_owned),
            pause: pause.clamp(WAIT.1, WAIT.0),
        }
    }
}

/// The outcome of a command, as if it had been answered at once.
fn decided(answer: Answer, sent: Duration) -> Result<Answer, String> {
    let decided: Decided = serde_json::from_value(answer.body).map_err(|e| e.to_string())?;
    let status = StatusCode::from_u16(decided.status).map_err(|e| e.to_string())?;
    Ok(Answer {
        sent,
        status,
        body: decided.body,
        ..answer
    })
}
