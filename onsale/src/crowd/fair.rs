//! Whether a line was fair, judged by nothing but what its clients were told.
//!
//! Somebody with a smaller position was *overtaken* by somebody with a greater one when all of this
//! holds:
//!
//! 1. The one behind was told `ADMITTED`, in an answer that came at `t`.
//! 2. The one before was told `WAITING` still, in an answer that it asked for later than `t` + [`LAG`]:
//!    what an ingress tells may be that old.
//! 3. The one before was there. It has asked each time when it was told to (`pollAfterMs`), [`LATE`] at
//!    most after that, since it came; or since it came back from a silence, if that was [`LAG`] before
//!    the one behind can have been let in, which was after the last `WAITING` that it was told.
//!
//! Guests have a line of their own, which is let in before the other one. All of a crowd's are of one
//! code, so that also in a presale they are let in as they came; that is judged by when they joined, and
//! not by the positions that they are told. The one before is a guest then, and the one behind is either
//!
//! - a guest who asked to join after the one before had been told that it has: it came later for sure; or
//! - of the other line, and was let in when the one before had been a guest for [`LAG`]: as in 3., as if
//!   each guest came back when it joined.
//!
//! A guest overtakes nobody of the other line.
//!
//! Whoever is silent is passed over by right, and is next when it is heard again, so its absence is no
//! reproach. All times are of one clock, that of who asks: no clock of the server's is trusted. It must
//! never ask anybody anything.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// So old may be what an ingress tells: it hears of its owner after each commit, and once a second.
pub const LAG: Duration = Duration::from_secs(2);
/// So much later than it was told to may a client ask and still count as being there. With it a client
/// is silent for less than half of the shortest time after which one is passed over.
pub const LATE: Duration = Duration::from_secs(1);

/// What a client is told of its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is in the lobby, or waits.
    Waiting,
    /// It has a pass.
    Admitted,
    /// The ticket has ended.
    Over,
}

/// One answer about a ticket. Times are since the beginning of the crowd.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// When it was asked for.
    pub sent: Duration,
    /// When it was there.
    pub answered: Duration,
    /// What it says.
    pub told: Told,
    /// The ticket's number in the line, from 1; none without an order.
    pub position: Option<u32>,
    /// So many are before it.
    pub ahead: Option<u32>,
    /// When to ask again.
    pub poll_after: Option<Duration>,
}

/// Something that a client was told contradicts what it was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// The position became another.
    Position,
    /// There are more ahead than there were.
    Ahead,
}

/// A time without silence.
#[derive(Clone, Copy, Debug)]
struct Presence {
    /// When it came back; none if it was never silent before.
    back: Option<Duration>,
    /// When it asked last of the times that it was told to wait.
    waiting: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Admission {
    /// Not before.
    after: Duration,
    /// When it was told.
    told: Duration,
}

/// What one client has seen of one ticket.
#[derive(Clone, Debug)]
pub struct Witness {
    is_guest: bool,
    /// Before it asked to join.
    came: Duration,
    /// When it was told that it has.
    joined: Option<Duration>,
    position: Option<u32>,
    ahead: Option<u32>,
    /// Who asks later than this was silent.
    due: Option<Duration>,
    presences: Vec<Presence>,
    /// When it asked last of all times that it was told to wait, or else when it joined.
    waited: Option<Duration>,
    admission: Option<Admission>,
}

impl Witness {
    /// Of one who has seen nothing yet; whether it is a guest.
    #[must_use]
    pub fn new(is_guest: bool) -> Self {
        Self {
            is_guest,
            came: Duration::ZERO,
            joined: None,
            position: None,
            ahead: None,
            due: None,
            presences: vec![Presence {
                back: None,
                waiting: None,
            }],
            waited: None,
            admission: None,
        }
    }

    /// It is about to join.
    pub fn comes(&mut self, now: Duration) {
        self.came = now;
    }

    /// Takes an answer in, in the order in which they were asked for.
    ///
    /// # Errors
    /// When it contradicts one before.
    pub fn see(&mut self, seen: &Sighting) -> Result<(), Contradiction> {
        self.joined.get_or_insert(seen.answered);
        if self.due.is_some_and(|due| seen.sent > due) {
            self.presences.push(Presence {
                back: Some(seen.answered),
                waiting: None,
            });
        }
        self.due = seen.poll_after.map(|after| seen.answered + after + LATE);
        match seen.told {
            Told::Waiting => {
                if let Some(presence) = self.presences.last_mut() {
                    presence.waiting = Some(seen.sent);
                }
                self.waited = Some(seen.sent);
            }
            Told::Admitted if self.admission.is_none() => {
                self.admission = Some(Admission {
                    after: self.waited.unwrap_or(self.came),
                    told: seen.answered,
                });
            }
            Told::Admitted | Told::Over => {}
        }
        self.is_consistent(seen)
    }

    fn is_consistent(&mut self, seen: &Sighting) -> Result<(), Contradiction> {
        let is_less = |new: u32, known: Option<u32>| known.is_none_or(|known| new <= known);
        if let Some(position) = seen.position
            && *self.position.get_or_insert(position) != position
        {
            return Err(Contradiction::Position);
        }
        if let Some(ahead) = seen.ahead {
            let may_be = is_less(ahead, self.ahead);
            self.ahead = Some(ahead);
            if !may_be {
                return Err(Contradiction::Ahead);
            }
        }
        Ok(())
    }

    /// Whether it was told that it is admitted.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.admission.is_some()
    }
}

/// Somebody in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A guest, by when it was told that it has joined.
    Guest(Duration),
    /// Somebody with this position.
    Place(u32),
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest(joined) => write!(f, "the guest of {:.1} s", joined.as_secs_f64()),
            Self::Place(position) => write!(f, "position {position}"),
        }
    }
}

/// Somebody who was overtaken, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overtaken {
    /// Who still waited.
    pub who: Who,
    /// One who was let in before.
    pub by: Who,
}

/// One who was let in.
#[derive(Clone, Copy)]
struct LetIn {
    who: Who,
    came: Duration,
    admission: Admission,
}

impl LetIn {
    /// Whether its turn is after that of `other`, who was there at the time if it came back then, or
    /// always.
    fn is_behind(&self, other: Who, back: Option<Duration>) -> bool {
        let was_there = |since: Duration| since + LAG < self.admission.after;
        back.is_none_or(was_there)
            && match (other, self.who) {
                (Who::Place(before), Who::Place(position)) => before < position,
                (Who::Guest(joined), Who::Guest(_)) => joined < self.came,
                (Who::Guest(joined), Who::Place(_)) => was_there(joined),
                (Who::Place(_), Who::Guest(_)) => false,
            }
    }
}

impl Witness {
    /// None for who was told of no place in an order.
    fn who(&self) -> Option<Who> {
        match self.is_guest {
            true => self.joined.map(Who::Guest),
            false => self.position.map(Who::Place),
        }
    }

    fn let_in(&self) -> Option<LetIn> {
        Some(LetIn {
            who: self.who()?,
            came: self.came,
            admission: self.admission?,
        })
    }
}

/// How many could be seen to be overtaken at all: those who know their place in an order, or are guests,
/// and were told to wait, or overtake somebody.
#[must_use]
pub fn judged(witnesses: &[Witness]) -> usize {
    let is_seen = |it: &&Witness| {
        it.who().is_some() && (it.is_admitted() || it.presences.iter().any(|p| p.waiting.is_some()))
    };
    witnesses.iter().filter(is_seen).count()
}

/// Everybody who was overtaken, each once: guests by when they joined, the others by position.
#[must_use]
pub fn overtaken(witnesses: &[Witness]) -> Vec<Overtaken> {
    let mut admitted: Vec<LetIn> = witnesses.iter().filter_map(Witness::let_in).collect();
    admitted.sort_by_key(|other| other.admission.told);
    let mut found = Vec::new();
    for witness in witnesses {
        let Some(who) = witness.who() else {
            continue;
        };
        let by = |presence: &Presence| {
            let waiting = presence.waiting?;
            let early = admitted.partition_point(|other| other.admission.told + LAG < waiting);
            let mut early = admitted[..early].iter();
            let other = early.find(|other| other.is_behind(who, presence.back))?;
            Some(other.who)
        };
        if let Some(by) = witness.presences.iter().find_map(by) {
            found.push(Overtaken { who, by });
        }
    }
    found.sort_by_key(|it| it.who);
    found
}

#[cfg(test)]
mod tests;
