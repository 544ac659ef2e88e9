//! Whoever waits for the end of an order, and how each learns of it: one looker per ingress asks
//! Postgres for all of them at once, so that a gateway that is slow costs a query every [`PAUSE`],
//! however many wait. It must never keep a place for somebody whose answer has no room: who finds
//! none, or hears nothing in time, is told where the end will be said.

use diesel::prelude::Queryable;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_schema::status::OrderStatus;
use onsale_schema::tables::payment_order::{self as table, dsl};
use onsale_schema::{Money, PaymentOrderId, ReservationId, Timestamp, UserId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause between two looks while somebody waits.
const PAUSE: Duration = Duration::from_millis(50);
/// So many may wait at once.
const WAITERS_MAX: usize = 4096;
/// The statuses in which a buyer need not wait any longer.
const ENDED: [OrderStatus; 4] = [
    OrderStatus::Paid,
    OrderStatus::Failed,
    OrderStatus::Refunding,
    OrderStatus::Refunded,
];

/// The row of an order, as far as its buyer is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
pub struct Row {
    /// The order.
    pub order_id: PaymentOrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What it pays; a charge of points by card pays none.
    pub reservation_id: Option<ReservationId>,
    /// How much.
    pub amount: Money,
    /// How far it is.
    pub status: OrderStatus,
    /// The reservation that a late capture was given.
    pub rehold_id: Option<ReservationId>,
    /// Why it was not paid, or why the money goes back.
    pub fail_code: Option<String>,
    /// What came back.
    pub refunded: Money,
    /// When it was made.
    pub created_at: Timestamp,
}

type Columns = (
    table::order_id,
    table::user_id,
    table::reservation_id,
    table::amount,
    table::status,
    table::rehold_id,
    table::fail_code,
    table::refunded,
    table::created_at,
);
const COLUMNS: Columns = (
    table::order_id,
    table::user_id,
    table::reservation_id,
    table::amount,
    table::status,
    table::rehold_id,
    table::fail_code,
    table::refunded,
    table::created_at,
);

/// An order.
///
/// # Errors
/// When Postgres fails.
pub async fn order_find(pool: &Pool, id: PaymentOrderId) -> Result<Option<Row>, db::Error> {
    let mut conn = pool.get().await?;
    let row = dsl::payment_order.find(id).select(COLUMNS);
    Ok(row.first(&mut conn).await.optional()?)
}

/// An order if it has ended, and can be read.
pub async fn look(pool: &Pool, id: PaymentOrderId) -> Option<Row> {
    match order_find(pool, id).await {
        Ok(row) => row.filter(|row| ENDED.contains(&row.status)),
        Err(error) => {
            tracing::debug!(%error, order = %id, "an order could not be read");
            None
        }
    }
}

/// Those of these orders that have ended.
async fn order_list_ended(pool: &Pool, ids: &[PaymentOrderId]) -> Result<Vec<Row>, db::Error> {
    let mut conn = pool.get().await?;
    let rows = dsl::payment_order
        .filter(dsl::order_id.eq_any(ids))
        .filter(dsl::status.eq_any(ENDED))
        .select(COLUMNS);
    Ok(rows.load(&mut conn).await?)
}

/// Somebody who waits. The place is theirs until the looker has seen that they are gone, so that
/// there are never more, also while Postgres does not answer.
struct Waiter {
    tell: oneshot::Sender<Row>,
    _place: OwnedSemaphorePermit,
}

/// The orders of which somebody waits for the end.
pub struct OrderEnds {
    pool: Pool,
    places: Arc<Semaphore>,
    waiters: Mutex<HashMap<PaymentOrderId, Vec<Waiter>>>,
    /// Wakes the looker when somebody begins to wait.
    came: Notify,
}

impl OrderEnds {
    /// Nobody waits.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self::with_places(pool, WAITERS_MAX)
    }

    fn with_places(pool: Pool, places: usize) -> Self {
        Self {
            pool,
            places: Arc::new(Semaphore::new(places)),
            waiters: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// The order once it has ended; `None` when it has not in time, when too many wait already, or
    /// when there is no such order. That it is the asker's has to be known before.
    pub async fn wait(&self, order: PaymentOrderId, until: Instant) -> Option<Row> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (tell, told) = oneshot::channel();
        let waiter = Waiter {
            tell,
            _place: place,
        };
        self.waiters().entry(order).or_default().push(waiter);
        self.came.notify_one();
        tokio::time::timeout_at(until, told).await.ok()?.ok()
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<PaymentOrderId, Vec<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for all who wait, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let looking = async {
            let mut is_well = true;
            loop {
                let ids = self.open();
                if ids.is_empty() {
                    self.came.notified().await;
                    continue;
                }
                match order_list_ended(&self.pool, &ids).await {
                    Ok(rows) => {
                        is_well = true;
                        self.tell(rows);
                    }
                    Err(error) => {
                        if is_well {
                            tracing::warn!(%error, "orders that are waited for could not be read");
                        }
                        is_well = false;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let stopped: Option<std::convert::Infallible> = stop.run_until_cancelled(looking).await;
        match stopped {
            None => {}
            Some(never) => match never {},
        }
    }

    /// The orders of which somebody still waits; who does not any more is forgotten.
    fn open(&self) -> Vec<PaymentOrderId> {
        let mut waiters = self.waiters();
        waiters.retain(|_, list| {
            list.retain(|waiter| !waiter.tell.is_closed());
            !list.is_empty()
        });
        waiters.keys().copied().collect()
    }

    fn tell(&self, rows: Vec<Row>) {
        let mut waiters = self.waiters();
        for row in rows {
            for waiter in waiters.remove(&row.order_id).unwrap_or_default() {
                // Who is gone needs no answer.
                drop(waiter.tell.send(row.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn order(n: u128) -> PaymentOrderId {
        PaymentOrderId(Uuid::from_u128(n))
    }

    fn ends(places: usize) -> OrderEnds {
        let pool = db::pool("postgres://nobody@127.0.0.1:1/none", 1);
        OrderEnds::with_places(pool.expect("an address"), places)
    }

    fn row(n: u128) -> Row {
        Row {
            order_id: order(n),
            user_id: UserId(Uuid::nil()),
            reservation_id: Some(ReservationId(Uuid::nil())),
            amount: Money::won(1),
            status: OrderStatus::Paid,
            rehold_id: None,
            fail_code: None,
            refunded: Money::ZERO,
            created_at: Timestamp::EPOCH,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_an_order_are_told_and_nobody_else() {
        let ends = ends(3);
        let tell = async {
            // The others have begun to wait when this is polled.
            assert_eq!(ends.open().len(), 2);
            ends.tell(vec![row(1), row(7)]);
            assert_eq!(ends.open(), [order(2)]);
        };
        let (one, same, other, ()) = tokio::join!(
            ends.wait(order(1), soon()),
            ends.wait(order(1), soon()),
            ends.wait(order(2), soon()),
            tell
        );
        assert_eq!((one, same, other), (Some(row(1)), Some(row(1)), None));
        assert_eq!(ends.open(), []);
        assert_eq!(ends.places.available_permits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_answered_at_once_until_others_are_seen_to_be_gone() {
        let ends = ends(2);
        let now = Instant::now();
        for n in 1..=2 {
            assert_eq!(ends.wait(order(n), now).await, None);
        }
        // Nobody has looked since: their places are theirs still.
        assert_eq!(ends.wait(order(3), soon()).await, None);
        assert_eq!(Instant::now(), now);
        assert_eq!(ends.open(), []);
        assert_eq!(ends.wait(order(3), soon()).await, None);
        assert_eq!(Instant::now(), now + Duration::from_secs(5));
    }
}
