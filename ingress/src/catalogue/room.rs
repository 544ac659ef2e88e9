//! The waiting room of a date in the catalogue: by which rules it lets people in. Who is in it is no
//! business of the catalogue's.

use super::ScheduleRow;
use diesel::prelude::Queryable;
use onsale_schema::Timestamp;
use onsale_schema::admission::Policy;
use onsale_schema::status::QueueMode;
use onsale_schema::tables::waiting_room;
use serde::Serialize;
use utoipa::ToSchema;

/// What the row of a room says of its policy.
#[derive(Clone, Debug, Queryable)]
pub struct RoomRow {
    mode: QueueMode,
    paused: bool,
    opens_at: Timestamp,
    capacity: i32,
    rate_per_second: i32,
    pass_ms: i64,
    presence_ms: i64,
    holds_per_pass: i32,
}

pub(super) type RoomColumns = (
    waiting_room::mode,
    waiting_room::paused,
    waiting_room::opens_at,
    waiting_room::capacity,
    waiting_room::rate_per_second,
    waiting_room::pass_ms,
    waiting_room::presence_ms,
    waiting_room::holds_per_pass,
);
pub(super) const ROOM_COLUMNS: RoomColumns = (
    waiting_room::mode,
    waiting_room::paused,
    waiting_room::opens_at,
    waiting_room::capacity,
    waiting_room::rate_per_second,
    waiting_room::pass_ms,
    waiting_room::presence_ms,
    waiting_room::holds_per_pass,
);

/// Bounds in the database and of the owner keep all of them within either type.
fn unsigned(count: i32) -> u32 {
    u32::try_from(count).unwrap_or_default()
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl From<&RoomRow> for Policy {
    fn from(row: &RoomRow) -> Self {
        Self {
            mode: row.mode,
            paused: row.paused,
            opens_at: row.opens_at,
            capacity: unsigned(row.capacity),
            rate_per_second: unsigned(row.rate_per_second),
            pass_ms: row.pass_ms,
            presence_ms: row.presence_ms,
            holds_per_pass: unsigned(row.holds_per_pass),
        }
    }
}

impl From<&Policy> for RoomRow {
    fn from(policy: &Policy) -> Self {
        Self {
            mode: policy.mode,
            paused: policy.paused,
            opens_at: policy.opens_at,
            capacity: signed(policy.capacity),
            rate_per_second: signed(policy.rate_per_second),
            pass_ms: policy.pass_ms,
            presence_ms: policy.presence_ms,
            holds_per_pass: signed(policy.holds_per_pass),
        }
    }
}

impl ScheduleRow {
    /// The same date with a waiting room of this policy.
    #[must_use]
    pub fn behind(&self, policy: &Policy) -> Self {
        Self {
            room: Some(policy.into()),
            ..self.clone()
        }
    }

    /// How its waiting room lets people in; where there is none, what one would begin with.
    #[must_use]
    pub fn queue(&self) -> Policy {
        let new = || Policy::new(QueueMode::Off, self.booking_opens_at);
        self.room.as_ref().map_or_else(new, Policy::from)
    }
}

/// How the waiting room of a date lets people in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QueueView {
    mode: QueueMode,
    /// Whether nobody is let in for now.
    paused: bool,
    /// Nobody is let in before; who comes before waits in the lobby.
    opens_at: Timestamp,
    /// Nobody is let in while so many have a pass.
    capacity: u32,
    /// So many are let in per second, at most.
    rate_per_second: u32,
    /// How long a pass lasts.
    #[schema(minimum = 0)]
    pass_seconds: i64,
    /// Who was not heard for longer than this is passed over.
    #[schema(minimum = 0)]
    presence_seconds: i64,
    /// So many holds may be made with one pass.
    holds_per_pass: u32,
}

impl From<Policy> for QueueView {
    fn from(policy: Policy) -> Self {
        Self {
            mode: policy.mode,
            paused: policy.paused,
            opens_at: policy.opens_at,
            capacity: policy.capacity,
            rate_per_second: policy.rate_per_second,
            pass_seconds: policy.pass_ms / 1000,
            presence_seconds: policy.presence_ms / 1000,
            holds_per_pass: policy.holds_per_pass,
        }
    }
}
