//! The half of P2 that needs the payment gateway: its book, held against ours.
//!
//! Our rows come from the audit's snapshot, and the book is read after it: what the gateway has
//! written meanwhile is not held against us, nor what an order or a refund is still on its way to.
//!
//! Only a window of the book is read, from a time on. All that it says must be in our rows of that time,
//! however old the order is; what our rows say must be in it where it can't be older than the window. Of
//! an order that nothing was captured of, as we know, what was given back in full is no difference. What
//! the window alone can't tell, the gateway is asked for: the payment as a whole ([`doubts`]). So is each
//! order that is odd: how much of it is where, and that it is never taken for right.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use diesel::sql_types::{Bool, Integer, Nullable, Numeric, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::db;
use onsale_schema::{Money, PaymentOrderId, Timestamp};
use onsale_workers::config;
use onsale_workers::gateway::toss::Toss;
use onsale_workers::gateway::{Error, Gateway, Movement, OrderId, Transaction};

use super::Comparison;
use doubts::{Doubt, Why};

mod doubts;

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
/// Payments that are looked up one by one.
const LOOK_UPS_MAX: usize = 1000;

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
    /// one that the gateway never heard of.
    fn is_as_good_as_nothing(&self, theirs: &Booked) -> bool {
        self.captured == Money::ZERO && theirs.is_undone()
    }

    /// The same for a book that says all of the order, since ever.
    fn whole(&self) -> Self {
        Self {
            is_captured_before: false,
            refunded: self.refunded_ever + self.written_off,
            refunded_since: self.refunded_ever + self.written_off,
            is_whole: true,
            ..self.clone()
        }
    }

    /// What a book says else of what was captured.
    fn capture_difference(&self, theirs: &Booked) -> Option<String> {
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
    fn refund_difference(&self, theirs: &Booked) -> Option<String> {
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
                    r.refunded, r.refunded_since, r.refunded_ever, r.refunding, \
                    coalesce((SELECT (SELECT sum(amount) FROM unnest(w.amounts) AS amount) \
                              FROM write_off AS w WHERE w.order_id = o.order_id \
                              ORDER BY w.at DESC, w.command_id DESC LIMIT 1), 0) AS written_off, \
                    o.status IN ('CAPTURING', 'UNKNOWN') AND o.odd_at IS NULL AS is_open, \
                    o.created_at >= $1 + {MARGIN} AS is_whole, \
                    o.odd_at IS NOT NULL AS is_odd \
             FROM payment_order AS o, LATERAL ( \
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
                let (mut comparison, doubts) = self.compare_with(&book);
                let settled = self.look_up(&gateway, doubts).await?;
                comparison.differences.extend(settled);
                return Ok(comparison);
            }
        }
        let last = book.last().map_or(self.since, |entry| entry.at);
        bail!(
            "there is too much in it since {}, {} entries up to {last}: name a later --gateway-since",
            self.since,
            book.len()
        )
    }

    /// What the payments say of which the book's window alone does not tell.
    async fn look_up(&self, gateway: &Toss, doubts: Vec<Doubt>) -> anyhow::Result<Vec<String>> {
        if doubts.len() > LOOK_UPS_MAX {
            bail!(
                "there are too many payments, {}, of which it does not tell since {}: name an earlier \
                 --gateway-since",
                doubts.len(),
                self.since
            );
        }
        let mut differences = Vec::new();
        for doubt in doubts {
            let order_id = OrderId::from(doubt.order_id.0);
            let payment = match gateway.find_by_order(&order_id).await {
                Ok(payment) => Some(payment),
                Err(Error::NotFound) => None,
                Err(error) => {
                    return Err(error).with_context(|| format!("looking order {order_id} up"));
                }
            };
            differences.extend(doubt.settle(payment.as_ref(), self.at));
        }
        Ok(differences)
    }

    fn compare_with(&self, book: &[Transaction]) -> (Comparison, Vec<Doubt>) {
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
        let (differences, doubts) = differences(&self.orders, book, self.at);
        (Comparison { differences, what }, doubts)
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

    /// Whether it was captured before all that it says.
    fn is_refunded_alone(&self) -> bool {
        self.captured == Money::ZERO && self.refunded > Money::ZERO
    }

    /// Whether it may all be younger than the snapshot.
    fn is_late(&self) -> bool {
        self.captured == self.captured_late && self.refunded == self.refunded_late
    }
}

/// What a book and the orders of a snapshot that was taken at `at` don't say of each other, and what only
/// the payments can tell.
fn differences(orders: &[Order], book: &[Transaction], at: Timestamp) -> (Vec<String>, Vec<Doubt>) {
    let is_late = |entry: &Transaction| entry.at >= at.plus_ms(-CLOCKS_MS);
    let mut booked: BTreeMap<PaymentOrderId, Booked> = BTreeMap::new();
    let (mut differences, mut doubts) = (Vec::new(), Vec::new());
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
        let theirs = booked.remove(&order.order_id);
        let told = differences.len();
        let mut doubt = |why| {
            doubts.push(Doubt {
                order_id: order.order_id,
                why,
            });
        };
        if order.written_off.is_positive() {
            // When that went back, nobody has said.
            if order.is_whole || order.is_odd || order.refunded.is_positive() || theirs.is_some() {
                doubt(Why::Whole(order.clone()));
            }
            continue;
        }
        let theirs = theirs.unwrap_or_default();
        if order.is_as_good_as_nothing(&theirs) {
            // What is odd may be older than the window.
            if order.is_odd {
                doubt(Why::Whole(order.clone()));
            }
            continue;
        }
        if order.captured == Money::ZERO && !order.is_whole && theirs.is_refunded_alone() {
            doubt(Why::Undone(theirs));
            continue;
        }
        differences.extend(order.capture_difference(&theirs));
        match order.refund_difference(&theirs) {
            // It may have been given back by hand before the window, and be asked for in it.
            Some(difference) if !order.is_whole && theirs.refunded < order.refunded_since => {
                doubt(match order.is_odd {
                    true => Why::Whole(order.clone()),
                    false => Why::Missing(order.clone(), difference),
                });
            }
            Some(difference) => differences.push(difference),
            None if order.is_odd && differences.len() == told => doubt(Why::Whole(order.clone())),
            None => {}
        }
    }
    for (order_id, theirs) in booked {
        // Orders that nobody has confirmed are purged in the end; one of these may have ended without us, too.
        if theirs.is_undone() || theirs.is_late() {
            continue;
        }
        if theirs.is_refunded_alone() {
            let why = Why::Undone(theirs);
            doubts.push(Doubt { order_id, why });
            continue;
        }
        differences.push(format!(
            "the gateway captured {} and gave {} back of order {order_id}, which we don't know",
            theirs.captured, theirs.refunded
        ));
    }
    (differences, doubts)
}

#[cfg(test)]
mod tests;
