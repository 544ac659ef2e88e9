//! What becomes of a crowd, counted while it happens.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// So many of what should not happen are kept in words; all are counted.
const SAMPLES: usize = 10;

/// How far a buyer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Has not come yet.
    Away,
    /// Is in the lobby.
    Lobby,
    /// Is in line.
    Waiting,
    /// Has a pass.
    Admitted,
    /// Has seats, and does not own them yet.
    Holding,
    /// Has paid.
    Sold,
    /// Was let in, and nothing was left.
    SoldOut,
    /// Has left the line.
    GaveUp,
    /// Has stopped asking.
    Silent,
    /// Was not let in, or not sold anything, by the rules.
    Refused,
    /// Something happened that should not.
    Failed,
}

impl Stage {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::Away,
        Self::Lobby,
        Self::Waiting,
        Self::Admitted,
        Self::Holding,
        Self::Sold,
        Self::SoldOut,
        Self::GaveUp,
        Self::Silent,
        Self::Refused,
        Self::Failed,
    ];

    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_end(self) -> bool {
        match self {
            Self::Away | Self::Lobby | Self::Waiting | Self::Admitted | Self::Holding => false,
            Self::Sold
            | Self::SoldOut
            | Self::GaveUp
            | Self::Silent
            | Self::Refused
            | Self::Failed => true,
        }
    }
}

/// The seats of a date, as the map shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hall {
    /// All.
    pub total: usize,
    /// Free.
    pub left: usize,
    /// Held.
    pub held: usize,
    /// Sold.
    pub sold: usize,
}

impl Hall {
    /// By the letters of a map.
    #[must_use]
    pub fn of(letters: &str) -> Self {
        let count = |letter| letters.chars().filter(|it| *it == letter).count();
        Self {
            total: letters.chars().count(),
            left: count('A'),
            held: count('H'),
            sold: count('S'),
        }
    }

    /// Whether nothing can be had any more.
    #[must_use]
    pub fn is_sold_out(&self) -> bool {
        self.total > 0 && self.left == 0 && self.held == 0
    }
}

/// Those who came with an access code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Guests {
    /// Were given tickets.
    pub joined: usize,
    /// Were told that they are admitted.
    pub admitted: usize,
    /// Have paid for seats.
    pub sold: usize,
}

/// All counts.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Buyers by how far they are.
    pub stages: BTreeMap<Stage, usize>,
    /// The guests among them.
    pub guests: Guests,
    /// Seats that this crowd has paid for.
    pub bought: usize,
    /// From joining until told of being admitted, of each who was.
    pub waits: Vec<Duration>,
    /// Questions how far a ticket is.
    pub polls: u64,
    /// All requests.
    pub requests: u64,
    /// Refusals, by code; also those that were provoked.
    pub errors: BTreeMap<String, u64>,
    /// What should not have happened.
    pub unexpected: u64,
    /// Some of that, in words.
    pub samples: Vec<String>,
    /// Tries of the greedy to get what is not theirs.
    pub tried: u64,
    /// The last look at the map.
    pub hall: Hall,
}

impl Counts {
    /// Buyers who are so far.
    #[must_use]
    pub fn of(&self, stage: Stage) -> usize {
        self.stages.get(&stage).copied().unwrap_or(0)
    }
}

/// Where everybody counts.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    /// So many buyers who have not come yet.
    #[must_use]
    pub fn new(buyers: usize) -> Self {
        let stages = BTreeMap::from([(Stage::Away, buyers)]);
        Self(Mutex::new(Counts {
            stages,
            ..Counts::default()
        }))
    }

    /// To count something.
    pub fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buyer goes on.
    pub fn step(&self, from: Stage, to: Stage) {
        let mut counts = self.lock();
        if let Some(count) = counts.stages.get_mut(&from) {
            *count = count.saturating_sub(1);
        }
        *counts.stages.entry(to).or_default() += 1;
    }

    /// A refusal.
    pub fn error(&self, code: &str) {
        *self.lock().errors.entry(code.to_owned()).or_default() += 1;
    }

    /// Something that should not happen.
    pub fn unexpected(&self, what: String) {
        let mut counts = self.lock();
        counts.unexpected += 1;
        if counts.samples.len() < SAMPLES {
            counts.samples.push(what);
        }
    }
}
