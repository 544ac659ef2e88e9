//! Places: sections without rows, in which one is as good as another. They are counted and never
//! chosen, so that whoever looks for the best seats does not see them.

use super::{Bits, Plan, Spot, as_u32};
use onsale_schema::SeatNo;
use std::collections::HashMap;
use std::ops::Range;

/// The sections of places, with their positions: behind those of all seats, in the order of the
/// places' numbers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Places {
    first: u32,
    sections: HashMap<String, Range<u32>>,
}

impl Spot<'_> {
    /// Whether it is a place: what has no row.
    #[must_use]
    pub fn is_place(&self) -> bool {
        self.row.is_empty()
    }
}

impl Plan {
    /// Adds the places behind the seats.
    pub(super) fn add_places(&mut self, spots: &[Spot<'_>]) {
        self.places.first = as_u32(self.seat_no.len());
        let mut order: Vec<usize> = (0..spots.len()).collect();
        order.retain(|&no| spots[no].is_place());
        order.sort_by_key(|&no| (spots[no].section, spots[no].number, no));
        for section in order.chunk_by(|&a, &b| spots[a].section == spots[b].section) {
            let first = as_u32(self.seat_no.len());
            for &no in section {
                self.position[no] = as_u32(self.seat_no.len());
                self.seat_no
                    .push(SeatNo(i32::try_from(no).expect("a seat's number")));
            }
            let name = spots[section[0]].section.to_owned();
            let range = first..as_u32(self.seat_no.len());
            self.places.sections.insert(name, range);
        }
    }

    /// Whether a seat is a place.
    ///
    /// # Panics
    /// When there is no such seat.
    #[must_use]
    pub fn is_place(&self, seat_index: usize) -> bool {
        self.position(seat_index) >= self.places.first
    }

    /// Whether there is a section of places with this name.
    #[must_use]
    pub fn has_places(&self, section: &str) -> bool {
        self.places.sections.contains_key(section)
    }

    /// The free places of a section with the lowest numbers.
    ///
    /// # Errors
    /// How many are free, if these are too few.
    pub fn first_places(&self, free: &Bits, section: &str, count: u32) -> Result<Vec<SeatNo>, u32> {
        let Range { mut start, end } = self.places.sections.get(section).cloned().unwrap_or(0..0);
        let mut found: Vec<Range<u32>> = Vec::new();
        let mut left = count;
        while left > 0 {
            let Some(run) = free.run(start..end) else {
                return Err(count - left);
            };
            let taken = run.start..run.end.min(run.start.saturating_add(left));
            (start, left) = (run.end, left - (taken.end - taken.start));
            found.push(taken);
        }
        let positions = found.into_iter().flatten();
        Ok(positions.map(|at| self.seat_no[at as usize]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seats::plan::Wish;
    use onsale_schema::Money;

    fn spot<'a>(section: &'a str, row: &'a str, number: i32, won: i64) -> Spot<'a> {
        Spot {
            section,
            row,
            number,
            grade: "R",
            price: Money::won(won),
            x: 0.0,
            y: 0.0,
        }
    }

    #[test]
    fn places_are_counted_and_never_chosen() {
        let plan = Plan::new([
            spot("F", "", 2, 9),
            spot("A", "1", 1, 5),
            spot("G", "", 1, 1),
            spot("F", "", 1, 9),
            spot("A", "1", 2, 5),
            spot("F", "", 3, 9),
        ]);
        let places: Vec<usize> = (0..6).filter(|&no| plan.is_place(no)).collect();
        assert_eq!(places, [0, 2, 3, 5]);
        assert!(plan.has_places("F") && plan.has_places("G"));
        assert!(!plan.has_places("A") && !plan.has_places("Z"));
        let mut free = Bits::all(6);
        let first = |free: &Bits, count| plan.first_places(free, "F", count);
        let seats = |seats: &[i32]| Ok(seats.iter().copied().map(SeatNo).collect());
        assert_eq!(first(&free, 0), seats(&[]));
        assert_eq!(first(&free, 2), seats(&[3, 0]));
        assert_eq!(first(&free, 3), seats(&[3, 0, 5]));
        assert_eq!(first(&free, 4), Err(3));
        free.set(plan.position(0), false);
        assert_eq!(first(&free, 2), seats(&[3, 5]));
        assert_eq!(first(&free, u32::MAX), Err(2));
        assert_eq!(plan.first_places(&free, "A", 1), Err(0));

        let best = |count, section| {
            let wish = Wish {
                count,
                section,
                ..Wish::default()
            };
            plan.best(&Bits::all(6), &wish)
        };
        assert_eq!(best(2, None), Some(vec![SeatNo(1), SeatNo(4)]));
        assert_eq!(best(3, None), None);
        assert_eq!(best(1, Some("F")), None);
    }
}
