//! Guests: whoever joined with an access code. They stand in a line of their own, by arrival, which is
//! served before the other one, and where a code grants a presale also before the room opens; capacity
//! and rate hold for them as for everybody. A guest whose time has not come lets those behind it pass,
//! keeps its turn for the opening, and is before all later ones then.
//!
//! A guest's ticket has an arrival number like all others, so that a draw stays recomputable by
//! everybody; the front skips it as it skips who has left, since the guests before it were called.

use super::Room;
use super::changes::Step;
use super::{Changes, RoomRow};
use onsale_schema::admission::{Code, CodeNotValid, Outcome, Refusal};
use onsale_schema::status::AccessGrant;
use onsale_schema::{AccessCodeId, ArrivalNo, ScheduleId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A code that was used or revoked, as its row says. How often it was used say the tickets.
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
    tickets: BTreeMap<ArrivalNo, AccessCodeId>,
    /// Those that were passed over and heard again since; one may be here that is so no more.
    back: BTreeSet<ArrivalNo>,
    /// Those that were called before their time, and are next at the opening; as above.
    later: BTreeSet<ArrivalNo>,
}

impl Guests {
    pub(super) fn load(&mut self, code: StoredCode) {
        let known = self.codes.entry(code.code_id).or_default();
        known.early_until = early_until(code.grant, code.until);
        known.is_revoked = code.is_revoked;
    }

    pub(super) fn is_one(&self, no: ArrivalNo) -> bool {
        self.tickets.contains_key(&no)
    }

    /// Those with a number below.
    pub(super) fn before(&self, end: ArrivalNo) -> impl Iterator<Item = ArrivalNo> {
        self.tickets.range(..end).map(|(no, _)| *no)
    }

    /// Whether a code makes one more guest now.
    pub(super) fn may_use(
        &self,
        code: &Code,
        schedule: ScheduleId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let known = self.codes.get(&code.code_id).copied().unwrap_or_default();
        match code.check(schedule, now) {
            Err(CodeNotValid::Foreign) => Err(Refusal::CodeInvalid),
            _ if known.is_revoked => Err(Refusal::CodeRevoked),
            Err(CodeNotValid::NotYet) => Err(Refusal::CodeNotYet),
            Err(CodeNotValid::Expired) => Err(Refusal::CodeExpired),
            Ok(()) if known.used >= code.uses => Err(Refusal::CodeUsedUp),
            Ok(()) => Ok(()),
        }
    }

    /// A ticket was made with a code.
    pub(super) fn add(&mut self, no: ArrivalNo, code_id: AccessCodeId) {
        self.codes.entry(code_id).or_default().used += 1;
        self.tickets.insert(no, code_id);
    }

    /// Takes the last guest away again.
    pub(super) fn take_back(&mut self, no: ArrivalNo) {
        let code = self.tickets.remove(&no);
        let code = code.expect("it was a guest");
        if let Some(known) = self.codes.get_mut(&code) {
            known.used -= 1;
        }
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

    /// Who is next, and whether it was called before. The caller moves the guests' front on.
    pub(super) fn call(&mut self, front: ArrivalNo, is_open: bool) -> Option<(ArrivalNo, bool)> {
        if is_open {
            self.back.append(&mut self.later);
        }
        if let Some(no) = self.back.pop_first() {
            return Some((no, true));
        }
        let (no, _) = self.tickets.range(front..).next()?;
        Some((*no, false))
    }

    /// Whether somebody waits to be called.
    pub(super) fn are_waiting(&self, row: &RoomRow) -> bool {
        !(self.back.is_empty() && self.later.is_empty())
            || self.tickets.range(row.guest_front..).next().is_some()
    }

    /// Whether a guest is let in before the room opens: in a presale, as long as its code is good.
    pub(super) fn is_early(&self, no: ArrivalNo, now: Timestamp) -> bool {
        let code = self.tickets.get(&no);
        let known = code.and_then(|code| self.codes.get(code));
        known.is_some_and(|known| now < known.early_until)
    }
}

impl Room {
    /// Makes the newest ticket a guest's.
    pub(super) fn invite(&mut self, no: ArrivalNo, code: &Code, changes: &mut Changes) {
        let known = self.guests.codes.entry(code.code_id).or_default();
        known.early_until = early_until(code.grant, code.until);
        self.guests.add(no, code.code_id);
        changes.of(&self.row).journal.push(Step::Invited(no));
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
