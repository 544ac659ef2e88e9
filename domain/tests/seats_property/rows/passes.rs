//! What the rows say of passes, and what the owner of the waiting room makes of what it is told.

use super::Rows;
use onsale_domain::seats::Changes;
use onsale_schema::admission::HoldState;
use onsale_schema::seats::Kind;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{ReservationId, TicketId, Timestamp};
use std::collections::BTreeMap;

/// What is known of a hold that was made with a pass; words of it may come in any order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    until: Option<Timestamp>,
    is_over: bool,
    is_paid: bool,
}

impl Rows {
    /// How many holds were made with each ticket.
    pub(super) fn entries(&self) -> BTreeMap<TicketId, u32> {
        let mut holds = BTreeMap::new();
        for entry in self.reservations.values().filter_map(|r| r.entry) {
            *holds.entry(entry.ticket_id).or_default() += 1;
        }
        holds
    }

    pub(super) fn write_passes(&mut self, changes: &Changes) {
        for update in &changes.gates {
            assert_eq!(update.before, self.gate);
            assert!(update.after.room_version > self.gate.room_version);
            self.gate = update.after;
        }
        for (schedule, holds) in &changes.pass_holds {
            assert_eq!(*schedule, self.schedule);
            for hold in holds {
                let entry = self.reservations[&hold.reservation_id].entry;
                assert_eq!(entry.map(|by| by.ticket_id), Some(hold.ticket_id));
                let told = self.told.entry(hold.reservation_id).or_default();
                match hold.state {
                    HoldState::Until(until) => told.until = told.until.max(Some(until)),
                    HoldState::Over => told.is_over = true,
                    HoldState::Paid => (told.is_over, told.is_paid) = (true, true),
                }
            }
        }
    }

    /// Q3, as far as it can be seen from here; and the waiting room knows how each hold is, but for
    /// payments of which word is on its way.
    pub(super) fn check_passes(&self) {
        for r in self.reservations.values().filter(|r| r.entry.is_some()) {
            assert!(r.rehold_order.is_none(), "a re-hold takes no pass");
            let told = self.told[&r.reservation_id];
            let is_live = r.status == ReservationStatus::Held && r.term.ends_as.is_none();
            match r.status {
                ReservationStatus::Held if is_live => {
                    assert_eq!(told.until, Some(r.term.expires_at), "{r:?}");
                    assert!(!told.is_over, "{r:?}");
                }
                ReservationStatus::Held
                | ReservationStatus::Expired
                | ReservationStatus::Released => assert!(told.is_over, "{r:?}"),
                ReservationStatus::Paid => {
                    let is_known = told.is_paid || self.is_paying(r.reservation_id);
                    assert!(is_known, "{r:?}");
                }
                // If all of it was cancelled long before word of the payment came, nobody knows it any
                // more, and its pass is as old.
                ReservationStatus::Cancelled => {}
            }
        }
    }

    fn is_paying(&self, id: ReservationId) -> bool {
        self.open_notices.values().any(|kind| match kind {
            Kind::Paid { reservation_id, .. } => *reservation_id == id,
            Kind::PaidAll {
                reservation_ids, ..
            } => reservation_ids.contains(&id),
            _ => false,
        })
    }
}
