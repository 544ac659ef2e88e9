//! How long a hold lasts: until it is extended or given back, and how long its seats are kept from
//! others after that.

use super::{Changes, Reservation, Sale, TermUpdate};
use onsale_schema::admission::HoldState;
use onsale_schema::message::Command;
use onsale_schema::seats::{Fact, Kind, Outcome, Refusal};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{CommandId, PaymentOrderId, ReservationId, Timestamp};
use uuid::Uuid;

/// How long a hold lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it lapses.
    pub expires_at: Timestamp,
    /// When it was to lapse at first, for a retry of the hold.
    pub first_expires_at: Timestamp,
    /// When its seats are for others; not before it lapses.
    pub release_at: Timestamp,
    /// What it ends as when its seats are released, if that is settled: it was given back, or has
    /// lapsed and counts no more. From then on it can't be paid.
    pub ends_as: Option<ReservationStatus>,
    /// The commands that extended it.
    pub extended_by: Vec<CommandId>,
    /// The command that gave it back.
    pub given_back_by: Option<CommandId>,
    /// The order that is being captured: until that has ended, nobody gives it back.
    pub paying_order: Option<PaymentOrderId>,
}

impl Term {
    /// One whose seats are for others as soon as it lapses.
    #[must_use]
    pub fn until(expires_at: Timestamp) -> Self {
        Self {
            expires_at,
            first_expires_at: expires_at,
            release_at: expires_at,
            ends_as: None,
            extended_by: Vec::new(),
            given_back_by: None,
            paying_order: None,
        }
    }

    /// What a hold ends as that lasts no longer.
    pub(super) fn end(&self) -> ReservationStatus {
        self.ends_as.unwrap_or(ReservationStatus::Expired)
    }
}

/// How long the seats of a hold that lapses at a time are kept from others: at most so many
/// milliseconds, and nobody who does not know the seed can tell how many.
#[must_use]
pub fn release_delay_ms(
    seed: Uuid,
    id: ReservationId,
    expires_at: Timestamp,
    jitter_ms: i64,
) -> i64 {
    if jitter_ms <= 0 {
        return 0;
    }
    let mut name = id.0.as_bytes().to_vec();
    name.extend_from_slice(&expires_at.micros().to_be_bytes());
    // Not the half with the version's digit.
    let (_, random) = Uuid::new_v5(&seed, &name).as_u64_pair();
    let range = jitter_ms.unsigned_abs() + 1;
    i64::try_from(random % range).unwrap_or(0)
}

impl Sale {
    /// The term of a hold that lapses then.
    pub(super) fn term(&self, id: ReservationId, expires_at: Timestamp) -> Term {
        let jitter_ms = self.policy.release_jitter_ms;
        let delay_ms = release_delay_ms(self.release_seed, id, expires_at, jitter_ms);
        Term {
            release_at: expires_at.plus_ms(delay_ms),
            ..Term::until(expires_at)
        }
    }

    /// The term of a hold that lapses then and not as it was to.
    pub(super) fn term_after(&self, r: &Reservation, expires_at: Timestamp) -> Term {
        Term {
            first_expires_at: r.term.first_expires_at,
            extended_by: r.term.extended_by.clone(),
            paying_order: r.term.paying_order,
            ..self.term(r.reservation_id, expires_at)
        }
    }

    /// A hold lasts from now on as long as a new one would, within the policy's bounds.
    pub(super) fn extend(
        &mut self,
        command: &Command<Kind>,
        id: ReservationId,
        clock: Timestamp,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let r = self.reservations.get(&id);
        let r = r.filter(|r| r.user_id == command.user);
        let is_known = r.is_some_and(|r| r.term.extended_by.contains(&command.id));
        if clock > command.deadline && !is_known {
            return Outcome::Refused(Refusal::CommandExpired);
        }
        let Some(r) = r else {
            return Outcome::Refused(Refusal::NotFound);
        };
        let policy = &self.policy;
        let times = u32::try_from(r.term.extended_by.len()).unwrap_or(u32::MAX);
        let extended = |expires_at, times| Outcome::Extended {
            reservation_id: id,
            expires_at,
            left: policy.extensions_max.saturating_sub(times),
        };
        if is_known {
            return extended(r.term.expires_at, times);
        }
        let status = r.status_at(now);
        if status != ReservationStatus::Held {
            return Outcome::Refused(Refusal::StateConflict { status });
        }
        if let Err(refusal) = self.is_selling(now) {
            return Outcome::Refused(refusal);
        }
        let latest = r.held_at.plus_ms(policy.hold_total_ms);
        let expires_at = now.plus_ms(policy.hold_ms).min(latest);
        if times >= policy.extensions_max || expires_at <= r.term.expires_at {
            return Outcome::Refused(Refusal::ExtensionLimitReached);
        }
        let outcome = extended(expires_at, times + 1);
        let mut after = self.term_after(r, expires_at);
        after.extended_by.push(command.id);
        self.last(id, after, changes);
        self.facts.push(Fact::Extended {
            reservation_id: id,
            command_id: command.id,
            expires_at,
            at: now,
        });
        outcome
    }

    /// Ends a hold that its user doesn't want any more. Where seats are released at random, it
    /// lapses instead, or two people could pass seats on.
    pub(super) fn give_back(
        &mut self,
        id: ReservationId,
        by: CommandId,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        if self.policy.release_jitter_ms <= 0 {
            let released = ReservationStatus::Released;
            self.end(id, released, Some(by), now, changes);
            return;
        }
        let mut after = self.term_after(&self.reservations[&id], now);
        after.ends_as = Some(ReservationStatus::Released);
        after.given_back_by = Some(by);
        changes.note_latest(self.schedule_id, self.latest);
        self.latest = now;
        self.last(id, after, changes);
        self.facts.push(Fact::GivenBack {
            reservation_id: id,
            at: now,
        });
    }

    /// Makes sure that a hold which has lapsed can't be paid, although its seats are kept.
    pub(super) fn close(&mut self, id: ReservationId, changes: &mut Changes) {
        let after = Term {
            ends_as: Some(ReservationStatus::Expired),
            ..self.reservations[&id].term.clone()
        };
        self.last(id, after, changes);
    }

    pub(super) fn last(&mut self, id: ReservationId, after: Term, changes: &mut Changes) {
        let mut r = self.reservations.remove(&id).expect("a hold that is known");
        self.due.remove(&(r.term.release_at, id));
        self.due.insert((after.release_at, id));
        let before = std::mem::replace(&mut r.term, after.clone());
        if after.ends_as.is_some() && before.ends_as.is_none() {
            self.tell_room(&r, HoldState::Over, changes);
        } else if after.expires_at > before.expires_at {
            self.tell_room(&r, HoldState::Until(after.expires_at), changes);
        }
        self.reservations.insert(id, r);
        changes.last(TermUpdate {
            reservation_id: id,
            schedule_id: self.schedule_id,
            before,
            after,
        });
    }
}
