//! The API as a client sees it: one call is one answer, also when it takes a detour (202 and a
//! look-up, 503 and another try).

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// So many times an overloaded or restarting system is asked again.
const TRIES: u32 = 10;
/// So often a command that is still open is looked up.
const LOOK_UPS: u32 = 30;

/// One caller of the API, signed in or not.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    origin: String,
    token: Option<String>,
}

/// What came back in the end.
#[derive(Debug)]
pub struct Answer {
    /// Of what, for messages.
    request: String,
    /// The status.
    pub status: StatusCode,
    /// The body; null where there is none.
    pub body: Value,
}

/// A command that was looked up.
#[derive(Deserialize)]
struct Decided {
    status: u16,
    #[serde(default)]
    body: Value,
}

impl Client {
    /// A caller who is not signed in; `origin` is `http://host:port`.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(origin: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(REQUEST_LIMIT)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            origin: origin.trim_end_matches('/').to_owned(),
            token: None,
        })
    }

    /// The same caller, signed in.
    ///
    /// # Errors
    /// When the account does not exist or the password is wrong.
    pub async fn sign_in(&self, email: &str, password: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Session {
            access_token: String,
        }
        let body = serde_json::json!({ "email": email, "password": password });
        let answer = self
            .send(Method::POST, "/sessions", None, Some(&body))
            .await?;
        if answer.code() == Some("credentials-invalid") {
            bail!("{email} can't sign in; `onsale seed` makes the demo accounts");
        }
        let session: Session = answer.read(StatusCode::CREATED)?;
        Ok(Self {
            token: Some(session.access_token),
            ..self.clone()
        })
    }

    /// Ends the session.
    ///
    /// # Errors
    /// When that is refused.
    pub async fn sign_out(&self) -> anyhow::Result<()> {
        self.send(Method::DELETE, "/sessions", None, None)
            .await?
            .read(StatusCode::NO_CONTENT)
    }

    /// Reads something.
    ///
    /// # Errors
    /// When it can't be had; the message says what was answered.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.look(path).await?.read(StatusCode::OK)
    }

    /// Wants to read something; a refusal is an answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn look(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, None, None).await
    }

    /// Wants something done. The same `key` is the same wish, however often it is sent.
    ///
    /// # Errors
    /// When there is no answer; a refusal is an answer.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, Some(key), Some(body)).await
    }

    /// Changes something; to do it again is harmless. A refusal is an answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::PATCH, path, None, Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let request = format!("{method} {path}");
        let url = format!("{}/api/v1{path}", self.origin);
        for _ in 0..TRIES {
            let mut builder = self.http.request(method.clone(), &url);
            if let Some(token) = &self.token {
                builder = builder.bearer_auth(token);
            }
            if let Some(key) = key {
                builder = builder.header("idempotency-key", key);
            }
            if let Some(body) = body {
                builder = builder.json(body);
            }
            let response = builder.send().await.with_context(|| {
                format!(
                    "{request}: nobody answers at {} (is `onsale up` running?)",
                    self.origin
                )
            })?;
            match response.status() {
                StatusCode::SERVICE_UNAVAILABLE => wait_as_told(&response).await,
                StatusCode::ACCEPTED => return self.look_up(request, response).await,
                status => {
                    let body = response.bytes().await.with_context(|| request.clone())?;
                    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                    return Ok(Answer {
                        request,
                        status,
                        body,
                    });
                }
            }
        }
        bail!("{request}: answered 503 {TRIES} times in a row")
    }

    /// The outcome was still open when the answer was due: it is where Location says.
    async fn look_up(&self, request: String, response: Response) -> anyhow::Result<Answer> {
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|location| location.to_str().ok())
            .with_context(|| format!("{request}: 202 without a Location"))?;
        let url = format!("{}{location}", self.origin);
        wait_as_told(&response).await;
        for _ in 0..LOOK_UPS {
            let mut builder = self.http.get(&url);
            if let Some(token) = &self.token {
                builder = builder.bearer_auth(token);
            }
            let response = builder.send().await.with_context(|| request.clone())?;
            if response.status() == StatusCode::ACCEPTED {
                wait_as_told(&response).await;
                continue;
            }
            let is_decided = response.status() == StatusCode::OK;
            let status = response.status();
            let body: Value = response.json().await.with_context(|| request.clone())?;
            // What is not a command says itself how far it is, as a payment order does.
            if !is_decided || !location.contains("/commands/") {
                return Ok(Answer {
                    request,
                    status,
                    body,
                });
            }
            let decided: Decided = serde_json::from_value(body).context("a command's outcome")?;
            let status = StatusCode::from_u16(decided.status).context("a command's outcome")?;
            return Ok(Answer {
                request,
                status,
                body: decided.body,
            });
        }
        bail!("{request}: still open after {LOOK_UPS} look-ups")
    }
}

/// Waits for Retry-After, at most two seconds.
async fn wait_as_told(response: &Response) {
    let told = response.headers().get(header::RETRY_AFTER);
    let seconds = told.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(1).min(2))).await;
}

impl Answer {
    /// The problem's code, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.body.get("code").and_then(Value::as_str)
    }

    /// What was asked for.
    ///
    /// # Errors
    /// With status, code and trace id of the answer, when it is another one.
    pub fn read<T: DeserializeOwned>(self, expected: StatusCode) -> anyhow::Result<T> {
        if self.status != expected {
            let text = |name| self.body.get(name).and_then(Value::as_str).unwrap_or("-");
            bail!(
                "{} answered {} ({}: {}; trace {})",
                self.request,
                self.status.as_u16(),
                text("code"),
                text("title"),
                text("traceId")
            );
        }
        serde_json::from_value(self.body)
            .with_context(|| format!("{} answered something unexpected", self.request))
    }
}
