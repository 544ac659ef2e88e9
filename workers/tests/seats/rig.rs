//! A seats worker on real servers, and what it is asked.

#[allow(dead_code, reason = "each lane's tests use a part of it")]
#[path = "../common/rig.rs"]
mod lane;

use lane::LaneRig;
use onsale_schema::message::Command;
use onsale_schema::seats::Kind;
use onsale_schema::{ReservationId, ScheduleId, SeatNo, Timestamp, UserId};
use onsale_workers::seats::Seats;
use uuid::Uuid;

pub type Rig = LaneRig<Seats>;

impl Rig {
    /// A schedule on sale with so many seats.
    pub async fn schedule(&mut self, seats: u32, hold_ms: u32, seats_per_user: u32) -> ScheduleId {
        let schedule = self.empty_schedule(hold_ms, seats_per_user).await;
        self.sql(&format!(
            "INSERT INTO seat SELECT '{schedule}', n, 'A', '1', n, 'R', 1000, n, 0
                 FROM generate_series(0, {seats} - 1) n"
        ))
        .await;
        schedule
    }

    pub fn hold(&self, schedule_id: ScheduleId, seats: &[i32]) -> Command<Kind> {
        self.hold_by(UserId(Uuid::now_v7()), schedule_id, seats)
    }

    pub fn hold_by(&self, user: UserId, schedule_id: ScheduleId, seats: &[i32]) -> Command<Kind> {
        self.command(
            user,
            Kind::Hold {
                reservation_id: ReservationId(Uuid::now_v7()),
                schedule_id,
                seats: seats.iter().copied().map(SeatNo).collect(),
                places: vec![],
                layout_no: None,
                pass: None,
            },
        )
    }

    /// A hold of seats that are meant by a layout.
    pub fn hold_by_layout(&self, schedule_id: ScheduleId, seats: &[i32], no: i64) -> Command<Kind> {
        let mut command = self.hold(schedule_id, seats);
        if let Kind::Hold { layout_no, .. } = &mut command.kind {
            *layout_no = Some(no);
        }
        command
    }

    pub fn in_the_past(&self) -> Timestamp {
        self.clock.now().plus_ms(-1000)
    }
}
