//! The HTTP server: what axum's own lacks. Every connection has a bound on the time to its first
//! request, on each request's head, on a write or an answer that nobody reads, on how long the other end
//! may say nothing of what was sent to it, and on how long it may be idle;
//! there is a bound on connections, in all and of one address; at shutdown it stops listening, lets
//! requests under way end, and then ends the rest. A connection on which a request was refused before
//! it was whole goes on, or the answer says that it ends.
//!
//! HTTP/1.1 and HTTP/2 (with prior knowledge) are told apart by the first bytes.

mod activity;
mod rest;
mod stalls;
mod unread;

use crate::address::{Networks, network};
use crate::config::Http;
use crate::places::{Place, Places};
use activity::{Activity, Idle};
use axum::Router;
use futures_util::{FutureExt, TryFutureExt};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use metrics::{Counter, Gauge};
use onsale_platform::metric;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use stalls::Stalls;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// The largest head that hyper itself accepts; above our own bound, so that ours answers first.
const HTTP1_BUFFER_BYTES: usize = 128 * 1024;
/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;
/// How often a silent HTTP/2 connection is asked for a sign of life, and how long it may take.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// How long accepting pauses when the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `shutdown`, then drains for at most `settings.drain_ms`.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    settings: &Http,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(
        usize::try_from(settings.connections_max).unwrap_or(Semaphore::MAX_PERMITS),
    ));
    let connections = TaskTracker::new();
    let abandon = CancellationToken::new();
    let shared = Arc::new(Shared {
        builder: builder(settings),
        first_request_timeout: settings.first_request_timeout(),
        idle_timeout: settings.header_timeout(),
        write_timeout: settings.write_timeout(),
        proxies: settings.limits.trusted_proxies.clone(),
        places: Arc::default(),
        places_max: settings.limits.connections_per_address_max,
        open: metrics::gauge!(metric::HTTP_CONNECTIONS),
        refused: metrics::counter!(metric::HTTP_REFUSED, "reason" => "connections"),
        shutdown: shutdown.clone(),
        abandon: abandon.clone(),
    });
    loop {
        // A permit first: what is not accepted waits in the kernel's queue, which is bounded too.
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots, settings.write_timeout()) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_connection(&error) {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        // To close it tells enough: an answer would cost what is to be spared.
        let Ok(place) = shared.place(peer) else {
            shared.refused.increment(1);
            continue;
        };
        let connection = Arc::clone(&shared).connection(stream, peer, router.clone());
        let open = shared.open.clone();
        connections.spawn(async move {
            open.increment(1.0);
            connection.await;
            open.decrement(1.0);
            drop((place, slot));
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(settings.drain(), connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(open = connections.len(), "connections are cut off");
        abandon.cancel();
        connections.wait().await;
    }
}

/// Takes the next connection. What is sent on it must be taken by the other end within `write_timeout`.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    write_timeout: Duration,
) -> io::Result<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // A host that is gone says nothing, and the kernel would try for a quarter of an hour: that long an
    // event stream would count as somebody who is there. Other systems have no such bound.
    #[cfg(target_os = "linux")]
    SockRef::from(&stream).set_tcp_user_timeout(Some(write_timeout))?;
    Ok((stream, peer.ip(), slot))
}

/// Whether it was the client's connection that failed, not our accepting.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::InvalidInput
    )
}

fn builder(settings: &Http) -> auto::Builder<unread::Executor> {
    let mut builder = auto::Builder::new(unread::Executor {
        timeout: settings.write_timeout(),
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout())
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(settings.header_bytes_max.saturating_mul(2))
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    builder
}

/// What all connections share.
struct Shared {
    builder: auto::Builder<unread::Executor>,
    first_request_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    /// Proxies of ours, which speak for others.
    proxies: Networks,
    places: Arc<Places>,
    /// Connections of one address; 0 is no bound.
    places_max: u32,
    open: Gauge,
    refused: Counter,
    /// Ends a connection as soon as no request is under way on it.
    shutdown: CancellationToken,
    /// Ends it at once.
    abandon: CancellationToken,
}

/// The address has as many connections as it may.
struct Full;

impl Shared {
    /// A place for a connection of `peer`; none is needed by a proxy of ours.
    fn place(&self, peer: IpAddr) -> Result<Option<Place>, Full> {
        if self.places_max == 0 || self.proxies.contains(peer) {
            return Ok(None);
        }
        let place = self.places.take(network(peer), self.places_max);
        place.map(Some).ok_or(Full)
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: IpAddr, router: Router) {
        let activity = Arc::new(Activity::default());
        let service = {
            let (activity, shared) = (Arc::clone(&activity), Arc::clone(&self));
            service_fn(move |mut request: hyper::Request<Incoming>| {
                let busy = activity.request(request.version());
                let client = shared.proxies.client(peer, request.headers());
                request.extensions_mut().insert(client);
                let (request, rest) = rest::watch(request);
                let answer = router.clone().call(request);
                answer
                    .and_then(|response| rest.settle(response).map(Ok))
                    .map_ok(move |response| busy.until_the_end_of(response))
            })
        };
        let stream = TokioIo::new(Stalls::new(stream, self.write_timeout));
        let mut connection = pin!(self.builder.serve_connection(stream, service));
        let mut timer = pin!(tokio::time::sleep(self.first_request_timeout));
        let (mut is_timed, mut draining) = (true, false);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = timer.as_mut(), if is_timed => match activity.idle() {
                    // It was told to end, and doesn't.
                    _ if draining => return,
                    Idle::Fresh => return,
                    Idle::Watched => is_timed = false,
                    Idle::Busy => timer.as_mut().reset(Instant::now() + self.idle_timeout),
                    Idle::Since(then) => {
                        let until = then + self.idle_timeout;
                        if until <= Instant::now() {
                            connection.as_mut().graceful_shutdown();
                            draining = true;
                            timer.as_mut().reset(Instant::now() + self.idle_timeout);
                        } else {
                            timer.as_mut().reset(until);
                        }
                    }
                },
                () = self.shutdown.cancelled(), if !draining => {
                    connection.as_mut().graceful_shutdown();
                    draining = true;
                    is_timed = false;
                }
                () = self.abandon.cancelled() => return,
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    /// What was sent is in the kernel, so that no write waits: as when the other host is gone.
    #[tokio::test]
    async fn who_takes_nothing_of_what_was_sent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(2048).unwrap();
        let client = client.connect(listener.local_addr().unwrap());
        let slots = Arc::new(Semaphore::new(1));
        let accepted = accept(&listener, &slots, Duration::from_millis(300));
        let (client, accepted) = tokio::join!(client, accepted);
        let (mut stream, ..) = accepted.unwrap();
        stream.write_all(&[7; 64 * 1024]).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut [0; 1])).await;
        let error = read.expect("it ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
