//! Guests: whoever joined with an access code. They stand in a line of their own, by arrival, which is
//! served before the other one, and where a code grants a presale also before the room opens; capacity
//! and rate hold for them as for everybody. A guest whose time has not come lets those behind it pass,
//! keeps its turn for the opening, and is before all later ones then.
//!
//! An account uses a code once, for one ticket: who leaves this line, or lets a pass go by, has had what
//! the code is good for. So the other line waits for no more guests than the codes have uses. Who waits
//! there and then joins with a code leaves it and is given a ticket of this one, in one decision, so that
//! no ticket is ever another kind than it was made as.
//!
//! A guest's ticket has an arrival number like all others, so that a draw stays recomputable by
//! everybody; the front skips it as it skips who has left, since the guests before it were called.

use super::Room;
use super::changes::Step;
use super::tickets::State;
use super::{Changes, RoomRow};
use onsale_schema::admission::{Code, CodeNotValid, GuestLine, Outcome, Refusal};
use onsale_schema::status::AccessGrant;
use onsale_schema::{AccessCodeId, ArrivalNo, ScheduleId, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A code that was used or revoked, as its row says. Who has used it say the tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCode {
    /// Which.
    pub code_id: AccessCodeId,
    /// What it grants.
    pub grant: AccessGrant,
    /// First moment at which it is not good any more.
    pub until: Timestamp,
    /// Whether it was revoked.
    pub is_revoked: bool,
}

/// What is known of a code.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Until when its users are let in before the opening.
    early_until: Timestamp,
    used: u32,
    is_revoked: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            early_until: Timestamp::EPOCH,
            used: 0,
            is_revoked: false,
        }
    }
}

/// Whether the line waits for a guest: not for one who was silent when it was called.
fn is_waiting(state: State) -> bool {
    match state {
        State::Waiting | State::Back | State::Early => true,
        State::Passed | State::Admitted | State::Expired | State::Left | State::Done => false,
    }
}

fn early_until(grant: AccessGrant, until: Timestamp) -> Timestamp {
    match grant {
        AccessGrant::Vip => Timestamp::EPOCH,
        AccessGrant::Presale => until,
    }
}

/// The guests of a room, and the codes that made them so.
#[derive(Clone, Debug, Default)]
pub(super) struct Guests {
    codes: HashMap<AccessCodeId, Known>,
    /// By which code each was made, and its number among them.
    tickets: BTreeMap<ArrivalNo, (AccessCodeId, u32)>,
    /// The accounts that have used each code, and the ticket that it was for.
    users: HashMap<(AccessCodeId, UserId), ArrivalNo>,
    /// So many wait and were not passed over.
    pub(super) waiting: u32,
    /// So many were let in, as far as this owner knows; fewer for what was taken back.
    let_in: u32,
    /// Those that were passed over and heard again since; one may be here that is so no more.
    back: BTreeSet<ArrivalNo>,
    /// Those that were called before their time, and are next at the opening; as above.
    later: BTreeSet<ArrivalNo>,
    /// Those that are so as their state says.
    early: BTreeSet<ArrivalNo>,
}

impl Guests {
    pub(super) fn load(&mut self, code: StoredCode) {
        let known = self.codes.entry(code.code_id).or_default();
        known.early_until = early_until(code.grant, code.until);
        known.is_revoked = code.is_revoked;
    }

    /// How the next owner has a guest who was called and still waits. As long as there is no order only
    /// a presale is let in, so nobody else was passed over; of all others no row says whether they were
    /// silent or called before their time.
    pub(super) fn called(&self, no: ArrivalNo, has_order: bool) -> State {
        let code = self.tickets.get(&no);
        let known = code.and_then(|(code, _)| self.codes.get(code));
        let is_presale = known.is_some_and(|known| known.early_until > Timestamp::EPOCH);
        if has_order || is_presale {
            State::Back
        } else {
            State::Early
        }
    }

    pub(super) fn is_one(&self, no: ArrivalNo) -> bool {
        self.tickets.contains_key(&no)
    }

    /// The ticket that an account has, or had, by a code.
    pub(super) fn ticket(&self, code: AccessCodeId, user: UserId) -> Option<ArrivalNo> {
        self.users.get(&(code, user)).copied()
    }

    /// Those with a number below.
    pub(super) fn before(&self, end: ArrivalNo) -> impl Iterator<Item = ArrivalNo> {
        self.tickets.range(..end).map(|(no, _)| *no)
    }

    /// Whether a code makes this account a guest now.
    pub(super) fn may_use(
        &self,
        code: &Code,
        user: UserId,
        schedule: ScheduleId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let known = self.codes.get(&code.code_id).copied().unwrap_or_default();
        match code.check(schedule, now) {
            Err(CodeNotValid::Foreign) => Err(Refusal::CodeInvalid),
            _ if known.is_revoked => Err(Refusal::CodeRevoked),
            Err(CodeNotValid::NotYet) => Err(Refusal::CodeNotYet),
            Err(CodeNotValid::Expired) => Err(Refusal::CodeExpired),
            Ok(()) if known.used >= code.uses || self.users.contains_key(&(code.code_id, user)) => {
                Err(Refusal::CodeUsedUp)
            }
            Ok(()) => Ok(()),
        }
    }

    /// A ticket was made with a code.
    pub(super) fn add(&mut self, no: ArrivalNo, code_id: AccessCodeId, user: UserId, state: State) {
        let nth = u32::try_from(self.tickets.len()).expect("a room has fewer tickets");
        self.tickets.insert(no, (code_id, nth));
        self.waiting += u32::from(is_waiting(state));
        // An account may have several tickets from the time when each was a use.
        let is_use = self.users.insert((code_id, user), no).is_none();
        self.codes.entry(code_id).or_default().used += u32::from(is_use);
    }

    /// Takes the last guest away again.
    pub(super) fn take_back(&mut self, no: ArrivalNo, user: UserId) {
        let ticket = self.tickets.remove(&no);
        let (code, _) = ticket.expect("it was a guest");
        self.waiting -= 1;
        let was_use = self.users.remove(&(code, user));
        assert_eq!(was_use, Some(no), "its code was used by its user");
        let known = self.codes.get_mut(&code);
        known.expect("a code that was used is known").used -= 1;
    }

    /// A guest's ticket is this far now, and was that far before.
    pub(super) fn turned(&mut self, no: ArrivalNo, before: State, to: State) {
        if to == State::Early {
            self.early.insert(no);
        } else if before == State::Early {
            self.early.remove(&no);
        }
        self.waiting += u32::from(is_waiting(to));
        self.waiting -= u32::from(is_waiting(before));
        if is_waiting(before) && to == State::Admitted {
            self.let_in += 1;
        } else if before == State::Admitted && is_waiting(to) {
            self.let_in -= 1;
        }
    }

    /// The number of a ticket among those of guests.
    pub(super) fn nth(&self, no: ArrivalNo) -> Option<u32> {
        self.tickets.get(&no).map(|(_, nth)| *nth)
    }

    /// How far this line is, where there is one. Who was set aside for the opening is before all who were
    /// not called yet. The next owner knows that of everybody as long as there is no order, and of nobody
    /// afterwards: so this goes on then, and never back.
    pub(super) fn line(&self, front: ArrivalNo) -> Option<GuestLine> {
        let arrivals = u32::try_from(self.tickets.len()).expect("a room has fewer tickets");
        let next = self.tickets.range(front..).next();
        let next = next.map_or(arrivals, |(_, (_, nth))| *nth);
        let early = self.early.first().and_then(|no| self.nth(*no));
        (arrivals > 0).then(|| GuestLine {
            front: early.map_or(next, |early| early.min(next)),
            arrivals,
        })
    }

    pub(super) fn let_in(&self) -> u32 {
        self.let_in
    }

    pub(super) fn revoke(&mut self, code: AccessCodeId, is_revoked: bool) {
        self.codes.entry(code).or_default().is_revoked = is_revoked;
    }

    pub(super) fn is_revoked(&self, code: AccessCodeId) -> bool {
        self.codes.get(&code).is_some_and(|known| known.is_revoked)
    }

    pub(super) fn queue_back(&mut self, no: ArrivalNo) {
        self.back.insert(no);
    }

    pub(super) fn queue_later(&mut self, no: ArrivalNo) {
        self.later.insert(no);
    }

    /// Who is next, and whether it was called for the first time. The caller moves the guests' front on.
    pub(super) fn call(&mut self, front: ArrivalNo, is_open: bool) -> Option<(ArrivalNo, bool)> {
        if is_open {
            self.back.append(&mut self.later);
        }
        if let Some(no) = self.back.pop_first() {
            return Some((no, false));
        }
        let (no, _) = self.tickets.range(front..).next()?;
        Some((*no, true))
    }

    /// Whether somebody was not called yet.
    pub(super) fn are_uncalled(&self, front: ArrivalNo) -> bool {
        self.tickets.range(front..).next().is_some()
    }

    /// Whether somebody waits to be called.
    pub(super) fn are_waiting(&self, row: &RoomRow) -> bool {
        !(self.back.is_empty() && self.later.is_empty()) || self.are_uncalled(row.guest_front)
    }

    /// Whether a guest is let in before the room opens: in a presale, as long as its code is good.
    pub(super) fn is_early(&self, no: ArrivalNo, now: Timestamp) -> bool {
        let code = self.tickets.get(&no);
        let known = code.and_then(|(code, _)| self.codes.get(code));
        known.is_some_and(|known| now < known.early_until)
    }
}

impl Room {
    /// Makes the newest ticket a guest's.
    pub(super) fn invite(
        &mut self,
        no: ArrivalNo,
        user: UserId,
        code: &Code,
        changes: &mut Changes,
    ) {
        let known = self.guests.codes.entry(code.code_id).or_default();
        known.early_until = early_until(code.grant, code.until);
        self.guests.add(no, code.code_id, user, State::Waiting);
        let mine = changes.of(&self.row);
        mine.journal.push(Step::Invited(no));
        *mine.used.entry(code.code_id).or_default() += 1;
    }

    /// From now on nobody joins with a code. Whoever has keeps the ticket.
    pub(super) fn revoke(
        &mut self,
        code: AccessCodeId,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if !self.guests.is_revoked(code) {
            let mine = changes.of(&self.row);
            mine.journal.push(Step::Revoked(code));
            mine.revoked.push((code, now));
            self.guests.revoke(code, true);
            self.row.latest = now;
        }
        Outcome::Applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn who_was_let_in_counts_once_and_not_when_it_is_taken_back() {
        let mut guests = Guests::default();
        let (code, user) = (AccessCodeId(Uuid::nil()), UserId(Uuid::nil()));
        guests.add(ArrivalNo(0), code, user, State::Waiting);
        guests.turned(ArrivalNo(0), State::Waiting, State::Admitted);
        guests.turned(ArrivalNo(0), State::Admitted, State::Expired);
        assert_eq!((guests.let_in(), guests.waiting), (1, 0));
        guests.turned(ArrivalNo(0), State::Expired, State::Admitted);
        assert_eq!((guests.let_in(), guests.waiting), (1, 0));
        guests.turned(ArrivalNo(0), State::Admitted, State::Waiting);
        assert_eq!((guests.let_in(), guests.waiting), (0, 1));
    }
}
