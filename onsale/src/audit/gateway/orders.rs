//! Our orders as they are held against the gateway's book: those that a window of it must say something
//! of, and others by their ids. No other order from before the window is ever read, so that an audit
//! needs as much memory as its window has orders, however many have been sold before.

use diesel::sql_types::{
    Array, BigInt, Bool, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::{Money, PaymentOrderId, Timestamp};

use super::{Booked, MARGIN};

/// Orders that are read by their ids at once.
const READ_MAX: usize = 10_000;

/// An order as we have it; also one that nobody has confirmed, as the gateway may have captured it all
/// the same.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Order {
    /// Which.
    #[diesel(sql_type = SqlUuid)]
    pub order_id: PaymentOrderId,
    /// The payment that was confirmed.
    #[diesel(sql_type = Nullable<Text>)]
    pub payment_key: Option<String>,
    /// What it is for.
    #[diesel(sql_type = Numeric)]
    pub amount: Money,
    /// What we know to be captured.
    #[diesel(sql_type = Numeric)]
    pub captured: Money,
    /// Whether we knew that already before the window: then its capture is not in it.
    #[diesel(sql_type = Bool)]
    pub is_captured_before: bool,
    /// What we know to be given back by the gateway, and may be in the window: of what is older we had
    /// heard before it. What somebody has paid back by other means is not in its book: should the
    /// gateway have done it, too, then that is a difference.
    #[diesel(sql_type = Numeric)]
    pub refunded: Money,
    /// What of it was asked for in the window: whatever the gateway has written of that is in it.
    #[diesel(sql_type = Numeric)]
    pub refunded_since: Money,
    /// What we know to be given back by the gateway at any time.
    #[diesel(sql_type = Numeric)]
    pub refunded_ever: Money,
    /// What is written off: it went back apart from our refunds, at any time.
    #[diesel(sql_type = Numeric)]
    pub written_off: Money,
    /// What is on its way back, or should be.
    #[diesel(sql_type = Numeric)]
    pub refunding: Money,
    /// Whether its capture is on its way, as it was ordered.
    #[diesel(sql_type = Bool)]
    pub is_open: bool,
    /// Whether all that the gateway has written of it is in the window.
    #[diesel(sql_type = Bool)]
    pub is_whole: bool,
    /// Whether we know that the gateway's payment is not what was ordered.
    #[diesel(sql_type = Bool)]
    pub is_odd: bool,
}

impl Order {
    /// What must be captured in the window.
    pub fn captured_since(&self) -> Money {
        match self.is_whole {
            true => self.captured,
            false => Money::ZERO,
        }
    }

    /// What we know that may be captured in the window.
    fn captured_at_most(&self) -> Money {
        match self.is_captured_before {
            true => Money::ZERO,
            false => self.captured,
        }
    }

    /// Whether a book that says this of an order that nothing was captured of, as we know, is right: what
    /// was captured, whatever that was, was given back. An order that has ended without us is as good as
    /// one that the gateway never heard of.
    pub fn is_as_good_as_nothing(&self, theirs: &Booked) -> bool {
        self.captured == Money::ZERO && theirs.is_undone()
    }

    /// Whether we know of more than this book says for its window.
    pub fn is_ahead_of(&self, theirs: &Booked) -> bool {
        theirs.captured < self.captured_since() || theirs.refunded < self.refunded_since
    }

    /// The same for a book that says all of the order, since ever.
    pub fn whole(&self) -> Self {
        Self {
            is_captured_before: false,
            refunded: self.refunded_ever + self.written_off,
            refunded_since: self.refunded_ever + self.written_off,
            is_whole: true,
            ..self.clone()
        }
    }

    /// What a book says else of what was captured.
    pub fn capture_difference(&self, theirs: &Booked) -> Option<String> {
        // What is open or late may be in the book alone; nothing may be in our rows alone.
        let captured = self.captured_at_most();
        let ahead = theirs.captured - captured;
        let differs = theirs.captured < self.captured_since()
            || theirs.captured > self.amount
            || ahead > Money::ZERO && !self.is_open && ahead > theirs.captured_late;
        differs.then(|| {
            format!(
                "the gateway captured {} of order {}, our rows say {captured} for that time{}",
                theirs.captured,
                self.order_id,
                self.oddly()
            )
        })
    }

    /// What a book says else of what was given back.
    pub fn refund_difference(&self, theirs: &Booked) -> Option<String> {
        let ahead = theirs.refunded - self.refunded;
        let differs =
            theirs.refunded < self.refunded_since || ahead > self.refunding + theirs.refunded_late;
        differs.then(|| {
            format!(
                "the gateway gave {} of order {} back, our rows say {} for that time and {} on its \
                 way{}",
                theirs.refunded,
                self.order_id,
                self.refunded,
                self.refunding,
                self.oddly()
            )
        })
    }

    fn oddly(&self) -> &'static str {
        match self.is_odd {
            true => "; it is known to be odd, and somebody's to see to (GET /admin/tasks)",
            false => "",
        }
    }
}

/// Orders by the ids of a query, which may name the window's beginning ($1) and one more value ($2).
fn query(ids: &str) -> String {
    format!(
        "SELECT o.order_id, o.payment_key, o.amount, o.captured, \
                o.captured > 0 AND least(o.updated_at, r.first_at) < $1 - {MARGIN} \
                    AS is_captured_before, \
                r.refunded, r.refunded_since, r.refunded_ever, r.refunding, \
                coalesce((SELECT (SELECT sum(amount) FROM unnest(w.amounts) AS amount) \
                          FROM write_off AS w WHERE w.order_id = o.order_id \
                          ORDER BY w.at DESC, w.command_id DESC LIMIT 1), 0) AS written_off, \
                o.status IN ('CAPTURING', 'UNKNOWN') AND o.odd_at IS NULL AS is_open, \
                o.created_at >= $1 + {MARGIN} AS is_whole, \
                o.odd_at IS NOT NULL AS is_odd \
         FROM ({ids}) AS these JOIN payment_order AS o USING (order_id), LATERAL ( \
             SELECT min(created_at) AS first_at, \
                    coalesce(sum(amount) FILTER (WHERE status = 'DONE' \
                                                   AND done_at >= $1 - {MARGIN}), 0) \
                        AS refunded, \
                    coalesce(sum(amount) FILTER (WHERE status = 'DONE' \
                                                   AND created_at >= $1 + {MARGIN}), 0) \
                        AS refunded_since, \
                    coalesce(sum(amount) FILTER (WHERE status = 'DONE'), 0) AS refunded_ever, \
                    coalesce(sum(amount) FILTER (WHERE status IN ('PENDING', 'STUCK', \
                                                                  'RESOLVING')), 0) \
                        AS refunding \
             FROM refund WHERE order_id = o.order_id AND method = 'GATEWAY') AS r"
    )
}

/// Orders that a window from `since` on must say something of, or that are looked up whatever it says:
/// those of the window, those with a refund that has ended in it, and those that are odd, however old.
/// At most `most` of them. What else is older differs only by what the book says, and that names it.
pub async fn of_window(
    conn: &mut AsyncPgConnection,
    since: Timestamp,
    most: usize,
) -> Result<Vec<Order>, db::Error> {
    let ids = format!(
        "SELECT order_id FROM payment_order WHERE created_at >= $1 \
         UNION \
         SELECT order_id FROM refund \
         WHERE status = 'DONE' AND method = 'GATEWAY' AND done_at >= $1 - {MARGIN} \
         UNION \
         SELECT order_id FROM payment_order WHERE odd_at IS NOT NULL \
         LIMIT $2"
    );
    let orders = sql_query(query(&ids))
        .bind::<Timestamptz, _>(since)
        .bind::<BigInt, _>(i64::try_from(most).unwrap_or(i64::MAX))
        .load(conn)
        .await?;
    Ok(orders)
}

/// The orders with these ids, as far as there are any, for a window from `since` on.
pub async fn with_ids(
    conn: &mut AsyncPgConnection,
    since: Timestamp,
    ids: &[PaymentOrderId],
) -> Result<Vec<Order>, db::Error> {
    let mut orders: Vec<Order> = Vec::new();
    for part in ids.chunks(READ_MAX) {
        let read: Vec<Order> = sql_query(query("SELECT unnest($2::uuid[]) AS order_id"))
            .bind::<Timestamptz, _>(since)
            .bind::<Array<SqlUuid>, _>(part)
            .load(conn)
            .await?;
        orders.extend(read);
    }
    Ok(orders)
}

/// How many orders are older than a window from `since` on, so that what the gateway has written of them
/// may be, too.
pub async fn count_older(conn: &mut AsyncPgConnection, since: Timestamp) -> Result<u64, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        older: i64,
    }
    let row: Row = sql_query(format!(
        "SELECT count(*) AS older FROM payment_order WHERE created_at < $1 + {MARGIN}"
    ))
    .bind::<Timestamptz, _>(since)
    .get_result(conn)
    .await?;
    Ok(row.older.unsigned_abs())
}

#[cfg(test)]
mod tests;
