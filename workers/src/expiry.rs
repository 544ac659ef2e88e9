//! The expiry worker: finds holds that are due in Postgres and asks their owners, by commands, to
//! let them lapse. It never changes a seat.
//!
//! Owners lapse the holds that they have loaded by themselves; this reconciler sees to the rest,
//! for example the holds of a schedule that nobody asks about since its owner changed. Any number
//! of replicas may run it: commands are idempotent, and the same ones at once are one message.

use crate::compete::patience::Patience;
use crate::context::{self, Context};
use crate::outbox::system::{self, Outgoing, message_id, publish};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::sql::statement;
use onsale_platform::{db, metric};
use onsale_schema::message::{COMMANDS_PER_MESSAGE_MAX, Command};
use onsale_schema::partition::of_schedule;
use onsale_schema::seats::Kind;
use onsale_schema::{CommandId, Lane, PartitionNo, ReservationId, ScheduleId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often it looks. With the grace and the owner's commit this stays below the second after
/// which a hold must be on sale again.
const TICK: Duration = Duration::from_millis(250);
/// Holds that are due for less than this are left to their owners, in milliseconds.
const GRACE_MS: i64 = 300;
/// Holds that one look asks to lapse.
const LOOK_MAX: usize = 1000;
/// Pages of due holds that one look reads, when it has asked for the first ones already.
const PAGES_MAX: usize = 16;
/// A hold that is still there after this is asked for again, in milliseconds.
const AGAIN_MS: i64 = 2000;

/// Why a look failed; always transient.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Nats(#[from] system::Error),
}

/// Sweeps until `shutdown`.
///
/// # Errors
/// Never for what heals by itself.
pub async fn run(ctx: Context, shutdown: CancellationToken) -> Result<(), context::Error> {
    let mut patience = Patience::new("expiry");
    let mut sweeper = Sweeper::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sweep = async {
        loop {
            tick.tick().await;
            match sweeper.sweep(&ctx).await {
                Ok(()) => patience.healed(),
                Err(error) => patience.wait(error).await,
            }
        }
    };
    let stopped: Option<Infallible> = shutdown.run_until_cancelled(sweep).await;
    match stopped {
        None => Ok(()),
        Some(never) => match never {},
    }
}

#[derive(Default)]
struct Sweeper {
    /// When each hold was last asked for.
    asked: HashMap<CommandId, Instant>,
}

impl Sweeper {
    async fn sweep(&mut self, ctx: &Context) -> Result<(), Error> {
        let again = Duration::from_millis(AGAIN_MS.unsigned_abs());
        self.asked.retain(|_, at| at.elapsed() < again);
        let mut by_partition: BTreeMap<PartitionNo, Vec<Command<Kind>>> = BTreeMap::new();
        let mut found = 0;
        let mut after = (Timestamp::EPOCH, ReservationId(Uuid::nil()));
        for _ in 0..PAGES_MAX {
            let page = reservation_list_due(ctx, after).await?;
            let Some(last) = page.last() else { break };
            after = (last.due_at, last.reservation_id);
            let is_last = page.len() < LOOK_MAX;
            for due in page {
                let command = due.command();
                if found < LOOK_MAX && !self.asked.contains_key(&command.id) {
                    found += 1;
                    let partition = of_schedule(due.schedule_id, ctx.config.common.partitions);
                    by_partition.entry(partition).or_default().push(command);
                }
            }
            if is_last || found == LOOK_MAX {
                break;
            }
        }
        self.ask(ctx, by_partition).await
    }

    async fn ask(
        &mut self,
        ctx: &Context,
        by_partition: BTreeMap<PartitionNo, Vec<Command<Kind>>>,
    ) -> Result<(), Error> {
        let round = ctx.clock.now().micros() / (AGAIN_MS * 1000);
        let mut asked: Vec<Vec<CommandId>> = Vec::new();
        let mut messages = Vec::new();
        for (partition, commands) in &by_partition {
            for part in commands.chunks(COMMANDS_PER_MESSAGE_MAX) {
                let ids: Vec<CommandId> = part.iter().map(|command| command.id).collect();
                let id = message_id(ids.iter().map(|id| id.0), round);
                messages.push(Outgoing::commands(
                    ctx,
                    Lane::Seats,
                    *partition,
                    id,
                    part.to_vec(),
                ));
                asked.push(ids);
            }
        }
        let mut failed = None;
        for (ids, stored) in asked.into_iter().zip(publish(ctx, messages).await) {
            match stored {
                Ok(()) => {
                    metrics::counter!(metric::EXPIRY_PUBLISHED).increment(ids.len() as u64);
                    let now = Instant::now();
                    self.asked.extend(ids.into_iter().map(|id| (id, now)));
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

#[derive(QueryableByName)]
struct DueRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = Timestamptz)]
    expires_at: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    due_at: Timestamp,
}

impl DueRow {
    fn command(&self) -> Command<Kind> {
        let id = CommandId::of_system("expire", self.reservation_id.0, self.expires_at.micros());
        system::command(
            id,
            Kind::Expire {
                reservation_id: self.reservation_id,
                schedule_id: self.schedule_id,
                expires_at: self.expires_at,
            },
        )
    }
}

/// A page of holds that are due, the oldest first, behind `after`.
async fn reservation_list_due(
    ctx: &Context,
    after: (Timestamp, ReservationId),
) -> Result<Vec<DueRow>, db::Error> {
    let mut conn = ctx.pool.get().await?;
    let rows = statement(
        "SELECT reservation_id, schedule_id, expires_at, \
                coalesce(release_at, expires_at) AS due_at FROM reservation \
         WHERE status = 'HELD' AND coalesce(release_at, expires_at) \
                                   < (SELECT clock_timestamp()) - $1 * interval '1 millisecond' \
           AND (coalesce(release_at, expires_at), reservation_id) > ($2, $3) \
         ORDER BY coalesce(release_at, expires_at), reservation_id LIMIT $4",
    )
    .bind::<BigInt, _>(GRACE_MS)
    .bind::<Timestamptz, _>(after.0)
    .bind::<SqlUuid, _>(after.1)
    .bind::<BigInt, _>(LOOK_MAX as i64)
    .load(&mut conn)
    .await?;
    Ok(rows)
}
