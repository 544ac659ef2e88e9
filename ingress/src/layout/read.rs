//! Reading a layout that somebody wrote, as JSON or as CSV: all that is wrong is said at once, with
//! its line or its JSON pointer; what is right becomes seats in the order of their numbers.

use crate::extract::{JsonBody, not_null};
use crate::problem::{FieldError, Problem};
use axum::body::Bytes;
use csv::{ByteRecord, ReaderBuilder, Trim};
use onsale_schema::Money;
use onsale_schema::layout::{Seat, centimetres};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use utoipa::ToSchema;

#[cfg(test)]
mod any;
#[cfg(test)]
mod tests;

/// The most seats of a layout.
const SEATS_MAX: usize = 100_000;
/// The most errors that are listed; there may be more.
const ERRORS_MAX: usize = 100;
/// The longest name of a section, row or grade, in characters.
const NAME_CHARS_MAX: usize = 32;
/// What a seat's number may be.
const NUMBERS: std::ops::RangeInclusive<i64> = 1..=99_999;
/// What a seat may cost, in won.
const PRICES_WON: std::ops::RangeInclusive<i64> = 0..=100_000_000;
/// How far from the stage's middle a seat may be, in metres.
const PLACE_M_MAX: f64 = 10_000.0;
/// The first line of a CSV layout.
const HEADER: [&str; 5] = ["section", "row", "number", "grade", "price"];

/// A layout to be put in place of another.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLayout<'a> {
    /// In the order of their seats' numbers. One that comes twice is one section.
    #[serde(borrow)]
    #[schema(min_items = 1)]
    sections: Vec<NewSection<'a>>,
}

/// A section of a layout to be: either of rows or, for general admission, of places.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "name": "A", "rows": [{ "name": "1", "seats": [
    { "number": 1, "grade": "VIP", "price": { "amount": 165_000, "currency": "KRW" } }] }] }))]
struct NewSection<'a> {
    /// Up to 32 characters, without hyphens, commas and quotation marks.
    #[serde(borrow)]
    #[schema(example = "A", max_length = 32)]
    name: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "not_null")]
    #[schema(nullable = false, value_type = Vec<NewRow>)]
    rows: Option<Vec<NewRow<'a>>>,
    #[serde(borrow, default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    places: Option<NewPlaces<'a>>,
}

/// A row of a section to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRow<'a> {
    /// Up to 32 characters, without hyphens, commas and quotation marks.
    #[serde(borrow)]
    #[schema(example = "1", max_length = 32)]
    name: Cow<'a, str>,
    seats: Vec<NewSeat<'a>>,
}

/// A seat of a row to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSeat<'a> {
    /// Its number in the row.
    #[schema(minimum = 1, maximum = 99_999)]
    number: i64,
    /// Up to 32 characters, without commas and quotation marks.
    #[serde(borrow)]
    #[schema(example = "VIP", max_length = 32)]
    grade: Cow<'a, str>,
    price: Money,
    /// Metres to the right of the stage's middle. With `y` or not at all; without them a place is
    /// found.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    x: Option<f64>,
    /// Metres from the stage.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    y: Option<f64>,
}

/// The places of a section without rows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPlaces<'a> {
    #[schema(minimum = 1, maximum = 99_999)]
    count: i64,
    /// Up to 32 characters, without commas and quotation marks.
    #[serde(borrow)]
    #[schema(example = "R", max_length = 32)]
    grade: Cow<'a, str>,
    /// Of one.
    price: Money,
    /// Metres to the right of the stage's middle. With `y` or not at all.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    x: Option<f64>,
    /// Metres from the stage.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    y: Option<f64>,
}

/// Reads JSON.
///
/// # Errors
/// `malformed-json`, `validation-failed` with JSON pointers.
pub fn json(body: Bytes) -> Result<Vec<Seat>, Problem> {
    let body = JsonBody::from(body);
    let layout: NewLayout<'_> = body.parse()?;
    let mut plan = Plan::default();
    for (s, section) in layout.sections.iter().enumerate() {
        let at = format!("/sections/{s}");
        let section_name = plan.name(&section.name, || format!("{at}/name"), "invalid-section");
        let rows = match (&section.rows, &section.places) {
            (Some(rows), None) => rows,
            (None, Some(places)) => {
                let wanted = Wanted {
                    number: Some(places.count),
                    grade: &places.grade,
                    won: Some(places.price.to_won()),
                    place: (places.x, places.y),
                };
                plan.add_places(section_name.as_deref(), &wanted, |member| {
                    format!("{at}/places{member}")
                });
                continue;
            }
            (Some(_), Some(_)) => {
                plan.error(format!("{at}/places"), "not-with-rows");
                continue;
            }
            (None, None) => {
                plan.error(format!("{at}/rows"), "missing-field");
                continue;
            }
        };
        if section_name
            .as_deref()
            .is_some_and(|name| plan.has_places(name))
        {
            plan.error(format!("{at}/rows"), "not-with-places");
            continue;
        }
        for (r, row) in rows.iter().enumerate() {
            let at = format!("{at}/rows/{r}");
            let row_name = plan.name(&row.name, || format!("{at}/name"), "invalid-row");
            for (n, seat) in row.seats.iter().enumerate() {
                let wanted = Wanted {
                    number: Some(seat.number),
                    grade: &seat.grade,
                    won: Some(seat.price.to_won()),
                    place: (seat.x, seat.y),
                };
                let (section, row) = (section_name.as_deref(), row_name.as_deref());
                plan.add(section, row, &wanted, |member| {
                    format!("{at}/seats/{n}{member}")
                });
            }
        }
    }
    plan.finish(|| "/sections".to_owned())
}

/// Reads CSV; a byte-order mark and either kind of line end are fine.
///
/// # Errors
/// `validation-failed` with lines.
pub fn csv(body: &[u8]) -> Result<Vec<Seat>, Problem> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(body);
    let mut plan = Plan::default();
    let mut record = ByteRecord::new();
    let mut is_headed = false;
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                // From memory, with any number of columns: there is no such error.
                tracing::error!(%error, "a CSV layout could not be read");
                return Err(Problem::internal());
            }
        }
        let line = record.position().map_or(1, |at| line_of(body, at));
        let at = || format!("/lines/{line}");
        if !is_headed {
            is_headed = true;
            if !record.iter().eq(HEADER.map(str::as_bytes)) {
                plan.error(at(), "invalid-header");
            }
            continue;
        }
        let Some(texts) = texts(&record) else {
            plan.error(at(), "invalid-encoding");
            continue;
        };
        let [section, row, number, grade, price] = texts[..] else {
            plan.error(at(), "invalid-columns");
            continue;
        };
        let wanted = Wanted {
            number: whole(number),
            grade,
            won: whole(price),
            place: (None, None),
        };
        let section = plan.name(section, at, "invalid-section");
        if row.trim().is_empty() {
            plan.add_places(section.as_deref(), &wanted, |_| at());
            continue;
        }
        let row = plan.name(row, at, "invalid-row");
        plan.add(section.as_deref(), row.as_deref(), &wanted, |_| at());
    }
    if !is_headed {
        plan.error("/lines/1".to_owned(), "invalid-header");
    }
    plan.finish(|| "/lines".to_owned())
}

/// The line on which a record begins; the reader counts from before the empty lines that it skips.
fn line_of(body: &[u8], at: &csv::Position) -> u64 {
    let begin = usize::try_from(at.byte()).unwrap_or(usize::MAX);
    let skipped = body.get(begin..).unwrap_or_default().iter();
    let skipped = skipped.take_while(|byte| matches!(byte, b'\r' | b'\n'));
    at.line() + skipped.filter(|byte| **byte == b'\n').count() as u64
}

fn texts(record: &ByteRecord) -> Option<Vec<&str>> {
    record
        .iter()
        .map(|field| std::str::from_utf8(field).ok())
        .collect()
}

/// A whole number in digits only.
fn whole(text: &str) -> Option<i64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// A name, trimmed, if it is one. Labels are joined with hyphens and lines of the hash with commas.
fn name_of<'t>(text: &'t str, forbidden: &[char]) -> Option<&'t str> {
    let text = text.trim();
    let chars = text.chars().take(NAME_CHARS_MAX + 1).count();
    let is_one = (1..=NAME_CHARS_MAX).contains(&chars)
        && !text
            .chars()
            .any(|c| c.is_control() || forbidden.contains(&c));
    is_one.then_some(text)
}

/// A seat, or the places of a section, as it was written.
struct Wanted<'a> {
    /// Of the seat, or how many places.
    number: Option<i64>,
    grade: &'a str,
    won: Option<i64>,
    place: (Option<f64>, Option<f64>),
}

/// What was read so far.
#[derive(Default)]
struct Plan {
    sections: Vec<Section>,
    by_name: HashMap<String, usize>,
    seats: usize,
    errors: Vec<FieldError>,
}

#[derive(Default)]
struct Section {
    name: String,
    /// Of places, a section has no rows.
    rows: Vec<Row>,
    by_name: HashMap<String, usize>,
    /// The number is how many there are.
    places: Option<Placed>,
}

#[derive(Default)]
struct Row {
    name: String,
    seats: Vec<Placed>,
    numbers: HashSet<i32>,
}

struct Placed {
    number: i32,
    grade: String,
    price: Money,
    place: Option<(f64, f64)>,
}

impl Plan {
    fn error(&mut self, pointer: String, code: &'static str) {
        if self.errors.len() < ERRORS_MAX {
            let pointer = Cow::Owned(pointer);
            self.errors.push(FieldError { pointer, code });
        }
    }

    fn name(
        &mut self,
        text: &str,
        at: impl FnOnce() -> String,
        code: &'static str,
    ) -> Option<String> {
        let name = name_of(text, &['-', ',', '"']);
        if name.is_none() {
            self.error(at(), code);
        }
        name.map(str::to_owned)
    }

    /// Adds a seat to its row, or what is wrong with it; `at` says where a member of it stands.
    fn add(
        &mut self,
        section: Option<&str>,
        row: Option<&str>,
        wanted: &Wanted<'_>,
        at: impl Fn(&str) -> String,
    ) {
        self.seats += 1;
        let placed = self.check(wanted, ("/number", "invalid-number"), &at);
        let (Some(section), Some(row), Some(placed)) = (section, row, placed) else {
            return;
        };
        if self.seats > SEATS_MAX {
            return;
        }
        if self.has_places(section) {
            self.error(at(""), "not-with-places");
            return;
        }
        let row = self.row(section, row);
        if row.numbers.insert(placed.number) {
            row.seats.push(placed);
        } else {
            self.error(at(""), "duplicate-seat");
        }
    }

    /// Adds the places of a section, or what is wrong with them.
    fn add_places(
        &mut self,
        section: Option<&str>,
        wanted: &Wanted<'_>,
        at: impl Fn(&str) -> String,
    ) {
        let placed = self.check(wanted, ("/count", "invalid-count"), &at);
        let count = placed.as_ref().map_or(1, |placed| placed.number);
        self.seats += usize::try_from(count).unwrap_or(1);
        let (Some(section), Some(placed)) = (section, placed) else {
            return;
        };
        if self.seats > SEATS_MAX {
            return;
        }
        let known = self.section(section);
        if !known.rows.is_empty() {
            self.error(at(""), "not-with-rows");
        } else if known.places.is_some() {
            self.error(at(""), "duplicate-section");
        } else {
            known.places = Some(placed);
        }
    }

    fn has_places(&self, section: &str) -> bool {
        let known = self.by_name.get(section);
        known.is_some_and(|&at| self.sections[at].places.is_some())
    }

    /// What is wrong with a seat, or with places, is noted; `number` says where their number stands
    /// and what is said of a wrong one.
    fn check(
        &mut self,
        wanted: &Wanted<'_>,
        number: (&'static str, &'static str),
        at: impl Fn(&str) -> String,
    ) -> Option<Placed> {
        let (number_member, invalid_number) = number;
        let number = wanted.number.filter(|number| NUMBERS.contains(number));
        let number = number.and_then(|number| i32::try_from(number).ok());
        let won = wanted.won.filter(|won| PRICES_WON.contains(won));
        let grade = name_of(wanted.grade, &[',', '"']);
        let place = match wanted.place {
            (None, None) => Some(None),
            (Some(x), Some(y)) if x.abs() <= PLACE_M_MAX && y.abs() <= PLACE_M_MAX => {
                Some(Some((x, y)))
            }
            _ => None,
        };
        for (is_wrong, member, code) in [
            (number.is_none(), number_member, invalid_number),
            (grade.is_none(), "/grade", "invalid-grade"),
            (won.is_none(), "/price", "invalid-price"),
            (place.is_none(), "", "invalid-place"),
        ] {
            if is_wrong {
                self.error(at(member), code);
            }
        }
        Some(Placed {
            number: number?,
            grade: grade?.to_owned(),
            price: Money::won(won?),
            place: place?,
        })
    }

    fn section(&mut self, section: &str) -> &mut Section {
        let sections = &mut self.sections;
        let at = *self.by_name.entry(section.to_owned()).or_insert_with(|| {
            sections.push(Section {
                name: section.to_owned(),
                ..Section::default()
            });
            sections.len() - 1
        });
        &mut self.sections[at]
    }

    fn row(&mut self, section: &str, row: &str) -> &mut Row {
        let Section { rows, by_name, .. } = self.section(section);
        let at = *by_name.entry(row.to_owned()).or_insert_with(|| {
            rows.push(Row {
                name: row.to_owned(),
                ..Row::default()
            });
            rows.len() - 1
        });
        &mut rows[at]
    }

    fn finish(mut self, at: impl FnOnce() -> String) -> Result<Vec<Seat>, Problem> {
        if self.seats > SEATS_MAX {
            self.errors.insert(0, error(at(), "too-many"));
            self.errors.truncate(ERRORS_MAX);
        } else if self.seats == 0 && self.errors.is_empty() {
            self.errors.push(error(at(), "too-few"));
        }
        if self.errors.is_empty() {
            Ok(self.seats())
        } else {
            Err(Problem::validation(self.errors))
        }
    }

    /// The seats, each where it is said to be, or else in a block of its section; all places of a
    /// section are at one point.
    fn seats(self) -> Vec<Seat> {
        let blocks = Blocks::new(&self.sections);
        let mut seats = Vec::with_capacity(self.seats);
        for (s, section) in self.sections.into_iter().enumerate() {
            if let Some(places) = section.places {
                let (x, y) = places.place.unwrap_or_else(|| blocks.place(s, 0, 0, 1));
                seats.extend((1..=places.number).map(|number| Seat {
                    section: section.name.clone(),
                    row: String::new(),
                    number,
                    grade: places.grade.clone(),
                    price: places.price,
                    x: centimetres(x),
                    y: centimetres(y),
                }));
            }
            for (r, row) in section.rows.into_iter().enumerate() {
                let count = row.seats.len();
                for (n, seat) in row.seats.into_iter().enumerate() {
                    let (x, y) = seat.place.unwrap_or_else(|| blocks.place(s, r, n, count));
                    seats.push(Seat {
                        section: section.name.clone(),
                        row: row.name.clone(),
                        number: seat.number,
                        grade: seat.grade,
                        price: seat.price,
                        x: centimetres(x),
                        y: centimetres(y),
                    });
                }
            }
        }
        seats
    }
}

fn error(pointer: String, code: &'static str) -> FieldError {
    FieldError {
        pointer: Cow::Owned(pointer),
        code,
    }
}

/// Where seats are that nobody has placed: each section is a block, and the blocks stand in a grid
/// before the stage.
struct Blocks {
    per_line: usize,
    width_m: f64,
    depth_m: f64,
}

const SEAT_M: f64 = 0.6;
const ROW_M: f64 = 1.0;
const AISLE_M: f64 = 2.0;
const STAGE_M: f64 = 4.0;

impl Blocks {
    fn new(sections: &[Section]) -> Self {
        let rows = sections.iter().flat_map(|section| &section.rows);
        let widest = rows.map(|row| row.seats.len()).max().unwrap_or(0);
        let deepest = sections.iter().map(|section| section.rows.len()).max();
        Self {
            per_line: sections.len().isqrt().max(1),
            width_m: metres(widest) * SEAT_M + AISLE_M,
            depth_m: metres(deepest.unwrap_or(0)) * ROW_M + AISLE_M,
        }
    }

    /// The place of the seat with index `n` of `count` in a row.
    fn place(&self, section: usize, row: usize, n: usize, count: usize) -> (f64, f64) {
        let (line, column) = (section / self.per_line, section % self.per_line);
        let from_middle = metres(2 * column + 1) - metres(self.per_line);
        let middle_m = from_middle / 2.0 * self.width_m;
        let in_row = (metres(2 * n + 1) - metres(count)) / 2.0 * SEAT_M;
        let front_m = STAGE_M + metres(line) * self.depth_m;
        (middle_m + in_row, front_m + metres(row) * ROW_M)
    }
}

/// A count as a factor of lengths.
fn metres(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
