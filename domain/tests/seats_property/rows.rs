//! The tables as the store would leave them: all of a batch or nothing, with the constraints of
//! the migrations, and the invariants checked from the rows alone.

mod passes;

use crate::model::SECTION;
use onsale_domain::seats::plan::Spot;
use onsale_domain::seats::{
    BlockRow, Changes, Claim, Gate, Layout, Policy, Reservation, Sale, Term, TermUpdate,
};
use onsale_schema::message::Fingerprint;
use onsale_schema::seats::{Hold, Kind, MapChange};
use onsale_schema::status::{ClaimState, ReservationStatus};
use onsale_schema::{
    ArrivalNo, CommandId, Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId, SeatNo,
    Timestamp,
};
use passes::Told;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// By which seats are released at random.
pub const RELEASE_SEED: Uuid = Uuid::from_u128(42);

#[derive(Clone)]
pub struct Rows {
    pub schedule: ScheduleId,
    pub policy: Policy,
    pub gate: Gate,
    /// Tickets that ended before their passes.
    pub over: BTreeMap<ArrivalNo, Timestamp>,
    pub layout: Layout,
    /// See [`Model::seated`](crate::model::Model::seated).
    pub seated: usize,
    pub reservations: BTreeMap<ReservationId, Reservation>,
    pub claims: BTreeMap<SeatNo, Claim>,
    /// Blocks and lifts.
    pub blocks: Vec<BlockRow>,
    pub map_version: i64,
    /// Accepted commands of other schedules.
    pub foreign: HashMap<CommandId, (Fingerprint, Hold)>,
    pub open_notices: BTreeMap<NoticeId, Kind>,
    /// When seats were cancelled.
    pub cancellations: BTreeMap<(ReservationId, SeatNo), Timestamp>,
    /// What the owner of the waiting room knows of holds.
    pub told: BTreeMap<ReservationId, Told>,
    /// Orders whose money went back for want of seats.
    pub refunded: BTreeSet<PaymentOrderId>,
    /// The map of somebody who follows the broadcasts.
    pub shown: Vec<Option<ClaimState>>,
}

/// Seats in one row, each a metre farther from the stage, and behind them the places.
pub fn layout(no: i64, prices: &[Money], seated: usize) -> Layout {
    let spots = prices.iter().zip(0u16..).map(|(&price, at)| {
        let is_place = usize::from(at) >= seated;
        Spot {
            section: if is_place { SECTION } else { "A" },
            row: if is_place { "" } else { "1" },
            number: i32::from(at),
            grade: "R",
            price,
            x: f32::from(at) + 1.0,
            y: 0.0,
        }
    });
    Layout::new(no, spots)
}

/// Why a batch can't be committed as it was decided.
#[derive(Debug)]
pub enum Miss {
    /// A payment was quicker than an end.
    Conditional,
    /// These commands were accepted before.
    Known(Vec<CommandId>),
    /// The layout was replaced.
    Layout,
    /// What a notice says was decided before.
    Told,
}

impl Rows {
    /// What the next owner knows: live reservations and those that ended since `since`.
    pub fn load(&self, since: Timestamp) -> Sale {
        let mut sale = Sale::new(
            self.schedule,
            self.policy,
            self.layout.clone(),
            self.map_version,
        )
        .with_release_seed(RELEASE_SEED)
        .with_gate(self.gate);
        // Not in the order in which they were made.
        for r in self.reservations.values() {
            if r.ended_at.is_none_or(|ended_at| ended_at >= since) {
                sale.load_reservation(r.clone());
            }
        }
        for (seat, claim) in &self.claims {
            sale.load_claim(*seat, claim.reservation, claim.state);
        }
        sale.load_blocks(&self.blocks);
        for (no, ended_at) in &self.over {
            sale.load_over(*no, *ended_at);
        }
        for (ticket, holds) in self.entries() {
            sale.load_entries(ticket, holds);
        }
        sale
    }

    /// The accepted hold of a command, wherever it lives.
    pub fn accepted(&self, command: CommandId) -> Option<(Fingerprint, Hold)> {
        let here = self.reservations.values().find(|r| r.command_id == command);
        let here = here.map(|r| {
            let hold = Hold {
                reservation_id: r.reservation_id,
                schedule_id: self.schedule,
                seats: r.seats.clone(),
                total: r.total,
                held_at: r.held_at,
                expires_at: r.term.first_expires_at,
            };
            (r.fingerprint, hold)
        });
        here.or_else(|| self.foreign.get(&command).cloned())
    }

    /// Replaces the layout, as the ingress does: only where there never was a claim.
    pub fn replace_layout(&mut self, prices: Vec<Money>, seated: usize) -> bool {
        let is_free = self.reservations.is_empty() && self.blocks.is_empty();
        assert!(!is_free || self.claims.is_empty());
        if is_free {
            self.shown = vec![None; prices.len()];
            let no = self.layout.no + 1;
            self.layout = layout(no, &prices, seated);
            self.seated = seated;
        }
        is_free
    }

    pub fn commit(&mut self, changes: &Changes) -> Result<(), Miss> {
        let is_by = |map: &MapChange| map.layout_no == Some(self.layout.no);
        if !changes.maps.iter().all(is_by) {
            return Err(Miss::Layout);
        }
        let commands = changes
            .reservations
            .iter()
            .map(|n| n.reservation.command_id);
        let known: Vec<CommandId> = commands.filter(|c| self.accepted(*c).is_some()).collect();
        if !known.is_empty() {
            return Err(Miss::Known(known));
        }
        let is_as_expected =
            |e: &onsale_domain::seats::Ended| self.reservations[&e.reservation_id].status == e.from;
        let lasts = |u: &TermUpdate| {
            let row = &self.reservations[&u.reservation_id];
            assert_eq!(row.term, u.before, "only its owner changes it");
            row.status == ReservationStatus::Held
        };
        if !changes.ended.iter().all(is_as_expected) || !changes.terms.iter().all(lasts) {
            return Err(Miss::Conditional);
        }
        let is_open = |id| self.open_notices.contains_key(id);
        if !changes.notices_open.iter().all(is_open) {
            return Err(Miss::Told);
        }
        for update in &changes.terms {
            let row = self.reservations.get_mut(&update.reservation_id).unwrap();
            row.term = update.after.clone();
        }
        for ended in &changes.ended {
            assert_eq!(ended.from, ReservationStatus::Held, "S4");
            let row = self.reservations.get_mut(&ended.reservation_id).unwrap();
            (row.status, row.ended_at) = (ended.to, Some(ended.at));
            if ended.given_back_by.is_some() {
                row.term.given_back_by = ended.given_back_by;
            }
        }
        for new in &changes.reservations {
            let row = new.reservation.clone();
            assert_eq!(new.schedule_id, self.schedule);
            let is_reheld = row.rehold_order.is_some();
            assert_eq!(row.status == ReservationStatus::Paid, is_reheld, "S4");
            assert!(self.reservations.insert(row.reservation_id, row).is_none());
        }
        for update in &changes.policies {
            assert_eq!(update.before, self.policy);
            self.policy = update.after;
        }
        self.write_passes(changes);
        self.write_claims(changes);
        self.blocks.extend(changes.blocks.iter().cloned());
        for notice in &changes.notices_done {
            self.open_notices.remove(notice);
        }
        self.follow(changes);
        Ok(())
    }

    fn write_claims(&mut self, changes: &Changes) {
        let net = changes.claims.net();
        for delete in net.deletes {
            let before = self.claims.remove(&delete.seat_no);
            assert_eq!(before.expect("it is there").reservation, delete.from);
        }
        for update in net.updates {
            let row = self.claims.get_mut(&update.seat_no).expect("it is there");
            assert_eq!(row.reservation, update.from);
            *row = Claim {
                reservation: update.to,
                state: update.state,
            };
        }
        for insert in net.inserts {
            let claim = Claim {
                reservation: insert.reservation_id,
                state: insert.state,
            };
            assert!(self.claims.insert(insert.seat_no, claim).is_none(), "S1");
        }
    }

    /// The version grows by one, exactly when there is something to say, and nothing is said that
    /// was so before.
    fn follow(&mut self, changes: &Changes) {
        assert_eq!(changes.maps.len(), changes.facts.len());
        let Some(map) = changes.maps.first() else {
            assert!(changes.reservations.is_empty() && changes.ended.is_empty());
            let is_unsaid = |update: &TermUpdate| {
                let paying_order = update.before.paying_order;
                let after = update.after.clone();
                update.before
                    == Term {
                        paying_order,
                        ..after
                    }
            };
            assert!(changes.terms.iter().all(is_unsaid));
            assert!(changes.policies.is_empty() && changes.blocks.is_empty());
            return;
        };
        assert_eq!(changes.maps.len(), 1);
        assert_eq!(map.from_version, self.map_version);
        assert_eq!(map.version, self.map_version + 1);
        assert_eq!(changes.facts[0].version, map.version);
        assert!(!changes.facts[0].facts.is_empty());
        self.map_version = map.version;
        for (seat, state) in &map.changes {
            let shown = &mut self.shown[seat.index().unwrap()];
            assert_ne!(shown, state, "seat {seat:?} is not said to be what it was");
            *shown = *state;
        }
    }

    /// S1 to S5, from the rows.
    pub fn check(&self) {
        self.check_owners_never_overlapped();
        self.check_claims_agree();
        self.check_limits_were_kept();
        self.check_late_captures();
        self.check_passes();
        let mut commands: BTreeSet<_> = self.reservations.values().map(|r| r.command_id).collect();
        commands.extend(self.blocks.iter().map(|row| row.command_id));
        let accepted = self.reservations.len() + self.blocks.len();
        assert_eq!(commands.len(), accepted, "I1");
        for (at, shown) in self.shown.iter().enumerate() {
            let seat = SeatNo(i32::try_from(at).unwrap());
            assert_eq!(*shown, self.claims.get(&seat).map(|claim| claim.state));
        }
    }

    /// S2. An owner who came and went at one moment never was one.
    fn check_owners_never_overlapped(&self) {
        let mut spans = Vec::new();
        for r in self.reservations.values() {
            for seat in &r.seats {
                let cancelled_at = self.cancelled_at(r, *seat);
                let end = cancelled_at.or(r.ended_at);
                let end = end.map_or(i64::MAX, Timestamp::micros);
                assert!(r.held_at.micros() <= end, "S2: {r:?}");
                if r.held_at.micros() < end {
                    spans.push((*seat, r.held_at.micros(), end));
                }
            }
        }
        for block in self.blocks.iter().filter(|row| !row.lifts) {
            for seat in &block.seats {
                let until = self.lifted_at(block, *seat).unwrap_or(Timestamp(i64::MAX));
                if block.at < until {
                    spans.push((*seat, block.at.micros(), until.micros()));
                }
            }
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let ((seat, _, end), (next_seat, start, _)) = (pair[0], pair[1]);
            assert!(seat != next_seat || end <= start, "S2: {seat:?}");
        }
    }

    /// S1 and S3. Each seat of a live reservation is claimed by it, and nothing else is claimed.
    fn check_claims_agree(&self) {
        let mut claimed = 0;
        for r in self.reservations.values() {
            assert_eq!(r.status.is_live(), r.ended_at.is_none());
            for seat in &r.seats {
                let claim = self.claims.get(seat);
                let claim = claim.filter(|claim| claim.reservation == Some(r.reservation_id));
                if self.cancelled_at(r, *seat).is_some() {
                    let is_told = !self.is_to_be_told(r.reservation_id, *seat);
                    assert!(claim.is_none() || !is_told, "S3: {seat:?} {r:?}");
                } else if !r.status.is_live() {
                    assert!(claim.is_none(), "S3: {seat:?} {r:?}");
                } else {
                    let claim = claim.expect("S1, S3: a live seat is claimed");
                    assert!(
                        claim.state == ClaimState::Held || r.status == ReservationStatus::Paid,
                        "S3: {claim:?} {r:?}"
                    );
                }
                claimed += usize::from(claim.is_some());
            }
        }
        for block in self.blocks.iter().filter(|row| !row.lifts) {
            for seat in &block.seats {
                if self.lifted_at(block, *seat).is_none() {
                    let claim = self
                        .claims
                        .get(seat)
                        .expect("S3: a blocked seat is claimed");
                    assert_eq!(claim.state, ClaimState::Blocked, "S3");
                    claimed += 1;
                }
            }
        }
        assert_eq!(self.claims.len(), claimed, "S3: nobody's claims");
    }

    fn cancelled_at(&self, r: &Reservation, seat: SeatNo) -> Option<Timestamp> {
        let cancelled = self.cancellations.get(&(r.reservation_id, seat)).copied();
        assert_eq!(cancelled.is_some(), r.cancelled.contains(&seat));
        cancelled
    }

    /// Whether its owner does not know yet that a seat is cancelled.
    fn is_to_be_told(&self, id: ReservationId, seat: SeatNo) -> bool {
        self.open_notices.values().any(|kind| match kind {
            Kind::Cancelled {
                reservation_id,
                seats,
                ..
            } => *reservation_id == id && seats.contains(&seat),
            _ => false,
        })
    }

    /// P2. Who got the money back has no seats for it.
    fn check_late_captures(&self) {
        let mut sold = BTreeSet::new();
        for order in self.reservations.values().filter_map(|r| r.rehold_order) {
            assert!(sold.insert(order), "seats are given once");
            assert!(!self.refunded.contains(&order), "or the money goes back");
        }
    }

    fn lifted_at(&self, block: &BlockRow, seat: SeatNo) -> Option<Timestamp> {
        let lifts = self.blocks.iter().filter(|row| row.lifts);
        let mut of_block = lifts.filter(|row| row.block_id == block.block_id);
        let lift = of_block.find(|row| row.seats.contains(&seat));
        lift.map(|row| row.at)
    }

    /// S5. A hold that can't be paid any more doesn't count, although its seats may be kept. Of what
    /// began in one moment the order is not known, so that its highest limit counts.
    fn check_limits_were_kept(&self) {
        let is_live_at = |r: &Reservation, at: Timestamp| {
            let lasts = r.term.ends_as.is_none() || at < r.term.expires_at;
            r.held_at <= at && lasts && r.ended_at.is_none_or(|ended_at| at < ended_at)
        };
        // Who has paid gets the seats whatever limit there is.
        let is_asked = |r: &&Reservation| r.rehold_order.is_none();
        for r in self.reservations.values().filter(is_asked) {
            let all = self.reservations.values().filter(is_asked);
            let live = all.filter(|o| o.user_id == r.user_id && is_live_at(o, r.held_at));
            let seats_of = |o: &Reservation| {
                let cancelled = o
                    .seats
                    .iter()
                    .filter_map(|seat| self.cancelled_at(o, *seat));
                o.seats.len() - cancelled.filter(|at| *at <= r.held_at).count()
            };
            let seats: usize = live.clone().map(seats_of).sum();
            let limits = live.filter(|o| o.held_at == r.held_at);
            let limit = limits.map(|o| o.seat_limit).fold(r.seat_limit, u32::max);
            assert!(seats <= limit as usize, "S5: {r:?}");
        }
    }
}
