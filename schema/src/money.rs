//! Money: whole won over an exact decimal, never a float.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

/// An amount of Korean won. `NUMERIC` in tables, `{"amount": 99000, "currency": "KRW"}` in JSON,
/// an integer in MessagePack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, AsExpression, FromSqlRow)]
#[diesel(sql_type = sql_types::Numeric)]
pub struct Money(Decimal);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// A number of won.
    #[must_use]
    pub fn won(amount: i64) -> Self {
        Self(Decimal::from(amount))
    }

    /// The exact decimal.
    #[must_use]
    pub fn decimal(self) -> Decimal {
        self.0
    }

    /// The whole won. Amounts are whole by construction; beyond 64 bits it saturates.
    #[must_use]
    pub fn to_won(self) -> i64 {
        self.0.to_i64().unwrap_or(if self.0.is_sign_negative() {
            i64::MIN
        } else {
            i64::MAX
        })
    }

    /// So many percent of it, rounded to `unit` won and never more than the whole.
    #[must_use]
    pub fn share(self, percent: u32, unit: u32, strategy: RoundingStrategy) -> Self {
        let unit = Decimal::from(unit.max(1));
        let exact = self.0 * Decimal::from(percent) / Decimal::ONE_HUNDRED;
        let rounded = (exact / unit).round_dp_with_strategy(0, strategy) * unit;
        Self(rounded.min(self.0))
    }

    /// Whether it is more than nothing.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.0 > Decimal::ZERO
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}
impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KRW", self.0.normalize())
    }
}
impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The currency of every amount; one for now, named on the wire so that clients never guess.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Currency {
    #[serde(rename = "KRW")]
    Krw,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyJson {
    amount: i64,
    currency: Currency,
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            MoneyJson {
                amount: self.to_won(),
                currency: Currency::Krw,
            }
            .serialize(serializer)
        } else {
            serializer.serialize_i64(self.to_won())
        }
    }
}
impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            MoneyJson::deserialize(deserializer).map(|m| Self::won(m.amount))
        } else {
            i64::deserialize(deserializer).map(Self::won)
        }
    }
}

impl FromSql<sql_types::Numeric, Pg> for Money {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let exact = <Decimal as FromSql<sql_types::Numeric, Pg>>::from_sql(value)?;
        if exact.fract() != Decimal::ZERO {
            return Err("an amount of won has a fraction".into());
        }
        Ok(Self(exact))
    }
}
impl ToSql<sql_types::Numeric, Pg> for Money {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <Decimal as ToSql<sql_types::Numeric, Pg>>::to_sql(&self.0, &mut out.reborrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_forms() {
        let m = Money::won(99_000);
        let packed = rmp_serde::to_vec(&m).unwrap();
        assert_eq!(rmp_serde::from_slice::<Money>(&packed).unwrap(), m);
        assert_eq!(m.to_string(), "99000 KRW");
        assert_eq!(
            [m, Money::won(1)].into_iter().sum::<Money>(),
            Money::won(99_001)
        );
    }
}
