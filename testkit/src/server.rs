//! What starting Postgres and starting nats-server have in common.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::spawn::Child;
use crate::{place, tools};

/// How often a condition that nobody announces is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// How much of a log is shown when a server does not start.
const LOG_TAIL_BYTES: u64 = 4096;

/// Why a server did not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its programs are not there.
    #[error(transparent)]
    Tools(#[from] tools::Error),
    /// Its files have no place.
    #[error("Postgres has no place")]
    Place(#[from] place::Error),
    /// A file could not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It ended, or it was not ready in time.
    #[error("{server} did not start: {reason}\n{log_tail}")]
    Start {
        /// Which server.
        server: &'static str,
        /// What was seen.
        reason: String,
        /// The end of its log.
        log_tail: String,
    },
    /// Another process works on the same data.
    #[error("{server} with pid {pid} still works on {}", .dir.display())]
    InUse {
        /// Which server.
        server: &'static str,
        /// The process that holds the data.
        pid: u32,
        /// The data.
        dir: PathBuf,
    },
    /// The data was made by another major version.
    #[error("the data in {} was made by Postgres {found}, this is Postgres {running}", .dir.display())]
    DataVersion {
        /// The data.
        dir: PathBuf,
        /// Major version that made it.
        found: String,
        /// Major version of the program.
        running: u32,
    },
    /// A statement that prepares a database failed.
    #[error("could not {what}")]
    Database {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// The log of one server, appended to over its starts.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    path: PathBuf,
    /// Where the present start begins.
    start: u64,
}

impl Log {
    /// Opens the log for one more start.
    pub(crate) fn open(path: &Path) -> Result<(Self, File), Error> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io_error(format!("opening {}", path.display())))?;
        let start = file.metadata().map(|data| data.len()).unwrap_or(0);
        Ok((
            Self {
                path: path.to_owned(),
                start,
            },
            file,
        ))
    }

    /// The end of what the present start has written.
    pub(crate) fn tail(&self) -> String {
        tail_since(&self.path, self.start)
    }
}

/// The last few kilobytes of a log, to be shown when its writer has failed.
#[must_use]
pub fn log_tail(path: &Path) -> String {
    tail_since(path, 0)
}

fn tail_since(path: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(
            start.max(end.saturating_sub(LOG_TAIL_BYTES)),
        ))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(its log can't be read: {error})"))
}

/// Waits until `ready` says so.
pub(crate) async fn until_ready(
    server: &'static str,
    child: &Child,
    log: &Log,
    limit: Duration,
    ready: impl Fn() -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    let failed = |reason: String| Error::Start {
        server,
        reason,
        log_tail: log.tail(),
    };
    loop {
        if let Some(status) = child.exit_status() {
            return Err(failed(format!("it ended with {status}")));
        }
        if ready() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(failed(format!(
                "it was not ready after {} s",
                limit.as_secs()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the process that a pid file names has gone, if it is one of `program` on this data.
/// A process of a killed run needs a moment; a number that was given to another process since must
/// not hold us up.
pub(crate) async fn until_leftover_is_gone(
    server: &'static str,
    pid: u32,
    dir: &Path,
    works_on_dir: impl Fn(u32) -> bool,
    limit: Duration,
) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    while pid != std::process::id() && works_on_dir(pid) {
        if Instant::now() >= deadline {
            return Err(Error::InUse {
                server,
                pid,
                dir: dir.to_owned(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The first line of a pid file.
pub(crate) fn pid_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path)
        .ok()?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

/// The file name of the program that a process runs; `None` when it has gone, or is a zombie.
pub(crate) fn program_of(pid: u32) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.to_string_lossy().into_owned();
    // A program that was replaced since shows as "postgres (deleted)".
    Some(name.trim_end_matches(" (deleted)").to_owned())
}
