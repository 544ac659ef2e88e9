//! Drives payments and refunds through the gateway, a step at a time: takes what is due, asks the
//! gateway outside of any transaction, and writes what came of it if nobody else has written since.
//! What to do next is [`onsale_domain::settlement::order`]'s to say.
//!
//! Any number of replicas do this. Whoever dies with an order in hand leaves it to whoever looks when
//! its lease is over; that one looks the payment up before it asks for anything.

mod charges;
mod kept;
mod purge;
mod refunds;
mod reservations;
mod store;

use crate::compete::patience::Patience;
use crate::context::{self, Context};
use crate::gateway::{
    self, Charge, Confirm, CustomerKey, Error, Gateway, IdempotencyKey, OrderId, Payment,
    PaymentKey,
};
use crate::outbox::pace::{Found, Pace};
use crate::runtime::world::Publish;
use crate::settlement::watch::note_end;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use onsale_domain::settlement::order::{Learned, Order, Purpose};
use onsale_platform::{db, metric, tx};
use onsale_schema::Money;
use onsale_schema::status::OrderStatus;
use std::sync::Arc;
use store::{Claimed, Due, Limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a charge is called on the buyer's statement.
const CHARGE_NAME: &str = "points";
/// What somebody may look for in the log.
const NO_GATEWAY: &str = "payments or refunds through a gateway are open, and no gateway is configured: \
     this process leaves them as they are; set ONSALE_GATEWAY_URL and ONSALE_GATEWAY_SECRET";

/// Drives orders and refunds until `shutdown`, and purges what they leave behind. Without a gateway it
/// drives nothing, and says, once and loudly, that some are left that nobody drives.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), context::Error> {
    let Some(gateway) = ctx.gateway.clone() else {
        // Whatever it finds, nothing but what is left behind is to be done before the end.
        tokio::join!(
            shutdown.run_until_cancelled(tell_of_left(&ctx)),
            purge::run(&ctx, &shutdown),
        );
        return Ok(());
    };
    // Only who asks says whether it may: the rest would always say that all is well.
    metrics::gauge!(metric::GATEWAY_BREAKER).set(0.0);
    let driver = Driver {
        limits: limits(&ctx),
        ctx,
        gateway,
    };
    let in_hand = driver.ctx.config.in_hand;
    let payments = Work {
        what: "payment orders",
        take: |driver, most| orders(driver, Due::Waited, most),
        in_hand_max: in_hand.asked_for(),
        is_nudged: true,
    };
    // They have slots of their own: however many are due, no buyer waits behind them.
    let looks = Work {
        what: "last looks",
        take: |driver, most| orders(driver, Due::Ended, most),
        in_hand_max: in_hand.looks(),
        is_nudged: false,
    };
    let refunds = Work {
        what: "refunds",
        take: refunds::take,
        in_hand_max: in_hand.asked_for(),
        is_nudged: true,
    };
    tokio::join!(
        work(&driver, payments, &shutdown),
        work(&driver, looks, &shutdown),
        work(&driver, refunds, &shutdown),
        purge::run(&driver.ctx, &shutdown),
    );
    Ok(())
}

/// Says so when payments or refunds are on their way and there is no gateway to ask about them.
async fn tell_of_left(ctx: &Context) {
    let mut patience = Patience::new("payments without a gateway");
    loop {
        match store::left_count(&ctx.pool).await {
            Ok(left) if left.orders + left.refunds > 0 => {
                tracing::error!(orders = left.orders, refunds = left.refunds, "{NO_GATEWAY}");
                return;
            }
            Ok(_) => return,
            Err(error) => patience.wait(error).await,
        }
    }
}

/// What drives.
#[derive(Clone)]
struct Driver {
    ctx: Context,
    gateway: Arc<dyn Gateway>,
    limits: Limits,
}

/// An order in hand is somebody else's after two questions to the gateway, with their repetitions, and
/// a refund after three. A third one about an order, where the gateway shows another attempt, may outlast
/// that: then two find out the same, and one of them writes it.
fn limits(ctx: &Context) -> Limits {
    /// The longest pause between two attempts, and some time to write.
    const SLACK_MS: i64 = 3000;
    let gateway = &ctx.config.gateway;
    let once_ms = i64::try_from(gateway.timeout_ms).unwrap_or(i64::MAX / 2) + SLACK_MS;
    let request_ms = once_ms.saturating_mul(i64::from(gateway.attempts));
    Limits {
        request_ms,
        lease_ms: request_ms.saturating_mul(2).saturating_add(SLACK_MS),
        refund_lease_ms: request_ms.saturating_mul(3).saturating_add(SLACK_MS),
        balance_cap: Money::won(ctx.config.money.balance_cap),
    }
}

type Steps = Vec<BoxFuture<'static, Result<(), db::Error>>>;

/// One kind of work of the driver.
struct Work {
    what: &'static str,
    /// Takes as much as is due, up to a bound.
    take: fn(Driver, usize) -> BoxFuture<'static, Result<Steps, db::Error>>,
    /// Steps that one process has in hand at once.
    in_hand_max: usize,
    /// Whether it begins at word of what can go on, rather than within half a second.
    is_nudged: bool,
}

/// Takes what is due, bounded, and ends what it has begun when it is to stop.
async fn work(driver: &Driver, work: Work, shutdown: &CancellationToken) {
    let what = work.what;
    let mut patience = Patience::new(what);
    let mut in_hand = FuturesUnordered::new();
    let mut pace = Pace::new(None);
    if work.is_nudged {
        let hear = nudged(&driver.ctx, &mut patience);
        let Some(nudged) = shutdown.run_until_cancelled(hear).await else {
            return;
        };
        pace = nudged;
    }
    let (mut is_due, mut looked_at, mut found) = (true, Instant::now(), Found::Nothing);
    while !shutdown.is_cancelled() {
        let free = work.in_hand_max.saturating_sub(in_hand.len());
        if is_due && free > 0 {
            is_due = false;
            looked_at = Instant::now();
            match (work.take)(driver.clone(), free).await {
                Ok(steps) => {
                    patience.healed();
                    found = if steps.is_empty() {
                        Found::Nothing
                    } else {
                        Found::Some
                    };
                    in_hand.extend(steps);
                }
                Err(error) => {
                    patience.wait(error).await;
                    is_due = true;
                    continue;
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = in_hand.next(), if !in_hand.is_empty() => {
                // What it had in hand may go on at once; after a failure, when its lease is over.
                is_due = true;
                if let Err(error) = ended {
                    patience.wait(error).await;
                }
            }
            () = pace.wait(looked_at, found), if !is_due => is_due = true,
        }
    }
    while let Some(ended) = in_hand.next().await {
        if let Err(error) = ended {
            tracing::warn!(%error, worker = what, "a step is left to others");
        }
    }
}

/// A pace that is quickened by word of what can go on.
async fn nudged(ctx: &Context, patience: &mut Patience) -> Pace {
    loop {
        match ctx.nats.subscribe(ctx.subjects.orders_nudge()).await {
            Ok(nudges) => return Pace::new(Some(nudges)),
            Err(error) => patience.wait(error).await,
        }
    }
}

fn orders(driver: Driver, due: Due, most: usize) -> BoxFuture<'static, Result<Steps, db::Error>> {
    async move {
        let due = store::order_claim(&driver.ctx.pool, due, most, driver.limits).await?;
        let steps = due.into_iter().map(|claimed| {
            let driver = driver.clone();
            async move { driver.advance(claimed).await }.boxed()
        });
        Ok(steps.collect())
    }
    .boxed()
}

/// What the gateway said, and what it calls the payment.
#[derive(Clone)]
struct Told {
    learned: Learned,
    payment_key: Option<PaymentKey>,
    /// What it keeps, if the order has ended with the money captured: what that says is found with the
    /// rows.
    seen: Option<kept::Seen>,
}

impl From<Learned> for Told {
    fn from(learned: Learned) -> Self {
        Self {
            learned,
            payment_key: None,
            seen: None,
        }
    }
}

impl Driver {
    /// One step of an order.
    async fn advance(&self, claimed: Claimed) -> Result<(), db::Error> {
        let told = self.ask(&claimed).await;
        let (roll, limits) = (rand::random(), self.limits);
        let (order, confirmed_at) = (claimed.order, claimed.confirmed_at);
        let write = || {
            let (order, told) = (order.clone(), told.clone());
            tx::run(&self.ctx.pool, move |conn| {
                let (order, told) = (order.clone(), told.clone());
                async move { store::apply(conn, &order, &told, limits, roll).await }.boxed()
            })
        };
        let Some(status) = insist(write).await? else {
            return Ok(());
        };
        metrics::counter!(metric::ORDERS, "outcome" => status.as_str()).increment(1);
        note_end(status, confirmed_at, self.ctx.clock.now());
        self.ctx
            .publish(self.ctx.subjects.outbox_nudge(), Vec::new())
            .await;
        Ok(())
    }

    /// Asks the gateway what the order's status wants asked.
    async fn ask(&self, claimed: &Claimed) -> Told {
        let order = &claimed.order;
        match order.status {
            OrderStatus::Ready | OrderStatus::Failed => self.look_up(order).await,
            // Nobody has asked for it before: its status was written before anybody could.
            OrderStatus::Capturing if order.attempts == 1 && claimed.may_capture() => {
                self.capture(order).await
            }
            OrderStatus::Capturing | OrderStatus::Unknown => {
                let told = self.look_up(order).await;
                match told.learned {
                    Learned::NotCaptured if claimed.may_capture() => self.capture(order).await,
                    Learned::NotCaptured
                    | Learned::Nothing
                    | Learned::Captured
                    | Learned::Declined
                    | Learned::Odd
                    | Learned::Unknown
                    | Learned::Unavailable => told,
                }
            }
            // It is only looked at again where somebody says that something is new.
            OrderStatus::Paid | OrderStatus::Refunding | OrderStatus::Refunded => {
                self.look_up(order).await
            }
            OrderStatus::Securing | OrderStatus::Captured | OrderStatus::Reholding => {
                Learned::Nothing.into()
            }
        }
    }

    /// Has it captured, or hears again what came of that: the key is the same each time.
    async fn capture(&self, order: &Order) -> Told {
        let asked = match order.purpose {
            Purpose::Reservation(_) => self.confirm(order).await,
            Purpose::Charge => self.charge(order).await,
        };
        let error = match asked {
            Ok(payment) => return judge(order, payment),
            Err(error) => error,
        };
        let learned = match &error {
            Error::Declined { .. } | Error::NotFound => Learned::Declined,
            Error::Unknown { .. } => Learned::Unknown,
            Error::Unavailable { .. } => Learned::Unavailable,
            Error::Rejected { .. } => {
                tracing::error!(%error, order = %order.order_id, "not captured");
                Learned::Unavailable
            }
        };
        learned.into()
    }

    async fn confirm(&self, order: &Order) -> Result<Payment, Error> {
        let Some(payment_key) = payment_key(order) else {
            // The gateway has never given such a key to anybody.
            return Err(Error::NotFound);
        };
        let confirm = Confirm {
            payment_key,
            order_id: OrderId::from(order.order_id.0),
            amount: order.amount,
            idempotency_key: IdempotencyKey(order.order_id.0),
        };
        self.gateway.confirm(&confirm).await
    }

    async fn charge(&self, order: &Order) -> Result<Payment, Error> {
        let charge = Charge {
            customer: CustomerKey::from(order.user_id),
            order_id: OrderId::from(order.order_id.0),
            order_name: CHARGE_NAME,
            amount: order.amount,
            idempotency_key: IdempotencyKey(order.order_id.0),
        };
        self.gateway.charge(&charge).await
    }

    async fn look_up(&self, order: &Order) -> Told {
        let order_id = OrderId::from(order.order_id.0);
        let ours = payment_key(order);
        match gateway::find(&*self.gateway, &order_id, ours.as_ref()).await {
            Ok(payment) if kept::is_of(order.status) => kept::read(order, Some(&payment)),
            Err(Error::NotFound) if kept::is_of(order.status) => kept::read(order, None),
            Ok(payment) => judge(order, payment),
            Err(Error::NotFound) => Learned::NotCaptured.into(),
            Err(error @ Error::Rejected { .. }) => {
                tracing::error!(%error, order = %order.order_id, "it can't be looked up");
                Learned::Unavailable.into()
            }
            Err(error) => {
                tracing::debug!(%error, order = %order.order_id, "it can't be looked up");
                Learned::Unavailable.into()
            }
        }
    }
}

/// Writes what the gateway has said, also when Postgres is away for a moment: it would have to be
/// asked again.
async fn insist<T, W>(write: impl Fn() -> W) -> Result<T, db::Error>
where
    W: Future<Output = Result<T, db::Error>>,
{
    /// Some seconds, with the pauses of [`Patience`].
    const TRIES: u32 = 8;
    let mut patience = Patience::new("a step of a payment");
    for _ in 1..TRIES {
        match write().await {
            Err(error) if error.retryable() => patience.wait(error).await,
            other => return other,
        }
    }
    write().await
}

/// The key of the payment that was confirmed, if it can be one.
fn payment_key(order: &Order) -> Option<PaymentKey> {
    order.payment_key.as_deref()?.parse().ok()
}

/// What a payment says about the order that it is for.
fn judge(order: &Order, payment: Payment) -> Told {
    let is_ours = payment.order_id.uuid() == Some(order.order_id.0);
    let is_known =
        (order.payment_key.as_deref()).is_none_or(|key| key == payment.payment_key.as_str());
    if !payment.status.is_captured() {
        // How another attempt to agree to the same order has ended says nothing about this one.
        let is_over = is_ours && is_known && !payment.status.is_open();
        return match is_over {
            true => Learned::Declined.into(),
            false => Learned::NotCaptured.into(),
        };
    }
    if is_ours && payment.balance == Money::ZERO {
        // Somebody gave all of it back at the gateway, be it what was ordered or not: there is nothing
        // to sell for, and nothing to give back.
        tracing::warn!(order = %order.order_id, "the gateway has captured it and given it back");
        return match is_known {
            // It can't be captured again.
            true => Learned::Declined.into(),
            // As above: what became of the attempt that was confirmed, it does not say.
            false => Learned::NotCaptured.into(),
        };
    }
    let is_ordered = is_ours && is_known && payment.total == order.amount;
    if !is_ordered || payment.balance != order.amount {
        // Neither a sale nor a refund of ours: somebody has to look.
        tracing::error!(order = %order.order_id, status = payment.status.as_str(),
            "the gateway's payment is not what was ordered");
        return Learned::Odd.into();
    }
    Told {
        learned: Learned::Captured,
        payment_key: Some(payment.payment_key),
        seen: None,
    }
}

#[cfg(test)]
mod tests;
