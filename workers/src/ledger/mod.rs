//! The ledger worker: charges, decided by [`onsale_domain::ledger`], loaded and stored here.
//!
//! Points are a double-entry ledger. A balance is kept for user accounts only and is a consequence
//! of transfers; [`store`] is the one module that writes either table. A charge by card is an order,
//! if the gateway has cards on file: it is written here, and settlement drives it from there.

pub mod store;

use crate::compete::{self, Queue, store::clock_now};
use crate::config;
use crate::context::{self, Context};
use crate::runtime::world::Publish;
use crate::settlement::charge_orders;
use diesel_async::AsyncPgConnection;
use futures_util::future::{join, join4};
use onsale_domain::ledger::{Accounts, Cards, Cause, Changes, Limits};
use onsale_platform::db;
use onsale_schema::ledger::{Kind, Outcome, Refusal};
use onsale_schema::message::{Command, MessageOutcomes};
use onsale_schema::status::ChargeMethod;
use onsale_schema::{AccountId, CommandId, Lane, Money, Timestamp, TransferId, UserId};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Decides charges until `shutdown`.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), context::Error> {
    let limits = Limits {
        charge_max: Money::won(ctx.config.money.charge_max),
        balance_cap: Money::won(ctx.config.money.balance_cap),
        cards: match ctx.config.money.cards {
            config::Cards::Gateway => Cards::Gateway {
                open_max: ctx.config.money.open_charges_max,
            },
            config::Cards::Terminal => Cards::Terminal,
            config::Cards::Refused => Cards::Refused,
        },
        cash: ctx.config.money.cash,
    };
    compete::run(ctx, Ledger::new(limits), shutdown).await
}

/// The lane of charges.
pub struct Ledger {
    limits: Limits,
}

impl Queue for Ledger {
    const LANE: Lane = Lane::Ledger;
    type Kind = Kind;
    type Outcome = Outcome;

    type State = (Accounts, Timestamp);
    type Changes = Changes;

    async fn load(
        &self,
        conn: &AsyncPgConnection,
        commands: &[&Command<Kind>],
    ) -> Result<(Accounts, Timestamp), db::Error> {
        let users: BTreeSet<AccountId> = commands
            .iter()
            .map(|command| AccountId::of_user(command.user))
            .collect();
        // A command may be there twice.
        let causes: BTreeSet<Uuid> = commands
            .iter()
            .map(|command| Cause::charge(command.id).0)
            .collect();
        let ids: Vec<CommandId> = commands.iter().map(|command| command.id).collect();
        store::account_open(conn, &users).await?;
        let mut accounts = store::account_lock(conn, &users).await?;
        // Under the locks: a charge of these users that is not seen now does not exist, and only
        // this transaction makes one of theirs.
        let (charges, orders, open, now) = join4(
            store::charge_list(conn, &causes),
            charge_orders::list(conn, &ids),
            charge_orders::count_open(conn, &self.users_of_cards(commands)),
            clock_now(conn),
        )
        .await;
        let ((charges, orders), (open, now)) =
            db::both(db::both(charges, orders), db::both(open, now))?;
        store::charge_load(charges, &mut accounts);
        charge_orders::load(orders, &mut accounts);
        charge_orders::load_open(open, &mut accounts);
        Ok((accounts, now))
    }

    fn decide(
        &self,
        (mut accounts, now): (Accounts, Timestamp),
        commands: &[&Command<Kind>],
    ) -> (Vec<Outcome>, Changes) {
        let mut changes = Changes::default();
        let outcomes = commands
            .iter()
            .map(|command| {
                let transfer_id = TransferId(Uuid::now_v7());
                accounts.decide(command, transfer_id, &self.limits, now, &mut changes)
            })
            .collect();
        (outcomes, changes)
    }

    async fn store(&self, conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
        let (made, ordered) = join(
            store::changes(conn, changes),
            charge_orders::insert(conn, &changes.orders),
        )
        .await;
        db::both(made, ordered)?;
        Ok(())
    }

    async fn committed(&self, ctx: &Context, outcomes: &[MessageOutcomes<Outcome>]) {
        let is_ordered = |outcome: &Outcome| matches!(outcome, Outcome::Ordered { .. });
        if outcomes.iter().any(|m| m.outcomes.iter().any(is_ordered)) {
            ctx.publish(ctx.subjects.orders_nudge(), Vec::new()).await;
        }
    }

    fn dead_lettered() -> Outcome {
        Outcome::DeadLettered
    }

    /// A charge is accepted or refused.
    fn set_aside(_: &Kind, _: &Outcome) -> Option<String> {
        None
    }

    fn labels(kind: &Kind, outcome: &Outcome) -> (&'static str, &'static str) {
        let Kind::Charge { .. } = kind;
        let outcome = match outcome {
            Outcome::Charged { .. } | Outcome::Ordered { .. } => "accepted",
            Outcome::Refused(Refusal::CommandExpired) => "command-expired",
            Outcome::Refused(Refusal::KeyReused) => "idempotency-key-reused",
            Outcome::Refused(Refusal::AmountInvalid) => "amount-invalid",
            Outcome::Refused(Refusal::BalanceCapExceeded { .. }) => "balance-cap-exceeded",
            Outcome::Refused(Refusal::CardsNotConfigured) => "cards-not-configured",
            Outcome::Refused(Refusal::CashNotConfigured) => "cash-not-configured",
            Outcome::Refused(Refusal::TooManyOpenCharges { .. }) => "too-many-open-charges",
            Outcome::DeadLettered => "dead-lettered",
        };
        ("charge", outcome)
    }
}

impl Ledger {
    /// The lane under these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// Whose charges the gateway would be asked for; a batch without any asks for no count.
    fn users_of_cards(&self, commands: &[&Command<Kind>]) -> Vec<UserId> {
        let is_asked = |method| match (self.limits.cards, method) {
            (Cards::Gateway { .. }, ChargeMethod::Card) => true,
            (Cards::Gateway { .. }, ChargeMethod::Cash)
            | (Cards::Terminal | Cards::Refused, ChargeMethod::Card | ChargeMethod::Cash) => false,
        };
        let users: BTreeSet<UserId> = commands
            .iter()
            .filter(|command| {
                let Kind::Charge { method, .. } = command.kind;
                is_asked(method)
            })
            .map(|command| command.user)
            .collect();
        Vec::from_iter(users)
    }
}
