//! A gateway over HTTP in the shape of Toss Payments, which the simulated one has, too.
//!
//! Every answer is put into one of the five kinds of [`Error`], and what can't be believed counts as
//! unknown: an answer about another payment than was asked for, or one that can't be read.
//!
//! A card on file is charged as in their billing: `POST /v1/billing/{billingKey}`. We register no
//! cards, so there is no table of billing keys here: the billing key that is named is the customer
//! key, our id of the user. The simulated gateway has it so; before Toss Payments itself can be asked,
//! cards have to be registered there, and the billing keys that it issues to be kept and named. So
//! nobody is charged in this way unless the operator says that the cards are there
//! (`ONSALE_CARDS`).

mod answer;
mod wire;

use super::breaker::{Breaker, Limits, Permit, Phase};
use super::retry::{Doubt, pause};
use super::{
    Cancel, Charge, Confirm, Error, Gateway, IdempotencyKey, OrderId, Page, Payment, PaymentKey,
    Refunded, TransactionKey,
};
use crate::config;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, FixedOffset, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request};
use onsale_platform::http::{Failure, PlainHttp, Server, Unfit};
use onsale_platform::metric;
use onsale_schema::Timestamp;
use serde_json::{Value, json};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The largest answer that is read: a full page of the book.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Entries on a page of the book.
const PAGE: usize = 100;
/// The gateway reads times as those of Korea, which has no summer time.
const KOREA_S: i32 = 9 * 3600;
/// An order has a captured payment already.
const CAPTURED_BEFORE: &str = "DUPLICATED_ORDER_ID";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is asked, for metrics and for what a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Confirm,
    Charge,
    Cancel,
    Find,
    Transactions,
}

impl Kind {
    fn as_str(self) -> &'static str {
        let [confirm, charge, cancel, find, transactions] = metric::GATEWAY_KINDS;
        match self {
            Self::Confirm => confirm,
            Self::Charge => charge,
            Self::Cancel => cancel,
            Self::Find => find,
            Self::Transactions => transactions,
        }
    }

    /// Whether money may move by it.
    fn changes(self) -> bool {
        match self {
            Self::Confirm | Self::Charge | Self::Cancel => true,
            Self::Find | Self::Transactions => false,
        }
    }
}

/// One request, as often as it is sent.
struct Call {
    kind: Kind,
    path: String,
    /// The body and the key of what changes something.
    change: Option<(Value, IdempotencyKey)>,
}

/// The gateway.
pub struct Toss {
    server: Server,
    authorization: HeaderValue,
    limit: Duration,
    attempts: u32,
    breaker: Mutex<Breaker>,
}

impl Toss {
    /// The gateway of the settings; none when they name none.
    ///
    /// # Errors
    /// When it can't be verified, or would be asked in the clear and may not.
    pub fn of_settings(settings: &config::Gateway) -> Result<Option<Self>, Unfit> {
        let (Some(address), Some(secret)) = (&settings.url, &settings.secret) else {
            return Ok(None);
        };
        let plain = match settings.unsafe_plain_http {
            true => PlainHttp::PrivateNetwork,
            false => PlainHttp::Loopback,
        };
        if !address.is_confidential() {
            tracing::warn!(
                "the payment gateway is asked in the clear: anybody on the way reads its key \
                            and can say that what was not paid is"
            );
        }
        let ca = settings.ca.as_deref();
        let server = Server::new(address.clone(), ca, plain, ANSWER_BYTES_MAX)?;
        let credentials = STANDARD.encode(format!("{}:", secret.expose()));
        let authorization = HeaderValue::from_str(&format!("Basic {credentials}"));
        let mut authorization = authorization.expect("base64 can stand in a header");
        authorization.set_sensitive(true);
        let limits = Limits {
            failures: settings.breaker_failures,
            open: Duration::from_millis(settings.breaker_open_ms),
        };
        Ok(Some(Self {
            server,
            authorization,
            limit: Duration::from_millis(settings.timeout_ms),
            attempts: settings.attempts,
            breaker: Mutex::new(Breaker::new(limits)),
        }))
    }

    /// Asks until there is an answer that is final, or the attempts run out. `read` refuses an answer
    /// that can't be believed.
    async fn ask<T>(&self, call: Call, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, Error> {
        let mut doubt = Doubt::default();
        let mut failures = 0;
        loop {
            let Some(permit) = self.admit() else {
                let reason = "spared after failures";
                return Err(doubt.weigh(Error::Unavailable { reason }));
            };
            let found = self.attempt(&call, permit, &read).await;
            let error = match found {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failures += 1;
            let is_last = failures >= self.attempts || !error.is_transient();
            let believed = doubt.weigh(error);
            if is_last {
                return Err(believed);
            }
            tokio::time::sleep(pause(failures, rand::random())).await;
        }
    }

    async fn attempt<T>(
        &self,
        call: &Call,
        permit: Permit,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let answered = self.server.ask(self.request(call), self.limit).await;
        // What it says of one payment says nothing against the gateway.
        let works = matches!(&answered, Ok(answer) if answer.status < 500 && answer.status != 429);
        let found = match answered {
            Ok(answer) if answer.status == 200 => read(&answer.body).ok_or(Error::Unknown {
                reason: "the answer can't be believed",
            }),
            Ok(answer) => Err(answer::error(answer.status, &answer.body)),
            Err(Failure::NotSent(reason)) => Err(Error::Unavailable { reason }),
            Err(Failure::NotAnswered(reason)) => Err(Error::Unknown { reason }),
        };
        let found = found.map_err(|error| match error {
            // Nothing can have been changed by looking.
            Error::Unknown { reason } if !call.kind.changes() => Error::Unavailable { reason },
            error => error,
        });
        self.report(permit, works);
        let (kind, outcome) = (
            call.kind.as_str(),
            found.as_ref().err().map_or("done", Error::kind),
        );
        metrics::counter!(metric::GATEWAY_REQUESTS, "kind" => kind, "outcome" => outcome)
            .increment(1);
        metrics::histogram!(metric::GATEWAY_DURATION, "kind" => kind)
            .record(begun.elapsed().as_secs_f64());
        found
    }

    fn request(&self, call: &Call) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        let uri = self.server.path(&call.path).parse();
        *request.uri_mut() = uri.expect("keys and names are checked to fit into a path");
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some((body, key)) = &call.change {
            let key = HeaderValue::from_str(&key.to_string());
            headers.insert(IDEMPOTENCY_KEY, key.expect("a UUID can stand in a header"));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.method_mut() = Method::POST;
            *request.body_mut() = Full::from(body.to_string());
        }
        request
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> Option<Permit> {
        let mut breaker = self.breaker();
        let before = breaker.phase();
        let permit = breaker.admit(Instant::now());
        show(before, breaker.phase());
        permit
    }

    fn report(&self, permit: Permit, works: bool) {
        let mut breaker = self.breaker();
        let before = breaker.phase();
        breaker.report(permit, works, Instant::now());
        show(before, breaker.phase());
    }

    async fn find(&self, path: String, fits: impl Fn(&Payment) -> bool) -> Result<Payment, Error> {
        let call = Call {
            kind: Kind::Find,
            path,
            change: None,
        };
        self.ask(call, |body| wire::payment(body).filter(&fits))
            .await
    }
}

/// Tells of a change of the breaker.
fn show(before: Phase, now: Phase) {
    if before == now {
        return;
    }
    match now {
        Phase::Closed => tracing::info!("the payment gateway answers again"),
        Phase::HalfOpen => tracing::debug!("trying whether the payment gateway answers again"),
        Phase::Open => tracing::warn!("the payment gateway fails; it is spared for a while"),
    }
    let value = match now {
        Phase::Closed => 0.0,
        Phase::HalfOpen => 1.0,
        Phase::Open => 2.0,
    };
    metrics::gauge!(metric::GATEWAY_BREAKER).set(value);
}

/// A time as the gateway reads it, `extra_s` later.
fn in_korea(at: Timestamp, extra_s: i64) -> String {
    let zone = FixedOffset::east_opt(KOREA_S).expect("nine hours are less than a day");
    let at = DateTime::<Utc>::from(at.plus_ms(extra_s * 1000));
    at.with_timezone(&zone)
        .format("%Y-%m-%dT%H:%M:%S")
        .to_string()
}

impl Gateway for Toss {
    fn confirm<'a>(&'a self, confirm: &'a Confirm) -> BoxFuture<'a, Result<Payment, Error>> {
        let body = json!({
            "paymentKey": confirm.payment_key.as_str(),
            "orderId": confirm.order_id.as_str(),
            "amount": confirm.amount.to_won(),
        });
        let call = Call {
            kind: Kind::Confirm,
            path: "/v1/payments/confirm".to_owned(),
            change: Some((body, confirm.idempotency_key)),
        };
        let fits = |payment: &Payment| {
            payment.payment_key == confirm.payment_key
                && payment.order_id == confirm.order_id
                && payment.total == confirm.amount
                && payment.status.is_captured()
        };
        self.ask(call, move |body| wire::payment(body).filter(fits))
            .boxed()
    }

    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Payment, Error>> {
        let body = json!({
            "customerKey": charge.customer.as_str(),
            "amount": charge.amount.to_won(),
            "orderId": charge.order_id.as_str(),
            "orderName": charge.order_name,
        });
        let call = Call {
            kind: Kind::Charge,
            path: format!("/v1/billing/{}", charge.customer),
            change: Some((body, charge.idempotency_key)),
        };
        let fits = |payment: &Payment| {
            payment.order_id == charge.order_id
                && payment.total == charge.amount
                && payment.status.is_captured()
        };
        async move {
            let found = self
                .ask(call, |body| wire::payment(body).filter(fits))
                .await;
            found.map_err(|error| match error {
                // By a wish that it has forgotten the key of: what it says is that it was captured.
                Error::Declined { code } if code == CAPTURED_BEFORE => Error::Unknown {
                    reason: "it was captured before",
                },
                error => error,
            })
        }
        .boxed()
    }

    fn cancel<'a>(&'a self, cancel: &'a Cancel) -> BoxFuture<'a, Result<Refunded, Error>> {
        let body = json!({
            "cancelReason": wire::reason(cancel.reason, cancel.refund_id),
            "cancelAmount": cancel.amount.to_won(),
        });
        let call = Call {
            kind: Kind::Cancel,
            path: format!("/v1/payments/{}/cancel", cancel.payment_key),
            change: Some((body, cancel.idempotency_key)),
        };
        let read = |body: &[u8]| {
            let payment = wire::payment(body)?;
            let is_it = |one: &Refunded| one.refund_id == Some(cancel.refund_id);
            let refunded = payment.cancels.into_iter().find(is_it)?;
            let fits =
                payment.payment_key == cancel.payment_key && refunded.amount == cancel.amount;
            fits.then_some(refunded)
        };
        self.ask(call, read).boxed()
    }

    fn find_by_key<'a>(&'a self, key: &'a PaymentKey) -> BoxFuture<'a, Result<Payment, Error>> {
        let fits = move |payment: &Payment| payment.payment_key == *key;
        self.find(format!("/v1/payments/{key}"), fits).boxed()
    }

    fn find_by_order<'a>(&'a self, order: &'a OrderId) -> BoxFuture<'a, Result<Payment, Error>> {
        let fits = move |payment: &Payment| payment.order_id == *order;
        self.find(format!("/v1/payments/orders/{order}"), fits)
            .boxed()
    }

    fn transactions<'a>(
        &'a self,
        since: Timestamp,
        until: Timestamp,
        after: Option<&'a TransactionKey>,
    ) -> BoxFuture<'a, Result<Page, Error>> {
        let (since, until) = (in_korea(since, 0), in_korea(until, 1));
        let after = after.map(|key| format!("&startingAfter={key}"));
        let path = format!(
            "/v1/transactions?startDate={since}&endDate={until}&limit={PAGE}{}",
            after.unwrap_or_default()
        );
        let call = Call {
            kind: Kind::Transactions,
            path,
            change: None,
        };
        self.ask(call, |body| wire::page(body, PAGE)).boxed()
    }
}
