//! What settlement locks, loads and writes: the one module that writes payments and what follows
//! from them, each table in a file of its own.

mod cancellations;
pub mod charge_orders;
mod facts;
mod locks;
mod notices;
mod orders;
mod payments;
mod reservations;
mod tasks;
mod write_offs;

pub use facts::facts_insert;
pub use locks::reservation_lock;
pub use notices::notice_insert;
pub use orders::{OWNER_PAUSE_MS, OrderRow, payment_key_lock};
pub use payments::payment_insert;
pub use reservations::reservation_set_paid;
pub use write_offs::written_off;

use super::needs::Needs;
use crate::ledger;
use cancellations::{
    cancellation_insert, cancellation_list, cancellation_load, payment_add_refunded, refund_insert,
    terms_list, terms_load,
};
use diesel_async::AsyncPgConnection;
use futures_util::future::{join, join4};
use locks::lock;
use onsale_domain::settlement::{Changes, Settlement};
use onsale_platform::db;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{ReservationId, Timestamp};
use payments::{payment_list_by_command, payment_list_by_reservation, payment_load};
use std::collections::BTreeSet;

/// Locks what is needed, in the order that all workers keep, and loads it. What is not seen then does
/// not exist. Also the time, read under the locks.
///
/// A batch of payments by points needs two goes: the locks, and what is to be seen under them.
///
/// # Errors
/// When Postgres fails.
pub async fn load(
    conn: &AsyncPgConnection,
    needs: Needs,
) -> Result<(Settlement, Timestamp), db::Error> {
    let needs = &tasks::with_orders(conn, needs).await?;
    let mut state = Settlement::default();
    let mut reservations = needs.reservations.clone();
    reservations.extend(orders::order_list_reservations(conn, &needs.orders).await?);
    let nobody = BTreeSet::new();
    let payers = match needs.locks_between() {
        true => &nobody,
        false => &needs.accounts,
    };
    // What a command has paid is found by its reservation, or refused by its key.
    let (locked, by_command) = join(
        lock(conn, &reservations, payers),
        payment_list_by_command(conn, needs),
    )
    .await;
    let (mut locked, by_command) = db::both(locked, by_command)?;
    if needs.locks_between() {
        orders::load(conn, needs, &mut state.ordering).await?;
        tasks::load(conn, needs, &mut state.tasks).await?;
        write_offs::load(conn, needs, &mut state.write_offs).await?;
        let payers = lock(conn, &BTreeSet::new(), &needs.accounts).await?;
        (locked.accounts, locked.now) = (payers.accounts, payers.now);
    }
    // A held one has no payment.
    let ended: Vec<ReservationId> = locked
        .reservations
        .iter()
        .filter(|reservation| reservation.status != ReservationStatus::Held)
        .map(|reservation| reservation.reservation_id)
        .collect();
    // A batch without cancellations asks for none.
    let cancelling: &[_] = if needs.cancelled.is_empty() {
        &[]
    } else {
        &needs.commands
    };
    let (paying, by_reservation, cancellations, terms) = join4(
        orders::paying_list(conn, &reservations),
        payment_list_by_reservation(conn, &ended),
        cancellation_list(conn, cancelling),
        terms_list(conn, &needs.cancelled),
    )
    .await;
    let ((paying, by_reservation), (cancellations, terms)) = db::both(
        db::both(paying, by_reservation),
        db::both(cancellations, terms),
    )?;
    for reservation_id in paying.into_iter().chain(locked.paying) {
        state.ordering.load_paying(reservation_id);
    }
    for reservation in locked.reservations {
        state.load_reservation(reservation);
    }
    state.accounts = locked.accounts;
    payment_load(by_reservation.into_iter().chain(by_command), &mut state);
    cancellation_load(cancellations, &mut state);
    terms_load(terms, &mut state);
    Ok((state, locked.now))
}

/// The keys that commands are known by, and the one order that a reservation has to be confirmed. Who
/// asks for two reservations under one key at once locks no row twice, so that both may find the key
/// free.
const KEYS: [&str; 10] = [
    "payment_command_id",
    "payment_pkey",
    "payment_order_key_pkey",
    "payment_order_command_id_key",
    "payment_order_confirm_command_id_key",
    "payment_order_payment_key_key",
    "payment_order_one_ready",
    "cancellation_command_id_key",
    "refund_action_pkey",
    "write_off_pkey",
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
    orders::changes(conn, changes).await?;
    tasks::changes(conn, changes).await?;
    write_offs::changes(conn, &changes.write_offs).await?;
    // What is changed is locked, and the rest is new, so that these need no order; but the counters of
    // facts are the next batch's as soon as this one is committed, and come last.
    let made = join4(
        ledger::store::changes(conn, &changes.ledger),
        payments::payment_insert(conn, &changes.payments),
        reservations::reservation_set_paid(conn, &changes.paid),
        notices::notice_insert(conn, &changes.notices),
    );
    let facts = facts::facts_insert(conn, &changes.facts);
    let ((ledger, payments, paid, notices), facts) = join(made, facts).await;
    db::both(
        db::both(ledger, payments),
        db::both(db::both(paid, notices), facts),
    )?;
    // What was paid in the same batch may be cancelled in it.
    let (cancellations, refunds, sums, seats) = join4(
        cancellation_insert(conn, &changes.cancellations),
        refund_insert(conn, &changes.refunds),
        payment_add_refunded(conn, &changes.refunds),
        reservations::reservation_set_cancelled(conn, &changes.cancelled),
    )
    .await;
    db::both(db::both(cancellations, refunds), db::both(sums, seats))?;
    Ok(())
}
