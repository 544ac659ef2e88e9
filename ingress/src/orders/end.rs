//! How far an order is, and how it ended, as its client is told: at once, after waiting, or later.
//! What a confirmation and a charge by card wait for is the same row.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::payments::{self, PaymentView};
use crate::points::{self, Charge};
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::submit::open_at;
use axum::http::StatusCode;
use diesel::prelude::Queryable;
use diesel::{OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_schema::status::OrderStatus;
use onsale_schema::tables::payment_order::{self as table, dsl};
use onsale_schema::{Money, PaymentOrderId, ReservationId, Timestamp, UserId};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use utoipa::ToSchema;

/// The first pause between two looks at an order that is on its way.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(320);

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

/// The row of an order.
#[derive(Queryable)]
pub struct Row {
    order_id: PaymentOrderId,
    user_id: UserId,
    reservation_id: Option<ReservationId>,
    amount: Money,
    status: OrderStatus,
    rehold_id: Option<ReservationId>,
    fail_code: Option<String>,
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
        match ended(&app.pool, order, until).await? {
            Some(row) => end(app, row).await,
            None => open_at(format!("{}/{order}", super::ROUTE), app.clock.now()),
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

/// The order once it has ended; none when it has not in time. It is looked at once in any case.
async fn ended(
    pool: &Pool,
    order: PaymentOrderId,
    until: Instant,
) -> Result<Option<Row>, db::Error> {
    let mut pause = PAUSE_MIN;
    loop {
        let row = order_find(pool, order, None).await?;
        if let Some(row) = row.filter(|row| has_ended(row.status)) {
            return Ok(Some(row));
        }
        if Instant::now() + pause >= until {
            return Ok(None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether the buyer need not wait any longer.
fn has_ended(status: OrderStatus) -> bool {
    match status {
        OrderStatus::Paid
        | OrderStatus::Failed
        | OrderStatus::Refunding
        | OrderStatus::Refunded => true,
        OrderStatus::Ready
        | OrderStatus::Securing
        | OrderStatus::Capturing
        | OrderStatus::Unknown
        | OrderStatus::Captured
        | OrderStatus::Reholding => false,
    }
}

/// How it ended. Codes of failures are those of problems.
async fn end(app: &App, row: Row) -> Result<Answer, Problem> {
    if row.status == OrderStatus::Paid {
        let order = OrderView::load(&app.pool, row).await?;
        return match &order.charge {
            Some(charge) => Answer::created(None, charge),
            None => Ok(Answer {
                status: StatusCode::OK,
                location: None,
                json: answer::to_json(&order)?,
            }),
        };
    }
    let codes = [
        Code::PaymentDeclined,
        Code::HoldExpired,
        Code::AlreadyPaid,
        Code::SaleClosed,
        Code::PaymentGatewayUnavailable,
        Code::BalanceCapExceeded,
    ];
    let why = row.fail_code.unwrap_or_default();
    let code = codes.into_iter().find(|code| code.as_str() == why);
    Err(code.map_or_else(Problem::internal, Problem::new))
}

/// An order; only if it is that user's, if one is named.
///
/// # Errors
/// When Postgres fails.
pub async fn order_find(
    pool: &Pool,
    id: PaymentOrderId,
    user: Option<UserId>,
) -> Result<Option<Row>, db::Error> {
    let mut conn = pool.get().await?;
    let row: Option<Row> = dsl::payment_order
        .find(id)
        .select((
            table::order_id,
            table::user_id,
            table::reservation_id,
            table::amount,
            table::status,
            table::rehold_id,
            table::fail_code,
            table::refunded,
            table::created_at,
        ))
        .first(&mut conn)
        .await
        .optional()?;
    Ok(row.filter(|row| user.is_none_or(|user| row.user_id == user)))
}
