//! What seats a request wants, and the command that says so by what a layout calls its seats.

use super::places::{self, WantedPlaces};
use crate::extract::not_null;
use crate::layout::Layout;
use crate::problem::{Code, FieldError, Problem};
use onsale_schema::admission::Pass;
use onsale_schema::seats::Kind;
use onsale_schema::{Money, ReservationId, ScheduleId, SeatNo};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// Seats that one request may name.
const SEATS_MAX: usize = 100;

/// Seats and places to be held, all or none: either seats that are named and places that are counted,
/// or the best seats that are free.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({ "scheduleId": "0197f5a4-5f3b-7c1e-9d7a-3a1b2c3d4e5f",
    "seats": ["A-1-1", "A-1-2"] }))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewReservation<'a> {
    pub(super) schedule_id: ScheduleId,
    /// The labels of seats.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = Vec<String>, min_items = 1, max_items = 100,
        example = json!(["A-1-1", "A-1-2"]))]
    seats: Option<Vec<Label<'a>>>,
    /// How many places of which sections; not with `bestAvailable`.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = Vec<WantedPlaces>, min_items = 1, max_items = 10)]
    places: Option<Vec<WantedPlaces<'a>>>,
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    best_available: Option<BestAvailable<'a>>,
}

/// The best of the free seats: beside each other and leaving no single seat alone; else beside each
/// other; else in groups that are near to each other, in one section, with nobody alone; else any.
/// Better are seats of a better grade, and then those nearer to the stage. Places of sections without
/// seats are never among them.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BestAvailable<'a> {
    /// How many.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    count: u32,
    /// Only of this section; one of rows.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = String)]
    section: Option<Label<'a>>,
    /// Only of this grade.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = String)]
    grade: Option<Label<'a>>,
    /// None that costs more.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    max_price: Option<Money>,
}

/// What seats are wanted.
pub(super) enum Wish<'a> {
    Named(&'a [Label<'a>], &'a [WantedPlaces<'a>]),
    Best(&'a BestAvailable<'a>),
}

/// A name as the client wrote it, not copied unless it has escapes.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Label<'a>(#[serde(borrow)] Cow<'a, str>);

impl Label<'_> {
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// The first label that makes no sense.
pub(super) fn check_labels(labels: &[Label<'_>]) -> Option<FieldError> {
    match labels.len() {
        0 => Some(FieldError::at("/seats", "too-few")),
        1..=SEATS_MAX => (1..labels.len())
            .find(|&at| labels[..at].contains(&labels[at]))
            .map(|at| seat_error(at, "duplicate")),
        _ => Some(FieldError::at("/seats", "too-many")),
    }
}

impl NewReservation<'_> {
    /// What is wanted, if it makes sense.
    pub(super) fn wish(&self) -> Result<Wish<'_>, Problem> {
        let wrong = |error| Err(Problem::validation(vec![error]));
        match (&self.seats, &self.places, &self.best_available) {
            (None, None, None) => wrong(FieldError::at("/seats", "missing-field")),
            (Some(_), _, Some(_)) => wrong(FieldError::at("/bestAvailable", "not-with-seats")),
            (_, Some(_), Some(_)) => wrong(FieldError::at("/bestAvailable", "not-with-places")),
            (seats, places, None) => {
                let (seats, places) = (seats.as_deref(), places.as_deref());
                let error = seats.and_then(check_labels);
                let error = error.or_else(|| places.and_then(places::check));
                let (seats, places) = (seats.unwrap_or_default(), places.unwrap_or_default());
                error.map_or(Ok(Wish::Named(seats, places)), wrong)
            }
            (None, None, Some(best)) => {
                if !(1..=SEATS_MAX).contains(&(best.count as usize)) {
                    wrong(FieldError::at("/bestAvailable/count", "invalid-value"))
                } else if best.max_price.is_some_and(|price| price < Money::ZERO) {
                    wrong(FieldError::at("/bestAvailable/maxPrice", "invalid-value"))
                } else {
                    Ok(Wish::Best(best))
                }
            }
        }
    }
}

impl Wish<'_> {
    /// The command's kind, by what this layout calls its seats.
    pub(super) fn kind(
        &self,
        reservation_id: ReservationId,
        schedule_id: ScheduleId,
        layout: &Layout,
        pass: Option<Pass>,
    ) -> Result<Kind, Problem> {
        let layout_no = Some(layout.no());
        Ok(match self {
            Self::Named(labels, wanted) => {
                match (seat_nos(labels, layout), places::named(wanted, layout)) {
                    (Ok(seats), Ok(places)) => Kind::Hold {
                        reservation_id,
                        schedule_id,
                        seats,
                        places,
                        layout_no,
                        pass,
                    },
                    (seats, places) => {
                        let errors = [seats.err(), places.err()].into_iter().flatten().flatten();
                        return Err(Problem::new(Code::UnknownSeat).errors(errors.collect()));
                    }
                }
            }
            Self::Best(best) => {
                best.check_names(layout)?;
                let owned = |name: &Option<Label<'_>>| {
                    name.as_ref().map(|Label(name)| name.clone().into_owned())
                };
                Kind::HoldBest {
                    reservation_id,
                    schedule_id,
                    count: best.count,
                    section: owned(&best.section),
                    grade: owned(&best.grade),
                    max_price: best.max_price,
                    layout_no,
                    pass,
                }
            }
        })
    }
}

impl BestAvailable<'_> {
    fn check_names(&self, layout: &Layout) -> Result<(), Problem> {
        let is_known = |name: &Option<Label<'_>>, has: &dyn Fn(&str) -> bool| {
            name.as_ref().is_none_or(|Label(name)| has(name))
        };
        let mut errors = Vec::new();
        if self.section.is_some() && is_known(&self.section, &|name| layout.has_places(name)) {
            errors.push(FieldError::at(
                "/bestAvailable/section",
                "section-of-places",
            ));
        } else if !is_known(&self.section, &|name| layout.has_section(name)) {
            errors.push(FieldError::at("/bestAvailable/section", "unknown-section"));
        }
        if !is_known(&self.grade, &|name| layout.has_grade(name)) {
            errors.push(FieldError::at("/bestAvailable/grade", "unknown-grade"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::new(Code::UnknownSeat).errors(errors))
        }
    }
}

fn seat_nos(labels: &[Label<'_>], layout: &Layout) -> Result<Vec<SeatNo>, Vec<FieldError>> {
    let found: Option<Vec<SeatNo>> = labels
        .iter()
        .map(|label| layout.by_label(&label.0))
        .collect();
    found.ok_or_else(|| {
        let unknown = labels.iter().enumerate();
        let unknown = unknown.filter(|(_, label)| layout.by_label(&label.0).is_none());
        unknown
            .map(|(at, _)| seat_error(at, "unknown-seat"))
            .collect()
    })
}

pub(super) fn seat_error(at: usize, code: &'static str) -> FieldError {
    FieldError {
        pointer: Cow::Owned(format!("/seats/{at}")),
        code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn wanted(seats: &[&'static str]) -> NewReservation<'static> {
        NewReservation {
            schedule_id: ScheduleId(Uuid::nil()),
            seats: Some(seats.iter().map(|&label| Label(label.into())).collect()),
            places: None,
            best_available: None,
        }
    }

    #[test]
    fn seats_are_named_once_and_not_too_many() {
        assert!(wanted(&["A-1-1", "A-1-2"]).wish().is_ok());
        assert!(wanted(&["A-1-1"; 1]).wish().is_ok());
        let errors = |seats: &[&'static str]| wanted(seats).wish().err().unwrap();
        let expected = |error| Problem::validation(vec![error]);
        assert_eq!(errors(&[]), expected(FieldError::at("/seats", "too-few")));
        assert_eq!(
            errors(&["x"; 101]),
            expected(FieldError::at("/seats", "too-many"))
        );
        assert_eq!(
            errors(&["a", "b", "a"]),
            expected(FieldError::at("/seats/2", "duplicate"))
        );
    }

    #[test]
    fn places_are_of_a_section_each_and_not_too_many() {
        let wish = |text: &str| {
            let body = format!(r#"{{"scheduleId":"{}",{text}}}"#, Uuid::nil());
            let read: NewReservation<'_> = serde_json::from_str(&body).unwrap();
            read.wish().err()
        };
        let of =
            |section: &str, count: u32| format!(r#"{{"section":"{section}","count":{count}}}"#);
        let (one, other) = (of("F", 1), of("G", 100));
        assert_eq!(wish(&format!(r#""places":[{one},{other}]"#)), None);
        assert_eq!(
            wish(&format!(r#""seats":["A-1-1"],"places":[{one}]"#)),
            None
        );
        let best = r#""bestAvailable":{"count":1}"#;
        for (text, pointer, code) in [
            (r#""places":[]"#.to_owned(), "/places", "too-few"),
            (
                format!(r#""seats":[],"places":[{one}]"#),
                "/seats",
                "too-few",
            ),
            (
                format!(r#""places":[{}]"#, [&*one; 11].join(",")),
                "/places",
                "too-many",
            ),
            (
                format!(r#""places":[{one},{one}]"#),
                "/places/1/section",
                "duplicate",
            ),
            (
                format!(r#""places":[{one},{}]"#, of("G", 0)),
                "/places/1/count",
                "invalid-value",
            ),
            (
                format!(r#""places":[{}]"#, of("G", 101)),
                "/places/0/count",
                "invalid-value",
            ),
            (
                format!(r#""places":[{one}],{best}"#),
                "/bestAvailable",
                "not-with-places",
            ),
        ] {
            let expected = Problem::validation(vec![FieldError::at(pointer, code)]);
            assert_eq!(wish(&text), Some(expected), "{text}");
        }
    }

    #[test]
    fn labels_may_have_escapes() {
        let body =
            r#"{"scheduleId":"00000000-0000-0000-0000-000000000000","seats":["A\u002d1","B"]}"#;
        let read: NewReservation<'_> = serde_json::from_str(body).unwrap();
        let seats = read.seats.unwrap();
        assert_eq!(seats, [Label("A-1".into()), Label("B".into())]);
        assert!(matches!(seats[1].0, Cow::Borrowed(_)));
    }
}
