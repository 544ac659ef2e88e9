//! Seats that would be left alone by what others take.

use super::{Bits, Plan, Row, Search, Wanted};
use onsale_schema::SeatNo;
use std::collections::{BTreeMap, BTreeSet};

impl Plan {
    /// The seats that are alone if free ones are taken, and were not before. Not those of a section
    /// where there is no choice: where no run as long as that beside them leaves nobody alone, or not
    /// as many seats in all do.
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
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        let mut is_tidy = BTreeMap::new();
        for &at in &taken {
            let Some(row) = self.row_of(at) else {
                continue;
            };
            *counts.entry(row.section).or_default() += 1;
            let is_taken = |at: u32| row.seats.contains(&at) && taken.contains(&at);
            if at.checked_sub(1).is_some_and(is_taken) {
                // Of the run before.
                continue;
            }
            let end = (at..).find(|at| !is_taken(*at)).expect("a row ends");
            let is_left = |at: u32| row.seats.contains(&at) && free.has(at) && !taken.contains(&at);
            let beside = [at.checked_sub(1), Some(end)];
            for beside in beside.into_iter().flatten().filter(|at| is_left(*at)) {
                let is_alone = !is_left(beside + 1) && !beside.checked_sub(1).is_some_and(is_left);
                if is_alone
                    && *is_tidy
                        .entry((row.section, end - at))
                        .or_insert_with(|| self.can_be_tidy(free, row.section, end - at))
                {
                    alone.entry(row.section).or_default().insert(beside);
                }
            }
        }
        alone.retain(|section, _| self.can_all_be_tidy(free, *section, counts[section]));
        let mut seats: Vec<SeatNo> = alone
            .into_values()
            .flatten()
            .map(|at| self.seat_no[at as usize])
            .collect();
        seats.sort_unstable();
        seats
    }

    /// Whether so many free seats can be taken, in whatever runs, that leave none alone. False for more
    /// than fit into the bits, which nobody may have.
    fn can_all_be_tidy(&self, free: &Bits, section: u32, count: usize) -> bool {
        if count >= u128::BITS as usize {
            return false;
        }
        // How many can be taken of the runs so far, a bit each.
        let mut counts: u128 = 1;
        for row in self.rows.iter().filter(|row| row.section == section) {
            let mut from = row.seats.start;
            while let Some(run) = free.run(from..row.seats.end) {
                from = run.end;
                // All of them, or so many that two or more are left.
                let len = run.len();
                let some = (1..=len).filter(|some| *some == len || some + 2 <= len);
                let before = counts;
                for some in some.take_while(|some| *some <= count) {
                    counts |= before << some;
                }
                if counts >> count & 1 == 1 {
                    return true;
                }
            }
        }
        false
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
