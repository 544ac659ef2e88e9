//! Where the seats are, and which of those that are free are best for a party.
//!
//! Seats are beside each other when they are in one row and their numbers follow each other; a row
//! with a gap in its numbers has an aisle there. A seat is the better the better its grade is, and
//! within a grade the nearer it is to the stage. Of two grades that one is better whose dearest seat
//! costs more.
//!
//! A party gets, in this order, whatever there is:
//!
//! 1. seats beside each other that leave no single seat alone, that is, free without a free one
//!    beside it;
//! 2. seats beside each other;
//! 3. groups in one section in which everybody sits beside somebody of the party: the fewest and
//!    nearest that are found by looking around each of the best of them;
//! 4. any seats.
//!
//! Among equals the best seats: those whose worst grade is best, then the nearest to the stage in
//! sum, then those in the better row, then those with the lower numbers in it. The same free seats
//! always give the same answer.

mod bits;
mod groups;
mod orphans;
mod places;

pub use bits::Bits;
use groups::Run;

use onsale_schema::{Money, SeatNo};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

/// A seat of a layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot<'a> {
    /// Its section.
    pub section: &'a str,
    /// Its row; none for a place, see [`Spot::is_place`].
    pub row: &'a str,
    /// Its number in the row.
    pub number: i32,
    /// Its grade.
    pub grade: &'a str,
    /// Its price.
    pub price: Money,
    /// Metres to the right of the stage's middle.
    pub x: f32,
    /// Metres from the stage.
    pub y: f32,
}

/// What a party would like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish<'a> {
    /// So many seats; at least one.
    pub count: usize,
    /// In this section.
    pub section: Option<&'a str>,
    /// Of this grade.
    pub grade: Option<&'a str>,
    /// None of which costs more.
    pub max_price: Option<Money>,
}

/// Seats of a layout in the order of their merit: row by row, the best row first. What is beside
/// each other is beside each other here.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// By seat number.
    position: Vec<u32>,
    /// By position, as is all that follows.
    seat_no: Vec<SeatNo>,
    merit: Vec<Merit>,
    price: Vec<Money>,
    /// Centimetres.
    at: Vec<(i32, i32)>,
    rows: Vec<Row>,
    sections: HashMap<String, u32>,
    grades: HashMap<String, u32>,
    places: places::Places,
}

/// How good a seat is; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Merit {
    grade: u32,
    /// Centimetres to the stage.
    distance: u32,
}

/// Seats beside each other: a row, or what lies between its aisles.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    section: u32,
    seats: Range<u32>,
    /// No seat of it is better.
    best: Merit,
}

/// How good some seats are together; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Quality {
    worst_grade: u32,
    distance: u64,
    /// A position.
    first: u32,
}

impl Plan {
    /// The plan of seats in the order of their numbers.
    #[must_use]
    pub fn new<'a>(spots: impl IntoIterator<Item = Spot<'a>>) -> Self {
        let spots: Vec<Spot<'a>> = spots.into_iter().collect();
        let grades = grades(&spots);
        let mut sections = HashMap::new();
        for spot in spots.iter().filter(|spot| !spot.is_place()) {
            number(&mut sections, spot.section);
        }
        let merit = |spot: &Spot<'_>| Merit {
            grade: grades[spot.grade],
            distance: distance_cm(spot.x, spot.y),
        };
        let mut order: Vec<usize> = (0..spots.len()).collect();
        order.retain(|&no| !spots[no].is_place());
        order.sort_by_key(|&no| (spots[no].section, spots[no].row, spots[no].number, no));
        let beside = |a: usize, b: usize| {
            let (a, b) = (&spots[a], &spots[b]);
            (a.section, a.row, a.number.checked_add(1)) == (b.section, b.row, Some(b.number))
        };
        let mut rows: Vec<(Merit, &[usize])> = order
            .chunk_by(|&a, &b| beside(a, b))
            .map(|row| {
                let best = row.iter().map(|&no| merit(&spots[no])).min();
                (best.expect("a chunk is not empty"), row)
            })
            .collect();
        rows.sort_by_key(|(best, row)| (*best, row[0]));

        let mut plan = Self {
            position: vec![0; spots.len()],
            sections,
            grades: grades
                .iter()
                .map(|(&name, &no)| (name.to_owned(), no))
                .collect(),
            ..Self::default()
        };
        for (best, row) in rows {
            let first = as_u32(plan.seat_no.len());
            for &no in row {
                plan.position[no] = as_u32(plan.seat_no.len());
                plan.seat_no
                    .push(SeatNo(i32::try_from(no).expect("a seat's number")));
                plan.merit.push(merit(&spots[no]));
                plan.price.push(spots[no].price);
                plan.at
                    .push((centimetres(spots[no].x), centimetres(spots[no].y)));
            }
            plan.rows.push(Row {
                section: plan.sections[spots[row[0]].section],
                seats: first..as_u32(plan.seat_no.len()),
                best,
            });
        }
        plan.add_places(&spots);
        plan
    }

    /// Where a seat is among the bits.
    ///
    /// # Panics
    /// When there is no such seat.
    #[must_use]
    pub fn position(&self, seat_index: usize) -> u32 {
        self.position[seat_index]
    }

    /// The best of the free seats for a party; none when there are too few.
    ///
    /// # Panics
    /// When nobody wants a seat.
    #[must_use]
    pub fn best(&self, free: &Bits, wish: &Wish<'_>) -> Option<Vec<SeatNo>> {
        assert!(wish.count > 0, "a party is somebody");
        let wanted = Wanted::new(self, wish)?;
        let mut search = Search::new(self, free, wanted);
        search.look_through();
        let positions = search.found()?;
        let mut seats: Vec<SeatNo> = positions
            .into_iter()
            .map(|at| self.seat_no[at as usize])
            .collect();
        seats.sort_unstable();
        Some(seats)
    }

    fn quality(&self, seats: Range<u32>) -> Quality {
        let range = seats.start as usize..seats.end as usize;
        let merits = &self.merit[range];
        Quality {
            worst_grade: merits.iter().map(|m| m.grade).max().unwrap_or(0),
            distance: merits.iter().map(|m| u64::from(m.distance)).sum(),
            first: seats.start,
        }
    }
}

/// A wish in the numbers of a plan.
#[derive(Clone, Copy)]
struct Wanted {
    count: u32,
    section: Option<u32>,
    grade: Option<u32>,
    max_price: Option<Money>,
}

impl Wanted {
    /// None if it names what the plan has not.
    fn new(plan: &Plan, wish: &Wish<'_>) -> Option<Self> {
        let known = |names: &HashMap<String, u32>, name: Option<&str>| match name {
            None => Some(None),
            Some(name) => names.get(name).copied().map(Some),
        };
        Some(Self {
            count: u32::try_from(wish.count).ok()?,
            section: known(&plan.sections, wish.section)?,
            grade: known(&plan.grades, wish.grade)?,
            max_price: wish.max_price,
        })
    }

    fn takes(&self, plan: &Plan, position: u32) -> bool {
        let at = position as usize;
        self.grade.is_none_or(|grade| plan.merit[at].grade == grade)
            && self.max_price.is_none_or(|max| plan.price[at] <= max)
    }

    /// Free seats beside each other without those that won't do.
    fn parts(self, plan: &Plan, run: Range<u32>) -> impl Iterator<Item = Range<u32>> + use<'_> {
        let mut from = run.start;
        std::iter::from_fn(move || {
            if self.grade.is_none() && self.max_price.is_none() {
                return (from < run.end).then(|| std::mem::replace(&mut from, run.end)..run.end);
            }
            let start = (from..run.end).find(|at| self.takes(plan, *at))?;
            let end = (start..run.end).find(|at| !self.takes(plan, *at));
            from = end.unwrap_or(run.end);
            Some(start..from)
        })
    }

    fn is_in(&self, row: &Row) -> bool {
        self.section.is_none_or(|section| section == row.section)
    }
}

/// One look through the rows.
struct Search<'a> {
    plan: &'a Plan,
    free: &'a Bits,
    wanted: Wanted,
    /// The best that leaves nobody's seat alone.
    tidy: Option<(Quality, u32)>,
    /// The best of all that are beside each other.
    beside: Option<(Quality, u32)>,
    /// Free seats beside each other that would do.
    runs: Vec<Run>,
}

impl<'a> Search<'a> {
    fn new(plan: &'a Plan, free: &'a Bits, wanted: Wanted) -> Self {
        Self {
            plan,
            free,
            wanted,
            tidy: None,
            beside: None,
            runs: Vec::new(),
        }
    }

    fn look_through(&mut self) {
        for row in &self.plan.rows {
            if !self.wanted.is_in(row) {
                continue;
            }
            // Rows come in the order of their best seats, and none has better ones than that.
            let is_worse = (self.wanted.grade).is_some_and(|grade| row.best.grade > grade);
            if is_worse
                || self
                    .tidy
                    .is_some_and(|(found, _)| self.is_beyond(found, row))
            {
                return;
            }
            let mut from = row.seats.start;
            while let Some(run) = self.next_run(from..row.seats.end) {
                from = run.end;
                for run in self.wanted.parts(self.plan, run) {
                    self.look_at(row, run);
                }
            }
        }
    }

    /// Single seats are of use to single people only.
    fn next_run(&self, range: Range<u32>) -> Option<Range<u32>> {
        if self.wanted.count == 1 {
            self.free.run(range)
        } else {
            self.free.run_of_two(range)
        }
    }

    /// Whether no seats of a row can be better than what was found.
    fn is_beyond(&self, found: Quality, row: &Row) -> bool {
        let distance = u64::from(row.best.distance) * u64::from(self.wanted.count);
        (row.best.grade, distance) > (found.worst_grade, found.distance)
    }

    /// Looks at free seats beside each other that would do.
    fn look_at(&mut self, row: &Row, run: Range<u32>) {
        let count = self.wanted.count;
        let length = run.end - run.start;
        if length >= count {
            for start in run.start..=run.end - count {
                let seats = start..start + count;
                let quality = self.plan.quality(seats.clone());
                if self.beside.is_none_or(|(best, _)| quality < best) {
                    self.beside = Some((quality, start));
                }
                if self.tidy.is_none_or(|(best, _)| quality < best) && self.is_tidy(row, &seats) {
                    self.tidy = Some((quality, start));
                }
            }
        }
        // Of use only if nothing better is found.
        if self.beside.is_none() && length >= 2 {
            self.runs.push(Run {
                section: row.section,
                seats: run,
            });
        }
    }

    /// Whether taking these seats leaves no single one alone that was not alone before.
    fn is_tidy(&self, row: &Row, seats: &Range<u32>) -> bool {
        let is_free = |at: u32| row.seats.contains(&at) && self.free.has(at);
        let before = seats.start.checked_sub(1).is_some_and(is_free);
        let before_that = seats.start.checked_sub(2).is_some_and(is_free);
        let alone_before = before && !before_that;
        let alone_after = is_free(seats.end) && !is_free(seats.end + 1);
        !alone_before && !alone_after
    }

    /// The best of what was found.
    fn found(mut self) -> Option<Vec<u32>> {
        let count = self.wanted.count;
        if let Some((_, start)) = self.tidy.or(self.beside) {
            return Some((start..start + count).collect());
        }
        let groups = groups::best(self.plan, &mut self.runs, count);
        groups
            .map(|groups| groups.into_iter().flatten().collect())
            .or_else(|| self.scattered())
    }

    /// The best seats, wherever they are.
    fn scattered(&self) -> Option<Vec<u32>> {
        let wanted = self.wanted.count as usize;
        let mut usable = Vec::new();
        for row in self.plan.rows.iter().filter(|row| self.wanted.is_in(row)) {
            let mut from = row.seats.start;
            while let Some(run) = self.free.run(from..row.seats.end) {
                from = run.end;
                usable.extend(run.filter(|at| self.wanted.takes(self.plan, *at)));
            }
        }
        if usable.len() < wanted {
            return None;
        }
        let merit = |at: &u32| {
            (
                self.plan.merit[*at as usize],
                self.plan.seat_no[*at as usize],
            )
        };
        if usable.len() > wanted {
            usable.select_nth_unstable_by_key(wanted - 1, merit);
            usable.truncate(wanted);
        }
        Some(usable)
    }
}

/// The grades, the best first.
fn grades<'a>(spots: &[Spot<'a>]) -> HashMap<&'a str, u32> {
    let mut dearest: HashMap<&str, Money> = HashMap::new();
    for spot in spots.iter().filter(|spot| !spot.is_place()) {
        let price = dearest.entry(spot.grade).or_insert(spot.price);
        *price = (*price).max(spot.price);
    }
    let mut order: Vec<(&str, Money)> = dearest.into_iter().collect();
    order.sort_by(|(a, dear_a), (b, dear_b)| dear_b.cmp(dear_a).then(a.cmp(b)));
    let named = order.into_iter().map(|(name, _)| name);
    named.zip(0..).collect()
}

/// The number of a name: a new one if it was not seen before.
fn number<K: Eq + Hash + From<Q>, Q: Copy>(known: &mut HashMap<K, u32>, name: Q) {
    let next = as_u32(known.len());
    known.entry(K::from(name)).or_insert(next);
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a place on a plan is a few kilometres at most; what is not saturates"
)]
fn centimetres(metres: f32) -> i32 {
    (f64::from(metres) * 100.0).round() as i32
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a distance is not negative; what is too far saturates"
)]
fn distance_cm(x: f32, y: f32) -> u32 {
    (f64::from(x).hypot(f64::from(y)) * 100.0).round() as u32
}

fn as_u32(n: usize) -> u32 {
    u32::try_from(n).expect("a hall has less than four thousand million seats")
}
