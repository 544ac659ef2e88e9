//! Where the seats are: sections, rows, grades, prices and places on a plan.
//!
//! A layout is a list in the order of its seat numbers, so that number, label and place can't come
//! apart. Places are metres from the middle of the stage's edge: x to the right, y away from it.

use onsale_schema::Money;
use onsale_schema::layout::{self, centimetres};
use std::f64::consts::PI;

pub use onsale_schema::layout::Seat;

/// A class of seats with its price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grade {
    /// Its name on the ticket.
    pub name: &'static str,
    /// Its price, in won.
    pub won: i64,
}

/// The grades of the demo, dearest first.
pub const VIP: Grade = Grade {
    name: "VIP",
    won: 165_000,
};
/// The second grade.
pub const R: Grade = Grade {
    name: "R",
    won: 143_000,
};
/// The third grade.
pub const S: Grade = Grade {
    name: "S",
    won: 121_000,
};
/// The cheapest grade.
pub const A: Grade = Grade {
    name: "A",
    won: 99_000,
};

/// All seats of a schedule; a seat's index is its `seat_no`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// In the order of their numbers.
    pub seats: Vec<Seat>,
}

impl Layout {
    /// A plain one for tests and benchmarks: section `A`, rows of 100, one price.
    #[must_use]
    pub fn plain(seats: u32, won: i64) -> Self {
        const PER_ROW: u32 = 100;
        let grade = Grade { name: A.name, won };
        let mut layout = Self::default();
        for row in 0..seats.div_ceil(PER_ROW) {
            let in_row = PER_ROW.min(seats - row * PER_ROW);
            layout.row("A", row + 1, grade, in_row, |number| {
                (f64::from(number) * 0.6, f64::from(row))
            });
        }
        layout
    }

    /// The hall: 1,000 seats. A before the stage, B and C at its sides, D behind them, E above.
    #[must_use]
    pub fn hall() -> Self {
        const PITCH_M: f64 = 0.6;
        let mut layout = Self::default();
        let mut block = |name: &str,
                         rows: u32,
                         per_row: u32,
                         (middle_x, front_y): (f64, f64),
                         grade_of: &dyn Fn(u32) -> Grade| {
            for row in 1..=rows {
                layout.row(name, row, grade_of(row), per_row, |number| {
                    let from_middle = f64::from(number) - f64::from(per_row + 1) / 2.0;
                    let x = middle_x + from_middle * PITCH_M;
                    // Rows bend around the stage.
                    (x, front_y + f64::from(row) + x * x / 120.0)
                });
            }
        };
        block("A", 10, 20, (0.0, 4.0), &|row| {
            if row <= 4 { VIP } else { R }
        });
        block("B", 10, 20, (-13.5, 4.0), &|row| {
            if row <= 4 { R } else { S }
        });
        block("C", 10, 20, (13.5, 4.0), &|row| {
            if row <= 4 { R } else { S }
        });
        block("D", 10, 24, (0.0, 16.5), &|row| {
            if row <= 5 { S } else { A }
        });
        block("E", 8, 20, (0.0, 30.0), &|_| A);
        layout
    }

    /// The stadium: 50,000 seats, a lower ring of 25 sections (101 to 125) and an upper one (201 to
    /// 225), open towards the stage.
    #[must_use]
    pub fn stadium() -> Self {
        const SECTIONS: u32 = 25;
        const ROWS: u32 = 25;
        const PER_ROW: u32 = 40;
        const ROW_M: f64 = 0.9;
        /// The rings leave a sixth of the circle to the stage.
        const OPEN: f64 = PI / 6.0;
        let section_angle = (2.0 * PI - 2.0 * OPEN) / f64::from(SECTIONS);
        let mut layout = Self::default();
        for (first, inner_m) in [(101, 100.0), (201, 130.0)] {
            for section in 0..SECTIONS {
                let name = (first + section).to_string();
                for row in 1..=ROWS {
                    let grade = match (first, row) {
                        (101, 1..=5) => VIP,
                        (101, _) => R,
                        (_, 1..=12) => S,
                        (_, _) => A,
                    };
                    let radius = inner_m + f64::from(row) * ROW_M;
                    layout.row(&name, row, grade, PER_ROW, |number| {
                        let in_section = (f64::from(number) - 0.5) / f64::from(PER_ROW);
                        let angle = OPEN + (f64::from(section) + in_section) * section_angle;
                        (-radius * angle.sin(), 100.0 - radius * angle.cos())
                    });
                }
            }
        }
        layout
    }

    /// The theatre: 500 seats, stalls (P) and a balcony (Q).
    #[must_use]
    pub fn theatre() -> Self {
        const PER_ROW: u32 = 25;
        let mut layout = Self::default();
        for (section, rows, front_y, grade) in [("P", 12, 3.0, R), ("Q", 8, 18.0, A)] {
            for row in 1..=rows {
                layout.row(section, row, grade, PER_ROW, |number| {
                    let from_middle = f64::from(number) - f64::from(PER_ROW + 1) / 2.0;
                    (from_middle * 0.6, front_y + f64::from(row))
                });
            }
        }
        layout
    }

    /// The club: 100 seats, tables (T) by the stage and a floor (F) behind them.
    #[must_use]
    pub fn club() -> Self {
        let mut layout = Self::default();
        for (section, rows, per_row, front_y, grade) in [("T", 4, 10, 2.0, R), ("F", 5, 12, 8.0, A)]
        {
            for row in 1..=rows {
                layout.row(section, row, grade, per_row, |number| {
                    let from_middle = f64::from(number) - f64::from(per_row + 1) / 2.0;
                    (from_middle * 0.8, front_y + f64::from(row) * 1.2)
                });
            }
        }
        layout
    }

    /// Appends a row.
    fn row(
        &mut self,
        section: &str,
        row: u32,
        grade: Grade,
        seats: u32,
        place: impl Fn(u32) -> (f64, f64),
    ) {
        for number in 1..=seats {
            let (x, y) = place(number);
            self.seats.push(Seat {
                section: section.to_owned(),
                row: row.to_string(),
                number: i32::try_from(number).expect("a row is short"),
                grade: grade.name.to_owned(),
                price: Money::won(grade.won),
                x: centimetres(x),
                y: centimetres(y),
            });
        }
    }

    /// See [`layout::hash`].
    #[must_use]
    pub fn hash(&self) -> String {
        layout::hash(&self.seats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_venues_have_their_sizes_and_no_seat_twice() {
        for (layout, size, sections) in [
            (Layout::hall(), 1_000, 5),
            (Layout::stadium(), 50_000, 50),
            (Layout::theatre(), 500, 2),
            (Layout::club(), 100, 2),
            (Layout::plain(250, 1_000), 250, 1),
        ] {
            assert_eq!(layout.seats.len(), size);
            let labels: HashSet<String> = layout.seats.iter().map(Seat::label).collect();
            assert_eq!(labels.len(), size, "labels are unique");
            assert!(labels.iter().all(|label| label.split('-').count() == 3));
            let places: HashSet<(u32, u32)> = layout
                .seats
                .iter()
                .map(|seat| (seat.x.to_bits(), seat.y.to_bits()))
                .collect();
            assert_eq!(places.len(), size, "nobody sits on another's lap");
            let names: HashSet<&str> = layout
                .seats
                .iter()
                .map(|seat| seat.section.as_str())
                .collect();
            assert_eq!(names.len(), sections);
        }
    }

    #[test]
    fn the_hash_is_a_function_of_the_seats() {
        let hall = Layout::hall();
        assert_eq!(hall.hash(), Layout::hall().hash());
        assert_eq!(hall.hash().len(), 64);
        let mut dearer = hall.clone();
        dearer.seats[999].price = Money::won(1);
        assert_ne!(hall.hash(), dearer.hash());
        let mut moved = hall.clone();
        moved.seats[0].x += 0.01;
        assert_ne!(hall.hash(), moved.hash());
    }

    #[test]
    fn the_hall_has_every_grade() {
        let grades: HashSet<String> = Layout::hall()
            .seats
            .into_iter()
            .map(|seat| seat.grade)
            .collect();
        assert_eq!(
            grades,
            HashSet::from(["VIP", "R", "S", "A"].map(String::from))
        );
    }
}
