//! The settlement worker: payments and cancellations, decided by [`onsale_domain::settlement`], loaded and stored
//! here.
//!
//! A payment locks its reservation, then its payer's account, and compares the end of the hold with
//! the database's clock, read under those locks: of a payment and a lapse exactly one wins. The
//! owner of the seats learns of it by a notice, written in the same transaction.

mod needs;
pub mod orders;
mod shows;
mod store;
mod watch;

pub(crate) use store::charge_orders;

use crate::compete::{self, Queue};
use crate::context::{self, Context};
use crate::runtime::world::Publish;
use diesel_async::AsyncPgConnection;
use needs::Needs;
use onsale_domain::settlement::{Changes, Ids, Settlement as State};
use onsale_platform::db;
use onsale_schema::message::{Command, MessageOutcomes};
use onsale_schema::settlement::{Kind, Outcome, Refusal};
use onsale_schema::{Lane, NoticeId, RefundId, Timestamp, TransferId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Decides payments and cancellations, works off shows that are cancelled, and says what money is on its
/// way, until `shutdown`.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), context::Error> {
    let shows = shows::run(ctx.clone(), shutdown.clone());
    let watch = watch::run(ctx.clone(), shutdown.clone());
    let queue = Settlement::new(ctx.gateway.is_some());
    let (ended, (), ()) = tokio::join!(compete::run(ctx, queue, shutdown), shows, watch);
    ended
}

/// Ids for what one accepted command makes.
fn new_ids() -> Ids {
    Ids {
        transfer_id: TransferId(Uuid::now_v7()),
        notice_id: NoticeId(Uuid::now_v7()),
        refund_id: RefundId(Uuid::now_v7()),
    }
}

/// The lane of payments.
pub struct Settlement {
    /// Whether orders can be captured: nobody may wait for what never comes.
    has_gateway: bool,
}

impl Settlement {
    /// The lane, with a gateway that captures orders or without one.
    #[must_use]
    pub fn new(has_gateway: bool) -> Self {
        Self { has_gateway }
    }
}

impl Queue for Settlement {
    const LANE: Lane = Lane::Settlement;
    type Kind = Kind;
    type Outcome = Outcome;

    type State = (State, Timestamp);
    type Changes = Changes;

    async fn load(
        &self,
        conn: &AsyncPgConnection,
        commands: &[&Command<Kind>],
    ) -> Result<(State, Timestamp), db::Error> {
        let (mut state, now) = store::load(conn, Needs::of(commands)).await?;
        state.ordering.has_gateway = self.has_gateway;
        Ok((state, now))
    }

    fn decide(
        &self,
        (mut state, now): (State, Timestamp),
        commands: &[&Command<Kind>],
    ) -> (Vec<Outcome>, Changes) {
        let mut changes = Changes::default();
        let outcomes = commands
            .iter()
            .map(|command| state.decide(command, new_ids(), now, &mut changes))
            .collect();
        (outcomes, changes)
    }

    async fn store(&self, conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
        store::changes(conn, changes).await
    }

    async fn committed(&self, ctx: &Context, outcomes: &[MessageOutcomes<Outcome>]) {
        let has = |is: fn(&Outcome) -> bool| outcomes.iter().any(|m| m.outcomes.iter().any(is));
        if has(|outcome| {
            matches!(
                outcome,
                Outcome::Paid(_)
                    | Outcome::Cancelled(_)
                    | Outcome::Confirmed(_)
                    | Outcome::Attended(_)
            )
        }) {
            ctx.publish(ctx.subjects.outbox_nudge(), Vec::new()).await;
        }
        if has(|outcome| {
            matches!(
                outcome,
                Outcome::Cancelled(_) | Outcome::Noted | Outcome::Attended(_)
            )
        }) {
            ctx.publish(ctx.subjects.orders_nudge(), Vec::new()).await;
        }
    }

    fn dead_lettered() -> Outcome {
        Outcome::DeadLettered
    }

    /// Money that was captured for an order that we do not know is nobody's to look up.
    fn set_aside(kind: &Kind, outcome: &Outcome) -> Option<String> {
        let Kind::GatewayEvent { order_id, .. } = kind else {
            return None;
        };
        matches!(outcome, Outcome::DeadLettered).then(|| {
            format!("the gateway says that it has captured money for {order_id}, no order of ours")
        })
    }

    fn labels(kind: &Kind, outcome: &Outcome) -> (&'static str, &'static str) {
        let kind = match kind {
            Kind::Pay { .. } => "pay",
            Kind::Cancel { .. } | Kind::CancelPlaces { .. } => "cancel",
            Kind::Order { .. } => "order",
            Kind::Confirm { .. } => "confirm",
            Kind::GatewayEvent { .. } => "gateway-event",
            Kind::RetryRefund { .. } => "retry-refund",
            Kind::ResolveRefund { .. } => "resolve-refund",
            Kind::CompareRefund { .. } => "compare-refund",
            Kind::WriteOff { .. } => "write-off",
        };
        let outcome = match outcome {
            Outcome::Paid(_)
            | Outcome::Cancelled(_)
            | Outcome::Ordered(_)
            | Outcome::Confirmed(_)
            | Outcome::Attended(_)
            | Outcome::WrittenOff(_)
            | Outcome::Noted => "accepted",
            Outcome::Refused(Refusal::PaymentInProgress) => "payment-in-progress",
            Outcome::Refused(Refusal::AmountMismatch) => "amount-mismatch",
            Outcome::Refused(Refusal::NothingToPay) => "nothing-to-pay",
            Outcome::Refused(Refusal::OrderConflict { .. }) => "order-state-conflict",
            Outcome::Refused(Refusal::PaymentKeyUsed) => "payment-key-used",
            Outcome::Refused(Refusal::GatewayNotConfigured) => "gateway-not-configured",
            Outcome::Refused(Refusal::RefundConflict { .. } | Refusal::RefundToCompare) => {
                "refund-state-conflict"
            }
            Outcome::Refused(Refusal::CommandExpired) => "command-expired",
            Outcome::Refused(Refusal::KeyReused) => "idempotency-key-reused",
            Outcome::Refused(Refusal::NotFound) => "not-found",
            Outcome::Refused(Refusal::AlreadyPaid) => "already-paid",
            Outcome::Refused(Refusal::HoldExpired) => "hold-expired",
            Outcome::Refused(Refusal::StateConflict { .. }) => "reservation-state-conflict",
            Outcome::Refused(Refusal::InsufficientPoints) => "insufficient-points",
            Outcome::Refused(Refusal::CancellationClosed) => "cancellation-closed",
            Outcome::Refused(Refusal::UnknownSeat) => "unknown-seat",
            Outcome::Refused(Refusal::ShowCancelled) => "sale-closed",
            Outcome::DeadLettered => "dead-lettered",
        };
        (kind, outcome)
    }
}
