//! The world of production: commands from JetStream, commits to Postgres, life-signs in it.

use super::core::{Cursor, Fence, Proposal};
use super::fence;
use super::lane::{Persistent, Stored};
use super::ownership::{Partition, Snapshot, Worker};
use super::reader::Reader;
use super::world::{Attempt, Owner, Registry, Settings, Store, World};
use crate::context::Context;
use async_nats::connection::State;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::StreamExt;
use onsale_platform::sql::statement;
use onsale_platform::{db, tx};
use onsale_schema::message::Command;
use onsale_schema::{Lane, PartitionNo, Timestamp, WorkerId};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// Advisory locks of this class are life-signs; the key is the worker row's `life_key`.
pub const LIFE_CLASS: i32 = 7092;
/// How long a sign of life may take, well within a lease: then another connection is tried.
const BEAT_MAX: Duration = Duration::from_millis(1500);
/// How long a transaction may take before its connection counts as dead, and its fate as unknown;
/// see [`COMMITTER_SETTINGS`].
const WRITE_MAX: Duration = Duration::from_secs(5);

/// Of the committer's session. It waits for nobody's lock for long, since all partitions of the
/// process wait with it. Its statements take arrays whose length says nothing about the plan.
/// What it has given up, the server gives up as well (from Postgres 17 on): a connection that is cut
/// between a statement and the end of its flush is idle by no other measure of the server's, and
/// would keep its locks until TCP notices.
pub const COMMITTER_SETTINGS: &str = "SET lock_timeout = 100; \
    SET plan_cache_mode = force_generic_plan; \
    SELECT set_config('transaction_timeout', '5s', false) \
    WHERE current_setting('server_version_num')::int >= 170000";

impl<L: Persistent> World<L> for Context {
    type Log = Reader;
    type Store = Committing;
    type Registry = LifeSign;

    fn me(&self) -> WorkerId {
        self.worker_id
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn settings(&self) -> Settings {
        let ownership = &self.config.ownership;
        Settings {
            partitions: self.config.common.partitions,
            lease_ms: ownership.lease_ms,
            tick_ms: ownership.tick_ms,
            batch_commands: usize::try_from(ownership.batch_commands).unwrap_or(usize::MAX),
        }
    }

    fn log(&self, partition: PartitionNo, cursor: Cursor) -> Reader {
        Reader::new(self.clone(), L::LANE, partition, cursor)
    }

    fn store(&self) -> Committing {
        Committing {
            ctx: self.clone(),
            conn: None,
        }
    }

    fn registry(&self) -> LifeSign {
        LifeSign {
            ctx: self.clone(),
            lane: L::LANE,
            conn: None,
            was_signed: false,
            nudges: None,
            deaf_since: None,
            heard_at: None,
        }
    }

    async fn load(
        &self,
        state: &mut L::State,
        commands: &[&Command<L::Kind>],
        thorough: bool,
    ) -> Result<(), db::Error> {
        L::load(self, state, commands, thorough).await
    }
}

/// The committer's connection. It is its own: its statements are prepared once, and only the
/// committer has transactions on it, so that one that failed is simply dropped.
pub struct Committing {
    ctx: Context,
    conn: Option<AsyncPgConnection>,
}

impl Committing {
    async fn connection(&mut self) -> Result<AsyncPgConnection, db::Error> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let mut conn = db::connect(&self.ctx.config.common.servers.database_url())
            .await
            .map_err(|e| db::Error::Unavailable(e.to_string()))?;
        in_time(WRITE_MAX, async {
            conn.batch_execute(COMMITTER_SETTINGS).await?;
            Ok(())
        })
        .await?;
        Ok(conn)
    }
}

impl<L: Persistent> Store<L> for Committing {
    async fn write(&mut self, me: WorkerId, proposals: &[&Proposal<L>]) -> Attempt {
        let conn = match self.connection().await {
            Ok(conn) => conn,
            Err(error) => return Attempt::Failed(error),
        };
        let attempt = timeout(WRITE_MAX, write(&conn, me, proposals))
            .await
            .unwrap_or_else(|_| Attempt::Unknown("Postgres does not answer".into()));
        // After any error the connection may be in a failed transaction: it is dropped, which ends
        // the transaction.
        match &attempt {
            Attempt::Committed | Attempt::Refused { .. } => self.conn = Some(conn),
            Attempt::Failed(_) | Attempt::Unknown(_) => {}
        }
        attempt
    }

    async fn look_up(&mut self, partition: PartitionNo) -> Result<Owner, db::Error> {
        let mut conn = self.connection().await?;
        let row = in_time(WRITE_MAX, async {
            tx::begin(&mut conn).await?;
            let row = fence::partition_lock(&mut conn, L::LANE, partition).await?;
            tx::commit(&mut conn).await?;
            Ok(row)
        })
        .await?;
        self.conn = Some(conn);
        Ok(Owner {
            owner: row.owner,
            fence: row.fence(),
        })
    }
}

/// Without an answer in time the connection, which the caller holds, must be dropped.
async fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, db::Error>>,
) -> Result<T, db::Error> {
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(db::Error::Unavailable("it does not answer".into())))
}

/// One transaction: the fence for all, then everything that is written, in one flush; then the
/// commit.
async fn write<L: Persistent>(
    conn: &AsyncPgConnection,
    me: WorkerId,
    proposals: &[&Proposal<L>],
) -> Attempt {
    let changes: Vec<&L::Changes> = proposals.iter().map(|p| &p.changes).collect();
    let begin = async {
        (&mut &*conn)
            .batch_execute("BEGIN")
            .await
            .map_err(db::Error::from)
    };
    let (begun, fenced, outcomes, dead, stored) = tokio::join!(
        biased;
        begin,
        fence::advance(conn, me, proposals),
        fence::outcomes_insert(conn, proposals),
        fence::dead_letters_insert(conn, proposals),
        L::store(conn, &changes),
    );
    let passed = match begun.and(fenced) {
        Ok(passed) => passed,
        Err(error) => return Attempt::Failed(error),
    };
    let deposed: HashSet<usize> = (0..proposals.len())
        .filter(|&index| !passed.contains(&proposals[index].partition))
        .collect();
    // What a deposed owner writes may fail in any way (its successor has written the same rows): the
    // fence comes first. Then the first error in the order of the statements is the cause of others.
    let stored = match outcomes.and(dead).and(stored) {
        Ok(stored) => stored,
        Err(_) if !deposed.is_empty() => Stored::default(),
        Err(error) => return Attempt::Failed(error),
    };
    let missed = stored.missed;
    let sql = &mut &*conn;
    if !deposed.is_empty() || !missed.is_empty() {
        return match sql.batch_execute("ROLLBACK").await {
            Ok(()) => Attempt::Refused { deposed, missed },
            Err(error) => Attempt::Failed(error.into()),
        };
    }
    match sql.batch_execute("COMMIT").await.map_err(db::Error::from) {
        Ok(()) => Attempt::Committed,
        Err(db::Error::Unavailable(error)) => Attempt::Unknown(error),
        Err(error) => Attempt::Failed(error),
    }
}

/// The connection that holds a session advisory lock, the life-sign, and writes the heartbeat. A
/// killed process loses the lock at once, a hung host its lease.
pub struct LifeSign {
    ctx: Context,
    lane: Lane,
    conn: Option<Signed>,
    /// Whether there has been a connection.
    was_signed: bool,
    nudges: Option<async_nats::Subscriber>,
    /// Since when there is no connection to NATS.
    deaf_since: Option<Instant>,
    /// When NATS was found again after so long that our lease ran out.
    heard_at: Option<Instant>,
}

/// A connection that holds a life-sign. Each has a key of its own: Postgres may go on holding the
/// lock of a connection that was lost without a word.
struct Signed {
    conn: AsyncPgConnection,
    life_key: i32,
    /// When Postgres was found again, if it is not the first connection.
    regained_at: Option<Instant>,
}

impl LifeSign {
    /// Whether NATS has been away for a lease. An owner that hears no commands is of no use, so it
    /// lets its lease run out for another who may hear them.
    fn is_deaf(&mut self) -> bool {
        let lease_ms = u64::try_from(self.ctx.config.ownership.lease_ms).unwrap_or(0);
        let was_deaf = |since: Instant| since.elapsed() >= Duration::from_millis(lease_ms);
        if self.ctx.nats.connection_state() == State::Connected {
            if self.deaf_since.take().is_some_and(was_deaf) {
                self.heard_at = Some(Instant::now());
            }
            return false;
        }
        was_deaf(*self.deaf_since.get_or_insert_with(Instant::now))
    }

    async fn connection(&mut self) -> Result<Signed, db::Error> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let mut conn = db::connect(&self.ctx.config.common.servers.database_url())
            .await
            .map_err(|e| db::Error::Unavailable(e.to_string()))?;
        // The random part of a new id.
        let [.., a, b, c, d] = Uuid::now_v7().into_bytes();
        let life_key = i32::from_be_bytes([a, b, c, d]);
        let partitions = self.ctx.config.common.partitions;
        in_time(BEAT_MAX, async {
            // The life-sign first, then the row: a row without a life-sign reads as a death.
            statement("SELECT pg_advisory_lock($1, $2)")
                .bind::<Integer, _>(LIFE_CLASS)
                .bind::<Integer, _>(life_key)
                .execute(&mut conn)
                .await?;
            fence::partitions_insert(&mut conn, self.lane, partitions).await
        })
        .await?;
        let was_signed = std::mem::replace(&mut self.was_signed, true);
        Ok(Signed {
            conn,
            life_key,
            regained_at: was_signed.then(Instant::now),
        })
    }
}

impl Registry for LifeSign {
    async fn beat(&mut self) -> Result<Snapshot, db::Error> {
        let mut signed = self.connection().await?;
        let (lane, key) = (self.lane.as_str(), signed.life_key);
        let is_deaf = self.is_deaf();
        let conn = &mut signed.conn;
        let mut snapshot = in_time(BEAT_MAX, async {
            if !is_deaf {
                heartbeat(conn, self.ctx.worker_id, lane, key).await?;
            }
            snapshot(conn, lane).await
        })
        .await?;
        // Postgres counts its start from before its recovery, which may take longer than a lease.
        // If it was a restart that took our connection, it took everybody's. And if NATS was away
        // from us for long, so it was from everybody, who all let their leases run out.
        if is_deaf {
            snapshot.quiet_ms = 0;
        }
        for at in [signed.regained_at, self.heard_at].into_iter().flatten() {
            let since_ms = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
            snapshot.quiet_ms = snapshot.quiet_ms.min(since_ms);
        }
        self.conn = Some(signed);
        Ok(snapshot)
    }

    async fn take(
        &mut self,
        partition: PartitionNo,
        seen_epoch: i64,
    ) -> Result<Option<(Fence, Cursor)>, db::Error> {
        // While NATS is away, whoever lets its lease run out first is no worse an owner than we.
        if self.ctx.nats.connection_state() != State::Connected {
            return Ok(None);
        }
        let mut signed = self.connection().await?;
        let (conn, me) = (&mut signed.conn, self.ctx.worker_id);
        let take = fence::partition_take(conn, self.lane, partition, seen_epoch, me);
        let row = in_time(BEAT_MAX, take).await?;
        self.conn = Some(signed);
        Ok(row.map(|row| (row.fence(), row.cursor())))
    }

    async fn release(&mut self, partition: PartitionNo, epoch: i64) -> Result<(), db::Error> {
        let mut signed = self.connection().await?;
        let (conn, me) = (&mut signed.conn, self.ctx.worker_id);
        let release = fence::partition_release(conn, self.lane, partition, epoch, me);
        in_time(BEAT_MAX, release).await?;
        self.conn = Some(signed);
        Ok(())
    }

    async fn changed(&mut self) {
        if self.nudges.is_none() {
            let subject = self.ctx.subjects.ownership_nudge();
            match self.ctx.nats.subscribe(subject).await {
                Ok(nudges) => self.nudges = Some(nudges),
                Err(error) => tracing::warn!(%error, "no nudges; the timer has to do"),
            }
        }
        let nudge = match &mut self.nudges {
            Some(nudges) => nudges.next().await,
            None => None,
        };
        if nudge.is_none() {
            self.nudges = None;
            std::future::pending::<()>().await;
        }
    }

    async fn retire(&mut self) -> Result<(), db::Error> {
        let mut signed = self.connection().await?;
        in_time(BEAT_MAX, async {
            statement("UPDATE worker SET leaving = true WHERE worker_id = $1")
                .bind::<SqlUuid, _>(self.ctx.worker_id)
                .execute(&mut signed.conn)
                .await
                .map_err(db::Error::from)
        })
        .await?;
        self.conn = Some(signed);
        Ok(())
    }

    async fn leave(&mut self) {
        let gone = async {
            let mut signed = self.connection().await?;
            in_time(BEAT_MAX, async {
                statement("DELETE FROM worker WHERE worker_id = $1")
                    .bind::<SqlUuid, _>(self.ctx.worker_id)
                    .execute(&mut signed.conn)
                    .await
                    .map_err(db::Error::from)
            })
            .await
        };
        if let Err(error) = gone.await {
            tracing::debug!(%error, "the worker's row stays until it is purged");
        }
    }
}

async fn heartbeat(
    conn: &mut AsyncPgConnection,
    me: WorkerId,
    lane: &str,
    life_key: i32,
) -> Result<(), db::Error> {
    statement(
        "INSERT INTO worker (worker_id, life_key, lanes) VALUES ($1, $2, $3) \
         ON CONFLICT (worker_id) DO UPDATE \
         SET heartbeat_at = clock_timestamp(), life_key = excluded.life_key",
    )
    .bind::<SqlUuid, _>(me)
    .bind::<Integer, _>(life_key)
    .bind::<Array<Text>, _>(vec![lane])
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct SnapshotRow {
    #[diesel(sql_type = BigInt)]
    postgres_uptime_ms: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    worker_id: Option<WorkerId>,
    #[diesel(sql_type = BigInt)]
    heartbeat_age_ms: i64,
    #[diesel(sql_type = BigInt)]
    uptime_ms: i64,
    #[diesel(sql_type = Bool)]
    life_sign: bool,
    #[diesel(sql_type = Bool)]
    leaving: bool,
    #[diesel(sql_type = Nullable<Integer>)]
    partition_no: Option<i32>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    owner: Option<WorkerId>,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

/// Workers and partitions as one statement sees them: rows of workers, then rows of partitions.
async fn snapshot(conn: &mut AsyncPgConnection, lane: &str) -> Result<Snapshot, db::Error> {
    let rows: Vec<SnapshotRow> = statement(
        "WITH now AS MATERIALIZED (SELECT clock_timestamp() AS t), life AS MATERIALIZED ( \
             SELECT objid FROM pg_locks \
             WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = $2::int::oid \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())), \
         up AS (SELECT (extract(epoch FROM t - pg_postmaster_start_time()) * 1000)::bigint AS ms \
                FROM now) \
         SELECT up.ms AS postgres_uptime_ms, worker_id, \
                (extract(epoch FROM now.t - heartbeat_at) * 1000)::bigint AS heartbeat_age_ms, \
                (extract(epoch FROM now.t - started_at) * 1000)::bigint AS uptime_ms, \
                EXISTS (SELECT FROM life \
                        WHERE objid = (life_key::bigint & 4294967295)::oid) AS life_sign, leaving, \
                NULL::int AS partition_no, NULL::uuid AS owner, 0::bigint AS epoch \
         FROM worker, now, up WHERE $1 = ANY (lanes) \
         UNION ALL \
         SELECT up.ms, NULL, 0, 0, false, false, partition_no, owner, epoch \
         FROM partition, up, system WHERE lane = $1 AND partition_no < system.partitions",
    )
    .bind::<Text, _>(lane)
    .bind::<Integer, _>(LIFE_CLASS)
    .load(conn)
    .await?;
    let mut snapshot = Snapshot {
        quiet_ms: rows
            .as_slice()
            .first()
            .map_or(0, |row| row.postgres_uptime_ms),
        workers: Vec::new(),
        partitions: Vec::new(),
    };
    for row in rows {
        if let Some(id) = row.worker_id {
            snapshot.workers.push(Worker {
                id,
                heartbeat_age_ms: row.heartbeat_age_ms,
                uptime_ms: row.uptime_ms,
                life_sign: row.life_sign,
                leaving: row.leaving,
            });
        } else if let Some(no) = row.partition_no.and_then(|no| u16::try_from(no).ok()) {
            let partition = Partition {
                no: PartitionNo(no),
                owner: row.owner,
                epoch: row.epoch,
            };
            snapshot.partitions.push(partition);
        }
    }
    Ok(snapshot)
}
