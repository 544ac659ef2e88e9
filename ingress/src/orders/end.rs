//! How far an order is, and how it ended, as its client is told: at once, after waiting, or later.
//! What a confirmation and a charge by card wait for is the same row.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::order_ends::{self, Row};
use crate::payments::{self, PaymentView};
use crate::points::{self, Charge};
use crate::prefer::Prefer;
use crate::problem::Problem;
use crate::submit::open_at;
use axum::http::StatusCode;
use onsale_platform::db::{self, Pool};
use onsale_schema::status::{FailCode, OrderStatus};
use onsale_schema::{Money, PaymentOrderId, ReservationId, Timestamp};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::ToSchema;

/// A payment through the gateway, and how far it is.
#[derive(Serialize, ToSchema)]
#[schema(as = PaymentOrder)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    order_id: PaymentOrderId,
    /// What it pays; a charge of points by card pays none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<ReservationId>,
    amount: Money,
    status: OrderStatus,
    /// The reservation that was paid, if not the one that was ordered: the hold had lapsed, and its
    /// seats were free.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    paid_reservation_id: Option<ReservationId>,
    /// Of a paid reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    payment: Option<PaymentView>,
    /// Of points that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    charge: Option<Charge>,
    /// Why it was not paid, or why the money goes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fail_code: Option<String>,
    /// What came back.
    refunded: Money,
    created_at: Timestamp,
}

impl OrderView {
    /// An order, with what it has come to.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn load(pool: &Pool, row: Row) -> Result<Self, db::Error> {
        let is_paid = row.status == OrderStatus::Paid;
        let paid = row.rehold_id.or(row.reservation_id).filter(|_| is_paid);
        let payment = match paid {
            Some(reservation) => payments::of_order(pool, reservation, row.order_id).await?,
            None => None,
        };
        let is_charged = is_paid && row.reservation_id.is_none();
        let charge = match is_charged {
            true => points::of_transfer(pool, row.order_id.charged_by()).await?,
            false => None,
        };
        Ok(Self {
            order_id: row.order_id,
            reservation_id: row.reservation_id,
            amount: row.amount,
            status: row.status,
            paid_reservation_id: row.rehold_id.filter(|_| is_paid),
            payment,
            charge,
            fail_code: row.fail_code,
            refunded: row.refunded,
            created_at: row.created_at,
        })
    }
}

/// How long an ingress waits for the end of an order for its client.
#[must_use]
pub fn patience(app: &App, prefer: Prefer) -> Duration {
    let most = app.flow.request_timeout();
    match prefer.wait {
        Some(wait) => wait.min(most),
        None if prefer.respond_async => Duration::ZERO,
        None => most,
    }
}

/// What a client is told of what was decided.
pub enum Decided {
    /// This.
    Answer(Answer),
    /// How the order ends. That it is the asker's is known.
    Order(PaymentOrderId),
}

impl Decided {
    /// The answer. The end of an order is waited for so long; then it is 202, and where it will be
    /// said.
    ///
    /// # Errors
    /// Why nothing was paid, as a problem.
    pub async fn told(self, app: &App, until: Instant) -> Result<Answer, Problem> {
        let order = match self {
            Self::Answer(answer) => return Ok(answer),
            Self::Order(order) => order,
        };
        let row = match until > Instant::now() {
            true => app.order_ends.wait(order, until).await,
            false => order_ends::look(&app.pool, order).await,
        };
        match row {
            Some(row) => end(app, row).await,
            None => open(app, order),
        }
    }

    /// The answer, where no gateway takes part.
    ///
    /// # Errors
    /// When one does, which would be a fault of ours.
    pub fn at_once(self) -> Result<Answer, Problem> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Order(order) => {
                tracing::error!(%order, "an order was made without a gateway");
                Err(Problem::internal())
            }
        }
    }
}

/// 202: it has not ended, as far as is known.
fn open(app: &App, order: PaymentOrderId) -> Result<Answer, Problem> {
    open_at(format!("{}/{order}", super::ROUTE), app.clock.now())
}

/// How it ended. Codes of failures are those of problems. What was accepted is never said to have
/// failed because it can't be read just now.
async fn end(app: &App, row: Row) -> Result<Answer, Problem> {
    let order_id = row.order_id;
    if row.status != OrderStatus::Paid {
        let why = row.fail_code.as_deref().unwrap_or_default();
        let Some(code) = FailCode::named(why) else {
            tracing::error!(order = %order_id, why, "an order ended for an unknown reason");
            return Err(Problem::internal());
        };
        return Err(Problem::new(code.into()));
    }
    match OrderView::load(&app.pool, row).await {
        Ok(OrderView {
            charge: Some(charge),
            ..
        }) => Answer::created(None, &charge),
        Ok(order) => Ok(Answer {
            status: StatusCode::OK,
            location: None,
            json: answer::to_json(&order)?,
        }),
        Err(error) => {
            tracing::debug!(%error, order = %order_id, "how it ended is told later");
            open(app, order_id)
        }
    }
}
