//! A client of the HTTP API, as thin as a test needs it: what was asked and what came back. An answer
//! that the API's document doesn't promise fails the test.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::contract::{CONTRACT, Exchange};

/// Speaks to one ingress. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    client: Client,
    base: String,
    /// Whether it is our API.
    promises: bool,
}

/// A signed-in user.
#[derive(Debug, Clone)]
pub struct Buyer {
    /// The user.
    pub user_id: Uuid,
    /// Their access token.
    pub token: String,
}

/// An answer, whatever it is.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null when it has none, a string when it is no JSON.
    pub body: Value,
}

impl Answer {
    /// The problem's code; empty when it is no problem.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// This answer, if its status is the expected one.
    ///
    /// # Panics
    /// Otherwise, with all of it.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// This answer, if it is the expected problem.
    ///
    /// # Panics
    /// Otherwise, with all of it.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!(
            (self.status.as_u16(), self.code()),
            (status, code),
            "{self:?}"
        );
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{self:?}"
        );
        self
    }
}

impl Api {
    /// A client of the ingress at `base`, for example `http://127.0.0.1:8080`.
    ///
    /// # Panics
    /// When the client can't be made, which needs nothing from outside.
    #[must_use]
    pub fn new(base: impl Into<String>) -> Self {
        let client = Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build()
            .expect("a plain HTTP client needs nothing");
        Self {
            client,
            base: base.into(),
            promises: true,
        }
    }

    /// The same for routes that are not of the API, and so promise nothing.
    #[must_use]
    pub fn without_promises(base: impl Into<String>) -> Self {
        Self {
            promises: false,
            ..Self::new(base)
        }
    }

    /// A request to a path below `/api/v1` (or a whole path, when it begins with `//`).
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = match path.strip_prefix("//") {
            Some(path) => format!("{}/{path}", self.base),
            None => format!("{}/api/v1{path}", self.base),
        };
        self.client.request(method, url)
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When none came.
    ///
    /// # Panics
    /// When it is not what the document promises.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let (client, request) = request.build_split();
        let request = request?;
        let method = request.method().clone();
        let answer = client.execute(request).await?;
        self.read(&method, answer).await
    }

    /// Begins to read an answer that may be a stream.
    ///
    /// # Errors
    /// The answer, when it is none.
    ///
    /// # Panics
    /// When there is none, or not what the document promises.
    pub async fn open(&self, request: reqwest::RequestBuilder) -> Result<Response, Answer> {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let method = request.method().clone();
        let answer = client.execute(request).await.expect("an answer");
        if answer.status() != StatusCode::OK {
            return Err(self.read(&method, answer).await.expect("an answer"));
        }
        self.check(
            &method,
            answer.url().path(),
            answer.status(),
            answer.headers(),
            None,
        );
        Ok(answer)
    }

    async fn read(&self, method: &Method, answer: Response) -> reqwest::Result<Answer> {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let path = answer.url().path().to_owned();
        let bytes = answer.bytes().await?;
        self.check(method, &path, status, &headers, Some(&bytes));
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    fn check(
        &self,
        method: &Method,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: Option<&[u8]>,
    ) {
        let exchange = Exchange {
            method,
            path,
            status,
            headers,
            body,
        };
        if self.promises
            && let Err(why) = CONTRACT.check(&exchange)
        {
            let body = String::from_utf8_lossy(body.unwrap_or_default());
            panic!("{method} {path} was answered {status} {headers:?} {body}\n{why}");
        }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Panics
    /// When none came.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// GET, as a user or as nobody.
    pub async fn get(&self, by: Option<&Buyer>, path: &str) -> Answer {
        let request = self.request(Method::GET, path);
        self.send(signed(request, by)).await
    }

    /// POST of JSON with an idempotency key.
    pub async fn post(&self, by: &Buyer, path: &str, key: &str, body: &Value) -> Answer {
        self.send(self.post_request(by, path, key, body)).await
    }

    /// The request of [`Self::post`].
    pub fn post_request(
        &self,
        by: &Buyer,
        path: &str,
        key: &str,
        body: &Value,
    ) -> reqwest::RequestBuilder {
        let request = self
            .request(Method::POST, path)
            .header("idempotency-key", key)
            .json(body);
        signed(request, Some(by))
    }

    /// DELETE.
    pub async fn delete(&self, by: &Buyer, path: &str) -> Answer {
        let request = self.request(Method::DELETE, path);
        self.send(signed(request, Some(by))).await
    }

    /// Signs up somebody new and signs them in.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn buyer(&self) -> Buyer {
        let email = format!("{}@example.com", Uuid::now_v7().simple());
        let (name, password) = ("Buyer", "correct horse battery");
        let sign_up = json!({ "email": email, "name": name, "password": password });
        let request = self
            .request(Method::POST, "/users")
            .header("idempotency-key", &email);
        let user = self.send(request.json(&sign_up)).await.expect(201);
        let sign_in = json!({ "email": email, "password": password });
        let request = self
            .request(Method::POST, "/sessions")
            .header("idempotency-key", &email);
        let session = self.send(request.json(&sign_in)).await.expect(201);
        Buyer {
            user_id: id(&user.body["userId"]),
            token: text(&session.body["accessToken"]).to_owned(),
        }
    }

    /// Holds named seats with a new key.
    pub async fn hold(&self, by: &Buyer, schedule: Uuid, seats: &[&str]) -> Answer {
        let key = Uuid::now_v7().to_string();
        let body = json!({ "scheduleId": schedule, "seats": seats });
        self.post(by, "/reservations", &key, &body).await
    }

    /// Charges points with a new key; in cash, so that no payment gateway takes part.
    pub async fn charge(&self, by: &Buyer, won: i64) -> Answer {
        let key = Uuid::now_v7().to_string();
        let amount = json!({ "amount": won, "currency": "KRW" });
        let body = json!({ "amount": amount, "method": "CASH" });
        self.post(by, "/users/me/points/charges", &key, &body).await
    }

    /// Pays a reservation with points, with a new key.
    pub async fn pay(&self, by: &Buyer, reservation: Uuid) -> Answer {
        let key = Uuid::now_v7().to_string();
        let body = json!({ "reservationId": reservation, "method": "POINTS" });
        self.post(by, "/payments", &key, &body).await
    }
}

fn signed(request: reqwest::RequestBuilder, by: Option<&Buyer>) -> reqwest::RequestBuilder {
    match by {
        Some(buyer) => request.bearer_auth(&buyer.token),
        None => request,
    }
}

/// The text of a JSON value that must be one.
///
/// # Panics
/// When it is none.
#[must_use]
#[track_caller]
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// The id in a JSON value that must be one.
///
/// # Panics
/// When it is none.
#[must_use]
#[track_caller]
pub fn id(value: &Value) -> Uuid {
    text(value)
        .parse()
        .unwrap_or_else(|_| panic!("{value} is no id"))
}
