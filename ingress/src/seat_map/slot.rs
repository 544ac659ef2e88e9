//! One schedule's map as this ingress has it, and what becomes of it by what is heard and read. No
//! I/O, so that every order of broadcasts, losses and snapshots can be tried.
//!
//! What is shown never goes back: a snapshot that is older than it is not taken.

use super::feed::{Feed, Last};
use super::state::{Applied, Map, Stamp, letters};
use axum::body::Bytes;
use onsale_schema::Timestamp;
use onsale_schema::seats::MapChange;
use tokio::sync::broadcast::Receiver;

/// Changes that are kept while a snapshot is on its way; with more it is taken again.
const KEPT_CHANGES_MAX: usize = 4096;

/// The map, and what is known about it.
#[derive(Default)]
pub struct Slot {
    map: Option<Map>,
    /// From the first event stream on.
    feed: Option<Feed>,
    /// Whether a snapshot is on its way.
    is_loading: bool,
    /// What came meanwhile.
    kept: Vec<MapChange>,
    /// Whether a change was lost, so that the map must be loaded again.
    is_stale: bool,
    /// Whether somebody is about to.
    is_reloading: bool,
    /// What Postgres had at the last check, if that is not here yet.
    awaited: Option<Stamp>,
    /// The last moment of which it is known that all that was true then is shown.
    whole_at: Option<Timestamp>,
    /// Whether somebody looked since the last sweep.
    is_used: bool,
}

/// What became of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It changed nothing yet.
    Nothing,
    /// It is shown now.
    Shown,
    /// Something is missing: the map must be loaded again, and nobody else is about to.
    Gap,
}

impl Slot {
    /// Takes in a change.
    pub fn take_in(&mut self, change: &MapChange) -> Heard {
        if self.is_loading {
            if self.kept.len() < KEPT_CHANGES_MAX {
                self.kept.push(change.clone());
            } else {
                self.is_stale = true;
            }
            return Heard::Nothing;
        }
        let Some(map) = &mut self.map else {
            return Heard::Nothing;
        };
        let before = map.stamp();
        let applied = map.apply(change);
        let after = map.stamp();
        match applied {
            Applied::Gap if self.wants_reload() => Heard::Gap,
            Applied::Gap => Heard::Nothing,
            Applied::Done if after == before => Heard::Nothing,
            Applied::Done => {
                if let Some(feed) = &mut self.feed {
                    feed.changed(after, letters(change));
                }
                Heard::Shown
            }
        }
    }

    /// Compares with what Postgres said the map is, asked at that time. A change that is on its way
    /// is not missing: it is when it has not come by the next check.
    pub fn check(&mut self, stamp: Stamp, asked_at: Timestamp) -> Heard {
        let Some(map) = &self.map else {
            return Heard::Nothing;
        };
        let shown = map.stamp();
        let is_missing = if stamp <= shown {
            self.awaited = None;
            self.whole_at = self.whole_at.max(Some(asked_at));
            false
        } else {
            self.awaited
                .replace(stamp)
                .is_some_and(|before| before > shown)
        };
        // A load that was given up, or ended with a gap, is made up for here.
        let is_behind = is_missing || self.is_stale;
        if is_behind && !self.is_loading && self.wants_reload() {
            Heard::Gap
        } else {
            Heard::Nothing
        }
    }

    /// The map.
    pub fn map(&self) -> Option<&Map> {
        self.map.as_ref()
    }

    /// The map, for who shows it.
    pub fn look(&mut self) -> Option<&mut Map> {
        self.is_used = true;
        self.map.as_mut()
    }

    /// Whether there is a map whose layout is not older.
    pub fn is_since(&self, layout_no: i64) -> bool {
        let map = self.map.as_ref();
        map.is_some_and(|map| map.stamp().layout_no >= layout_no)
    }

    /// When it was known to show all that was true.
    pub fn whole_at(&self) -> Option<Timestamp> {
        self.whole_at
    }

    /// Whether it must be loaded again, and nobody else is about to: the caller is.
    pub fn wants_reload(&mut self) -> bool {
        self.is_stale = true;
        !std::mem::replace(&mut self.is_reloading, true)
    }

    /// Whether who reloads it may stop.
    pub fn is_reloaded(&mut self) -> bool {
        self.is_reloading = self.is_stale;
        !self.is_stale
    }

    /// Whether nobody has looked since it was asked last, and nobody follows.
    pub fn is_unused(&mut self) -> bool {
        let is_used = std::mem::take(&mut self.is_used);
        !is_used && !self.is_loading && self.feed.as_ref().is_none_or(Feed::is_alone)
    }

    /// A snapshot is asked for.
    pub fn begin_load(&mut self) {
        self.is_loading = true;
        self.is_stale = false;
        self.kept.clear();
    }

    /// The snapshot is there, asked for at that time, or none is to be had. If the map that was shown
    /// moved on by it: since when that one was not known to be whole.
    pub fn end_load(&mut self, snapshot: Option<Map>, asked_at: Timestamp) -> Option<Timestamp> {
        self.is_loading = false;
        let kept = std::mem::take(&mut self.kept);
        let Some(mut map) = snapshot else {
            self.is_stale = true;
            return None;
        };
        for change in &kept {
            if map.apply(change) == Applied::Gap {
                self.is_stale = true;
            }
        }
        let old = self.map.as_ref();
        let shown = old.map(Map::stamp);
        if shown > Some(map.stamp()) {
            // Not from where the owners write, or from before a restore.
            self.is_stale = true;
            return None;
        }
        if let Some(old) = old {
            map.follows(old);
        }
        if let Some((feed, old)) = self.feed.as_mut().zip(old)
            && old.stamp() != map.stamp()
        {
            // Streams go on as if nothing had been lost.
            match old.difference(&map) {
                Some(seats) => feed.changed(map.stamp(), seats),
                None => feed.replaced(map.stamp()),
            }
        }
        let has_moved = shown.is_some_and(|shown| shown != map.stamp());
        self.map = Some(map);
        self.awaited = None;
        let whole_before = self.whole_at.replace(asked_at);
        whole_before.filter(|_| has_moved)
    }

    /// A stream begins; none while there is no map.
    pub fn join(&mut self, last: Last) -> Option<(Bytes, Receiver<Bytes>)> {
        self.is_used = true;
        let stamp = self.map.as_ref()?.stamp();
        let feed = self.feed.get_or_insert_with(|| Feed::new(stamp));
        Some(feed.join(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::status::ClaimState;
    use onsale_schema::{ScheduleId, SeatNo};
    use uuid::Uuid;

    const THEN: Timestamp = Timestamp::EPOCH;

    fn change(from_version: i64, version: i64, seat: i32) -> MapChange {
        MapChange {
            schedule_id: ScheduleId(Uuid::nil()),
            from_version,
            version,
            at: THEN,
            changes: vec![(SeatNo(seat), Some(ClaimState::Held))],
            layout_no: None,
        }
    }

    fn stamp(version: i64) -> Stamp {
        Stamp {
            layout_no: 0,
            version,
        }
    }

    fn map(version: i64) -> Map {
        Map::new(0, version, 4, std::iter::empty())
    }

    fn loaded(map: Map) -> Slot {
        let mut slot = Slot::default();
        slot.begin_load();
        slot.end_load(Some(map), THEN);
        slot
    }

    fn text(slot: &mut Slot) -> String {
        let json = slot.look().unwrap().rendered().form(false).1;
        String::from_utf8(json.to_vec()).unwrap()
    }

    #[test]
    fn what_comes_during_a_load_is_applied_after_it() {
        let mut slot = Slot::default();
        let nobody_looks = slot.take_in(&change(0, 1, 0));
        assert_eq!(nobody_looks, Heard::Nothing);
        slot.begin_load();
        for version in 4..7 {
            let seat = i32::try_from(version - 4).unwrap();
            let kept = slot.take_in(&change(version, version + 1, seat));
            assert_eq!(kept, Heard::Nothing);
        }
        // The snapshot has seen the first of them.
        slot.end_load(Some(map(5)), THEN);
        assert!(!slot.is_stale);
        assert_eq!(
            text(&mut slot),
            r#"{"version":7,"remaining":2,"seats":"AHHA"}"#
        );
    }

    #[test]
    fn a_gap_asks_for_one_reload() {
        let mut slot = loaded(map(5));
        assert_eq!(slot.take_in(&change(5, 6, 0)), Heard::Shown);
        assert_eq!(
            slot.take_in(&change(5, 6, 0)),
            Heard::Nothing,
            "it comes twice"
        );
        assert_eq!(slot.take_in(&change(7, 8, 1)), Heard::Gap, "one was lost");
        let somebody_is_about_to = slot.take_in(&change(8, 9, 2));
        assert_eq!(somebody_is_about_to, Heard::Nothing);
        assert_eq!(
            text(&mut slot),
            r#"{"version":6,"remaining":3,"seats":"HAAA"}"#
        );
        slot.begin_load();
        slot.take_in(&change(9, 10, 3));
        slot.end_load(Some(map(9)), THEN);
        assert!(slot.is_reloaded());
        assert_eq!(
            text(&mut slot),
            r#"{"version":10,"remaining":3,"seats":"AAAH"}"#
        );
    }

    #[test]
    fn what_was_never_told_is_noticed_by_the_second_check() {
        let at = |s: i64| THEN.plus_ms(s * 1000);
        let mut slot = loaded(map(5));
        assert_eq!(slot.check(stamp(5), at(1)), Heard::Nothing);
        assert_eq!(slot.whole_at(), Some(at(1)));
        let on_its_way = slot.check(stamp(6), at(2));
        assert_eq!(on_its_way, Heard::Nothing);
        assert_eq!(slot.take_in(&change(5, 6, 0)), Heard::Shown);
        assert_eq!(slot.check(stamp(7), at(3)), Heard::Nothing);
        assert_eq!(slot.check(stamp(8), at(4)), Heard::Gap);
        assert_eq!(slot.check(stamp(8), at(5)), Heard::Nothing, "once");
        assert_eq!(slot.whole_at(), Some(at(1)));
        slot.begin_load();
        let since = slot.end_load(Some(map(8)), at(6));
        assert_eq!(since, Some(at(1)), "so long it may have been missing");
        assert!(slot.is_reloaded());
        // What was read before the last change came says nothing against it.
        assert_eq!(slot.take_in(&change(8, 9, 0)), Heard::Shown);
        assert_eq!(slot.check(stamp(8), at(7)), Heard::Nothing);
        assert_eq!(slot.whole_at(), Some(at(7)));
    }

    #[test]
    fn an_older_snapshot_is_not_shown() {
        let mut slot = loaded(Map::new(0, 7, 4, [(0, b'H')].into_iter()));
        let shown = text(&mut slot);
        let (_, mut changes) = slot.join(Last::None).unwrap();
        for older in [map(6), Map::new(-1, 9, 4, std::iter::empty())] {
            assert!(slot.wants_reload());
            slot.begin_load();
            slot.end_load(Some(older), THEN);
            assert_eq!(text(&mut slot), shown);
            assert!(changes.try_recv().is_err());
            assert!(!slot.is_reloaded(), "it is tried again");
            slot.begin_load();
            slot.end_load(Some(map(7)), THEN);
            assert!(slot.is_reloaded());
            slot = loaded(Map::new(0, 7, 4, [(0, b'H')].into_iter()));
        }
    }

    #[test]
    fn streams_go_on_over_a_lost_change() {
        let mut slot = Slot::default();
        assert!(slot.join(Last::None).is_none());
        slot.begin_load();
        slot.end_load(Some(map(5)), THEN);
        let (_, mut changes) = slot.join(Last::Map(stamp(5))).unwrap();
        let mut next = || String::from_utf8(changes.try_recv().unwrap().to_vec()).unwrap();
        slot.take_in(&change(5, 5, 0));
        slot.take_in(&change(5, 6, 0));
        assert!(next().contains(r#"{"from":5,"version":6,"changes":[[0,"H"]]}"#));
        assert_eq!(slot.take_in(&change(7, 8, 1)), Heard::Gap);
        slot.begin_load();
        slot.take_in(&change(8, 9, 2));
        let lost = Map::new(0, 8, 4, [(1, b'H')].into_iter());
        slot.end_load(Some(lost), THEN);
        assert!(next().contains(r#"{"from":6,"version":9,"changes":[[0,"A"],[1,"H"],[2,"H"]]}"#));
        let (first, _) = slot.join(Last::Map(stamp(6))).unwrap();
        assert!(first.starts_with(b"id: 9\nevent: seats\n"));
        // Read again, and nothing had been lost.
        slot.begin_load();
        slot.end_load(Some(Map::new(0, 9, 4, std::iter::empty())), THEN);
        // Another layout.
        slot.begin_load();
        slot.end_load(Some(Map::new(0, 10, 3, std::iter::empty())), THEN);
        assert!(next().contains("event: reset"));
        // One of as many seats, of which nothing was decided yet.
        slot.begin_load();
        slot.end_load(Some(Map::new(1, 10, 3, std::iter::empty())), THEN);
        assert!(next().starts_with("id: 10.1\nevent: reset\ndata: {\"version\":10}"));
        let (first, _) = slot.join(Last::Map(stamp(10))).unwrap();
        assert!(first.starts_with(b"id: 10.1\nevent: reset\n"));
    }

    #[test]
    fn a_failed_or_overrun_load_must_be_repeated() {
        let mut slot = Slot::default();
        slot.begin_load();
        slot.end_load(None, THEN);
        assert!(slot.is_stale && slot.map.is_none());
        slot.begin_load();
        for version in 0..i64::try_from(KEPT_CHANGES_MAX).unwrap() + 1 {
            slot.take_in(&change(version, version + 1, 0));
        }
        slot.end_load(Some(map(0)), THEN);
        assert!(slot.is_stale);
        let shown = slot.look().unwrap().stamp();
        assert_eq!(slot.check(shown, THEN), Heard::Gap, "if nobody else does");
    }

    #[test]
    fn what_nobody_looks_at_is_given_up() {
        let mut slot = loaded(map(1));
        assert!(slot.is_unused());
        slot.look();
        assert!(!slot.is_unused() && slot.is_unused());
        let (_, changes) = slot.join(Last::None).unwrap();
        assert!(!slot.is_unused() && !slot.is_unused());
        drop(changes);
        assert!(slot.is_unused());
        slot.begin_load();
        assert!(!slot.is_unused());
    }
}
