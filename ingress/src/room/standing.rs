//! How a ticket is, at one moment.

use super::state::Look;
use onsale_schema::admission::{Pass, Sight, Ticketed, Watermark};
use onsale_schema::draw::Place;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{Timestamp, admission};
use serde::Serialize;
use utoipa::ToSchema;

/// Whether a room lets people in, as far as its rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RoomState {
    /// It does, from its opening on.
    Open,
    /// Nobody is let in for now: it was paused, or the date does not sell, perhaps for good, as its
    /// date says.
    Paused,
    /// Nobody has to wait: no pass is needed.
    Off,
}

impl RoomState {
    /// By what its owner tells of it.
    #[must_use]
    pub fn of(told: &Watermark) -> Self {
        let is_stopped = told.policy.paused || told.is_sale_stopped;
        match told.policy.mode {
            QueueMode::Off => Self::Off,
            QueueMode::Fifo | QueueMode::Draw | QueueMode::Open if is_stopped => Self::Paused,
            QueueMode::Fifo | QueueMode::Draw | QueueMode::Open => Self::Open,
        }
    }
}

/// How a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How far it is.
    pub status: TicketStatus,
    /// How its room is, if that is known.
    pub room: Option<RoomState>,
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
            room: Some(RoomState::of(&look.told)),
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
            room: None,
            place: None,
            sight: None,
            // How many holds it is good for is not known.
            pass_until: None,
            holds_max: 0,
        }
    }

    /// The same, asked about again within so many milliseconds.
    #[must_use]
    pub fn soon(self, within_ms: u64) -> Self {
        let within = u32::try_from(within_ms).unwrap_or(u32::MAX);
        let sight = self.sight.map(|sight| Sight {
            poll_after_ms: sight.poll_after_ms.min(within),
            ..sight
        });
        Self { sight, ..self }
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

    /// Whether somebody who was told how it was `before`, and when, must hear of this one at once: not
    /// only that the line moves on.
    #[must_use]
    pub fn has_turned(&self, (before, told_at): &(Self, Timestamp), now: Timestamp) -> bool {
        let pass = |it: &Self, at| it.pass_until.filter(|until| *until > at);
        self.status != before.status
            || self.room != before.room
            || self.place != before.place
            || pass(self, now) != pass(before, *told_at)
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

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::admission::Policy;
    use onsale_schema::{ArrivalNo, Generation, ScheduleId, TicketId};
    use uuid::Uuid;

    #[test]
    fn a_stream_hears_at_once_of_what_is_more_than_the_line_moving_on() {
        let at = |s: i64| Timestamp::EPOCH.plus_ms(s * 1000);
        let waiting = Standing::told(&admission::Ticket {
            ticket_id: TicketId(Uuid::nil()),
            schedule_id: ScheduleId(Uuid::nil()),
            arrival_no: ArrivalNo(0),
            is_new: true,
            status: TicketStatus::Waiting,
            pass_expires_at: None,
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        });
        let placed = Standing {
            place: Some(Place(3)),
            ..waiting
        };
        let paused = Standing {
            room: Some(RoomState::Paused),
            ..placed
        };
        let pass = |s| placed.after(TicketStatus::Admitted, Some(at(s)));
        for (before, told_s, after, now_s, expected) in [
            (waiting, 0, waiting, 9, false),
            (waiting, 0, placed, 9, true),
            (placed, 0, paused, 9, true),
            (paused, 0, paused, 9, false),
            (placed, 0, pass(20), 9, true),
            (pass(20), 9, pass(20), 19, false),
            // It has ended, though its owner has not said so.
            (pass(20), 9, pass(20), 20, true),
            (pass(20), 20, pass(20), 21, false),
            (pass(20), 9, pass(30), 19, true),
        ] {
            let told = (before, at(told_s));
            assert_eq!(
                after.has_turned(&told, at(now_s)),
                expected,
                "{after:?} after {told:?}"
            );
        }
    }

    #[test]
    fn a_room_that_is_off_is_not_paused() {
        let told = |mode, paused, is_sale_stopped| {
            let policy = Policy::new(mode, Timestamp::EPOCH);
            RoomState::of(&Watermark {
                schedule_id: ScheduleId(Uuid::nil()),
                from_version: 1,
                version: 1,
                at: Timestamp::EPOCH,
                policy: Policy { paused, ..policy },
                arrivals: 0,
                lobby: None,
                front: Place(0),
                window: policy.window(),
                active: 0,
                guests: 0,
                guest_line: None,
                passed: None,
                moved: 0,
                measured_ms: 0,
                is_sale_stopped,
                is_cancelled: false,
                generation: Generation::default(),
                changes: Vec::new(),
            })
        };
        for mode in [QueueMode::Fifo, QueueMode::Draw, QueueMode::Open] {
            assert_eq!(told(mode, false, false), RoomState::Open);
            assert_eq!(told(mode, true, false), RoomState::Paused);
            assert_eq!(told(mode, false, true), RoomState::Paused);
        }
        assert_eq!(told(QueueMode::Off, true, true), RoomState::Off);
    }
}
