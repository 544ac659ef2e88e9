//! By which rules a buyer may cancel what is paid: until when, and what it costs. Stored with the
//! date as JSON, and shown so.

use crate::money::Money;
use crate::time::Timestamp;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use rust_decimal::RoundingStrategy;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use utoipa::ToSchema;

/// A day, in milliseconds: days before a date are counted as whole times of 24 hours before its
/// beginning. Dates have no time zone, so a calendar's days would be nobody's.
pub const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long before the beginning cancelling may end, in seconds: ten years.
pub const UNTIL_S: RangeInclusive<i64> = 0..=DAYS_MAX * DAY_MS / 1000;
/// The most days before the beginning at which a step may begin.
pub const DAYS_MAX: i64 = 3650;
/// The most steps.
pub const STEPS_MAX: usize = 20;
/// What fees may be rounded to, in won.
pub const UNITS: [u32; 4] = [1, 10, 100, 1000];

/// What cancelling costs from so many days before the beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CancellationFee)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// As long as at least so many whole times of 24 hours are left.
    #[schema(minimum = 0, maximum = 3650, example = 10)]
    pub days_before: i64,
    /// Of the price of each seat that is cancelled.
    #[schema(minimum = 0, maximum = 100, example = 10)]
    pub percent: u32,
}

/// How a fee that is no whole number of units is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Rounding {
    /// To the nearer one, a half up.
    HalfUp,
    /// To the nearer one, a half down.
    HalfDown,
    /// To the nearer one, a half to the even one.
    HalfEven,
    /// Up, but never above the price.
    Up,
    /// Down.
    Down,
}

impl Rounding {
    /// The same by its name in arithmetic.
    #[must_use]
    pub fn strategy(self) -> RoundingStrategy {
        match self {
            Self::HalfUp => RoundingStrategy::MidpointAwayFromZero,
            Self::HalfDown => RoundingStrategy::MidpointTowardZero,
            Self::HalfEven => RoundingStrategy::MidpointNearestEven,
            Self::Up => RoundingStrategy::AwayFromZero,
            Self::Down => RoundingStrategy::ToZero,
        }
    }
}

/// Until when a buyer may cancel, and what it costs. A show that is cancelled refunds everything,
/// whatever these say.
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, AsExpression, FromSqlRow,
)]
#[diesel(sql_type = sql_types::Jsonb)]
#[schema(as = CancellationRules)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Cancelling ends so long before the beginning; `null`: what is paid can't be cancelled by its
    /// buyer.
    #[schema(minimum = 0, maximum = 315_360_000)]
    pub until_seconds_before: Option<i64>,
    /// What it costs, the step with the most days first; the last one is from 0 days on. Free of
    /// charge where there is none.
    #[schema(max_items = 20)]
    pub fees: Vec<Step>,
    /// How the fee of a seat is rounded.
    pub rounding: Rounding,
    /// To what it is rounded, in won: 1, 10, 100 or 1000.
    #[schema(minimum = 1, maximum = 1000, example = 1)]
    pub unit: u32,
}

impl Default for Rules {
    /// Free of charge until the beginning.
    fn default() -> Self {
        Self {
            until_seconds_before: Some(0),
            fees: Vec::new(),
            rounding: Rounding::HalfUp,
            unit: 1,
        }
    }
}

/// Why rules make no sense; each names the member that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not within [`UNTIL_S`].
    #[error("untilSecondsBefore is out of bounds")]
    Until,
    /// More than [`STEPS_MAX`].
    #[error("there are too many fees")]
    TooManySteps,
    /// Days or percent of this step are out of bounds.
    #[error("fee {0} is out of bounds")]
    Step(usize),
    /// This step doesn't have fewer days than the one before, or costs less.
    #[error("fee {0} is not in order")]
    Order(usize),
    /// The last step is not from 0 days on, so that nothing is said of the last days.
    #[error("no fee is said for the last days")]
    NoLast,
    /// None of [`UNITS`].
    #[error("unit is none")]
    Unit,
}

impl Rules {
    /// Everything that is wrong with them.
    #[must_use]
    pub fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut unless = |is_right: bool, what| {
            if !is_right {
                wrong.push(what);
            }
        };
        let until = self.until_seconds_before;
        unless(until.is_none_or(|s| UNTIL_S.contains(&s)), Wrong::Until);
        unless(self.fees.len() <= STEPS_MAX, Wrong::TooManySteps);
        for (at, step) in self.fees.iter().enumerate().take(STEPS_MAX) {
            let is_within = (0..=DAYS_MAX).contains(&step.days_before) && step.percent <= 100;
            unless(is_within, Wrong::Step(at));
            let before = at.checked_sub(1).map(|before| self.fees[before]);
            let is_later = |before: Step| {
                before.days_before > step.days_before && before.percent <= step.percent
            };
            unless(before.is_none_or(is_later), Wrong::Order(at));
        }
        unless(
            self.fees.last().is_none_or(|last| last.days_before == 0),
            Wrong::NoLast,
        );
        unless(UNITS.contains(&self.unit), Wrong::Unit);
        wrong
    }

    /// When cancelling ends; `None` when it never begins.
    #[must_use]
    pub fn closes_at(&self, starts_at: Timestamp) -> Option<Timestamp> {
        let seconds = self.until_seconds_before?;
        Some(starts_at.plus_ms(-seconds * 1000))
    }

    /// The part of a price that these rules keep, rounded.
    #[must_use]
    pub fn share(&self, price: Money, percent: u32) -> Money {
        price.share(percent, self.unit, self.rounding.strategy())
    }
}

impl FromSql<sql_types::Jsonb, Pg> for Rules {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let json = <serde_json::Value as FromSql<sql_types::Jsonb, Pg>>::from_sql(value)?;
        Ok(serde_json::from_value(json)?)
    }
}

impl ToSql<sql_types::Jsonb, Pg> for Rules {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let json = serde_json::to_value(self)?;
        <serde_json::Value as ToSql<sql_types::Jsonb, Pg>>::to_sql(&json, &mut out.reborrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(days_before: i64, percent: u32) -> Step {
        Step {
            days_before,
            percent,
        }
    }

    #[test]
    fn rules_are_checked() {
        let rules = |fees: &[Step]| Rules {
            fees: fees.to_vec(),
            ..Rules::default()
        };
        assert_eq!(Rules::default().check(), []);
        assert_eq!(rules(&[step(10, 0), step(3, 10), step(0, 30)]).check(), []);
        for (fees, wrong) in [
            (vec![step(10, 0)], Wrong::NoLast),
            (vec![step(0, 101)], Wrong::Step(0)),
            (vec![step(3651, 0), step(0, 1)], Wrong::Step(0)),
            (vec![step(3, 10), step(3, 20), step(0, 30)], Wrong::Order(1)),
            (vec![step(3, 10), step(0, 9)], Wrong::Order(1)),
        ] {
            assert_eq!(rules(&fees).check(), [wrong], "{fees:?}");
        }
        let many: Vec<Step> = (0..=20).map(|n| step(20 - n, 5)).collect();
        assert!(rules(&many).check().contains(&Wrong::TooManySteps));
        let other = Rules {
            until_seconds_before: Some(-1),
            unit: 7,
            ..Rules::default()
        };
        assert_eq!(other.check(), [Wrong::Until, Wrong::Unit]);
    }

    #[test]
    fn what_the_table_says_by_default_are_the_default_rules() {
        let stored = r#"{"untilSecondsBefore": 0, "fees": [], "rounding": "HALF_UP", "unit": 1}"#;
        assert_eq!(
            serde_json::from_str::<Rules>(stored).unwrap(),
            Rules::default()
        );
    }
}
