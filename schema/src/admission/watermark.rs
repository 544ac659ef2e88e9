//! How far a line is, as its owner tells everybody, and what follows from it for one ticket: the
//! agreement that makes a poll cost no query.

use super::Policy;
use crate::draw::{Digest, Draw, Place};
use crate::ids::{ArrivalNo, ScheduleId};
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
    /// By so many places the front has moved in the last [`Self::measured_ms`], while people were let
    /// in, and as many more as guests were.
    pub moved: u32,
    /// Over how long that was measured, in milliseconds; 0 while nobody is let in.
    pub measured_ms: u32,
    /// The date does not sell, or not any more: nobody is let in as long as that is so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sale_stopped: bool,
    /// Tickets that are something else now. New ones are not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<TicketChange>,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

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
/// The longest, in milliseconds.
pub const POLL_MAX_MS: u64 = 60_000;
/// How often a guest asks, in milliseconds, if it need not ask more often to be heard, and they are few;
/// and how soon one that has just joined.
pub const GUEST_POLL_MS: u64 = 3000;
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

    /// What a guest is told that waits. Where in its own line it stands is not known here; the more
    /// they are, the later each asks again, so that all of them together ask no more often. Before the
    /// opening only those of a presale are let in, at once while there is room: so as long as there is,
    /// whoever waits is told to ask like those in the lobby.
    #[must_use]
    pub fn guest_sight(&self, arrival: ArrivalNo, now: Timestamp) -> Sight {
        let opens_ms = u64::try_from(self.policy.opens_at.ms_since(now));
        let has_room = self.active < self.policy.capacity;
        let base = match opens_ms {
            Ok(opens_ms) if has_room => opens_ms + POLL_MIN_MS,
            Ok(_) | Err(_) => (self.least_ms(self.guests) / POLLS_PER_WAIT).max(GUEST_POLL_MS),
        };
        Sight {
            position: None,
            ahead: None,
            eta: None,
            poll_after_ms: spread(base.min(self.heard_ms()), arrival),
        }
    }

    /// How long until the line has come so many places further, from how fast it is: the count of
    /// places that it moved by has a deviation of about its root, and so has the rate. All guests who
    /// wait are before it: those with places of their own in between at least.
    #[must_use]
    pub fn eta(&self, ahead: u32) -> Option<Eta> {
        let (moved, measured_ms) = (u64::from(self.moved), u64::from(self.measured_ms));
        if moved == 0 || measured_ms == 0 || !self.is_running() {
            return None;
        }
        let (least, most) = ERROR_PERCENT;
        let error = (200 / moved.isqrt()).clamp(least, most);
        let exact = |turns: u64| turns * measured_ms * 100 / moved;
        let (ahead, guests) = (u64::from(ahead), u64::from(self.guests));
        Some(Eta {
            low_ms: exact(ahead.max(guests)) / (100 + error),
            high_ms: exact(ahead + guests) / (100 - error),
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
            // Once more soon after the opening. When there is no order after it, it is a beacon that is
            // waited for, or the room is off: that may take long.
            (None, _) => u64::try_from(opens_ms).map_or(heard_ms, |ms| ms + POLL_MIN_MS),
        };
        let is_near = ahead.is_none_or(|ahead| ahead < self.window);
        let longest = if is_near { heard_ms } else { POLL_MAX_MS };
        spread(wait_ms.clamp(POLL_MIN_MS, longest), arrival)
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
mod tests {
    use super::*;
    use uuid::Uuid;

    fn watermark(front: u32, moved: u32, measured_ms: u32) -> Watermark {
        let opens_at = Timestamp::from_micros(1_000_000_000);
        Watermark {
            schedule_id: ScheduleId(Uuid::from_u128(1)),
            from_version: 1,
            version: 1,
            at: opens_at,
            policy: Policy::new(QueueMode::Draw, opens_at),
            arrivals: 1_000_000,
            lobby: Some(Lobby {
                closed_at: opens_at,
                size: 10,
                digest: Digest::default(),
                beacon: None,
                order: Some(Order::Drawn {
                    seed: Digest([7; 32]),
                }),
            }),
            front: Place(front),
            window: 1200,
            active: 100,
            guests: 0,
            moved,
            measured_ms,
            is_sale_stopped: false,
            changes: Vec::new(),
        }
    }

    #[test]
    fn a_line_is_the_drawn_lobby_and_then_who_came_later() {
        let line = Line::behind(watermark(0, 0, 0).lobby.as_ref().unwrap()).unwrap();
        for end in [0, 3, 10, 12] {
            let before: Vec<_> = line.before(Place(end)).collect();
            let each: Vec<_> = (0..end).map(|at| line.arrival(Place(at))).collect();
            assert_eq!(before, each);
        }
        for no in 0..20 {
            assert_eq!(line.arrival(line.place(ArrivalNo(no))), ArrivalNo(no));
            assert_eq!(line.place(ArrivalNo(no)).0 < 10, no < 10);
        }
        assert_eq!(line.place(ArrivalNo(15)), Place(15));
    }

    #[test]
    fn a_wait_is_told_as_a_range_that_narrows_with_what_was_measured() {
        let now = Timestamp::from_micros(1_100_000_000);
        let eta = |moved, measured_ms| watermark(100, moved, measured_ms).eta(900);
        assert_eq!(eta(0, 60_000), None);
        assert_eq!(eta(600, 0), None);
        // 10 a second: a minute and a half.
        assert_eq!(
            eta(600, 60_000),
            Some(Eta {
                low_ms: 78_260,
                high_ms: 105_882
            })
        );
        assert_eq!(
            eta(10, 1000),
            Some(Eta {
                low_ms: 54_216,
                high_ms: 264_705
            })
        );
        // Of 600 who are before the line, some may be among those ahead.
        let mut guests = watermark(100, 600, 60_000);
        guests.guests = 600;
        assert_eq!(
            guests.eta(300),
            Some(Eta {
                low_ms: 52_173,
                high_ms: 105_882
            })
        );
        let mut paused = watermark(100, 600, 60_000);
        paused.policy.paused = true;
        assert_eq!(paused.sight(Some(Place(1000)), ArrivalNo(1), now).eta, None);
        let mut unsold = watermark(100, 600, 60_000);
        unsold.is_sale_stopped = true;
        assert_eq!(unsold.eta(900), None);
    }

    #[test]
    fn the_more_guests_there_are_the_later_each_asks_again() {
        let told = |guests: u32| {
            let mut told = watermark(500, 600, 60_000);
            (told.guests, told.policy.rate_per_second) = (guests, 10);
            let now = told.policy.opens_at;
            told.guest_sight(ArrivalNo(7), now.plus_ms(1)).poll_after_ms
        };
        let all: Vec<u32> = [0, 300, 1000, 100_000].map(told).to_vec();
        assert!(all.is_sorted() && all[0] == all[1], "{all:?}");
        assert!(all[1] <= 3600 && all[2] >= 8000, "{all:?}");
        assert!(all[3] <= 18_000, "they have to be heard: {all:?}");
    }

    #[test]
    fn a_guest_does_not_ask_every_moment_for_hours_before_the_opening() {
        let told = |before_s: i64, active| {
            let mut told = watermark(0, 0, 0);
            (told.guests, told.active, told.policy.presence_ms) = (5, active, 60_000);
            let now = told.policy.opens_at.plus_ms(-before_s * 1000);
            told.guest_sight(ArrivalNo(7), now).poll_after_ms
        };
        let lobby = |before_s: i64| {
            let told = watermark(0, 0, 0);
            let now = told.policy.opens_at.plus_ms(-before_s * 1000);
            told.sight(None, ArrivalNo(7), now).poll_after_ms
        };
        for before_s in [7200, 60, 10, 1, 0] {
            assert_eq!(told(before_s, 50), lobby(before_s), "{before_s}");
        }
        assert!(told(7200, 50) >= 12_000);
        // In a presale that is full whoever is next asks as often as ever.
        let full = told(7200, 100);
        assert!(full <= 3600 && full == told(-60, 100), "{full}");
    }

    #[test]
    fn the_farther_away_the_later_a_client_asks_again() {
        let now = Timestamp::from_micros(1_100_000_000);
        let told = |ahead: u32| {
            let sight =
                watermark(500, 600, 60_000).sight(Some(Place(500 + ahead)), ArrivalNo(7), now);
            assert_eq!(sight.ahead, Some(ahead));
            assert_eq!(sight.position, Some(501 + ahead));
            sight.poll_after_ms
        };
        let all: Vec<u32> = [0, 10, 100, 500, 1000, 5000, 100_000, 999_000]
            .map(told)
            .to_vec();
        assert!(all.is_sorted(), "{all:?}");
        assert!(all[0] <= 1200 && *all.last().unwrap() >= 48_000, "{all:?}");
        // Who has to be heard asks in time.
        assert!(all[4] <= 18_000, "{all:?}");
        // Before the front: passed over.
        let passed = watermark(500, 600, 60_000).sight(Some(Place(3)), ArrivalNo(7), now);
        assert_eq!((passed.ahead, passed.position), (Some(0), Some(4)));
        for (place, is_wanted) in [(3, true), (1699, true), (1700, false)] {
            let told = watermark(500, 600, 60_000);
            assert_eq!(told.wants_report(Some(Place(place))), is_wanted);
        }
        assert!(watermark(0, 0, 0).wants_report(None));
        // In the lobby, an hour before the opening.
        let early = Timestamp::from_micros(-2_600_000_000);
        let lobby = watermark(0, 0, 0).sight(None, ArrivalNo(7), early);
        assert_eq!((lobby.ahead, lobby.position, lobby.eta), (None, None, None));
        assert!((12_000..=18_000).contains(&lobby.poll_after_ms));
        // After it, while a beacon is waited for, no more often.
        let late = watermark(0, 0, 0).sight(None, ArrivalNo(7), now);
        assert!((12_000..=18_000).contains(&late.poll_after_ms));
    }
}
