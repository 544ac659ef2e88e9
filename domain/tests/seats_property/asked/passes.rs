//! Entry passes, mostly good ones, and rooms that are turned on and off.

use crate::World;
use crate::common::{schedule_id, user};
use onsale_schema::admission::{Pass, Ticketed};
use onsale_schema::message::Command;
use onsale_schema::seats::Kind;
use onsale_schema::{ArrivalNo, Generation, NoticeId, TicketId, UserId};
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
                guest_no: None,
                generation: Generation::default(),
            },
            expires_at: self.now.plus_ms(age_ms),
            holds_max: u32::try_from(self.rng.range(1, 4)).unwrap(),
        })
    }

    /// Word of the room, which may come twice and in any order; at times of what it did before Postgres
    /// was restored to an older state, so that there is no notice of it.
    pub(super) fn word_of_the_room(&mut self) -> Command<Kind> {
        let known = self.model.gate.room_version;
        let schedule_id = self.rows.schedule;
        let no = u32::try_from(self.rng.range(0, 9)).unwrap();
        let (is_over, pass_required) = (self.rng.percent(30), self.rng.percent(60));
        let version = self.rng.range(known - 1, known + 3).max(0);
        let say = |notice_id| match is_over {
            true => Kind::PassesOver {
                notice_id,
                schedule_id,
                tickets: vec![ArrivalNo(no), ArrivalNo(99)],
            },
            false => Kind::Room {
                notice_id,
                schedule_id,
                pass_required,
                version,
            },
        };
        let mut said = None;
        if self.rng.percent(20) {
            let notice_id = NoticeId(self.rng.uuid());
            self.model.decided.insert(notice_id);
            said = Some(say(notice_id));
        } else {
            self.tell(|notice_id| said.insert(say(notice_id)).clone());
        }
        self.command(user(0), said.expect("something was said"))
    }
}
