//! Waiting rooms, as whoever waits sees them: from memory, so that a poll costs no query however many
//! there are.
//!
//! The order is subscribe, snapshot, follow: what the owner tells while the snapshot is on its way is
//! kept and applied after it, by version. A gap in the versions means that a word was lost; then the
//! room is read again in the background, in one statement, and meanwhile the old state is shown. A room
//! is in memory while clients ask about it, and as long its owner is told each second who was heard:
//! by that a new owner, too, loads the room and tells how it is, so that nothing need be asked of
//! Postgres. A room that nobody asks about costs nothing.
//!
//! What is shown decides nothing, and never goes back: who is let in says the owner alone, and whether
//! a pass is good says the owner of the seats. Nor is it shown for long after it was last known to be so:
//! an ingress that hears nothing of a room says that, so that its clients are told by another one.

mod follow;
mod forecast;
mod heard;
mod metrics;
mod overview;
mod pass;
#[cfg(test)]
mod property;
mod report;
mod routes;
mod signed;
mod slot;
mod standing;
mod state;
mod store;
mod view;

pub use follow::Follower;
pub use overview::{__path_watch, watch};
pub use pass::{QUEUE_PASS, QueuePass};
pub use report::Reporter;
pub use routes::{__path_get, __path_join, __path_leave, QUEUE_TICKET, get, join, joined, leave};
pub(crate) use routes::{current, own, read};
pub use signed::Signer;
pub use standing::{RoomState, Standing};
pub use store::newest;
pub use view::TicketView;

use crate::problem::Problem;
use async_nats::Subscriber;
use forecast::Forecasts;
use futures_util::{StreamExt, stream};
use heard::Heard as HeardTickets;
use metrics::Metrics;
use onsale_platform::Clock;
use onsale_platform::db::Pool;
use onsale_schema::admission::{Broadcast, TicketChange, Ticketed};
use onsale_schema::draw::Place;
use onsale_schema::message::decode;
use onsale_schema::status::TicketStatus;
use onsale_schema::{ScheduleId, Timestamp};
use slot::{Heard, Slot};
use state::Look;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often owners are told who was heard, and rooms that nobody asks about are looked for.
const REPORT: Duration = Duration::from_secs(1);
/// A room is given up when nobody has asked for so long, in milliseconds. Whoever waits asks more
/// often, however far away.
const KEPT_MS: i64 = 2 * onsale_schema::admission::POLL_MAX_MS as i64;
/// When to ask again where nothing is known, in seconds.
const AGAIN_S: u32 = 5;
/// Rooms whose owners are told at once.
const REPORTS_AT_ONCE: usize = 16;
/// How long a reload waits that did not bring all and is tried again: at first, and at most.
const RELOAD_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Rooms that are read again at once, so that after an outage others get connections, too.
const RELOADS_AT_ONCE: usize = 2;

/// The rooms that somebody asks about. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    pool: Pool,
    clock: Clock,
    entries: Arc<RwLock<HashMap<ScheduleId, Arc<Entry>>>>,
    reloads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// One room, while somebody asks about it.
struct Entry {
    schedule: ScheduleId,
    slot: RwLock<Slot>,
    /// Held by the one that loads.
    load: tokio::sync::Mutex<()>,
    heard: Mutex<HeardTickets>,
    /// Whether somebody was heard since the last report whom its owner does not want to know of.
    others_heard: AtomicBool,
    forecasts: Mutex<Forecasts>,
    /// When somebody asked last, in microseconds.
    asked_at_us: AtomicI64,
    /// When its owner was told last who was heard, or this was made.
    reported_at: Mutex<Instant>,
}

impl Entry {
    fn new(schedule: ScheduleId) -> Self {
        Self {
            schedule,
            slot: RwLock::default(),
            load: tokio::sync::Mutex::default(),
            heard: Mutex::default(),
            others_heard: AtomicBool::new(false),
            forecasts: Mutex::default(),
            asked_at_us: AtomicI64::new(0),
            reported_at: Mutex::new(Instant::now()),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Slot) -> T) -> T {
        change(&mut self.slot.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the room says, if it is in memory, and when it was known to be so.
    fn ask<T>(&self, ask: impl FnOnce(&state::Room, Timestamp) -> T) -> Option<T> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        Some(ask(slot.room()?, slot.known_at()?))
    }

    fn heard(&self) -> MutexGuard<'_, HeardTickets> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forecasts(&self) -> MutexGuard<'_, Forecasts> {
        self.forecasts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn known_at(&self) -> Option<Timestamp> {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        slot.known_at()
    }

    /// Whether it is known how the room is now.
    fn is_current(&self, now: Timestamp) -> bool {
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        slot.is_current(now)
    }

    fn reported_at(&self) -> MutexGuard<'_, Instant> {
        self.reported_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody who has been here since then can rely on being heard: its owner was not told for too
    /// long.
    fn is_cut_off(&self, since: Instant) -> bool {
        let untold = since.max(*self.reported_at());
        let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
        untold.elapsed() >= slot.untold_max()
    }

    fn is_asked_about(&self, now: Timestamp) -> bool {
        let asked_at = Timestamp::from_micros(self.asked_at_us.load(Ordering::Relaxed));
        now.ms_since(asked_at) < KEPT_MS
    }
}

/// A load under way. One that is given up has failed: else what is heard would be kept for ever.
struct Load<'a> {
    entry: &'a Entry,
    asked_at: Timestamp,
    is_over: bool,
}

impl<'a> Load<'a> {
    fn begin(entry: &'a Entry, asked_at: Timestamp) -> Self {
        entry.change(Slot::begin_load);
        Self {
            entry,
            asked_at,
            is_over: false,
        }
    }

    fn end(&mut self, room: Option<state::Room>) {
        self.is_over = true;
        self.entry.change(|slot| slot.end_load(room, self.asked_at));
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(None);
        }
    }
}

/// What is shown of a room is how it is now, or nearly. Whoever would ask again only after so many
/// milliseconds is told to do that now, too: an owner that is away must not make everybody ask more often.
fn assure(entry: &Entry, now: Timestamp, again_ms: u32) -> Result<(), Problem> {
    if entry.is_current(now) {
        Ok(())
    } else {
        let again_s = again_ms.div_ceil(1000).max(AGAIN_S);
        Err(Problem::unavailable().retry_after_s(again_s))
    }
}

/// Rooms that must be read again. No room is in it twice.
type Gaps = mpsc::UnboundedSender<Arc<Entry>>;

impl Rooms {
    /// Rooms read through `pool`; [`Self::run`] keeps them up to date.
    #[must_use]
    pub fn new(pool: Pool, clock: Clock) -> Self {
        Self {
            pool,
            clock,
            entries: Arc::default(),
            reloads: Arc::new(Semaphore::new(RELOADS_AT_ONCE)),
            metrics: Arc::new(Metrics::new()),
        }
    }

    /// How a ticket is. Its client was heard. `place` is what is known of its place from before. None for a
    /// ticket that was signed before a restore: what is in memory by its number may be somebody else's.
    ///
    /// # Errors
    /// `dependency-unavailable` while the room is not in memory and can't be read, or was not heard of
    /// for too long.
    pub async fn look(
        &self,
        ticket: &Ticketed,
        place: Option<Place>,
    ) -> Result<Option<Standing>, Problem> {
        let now = self.clock.now();
        let (entry, look) = self.find(ticket, now).await?;
        if look.told.generation != ticket.generation {
            return Ok(None);
        }
        let no = ticket.arrival_no;
        let standing = Standing::of(&look, place, now);
        if look.wants_report(standing.place) {
            entry.heard().put(no);
        } else {
            entry.others_heard.store(true, Ordering::Relaxed);
        }
        let again = standing.sight.as_ref().map(|sight| sight.poll_after_ms);
        assure(&entry, now, again.unwrap_or_default())?;
        if let Some(eta) = standing.sight.and_then(|sight| sight.eta) {
            entry.forecasts().note(no, eta, now);
        }
        Ok(Some(standing))
    }

    /// The same between two looks, by which nobody is heard.
    ///
    /// # Errors
    /// As there.
    pub async fn glance(
        &self,
        ticket: &Ticketed,
        place: Option<Place>,
    ) -> Result<Option<Standing>, Problem> {
        let now = self.clock.now();
        let (entry, look) = self.find(ticket, now).await?;
        if look.told.generation != ticket.generation {
            return Ok(None);
        }
        assure(&entry, now, 0)?;
        Ok(Some(Standing::of(&look, place, now)))
    }

    /// The newest ticket of the owner of this one, and how it ended if it did: one read.
    ///
    /// # Errors
    /// `dependency-unavailable`.
    async fn newest(
        &self,
        of: &Ticketed,
    ) -> Result<Option<(Ticketed, Option<TicketStatus>)>, Problem> {
        Ok(newest(&self.pool, of.schedule_id, of.user_id).await?)
    }

    /// The same for a poll, which is counted.
    ///
    /// # Errors
    /// As there.
    pub async fn poll(&self, ticket: &Ticketed) -> Result<Option<Standing>, Problem> {
        let standing = self.look(ticket, None).await?;
        let polls = standing.and_then(|it| self.metrics.polls.get(&it.status));
        if let Some(polls) = polls {
            polls.increment(1);
        }
        Ok(standing)
    }

    /// A ticket was shown that is not valid.
    fn count_refused(&self) {
        self.metrics.refused.increment(1);
    }

    /// A ticket was given: a new one, or again the one that its owner had.
    fn count_join(&self, is_new: bool) {
        let Metrics {
            joins_new,
            joins_again,
            ..
        } = &*self.metrics;
        let joins = if is_new { joins_new } else { joins_again };
        joins.increment(1);
    }

    /// Whether who has followed a room here since then is to do that elsewhere: its owner can't be told
    /// that anybody is heard.
    fn is_cut_off(&self, schedule: ScheduleId, since: Instant) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&schedule);
        entry.is_some_and(|entry| entry.is_cut_off(since))
    }

    /// Whether it is known here that seats of a date are held with passes only. Where it is not, the
    /// owner of its seats says so.
    #[must_use]
    pub fn needs_pass(&self, schedule: ScheduleId) -> bool {
        let now = self.clock.now();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&schedule).filter(|it| it.is_current(now));
        entry.is_some_and(|entry| {
            let slot = entry.slot.read().unwrap_or_else(PoisonError::into_inner);
            slot.room().is_some_and(state::Room::needs_pass)
        })
    }

    /// Whether a room is in memory.
    #[must_use]
    pub fn has(&self, schedule: ScheduleId) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.contains_key(&schedule)
    }

    async fn find(&self, ticket: &Ticketed, now: Timestamp) -> Result<(Arc<Entry>, Look), Problem> {
        let entry = self.entry(ticket.schedule_id);
        let look = |room: &state::Room, _| room.look(ticket.arrival_no);
        let look = self.ask(&entry, now, look).await?;
        let look = match ticket.is_guest {
            true => look.of_guest(ticket.guest_no),
            false => look,
        };
        Ok((entry, look))
    }

    /// What a room says, which is read first if it is not in memory.
    async fn ask<T>(
        &self,
        entry: &Entry,
        now: Timestamp,
        ask: impl Fn(&state::Room, Timestamp) -> T,
    ) -> Result<T, Problem> {
        entry.asked_at_us.store(now.micros(), Ordering::Relaxed);
        if let Some(said) = entry.ask(&ask) {
            return Ok(said);
        }
        let _turn = entry.load.lock().await;
        if let Some(said) = entry.ask(&ask) {
            return Ok(said);
        }
        self.load(entry).await?;
        entry.ask(ask).ok_or_else(Problem::internal)
    }

    /// The entry is there before its snapshot is taken, so that what is told meanwhile is kept for it.
    fn entry(&self, schedule: ScheduleId) -> Arc<Entry> {
        let known = self
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&schedule)
            .cloned();
        known.unwrap_or_else(|| {
            let mut all = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Entry::new(schedule));
            Arc::clone(all.entry(schedule).or_insert_with(new))
        })
    }

    /// Reads a room; the caller has the turn.
    async fn load(&self, entry: &Entry) -> Result<(), Problem> {
        let mut load = Load::begin(entry, self.clock.now());
        let room = store::snapshot(&self.pool, entry.schedule).await?;
        load.end(Some(room));
        Ok(())
    }

    /// Reads a room again and again until it has no gap.
    async fn reload(&self, entry: Arc<Entry>) {
        let _turn = entry.load.lock().await;
        self.metrics.reloads.increment(1);
        let (mut pause, longest) = RELOAD_PAUSE;
        while !entry.change(Slot::is_reloaded) {
            let permit = self.reloads.acquire().await;
            // Why a load fails is told where it is asked.
            let loaded = self.load(&entry).await;
            drop(permit);
            if loaded.is_err() || !entry.change(Slot::is_reloaded) {
                tokio::time::sleep(pause).await;
                pause = longest.min(2 * pause);
            }
        }
    }

    /// Keeps the rooms up to date and their owners informed, until `stop` or the end of the
    /// subscription.
    pub async fn run(&self, watermarks: Subscriber, reporter: Reporter, stop: CancellationToken) {
        let (gaps, entries) = mpsc::unbounded_channel();
        let entries = stream::unfold(entries, async |mut entries| {
            Some((entries.recv().await?, entries))
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(watermarks, gaps) => {}
            () = self.keep_reporting(&reporter) => {}
            () = entries.for_each_concurrent(None, |entry| self.reload(entry)) => {}
        }
    }

    /// Follows what the owners tell.
    async fn follow(&self, mut watermarks: Subscriber, gaps: Gaps) {
        while let Some(message) = watermarks.next().await {
            match decode::<Broadcast>(&message.payload) {
                Ok(broadcast) => self.take_in(&broadcast, &gaps),
                Err(error) => tracing::error!(%error, "a watermark could not be read"),
            }
        }
    }

    fn take_in(&self, broadcast: &Broadcast, gaps: &Gaps) {
        let now = self.clock.now();
        let mut is_ours = false;
        for told in &broadcast.rooms {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = entries.get(&told.schedule_id) else {
                continue;
            };
            is_ours = true;
            match entry.change(|slot| slot.take_in(told, now)) {
                Heard::Nothing => {}
                Heard::Moved => self.judge(entry, &told.changes, now),
                // Nobody is there at the end only.
                Heard::Gap => drop(gaps.send(Arc::clone(entry))),
            }
        }
        if is_ours {
            let delay_ms = now.ms_since(broadcast.sent_at).max(0);
            self.metrics.delay.record(delay_ms as f64 / 1e3);
        }
    }

    /// Holds what tickets were told against what became of them.
    fn judge(&self, entry: &Entry, changes: &[TicketChange], now: Timestamp) {
        if changes.is_empty() {
            return;
        }
        let mut forecasts = entry.forecasts();
        for (no, status, _) in changes {
            match status {
                TicketStatus::Lobby | TicketStatus::Waiting => {}
                TicketStatus::Admitted => {
                    if let Some(error) = forecasts.admitted(*no, now) {
                        self.metrics.forecast_error.record(error);
                    }
                }
                TicketStatus::Expired | TicketStatus::Left | TicketStatus::Done => {
                    forecasts.ended(*no);
                }
            }
        }
    }

    /// Tells the owners who was heard, and gives up the rooms that nobody asks about.
    async fn keep_reporting(&self, reporter: &Reporter) {
        let mut every = tokio::time::interval(REPORT);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.sweep();
            let report = async |entry: Arc<Entry>| {
                let heard = entry.heard().take();
                let others = entry.others_heard.swap(false, Ordering::Relaxed);
                // What is heard from here on is in the next one.
                let begun_at = Instant::now();
                match reporter.tell(entry.schedule, heard, others).await {
                    Ok(()) => *entry.reported_at() = begun_at,
                    Err(untold) => {
                        let mut heard = entry.heard();
                        untold.into_iter().for_each(|no| heard.put(no));
                        entry.others_heard.fetch_or(others, Ordering::Relaxed);
                    }
                }
            };
            // Of one that could not be read nothing is known, not even whether it is there.
            let known = self.all().into_iter().filter(|it| it.known_at().is_some());
            stream::iter(known)
                .for_each_concurrent(REPORTS_AT_ONCE, report)
                .await;
            self.tell_age();
        }
    }

    fn sweep(&self) {
        let now = self.clock.now();
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            for error in entry.forecasts().sweep(now) {
                self.metrics.forecast_error.record(error);
            }
            // Whoever is about to look, or to load, has another hold of it.
            entry.is_asked_about(now) || Arc::strong_count(entry) > 1
        });
    }

    fn tell_age(&self) {
        let all = self.all();
        let oldest = all.iter().filter_map(|entry| entry.known_at()).min();
        let age_ms = oldest.map_or(0, |oldest| self.clock.now().ms_since(oldest));
        self.metrics.age.set(age_ms as f64 / 1e3);
        self.metrics.rooms.set(all.len() as f64);
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.values().cloned().collect()
    }
}
