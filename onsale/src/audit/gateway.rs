//! The half of P2 that needs the payment gateway: its book, held against ours.
//!
//! Our rows of the window come from the audit's snapshot, and the book is read after it: what the gateway
//! has written meanwhile is not held against us, nor what an order or a refund is still on its way to.
//! Older orders that the book names are read after it ([`orders`]), and so is, once more, each order that
//! differs: it may have moved on meanwhile. What such a row says beyond the book may be younger than it,
//! so that the payment is looked up before anything is said of it.
//!
//! Only a window of the book is read, from a time on. All that it says must be in our rows of that time,
//! however old the order is; what our rows say must be in it where it can't be older than the window. Of
//! an order that nothing was captured of, as we know, what was given back in full is no difference. What
//! the window alone can't tell, the gateway is asked for: the payment as a whole ([`doubts`]). So is each
//! order that is odd: how much of it is where, and that it is never taken for right.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use diesel::sql_types::{Integer, Nullable, Timestamptz};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_platform::{audit, db};
use onsale_schema::{Money, PaymentOrderId, Timestamp};
use onsale_workers::config;
use onsale_workers::gateway::toss::Toss;
use onsale_workers::gateway::{self, Error, Gateway, Movement, OrderId, PaymentKey, Transaction};

use super::Comparison;
use doubts::{Doubt, Why};
use orders::Order;

mod doubts;
mod orders;

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
/// Orders of ours that a window of it may have: as many as it has entries at most.
const ORDERS_MAX: usize = 100 * PAGES_MAX;
/// Payments that are looked up one by one.
const LOOK_UPS_MAX: usize = 1000;

/// What the snapshot knows of the gateway.
#[derive(Clone, Debug)]
pub struct Ours {
    /// What the window of the book must say something of, and what is odd.
    orders: Vec<Order>,
    /// How many orders are older than the window, most of which are not among these.
    older: u64,
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
        Ok(Self {
            // One more than may be: then there are too many.
            orders: orders::of_window(conn, times.since, ORDERS_MAX + 1).await?,
            older: orders::count_older(conn, times.since).await?,
            since: times.since,
            at: times.at,
        })
    }

    /// Reads the gateway's book and holds it against this, and against what the database has of older
    /// orders that it names.
    ///
    /// # Errors
    /// When the gateway or the database can't be asked, or either has too much since.
    pub async fn compare(
        mut self,
        settings: &config::Gateway,
        database_url: &str,
    ) -> anyhow::Result<Comparison> {
        let gateway = Toss::of_settings(settings)
            .context("the payment gateway's certificate authorities")?
            .context("no payment gateway is set")?;
        if self.orders.len() > ORDERS_MAX {
            bail!(
                "there are too many orders of ours since {}, more than {ORDERS_MAX}: name a later \
                 --gateway-since",
                self.since
            );
        }
        let book = self.read_book(&gateway).await?;
        let what = self.what(book.len());
        let mut held = Held::of(&book, self.at);
        drop(book);
        for order in &self.orders {
            held.hold(order, Read::BeforeTheBook);
        }
        let named = self.read_again(database_url, &held.unheld()).await?;
        for order in &named {
            held.hold(order, Read::AfterTheBook);
        }
        held.hold_nothing();
        self.look_up(&gateway, &mut held).await?;
        self.orders.extend(named);
        self.confirm(&gateway, database_url, &mut held).await?;
        let differences = held.differences.into_iter();
        Ok(Comparison {
            differences: differences.map(|difference| difference.says).collect(),
            what,
        })
    }

    async fn read_book(&self, gateway: &Toss) -> anyhow::Result<Vec<Transaction>> {
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
                return Ok(book);
            }
        }
        let last = book.last().map_or(self.since, |entry| entry.at);
        bail!(
            "there is too much in it since {}, {} entries up to {last}: name a later --gateway-since",
            self.since,
            book.len()
        )
    }

    /// What the database has of some orders by now.
    async fn read_again(
        &self,
        database_url: &str,
        ids: &[PaymentOrderId],
    ) -> anyhow::Result<Vec<Order>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let read = async {
            let mut conn = db::connect(database_url).await?;
            audit::prepare(&mut conn).await?;
            anyhow::Ok(orders::with_ids(&mut conn, self.since, ids).await?)
        };
        read.await.context("reading our orders again")
    }

    /// Adds what the payments say of which the book's window alone does not tell.
    async fn look_up(&self, gateway: &Toss, held: &mut Held) -> anyhow::Result<()> {
        let doubts = std::mem::take(&mut held.doubts);
        if doubts.len() > LOOK_UPS_MAX {
            bail!(
                "there are too many payments, {}, of which it does not tell since {}: name an earlier \
                 --gateway-since",
                doubts.len(),
                self.since
            );
        }
        for doubt in doubts {
            let id = doubt.order_id;
            let order_id = OrderId::from(id.0);
            let ours = held.payment_key(&doubt);
            let payment = match gateway::find(gateway, &order_id, ours.as_ref()).await {
                Ok(payment) => Some(payment),
                Err(Error::NotFound) => None,
                Err(error) => {
                    return Err(error).with_context(|| format!("looking order {order_id} up"));
                }
            };
            held.differ(id, doubt.settle(payment.as_ref(), self.at));
        }
        Ok(())
    }

    /// Leaves only what still differs when the orders are read once more: of one that has moved on since it
    /// was read, what is said is what the book and the payment say of it now.
    async fn confirm(
        &self,
        gateway: &Toss,
        database_url: &str,
        held: &mut Held,
    ) -> anyhow::Result<()> {
        let differ: BTreeSet<PaymentOrderId> = held.differing().collect();
        let were = self.orders.iter();
        let were: BTreeMap<PaymentOrderId, &Order> = were
            .filter(|order| differ.contains(&order.order_id))
            .map(|order| (order.order_id, order))
            .collect();
        let ids: Vec<PaymentOrderId> = differ.into_iter().collect();
        let mut moved = self.read_again(database_url, &ids).await?;
        moved.retain(|order| were.get(&order.order_id) != Some(&order));
        held.hold_again(&moved);
        self.look_up(gateway, held).await
    }

    /// What is compared, for a person.
    fn what(&self, entries: usize) -> String {
        match self.older {
            0 => format!("compared with {entries} entries of the gateway's book"),
            older => format!(
                "compared in part, with {entries} entries of the gateway's book since {}: what is \
                 older, of {older} orders, was not read (--gateway-since)",
                self.since
            ),
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

    /// Whether it was captured before all that it says.
    fn is_refunded_alone(&self) -> bool {
        self.captured == Money::ZERO && self.refunded > Money::ZERO
    }

    /// Whether it may all be younger than the snapshot.
    fn is_late(&self) -> bool {
        self.captured == self.captured_late && self.refunded == self.refunded_late
    }
}

/// When an order was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// All that it says must be in the book.
    BeforeTheBook,
    /// It may say what is younger than the book.
    AfterTheBook,
}

/// Something that one side does not say of the other.
#[derive(Clone, Debug)]
struct Difference {
    /// Of which order; none if it is none of ours.
    order_id: Option<PaymentOrderId>,
    /// What, for a person.
    says: String,
}

/// A book, and what has come of holding orders against it.
#[derive(Debug)]
struct Held {
    booked: BTreeMap<PaymentOrderId, Booked>,
    /// The payment that it names of each, the last one of several.
    keys: BTreeMap<PaymentOrderId, PaymentKey>,
    /// Of these the book says something, and no order was held against that yet.
    unheld: BTreeSet<PaymentOrderId>,
    differences: Vec<Difference>,
    /// What only the payments can tell.
    doubts: Vec<Doubt>,
}

impl Held {
    /// Of a book, as for a snapshot that was taken at `at`.
    fn of(book: &[Transaction], at: Timestamp) -> Self {
        let is_late = |entry: &Transaction| entry.at >= at.plus_ms(-CLOCKS_MS);
        let mut booked: BTreeMap<PaymentOrderId, Booked> = BTreeMap::new();
        let mut keys = BTreeMap::new();
        let mut differences = Vec::new();
        for entry in book {
            let Some(id) = entry.order_id.uuid().map(PaymentOrderId) else {
                let says = format!(
                    "the gateway's entry {} is for {}, which is no order of ours",
                    entry.transaction_key, entry.order_id
                );
                let order_id = None;
                differences.push(Difference { order_id, says });
                continue;
            };
            keys.insert(id, entry.payment_key.clone());
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
        Self {
            unheld: booked.keys().copied().collect(),
            booked,
            keys,
            differences,
            doubts: Vec::new(),
        }
    }

    fn unheld(&self) -> Vec<PaymentOrderId> {
        self.unheld.iter().copied().collect()
    }

    /// The orders that differ.
    fn differing(&self) -> impl Iterator<Item = PaymentOrderId> {
        let differences = self.differences.iter();
        differences.filter_map(|difference| difference.order_id)
    }

    /// Which payment a doubt is about: the one that the book names, or else the one that we know of.
    fn payment_key(&self, doubt: &Doubt) -> Option<PaymentKey> {
        let named = self.keys.get(&doubt.order_id).cloned();
        named.or_else(|| doubt.payment_key())
    }

    fn differ(&mut self, id: PaymentOrderId, what: impl IntoIterator<Item = String>) {
        let differences = what.into_iter().map(|says| Difference {
            order_id: Some(id),
            says,
        });
        self.differences.extend(differences);
    }

    /// Holds an order against what the book says of it.
    fn hold(&mut self, order: &Order, read: Read) {
        let id = order.order_id;
        self.unheld.remove(&id);
        let theirs = self.booked.get(&id).copied();
        let mut doubt = |why| self.doubts.push(Doubt { order_id: id, why });
        if order.written_off.is_positive() {
            // When that went back, nobody has said.
            if order.is_whole || order.is_odd || order.refunded.is_positive() || theirs.is_some() {
                doubt(Why::Whole(order.clone()));
            }
            return;
        }
        let theirs = theirs.unwrap_or_default();
        if order.is_as_good_as_nothing(&theirs) {
            // What is odd may be older than the window.
            if order.is_odd {
                doubt(Why::Whole(order.clone()));
            }
            return;
        }
        if order.captured == Money::ZERO && !order.is_whole && theirs.is_refunded_alone() {
            doubt(Why::Undone(theirs));
            return;
        }
        // What was captured more than once was so whenever the order was read.
        if read == Read::AfterTheBook
            && order.is_ahead_of(&theirs)
            && theirs.captured <= order.amount
        {
            doubt(Why::Whole(order.clone()));
            return;
        }
        let captured = order.capture_difference(&theirs);
        let is_odd_alone = order.is_odd && captured.is_none();
        match order.refund_difference(&theirs) {
            // It may have been given back by hand before the window, and be asked for in it.
            Some(difference) if !order.is_whole && theirs.refunded < order.refunded_since => {
                doubt(match order.is_odd {
                    true => Why::Whole(order.clone()),
                    false => Why::Missing(order.clone(), difference),
                });
                self.differ(id, captured);
            }
            Some(difference) => self.differ(id, captured.into_iter().chain([difference])),
            None if is_odd_alone => doubt(Why::Whole(order.clone())),
            None => self.differ(id, captured),
        }
    }

    /// The same for what the book says of orders that we don't know.
    fn hold_nothing(&mut self) {
        for id in std::mem::take(&mut self.unheld) {
            let theirs = self.booked[&id];
            // Orders that nobody has confirmed are purged in the end; one of these may have ended without
            // us, too.
            if theirs.is_undone() || theirs.is_late() {
                continue;
            }
            if theirs.is_refunded_alone() {
                let why = Why::Undone(theirs);
                self.doubts.push(Doubt { order_id: id, why });
                continue;
            }
            let says = format!(
                "the gateway captured {} and gave {} back of order {id}, which we don't know",
                theirs.captured, theirs.refunded
            );
            self.differ(id, [says]);
        }
    }

    /// Takes back what was said of orders that have moved on since they were read, and holds them again.
    fn hold_again(&mut self, moved: &[Order]) {
        let ids: BTreeSet<PaymentOrderId> = moved.iter().map(|order| order.order_id).collect();
        self.differences.retain(|difference| {
            let id = difference.order_id;
            id.is_none_or(|id| !ids.contains(&id))
        });
        for order in moved {
            self.hold(order, Read::AfterTheBook);
        }
    }
}

#[cfg(test)]
mod tests;
