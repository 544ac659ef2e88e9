//! Guests and their codes: how the model treats them, and which there are.

use crate::common::{Rng, command_id, schedule_id};
use crate::model::{Entry, Model};
use crate::world::World;
use onsale_schema::admission::{Code, Refusal};
use onsale_schema::status::{AccessGrant, TicketStatus};
use onsale_schema::{AccessCodeId, Timestamp, UserId};
use std::collections::BTreeSet;

/// Codes of a room: good for a few tickets, at some time about its opening.
pub fn codes(rng: &mut Rng, now: Timestamp) -> Vec<Code> {
    let mut code = |no: u128| {
        let from = now.plus_ms(rng.range(-10, 10) * 1000);
        Code {
            code_id: AccessCodeId(command_id(no).0),
            schedule_id: schedule_id(1),
            grant: *rng.pick(&AccessGrant::ALL).unwrap(),
            uses: u32::try_from(rng.range(1, 4)).unwrap(),
            from,
            until: from.plus_ms(rng.range(1, 60) * 1000),
        }
    };
    (1..=4).map(&mut code).collect()
}

impl World {
    /// With what somebody joins: with nothing, with a code of this room, most often the same one as
    /// before, or with one of another.
    pub fn code(&mut self, who: UserId) -> Option<Code> {
        let own = who.0.as_u128() as usize % self.rows.codes.len();
        let mut code = self.rows.codes[own];
        if self.rng.percent(30) {
            code = self.rng.pick(&self.rows.codes).copied().unwrap();
        }
        if self.rng.percent(5) {
            code.schedule_id = schedule_id(2);
        }
        self.rng.percent(40).then_some(code)
    }
}

impl Model {
    pub fn may_use(&self, code: &Code, user: UserId, now: Timestamp) -> Result<(), Refusal> {
        let with_it = |entry: &&Entry| entry.code.is_some_and(|it| it.code_id == code.code_id);
        let users = self.entries.iter().filter(with_it).map(|entry| entry.user);
        let users: BTreeSet<UserId> = users.collect();
        if code.schedule_id != self.schedule {
            Err(Refusal::CodeInvalid)
        } else if self.revoked.contains(&code.code_id) {
            Err(Refusal::CodeRevoked)
        } else if now < code.from {
            Err(Refusal::CodeNotYet)
        } else if now >= code.until {
            Err(Refusal::CodeExpired)
        } else if users.contains(&user) || users.len() >= code.uses as usize {
            Err(Refusal::CodeUsedUp)
        } else {
            Ok(())
        }
    }

    /// The first guest who had its turn and may come in now, else who has its turn. Who may not come in
    /// yet is skipped, and had its turn all the same.
    pub fn next_guest(&mut self, is_open: bool, now: Timestamp) -> Option<usize> {
        for no in 0..self.entries.len() {
            let entry = &self.entries[no];
            let Some(code) = entry.code else { continue };
            let had_turn = no < self.guests_turned;
            self.guests_turned = self.guests_turned.max(no + 1);
            if entry.status != TicketStatus::Waiting || had_turn && !entry.is_back {
                continue;
            }
            let is_early = code.grant == AccessGrant::Presale && now < code.until;
            let is_time = is_open || is_early;
            if is_time && self.is_present(no) {
                return Some(no);
            }
            let entry = &mut self.entries[no];
            if is_time {
                (entry.was_passed, entry.was_early, entry.is_back) = (true, false, false);
            } else {
                (entry.was_early, entry.is_back) = (!entry.was_passed, true);
            }
        }
        None
    }

    /// Guests whom the line waits for.
    pub fn guests_waiting(&self) -> usize {
        let waits = |entry: &&Entry| {
            let is_heard = !entry.was_passed || entry.is_back;
            entry.code.is_some() && entry.status == TicketStatus::Waiting && is_heard
        };
        self.entries.iter().filter(waits).count()
    }

    /// A new owner calls guests again who were called; of those who may have been silent then it does
    /// not know whether they were.
    pub fn forget_calls(&mut self) {
        let has_order = self.line.is_some();
        for entry in &mut self.entries {
            let Some(code) = entry.code else { continue };
            let was_called = entry.was_passed || entry.was_early;
            if was_called && entry.status == TicketStatus::Waiting {
                entry.was_passed = has_order || code.grant == AccessGrant::Presale;
                entry.was_early = !entry.was_passed;
                entry.is_back = true;
            }
        }
    }
}
