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
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A ticket's history: when was asked, in milliseconds, and what was told, 10 ms later. All are told
    /// to ask again after a second. Guests have no position.
    fn witness(position: Option<u32>, history: &[(u64, Told)]) -> Witness {
        let mut witness = Witness::new(position.is_none());
        witness.comes(ms(history[0].0));
        for &(sent, told) in history {
            let seen = Sighting {
                sent: ms(sent),
                answered: ms(sent + 10),
                told,
                position,
                ahead: None,
                poll_after: (told != Told::Over).then_some(ms(1000)),
            };
            witness.see(&seen).unwrap();
        }
        witness
    }

    /// Waits from a time on until another, asking each second, and is told something at its end.
    fn waits(position: u32, from: u64, until: u64, end: Told) -> Witness {
        witness(Some(position), &history(from, until, end))
    }

    /// The same, as a guest.
    fn guest(from: u64, until: u64, end: Told) -> Witness {
        witness(None, &history(from, until, end))
    }

    fn history(from: u64, until: u64, end: Told) -> Vec<(u64, Told)> {
        let waiting = (from..until).step_by(1000).map(|at| (at, Told::Waiting));
        waiting.chain([(until, end)]).collect()
    }

    const fn places(position: u32, by: u32) -> Overtaken {
        Overtaken {
            who: Who::Place(position),
            by: Who::Place(by),
        }
    }

    #[test]
    fn a_line_in_order_is_fair() {
        let line: Vec<_> = (1..=50)
            .map(|nth| waits(nth, 0, u64::from(nth) * 300, Told::Admitted))
            .collect();
        assert!(line.iter().all(Witness::is_admitted));
        assert_eq!(overtaken(&line), []);
        assert_eq!(judged(&line), 50);
        let nothing = Witness::new(false);
        let no_place = history(0, 3000, Told::Admitted);
        let mut unplaced = Witness::new(false);
        for (sent, told) in no_place {
            let seen = Sighting {
                sent: ms(sent),
                answered: ms(sent),
                told,
                position: None,
                ahead: None,
                poll_after: None,
            };
            assert_eq!(unplaced.see(&seen), Ok(()));
        }
        assert_eq!(judged(&[nothing, unplaced]), 0);
    }

    #[test]
    fn who_is_told_to_wait_long_after_somebody_behind_was_let_in_was_overtaken() {
        let line = [
            waits(1, 0, 2000, Told::Admitted),
            waits(2, 0, 9000, Told::Admitted),
            waits(3, 0, 3000, Told::Admitted),
            waits(4, 0, 9000, Told::Over),
        ];
        assert_eq!(overtaken(&line), [places(2, 3)]);
        // Also when it is never let in.
        let line = [
            waits(2, 0, 9000, Told::Waiting),
            waits(3, 0, 3000, Told::Admitted),
        ];
        assert_eq!(overtaken(&line), [places(2, 3)]);
    }

    #[test]
    fn each_who_was_overtaken_counts_once() {
        let mut line: Vec<_> = (1..=5)
            .map(|nth| waits(nth, 0, 20_000, Told::Admitted))
            .collect();
        line.extend((6..=9).map(|nth| waits(nth, 0, 3000, Told::Admitted)));
        let found = overtaken(&line);
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn what_an_ingress_may_tell_late_is_no_reproach() {
        // The last WAITING was asked for 1.99 s after the other was told.
        let line = [
            waits(2, 0, 5000, Told::Admitted),
            waits(3, 0, 2000, Told::Admitted),
        ];
        assert_eq!(overtaken(&line), []);
    }

    #[test]
    fn who_was_silent_is_passed_over_by_right() {
        let silent = [
            (0, Told::Waiting),
            (6000, Told::Waiting),
            (7000, Told::Waiting),
            (8000, Told::Admitted),
        ];
        let line = [witness(Some(2), &silent), waits(3, 0, 3000, Told::Admitted)];
        assert_eq!(overtaken(&line), []);
        // A little late is not silent.
        let slow: Vec<_> = (0..8)
            .map(|nth| (nth * 1900, Told::Waiting))
            .chain([(15_200, Told::Admitted)])
            .collect();
        let line = [witness(Some(2), &slow), waits(3, 0, 3000, Told::Admitted)];
        assert_eq!(overtaken(&line), [places(2, 3)]);
    }

    #[test]
    fn who_has_come_back_is_next() {
        let mut back = vec![(0, Told::Waiting)];
        back.extend((6..15).map(|s| (s * 1000, Told::Waiting)));
        // Let in after it was back.
        let line = [witness(Some(2), &back), waits(3, 0, 10_000, Told::Admitted)];
        assert_eq!(overtaken(&line), [places(2, 3)]);
        // Let in when it may have been away.
        let line = [witness(Some(2), &back), waits(3, 0, 7500, Told::Admitted)];
        assert_eq!(overtaken(&line), []);
    }

    #[test]
    fn guests_are_before_the_line_by_right() {
        let line = [
            guest(4000, 6000, Told::Admitted),
            guest(0, 1000, Told::Admitted),
            waits(1, 0, 20_000, Told::Admitted),
            waits(2, 0, 20_000, Told::Over),
        ];
        assert_eq!(overtaken(&line), []);
    }

    #[test]
    fn a_guest_is_overtaken_by_one_who_came_later() {
        let (first, second) = (
            guest(0, 9000, Told::Admitted),
            guest(1000, 4000, Told::Admitted),
        );
        let found = [Overtaken {
            who: Who::Guest(ms(10)),
            by: Who::Guest(ms(1010)),
        }];
        assert_eq!(overtaken(&[second.clone(), first]), found);
        // Not if it was away, nor if nobody can say who came first.
        let away = [(0, Told::Waiting), (8000, Told::Waiting)];
        assert_eq!(overtaken(&[witness(None, &away), second.clone()]), []);
        let at_once = guest(995, 8995, Told::Admitted);
        assert_eq!(overtaken(&[at_once, second]), []);
    }

    /// In a presale, while all others are in a lobby that has no order.
    #[test]
    fn guests_are_judged_among_themselves_before_the_others_have_places() {
        let mut lobby = Witness::new(false);
        for (sent, told) in history(0, 20_000, Told::Waiting) {
            let seen = Sighting {
                sent: ms(sent),
                answered: ms(sent + 10),
                told,
                position: None,
                ahead: None,
                poll_after: Some(ms(1000)),
            };
            assert_eq!(lobby.see(&seen), Ok(()));
        }
        let (first, second) = (
            guest(0, 2000, Told::Admitted),
            guest(1000, 5000, Told::Admitted),
        );
        let line = [lobby.clone(), first.clone(), second.clone()];
        assert_eq!((overtaken(&line), judged(&line)), (vec![], 2));
        let kept_waiting = guest(500, 12_000, Told::Waiting);
        let found = [Overtaken {
            who: Who::Guest(ms(510)),
            by: Who::Guest(ms(1010)),
        }];
        assert_eq!(overtaken(&[lobby, first, second, kept_waiting]), found);
    }

    #[test]
    fn a_guest_who_has_joined_is_overtaken_by_the_line() {
        let line = waits(7, 0, 6000, Told::Admitted);
        let found = [Overtaken {
            who: Who::Guest(ms(1010)),
            by: Who::Place(7),
        }];
        assert_eq!(
            overtaken(&[guest(1000, 9000, Told::Waiting), line.clone()]),
            found
        );
        // It may have been let in before that one joined, as far as an ingress told.
        assert_eq!(overtaken(&[guest(4000, 9000, Told::Waiting), line]), []);
        // Who is let in at once may have been so at any time since it came.
        let at_once = waits(7, 2000, 2000, Told::Admitted);
        assert_eq!(overtaken(&[guest(1000, 9000, Told::Waiting), at_once]), []);
    }

    #[test]
    fn contradictions_are_found() {
        let seen = |position, ahead| Sighting {
            sent: ms(0),
            answered: ms(1),
            told: Told::Waiting,
            position,
            ahead,
            poll_after: None,
        };
        let mut witness = Witness::new(false);
        assert_eq!(witness.see(&seen(None, None)), Ok(()));
        assert_eq!(witness.see(&seen(Some(7), Some(6))), Ok(()));
        assert_eq!(witness.see(&seen(Some(7), Some(2))), Ok(()));
        let grown = witness.see(&seen(Some(7), Some(3)));
        assert_eq!(grown, Err(Contradiction::Ahead));
        let moved = witness.see(&seen(Some(8), Some(2)));
        assert_eq!(moved, Err(Contradiction::Position));
        assert_eq!(witness.see(&seen(None, None)), Ok(()));
    }
}
