//! Entry passes, mostly good ones, and rooms that are turned on and off.

use crate::World;
use crate::common::{schedule_id, user};
use onsale_schema::admission::{Pass, Ticketed};
use onsale_schema::message::Command;
use onsale_schema::seats::Kind;
use onsale_schema::{ArrivalNo, NoticeId, TicketId, UserId};
use uuid::Uuid;

impl World {
    /// One of the user's few tickets; at times somebody else's, of another date, or too old.
    pub(super) fn pass(&mut self, of: UserId) -> Option<Pass> {
        if self.rng.percent(15) {
            return None;
        }
        let nth = self.rng.range(0, 1);
        let owner = if self.rng.percent(5) { user(9) } else { of };
        let schedule_id = match self.rng.percent(3) {
            true => schedule_id(2),
            false => self.rows.schedule,
        };
        let of = owner.0.as_u128();
        let no = u32::try_from(of).unwrap() * 2 + u32::try_from(nth).unwrap();
        let age_ms = match self.rng.percent(10) {
            true => self.rng.range(-1000, 0),
            false => self.rng.range(1, 60_000),
        };
        Some(Pass {
            ticket: Ticketed {
                user_id: owner,
                schedule_id,
                ticket_id: TicketId(Uuid::from_u128(of * 100 + u128::from(no))),
                arrival_no: ArrivalNo(no),
                is_guest: false,
            },
            expires_at: self.now.plus_ms(age_ms),
            holds_max: u32::try_from(self.rng.range(1, 4)).unwrap(),
        })
    }

    /// Word of the room, which may come twice and in any order.
    pub(super) fn word_of_the_room(&mut self) -> Command<Kind> {
        let known = self.model.gate.room_version;
        let (notice_id, schedule_id) = (NoticeId(self.rng.uuid()), self.rows.schedule);
        let kind = if self.rng.percent(30) {
            let no = u32::try_from(self.rng.range(0, 9)).unwrap();
            Kind::PassesOver {
                notice_id,
                schedule_id,
                tickets: vec![ArrivalNo(no), ArrivalNo(99)],
            }
        } else {
            Kind::Room {
                notice_id,
                schedule_id,
                pass_required: self.rng.percent(60),
                version: self.rng.range(known - 1, known + 3),
            }
        };
        self.command(user(0), kind)
    }
}
