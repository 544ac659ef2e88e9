//! The settlement worker: payments, decided by [`onsale_domain::settlement`], loaded and stored
//! here.
//!
//! A payment locks its reservation, then its payer's account, and compares the end of the hold with
//! the database's clock, read under those locks: of a payment and a lapse exactly one wins. The
//! owner of the seats learns of it by a notice, written in the same transaction.

mod needs;
mod store;

use crate::compete::{self, Queue, store::clock_now};
use crate::context::{self, Context};
use crate::ledger::store::account_lock;
use crate::runtime::world::Publish;
use diesel_async::AsyncPgConnection;
use needs::Needs;
use onsale_domain::settlement::{Changes, Ids, Settlement as State};
use onsale_platform::db;
use onsale_schema::message::{Command, MessageOutcomes};
use onsale_schema::settlement::{Kind, Outcome, Refusal};
use onsale_schema::{Lane, NoticeId, TransferId};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Decides payments until `shutdown`.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), context::Error> {
    compete::run(ctx, Settlement, shutdown).await
}

/// The lane of payments.
pub struct Settlement;

impl Queue for Settlement {
    const LANE: Lane = Lane::Settlement;
    type Kind = Kind;
    type Outcome = Outcome;

    async fn settle(
        &self,
        conn: &mut AsyncPgConnection,
        commands: &[&Command<Kind>],
    ) -> Result<Vec<Outcome>, db::Error> {
        let needs = Needs::of(commands);
        let locked = store::reservation_lock(conn, &needs.reservations).await?;
        let mut state = State::default();
        state.accounts = account_lock(conn, &needs.accounts).await?;
        for reservation in locked {
            state.load_reservation(reservation);
        }
        // Under the locks: a payment of these that is not seen now does not exist.
        let (payments, now) =
            futures_util::future::join(store::payment_list(conn, &needs), clock_now(conn)).await;
        store::payment_load(payments?, &mut state);
        let now = now?;
        let mut changes = Changes::default();
        let outcomes = commands
            .iter()
            .map(|command| {
                let ids = Ids {
                    transfer_id: TransferId(Uuid::now_v7()),
                    notice_id: NoticeId(Uuid::now_v7()),
                };
                state.decide(command, ids, now, &mut changes)
            })
            .collect();
        store::changes(conn, &changes).await?;
        Ok(outcomes)
    }

    async fn committed(&self, ctx: &Context, outcomes: &[MessageOutcomes<Outcome>]) {
        let is_paid = |outcome: &Outcome| matches!(outcome, Outcome::Paid(_));
        if outcomes.iter().any(|m| m.outcomes.iter().any(is_paid)) {
            ctx.publish(ctx.subjects.outbox_nudge(), Vec::new()).await;
        }
    }

    fn dead_lettered() -> Outcome {
        Outcome::DeadLettered
    }

    fn labels(kind: &Kind, outcome: &Outcome) -> (&'static str, &'static str) {
        let kind = match kind {
            Kind::Pay { .. } => "pay",
        };
        let outcome = match outcome {
            Outcome::Paid(_) => "accepted",
            Outcome::Refused(Refusal::CommandExpired) => "command-expired",
            Outcome::Refused(Refusal::KeyReused) => "idempotency-key-reused",
            Outcome::Refused(Refusal::NotFound) => "not-found",
            Outcome::Refused(Refusal::AlreadyPaid) => "already-paid",
            Outcome::Refused(Refusal::HoldExpired) => "hold-expired",
            Outcome::Refused(Refusal::StateConflict { .. }) => "reservation-state-conflict",
            Outcome::Refused(Refusal::InsufficientPoints) => "insufficient-points",
            Outcome::DeadLettered => "dead-lettered",
        };
        (kind, outcome)
    }
}
