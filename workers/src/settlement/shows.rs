//! Works off shows that are cancelled: everybody who has paid gets all that is left of the price
//! back, a piece at a time, until nothing is sold and nothing can be.
//!
//! What is to be done next follows from the rows alone, so that any replica goes on where another
//! died: a row of `show_cancellation` is taken for a while, by one at a time. It is worked off in
//! passes over the reservations of the date. A pass may miss what is paid behind its place, so there
//! is another one, until one began when nothing could be sold any more: the last. A piece of a pass is
//! a transaction like any other of settlement; what can't be cancelled is found one by one, set aside
//! and tried again later, so that it keeps nobody else waiting. No seat is ever changed here: the
//! owner is asked to close the sale and to give holds back, and hears of what is cancelled; and that of
//! the waiting room to let nobody in any more.

mod store;

use super::needs::Needs;
use super::new_ids;
use super::store as money;
use crate::compete::patience::Patience;
use crate::context::Context;
use crate::outbox::system::{self, Outgoing, message_id, publish};
use crate::runtime::world::Publish;
use diesel_async::AsyncPgConnection;
use futures_util::FutureExt;
use onsale_domain::settlement::{Asker, Changes};
use onsale_platform::{db, metric, tx};
use onsale_schema::admission;
use onsale_schema::message::{COMMANDS_PER_MESSAGE_MAX, Command, Fingerprint};
use onsale_schema::partition::of_schedule;
use onsale_schema::seats::{Kind, PolicyChange};
use onsale_schema::status::SaleState;
use onsale_schema::{
    AccountId, CancellationId, CommandId, Lane, Money, ReservationId, ScheduleId, UserId,
};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use store::{Place, ReservationRow, ShowRow};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Reservations that are cancelled in one piece, so that its locks are short.
const PIECE: usize = 100;
/// Reservations that one look of a pass reads, whatever became of them.
const READ: usize = 2000;
/// The pause after a piece, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it looks for a show when there is nothing to do.
const TICK: Duration = Duration::from_millis(500);
/// How long a show is its taker's, in milliseconds: longer than a piece takes, one by one, too.
const LEASE_MS: i64 = 5000;
/// How long a show that waits for holds and payments to end is left alone, in milliseconds.
const AGAIN_MS: i64 = 500;
/// How long after a pass there is another one while it waits, in milliseconds.
const PASS_AGAIN_MS: i64 = 5000;
/// How long what could not be cancelled is left alone at first, in milliseconds.
const ASIDE_MS: i64 = 60_000;
/// And at most.
const ASIDE_MAX_MS: i64 = 3_600_000;
/// Holds that one look asks to be given back.
const HOLDS_MAX: i64 = 1000;
/// The same command at most once in this time, in milliseconds.
const ROUND_MS: i64 = 2000;

/// Works off shows until `shutdown`.
pub(super) async fn run(ctx: Context, shutdown: CancellationToken) {
    let mut patience = Patience::new("cancelled shows");
    let work = async {
        loop {
            match look(&ctx).await {
                Ok(found) => {
                    patience.healed();
                    tokio::time::sleep(if found { PAUSE } else { TICK }).await;
                }
                Err(error) => patience.wait(error).await,
            }
        }
    };
    let stopped: Option<std::convert::Infallible> = shutdown.run_until_cancelled(work).await;
    match stopped {
        None => {}
        Some(never) => match never {},
    }
}

/// Why a look failed. The show is looked at again when its lease is over, others before.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Nats(#[from] system::Error),
}

/// Works off a piece of a show; whether there was one.
async fn look(ctx: &Context) -> Result<bool, Error> {
    let Some(show) = store::show_take(&ctx.pool, LEASE_MS).await? else {
        return Ok(false);
    };
    let round = ctx.clock.now().micros() / (ROUND_MS * 1000);
    let (after, commands) = match show.after() {
        Some(after) => (Some(after), Vec::new()),
        None => begin(ctx, show, round).await?,
    };
    if let Some(after) = after {
        go_on(ctx, show, after).await?;
    }
    ask(ctx, show.schedule_id, commands, round).await?;
    Ok(true)
}

/// Begins a pass if one is due; and what has to end before the last one can: the sale, and holds.
async fn begin(
    ctx: &Context,
    show: ShowRow,
    round: i64,
) -> Result<(Option<Place>, Vec<Command<Kind>>), Error> {
    let left = store::left_find(&ctx.pool, show.schedule_id, HOLDS_MAX).await?;
    let is_last = left.is_nothing();
    if left.has_room {
        pause_room(ctx, show.schedule_id, round).await?;
    }
    // The sale first: then no hold follows those that are given back.
    let mut commands = Vec::new();
    if !left.is_closed {
        commands.push(close(show, round));
    }
    let holds = left.holds();
    commands.extend(holds.map(|(hold, holder)| give_back(show.schedule_id, hold, holder, round)));
    let is_begun = if is_last || show.is_pass_due {
        store::pass_begin(&ctx.pool, &show, is_last).await?
    } else {
        store::show_wait(&ctx.pool, &show, AGAIN_MS).await?;
        false
    };
    Ok((is_begun.then_some(Place::BEGIN), commands))
}

/// Lets nobody in any more who waits to buy, for good: whoever has a pass keeps it, and can't use it.
async fn pause_room(ctx: &Context, schedule: ScheduleId, round: i64) -> Result<(), Error> {
    let kind = admission::Kind::Policy {
        schedule_id: schedule,
        change: admission::PolicyChange {
            paused: Some(true),
            cancelled: true,
            ..admission::PolicyChange::default()
        },
    };
    let id = CommandId::of_system("show-pause-room", schedule.0, round);
    let partition = of_schedule(schedule, ctx.config.common.partitions);
    let message = message_id(std::iter::once(id.0), round);
    let pause = vec![system::command(id, kind)];
    let pause = Outgoing::commands(ctx, Lane::Admission, partition, message, pause);
    for stored in publish(ctx, vec![pause]).await {
        stored?;
    }
    Ok(())
}

async fn ask(
    ctx: &Context,
    schedule: ScheduleId,
    commands: Vec<Command<Kind>>,
    round: i64,
) -> Result<(), Error> {
    let partition = of_schedule(schedule, ctx.config.common.partitions);
    let messages = commands.chunks(COMMANDS_PER_MESSAGE_MAX).map(|part| {
        let id = message_id(part.iter().map(|command| command.id.0), round);
        Outgoing::commands(ctx, Lane::Seats, partition, id, part.to_vec())
    });
    for stored in publish(ctx, messages.collect()).await {
        stored?;
    }
    Ok(())
}

/// One piece of a pass, from a place on.
async fn go_on(ctx: &Context, show: ShowRow, after: Place) -> Result<(), Error> {
    let most = i64::try_from(READ).unwrap_or(i64::MAX);
    let rows = store::reservation_list_after(&ctx.pool, show.schedule_id, after, most).await?;
    let piece = Piece::of(&rows);
    let count = cancel_all(ctx, show, &piece.sold).await?;
    if count > 0 {
        metrics::counter!(metric::SHOW_CANCELLED).increment(count);
        tracing::info!(schedule = %show.schedule_id, count, "reservations of a cancelled show");
        for nudge in [ctx.subjects.outbox_nudge(), ctx.subjects.orders_nudge()] {
            ctx.publish(nudge, Vec::new()).await;
        }
    }
    if let Some(next) = piece.next {
        store::pass_move(&ctx.pool, &show, after, next).await?;
        return Ok(());
    }
    let is_finished = tx::run(&ctx.pool, move |conn| {
        store::pass_end(conn, show, after, AGAIN_MS, PASS_AGAIN_MS).boxed()
    });
    if is_finished.await? {
        tracing::info!(schedule = %show.schedule_id, "the cancellation of a show is finished");
    }
    Ok(())
}

/// What one look of a pass works off.
struct Piece {
    sold: Vec<ReservationRow>,
    /// Where the next one begins; none if this is the pass's last.
    next: Option<Place>,
}

impl Piece {
    /// Of the next [`READ`] reservations: up to where [`PIECE`] of them are sold.
    fn of(rows: &[ReservationRow]) -> Self {
        let mut sold = Vec::new();
        for row in rows {
            if row.is_sold {
                sold.push(*row);
            }
            if sold.len() == PIECE {
                let next = Some(row.place());
                return Self { sold, next };
            }
        }
        let next = rows.last().filter(|_| rows.len() == READ);
        Self {
            sold,
            next: next.map(ReservationRow::place),
        }
    }
}

/// Cancels reservations in one transaction, or one by one if that is not possible, but for those that
/// can't be: these are set aside. How many it cancelled.
async fn cancel_all(ctx: &Context, show: ShowRow, sold: &[ReservationRow]) -> Result<u64, Error> {
    if sold.is_empty() {
        return Ok(0);
    }
    match cancel(ctx, show, sold.to_vec()).await {
        Ok(count) => return Ok(count),
        Err(error) if error.retryable() => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, schedule = %show.schedule_id, "a piece is tried one by one");
        }
    }
    let mut count = 0;
    for row in sold {
        match cancel(ctx, show, vec![*row]).await {
            Ok(one) => count += one,
            Err(error) if error.retryable() => return Err(error.into()),
            Err(error) => set_aside(ctx, show, row, error).await?,
        }
    }
    Ok(count)
}

async fn set_aside(
    ctx: &Context,
    show: ShowRow,
    row: &ReservationRow,
    error: db::Error,
) -> Result<(), Error> {
    let (schedule, reservation) = (show.schedule_id, row.reservation_id);
    let text = error.to_string();
    let (pause, most) = (ASIDE_MS, ASIDE_MAX_MS);
    let attempts =
        store::aside_upsert(&ctx.pool, schedule, reservation, &text, pause, most).await?;
    metrics::counter!(metric::SHOW_SET_ASIDE).increment(1);
    tracing::error!(
        %error, %schedule, %reservation, attempts,
        "a reservation of a cancelled show can't be cancelled; it is set aside"
    );
    Ok(())
}

/// Cancels reservations of a show, those of them that are still paid when they are locked: all or
/// none. How many.
async fn cancel(ctx: &Context, show: ShowRow, sold: Vec<ReservationRow>) -> Result<u64, db::Error> {
    let sold = Arc::new(sold);
    tx::run(&ctx.pool, move |conn| {
        let sold = Arc::clone(&sold);
        async move {
            // A broken assertion is that of a reservation, too.
            let cancelled = AssertUnwindSafe(cancel_in(conn, show, &sold)).catch_unwind();
            let broken = || db::Error::Refused("an assertion is broken".into());
            cancelled.await.unwrap_or_else(|_| Err(broken()))
        }
        .boxed()
    })
    .await
}

async fn cancel_in(
    conn: &mut AsyncPgConnection,
    show: ShowRow,
    sold: &[ReservationRow],
) -> Result<u64, db::Error> {
    let needs = Needs {
        reservations: sold.iter().map(|row| row.reservation_id).collect(),
        cancelled: sold.iter().map(|row| row.reservation_id).collect(),
        accounts: (sold.iter())
            .map(|row| AccountId::of_user(row.user_id))
            .collect(),
        ..Needs::default()
    };
    let (mut state, now) = money::load(conn, needs).await?;
    let mut changes = Changes::default();
    let (mut done, mut refunded) = (0, Money::ZERO);
    for row in sold {
        let asker = Asker {
            command_id: CommandId::of_system("show-cancelled", row.reservation_id.0, 0),
            fingerprint: Fingerprint(show.fingerprint),
            user_id: show.user_id,
            of_show: true,
        };
        let id = CancellationId(Uuid::now_v7());
        let made =
            state.cancel_for_show(row.reservation_id, id, asker, new_ids(), now, &mut changes);
        if let Some(cancellation) = made {
            done += 1;
            refunded = refunded + cancellation.refunded;
        }
    }
    if done == 0 {
        return Ok(0);
    }
    money::changes(conn, &changes).await?;
    store::show_add_done(conn, &show, done, refunded).await?;
    Ok(done.unsigned_abs())
}

/// Closes the sale for good, for whoever wants the show cancelled.
fn close(show: ShowRow, round: i64) -> Command<Kind> {
    let kind = Kind::Policy {
        schedule_id: show.schedule_id,
        change: PolicyChange {
            state: Some(SaleState::Closed),
            cancelled: true,
            ..PolicyChange::default()
        },
    };
    let id = CommandId::of_system("show-close", show.schedule_id.0, round);
    Command {
        user: show.user_id,
        ..system::command(id, kind)
    }
}

/// Gives a hold back, in the name of who has it: it can't be paid any more.
fn give_back(
    schedule_id: ScheduleId,
    reservation_id: ReservationId,
    holder: UserId,
    round: i64,
) -> Command<Kind> {
    let kind = Kind::Release {
        reservation_id,
        schedule_id,
    };
    let id = CommandId::of_system("show-release", reservation_id.0, round);
    Command {
        user: holder,
        ..system::command(id, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, is_sold: impl Fn(usize) -> bool) -> Vec<ReservationRow> {
        (0..count)
            .map(|n| ReservationRow::sample(n, is_sold(n)))
            .collect()
    }

    #[test]
    fn a_piece_ends_where_enough_are_sold_and_a_pass_where_nothing_is_left() {
        let ends = |rows: &[ReservationRow]| {
            let piece = Piece::of(rows);
            let at = |place| rows.iter().position(|row| row.place() == place);
            (piece.sold.len(), piece.next.and_then(at))
        };
        assert_eq!(ends(&[]), (0, None));
        assert_eq!(ends(&rows(READ - 1, |_| false)), (0, None));
        // There may be more behind them.
        assert_eq!(ends(&rows(READ, |_| false)), (0, Some(READ - 1)));
        assert_eq!(ends(&rows(150, |_| true)), (PIECE, Some(PIECE - 1)));
        assert_eq!(ends(&rows(PIECE, |_| true)), (PIECE, Some(PIECE - 1)));
        assert_eq!(ends(&rows(PIECE - 1, |_| true)), (PIECE - 1, None));
        assert_eq!(ends(&rows(READ, |n| n % 10 == 0)), (PIECE, Some(990)));
    }
}
