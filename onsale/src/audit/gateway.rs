//! The half of P2 that needs the payment gateway: its book, held against ours.
//!
//! Our rows come from the audit's snapshot, and the book is read after it: what the gateway has
//! written meanwhile is not held against us, nor what an order or a refund is still on its way to.
//!
//! Only a window of the book is read, from a time on. All that it says must be in our rows of that time,
//! however old the order is; what our rows say must be in it where it can't be older than the window. Of
//! an order that nothing was captured of, as we know, what was given back in full is no difference.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use diesel::sql_types::{Bool, Integer, Nullable, Numeric, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::{Money, PaymentOrderId, Timestamp};
use onsale_workers::config;
use onsale_workers::gateway::toss::Toss;
use onsale_workers::gateway::{Gateway, Movement, Transaction};

use super::Comparison;

/// So far back the book is read unless somebody names a time, in days.
const SINCE_DAYS: i32 = 31;

/// So far two clocks may be apart, in milliseconds: entries this close before the snapshot may be
/// younger than it.
const CLOCKS_MS: i64 = 5_000;
/// An order is older than its capture, and a refund than what is made of it, and we hear of both when
/// they are made or later; the gateway's clock may be so far from ours.
const MARGIN: &str = "interval '1 minute'";
/// Pages of the book that are read, of a hundred entries each: minutes, and a million entries.
const PAGES_MAX: usize = 10_000;

/// An order as the snapshot has it; also one that nobody has confirmed, as the gateway may have captured
/// it all the same.
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
    /// What is on its way back, or should be.
    #[diesel(sql_type = Numeric)]
    pub refunding: Money,
    /// Whether its capture is on its way.
    #[diesel(sql_type = Bool)]
    pub is_open: bool,
    /// Whether all that the gateway has written of it is in the window.
    #[diesel(sql_type = Bool)]
    pub is_whole: bool,
}

impl Order {
    /// What must be captured in the window.
    fn captured_since(&self) -> Money {
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
    /// one that the gateway never heard of. Its capture may be older than the window, and then the book
    /// doesn't say how much that was.
    fn is_as_good_as_nothing(&self, theirs: &Booked) -> bool {
        let is_undone_later = !self.is_whole && theirs.captured == Money::ZERO;
        self.captured == Money::ZERO && (theirs.is_undone() || is_undone_later)
    }
}

/// What the snapshot knows of the gateway.
#[derive(Clone, Debug)]
pub struct Ours {
    orders: Vec<Order>,
    since: Timestamp,
    at: Timestamp,
}

impl Ours {
    /// Reads it, inside the audit's transaction, for a window from `since` on.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn load(
        conn: &mut AsyncPgConnection,
        since: Option<Timestamp>,
    ) -> Result<Self, db::Error> {
        #[derive(QueryableByName)]
        struct Times {
            #[diesel(sql_type = Timestamptz)]
            since: Timestamp,
            #[diesel(sql_type = Timestamptz)]
            at: Timestamp,
        }
        // Nothing is older than our oldest order.
        let times: Times = sql_query(format!(
            "SELECT greatest(coalesce($1, now() - make_interval(days => $2)), \
                             coalesce(min(created_at), now()) - {MARGIN}) AS since, now() AS at \
             FROM payment_order"
        ))
        .bind::<Nullable<Timestamptz>, _>(since)
        .bind::<Integer, _>(SINCE_DAYS)
        .get_result(conn)
        .await?;
        let orders = sql_query(format!(
            "SELECT o.order_id, o.amount, o.captured, \
                    o.captured > 0 AND least(o.updated_at, r.first_at) < $1 - {MARGIN} \
                        AS is_captured_before, \
                    r.refunded, r.refunded_since, r.refunding, \
                    o.status IN ('CAPTURING', 'UNKNOWN') AS is_open, \
                    o.created_at >= $1 + {MARGIN} AS is_whole \
             FROM payment_order AS o, LATERAL ( \
                 SELECT min(created_at) AS first_at, \
                        coalesce(sum(amount) FILTER (WHERE status = 'DONE' \
                                                       AND done_at >= $1 - {MARGIN}), 0) \
                            AS refunded, \
                        coalesce(sum(amount) FILTER (WHERE status = 'DONE' \
                                                       AND created_at >= $1 + {MARGIN}), 0) \
                            AS refunded_since, \
                        coalesce(sum(amount) FILTER (WHERE status IN ('PENDING', 'STUCK', \
                                                                      'RESOLVING')), 0) \
                            AS refunding \
                 FROM refund WHERE order_id = o.order_id AND method = 'GATEWAY') AS r"
        ))
        .bind::<Timestamptz, _>(times.since)
        .load(conn)
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
    /// When the gateway can't be asked, or has written too much since.
    pub async fn compare(&self, settings: &config::Gateway) -> anyhow::Result<Comparison> {
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
                .context("reading it")?;
            book.extend(page.transactions);
            after = page.next;
            if after.is_none() {
                return Ok(self.compare_with(&book));
            }
        }
        let last = book.last().map_or(self.since, |entry| entry.at);
        bail!(
            "there is too much in it since {}, {} entries up to {last}: name a later --gateway-since",
            self.since,
            book.len()
        )
    }

    fn compare_with(&self, book: &[Transaction]) -> Comparison {
        let entries = book.len();
        let older = self.orders.iter().filter(|order| !order.is_whole).count();
        let what = match older {
            0 => format!("compared with {entries} entries of the gateway's book"),
            _ => format!(
                "compared in part, with {entries} entries of the gateway's book since {}: what is \
                 older, of {older} orders, was not read (--gateway-since)",
                self.since
            ),
        };
        Comparison {
            differences: differences(&self.orders, book, self.at),
            what,
        }
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
    /// Whether all that was captured, once or more often, was given back.
    fn is_undone(&self) -> bool {
        self.captured == self.refunded
    }

    /// Whether it may all be younger than the snapshot.
    fn is_late(&self) -> bool {
        self.captured == self.captured_late && self.refunded == self.refunded_late
    }
}

/// What a book and the orders of a snapshot that was taken at `at` don't say of each other.
fn differences(orders: &[Order], book: &[Transaction], at: Timestamp) -> Vec<String> {
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
        if order.is_as_good_as_nothing(&theirs) {
            continue;
        }
        // What is open or late may be in the book alone; nothing may be in our rows alone.
        let captured = order.captured_at_most();
        let ahead = theirs.captured - captured;
        if theirs.captured < order.captured_since()
            || theirs.captured > order.amount
            || ahead > Money::ZERO && !order.is_open && ahead > theirs.captured_late
        {
            differences.push(format!(
                "the gateway captured {} of order {id}, our rows say {captured} for that time",
                theirs.captured
            ));
        }
        let ahead = theirs.refunded - order.refunded;
        if theirs.refunded < order.refunded_since || ahead > order.refunding + theirs.refunded_late
        {
            differences.push(format!(
                "the gateway gave {} of order {id} back, our rows say {} for that time and {} on its way",
                theirs.refunded, order.refunded, order.refunding
            ));
        }
    }
    for (id, theirs) in booked {
        // Orders that nobody has confirmed are purged in the end; one of these may have ended without us, too.
        if !theirs.is_undone() && !theirs.is_late() {
            differences.push(format!(
                "the gateway captured {} and gave {} back of order {id}, which we don't know",
                theirs.captured, theirs.refunded
            ));
        }
    }
    differences
}

#[cfg(test)]
mod tests;
