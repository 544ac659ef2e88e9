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
//! Whoever is silent is passed over by right, and is next when it is heard again, so its absence is no
//! reproach. All times are of one clock, that of who asks: no clock of the server's is trusted. It must
//! never ask anybody anything.

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
    position: Option<u32>,
    ahead: Option<u32>,
    /// Who asks later than this was silent.
    due: Option<Duration>,
    presences: Vec<Presence>,
    /// When it asked last of all times that it was told to wait, or else when it joined.
    waited: Option<Duration>,
    admission: Option<Admission>,
}

impl Default for Witness {
    fn default() -> Self {
        Self {
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
}

impl Witness {
    /// Takes an answer in, in the order in which they were asked for.
    ///
    /// # Errors
    /// When it contradicts one before.
    pub fn see(&mut self, seen: &Sighting) -> Result<(), Contradiction> {
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
                    after: self.waited.unwrap_or(seen.sent),
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

/// Somebody who was overtaken, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overtaken {
    /// The position of who still waited.
    pub position: u32,
    /// That of one who was let in before.
    pub by: u32,
}

/// Everybody who was overtaken, each once, by position.
#[must_use]
pub fn overtaken(witnesses: &[Witness]) -> Vec<Overtaken> {
    let mut admitted: Vec<(u32, Admission)> = witnesses
        .iter()
        .filter_map(|witness| Some((witness.position?, witness.admission?)))
        .collect();
    admitted.sort_by_key(|(_, admission)| admission.told);
    let mut found = Vec::new();
    for witness in witnesses {
        let Some(position) = witness.position else {
            continue;
        };
        let by = |presence: &Presence| {
            let waiting = presence.waiting?;
            let early = admitted.partition_point(|(_, other)| other.told + LAG < waiting);
            let was_back = |after| presence.back.is_none_or(|back| back + LAG < after);
            admitted[..early]
                .iter()
                .find(|(other, admission)| *other > position && was_back(admission.after))
                .map(|(other, _)| *other)
        };
        if let Some(by) = witness.presences.iter().find_map(by) {
            found.push(Overtaken { position, by });
        }
    }
    found.sort_by_key(|it| it.position);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A ticket's history: when was asked, in milliseconds, and what was told, 10 ms later. All are told
    /// to ask again after a second.
    fn witness(position: u32, history: &[(u64, Told)]) -> Witness {
        let mut witness = Witness::default();
        for &(sent, told) in history {
            let seen = Sighting {
                sent: ms(sent),
                answered: ms(sent + 10),
                told,
                position: Some(position),
                ahead: None,
                poll_after: (told != Told::Over).then_some(ms(1000)),
            };
            witness.see(&seen).unwrap();
        }
        witness
    }

    /// Waits from a time on until another, asking each second, and is told something at its end.
    fn waits(position: u32, from: u64, until: u64, end: Told) -> Witness {
        let waiting = (from..until).step_by(1000).map(|at| (at, Told::Waiting));
        let history: Vec<_> = waiting.chain([(until, end)]).collect();
        witness(position, &history)
    }

    #[test]
    fn a_line_in_order_is_fair() {
        let line: Vec<_> = (1..=50)
            .map(|nth| waits(nth, 0, u64::from(nth) * 300, Told::Admitted))
            .collect();
        assert!(line.iter().all(Witness::is_admitted));
        assert_eq!(overtaken(&line), []);
    }

    #[test]
    fn who_is_told_to_wait_long_after_somebody_behind_was_let_in_was_overtaken() {
        let line = [
            waits(1, 0, 2000, Told::Admitted),
            waits(2, 0, 9000, Told::Admitted),
            waits(3, 0, 3000, Told::Admitted),
            waits(4, 0, 9000, Told::Over),
        ];
        assert_eq!(overtaken(&line), [Overtaken { position: 2, by: 3 }]);
        // Also when it is never let in.
        let line = [
            waits(2, 0, 9000, Told::Waiting),
            waits(3, 0, 3000, Told::Admitted),
        ];
        assert_eq!(overtaken(&line), [Overtaken { position: 2, by: 3 }]);
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
        let line = [witness(2, &silent), waits(3, 0, 3000, Told::Admitted)];
        assert_eq!(overtaken(&line), []);
        // A little late is not silent.
        let slow: Vec<_> = (0..8)
            .map(|nth| (nth * 1900, Told::Waiting))
            .chain([(15_200, Told::Admitted)])
            .collect();
        let line = [witness(2, &slow), waits(3, 0, 3000, Told::Admitted)];
        assert_eq!(overtaken(&line), [Overtaken { position: 2, by: 3 }]);
    }

    #[test]
    fn who_has_come_back_is_next() {
        let mut back = vec![(0, Told::Waiting)];
        back.extend((6..15).map(|s| (s * 1000, Told::Waiting)));
        // Let in after it was back.
        let line = [witness(2, &back), waits(3, 0, 10_000, Told::Admitted)];
        assert_eq!(overtaken(&line), [Overtaken { position: 2, by: 3 }]);
        // Let in when it may have been away.
        let line = [witness(2, &back), waits(3, 0, 7500, Told::Admitted)];
        assert_eq!(overtaken(&line), []);
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
        let mut witness = Witness::default();
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
