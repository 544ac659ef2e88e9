//! What is said about seats: commands to their owner, outcomes, facts, and the live map.

use crate::admission::Pass;
use crate::ids::{
    ArrivalNo, BlockId, CommandId, NoticeId, PaymentOrderId, ReservationId, ScheduleId, SeatNo,
    UserId,
};
use crate::money::Money;
use crate::status::{ClaimState, ReservationStatus, SaleState};
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

/// What the operator of a schedule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether it sells at all.
    pub state: SaleState,
    /// First moment of the booking window.
    pub booking_opens_at: Timestamp,
    /// First moment after the booking window.
    pub booking_closes_at: Timestamp,
    /// How long a hold lasts, in milliseconds.
    pub hold_ms: i64,
    /// The most live seats of one user.
    pub seats_per_user: u32,
    /// How often a hold may be extended.
    #[serde(default)]
    pub extensions_max: u32,
    /// How long a hold lasts with all its extensions, in milliseconds.
    #[serde(default)]
    pub hold_total_ms: i64,
    /// Whether seats that are named are refused if that leaves a free seat without a free one
    /// beside it, as long as there are others.
    #[serde(default)]
    pub prevents_orphans: bool,
    /// Seats that were held are on sale again at a random moment within so many milliseconds after
    /// the hold, so that nobody can wait for it.
    #[serde(default)]
    pub release_jitter_ms: i64,
    /// The show is cancelled: it is CLOSED for good.
    #[serde(default, skip_serializing_if = "is_not")]
    pub cancelled: bool,
}

/// Of what is hardly ever so, nothing is written.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_not(flag: &bool) -> bool {
    !flag
}

/// The values of a policy that change; the others stay as they are when it is decided. Values, not
/// steps: a change that comes twice is the same as once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// See [`Policy::state`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SaleState>,
    /// See [`Policy::booking_opens_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking_opens_at: Option<Timestamp>,
    /// See [`Policy::booking_closes_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking_closes_at: Option<Timestamp>,
    /// See [`Policy::hold_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<i64>,
    /// See [`Policy::seats_per_user`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_per_user: Option<u32>,
    /// See [`Policy::extensions_max`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions_max: Option<u32>,
    /// See [`Policy::hold_total_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_total_ms: Option<i64>,
    /// See [`Policy::prevents_orphans`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prevents_orphans: Option<bool>,
    /// See [`Policy::release_jitter_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_jitter_ms: Option<i64>,
    /// The show is cancelled: the sale closes for good, whatever `state` says, now and later.
    #[serde(default, skip_serializing_if = "is_not")]
    pub cancelled: bool,
}

/// How long a hold may be made to last, in milliseconds.
pub const HOLD_MS: RangeInclusive<i64> = 1..=24 * 3600 * 1000;
/// What the limit of seats per user may be.
pub const SEATS_PER_USER: RangeInclusive<u32> = 1..=100;
/// What the limit of extensions may be.
pub const EXTENSIONS_MAX: RangeInclusive<u32> = 0..=20;
/// How long the seats of a hold may stay off sale after it, in milliseconds.
pub const RELEASE_JITTER_MS: RangeInclusive<i64> = 0..=10 * 60 * 1000;
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
