//! How the line moves: what a tick of its owner does.
//!
//! One after the other is let in, while fewer have a pass than the capacity and the rate allows it
//! (see [`super::BURST_MS`]): first who was passed over and has come back, by place, then who is at
//! the front. Who has left is skipped; who is silent is passed over and keeps its place.

use super::changes::Step;
use super::tickets::State;
use super::{Admission, Changes, Room, Slot, TicketUpdate};
use onsale_schema::admission::WINDOW;
use onsale_schema::draw::Place;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, Timestamp};

/// Of tickets that one tick lets in, skips or passes over, and of slots that it frees, the most, so
/// that the committer stays free for others.
pub const STEPS_PER_TICK: usize = 500;
/// Places that one tick looks further along, at most: in a drawn line each takes a hundred hashes.
const LOOKS_PER_TICK: usize = 200;
/// A tick closes the lobby this long after its time, in milliseconds, if no command to the room has
/// shown before that all who came in time are in it, and nothing from before waits to be decided.
pub const OPENING_GRACE_MS: i64 = 2000;

impl Room {
    /// What time alone changes, a bounded number of steps; whether there are more. `now` is the
    /// owner's clock; all commands from before `heard_until` are decided, which may be long ago: who
    /// joined in time must be in the lobby, however late that is decided.
    pub fn tick(&mut self, now: Timestamp, heard_until: Timestamp, changes: &mut Changes) -> bool {
        let now = now.max(self.row.latest);
        let is_time = now.min(heard_until) >= self.row.policy.opens_at.plus_ms(OPENING_GRACE_MS);
        self.open(is_time, now, changes);
        let mut freed = 0;
        while freed < STEPS_PER_TICK
            && let Some(no) = self.slots.due(now)
        {
            self.end(no, State::Expired, now, changes);
            freed += 1;
        }
        let is_more = if self.is_admitting(now) {
            let is_more = self.advance(now, changes);
            self.speed.see(now, self.row.front);
            self.look_along();
            is_more
        } else {
            self.speed.stop();
            false
        };
        is_more || freed == STEPS_PER_TICK
    }

    fn is_admitting(&self, now: Timestamp) -> bool {
        let policy = &self.row.policy;
        self.line.is_some()
            && policy.mode != QueueMode::Off
            && !policy.paused
            && now >= policy.opens_at
    }

    /// Lets in as many as may be; whether it stopped for the number of steps only.
    fn advance(&mut self, now: Timestamp, changes: &mut Changes) -> bool {
        for _ in 0..STEPS_PER_TICK {
            let Some(rate_used) = self.may_admit(now) else {
                return false;
            };
            let is_back = !self.back.is_empty();
            let next = match self.back.pop_first() {
                Some(next) => Some(next),
                None => self.step_on(changes),
            };
            let Some((place, no)) = next else {
                return false;
            };
            let awaited = if is_back { State::Back } else { State::Waiting };
            if self.tickets.state(no) != awaited {
                continue;
            }
            if self.presence.is_silent(no, self.row.policy.presence_ms) {
                self.turn(no, State::Passed, changes);
            } else {
                self.admit((place, no), is_back, now, changes);
                self.row.rate_used = rate_used;
            }
        }
        true
    }

    /// Whether one more may be let in, and until when the rate is used up then.
    fn may_admit(&self, now: Timestamp) -> Option<Timestamp> {
        match self.row.policy.mode {
            QueueMode::Off => None,
            QueueMode::Open => Some(self.row.rate_used),
            QueueMode::Fifo | QueueMode::Draw => {
                let has_room = self.active() < self.row.policy.capacity;
                self.row.rate_allows(now).filter(|_| has_room)
            }
        }
    }

    /// The ticket at the front, which moves on.
    fn step_on(&mut self, changes: &mut Changes) -> Option<(Place, ArrivalNo)> {
        let front = self.row.front;
        if front.0 >= self.row.arrivals {
            return None;
        }
        changes.of(&self.row);
        let looked = self.near.pop_front();
        let no = looked.or_else(|| self.line.as_ref().map(|line| line.arrival(front)))?;
        self.row.front = Place(front.0 + 1);
        Some((front, no))
    }

    fn admit(
        &mut self,
        (place, no): (Place, ArrivalNo),
        was_passed: bool,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        let policy = self.row.policy;
        let slot = Slot {
            admission: Admission {
                no: self.row.admissions,
                at: now,
                place,
                active_before: self.active(),
                capacity: (policy.mode != QueueMode::Open).then_some(policy.capacity),
                was_passed,
            },
            pass_until: now.plus_ms(policy.pass_ms),
            holds: Vec::new(),
        };
        let mine = changes.of(&self.row);
        let before = self.tickets.set_state(no, State::Admitted);
        let none = self.slots.set(no, Some(slot.clone()));
        assert!(none.is_none(), "a ticket is admitted once");
        mine.journal.push(Step::State(no, before));
        mine.journal.push(Step::Slot(no, None));
        mine.update(
            no,
            TicketUpdate {
                from: before.stored(),
                to: TicketStatus::Admitted,
                slot: Some(slot),
                ended_at: None,
            },
        );
        self.row.admissions += 1;
        self.row.latest = now;
    }

    /// Looks who is next, some at a time. Who comes into the window is listened to from then on: what
    /// was not reported before does not make it silent. Of the first ones everything was, as nobody
    /// knew in the lobby who they would be.
    fn look_along(&mut self) {
        let Some(line) = &self.line else { return };
        let window = self.row.policy.window() as usize;
        for _ in 0..LOOKS_PER_TICK {
            let looked = u32::try_from(self.near.len()).unwrap_or(u32::MAX);
            let place = Place(self.row.front.0.saturating_add(looked));
            if self.near.len() >= window || place.0 >= self.row.arrivals {
                return;
            }
            let no = line.arrival(place);
            if place.0 >= *WINDOW.start() {
                self.presence.hear(no);
            }
            self.near.push_back(no);
        }
    }
}
