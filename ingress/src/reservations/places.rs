//! Places of sections without seats: asked for and shown by their count.

use super::wish::Label;
use crate::layout::Layout;
use crate::problem::FieldError;
use onsale_schema::seats::Places;
use onsale_schema::{Money, SeatNo};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// Sections that one request may name.
const SECTIONS_MAX: usize = 10;
/// Places that one request may want of a section.
const COUNT_MAX: u32 = 100;

/// Places that are wanted of a section without seats.
#[derive(Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[schema(as = WantedPlaces)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedPlaces<'a> {
    /// The section.
    #[serde(borrow)]
    #[schema(value_type = String, example = "FLOOR")]
    section: Label<'a>,
    /// How many.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    count: u32,
}

impl WantedPlaces<'_> {
    /// The section.
    pub(super) fn section(&self) -> &str {
        self.section.text()
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// The same for who decides.
    pub(super) fn named(&self) -> Places {
        Places {
            section: self.section.text().to_owned(),
            count: self.count,
        }
    }
}

/// Places of a section, and the price of each.
#[derive(Serialize, ToSchema)]
#[schema(as = ReservedPlaces)]
pub(super) struct PlacesView<'a> {
    #[schema(example = "FLOOR")]
    section: &'a str,
    #[schema(minimum = 1)]
    count: u32,
    /// Of one.
    price: Money,
}

/// The first that makes no sense.
pub(super) fn check(wanted: &[WantedPlaces<'_>]) -> Option<FieldError> {
    match wanted.len() {
        0 => return Some(FieldError::at("/places", "too-few")),
        1..=SECTIONS_MAX => {}
        _ => return Some(FieldError::at("/places", "too-many")),
    }
    wanted.iter().enumerate().find_map(|(at, places)| {
        if !(1..=COUNT_MAX).contains(&places.count) {
            Some(error(at, "count", "invalid-value"))
        } else if wanted[..at].iter().any(|w| w.section == places.section) {
            Some(error(at, "section", "duplicate"))
        } else {
            None
        }
    })
}

/// The same for the owner.
///
/// # Errors
/// The sections that the layout has not, or has as sections of rows.
pub(super) fn named(
    wanted: &[WantedPlaces<'_>],
    layout: &Layout,
) -> Result<Vec<Places>, Vec<FieldError>> {
    let wrong = wanted.iter().enumerate().filter_map(|(at, places)| {
        let section = places.section.text();
        let code = match (layout.has_places(section), layout.has_section(section)) {
            (true, _) => return None,
            (false, true) => "section-of-rows",
            (false, false) => "unknown-section",
        };
        Some(error(at, "section", code))
    });
    let wrong: Vec<FieldError> = wrong.collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(wanted.iter().map(WantedPlaces::named).collect())
}

/// The places among a reservation's seats, by section, in the order asked.
pub(super) fn views<'a>(layout: &'a Layout, seats: &[SeatNo]) -> Vec<PlacesView<'a>> {
    let mut views: Vec<PlacesView<'a>> = Vec::new();
    for seat in seats.iter().filter_map(|&no| layout.seat(no)) {
        let Some(section) = seat.place_in() else {
            continue;
        };
        match views.iter_mut().find(|view| view.section == section) {
            Some(view) => view.count += 1,
            None => views.push(PlacesView {
                section,
                count: 1,
                price: seat.price,
            }),
        }
    }
    views
}

fn error(at: usize, member: &str, code: &'static str) -> FieldError {
    FieldError {
        pointer: Cow::Owned(format!("/places/{at}/{member}")),
        code,
    }
}
