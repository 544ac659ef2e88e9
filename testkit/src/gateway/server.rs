//! The running gateway: its book, its faults, what it has under way. A request that has begun is
//! finished although its client has gone, as with a real gateway: so captures can come late.

use super::book::Book;
use super::faults::Faults;
use super::webhooks::Sender;
use super::{Error, Options, api, io_failed};
use crate::gateway::ledger::Moment;
use onsale_platform::clock::host_now;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests under way may take when it stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What all requests share.
pub struct Server {
    pub book: Book,
    pub options: Options,
    pub sender: Sender,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    faults: Mutex<Faults>,
    processing: Mutex<HashSet<String>>,
}

impl Server {
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn moment(&self) -> Moment {
        let ttl_ms = self.options.checkout_ttl.as_millis();
        Moment {
            now: host_now(),
            fresh: format!("{:032x}", rand::random::<u128>()),
            checkout_ttl_ms: i64::try_from(ttl_ms).unwrap_or(i64::MAX),
        }
    }

    /// Marks a named wish as being worked on; none when it is already.
    pub fn begin(self: &Arc<Self>, name: Option<String>) -> Option<Begun> {
        let mut processing = self.processing();
        if let Some(name) = &name
            && !processing.insert(name.clone())
        {
            return None;
        }
        Some(Begun {
            server: Arc::clone(self),
            name,
        })
    }

    fn processing(&self) -> MutexGuard<'_, HashSet<String>> {
        self.processing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wish that is being worked on.
pub struct Begun {
    server: Arc<Server>,
    name: Option<String>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.server.processing().remove(name);
        }
    }
}

/// Runs a gateway until `stop`.
///
/// # Errors
/// When it can't start, or its book can't be written any more.
pub async fn serve(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let addr = options.addr;
    if !addr.ip().is_loopback() {
        if !options.unsafe_plain_http {
            return Err(Error::NotLoopback(addr));
        }
        tracing::warn!(%addr, "it can be reached from elsewhere, in the clear: for development only");
    }
    let (book, writer) = Book::open(&options.dir)?;
    let listener = TcpListener::bind(addr).await;
    let listener = listener.map_err(io_failed(format!("listening on {addr}")))?;
    let sender = Sender::new(&options).map_err(Error::Client)?;
    let server = Arc::new(Server {
        book,
        sender,
        tasks: TaskTracker::new(),
        stop: stop.child_token(),
        options,
        faults: Mutex::default(),
        processing: Mutex::default(),
    });
    let closed = server.book.look(|ledger| ledger.open_webhooks()).await;
    for webhook in closed.unwrap_or_default() {
        super::webhooks::send(&server, webhook);
    }
    tracing::info!(%addr, "the simulated gateway serves");
    let ending = server.stop.clone();
    let serving = axum::serve(listener, api::router(Arc::clone(&server)))
        .with_graceful_shutdown(async move { ending.cancelled().await });
    let ended = tokio::select! {
        ended = async { serving.await } => ended.map_err(io_failed("serving")),
        () = server.book.closed() => {
            Err(io_failed("writing the book")(std::io::ErrorKind::Other.into()))
        }
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    };
    server.stop.cancel();
    server.tasks.close();
    if tokio::time::timeout(DRAIN, server.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(open = server.tasks.len(), "requests are cut off");
    }
    drop(server);
    // It ends when nobody has the book any more; a connection that is cut off may have it still.
    drop(writer);
    ended
}
