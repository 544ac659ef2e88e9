//! What every role of a worker process shares.

use crate::config::Config;
use crate::gateway::{Gateway, toss::Toss};
use crate::runtime::world::Publish;
use async_nats::connection::State;
use bytes::Bytes;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use onsale_platform::{Clock, db, http, nats, tx};
use onsale_schema::WorkerId;
use onsale_schema::subjects::Subjects;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The connections and settings of one worker process. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// This start of this process, among the owners of partitions: see [`Self::member`].
    pub worker_id: WorkerId,
    /// Postgres.
    pub pool: db::Pool,
    /// NATS.
    pub nats: async_nats::Client,
    /// JetStream on it.
    pub jetstream: async_nats::jetstream::Context,
    /// Subject names.
    pub subjects: Subjects,
    /// The clock, corrected to Postgres.
    pub clock: Clock,
    /// The payment gateway, if one is configured.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// All settings.
    pub config: Arc<Config>,
    /// Bounds the connections on which schedules are read.
    pub(crate) loads: Arc<Semaphore>,
}

/// Schedules that this process reads at once. A survivor that takes many partitions must not need a
/// connection for each: Postgres would refuse others.
const LOADS_MAX: usize = 4;

/// Why a worker process can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// NATS.
    #[error(transparent)]
    Nats(#[from] nats::Error),
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Task(String),
    /// The payment gateway.
    #[error("the payment gateway: {0}")]
    Gateway(#[from] http::Unfit),
    /// The subject prefix.
    #[error(transparent)]
    Prefix(#[from] onsale_schema::subjects::InvalidPrefix),
}

impl Context {
    /// Connects to both servers, agrees on the partition count, makes the streams.
    ///
    /// # Errors
    /// When a server can't be reached or the settings don't fit the database.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let subjects = Subjects::new(&config.common.subject_prefix)?;
        let gateway = Toss::of_settings(&config.gateway)?;
        let pool = db::pool_with_generic_plans(
            &config.common.servers.database_url(),
            usize::from(config.common.db_pool),
        )?;
        db::require_english(&pool).await?;
        db::agree_on_partitions(&pool, config.common.partitions).await?;
        let clock = Clock::default();
        db::measure_clock(&mut *pool.get().await?, &clock).await?;
        let client = nats::connect(&config.common.servers.nats_url(), "onsale-workers").await?;
        let jetstream = nats::jetstream(client.clone());
        nats::create_streams(&jetstream, &subjects, &config.streams).await?;
        Ok(Self {
            worker_id: WorkerId(uuid::Uuid::now_v7()),
            pool,
            nats: client,
            jetstream,
            subjects,
            clock,
            gateway: gateway.map(|gateway| Arc::new(gateway) as Arc<dyn Gateway>),
            config: Arc::new(config),
            loads: Arc::new(Semaphore::new(LOADS_MAX)),
        })
    }

    /// The same process as another member among the owners of partitions: each lane gives signs of
    /// life of its own, so that one of them can be lost, or run elsewhere, without the others.
    #[must_use]
    pub fn member(&self) -> Self {
        Self {
            worker_id: WorkerId(uuid::Uuid::now_v7()),
            ..self.clone()
        }
    }

    /// A connection in a transaction that sees one snapshot, to read what one partition needs. It is
    /// its own, because one of the pool is lent for less time than a large schedule may take.
    pub(crate) async fn snapshot(
        &self,
    ) -> Result<(AsyncPgConnection, SemaphorePermit<'_>), db::Error> {
        let unavailable = |error: String| db::Error::Unavailable(error);
        let one_of_few = self.loads.acquire().await;
        let one_of_few = one_of_few.map_err(|error| unavailable(error.to_string()))?;
        let mut conn = db::connect(&self.config.common.servers.database_url())
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        conn.batch_execute("SET statement_timeout = 0").await?;
        tx::begin(&mut conn).await?;
        conn.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await?;
        Ok((conn, one_of_few))
    }

    /// Makes the streams that are missing. Who finds that one was deleted must do it: nobody else
    /// would before the next start of a process.
    ///
    /// # Errors
    /// When NATS is away or refuses.
    pub async fn create_streams(&self) -> Result<(), nats::Error> {
        let settings = &self.config.streams;
        // Large, and rarely needed.
        Box::pin(nats::create_streams(
            &self.jetstream,
            &self.subjects,
            settings,
        ))
        .await
    }
}

/// How long a message that may be lost may wait to be sent.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(500);

impl Publish for Context {
    fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    async fn publish(&self, subject: String, payload: Vec<u8>) {
        // While NATS is away nothing is queued for it: it would come late, and a full queue waits.
        if self.nats.connection_state() != State::Connected {
            return;
        }
        let published = self.nats.publish(subject, Bytes::from(payload));
        match tokio::time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "not sent; its receiver will look in Postgres");
            }
            Err(_) => tracing::warn!("not sent in time; its receiver will look in Postgres"),
        }
    }
}
