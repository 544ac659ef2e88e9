//! What happens around every request: the trace id, metrics, the limit of its address, the bounds on
//! its head, what its client accepts, panics, and the writing of problems. One layer, because each more costs an allocation per request.

use crate::accept::accepts;
use crate::address::ClientAddress;
use crate::limits::{RATELIMIT, RATELIMIT_POLICY, Rate};
use crate::origins::Origins;
use crate::problem::{self, Code, Problem};
use crate::trace::{TRACE_ID, TraceId};
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use metrics::{Counter, Gauge, Histogram};
use onsale_platform::metric;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// Where a stream of events is to go on.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Routes below it belong to the API.
const API: &str = "/api/";
/// The one kind of route that answers with a stream of events ends so.
const EVENTS: &str = "/events";
const EVENT_STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";
/// Called by the payment gateway, which has few addresses and a word for each payment.
const SIGNED: &str = "/api/v1/webhooks/payments";
/// What one is answered whose signature is good: taken, or to come again.
const BELIEVED: [StatusCode; 2] = [StatusCode::NO_CONTENT, StatusCode::SERVICE_UNAVAILABLE];
/// Asked by load balancers, all day and from one address.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Puts the stack around a router: around what it routes, and around what it doesn't know.
pub fn wrap(router: Router, settings: &crate::config::Http) -> Router {
    let layer = StackLayer {
        bounds: Bounds {
            head_bytes_max: usize::try_from(settings.header_bytes_max).unwrap_or(usize::MAX),
            headers_max: settings.headers_max.into(),
        },
        rate: Rate::of_addresses(&settings.limits).map(Arc::new),
        in_flight: metrics::gauge!(metric::HTTP_IN_FLIGHT),
    };
    let router = router.layer(layer);
    match cors(&settings.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

fn cors(origins: &Origins) -> Option<CorsLayer> {
    let allowed = match origins {
        Origins::All => AllowOrigin::any(),
        Origins::These(none) if none.is_empty() => return None,
        Origins::These(list) => AllowOrigin::list(list.iter().cloned()),
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            LAST_EVENT_ID,
            crate::idempotency::HEADER,
            crate::prefer::PREFER,
            crate::room::QUEUE_PASS,
            crate::room::QUEUE_TICKET,
            HeaderName::from_static("traceparent"),
        ])
        .expose_headers([
            header::DATE,
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            RATELIMIT,
            RATELIMIT_POLICY,
            crate::prefer::PREFERENCE_APPLIED,
            TRACE_ID,
        ])
        .max_age(std::time::Duration::from_secs(3600));
    Some(layer)
}

/// Makes one [`Stack`] per route, which therefore knows its route.
#[derive(Clone)]
struct StackLayer {
    bounds: Bounds,
    rate: Option<Arc<Rate>>,
    in_flight: Gauge,
}

impl<S> Layer<S> for StackLayer {
    type Service = Stack<S>;

    fn layer(&self, inner: S) -> Stack<S> {
        Stack {
            inner,
            bounds: self.bounds,
            rate: self.rate.clone(),
            in_flight: self.in_flight.clone(),
            route: Arc::new(Route::default()),
        }
    }
}

#[derive(Clone)]
struct Stack<S> {
    inner: S,
    bounds: Bounds,
    rate: Option<Arc<Rate>>,
    in_flight: Gauge,
    route: Arc<Route>,
}

/// Of a request's head.
#[derive(Clone, Copy)]
struct Bounds {
    head_bytes_max: usize,
    headers_max: usize,
}

impl Bounds {
    fn check(self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let fits = headers.len() <= self.headers_max
            && head_bytes(request.uri(), headers) <= self.head_bytes_max;
        fits.then_some(())
            .ok_or_else(|| Problem::new(Code::HeadersTooLarge))
    }
}

impl<S> Service<Request> for Stack<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let trace = TraceId::of(request.headers());
        let method = method_label(request.method());
        let route = Arc::clone(&self.route);
        route.learn(&request);
        let rate = self.rate.clone().filter(|_| !route.is_probe());
        let network = network(&request);
        let left = rate.as_deref().map(|rate| rate.take(&network)).transpose();
        let is_signed = route.is_signed();
        let admitted = left.clone().and_then(|_| {
            self.bounds.check(&request)?;
            route.check_accept(request.headers())
        });
        let answer = admitted.map(|()| self.inner.call(request));
        let in_flight = InFlight::new(self.in_flight.clone());
        Box::pin(async move {
            let mut response = match answer {
                Ok(answer) => match AssertUnwindSafe(answer).catch_unwind().await {
                    Ok(Ok(response)) => response,
                    Err(_) => {
                        tracing::error!(trace = trace.as_str(), "a request made us panic");
                        Problem::internal().into_response()
                    }
                },
                Err(problem) => problem.into_response(),
            };
            problem::finish(&mut response, &trace);
            let status = response.status();
            let headers = response.headers_mut();
            headers.insert(TRACE_ID, trace.header());
            match (rate, left) {
                // What was signed does not count: or the limit would keep away word of payments.
                (Some(rate), Ok(_)) if is_signed && BELIEVED.contains(&status) => {
                    rate.give_back(&network);
                }
                (Some(rate), left) => rate.tell(left.unwrap_or_default(), headers),
                (None, _) => {}
            }
            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            route.count(method, status.as_u16(), started);
            drop(in_flight);
            Ok(response)
        })
    }
}

/// Whose limit the request is counted against. All that come by another way than [`crate::server`] count
/// as one.
fn network(request: &Request) -> IpAddr {
    let client = request.extensions().get::<ClientAddress>();
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    client.map_or(nobody, |client| client.network())
}

/// Bytes of a request's head, about as on the wire.
fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let lines = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + lines.sum::<usize>()
}

/// The method as a label: those that a client makes up are one.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        _ => "OTHER",
    }
}

/// Counts a request as long as it is worked on, also when its client goes away.
struct InFlight(Gauge);

impl InFlight {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The metrics of one route, found once: asking the recorder costs an allocation and a hash.
#[derive(Default)]
struct Route {
    template: OnceLock<String>,
    series: Mutex<Vec<Series>>,
}

struct Series {
    method: &'static str,
    status: u16,
    requests: Counter,
    duration: Histogram,
}

impl Route {
    fn learn(&self, request: &Request) {
        if self.template.get().is_none() {
            let matched = request.extensions().get::<MatchedPath>();
            let template = matched.map_or("unmatched", MatchedPath::as_str);
            self.template.get_or_init(|| template.to_owned());
        }
    }

    fn template(&self) -> &str {
        self.template.get().map_or("", String::as_str)
    }

    fn is_probe(&self) -> bool {
        PROBES.contains(&self.template())
    }

    fn is_signed(&self) -> bool {
        self.template() == SIGNED
    }

    /// Before anything is done: a client that can't read its answer would do it again.
    fn check_accept(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let template = self.template();
        let offered = match template.strip_prefix(API) {
            None => return Ok(()),
            Some(path) if path.ends_with(EVENTS) => EVENT_STREAM,
            Some(_) => JSON,
        };
        accepts(headers, offered)
            .then_some(())
            .ok_or_else(|| Problem::new(Code::NotAcceptable))
    }

    fn count(&self, method: &'static str, status: u16, started: Instant) {
        let mut all = self
            .series
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = all
            .iter()
            .position(|series| series.status == status && series.method == method);
        let at = known.unwrap_or_else(|| {
            all.push(self.series(method, status));
            all.len() - 1
        });
        let series = &all[at];
        series.requests.increment(1);
        series.duration.record(started.elapsed().as_secs_f64());
    }

    fn series(&self, method: &'static str, status: u16) -> Series {
        let route = self.template.get().cloned().unwrap_or_default();
        Series {
            method,
            status,
            requests: metrics::counter!(metric::HTTP_REQUESTS,
                "route" => route.clone(), "method" => method, "status" => status.to_string()),
            duration: metrics::histogram!(metric::HTTP_DURATION,
                "route" => route, "method" => method),
        }
    }
}
