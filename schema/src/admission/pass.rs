//! What a signed ticket and a signed entry pass say, and when a pass is good: the agreement between
//! ingresses, who sign and check, and the owners of seats, who check again. Signing is the ingress'
//! business; there is no field that opens a room to who has no ticket.

use crate::ids::{ArrivalNo, Generation, ScheduleId, TicketId, UserId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What a client shows when it asks how far it is: enough to answer from memory, at any ingress. It is
/// good for as long as the ticket is; who has it may look, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticketed {
    /// Whose.
    pub user_id: UserId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// Which.
    pub ticket_id: TicketId,
    /// Its number, from which its place follows.
    pub arrival_no: ArrivalNo,
    /// Whether it is a guest's, who stands in a line apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_guest: bool,
    /// Its number among the guests' tickets of the room, from 0, where that is known; no pass says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_no: Option<u32>,
    /// Within which its number is its own. In another one it may be somebody else's, and whether the
    /// ticket is there says its row alone.
    #[serde(default, skip_serializing_if = "Generation::is_first")]
    pub generation: Generation,
}

/// What somebody shows who holds seats where there is a waiting room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The ticket that was admitted.
    pub ticket: Ticketed,
    /// First moment at which it is not good any more.
    pub expires_at: Timestamp,
    /// So many holds may be made with the ticket, over all passes of it; those that ended count.
    pub holds_max: u32,
}

/// Why a pass is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotValid {
    /// Of another user or for another schedule.
    Foreign,
    /// Too old.
    Expired,
    /// As many holds were made with it as it allows.
    UsedUp,
}

impl Pass {
    /// Whether the user may make a hold with it now. `holds` is how many were made with its ticket: the
    /// owner of the seats knows, an ingress does not and says 0.
    ///
    /// # Errors
    /// Why not; who the pass is of is judged first.
    pub fn check(
        &self,
        user: UserId,
        schedule: ScheduleId,
        holds: u32,
        now: Timestamp,
    ) -> Result<(), NotValid> {
        if self.ticket.user_id != user || self.ticket.schedule_id != schedule {
            Err(NotValid::Foreign)
        } else if now >= self.expires_at {
            Err(NotValid::Expired)
        } else if holds >= self.holds_max {
            Err(NotValid::UsedUp)
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
    fn a_pass_is_good_for_its_user_schedule_time_and_holds() {
        let (user, schedule) = (UserId(Uuid::from_u128(1)), ScheduleId(Uuid::from_u128(2)));
        let end = Timestamp::from_micros(1_000_000);
        let pass = Pass {
            ticket: Ticketed {
                user_id: user,
                schedule_id: schedule,
                ticket_id: TicketId(Uuid::from_u128(3)),
                arrival_no: ArrivalNo(4),
                is_guest: false,
                guest_no: None,
                generation: Generation::default(),
            },
            expires_at: end,
            holds_max: 1,
        };
        let before = Timestamp::from_micros(999_999);
        let (other_user, other_schedule) =
            (UserId(Uuid::from_u128(9)), ScheduleId(Uuid::from_u128(9)));
        for (who, place, holds, now, expected) in [
            (user, schedule, 0, before, Ok(())),
            (other_user, schedule, 0, before, Err(NotValid::Foreign)),
            (user, other_schedule, 0, before, Err(NotValid::Foreign)),
            (user, schedule, 0, end, Err(NotValid::Expired)),
            (user, schedule, 1, before, Err(NotValid::UsedUp)),
            (other_user, schedule, 1, end, Err(NotValid::Foreign)),
        ] {
            assert_eq!(pass.check(who, place, holds, now), expected);
        }
    }
}
