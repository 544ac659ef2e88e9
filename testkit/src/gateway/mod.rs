//! A payment gateway of our own, in the shape of Toss Payments, for development and tests: a real
//! HTTP server with a durable book, and with every fault that a gateway may have, on demand.
//!
//! It is another company's system as far as the rest is concerned: it shares no table, no library of
//! decisions and no memory with us, so that its book can be held against ours. It moves no money.

mod api;
mod book;
mod errors;
mod faults;
mod ledger;
mod server;
mod webhooks;

use onsale_platform::webhook::Secret;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use faults::{AMOUNT_CODES, Switches, Times};
pub use server::serve;

/// How long a checkout can be confirmed, if nothing else is set.
pub const CHECKOUT_TTL: Duration = Duration::from_secs(600);

/// How to run it.
#[derive(Clone)]
pub struct Options {
    /// Where it listens; loopback only, unless `unsafe_plain_http`.
    pub addr: SocketAddr,
    /// Whether it may be reached from elsewhere, in the clear.
    pub unsafe_plain_http: bool,
    /// Where its book lies.
    pub dir: PathBuf,
    /// The key that merchants sign in with.
    pub secret_key: String,
    /// Where it sends what happened; nowhere without it.
    pub webhook_url: Option<String>,
    /// What it signs that with, each.
    pub webhook_secrets: Vec<Secret>,
    /// How long a checkout can be confirmed.
    pub checkout_ttl: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("addr", &self.addr)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It knows no signing in that would be safe elsewhere.
    #[error("{0} is not on loopback")]
    NotLoopback(SocketAddr),
    /// The book, or the socket.
    #[error("{what}")]
    Io {
        /// What could not be done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The book has a line in its middle that can't be read: it was not written by us.
    #[error("line {line} of {} can't be read", .path.display())]
    Book {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// The client that sends webhooks.
    #[error("the client of webhooks")]
    Client(#[source] reqwest::Error),
}

fn io_failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    |source| Error::Io { what, source }
}
