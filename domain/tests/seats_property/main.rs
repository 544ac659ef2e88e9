//! Random histories of one schedule, decided by the real code and by a naive model: batches,
//! retries, reused keys, deadlines, time jumps, ticks, payments that race with the owner, owners
//! that start from the rows. Every batch must agree and leave the invariants true.
//!
//! A failure says its seed; `ONSALE_TEST_SEED=<seed>` replays it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod asked;
#[path = "../common/mod.rs"]
mod common;
mod model;
mod rows;
mod settlement;

use common::{Rng, at_s, for_seeds, is_replay, schedule_id};
use model::{Foreign, Model};
use onsale_domain::seats::{
    Changes, Gate, Policy, Sale, TermUpdate, Times, decided_once, true_while_open,
};
use onsale_schema::message::Command;
use onsale_schema::seats::{Fact, Kind, Outcome, Refusal};
use onsale_schema::status::{ReservationStatus, SaleState};
use onsale_schema::{CommandId, Money, NoticeId, ReservationId, SeatNo, Timestamp};
use rows::{Miss, Rows, layout};
use settlement::Order;
use std::cell::RefCell;
use std::collections::BTreeMap;

const HISTORIES: u64 = 10_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

#[test]
fn decisions_agree_with_the_model_and_keep_the_invariants() {
    let seen = RefCell::new(Seen::new());
    for_seeds(HISTORIES, |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.rng.range(3, 16) {
            world.batch(&mut seen.borrow_mut());
        }
    });
    let seen = seen.into_inner();
    println!("{seen:#?}");
    if !is_replay() {
        for what in EXPECTED {
            let count = seen.get(what).copied().unwrap_or_default();
            assert!(count >= 100, "{what} was seen {count} times only");
        }
    }
}

/// How often something happened, so that a generator which no longer reaches it is noticed.
type Seen = BTreeMap<&'static str, u64>;

const EXPECTED: [&str; 44] = [
    "held",
    "held places",
    "held seats and places",
    "place changed hands",
    "too few places",
    "held before",
    "released",
    "applied",
    "command expired",
    "key reused",
    "unknown seat",
    "sale not open",
    "sale closed",
    "seat limit exceeded",
    "seat unavailable",
    "not found",
    "state conflict",
    "not due",
    "policy",
    "policy invalid",
    "blocked",
    "unblocked",
    "orphan seat",
    "extended",
    "extension limit reached",
    "layout changed",
    "layout replaced",
    "payment was quicker",
    "accepted elsewhere",
    "payment in progress",
    "decided before",
    "secured",
    "secured for longer",
    "secured in vain",
    "let go",
    "held anew",
    "held anew from its own hold",
    "held anew in vain",
    "cancelled",
    "pass required",
    "pass invalid",
    "pass expired",
    "pass used up",
    "held by a pass",
];

fn name(outcome: &Outcome, asked_at: Timestamp) -> &'static str {
    match outcome {
        Outcome::Held(hold) if hold.held_at < asked_at => "held before",
        Outcome::Held(_) => "held",
        Outcome::Released { .. } => "released",
        Outcome::Extended { .. } => "extended",
        Outcome::Applied => "applied",
        Outcome::Policy(_) => "policy",
        Outcome::Blocked { .. } => "blocked",
        Outcome::Unblocked { .. } => "unblocked",
        Outcome::DeadLettered => "dead-lettered",
        Outcome::Refused(refusal) => match refusal {
            Refusal::CommandExpired => "command expired",
            Refusal::KeyReused => "key reused",
            Refusal::UnknownSchedule => "unknown schedule",
            Refusal::UnknownSeat => "unknown seat",
            Refusal::SaleNotOpen => "sale not open",
            Refusal::SaleClosed => "sale closed",
            Refusal::SeatLimitExceeded { .. } => "seat limit exceeded",
            Refusal::SeatUnavailable { places, .. } if !places.is_empty() => "too few places",
            Refusal::SeatUnavailable { .. } => "seat unavailable",
            Refusal::NotFound => "not found",
            Refusal::StateConflict { .. } => "state conflict",
            Refusal::NotDue => "not due",
            Refusal::LayoutChanged => "layout changed",
            Refusal::PolicyInvalid => "policy invalid",
            Refusal::OrphanSeat { .. } => "orphan seat",
            Refusal::ExtensionLimitReached => "extension limit reached",
            Refusal::PaymentInProgress => "payment in progress",
            Refusal::PassRequired => "pass required",
            Refusal::PassInvalid => "pass invalid",
            Refusal::PassExpired => "pass expired",
            Refusal::PassUsedUp => "pass used up",
        },
    }
}

/// How many of them are seats; the others, if any, are places.
fn some_seats(rng: &mut Rng, count: i64) -> usize {
    let seated = if rng.percent(60) {
        rng.range(1, count)
    } else {
        count
    };
    usize::try_from(seated).unwrap()
}

/// A part of a batch.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
enum Step {
    Command(Command<Kind>, Times),
    Tick { now: Timestamp, max: usize },
}

struct World {
    rng: Rng,
    now: Timestamp,
    rows: Rows,
    model: Model,
    sale: Sale,
    /// When the batch begins: what ended a day before may be forgotten.
    batch_at: Timestamp,
    /// What ended before is forgotten.
    since: Timestamp,
    /// Whether the sale forgot something since it was loaded.
    has_pruned: bool,
    /// Holds that were asked for, to be asked for again.
    asked: Vec<Command<Kind>>,
    /// Blocks and lifts that were asked for.
    blocks: Vec<Command<Kind>>,
    /// Notices that were sent, to be sent again.
    notices: Vec<(NoticeId, Kind)>,
    /// Payments through the gateway that are on their way.
    orders: Vec<Order>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let schedule = schedule_id(1);
        let seats = rng.range(3, 8);
        let now = at_s(1_000_000);
        let policy = Policy {
            state: match rng.range(1, 20) {
                1 => SaleState::Paused,
                2 => SaleState::Closed,
                _ => SaleState::Open,
            },
            booking_opens_at: now.plus_ms(rng.range(-100, 10) * 1000),
            booking_closes_at: now.plus_ms(rng.range(20, 1000) * 1000),
            hold_ms: rng.range(1, 20) * 1000,
            seats_per_user: u32::try_from(rng.range(1, 4)).unwrap(),
            extensions_max: u32::try_from(rng.range(0, 3)).unwrap(),
            hold_total_ms: rng.range(1, 40) * 1000,
            prevents_orphans: rng.percent(50),
            release_jitter_ms: if rng.percent(50) { 0 } else { 5000 },
            cancelled: false,
        };
        let prices: Vec<_> = (0..seats).map(|n| Money::won(n * 1000)).collect();
        let seated = some_seats(&mut rng, seats);
        let gate = Gate {
            pass_required_since: rng.percent(30).then_some(now),
            room_version: rng.range(0, 3),
        };
        let rows = Rows {
            schedule,
            policy,
            gate,
            over: Default::default(),
            told: Default::default(),
            shown: vec![None; prices.len()],
            layout: layout(0, &prices, seated),
            seated,
            reservations: Default::default(),
            claims: Default::default(),
            blocks: Vec::new(),
            map_version: rng.range(0, 3),
            foreign: Default::default(),
            open_notices: Default::default(),
            cancellations: Default::default(),
            refunded: Default::default(),
        };
        let model = Model {
            schedule,
            policy,
            gate,
            over: Default::default(),
            layout_no: 0,
            prices,
            seated,
            blocks: Vec::new(),
            entries: Vec::new(),
            foreign: Vec::new(),
            decided: Default::default(),
            facts: Vec::new(),
        };
        let since = now.plus_ms(-DAY_MS);
        Self {
            sale: rows.load(since),
            rng,
            now,
            rows,
            model,
            batch_at: now,
            since,
            has_pruned: false,
            asked: Vec::new(),
            blocks: Vec::new(),
            notices: Vec::new(),
            orders: Vec::new(),
        }
    }

    fn batch(&mut self, seen: &mut Seen) {
        self.batch_at = self.now;
        for _ in 0..self.rng.range(0, 2) {
            self.settle();
        }
        if self.rng.percent(30) {
            self.reload();
        } else if self.rng.percent(10) {
            self.prune();
        }
        let steps: Vec<Step> = (0..self.rng.range(1, 8)).map(|_| self.step()).collect();
        let mut known = Vec::new();
        let mut is_racing = self.rng.percent(30);
        loop {
            self.tell_done(&steps, true_while_open);
            let model_before = self.model.clone();
            let mut changes = Changes::default();
            let ours = self.run(&steps, &mut changes);
            let theirs = self.run_model(&steps);
            // The model knows which notices are done; the owner learns it by a miss.
            let is_open = |id| self.rows.open_notices.contains_key(id);
            if changes.notices_open.iter().all(is_open) {
                assert_eq!(ours, theirs, "{steps:#?}");
            }
            if std::mem::take(&mut is_racing) && !self.replace_layout() {
                self.settle();
            }
            match self.rows.commit(&changes) {
                Ok(()) => {
                    self.rows.over.clone_from(&self.model.over);
                    self.compare(&changes);
                    self.follow_layout();
                    for outcome in &ours {
                        *seen.entry(name(outcome, self.batch_at)).or_default() += 1;
                    }
                    self.see_places(&ours, &changes, seen);
                    let made = changes.reservations.iter();
                    let by_pass = made.filter(|new| new.reservation.entry.is_some());
                    *seen.entry("held by a pass").or_default() += by_pass.count() as u64;
                    see_payments(&steps, &changes, seen);
                    return;
                }
                Err(miss) => {
                    let decided = std::mem::replace(&mut self.model, model_before);
                    let why = match miss {
                        Miss::Conditional => "payment was quicker",
                        Miss::Known(commands) => {
                            known.extend(commands);
                            "accepted elsewhere"
                        }
                        Miss::Layout => "layout replaced",
                        Miss::Told => "decided before",
                    };
                    *seen.entry(why).or_default() += 1;
                    self.take_back(&changes, &decided);
                    self.follow_layout();
                    self.tell_known(&known);
                    self.tell_done(&steps, decided_once);
                }
            }
        }
    }

    fn see_places(&self, outcomes: &[Outcome], changes: &Changes, seen: &mut Seen) {
        let is_place = |seat: &SeatNo| seat.index().unwrap() >= self.rows.seated;
        for outcome in outcomes {
            let Outcome::Held(hold) = outcome else {
                continue;
            };
            let places = hold.seats.iter().filter(|seat| is_place(seat)).count();
            if places == hold.seats.len() {
                *seen.entry("held places").or_default() += 1;
            } else if places > 0 {
                *seen.entry("held seats and places").or_default() += 1;
            }
        }
        let updates = changes.claims.net().updates;
        let moved = updates
            .iter()
            .filter(|u| u.from != u.to && is_place(&u.seat_no));
        *seen.entry("place changed hands").or_default() += moved.count() as u64;
    }

    fn run(&mut self, steps: &[Step], changes: &mut Changes) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for step in steps {
            match step {
                Step::Command(command, times) => {
                    outcomes.push(self.sale.decide(command, *times, changes));
                }
                Step::Tick { now, max } => {
                    let due = self.sale.next_due().is_some_and(|due| due <= *now);
                    let lapsed = self.sale.lapse_due(*now, *max, changes);
                    assert!(lapsed <= *max && (!due || lapsed > 0));
                }
            }
        }
        self.sale.seal(self.now, changes);
        outcomes
    }

    fn run_model(&mut self, steps: &[Step]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        self.model.facts.clear();
        for step in steps {
            match step {
                Step::Command(command, times) => outcomes.push(self.model.decide(command, *times)),
                Step::Tick { now, max } => self.model.tick(*now, *max),
            }
        }
        outcomes
    }

    /// After a commit: rows, facts, map and memory all say the same.
    fn compare(&self, changes: &Changes) {
        let mut has_unseen = false;
        assert_eq!(self.rows.reservations.len(), self.model.entries.len());
        assert_eq!(self.rows.gate, self.model.gate);
        for entry in &self.model.entries {
            let row = &self.rows.reservations[&entry.hold.reservation_id];
            let is_unseen = match row.status {
                ReservationStatus::Paid => entry.status == ReservationStatus::Held,
                ReservationStatus::Cancelled => entry.status.is_live(),
                _ => false,
            };
            assert!(is_unseen || row.status == entry.status, "{row:?} {entry:?}");
            assert!(is_unseen || row.ended_at == entry.ended_at);
            let is_part_unseen = row.cancelled != entry.cancelled;
            assert!(
                entry
                    .cancelled
                    .iter()
                    .all(|seat| row.cancelled.contains(seat))
            );
            has_unseen |= is_unseen || is_part_unseen && entry.known;
            assert_eq!(row.term.paying_order, entry.paying);
            assert_eq!(row.rehold_order, entry.rehold);
            assert_eq!(row.entry.map(|by| by.ticket_id), entry.ticket);
            assert_eq!(row.seats, entry.hold.seats);
            assert_eq!(row.total, entry.hold.total);
            assert_eq!(row.term.expires_at, entry.expires_at);
            assert_eq!(row.term.first_expires_at, entry.hold.expires_at);
            assert_eq!(row.term.release_at, entry.release_at);
            assert_eq!(row.term.ends_as, entry.ends_as);
            assert_eq!(row.term.extended_by, entry.extended_by);
            assert_eq!(row.term.given_back_by, entry.given_back_by);
        }
        let mut facts = self.model.facts.clone();
        for fact in changes.facts.iter().flat_map(|facts| &facts.facts) {
            let at = facts.iter().position(|expected| expected == fact);
            facts.swap_remove(at.unwrap_or_else(|| panic!("not a fact: {fact:?}")));
        }
        assert!(facts.is_empty(), "unsaid: {facts:?}");
        self.rows.check();
        let is_replaced = self.sale.layout_no() != self.rows.layout.no;
        if is_replaced {
            return;
        }
        assert_eq!(self.rows.shown, self.model.map());
        if !has_unseen && !self.has_pruned && !self.model.foreign.iter().any(|f| f.known) {
            assert_eq!(self.sale, self.rows.load(self.since), "rows say it all");
        }
    }

    /// A batch that was not stored is undone, and what it ended is looked up.
    /// What it learned from notices stays known.
    fn take_back(&mut self, changes: &Changes, decided: &Model) {
        self.sale.undo(changes);
        let doubtful = self.sale.doubtful().to_vec();
        let follows = |id: &ReservationId| {
            let status = self.rows.reservations[id].status;
            self.sale.assure(*id, status)
        };
        if !doubtful.iter().all(follows) {
            self.reload();
            return;
        }
        for entry in &mut self.model.entries {
            let id = entry.hold.reservation_id;
            let mut after = decided.entries.iter();
            let after = after.find(|after| after.hold.reservation_id == id);
            let after = after.expect("nothing is forgotten");
            let is_looked_up = doubtful.contains(&id) && entry.status == ReservationStatus::Held;
            if is_looked_up && self.rows.reservations[&id].status == ReservationStatus::Paid {
                entry.status = ReservationStatus::Paid;
            }
            if let ReservationStatus::Paid | ReservationStatus::Cancelled = after.status {
                (entry.status, entry.ended_at) = (after.status, after.ended_at);
            }
            entry.cancelled.clone_from(&after.cancelled);
            entry.cancelled_at = after.cancelled_at;
        }
    }

    /// Somebody replaces the layout while a batch is decided, where that is allowed.
    fn replace_layout(&mut self) -> bool {
        if !self.rng.percent(50) {
            return false;
        }
        let (seats, won) = (self.rng.range(3, 8), self.rng.range(1, 9) * 100);
        let prices = (0..seats).map(|n| Money::won(n * won)).collect();
        let seated = some_seats(&mut self.rng, seats);
        self.rows.replace_layout(prices, seated)
    }

    /// The owner loads a schedule anew when it has decided by a layout that is no more, and so it
    /// does when a command means a newer one.
    fn follow_layout(&mut self) {
        let layout = &self.rows.layout;
        if self.model.layout_no != layout.no {
            (self.model.layout_no, self.model.prices) = (layout.no, layout.prices().to_vec());
            self.model.seated = self.rows.seated;
        }
        if self.sale.layout_no() != layout.no {
            self.reload();
        }
    }

    /// A new owner starts from the rows.
    fn reload(&mut self) {
        self.since = self.batch_at.plus_ms(-DAY_MS);
        self.has_pruned = false;
        self.sale = self.rows.load(self.since);
        for entry in &mut self.model.entries {
            let row = &self.rows.reservations[&entry.hold.reservation_id];
            if let ReservationStatus::Paid | ReservationStatus::Cancelled = row.status {
                (entry.status, entry.ended_at) = (row.status, row.ended_at);
            }
            entry.cancelled.clone_from(&row.cancelled);
            entry.cancelled_at = row.cancelled_at;
            entry.known = row.ended_at.is_none_or(|ended_at| ended_at >= self.since);
        }
        self.model
            .foreign
            .retain(|foreign| foreign.hold.schedule_id != self.rows.schedule);
        for foreign in &mut self.model.foreign {
            foreign.known = false;
        }
    }

    fn prune(&mut self) {
        self.since = self.batch_at.plus_ms(-DAY_MS);
        self.has_pruned = true;
        self.sale.prune(self.since);
        // Of these no pass is good any more; where one is made up all the same, it is as the owner knows.
        self.model
            .over
            .retain(|_, ended_at| *ended_at >= self.since);
        for entry in &mut self.model.entries {
            entry.known = entry.ended_at.is_none_or(|ended_at| ended_at >= self.since);
        }
        for foreign in &mut self.model.foreign {
            foreign.known &= foreign.hold.expires_at >= self.since;
        }
    }

    /// Conflicts have shown that these were accepted before.
    fn tell_known(&mut self, commands: &[CommandId]) {
        for command in commands {
            let (fingerprint, hold) = self.rows.accepted(*command).expect("it conflicted");
            self.sale.load_foreign(*command, fingerprint, hold.clone());
            match self
                .model
                .foreign
                .iter_mut()
                .find(|f| f.command == *command)
            {
                Some(foreign) => foreign.known = true,
                None => self.model.foreign.push(Foreign {
                    command: *command,
                    fingerprint,
                    hold,
                    known: true,
                }),
            }
        }
    }

    /// A look has shown which of these notices are done.
    fn tell_done(&mut self, steps: &[Step], which: impl Fn(&Kind) -> Option<NoticeId>) {
        for step in steps {
            if let Step::Command(command, _) = step
                && let Some(notice) = which(&command.kind)
                && !self.rows.open_notices.contains_key(&notice)
            {
                self.sale.load_told(notice);
            }
        }
    }
}

/// What settlement's words came to.
fn see_payments(steps: &[Step], changes: &Changes, seen: &mut Seen) {
    let mut see = |what, is_so| *seen.entry(what).or_default() += u64::from(is_so);
    let terms = &changes.terms;
    let has_ended = |id| changes.ended.iter().any(|ended| ended.reservation_id == id);
    let kinds = steps.iter().filter_map(|step| match step {
        Step::Command(command, _) => Some(&command.kind),
        Step::Tick { .. } => None,
    });
    for kind in kinds {
        match kind {
            Kind::Secure {
                order_id,
                reservation_id,
                ..
            } => {
                let of = terms.iter().find(|u| u.reservation_id == *reservation_id);
                let of = of.filter(|u| u.after.paying_order == Some(*order_id));
                see("secured", of.is_some());
                let is_longer = of.is_some_and(|u| u.after.expires_at > u.before.expires_at);
                see("secured for longer", is_longer);
                see("secured in vain", of.is_none());
            }
            Kind::Unsecure { order_id, .. } => {
                let is_of = |u: &&TermUpdate| u.before.paying_order == Some(*order_id);
                see("let go", terms.iter().any(|u| is_of(&u)));
            }
            Kind::Rehold {
                reservation_id,
                lapsed_id,
                ..
            } => {
                let is_made = changes.has_made(*reservation_id);
                see("held anew", is_made);
                let is_own = is_made && has_ended(*lapsed_id);
                see("held anew from its own hold", is_own);
                see("held anew in vain", !is_made);
            }
            _ => {}
        }
    }
    for delete in changes.claims.net().deletes {
        let mut facts = changes.facts.iter().flat_map(|facts| &facts.facts);
        let is_of = |fact: &Fact| match fact {
            Fact::Cancelled { reservation_id, .. } => Some(*reservation_id) == delete.from,
            _ => false,
        };
        see("cancelled", facts.any(is_of));
    }
}
