//! When there was nothing to read.
//!
//! A message that comes afterwards was not on the stream then, whatever its time on the stream
//! says: so a stream's clock that runs behind is told from a partition that lags. It must never
//! take its own absence for silence.

use onsale_schema::Timestamp;

/// An owner that has not looked for so long was away itself, in milliseconds: paused, or held up by
/// a commit.
const AWAY_MS: i64 = 2000;
/// What came while it was away has arrived after so long, in milliseconds.
const SETTLE_MS: i64 = 1000;

/// What the reader of one partition knows about silence, by the owner's clock.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    looked_at: Timestamp,
    counts_from: Timestamp,
    at: Timestamp,
}

impl Default for Quiet {
    /// Of a reader that has not looked yet.
    fn default() -> Self {
        Self {
            looked_at: Timestamp::EPOCH,
            counts_from: Timestamp::EPOCH,
            at: Timestamp::EPOCH,
        }
    }
}

impl Quiet {
    /// The reader looks for messages; `nothing` when none is there and the server has none.
    pub fn look(&mut self, now: Timestamp, nothing: bool) {
        if now.ms_since(self.looked_at) > AWAY_MS {
            self.counts_from = now.plus_ms(SETTLE_MS);
        }
        self.looked_at = now;
        if nothing && now >= self.counts_from {
            self.at = now;
        }
    }

    /// The last moment at which there was nothing; the epoch when none is known.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_once_what_came_before_has_arrived() {
        let at = |ms: i64| Timestamp::EPOCH.plus_ms(1_000_000 + ms);
        let mut quiet = Quiet::default();
        // (when, nothing there, what is known then)
        for (ms, nothing, known) in [
            (0, true, None),
            (900, true, None),
            (1000, false, None),
            (1100, true, Some(1100)),
            (1300, true, Some(1300)),
            (1400, false, Some(1300)),
            (3400, true, Some(3400)),
            // Paused: what came meanwhile may be on its way to us.
            (8000, true, Some(3400)),
            (8999, true, Some(3400)),
            (9000, true, Some(9000)),
        ] {
            quiet.look(at(ms), nothing);
            let known = known.map_or(Timestamp::EPOCH, at);
            assert_eq!(quiet.at(), known, "after {ms} ms");
        }
    }
}
