//! Which notices go out now: those that were never sent, and those that were sent a while ago and
//! are still open. Pure, so that it can be tested without a clock.
//!
//! Notices that were first sent in one message, a parcel, are sent again in one message with the
//! same id, so that a stream which still has it drops the second one; a stream that lost it takes
//! it. After the server's memory of ids ends, each further period has an id of its own.

use super::system::message_id;
use onsale_schema::{MessageId, NoticeId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// The first wait for a notice to be done before it is sent again.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait: an owner that is away for hours must not find thousands of copies.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longer than the server remembers message ids (two minutes).
const ID_PERIOD: Duration = Duration::from_secs(150);

/// What was sent and is not done.
#[derive(Debug, Default)]
pub struct Parcels {
    of_notice: HashMap<NoticeId, MessageId>,
    parcels: BTreeMap<MessageId, Parcel>,
}

#[derive(Debug)]
struct Parcel {
    /// Of its notices, those that are open.
    open: Vec<NoticeId>,
    first_at: Instant,
    due_at: Instant,
    wait: Duration,
}

impl Parcels {
    /// Forgets every notice that is not `open` any more.
    pub fn keep(&mut self, open: &HashSet<NoticeId>) {
        self.of_notice.retain(|notice, _| open.contains(notice));
        self.parcels.retain(|_, parcel| {
            parcel.open.retain(|notice| open.contains(notice));
            !parcel.open.is_empty()
        });
    }

    /// Whether a notice was sent.
    #[must_use]
    pub fn has(&self, notice: NoticeId) -> bool {
        self.of_notice.contains_key(&notice)
    }

    /// The parcels to send again at `now`, those first that have been due for longest: each with the id
    /// that its message has now.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<(MessageId, MessageId, &[NoticeId])> {
        let due = self.parcels.iter();
        let mut due: Vec<_> = due.filter(|(_, parcel)| parcel.due_at <= now).collect();
        due.sort_by_key(|(id, parcel)| (parcel.due_at, **id));
        let due = due.into_iter();
        due.map(|(id, parcel)| {
            let period = (now - parcel.first_at).as_secs() / ID_PERIOD.as_secs();
            let message = match i64::try_from(period) {
                Ok(0) | Err(_) => *id,
                Ok(period) => message_id([id.0], period),
            };
            (*id, message, &parcel.open[..])
        })
        .collect()
    }

    /// A parcel is on its stream.
    pub fn sent(&mut self, parcel: MessageId, notices: Vec<NoticeId>, now: Instant) {
        if let Some(known) = self.parcels.get_mut(&parcel) {
            known.wait = (known.wait * 2).min(WAIT_MAX);
            known.due_at = now + known.wait;
            return;
        }
        for notice in &notices {
            self.of_notice.insert(*notice, parcel);
        }
        let new = Parcel {
            open: notices,
            first_at: now,
            due_at: now + WAIT_MIN,
            wait: WAIT_MIN,
        };
        self.parcels.insert(parcel, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn sends_again_ever_later_until_done() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let [a, b] = [1, 2].map(|n| NoticeId(Uuid::from_u128(n)));
        let parcel = MessageId(Uuid::from_u128(9));
        let mut parcels = Parcels::default();
        assert!(!parcels.has(a));
        parcels.sent(parcel, vec![a, b], start);
        assert!(parcels.has(a) && parcels.has(b));
        assert!(parcels.due(start).is_empty());
        assert_eq!(parcels.due(at(1)), [(parcel, parcel, &[a, b][..])]);

        // One is done; the rest goes in a message with the same id, later and later.
        parcels.keep(&HashSet::from([b]));
        assert!(!parcels.has(a));
        assert_eq!(parcels.due(at(1)), [(parcel, parcel, &[b][..])]);
        parcels.sent(parcel, vec![b], at(1));
        assert!(parcels.due(at(2)).is_empty());
        assert_eq!(parcels.due(at(3)).len(), 1);

        // When the server has forgotten the id, it is another one, the same for a while.
        let later = |s| parcels.due(at(s))[0].1;
        assert_ne!(later(151), parcel);
        assert_eq!(later(151), later(299));
        assert_ne!(later(151), later(300));

        parcels.keep(&HashSet::new());
        assert!(parcels.due(at(999)).is_empty());
    }

    #[test]
    fn who_waits_longest_is_sent_again_first() {
        let start = Instant::now();
        let mut parcels = Parcels::default();
        let ids = [9, 1, 5].map(|n| (MessageId(Uuid::from_u128(n)), NoticeId(Uuid::from_u128(n))));
        for (ms, (parcel, notice)) in (0..).zip(ids) {
            parcels.sent(parcel, vec![notice], start + Duration::from_millis(ms));
        }
        let due = parcels.due(start + Duration::from_secs(9));
        let due: Vec<_> = due.into_iter().map(|(parcel, _, _)| parcel).collect();
        assert_eq!(due, ids.map(|(parcel, _)| parcel));
    }
}
