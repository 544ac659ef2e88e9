//! The latest changes of one map, written once for all event streams that follow it.

use axum::body::Bytes;
use std::collections::VecDeque;
use std::fmt::Write;
use tokio::sync::broadcast;

/// Changes that are kept for streams that come back.
const KEPT_MAX: usize = 1024;
/// Bytes of all of them.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Changes that a stream may be behind; one that is more so is ended.
const QUEUE_MAX: usize = 256;

/// A change as it is sent.
struct Change {
    from_version: i64,
    text: Bytes,
}

/// The latest changes of a map, without a gap.
pub struct Feed {
    /// The map's version after the last of them.
    version: i64,
    kept: VecDeque<Change>,
    kept_bytes: usize,
    streams: broadcast::Sender<Bytes>,
}

impl Feed {
    /// Of a map that has this version now.
    pub fn new(version: i64) -> Self {
        Self {
            version,
            kept: VecDeque::new(),
            kept_bytes: 0,
            streams: broadcast::Sender::new(QUEUE_MAX),
        }
    }

    /// The map has moved on to another version; seats with their new letters.
    pub fn changed(&mut self, version: i64, seats: impl Iterator<Item = (i32, u8)>) {
        let from_version = std::mem::replace(&mut self.version, version);
        let text = seats_event(version, seats);
        self.kept_bytes += text.len();
        self.kept.push_back(Change {
            from_version,
            text: text.clone(),
        });
        while self.kept.len() > KEPT_MAX || self.kept_bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= oldest.text.len();
        }
        self.send(text);
    }

    /// The map is another one, which is no change of what it was.
    pub fn replaced(&mut self, version: i64) {
        self.version = version;
        self.kept.clear();
        self.kept_bytes = 0;
        self.send(reset_event(version));
    }

    fn send(&self, text: Bytes) {
        // Nobody may be there.
        drop(self.streams.send(text));
    }

    /// What a stream begins with, and what follows. One that says how far it was gets what it
    /// missed, or is told to begin anew when that is not known any more; any other learns from which
    /// version on it hears of changes.
    pub fn join(&self, last: Last) -> (Bytes, broadcast::Receiver<Bytes>) {
        let missed = match last {
            Last::None => Some(self.kept.len()),
            Last::Version(version) if version == self.version => Some(self.kept.len()),
            Last::Version(version) => self
                .kept
                .iter()
                .position(|change| change.from_version == version),
            Last::Unreadable => None,
        };
        let first = match missed {
            None => reset_event(self.version),
            Some(from) if from == self.kept.len() => seats_event(self.version, std::iter::empty()),
            Some(from) => {
                let texts: Vec<&[u8]> = self.kept.range(from..).map(|one| &*one.text).collect();
                texts.concat().into()
            }
        };
        (first, self.streams.subscribe())
    }
}

/// How far a stream was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is new.
    None,
    /// It had this version.
    Version(i64),
    /// It says something else.
    Unreadable,
}

fn seats_event(version: i64, seats: impl Iterator<Item = (i32, u8)>) -> Bytes {
    let mut text =
        format!("id: {version}\nevent: seats\ndata: {{\"version\":{version},\"changes\":[");
    for (at, (seat, letter)) in seats.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}[{seat},\"{}\"]", char::from(letter))
            .expect("writing to a string can't fail");
    }
    text.push_str("]}\n\n");
    text.into()
}

fn reset_event(version: i64) -> Bytes {
    format!("id: {version}\nevent: reset\ndata: {{\"version\":{version}}}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    fn feed() -> Feed {
        let mut feed = Feed::new(7);
        feed.changed(8, [(0, b'H'), (12, b'A')].into_iter());
        feed.changed(10, std::iter::once((3, b'S')));
        feed
    }

    #[test]
    fn who_was_there_gets_what_was_missed() {
        const EIGHT: &str =
            "id: 8\nevent: seats\ndata: {\"version\":8,\"changes\":[[0,\"H\"],[12,\"A\"]]}\n\n";
        const TEN: &str =
            "id: 10\nevent: seats\ndata: {\"version\":10,\"changes\":[[3,\"S\"]]}\n\n";
        const NOW: &str = "id: 10\nevent: seats\ndata: {\"version\":10,\"changes\":[]}\n\n";
        const RESET: &str = "id: 10\nevent: reset\ndata: {\"version\":10}\n\n";
        let feed = feed();
        for (last, expected) in [
            (Last::None, NOW.to_owned()),
            (Last::Version(10), NOW.to_owned()),
            (Last::Version(8), TEN.to_owned()),
            (Last::Version(7), EIGHT.to_owned() + TEN),
            // Long ago, of another map, ahead of us.
            (Last::Version(6), RESET.to_owned()),
            (Last::Version(9), RESET.to_owned()),
            (Last::Version(11), RESET.to_owned()),
            (Last::Unreadable, RESET.to_owned()),
        ] {
            assert_eq!(text(&feed.join(last).0), expected, "{last:?}");
        }
    }

    #[test]
    fn streams_hear_what_comes_and_who_is_slow_is_told() {
        let mut feed = feed();
        let (_, mut quick) = feed.join(Last::None);
        let (_, mut slow) = feed.join(Last::None);
        feed.changed(11, std::iter::once((1, b'H')));
        assert!(text(&quick.try_recv().unwrap()).starts_with("id: 11\n"));
        feed.replaced(20);
        assert!(text(&quick.try_recv().unwrap()).contains("event: reset"));
        assert!(text(&feed.join(Last::Version(10)).0).contains("event: reset"));
        for version in 21..300 {
            feed.changed(version, std::iter::empty());
        }
        let lagged = slow.try_recv().unwrap_err();
        assert!(matches!(lagged, broadcast::error::TryRecvError::Lagged(_)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut feed = Feed::new(0);
        for version in 1..=5000 {
            feed.changed(version, (0..version % 100).map(|_| (1, b'H')));
            assert!(feed.kept.len() <= KEPT_MAX && feed.kept_bytes <= KEPT_BYTES_MAX);
            let bytes: usize = feed.kept.iter().map(|change| change.text.len()).sum();
            assert_eq!(bytes, feed.kept_bytes);
        }
        // One that is too large by itself.
        feed.changed(5001, (0..100_000).map(|_| (1, b'H')));
        assert_eq!((feed.kept.len(), feed.kept_bytes), (0, 0));
        assert!(text(&feed.join(Last::Version(5000)).0).contains("event: reset"));
        assert!(text(&feed.join(Last::Version(5001)).0).contains("event: seats"));
    }
}
