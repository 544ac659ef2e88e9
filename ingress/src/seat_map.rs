//! Seat maps, from memory: the state of every seat of the schedules that somebody looks at.
//!
//! The order is subscribe, snapshot, follow: what is broadcast while the snapshot is on its way is
//! kept and applied after it, by version. A gap in the versions means that a change was lost; then
//! the map is read again in the background, and meanwhile the old one is shown. An owner may die
//! before it has told what it committed, and the next one has nothing to tell before it is asked: so
//! the versions of all maps in use are also compared with Postgres' a few times a second, in one
//! statement, however many look. A map only shows: it decides nothing.

mod feed;
#[cfg(test)]
mod property;
mod slot;
mod state;
mod store;

use crate::app::App;
use crate::etag::IfNoneMatch;
use crate::extract::Id;
use crate::gzip;
use crate::problem::{Code, Problem};
use async_nats::Subscriber;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
pub use feed::Last;
use futures_util::{StreamExt, stream};
use metrics::{Counter, Gauge, Histogram};
use onsale_platform::db::Pool;
use onsale_platform::{Clock, metric};
use onsale_schema::message::decode;
use onsale_schema::seats::MapBroadcast;
use onsale_schema::{ScheduleId, Timestamp};
use slot::{Heard, Slot};
use state::{Map, Rendered};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the connection is looked at: after a reconnect, changes may be missing.
const CONNECTION_CHECK: Duration = Duration::from_millis(250);
/// How often versions are compared with Postgres'. What was never told is missing at the second
/// comparison, and so shown within a second.
const CHECK: Duration = Duration::from_millis(350);
/// A comparison that takes longer has failed.
const CHECK_MAX: Duration = Duration::from_secs(5);
/// Maps that nobody looks at are given up between two and one of so many comparisons: a minute.
const SWEEP_EVERY_CHECKS: u32 = 170;
/// How long a reload waits that did not bring all and is tried again.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);

/// The maps that are in use. Cheap to clone.
#[derive(Clone)]
pub struct SeatMaps {
    pool: Pool,
    clock: Clock,
    entries: Arc<RwLock<HashMap<ScheduleId, Arc<Entry>>>>,
    metrics: Arc<Metrics>,
}

struct Metrics {
    delay: Histogram,
    age: Gauge,
    maps: Gauge,
    reloads: Counter,
}

/// One schedule's map, while somebody looks at it.
struct Entry {
    schedule: ScheduleId,
    slot: Mutex<Slot>,
    /// Held by the one that loads.
    load: tokio::sync::Mutex<()>,
}

impl Entry {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load under way. One that is given up has failed: else what is heard would be kept for ever.
struct Load<'a> {
    entry: &'a Entry,
    asked_at: Timestamp,
    is_over: bool,
}

impl<'a> Load<'a> {
    fn begin(entry: &'a Entry, now: Timestamp) -> Self {
        entry.slot().begin_load();
        Self {
            entry,
            asked_at: now,
            is_over: false,
        }
    }

    fn end(&mut self, map: Option<Map>) -> Option<Timestamp> {
        self.is_over = true;
        self.entry.slot().end_load(map, self.asked_at)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(None);
        }
    }
}

/// Maps that must be loaded again. No map is in it twice.
type Gaps = mpsc::UnboundedSender<Arc<Entry>>;

impl SeatMaps {
    /// Maps read through `pool`; [`Self::run`] keeps them up to date.
    #[must_use]
    pub fn new(pool: Pool, clock: Clock) -> Self {
        let metrics = Metrics {
            delay: metrics::histogram!(metric::SEAT_MAP_DELAY),
            age: metrics::gauge!(metric::SEAT_MAP_AGE),
            maps: metrics::gauge!(metric::SEAT_MAPS),
            reloads: metrics::counter!(metric::SEAT_MAP_RELOADS),
        };
        Self {
            pool,
            clock,
            entries: Arc::default(),
            metrics: Arc::new(metrics),
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
        entry.is_some_and(|entry| entry.slot().map().is_some_and(Map::is_settled))
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
        self.with_slot(schedule, layout_no, |slot| slot.look().map(&look))
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
    async fn load(&self, entry: &Arc<Entry>) -> Result<(), Problem> {
        let mut load = Load::begin(entry, self.clock.now());
        let result = store::snapshot(&self.pool, entry.schedule).await;
        let (map, outcome) = match result {
            Ok(map) => (Some(map), Ok(())),
            Err(problem) => (None, Err(problem)),
        };
        if let Some(whole_at) = load.end(map) {
            self.shown(whole_at);
        }
        if entry.slot().map().is_none() {
            // It may not exist at all; whoever asks next begins anew.
            let mut all = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            if all
                .get(&entry.schedule)
                .is_some_and(|it| Arc::ptr_eq(it, entry))
            {
                all.remove(&entry.schedule);
            }
        }
        outcome
    }

    /// Loads a map again and again until it has no gap.
    async fn reload(&self, entry: Arc<Entry>) {
        let _turn = entry.load.lock().await;
        self.metrics.reloads.increment(1);
        while !entry.slot().is_reloaded() {
            // Why a load fails is told where it is asked.
            if self.load(&entry).await.is_err() || !entry.slot().is_reloaded() {
                tokio::time::sleep(RELOAD_PAUSE).await;
            }
        }
    }

    /// A change that is shown now was true then.
    fn shown(&self, true_at: Timestamp) {
        let delay_ms = self.clock.now().ms_since(true_at).max(0);
        self.metrics.delay.record(delay_ms as f64 / 1e3);
    }

    /// Keeps the maps up to date, until `stop` or the end of the subscription.
    pub async fn run(
        &self,
        broadcasts: Subscriber,
        client: async_nats::Client,
        stop: CancellationToken,
    ) {
        let (gaps, entries) = mpsc::unbounded_channel();
        let entries = stream::unfold(entries, async |mut entries| {
            Some((entries.recv().await?, entries))
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(broadcasts, client, gaps.clone()) => {}
            () = self.keep_checking(gaps) => {}
            () = entries.for_each_concurrent(None, |entry| self.reload(entry)) => {}
        }
    }

    /// Follows what the owners broadcast.
    async fn follow(&self, mut broadcasts: Subscriber, client: async_nats::Client, gaps: Gaps) {
        let statistics = client.statistics();
        let mut connects = statistics.connects.load(Ordering::Relaxed);
        let mut check = tokio::time::interval(CONNECTION_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = check.tick() => {
                    let now = statistics.connects.load(Ordering::Relaxed);
                    if std::mem::replace(&mut connects, now) != now {
                        for entry in self.all() {
                            if entry.slot().wants_reload() {
                                // Nobody is there at the end only.
                                gaps.send(entry).ok();
                            }
                        }
                    }
                }
                message = broadcasts.next() => {
                    let Some(message) = message else { return };
                    self.take_in(&message.payload, &gaps);
                }
            }
        }
    }

    fn take_in(&self, payload: &[u8], gaps: &Gaps) {
        let broadcast = match decode::<MapBroadcast>(payload) {
            Ok(broadcast) => broadcast,
            Err(error) => return tracing::error!(%error, "a map change could not be read"),
        };
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        for change in &broadcast.maps {
            let Some(entry) = entries.get(&change.schedule_id) else {
                continue;
            };
            let heard = entry.slot().take_in(change);
            match heard {
                Heard::Nothing => {}
                Heard::Shown => self.shown(broadcast.sent_at.unwrap_or(change.at)),
                Heard::Gap => {
                    gaps.send(Arc::clone(entry)).ok();
                }
            }
        }
    }

    /// Compares the maps with Postgres again and again, and gives up those that nobody looks at.
    async fn keep_checking(&self, gaps: Gaps) {
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for checks in 1_u32.. {
            check.tick().await;
            if checks.is_multiple_of(SWEEP_EVERY_CHECKS) {
                self.sweep();
            }
            // One that failed is made up for by the next; the metric tells how long none was good.
            match tokio::time::timeout(CHECK_MAX, self.check(&gaps)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "seat maps could not be compared"),
                Err(_) => tracing::debug!("comparing seat maps takes too long"),
            }
            self.tell_age();
        }
    }

    async fn check(&self, gaps: &Gaps) -> Result<(), onsale_platform::db::Error> {
        let schedules: Vec<ScheduleId> = self.all().iter().map(|entry| entry.schedule).collect();
        if schedules.is_empty() {
            return Ok(());
        }
        let asked_at = self.clock.now();
        let stamps = store::stamps(&self.pool, &schedules).await?;
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        for (schedule, stamp) in stamps {
            if let Some(entry) = entries.get(&schedule)
                && entry.slot().check(stamp, asked_at) == Heard::Gap
            {
                gaps.send(Arc::clone(entry)).ok();
            }
        }
        Ok(())
    }

    fn tell_age(&self) {
        let all = self.all();
        let oldest = all.iter().filter_map(|entry| entry.slot().whole_at()).min();
        let age_ms = oldest.map_or(0, |oldest| self.clock.now().ms_since(oldest));
        self.metrics.age.set(age_ms as f64 / 1e3);
        self.metrics.maps.set(all.len() as f64);
    }

    /// Gives up the maps that nobody has looked at since the sweep before.
    fn sweep(&self) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever is about to look has another hold of it.
        entries.retain(|_, entry| {
            let is_unused = entry.slot().is_unused();
            !is_unused || Arc::strong_count(entry) > 1
        });
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().cloned().collect()
    }
}

/// Which seats of a date are free
///
/// From memory, and so a moment old; a hold decides by what is true. Ask again with
/// `If-None-Match`; take gzip, a large map is much smaller so.
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
    let map = app.seat_maps.rendered(schedule, layout_no).await?;
    let unchanged = crate::etag::matches(&headers, map.etag());
    let caching = [
        (header::ETAG, map.etag().clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        gzip::VARY,
    ];
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let content = [(header::CONTENT_TYPE, crate::answer::JSON)];
    let form = map.form(gzip::is_accepted(&headers));
    Ok((caching, content, form).into_response())
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
