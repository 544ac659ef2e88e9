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

/// A section of a layout to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSection<'a> {
    /// Up to 32 characters, without hyphens, commas and quotation marks.
    #[serde(borrow)]
    #[schema(example = "A", max_length = 32)]
    name: Cow<'a, str>,
    rows: Vec<NewRow<'a>>,
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
        for (r, row) in section.rows.iter().enumerate() {
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

/// A seat as it was written.
struct Wanted<'a> {
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
    rows: Vec<Row>,
    by_name: HashMap<String, usize>,
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
            (number.is_none(), "/number", "invalid-number"),
            (grade.is_none(), "/grade", "invalid-grade"),
            (won.is_none(), "/price", "invalid-price"),
            (place.is_none(), "", "invalid-place"),
        ] {
            if is_wrong {
                self.error(at(member), code);
            }
        }
        let (Some(section), Some(row)) = (section, row) else {
            return;
        };
        let (Some(number), Some(grade), Some(won), Some(place)) = (number, grade, won, place)
        else {
            return;
        };
        if self.seats > SEATS_MAX {
            return;
        }
        let row = self.row(section, row);
        if row.numbers.insert(number) {
            row.seats.push(Placed {
                number,
                grade: grade.to_owned(),
                price: Money::won(won),
                place,
            });
        } else {
            self.error(at(""), "duplicate-seat");
        }
    }

    fn row(&mut self, section: &str, row: &str) -> &mut Row {
        let sections = &mut self.sections;
        let at = *self.by_name.entry(section.to_owned()).or_insert_with(|| {
            sections.push(Section {
                name: section.to_owned(),
                ..Section::default()
            });
            sections.len() - 1
        });
        let Section { rows, by_name, .. } = &mut self.sections[at];
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

    /// The seats, each where it is said to be, or else in a block of its section.
    fn seats(self) -> Vec<Seat> {
        let blocks = Blocks::new(&self.sections);
        let mut seats = Vec::with_capacity(self.seats);
        for (s, section) in self.sections.into_iter().enumerate() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceId;
    use axum::http::HeaderMap;
    use onsale_schema::layout;

    fn errors(read: Result<Vec<Seat>, Problem>) -> Vec<String> {
        let problem = read.expect_err("something is wrong");
        let json = problem.to_json(&TraceId::of(&HeaderMap::new()));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let errors = json["errors"].as_array().unwrap().iter();
        errors
            .map(|e| {
                format!(
                    "{} {}",
                    e["pointer"].as_str().unwrap(),
                    e["code"].as_str().unwrap()
                )
            })
            .collect()
    }

    fn read_json(text: &str) -> Result<Vec<Seat>, Problem> {
        json(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn labels(seats: &[Seat]) -> Vec<String> {
        seats.iter().map(Seat::label).collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let lines = "\u{feff}section,row,number,grade,price\r\n A , 1 ,1, VIP ,150000\r\n\
                     B,1,7,\"R\",99000\r\n\r\nA,1,2,VIP,150000\r\nA,가,1,R,0";
        let from_csv = csv(lines.as_bytes()).unwrap();
        assert_eq!(labels(&from_csv), ["A-1-1", "A-1-2", "A-가-1", "B-1-7"]);
        let won = |n: i64| format!(r#"{{"amount":{n},"currency":"KRW"}}"#);
        let seat = |number, grade: &str, n| {
            format!(
                r#"{{"number":{number},"grade":"{grade}","price":{}}}"#,
                won(n)
            )
        };
        let text = format!(
            r#"{{"sections":[{{"name":"A","rows":[{{"name":"1","seats":[{},{}]}},
               {{"name":"가","seats":[{}]}}]}},{{"name":"B","rows":[{{"name":"1","seats":[{}]}}]}}]}}"#,
            seat(1, "VIP", 150_000),
            seat(2, "VIP", 150_000),
            seat(1, "R", 0),
            seat(7, "R", 99_000)
        );
        let from_json = read_json(&text).unwrap();
        assert_eq!(from_csv, from_json);
        assert_eq!(layout::hash(&from_csv), layout::hash(&from_json));
    }

    #[test]
    fn lines_are_named_with_what_is_wrong() {
        let head = "section,row,number,grade,price\n";
        let text = format!(
            "{head}A,1,1,VIP,1\nA,1,1,VIP,1\n\nA-1,1,2,VIP,1\nA,\"1,2\",2,VIP,1\nA,1,0,VIP,1\n\
             A,1,x,VIP,1\nA,1,3,,1\nA,1,4,R,-1\nA,1,5,R,100000001\nA,1,6,R\nA,1,+7,R,1.5\n"
        );
        let expected = [
            "/lines/3 duplicate-seat",
            "/lines/5 invalid-section",
            "/lines/6 invalid-row",
            "/lines/7 invalid-number",
            "/lines/8 invalid-number",
            "/lines/9 invalid-grade",
            "/lines/10 invalid-price",
            "/lines/11 invalid-price",
            "/lines/12 invalid-columns",
            "/lines/13 invalid-number",
            "/lines/13 invalid-price",
        ];
        assert_eq!(errors(csv(text.as_bytes())), expected);
        assert_eq!(errors(csv(b"")), ["/lines/1 invalid-header"]);
        assert_eq!(
            errors(csv(b"a,b\nA,1,1,R,1\n")),
            ["/lines/1 invalid-header"]
        );
        assert_eq!(errors(csv(head.as_bytes())), ["/lines too-few"]);
        let bytes = [head.as_bytes(), b"A\xff,1,1,R,1\n"].concat();
        assert_eq!(errors(csv(&bytes)), ["/lines/2 invalid-encoding"]);
        let control = format!("{head}A\u{1},1,1,R,1\nA,1,1,{},1\n", "x".repeat(33));
        assert_eq!(
            errors(csv(control.as_bytes())),
            ["/lines/2 invalid-section", "/lines/3 invalid-grade"]
        );
        let crlf = format!(
            "{}\r\n\r\nA,1,0,R,1\r\nA,1,1,R,1\r\nA,1,0,R,1",
            head.trim_end()
        );
        assert_eq!(
            errors(csv(crlf.as_bytes())),
            ["/lines/3 invalid-number", "/lines/5 invalid-number"]
        );
        let quoted = format!("{head}\"A,1,1,R,1\nA,1,2,R,1\n");
        assert_eq!(errors(csv(quoted.as_bytes())), ["/lines/2 invalid-columns"]);
    }

    #[test]
    fn at_most_a_hundred_errors_are_listed() {
        let head = "section,row,number,grade,price\n";
        let text = format!("{head}{}", "A,1,0,R,1\n".repeat(500));
        let errors = errors(csv(text.as_bytes()));
        assert_eq!(errors.len(), ERRORS_MAX);
        assert_eq!(errors[99], "/lines/101 invalid-number");
    }

    #[test]
    fn there_is_an_end_to_seats() {
        let mut text = "section,row,number,grade,price\n".to_owned();
        for n in 0..=SEATS_MAX {
            let (row, number) = (n / 90_000, n % 90_000 + 1);
            text.push_str(&format!("A,{row},{number},R,1\n"));
        }
        assert_eq!(errors(csv(text.as_bytes())), ["/lines too-many"]);
        let last = text.trim_end().rfind('\n').unwrap();
        assert_eq!(csv(&text.as_bytes()[..last]).unwrap().len(), SEATS_MAX);
    }

    #[test]
    fn members_are_pointed_at() {
        let text = r#"{"sections":[
            {"name":"","rows":[{"name":"1","seats":[
                {"number":0,"grade":"R","price":{"amount":-1,"currency":"KRW"}}]}]},
            {"name":"B","rows":[{"name":"1-2","seats":[]},{"name":"2","seats":[
                {"number":1,"grade":"a,b","price":{"amount":1,"currency":"KRW"},"x":1},
                {"number":2,"grade":"R","price":{"amount":1,"currency":"KRW"},"x":1,"y":20000},
                {"number":3,"grade":"R","price":{"amount":1,"currency":"KRW"},"x":-0.001,"y":1},
                {"number":3,"grade":"R","price":{"amount":1,"currency":"KRW"}}]}]}]}"#;
        let expected = [
            "/sections/0/name invalid-section",
            "/sections/0/rows/0/seats/0/number invalid-number",
            "/sections/0/rows/0/seats/0/price invalid-price",
            "/sections/1/rows/0/name invalid-row",
            "/sections/1/rows/1/seats/0/grade invalid-grade",
            "/sections/1/rows/1/seats/0 invalid-place",
            "/sections/1/rows/1/seats/1 invalid-place",
            "/sections/1/rows/1/seats/3 duplicate-seat",
        ];
        assert_eq!(errors(read_json(text)), expected);
        assert_eq!(
            errors(read_json(r#"{"sections":[]}"#)),
            ["/sections too-few"]
        );
        let wrong = r#"{"sections":[{"name":"A","rows":[{"name":"1","seats":[{"number":1.5}]}]}]}"#;
        assert_eq!(
            errors(read_json(wrong)),
            ["/sections/0/rows/0/seats/0/number invalid-type"]
        );
    }

    #[test]
    fn who_is_not_placed_gets_a_place_of_their_own() {
        let mut text = "section,row,number,grade,price\n".to_owned();
        for section in 0..7 {
            for (row, number) in (0..5).flat_map(|row| (1..=9 + row).map(move |n| (row, n))) {
                text.push_str(&format!("S{section},{row},{number},R,1\n"));
            }
        }
        let seats = csv(text.as_bytes()).unwrap();
        let places: HashSet<(u32, u32)> = seats
            .iter()
            .map(|seat| (seat.x.to_bits(), seat.y.to_bits()))
            .collect();
        assert_eq!(places.len(), seats.len());
        assert!(seats.iter().all(|seat| seat.y >= 4.0));
    }
}
