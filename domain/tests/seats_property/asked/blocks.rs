//! Blocks and lifts: new ones, retries, reused keys and ids, of seats that are there and not.

use super::World;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::Kind;
use onsale_schema::{BlockId, SeatNo};

impl World {
    pub fn block_or_lift(&mut self) -> Command<Kind> {
        match self.rng.range(1, 20) {
            1..=8 => self.new_block(),
            9..=16 => self.new_lift(),
            _ => self.block_again(),
        }
    }

    fn new_block(&mut self) -> Command<Kind> {
        let kind = Kind::Block {
            block_id: BlockId(self.rng.uuid()),
            schedule_id: self.rows.schedule,
            seats: self.seats(),
            reason: format!("reason {}", self.rng.range(1, 9)),
            layout_no: self.meant_layout(),
        };
        let user = self.somebody();
        let command = self.command(user, kind);
        self.blocks.push(command.clone());
        command
    }

    fn new_lift(&mut self) -> Command<Kind> {
        let of = self.rng.pick(&self.blocks).map(|command| &command.kind);
        let (block_id, of_block) = match of {
            Some(Kind::Block {
                block_id, seats, ..
            }) => (*block_id, seats.clone()),
            Some(Kind::Unblock { block_id, .. }) => (*block_id, vec![]),
            _ => (BlockId(self.rng.uuid()), vec![]),
        };
        let named: Vec<SeatNo> = match self.rng.range(1, 10) {
            1 => self.seats(),
            _ => self.rng.pick(&of_block).copied().into_iter().collect(),
        };
        let kind = Kind::Unblock {
            block_id,
            schedule_id: self.rows.schedule,
            seats: self.rng.percent(50).then_some(named),
            reason: self.rng.percent(50).then(|| "it is over".to_owned()),
        };
        let user = self.somebody();
        let command = self.command(user, kind);
        self.blocks.push(command.clone());
        command
    }

    /// A redelivery, a retry, a reused key, or an id that another block has.
    fn block_again(&mut self) -> Command<Kind> {
        let Some(mut command) = self.rng.pick(&self.blocks).cloned() else {
            return self.new_block();
        };
        command.deadline = self.now.plus_ms(5000);
        let other_id = BlockId(self.rng.uuid());
        match (self.rng.range(1, 4), &mut command.kind) {
            (1, Kind::Block { block_id, .. }) => *block_id = other_id,
            (2, _) => command.fingerprint = Fingerprint(self.rng.uuid()),
            (3, _) => command.id.0 = self.rng.uuid(),
            _ => {}
        }
        command
    }
}
