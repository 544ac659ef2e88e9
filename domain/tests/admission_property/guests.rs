//! Guests and their codes: how the model treats them, and which there are.

use crate::common::{Rng, command_id, schedule_id};
use crate::model::{Entry, Model};
use crate::world::World;
use onsale_schema::admission::{Code, Refusal};
use onsale_schema::status::{AccessGrant, TicketStatus};
use onsale_schema::{AccessCodeId, Timestamp};

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
    /// With what somebody joins: with nothing, with a code of this room, or with one of another.
    pub fn code(&mut self) -> Option<Code> {
        let mut code = self.rng.pick(&self.rows.codes).copied().unwrap();
        if self.rng.percent(5) {
            code.schedule_id = schedule_id(2);
        }
        self.rng.percent(40).then_some(code)
    }
}

impl Model {
    pub fn may_use(&self, code: &Code, now: Timestamp) -> Result<(), Refusal> {
        let with_it = |entry: &&Entry| entry.code.is_some_and(|it| it.code_id == code.code_id);
        let used = self.entries.iter().filter(with_it).count();
        if code.schedule_id != self.schedule {
            Err(Refusal::CodeInvalid)
        } else if self.revoked.contains(&code.code_id) {
            Err(Refusal::CodeRevoked)
        } else if now < code.from {
            Err(Refusal::CodeNotYet)
        } else if now >= code.until {
            Err(Refusal::CodeExpired)
        } else if used >= code.uses as usize {
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
            (entry.was_passed, entry.is_back) = (true, !is_time);
        }
        None
    }
}
