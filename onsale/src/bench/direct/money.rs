//! Charges and payments by the usual direct design: a transaction per request that locks the account,
//! or the reservation and the account, so that others who want them wait, reads them by the same
//! statement, decides, and writes all by another one.
//!
//! The yardstick has the same handlers, and a bare statement in place of all that.
//!
//! The row lock is spared what only the pipeline needs: outcome rows, failed attempts, and the notice to
//! the owner of the seats, whose claims it marks as sold itself. Nor does it ask whether the show was
//! cancelled, or whether an order is just being paid.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use diesel::sql_types::{Array, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid};
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
    AccountId, CommandId, Money, PaymentId, ReservationId, ScheduleId, SeatNo, Timestamp,
    TransferId, UserId,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

use super::{Direct, Rival, lean_money};
use crate::bench::case::PRICE_WON;

/// As the pipeline has them by default, in won.
const CHARGE_MAX: i64 = 1_000_000;
const BALANCE_CAP: i64 = 1_000_000;

const ACCOUNT_OPEN: &str =
    "INSERT INTO account (account_id, balance) VALUES ($1, 0) ON CONFLICT DO NOTHING";
/// By both locks a row that somebody else had locked is seen as he left it; what he has written besides
/// is seen by the next statement only. So who is refused looks once more whether his key is known by now;
/// who is not finds it taken.
const CHARGE_LOCK: &str = "\
SELECT locked.balance, clock_timestamp() AS now, known.fingerprint, known.transfer_id,
       known.user_balance
FROM (SELECT balance FROM account WHERE account_id = $1 FOR UPDATE) AS locked
     LEFT JOIN transfer AS known ON known.cause = $2";
const CHARGE: &str = "\
WITH kept AS (
    UPDATE account SET balance = $7 WHERE account_id = $6
)
INSERT INTO transfer (transfer_id, cause, fingerprint, kind, debit, credit, amount, user_balance, at)
VALUES ($1, $2, $3, 'CHARGE', $4, $6, $5, $7, $8)";

const PAY_LOCK: &str = "\
SELECT locked.*, clock_timestamp() AS now, known.fingerprint, known.payment_id, known.amount, known.at
FROM (SELECT r.schedule_id, r.seat_nos, r.total, coalesce(r.ends_as, r.status) AS status,
             r.expires_at, account.balance
      FROM reservation AS r JOIN account ON account.account_id = r.user_id
      WHERE r.reservation_id = $1 AND r.user_id = $2 FOR UPDATE) AS locked
     LEFT JOIN payment AS known ON known.command_id = $3 AND known.status = 'PAID'";
const PAY: &str = "\
WITH moved AS (
    INSERT INTO transfer (transfer_id, cause, fingerprint, kind, debit, credit, amount,
                          user_balance, at)
    SELECT $6, $1, $4, 'PAYMENT', $2, $7, $8, $9, $10 WHERE $6 IS NOT NULL
), kept AS (
    UPDATE account SET balance = $9 WHERE account_id = $2
), ended AS (
    UPDATE reservation SET status = 'PAID' WHERE reservation_id = $1
), sold AS (
    UPDATE seat_claim SET state = 'S'
    WHERE schedule_id = $11 AND seat_no = ANY ($12) AND reservation_id = $1
)
INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, method, amount,
                     status, transfer_id, at)
VALUES ($5, $1, $2, $3, $4, 'POINTS', $8, 'PAID', $6, $10)";

/// Who finds a key taken that was free when it was looked for has to look again.
fn taken_meanwhile(error: db::Error) -> db::Error {
    match error {
        db::Error::Constraint { constraint, .. }
            if ["transfer_cause", "payment_command_id"].contains(&constraint.as_str()) =>
        {
            db::Error::Taken(constraint)
        }
        other => other,
    }
}

async fn account_open(conn: &mut AsyncPgConnection, account: AccountId) -> Result<(), db::Error> {
    let open = statement(ACCOUNT_OPEN).bind::<SqlUuid, _>(account);
    open.execute(conn).await?;
    Ok(())
}

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

/// A locked account, and what the key has charged.
#[derive(QueryableByName)]
struct Account {
    #[diesel(sql_type = Numeric)]
    balance: Money,
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    fingerprint: Option<Uuid>,
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
    let decided = match direct.rival {
        Rival::LeanCte => charge.lean(&direct.pool).await,
        Rival::Cte | Rival::RowLock => charge.by_locks(&direct.pool).await,
    };
    Ok(points::charged(&decided?)?.at_once()?.into_response())
}

impl Charge {
    /// Without an account there is nothing to charge.
    async fn lean(&self, pool: &Pool) -> Result<ledger::Outcome, db::Error> {
        let moved = lean_money::charged(pool, self.transfer_id, self.account, self.amount).await?;
        let refused = ledger::Outcome::Refused(ledger::Refusal::AmountInvalid);
        Ok(moved.map_or(refused, |balance| ledger::Outcome::Charged {
            transfer_id: self.transfer_id,
            balance,
        }))
    }

    /// Decides in a transaction of its own.
    async fn by_locks(self: Arc<Self>, pool: &Pool) -> Result<ledger::Outcome, db::Error> {
        tx::run(pool, move |conn| {
            let charge = Arc::clone(&self);
            async move { charge.decide(conn).await }.boxed()
        })
        .await
    }

    async fn decide(&self, conn: &mut AsyncPgConnection) -> Result<ledger::Outcome, db::Error> {
        let mut account = self.locked(conn).await?;
        let mut judged = self.judge(&account);
        if judged.is_err() && account.transfer_id.is_none() {
            account = self.locked(conn).await?;
            judged = self.judge(&account);
        }
        let balance = match judged {
            Ok(balance) => balance,
            Err(outcome) => return Ok(outcome),
        };
        statement(CHARGE)
            .bind::<SqlUuid, _>(self.transfer_id)
            .bind::<SqlUuid, _>(self.command_id)
            .bind::<SqlUuid, _>(self.fingerprint.0)
            .bind::<SqlUuid, _>(self.debit)
            .bind::<Numeric, _>(self.amount)
            .bind::<SqlUuid, _>(self.account)
            .bind::<Numeric, _>(balance)
            .bind::<Timestamptz, _>(account.now)
            .execute(conn)
            .await
            .map_err(|error| taken_meanwhile(error.into()))?;
        Ok(ledger::Outcome::Charged {
            transfer_id: self.transfer_id,
            balance,
        })
    }

    /// The locked account, which is opened where there is none.
    async fn locked(&self, conn: &mut AsyncPgConnection) -> Result<Account, db::Error> {
        if let Some(account) = self.lock(conn).await? {
            return Ok(account);
        }
        account_open(conn, self.account).await?;
        self.lock(conn).await?.ok_or(db::Error::NotFound)
    }

    async fn lock(&self, conn: &mut AsyncPgConnection) -> Result<Option<Account>, db::Error> {
        let lock = statement(CHARGE_LOCK)
            .bind::<SqlUuid, _>(self.account)
            .bind::<SqlUuid, _>(self.command_id);
        Ok(lock.get_result(conn).await.optional()?)
    }

    /// The new balance, or what became of it otherwise. The checks are the pipeline's, in its order.
    fn judge(&self, account: &Account) -> Result<Money, ledger::Outcome> {
        use ledger::{Outcome, Refusal};
        if let (Some(transfer_id), Some(balance)) = (account.transfer_id, account.user_balance) {
            return Err(match account.fingerprint == Some(self.fingerprint.0) {
                true => Outcome::Charged {
                    transfer_id,
                    balance,
                },
                false => Outcome::Refused(Refusal::KeyReused),
            });
        }
        let balance = account.balance + self.amount;
        if self.amount <= Money::ZERO || self.amount > Money::won(CHARGE_MAX) {
            Err(Outcome::Refused(Refusal::AmountInvalid))
        } else if balance > Money::won(BALANCE_CAP) {
            let cap = Money::won(BALANCE_CAP);
            Err(Outcome::Refused(Refusal::BalanceCapExceeded { cap }))
        } else {
            Ok(balance)
        }
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

/// A locked reservation with its payer's balance, and what the key has paid.
#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = Array<Integer>)]
    seat_nos: Vec<SeatNo>,
    #[diesel(sql_type = Numeric)]
    total: Money,
    #[diesel(sql_type = Text)]
    status: ReservationStatus,
    #[diesel(sql_type = Timestamptz)]
    expires_at: Timestamp,
    #[diesel(sql_type = Numeric)]
    balance: Money,
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    fingerprint: Option<Uuid>,
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
    let decided = match direct.rival {
        Rival::LeanCte => pay.lean(&direct.pool).await,
        Rival::Cte | Rival::RowLock => pay.by_locks(&direct.pool).await,
    };
    Ok(payments::paid(&decided?)?.at_once()?.into_response())
}

impl Pay {
    /// It knows what each costs.
    async fn lean(&self, pool: &Pool) -> Result<settlement::Outcome, db::Error> {
        use settlement::{Outcome, Refusal};
        let (account, amount) = (AccountId::of_user(self.user_id), Money::won(PRICE_WON));
        let paid = lean_money::paid(
            pool,
            self.payment_id,
            self.reservation_id,
            self.transfer_id,
            account,
            amount,
        )
        .await?;
        let refused = Outcome::Refused(Refusal::InsufficientPoints);
        Ok(paid.map_or(refused, |paid_at| {
            Outcome::Paid(Payment {
                payment_id: self.payment_id,
                reservation_id: self.reservation_id,
                amount,
                paid_at,
            })
        }))
    }

    /// Decides in a transaction of its own.
    async fn by_locks(self: Arc<Self>, pool: &Pool) -> Result<settlement::Outcome, db::Error> {
        tx::run(pool, move |conn| {
            let pay = Arc::clone(&self);
            async move { pay.decide(conn).await }.boxed()
        })
        .await
    }

    async fn decide(&self, conn: &mut AsyncPgConnection) -> Result<settlement::Outcome, db::Error> {
        let not_found = settlement::Outcome::Refused(settlement::Refusal::NotFound);
        let Some(mut held) = self.locked(conn).await? else {
            return Ok(not_found);
        };
        let mut judged = self.judge(&held);
        if judged.is_err() && held.payment_id.is_none() {
            let Some(again) = self.lock(conn).await? else {
                return Ok(not_found);
            };
            judged = self.judge(&again);
            held = again;
        }
        if let Err(outcome) = judged {
            return Ok(outcome);
        }
        let transfer_id = (held.total > Money::ZERO).then_some(self.transfer_id);
        statement(PAY)
            .bind::<SqlUuid, _>(self.reservation_id)
            .bind::<SqlUuid, _>(self.user_id)
            .bind::<SqlUuid, _>(self.command_id)
            .bind::<SqlUuid, _>(self.fingerprint.0)
            .bind::<SqlUuid, _>(self.payment_id)
            .bind::<Nullable<SqlUuid>, _>(transfer_id)
            .bind::<SqlUuid, _>(SALES_ACCOUNT)
            .bind::<Numeric, _>(held.total)
            .bind::<Numeric, _>(held.balance - held.total)
            .bind::<Timestamptz, _>(held.now)
            .bind::<SqlUuid, _>(held.schedule_id)
            .bind::<Array<Integer>, _>(&held.seat_nos)
            .execute(conn)
            .await
            .map_err(|error| taken_meanwhile(error.into()))?;
        Ok(settlement::Outcome::Paid(Payment {
            payment_id: self.payment_id,
            reservation_id: self.reservation_id,
            amount: held.total,
            paid_at: held.now,
        }))
    }

    /// The locked reservation of this user. Who has never charged has no account, which is opened.
    async fn locked(&self, conn: &mut AsyncPgConnection) -> Result<Option<Held>, db::Error> {
        if let Some(held) = self.lock(conn).await? {
            return Ok(Some(held));
        }
        account_open(conn, AccountId::of_user(self.user_id)).await?;
        self.lock(conn).await
    }

    async fn lock(&self, conn: &mut AsyncPgConnection) -> Result<Option<Held>, db::Error> {
        let lock = statement(PAY_LOCK)
            .bind::<SqlUuid, _>(self.reservation_id)
            .bind::<SqlUuid, _>(self.user_id)
            .bind::<SqlUuid, _>(self.command_id);
        Ok(lock.get_result(conn).await.optional()?)
    }

    /// Whether it can be paid, or what became of it otherwise.
    fn judge(&self, held: &Held) -> Result<(), settlement::Outcome> {
        use settlement::{Outcome, Refusal};
        if let (Some(payment_id), Some(amount), Some(paid_at)) =
            (held.payment_id, held.amount, held.at)
        {
            return Err(match held.fingerprint == Some(self.fingerprint.0) {
                true => Outcome::Paid(Payment {
                    payment_id,
                    reservation_id: self.reservation_id,
                    amount,
                    paid_at,
                }),
                false => Outcome::Refused(Refusal::KeyReused),
            });
        }
        Err(Outcome::Refused(match held.status {
            ReservationStatus::Held if held.expires_at <= held.now => Refusal::HoldExpired,
            ReservationStatus::Held if held.balance < held.total => Refusal::InsufficientPoints,
            ReservationStatus::Held => return Ok(()),
            ReservationStatus::Expired => Refusal::HoldExpired,
            ReservationStatus::Paid => Refusal::AlreadyPaid,
            status => Refusal::StateConflict { status },
        }))
    }
}

#[cfg(test)]
mod tests;
