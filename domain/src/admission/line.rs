//! How the line moves: what a tick of its owner does.
//!
//! One after the other is let in, while fewer have a pass than the capacity and the rate allows it
//! (see [`super::BURST_MS`]): first guests, then who was passed over and has come back, by place, then
//! who is at the front. Who has left is skipped; who is silent is passed over and keeps its place.

use super::changes::Step;
use super::tickets::State;
use super::{Admission, Changes, Room, Slot, TicketUpdate};
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

/// A ticket whose turn it is.
#[derive(Clone, Copy)]
struct Called {
    no: ArrivalNo,
    /// None of a guest.
    place: Option<Place>,
    /// Whether its turn came for the first time; else it was passed over, or called before its time.
    is_first: bool,
}

impl Room {
    /// What time alone changes, a bounded number of steps; whether there are more. `now` is the
    /// owner's clock; all commands from before `heard_until` are decided, which may be long ago: who
    /// joined in time must be in the lobby, however late that is decided, and word of a hold that keeps a pass
    /// may not be read yet.
    pub fn tick(&mut self, now: Timestamp, heard_until: Timestamp, changes: &mut Changes) -> bool {
        let now = now.max(self.row.latest);
        self.see_still(now);
        let heard_until = now.min(heard_until);
        let is_time = heard_until >= self.row.policy.opens_at.plus_ms(OPENING_GRACE_MS);
        self.open(is_time, now, changes);
        let mut freed = 0;
        while freed < STEPS_PER_TICK
            && let Some(no) = self.slots.due(heard_until)
        {
            self.end(no, State::Expired, now, changes);
            freed += 1;
        }
        let is_open = self.is_open(now);
        let is_running = self.is_running(now);
        let is_calling = is_running && (is_open || self.guests.are_waiting(&self.row));
        let is_more = is_calling && self.advance(now, is_open, changes);
        if is_running && is_open {
            self.speed.see(now, self.row.front.0 + self.guests.let_in());
            self.look_along();
        } else {
            self.speed.stop();
        }
        is_more || freed == STEPS_PER_TICK
    }

    /// Whether anybody is let in, as far as the rules say.
    pub(super) fn is_running(&self, now: Timestamp) -> bool {
        let is_stopped = self.row.policy.paused || self.is_sale_stopped(now);
        self.row.policy.mode != QueueMode::Off && !is_stopped && !self.is_before_booking(now)
    }

    /// Whether others than guests are let in, as far as it is time.
    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        self.line.is_some() && now >= self.row.policy.opens_at
    }

    /// Lets in as many as may be; whether it stopped for the number of steps only.
    fn advance(&mut self, now: Timestamp, is_open: bool, changes: &mut Changes) -> bool {
        for _ in 0..STEPS_PER_TICK {
            let Some(rate_used) = self.may_admit(now) else {
                return false;
            };
            let Some(called) = self.call(is_open, changes) else {
                return false;
            };
            let Called { no, is_first, .. } = called;
            // Who has left meanwhile may still be called.
            let is_due = match self.tickets.state(no) {
                State::Waiting => is_first,
                State::Back | State::Early => !is_first,
                State::Passed | State::Admitted | State::Expired | State::Left | State::Done => {
                    false
                }
            };
            if !is_due {
                continue;
            }
            // Only guests are called before the opening, and not all of them are let in then.
            if !is_open && !self.guests.is_early(no, now) {
                if is_first {
                    self.turn(no, State::Early, changes);
                }
                self.guests.queue_later(no);
            } else if self.presence.is_silent(no, self.row.policy.presence_ms) {
                self.turn(no, State::Passed, changes);
            } else {
                self.admit(called, now, changes);
                self.row.rate_used = rate_used;
            }
        }
        true
    }

    /// Who is next.
    fn call(&mut self, is_open: bool, changes: &mut Changes) -> Option<Called> {
        if let Some((no, is_first)) = self.guests.call(self.row.guest_front, is_open) {
            if is_first {
                changes.of(&self.row);
                self.row.guest_front = ArrivalNo(no.0 + 1);
            }
            let place = None;
            return Some(Called {
                no,
                place,
                is_first,
            });
        }
        if !is_open {
            return None;
        }
        let back = self.back.pop_first();
        let is_first = back.is_none();
        let (place, no) = match back {
            Some(next) => next,
            None => self.step_on(changes)?,
        };
        Some(Called {
            no,
            place: Some(place),
            is_first,
        })
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
        // The front may be quicker than who looks along.
        self.listen(front, no);
        self.row.front = Place(front.0 + 1);
        Some((front, no))
    }

    fn admit(&mut self, called: Called, now: Timestamp, changes: &mut Changes) {
        let Called { no, place, .. } = called;
        let policy = self.row.policy;
        let slot = Slot {
            admission: Admission {
                no: self.row.admissions,
                at: now,
                place,
                active_before: self.active(),
                capacity: (policy.mode != QueueMode::Open).then_some(policy.capacity),
                was_passed: self.tickets.state(no) == State::Back,
            },
            pass_until: now.plus_ms(policy.pass_ms),
            holds: Vec::new(),
        };
        let mine = changes.of(&self.row);
        let before = self.set_state(no, State::Admitted);
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
    /// was not reported before does not make it silent.
    fn look_along(&mut self) {
        let window = self.row.policy.window() as usize;
        for _ in 0..LOOKS_PER_TICK {
            let looked = u32::try_from(self.near.len()).unwrap_or(u32::MAX);
            let place = Place(self.row.front.0.saturating_add(looked));
            if self.near.len() >= window || place.0 >= self.row.arrivals {
                return;
            }
            let Some(line) = &self.line else { return };
            let no = line.arrival(place);
            self.listen(place, no);
            self.near.push_back(no);
        }
    }

    /// Listens to who stands at a place, once. Of the first ones everything was reported from the
    /// beginning, as nobody knew in the lobby who they would be.
    fn listen(&mut self, place: Place, no: ArrivalNo) {
        if place >= self.listened {
            self.presence.begin(no, self.row.policy.presence_ms);
            self.listened = Place(place.0 + 1);
        }
    }

    /// The rules are others: who is too far from the front now is not reported any more, and is listened
    /// to anew when it comes near again.
    pub(super) fn narrow(&mut self) {
        let window = self.row.policy.window();
        self.near.truncate(window as usize);
        let end = self.row.front.0.saturating_add(window);
        self.listened = self.listened.min(Place(end));
    }
}
