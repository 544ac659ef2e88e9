//! How far something long is, for who sits before a terminal.

use std::io::{IsTerminal as _, Write as _};

const WIDTH: usize = 40;

/// A bar on standard error, if that is a terminal; it is gone when it is dropped.
pub struct Bar {
    what: &'static str,
    total: usize,
    shown: Option<usize>,
    is_seen: bool,
}

impl Bar {
    /// A bar of so many.
    pub fn new(what: &'static str, total: usize) -> Self {
        Self {
            what,
            total,
            shown: None,
            is_seen: std::io::stderr().is_terminal(),
        }
    }

    /// So many are done.
    pub fn at(&mut self, done: usize) {
        let percent = done.saturating_mul(100) / self.total.max(1);
        if !self.is_seen || self.shown == Some(percent) {
            return;
        }
        self.shown = Some(percent);
        let full = "#".repeat((percent * WIDTH / 100).min(WIDTH));
        let mut err = std::io::stderr().lock();
        let line = format!("\r{} [{full:WIDTH$}] {percent:>3} %", self.what);
        // Nothing can be done when nobody reads.
        drop(err.write_all(line.as_bytes()).and_then(|()| err.flush()));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
