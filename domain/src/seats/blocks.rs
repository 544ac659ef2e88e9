//! Seats that are taken off sale, and put on sale again: commands like all others, decided whatever
//! the state of the sale, since who blocks seats doesn't buy them.
//!
//! A block keeps its seats for good, for the history of a seat; what it still holds are those of
//! them that no lift has named.

use super::{Changes, Claim, Sale, Times};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::{Fact, Kind, Outcome, Refusal};
use onsale_schema::status::ClaimState;
use onsale_schema::{BlockId, CommandId, ReservationId, ScheduleId, SeatNo, Timestamp, UserId};
use std::collections::{HashMap, HashSet};

/// A refused block names the first so many of the seats that are taken.
const TAKEN_MAX: usize = 100;

/// A block, or a lift of one, as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Where.
    pub schedule_id: ScheduleId,
    /// Which block.
    pub block_id: BlockId,
    /// Whether seats of the block are put on sale again by it.
    pub lifts: bool,
    /// The command.
    pub command_id: CommandId,
    /// What that command asked, as a digest.
    pub fingerprint: Fingerprint,
    /// By whom.
    pub user_id: UserId,
    /// The seats that it blocks or lifts.
    pub seats: Vec<SeatNo>,
    /// Why; always there for a block.
    pub reason: Option<String>,
    /// When (business time).
    pub at: Timestamp,
}

/// The blocks of a schedule.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Blocks {
    blocks: HashMap<BlockId, Block>,
    /// Accepted commands, of blocks and lifts.
    commands: HashMap<CommandId, Known>,
}

#[derive(Clone, Debug, PartialEq)]
struct Block {
    seats: Vec<SeatNo>,
    /// Those that are on sale again.
    lifted: HashSet<SeatNo>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    fingerprint: Fingerprint,
    block_id: BlockId,
    lifts: bool,
}

impl Blocks {
    /// Whether a command was accepted as one of a block.
    pub(super) fn knows(&self, command_id: CommandId) -> bool {
        self.commands.contains_key(&command_id)
    }

    fn insert(&mut self, row: &BlockRow) {
        let known = Known {
            fingerprint: row.fingerprint,
            block_id: row.block_id,
            lifts: row.lifts,
        };
        let same_command = self.commands.insert(row.command_id, known);
        assert!(same_command.is_none(), "I1: {row:?}");
        if row.lifts {
            let block = self.blocks.get_mut(&row.block_id);
            let block = block.expect("what is lifted is blocked");
            for seat in &row.seats {
                assert!(block.lifted.insert(*seat), "S3: {seat:?} is lifted once");
            }
        } else {
            let block = Block {
                seats: row.seats.clone(),
                lifted: HashSet::new(),
            };
            let same_id = self.blocks.insert(row.block_id, block);
            assert!(same_id.is_none(), "a block is known once");
        }
    }

    /// Takes a batch back, the last row first. Claims are taken back with all others.
    pub(super) fn undo(&mut self, changes: &Changes, schedule_id: ScheduleId) {
        let rows = changes.blocks.iter().rev();
        for row in rows.filter(|row| row.schedule_id == schedule_id) {
            self.commands.remove(&row.command_id);
            if row.lifts {
                let block = self.blocks.get_mut(&row.block_id);
                let block = block.expect("what was lifted is blocked again");
                for seat in &row.seats {
                    block.lifted.remove(seat);
                }
            } else {
                self.blocks.remove(&row.block_id);
            }
        }
    }
}

impl Sale {
    /// Adds the blocks from their rows, all of them, in any order.
    ///
    /// # Panics
    /// When the rows contradict themselves or each other.
    pub fn load_blocks(&mut self, rows: &[BlockRow]) {
        for lifts in [false, true] {
            for row in rows.iter().filter(|row| row.lifts == lifts) {
                assert_eq!(row.schedule_id, self.schedule_id, "{row:?}");
                self.latest = self.latest.max(row.at);
                self.blocks.insert(row);
            }
        }
    }

    /// The answer to a block that needs no look at the seats: it was accepted before, its ids were
    /// used for another, or it comes too late.
    pub(super) fn blocked_before(
        &self,
        command: &Command<Kind>,
        block_id: BlockId,
        times: Times,
    ) -> Option<Outcome> {
        let is_other = self.blocks.blocks.contains_key(&block_id);
        self.known_before(command, false).or_else(|| {
            if is_other {
                Some(Outcome::Refused(Refusal::KeyReused))
            } else {
                is_late(command, times)
            }
        })
    }

    /// The same of a lift.
    pub(super) fn lifted_before(&self, command: &Command<Kind>, times: Times) -> Option<Outcome> {
        self.known_before(command, true)
            .or_else(|| is_late(command, times))
    }

    fn known_before(&self, command: &Command<Kind>, lifts: bool) -> Option<Outcome> {
        let known = self.blocks.commands.get(&command.id);
        let Some(known) = known else {
            let is_hold = self.commands.contains_key(&command.id);
            return is_hold.then_some(Outcome::Refused(Refusal::KeyReused));
        };
        let block_id = known.block_id;
        Some(
            if known.fingerprint != command.fingerprint || known.lifts != lifts {
                Outcome::Refused(Refusal::KeyReused)
            } else if lifts {
                Outcome::Unblocked {
                    block_id,
                    command_id: command.id,
                }
            } else {
                Outcome::Blocked { block_id }
            },
        )
    }

    /// Takes seats off sale, all or none. Lapsed holds on them end for it.
    pub(super) fn block(
        &mut self,
        command: &Command<Kind>,
        (block_id, layout_no): (BlockId, Option<i64>),
        seats: &[SeatNo],
        reason: &str,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        match self.may_block(seats, layout_no, now) {
            Ok(lapsing) => self.lapse_all(lapsing, now, changes),
            Err(refusal) => return Outcome::Refused(refusal),
        }
        let blocked = Claim {
            reservation: None,
            state: ClaimState::Blocked,
        };
        self.claim_all(seats, None, Some(blocked), changes);
        self.facts.push(Fact::Blocked {
            user_id: command.user,
            command_id: command.id,
            block_id,
            seats: seats.to_vec(),
            reason: reason.to_owned(),
            at: now,
        });
        let row = BlockRow {
            schedule_id: self.schedule_id,
            block_id,
            lifts: false,
            command_id: command.id,
            fingerprint: command.fingerprint,
            user_id: command.user,
            seats: seats.to_vec(),
            reason: Some(reason.to_owned()),
            at: now,
        };
        self.add(row, changes);
        Outcome::Blocked { block_id }
    }

    /// Whether these seats may be taken off sale, and which lapsed holds must end for it.
    fn may_block(
        &self,
        seats: &[SeatNo],
        layout_no: Option<i64>,
        now: Timestamp,
    ) -> Result<Vec<ReservationId>, Refusal> {
        self.is_by_layout(layout_no)?;
        if seats.is_empty() {
            return Err(Refusal::UnknownSeat);
        }
        self.are_seats(seats)?;
        let mut lapsing = Vec::new();
        let available = self.are_available(seats, now, &mut lapsing);
        available
            .map(|()| lapsing)
            .map_err(|refusal| match refusal {
                Refusal::SeatUnavailable { mut seats, places } => {
                    seats.truncate(TAKEN_MAX);
                    Refusal::SeatUnavailable { seats, places }
                }
                other => other,
            })
    }

    /// Puts those of these seats on sale again that the block still holds.
    pub(super) fn lift(
        &mut self,
        command: &Command<Kind>,
        block_id: BlockId,
        named: Option<&[SeatNo]>,
        reason: Option<&String>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let Some(block) = self.blocks.blocks.get(&block_id) else {
            return Outcome::Refused(Refusal::NotFound);
        };
        let wanted = named.unwrap_or(&block.seats);
        if wanted.is_empty() || !contains_all(&block.seats, wanted) {
            return Outcome::Refused(Refusal::UnknownSeat);
        }
        let mut seen = HashSet::new();
        let lifted = wanted.iter().copied();
        let lifted = lifted.filter(|seat| !block.lifted.contains(seat) && seen.insert(*seat));
        let lifted: Vec<SeatNo> = lifted.collect();
        let command_id = command.id;
        if !lifted.is_empty() {
            let blocked = Claim {
                reservation: None,
                state: ClaimState::Blocked,
            };
            self.claim_all(&lifted, Some(blocked), None, changes);
            self.facts.push(Fact::Unblocked {
                user_id: command.user,
                command_id,
                block_id,
                seats: lifted.clone(),
                reason: reason.cloned(),
                at: now,
            });
            let row = BlockRow {
                schedule_id: self.schedule_id,
                block_id,
                lifts: true,
                command_id,
                fingerprint: command.fingerprint,
                user_id: command.user,
                seats: lifted,
                reason: reason.cloned(),
                at: now,
            };
            self.add(row, changes);
        }
        Outcome::Unblocked {
            block_id,
            command_id,
        }
    }

    /// Claims seats, or frees them, that were checked to be as expected.
    pub(super) fn claim_all(
        &mut self,
        seats: &[SeatNo],
        expected: Option<Claim>,
        claim: Option<Claim>,
        changes: &mut Changes,
    ) {
        for &seat in seats {
            let at = self.seat_index(seat).expect("the seats were checked");
            let before = self.set_claim(at, claim);
            assert_eq!(before, expected, "S1, S3: {seat:?} is as expected");
            let claims = &mut changes.claims;
            claims.record(self.schedule_id, seat, before, claim);
        }
    }

    fn add(&mut self, row: BlockRow, changes: &mut Changes) {
        changes.note_latest(self.schedule_id, self.latest);
        self.latest = row.at;
        self.blocks.insert(&row);
        changes.blocks.push(row);
    }
}

/// Who was told that nothing came of it must not find seats blocked, or on sale, afterwards.
fn is_late(command: &Command<Kind>, times: Times) -> Option<Outcome> {
    (times.clock > command.deadline).then_some(Outcome::Refused(Refusal::CommandExpired))
}

/// Whether all of `some` are in `all`; a block may have thousands.
fn contains_all(all: &[SeatNo], some: &[SeatNo]) -> bool {
    const FEW: usize = 4;
    if some.len() <= FEW {
        return some.iter().all(|seat| all.contains(seat));
    }
    let all: HashSet<SeatNo> = all.iter().copied().collect();
    some.iter().all(|seat| all.contains(seat))
}
