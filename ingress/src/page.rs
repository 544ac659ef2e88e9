//! Pages of lists: a cursor that names the last item of the page before, and a bound.

use crate::problem::{FieldError, Problem};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use onsale_schema::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;

/// The query of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Where the page before ended; the first page without it.
    #[param(value_type = String, required = false)]
    pub cursor: Option<String>,
    /// How many items, at most 100.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<String>,
}

/// What the query of a list means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageStart {
    /// After this item.
    pub after: Option<Cursor>,
    /// How many.
    pub limit: i64,
}

/// An item's place in a list: its time, or any number that sorts it, and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// What the list is sorted by first.
    pub key: i64,
    /// What it is sorted by then.
    pub id: Uuid,
}

/// The largest key of a cursor: the end of year 9999 in microseconds. A cursor is not signed, and
/// Postgres knows no times far beyond.
const KEY_MAX: i64 = 253_402_300_799_999_999;

impl Cursor {
    /// The key as a time.
    #[must_use]
    pub fn at(self) -> Timestamp {
        Timestamp::from_micros(self.key)
    }

    fn encode(self) -> String {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.key.to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (key, id) = bytes.split_at_checked(8)?;
        let key = i64::from_be_bytes(key.try_into().ok()?);
        if !(0..=KEY_MAX).contains(&key) {
            return None;
        }
        Some(Self {
            key,
            id: Uuid::from_slice(id).ok()?,
        })
    }
}

impl PageQuery {
    /// Reads it.
    ///
    /// # Errors
    /// `validation-failed` for what is no cursor or no number from 1 to 100.
    pub fn read(&self) -> Result<PageStart, Problem> {
        let invalid = |pointer| Problem::validation(vec![FieldError::at(pointer, "invalid-value")]);
        let limit = match &self.limit {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| invalid("/limit"))?,
        };
        let after = match &self.cursor {
            None => None,
            Some(text) => Some(Cursor::decode(text).ok_or_else(|| invalid("/cursor"))?),
        };
        Ok(PageStart { after, limit })
    }
}

impl PageStart {
    /// How many rows to ask for: one more than the page has tells whether there is a next one.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// Makes a page of at most `limit + 1` rows.
    pub fn page<R, T>(
        &self,
        mut rows: Vec<R>,
        cursor: impl Fn(&R) -> Cursor,
        item: impl FnMut(R) -> T,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or_default();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|row| cursor(row).encode());
        Page {
            items: rows.into_iter().map(item).collect(),
            next_cursor,
        }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The cursor of the next page; null on the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(cursor: Option<&str>, limit: Option<&str>) -> Result<PageStart, Problem> {
        PageQuery {
            cursor: cursor.map(str::to_owned),
            limit: limit.map(str::to_owned),
        }
        .read()
    }

    #[test]
    fn pages_follow_each_other() {
        let cursor = |&n: &i64| Cursor {
            key: 100 - n,
            id: Uuid::from_u128(3),
        };
        let start = query(None, Some("2")).unwrap();
        assert_eq!(start.rows(), 3);
        let page = start.page(vec![1, 2, 3], cursor, |n| n);
        assert_eq!(page.items, [1, 2]);
        let next = query(page.next_cursor.as_deref(), None).unwrap();
        assert_eq!(next.after, Some(cursor(&2)));
        assert_eq!(next.limit, LIMIT_DEFAULT);
        assert_eq!(next.page(vec![3], cursor, |n| n).next_cursor, None);
    }

    #[test]
    fn nonsense_is_refused() {
        let far = |key| {
            Cursor {
                key,
                id: Uuid::nil(),
            }
            .encode()
        };
        let (before, beyond) = (far(-1), far(KEY_MAX + 1));
        assert!(query(Some(&far(KEY_MAX)), None).is_ok());
        for (cursor, limit) in [
            (Some("x"), None),
            (Some(""), None),
            (Some(before.as_str()), None),
            (Some(beyond.as_str()), None),
            (None, Some("0")),
            (None, Some("101")),
            (None, Some("-1")),
            (None, Some("many")),
        ] {
            assert!(query(cursor, limit).is_err(), "{cursor:?} {limit:?}");
        }
    }
}
