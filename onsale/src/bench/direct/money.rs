//! Charges and payments by the usual direct design: a transaction per request that locks the account,
//! or the reservation and the account, so that others who want them wait, and then looks and writes,
//! all by one statement.
//!
//! The yardstick has the same handlers, and a bare statement in place of all that.
//!
//! It is spared what only the pipeline needs: outcome rows, failed attempts, and the notice to the
//! owner of the seats, whose claims it marks as sold itself.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use diesel::sql_types::{Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt;
use onsale_ingress::auth::User;
use onsale_ingress::extract::JsonBody;
use onsale_ingress::idempotency::{IdempotencyKey, fingerprint};
use onsale_ingress::problem::Problem;
use onsale_ingress::{ids, payments, points};
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_platform::tx;
use onsale_schema::ledger::{self, CARD_ACCOUNT, CASH_ACCOUNT, SALES_ACCOUNT};
use onsale_schema::message::Fingerprint;
use onsale_schema::settlement::{self, Payment};
use onsale_schema::status::{ChargeMethod, PaymentMethod, ReservationStatus};
use onsale_schema::{
    AccountId, CommandId, Money, PaymentId, ReservationId, Timestamp, TransferId, UserId,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

use super::{Direct, Rival, lean_money};
use crate::bench::case::PRICE_WON;

/// As the pipeline has them by default, in won.
const CHARGE_MAX: i64 = 1_000_000;
const BALANCE_CAP: i64 = 1_000_000;

const ACCOUNT_LOCK: &str = "SELECT FROM account WHERE account_id = $1 FOR UPDATE";
const ACCOUNT_OPEN: &str =
    "INSERT INTO account (account_id, balance) VALUES ($1, 0) ON CONFLICT DO NOTHING";
/// The checks are the pipeline's, in its order. There is a row if the account is there.
const CHARGE: &str = "\
WITH seen AS MATERIALIZED (
    SELECT clock_timestamp() AS now, account.balance, known.transfer_id, known.user_balance,
           CASE
               WHEN known.fingerprint = $3 THEN 'known'
               WHEN known.transfer_id IS NOT NULL THEN 'key-reused'
               WHEN $5 <= 0 OR $5 > $6 THEN 'amount'
               WHEN account.balance + $5 > $7 THEN 'cap'
               ELSE 'charged'
           END AS verdict
    FROM account LEFT JOIN transfer AS known ON known.cause = $2
    WHERE account.account_id = $1
), moved AS (
    INSERT INTO transfer (transfer_id, cause, fingerprint, kind, debit, credit, amount,
                          user_balance, at)
    SELECT $4, $2, $3, 'CHARGE', $8, $1, $5, balance + $5, now FROM seen WHERE verdict = 'charged'
    RETURNING transfer_id, user_balance
), kept AS (
    UPDATE account SET balance = moved.user_balance FROM moved WHERE account.account_id = $1
)
SELECT verdict, coalesce(moved.transfer_id, seen.transfer_id) AS transfer_id,
       coalesce(moved.user_balance, seen.user_balance) AS user_balance
FROM seen LEFT JOIN moved ON true";

const PAY_LOCK: &str = "\
SELECT FROM reservation JOIN account ON account.account_id = reservation.user_id
WHERE reservation.reservation_id = $1 AND reservation.user_id = $2 FOR UPDATE";
const PAY: &str = "\
WITH seen AS MATERIALIZED (
    SELECT clock_timestamp() AS now, r.schedule_id, r.seat_nos, r.total, r.status, account.balance,
           known.payment_id, known.amount, known.at,
           CASE
               WHEN known.fingerprint = $4 THEN 'known'
               WHEN known.payment_id IS NOT NULL THEN 'key-reused'
               WHEN r.status = 'HELD' AND r.expires_at <= clock_timestamp() THEN 'lapsed'
               WHEN r.status <> 'HELD' THEN 'ended'
               WHEN account.balance IS NULL OR account.balance < r.total THEN 'poor'
               ELSE 'paid'
           END AS verdict
    FROM reservation AS r
         LEFT JOIN account ON account.account_id = $2
         LEFT JOIN payment AS known ON known.command_id = $3 AND known.status = 'PAID'
    WHERE r.reservation_id = $1 AND r.user_id = $2
), winner AS (
    SELECT * FROM seen WHERE verdict = 'paid'
), moved AS (
    INSERT INTO transfer (transfer_id, cause, fingerprint, kind, debit, credit, amount,
                          user_balance, at)
    SELECT $6, $1, $4, 'PAYMENT', $2, $7, total, balance - total, now FROM winner WHERE total > 0
    RETURNING transfer_id
), kept AS (
    UPDATE account SET balance = account.balance - winner.total
    FROM winner WHERE account.account_id = $2
), made AS (
    INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, method,
                         amount, status, transfer_id, at)
    SELECT $5, $1, $2, $3, $4, 'POINTS', total, 'PAID', (SELECT transfer_id FROM moved), now
    FROM winner
    RETURNING payment_id, amount, at
), ended AS (
    UPDATE reservation SET status = 'PAID' FROM winner WHERE reservation.reservation_id = $1
), sold AS (
    UPDATE seat_claim SET state = 'S' FROM winner
    WHERE seat_claim.schedule_id = winner.schedule_id
      AND seat_claim.seat_no = ANY (winner.seat_nos) AND seat_claim.reservation_id = $1
)
SELECT verdict, seen.status, coalesce(made.payment_id, seen.payment_id) AS payment_id,
       coalesce(made.amount, seen.amount) AS amount, coalesce(made.at, seen.at) AS at
FROM seen LEFT JOIN made ON true";

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NewCharge {
    amount: Money,
    method: ChargeMethod,
}

struct Charge {
    account: AccountId,
    command_id: CommandId,
    fingerprint: Fingerprint,
    transfer_id: TransferId,
    amount: Money,
    debit: AccountId,
}

#[derive(QueryableByName)]
struct ChargeRow {
    #[diesel(sql_type = Text)]
    verdict: String,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    transfer_id: Option<TransferId>,
    #[diesel(sql_type = Nullable<Numeric>)]
    user_balance: Option<Money>,
}

/// Charges points.
pub async fn charge(
    State(direct): State<Direct>,
    user: User,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewCharge = body.parse()?;
    let charge = Arc::new(Charge {
        account: AccountId::of_user(user.id),
        command_id: key.command(user.id, points::ROUTE_CHARGES),
        fingerprint: fingerprint(points::ROUTE_CHARGES, &wanted),
        transfer_id: TransferId(ids::new_v7(direct.clock.now())),
        amount: wanted.amount,
        debit: match wanted.method {
            ChargeMethod::Card => CARD_ACCOUNT,
            ChargeMethod::Cash => CASH_ACCOUNT,
        },
    });
    let decided: Result<_, db::Error> = match direct.rival {
        Rival::LeanCte => charge.lean(&direct.pool).await,
        Rival::Cte | Rival::RowLock => {
            tx::run(&direct.pool, move |conn| {
                let charge = Arc::clone(&charge);
                async move { charge.decide(conn).await }.boxed()
            })
            .await
        }
    };
    Ok(points::charged(&decided?)?.at_once()?.into_response())
}

impl Charge {
    /// Without an account there is nothing to charge.
    async fn lean(&self, pool: &Pool) -> Result<ledger::Outcome, db::Error> {
        let moved = lean_money::moved(pool, self.transfer_id, self.account, self.amount).await?;
        let refused = ledger::Outcome::Refused(ledger::Refusal::AmountInvalid);
        Ok(moved.map_or(refused, |balance| ledger::Outcome::Charged {
            transfer_id: self.transfer_id,
            balance,
        }))
    }

    async fn decide(&self, conn: &mut AsyncPgConnection) -> Result<ledger::Outcome, db::Error> {
        let lock = || statement(ACCOUNT_LOCK).bind::<SqlUuid, _>(self.account);
        if lock().execute(conn).await? == 0 {
            let open = statement(ACCOUNT_OPEN).bind::<SqlUuid, _>(self.account);
            open.execute(conn).await?;
            lock().execute(conn).await?;
        }
        let row: ChargeRow = statement(CHARGE)
            .bind::<SqlUuid, _>(self.account)
            .bind::<SqlUuid, _>(self.command_id)
            .bind::<SqlUuid, _>(self.fingerprint.0)
            .bind::<SqlUuid, _>(self.transfer_id)
            .bind::<Numeric, _>(self.amount)
            .bind::<Numeric, _>(Money::won(CHARGE_MAX))
            .bind::<Numeric, _>(Money::won(BALANCE_CAP))
            .bind::<SqlUuid, _>(self.debit)
            .get_result(conn)
            .await?;
        Ok(row.outcome())
    }
}

impl ChargeRow {
    fn outcome(self) -> ledger::Outcome {
        use ledger::{Outcome, Refusal};
        let refusal = match (self.verdict.as_str(), self.transfer_id, self.user_balance) {
            ("charged" | "known", Some(transfer_id), Some(balance)) => {
                return Outcome::Charged {
                    transfer_id,
                    balance,
                };
            }
            ("key-reused", ..) => Refusal::KeyReused,
            ("cap", ..) => Refusal::BalanceCapExceeded {
                cap: Money::won(BALANCE_CAP),
            },
            _ => Refusal::AmountInvalid,
        };
        Outcome::Refused(refusal)
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPayment {
    reservation_id: ReservationId,
    method: PaymentMethod,
}

struct Pay {
    reservation_id: ReservationId,
    user_id: UserId,
    command_id: CommandId,
    fingerprint: Fingerprint,
    payment_id: PaymentId,
    transfer_id: TransferId,
}

#[derive(QueryableByName)]
struct PayRow {
    #[diesel(sql_type = Text)]
    verdict: String,
    #[diesel(sql_type = Text)]
    status: ReservationStatus,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    payment_id: Option<PaymentId>,
    #[diesel(sql_type = Nullable<Numeric>)]
    amount: Option<Money>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    at: Option<Timestamp>,
}

/// Pays a reservation by points.
pub async fn pay(
    State(direct): State<Direct>,
    user: User,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewPayment = body.parse()?;
    let new_id = || -> Uuid { ids::new_v7(direct.clock.now()) };
    let pay = Arc::new(Pay {
        reservation_id: wanted.reservation_id,
        user_id: user.id,
        command_id: key.command(user.id, payments::ROUTE),
        fingerprint: fingerprint(payments::ROUTE, &wanted),
        payment_id: PaymentId(new_id()),
        transfer_id: TransferId(new_id()),
    });
    let decided: Result<_, db::Error> = match direct.rival {
        Rival::LeanCte => pay.lean(&direct.pool, direct.clock.now()).await,
        Rival::Cte | Rival::RowLock => {
            tx::run(&direct.pool, move |conn| {
                let pay = Arc::clone(&pay);
                async move { pay.decide(conn).await }.boxed()
            })
            .await
        }
    };
    Ok(payments::paid(&decided?)?.at_once()?.into_response())
}

impl Pay {
    /// It knows no reservation, only what each costs.
    async fn lean(&self, pool: &Pool, now: Timestamp) -> Result<settlement::Outcome, db::Error> {
        use settlement::{Outcome, Refusal};
        let (account, amount) = (AccountId::of_user(self.user_id), Money::won(PRICE_WON));
        let moved =
            lean_money::moved(pool, self.transfer_id, account, Money::ZERO - amount).await?;
        let refused = Outcome::Refused(Refusal::InsufficientPoints);
        Ok(moved.map_or(refused, |_| {
            Outcome::Paid(Payment {
                payment_id: self.payment_id,
                reservation_id: self.reservation_id,
                amount,
                paid_at: now,
            })
        }))
    }

    async fn decide(&self, conn: &mut AsyncPgConnection) -> Result<settlement::Outcome, db::Error> {
        let lock = statement(PAY_LOCK)
            .bind::<SqlUuid, _>(self.reservation_id)
            .bind::<SqlUuid, _>(self.user_id);
        lock.execute(conn).await?;
        let row: Option<PayRow> = statement(PAY)
            .bind::<SqlUuid, _>(self.reservation_id)
            .bind::<SqlUuid, _>(self.user_id)
            .bind::<SqlUuid, _>(self.command_id)
            .bind::<SqlUuid, _>(self.fingerprint.0)
            .bind::<SqlUuid, _>(self.payment_id)
            .bind::<SqlUuid, _>(self.transfer_id)
            .bind::<SqlUuid, _>(SALES_ACCOUNT)
            .get_result(conn)
            .await
            .optional()?;
        let not_found = settlement::Outcome::Refused(settlement::Refusal::NotFound);
        Ok(row.map_or(not_found, |row| row.outcome(self.reservation_id)))
    }
}

impl PayRow {
    fn outcome(self, reservation_id: ReservationId) -> settlement::Outcome {
        use settlement::{Outcome, Refusal};
        let refusal = match (self.verdict.as_str(), self.status) {
            ("key-reused", _) => Refusal::KeyReused,
            ("poor", _) => Refusal::InsufficientPoints,
            ("lapsed", _) | ("ended", ReservationStatus::Expired) => Refusal::HoldExpired,
            ("ended", ReservationStatus::Paid) => Refusal::AlreadyPaid,
            (_, status) => match (self.payment_id, self.amount, self.at) {
                (Some(payment_id), Some(amount), Some(paid_at)) => {
                    return Outcome::Paid(Payment {
                        payment_id,
                        reservation_id,
                        amount,
                        paid_at,
                    });
                }
                _ => Refusal::StateConflict { status },
            },
        };
        Outcome::Refused(refusal)
    }
}
