//! Settlement, as far as the owner of seats meets it: it changes rows behind the owner's back, and
//! says so by notices that come late, twice, and in any order.

use super::World;
use onsale_domain::seats::Reservation;
use onsale_schema::seats::Kind;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{NoticeId, PaymentOrderId, ReservationId, SeatNo, Timestamp};

/// A payment through a gateway.
pub struct Order {
    id: PaymentOrderId,
    reservation: ReservationId,
    /// The word whose answer is waited for.
    notice: NoticeId,
    /// The reservation that is asked for, once the money has come too late.
    rehold: Option<ReservationId>,
}

impl World {
    pub fn settle(&mut self) {
        let clock = self.now.plus_ms(self.rng.range(-3, 3) * 1000);
        match self.rng.range(1, 10) {
            1..=3 => self.pay(clock),
            4..=5 => self.order(clock),
            6..=8 => self.go_on(clock),
            _ => self.cancel(clock),
        }
    }

    pub(super) fn tell(&mut self, kind: impl FnOnce(NoticeId) -> Kind) -> NoticeId {
        let notice = NoticeId(self.rng.uuid());
        let kind = kind(notice);
        self.rows.open_notices.insert(notice, kind.clone());
        self.notices.push((notice, kind));
        notice
    }

    fn set_paid(&mut self, id: ReservationId) {
        self.rows.reservations.get_mut(&id).unwrap().status = ReservationStatus::Paid;
    }

    /// Makes a hold PAID.
    fn sell(&mut self, id: ReservationId) {
        self.set_paid(id);
        let schedule_id = self.rows.schedule;
        self.tell(|notice_id| Kind::Paid {
            notice_id,
            reservation_id: id,
            schedule_id,
        });
    }

    /// With points, what no order has secured.
    fn pay(&mut self, clock: Timestamp) {
        let rows = self.rows.reservations.values();
        let payable = rows.filter(|r| is_payable(r, clock) && r.term.paying_order.is_none());
        let payable: Vec<_> = payable.map(|r| r.reservation_id).collect();
        let Some(&first) = self.rng.pick(&payable) else {
            return;
        };
        let others = payable.into_iter().filter(|&id| id != first);
        let mut reservation_ids = vec![first];
        for id in others {
            if self.rng.percent(30) {
                reservation_ids.push(id);
            }
        }
        for &id in &reservation_ids {
            self.set_paid(id);
        }
        let schedule_id = self.rows.schedule;
        self.tell(|notice_id| Kind::PaidAll {
            notice_id,
            reservation_ids,
            schedule_id,
        });
    }

    /// Of any reservation, since it is about to be confirmed when it may have ended.
    fn order(&mut self, clock: Timestamp) {
        let is_busy = |id| self.orders.iter().any(|order| order.reservation == id);
        let rows = self.rows.reservations.values();
        let rows = rows.filter(|r| !is_busy(r.reservation_id) && r.rehold_order.is_none());
        let lives = |r: &&Reservation| is_payable(r, clock);
        let (live, other): (Vec<_>, Vec<_>) = rows.partition(lives);
        let rows = if self.rng.percent(85) { live } else { other };
        let Some(reservation) = self.rng.pick(&rows).map(|r| r.reservation_id) else {
            return;
        };
        let id = PaymentOrderId(self.rng.uuid());
        let until = clock.plus_ms(self.rng.range(-5, 40) * 1000);
        let schedule_id = self.rows.schedule;
        let notice = self.tell(|notice_id| Kind::Secure {
            notice_id,
            order_id: id,
            reservation_id: reservation,
            schedule_id,
            until,
        });
        self.orders.push(Order {
            id,
            reservation,
            notice,
            rehold: None,
        });
    }

    /// The next step of an order whose word was heard.
    fn go_on(&mut self, clock: Timestamp) {
        let is_open = |order: &Order| self.rows.open_notices.contains_key(&order.notice);
        let heard: Vec<usize> = (0..self.orders.len())
            .filter(|at| !is_open(&self.orders[*at]))
            .collect();
        let Some(&at) = self.rng.pick(&heard) else {
            return;
        };
        let order = self.orders.swap_remove(at);
        if let Some(rehold) = order.rehold {
            if !self.rows.reservations.contains_key(&rehold) {
                self.rows.refunded.insert(order.id);
            }
            return;
        }
        let row = self.rows.reservations[&order.reservation].clone();
        let is_secured = row.term.paying_order == Some(order.id) && is_payable(&row, clock);
        let (schedule_id, order_id) = (self.rows.schedule, order.id);
        if is_secured && self.rng.percent(50) {
            self.sell(order.reservation);
        } else if is_secured && self.rng.percent(60) || self.rng.percent(20) {
            self.tell(|notice_id| Kind::Unsecure {
                notice_id,
                order_id,
                reservation_id: row.reservation_id,
                schedule_id,
            });
        } else if is_secured && self.rng.percent(80) {
            // The gateway takes its time.
            self.orders.push(order);
        } else {
            let reservation_id = ReservationId(self.rng.uuid());
            let notice = self.tell(|notice_id| Kind::Rehold {
                notice_id,
                order_id,
                reservation_id,
                lapsed_id: row.reservation_id,
                schedule_id,
                user_id: row.user_id,
                seats: row.seats,
                total: row.total,
            });
            self.orders.push(Order {
                notice,
                rehold: Some(reservation_id),
                ..order
            });
        }
    }

    /// Some or all of what is left of a paid reservation.
    fn cancel(&mut self, clock: Timestamp) {
        let rows = self.rows.reservations.values();
        let paid = rows.filter(|r| r.status == ReservationStatus::Paid);
        let paid: Vec<_> = paid.map(|r| r.reservation_id).collect();
        let Some(&id) = self.rng.pick(&paid) else {
            return;
        };
        let is_all = self.rng.percent(50);
        let r = self.rows.reservations.get_mut(&id).unwrap();
        let left = r.seats.iter().filter(|seat| !r.cancelled.contains(seat));
        let left: Vec<SeatNo> = left.copied().collect();
        let count = if is_all { left.len() } else { 1 };
        let seats = left[..count].to_vec();
        // Whatever the clock says, it is after what it follows.
        let at = clock.max(r.held_at).max(r.cancelled_at.unwrap_or(clock));
        r.cancelled.extend(&seats);
        r.cancelled.sort_unstable();
        r.cancelled_at = Some(at);
        if seats.len() == left.len() {
            (r.status, r.ended_at) = (ReservationStatus::Cancelled, Some(at));
        }
        let cancelled = seats.iter().map(|seat| ((id, *seat), at));
        self.rows.cancellations.extend(cancelled);
        let schedule_id = self.rows.schedule;
        self.tell(|notice_id| Kind::Cancelled {
            notice_id,
            reservation_id: id,
            schedule_id,
            seats,
            at,
        });
    }
}

fn is_payable(r: &Reservation, clock: Timestamp) -> bool {
    r.status == ReservationStatus::Held && r.term.ends_as.is_none() && r.term.expires_at > clock
}
