//! One room as this ingress has it, and what becomes of it by what is heard and read. No I/O, so that
//! every order of broadcasts, losses and snapshots can be tried.
//!
//! What is shown never goes back: a snapshot or a word that is older than it is not taken.

use super::state::{Applied, Room};
use onsale_schema::Timestamp;
use onsale_schema::admission::Watermark;

/// Words of the owner that are kept while a snapshot is on its way; with more it is taken again.
const KEPT_MAX: usize = 1024;

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
            Applied::Known => Heard::Nothing,
            Applied::Beat => {
                self.known_at = Some(now);
                // A reload that was given up is made up for here.
                if self.is_stale && self.wants_reload() {
                    Heard::Gap
                } else {
                    Heard::Nothing
                }
            }
            Applied::Moved => {
                self.known_at = Some(now);
                Heard::Moved
            }
            Applied::Gap if self.wants_reload() => Heard::Gap,
            Applied::Gap => Heard::Nothing,
        }
    }

    /// The room.
    pub fn room(&self) -> Option<&Room> {
        self.room.as_ref()
    }

    /// When it was known how the room is.
    pub fn known_at(&self) -> Option<Timestamp> {
        self.known_at
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
        if let Some(old) = &self.room {
            if old.version() > room.version() {
                // Not from where the owners write, or from before a restore.
                self.is_stale = true;
                return;
            }
            room.follows(old);
        }
        for told in &kept {
            if room.take_in(told) == Applied::Gap {
                self.is_stale = true;
            }
        }
        self.room = Some(room);
        self.known_at = self.known_at.max(Some(asked_at));
    }
}
