//! A second, naive opinion on what the owner of a schedule decides: a list of reservations, and
//! nothing that is kept besides. It shares no code with the decisions that it judges.

mod blocks;
mod choice;
mod passes;
mod payments;

use crate::rows::RELEASE_SEED;
use blocks::Accepted;
use onsale_domain::seats::{Gate, Policy, Times, release_delay_ms};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::{Fact, Hold, Kind, Outcome, Places, PlacesLeft, PolicyChange, Refusal};
use onsale_schema::status::{ClaimState, ReservationStatus, SaleState};
use onsale_schema::{
    ArrivalNo, CommandId, Money, NoticeId, PaymentOrderId, ReservationId, ScheduleId, SeatNo,
    TicketId, Timestamp, UserId,
};
use std::collections::{BTreeMap, BTreeSet};

/// The section of places, if there are any.
pub const SECTION: &str = "F";

#[derive(Clone, Debug)]
pub struct Entry {
    pub user: UserId,
    pub command: CommandId,
    pub fingerprint: Fingerprint,
    pub hold: Hold,
    pub status: ReservationStatus,
    pub ended_at: Option<Timestamp>,
    /// As it is now; the hold says what it was at first.
    pub expires_at: Timestamp,
    pub release_at: Timestamp,
    pub ends_as: Option<ReservationStatus>,
    pub extended_by: Vec<CommandId>,
    pub given_back_by: Option<CommandId>,
    /// The order that has secured it.
    pub paying: Option<PaymentOrderId>,
    /// The order that came too late for another.
    pub rehold: Option<PaymentOrderId>,
    /// What of it was cancelled, and when, as far as the owner has learned.
    pub cancelled: Vec<SeatNo>,
    pub cancelled_at: Option<Timestamp>,
    /// The seats that are on sale again.
    pub gone: Vec<SeatNo>,
    /// Whether the map shows its seats as sold.
    pub sold: bool,
    /// Whether the owner has it in memory: it forgets old ones.
    pub known: bool,
    /// The ticket of the pass that it was made with.
    pub ticket: Option<TicketId>,
}

impl Entry {
    fn given_back_at(&self) -> Option<Timestamp> {
        (self.ends_as == Some(ReservationStatus::Released)).then_some(self.expires_at)
    }
}

#[derive(Clone, Debug)]
pub struct Foreign {
    pub command: CommandId,
    pub fingerprint: Fingerprint,
    pub hold: Hold,
    /// Whether a conflict has told the owner about it.
    pub known: bool,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub schedule: ScheduleId,
    pub policy: Policy,
    pub gate: Gate,
    /// Tickets that ended before their passes.
    pub over: BTreeMap<ArrivalNo, Timestamp>,
    pub layout_no: i64,
    pub prices: Vec<Money>,
    /// So many of them are seats; the rest are the places of [`SECTION`].
    pub seated: usize,
    /// Blocks and lifts, in their order.
    pub blocks: Vec<Accepted>,
    pub entries: Vec<Entry>,
    pub foreign: Vec<Foreign>,
    /// Notices that were decided, of those that are decided once.
    pub decided: BTreeSet<NoticeId>,
    /// Of the current batch.
    pub facts: Vec<Fact>,
}

impl Model {
    pub fn decide(&mut self, command: &Command<Kind>, times: Times) -> Outcome {
        let now = self.time(times.business);
        match &command.kind {
            Kind::Hold {
                reservation_id,
                seats,
                places,
                ..
            } => {
                let is_known = !(seats.is_empty() && places.is_empty())
                    && self.are_seats(seats)
                    && self.are_places(places);
                let wanted = is_known.then(|| {
                    let counts = places.iter().map(|wanted| wanted.count as usize);
                    seats.len() + counts.sum::<usize>()
                });
                let taken = seats.iter().copied().filter(|s| !self.is_free(*s, now));
                let taken: Vec<SeatNo> = taken.collect();
                match self.refuse_hold(command, *reservation_id, wanted, times.clock, now) {
                    Some(outcome) => outcome,
                    None => {
                        let mut all = seats.clone();
                        let mut too_few = Vec::new();
                        for Places { section, count } in places {
                            let free = self.free_places(section, now);
                            if free.len() < *count as usize {
                                too_few.push(PlacesLeft {
                                    section: section.clone(),
                                    available: u32::try_from(free.len()).expect("few"),
                                });
                            }
                            all.extend(free.into_iter().take(*count as usize));
                        }
                        let orphans = self.orphans(seats, now);
                        if !taken.is_empty() || !too_few.is_empty() {
                            Outcome::Refused(Refusal::SeatUnavailable {
                                seats: taken,
                                places: too_few,
                            })
                        } else if orphans.is_empty() {
                            Outcome::Held(self.hold(command, *reservation_id, &all, now))
                        } else {
                            Outcome::Refused(Refusal::OrphanSeat { seats: orphans })
                        }
                    }
                }
            }
            Kind::HoldBest {
                reservation_id,
                count,
                max_price,
                ..
            } => {
                let wanted = Some(*count as usize).filter(|count| *count > 0);
                match self.refuse_hold(command, *reservation_id, wanted, times.clock, now) {
                    Some(outcome) => outcome,
                    None => match self.best(*count as usize, *max_price, now) {
                        Some(seats) => {
                            Outcome::Held(self.hold(command, *reservation_id, &seats, now))
                        }
                        None => Outcome::Refused(Refusal::SeatUnavailable {
                            seats: vec![],
                            places: vec![],
                        }),
                    },
                }
            }
            Kind::Extend { reservation_id, .. } => {
                self.extend(command, *reservation_id, times.clock, now)
            }
            Kind::Release { .. } | Kind::Policy { .. } if times.clock > command.deadline => {
                Outcome::Refused(Refusal::CommandExpired)
            }
            Kind::Release { reservation_id, .. } => {
                let Some(at) = self.find(*reservation_id) else {
                    return Outcome::Refused(Refusal::NotFound);
                };
                if self.entries[at].user != command.user {
                    return Outcome::Refused(Refusal::NotFound);
                }
                let jitter_ms = self.policy.release_jitter_ms;
                if self.is_due(at, now) {
                    self.end_due(at, now);
                } else if self.entries[at].paying.is_some() {
                    // It is not given back.
                } else if self.shown(at, now) == ReservationStatus::Held && jitter_ms == 0 {
                    self.end(at, ReservationStatus::Released, now);
                    self.entries[at].given_back_by = Some(command.id);
                } else if self.shown(at, now) == ReservationStatus::Held {
                    self.last_until(at, now);
                    self.entries[at].ends_as = Some(ReservationStatus::Released);
                    self.entries[at].given_back_by = Some(command.id);
                    self.facts.push(Fact::GivenBack {
                        reservation_id: *reservation_id,
                        at: now,
                    });
                }
                match self.shown(at, now) {
                    ReservationStatus::Held => Outcome::Refused(Refusal::PaymentInProgress),
                    ReservationStatus::Released => Outcome::Released {
                        reservation_id: *reservation_id,
                    },
                    status => Outcome::Refused(Refusal::StateConflict { status }),
                }
            }
            Kind::Expire {
                reservation_id,
                expires_at,
                ..
            } => match self.find(*reservation_id) {
                Some(at)
                    if self.entries[at].expires_at != *expires_at
                        || self.entries[at].release_at > now =>
                {
                    Outcome::Refused(Refusal::NotDue)
                }
                Some(at) => {
                    if self.is_due(at, now) {
                        self.end_due(at, now);
                    }
                    Outcome::Applied
                }
                None => Outcome::Applied,
            },
            Kind::Paid { .. }
            | Kind::PaidAll { .. }
            | Kind::Secure { .. }
            | Kind::Unsecure { .. }
            | Kind::Rehold { .. }
            | Kind::Cancelled { .. } => {
                self.told(command, now);
                Outcome::Applied
            }
            Kind::Room {
                notice_id,
                pass_required,
                version,
                ..
            } => {
                if self.is_first(*notice_id) {
                    self.turn_room(*pass_required, *version, now);
                }
                Outcome::Applied
            }
            Kind::PassesOver {
                notice_id, tickets, ..
            } => {
                if self.is_first(*notice_id) {
                    for no in tickets {
                        self.over.entry(*no).or_insert(now);
                    }
                }
                Outcome::Applied
            }
            Kind::Policy { change, .. } => self.amend(command, change, now),
            Kind::Block { .. } => self.block(command, times, now),
            Kind::Unblock { .. } => self.lift(command, times, now),
        }
    }

    fn amend(&mut self, command: &Command<Kind>, change: &PolicyChange, now: Timestamp) -> Outcome {
        let mut policy = self.policy;
        if let Some(state) = change.state {
            if policy.cancelled && state != SaleState::Closed {
                return Outcome::Refused(Refusal::SaleClosed);
            }
            policy.state = state;
        }
        if change.cancelled {
            policy.cancelled = true;
        }
        if policy.cancelled {
            policy.state = SaleState::Closed;
        }
        if let Some(opens) = change.booking_opens_at {
            policy.booking_opens_at = opens;
        }
        if let Some(closes) = change.booking_closes_at {
            policy.booking_closes_at = closes;
        }
        if let Some(hold_ms) = change.hold_ms {
            policy.hold_ms = hold_ms;
        }
        if let Some(seats) = change.seats_per_user {
            policy.seats_per_user = seats;
        }
        if let Some(times) = change.extensions_max {
            policy.extensions_max = times;
        }
        if let Some(total_ms) = change.hold_total_ms {
            policy.hold_total_ms = total_ms;
        }
        if let Some(prevents) = change.prevents_orphans {
            policy.prevents_orphans = prevents;
        }
        if let Some(jitter_ms) = change.release_jitter_ms {
            policy.release_jitter_ms = jitter_ms;
        }
        let day_ms = 24 * 3600 * 1000;
        if policy.booking_opens_at >= policy.booking_closes_at
            || policy.hold_ms < 1
            || policy.hold_ms > day_ms
            || policy.seats_per_user < 1
            || policy.seats_per_user > 100
            || policy.extensions_max > 20
            || !(1..=day_ms).contains(&policy.hold_total_ms)
            || !(0..=600_000).contains(&policy.release_jitter_ms)
        {
            return Outcome::Refused(Refusal::PolicyInvalid);
        }
        if policy != self.policy {
            self.policy = policy;
            self.facts.push(Fact::Policy {
                user_id: command.user,
                command_id: command.id,
                policy,
                at: now,
            });
        }
        Outcome::Policy(policy)
    }

    pub fn tick(&mut self, now: Timestamp, max: usize) {
        let now = self.time(now);
        for _ in 0..max {
            let due = (0..self.entries.len()).filter(|at| self.is_due(*at, now));
            let first = due.min_by_key(|at| {
                let entry = &self.entries[*at];
                (entry.release_at, entry.hold.reservation_id)
            });
            if let Some(at) = first {
                self.end_due(at, now);
            }
        }
    }

    /// What everybody's map must show, by seat.
    pub fn map(&self) -> Vec<Option<ClaimState>> {
        let state = |seat: SeatNo| {
            if self.is_blocked(seat) {
                return Some(ClaimState::Blocked);
            }
            let entry = self.entries.iter().find(|e| has_seat(e, seat))?;
            Some(if entry.sold {
                ClaimState::Sold
            } else {
                ClaimState::Held
            })
        };
        let count = i32::try_from(self.prices.len()).expect("few seats");
        (0..count).map(|no| state(SeatNo(no))).collect()
    }

    fn refuse_hold(
        &self,
        command: &Command<Kind>,
        id: ReservationId,
        wanted: Option<usize>,
        clock: Timestamp,
        now: Timestamp,
    ) -> Option<Outcome> {
        let here = self.entries.iter().filter(|e| e.known);
        let mut accepted = here
            .map(|e| (e.command, e.fingerprint, &e.hold))
            .chain(
                (self.foreign.iter().filter(|f| f.known))
                    .map(|f| (f.command, f.fingerprint, &f.hold)),
            )
            .filter(|(known, _, _)| *known == command.id);
        if let Some((_, fingerprint, hold)) = accepted.next() {
            return Some(if fingerprint == command.fingerprint {
                Outcome::Held(hold.clone())
            } else {
                Outcome::Refused(Refusal::KeyReused)
            });
        }
        let refusal = if self.find(id).is_some() {
            Refusal::KeyReused
        } else if clock > command.deadline {
            Refusal::CommandExpired
        } else if self.policy.state == SaleState::Closed || now >= self.policy.booking_closes_at {
            Refusal::SaleClosed
        } else if self.policy.state == SaleState::Paused || now < self.policy.booking_opens_at {
            Refusal::SaleNotOpen
        } else if let Some(refusal) = self.refuse_pass(command, now) {
            refusal
        } else if is_of_another_layout(command, self.layout_no) {
            Refusal::LayoutChanged
        } else {
            let limit = self.policy.seats_per_user;
            let live = self.live_seats(command.user, now);
            let kept = self.kept_seats(command.user, now);
            match wanted {
                None => Refusal::UnknownSeat,
                Some(count)
                    if live + count > limit as usize
                        || live + kept + count > 2 * limit as usize =>
                {
                    Refusal::SeatLimitExceeded { limit }
                }
                Some(_) => return None,
            }
        };
        Some(Outcome::Refused(refusal))
    }

    fn are_seats(&self, seats: &[SeatNo]) -> bool {
        let is_seat = |s: &SeatNo| s.0 >= 0 && (s.0 as usize) < self.seated;
        seats.iter().all(is_seat) && self.are_there(seats)
    }

    /// Seats or places, each named once.
    fn are_there(&self, seats: &[SeatNo]) -> bool {
        let is_there = |s: &SeatNo| s.0 >= 0 && (s.0 as usize) < self.prices.len();
        let is_once = |s: &SeatNo| seats.iter().filter(|t| *t == s).count() == 1;
        seats.iter().all(is_there) && seats.iter().all(is_once)
    }

    fn is_free(&self, seat: SeatNo, now: Timestamp) -> bool {
        !self.is_blocked(seat)
            && (0..self.entries.len())
                .all(|at| !has_seat(&self.entries[at], seat) || self.is_due(at, now))
    }

    /// All are of the one section, which is there, and named once.
    fn are_places(&self, places: &[Places]) -> bool {
        let is_one = |wanted: &Places| wanted.section == SECTION && wanted.count > 0;
        places.is_empty()
            || places.len() == 1 && is_one(&places[0]) && self.seated < self.prices.len()
    }

    fn free_places(&self, section: &str, now: Timestamp) -> Vec<SeatNo> {
        assert_eq!(section, SECTION);
        let all = (self.seated..self.prices.len()).map(|no| SeatNo(no as i32));
        all.filter(|seat| self.is_free(*seat, now)).collect()
    }

    fn hold(
        &mut self,
        command: &Command<Kind>,
        id: ReservationId,
        seats: &[SeatNo],
        now: Timestamp,
    ) -> Hold {
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            let wanted = seats.iter().any(|seat| has_seat(entry, *seat));
            let own = entry.user == command.user;
            if (wanted || own) && self.is_due(at, now) {
                self.end_due(at, now);
            } else if own && self.entries[at].status == ReservationStatus::Held {
                let status = self.shown(at, now);
                self.entries[at].ends_as = (status != ReservationStatus::Held).then_some(status);
            }
        }
        let hold = Hold {
            reservation_id: id,
            schedule_id: self.schedule,
            seats: seats.to_vec(),
            total: seats.iter().map(|s| self.prices[s.0 as usize]).sum(),
            held_at: now,
            expires_at: now.plus_ms(self.policy.hold_ms),
        };
        self.entries.push(Entry {
            ticket: self.ticket_of(command),
            ..Entry::new(command, command.user, hold.clone())
        });
        self.last_until(self.entries.len() - 1, hold.expires_at);
        self.facts.push(Fact::Held {
            user_id: command.user,
            command_id: command.id,
            hold: hold.clone(),
        });
        hold
    }

    fn extend(
        &mut self,
        command: &Command<Kind>,
        id: ReservationId,
        clock: Timestamp,
        now: Timestamp,
    ) -> Outcome {
        let own = self.find(id);
        let Some(at) = own.filter(|at| self.entries[*at].user == command.user) else {
            return Outcome::Refused(match clock > command.deadline {
                true => Refusal::CommandExpired,
                false => Refusal::NotFound,
            });
        };
        let entry = &self.entries[at];
        let policy = self.policy;
        let longest = entry.hold.held_at.plus_ms(policy.hold_total_ms);
        let expires_at = longest.min(now.plus_ms(policy.hold_ms));
        let times = entry.extended_by.len();
        let status = self.shown(at, now);
        let refusal = if entry.extended_by.contains(&command.id) {
            return Outcome::Extended {
                reservation_id: id,
                expires_at: entry.expires_at,
                left: policy.extensions_max.saturating_sub(times as u32),
            };
        } else if clock > command.deadline {
            Refusal::CommandExpired
        } else if status != ReservationStatus::Held {
            Refusal::StateConflict { status }
        } else if policy.state == SaleState::Closed || now >= policy.booking_closes_at {
            Refusal::SaleClosed
        } else if policy.state == SaleState::Paused || now < policy.booking_opens_at {
            Refusal::SaleNotOpen
        } else if times >= policy.extensions_max as usize || expires_at <= entry.expires_at {
            Refusal::ExtensionLimitReached
        } else {
            self.last_until(at, expires_at);
            self.entries[at].extended_by.push(command.id);
            self.facts.push(Fact::Extended {
                reservation_id: id,
                command_id: command.id,
                expires_at,
                at: now,
            });
            return Outcome::Extended {
                reservation_id: id,
                expires_at,
                left: policy.extensions_max - times as u32 - 1,
            };
        };
        Outcome::Refused(refusal)
    }

    fn last_until(&mut self, at: usize, expires_at: Timestamp) {
        let jitter_ms = self.policy.release_jitter_ms;
        let entry = &mut self.entries[at];
        let id = entry.hold.reservation_id;
        let delay_ms = release_delay_ms(RELEASE_SEED, id, expires_at, jitter_ms);
        assert!((0..=jitter_ms).contains(&delay_ms));
        entry.expires_at = expires_at;
        entry.release_at = expires_at.plus_ms(delay_ms);
    }

    /// What its user is told of it.
    fn shown(&self, at: usize, now: Timestamp) -> ReservationStatus {
        let entry = &self.entries[at];
        match entry.status {
            ReservationStatus::Held if entry.ends_as.is_some() => entry.ends_as.unwrap(),
            ReservationStatus::Held if entry.expires_at <= now => ReservationStatus::Expired,
            status => status,
        }
    }

    fn end_due(&mut self, at: usize, now: Timestamp) {
        let status = self.entries[at].ends_as;
        self.end(at, status.unwrap_or(ReservationStatus::Expired), now);
    }

    fn end(&mut self, at: usize, status: ReservationStatus, now: Timestamp) {
        self.entries[at].status = status;
        self.entries[at].ended_at = Some(now);
        self.facts.push(Fact::Ended {
            reservation_id: self.entries[at].hold.reservation_id,
            status,
            at: now,
        });
    }

    /// Time as it is written never goes back.
    fn time(&self, time: Timestamp) -> Timestamp {
        let times = self.entries.iter().flat_map(|e| {
            [
                Some(e.hold.held_at),
                e.ended_at,
                e.given_back_at(),
                e.cancelled_at,
            ]
        });
        let blocks = self.blocks.iter().map(|accepted| accepted.at);
        times.flatten().chain(blocks).fold(time, Timestamp::max)
    }

    fn find(&self, id: ReservationId) -> Option<usize> {
        self.entries
            .iter()
            .position(|e| e.known && e.hold.reservation_id == id)
    }

    fn is_due(&self, at: usize, now: Timestamp) -> bool {
        let entry = &self.entries[at];
        entry.status == ReservationStatus::Held && entry.release_at <= now
    }

    /// Seats that a user has no more, and nobody else yet.
    fn kept_seats(&self, user: UserId, now: Timestamp) -> usize {
        (0..self.entries.len())
            .filter(|at| self.entries[*at].user == user && self.entries[*at].ended_at.is_none())
            .filter(|at| !self.shown(*at, now).is_live() && !self.is_due(*at, now))
            .map(|at| self.entries[at].hold.seats.len())
            .sum()
    }

    fn live_seats(&self, user: UserId, now: Timestamp) -> usize {
        (0..self.entries.len())
            .filter(|at| self.entries[*at].user == user && self.entries[*at].ended_at.is_none())
            .filter(|at| self.shown(*at, now).is_live())
            .map(|at| self.entries[at].hold.seats.len() - self.entries[at].cancelled.len())
            .sum()
    }
}

fn is_of_another_layout(command: &Command<Kind>, layout: i64) -> bool {
    match command.kind {
        Kind::Hold {
            layout_no: Some(meant),
            ..
        }
        | Kind::HoldBest {
            layout_no: Some(meant),
            ..
        }
        | Kind::Block {
            layout_no: Some(meant),
            ..
        } => meant != layout,
        _ => false,
    }
}

fn has_seat(entry: &Entry, seat: SeatNo) -> bool {
    let has_all = entry.ended_at.is_none() || entry.status == ReservationStatus::Cancelled;
    has_all && entry.hold.seats.contains(&seat) && !entry.gone.contains(&seat)
}
