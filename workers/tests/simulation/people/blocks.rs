//! Operators who take seats off sale, and put them on sale again.

use super::{Ingress, Request, Want};
use crate::sim::lock;
use onsale_schema::seats::Kind;
use onsale_schema::{BlockId, CommandId, ScheduleId, SeatNo};

impl Ingress {
    /// A block, or more often a lift of one, or nothing else could be sold; sometimes again with a
    /// key that was used before.
    pub(super) fn block_or_lift(&self) -> Request {
        let sim = &self.sim;
        let operator = onsale_schema::UserId(uuid::Uuid::from_u128(9999));
        let blocks = lock(&sim.people).blocks.clone();
        let Some((request, block)) = sim.pick(&blocks).filter(|_| sim.percent(70)) else {
            let want = Want::Block(self.some_schedule(), self.some_seats());
            return self.request(CommandId(sim.uuid()), operator, want);
        };
        let Want::Block(schedule, seats) = &request.want else {
            unreachable!("blocks are remembered with their seats");
        };
        match sim.range(1, 10) {
            1 => Request {
                is_again: true,
                ..request
            },
            2 => {
                let other = Want::Block(*schedule, self.some_seats());
                self.request(request.key, operator, other)
            }
            n => {
                let some = sim.pick(seats).into_iter().collect();
                let named = (n < 7).then_some(some);
                let want = Want::Unblock(*schedule, block, named);
                self.request(CommandId(sim.uuid()), operator, want)
            }
        }
    }

    /// As a command; each attempt has an id of its own for its block.
    pub(super) fn block(&self, schedule_id: ScheduleId, seats: &[SeatNo]) -> Kind {
        Kind::Block {
            block_id: BlockId(self.sim.uuid()),
            schedule_id,
            seats: seats.to_vec(),
            reason: "a camera stands there".to_owned(),
            layout_no: self.layout_no(schedule_id),
        }
    }

    /// Remembers a block, for things to ask about.
    pub(super) fn blocked(&self, request: &Request, block: BlockId) {
        if !request.is_again {
            let mut people = lock(&self.sim.people);
            people.blocks.push((request.clone(), block));
        }
    }
}
