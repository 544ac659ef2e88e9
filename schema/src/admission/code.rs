//! Access codes: what a signed one says, and when it is good. Signing is the ingress' business; how
//! often one was used, and whether it was revoked, is known by the owner of the room alone.

use crate::ids::{AccessCodeId, ScheduleId};
use crate::status::AccessGrant;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Makes whoever joins with it a guest of a room. Nothing of it is secret but its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Which.
    pub code_id: AccessCodeId,
    /// Whose room.
    pub schedule_id: ScheduleId,
    /// What it grants.
    pub grant: AccessGrant,
    /// So many accounts are given a ticket with it, one each, whatever becomes of that.
    pub uses: u32,
    /// First moment at which it is good.
    pub from: Timestamp,
    /// First moment at which it is not good any more.
    pub until: Timestamp,
}

/// Why a code is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeNotValid {
    /// For another schedule.
    Foreign,
    /// Too early.
    NotYet,
    /// Too late.
    Expired,
}

impl Code {
    /// Whether it is good for a room now, as far as it says itself.
    ///
    /// # Errors
    /// Why not; where it is good for is judged first.
    pub fn check(&self, schedule: ScheduleId, now: Timestamp) -> Result<(), CodeNotValid> {
        if self.schedule_id != schedule {
            Err(CodeNotValid::Foreign)
        } else if now < self.from {
            Err(CodeNotValid::NotYet)
        } else if now >= self.until {
            Err(CodeNotValid::Expired)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_code_is_good_for_its_schedule_and_time() {
        let (here, there) = (
            ScheduleId(Uuid::from_u128(1)),
            ScheduleId(Uuid::from_u128(2)),
        );
        let code = Code {
            code_id: AccessCodeId(Uuid::from_u128(3)),
            schedule_id: here,
            grant: AccessGrant::Vip,
            uses: 1,
            from: Timestamp::from_micros(10),
            until: Timestamp::from_micros(20),
        };
        for (schedule, at, expected) in [
            (here, 9, Err(CodeNotValid::NotYet)),
            (here, 10, Ok(())),
            (here, 19, Ok(())),
            (here, 20, Err(CodeNotValid::Expired)),
            (there, 15, Err(CodeNotValid::Foreign)),
            (there, 20, Err(CodeNotValid::Foreign)),
        ] {
            assert_eq!(code.check(schedule, Timestamp::from_micros(at)), expected);
        }
    }
}
