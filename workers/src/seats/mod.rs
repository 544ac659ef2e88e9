//! The seats lane: its commands, decided by [`onsale_domain::seats`], loaded and stored here.
//!
//! This module alone inserts, changes and deletes claims, versions maps, changes policies, and
//! inserts reservations and blocks; settlement alone makes a hold PAID, and cancels what is. The ingress alone replaces layouts, while
//! there never was a claim; what was decided by another layout misses when it is stored.

mod blocks;
mod load;
mod store;

pub(crate) use store::array_text;

use crate::context::Context;
use crate::runtime::lane::{PartitionedLane, Persistent, Stored, Times};
use crate::sabotage::{self, Bug};
use diesel_async::AsyncPgConnection;
use onsale_domain::seats::{self, Changes, Sale};
use onsale_platform::{db, metric};
use onsale_schema::message::{Command, Fingerprint, encode};
use onsale_schema::seats::{Hold, Kind, MapBroadcast, MapChange, Outcome, Refusal};
use onsale_schema::status::ReservationStatus;
use onsale_schema::subjects::Subjects;
use onsale_schema::{CommandId, Lane, NoticeId, PartitionNo, ReservationId, ScheduleId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;

/// Holds that one tick lapses per schedule, at most, so that the committer stays free for others.
const LAPSES_PER_TICK: usize = 500;
/// A schedule that nobody asked about for this long is dropped from memory, in milliseconds.
const IDLE_MS: i64 = 10 * 60 * 1000;
/// Ended reservations are remembered for their retries this long, in milliseconds.
pub(crate) const REMEMBER_MS: i64 = 24 * 3600 * 1000;

/// The seats lane.
pub struct Seats;

/// The schedules of one partition that are loaded.
#[derive(Default)]
pub struct State {
    sales: BTreeMap<ScheduleId, Loaded>,
    /// Touched since the last seal.
    touched: BTreeSet<ScheduleId>,
    /// Holds accepted since the last seal. A key that is used for two schedules of the partition in
    /// one batch has no row yet that would tell the second schedule of the first.
    accepted: HashMap<CommandId, (Fingerprint, Hold)>,
}

struct Loaded {
    sale: Sale,
    used_at: Timestamp,
}

/// A command that was accepted, as its row says.
pub type Accepted = (CommandId, Fingerprint, Hold);

/// Reads the rows that state is loaded from. Production's are in Postgres, those of a simulation in
/// memory; what is read when is the same for both: [`State::load`].
pub trait Rows: Sync {
    /// The state of a schedule in one snapshot; none when there is no such schedule on sale.
    ///
    /// # Errors
    /// When it can't be read now.
    fn sale(
        &self,
        schedule_id: ScheduleId,
    ) -> impl Future<Output = Result<Option<Sale>, db::Error>> + Send;
    /// Which layouts these schedules have now, see [`seats::Layout::no`].
    ///
    /// # Errors
    /// When that can't be read now.
    fn layout_nos(
        &self,
        ids: &[ScheduleId],
    ) -> impl Future<Output = Result<HashMap<ScheduleId, i64>, db::Error>> + Send;
    /// The statuses of reservations.
    ///
    /// # Errors
    /// When they can't be read now.
    fn statuses(
        &self,
        ids: &[ReservationId],
    ) -> impl Future<Output = Result<HashMap<ReservationId, ReservationStatus>, db::Error>> + Send;
    /// Which of these notices are there and not done.
    ///
    /// # Errors
    /// When that can't be read now.
    fn open_notices(
        &self,
        ids: &[NoticeId],
    ) -> impl Future<Output = Result<HashSet<NoticeId>, db::Error>> + Send;
    /// Which of these commands were accepted already, at whatever schedule.
    ///
    /// # Errors
    /// When that can't be read now.
    fn accepted(
        &self,
        ids: &[CommandId],
    ) -> impl Future<Output = Result<Vec<Accepted>, db::Error>> + Send;
}

impl State {
    /// Loads what these commands need, see [`Persistent::load`].
    ///
    /// # Errors
    /// When a row can't be read now.
    pub async fn load(
        &mut self,
        rows: &impl Rows,
        commands: &[&Command<Kind>],
        thorough: bool,
    ) -> Result<(), db::Error> {
        // First, since these may drop a schedule.
        let doubtful = self.doubtful();
        if !doubtful.is_empty() {
            self.assure(&rows.statuses(&doubtful).await?);
        }
        let loaded = self.loaded(commands);
        if thorough && !loaded.is_empty() {
            self.assure_layouts(&rows.layout_nos(&loaded).await?);
        }
        for schedule_id in self.missing(commands) {
            if let Some(sale) = rows.sale(schedule_id).await? {
                self.enter(sale);
            }
        }
        if thorough && !commands.is_empty() {
            let ids: Vec<CommandId> = commands.iter().map(|command| command.id).collect();
            self.tell(commands, rows.accepted(&ids).await?);
        }
        let kinds = commands.iter().map(|command| &command.kind);
        let notices: Vec<NoticeId> = kinds.filter_map(|kind| noticed(kind, thorough)).collect();
        if !notices.is_empty() {
            let open = rows.open_notices(&notices).await?;
            self.tell_done(commands, thorough, &open);
        }
        Ok(())
    }

    /// The schedules of these commands that are not loaded, or with a layout that was replaced
    /// since: a command means a newer one. It would be refused, and a refusal writes nothing that
    /// could miss, so that nobody would ever notice.
    fn missing(&self, commands: &[&Command<Kind>]) -> BTreeSet<ScheduleId> {
        let is_missing = |kind: &Kind| {
            let loaded = self.sales.get(&kind.schedule_id());
            loaded.is_none_or(|loaded| match kind {
                Kind::Hold { layout_no, .. }
                | Kind::HoldBest { layout_no, .. }
                | Kind::Block { layout_no, .. } => {
                    layout_no.is_some_and(|meant| meant > loaded.sale.layout_no())
                }
                Kind::Release { .. }
                | Kind::Extend { .. }
                | Kind::Expire { .. }
                | Kind::Paid { .. }
                | Kind::PaidAll { .. }
                | Kind::Secure { .. }
                | Kind::Unsecure { .. }
                | Kind::Rehold { .. }
                | Kind::Cancelled { .. }
                | Kind::Room { .. }
                | Kind::PassesOver { .. }
                | Kind::Policy { .. }
                | Kind::Unblock { .. } => false,
            })
        };
        let kinds = commands.iter().map(|command| &command.kind);
        kinds
            .filter(|kind| is_missing(kind))
            .map(Kind::schedule_id)
            .collect()
    }

    /// The schedules of these commands that are loaded.
    fn loaded(&self, commands: &[&Command<Kind>]) -> Vec<ScheduleId> {
        let schedules = commands.iter().map(|command| command.kind.schedule_id());
        let loaded = schedules.filter(|id| self.sales.contains_key(id));
        loaded.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Which layouts schedules have by their rows. Those that were loaded with another one are
    /// dropped, to be loaded anew.
    fn assure_layouts(&mut self, layout_nos: &HashMap<ScheduleId, i64>) {
        self.sales.retain(|id, loaded| {
            let now = layout_nos.get(id);
            now.is_none_or(|no| *no == loaded.sale.layout_no())
        });
    }

    /// Adds a schedule that was loaded from its rows.
    fn enter(&mut self, sale: Sale) {
        let used_at = Timestamp::EPOCH;
        self.sales
            .insert(sale.schedule_id(), Loaded { sale, used_at });
    }

    /// The holds whose rows have to be looked up, see [`Sale::doubtful`].
    fn doubtful(&self) -> Vec<ReservationId> {
        let sales = self.sales.values();
        sales
            .flat_map(|loaded| loaded.sale.doubtful())
            .copied()
            .collect()
    }

    /// What the rows of all doubtful holds say. A schedule that can't follow is dropped, to be
    /// loaded anew.
    fn assure(&mut self, statuses: &HashMap<ReservationId, ReservationStatus>) {
        self.sales.retain(|_, loaded| {
            let doubtful = loaded.sale.doubtful().to_vec();
            doubtful.into_iter().all(|id| {
                let status = statuses.get(&id);
                status.is_some_and(|status| loaded.sale.assure(id, *status))
            })
        });
    }

    /// Makes the schedules of these commands know which of them were accepted, at whatever
    /// schedule.
    fn tell(&mut self, commands: &[&Command<Kind>], accepted: Vec<Accepted>) {
        let accepted: HashMap<CommandId, (Fingerprint, Hold)> = accepted
            .into_iter()
            .map(|(id, fingerprint, hold)| (id, (fingerprint, hold)))
            .collect();
        for command in commands {
            if let Some((fingerprint, hold)) = accepted.get(&command.id)
                && let Some(loaded) = self.sales.get_mut(&command.kind.schedule_id())
            {
                loaded
                    .sale
                    .load_foreign(command.id, *fingerprint, hold.clone());
            }
        }
    }

    /// Makes the schedules of these commands know which of them are of notices that are done.
    fn tell_done(&mut self, commands: &[&Command<Kind>], thorough: bool, open: &HashSet<NoticeId>) {
        for command in commands {
            if let Some(notice) = noticed(&command.kind, thorough)
                && !open.contains(&notice)
                && let Some(loaded) = self.sales.get_mut(&command.kind.schedule_id())
            {
                loaded.sale.load_told(notice);
            }
        }
    }
}

/// The notice of a command, if it has to be looked up whether that is open.
fn noticed(kind: &Kind, thorough: bool) -> Option<NoticeId> {
    let decided_once = || seats::decided_once(kind).filter(|_| thorough);
    seats::true_while_open(kind).or_else(decided_once)
}

impl PartitionedLane for Seats {
    const LANE: Lane = Lane::Seats;
    type Kind = Kind;
    type Outcome = Outcome;
    type State = State;
    type Changes = Changes;

    fn decide(
        state: &mut State,
        command: &Command<Kind>,
        times: Times,
        changes: &mut Changes,
    ) -> Outcome {
        let schedule_id = command.kind.schedule_id();
        let Some(loaded) = state.sales.get_mut(&schedule_id) else {
            return Outcome::Refused(Refusal::UnknownSchedule);
        };
        loaded.used_at = times.clock;
        state.touched.insert(schedule_id);
        if let Some((fingerprint, hold)) = state.accepted.get(&command.id)
            && hold.schedule_id != schedule_id
        {
            let hold = hold.clone();
            loaded.sale.load_foreign(command.id, *fingerprint, hold);
        }
        if let Some(refusal) = sabotage::remembered(command.id) {
            return refusal;
        }
        let times = seats::Times {
            business: times.business,
            clock: match sabotage::is(Bug::DeadlineByMessageTime) {
                false => times.clock,
                true => times.business,
            },
        };
        let outcome = match sabotage::is(Bug::NoDedupe) {
            false => loaded.sale.decide(command, times, changes),
            true => (loaded.sale).decide(&sabotage::unknown(command), times, changes),
        };
        sabotage::remember(command, &outcome);
        if let Outcome::Held(hold) = &outcome {
            let accepted = (command.fingerprint, hold.clone());
            state.accepted.insert(command.id, accepted);
        }
        outcome
    }

    fn tick(state: &mut State, now: Timestamp, _: Timestamp, changes: &mut Changes) -> bool {
        let mut is_more = false;
        for (schedule_id, loaded) in &mut state.sales {
            if let Some(due) = loaded.sale.next_due().filter(|due| *due <= now) {
                // Of the one that waited longest.
                metrics::histogram!(metric::EXPIRY_DELAY).record(now.ms_since(due) as f64 / 1000.0);
                let lapsed = loaded.sale.lapse_due(now, LAPSES_PER_TICK, changes);
                is_more |= lapsed == LAPSES_PER_TICK;
                state.touched.insert(*schedule_id);
            }
        }
        is_more
    }

    fn seal(state: &mut State, business: Timestamp, changes: &mut Changes) {
        state.accepted.clear();
        for schedule_id in std::mem::take(&mut state.touched) {
            if let Some(loaded) = state.sales.get_mut(&schedule_id) {
                loaded.sale.seal(business, changes);
            }
        }
    }

    fn undo(state: &mut State, changes: &Changes) {
        for loaded in state.sales.values_mut() {
            loaded.sale.undo(changes);
        }
    }

    fn evict(state: &mut State, now: Timestamp) {
        state.sales.retain(|_, loaded| {
            loaded.sale.prune(now.plus_ms(-REMEMBER_MS));
            loaded.sale.next_due().is_some() || now.ms_since(loaded.used_at) < IDLE_MS
        });
    }

    fn is_empty(changes: &Changes) -> bool {
        changes.is_empty()
    }

    fn broadcasts_to(subjects: &Subjects, partition: PartitionNo) -> String {
        subjects.map(partition)
    }

    fn broadcast(changes: &Changes, now: Timestamp) -> Vec<Vec<u8>> {
        map_broadcast(changes.maps.clone(), now)
    }

    /// Payments wait for holds that last until they are made and for seats of late ones, and waiting
    /// rooms for word of holds and of the sale.
    fn nudges(changes: &Changes, subjects: &Subjects) -> Vec<String> {
        let mut nudges = Vec::new();
        let mut lasting = changes.terms.iter();
        let mut made = changes.reservations.iter();
        if lasting.any(|term| term.after.paying_order.is_some())
            || made.any(|new| new.reservation.rehold_order.is_some())
        {
            nudges.push(subjects.orders_nudge());
        }
        if !changes.pass_holds.is_empty() || !changes.sales_of_rooms.is_empty() {
            nudges.push(subjects.outbox_nudge());
        }
        nudges
    }

    fn beat(state: &State, now: Timestamp) -> Vec<Vec<u8>> {
        let maps: Vec<MapChange> = state
            .sales
            .values()
            .map(|loaded| MapChange {
                schedule_id: loaded.sale.schedule_id(),
                from_version: loaded.sale.map_version(),
                version: loaded.sale.map_version(),
                at: now,
                changes: Vec::new(),
                layout_no: Some(loaded.sale.layout_no()),
            })
            .collect();
        map_broadcast(maps, now)
    }

    fn dead_lettered() -> Outcome {
        Outcome::DeadLettered
    }

    fn labels(kind: &Kind, outcome: &Outcome) -> (&'static str, &'static str) {
        let outcome = match outcome {
            Outcome::Held(_)
            | Outcome::Released { .. }
            | Outcome::Extended { .. }
            | Outcome::Applied
            | Outcome::Policy(_)
            | Outcome::Blocked { .. }
            | Outcome::Unblocked { .. } => "accepted",
            Outcome::Refused(refusal) => refusal_label(refusal),
            Outcome::DeadLettered => "dead-lettered",
        };
        (kind.name(), outcome)
    }
}

impl Persistent for Seats {
    async fn load(
        ctx: &Context,
        state: &mut State,
        commands: &[&Command<Kind>],
        thorough: bool,
    ) -> Result<(), db::Error> {
        state.load(ctx, commands, thorough).await
    }

    async fn store(conn: &AsyncPgConnection, changes: &[&Changes]) -> Result<Stored, db::Error> {
        store::changes(conn, changes).await
    }
}

fn map_broadcast(maps: Vec<MapChange>, now: Timestamp) -> Vec<Vec<u8>> {
    if maps.is_empty() {
        return Vec::new();
    }
    let sent_at = Some(now);
    vec![encode(&MapBroadcast { maps, sent_at })]
}

fn refusal_label(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::CommandExpired => "command-expired",
        Refusal::KeyReused => "idempotency-key-reused",
        Refusal::UnknownSchedule | Refusal::NotFound => "not-found",
        Refusal::UnknownSeat => "unknown-seat",
        Refusal::SaleNotOpen => "sale-not-open",
        Refusal::SaleClosed => "sale-closed",
        Refusal::SeatLimitExceeded { .. } => "seat-limit-exceeded",
        Refusal::SeatUnavailable { .. } => "seat-unavailable",
        Refusal::StateConflict { .. } => "reservation-state-conflict",
        Refusal::OrphanSeat { .. } => "orphan-seat",
        Refusal::ExtensionLimitReached => "extension-limit-reached",
        Refusal::NotDue => "not-due",
        Refusal::LayoutChanged => "layout-changed",
        Refusal::PaymentInProgress => "payment-in-progress",
        Refusal::PolicyInvalid => "policy-invalid",
        Refusal::PassRequired => "queue-pass-required",
        Refusal::PassInvalid => "queue-pass-invalid",
        Refusal::PassExpired => "queue-pass-expired",
        Refusal::PassUsedUp => "queue-pass-used-up",
    }
}
