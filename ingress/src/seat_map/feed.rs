//! The latest changes of one map, written once for all event streams that follow it.

use super::state::Stamp;
use axum::body::Bytes;
use std::collections::VecDeque;
use std::fmt::Write;
use tokio::sync::broadcast;

/// Changes that are kept for streams that come back.
const KEPT_MAX: usize = 1024;
/// Bytes of all of them.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of what a stream missed that is told when it comes back; the whole map is not much more.
/// Thousands come back at once when a proxy is started again, and each has its own copy.
const MISSED_BYTES_MAX: usize = 16 * 1024;
/// Changes that a stream may be behind; one that is more so is ended.
const QUEUE_MAX: usize = 256;

/// A change as it is sent.
struct Change {
    from: Stamp,
    text: Bytes,
}

/// The latest changes of a map, without a gap.
pub struct Feed {
    /// The map's after the last of them.
    stamp: Stamp,
    kept: VecDeque<Change>,
    kept_bytes: usize,
    streams: broadcast::Sender<Bytes>,
}

impl Feed {
    /// Of a map that is this one now.
    pub fn new(stamp: Stamp) -> Self {
        Self {
            stamp,
            kept: VecDeque::new(),
            kept_bytes: 0,
            streams: broadcast::Sender::new(QUEUE_MAX),
        }
    }

    /// The map has moved on to another version; seats with their new letters.
    pub fn changed(&mut self, stamp: Stamp, seats: impl Iterator<Item = (i32, u8)>) {
        let from = std::mem::replace(&mut self.stamp, stamp);
        let text = seats_event(from, stamp, seats);
        self.kept_bytes += text.len();
        self.kept.push_back(Change {
            from,
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
    pub fn replaced(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.kept.clear();
        self.kept_bytes = 0;
        self.send(reset_event(stamp));
    }

    /// Whether nobody follows.
    pub fn is_alone(&self) -> bool {
        self.streams.receiver_count() == 0
    }

    fn send(&self, text: Bytes) {
        // Nobody may be there.
        drop(self.streams.send(text));
    }

    /// What a stream begins with, and what follows. One that says how far it was gets what it
    /// missed, or is told to begin anew when that is too much or not known any more; any other learns
    /// from which version on it hears of changes.
    pub fn join(&self, last: Last) -> (Bytes, broadcast::Receiver<Bytes>) {
        let missed = match last {
            Last::None => Some(self.kept.len()),
            Last::Map(stamp) if stamp == self.stamp => Some(self.kept.len()),
            Last::Map(stamp) => self.kept.iter().position(|change| change.from == stamp),
            Last::Unreadable => None,
        };
        let texts = |from: usize| self.kept.range(from..).map(|one| &*one.text);
        let first = match missed {
            Some(from) if from == self.kept.len() => {
                seats_event(self.stamp, self.stamp, std::iter::empty())
            }
            Some(from) if texts(from).map(<[u8]>::len).sum::<usize>() <= MISSED_BYTES_MAX => {
                texts(from).collect::<Vec<_>>().concat().into()
            }
            Some(_) | None => reset_event(self.stamp),
        };
        (first, self.streams.subscribe())
    }
}

/// How far a stream was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is new.
    None,
    /// It had this map.
    Map(Stamp),
    /// It says something else.
    Unreadable,
}

fn seats_event(from: Stamp, stamp: Stamp, seats: impl Iterator<Item = (i32, u8)>) -> Bytes {
    let (from, version) = (from.version, stamp.version);
    let mut text = format!(
        "id: {stamp}\nevent: seats\ndata: {{\"from\":{from},\"version\":{version},\"changes\":["
    );
    for (at, (seat, letter)) in seats.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(text, "{comma}[{seat},\"{}\"]", char::from(letter))
            .expect("writing to a string can't fail");
    }
    text.push_str("]}\n\n");
    text.into()
}

fn reset_event(stamp: Stamp) -> Bytes {
    let version = stamp.version;
    format!("id: {stamp}\nevent: reset\ndata: {{\"version\":{version}}}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    fn at(version: i64) -> Stamp {
        Stamp {
            layout_no: 0,
            version,
        }
    }

    fn feed() -> Feed {
        let mut feed = Feed::new(at(7));
        feed.changed(at(8), [(0, b'H'), (12, b'A')].into_iter());
        feed.changed(at(10), std::iter::once((3, b'S')));
        feed
    }

    #[test]
    fn who_was_there_gets_what_was_missed() {
        const EIGHT: &str = "id: 8\nevent: seats\n\
             data: {\"from\":7,\"version\":8,\"changes\":[[0,\"H\"],[12,\"A\"]]}\n\n";
        const TEN: &str = "id: 10\nevent: seats\n\
             data: {\"from\":8,\"version\":10,\"changes\":[[3,\"S\"]]}\n\n";
        const NOW: &str = "id: 10\nevent: seats\n\
             data: {\"from\":10,\"version\":10,\"changes\":[]}\n\n";
        const RESET: &str = "id: 10\nevent: reset\ndata: {\"version\":10}\n\n";
        let feed = feed();
        for (last, expected) in [
            (Last::None, NOW.to_owned()),
            (Last::Map(at(10)), NOW.to_owned()),
            (Last::Map(at(8)), TEN.to_owned()),
            (Last::Map(at(7)), EIGHT.to_owned() + TEN),
            // Long ago, of another map, ahead of us.
            (Last::Map(at(6)), RESET.to_owned()),
            (Last::Map(at(9)), RESET.to_owned()),
            (Last::Map(at(11)), RESET.to_owned()),
            (Last::Unreadable, RESET.to_owned()),
            // Of a layout that was replaced since then, or not yet here.
            (
                Last::Map(Stamp {
                    layout_no: 1,
                    ..at(10)
                }),
                RESET.to_owned(),
            ),
        ] {
            assert_eq!(text(&feed.join(last).0), expected, "{last:?}");
        }
    }

    #[test]
    fn streams_hear_what_comes_and_who_is_slow_is_told() {
        let mut feed = feed();
        let (_, mut quick) = feed.join(Last::None);
        let (_, mut slow) = feed.join(Last::None);
        feed.changed(at(11), std::iter::once((1, b'H')));
        assert!(text(&quick.try_recv().unwrap()).starts_with("id: 11\n"));
        feed.replaced(at(20));
        assert!(text(&quick.try_recv().unwrap()).contains("event: reset"));
        assert!(text(&feed.join(Last::Map(at(10))).0).contains("event: reset"));
        for version in 21..300 {
            feed.changed(at(version), std::iter::empty());
        }
        let lagged = slow.try_recv().unwrap_err();
        assert!(matches!(lagged, broadcast::error::TryRecvError::Lagged(_)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut feed = Feed::new(at(0));
        for version in 1..=5000 {
            feed.changed(at(version), (0..version % 100).map(|_| (1, b'H')));
            assert!(feed.kept.len() <= KEPT_MAX && feed.kept_bytes <= KEPT_BYTES_MAX);
            let bytes: usize = feed.kept.iter().map(|change| change.text.len()).sum();
            assert_eq!(bytes, feed.kept_bytes);
        }
        // Much was missed, and little.
        let oldest = feed.kept.front().expect("some").from;
        assert!(text(&feed.join(Last::Map(oldest)).0).contains("event: reset"));
        let (missed, _) = feed.join(Last::Map(at(4990)));
        assert_eq!(text(&missed).matches("event: seats").count(), 10);
        assert!(missed.len() <= MISSED_BYTES_MAX);
        // One that is too large by itself.
        feed.changed(at(5001), (0..100_000).map(|_| (1, b'H')));
        assert_eq!((feed.kept.len(), feed.kept_bytes), (0, 0));
        assert!(text(&feed.join(Last::Map(at(5000))).0).contains("event: reset"));
        assert!(text(&feed.join(Last::Map(at(5001))).0).contains("event: seats"));
    }
}
