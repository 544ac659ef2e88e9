//! The tables, with the constraints of the migrations, and what a batch of proposals meets in them.

use crate::database::Session;
use crate::rng::Rng;
use crate::sim::Plan;
use crate::stream::{Body, Stored};
use onsale_domain::seats::plan::Spot;
use onsale_domain::seats::{BlockRow, Changes, Claim, Layout, Policy, Reservation, Sale};
use onsale_platform::db;
use onsale_schema::partition::of_schedule;
use onsale_schema::seats::{Hold, MapChange, Outcome};
use onsale_schema::status::{ReservationStatus, SaleState};
use onsale_schema::{
    CommandId, MessageId, Money, NoticeId, PartitionNo, ReservationId, ScheduleId, SeatNo,
    Timestamp, WorkerId,
};
use onsale_workers::runtime::core::{Cursor, DeadLetter, Decided, Fence, Proposal};
use onsale_workers::sabotage::{self, Bug};
use onsale_workers::seats::{Accepted, Seats};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub struct PartitionRow {
    pub owner: Option<WorkerId>,
    pub fence: Fence,
    pub cursor: Cursor,
}

pub struct SaleRow {
    pub policy: Policy,
    pub layout: Layout,
    /// So many of them are seats; the rest are places.
    pub seats: i32,
    pub map_version: i64,
}

/// The section of places.
pub const PLACES: &str = "F";

/// The layout that a schedule has after so many were replaced: of as many seats and places, each at
/// another price, so that nobody can take one for another.
fn layout(no: i64, seats: i32, places: i32) -> Layout {
    let spots = (0..seats + places).map(|n| Spot {
        section: if n < seats { "A" } else { PLACES },
        row: if n < seats { "1" } else { "" },
        number: n,
        grade: "R",
        price: Money::won(i64::from(n) + 1000 * no),
        x: f32::from(i16::try_from(n).expect("few")),
        y: 0.0,
    });
    Layout::new(no, spots)
}

#[derive(Clone)]
pub struct ReservationRow {
    pub schedule: ScheduleId,
    pub reservation: Reservation,
}

impl ReservationRow {
    pub fn hold(&self) -> Hold {
        let r = &self.reservation;
        Hold {
            reservation_id: r.reservation_id,
            schedule_id: self.schedule,
            seats: r.seats.clone(),
            total: r.total,
            held_at: r.held_at,
            expires_at: r.term.first_expires_at,
        }
    }
}

pub struct OutcomeRow {
    pub message: MessageId,
    pub outcomes: Vec<Outcome>,
}

pub struct NoticeRow {
    pub schedule: ScheduleId,
    pub reservation: ReservationId,
    /// Seats of it that are on sale again, and their owner doesn't know.
    pub cancels: Vec<SeatNo>,
    pub payload: Vec<u8>,
    pub created_at: Timestamp,
    pub is_done: bool,
}

pub struct WorkerRow {
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
    /// The session that is its life-sign.
    pub life: Session,
    pub leaving: bool,
}

/// Partition, incarnation, sequence.
pub type OutcomeKey = (PartitionNo, i32, u64);

/// What is committed.
pub struct Rows {
    pub partitions: Vec<PartitionRow>,
    pub sales: BTreeMap<ScheduleId, SaleRow>,
    pub reservations: BTreeMap<ReservationId, ReservationRow>,
    /// Unique: the reservation of a command.
    pub commands: BTreeMap<CommandId, ReservationId>,
    pub claims: BTreeMap<(ScheduleId, SeatNo), Claim>,
    /// Blocks and lifts, by their commands.
    pub blocks: BTreeMap<CommandId, BlockRow>,
    pub outcomes: BTreeMap<OutcomeKey, OutcomeRow>,
    /// An index.
    pub outcomes_of: BTreeMap<MessageId, Vec<OutcomeKey>>,
    pub dead: BTreeMap<(OutcomeKey, i32), String>,
    pub notices: BTreeMap<NoticeId, NoticeRow>,
    pub cancellations: BTreeMap<(ReservationId, SeatNo), Timestamp>,
    pub facts: BTreeSet<(ScheduleId, i64)>,
    pub workers: BTreeMap<WorkerId, WorkerRow>,
}

/// A proposal as its statements carry it.
pub struct Staged {
    pub partition: PartitionNo,
    pub expect: Fence,
    pub cursor: Cursor,
    pub decided_at: Timestamp,
    pub decided: Vec<Decided<Outcome>>,
    pub dead: Vec<DeadLetter>,
    pub changes: Changes,
}

impl From<&&Proposal<Seats>> for Staged {
    fn from(p: &&Proposal<Seats>) -> Self {
        Self {
            partition: p.partition,
            expect: p.expect,
            cursor: p.cursor,
            decided_at: p.decided_at,
            decided: p.decided.clone(),
            dead: p.dead.clone(),
            changes: p.changes.clone(),
        }
    }
}

/// What the statements of a batch met, as [`onsale_workers::runtime::servers`] reads it.
#[derive(Clone, Default)]
pub struct Met {
    pub deposed: HashSet<usize>,
    pub missed: HashSet<usize>,
    /// Whether it was because of a layout that was replaced.
    pub is_replaced: bool,
}

impl Rows {
    pub fn new(plan: &Plan, rng: &mut Rng) -> Self {
        let mut sales = BTreeMap::new();
        for _ in 0..plan.schedules {
            let opens_ms = if rng.percent(30) { 3000 } else { -1000 };
            let policy = Policy {
                state: SaleState::Open,
                booking_opens_at: crate::sim::BASE.plus_ms(opens_ms),
                booking_closes_at: crate::sim::BASE.plus_ms(3_600_000),
                hold_ms: plan.hold_ms,
                seats_per_user: plan.seats_per_user,
                extensions_max: 2,
                hold_total_ms: 2 * plan.hold_ms,
                prevents_orphans: rng.percent(30),
                release_jitter_ms: if rng.percent(30) { 800 } else { 0 },
                cancelled: false,
            };
            let row = SaleRow {
                policy,
                layout: layout(0, plan.seats, plan.places),
                seats: plan.seats,
                map_version: 0,
            };
            sales.insert(ScheduleId(rng.uuid()), row);
        }
        let partitions = (0..plan.partitions).map(|_| PartitionRow {
            owner: None,
            fence: Fence {
                epoch: 0,
                commit_no: 0,
            },
            cursor: Cursor {
                incarnation: 0,
                seq: 0,
                at: Timestamp::EPOCH,
                decided_at: Timestamp::EPOCH,
            },
        });
        Self {
            partitions: partitions.collect(),
            sales,
            reservations: BTreeMap::new(),
            commands: BTreeMap::new(),
            claims: BTreeMap::new(),
            blocks: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            outcomes_of: BTreeMap::new(),
            dead: BTreeMap::new(),
            notices: BTreeMap::new(),
            cancellations: BTreeMap::new(),
            facts: BTreeSet::new(),
            workers: BTreeMap::new(),
        }
    }

    pub fn partition_of(&self, schedule: ScheduleId) -> PartitionNo {
        let count = u16::try_from(self.partitions.len()).expect("few partitions");
        of_schedule(schedule, count)
    }

    pub fn partition(&mut self, no: PartitionNo) -> &mut PartitionRow {
        &mut self.partitions[usize::from(no.0)]
    }

    /// One schedule, as its owner loads it.
    pub fn sale(&self, schedule: ScheduleId) -> Option<Sale> {
        let row = self.sales.get(&schedule)?;
        let mut sale = Sale::new(schedule, row.policy, row.layout.clone(), row.map_version);
        for row in self.reservations.values() {
            if row.schedule == schedule {
                sale.load_reservation(row.reservation.clone());
            }
        }
        for ((of, seat), claim) in &self.claims {
            if *of == schedule {
                sale.load_claim(*seat, claim.reservation, claim.state);
            }
        }
        let blocks = self
            .blocks
            .values()
            .filter(|row| row.schedule_id == schedule);
        sale.load_blocks(&blocks.cloned().collect::<Vec<_>>());
        Some(sale)
    }

    /// Which layouts these schedules have.
    pub fn layout_nos(&self, ids: &[ScheduleId]) -> HashMap<ScheduleId, i64> {
        let rows = ids.iter().filter_map(|id| Some((id, self.sales.get(id)?)));
        rows.map(|(id, row)| (*id, row.layout.no)).collect()
    }

    /// Replaces a layout, unless there ever was a claim, as the ingress does.
    pub fn replace_layout(&mut self, schedule: ScheduleId) -> bool {
        let is_used = self.reservations.values().any(|r| r.schedule == schedule)
            || self.blocks.values().any(|b| b.schedule_id == schedule);
        let row = self.sales.get_mut(&schedule).expect("a schedule");
        if !is_used {
            let all = i32::try_from(row.layout.prices().len()).expect("few seats");
            row.layout = layout(row.layout.no + 1, row.seats, all - row.seats);
        }
        !is_used
    }

    /// The statuses of these reservations.
    pub fn statuses(&self, ids: &[ReservationId]) -> HashMap<ReservationId, ReservationStatus> {
        let rows = ids.iter().filter_map(|id| self.reservations.get(id));
        rows.map(|row| (row.reservation.reservation_id, row.reservation.status))
            .collect()
    }

    /// Which of these notices are not done.
    pub fn open_notices(&self, ids: &[NoticeId]) -> HashSet<NoticeId> {
        let is_open = |id: &&NoticeId| self.notices.get(id).is_some_and(|row| !row.is_done);
        ids.iter().filter(is_open).copied().collect()
    }

    /// Which of these were accepted.
    pub fn accepted(&self, commands: &[CommandId]) -> Vec<Accepted> {
        commands
            .iter()
            .filter_map(|id| {
                let row = &self.reservations[self.commands.get(id)?];
                Some((*id, row.reservation.fingerprint, row.hold()))
            })
            .collect()
    }

    /// Executes the statements of a transaction, all in one flush. An error is of the first
    /// statement that failed.
    pub fn execute(&mut self, me: WorkerId, batch: &[Staged]) -> Result<Met, db::Error> {
        let mut met = Met::default();
        for (index, p) in batch.iter().enumerate() {
            let row = self.partition(p.partition);
            let passes = row.owner == Some(me) && row.fence == p.expect;
            if !passes && !sabotage::is(Bug::NoFence) {
                met.deposed.insert(index);
            } else if sabotage::is(Bug::CursorOutsideTransaction) {
                row.cursor = p.cursor;
            }
        }
        // The fence comes first: what a deposed owner writes may fail in any way.
        match self.execute_writes(batch) {
            Ok(missed) => {
                met.is_replaced = !missed.is_empty() && !self.replaced(batch).is_empty();
                met.missed = missed;
            }
            Err(error) if met.deposed.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(met)
    }

    /// What the statements behind the fence meet; says which conditional ones missed.
    fn execute_writes(&self, batch: &[Staged]) -> Result<HashSet<usize>, db::Error> {
        for p in batch {
            let key = |seq| (p.partition, p.cursor.incarnation, seq);
            let mut new = p.decided.iter().map(|decided| key(decided.seq));
            if let Some(key) = new.find(|key| self.outcomes.contains_key(key)) {
                return Err(constraint("outcome_pkey", format!("{key:?}")));
            }
            let mut new = p.dead.iter().map(|d| (key(d.seq), d.command_index));
            if let Some(key) = new.find(|key| self.dead.contains_key(key)) {
                return Err(constraint("dead_letter_pkey", format!("{key:?}")));
            }
        }
        let missed = self.missed(batch)?;
        if missed.is_empty() {
            for p in batch {
                self.execute_others(p)?;
            }
        }
        Ok(missed)
    }

    /// Those that decided by a layout that was replaced; behind these, nothing else counts.
    fn replaced(&self, batch: &[Staged]) -> HashSet<usize> {
        let is_replaced = |map: &MapChange| {
            let row = self.sales.get(&map.schedule_id);
            row.is_some_and(|row| map.layout_no != Some(row.layout.no))
        };
        let all = batch.iter().enumerate();
        all.filter(|(_, p)| p.changes.maps.iter().any(is_replaced))
            .map(|(index, _)| index)
            .collect()
    }

    /// Conditional ends, inserts and notices that affect no row.
    fn missed(&self, batch: &[Staged]) -> Result<HashSet<usize>, db::Error> {
        let mut missed = self.replaced(batch);
        if sabotage::is(Bug::NoLayoutFence) {
            missed.clear();
        }
        if !missed.is_empty() {
            return Ok(missed);
        }
        let mut made = BTreeSet::new();
        for (index, p) in batch.iter().enumerate() {
            for update in &p.changes.terms {
                let row = self.reservations.get(&update.reservation_id);
                let r = row.map(|row| &row.reservation);
                let ends = Some(update.before.expires_at);
                if r.is_none_or(|r| r.status != ReservationStatus::Held)
                    || r.map(|r| r.term.expires_at) != ends
                {
                    missed.insert(index);
                }
            }
            let is_done = |id| self.notices.get(id).is_none_or(|row| row.is_done);
            if p.changes.notices_open.iter().any(is_done) {
                missed.insert(index);
            }
            for ended in &p.changes.ended {
                let row = self.reservations.get(&ended.reservation_id);
                if row.is_none_or(|row| row.reservation.status != ended.from) {
                    missed.insert(index);
                }
            }
            for new in &p.changes.reservations {
                let r = &new.reservation;
                if self.commands.contains_key(&r.command_id) || !made.insert(r.command_id) {
                    missed.insert(index);
                } else if self.reservations.contains_key(&r.reservation_id) {
                    let id = format!("{}", r.reservation_id);
                    return Err(constraint("reservation_pkey", id));
                }
            }
        }
        Ok(missed)
    }

    /// Statements whose counts must be as expected.
    fn execute_others(&self, p: &Staged) -> Result<(), db::Error> {
        let net = p.changes.claims.net();
        let claim = |schedule, seat| self.claims.get(&(schedule, seat));
        let refused = |what: &str| Err(db::Error::Refused(format!("{what}: counts differ")));
        for delete in &net.deletes {
            let row = claim(delete.schedule_id, delete.seat_no);
            if row.is_none_or(|row| row.reservation != delete.from) {
                return refused("claims to delete");
            }
        }
        for update in &net.updates {
            let row = claim(update.schedule_id, update.seat_no);
            if row.is_none_or(|row| row.reservation != update.from) {
                return refused("claims to update");
            }
        }
        for insert in &net.inserts {
            let (schedule, seat) = (insert.schedule_id, insert.seat_no);
            if claim(schedule, seat).is_some() {
                let key = format!("S1: {schedule} {}", seat.0);
                return Err(constraint("seat_claim_pkey", key));
            }
            let sale = self.sales.get(&schedule);
            let seats = sale.map_or(0, |sale| sale.layout.prices().len());
            if seat.index().is_none_or(|at| at >= seats) {
                return Err(constraint("seat_claim_seat_fkey", format!("{}", seat.0)));
            }
        }
        let mut new = p.changes.blocks.iter();
        if let Some(row) = new.find(|row| self.blocks.contains_key(&row.command_id)) {
            return Err(constraint("seat_block_pkey", format!("{row:?}")));
        }
        for map in &p.changes.maps {
            let row = self.sales.get(&map.schedule_id);
            if row.is_none_or(|row| row.map_version != map.from_version) {
                return refused("map versions");
            }
        }
        for facts in &p.changes.facts {
            if self.facts.contains(&(facts.schedule_id, facts.version)) {
                return Err(constraint("outbox_pkey", format!("{}", facts.version)));
            }
        }
        Ok(())
    }

    /// Whether a message on the stream is decided: its outcome alone may be one of a former life.
    pub fn is_decided(&self, message: &Stored) -> bool {
        let cursor = self.partitions[usize::from(message.partition.0)].cursor;
        cursor.at >= message.at && self.outcomes_of_stored(message) > 0
    }

    /// How many outcomes or dead letters a message on the stream has.
    pub fn outcomes_of_stored(&self, message: &Stored) -> usize {
        let incarnation = self.partitions[usize::from(message.partition.0)]
            .cursor
            .incarnation;
        let keys = (0..=incarnation).map(|i| (message.partition, i, message.seq));
        keys.filter(|key| match &message.body {
            Body::Junk(_) => self.dead.contains_key(&(*key, -1)),
            Body::Commands(_) => {
                let row = self.outcomes.get(key);
                row.is_some_and(|row| row.message == message.id)
            }
        })
        .count()
    }

    /// Makes what the statements did visible.
    pub fn apply(&mut self, p: &Staged) {
        let row = self.partition(p.partition);
        row.fence.commit_no += 1;
        row.cursor = p.cursor;
        for decided in &p.decided {
            let key = (p.partition, p.cursor.incarnation, decided.seq);
            let row = OutcomeRow {
                message: decided.message_id,
                outcomes: decided.outcomes.clone(),
            };
            self.outcomes.insert(key, row);
            self.outcomes_of
                .entry(decided.message_id)
                .or_default()
                .push(key);
        }
        for dead in &p.dead {
            let key = (p.partition, p.cursor.incarnation, dead.seq);
            self.dead
                .insert((key, dead.command_index), dead.error.clone());
        }
        for update in &p.changes.terms {
            let row = self.reservations.get_mut(&update.reservation_id);
            let r = &mut row.expect("it was there when locked").reservation;
            r.term = update.after.clone();
        }
        for ended in &p.changes.ended {
            let row = self.reservations.get_mut(&ended.reservation_id);
            let r = &mut row.expect("it was there when locked").reservation;
            (r.status, r.ended_at) = (ended.to, Some(ended.at));
            r.term.given_back_by = ended.given_back_by.or(r.term.given_back_by);
        }
        for new in &p.changes.reservations {
            let (id, command) = (new.reservation.reservation_id, new.reservation.command_id);
            let row = ReservationRow {
                schedule: new.schedule_id,
                reservation: new.reservation.clone(),
            };
            self.reservations.insert(id, row);
            self.commands.insert(command, id);
        }
        self.apply_claims(&p.changes);
        let blocks = p.changes.blocks.iter();
        self.blocks
            .extend(blocks.map(|row| (row.command_id, row.clone())));
        for notice in &p.changes.notices_done {
            if let Some(row) = self.notices.get_mut(notice) {
                row.is_done = true;
            }
        }
    }

    fn apply_claims(&mut self, changes: &Changes) {
        let net = changes.claims.net();
        for delete in net.deletes {
            self.claims.remove(&(delete.schedule_id, delete.seat_no));
        }
        for update in net.updates {
            let claim = Claim {
                reservation: update.to,
                state: update.state,
            };
            self.claims
                .insert((update.schedule_id, update.seat_no), claim);
        }
        for insert in net.inserts {
            let claim = Claim {
                reservation: insert.reservation_id,
                state: insert.state,
            };
            self.claims
                .insert((insert.schedule_id, insert.seat_no), claim);
        }
        for update in &changes.policies {
            let row = self.sales.get_mut(&update.schedule_id);
            row.expect("it was there when locked").policy = update.after;
        }
        for map in &changes.maps {
            let row = self.sales.get_mut(&map.schedule_id);
            row.expect("it was there when locked").map_version = map.version;
        }
        for facts in &changes.facts {
            self.facts.insert((facts.schedule_id, facts.version));
        }
    }

    /// Makes a hold PAID.
    pub fn pay(&mut self, reservation: ReservationId) {
        let paid = self.reservations.get_mut(&reservation);
        let r = &mut paid.expect("it was there when locked").reservation;
        assert_eq!(r.status, ReservationStatus::Held, "it is locked");
        r.status = ReservationStatus::Paid;
    }

    /// Cancels seats of what is PAID.
    pub fn cancel(&mut self, reservation: ReservationId, seats: &[SeatNo], at: Timestamp) {
        let paid = self.reservations.get_mut(&reservation);
        let r = &mut paid.expect("it was there when locked").reservation;
        assert_eq!(r.status, ReservationStatus::Paid, "it is locked");
        r.cancelled.extend(seats);
        r.cancelled.sort_unstable();
        r.cancelled_at = Some(at);
        if r.cancelled.len() == r.seats.len() {
            (r.status, r.ended_at) = (ReservationStatus::Cancelled, Some(at));
        }
        let cancelled = seats.iter().map(|seat| ((reservation, *seat), at));
        self.cancellations.extend(cancelled);
    }

    /// Whether a seat is still a reservation's by its claim.
    pub fn is_claimed_by(&self, row: &ReservationRow, seat: SeatNo) -> bool {
        let claim = self.claims.get(&(row.schedule, seat));
        claim.is_some_and(|claim| claim.reservation == Some(row.reservation.reservation_id))
    }
}

fn constraint(name: &str, message: String) -> db::Error {
    db::Error::Constraint {
        constraint: name.to_owned(),
        message,
    }
}
