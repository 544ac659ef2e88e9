//! The best of the free seats, against a search that looks at everything.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use onsale_domain::seats::plan::{Bits, Plan, Spot, Wish};
use onsale_schema::{Money, SeatNo};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A seat of a small hall.
#[derive(Clone, Debug)]
struct Seat {
    section: &'static str,
    row: &'static str,
    number: i32,
    grade: &'static str,
    price: i64,
    x: f32,
    y: f32,
    free: bool,
}

const SECTIONS: [&str; 2] = ["A", "B"];
const ROWS: [&str; 3] = ["1", "2", "3"];
const GRADES: [(&str, i64); 3] = [("VIP", 3000), ("R", 2000), ("S", 1000)];

/// Rows of up to eight, some with an aisle, in any order of their numbers.
fn halls() -> impl Strategy<Value = Vec<Seat>> {
    let row = (1..=8_i32, 0..=8_i32, 0..3_usize, any::<u8>(), 0..4_u8);
    (prop::collection::vec(row, 6), any::<u64>()).prop_map(|(rows, shuffle)| {
        let mut seats = Vec::new();
        for (no, (length, aisle, grade, free, mixed)) in rows.into_iter().enumerate() {
            for at in 0..length {
                let number = if at >= aisle { at + 2 } else { at + 1 };
                let grade = if mixed == 0 && at % 2 == 1 { 2 } else { grade };
                let across = f32::from(u8::try_from(at).unwrap());
                let back = f32::from(u8::try_from(no % 3).unwrap());
                seats.push(Seat {
                    section: SECTIONS[no / 3],
                    row: ROWS[no % 3],
                    number,
                    grade: GRADES[grade].0,
                    price: GRADES[grade].1,
                    x: across - 3.5,
                    y: 5.0 + back,
                    free: free >> at & 1 == 1,
                });
            }
        }
        // Any order, by a cheap shuffle.
        let mut state = shuffle | 1;
        for at in (1..seats.len()).rev() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            seats.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        seats
    })
}

fn plan(seats: &[Seat]) -> (Plan, Bits) {
    let plan = Plan::new(seats.iter().map(|seat| Spot {
        section: seat.section,
        row: seat.row,
        number: seat.number,
        grade: seat.grade,
        price: Money::won(seat.price),
        x: seat.x,
        y: seat.y,
    }));
    let mut free = Bits::all(seats.len());
    for (no, seat) in seats.iter().enumerate() {
        free.set(plan.position(no), seat.free);
    }
    (plan, free)
}

/// The seats as the model knows them.
struct Model<'a> {
    seats: &'a [Seat],
    wish: Wish<'a>,
}

impl Model<'_> {
    fn is_usable(&self, no: usize) -> bool {
        let seat = &self.seats[no];
        seat.free
            && self
                .wish
                .section
                .is_none_or(|section| section == seat.section)
            && self.wish.grade.is_none_or(|grade| grade == seat.grade)
            && self
                .wish
                .max_price
                .is_none_or(|max| Money::won(seat.price) <= max)
    }

    fn usable(&self) -> Vec<usize> {
        (0..self.seats.len())
            .filter(|no| self.is_usable(*no))
            .collect()
    }

    fn are_beside(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.seats[a], &self.seats[b]);
        (a.section, a.row) == (b.section, b.row) && (a.number - b.number).abs() == 1
    }

    /// Free seats that have no free one beside them.
    fn alone(&self, taken: &BTreeSet<usize>) -> BTreeSet<usize> {
        let free = |no: &usize| self.seats[*no].free && !taken.contains(no);
        let all = (0..self.seats.len()).filter(free);
        all.filter(|&no| {
            !(0..self.seats.len()).any(|other| free(&other) && self.are_beside(no, other))
        })
        .collect()
    }

    /// Whether nobody is left alone who was not before.
    fn is_tidy(&self, taken: &BTreeSet<usize>) -> bool {
        self.alone(taken).is_subset(&self.alone(&BTreeSet::new()))
    }

    /// All ways to sit beside each other.
    fn together(&self) -> Vec<BTreeSet<usize>> {
        let usable = self.usable();
        let mut found = Vec::new();
        for &first in &usable {
            let mut party = vec![first];
            while party.len() < self.wish.count {
                let last = &self.seats[party[party.len() - 1]];
                let next = usable.iter().find(|&&no| {
                    let seat = &self.seats[no];
                    (seat.section, seat.row, seat.number)
                        == (last.section, last.row, last.number + 1)
                });
                match next {
                    Some(&next) => party.push(next),
                    None => break,
                }
            }
            if party.len() == self.wish.count {
                found.push(party.into_iter().collect());
            }
        }
        found
    }

    fn quality(&self, party: &BTreeSet<usize>) -> (i64, i64) {
        let worst = party
            .iter()
            .map(|no| Reverse(self.seats[*no].price))
            .max()
            .unwrap();
        let distance = party.iter().map(|no| {
            let seat = &self.seats[*no];
            #[allow(clippy::cast_possible_truncation, reason = "a small hall")]
            let cm = (f64::from(seat.x).hypot(f64::from(seat.y)) * 100.0).round() as i64;
            cm
        });
        (-worst.0, distance.sum())
    }

    /// Whether each has somebody of the party beside, all in one section.
    fn is_in_groups(&self, party: &BTreeSet<usize>) -> bool {
        let section = self.seats[*party.first().unwrap()].section;
        party.iter().all(|&no| {
            self.seats[no].section == section
                && party.iter().any(|&other| self.are_beside(no, other))
        })
    }

    /// Whether a party could sit in groups at all: by trying the sums of groups per section.
    fn could_be_in_groups(&self) -> bool {
        SECTIONS.iter().any(|section| {
            let mut sums = BTreeSet::from([0]);
            for run in self.runs(section) {
                let before = sums.clone();
                for size in 2..=run {
                    sums.extend(before.iter().map(|sum| sum + size));
                }
            }
            sums.contains(&self.wish.count)
        })
    }

    fn runs(&self, section: &str) -> Vec<usize> {
        let mut usable: Vec<usize> = self.usable();
        usable.retain(|no| self.seats[*no].section == section);
        usable.sort_by_key(|no| (self.seats[*no].row, self.seats[*no].number));
        usable
            .chunk_by(|a, b| self.are_beside(*a, *b))
            .map(<[usize]>::len)
            .collect()
    }
}

fn wishes() -> impl Strategy<Value = Wish<'static>> {
    let section = prop::option::weighted(0.3, prop::sample::select(&SECTIONS[..]));
    let grade = prop::option::weighted(0.3, prop::sample::select(vec!["VIP", "R", "S"]));
    let price = prop::option::weighted(0.3, 500..3500_i64);
    (1..=7_usize, section, grade, price).prop_map(|(count, section, grade, price)| Wish {
        count,
        section,
        grade,
        max_price: price.map(Money::won),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_best_is_as_good_as_any(seats in halls(), wish in wishes()) {
        let (plan, free) = plan(&seats);
        let model = Model { seats: &seats, wish };
        let usable = model.usable();
        let Some(found) = plan.best(&free, &wish) else {
            prop_assert!(usable.len() < wish.count, "{usable:?}");
            return Ok(());
        };
        let again = plan.best(&free, &wish);
        prop_assert_eq!(again.as_ref(), Some(&found), "the same again");
        let party: BTreeSet<usize> = found.iter().map(|no| no.index().unwrap()).collect();
        prop_assert_eq!(party.len(), wish.count);
        prop_assert!(party.iter().all(|no| model.is_usable(*no)));

        let together = model.together();
        let tidy: Vec<_> = together.iter().filter(|party| model.is_tidy(party)).collect();
        let best_tidy = tidy.iter().copied().min_by_key(|party| model.quality(party));
        let best = together.iter().min_by_key(|party| model.quality(party));
        if let Some(best) = best_tidy.or(best) {
            let candidates = if best_tidy.is_some() { tidy } else { together.iter().collect() };
            prop_assert!(candidates.contains(&&party), "{:?}", party);
            prop_assert_eq!(model.quality(&party), model.quality(best));
        } else if model.could_be_in_groups() {
            prop_assert!(model.is_in_groups(&party), "{:?}", party);
        } else {
            let mut by_merit = usable;
            by_merit.sort_by_key(|no| (model.quality(&BTreeSet::from([*no])), *no));
            by_merit.truncate(wish.count);
            prop_assert_eq!(party, by_merit.into_iter().collect());
        }
    }
}

/// A row of an `A` hall, `.` free and `x` taken.
fn row(free: &str) -> (Plan, Bits) {
    let seats: Vec<Seat> = (1..)
        .zip(free.chars())
        .map(|(number, state)| Seat {
            section: "A",
            row: "1",
            number,
            grade: "R",
            price: 1000,
            x: 0.0,
            y: 1.0,
            free: state == '.',
        })
        .collect();
    plan(&seats)
}

#[test]
fn in_a_row_nobody_is_left_alone_if_that_can_be() {
    for (free, count, expected) in [
        // The first that leaves no one alone.
        ("...", 2, Some(vec![0, 1])),
        ("....", 2, Some(vec![0, 1])),
        ("x...x", 1, Some(vec![1])),
        (".x..", 1, Some(vec![0])),
        ("x....x", 3, Some(vec![1, 2, 3])),
        ("x.....x", 3, Some(vec![1, 2, 3])),
        (".....", 4, Some(vec![0, 1, 2, 3])),
        ("x...x..x", 2, Some(vec![5, 6])),
        ("x.x.x", 2, Some(vec![1, 3])),
        ("x.x.x", 3, None),
        // Groups of two before anybody sits alone.
        (".x..x..", 4, Some(vec![2, 3, 5, 6])),
        ("...x..x.", 5, Some(vec![0, 1, 2, 4, 5])),
    ] {
        let (plan, bits) = row(free);
        let wish = Wish {
            count,
            ..Wish::default()
        };
        let found = plan.best(&bits, &wish);
        let expected = expected.map(|seats| seats.into_iter().map(SeatNo).collect());
        assert_eq!(found, expected, "{count} of {free}");
    }
}

#[test]
fn what_the_hall_has_not_is_not_found() {
    let (plan, bits) = row("....");
    for (section, grade) in [(Some("B"), None), (None, Some("VIP"))] {
        let wish = Wish {
            count: 1,
            section,
            grade,
            max_price: None,
        };
        assert_eq!(plan.best(&bits, &wish), None);
    }
}
