//! How a ticket is, at one moment.

use super::state::Look;
use onsale_schema::admission::{Pass, Sight, Ticketed};
use onsale_schema::draw::Place;
use onsale_schema::status::TicketStatus;
use onsale_schema::{Timestamp, admission};

/// How a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How far it is.
    pub status: TicketStatus,
    /// Its place, once the line has an order. It never changes.
    pub place: Option<Place>,
    /// What it is told while it waits.
    pub sight: Option<Sight>,
    /// Until when its pass lasts, if it has one.
    pub pass_until: Option<Timestamp>,
    /// So many holds may be made with a pass, as far as is known.
    holds_max: u32,
}

impl Standing {
    /// By what is in memory.
    #[must_use]
    pub fn of(look: &Look, place: Option<Place>, now: Timestamp) -> Self {
        let place = place.or_else(|| look.place());
        Self {
            status: look.status,
            place,
            sight: look.waits().then(|| look.sight(place, now)),
            pass_until: look.pass_until,
            holds_max: look.told.policy.holds_per_pass,
        }
    }

    /// As its owner told just now, while nothing is in memory.
    #[must_use]
    pub fn told(ticket: &admission::Ticket) -> Self {
        Self {
            status: ticket.status,
            place: None,
            sight: None,
            // How many holds it is good for is not known.
            pass_until: None,
            holds_max: 0,
        }
    }

    /// The same, if elsewhere more is known of the ticket already: it only goes forward.
    #[must_use]
    pub fn after(self, status: TicketStatus, pass_until: Option<Timestamp>) -> Self {
        if status <= self.status {
            return self;
        }
        Self {
            status,
            sight: self.sight.filter(|_| status == TicketStatus::Waiting),
            pass_until,
            ..self
        }
    }

    /// Its pass, while it has one.
    #[must_use]
    pub fn pass(&self, ticket: &Ticketed, now: Timestamp) -> Option<Pass> {
        let expires_at = self.pass_until.filter(|until| *until > now)?;
        Some(Pass {
            ticket: *ticket,
            expires_at,
            holds_max: self.holds_max,
        })
    }
}
