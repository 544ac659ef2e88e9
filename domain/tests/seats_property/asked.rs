//! What is asked: holds new and old, ends, payments' notices and ticks, valid and not, with times
//! that mostly creep and sometimes jump.

mod blocks;
mod passes;
mod payments;

use super::common::{schedule_id, user};
use super::model::{Foreign, SECTION};
use super::{Step, World};
use onsale_domain::seats::Times;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::{Hold, Kind, Places, PolicyChange};
use onsale_schema::status::SaleState;
use onsale_schema::{CommandId, Money, ReservationId, SeatNo, Timestamp, UserId};

impl World {
    pub fn step(&mut self) -> Step {
        self.now = self.now.plus_ms(match self.rng.range(1, 400) {
            1 => 25 * 3600 * 1000,
            2..=40 => self.rng.range(1, 20) * 1000,
            41..=250 => self.rng.range(1, 900),
            _ => 0,
        });
        if self.rng.percent(10) {
            return Step::Tick {
                now: self.now.plus_ms(self.rng.range(-2, 2) * 1000),
                max: usize::try_from(self.rng.range(1, 3)).unwrap(),
            };
        }
        let times = Times {
            business: self.now,
            clock: self.now.plus_ms(self.rng.range(-100, 2000)),
        };
        let command = match self.rng.range(1, 27) {
            1..=6 => self.new_hold(),
            7..=9 => self.new_best(),
            10..=11 => self.hold_again(),
            12..=13 => self.release(),
            14 => self.extend(),
            15..=16 => self.expire(),
            17 => self.policy(),
            18..=23 => self.notice(),
            24 => self.word_of_the_room(),
            _ => self.block_or_lift(),
        };
        Step::Command(command, times)
    }

    fn command(&mut self, user: UserId, kind: Kind) -> Command<Kind> {
        let patience_ms = if self.rng.percent(5) { 500 } else { 5000 };
        Command {
            id: CommandId(self.rng.uuid()),
            user,
            fingerprint: Fingerprint(self.rng.uuid()),
            deadline: self.now.plus_ms(patience_ms),
            trace: None,
            kind,
        }
    }

    fn somebody(&mut self) -> UserId {
        user(u128::try_from(self.rng.range(1, 4)).unwrap())
    }

    fn seats(&mut self) -> Vec<SeatNo> {
        let last = i64::try_from(self.rows.layout.prices().len()).unwrap() - 1;
        let last = if self.rng.percent(4) { last + 1 } else { last };
        let first = if self.rng.percent(2) { -1 } else { 0 };
        let count = if self.rng.percent(2) {
            0
        } else {
            self.rng.range(1, 3)
        };
        let mut seats: Vec<SeatNo> = (0..count)
            .map(|_| SeatNo(i32::try_from(self.rng.range(first, last)).unwrap()))
            .collect();
        if self.rng.percent(80) {
            seats.sort_unstable();
            seats.dedup();
        }
        seats
    }

    /// Mostly some of the section that there may be; rarely of another, none, or twice.
    fn places(&mut self) -> Vec<Places> {
        let is_there = self.rows.seated < self.rows.layout.prices().len();
        if !self.rng.percent(if is_there { 40 } else { 3 }) {
            return Vec::new();
        }
        let name = if self.rng.percent(3) { "A" } else { SECTION };
        let low = if self.rng.percent(3) { 0 } else { 1 };
        let wanted = Places {
            section: name.to_owned(),
            count: u32::try_from(self.rng.range(low, 3)).unwrap(),
        };
        let times = if self.rng.percent(3) { 2 } else { 1 };
        vec![wanted; times]
    }

    fn new_hold(&mut self) -> Command<Kind> {
        let mut seats = self.seats();
        let places = self.places();
        if !places.is_empty() && self.rng.percent(60) {
            seats.clear();
        }
        let user = self.somebody();
        let kind = Kind::Hold {
            reservation_id: ReservationId(self.rng.uuid()),
            schedule_id: self.rows.schedule,
            seats,
            places,
            layout_no: self.meant_layout(),
            pass: self.pass(user),
        };
        let command = self.command(user, kind);
        if self.rng.percent(4) {
            self.accept_elsewhere(&command);
        }
        self.asked.push(command.clone());
        command
    }

    fn new_best(&mut self) -> Command<Kind> {
        let last = i64::try_from(self.rows.layout.prices().len()).unwrap();
        let count = if self.rng.percent(3) {
            0
        } else {
            self.rng.range(1, 3)
        };
        let max_price = self.rng.percent(20).then(|| self.rng.range(0, last) * 1000);
        let user = self.somebody();
        let kind = Kind::HoldBest {
            reservation_id: ReservationId(self.rng.uuid()),
            schedule_id: self.rows.schedule,
            count: u32::try_from(count).unwrap(),
            section: self.rng.percent(20).then(|| "A".to_owned()),
            grade: None,
            max_price: max_price.map(Money::won),
            layout_no: self.meant_layout(),
            pass: self.pass(user),
        };
        let command = self.command(user, kind);
        self.asked.push(command.clone());
        command
    }

    /// Mostly what everybody sees now, sometimes what somebody saw before, or nothing.
    fn meant_layout(&mut self) -> Option<i64> {
        match self.rng.range(1, 20) {
            1 => Some(self.rows.layout.no - 1),
            2..=4 => None,
            _ => Some(self.rows.layout.no),
        }
    }

    /// The same key was accepted for another schedule, with the same fingerprint only if the
    /// digest failed us.
    fn accept_elsewhere(&mut self, command: &Command<Kind>) {
        let hold = Hold {
            reservation_id: ReservationId(self.rng.uuid()),
            schedule_id: schedule_id(2),
            seats: vec![SeatNo(7)],
            total: Money::won(7),
            held_at: self.now,
            expires_at: self.now.plus_ms(1000),
        };
        let fingerprint = if self.rng.percent(50) {
            command.fingerprint
        } else {
            Fingerprint(self.rng.uuid())
        };
        self.rows
            .foreign
            .insert(command.id, (fingerprint, hold.clone()));
        self.model.foreign.push(Foreign {
            command: command.id,
            fingerprint,
            hold,
            known: false,
        });
    }

    /// A redelivery, a retry, a reused key, or an id that somebody else has.
    fn hold_again(&mut self) -> Command<Kind> {
        let Some(mut command) = self.rng.pick(&self.asked).cloned() else {
            return self.new_hold();
        };
        command.deadline = self.now.plus_ms(5000);
        let is_redelivery = self.rng.percent(30);
        let is_reuse = self.rng.percent(30);
        let other_id = ReservationId(self.rng.uuid());
        let other_seats = self.seats();
        let other_pass = self.pass(command.user);
        if let Kind::Hold {
            reservation_id,
            seats,
            pass,
            ..
        } = &mut command.kind
            && !is_redelivery
        {
            *reservation_id = other_id;
            *pass = other_pass;
            if is_reuse {
                *seats = other_seats;
                command.fingerprint = Fingerprint(self.rng.uuid());
            }
        } else if let Kind::HoldBest {
            reservation_id,
            count,
            pass,
            ..
        } = &mut command.kind
            && !is_redelivery
        {
            *reservation_id = other_id;
            *pass = other_pass;
            if is_reuse {
                *count += 1;
                command.fingerprint = Fingerprint(self.rng.uuid());
            }
        }
        command
    }

    fn release(&mut self) -> Command<Kind> {
        let (id, owner, _) = self.some_reservation();
        let by = if self.rng.percent(85) {
            owner
        } else {
            self.somebody()
        };
        let kind = Kind::Release {
            reservation_id: id,
            schedule_id: self.rows.schedule,
        };
        self.command(by, kind)
    }

    /// Sometimes once more by the same command.
    fn extend(&mut self) -> Command<Kind> {
        let (id, owner, _) = self.some_reservation();
        let by = if self.rng.percent(85) {
            owner
        } else {
            self.somebody()
        };
        let kind = Kind::Extend {
            reservation_id: id,
            schedule_id: self.rows.schedule,
        };
        let mut command = self.command(by, kind);
        let row = self.rows.reservations.get(&id);
        let before = row.map_or(&[] as &[_], |row| &row.term.extended_by);
        if self.rng.percent(30)
            && let Some(known) = self.rng.pick(before)
        {
            command.id = *known;
        }
        command
    }

    fn expire(&mut self) -> Command<Kind> {
        let (id, _, expires_at) = self.some_reservation();
        let is_other = self.rng.percent(10);
        let kind = Kind::Expire {
            reservation_id: id,
            schedule_id: self.rows.schedule,
            expires_at: expires_at.plus_ms(if is_other { -1000 } else { 0 }),
        };
        self.command(user(0), kind)
    }

    /// Of a few values, so that some change nothing and some contradict others.
    fn policy(&mut self) -> Command<Kind> {
        let mut change = PolicyChange::default();
        if self.rng.percent(40) {
            let states = [
                SaleState::Open,
                SaleState::Open,
                SaleState::Open,
                SaleState::Paused,
                SaleState::Closed,
            ];
            change.state = self.rng.pick(&states).copied();
        }
        if self.rng.percent(20) {
            change.booking_opens_at = Some(self.now.plus_ms(self.rng.range(-20, 10) * 1000));
        }
        if self.rng.percent(20) {
            change.booking_closes_at = Some(self.now.plus_ms(self.rng.range(-2, 500) * 1000));
        }
        if self.rng.percent(30) {
            change.hold_ms = Some(self.rng.range(0, 20) * 1000);
        }
        if self.rng.percent(30) {
            change.seats_per_user = u32::try_from(self.rng.range(0, 5)).ok();
        }
        if self.rng.percent(20) {
            change.extensions_max = u32::try_from(self.rng.range(0, 3)).ok();
            change.hold_total_ms = Some(self.rng.range(0, 40) * 1000);
        }
        if self.rng.percent(20) {
            change.prevents_orphans = Some(self.rng.percent(50));
            change.release_jitter_ms = Some(self.rng.range(-1, 6).max(-1) * 1000);
        }
        change.cancelled = self.rng.percent(1);
        let kind = Kind::Policy {
            schedule_id: self.rows.schedule,
            change,
        };
        let user = self.somebody();
        self.command(user, kind)
    }

    /// One that was asked for, whether it was accepted or not.
    fn some_reservation(&mut self) -> (ReservationId, UserId, Timestamp) {
        if self.rng.percent(20)
            && let Some(row) = self.any_row()
        {
            return row;
        }
        let hold_ms = self.rows.policy.hold_ms;
        let Some(command) = self.rng.pick(&self.asked) else {
            return (ReservationId(self.rng.uuid()), self.somebody(), self.now);
        };
        let id = match &command.kind {
            Kind::Hold { reservation_id, .. } | Kind::HoldBest { reservation_id, .. } => {
                *reservation_id
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
            | Kind::Block { .. }
            | Kind::Unblock { .. } => unreachable!("only holds are asked for again"),
        };
        let row = self.rows.reservations.get(&id);
        let expires_at = row.map_or(self.now.plus_ms(hold_ms), |r| r.term.expires_at);
        (id, command.user, expires_at)
    }
}
