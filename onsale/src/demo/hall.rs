//! A schedule as the API shows it: layout and live map, and three free seats side by side.

use anyhow::Context;
use onsale_schema::{Money, ScheduleId};
use serde::Deserialize;

use super::client::Client;

/// `GET …/layout`.
#[derive(Debug, Deserialize)]
pub struct Layout {
    sections: Vec<Section>,
}

#[derive(Debug, Deserialize)]
struct Section {
    name: String,
    /// None of a section of places, which it does not ask for.
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    seats: Vec<Seat>,
}

/// One seat of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seat {
    /// Its place in the map.
    pub seat_no: usize,
    /// `<section>-<row>-<number>`.
    pub label: String,
    /// Its grade.
    pub grade: String,
    /// Its price.
    pub price: Money,
}

/// `GET …/seats`.
#[derive(Debug, Deserialize)]
pub struct Map {
    /// Grows with each change.
    pub version: i64,
    /// Seats that are available.
    pub remaining: usize,
    seats: String,
}

/// Seats side by side, and the row that they are in.
#[derive(Debug)]
pub struct Choice {
    /// The seats.
    pub seats: Vec<Seat>,
    section: String,
    row: String,
    row_seats: Vec<usize>,
}

/// Reads the layout of a schedule.
///
/// # Errors
/// When it can't be had.
pub async fn layout(client: &Client, schedule: ScheduleId) -> anyhow::Result<Layout> {
    client
        .get(&format!("/schedules/{schedule}/layout"))
        .await
        .with_context(|| format!("schedule {schedule} of the demo (`onsale seed` makes it)"))
}

/// Reads its map.
///
/// # Errors
/// When it can't be had.
pub async fn map(client: &Client, schedule: ScheduleId) -> anyhow::Result<Map> {
    client.get(&format!("/schedules/{schedule}/seats")).await
}

impl Map {
    /// The state of a seat: `A`, `H`, `S` or `B`.
    #[must_use]
    pub fn state(&self, seat_no: usize) -> char {
        self.seats
            .as_bytes()
            .get(seat_no)
            .map_or('?', |letter| char::from(*letter))
    }

    /// How many seats are in a state.
    #[must_use]
    pub fn count(&self, state: char) -> usize {
        self.seats.chars().filter(|letter| *letter == state).count()
    }
}

impl Layout {
    /// So many available seats side by side, as near to the stage as there are.
    #[must_use]
    pub fn side_by_side(&self, map: &Map, count: usize) -> Option<Choice> {
        choose(self.rows(), map, count)
    }

    /// The same as far from the stage as there are, where nobody else looks first.
    #[must_use]
    pub fn at_the_back(&self, map: &Map, count: usize) -> Option<Choice> {
        choose(self.rows().rev(), map, count)
    }

    fn rows(&self) -> impl DoubleEndedIterator<Item = (&str, &Row)> {
        let sections = self.sections.iter();
        sections.flat_map(|section| section.rows.iter().map(|row| (section.name.as_str(), row)))
    }
}

fn choose<'a>(
    mut rows: impl Iterator<Item = (&'a str, &'a Row)>,
    map: &Map,
    count: usize,
) -> Option<Choice> {
    rows.find_map(|(section, row)| {
        let is_free = |seat: &Seat| map.state(seat.seat_no) == 'A';
        let free = row
            .seats
            .windows(count)
            .find(|seats| seats.iter().all(is_free))?;
        Some(Choice {
            seats: free.to_vec(),
            section: section.to_owned(),
            row: row.name.clone(),
            row_seats: row.seats.iter().map(|seat| seat.seat_no).collect(),
        })
    })
}

impl Choice {
    /// The labels of the seats.
    #[must_use]
    pub fn labels(&self) -> Vec<&str> {
        self.seats.iter().map(|seat| seat.label.as_str()).collect()
    }

    /// Whether all seats are in a state.
    #[must_use]
    pub fn all_are(&self, map: &Map, state: char) -> bool {
        self.seats
            .iter()
            .all(|seat| map.state(seat.seat_no) == state)
    }

    /// Their row as it is on the map: `section A, row 1  ··HHH···`.
    #[must_use]
    pub fn picture(&self, map: &Map) -> String {
        let letters: String = self
            .row_seats
            .iter()
            .map(|seat_no| match map.state(*seat_no) {
                'A' => '·',
                taken => taken,
            })
            .collect();
        format!("section {}, row {}  {letters}", self.section, self.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn layout() -> Layout {
        let seat = |seat_no: usize| {
            json!({"seatNo": seat_no, "label": format!("A-1-{}", seat_no + 1), "grade": "R",
                   "price": {"amount": 1000, "currency": "KRW"}})
        };
        let row = |name: &str, seats: std::ops::Range<usize>| json!({"name": name, "seats": seats.map(seat).collect::<Vec<_>>()});
        let rows = [row("1", 0..4), row("2", 4..8)];
        serde_json::from_value(json!({"sections": [{"name": "A", "rows": rows}]})).unwrap()
    }

    fn map(seats: &str) -> Map {
        let remaining = seats.matches('A').count();
        Map {
            version: 1,
            remaining,
            seats: seats.to_owned(),
        }
    }

    #[test]
    fn free_seats_are_side_by_side_in_one_row() {
        let layout = layout();
        let choose = |seats: &str| {
            let choice = layout.side_by_side(&map(seats), 3)?;
            Some(
                choice
                    .seats
                    .iter()
                    .map(|seat| seat.seat_no)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(choose("AAAAAAAA"), Some(vec![0, 1, 2]));
        assert_eq!(choose("SAAAAAAA"), Some(vec![1, 2, 3]));
        assert_eq!(
            choose("AASAAAAA"),
            Some(vec![4, 5, 6]),
            "a row's end is no neighbour"
        );
        assert_eq!(choose("AASAAHAB"), None);
        let back = layout.at_the_back(&map("AAAAAAAA"), 3).unwrap();
        assert_eq!(back.seats[0].seat_no, 4);
    }

    #[test]
    fn a_picture_of_the_row() {
        let choice = layout().side_by_side(&map("SAAAAAAA"), 3).unwrap();
        assert_eq!(choice.picture(&map("SHHHAAAA")), "section A, row 1  SHHH");
        assert!(choice.all_are(&map("SHHHAAAA"), 'H'));
        assert!(!choice.all_are(&map("SHHAAAAA"), 'H'));
    }
}
