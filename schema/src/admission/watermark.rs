//! How far a line is, as its owner tells everybody, and what follows from it for one ticket: the
//! agreement that makes a poll cost no query.

use super::Policy;
use crate::draw::{Digest, Draw, Place};
use crate::ids::{ArrivalNo, Generation, ScheduleId};
use crate::status::{QueueMode, TicketStatus};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Broadcast by the owner after each commit that changed rooms, and each second for those that it has
/// loaded (with no changes), so that a lost word is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broadcast {
    /// One entry per room.
    pub rooms: Vec<Watermark>,
    /// When the owner sent it, by its clock.
    pub sent_at: Timestamp,
}

/// How far one line is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Whose room.
    pub schedule_id: ScheduleId,
    /// The version before. Who knows another one has missed [`Self::changes`], and reads the tickets
    /// that are not waiting anew.
    pub from_version: i64,
    /// The version after; the same as before in a beat.
    pub version: i64,
    /// When it was decided (business time).
    pub at: Timestamp,
    /// By which rules.
    pub policy: Policy,
    /// So many tickets there are.
    pub arrivals: u32,
    /// The lobby, once it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lobby: Option<Lobby>,
    /// All before it were admitted, have left or were passed over. It never goes back.
    pub front: Place,
    /// Reports of who was heard are wanted of so many places from the front on.
    pub window: u32,
    /// So many have a pass.
    pub active: u32,
    /// So many guests wait, who are let in before the line; none of those that were passed over.
    #[serde(default, skip_serializing_if = "is_none")]
    pub guests: u32,
    /// How far their line is; none where nobody has ever come with a code. Only the owner says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_line: Option<GuestLine>,
    /// So many of those that wait, in either line, were passed over and not heard since. Only the owner
    /// says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<u32>,
    /// By so many places the front has moved in the last [`Self::measured_ms`], while people were let
    /// in, and as many more as guests were.
    pub moved: u32,
    /// Over how long that was measured, in milliseconds; 0 while nobody is let in.
    pub measured_ms: u32,
    /// The date does not sell, or not any more: nobody is let in as long as that is so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sale_stopped: bool,
    /// The show is cancelled, so that the room is paused for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cancelled: bool,
    /// Within which its versions and the numbers of its tickets are counted.
    #[serde(default, skip_serializing_if = "Generation::is_first")]
    pub generation: Generation,
    /// Tickets that are something else now. New ones are not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<TicketChange>,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

/// How far the line of the guests is, who have numbers of their own in it, dense and in the order of their
/// arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLine {
    /// Whoever has a lower number has had a turn, and was not set aside for the opening. It never goes
    /// back, whoever the owner is.
    pub front: u32,
    /// So many there are, whatever became of them.
    pub arrivals: u32,
}

/// A generation, and a version within it.
pub type Moment = (Generation, i64);

/// A ticket, its status, and until when its pass lasts if it has one.
pub type TicketChange = (ArrivalNo, TicketStatus, Option<Timestamp>);

/// Who was there when the room opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lobby {
    /// When it was closed: who joins later is behind everybody who was in it.
    pub closed_at: Timestamp,
    /// Tickets in it: those with a number below.
    pub size: u32,
    /// The digest of those tickets.
    pub digest: Digest,
    /// What the beacon said, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub beacon: Option<Vec<u8>>,
    /// The order among them; none while the beacon is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// The order of a lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// As they arrived.
    Arrival,
    /// As it was drawn.
    Drawn {
        /// The seed of the draw.
        seed: Digest,
    },
}

/// Who stands where. Made once per room, as the rounds of a draw are prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// None where the order is that of arrival.
    draw: Option<Draw>,
}

impl Line {
    /// The line behind a lobby, once that has an order.
    #[must_use]
    pub fn behind(lobby: &Lobby) -> Option<Self> {
        let draw = match lobby.order? {
            Order::Arrival => None,
            Order::Drawn { seed } => Some(Draw::new(seed, lobby.size)),
        };
        Some(Self { draw })
    }

    /// The place of a ticket.
    #[must_use]
    pub fn place(&self, arrival: ArrivalNo) -> Place {
        let drawn = self.draw.as_ref().and_then(|draw| draw.place(arrival));
        drawn.unwrap_or(Place(arrival.0))
    }

    /// The ticket that has a place, or will have.
    #[must_use]
    pub fn arrival(&self, place: Place) -> ArrivalNo {
        let drawn = self.draw.as_ref().and_then(|draw| draw.arrival(place));
        drawn.unwrap_or(ArrivalNo(place.0))
    }

    /// The tickets at the places before `end`, in their order. For many of them this is far quicker
    /// than asking for each.
    pub fn before(&self, end: Place) -> impl Iterator<Item = ArrivalNo> {
        let drawn = self.draw.as_ref().filter(|_| end.0 > 0);
        let drawn = drawn.map(Draw::order).unwrap_or_default();
        let behind = u32::try_from(drawn.len()).unwrap_or(u32::MAX);
        let others = (behind..end.0.max(behind)).map(ArrivalNo);
        drawn.into_iter().chain(others).take(end.0 as usize)
    }
}

/// What somebody in line is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The ticket's number in the line, from 1; it never changes. None in the lobby.
    pub position: Option<u32>,
    /// So many places are before it that the line has not come to; it never grows.
    pub ahead: Option<u32>,
    /// How long it takes.
    pub eta: Option<Eta>,
    /// When to ask again, in milliseconds.
    pub poll_after_ms: u32,
}

/// How long somebody waits, as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    /// Hardly less than this, in milliseconds.
    pub low_ms: u64,
    /// Hardly more, in milliseconds, if nobody changes the rules.
    pub high_ms: u64,
}

/// The shortest time after which a client asks again, in milliseconds.
const POLL_MIN_MS: u64 = 1000;
/// The longest, in milliseconds, before it is spread.
pub const POLL_MAX_MS: u64 = 60_000;
/// The longest that anybody is told, in milliseconds.
pub const POLL_LAST_MS: u64 = POLL_MAX_MS * 6 / 5;
/// How often a guest asks, in milliseconds, if it need not ask more often to be heard, and they are few;
/// and how soon one that has just joined.
pub const GUEST_POLL_MS: u64 = 3000;
/// The first polls after the opening are no more than so many a second, as far as all are heard in time.
const POLLS_AT_OPENING: u64 = 10_000;
/// A client asks so often while the line comes to it.
const POLLS_PER_WAIT: u64 = 10;
/// Who has to be heard asks so often in the time after which it counts as silent.
const POLLS_PER_PRESENCE: u64 = 4;
/// The relative error of a measured rate: at least and at most so many per cent.
const ERROR_PERCENT: (u64, u64) = (15, 75);

impl Watermark {
    /// Whether it only says how far the line is, and of no commit.
    #[must_use]
    pub fn is_beat(&self) -> bool {
        self.from_version == self.version
    }

    /// Which moment of the room it is of: a later one is greater.
    #[must_use]
    pub fn moment(&self) -> Moment {
        (self.generation, self.version)
    }

    /// Whether people are let in now, as far as the rules say.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let has_order = self.lobby.as_ref().is_some_and(|l| l.order.is_some());
        let is_stopped = self.policy.paused || self.is_sale_stopped;
        has_order && !is_stopped && self.policy.mode != QueueMode::Off
    }

    /// Whether the owner wants to know that a ticket which waits was heard. `place` is none as long as
    /// there is no order.
    #[must_use]
    pub fn wants_report(&self, place: Option<Place>) -> bool {
        place.is_none_or(|place| place.0 < self.front.0.saturating_add(self.window))
    }

    /// What a ticket that waits is told, by its place; none in the lobby.
    #[must_use]
    pub fn sight(&self, place: Option<Place>, arrival: ArrivalNo, now: Timestamp) -> Sight {
        let ahead = place.map(|place| place.0.saturating_sub(self.front.0));
        let eta = ahead.and_then(|ahead| self.eta(ahead));
        Sight {
            position: place.map(|place| place.0 + 1),
            ahead,
            eta,
            poll_after_ms: self.poll_after_ms(ahead, eta, arrival, now),
        }
    }

    /// What a guest is told that waits, by its number among them where that is known. The more are before
    /// it, the later it asks again, so that all of them together ask no more often. Before the
    /// opening only those of a presale are let in, at once while there is room: so as long as there is,
    /// whoever waits is told to ask like those in the lobby.
    #[must_use]
    pub fn guest_sight(&self, no: Option<u32>, arrival: ArrivalNo, now: Timestamp) -> Sight {
        let line = no.zip(self.guest_line);
        let ahead = line.map(|(no, line)| no.saturating_sub(line.front));
        let waiting = ahead.map_or(self.guests, |ahead| ahead.min(self.guests));
        let opens_ms = u64::try_from(self.policy.opens_at.ms_since(now));
        let has_room = self.active < self.policy.capacity;
        let base = match opens_ms {
            Ok(opens_ms) if has_room => opens_ms + POLL_MIN_MS,
            Ok(_) | Err(_) => (self.least_ms(waiting) / POLLS_PER_WAIT).max(GUEST_POLL_MS),
        };
        Sight {
            position: no.map(|no| no + 1),
            ahead,
            eta: line.and_then(|(no, line)| self.guest_eta(no, line)),
            poll_after_ms: spread(base.min(self.heard_ms()), arrival),
        }
    }

    /// How long until the line has come so many places further, from how fast it is: the count of
    /// places that it moved by has a deviation of about its root, and so has the rate. All guests who
    /// wait are before it: those with places of their own in between at least.
    #[must_use]
    pub fn eta(&self, ahead: u32) -> Option<Eta> {
        let (ahead, guests) = (u64::from(ahead), u64::from(self.guests));
        self.eta_of(ahead.max(guests), ahead + guests)
    }

    /// The same of a guest's line, of whom some that are before it may have left. At most those who come
    /// after it are no matter.
    fn guest_eta(&self, no: u32, line: GuestLine) -> Option<Eta> {
        let most = self.guests.min(no.saturating_sub(line.front));
        let behind = line.arrivals.saturating_sub(no);
        let least = self.guests.saturating_sub(behind).min(most);
        self.eta_of(least.into(), most.into())
    }

    /// How long so many turns take at least, and so many at most.
    fn eta_of(&self, at_least: u64, at_most: u64) -> Option<Eta> {
        let (moved, measured_ms) = (u64::from(self.moved), u64::from(self.measured_ms));
        if moved == 0 || measured_ms == 0 || !self.is_running() {
            return None;
        }
        let (least, most) = ERROR_PERCENT;
        let error = (200 / moved.isqrt()).clamp(least, most);
        let exact = |turns: u64| turns * measured_ms * 100 / moved;
        Some(Eta {
            low_ms: exact(at_least) / (100 + error),
            high_ms: exact(at_most) / (100 - error),
        })
    }

    /// How often who has to be heard asks.
    fn heard_ms(&self) -> u64 {
        let presence_ms = u64::try_from(self.policy.presence_ms).unwrap_or(0);
        (presence_ms / POLLS_PER_PRESENCE).clamp(POLL_MIN_MS, POLL_MAX_MS)
    }

    /// How long it takes at least until so many are let in, by the most that the rules allow.
    fn least_ms(&self, count: u32) -> u64 {
        u64::from(count) * 1000 / u64::from(self.policy.rate_per_second.max(1))
    }

    /// The farther away, the later; always in time to be heard where that counts. Spread by a fifth
    /// either way, so that those who came together do not ask together for ever.
    fn poll_after_ms(
        &self,
        ahead: Option<u32>,
        eta: Option<Eta>,
        arrival: ArrivalNo,
        now: Timestamp,
    ) -> u32 {
        let heard_ms = self.heard_ms();
        let opens_ms = self.policy.opens_at.ms_since(now);
        let wait_ms = match (ahead, eta) {
            (Some(_), Some(eta)) => eta.low_ms / POLLS_PER_WAIT,
            // By the most that the rules allow.
            (Some(ahead), None) => self.least_ms(ahead) / POLLS_PER_WAIT,
            // Once more soon after the opening, one after the other. When there is no order after it, it is a beacon that is
            // waited for, or the room is off: that may take long.
            (None, _) => u64::try_from(opens_ms)
                .map_or(heard_ms, |ms| ms + POLL_MIN_MS + self.first_ms(arrival)),
        };
        let is_near = ahead.is_none_or(|ahead| ahead < self.window);
        let longest = if is_near { heard_ms } else { POLL_MAX_MS };
        spread(wait_ms.clamp(POLL_MIN_MS, longest), arrival)
    }
}

impl Watermark {
    /// When somebody of the lobby asks first, in milliseconds from the opening on: the more there are, the
    /// longer that takes, as far as all are heard in time.
    fn first_ms(&self, arrival: ArrivalNo) -> u64 {
        let all_ms = u64::from(self.arrivals) * 1000 / POLLS_AT_OPENING;
        let share = u64::from(arrival.0.wrapping_mul(0x85eb_ca6b));
        (all_ms.min(self.heard_ms()) * share) >> 32
    }
}

/// A time in milliseconds, up to a fifth shorter or longer. Neighbours differ.
fn spread(base: u64, arrival: ArrivalNo) -> u32 {
    // 0 to 400 thousandths.
    let spread = u64::from(arrival.0.wrapping_mul(0x9e37_79b1) >> 16) * 400 / 65_536;
    let spread = base * (800 + spread) / 1000;
    u32::try_from(spread).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
