//! One seat map and its versions, without I/O.

use crate::gzip;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use flate2::Compression;
use onsale_schema::seats::MapChange;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;

/// A seat that nobody has.
const AVAILABLE: u8 = b'A';

/// A map that is shorter is not compressed: it would not get smaller.
const GZIP_BYTES_MIN: usize = 512;

/// Which map of a schedule it is. A later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// How often the layout was replaced whose seats these are: that makes no new version, as nothing
    /// about its seats was decided.
    pub layout_no: i64,
    /// The version.
    pub version: i64,
}

/// For clients, to whom it is opaque.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layout_no {
            0 => write!(f, "{}", self.version),
            no => write!(f, "{}.{no}", self.version),
        }
    }
}

impl FromStr for Stamp {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (version, no) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self {
            layout_no: no.parse()?,
            version: version.parse()?,
        })
    }
}

/// The state of every seat of a schedule at one version.
pub struct Map {
    stamp: Stamp,
    /// Whether there was a claim: then the layout is not replaced any more.
    is_settled: bool,
    /// One letter per seat.
    seats: Vec<u8>,
    remaining: u32,
    rendered: Option<Rendered>,
}

/// A map as it is sent. Cheap to clone.
#[derive(Clone)]
pub struct Rendered(Arc<Document>);

struct Document {
    /// Of the version, whatever its form: it is a weak one.
    etag: HeaderValue,
    /// `{version, remaining, seats}`.
    json: Bytes,
    /// Made when first asked for; none when it would be no smaller.
    gzip: OnceLock<Option<Bytes>>,
}

impl Rendered {
    /// Of the version.
    pub fn etag(&self) -> &HeaderValue {
        &self.0.etag
    }

    /// The form for a client that accepts gzip, or does not, and the header that says so.
    pub fn form(&self, gzip: bool) -> (HeaderMap, Bytes) {
        let Document {
            json, gzip: packed, ..
        } = &*self.0;
        // Quickly: each version is packed, and soon gone.
        let pack = || (json.len() >= GZIP_BYTES_MIN).then(|| gzip::pack(json, Compression::fast()));
        let packed = if gzip {
            packed.get_or_init(pack)
        } else {
            &None
        };
        match packed {
            Some(packed) => (gzip::encoding(), packed.clone()),
            None => (HeaderMap::new(), json.clone()),
        }
    }
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
    /// One letter per seat, by `seatNo`: `A` available, `H` held, `S` sold, `B` blocked. Places have
    /// one each, too, where the layout says; how many of a section are left is for the client to count.
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
            stamp: Stamp { layout_no, version },
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

    /// Which one it is.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Takes over what the map before knew: no layout is replaced after its first claim.
    pub fn follows(&mut self, before: &Self) {
        self.is_settled |= before.is_settled && before.stamp.layout_no == self.stamp.layout_no;
    }

    /// The seats that differ in a later map of the same layout, with their letters there.
    pub fn difference<'a>(&'a self, later: &'a Self) -> Option<impl Iterator<Item = (i32, u8)>> {
        if later.stamp.layout_no != self.stamp.layout_no
            || later.seats.len() != self.seats.len()
            || later.stamp < self.stamp
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
            Some(no) if no > self.stamp.layout_no => return Applied::Gap,
            // The beat of an owner who has not looked since then.
            Some(no) if no < self.stamp.layout_no => return Applied::Done,
            Some(_) | None => {}
        }
        if change.version <= self.stamp.version {
            return Applied::Done;
        }
        if change.from_version != self.stamp.version {
            return Applied::Gap;
        }
        for (seat, letter) in letters(change) {
            self.set(seat, letter);
            self.is_settled |= letter != AVAILABLE;
        }
        self.stamp.version = change.version;
        self.count();
        self.rendered = None;
        Applied::Done
    }

    /// The document of this version; written when first asked for.
    pub fn rendered(&mut self) -> Rendered {
        let (stamp, remaining, seats) = (self.stamp, self.remaining, &self.seats);
        self.rendered
            .get_or_insert_with(|| {
                let mut json = Vec::with_capacity(seats.len() + 64);
                let version = stamp.version;
                let head =
                    format!("{{\"version\":{version},\"remaining\":{remaining},\"seats\":\"");
                json.extend_from_slice(head.as_bytes());
                json.extend_from_slice(seats);
                json.extend_from_slice(b"\"}");
                let etag = HeaderValue::try_from(format!("W/\"{stamp}\""));
                Rendered(Arc::new(Document {
                    etag: etag.expect("it is visible ASCII"),
                    json: json.into(),
                    gzip: OnceLock::new(),
                }))
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
        String::from_utf8(map.rendered().form(false).1.to_vec()).unwrap()
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
        assert_eq!(map.rendered().etag(), "W/\"4\"");
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
        assert_eq!(map.rendered().etag(), "W/\"0.2\"");
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
    fn stamps_are_read_as_they_are_written_and_in_order() {
        let stamp = |layout_no, version| Stamp { layout_no, version };
        for (one, text) in [
            (stamp(0, 7), "7"),
            (stamp(2, 0), "0.2"),
            (stamp(1, 9), "9.1"),
        ] {
            assert_eq!(one.to_string(), text);
            assert_eq!(text.parse(), Ok(one));
        }
        for nonsense in ["", ".", "7.", ".2", "7.2.1", "x", "7 "] {
            assert!(nonsense.parse::<Stamp>().is_err(), "{nonsense}");
        }
        assert!(stamp(0, 9) < stamp(1, 0) && stamp(1, 0) < stamp(1, 1));
    }

    #[test]
    fn who_takes_gzip_gets_a_long_map_so() {
        let unpacked = |map: &Rendered| {
            let (headers, packed) = map.form(true);
            assert_eq!(headers["content-encoding"], "gzip");
            gzip::Body::unpack(packed).unwrap().plain().clone()
        };
        let mut map = Map::new(0, 1, 50_000, (0..50_000).step_by(3).map(|n| (n, b'S')));
        let (headers, plain) = map.rendered().form(false);
        assert!(headers.is_empty());
        for _ in 0..2 {
            assert_eq!(unpacked(&map.rendered()), plain);
            assert!(map.rendered().form(true).1.len() < plain.len() / 10);
        }
        // Each version anew.
        assert_eq!(map.apply(&change(1, 2, &[(0, None)])), Applied::Done);
        let next = unpacked(&map.rendered());
        assert!(next != plain && next == map.rendered().form(false).1);
        let (headers, short) = Map::new(0, 1, 4, std::iter::empty()).rendered().form(true);
        assert!(headers.is_empty());
        assert_eq!(short, &br#"{"version":1,"remaining":4,"seats":"AAAA"}"#[..]);
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
