//! Late captures: each is given the seats that its own hold had, at most once.

use super::Ghost;
use crate::sim::Violation;
use onsale_domain::seats::Reservation;
use onsale_schema::invariant::Invariant;
use onsale_schema::message::Command;
use onsale_schema::seats::Kind;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{PaymentOrderId, ReservationId};
use std::collections::{BTreeMap, BTreeSet};

/// What was asked for late captures.
#[derive(Default)]
pub struct Late {
    /// By the id that the new reservation would get.
    asked: BTreeMap<ReservationId, Kind>,
    /// The holds that lapsed.
    over: BTreeSet<ReservationId>,
    /// Orders that were given seats.
    given: BTreeSet<PaymentOrderId>,
}

impl Late {
    pub fn send(&mut self, command: &Command<Kind>) {
        if let Kind::Rehold {
            reservation_id,
            lapsed_id,
            ..
        } = &command.kind
        {
            self.asked.insert(*reservation_id, command.kind.clone());
            self.over.insert(*lapsed_id);
        }
    }

    /// Looks at a reservation that a late capture was given.
    pub fn check(&mut self, r: &Reservation, found: &mut Vec<Violation>) {
        let is_meant = match self.asked.get(&r.reservation_id) {
            Some(Kind::Rehold {
                order_id,
                user_id,
                seats,
                total,
                ..
            }) => {
                r.rehold_order == Some(*order_id)
                    && (r.user_id, &r.seats, r.total) == (*user_id, seats, *total)
            }
            _ => false,
        };
        let is_first = r.rehold_order.is_some_and(|order| self.given.insert(order));
        if !is_meant || r.status != ReservationStatus::Paid || r.held_at != r.term.expires_at {
            found.push(Violation::promise("only what is paid", format!("{r:?}")));
        }
        if !is_first {
            found.push(Violation::of(Invariant::I1, format!("{r:?}")));
        }
    }
}

impl Ghost {
    /// Whether settlement has found that a hold was over, by its own clock.
    pub fn is_over(&self, id: ReservationId) -> bool {
        self.late.over.contains(&id)
    }
}
