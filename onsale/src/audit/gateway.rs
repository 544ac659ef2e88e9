//! The half of P2 that needs the payment gateway: its book, held against ours.
//!
//! Our rows come from the audit's snapshot, and the book is read after it: what the gateway has
//! written meanwhile is not held against us, nor what an order or a refund is still on its way to.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use diesel::sql_types::{Bool, Numeric, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::{Money, PaymentOrderId, Timestamp};
use onsale_workers::config;
use onsale_workers::gateway::toss::Toss;
use onsale_workers::gateway::{Gateway, Movement, Transaction};

/// So far two clocks may be apart, in milliseconds: entries this close before the snapshot may be
/// younger than it.
const CLOCKS_MS: i64 = 5_000;
/// Pages of the book that are read; a longer history would take minutes.
const PAGES_MAX: usize = 10_000;

/// An order as the snapshot has it, if the gateway was ever asked to capture it: one that was confirmed,
/// or a charge by card, of which the gateway alone names the payment.
#[derive(Clone, Debug, QueryableByName)]
pub struct Order {
    /// Which.
    #[diesel(sql_type = SqlUuid)]
    pub order_id: PaymentOrderId,
    /// What it is for.
    #[diesel(sql_type = Numeric)]
    pub amount: Money,
    /// What we know to be captured.
    #[diesel(sql_type = Numeric)]
    pub captured: Money,
    /// What we know to be given back by the gateway. What somebody has paid back by other means is
    /// not in its book: should the gateway have done it, too, then that is a difference.
    #[diesel(sql_type = Numeric)]
    pub refunded: Money,
    /// What is on its way back, or should be.
    #[diesel(sql_type = Numeric)]
    pub refunding: Money,
    /// Whether its capture is on its way.
    #[diesel(sql_type = Bool)]
    pub is_open: bool,
}

/// What the snapshot knows of the gateway.
#[derive(Clone, Debug)]
pub struct Ours {
    orders: Vec<Order>,
    since: Timestamp,
    at: Timestamp,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries of the book.
    pub entries: usize,
    /// What of them, or of our rows, the other side does not say.
    pub differences: Vec<String>,
}

impl Ours {
    /// Reads it, inside the audit's transaction.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn load(conn: &mut AsyncPgConnection) -> Result<Self, db::Error> {
        #[derive(QueryableByName)]
        struct Times {
            #[diesel(sql_type = Timestamptz)]
            since: Timestamp,
            #[diesel(sql_type = Timestamptz)]
            at: Timestamp,
        }
        let orders = sql_query(
            "SELECT o.order_id, o.amount, o.captured, \
                    o.refunded - coalesce((SELECT sum(r.amount) FROM refund AS r \
                                           WHERE r.order_id = o.order_id AND r.method = 'GATEWAY' \
                                             AND r.status = 'RESOLVED'), 0) AS refunded, \
                    coalesce((SELECT sum(r.amount) FROM refund AS r \
                              WHERE r.order_id = o.order_id AND r.method = 'GATEWAY' \
                                AND r.status IN ('PENDING', 'STUCK', 'RESOLVING')), 0) \
                        AS refunding, \
                    o.status IN ('CAPTURING', 'UNKNOWN') AS is_open \
             FROM payment_order AS o WHERE o.payment_key IS NOT NULL OR o.reservation_id IS NULL",
        )
        .load(conn)
        .await?;
        // An order is older than its capture; the gateway's clock may be behind ours.
        let times: Times = sql_query(
            "SELECT coalesce(min(created_at), now()) - interval '1 minute' AS since, now() AS at \
             FROM payment_order",
        )
        .get_result(conn)
        .await?;
        Ok(Self {
            orders,
            since: times.since,
            at: times.at,
        })
    }

    /// Reads the gateway's book and holds it against this.
    ///
    /// # Errors
    /// When the gateway can't be asked.
    pub async fn compare(&self, settings: &config::Gateway) -> anyhow::Result<Found> {
        let gateway = Toss::of_settings(settings)
            .context("the payment gateway's certificate authorities")?
            .context("no payment gateway is set")?;
        let until = self.at.plus_ms(60_000);
        let mut book: Vec<Transaction> = Vec::new();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let page = gateway
                .transactions(self.since, until, after.as_ref())
                .await
                .context("reading the payment gateway's book")?;
            book.extend(page.transactions);
            after = page.next;
            if after.is_none() {
                return Ok(compare(&self.orders, &book, self.at));
            }
        }
        bail!("the payment gateway's book has more than {PAGES_MAX} pages")
    }
}

/// What the book says of one order.
#[derive(Clone, Copy, Debug, Default)]
struct Booked {
    captured: Money,
    refunded: Money,
    /// Of entries that may be younger than the snapshot.
    captured_late: Money,
    refunded_late: Money,
}

impl Booked {
    /// Whether what was captured, once, was given back: an order that has ended without us is as good
    /// as one that nothing was captured of.
    fn is_undone_within(&self, amount: Money) -> bool {
        self.captured == self.refunded && self.captured <= amount
    }
}

/// Holds a book against the orders of a snapshot that was taken at `at`.
fn compare(orders: &[Order], book: &[Transaction], at: Timestamp) -> Found {
    let is_late = |entry: &Transaction| entry.at >= at.plus_ms(-CLOCKS_MS);
    let mut booked: BTreeMap<PaymentOrderId, Booked> = BTreeMap::new();
    let mut differences = Vec::new();
    for entry in book {
        let Some(id) = entry.order_id.uuid().map(PaymentOrderId) else {
            differences.push(format!(
                "the gateway's entry {} is for {}, which is no order of ours",
                entry.transaction_key, entry.order_id
            ));
            continue;
        };
        let of = booked.entry(id).or_default();
        let (sum, late) = match entry.movement {
            Movement::Capture => (&mut of.captured, &mut of.captured_late),
            Movement::Refund => (&mut of.refunded, &mut of.refunded_late),
        };
        *sum = *sum + entry.amount;
        if is_late(entry) {
            *late = *late + entry.amount;
        }
    }
    for order in orders {
        let theirs = booked.remove(&order.order_id).unwrap_or_default();
        let id = order.order_id;
        if order.captured == Money::ZERO && theirs.is_undone_within(order.amount) {
            continue;
        }
        // What is open or late may be in the book alone; nothing may be in our rows alone.
        let ahead = theirs.captured - order.captured;
        if ahead < Money::ZERO
            || theirs.captured > order.amount
            || ahead > Money::ZERO && !order.is_open && ahead > theirs.captured_late
        {
            differences.push(format!(
                "the gateway captured {} of order {id}, our rows say {}",
                theirs.captured, order.captured
            ));
        }
        let ahead = theirs.refunded - order.refunded;
        if ahead < Money::ZERO || ahead > order.refunding + theirs.refunded_late {
            differences.push(format!(
                "the gateway gave {} of order {id} back, our rows say {} and {} on its way",
                theirs.refunded, order.refunded, order.refunding
            ));
        }
    }
    for (id, theirs) in booked {
        if theirs.captured > theirs.captured_late || theirs.refunded > theirs.refunded_late {
            differences.push(format!(
                "the gateway captured {} and gave {} back of order {id}, which we never confirmed",
                theirs.captured, theirs.refunded
            ));
        }
    }
    Found {
        entries: book.len(),
        differences,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const AT: Timestamp = Timestamp(1_700_000_000_000_000);

    fn order(n: u128, captured: i64, refunded: i64, refunding: i64, is_open: bool) -> Order {
        Order {
            order_id: PaymentOrderId(Uuid::from_u128(n)),
            amount: Money::won(if captured == 0 { 500 } else { captured }),
            captured: Money::won(captured),
            refunded: Money::won(refunded),
            refunding: Money::won(refunding),
            is_open,
        }
    }

    fn entry(n: u128, amount: i64, age_ms: i64) -> Transaction {
        let (movement, amount) = if amount < 0 {
            (Movement::Refund, -amount)
        } else {
            (Movement::Capture, amount)
        };
        Transaction {
            transaction_key: "t".parse().unwrap(),
            payment_key: "p".parse().unwrap(),
            order_id: Uuid::from_u128(n).into(),
            movement,
            amount: Money::won(amount),
            at: AT.plus_ms(-age_ms),
        }
    }

    fn differences(orders: &[Order], book: &[Transaction]) -> usize {
        compare(orders, book, AT).differences.len()
    }

    #[test]
    fn the_same_on_both_sides_is_no_difference() {
        let old = 60_000;
        assert_eq!(differences(&[], &[]), 0);
        let orders = [order(1, 1000, 300, 0, false), order(2, 0, 0, 0, false)];
        let book = [
            entry(1, 1000, old),
            entry(1, -100, old),
            entry(1, -200, old),
        ];
        assert_eq!(differences(&orders, &book), 0);
        // Somebody gave it back before we had heard of it.
        let undone = [entry(1, 500, old), entry(1, -200, old), entry(1, -300, old)];
        assert_eq!(differences(&[order(1, 0, 0, 0, false)], &undone), 0);
        assert_eq!(differences(&[order(1, 0, 0, 0, false)], &undone[..2]), 2);
        let twice = [undone.clone(), undone].concat();
        assert_eq!(differences(&[order(1, 0, 0, 0, false)], &twice), 2);
    }

    #[test]
    fn what_is_on_its_way_may_be_in_the_book_alone() {
        let old = 60_000;
        assert_eq!(
            differences(&[order(1, 0, 0, 0, true)], &[entry(1, 500, old)]),
            0
        );
        assert_eq!(
            differences(&[order(1, 0, 0, 0, false)], &[entry(1, 500, 10)]),
            0
        );
        let refunding = [order(1, 500, 100, 400, false)];
        let book = [entry(1, 500, old), entry(1, -100, old), entry(1, -400, old)];
        assert_eq!(differences(&refunding, &book), 0);
        assert_eq!(differences(&refunding, &book[..2]), 0);
        assert_eq!(differences(&[], &[entry(7, 500, 10)]), 0);
    }

    #[test]
    fn what_one_side_says_alone_is_a_difference() {
        let old = 60_000;
        for (what, orders, book) in [
            ("never captured", vec![order(1, 500, 0, 0, false)], vec![]),
            (
                "another sum",
                vec![order(1, 500, 0, 0, false)],
                vec![entry(1, 400, old)],
            ),
            (
                "captured twice",
                vec![order(1, 500, 0, 0, false)],
                vec![entry(1, 500, old), entry(1, 500, old)],
            ),
            (
                "captured, not noticed",
                vec![order(1, 0, 0, 0, false)],
                vec![entry(1, 500, old)],
            ),
            (
                "captured twice while it is open",
                vec![order(1, 0, 0, 0, true)],
                vec![entry(1, 500, old), entry(1, 500, 10)],
            ),
            ("unknown order", vec![], vec![entry(1, 500, old)]),
            (
                "refund that never was",
                vec![order(1, 500, 500, 0, false)],
                vec![entry(1, 500, old)],
            ),
            (
                "refund that nobody asked for",
                vec![order(1, 500, 0, 100, false)],
                vec![entry(1, 500, old), entry(1, -200, old)],
            ),
        ] {
            assert_eq!(differences(&orders, &book), 1, "{what}");
        }
        let strange = Transaction {
            order_id: "somebody-elses".parse().unwrap(),
            ..entry(1, 500, 10)
        };
        assert_eq!(differences(&[], &[strange]), 1);
    }
}
