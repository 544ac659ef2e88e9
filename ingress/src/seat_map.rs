//! Seat maps, from memory: the state of every seat of the schedules that somebody looks at.
//!
//! The order is subscribe, snapshot, follow: what is broadcast while the snapshot is on its way is
//! kept and applied after it, by version. A gap in the versions means that a change was lost; then
//! the map is read again in the background, and meanwhile the old one is shown. A map only shows:
//! it decides nothing.

mod feed;
mod state;
mod store;

use crate::app::App;
use crate::etag::IfNoneMatch;
use crate::extract::Id;
use crate::problem::{Code, Problem};
use async_nats::Subscriber;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use feed::Feed;
pub use feed::Last;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use onsale_platform::db::Pool;
use onsale_schema::ScheduleId;
use onsale_schema::message::decode;
use onsale_schema::seats::{MapBroadcast, MapChange};
use state::{Applied, Map, Rendered, letters};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;

/// Changes that are kept while a snapshot is on its way; with more it is taken again.
const KEPT_CHANGES_MAX: usize = 4096;
/// How often the connection is looked at: after a reconnect, changes may be missing.
const CONNECTION_CHECK: Duration = Duration::from_secs(1);
/// How long a reload that failed waits before it is tried again.
const RELOAD_PAUSE: Duration = Duration::from_millis(250);

/// The maps that are in use. Cheap to clone.
#[derive(Clone)]
pub struct SeatMaps {
    pool: Pool,
    entries: Arc<RwLock<HashMap<ScheduleId, Arc<Entry>>>>,
}

/// One schedule's map, from the first time that somebody asked for it.
struct Entry {
    schedule: ScheduleId,
    slot: Mutex<Slot>,
    /// Held by the one that loads.
    load: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Slot {
    map: Option<Map>,
    /// From the first event stream on.
    feed: Option<Feed>,
    /// Whether a snapshot is on its way.
    loading: bool,
    /// What came meanwhile.
    kept: Vec<MapChange>,
    /// Whether a change was lost, so that the map must be loaded again.
    stale: bool,
    /// Whether somebody is about to.
    reloading: bool,
}

impl Slot {
    /// Takes in a change; tells whether the map must be loaded again, and nobody is about to.
    fn take_in(&mut self, change: &MapChange) -> bool {
        if self.loading {
            if self.kept.len() < KEPT_CHANGES_MAX {
                self.kept.push(change.clone());
            } else {
                self.stale = true;
            }
            return false;
        }
        let Some(map) = &mut self.map else {
            return false;
        };
        let before = map.version();
        match map.apply(change) {
            Applied::Gap => self.wants_reload(),
            Applied::Done => {
                if map.version() != before
                    && let Some(feed) = &mut self.feed
                {
                    feed.changed(map.version(), letters(change));
                }
                false
            }
        }
    }

    /// Whether there is a map whose layout is not older.
    fn is_since(&self, layout_no: i64) -> bool {
        let map = self.map.as_ref();
        map.is_some_and(|map| map.layout_no() >= layout_no)
    }

    fn wants_reload(&mut self) -> bool {
        self.stale = true;
        !std::mem::replace(&mut self.reloading, true)
    }

    fn begin_load(&mut self) {
        self.loading = true;
        self.stale = false;
        self.kept.clear();
    }

    fn end_load(&mut self, snapshot: Option<Map>) {
        self.loading = false;
        let kept = std::mem::take(&mut self.kept);
        let Some(mut map) = snapshot else {
            self.stale = true;
            return;
        };
        for change in &kept {
            if map.apply(change) == Applied::Gap {
                self.stale = true;
            }
        }
        if let Some((feed, old)) = self.feed.as_mut().zip(self.map.as_ref())
            && (old.layout_no(), old.version()) != (map.layout_no(), map.version())
        {
            // Streams go on as if nothing had been lost.
            match old.difference(&map) {
                Some(seats) => feed.changed(map.version(), seats),
                None => feed.replaced(map.version()),
            }
        }
        self.map = Some(map);
    }

    /// A stream begins; none while there is no map.
    fn join(&mut self, last: Last) -> Option<(Bytes, Receiver<Bytes>)> {
        let version = self.map.as_ref()?.version();
        let feed = self.feed.get_or_insert_with(|| Feed::new(version));
        Some(feed.join(last))
    }
}

impl Entry {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeatMaps {
    /// Maps read through `pool`; [`Self::run`] keeps them up to date.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            entries: Arc::default(),
        }
    }

    /// The document of a schedule's map, by a layout that is not older than `layout_no`.
    async fn rendered(&self, schedule: ScheduleId, layout_no: i64) -> Result<Rendered, Problem> {
        self.with(schedule, layout_no, Map::rendered).await
    }

    /// Whether there is a map, of a layout that is not replaced any more.
    fn is_settled(&self, schedule: ScheduleId) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&schedule);
        entry.is_some_and(|entry| entry.slot().map.as_ref().is_some_and(Map::is_settled))
    }

    /// How many seats of a schedule are available, by a layout that is not older than `layout_no`.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn remaining(&self, schedule: ScheduleId, layout_no: i64) -> Result<u32, Problem> {
        self.with(schedule, layout_no, |map| map.remaining()).await
    }

    /// What an event stream of a schedule begins with, and what follows; by a layout that is not
    /// older than `layout_no`.
    ///
    /// # Errors
    /// `not-found`, `dependency-unavailable`.
    pub async fn join(
        &self,
        schedule: ScheduleId,
        layout_no: i64,
        last: Last,
    ) -> Result<(Bytes, Receiver<Bytes>), Problem> {
        self.with_slot(schedule, layout_no, |slot| slot.join(last))
            .await
    }

    async fn with<T>(
        &self,
        schedule: ScheduleId,
        layout_no: i64,
        look: impl Fn(&mut Map) -> T,
    ) -> Result<T, Problem> {
        self.with_slot(schedule, layout_no, |slot| slot.map.as_mut().map(&look))
            .await
    }

    /// Looks at a map that is there, by a layout that is not older than `layout_no`; loads it first
    /// if need be.
    async fn with_slot<T>(
        &self,
        schedule: ScheduleId,
        layout_no: i64,
        look: impl Fn(&mut Slot) -> Option<T>,
    ) -> Result<T, Problem> {
        let look_since = |slot: &mut Slot| slot.is_since(layout_no).then(|| look(slot)).flatten();
        let entry = self.entry(schedule);
        if let Some(seen) = look_since(&mut entry.slot()) {
            return Ok(seen);
        }
        let _turn = entry.load.lock().await;
        if let Some(seen) = look_since(&mut entry.slot()) {
            return Ok(seen);
        }
        self.load(&entry).await?;
        let seen = look(&mut entry.slot());
        seen.ok_or_else(Problem::internal)
    }

    /// The entry is there before its snapshot is taken, so that changes are kept for it.
    fn entry(&self, schedule: ScheduleId) -> Arc<Entry> {
        let known = self
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&schedule)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            let entry = all.entry(schedule).or_insert_with(|| {
                Arc::new(Entry {
                    schedule,
                    slot: Mutex::default(),
                    load: tokio::sync::Mutex::default(),
                })
            });
            Arc::clone(entry)
        })
    }

    /// Loads a map; the caller has the turn.
    async fn load(&self, entry: &Entry) -> Result<(), Problem> {
        entry.slot().begin_load();
        let result = store::snapshot(&self.pool, entry.schedule).await;
        let (map, outcome) = match result {
            Ok(map) => (Some(map), Ok(())),
            Err(problem) => (None, Err(problem)),
        };
        let mut slot = entry.slot();
        slot.end_load(map);
        if slot.map.is_none() {
            drop(slot);
            // It may not exist at all; whoever asks next begins anew.
            self.entries
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&entry.schedule);
        }
        outcome
    }

    /// Loads a map again and again until it has no gap.
    async fn reload(&self, entry: Arc<Entry>) {
        let turn = entry.load.lock().await;
        while entry.slot().stale {
            if self.load(&entry).await.is_err() {
                tokio::time::sleep(RELOAD_PAUSE).await;
            }
        }
        entry.slot().reloading = false;
        drop(turn);
    }

    /// Follows what the owners broadcast, until `stop` or the end of the subscription.
    pub async fn run(
        &self,
        mut broadcasts: Subscriber,
        client: async_nats::Client,
        stop: CancellationToken,
    ) {
        let statistics = client.statistics();
        let mut connects = statistics.connects.load(Ordering::Relaxed);
        let mut check = tokio::time::interval(CONNECTION_CHECK);
        let mut reloads = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                message = broadcasts.next() => {
                    let Some(message) = message else { return };
                    reloads.extend(self.take_in(&message.payload).map(|entry| self.reload(entry)));
                }
                Some(()) = reloads.next(), if !reloads.is_empty() => {}
                _ = check.tick() => {
                    let now = statistics.connects.load(Ordering::Relaxed);
                    if std::mem::replace(&mut connects, now) != now {
                        let all = self.all_stale();
                        reloads.extend(all.into_iter().map(|entry| self.reload(entry)));
                    }
                }
            }
        }
    }

    /// Takes in a broadcast; tells which maps must be loaded again.
    fn take_in(&self, payload: &[u8]) -> impl Iterator<Item = Arc<Entry>> + use<> {
        let mut gaps = Vec::new();
        match decode::<MapBroadcast>(payload) {
            Ok(broadcast) => {
                let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
                for change in &broadcast.maps {
                    if let Some(entry) = entries.get(&change.schedule_id)
                        && entry.slot().take_in(change)
                    {
                        gaps.push(Arc::clone(entry));
                    }
                }
            }
            Err(error) => tracing::error!(%error, "a map change could not be read"),
        }
        gaps.into_iter()
    }

    fn all_stale(&self) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries
            .values()
            .filter(|entry| entry.slot().wants_reload())
            .cloned()
            .collect()
    }
}

/// Which seats of a date are free
///
/// From memory, and so a moment old; a hold decides by what is true. Ask again with
/// `If-None-Match`.
#[utoipa::path(get, path = "/schedules/{scheduleId}/seats", operation_id = "getSeats",
    tag = "Catalogue",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), IfNoneMatch),
    responses((status = 200, description = "The seat map", body = state::View)))]
pub async fn get(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let layout_no = layout_no(&app, schedule).await?;
    let Rendered { etag, json } = app.seat_maps.rendered(schedule, layout_no).await?;
    let unchanged = crate::etag::matches(&headers, &etag);
    let caching = [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let content = [(header::CONTENT_TYPE, crate::answer::JSON)];
    Ok((caching, content, json).into_response())
}

/// The oldest layout whose map may be shown.
pub(crate) async fn layout_no(app: &App, schedule: ScheduleId) -> Result<i64, Problem> {
    if app.seat_maps.is_settled(schedule) {
        return Ok(0);
    }
    match app.catalogue.schedule(schedule).await {
        Ok(row) => Ok(row.layout_no),
        // What is in memory is better than nothing.
        Err(problem) if problem.code() == Code::DependencyUnavailable => Ok(0),
        Err(problem) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::status::ClaimState;
    use onsale_schema::{SeatNo, Timestamp};
    use uuid::Uuid;

    fn change(from_version: i64, version: i64, seat: i32) -> MapChange {
        MapChange {
            schedule_id: ScheduleId(Uuid::nil()),
            from_version,
            version,
            at: Timestamp::EPOCH,
            changes: vec![(SeatNo(seat), Some(ClaimState::Held))],
            layout_no: None,
        }
    }

    fn map(version: i64) -> Map {
        Map::new(0, version, 4, std::iter::empty())
    }

    fn text(slot: &mut Slot) -> String {
        let json = slot.map.as_mut().unwrap().rendered().json;
        String::from_utf8(json.to_vec()).unwrap()
    }

    #[test]
    fn what_comes_during_a_load_is_applied_after_it() {
        let mut slot = Slot::default();
        assert!(!slot.take_in(&change(0, 1, 0)), "nobody looks yet");
        slot.begin_load();
        for version in 4..7 {
            let seat = i32::try_from(version - 4).unwrap();
            assert!(!slot.take_in(&change(version, version + 1, seat)));
        }
        // The snapshot has seen the first of them.
        slot.end_load(Some(map(5)));
        assert!(!slot.stale);
        assert_eq!(
            text(&mut slot),
            r#"{"version":7,"remaining":2,"seats":"AHHA"}"#
        );
    }

    #[test]
    fn a_gap_asks_for_one_reload() {
        let mut slot = Slot::default();
        slot.begin_load();
        slot.end_load(Some(map(5)));
        assert!(!slot.take_in(&change(5, 6, 0)));
        assert!(slot.take_in(&change(7, 8, 1)), "one was lost");
        assert!(!slot.take_in(&change(8, 9, 2)), "somebody is about to");
        assert_eq!(
            text(&mut slot),
            r#"{"version":6,"remaining":3,"seats":"HAAA"}"#
        );
        slot.begin_load();
        slot.take_in(&change(9, 10, 3));
        slot.end_load(Some(map(9)));
        assert!(!slot.stale);
        assert_eq!(
            text(&mut slot),
            r#"{"version":10,"remaining":3,"seats":"AAAH"}"#
        );
    }

    #[test]
    fn streams_go_on_over_a_lost_change() {
        let mut slot = Slot::default();
        assert!(slot.join(Last::None).is_none());
        slot.begin_load();
        slot.end_load(Some(map(5)));
        let (_, mut changes) = slot.join(Last::Version(5)).unwrap();
        let mut next = || String::from_utf8(changes.try_recv().unwrap().to_vec()).unwrap();
        slot.take_in(&change(5, 5, 0));
        slot.take_in(&change(5, 6, 0));
        assert!(next().contains(r#"{"version":6,"changes":[[0,"H"]]}"#));
        assert!(slot.take_in(&change(7, 8, 1)));
        slot.begin_load();
        slot.take_in(&change(8, 9, 2));
        slot.end_load(Some(Map::new(0, 8, 4, [(1, b'H')].into_iter())));
        assert!(next().contains(r#"{"version":9,"changes":[[0,"A"],[1,"H"],[2,"H"]]}"#));
        let (first, _) = slot.join(Last::Version(6)).unwrap();
        assert!(first.starts_with(b"id: 9\nevent: seats\n"));
        // Read again, and nothing had been lost.
        slot.begin_load();
        slot.end_load(Some(Map::new(0, 9, 4, std::iter::empty())));
        // Another layout.
        slot.begin_load();
        slot.end_load(Some(Map::new(0, 10, 3, std::iter::empty())));
        assert!(next().contains("event: reset"));
        // One of as many seats, of which nothing was decided yet.
        slot.begin_load();
        slot.end_load(Some(Map::new(1, 10, 3, std::iter::empty())));
        assert!(next().contains("event: reset"));
    }

    #[test]
    fn a_failed_or_overrun_load_must_be_repeated() {
        let mut slot = Slot::default();
        slot.begin_load();
        slot.end_load(None);
        assert!(slot.stale && slot.map.is_none());
        slot.begin_load();
        for version in 0..i64::try_from(KEPT_CHANGES_MAX).unwrap() + 1 {
            slot.take_in(&change(version, version + 1, 0));
        }
        slot.end_load(Some(map(0)));
        assert!(slot.stale);
    }
}
