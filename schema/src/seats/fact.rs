//! What others are told of seats: facts for other systems, and the live map.

use super::{Hold, Policy};
use crate::ids::{BlockId, CommandId, PaymentOrderId, ReservationId, ScheduleId, SeatNo, UserId};
use crate::status::{ClaimState, ReservationStatus};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Facts of one schedule and batch, for other systems. `version` is the map's version after it and
/// numbers the schedule's facts without a gap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Its map's version after these facts.
    pub version: i64,
    /// In the order in which they became true.
    pub facts: Vec<Fact>,
}

/// Something that became true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fact {
    /// Seats were held.
    Held {
        /// By whom.
        user_id: UserId,
        /// By which command.
        command_id: CommandId,
        /// How.
        hold: Hold,
    },
    /// A hold lasts longer.
    Extended {
        /// Which.
        reservation_id: ReservationId,
        /// By which command.
        command_id: CommandId,
        /// When it lapses now.
        expires_at: Timestamp,
        /// When.
        at: Timestamp,
    },
    /// A hold was given back; its seats are on sale again when it ends.
    GivenBack {
        /// Which.
        reservation_id: ReservationId,
        /// When.
        at: Timestamp,
    },
    /// A reservation left HELD without being sold.
    Ended {
        /// Which.
        reservation_id: ReservationId,
        /// EXPIRED or RELEASED.
        status: ReservationStatus,
        /// When.
        at: Timestamp,
    },
    /// A reservation's seats were sold.
    Sold {
        /// Which.
        reservation_id: ReservationId,
        /// When the owner learned of it.
        at: Timestamp,
    },
    /// Seats of a paid reservation were cancelled and are on sale again.
    Cancelled {
        /// Which reservation.
        reservation_id: ReservationId,
        /// Which of its seats.
        seats: Vec<SeatNo>,
        /// When the owner learned of it.
        at: Timestamp,
    },
    /// A capture that came too late was given the seats of its lapsed hold after all.
    Reheld {
        /// Who paid.
        user_id: UserId,
        /// What was paid.
        order_id: PaymentOrderId,
        /// The hold that lapsed.
        lapsed_id: ReservationId,
        /// The new reservation: its seats are sold. `expires_at` is when it was made.
        hold: Hold,
    },
    /// The policy became another one.
    Policy {
        /// By whom.
        user_id: UserId,
        /// By which command.
        command_id: CommandId,
        /// All of it, as it is from then on.
        policy: Policy,
        /// When.
        at: Timestamp,
    },
    /// Seats were taken off sale.
    Blocked {
        /// By whom.
        user_id: UserId,
        /// By which command.
        command_id: CommandId,
        /// As which block.
        block_id: BlockId,
        /// Which.
        seats: Vec<SeatNo>,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Seats of a block are on sale again.
    Unblocked {
        /// By whom.
        user_id: UserId,
        /// By which command.
        command_id: CommandId,
        /// Of which block.
        block_id: BlockId,
        /// Which.
        seats: Vec<SeatNo>,
        /// Why, if that was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// When.
        at: Timestamp,
    },
}

/// Broadcast by the owner after each commit that changed maps, and each second for the maps that it
/// has loaded (with no changes), so that a lost change is noticed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapBroadcast {
    /// One entry per schedule.
    pub maps: Vec<MapChange>,
    /// When the owner sent it, by its clock: for changes, the moment after they became true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
}

/// What changed on one schedule's map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapChange {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The version before.
    pub from_version: i64,
    /// The version after; the same as before in a beat.
    pub version: i64,
    /// When it was decided (business time).
    pub at: Timestamp,
    /// Seats with their new state; `None` is available.
    pub changes: Vec<(SeatNo, Option<ClaimState>)>,
    /// The layout whose seats they are: how often it was replaced before. None from an owner that
    /// doesn't know of replacements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout_no: Option<i64>,
}
