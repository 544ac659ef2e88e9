//! What is said about seats: commands to their owner, outcomes, facts, and the live map.

mod fact;
mod outcome;
mod policy;

pub use fact::{Fact, Facts, MapBroadcast, MapChange};
pub use outcome::{Hold, Outcome, Refusal};
pub use policy::{
    EXTENSIONS_MAX, HOLD_MS, Policy, PolicyChange, RELEASE_JITTER_MS, SEATS_PER_USER,
};

use crate::admission::Pass;
use crate::ids::{
    ArrivalNo, BlockId, NoticeId, PaymentOrderId, ReservationId, ScheduleId, SeatNo, UserId,
};
use crate::money::Money;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// A command to the owner of a schedule's seats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// Hold named seats and places that are counted, all or none.
    Hold {
        /// The id that the reservation gets if this is accepted.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
        /// Which; no seat twice, and no place.
        seats: Vec<SeatNo>,
        /// How many places besides; no section twice. Not empty where no seat is named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        places: Vec<Places>,
        /// The layout by which they are meant, see [`MapChange::layout_no`]. By another one they
        /// might be other seats.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layout_no: Option<i64>,
        /// The entry pass that was shown. The digest of the command does not cover it: a retry with
        /// a pass that was renewed meanwhile is the same command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pass: Option<Pass>,
    },
    /// Hold the best of the free seats, all or none.
    HoldBest {
        /// The id that the reservation gets if this is accepted.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
        /// How many; not 0.
        count: u32,
        /// Only of this section.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        section: Option<String>,
        /// Only of this grade.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grade: Option<String>,
        /// None that costs more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_price: Option<Money>,
        /// As of a hold of named seats.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layout_no: Option<i64>,
        /// As of a hold of named seats.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pass: Option<Pass>,
    },
    /// Give a hold back.
    Release {
        /// The hold.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
    },
    /// Let a hold last longer, within the policy.
    Extend {
        /// The hold.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
    },
    /// Let a hold lapse if it is due.
    Expire {
        /// The hold.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
        /// The end that was seen; another one now means that this command is void.
        expires_at: Timestamp,
    },
    /// Settlement made a reservation PAID: its seats are sold.
    Paid {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// What was paid.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
    },
    /// Settlement made several reservations PAID in one transaction.
    PaidAll {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// What was paid; at most [`PAID_MAX`].
        reservation_ids: Vec<ReservationId>,
        /// Where.
        schedule_id: ScheduleId,
    },
    /// A payment of a hold through the gateway is about to be captured: the hold lasts longer, within
    /// bounds, and until word that the payment ended it can't be given back. Nothing comes of it for
    /// a hold that has lapsed.
    Secure {
        /// Marked done in the transaction that decides it.
        notice_id: NoticeId,
        /// What is paid.
        order_id: PaymentOrderId,
        /// The hold.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
        /// The hold lasts until then at least, but for a bound that its owner knows.
        until: Timestamp,
    },
    /// The payment that secured a hold has ended without a capture.
    Unsecure {
        /// Marked done in the transaction that decides it.
        notice_id: NoticeId,
        /// What was to be paid.
        order_id: PaymentOrderId,
        /// The hold.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
    },
    /// Money was captured after the hold had lapsed: its seats are sold if all of them are free,
    /// whatever window, limit and pass say; else nothing comes of it.
    Rehold {
        /// Marked done in the transaction that decides it.
        notice_id: NoticeId,
        /// What was paid; it is given seats once.
        order_id: PaymentOrderId,
        /// The id that the new reservation gets.
        reservation_id: ReservationId,
        /// The hold that lapsed.
        lapsed_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
        /// Who paid.
        user_id: UserId,
        /// All seats and places of that hold.
        seats: Vec<SeatNo>,
        /// What was paid for them.
        total: Money,
    },
    /// The waiting room of the schedule was turned on or off.
    Room {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// Where.
        schedule_id: ScheduleId,
        /// Whether a hold takes an entry pass from now on.
        pass_required: bool,
        /// The room's version that says so. One that is not newer than the last is void, so that two
        /// of these may come in any order.
        version: i64,
    },
    /// Tickets have ended before the passes that were made for them would: somebody has left, or has
    /// paid. Nobody may hold with such a pass any more.
    PassesOver {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// Where.
        schedule_id: ScheduleId,
        /// Whose; at most [`TICKETS_MAX`].
        tickets: Vec<ArrivalNo>,
    },
    /// Seats of a paid reservation were cancelled; they are on sale again.
    Cancelled {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// The reservation, whose row says the same already.
        reservation_id: ReservationId,
        /// Where.
        schedule_id: ScheduleId,
        /// Which seats.
        seats: Vec<SeatNo>,
        /// When, by the database's clock: whoever gets them next holds them later than that.
        at: Timestamp,
    },
    /// Sell by other rules from now on.
    Policy {
        /// Where.
        schedule_id: ScheduleId,
        /// What changes.
        change: PolicyChange,
    },
    /// Take seats off sale, all or none, whether it sells or not.
    Block {
        /// The id that the block gets if this is accepted.
        block_id: BlockId,
        /// Where.
        schedule_id: ScheduleId,
        /// Which; not empty, no seat twice, at most [`BLOCK_SEATS_MAX`].
        seats: Vec<SeatNo>,
        /// Why; of [`REASON_CHARS`].
        reason: String,
        /// As of a hold of named seats.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layout_no: Option<i64>,
    },
    /// Put seats of a block on sale again; those that are already stay so.
    Unblock {
        /// The block.
        block_id: BlockId,
        /// Where.
        schedule_id: ScheduleId,
        /// Which of its seats; all that it still holds when none are named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seats: Option<Vec<SeatNo>>,
        /// Why; of [`REASON_CHARS`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

/// Places of one section, by their count: which they are, the owner chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// A section without rows.
    pub section: String,
    /// How many; not 0.
    pub count: u32,
}

/// What a section has left of its places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacesLeft {
    /// The section.
    pub section: String,
    /// So many.
    pub available: u32,
}

/// The most seats that one command takes off sale, so that its commit keeps nobody waiting.
pub const BLOCK_SEATS_MAX: usize = 5_000;
/// The most reservations that one notice says are paid: a message of notices stays small, and so does
/// what its owner applies at once.
pub const PAID_MAX: usize = 32;
/// The most tickets in one notice of passes that are over.
pub const TICKETS_MAX: usize = 1024;
/// How many characters the reason of a block has.
pub const REASON_CHARS: RangeInclusive<usize> = 1..=500;

impl Kind {
    /// The schedule that decides.
    #[must_use]
    pub fn schedule_id(&self) -> ScheduleId {
        match self {
            Self::Hold { schedule_id, .. }
            | Self::HoldBest { schedule_id, .. }
            | Self::Release { schedule_id, .. }
            | Self::Extend { schedule_id, .. }
            | Self::Expire { schedule_id, .. }
            | Self::Paid { schedule_id, .. }
            | Self::PaidAll { schedule_id, .. }
            | Self::Secure { schedule_id, .. }
            | Self::Unsecure { schedule_id, .. }
            | Self::Rehold { schedule_id, .. }
            | Self::Cancelled { schedule_id, .. }
            | Self::Room { schedule_id, .. }
            | Self::PassesOver { schedule_id, .. }
            | Self::Policy { schedule_id, .. }
            | Self::Block { schedule_id, .. }
            | Self::Unblock { schedule_id, .. } => *schedule_id,
        }
    }

    /// The command's name in metrics and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hold { .. } => "hold",
            Self::HoldBest { .. } => "hold-best",
            Self::Release { .. } => "release",
            Self::Extend { .. } => "extend",
            Self::Expire { .. } => "expire",
            Self::Paid { .. } => "paid",
            Self::PaidAll { .. } => "paid-all",
            Self::Secure { .. } => "secure",
            Self::Unsecure { .. } => "unsecure",
            Self::Rehold { .. } => "rehold",
            Self::Cancelled { .. } => "cancelled",
            Self::Room { .. } => "room",
            Self::PassesOver { .. } => "passes-over",
            Self::Policy { .. } => "policy",
            Self::Block { .. } => "block",
            Self::Unblock { .. } => "unblock",
        }
    }
}
