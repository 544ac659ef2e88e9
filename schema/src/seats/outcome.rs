//! What became of a command to the owner of seats.

use super::{PlacesLeft, Policy};
use crate::ids::{BlockId, CommandId, ReservationId, ScheduleId, SeatNo};
use crate::money::Money;
use crate::status::ReservationStatus;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The seats are held.
    Held(Hold),
    /// The hold is given back (also when it was before).
    Released {
        /// The hold.
        reservation_id: ReservationId,
    },
    /// The hold lasts longer (also when it did before).
    Extended {
        /// The hold.
        reservation_id: ReservationId,
        /// When it lapses, as it is now.
        expires_at: Timestamp,
        /// So often it may be extended again.
        left: u32,
    },
    /// A system command was applied, or was already.
    Applied,
    /// The policy is this, from now on.
    Policy(Policy),
    /// The seats are off sale. The rest is in the row of the block: it may have more seats than a
    /// reply has room for.
    Blocked {
        /// The block.
        block_id: BlockId,
    },
    /// The seats are on sale again, or were before. The rest is in the rows.
    Unblocked {
        /// The block.
        block_id: BlockId,
        /// The command whose row says what came back by it; no row if nothing did.
        command_id: CommandId,
    },
    /// No, and why. Nothing was changed.
    Refused(Refusal),
    /// It could not be processed and lies among the dead letters.
    DeadLettered,
}

/// An accepted hold, as at acceptance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Where. Differs from what was asked only if the key was used for another schedule.
    pub schedule_id: ScheduleId,
    /// Its seats, in the order asked, and then its places.
    pub seats: Vec<SeatNo>,
    /// Price of all.
    pub total: Money,
    /// When it was accepted.
    pub held_at: Timestamp,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its deadline had passed when it was decided.
    CommandExpired,
    /// The key was used for another request.
    KeyReused,
    /// No such schedule.
    UnknownSchedule,
    /// A seat is not in the layout, or named twice, or none is named; or the same of a section of
    /// places.
    UnknownSeat,
    /// Before the booking window, or paused.
    SaleNotOpen,
    /// After the booking window, or closed.
    SaleClosed,
    /// More live seats than the schedule allows a user.
    SeatLimitExceeded {
        /// The limit.
        limit: u32,
    },
    /// Somebody has some of them.
    SeatUnavailable {
        /// Those that were taken.
        seats: Vec<SeatNo>,
        /// The sections with too few places.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        places: Vec<PlacesLeft>,
    },
    /// It would leave these seats alone, and there are others.
    OrphanSeat {
        /// Those that would be free, with no free one beside them.
        seats: Vec<SeatNo>,
    },
    /// The hold can't be extended any more.
    ExtensionLimitReached,
    /// No such reservation of that user.
    NotFound,
    /// The reservation's state doesn't allow it.
    StateConflict {
        /// That state.
        status: ReservationStatus,
    },
    /// Not due yet.
    NotDue,
    /// The seats are meant by another layout than the schedule has.
    LayoutChanged,
    /// A payment of it through the gateway is on its way.
    PaymentInProgress,
    /// The policy would contradict itself, or a value is out of bounds.
    PolicyInvalid,
    /// The date has a waiting room, and no pass was shown.
    PassRequired,
    /// The pass is another user's or another date's.
    PassInvalid,
    /// The pass is too old.
    PassExpired,
    /// As many holds were made with the ticket of the pass as it allows.
    PassUsedUp,
}
