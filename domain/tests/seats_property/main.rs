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

use common::{Rng, at_s, for_seeds, is_replay, schedule_id};
use model::{Foreign, Model};
use onsale_domain::seats::{Changes, Policy, Sale, Times};
use onsale_schema::message::Command;
use onsale_schema::seats::{Kind, Outcome, Refusal};
use onsale_schema::status::{ReservationStatus, SaleState};
use onsale_schema::{CommandId, Money, NoticeId, ReservationId, SeatNo, Timestamp};
use rows::{Miss, Rows, layout};
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

const EXPECTED: [&str; 29] = [
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
    notices: Vec<(NoticeId, ReservationId)>,
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
        };
        let prices: Vec<_> = (0..seats).map(|n| Money::won(n * 1000)).collect();
        let seated = some_seats(&mut rng, seats);
        let rows = Rows {
            schedule,
            policy,
            shown: vec![None; prices.len()],
            layout: layout(0, &prices, seated),
            seated,
            reservations: Default::default(),
            claims: Default::default(),
            blocks: Vec::new(),
            map_version: rng.range(0, 3),
            foreign: Default::default(),
            open_notices: Default::default(),
        };
        let model = Model {
            schedule,
            policy,
            layout_no: 0,
            prices,
            seated,
            blocks: Vec::new(),
            entries: Vec::new(),
            foreign: Vec::new(),
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
        }
    }

    fn batch(&mut self, seen: &mut Seen) {
        self.batch_at = self.now;
        if self.rng.percent(30) {
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
            let model_before = self.model.clone();
            let mut changes = Changes::default();
            let ours = self.run(&steps, &mut changes);
            let theirs = self.run_model(&steps);
            assert_eq!(ours, theirs, "{steps:#?}");
            if std::mem::take(&mut is_racing) && !self.replace_layout() {
                self.settle();
            }
            match self.rows.commit(&changes) {
                Ok(()) => {
                    self.compare(&changes);
                    self.follow_layout();
                    for outcome in &ours {
                        *seen.entry(name(outcome, self.batch_at)).or_default() += 1;
                    }
                    self.see_places(&ours, &changes, seen);
                    return;
                }
                Err(miss) => {
                    self.model = model_before;
                    let why = match miss {
                        Miss::Conditional => "payment was quicker",
                        Miss::Known(commands) => {
                            known.extend(commands);
                            "accepted elsewhere"
                        }
                        Miss::Layout => "layout replaced",
                    };
                    *seen.entry(why).or_default() += 1;
                    self.take_back(&changes, &steps);
                    self.follow_layout();
                    self.tell(&known);
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
        let mut has_unseen_payment = false;
        assert_eq!(self.rows.reservations.len(), self.model.entries.len());
        for entry in &self.model.entries {
            let row = &self.rows.reservations[&entry.hold.reservation_id];
            let is_unseen =
                row.status == ReservationStatus::Paid && entry.status == ReservationStatus::Held;
            has_unseen_payment |= is_unseen;
            assert!(is_unseen || row.status == entry.status, "{row:?} {entry:?}");
            assert_eq!(row.ended_at, entry.ended_at);
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
        if !has_unseen_payment && !self.has_pruned && !self.model.foreign.iter().any(|f| f.known) {
            assert_eq!(self.sale, self.rows.load(self.since), "rows say it all");
        }
    }

    /// A batch that was not stored is undone, and what it ended is looked up.
    /// What it learned from notices stays known.
    fn take_back(&mut self, changes: &Changes, steps: &[Step]) {
        self.sale.undo(changes);
        let mut learned = self.sale.doubtful().to_vec();
        for id in &learned {
            assert!(self.sale.assure(*id, self.rows.reservations[id].status));
        }
        learned.extend(steps.iter().filter_map(|step| match step {
            Step::Command(command, _) => match command.kind {
                Kind::Paid { reservation_id, .. } => Some(reservation_id),
                _ => None,
            },
            Step::Tick { .. } => None,
        }));
        for entry in &mut self.model.entries {
            let id = entry.hold.reservation_id;
            let row = &self.rows.reservations[&id];
            if learned.contains(&id) && row.status == ReservationStatus::Paid {
                entry.status = ReservationStatus::Paid;
            }
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
            if row.status == ReservationStatus::Paid {
                entry.status = ReservationStatus::Paid;
            }
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
        for entry in &mut self.model.entries {
            entry.known = entry.ended_at.is_none_or(|ended_at| ended_at >= self.since);
        }
        for foreign in &mut self.model.foreign {
            foreign.known &= foreign.hold.expires_at >= self.since;
        }
    }

    /// Conflicts have shown that these were accepted before.
    fn tell(&mut self, commands: &[CommandId]) {
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

    /// Settlement makes a held row PAID, and sends a notice that comes later or twice.
    fn settle(&mut self) {
        let clock = self.now.plus_ms(self.rng.range(-3, 3) * 1000);
        let rows = self.rows.reservations.values_mut();
        let payable: Vec<_> = rows
            .filter(|r| {
                r.status == ReservationStatus::Held
                    && r.term.ends_as.is_none()
                    && r.term.expires_at > clock
            })
            .map(|r| r.reservation_id)
            .collect();
        if let Some(&id) = self.rng.pick(&payable) {
            self.rows.reservations.get_mut(&id).unwrap().status = ReservationStatus::Paid;
            let notice = NoticeId(self.rng.uuid());
            self.rows.open_notices.insert(notice);
            self.notices.push((notice, id));
        }
    }
}
