//! Blocks, as naively as the rest.

use super::{Model, is_of_another_layout};
use onsale_domain::seats::Times;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::{Fact, Kind, Outcome, Refusal};
use onsale_schema::{BlockId, CommandId, SeatNo, Timestamp};

/// An accepted block or lift.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub command: CommandId,
    pub fingerprint: Fingerprint,
    pub block: BlockId,
    pub lifts: bool,
    pub seats: Vec<SeatNo>,
    pub at: Timestamp,
}

impl Model {
    /// Whether a seat is off sale.
    pub fn is_blocked(&self, seat: SeatNo) -> bool {
        let named = |lifts| {
            let rows = self.blocks.iter().filter(move |a| a.lifts == lifts);
            rows.filter(|a| a.seats.contains(&seat)).count()
        };
        named(false) > named(true)
    }

    pub(super) fn block(
        &mut self,
        command: &Command<Kind>,
        times: Times,
        now: Timestamp,
    ) -> Outcome {
        let Kind::Block {
            block_id,
            seats,
            reason,
            ..
        } = &command.kind
        else {
            unreachable!("a block");
        };
        if let Some(known) = self.known_block(command, false) {
            return known;
        }
        let is_taken_id = self.blocks.iter().any(|a| a.block == *block_id);
        let taken: Vec<SeatNo> = seats
            .iter()
            .copied()
            .filter(|seat| !self.is_free(*seat, now))
            .collect();
        let refusal = if is_taken_id {
            Refusal::KeyReused
        } else if times.clock > command.deadline {
            Refusal::CommandExpired
        } else if is_of_another_layout(command, self.layout_no) {
            Refusal::LayoutChanged
        } else if seats.is_empty() || !self.are_there(seats) {
            Refusal::UnknownSeat
        } else if !taken.is_empty() {
            Refusal::SeatUnavailable {
                seats: taken,
                places: vec![],
            }
        } else {
            for at in 0..self.entries.len() {
                let has_one = seats
                    .iter()
                    .any(|seat| super::has_seat(&self.entries[at], *seat));
                if has_one && self.is_due(at, now) {
                    self.end_due(at, now);
                }
            }
            self.accept(command, *block_id, false, seats, now);
            self.facts.push(Fact::Blocked {
                user_id: command.user,
                command_id: command.id,
                block_id: *block_id,
                seats: seats.clone(),
                reason: reason.clone(),
                at: now,
            });
            return Outcome::Blocked {
                block_id: *block_id,
            };
        };
        Outcome::Refused(refusal)
    }

    pub(super) fn lift(
        &mut self,
        command: &Command<Kind>,
        times: Times,
        now: Timestamp,
    ) -> Outcome {
        let Kind::Unblock {
            block_id,
            seats,
            reason,
            ..
        } = &command.kind
        else {
            unreachable!("a lift");
        };
        if let Some(known) = self.known_block(command, true) {
            return known;
        }
        if times.clock > command.deadline {
            return Outcome::Refused(Refusal::CommandExpired);
        }
        let mut blocks = self.blocks.iter().filter(|a| a.block == *block_id);
        let Some(block) = blocks.find(|a| !a.lifts) else {
            return Outcome::Refused(Refusal::NotFound);
        };
        let wanted = seats.clone().unwrap_or(block.seats.clone());
        if wanted.is_empty() || wanted.iter().any(|seat| !block.seats.contains(seat)) {
            return Outcome::Refused(Refusal::UnknownSeat);
        }
        let before = self
            .blocks
            .iter()
            .filter(|a| a.block == *block_id && a.lifts);
        let mut gone: Vec<SeatNo> = before.flat_map(|a| a.seats.clone()).collect();
        let mut lifted = Vec::new();
        for seat in wanted {
            if !gone.contains(&seat) {
                gone.push(seat);
                lifted.push(seat);
            }
        }
        if !lifted.is_empty() {
            self.accept(command, *block_id, true, &lifted, now);
            self.facts.push(Fact::Unblocked {
                user_id: command.user,
                command_id: command.id,
                block_id: *block_id,
                seats: lifted,
                reason: reason.clone(),
                at: now,
            });
        }
        Outcome::Unblocked {
            block_id: *block_id,
            command_id: command.id,
        }
    }

    fn known_block(&self, command: &Command<Kind>, lifts: bool) -> Option<Outcome> {
        let known = self.blocks.iter().find(|a| a.command == command.id)?;
        let is_same = known.fingerprint == command.fingerprint && known.lifts == lifts;
        Some(match (is_same, lifts) {
            (false, _) => Outcome::Refused(Refusal::KeyReused),
            (true, false) => Outcome::Blocked {
                block_id: known.block,
            },
            (true, true) => Outcome::Unblocked {
                block_id: known.block,
                command_id: command.id,
            },
        })
    }

    fn accept(
        &mut self,
        command: &Command<Kind>,
        block: BlockId,
        lifts: bool,
        seats: &[SeatNo],
        at: Timestamp,
    ) {
        self.blocks.push(Accepted {
            command: command.id,
            fingerprint: command.fingerprint,
            block,
            lifts,
            seats: seats.to_vec(),
            at,
        });
    }
}
