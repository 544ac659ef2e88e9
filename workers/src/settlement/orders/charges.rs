//! Writes the steps of charges by card: what was captured becomes points on the locked account, or
//! goes back. What to do next is [`onsale_domain::settlement::charge`]'s to say.

use super::Told;
use super::store::{Limits, capture, give_back, puzzle};
use crate::compete::store::clock_now;
use crate::ledger;
use crate::ledger::store::account_lock;
use diesel_async::AsyncPgConnection;
use onsale_domain::ledger::{Accounts, Cause, Changes, Credit};
use onsale_domain::settlement::Order;
use onsale_domain::settlement::charge::{BALANCE_CAP_EXCEEDED, Step, World, capture_until, step};
use onsale_domain::settlement::order::{Learned, last_look, pause_ms};
use onsale_platform::db;
use onsale_schema::ledger::CARD_ACCOUNT;
use onsale_schema::status::OrderStatus;
use onsale_schema::{AccountId, Timestamp};
use std::collections::BTreeSet;

/// Makes the next step of a charge, whose order is locked; when to look again. The account is locked
/// after the order, as everywhere, and the cap compared with what is on it then.
pub(super) async fn advance(
    conn: &mut AsyncPgConnection,
    order: &mut Order,
    told: &Told,
    limits: Limits,
    roll: f64,
) -> Result<Option<Timestamp>, db::Error> {
    let account = BTreeSet::from([AccountId::of_user(order.user_id)]);
    let accounts = account_lock(conn, &account).await?;
    let now = clock_now(conn).await?;
    let world = World {
        settles_at: capture_until(order.created_at).plus_ms(limits.request_ms),
        is_over_cap: accounts.is_over(order.user_id, order.amount, limits.balance_cap),
    };
    let mut next = step(order.status, &world, told.learned, now);
    if next == Step::Captured {
        capture(order, told.payment_key.as_ref());
        next = step(order.status, &world, Learned::Nothing, now);
    }
    let pause = pause_ms(order.attempts, roll);
    Ok(match next {
        Step::Wait => Some(now.plus_ms(pause)),
        Step::Rest => None,
        Step::Doubt => {
            order.status = OrderStatus::Unknown;
            Some(now.plus_ms(pause))
        }
        Step::Puzzle => Some(puzzle(order, now)),
        Step::Captured => unreachable!("a capture is followed by a step of its own"),
        Step::Fail(code) => {
            order.status = OrderStatus::Failed;
            order.fail_code = Some(code.to_owned());
            last_look(code, now)
        }
        Step::Credit => {
            credit(conn, order, accounts, now).await?;
            None
        }
        Step::Refund => {
            give_back(conn, order, BALANCE_CAP_EXCEEDED, now).await?;
            None
        }
    })
}

/// Turns what was captured into points, once: the transfer has the order's id.
async fn credit(
    conn: &AsyncPgConnection,
    order: &mut Order,
    mut accounts: Accounts,
    now: Timestamp,
) -> Result<(), db::Error> {
    order.status = OrderStatus::Paid;
    let mut changes = Changes::default();
    let credit = Credit {
        transfer_id: order.order_id.charged_by(),
        cause: Cause::order(order.order_id),
        debit: CARD_ACCOUNT,
        payee: order.user_id,
        amount: order.captured,
        fingerprint: order.fingerprint,
        at: now,
    };
    accounts.credit(credit, &mut changes);
    ledger::store::changes(conn, &changes).await
}
