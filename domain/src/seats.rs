//! Who gets a seat: everything that the owner of one schedule knows, and its decisions.
//!
//! A decision is a look-up or two in memory, made in a fixed order: duplicate, deadline, validity,
//! state. It must never depend on anything but committed rows, the order of the commands and their
//! times, because the next owner starts from the rows alone.

mod blocks;
mod changes;
mod decide;
mod effects;
mod orphans;
mod passes;
mod payments;
mod places;
pub mod plan;
mod policy;
mod term;
mod undo;

pub use blocks::BlockRow;
pub use changes::{
    Changes, Claim, ClaimChanges, ClaimDelete, ClaimInsert, ClaimUpdate, Ended, Net,
    NewReservation, PolicyUpdate, TermUpdate,
};
pub use onsale_schema::seats::Policy;
pub use passes::{Entry, Gate, GateUpdate};
pub use payments::{PAYING_MS, decided_once, true_while_open};
pub use term::{Term, release_delay_ms};

use blocks::Blocks;
use passes::Entries;
use plan::{Bits, Plan, Spot};

use onsale_schema::message::Fingerprint;
use onsale_schema::seats::{Fact, Facts, Hold, MapChange};
use onsale_schema::status::{ClaimState, ReservationStatus};
use onsale_schema::{
    CommandId, Generation, Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId, SeatNo,
    TicketId, Timestamp, UserId,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use uuid::Uuid;

/// The times of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The message's time on the stream, monotone per partition: holds and windows.
    pub business: Timestamp,
    /// The owner's clock when it decides: deadlines.
    pub clock: Timestamp,
}

/// What the owner knows of a schedule's seats. It changes only while there never was a claim, and
/// not by a command: what was decided by one layout must not be stored under another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How often it was replaced before.
    pub no: i64,
    /// What each seat costs, by its number.
    prices: Vec<Money>,
    plan: Plan,
}

impl Layout {
    /// A layout of seats in the order of their numbers.
    #[must_use]
    pub fn new<'a>(no: i64, spots: impl IntoIterator<Item = Spot<'a>>) -> Self {
        let spots: Vec<Spot<'a>> = spots.into_iter().collect();
        Self {
            no,
            prices: spots.iter().map(|spot| spot.price).collect(),
            plan: Plan::new(spots),
        }
    }

    /// All seats in one row of one section, a metre apart: where it makes no difference.
    #[must_use]
    pub fn row(no: i64, prices: &[Money]) -> Self {
        let spots = prices.iter().zip(1..).map(|(&price, number)| Spot {
            section: "A",
            row: "1",
            number,
            grade: "R",
            price,
            x: f32::from(i16::try_from(number).unwrap_or(i16::MAX)),
            y: 0.0,
        });
        Self::new(no, spots)
    }

    /// What each seat costs, by its number.
    #[must_use]
    pub fn prices(&self) -> &[Money] {
        &self.prices
    }
}

/// One reservation as the owner knows it, loaded from a row or made by a decision. Ended ones are
/// kept for a day so that a retry gets its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub reservation_id: ReservationId,
    /// Whose it is.
    pub user_id: UserId,
    /// The command that made it.
    pub command_id: CommandId,
    /// What that command asked, as a digest.
    pub fingerprint: Fingerprint,
    /// Its seats, in the order asked, and then its places; it keeps them after its end.
    pub seats: Vec<SeatNo>,
    /// Price of all.
    pub total: Money,
    /// The seat limit when it was made.
    pub seat_limit: u32,
    /// Its state.
    pub status: ReservationStatus,
    /// When it was accepted (business time).
    pub held_at: Timestamp,
    /// How long its hold lasts.
    pub term: Term,
    /// When it ended (business time; settlement's, if it was cancelled), if it did.
    pub ended_at: Option<Timestamp>,
    /// The order whose late capture made it, PAID from the beginning.
    pub rehold_order: Option<PaymentOrderId>,
    /// Those of its seats that were cancelled, in the order of their numbers; all when it is
    /// CANCELLED.
    pub cancelled: Vec<SeatNo>,
    /// When the last of them was, by settlement's clock.
    pub cancelled_at: Option<Timestamp>,
    /// The ticket with whose pass it was made, if it took one.
    pub entry: Option<Entry>,
}

impl Reservation {
    /// Whether it is a hold whose seats are for others now.
    fn is_due(&self, now: Timestamp) -> bool {
        self.status == ReservationStatus::Held && self.term.release_at <= now
    }

    /// What it is to its user: a hold may have lapsed although its seats are kept from others.
    fn status_at(&self, now: Timestamp) -> ReservationStatus {
        match self.status {
            ReservationStatus::Held
                if self.term.expires_at <= now || self.term.ends_as.is_some() =>
            {
                self.term.end()
            }
            status => status,
        }
    }

    /// When its user gave it back, if its seats are kept since then.
    fn given_back_at(&self) -> Option<Timestamp> {
        let is_given_back = self.term.ends_as == Some(ReservationStatus::Released);
        is_given_back.then_some(self.term.expires_at)
    }

    /// How many of its seats were not cancelled.
    fn live_seats(&self) -> usize {
        self.seats.len().saturating_sub(self.cancelled.len())
    }

    /// The answer at acceptance.
    fn hold(&self, schedule_id: ScheduleId) -> Hold {
        Hold {
            reservation_id: self.reservation_id,
            schedule_id,
            seats: self.seats.clone(),
            total: self.total,
            held_at: self.held_at,
            expires_at: self.term.first_expires_at,
        }
    }

    fn assert_valid(&self) {
        assert!(self.held_at <= self.term.expires_at, "{self:?}");
        assert!(self.term.expires_at <= self.term.release_at, "{self:?}");
        assert_eq!(
            self.status.is_live(),
            self.ended_at.is_none(),
            "exactly the live ones have no end: {self:?}"
        );
        assert!(!self.seats.is_empty(), "{self:?}");
    }
}

/// Everything the owner of one schedule knows; a function of committed rows and the commands since.
/// Two that know the same are equal, in whatever order the rows came.
#[derive(Clone, Debug, PartialEq)]
pub struct Sale {
    schedule_id: ScheduleId,
    policy: Policy,
    map_version: i64,
    layout: Layout,
    /// By seat number.
    claims: Vec<Option<Claim>>,
    /// The seats without a claim, by their position on the plan.
    free: Bits,
    reservations: HashMap<ReservationId, Reservation>,
    commands: HashMap<CommandId, Accepted>,
    blocks: Blocks,
    /// The live reservations of each user, by id.
    live: HashMap<UserId, Vec<ReservationId>>,
    /// The holds, by when their seats are released.
    due: BTreeSet<(Timestamp, ReservationId)>,
    /// The latest time that a row has. What is written is never earlier, also when a tick's clock
    /// ran ahead of the stream's, and the next owner knows it as well.
    latest: Timestamp,
    /// See [`Self::doubtful`].
    doubtful: Vec<ReservationId>,
    /// What decides when seats are released, see [`release_delay_ms`].
    release_seed: Uuid,
    gate: Gate,
    /// Within which the passes are that hold seats.
    generation: Generation,
    entries: Entries,
    /// Notices that were found done, see [`Self::load_told`].
    told: HashSet<NoticeId>,
    /// Since the last seal.
    facts: Vec<Fact>,
}

/// An accepted hold command.
#[derive(Clone, Debug, PartialEq)]
enum Accepted {
    Here(ReservationId),
    /// At another schedule, or too long ago to be loaded.
    Elsewhere(Fingerprint, Hold),
}

impl Sale {
    /// A schedule without reservations.
    ///
    /// # Panics
    /// When holds would have no duration.
    #[must_use]
    pub fn new(schedule_id: ScheduleId, policy: Policy, layout: Layout, map_version: i64) -> Self {
        assert!(policy.hold_ms > 0, "a hold lasts for some time");
        Self {
            schedule_id,
            policy,
            map_version,
            claims: vec![None; layout.prices.len()],
            free: Bits::all(layout.prices.len()),
            layout,
            reservations: HashMap::new(),
            commands: HashMap::new(),
            blocks: Blocks::default(),
            live: HashMap::new(),
            due: BTreeSet::new(),
            latest: Timestamp::EPOCH,
            doubtful: Vec::new(),
            release_seed: Uuid::nil(),
            gate: Gate::default(),
            generation: Generation::default(),
            entries: Entries::default(),
            told: HashSet::new(),
            facts: Vec::new(),
        }
    }

    /// With a secret by which seats are released, see [`release_delay_ms`].
    #[must_use]
    pub fn with_release_seed(self, release_seed: Uuid) -> Self {
        Self {
            release_seed,
            ..self
        }
    }

    /// Adds a reservation from its row: the live ones, and those that ended within the last day.
    /// The command of an older one is found when its insert conflicts, and added as foreign.
    ///
    /// # Panics
    /// When the row contradicts itself, or its id or command is known.
    pub fn load_reservation(&mut self, mut r: Reservation) {
        // The cancellation of all that was left says so by the status and the end.
        if r.status == ReservationStatus::Cancelled {
            (r.cancelled, r.cancelled_at) = (r.seats.clone(), r.ended_at);
        }
        r.cancelled.sort_unstable();
        r.assert_valid();
        let written = [
            Some(r.held_at),
            r.ended_at,
            r.given_back_at(),
            r.cancelled_at,
        ];
        self.latest = written
            .into_iter()
            .flatten()
            .fold(self.latest, Timestamp::max);
        self.insert(r);
    }

    /// Adds a claim from its row.
    ///
    /// # Panics
    /// When the seat is not in the layout, or claimed twice.
    pub fn load_claim(
        &mut self,
        seat: SeatNo,
        reservation: Option<ReservationId>,
        state: ClaimState,
    ) {
        assert_eq!(
            state == ClaimState::Blocked,
            reservation.is_none(),
            "exactly the blocks have no reservation"
        );
        let at = self.seat_index(seat).expect("a claimed seat is a seat");
        let twice = self.set_claim(at, Some(Claim { reservation, state }));
        assert!(twice.is_none(), "S1: seat {seat:?} is claimed twice");
    }

    /// Adds an accepted command that has no reservation among those loaded: its key was used for
    /// another schedule, or it ended long ago. It is a duplicate from now on. Comes after the rows.
    pub fn load_foreign(&mut self, command_id: CommandId, fingerprint: Fingerprint, hold: Hold) {
        self.commands
            .entry(command_id)
            .or_insert(Accepted::Elsewhere(fingerprint, hold));
    }

    /// The schedule.
    #[must_use]
    pub fn schedule_id(&self) -> ScheduleId {
        self.schedule_id
    }

    /// The version of the map, after the last seal.
    #[must_use]
    pub fn map_version(&self) -> i64 {
        self.map_version
    }

    /// The layout by which it decides, see [`Layout::no`].
    #[must_use]
    pub fn layout_no(&self) -> i64 {
        self.layout.no
    }

    /// Lapses the holds that are due at `now`, the earliest first, at most `max`; returns how many.
    /// It is the part of the owner's tick.
    pub fn lapse_due(&mut self, now: Timestamp, max: usize, changes: &mut Changes) -> usize {
        let now = now.max(self.latest);
        for lapsed in 0..max {
            match self.due.first() {
                Some(&(release_at, id)) if release_at <= now => self.lapse(id, now, changes),
                Some(_) | None => return lapsed,
            }
        }
        max
    }

    /// When the seats of a hold are to be released next.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|&(release_at, _)| release_at)
    }

    /// Ends a batch: if it changed the map or made facts, the version grows by one, and the map's
    /// change and the facts are appended to `changes`. To be called once for each schedule that a
    /// batch touched, with the changes of that batch.
    ///
    /// # Panics
    /// When it is called twice.
    pub fn seal(&mut self, business: Timestamp, changes: &mut Changes) {
        let seats = changes.claims.map_of(self.schedule_id);
        if seats.is_empty() && self.facts.is_empty() {
            return;
        }
        assert!(
            changes
                .maps
                .iter()
                .all(|map| map.schedule_id != self.schedule_id),
            "a batch is sealed once"
        );
        let from_version = self.map_version;
        self.map_version += 1;
        changes.maps.push(MapChange {
            schedule_id: self.schedule_id,
            from_version,
            version: self.map_version,
            at: business.max(self.latest),
            changes: seats,
            layout_no: Some(self.layout.no),
        });
        changes.facts.push(Facts {
            schedule_id: self.schedule_id,
            version: self.map_version,
            facts: std::mem::take(&mut self.facts),
        });
    }

    /// Forgets what ended before `before`. A retry that comes later is noticed by the command's
    /// unique key and told by [`Self::load_foreign`].
    pub fn prune(&mut self, before: Timestamp) {
        let commands = &mut self.commands;
        self.reservations.retain(|_, r| {
            let keep = r.ended_at.is_none_or(|ended_at| ended_at >= before);
            if !keep {
                commands.remove(&r.command_id);
            }
            keep
        });
        commands.retain(|_, accepted| match accepted {
            Accepted::Here(_) => true,
            Accepted::Elsewhere(_, hold) => hold.expires_at >= before,
        });
        let entered = self.reservations.values().filter_map(|r| r.entry);
        let entered: HashSet<TicketId> = entered.map(|entry| entry.ticket_id).collect();
        self.entries.prune(&entered, before);
    }

    /// Makes a reservation known under all its keys.
    fn insert(&mut self, r: Reservation) {
        let id = r.reservation_id;
        self.enlist(&r);
        let same_command = self.commands.insert(r.command_id, Accepted::Here(id));
        assert!(same_command.is_none(), "I1: {r:?}");
        let same_id = self.reservations.insert(id, r);
        assert!(same_id.is_none(), "a reservation is known once");
    }

    /// Puts a live reservation into the lists of those.
    fn enlist(&mut self, r: &Reservation) {
        let id = r.reservation_id;
        if r.status.is_live() {
            let of_user = self.live.entry(r.user_id).or_default();
            let at = of_user.partition_point(|other| *other < id);
            of_user.insert(at, id);
        }
        if r.status == ReservationStatus::Held {
            self.due.insert((r.term.release_at, id));
        }
    }

    /// Takes a reservation out of the lists of live ones.
    fn strike_off(&mut self, r: &Reservation) {
        self.due.remove(&(r.term.release_at, r.reservation_id));
        if let Some(of_user) = self.live.get_mut(&r.user_id) {
            of_user.retain(|other| *other != r.reservation_id);
            if of_user.is_empty() {
                self.live.remove(&r.user_id);
            }
        }
    }

    /// Changes who has a seat; returns who had it.
    fn set_claim(&mut self, at: usize, claim: Option<Claim>) -> Option<Claim> {
        self.free
            .set(self.layout.plan.position(at), claim.is_none());
        std::mem::replace(&mut self.claims[at], claim)
    }

    fn claim(&self, seat: SeatNo) -> Option<Claim> {
        seat.index()
            .and_then(|at| self.claims.get(at).copied().flatten())
    }

    fn seat_index(&self, seat: SeatNo) -> Option<usize> {
        seat.index().filter(|at| *at < self.claims.len())
    }
}
