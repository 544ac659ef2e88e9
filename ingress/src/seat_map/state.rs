//! One seat map and its versions, without I/O.

use axum::body::Bytes;
use axum::http::HeaderValue;
use onsale_schema::seats::MapChange;
use utoipa::ToSchema;

/// A seat that nobody has.
const AVAILABLE: u8 = b'A';

/// The state of every seat of a schedule at one version.
pub struct Map {
    version: i64,
    /// One letter per seat.
    seats: Vec<u8>,
    remaining: u32,
    rendered: Option<Rendered>,
}

/// A map as it is sent.
#[derive(Clone)]
pub struct Rendered {
    /// Of the version.
    pub etag: HeaderValue,
    /// `{version, remaining, seats}`.
    pub json: Bytes,
}

/// The state of every seat of a date.
#[derive(ToSchema)]
#[schema(as = SeatMap)]
#[allow(dead_code, reason = "describes what is written by hand")]
pub struct View {
    /// Grows with each change.
    #[schema(minimum = 0)]
    version: i64,
    /// Seats that nobody has.
    remaining: u32,
    /// One letter per seat, by `seatNo`: `A` available, `H` held, `S` sold, `B` blocked.
    #[schema(pattern = "^[AHSB]*$", example = "AAHHSB")]
    seats: String,
}

/// The seats of a change, with their new letters.
pub fn letters(change: &MapChange) -> impl Iterator<Item = (i32, u8)> {
    change.changes.iter().map(|(seat, claim)| {
        let letter = claim.map_or(AVAILABLE, |state| state.as_str().as_bytes()[0]);
        (seat.0, letter)
    })
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Applied, or known already.
    Done,
    /// A change before it is missing.
    Gap,
}

impl Map {
    /// A map of `total` seats, with the claimed ones and their letters.
    pub fn new(version: i64, total: usize, claims: impl Iterator<Item = (i32, u8)>) -> Self {
        let mut map = Self {
            version,
            seats: vec![AVAILABLE; total],
            remaining: 0,
            rendered: None,
        };
        for (seat, letter) in claims {
            map.set(seat, letter);
        }
        map.count();
        map
    }

    /// Which version it is.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The seats that differ in a later map of the same layout, with their letters there.
    pub fn difference<'a>(&'a self, later: &'a Self) -> Option<impl Iterator<Item = (i32, u8)>> {
        if later.seats.len() != self.seats.len() || later.version < self.version {
            return None;
        }
        let pairs = self.seats.iter().zip(&later.seats);
        Some(
            (0..)
                .zip(pairs)
                .filter_map(|(seat, (old, new))| (old != new).then_some((seat, *new))),
        )
    }

    /// Seats that are available.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Takes in what the owner broadcast.
    pub fn apply(&mut self, change: &MapChange) -> Applied {
        if change.version <= self.version {
            return Applied::Done;
        }
        if change.from_version != self.version {
            return Applied::Gap;
        }
        for (seat, letter) in letters(change) {
            self.set(seat, letter);
        }
        self.version = change.version;
        self.count();
        self.rendered = None;
        Applied::Done
    }

    /// The document of this version; written when first asked for.
    pub fn rendered(&mut self) -> Rendered {
        let (version, remaining, seats) = (self.version, self.remaining, &self.seats);
        self.rendered
            .get_or_insert_with(|| {
                let mut json = Vec::with_capacity(seats.len() + 64);
                let head =
                    format!("{{\"version\":{version},\"remaining\":{remaining},\"seats\":\"");
                json.extend_from_slice(head.as_bytes());
                json.extend_from_slice(seats);
                json.extend_from_slice(b"\"}");
                Rendered {
                    etag: HeaderValue::try_from(format!("W/\"{version}\""))
                        .expect("digits and quotes are visible ASCII"),
                    json: json.into(),
                }
            })
            .clone()
    }

    fn set(&mut self, seat: i32, letter: u8) {
        match usize::try_from(seat)
            .ok()
            .and_then(|at| self.seats.get_mut(at))
        {
            Some(state) => *state = letter,
            None => tracing::error!(seat, "a change is for a seat that the layout doesn't have"),
        }
    }

    fn count(&mut self) {
        let free = self.seats.iter().filter(|&&seat| seat == AVAILABLE).count();
        self.remaining = u32::try_from(free).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::status::ClaimState;
    use onsale_schema::{ScheduleId, SeatNo, Timestamp};
    use uuid::Uuid;

    fn change(from_version: i64, version: i64, changes: &[(i32, Option<ClaimState>)]) -> MapChange {
        MapChange {
            schedule_id: ScheduleId(Uuid::nil()),
            from_version,
            version,
            at: Timestamp::EPOCH,
            changes: changes.iter().map(|&(n, c)| (SeatNo(n), c)).collect(),
            layout_no: None,
        }
    }

    fn text(map: &mut Map) -> String {
        String::from_utf8(map.rendered().json.to_vec()).unwrap()
    }

    #[test]
    fn changes_apply_in_order_once() {
        let mut map = Map::new(3, 4, [(1, b'S'), (2, b'B')].into_iter());
        assert_eq!(
            text(&mut map),
            r#"{"version":3,"remaining":2,"seats":"ASBA"}"#
        );
        let held = [
            (0, Some(ClaimState::Held)),
            (9, Some(ClaimState::Held)),
            (2, None),
        ];
        assert_eq!(map.apply(&change(3, 4, &held)), Applied::Done);
        assert_eq!(
            map.apply(&change(3, 4, &[(3, Some(ClaimState::Held))])),
            Applied::Done
        );
        assert_eq!(
            text(&mut map),
            r#"{"version":4,"remaining":2,"seats":"HSAA"}"#
        );
        assert_eq!(map.rendered().etag, "W/\"4\"");
    }

    #[test]
    fn differences_are_of_one_layout_and_forward() {
        let old = Map::new(3, 4, [(1, b'S'), (2, b'B')].into_iter());
        let new = Map::new(5, 4, [(0, b'H'), (1, b'S')].into_iter());
        let seats: Vec<_> = old.difference(&new).unwrap().collect();
        assert_eq!(seats, [(0, b'H'), (2, b'A')]);
        assert_eq!(new.difference(&new).unwrap().count(), 0);
        assert!(new.difference(&old).is_none());
        let other = Map::new(9, 5, std::iter::empty());
        assert!(old.difference(&other).is_none());
    }

    #[test]
    fn gaps_and_beats() {
        let mut map = Map::new(3, 1, std::iter::empty());
        assert_eq!(map.apply(&change(3, 3, &[])), Applied::Done);
        assert_eq!(map.apply(&change(2, 2, &[])), Applied::Done);
        assert_eq!(map.apply(&change(4, 4, &[])), Applied::Gap);
        assert_eq!(map.apply(&change(4, 5, &[])), Applied::Gap);
        assert_eq!(map.apply(&change(2, 4, &[])), Applied::Gap);
        assert_eq!(text(&mut map), r#"{"version":3,"remaining":1,"seats":"A"}"#);
    }
}
