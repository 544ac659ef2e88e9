//! A layout as it is shown.

use super::Seat;
use super::store::Row;
use onsale_schema::Money;
use serde::Serialize;
use utoipa::ToSchema;

/// The seats of a date, in the order of their numbers.
#[derive(Serialize, ToSchema)]
#[schema(as = Layout)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    /// Names this version.
    layout_hash: &'a str,
    sections: Vec<SectionView<'a>>,
}

/// A section of a layout: of rows or, for general admission, of places.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutSection)]
#[serde(untagged)]
enum SectionView<'a> {
    Rows {
        #[schema(example = "A")]
        name: &'a str,
        rows: Vec<RowView<'a>>,
    },
    Places {
        #[schema(example = "FLOOR")]
        name: &'a str,
        places: PlacesView<'a>,
    },
}

/// A row of a section.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutRow)]
struct RowView<'a> {
    #[schema(example = "1")]
    name: &'a str,
    seats: Vec<SeatView<'a>>,
}

/// A seat of a row.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutSeat)]
#[serde(rename_all = "camelCase")]
struct SeatView<'a> {
    /// Its index in the seat map.
    #[schema(minimum = 0)]
    seat_no: i32,
    /// What it is called: `<section>-<row>-<number>`.
    #[schema(example = "A-1-12")]
    label: &'a str,
    #[schema(example = "VIP")]
    grade: &'a str,
    price: Money,
    /// Where it is drawn.
    x: f32,
    /// Where it is drawn.
    y: f32,
}

/// The places of a section. In the seat map they have as many letters, one after the other, from
/// `firstSeatNo`: those that are `A` are left.
#[derive(Serialize, ToSchema)]
#[schema(as = LayoutPlaces)]
#[serde(rename_all = "camelCase")]
struct PlacesView<'a> {
    /// The index of the first in the seat map.
    #[schema(minimum = 0)]
    first_seat_no: i32,
    #[schema(minimum = 1)]
    count: u32,
    #[schema(example = "R")]
    grade: &'a str,
    /// Of one.
    price: Money,
    /// Where they are drawn.
    x: f32,
    /// Where they are drawn.
    y: f32,
}

/// The layout, as it is sent.
pub(super) fn document(hash: &str, rows: &[Row], seats: &[Seat]) -> Vec<u8> {
    let mut sections: Vec<SectionView<'_>> = Vec::new();
    for (row, seat) in rows.iter().zip(seats) {
        if seat.is_place {
            add_place(&mut sections, row);
        } else {
            add_seat(&mut sections, row, &seat.label);
        }
    }
    let document = Document {
        layout_hash: hash,
        sections,
    };
    serde_json::to_vec(&document).expect("a layout has a JSON form")
}

fn add_seat<'a>(sections: &mut Vec<SectionView<'a>>, row: &'a Row, label: &'a str) {
    let (seat_no, section, row_name, _, grade, price, x, y) = row;
    let view = SeatView {
        seat_no: *seat_no,
        label,
        grade,
        price: *price,
        x: *x,
        y: *y,
    };
    let new_row = |seat| RowView {
        name: row_name,
        seats: vec![seat],
    };
    match sections.last_mut() {
        Some(SectionView::Rows { name, rows }) if name == section => match rows.last_mut() {
            Some(last) if last.name == row_name => last.seats.push(view),
            Some(_) | None => rows.push(new_row(view)),
        },
        Some(_) | None => sections.push(SectionView::Rows {
            name: section,
            rows: vec![new_row(view)],
        }),
    }
}

fn add_place<'a>(sections: &mut Vec<SectionView<'a>>, row: &'a Row) {
    let (seat_no, section, _, _, grade, price, x, y) = row;
    match sections.last_mut() {
        Some(SectionView::Places { name, places }) if name == section => places.count += 1,
        Some(_) | None => sections.push(SectionView::Places {
            name: section,
            places: PlacesView {
                first_seat_no: *seat_no,
                count: 1,
                grade,
                price: *price,
                x: *x,
                y: *y,
            },
        }),
    }
}
