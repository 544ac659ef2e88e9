//! The seats of a schedule in the order of their numbers, and the name that caches know them by.

use crate::money::Money;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// One seat, or one place of a section without rows; its index in a layout is its `seat_no`.
#[derive(Clone, Debug, PartialEq)]
pub struct Seat {
    /// Its section; no hyphen and no comma in it.
    pub section: String,
    /// Its row; no hyphen and no comma either. Empty for a place.
    pub row: String,
    /// Its number in the row, or among the section's places, from 1.
    pub number: i32,
    /// Its grade's name; no comma in it.
    pub grade: String,
    /// Its price.
    pub price: Money,
    /// Metres to the right of the stage's middle, in whole centimetres.
    pub x: f32,
    /// Metres from the stage, in whole centimetres.
    pub y: f32,
}

impl Seat {
    /// See [`label`].
    #[must_use]
    pub fn label(&self) -> String {
        label(&self.section, &self.row, self.number)
    }
}

/// `<section>-<row>-<number>`, or `<section>-<number>` for a place, which has no row. Neither has
/// another reading, since names have no hyphen.
#[must_use]
pub fn label(section: &str, row: &str, number: i32) -> String {
    if row.is_empty() {
        format!("{section}-{number}")
    } else {
        format!("{section}-{row}-{number}")
    }
}

/// A layout's name for caches: SHA-256 over one line per seat, in hexadecimal. The same seats have
/// the same hash, whoever computes it from the rows.
///
/// # Panics
/// Never: writing to a string can't fail.
#[must_use]
pub fn hash(seats: &[Seat]) -> String {
    let mut digest = Sha256::new();
    let mut line = String::new();
    for (seat_no, seat) in seats.iter().enumerate() {
        line.clear();
        let Seat {
            section,
            row,
            number,
            grade,
            price,
            x,
            y,
        } = seat;
        let won = price.to_won();
        writeln!(
            line,
            "{seat_no},{section},{row},{number},{grade},{won},{x:.2},{y:.2}"
        )
        .expect("writing to a string can't fail");
        digest.update(&line);
    }
    digest
        .finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string can't fail");
            text
        })
}

/// Whole centimetres, without a negative zero: what the hash is made of must survive the column's
/// `real`.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    reason = "a place on a plan is a few kilometres at most"
)]
pub fn centimetres(metres: f64) -> f32 {
    ((metres * 100.0).round() / 100.0 + 0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_a_function_of_the_seats() {
        let seat = |number, won| Seat {
            section: "A".into(),
            row: "1".into(),
            number,
            grade: "R".into(),
            price: Money::won(won),
            x: centimetres(-0.001),
            y: centimetres(1.234),
        };
        let all = [seat(1, 5), seat(2, 5)];
        assert_eq!(all[1].label(), "A-1-2");
        let place = Seat {
            row: String::new(),
            ..seat(12, 5)
        };
        assert_eq!(place.label(), "A-12");
        assert_ne!(hash(&[place]), hash(&[seat(12, 5)]));
        assert_eq!(hash(&all), hash(&all.clone()));
        assert_eq!(hash(&all).len(), 64);
        assert_ne!(hash(&all), hash(&all[..1]));
        assert_ne!(hash(&all), hash(&[seat(1, 5), seat(2, 6)]));
        assert_eq!(all[0].x.to_bits(), 0.0_f32.to_bits());
        assert_eq!(
            hash(&[]),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
