//! Hand-written statements that are prepared once per connection.
//!
//! `diesel::sql_query` takes every text for a dynamic one and prepares it anew each time, which
//! costs a round trip per statement. These texts are constants, so the statement cache may keep
//! them.

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Untyped};
use std::marker::PhantomData;

/// The money of a date that is on its way, as a table of one row for a constant SQL text; how the date's
/// id is called there is given. Whoever says whether all of it has come to rest means the same by it.
///
/// - `is_paying`: whether some may still be captured, or is and has come to nothing yet;
/// - `pending`: refunds through the gateway that are on their way, whatever they are for;
/// - `failed`: those that the gateway did not take, which are somebody's to see to.
#[macro_export]
macro_rules! money_on_its_way {
    ($schedule:literal) => {
        concat!(
            "(SELECT EXISTS (SELECT FROM payment_order AS o \
                             WHERE o.schedule_id = ",
            $schedule,
            " AND o.status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING')) \
                         AS is_paying, \
                     (SELECT count(*) FROM refund AS f JOIN payment_order AS o USING (order_id) \
                      WHERE o.schedule_id = ",
            $schedule,
            " AND f.status IN ('PENDING', 'RESOLVING')) AS pending, \
                     (SELECT count(*) FROM refund AS f JOIN payment_order AS o USING (order_id) \
                      WHERE o.schedule_id = ",
            $schedule,
            " AND f.status = 'STUCK') AS failed)"
        )
    };
}

/// A constant SQL text with `$1`, `$2`, … for what is bound to it, in order.
#[must_use]
pub fn statement(sql: &'static str) -> Statement {
    Statement { sql }
}

/// See [`statement`]. Rows are read by the names of their columns.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    sql: &'static str,
}

impl Statement {
    /// Binds the first value.
    #[must_use]
    pub fn bind<ST, V>(self, value: V) -> Bound<Self, V, ST> {
        Bound::new(self, value)
    }
}

/// A statement with some values bound.
#[derive(Clone, Copy, Debug)]
pub struct Bound<Q, V, ST> {
    query: Q,
    value: V,
    sql_type: PhantomData<ST>,
}

impl<Q, V, ST> Bound<Q, V, ST> {
    fn new(query: Q, value: V) -> Self {
        Self {
            query,
            value,
            sql_type: PhantomData,
        }
    }

    /// Binds the next value.
    #[must_use]
    pub fn bind<ST2, V2>(self, value: V2) -> Bound<Self, V2, ST2> {
        Bound::new(self, value)
    }
}

impl QueryFragment<Pg> for Statement {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(self.sql);
        Ok(())
    }
}

impl<Q, V, ST> QueryFragment<Pg> for Bound<Q, V, ST>
where
    Q: QueryFragment<Pg>,
    V: ToSql<ST, Pg>,
    Pg: HasSqlType<ST>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.query.walk_ast(out.reborrow())?;
        out.push_bind_param_value_only(&self.value)
    }
}

// Cached by text and bind types.
impl QueryId for Statement {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}
impl<Q, V, ST> QueryId for Bound<Q, V, ST> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement {
    type SqlType = Untyped;
}
impl<Q, V, ST> Query for Bound<Q, V, ST> {
    type SqlType = Untyped;
}

#[cfg(test)]
mod tests {
    use super::*;
    use diesel::sql_types::{Array, BigInt, Text};

    #[test]
    fn may_be_cached_and_binds_in_order() {
        let query = statement("SELECT $1, unnest($2)")
            .bind::<Text, _>("a")
            .bind::<Array<BigInt>, _>(vec![1_i64]);
        assert!(query.is_safe_to_cache_prepared(&Pg).unwrap());
        let text = diesel::debug_query::<Pg, _>(&query).to_string();
        assert_eq!(text, r#"SELECT $1, unnest($2) -- binds: ["a", [1]]"#);
    }
}
