//! Where a log is read from, and whether it still has what was applied: the judgements about a
//! cursor, without the server that is asked.
//!
//! A stream that lost its tail gives the lost sequences to other messages. So a sequence alone
//! says nothing: what is at the cursor must have the cursor's time, too.

use super::core::Cursor;
use super::world::Tail;
use onsale_schema::Timestamp;

/// The first message to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first one that there is.
    First,
    /// The first one with this sequence or a later one.
    AtSeq(u64),
    /// The first one with this time or a later one.
    AtTime(Timestamp),
}

/// What the stream has at the cursor's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A message.
    Message {
        /// Its time.
        at: Timestamp,
        /// Whether it is of the cursor's partition.
        is_ours: bool,
    },
    /// None. The stream begins and ends with these sequences.
    Nothing {
        /// The first one that is left.
        first_seq: u64,
        /// The last one that was given.
        last_seq: u64,
    },
}

impl Cursor {
    /// Where to read on.
    #[must_use]
    pub fn next(&self) -> Start {
        if self.seq > 0 {
            Start::AtSeq(self.seq + 1)
        } else if self.incarnation > 0 {
            // What was applied before the loss is not newer than this.
            let after = self.at.micros().saturating_add(1);
            Start::AtTime(Timestamp::from_micros(after))
        } else {
            Start::First
        }
    }

    /// Whether the stream still has what was applied.
    #[must_use]
    pub fn tail(&self, found: Found) -> Tail {
        let intact = match found {
            Found::Message { at, is_ours } => is_ours && at == self.at,
            // Gone by age or limits: it lies before the first that is left, and the stream never
            // went back.
            Found::Nothing {
                first_seq,
                last_seq,
            } => first_seq > self.seq && last_seq >= self.seq,
        };
        if intact { Tail::Intact } else { Tail::Lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(1_000_000);

    fn cursor(incarnation: i32, seq: u64) -> Cursor {
        Cursor {
            incarnation,
            seq,
            at: AT,
            decided_at: AT,
        }
    }

    #[test]
    fn reads_on_behind_the_cursor() {
        assert_eq!(cursor(0, 0).next(), Start::First);
        assert_eq!(cursor(0, 7).next(), Start::AtSeq(8));
        assert_eq!(cursor(1, 7).next(), Start::AtSeq(8));
        assert_eq!(cursor(1, 0).next(), Start::AtTime(Timestamp(1_000_001)));
    }

    #[test]
    fn the_tail_is_intact_if_the_applied_message_is_there_or_gone_by_age() {
        let message = |at, is_ours| Found::Message { at, is_ours };
        let nothing = |first_seq, last_seq| Found::Nothing {
            first_seq,
            last_seq,
        };
        for (found, expected) in [
            (message(AT, true), Tail::Intact),
            (message(AT.plus_ms(1), true), Tail::Lost),
            (message(AT, false), Tail::Lost),
            (nothing(8, 9), Tail::Intact),
            // Emptied by a purge, which moves the first sequence behind the last.
            (nothing(8, 7), Tail::Intact),
            (nothing(7, 6), Tail::Lost),
            (nothing(1, 3), Tail::Lost),
            (nothing(1, 0), Tail::Lost),
        ] {
            assert_eq!(cursor(0, 7).tail(found), expected, "{found:?}");
        }
    }
}
