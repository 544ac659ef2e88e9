//! What is known of blocks: who asked for each, and what each key was answered.

use super::Attempt;
use crate::rows::{Rows, Staged};
use crate::sim::Violation;
use onsale_schema::invariant::Invariant;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::{Kind, Outcome, Refusal};
use onsale_schema::{BlockId, CommandId, Timestamp};
use std::collections::BTreeMap;

/// What was asked of blocks, and answered.
#[derive(Default)]
pub struct Blocks {
    /// The attempt that would make a block.
    attempts: BTreeMap<BlockId, Attempt>,
    /// Until when a lift may be decided, at the latest.
    lifts: BTreeMap<CommandId, Timestamp>,
    /// What each key was answered, once it was accepted.
    answered: BTreeMap<CommandId, (Fingerprint, Outcome)>,
}

impl Blocks {
    pub fn send(&mut self, command: &Command<Kind>) {
        match &command.kind {
            Kind::Block {
                block_id,
                seats,
                layout_no,
                ..
            } => {
                let attempt = Attempt {
                    key: command.id,
                    deadline: command.deadline,
                    layout_no: *layout_no,
                    wanted: seats.len(),
                };
                self.attempts.insert(*block_id, attempt);
            }
            Kind::Unblock { .. } => {
                let until = self.lifts.entry(command.id).or_insert(command.deadline);
                *until = (*until).max(command.deadline);
            }
            _ => {}
        }
    }

    /// Looks at the rows of a commit just before they become visible.
    pub fn check_rows(
        &self,
        rows: &Rows,
        p: &Staged,
        latest: Timestamp,
        found: &mut Vec<Violation>,
    ) {
        for row in &p.changes.blocks {
            let deadline = if row.lifts {
                self.lifts.get(&row.command_id).copied()
            } else {
                let layout_no = rows.sales[&row.schedule_id].layout.no;
                let attempt = self.attempts.get(&row.block_id);
                let attempt = attempt.filter(|attempt| attempt.key == row.command_id);
                let attempt = attempt.filter(|a| a.layout_no.is_none_or(|no| no == layout_no));
                attempt.map(|attempt| attempt.deadline)
            };
            match deadline {
                None => found.push(Violation::promise("only what is asked", format!("{row:?}"))),
                Some(deadline) if p.decided_at > deadline => {
                    let text = format!("{deadline} decided at {}: {row:?}", p.decided_at);
                    found.push(Violation::promise("no block past its deadline", text));
                }
                Some(_) => {}
            }
            if row.at > latest {
                let text = format!("{row:?}, latest {latest}");
                found.push(Violation::promise("no block begins in the future", text));
            }
            if rows.commands.contains_key(&row.command_id) {
                found.push(Violation::of(Invariant::I1, format!("{row:?}")));
            }
        }
    }

    /// Whether an answer to an operator is that which the key has, and an answer at all.
    pub fn check_answer(
        &mut self,
        command: &Command<Kind>,
        outcome: &Outcome,
        found: &mut Vec<Violation>,
    ) {
        let is_fit = match (&command.kind, outcome) {
            (_, Outcome::Refused(_)) => true,
            (Kind::Block { .. }, Outcome::Blocked { .. }) => true,
            (Kind::Unblock { block_id: of, .. }, Outcome::Unblocked { block_id, .. }) => {
                of == block_id
            }
            _ => false,
        };
        if !is_fit {
            let text = format!("{outcome:?} for {command:?}");
            found.push(Violation::promise("every command is answered", text));
        }
        match (self.answered.get(&command.id), outcome) {
            (Some((fingerprint, _)), Outcome::Refused(Refusal::KeyReused))
                if *fingerprint != command.fingerprint => {}
            (Some((fingerprint, before)), now)
                if before == now && *fingerprint == command.fingerprint => {}
            (None, Outcome::Blocked { .. }) => {
                let answer = (command.fingerprint, outcome.clone());
                self.answered.insert(command.id, answer);
            }
            (None, _) => {}
            (Some(before), now) => {
                let text = format!("{before:?}, then {now:?}: {command:?}");
                found.push(Violation::promise("one key, one answer", text));
            }
        }
    }
}

/// Whether nothing comes of a command by this answer, other than came of its key before.
pub fn comes_to_nothing(
    rows: &Rows,
    p: &Staged,
    command: &Command<Kind>,
    outcome: &Outcome,
) -> bool {
    match (&command.kind, outcome) {
        (_, Outcome::Refused(Refusal::KeyReused)) => true,
        (Kind::Block { block_id, .. }, Outcome::Blocked { block_id: made }) => block_id != made,
        (Kind::Unblock { .. }, Outcome::Unblocked { command_id, .. }) => {
            let mut new = p.changes.blocks.iter();
            rows.blocks.contains_key(command_id) || new.any(|row| row.command_id == *command_id)
        }
        _ => false,
    }
}
