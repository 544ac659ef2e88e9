//! General admission: who wants places says how many, and gets those with the lowest numbers that
//! are free. Once chosen they are held like seats, each by a claim of its own, so that nothing that
//! is true of seats has to be made true once more, and no row is written by every buyer.

use super::Sale;
use super::plan::Bits;
use onsale_schema::seats::{Places, PlacesLeft, Refusal};
use onsale_schema::{ReservationId, SeatNo, Timestamp};
use std::borrow::Cow;

/// How many places are wanted in all.
pub(super) fn count(places: &[Places]) -> usize {
    let counts = places.iter().map(|wanted| wanted.count as usize);
    counts.fold(0, usize::saturating_add)
}

impl Sale {
    /// Whether it is a seat that is asked for by its name.
    pub(super) fn is_numbered(&self, seat: SeatNo) -> bool {
        self.seat_index(seat)
            .is_some_and(|at| !self.layout.plan.is_place(at))
    }

    /// Whether these are sections of places, each once, and something of each is wanted.
    pub(super) fn are_places(&self, places: &[Places]) -> bool {
        places.iter().enumerate().all(|(at, wanted)| {
            let is_again = places[..at].iter().any(|w| w.section == wanted.section);
            wanted.count > 0 && !is_again && self.layout.plan.has_places(&wanted.section)
        })
    }

    /// The seats, and behind them the places that are to be had. When there are too few, the
    /// refusal names the seats that are taken, too.
    pub(super) fn with_places<'a>(
        &self,
        seats: &'a [SeatNo],
        places: &[Places],
        now: Timestamp,
        lapsing: &mut Vec<ReservationId>,
    ) -> Result<Cow<'a, [SeatNo]>, Refusal> {
        if places.is_empty() {
            return Ok(Cow::Borrowed(seats));
        }
        let free = self.free_at(now);
        let mut all = seats.to_vec();
        let mut too_few = Vec::new();
        for Places { section, count } in places {
            match self.layout.plan.first_places(&free, section, *count) {
                Ok(found) => all.extend(found),
                Err(available) => too_few.push(PlacesLeft {
                    section: section.clone(),
                    available,
                }),
            }
        }
        if too_few.is_empty() {
            return Ok(Cow::Owned(all));
        }
        let taken = match self.are_available(seats, now, lapsing) {
            Err(Refusal::SeatUnavailable { seats, .. }) => seats,
            Ok(()) | Err(_) => Vec::new(),
        };
        Err(Refusal::SeatUnavailable {
            seats: taken,
            places: too_few,
        })
    }

    /// What is free: what has no claim, and what is held by who is due.
    pub(super) fn free_at(&self, now: Timestamp) -> Cow<'_, Bits> {
        let mut free = Cow::Borrowed(&self.free);
        let due = self.due.iter().take_while(|(ends, _)| *ends <= now);
        for seat in due.flat_map(|(_, id)| &self.reservations[id].seats) {
            let at = seat.index().expect("a reservation's seats are seats");
            free.to_mut().set(self.layout.plan.position(at), true);
        }
        free
    }
}
