//! What settlement says, as naively as the rest.

use super::{Entry, Model, has_seat};
use onsale_domain::seats::PAYING_MS;
use onsale_schema::message::Command;
use onsale_schema::seats::{Fact, Hold, Kind};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{NoticeId, ReservationId, SeatNo, Timestamp, UserId};

impl Model {
    pub(super) fn told(&mut self, command: &Command<Kind>, now: Timestamp) {
        match &command.kind {
            Kind::Paid {
                notice_id,
                reservation_id,
                ..
            } => {
                if self.is_first(*notice_id) {
                    self.paid(*reservation_id, now);
                }
            }
            Kind::PaidAll {
                notice_id,
                reservation_ids,
                ..
            } => {
                if self.is_first(*notice_id) {
                    for &id in reservation_ids {
                        self.paid(id, now);
                    }
                }
            }
            Kind::Secure { notice_id, .. } => {
                if self.is_first(*notice_id) {
                    self.secure(command, now);
                }
            }
            Kind::Unsecure {
                notice_id,
                reservation_id,
                order_id,
                ..
            } => {
                if self.is_first(*notice_id)
                    && let Some(at) = self.find(*reservation_id)
                    && self.entries[at].status == ReservationStatus::Held
                    && self.entries[at].paying == Some(*order_id)
                {
                    self.entries[at].paying = None;
                }
            }
            Kind::Rehold { notice_id, .. } => {
                if self.is_first(*notice_id) {
                    self.rehold(command, now);
                }
            }
            Kind::Cancelled {
                notice_id,
                reservation_id,
                seats,
                at,
                ..
            } => {
                if self.is_first(*notice_id) {
                    self.cancel(*reservation_id, seats, *at, now);
                }
            }
            _ => unreachable!("settlement says nothing else"),
        }
    }

    pub(super) fn is_first(&mut self, notice: NoticeId) -> bool {
        self.decided.insert(notice)
    }

    fn paid(&mut self, id: ReservationId, now: Timestamp) {
        let Some(at) = self.find(id) else { return };
        let entry = &mut self.entries[at];
        if entry.ended_at.is_none() {
            entry.status = ReservationStatus::Paid;
        } else if entry.status != ReservationStatus::Cancelled {
            return;
        }
        let has_some = entry.hold.seats.iter().any(|seat| has_seat(entry, *seat));
        if has_some && !entry.sold {
            entry.sold = true;
            self.facts.push(Fact::Sold {
                reservation_id: id,
                at: now,
            });
        }
    }

    fn secure(&mut self, command: &Command<Kind>, now: Timestamp) {
        let Kind::Secure {
            reservation_id,
            order_id,
            until,
            ..
        } = command.kind
        else {
            unreachable!("it is one");
        };
        let Some(at) = self.find(reservation_id) else {
            return;
        };
        if self.shown(at, now) != ReservationStatus::Held {
            return;
        }
        let policy = self.policy;
        let most_ms = policy.hold_total_ms.max(policy.hold_ms) + PAYING_MS;
        let most = self.entries[at].hold.held_at.plus_ms(most_ms);
        let expires_at = until.min(most);
        self.entries[at].paying = Some(order_id);
        if expires_at > self.entries[at].expires_at {
            self.last_until(at, expires_at);
            self.facts.push(Fact::Extended {
                reservation_id,
                command_id: command.id,
                expires_at,
                at: now,
            });
        }
    }

    fn rehold(&mut self, command: &Command<Kind>, now: Timestamp) {
        let Kind::Rehold {
            order_id,
            reservation_id,
            lapsed_id,
            user_id,
            seats,
            total,
            ..
        } = &command.kind
        else {
            unreachable!("it is one");
        };
        let here = self.entries.iter().filter(|entry| entry.known);
        let here = here.map(|entry| (entry.command, entry.hold.reservation_id));
        let mut foreign = self.foreign.iter().filter(|foreign| foreign.known);
        let is_known = here
            .clone()
            .any(|(by, id)| by == command.id || id == *reservation_id)
            || foreign.any(|foreign| foreign.command == command.id);
        let is_its = |entry: &Entry| {
            entry.known
                && entry.hold.reservation_id == *lapsed_id
                && entry.user == *user_id
                && entry.status == ReservationStatus::Held
        };
        let is_free = |seat: &SeatNo| {
            let own = self.entries.iter().find(|entry| has_seat(entry, *seat));
            self.is_free(*seat, now) || own.is_some_and(is_its)
        };
        if is_known || seats.is_empty() || !self.are_there(seats) || !seats.iter().all(is_free) {
            return;
        }
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            if seats.iter().any(|seat| has_seat(entry, *seat)) {
                entry.expires_at = entry.expires_at.min(now);
                entry.release_at = entry.release_at.min(now);
                self.end_due(at, now);
            }
        }
        let hold = Hold {
            reservation_id: *reservation_id,
            schedule_id: self.schedule,
            seats: seats.clone(),
            total: *total,
            held_at: now,
            expires_at: now,
        };
        self.facts.push(Fact::Reheld {
            user_id: *user_id,
            order_id: *order_id,
            lapsed_id: *lapsed_id,
            hold: hold.clone(),
        });
        self.entries.push(Entry {
            status: ReservationStatus::Paid,
            rehold: Some(*order_id),
            sold: true,
            ..Entry::new(command, *user_id, hold)
        });
    }

    fn cancel(&mut self, id: ReservationId, seats: &[SeatNo], at: Timestamp, now: Timestamp) {
        let mut entries = self.entries.iter_mut();
        let Some(entry) = entries.find(|entry| entry.hold.reservation_id == id) else {
            return;
        };
        let mut freed = Vec::new();
        for seat in seats {
            if has_seat(entry, *seat) && !freed.contains(seat) {
                freed.push(*seat);
            }
        }
        let is_its = |seat| entry.hold.seats.contains(seat) && !entry.cancelled.contains(seat);
        let is_news = entry.known && entry.ended_at.is_none() && seats.iter().any(is_its);
        if is_news {
            entry.note_cancelled(seats, at);
        }
        entry.gone.extend(&freed);
        if !freed.is_empty() {
            self.facts.push(Fact::Cancelled {
                reservation_id: id,
                seats: freed,
                at: now.max(at),
            });
        }
    }
}

impl Entry {
    /// One that was just accepted.
    pub(super) fn new(command: &Command<Kind>, user: UserId, hold: Hold) -> Self {
        Self {
            user,
            command: command.id,
            fingerprint: command.fingerprint,
            status: ReservationStatus::Held,
            ended_at: None,
            expires_at: hold.expires_at,
            release_at: hold.expires_at,
            hold,
            ends_as: None,
            extended_by: Vec::new(),
            given_back_by: None,
            paying: None,
            rehold: None,
            cancelled: Vec::new(),
            cancelled_at: None,
            gone: Vec::new(),
            sold: false,
            known: true,
            ticket: None,
        }
    }

    /// A cancelled reservation was paid; one of which all is cancelled is no more.
    fn note_cancelled(&mut self, seats: &[SeatNo], at: Timestamp) {
        self.status = ReservationStatus::Paid;
        for seat in &self.hold.seats {
            if seats.contains(seat) && !self.cancelled.contains(seat) {
                self.cancelled.push(*seat);
            }
        }
        self.cancelled_at = self.cancelled_at.max(Some(at));
        self.cancelled.sort_unstable();
        if self.cancelled.len() == self.hold.seats.len() {
            self.status = ReservationStatus::Cancelled;
            self.ended_at = self.cancelled_at;
        }
    }
}
