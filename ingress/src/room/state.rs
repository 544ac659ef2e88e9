//! What this ingress knows of one room: how far its line is, and the tickets that are not simply in
//! it. Who knows that and a ticket's number can say how it is, and asks nobody.
//!
//! A byte per ticket, so that a million that have ended are no matter; more is known of those with a
//! pass only.

use onsale_schema::admission::{Line, Moment, Sight, TicketChange, Watermark};
use onsale_schema::draw::Place;
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, Generation, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;

/// Whatever became of tickets, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tickets {
    /// Up to the last that is not WAITING.
    statuses: Vec<TicketStatus>,
    /// Until when passes last.
    passes: HashMap<ArrivalNo, Timestamp>,
    counts: Counts,
}

/// How many tickets have become what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With a pass.
    pub admitted: u32,
    /// Whose pass has ended.
    pub expired: u32,
    /// Whose owner has left.
    pub left: u32,
    /// That were bought with.
    pub done: u32,
}

impl Counts {
    /// So many do not wait, or not any more.
    #[must_use]
    pub fn turned(&self) -> u32 {
        self.admitted + self.expired + self.left + self.done
    }

    fn of(&mut self, status: TicketStatus) -> Option<&mut u32> {
        match status {
            TicketStatus::Lobby | TicketStatus::Waiting => None,
            TicketStatus::Admitted => Some(&mut self.admitted),
            TicketStatus::Expired => Some(&mut self.expired),
            TicketStatus::Left => Some(&mut self.left),
            TicketStatus::Done => Some(&mut self.done),
        }
    }
}

impl Tickets {
    /// A ticket is something else now, or has its pass for another time.
    pub fn set(&mut self, (no, status, pass_until): TicketChange) {
        if self.statuses.len() <= no.index() {
            self.statuses.resize(no.index() + 1, TicketStatus::Waiting);
        }
        let before = std::mem::replace(&mut self.statuses[no.index()], status);
        if let Some(count) = self.counts.of(before) {
            *count -= 1;
        }
        if let Some(count) = self.counts.of(status) {
            *count += 1;
        }
        match pass_until.filter(|_| status == TicketStatus::Admitted) {
            Some(until) => self.passes.insert(no, until),
            None => self.passes.remove(&no),
        };
    }

    fn status(&self, no: ArrivalNo) -> TicketStatus {
        let known = self.statuses.get(no.index()).copied();
        known.unwrap_or(TicketStatus::Waiting)
    }
}

/// A room at one version.
#[derive(Clone, Debug)]
pub struct Room {
    /// Without changes.
    told: Arc<Watermark>,
    /// Once there is an order, which is settled for good.
    line: Option<Arc<Line>>,
    tickets: Tickets,
}

/// What became of a word of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is known already.
    Known,
    /// It is of the version that is known.
    Beat,
    /// The room has moved on.
    Moved,
    /// One before it is missing.
    Gap,
}

impl Room {
    /// A room as it was read.
    #[must_use]
    pub fn new(told: Watermark, tickets: Tickets) -> Self {
        Self {
            line: told.lobby.as_ref().and_then(Line::behind).map(Arc::new),
            told: Arc::new(told),
            tickets,
        }
    }

    /// Of which moment it is.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.told.moment()
    }

    /// Within which the numbers of its tickets are theirs.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.told.generation
    }

    /// What its owner told last, without changes.
    #[must_use]
    pub fn told(&self) -> &Watermark {
        &self.told
    }

    /// How many tickets have become what.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.tickets.counts
    }

    /// Takes in what the owner tells.
    pub fn take_in(&mut self, told: &Watermark) -> Applied {
        let is_beat = told.is_beat();
        if told.moment() < self.moment() {
            return Applied::Known;
        }
        if told.moment() == self.moment() {
            if !is_beat || told.at < self.told.at {
                return Applied::Known;
            }
            self.show(told);
            return Applied::Beat;
        }
        let follows = (told.generation, told.from_version) == self.moment();
        if is_beat || !follows {
            return Applied::Gap;
        }
        self.show(told);
        told.changes.iter().for_each(|one| self.tickets.set(*one));
        Applied::Moved
    }

    fn show(&mut self, told: &Watermark) {
        if self.line.is_none() {
            self.line = told.lobby.as_ref().and_then(Line::behind).map(Arc::new);
        }
        self.told = Arc::new(Watermark {
            changes: Vec::new(),
            ..told.clone()
        });
    }

    /// Whether seats are held with passes only, by what the owner said last.
    #[must_use]
    pub fn needs_pass(&self) -> bool {
        self.told.policy.mode != QueueMode::Off
    }

    /// After how long somebody counts as silent, in milliseconds.
    #[must_use]
    pub fn presence_ms(&self) -> i64 {
        self.told.policy.presence_ms
    }

    /// Takes over what only the owner tells, and no row says.
    pub fn follows(&mut self, before: &Self) {
        if self.told.measured_ms == 0 {
            let told = Watermark::clone(&self.told);
            self.told = Arc::new(Watermark {
                moved: before.told.moved,
                measured_ms: before.told.measured_ms,
                guest_line: told.guest_line.or(before.told.guest_line),
                passed: told.passed.or(before.told.passed),
                ..told
            });
        }
    }

    /// How a ticket is.
    #[must_use]
    pub fn look(&self, no: ArrivalNo) -> Look {
        let status = match self.tickets.status(no) {
            TicketStatus::Waiting if self.is_in_lobby(no) => TicketStatus::Lobby,
            status => status,
        };
        Look {
            told: Arc::clone(&self.told),
            line: self.line.clone(),
            no,
            is_guest: false,
            guest_no: None,
            status,
            pass_until: self.tickets.passes.get(&no).copied(),
        }
    }

    /// Whether a ticket has no place yet, though its owner came in time.
    fn is_in_lobby(&self, no: ArrivalNo) -> bool {
        match &self.told.lobby {
            None => true,
            Some(lobby) => lobby.order.is_none() && no.0 < lobby.size,
        }
    }
}

/// How one ticket is. Its place is looked for afterwards: that takes a hundred hashes, while which
/// nobody else should wait.
#[derive(Clone, Debug)]
pub struct Look {
    /// How far the room was.
    pub told: Arc<Watermark>,
    line: Option<Arc<Line>>,
    no: ArrivalNo,
    is_guest: bool,
    /// Its number among guests.
    guest_no: Option<u32>,
    /// How far the ticket is.
    pub status: TicketStatus,
    /// Until when its pass lasts, if it has one.
    pub pass_until: Option<Timestamp>,
}

impl Look {
    /// The same of a guest's ticket with that number among them, who has no place and is in no lobby.
    #[must_use]
    pub fn of_guest(self, guest_no: Option<u32>) -> Self {
        Self {
            status: match self.status {
                TicketStatus::Lobby => TicketStatus::Waiting,
                status => status,
            },
            line: None,
            is_guest: true,
            guest_no,
            ..self
        }
    }

    /// Its place, once there is an order. It never changes.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.line.as_ref().map(|line| line.place(self.no))
    }

    /// Whether it waits, in the lobby or in line.
    #[must_use]
    pub fn waits(&self) -> bool {
        match self.status {
            TicketStatus::Lobby | TicketStatus::Waiting => true,
            TicketStatus::Admitted
            | TicketStatus::Expired
            | TicketStatus::Left
            | TicketStatus::Done => false,
        }
    }

    /// Whether its owner wants to know that it was heard.
    #[must_use]
    pub fn wants_report(&self, place: Option<Place>) -> bool {
        self.waits() && (self.is_guest || self.told.wants_report(place))
    }

    /// What it is told while it waits.
    #[must_use]
    pub fn sight(&self, place: Option<Place>, now: Timestamp) -> Sight {
        match self.is_guest {
            true => self.told.guest_sight(self.guest_no, self.no, now),
            false => self.told.sight(place, self.no, now),
        }
    }
}
