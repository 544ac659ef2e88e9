//! What is said about waiting rooms: commands to their owner, outcomes, and what everybody is told of
//! a line.

mod code;
mod pass;
mod watermark;

pub use code::{Code, CodeNotValid};
pub use pass::{NotValid, Pass, Ticketed};
pub use watermark::{
    Broadcast, Eta, GUEST_POLL_MS, GuestLine, Line, Lobby, Moment, Order, POLL_LAST_MS,
    POLL_MAX_MS, Sight, TicketChange, Watermark,
};

use crate::ids::{
    AccessCodeId, ArrivalNo, Generation, NoticeId, ReservationId, ScheduleId, TicketId,
};
use crate::status::{QueueMode, TicketStatus};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// A command to the owner of a schedule's waiting room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Get in line. Who has a live ticket gets that one; a new one has this command's id.
    Join {
        /// Where.
        schedule_id: ScheduleId,
        /// What makes it a guest's, if anything does. Who has a live ticket uses no code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
    },
    /// Leave the line, or give the pass back.
    Leave {
        /// Where.
        schedule_id: ScheduleId,
        /// Only with this ticket, so that a leave that comes late does not end a newer one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket_id: Option<TicketId>,
    },
    /// Whose clients were heard since the last such report of the same ingress: of those in the
    /// lobby, of those up to [`Watermark::window`] behind the front, and of those before it that were
    /// passed over. Sent each second while the ingress has the room in memory, also when none was heard.
    Seen {
        /// Where.
        schedule_id: ScheduleId,
        /// Which tickets; at most [`SEEN_MAX`].
        tickets: Vec<ArrivalNo>,
        /// Whether anybody else was heard of this room, so that its clients do reach an ingress.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        others: bool,
    },
    /// What became of holds that were made with passes. A state that was said to be over stays so, in
    /// whatever order such notices come.
    Holds {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// Where.
        schedule_id: ScheduleId,
        /// Which, and how they are; at most [`HOLDS_MAX`].
        changes: Vec<HoldChange>,
    },
    /// Let people in by other rules from now on.
    Policy {
        /// Where.
        schedule_id: ScheduleId,
        /// What changes.
        change: PolicyChange,
    },
    /// The draw will take what a public source says that nobody can know yet. Only while there is no
    /// ticket.
    NameBeacon {
        /// Where.
        schedule_id: ScheduleId,
        /// Which source, and which of its words; of [`BEACON_CHARS`].
        name: String,
    },
    /// What that source said. Only when the lobby is closed and has no order yet.
    RevealBeacon {
        /// Where.
        schedule_id: ScheduleId,
        /// Its bytes, as the name says; of [`BEACON_BYTES`].
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
    },
    /// How the schedule sells may be another than before: its row says so. As long as it does not sell,
    /// nobody is let in.
    Sale {
        /// Marked done in the transaction that applies it.
        notice_id: NoticeId,
        /// Where.
        schedule_id: ScheduleId,
    },
    /// Nobody joins with this code any more.
    RevokeCode {
        /// Where.
        schedule_id: ScheduleId,
        /// Which.
        code_id: AccessCodeId,
    },
}

/// The most tickets of a room.
pub const TICKETS_MAX: u32 = 4_000_000;
/// The most tickets of one user in a room, with those that have ended: each takes a number for good.
pub const TICKETS_PER_USER: u8 = 20;
/// The most tickets in one report of who was heard.
pub const SEEN_MAX: usize = 20_000;
/// The most holds in one notice of what became of them.
pub const HOLDS_MAX: usize = 256;
/// How many characters the name of a beacon has.
pub const BEACON_CHARS: RangeInclusive<usize> = 1..=200;
/// How many bytes a beacon says.
pub const BEACON_BYTES: RangeInclusive<usize> = 1..=256;

impl Kind {
    /// The schedule whose room decides.
    #[must_use]
    pub fn schedule_id(&self) -> ScheduleId {
        match self {
            Self::Join { schedule_id, .. }
            | Self::Leave { schedule_id, .. }
            | Self::Seen { schedule_id, .. }
            | Self::Holds { schedule_id, .. }
            | Self::Policy { schedule_id, .. }
            | Self::NameBeacon { schedule_id, .. }
            | Self::RevealBeacon { schedule_id, .. }
            | Self::Sale { schedule_id, .. }
            | Self::RevokeCode { schedule_id, .. } => *schedule_id,
        }
    }

    /// The command's name in metrics and logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Seen { .. } => "seen",
            Self::Holds { .. } => "holds",
            Self::Policy { .. } => "queue-policy",
            Self::NameBeacon { .. } => "name-beacon",
            Self::RevealBeacon { .. } => "reveal-beacon",
            Self::Sale { .. } => "sale",
            Self::RevokeCode { .. } => "revoke-code",
        }
    }
}

/// How a hold that was made with a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldChange {
    /// The ticket of the pass.
    pub ticket_id: TicketId,
    /// Its number.
    pub arrival_no: ArrivalNo,
    /// The hold.
    pub reservation_id: ReservationId,
    /// How it is.
    pub state: HoldState,
}

/// How a hold is to its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldState {
    /// It lasts until then: as long, at least, its ticket keeps its pass.
    Until(Timestamp),
    /// It has lapsed or was given back.
    Over,
    /// It is paid: the ticket is done.
    Paid,
}

/// How a waiting room lets people in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// In which order, if at all.
    pub mode: QueueMode,
    /// Nobody is let in for now; passes end as ever.
    pub paused: bool,
    /// Nobody is let in before; who arrives before waits in the lobby.
    pub opens_at: Timestamp,
    /// Nobody is let in while so many have a pass.
    pub capacity: u32,
    /// So many are let in per second, at most.
    pub rate_per_second: u32,
    /// How long a pass lasts, in milliseconds.
    pub pass_ms: i64,
    /// Who was not heard for longer than this is passed over, in milliseconds.
    pub presence_ms: i64,
    /// So many holds may be made with one pass.
    pub holds_per_pass: u32,
}

impl Policy {
    /// The values of a room that nobody has said anything about.
    #[must_use]
    pub fn new(mode: QueueMode, opens_at: Timestamp) -> Self {
        Self {
            mode,
            paused: false,
            opens_at,
            capacity: 100,
            rate_per_second: 10,
            pass_ms: 10 * 60 * 1000,
            presence_ms: 60 * 1000,
            holds_per_pass: 10,
        }
    }

    /// Of so many places from the front on the owner wants to know who was heard, see
    /// [`Watermark::window`]: twice as many as are let in until somebody counts as silent who has just
    /// come so near, within [`WINDOW`].
    #[must_use]
    pub fn window(&self) -> u32 {
        let silent_ms = self.presence_ms.max(FIRST_SILENT_MS);
        let silent_s = u32::try_from(silent_ms / 1000).unwrap_or(u32::MAX);
        let near = self.rate_per_second.saturating_mul(silent_s);
        near.saturating_mul(2).clamp(*WINDOW.start(), *WINDOW.end())
    }
}

/// Who has come so near that it is listened to counts as silent after so long at the earliest, in
/// milliseconds: it may have been told just before to ask again after [`POLL_LAST_MS`].
pub const FIRST_SILENT_MS: i64 = POLL_LAST_MS as i64 + 8000;

/// How far reports of who was heard reach, at least and at most, in places.
pub const WINDOW: RangeInclusive<u32> = 1000..=50_000;

/// The values of a policy that change; the others stay as they are when it is decided. Values, not
/// steps: a change that comes twice is the same as once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// See [`Policy::mode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<QueueMode>,
    /// See [`Policy::paused`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// See [`Policy::opens_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<Timestamp>,
    /// See [`Policy::capacity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// See [`Policy::rate_per_second`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// See [`Policy::pass_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_ms: Option<i64>,
    /// See [`Policy::presence_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_ms: Option<i64>,
    /// See [`Policy::holds_per_pass`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_per_pass: Option<u32>,
    /// The show is cancelled: the room is paused for good, whatever `paused` says, now and later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
}

/// What the capacity of a room may be.
pub const CAPACITY: RangeInclusive<u32> = 0..=100_000;
/// How many a room may let in per second.
pub const RATE_PER_SECOND: RangeInclusive<u32> = 1..=10_000;
/// How long a pass may last, in milliseconds.
pub const PASS_MS: RangeInclusive<i64> = 1000..=24 * 3600 * 1000;
/// How long somebody may not be heard, in milliseconds. Clients ask several times meanwhile; with less
/// there would be no time to tell those of an ingress that is cut off that they have to ask another one.
pub const PRESENCE_MS: RangeInclusive<i64> = 15_000..=3600 * 1000;
/// How many holds a pass may be good for.
pub const HOLDS_PER_PASS: RangeInclusive<u32> = 1..=100;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// This is the user's ticket.
    Joined(Ticket),
    /// The ticket is out of the line (also when it was before).
    Left {
        /// Which.
        ticket_id: TicketId,
    },
    /// A system command was applied, or was already.
    Applied,
    /// The policy is this, from now on.
    Policy(Policy),
    /// No, and why. Nothing was changed.
    Refused(Refusal),
    /// It could not be processed and lies among the dead letters.
    DeadLettered,
}

/// A ticket, as it is when the answer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Its id.
    pub ticket_id: TicketId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// Its number.
    pub arrival_no: ArrivalNo,
    /// Whether this command made it; else its owner had it before.
    pub is_new: bool,
    /// How far it is.
    pub status: TicketStatus,
    /// Until when its pass lasts, if it is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_expires_at: Option<Timestamp>,
    /// Whether it is a guest's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_guest: bool,
    /// Its number among the guests' tickets of the room, from 0, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_no: Option<u32>,
    /// Within which its number is its own.
    #[serde(default, skip_serializing_if = "Generation::is_first")]
    pub generation: Generation,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its deadline had passed when it was decided.
    CommandExpired,
    /// The key was used for another request.
    KeyReused,
    /// No such schedule is on sale.
    UnknownSchedule,
    /// The waiting room is off: no ticket is needed.
    RoomOff,
    /// The room has all the tickets that it can have.
    RoomFull,
    /// The user has had [`TICKETS_PER_USER`] tickets of the room.
    TicketsUsedUp,
    /// The user has no such ticket that is live.
    NotFound,
    /// A value of the policy is out of bounds.
    PolicyInvalid,
    /// The beacon can't be named or changed any more.
    BeaconFixed,
    /// Nobody waits for a beacon's word.
    NotDue,
    /// The access code is for another schedule.
    CodeInvalid,
    /// It was revoked.
    CodeRevoked,
    /// It is not good yet.
    CodeNotYet,
    /// It is not good any more.
    CodeExpired,
    /// As many accounts have used it as it is good for, or this one has.
    CodeUsedUp,
    /// The show is cancelled: its room stays paused.
    ShowCancelled,
}
