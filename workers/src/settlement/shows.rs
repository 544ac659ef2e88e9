//! Works off shows that are cancelled: everybody who has paid gets all that is left of the price
//! back, a piece at a time, until nothing is sold and nothing can be.
//!
//! What is to be done next follows from the rows alone, so that any replica goes on where another
//! died; a row of `show_cancellation` is locked while a piece of it is worked off, so that one does
//! it at a time. A piece is a transaction like any other of settlement. It never changes a seat: the
//! owner is asked to close the sale and to give holds back, and hears of what is cancelled.

use super::needs::Needs;
use super::{new_ids, store};
use crate::compete::patience::Patience;
use crate::context::Context;
use crate::outbox::system::{self, Outgoing, message_id, publish};
use crate::runtime::world::Publish;
use diesel::sql_types::{Array, BigInt, Bool, Numeric, Text, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt;
use onsale_domain::settlement::{Asker, Changes};
use onsale_platform::sql::statement;
use onsale_platform::{db, metric, tx};
use onsale_schema::message::{COMMANDS_PER_MESSAGE_MAX, Command, Fingerprint};
use onsale_schema::partition::of_schedule;
use onsale_schema::seats::{Kind, PolicyChange};
use onsale_schema::status::SaleState;
use onsale_schema::{
    AccountId, CancellationId, CommandId, Money, ReservationId, ScheduleId, UserId,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Reservations in one piece, so that its locks are short.
const PIECE: i64 = 100;
/// The pause after a piece, so that others get their turn.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it looks for a show when there is nothing to do.
const TICK: Duration = Duration::from_millis(500);
/// How long a show that waits for holds and payments to end is left alone, in milliseconds.
const AGAIN_MS: i64 = 500;
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

/// Why a look failed; always transient.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Nats(#[from] system::Error),
}

/// What came of a look at a show.
enum Step {
    /// So many reservations were cancelled; there may be more.
    Cancelled(usize),
    /// Nothing is sold at the moment, but may be: these are to be told.
    Wait(Vec<Command<Kind>>),
    /// Nothing is sold, and nothing can be any more.
    Finished,
}

#[derive(QueryableByName, Clone, Copy)]
struct ShowRow {
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
    #[diesel(sql_type = SqlUuid)]
    fingerprint: Uuid,
}

/// Works off a piece of a show; whether there was one.
async fn look(ctx: &Context) -> Result<bool, Error> {
    let round = ctx.clock.now().micros() / (ROUND_MS * 1000);
    let piece = tx::run(&ctx.pool, move |conn| piece(conn, round).boxed()).await?;
    let Some((show, step)) = piece else {
        return Ok(false);
    };
    match step {
        Step::Cancelled(count) => {
            metrics::counter!(metric::SHOW_CANCELLED).increment(count as u64);
            tracing::info!(schedule = %show.schedule_id, count, "reservations of a cancelled show");
            for nudge in [ctx.subjects.outbox_nudge(), ctx.subjects.orders_nudge()] {
                ctx.publish(nudge, Vec::new()).await;
            }
        }
        Step::Wait(commands) => ask(ctx, show.schedule_id, commands, round).await?,
        Step::Finished => {
            tracing::info!(schedule = %show.schedule_id, "the cancellation of a show is finished");
        }
    }
    Ok(true)
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
        Outgoing::commands(ctx, partition, id, part.to_vec())
    });
    for stored in publish(ctx, messages.collect()).await {
        stored?;
    }
    Ok(())
}

/// One piece of a show that is due and that nobody else works on.
async fn piece(
    conn: &mut AsyncPgConnection,
    round: i64,
) -> Result<Option<(ShowRow, Step)>, db::Error> {
    let show: Option<ShowRow> = statement(
        "SELECT schedule_id, user_id, fingerprint FROM show_cancellation \
         WHERE next_at <= (SELECT clock_timestamp()) \
         ORDER BY next_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
    )
    .get_result(conn)
    .await
    .optional()?;
    let Some(show) = show else { return Ok(None) };
    let paid = reservation_list_paid(conn, show.schedule_id).await?;
    let step = if paid.is_empty() {
        wind_down(conn, show, round).await?
    } else {
        cancel(conn, show, &paid).await?
    };
    Ok(Some((show, step)))
}

/// Cancels reservations of a show, those of them that are still paid when they are locked.
async fn cancel(
    conn: &mut AsyncPgConnection,
    show: ShowRow,
    paid: &[PaidRow],
) -> Result<Step, db::Error> {
    let needs = Needs {
        reservations: paid.iter().map(|row| row.reservation_id).collect(),
        cancelled: paid.iter().map(|row| row.reservation_id).collect(),
        accounts: (paid.iter())
            .map(|row| AccountId::of_user(row.user_id))
            .collect(),
        ..Needs::default()
    };
    let (mut state, now) = store::load(conn, &needs).await?;
    let mut changes = Changes::default();
    let (mut done, mut refunded) = (0, Money::ZERO);
    for row in paid {
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
    store::changes(conn, &changes).await?;
    statement(
        "UPDATE show_cancellation SET done = done + $2, refunded = refunded + $3, \
                next_at = clock_timestamp() WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<BigInt, _>(done)
    .bind::<Numeric, _>(refunded)
    .execute(conn)
    .await?;
    Ok(Step::Cancelled(usize::try_from(done).unwrap_or(0)))
}

#[derive(QueryableByName)]
struct PaidRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    user_id: UserId,
}

/// Some that are paid. One that was sold again to a late capture counts when its payment is there.
async fn reservation_list_paid(
    conn: &mut AsyncPgConnection,
    schedule: ScheduleId,
) -> Result<Vec<PaidRow>, db::Error> {
    let rows = statement(
        "SELECT reservation_id, user_id FROM reservation AS r \
         WHERE schedule_id = $1 AND status = 'PAID' \
           AND EXISTS (SELECT FROM payment AS p \
                       WHERE p.reservation_id = r.reservation_id AND p.status = 'PAID') \
         ORDER BY reservation_id LIMIT $2",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<BigInt, _>(PIECE)
    .load(conn)
    .await?;
    Ok(rows)
}

/// What may still be sold of a show, in one snapshot.
#[derive(QueryableByName)]
struct LeftRow {
    #[diesel(sql_type = Text)]
    state: SaleState,
    /// Holds, captures on their way, and what is sold.
    #[diesel(sql_type = Bool)]
    may_be_sold: bool,
    #[diesel(sql_type = Array<SqlUuid>)]
    holds: Vec<ReservationId>,
    #[diesel(sql_type = Array<SqlUuid>)]
    holders: Vec<UserId>,
}

/// Ends a show of which nothing is sold, or says what has to end first: the sale, and holds.
async fn wind_down(
    conn: &mut AsyncPgConnection,
    show: ShowRow,
    round: i64,
) -> Result<Step, db::Error> {
    let left: LeftRow = statement(
        "WITH held AS (SELECT reservation_id, user_id FROM reservation \
                       WHERE schedule_id = $1 AND status = 'HELD' AND ends_as IS NULL \
                       ORDER BY reservation_id LIMIT $2) \
         SELECT state, \
                (SELECT coalesce(array_agg(reservation_id ORDER BY reservation_id), '{}') \
                 FROM held) AS holds, \
                (SELECT coalesce(array_agg(user_id ORDER BY reservation_id), '{}') \
                 FROM held) AS holders, \
                EXISTS (SELECT FROM reservation WHERE schedule_id = $1 \
                          AND (status = 'PAID' OR status = 'HELD' AND ends_as IS NULL)) \
                OR EXISTS (SELECT FROM payment_order WHERE schedule_id = $1 \
                             AND status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', \
                                            'REHOLDING')) AS may_be_sold \
         FROM sale WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<BigInt, _>(HOLDS_MAX)
    .get_result(conn)
    .await?;
    let is_closed = match left.state {
        SaleState::Closed => true,
        SaleState::Open | SaleState::Paused => false,
    };
    if is_closed && !left.may_be_sold {
        statement(
            "UPDATE show_cancellation SET finished_at = clock_timestamp(), next_at = NULL \
             WHERE schedule_id = $1",
        )
        .bind::<SqlUuid, _>(show.schedule_id)
        .execute(conn)
        .await?;
        return Ok(Step::Finished);
    }
    statement(
        "UPDATE show_cancellation \
         SET next_at = clock_timestamp() + $2 * interval '1 millisecond' WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(show.schedule_id)
    .bind::<BigInt, _>(AGAIN_MS)
    .execute(conn)
    .await?;
    // The sale first: then no hold follows those that are given back.
    let mut commands = Vec::new();
    if !is_closed {
        commands.push(close(show, round));
    }
    let holds = left.holds.into_iter().zip(left.holders);
    commands.extend(holds.map(|(hold, holder)| give_back(show.schedule_id, hold, holder, round)));
    Ok(Step::Wait(commands))
}

/// Closes the sale, for whoever wants the show cancelled.
fn close(show: ShowRow, round: i64) -> Command<Kind> {
    let kind = Kind::Policy {
        schedule_id: show.schedule_id,
        change: PolicyChange {
            state: Some(SaleState::Closed),
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
