//! One room as this ingress has it, and what becomes of it by what is heard and read. No I/O, so that
//! every order of broadcasts, losses and snapshots can be tried.
//!
//! What is shown never goes back: a snapshot or a word that is older than it is not taken. But for one
//! case: rows that were restored from a backup are older than what was shown, and true. They are of a new
//! generation, which counts as later whatever its versions are. Where nobody has said that they were
//! restored, the owner tells of the older version again and again, and nobody of the one that is known.

use super::state::{Applied, Room};
use onsale_schema::Timestamp;
use onsale_schema::admission::{Moment, Watermark};
use std::time::Duration;

/// Words of the owner that are kept while a snapshot is on its way; with more it is taken again.
const KEPT_MAX: usize = 1024;

/// When its owner has told of an older version for so long, in milliseconds, and nobody of the one that
/// is known, the rows were restored. An owner that was deposed tells for a lease, at most.
const RESTORED_MS: i64 = 10_000;

/// What was known of a room so long ago is not shown any more, in milliseconds, at least and at most: its
/// owner tells each second, and a takeover takes some.
const SHOWN_MS: (i64, i64) = (5000, 15_000);
/// Between those it is such a part of the time after which somebody counts as silent: before that the
/// clients of an ingress that is cut off have asked again, and were sent to another one. Where the owner can't
/// be told for as long who was heard, nobody may rely on being heard either.
const SHOWN_PARTS: i64 = 6;

/// The room, and what is known about it.
#[derive(Default)]
pub struct Slot {
    room: Option<Room>,
    /// Whether a snapshot is on its way.
    is_loading: bool,
    /// What came meanwhile.
    kept: Vec<Watermark>,
    /// Whether a word was lost, so that the room must be read again.
    is_stale: bool,
    /// Whether somebody is about to.
    is_reloading: bool,
    /// When it was read, or its owner told of it last.
    known_at: Option<Timestamp>,
    /// Since when beats tell of an older version, and of which they told last; none after one of the
    /// version that is known.
    older: Option<(Timestamp, Moment)>,
}

/// What became of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing new, or nothing yet.
    Nothing,
    /// The room has moved on.
    Moved,
    /// Something is missing: the room must be read again, and nobody else is about to.
    Gap,
}

impl Slot {
    /// Takes in what the owner tells.
    pub fn take_in(&mut self, told: &Watermark, now: Timestamp) -> Heard {
        if self.is_loading {
            if self.kept.len() < KEPT_MAX {
                self.kept.push(told.clone());
            } else {
                self.is_stale = true;
            }
            return Heard::Nothing;
        }
        let Some(room) = &mut self.room else {
            return Heard::Nothing;
        };
        let applied = room.take_in(told);
        match applied {
            Applied::Known => {
                if told.is_beat() && told.moment() < room.moment() {
                    self.hear_older(told.moment(), now)
                } else {
                    Heard::Nothing
                }
            }
            Applied::Beat => {
                self.known_at = Some(now);
                // A reload that was given up is made up for here. And restored rows may have come to a
                // version that only by its number is the one that is known.
                let is_doubtful = self.older.take().is_some() || self.is_stale;
                if is_doubtful && self.wants_reload() {
                    Heard::Gap
                } else {
                    Heard::Nothing
                }
            }
            Applied::Moved => {
                self.known_at = Some(now);
                if self.older.take().is_some() && self.wants_reload() {
                    Heard::Gap
                } else {
                    Heard::Moved
                }
            }
            Applied::Gap if self.wants_reload() => Heard::Gap,
            Applied::Gap => Heard::Nothing,
        }
    }

    /// An owner tells of an older version than the one that is known.
    fn hear_older(&mut self, moment: Moment, now: Timestamp) -> Heard {
        let since = self.older.map_or(now, |(since, _)| since);
        self.older = Some((since, moment));
        if self.is_restored(now) && self.wants_reload() {
            Heard::Gap
        } else {
            Heard::Nothing
        }
    }

    fn is_restored(&self, now: Timestamp) -> bool {
        let since = self.older.map(|(since, _)| since);
        since.is_some_and(|since| now.ms_since(since) >= RESTORED_MS)
    }

    /// The room.
    pub fn room(&self) -> Option<&Room> {
        self.room.as_ref()
    }

    /// When it was known how the room is.
    pub fn known_at(&self) -> Option<Timestamp> {
        self.known_at
    }

    /// Whether it is known how the room is now, or nearly.
    pub fn is_current(&self, now: Timestamp) -> bool {
        let (least, _) = SHOWN_MS;
        let known = self.known_at.filter(|_| self.room.is_some());
        known.is_some_and(|at| now.ms_since(at) < self.silence_ms().max(least))
    }

    /// For how long its owner may not have been told who was heard before those who wait are to ask
    /// elsewhere.
    pub fn untold_max(&self) -> Duration {
        Duration::from_millis(self.silence_ms().unsigned_abs())
    }

    fn silence_ms(&self) -> i64 {
        let (least, most) = SHOWN_MS;
        let part = |room: &Room| (room.presence_ms() / SHOWN_PARTS).min(most);
        self.room.as_ref().map_or(least, part)
    }

    /// Whether it must be read again, and nobody else is about to: the caller is.
    fn wants_reload(&mut self) -> bool {
        self.is_stale = true;
        !std::mem::replace(&mut self.is_reloading, true)
    }

    /// Whether who reloads it may stop.
    pub fn is_reloaded(&mut self) -> bool {
        self.is_reloading = self.is_stale;
        !self.is_stale
    }

    /// A snapshot is asked for.
    pub fn begin_load(&mut self) {
        self.is_loading = true;
        self.is_stale = false;
        self.kept.clear();
    }

    /// The snapshot is there, asked for at that time, or none is to be had.
    pub fn end_load(&mut self, snapshot: Option<Room>, asked_at: Timestamp) {
        self.is_loading = false;
        let kept = std::mem::take(&mut self.kept);
        let Some(mut room) = snapshot else {
            self.is_stale = true;
            return;
        };
        match &self.room {
            // Nothing of before it goes on.
            Some(old) if old.generation() < room.generation() => {}
            Some(old) if old.moment() <= room.moment() => room.follows(old),
            Some(_) => {
                let is_behind = |(_, told): (Timestamp, Moment)| room.moment() < told;
                if !self.is_restored(asked_at) || self.older.is_none_or(is_behind) {
                    // Not from where the owners write.
                    self.is_stale = true;
                    return;
                }
            }
            None => {}
        }
        for told in &kept {
            if room.take_in(told) == Applied::Gap {
                self.is_stale = true;
            }
        }
        self.room = Some(room);
        self.older = None;
        self.known_at = self.known_at.max(Some(asked_at));
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Tickets;
    use super::*;
    use onsale_schema::admission::Policy;
    use onsale_schema::draw::Place;
    use onsale_schema::status::QueueMode;
    use onsale_schema::{Generation, ScheduleId};

    fn at(s: i64) -> Timestamp {
        Timestamp::EPOCH.plus_ms(s * 1000)
    }

    /// The beat of a version, whose front is at the same place.
    fn beat(version: i64, at_s: i64) -> Watermark {
        Watermark {
            schedule_id: ScheduleId(uuid::Uuid::nil()),
            from_version: version,
            version,
            at: at(at_s),
            policy: Policy::new(QueueMode::Fifo, at(0)),
            arrivals: 100,
            lobby: None,
            front: Place(u32::try_from(version).unwrap()),
            window: 1000,
            active: 0,
            guests: 0,
            guest_line: None,
            passed: None,
            moved: 0,
            measured_ms: 0,
            is_sale_stopped: false,
            is_cancelled: false,
            generation: Generation::default(),
            changes: Vec::new(),
        }
    }

    fn read(slot: &mut Slot, version: i64, at_s: i64) {
        slot.begin_load();
        let room = Room::new(beat(version, at_s), Tickets::default());
        slot.end_load(Some(room), at(at_s));
    }

    fn version(slot: &Slot) -> i64 {
        slot.room().unwrap().moment().1
    }

    #[test]
    fn restored_rows_are_shown_when_they_are_told_of_for_longer_than_a_deposed_owner_could() {
        let mut slot = Slot::default();
        read(&mut slot, 9, 0);
        for second in 1..=10 {
            assert_eq!(slot.take_in(&beat(5, second), at(second)), Heard::Nothing);
        }
        assert_eq!(slot.known_at(), Some(at(0)), "nobody says that it is so");
        assert_eq!(slot.take_in(&beat(6, 11), at(11)), Heard::Gap);
        // One that is behind even the owner is not taken.
        read(&mut slot, 5, 11);
        assert!(version(&slot) == 9 && !slot.is_reloaded());
        read(&mut slot, 6, 11);
        assert!(version(&slot) == 6 && slot.is_reloaded());
        assert_eq!(slot.take_in(&beat(6, 12), at(12)), Heard::Nothing);
        assert_eq!(slot.known_at(), Some(at(12)));
    }

    /// Whose clients ask four times, a fifth sooner or later, until they count as silent.
    #[test]
    fn an_ingress_that_is_cut_off_says_so_before_anybody_counts_as_silent() {
        for (presence_s, shown_s) in [(15, 5), (30, 5), (60, 10), (90, 15), (3600, 15)] {
            let mut slot = Slot::default();
            assert!(!slot.is_current(at(0)));
            let told = Watermark {
                policy: Policy {
                    presence_ms: presence_s * 1000,
                    ..beat(1, 0).policy
                },
                ..beat(1, 0)
            };
            slot.begin_load();
            slot.end_load(Some(Room::new(told, Tickets::default())), at(0));
            assert!(slot.is_current(at(shown_s - 1)) && !slot.is_current(at(shown_s)));
            // One was not reported any more, another one was told the last that is shown.
            let poll_ms = presence_s.min(240) * 1000 / 4 * 12 / 10;
            assert!(poll_ms + 1000 + shown_s * 1000 + poll_ms <= presence_s * 1000);
            // Or its stream is ended within a second, and opened anew elsewhere.
            let anew_ms = 1000 + i64::from(*crate::events::RETRY_MS.end());
            assert!(poll_ms + 1000 + slot.silence_ms() + anew_ms <= presence_s * 1000);
        }
    }

    #[test]
    fn a_deposed_owner_takes_nothing_back_and_what_is_in_doubt_is_read_again() {
        let mut slot = Slot::default();
        read(&mut slot, 9, 0);
        for second in 1..60 {
            slot.take_in(&beat(5, second), at(second));
            let heard = slot.take_in(&beat(9, second), at(second));
            assert_eq!(heard, Heard::Gap, "whose version is it?");
            read(&mut slot, 5, second);
            assert_eq!(version(&slot), 9, "from a replica");
            read(&mut slot, 9, second);
            assert!(slot.is_reloaded());
        }
    }
}
