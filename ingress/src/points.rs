//! Points: balance, charges, history.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{JsonBody, Query};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::orders::{self, Decided};
use crate::page::{Cursor, Page, PageQuery, PageStart};
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::Response;
use diesel::dsl::sql;
use diesel::prelude::Queryable;
use diesel::sql_types::Bool;
use diesel::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_schema::ledger::{Kind, Outcome};
use onsale_schema::status::{ChargeMethod, TransferKind};
use onsale_schema::{AccountId, Money, Timestamp, TransferId, tables};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

/// Where points are charged.
pub const ROUTE_CHARGES: &str = "/api/v1/users/me/points/charges";

/// A user's points.
#[derive(Serialize, ToSchema)]
struct Points {
    balance: Money,
}

/// The balance of my points
#[utoipa::path(get, path = "/users/me/points", operation_id = "getPoints", tag = "Points",
    responses((status = 200, description = "The balance", body = Points)))]
pub async fn balance(State(app): State<App>, user: User) -> Result<Response, Problem> {
    let balance = account_balance(&app.pool, AccountId::of_user(user.id)).await?;
    answer::ok(&Points { balance })
}

/// A user's balance; nothing before the first charge.
async fn account_balance(pool: &Pool, account: AccountId) -> Result<Money, db::Error> {
    use tables::account::dsl;
    let mut conn = pool.get().await?;
    let balance: Option<Option<Money>> = dsl::account
        .find(account)
        .select(dsl::balance)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(balance.flatten().unwrap_or_default())
}

/// Points to be bought.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCharge {
    amount: Money,
    method: ChargeMethod,
}

/// Points that were bought.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Charge {
    /// The balance after it.
    balance: Money,
    transfer_id: TransferId,
}

/// Charge points
///
/// By card, if the service has a payment gateway with cards on file, it is the card that the gateway
/// has for the buyer's id, and only a few charges may be on their way at once. When the gateway has not
/// answered in time, the answer is 202, and the order says how it ends. Where nobody asks cards for
/// money it is `cards-not-configured`, and where nobody takes cash `cash-not-configured`.
#[utoipa::path(post, path = "/users/me/points/charges", operation_id = "chargePoints",
    tag = "Points", params(IdempotencyKey, Prefer), request_body = NewCharge,
    extensions(("x-problems" = json!([Code::AmountInvalid, Code::BalanceCapExceeded,
        Code::TooManyOpenCharges, Code::PaymentDeclined, Code::PaymentGatewayUnavailable,
        Code::CardsNotConfigured, Code::CashNotConfigured]))),
    responses((status = 201, description = "Charged", body = Charge)))]
pub async fn charge(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewCharge = body.parse()?;
    if !wanted.amount.is_positive() {
        return Err(Problem::new(Code::AmountInvalid));
    }
    let in_flight = app.gate.admit_charge()?;
    let until = Instant::now() + orders::patience(&app, prefer);
    let submission = Submission {
        id: key.command(user.id, ROUTE_CHARGES),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE_CHARGES, &wanted),
        in_flight,
        prefer,
        trace,
        kind: Kind::Charge {
            amount: wanted.amount,
            method: wanted.method,
        },
        asked: Asked::Charge,
        partition: None,
    };
    submit(&app, &app.batchers.ledger, submission, async |outcome| {
        charged(outcome)?.told(&app, until).await
    })
    .await
}

/// What a decided charge is answered with.
///
/// # Errors
/// The refusal, as a problem.
pub fn charged(outcome: &Outcome) -> Result<Decided, Problem> {
    match outcome {
        Outcome::Charged {
            transfer_id,
            balance,
        } => Answer::created(
            None,
            &Charge {
                balance: *balance,
                transfer_id: *transfer_id,
            },
        )
        .map(Decided::Answer),
        Outcome::Ordered { order_id } => Ok(Decided::Order(*order_id)),
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::DeadLettered => Err(Problem::unavailable()),
    }
}

/// The charge that a transfer is.
///
/// # Errors
/// When Postgres fails.
pub async fn of_transfer(pool: &Pool, id: TransferId) -> Result<Option<Charge>, db::Error> {
    use tables::transfer::dsl;
    let mut conn = pool.get().await?;
    let balance: Option<Money> = dsl::transfer
        .find(id)
        .select(dsl::user_balance)
        .first(&mut conn)
        .await
        .optional()?;
    Ok(balance.map(|balance| Charge {
        balance,
        transfer_id: id,
    }))
}

#[derive(Queryable)]
struct TransferRow {
    transfer_id: TransferId,
    kind: TransferKind,
    credit: AccountId,
    amount: Money,
    user_balance: Money,
    at: Timestamp,
}

/// A transfer as its user sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Transfer)]
#[serde(rename_all = "camelCase")]
struct EntryView {
    transfer_id: TransferId,
    kind: TransferKind,
    /// What the balance grew by; negative when it shrank.
    amount: Money,
    balance_before: Money,
    balance_after: Money,
    at: Timestamp,
}

impl EntryView {
    fn of(row: TransferRow, account: AccountId) -> Self {
        let amount = if row.credit == account {
            row.amount
        } else {
            Money::ZERO - row.amount
        };
        Self {
            transfer_id: row.transfer_id,
            kind: row.kind,
            amount,
            balance_before: row.user_balance - amount,
            balance_after: row.user_balance,
            at: row.at,
        }
    }
}

/// The history of my points
///
/// Each transfer with the balance before and after it, the newest first.
#[utoipa::path(get, path = "/users/me/points/history", operation_id = "listTransfers",
    tag = "Points", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<EntryView>)))]
pub async fn history(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    let account = AccountId::of_user(user.id);
    let rows = transfer_list(&app.pool, account, &start).await?;
    let cursor = |row: &TransferRow| Cursor {
        key: row.at.micros(),
        id: row.transfer_id.0,
    };
    answer::ok(&start.page(rows, cursor, |row| EntryView::of(row, account)))
}

/// The transfers of an account, the newest first.
async fn transfer_list(
    pool: &Pool,
    account: AccountId,
    start: &PageStart,
) -> Result<Vec<TransferRow>, db::Error> {
    use tables::transfer::dsl;
    let mut query = dsl::transfer
        // As the indexes say it: payments are debited to users, everything else is credited to them.
        .filter(
            (dsl::debit.eq(account).and(sql::<Bool>("kind = 'PAYMENT'"))).or(dsl::credit
                .eq(account)
                .and(sql::<Bool>("kind <> 'PAYMENT'"))),
        )
        .select((
            dsl::transfer_id,
            dsl::kind,
            dsl::credit,
            dsl::amount,
            dsl::user_balance,
            dsl::at,
        ))
        .order((dsl::at.desc(), dsl::transfer_id.desc()))
        .limit(start.rows())
        .into_boxed();
    if let Some(after) = start.after {
        let same_time = dsl::at.eq(after.at()).and(dsl::transfer_id.lt(after.id));
        query = query.filter(dsl::at.lt(after.at()).or(same_time));
    }
    let mut conn = pool.get().await?;
    Ok(query.load(&mut conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn an_entry_tells_what_the_balance_was() {
        let (ours, other) = (AccountId(Uuid::from_u128(1)), AccountId(Uuid::from_u128(2)));
        let row = |credit| TransferRow {
            transfer_id: TransferId(Uuid::nil()),
            kind: TransferKind::Charge,
            credit,
            amount: Money::won(30),
            user_balance: Money::won(100),
            at: Timestamp::EPOCH,
        };
        let grown = EntryView::of(row(ours), ours);
        assert_eq!(
            (grown.amount, grown.balance_before),
            (Money::won(30), Money::won(70))
        );
        let shrunk = EntryView::of(row(other), ours);
        assert_eq!(
            (shrunk.amount, shrunk.balance_before),
            (Money::won(-30), Money::won(130))
        );
        assert_eq!(shrunk.balance_after, Money::won(100));
    }
}
