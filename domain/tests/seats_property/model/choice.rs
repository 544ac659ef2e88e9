//! Which seats are the best, and which would be left alone, by trying all there are.

use super::Model;
use onsale_schema::{Money, SeatNo, Timestamp};

impl Model {
    /// All seats are in one row, the lower numbers nearer to the stage; for at most three of them
    /// there are no groups. The first that are beside each other and leave nobody alone, else the
    /// first that are beside each other, else the first.
    pub(super) fn best(
        &self,
        count: usize,
        max: Option<Money>,
        now: Timestamp,
    ) -> Option<Vec<SeatNo>> {
        let all = self.free(now);
        let would_do = |no: usize| all[no] && max.is_none_or(|max| self.prices[no] <= max);
        let is_free = |no: Option<usize>| no.and_then(|no| all.get(no)).is_some_and(|free| *free);
        let windows = (0..(all.len() + 1).saturating_sub(count))
            .filter(|first| (*first..first + count).all(would_do));
        let is_tidy = |first: &usize| {
            let (before, after) = (first.checked_sub(1), first + count);
            let alone_before = is_free(before) && !is_free(first.checked_sub(2));
            let alone_after = is_free(Some(after)) && !is_free(Some(after + 1));
            !alone_before && !alone_after
        };
        let first = windows
            .clone()
            .find(is_tidy)
            .or_else(|| windows.clone().next());
        let seats: Vec<usize> = match first {
            Some(first) => (first..first + count).collect(),
            None => (0..all.len())
                .filter(|no| would_do(*no))
                .take(count)
                .collect(),
        };
        let named = seats
            .iter()
            .map(|no| SeatNo(i32::try_from(*no).expect("few seats")));
        (seats.len() == count).then(|| named.collect())
    }

    /// The free seats that are alone once these are taken and were not before, as long as there is
    /// another choice of as many.
    pub(super) fn orphans(&self, seats: &[SeatNo], now: Timestamp) -> Vec<SeatNo> {
        let free = self.free(now);
        let alone = |taken: &[usize]| {
            let is_left = |no: usize| free.get(no) == Some(&true) && !taken.contains(&no);
            let all = (0..free.len()).filter(|no| is_left(*no));
            let alone = all.filter(|no| !is_left(no + 1) && (*no == 0 || !is_left(no - 1)));
            alone.collect::<Vec<usize>>()
        };
        let before = alone(&[]);
        let new = |taken: &[usize]| {
            let after = alone(taken).into_iter();
            after.filter(|no| !before.contains(no)).collect::<Vec<_>>()
        };
        let has_choice = |count: usize| {
            (0..=free.len() - count)
                .map(|first| first..first + count)
                .filter(|window| window.clone().all(|no| free[no]))
                .any(|window| new(&window.collect::<Vec<_>>()).is_empty())
        };
        let taken: Vec<usize> = seats.iter().map(|seat| seat.index().unwrap()).collect();
        let subsets =
            (0..1_u32 << free.len()).filter(|set| set.count_ones() as usize == seats.len());
        let sets = subsets.map(|set| (0..free.len()).filter(|no| set >> no & 1 == 1).collect());
        let has_choice_in_all = sets
            .filter(|set: &Vec<usize>| set.iter().all(|no| free[*no]))
            .any(|set| new(&set).is_empty());
        // How many that are taken are beside each other, from a seat on to either side.
        let up = |no: usize| (no..).take_while(|no| taken.contains(no)).count();
        let down = |no: usize| (0..no).rev().take_while(|no| taken.contains(no)).count();
        let has_other = |no: usize| {
            let beside = [up(no + 1), down(no)];
            beside
                .into_iter()
                .any(|count| count > 0 && has_choice(count))
        };
        let orphans = new(&taken).into_iter().filter(|no| has_other(*no));
        let named = orphans.map(|no| SeatNo(i32::try_from(no).expect("few seats")));
        if self.policy.prevents_orphans && has_choice_in_all {
            named.collect()
        } else {
            Vec::new()
        }
    }

    /// Whether each numbered seat is free.
    fn free(&self, now: Timestamp) -> Vec<bool> {
        let numbers = 0..i32::try_from(self.seated).expect("few seats");
        numbers.map(|no| self.is_free(SeatNo(no), now)).collect()
    }
}
