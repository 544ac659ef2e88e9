//! The HTTP server: what axum's own lacks. Every connection has a bound on the time to its first
//! request, on each request's head, and there is a bound on connections; at shutdown it stops
//! listening, lets requests under way end, and then ends the rest.

use crate::config::Http;
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

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
        shutdown: shutdown.clone(),
        abandon: abandon.clone(),
    });
    loop {
        // A permit first: what is not accepted waits in the kernel's queue, which is bounded too.
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_connection(&error) {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let connection = Arc::clone(&shared).connection(stream, router.clone());
        connections.spawn(async move {
            connection.await;
            drop(slot);
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

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, slot))
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

fn builder(settings: &Http) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
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
    builder: auto::Builder<TokioExecutor>,
    first_request_timeout: Duration,
    /// Ends a connection as soon as no request is under way on it.
    shutdown: CancellationToken,
    /// Ends it at once.
    abandon: CancellationToken,
}

impl Shared {
    async fn connection(self: Arc<Self>, stream: TcpStream, router: Router) {
        let begun = Arc::new(AtomicBool::new(false));
        let service = {
            let begun = Arc::clone(&begun);
            router.map_request(move |request: hyper::Request<Incoming>| {
                begun.store(true, Ordering::Relaxed);
                request.map(axum::body::Body::new)
            })
        };
        let mut connection = pin!(
            self.builder
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        );
        let mut first_request = pin!(tokio::time::sleep(self.first_request_timeout));
        let (mut waits_for_first, mut draining) = (true, false);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = first_request.as_mut(), if waits_for_first => {
                    if !begun.load(Ordering::Relaxed) {
                        return;
                    }
                    waits_for_first = false;
                }
                () = self.shutdown.cancelled(), if !draining => {
                    connection.as_mut().graceful_shutdown();
                    draining = true;
                }
                () = self.abandon.cancelled(), if draining => return,
            }
        }
    }
}
