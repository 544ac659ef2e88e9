//! What settlement locks, loads and writes: the one module that writes payments and what follows
//! from them, each table in a file of its own.

mod notices;
mod payments;
mod reservations;

pub use payments::{payment_list, payment_load};
pub use reservations::reservation_lock;

use crate::ledger;
use diesel_async::AsyncPgConnection;
use futures_util::future::join3;
use onsale_domain::settlement::Changes;
use onsale_platform::db;

/// Stores payments, transfers, balances, the new state of reservations, and notices.
///
/// # Errors
/// When Postgres fails or refuses.
pub async fn changes(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), db::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    // Payments refer to transfers. Everything else is locked already, so that order is free.
    ledger::store::changes(conn, &changes.ledger).await?;
    let (payments, paid, notices) = join3(
        payments::payment_insert(conn, &changes.payments),
        reservations::reservation_set_paid(conn, &changes.paid),
        notices::notice_insert(conn, &changes.notices),
    )
    .await;
    // The first error in the order of the statements is the cause of the others.
    payments?;
    paid?;
    notices
}
