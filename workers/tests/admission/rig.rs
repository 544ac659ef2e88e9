//! An admission worker on real servers, what it is asked, and what it tells.

#[allow(dead_code, reason = "each lane's tests use a part of it")]
#[path = "../common/rig.rs"]
mod lane;

use futures_util::StreamExt;
use lane::{LaneRig, PATIENCE};
use onsale_schema::admission::{Broadcast, Code, Kind, Outcome, Ticket, Watermark};
use onsale_schema::message::{Command, decode};
use onsale_schema::{ScheduleId, UserId};
use onsale_workers::admission::Admission;
use uuid::Uuid;

pub type Rig = LaneRig<Admission>;

impl Rig {
    /// A schedule on sale.
    pub async fn schedule(&mut self) -> ScheduleId {
        self.empty_schedule(1000, 4).await
    }

    /// Writes the row of a code, as an ingress does before it tells of it.
    pub async fn access_code(&mut self, code: &Code) {
        let Code {
            code_id,
            schedule_id,
            grant,
            uses,
            from,
            until,
        } = code;
        self.sql(&format!(
            "INSERT INTO access_code (access_code_id, schedule_id, fingerprint, label, granted, uses,
                                      valid_from, valid_until, made_by, made_at)
             VALUES ('{code_id}', '{schedule_id}', gen_random_uuid(), 'a code', '{grant}', {uses},
                     '{from}', '{until}', gen_random_uuid(), now())"
        ))
        .await;
    }

    pub fn join(&self, schedule_id: ScheduleId) -> Command<Kind> {
        self.command(
            UserId(Uuid::now_v7()),
            Kind::Join {
                schedule_id,
                code: None,
            },
        )
    }

    /// The ticket that a command gets.
    pub async fn ticket(&mut self, command: Command<Kind>) -> Ticket {
        ticket(self.ask(command).await)
    }

    /// Waits until everybody is told something like this of a room.
    pub async fn told(&mut self, room: ScheduleId, like: impl Fn(&Watermark) -> bool) -> Watermark {
        let wait = async {
            loop {
                let message = self.broadcasts.next().await;
                let message = message.expect("the subscription lives");
                let told: Broadcast = decode(&message.payload).expect("a broadcast");
                let of_room = |told: &Watermark| told.schedule_id == room && like(told);
                if let Some(told) = told.rooms.into_iter().find(of_room) {
                    return told;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a word in time")
    }
}

pub fn ticket(outcome: Outcome) -> Ticket {
    match outcome {
        Outcome::Joined(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}
