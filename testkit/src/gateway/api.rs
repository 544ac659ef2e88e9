//! The gateway over HTTP: what merchants ask with their secret key, what a buyer's page asks without
//! one, and the switches of its faults.

use super::errors::{Answer, Refusal};
use super::faults::{Instead, Switches};
use super::ledger::{Ledger, Moment, Payment, What, Wish};
use super::server::Server;
use super::{book, webhooks};
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDateTime};
use futures_util::stream;
use onsale_schema::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a request that is not to be answered is kept.
const SILENCE: Duration = Duration::from_secs(120);
/// Entries on a page of the book.
const PAGE: usize = 100;
const PAGE_MAX: usize = 10_000;
/// The most won of one payment.
const AMOUNT_MAX: i64 = 10_000_000_000;
/// Times without an offset are those of Korea.
const KOREA_MS: i64 = 9 * 3600 * 1000;

type Shared = State<Arc<Server>>;
type Body<T> = Result<Json<T>, JsonRejection>;

pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/readyz", get(|| async { StatusCode::NO_CONTENT }))
        .route("/v1/checkout", post(checkout))
        .route("/v1/payments/confirm", post(confirm))
        .route("/v1/billing/{billing_key}", post(charge))
        .route("/v1/payments/orders/{order_id}", get(find_by_order))
        .route("/v1/payments/{payment_key}", get(find_by_key))
        .route("/v1/payments/{payment_key}/cancel", post(cancel))
        .route("/v1/transactions", get(transactions))
        .route(
            "/switches",
            get(switches).post(switch).delete(switches_reset),
        )
        .fallback(|| async { Answer::error(Refusal::NotFound) })
        .with_state(server)
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.body)).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        Answer::error(self).into_response()
    }
}

impl From<book::Closed> for Refusal {
    fn from(_: book::Closed) -> Self {
        Self::Failed
    }
}

fn invalid<E>(_: E) -> Refusal {
    Refusal::InvalidRequest
}

/// Who asks must know the secret key.
fn authorize(server: &Server, headers: &HeaderMap) -> Result<(), Refusal> {
    let expected = STANDARD.encode(format!("{}:", server.options.secret_key));
    let sent = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    let sent = sent.and_then(|it| it.strip_prefix("Basic "));
    match sent {
        Some(sent) if sent == expected => Ok(()),
        _ => Err(Refusal::UnauthorizedKey),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = key.to_str().map_err(|_| Refusal::KeyInvalid)?;
    match (1..=300).contains(&key.len()) {
        true => Ok(Some(key.to_owned())),
        false => Err(Refusal::KeyInvalid),
    }
}

fn is_amount(amount: i64) -> bool {
    (1..=AMOUNT_MAX).contains(&amount)
}

fn is_order_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte);
    (6..=64).contains(&text.len()) && text.bytes().all(plain)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Checkout {
    order_id: String,
    amount: i64,
}

async fn checkout(State(server): Shared, body: Body<Checkout>) -> Result<Answer, Refusal> {
    let Json(asked) = body.map_err(invalid)?;
    if !is_amount(asked.amount) || !is_order_id(&asked.order_id) {
        return Err(Refusal::InvalidRequest);
    }
    let moment = server.moment();
    let done = server
        .book
        .change(|ledger| ledger.checkout(&asked.order_id, asked.amount, &moment));
    Ok(done.await?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Confirm {
    payment_key: String,
    order_id: String,
    amount: i64,
}

async fn confirm(
    State(server): Shared,
    headers: HeaderMap,
    body: Body<Value>,
) -> Result<Response, Refusal> {
    authorize(&server, &headers)?;
    let Json(asked) = body.map_err(invalid)?;
    let wish: Confirm = serde_json::from_value(asked.clone()).map_err(invalid)?;
    if !is_amount(wish.amount) {
        return Err(Refusal::InvalidRequest);
    }
    let what = What::Confirm {
        payment_key: wish.payment_key,
        order_id: wish.order_id,
        amount: wish.amount,
        declined: false,
    };
    let wish = Wish {
        path: "/v1/payments/confirm".to_owned(),
        idempotency_key: idempotency_key(&headers)?,
        asked,
        what,
    };
    grant(server, wish).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Charge {
    customer_key: String,
    order_id: String,
    order_name: String,
    amount: i64,
}

/// Captures from a card on file. Every customer has one, and its billing key is the customer key:
/// no cards are registered here.
async fn charge(
    State(server): Shared,
    Path(billing_key): Path<String>,
    headers: HeaderMap,
    body: Body<Value>,
) -> Result<Response, Refusal> {
    authorize(&server, &headers)?;
    let Json(asked) = body.map_err(invalid)?;
    let wish: Charge = serde_json::from_value(asked.clone()).map_err(invalid)?;
    let is_named = (1..=100).contains(&wish.order_name.chars().count());
    if !is_amount(wish.amount) || !is_order_id(&wish.order_id) || !is_named {
        return Err(Refusal::InvalidRequest);
    }
    if wish.customer_key != billing_key {
        return Err(Refusal::CustomerMismatch);
    }
    let what = What::Charge {
        order_id: wish.order_id,
        amount: wish.amount,
        declined: false,
    };
    let wish = Wish {
        path: format!("/v1/billing/{billing_key}"),
        idempotency_key: idempotency_key(&headers)?,
        asked,
        what,
    };
    grant(server, wish).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancel {
    cancel_reason: String,
    cancel_amount: Option<i64>,
}

async fn cancel(
    State(server): Shared,
    Path(payment_key): Path<String>,
    headers: HeaderMap,
    body: Body<Value>,
) -> Result<Response, Refusal> {
    authorize(&server, &headers)?;
    let Json(asked) = body.map_err(invalid)?;
    let wish: Cancel = serde_json::from_value(asked.clone()).map_err(invalid)?;
    let has_reason = (1..=200).contains(&wish.cancel_reason.chars().count());
    if !has_reason || !wish.cancel_amount.is_none_or(is_amount) {
        return Err(Refusal::InvalidRequest);
    }
    let wish = Wish {
        path: format!("/v1/payments/{payment_key}/cancel"),
        idempotency_key: idempotency_key(&headers)?,
        asked,
        what: What::Cancel {
            payment_key,
            amount: wish.cancel_amount,
            reason: wish.cancel_reason,
            declined: false,
        },
    };
    grant(server, wish).await
}

/// In a task of its own: it goes on when the client has gone.
async fn grant(server: Arc<Server>, wish: Wish) -> Result<Response, Refusal> {
    let Some(begun) = server.begin(wish.name()) else {
        return Err(Refusal::Processing);
    };
    let owned = Arc::clone(&server);
    let task = server.tasks.spawn(async move {
        let done = befall(&owned, wish).await;
        drop(begun);
        done
    });
    let (answer, instead) = task.await.map_err(|_| Refusal::Failed)??;
    match instead {
        None => Ok(answer.into_response()),
        Some(instead) => Ok(answer_with(&server, instead).await),
    }
}

/// Decides and writes, and what befalls that.
async fn befall(
    server: &Arc<Server>,
    mut wish: Wish,
) -> Result<(Answer, Option<Instead>), Refusal> {
    let plan = match &wish.what {
        What::Confirm {
            payment_key,
            amount,
            ..
        } => server.faults().of_capture(payment_key, *amount),
        What::Charge {
            order_id, amount, ..
        } => server.faults().of_capture(order_id, *amount),
        What::Cancel { payment_key, .. } => {
            let moment = server.moment();
            let payment = server
                .book
                .look(|ledger| ledger.payment(payment_key, &moment));
            let total = payment.await?.map_or(0, |payment| payment.amount);
            server.faults().of_cancel(payment_key, total)
        }
    };
    tokio::time::sleep(plan.slow).await;
    if let Some(instead) = plan.before {
        return Ok((Answer::error(Refusal::Failed), Some(instead)));
    }
    if plan.forgets_key {
        wish.idempotency_key = None;
    }
    match &mut wish.what {
        What::Confirm { declined, .. }
        | What::Charge { declined, .. }
        | What::Cancel { declined, .. } => *declined = plan.declined,
    }
    let moment = server.moment();
    let decide = |ledger: &Ledger| {
        let (line, answer) = ledger.decide(&wish, &moment);
        let webhook = line.as_ref().and_then(|line| line.webhook.clone());
        (line, (answer, webhook))
    };
    let (answer, webhook) = server.book.change(decide).await?;
    if let Some(webhook) = webhook {
        webhooks::send(server, webhook);
    }
    Ok((answer, plan.after))
}

/// What comes in place of an answer. Who waits for one that never comes is let go at some time.
async fn answer_with(server: &Server, instead: Instead) -> Response {
    match instead {
        Instead::Silence => {
            let silence = tokio::time::sleep(SILENCE);
            server.stop.run_until_cancelled(silence).await;
            Refusal::Failed.into_response()
        }
        Instead::Failure => Refusal::Failed.into_response(),
        Instead::Unavailable => Refusal::Unavailable.into_response(),
        Instead::Cut => {
            // A body that fails takes its connection with it.
            let cut = stream::once(async { Err::<Bytes, _>(io::Error::other("cut")) });
            axum::body::Body::from_stream(cut).into_response()
        }
    }
}

/// Who looks something up: allowed, and not befallen. What comes in place of an answer otherwise.
async fn looking(server: &Server, headers: &HeaderMap) -> Result<Moment, Box<Response>> {
    authorize(server, headers).map_err(|refusal| Box::new(refusal.into_response()))?;
    let instead = server.faults().of_look_up();
    match instead {
        Some(instead) => Err(Box::new(answer_with(server, instead).await)),
        None => Ok(server.moment()),
    }
}

/// Answers a look-up with what was found.
async fn found(server: &Server, payment: Option<Payment>) -> Result<Response, Refusal> {
    let payment = payment.ok_or(Refusal::NotFoundPayment)?;
    let instead = server
        .faults()
        .of_found(&payment.payment_key, payment.amount);
    Ok(match instead {
        Some(instead) => answer_with(server, instead).await,
        None => Answer::ok(payment.document()).into_response(),
    })
}

async fn find_by_key(
    State(server): Shared,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let moment = match looking(&server, &headers).await {
        Ok(moment) => moment,
        Err(instead) => return Ok(*instead),
    };
    let payment = server.book.look(|ledger| ledger.payment(&key, &moment));
    found(&server, payment.await?).await
}

async fn find_by_order(
    State(server): Shared,
    Path(order_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let moment = match looking(&server, &headers).await {
        Ok(moment) => moment,
        Err(instead) => return Ok(*instead),
    };
    let shows_latest = server.faults().shows_latest();
    let payment = server.book.look(|ledger| match shows_latest {
        true => ledger.latest_of_order(&order_id, &moment),
        false => ledger.payment_of_order(&order_id, &moment),
    });
    found(&server, payment.await?).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    start_date: String,
    end_date: String,
    starting_after: Option<String>,
    limit: Option<usize>,
}

async fn transactions(
    State(server): Shared,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if let Err(instead) = looking(&server, &headers).await {
        return Ok(*instead);
    }
    let Query(wanted) = wanted.map_err(invalid)?;
    let since = time(&wanted.start_date).ok_or(Refusal::InvalidRequest)?;
    let until = time(&wanted.end_date).ok_or(Refusal::InvalidRequest)?;
    let limit = wanted.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let after = wanted.starting_after.as_deref();
    let page = server
        .book
        .look(|ledger| ledger.transactions(since, until, after, limit));
    Ok(Answer::ok(json!(page.await?)).into_response())
}

fn time(text: &str) -> Option<Timestamp> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc().into());
    }
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").ok()?;
    Some(Timestamp::from(local.and_utc()).plus_ms(-KOREA_MS))
}

async fn switches(State(server): Shared) -> Json<Switches> {
    Json(server.faults().switches())
}

async fn switch(
    State(server): Shared,
    body: Body<Switches>,
) -> Result<Json<Switches>, (StatusCode, String)> {
    let Json(to) = body.map_err(|error| (StatusCode::BAD_REQUEST, error.body_text()))?;
    let mut faults = server.faults();
    faults.change(to);
    Ok(Json(faults.switches()))
}

async fn switches_reset(State(server): Shared) -> StatusCode {
    server.faults().reset();
    StatusCode::NO_CONTENT
}
