//! What a connection is doing, so that an idle one ends. hyper watches idle HTTP/1 connections by
//! itself: there the next request's head is overdue. On HTTP/2 a client that answers pings would stay
//! for ever.
//!
//! There an answer is also given piece by piece, so that it is known whether the client takes it.

use super::unread;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Version;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// The most bytes that are given at once, so that all but so many were taken when the last were: an
/// HTTP/2 frame's, unless the client wants larger ones.
const PIECE_BYTES: usize = 16 * 1024;

/// The requests of one connection.
#[derive(Default)]
pub struct Activity(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Fresh,
    Http1,
    Http2 {
        under_way: u32,
        ended_at: Option<Instant>,
    },
}

/// How long a connection has been idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It has not asked for anything yet.
    Fresh,
    /// hyper watches it.
    Watched,
    /// It is not.
    Busy,
    /// Since then.
    Since(Instant),
}

/// A request under way, until its answer is sent; none where nobody counts.
pub struct Busy(Option<Arc<Activity>>);

impl Activity {
    /// A request begins.
    pub fn request(self: &Arc<Self>, version: Version) -> Busy {
        let mut state = self.state();
        if version != Version::HTTP_2 {
            *state = State::Http1;
            return Busy(None);
        }
        let under_way = match *state {
            State::Http2 { under_way, .. } => under_way,
            State::Fresh | State::Http1 => 0,
        };
        *state = State::Http2 {
            under_way: under_way + 1,
            ended_at: None,
        };
        Busy(Some(Arc::clone(self)))
    }

    /// Whether it is idle.
    pub fn idle(&self) -> Idle {
        match *self.state() {
            State::Fresh => Idle::Fresh,
            State::Http1 => Idle::Watched,
            State::Http2 { ended_at, .. } => ended_at.map_or(Idle::Busy, Idle::Since),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    /// Goes with the answer.
    pub fn until_the_end_of(self, response: Response) -> Response {
        if self.0.is_none() {
            return response;
        }
        response.map(|body| {
            Body::new(BusyBody {
                body,
                rest: Bytes::new(),
                _busy: self,
            })
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Some(activity) = &self.0 else { return };
        if let State::Http2 {
            under_way,
            ended_at,
        } = &mut *activity.state()
        {
            *under_way = under_way.saturating_sub(1);
            if *under_way == 0 {
                *ended_at = Some(Instant::now());
            }
        }
    }
}

struct BusyBody {
    body: Body,
    /// What it gave and is still to be given on.
    rest: Bytes,
    _busy: Busy,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            unread::asked(matches!(frame, Poll::Ready(Some(Ok(_)))));
            match ready!(frame).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            unread::asked(true);
        }
        let bytes = PIECE_BYTES.min(self.rest.len());
        let piece = self.rest.split_to(bytes);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, more) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(more.lower() + rest);
        if let Some(upper) = more.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test(start_paused = true)]
    async fn http2_is_idle_when_the_last_answer_has_been_sent() {
        let activity = Arc::new(Activity::default());
        assert_eq!(activity.idle(), Idle::Fresh);
        let first = activity.request(Version::HTTP_2);
        let second = activity.request(Version::HTTP_2);
        drop(first);
        assert_eq!(activity.idle(), Idle::Busy);
        let response = second.until_the_end_of(Response::new(Body::from("x")));
        assert_eq!(response.body().size_hint().exact(), Some(1));
        assert_eq!(activity.idle(), Idle::Busy);
        drop(response);
        assert_eq!(activity.idle(), Idle::Since(Instant::now()));
        let _third = activity.request(Version::HTTP_2);
        assert_eq!(activity.idle(), Idle::Busy);
    }

    #[tokio::test]
    async fn a_long_answer_is_given_piece_by_piece() {
        let long = Bytes::from((0..100_000).map(|n| n as u8).collect::<Vec<u8>>());
        let activity = Arc::new(Activity::default());
        let busy = activity.request(Version::HTTP_2);
        let response = busy.until_the_end_of(Response::new(Body::from(long.clone())));
        let mut body = response.into_body();
        let mut given = Vec::new();
        while !body.is_end_stream() {
            let left = (long.len() - given.len()) as u64;
            assert_eq!(body.size_hint().exact(), Some(left));
            let frame = body.frame().await.unwrap().unwrap();
            let piece = frame.into_data().unwrap();
            assert!((1..=PIECE_BYTES).contains(&piece.len()));
            given.extend_from_slice(&piece);
        }
        assert_eq!(given, long);
    }

    #[test]
    fn http1_is_watched_by_hyper() {
        let activity = Arc::new(Activity::default());
        drop(activity.request(Version::HTTP_11));
        assert_eq!(activity.idle(), Idle::Watched);
    }
}
