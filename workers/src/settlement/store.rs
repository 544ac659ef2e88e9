//! What settlement locks, loads and writes: the one module that writes payments and what follows
//! from them, each table in a file of its own.

mod cancellations;
pub mod charge_orders;
mod facts;
mod notices;
mod orders;
mod payments;
mod reservations;
mod tasks;

pub use facts::facts_insert;
pub use notices::notice_insert;
pub use orders::{OWNER_PAUSE_MS, OrderRow, payment_key_lock};
pub use payments::payment_insert;
pub use reservations::{reservation_lock, reservation_set_paid};

use super::needs::Needs;
use crate::compete::store::clock_now;
use crate::ledger;
use crate::ledger::store::account_lock;
use cancellations::{
    cancellation_insert, cancellation_list, cancellation_load, payment_add_refunded, refund_insert,
    terms_list, terms_load,
};
use diesel_async::AsyncPgConnection;
use futures_util::future::join4;
use onsale_domain::settlement::{Changes, Settlement};
use onsale_platform::db;
use onsale_schema::Timestamp;
use payments::{payment_list, payment_load};

/// Locks what is needed, in the order that all workers keep, and loads it. What is not seen then does
/// not exist. Also the time, read under the locks.
///
/// # Errors
/// When Postgres fails.
pub async fn load(
    conn: &mut AsyncPgConnection,
    needs: Needs,
) -> Result<(Settlement, Timestamp), db::Error> {
    let needs = &tasks::with_orders(conn, needs).await?;
    let mut state = Settlement::default();
    let mut reservations = needs.reservations.clone();
    reservations.extend(orders::order_list_reservations(conn, &needs.orders).await?);
    let locked = reservation_lock(conn, &reservations).await?;
    orders::load(conn, needs, &reservations, &mut state.ordering).await?;
    tasks::load(conn, needs, &mut state.tasks).await?;
    state.accounts = account_lock(conn, &needs.accounts).await?;
    for reservation in locked {
        state.load_reservation(reservation);
    }
    // A batch without cancellations asks for none.
    let cancelling: &[_] = if needs.cancelled.is_empty() {
        &[]
    } else {
        &needs.commands
    };
    let (payments, cancellations, terms, now) = join4(
        payment_list(conn, needs),
        cancellation_list(conn, cancelling),
        terms_list(conn, &needs.cancelled),
        clock_now(conn),
    )
    .await;
    payment_load(payments?, &mut state);
    cancellation_load(cancellations?, &mut state);
    terms_load(terms?, &mut state);
    Ok((state, now?))
}

/// The keys that commands are known by, and the one order that a reservation has to be confirmed. Who
/// asks for two reservations under one key at once locks no row twice, so that both may find the key
/// free.
const KEYS: [&str; 7] = [
    "payment_order_key_pkey",
    "payment_order_command_id_key",
    "payment_order_confirm_command_id_key",
    "payment_order_payment_key_key",
    "payment_order_one_ready",
    "cancellation_command_id_key",
    "refund_action_pkey",
];

/// Who finds a key taken that was free when it was looked for has to look again: what has taken it is
/// committed by now, and is found by the same key.
fn taken_meanwhile(error: db::Error) -> db::Error {
    match error {
        db::Error::Constraint { constraint, .. } if KEYS.contains(&constraint.as_str()) => {
            db::Error::Taken(constraint)
        }
        other => other,
    }
}

/// Stores payments, transfers, balances, cancellations and refunds, the new state of reservations,
/// notices and facts.
///
/// # Errors
/// When Postgres fails or refuses; `Taken` when another batch has used a key of this one meanwhile.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    write(conn, changes).await.map_err(taken_meanwhile)
}

async fn write(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    // Payments refer to transfers, refunds to both. Everything else is locked already, so that order
    // is free.
    ledger::store::changes(conn, &changes.ledger).await?;
    orders::changes(conn, changes).await?;
    tasks::changes(conn, changes).await?;
    let (payments, paid, notices, cancellations) = join4(
        payments::payment_insert(conn, &changes.payments),
        reservations::reservation_set_paid(conn, &changes.paid),
        notices::notice_insert(conn, &changes.notices),
        cancellation_insert(conn, &changes.cancellations),
    )
    .await;
    // The first error in the order of the statements is the cause of the others.
    payments.and(paid).and(notices).and(cancellations)?;
    let (refunds, sums, cancelled, facts) = join4(
        refund_insert(conn, &changes.refunds),
        payment_add_refunded(conn, &changes.refunds),
        reservations::reservation_set_cancelled(conn, &changes.cancelled),
        facts::facts_insert(conn, &changes.facts),
    )
    .await;
    refunds.and(sums).and(cancelled).and(facts)
}
