//! One seat map and its versions, without I/O.

use axum::body::Bytes;
use axum::http::HeaderValue;
use onsale_schema::seats::MapChange;
use utoipa::ToSchema;

/// A seat that nobody has.
const AVAILABLE: u8 = b'A';

/// The state of every seat of a schedule at one version.
pub struct Map {
    /// How often the layout was replaced whose seats these are.
    layout_no: i64,
    version: i64,
    /// Whether there was a claim: then the layout is not replaced any more.
    is_settled: bool,
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
    pub fn new(
        layout_no: i64,
        version: i64,
        total: usize,
        claims: impl Iterator<Item = (i32, u8)>,
    ) -> Self {
        let mut map = Self {
            layout_no,
            version,
            is_settled: false,
            seats: vec![AVAILABLE; total],
            remaining: 0,
            rendered: None,
        };
        for (seat, letter) in claims {
            map.set(seat, letter);
            map.is_settled = true;
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
        if later.layout_no != self.layout_no
            || later.seats.len() != self.seats.len()
            || later.version < self.version
        {
            return None;
        }
        let pairs = self.seats.iter().zip(&later.seats);
        Some(
            (0..)
                .zip(pairs)
                .filter_map(|(seat, (old, new))| (old != new).then_some((seat, *new))),
        )
    }

    /// See [`onsale_schema::seats::MapChange::layout_no`].
    pub fn layout_no(&self) -> i64 {
        self.layout_no
    }

    /// Whether the layout is known not to be replaced any more.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Seats that are available.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Takes in what the owner broadcast.
    pub fn apply(&mut self, change: &MapChange) -> Applied {
        match change.layout_no {
            // The layout was replaced.
            Some(no) if no > self.layout_no => return Applied::Gap,
            // The beat of an owner who has not looked since then.
            Some(no) if no < self.layout_no => return Applied::Done,
            Some(_) | None => {}
        }
        if change.version <= self.version {
            return Applied::Done;
        }
        if change.from_version != self.version {
            return Applied::Gap;
        }
        for (seat, letter) in letters(change) {
            self.set(seat, letter);
            self.is_settled |= letter != AVAILABLE;
        }
        self.version = change.version;
        self.count();
        self.rendered = None;
        Applied::Done
    }

    /// The document of this version; written when first asked for.
    pub fn rendered(&mut self) -> Rendered {
        let (version, remaining, seats) = (self.version, self.remaining, &self.seats);
        // A replaced layout has no new version: nothing about its seats was decided.
        let tag = match self.layout_no {
            0 => format!("W/\"{version}\""),
            no => format!("W/\"{version}.{no}\""),
        };
        self.rendered
            .get_or_insert_with(|| {
                let mut json = Vec::with_capacity(seats.len() + 64);
                let head =
                    format!("{{\"version\":{version},\"remaining\":{remaining},\"seats\":\"");
                json.extend_from_slice(head.as_bytes());
                json.extend_from_slice(seats);
                json.extend_from_slice(b"\"}");
                Rendered {
                    etag: HeaderValue::try_from(tag).expect("it is visible ASCII"),
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
        let mut map = Map::new(0, 3, 4, [(1, b'S'), (2, b'B')].into_iter());
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
        let old = Map::new(0, 3, 4, [(1, b'S'), (2, b'B')].into_iter());
        let new = Map::new(0, 5, 4, [(0, b'H'), (1, b'S')].into_iter());
        let seats: Vec<_> = old.difference(&new).unwrap().collect();
        assert_eq!(seats, [(0, b'H'), (2, b'A')]);
        assert_eq!(new.difference(&new).unwrap().count(), 0);
        assert!(new.difference(&old).is_none());
        for other in [
            Map::new(0, 9, 5, std::iter::empty()),
            Map::new(1, 9, 4, std::iter::empty()),
        ] {
            assert!(old.difference(&other).is_none());
        }
    }

    #[test]
    fn another_layout_is_a_gap_and_its_claims_settle_it() {
        let mut map = Map::new(2, 0, 2, std::iter::empty());
        assert_eq!(map.rendered().etag, "W/\"0.2\"");
        let by = |no, version, changes: &[(i32, Option<ClaimState>)]| MapChange {
            layout_no: no,
            ..change(0, version, changes)
        };
        let held = [(1, Some(ClaimState::Held))];
        assert_eq!(map.apply(&by(Some(3), 0, &[])), Applied::Gap);
        assert_eq!(map.apply(&by(Some(1), 0, &[])), Applied::Done);
        assert_eq!(map.apply(&by(Some(2), 0, &[])), Applied::Done);
        assert!(!map.is_settled());
        assert_eq!(map.apply(&by(None, 1, &held)), Applied::Done);
        assert!(map.is_settled());
        assert!(Map::new(2, 0, 2, [(0, b'H')].into_iter()).is_settled());
    }

    #[test]
    fn gaps_and_beats() {
        let mut map = Map::new(0, 3, 1, std::iter::empty());
        assert_eq!(map.apply(&change(3, 3, &[])), Applied::Done);
        assert_eq!(map.apply(&change(2, 2, &[])), Applied::Done);
        assert_eq!(map.apply(&change(4, 4, &[])), Applied::Gap);
        assert_eq!(map.apply(&change(4, 5, &[])), Applied::Gap);
        assert_eq!(map.apply(&change(2, 4, &[])), Applied::Gap);
        assert_eq!(text(&mut map), r#"{"version":3,"remaining":1,"seats":"A"}"#);
    }
}
