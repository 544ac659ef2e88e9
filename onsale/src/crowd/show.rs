//! What a person sees while a crowd is at it: one line that is written over, or a line now and then
//! where nobody sits before it.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::tally::{Counts, Stage};

/// How often a line is written where it can't be written over.
const PLAIN: Duration = Duration::from_secs(5);

/// The line, on standard error. A line that stands is ended when it is dropped.
pub struct Show {
    is_live: bool,
    began: Instant,
    shown: Option<Instant>,
}

impl Show {
    /// Nothing yet.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            is_live: std::io::stderr().is_terminal(),
            began: Instant::now(),
            shown: None,
        }
    }

    /// Shows how far everybody is; the same as before if that is not long ago.
    pub fn at(&mut self, counts: &Counts) {
        let [lobby, waiting, admitted, holding, sold] = [
            Stage::Lobby,
            Stage::Waiting,
            Stage::Admitted,
            Stage::Holding,
            Stage::Sold,
        ]
        .map(|stage| counts.of(stage));
        let gone = counts.of(Stage::GaveUp) + counts.of(Stage::Silent);
        let left = counts.hall.left;
        self.line(&format!(
            "lobby {lobby}, waiting {waiting}, admitted {admitted}, holding {holding}, sold {sold}, \
             gave up {gone}; {left} seats left"
        ));
    }

    /// Shows that it is being prepared.
    pub fn preparing(&mut self, done: usize, of: usize) {
        self.line(&format!("{done} of {of} are signed in"));
    }

    /// Says something that stays.
    pub fn say(&mut self, what: &str) {
        self.end();
        self.write(&format!("{what}\n"));
    }

    fn line(&mut self, what: &str) {
        let pause = if self.is_live {
            Duration::from_millis(200)
        } else {
            PLAIN
        };
        if self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.began.elapsed().as_secs();
        let line = format!("{seconds:>5} s  {what}");
        match self.is_live {
            true => self.write(&format!("\r\x1b[2K{line}")),
            false => self.write(&format!("{line}\n")),
        }
    }

    fn end(&mut self) {
        if self.is_live && self.shown.take().is_some() {
            self.write("\n");
        }
    }

    fn write(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        // Nothing can be done when nobody reads.
        drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.end();
    }
}
