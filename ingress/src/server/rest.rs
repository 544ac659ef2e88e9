//! What is left of a request's body when its answer is there: many a refusal needs no more than the
//! head. hyper closes an HTTP/1 connection whose request has not come whole, and doesn't say so in
//! the answer: the client sends its next request on it, and gets none. So a short rest is awaited,
//! and after any other the answer says that the connection ends.

use axum::body::{Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Version, header};
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// The longest rest that is awaited; a new connection costs the client about as much.
const REST_BYTES_MAX: u64 = 64 * 1024;
/// How long.
const REST_WAIT: Duration = Duration::from_secs(1);

/// Where a body's rest is left.
type Place = Arc<Mutex<Option<Incoming>>>;

/// The rest of one request's body, when its answer is there.
pub struct Rest {
    /// None where there is no body, or a connection that doesn't need its end (HTTP/2).
    place: Option<Place>,
    /// It waits to be told to send it: it is told by the answer not to.
    is_held_back: bool,
}

/// A body that leaves what nobody reads.
pub struct Body {
    body: Option<Incoming>,
    rest: Option<Place>,
}

/// Has the request's body leave its rest.
pub fn watch(request: Request<Incoming>) -> (Request<Body>, Rest) {
    let is_watched = request.version() != Version::HTTP_2 && !request.body().is_end_stream();
    let rest = Rest {
        place: is_watched.then(Place::default),
        is_held_back: request.headers().contains_key(header::EXPECT),
    };
    let place = rest.place.clone();
    let request = request.map(|body| Body {
        body: Some(body),
        rest: place,
    });
    (request, rest)
}

impl Rest {
    /// Waits for the rest, or has the answer say that the connection ends.
    pub async fn settle(self, mut answer: Response) -> Response {
        let place = self.place.as_ref();
        let rest = place.and_then(|place| lock(place).take());
        let Some(rest) = rest else { return answer };
        let is_short = rest
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= REST_BYTES_MAX);
        let has_come = is_short
            && !self.is_held_back
            && tokio::time::timeout(REST_WAIT, read(rest))
                .await
                .unwrap_or(false);
        if !has_come {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
        answer
    }
}

/// Reads to the end; false when there is none.
async fn read(rest: Incoming) -> bool {
    let mut rest = pin!(rest);
    while let Some(frame) = std::future::poll_fn(|cx| rest.as_mut().poll_frame(cx)).await {
        if frame.is_err() {
            return false;
        }
    }
    true
}

fn lock(place: &Place) -> std::sync::MutexGuard<'_, Option<Incoming>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let (Some(body), Some(rest)) = (self.body.take(), &self.rest)
            && !body.is_end_stream()
        {
            *lock(rest) = Some(body);
        }
    }
}
