//! Seats that would be left alone by what others take.

use super::{Bits, Plan, Row, Search, Wanted};
use onsale_schema::SeatNo;
use std::collections::{BTreeMap, BTreeSet};

impl Plan {
    /// The seats that are alone if free ones are taken, and were not before. Not those of a section
    /// in which the same number of seats beside each other can't be had without leaving any alone.
    ///
    /// # Panics
    /// When there is no such seat.
    #[must_use]
    pub fn orphans(&self, free: &Bits, taken: &[SeatNo]) -> Vec<SeatNo> {
        let taken: BTreeSet<u32> = taken
            .iter()
            .map(|seat| self.position(seat.index().expect("a seat that was checked")))
            .collect();
        let mut alone: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut parties: BTreeMap<u32, u32> = BTreeMap::new();
        for &at in &taken {
            let Some(row) = self.row_of(at) else {
                continue;
            };
            *parties.entry(row.section).or_default() += 1;
            let is_left = |at: u32| row.seats.contains(&at) && free.has(at) && !taken.contains(&at);
            let beside = [at.checked_sub(1), Some(at + 1)];
            for beside in beside.into_iter().flatten().filter(|at| is_left(*at)) {
                let is_alone = !is_left(beside + 1) && !beside.checked_sub(1).is_some_and(is_left);
                if is_alone {
                    alone.entry(row.section).or_default().insert(beside);
                }
            }
        }
        alone.retain(|section, _| self.can_be_tidy(free, *section, parties[section]));
        let mut seats: Vec<SeatNo> = alone
            .into_values()
            .flatten()
            .map(|at| self.seat_no[at as usize])
            .collect();
        seats.sort_unstable();
        seats
    }

    fn row_of(&self, at: u32) -> Option<&Row> {
        let no = self.rows.partition_point(|row| row.seats.end <= at);
        self.rows.get(no).filter(|row| row.seats.contains(&at))
    }

    /// Whether there are so many free seats beside each other that leave none alone.
    fn can_be_tidy(&self, free: &Bits, section: u32, count: u32) -> bool {
        let wanted = Wanted {
            count,
            section: Some(section),
            grade: None,
            max_price: None,
        };
        let mut search = Search::new(self, free, wanted);
        search.look_through();
        search.tidy.is_some()
    }
}
