//! One ingress: its connections, caches, background tasks and routes.

use crate::auth::Tokens;
use crate::batcher::{Batcher, Link};
use crate::catalogue::Catalogue;
use crate::config::{Config, Flow, GatewayWebhooks, Sales};
use crate::draw::Draws;
use crate::events::{self, Streams};
use crate::extract::BodyLimits;
use crate::fresh::Fresh;
use crate::lag::Gate;
use crate::lane::{Admission, Commands, Ledger, Seats, Settlement};
use crate::layout::Layouts;
use crate::limits::{Rate, SignIns};
use crate::order_ends::OrderEnds;
use crate::password::{self, Passwords};
use crate::replies::{Replies, Waiting};
use crate::room::{self, Reporter, Rooms};
use crate::seat_map::SeatMaps;
use crate::stack;
use crate::token::Signer;
use crate::users::Successors;
use crate::{revocations, routes, seat_history, server, users, webhooks};
use async_nats::Subscriber;
use axum::Router;
use onsale_platform::{Clock, db, nats};
use onsale_schema::subjects::{InvalidPrefix, Subjects};
use onsale_schema::{IngressId, Lane, PartitionNo, Timestamp};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the clock is compared with Postgres.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// How often sessions that are over, and tokens that nobody used, are removed.
const PURGE: Duration = Duration::from_secs(60);
/// The pause between two pieces of that, so that others get their turn.
const PURGE_PAUSE: Duration = Duration::from_millis(50);

/// Why an ingress can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// NATS.
    #[error(transparent)]
    Nats(#[from] nats::Error),
    /// The subject prefix.
    #[error(transparent)]
    Prefix(#[from] InvalidPrefix),
    /// Password hashing.
    #[error(transparent)]
    Password(#[from] password::Error),
    /// The HTTP address.
    #[error("can't listen on {addr}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A background task ended, which none should.
    #[error("a background task ended; the ingress can't go on")]
    TaskEnded,
}

/// What handlers share. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// The parts of an [`App`].
pub struct Parts {
    /// Postgres.
    pub pool: db::Pool,
    /// NATS.
    pub nats: async_nats::Client,
    /// Its subjects.
    pub subjects: Subjects,
    /// The clock, corrected to Postgres.
    pub clock: Clock,
    /// Partitions of the seats lane.
    pub partitions: u16,
    /// How commands flow.
    pub flow: Flow,
    /// Bounds of request bodies.
    pub body_limits: BodyLimits,
    /// What a new schedule sells by, where nothing else is said.
    pub sales: Sales,
    /// How long a refresh token is valid, in seconds.
    pub refresh_token_ttl_s: i64,
    /// Access tokens.
    pub tokens: Tokens,
    /// What refresh tokens are exchanged for.
    pub successors: Successors,
    /// Passwords.
    pub passwords: Passwords,
    /// How often they may be tried.
    pub sign_ins: SignIns,
    /// How often a user may ask.
    pub user_rate: Option<Arc<Rate>>,
    /// Tokens of open commands.
    pub signer: Signer,
    /// Tickets and passes of waiting rooms.
    pub room_signer: room::Signer,
    /// Layouts.
    pub layouts: Layouts,
    /// Seat maps.
    pub seat_maps: SeatMaps,
    /// Waiting rooms.
    pub rooms: Rooms,
    /// Event streams.
    pub streams: Streams,
    /// How long a token for one is good, in seconds.
    pub stream_token_ttl_s: i64,
    /// Concerts and schedules.
    pub catalogue: Catalogue,
    /// Draws of waiting rooms.
    pub draws: Draws,
    /// Back-pressure.
    pub gate: Arc<Gate>,
    /// The way to the owners.
    pub batchers: Batchers,
    /// Whoever waits for the end of an order.
    pub order_ends: Arc<OrderEnds>,
    /// How webhook subscribers may be.
    pub webhooks: webhooks::Settings,
    /// What the payment gateway's notifications are verified by.
    pub notifications: GatewayWebhooks,
    /// One audit at a time.
    pub audits: Semaphore,
    /// Some histories of seats at a time.
    pub histories: Semaphore,
    /// Whether Postgres answered a moment ago: anybody may ask as often as they like.
    pub postgres_answers: Fresh<(), bool>,
    /// Cancelled when the process begins to stop.
    pub stopping: CancellationToken,
}

/// A batcher for each subject that commands go to.
pub struct Batchers {
    seats: Vec<Arc<Batcher<Seats>>>,
    admission: Vec<Arc<Batcher<Admission>>>,
    /// Of the ledger.
    pub ledger: Arc<Batcher<Ledger>>,
    /// Of settlement.
    pub settlement: Arc<Batcher<Settlement>>,
}

impl Batchers {
    fn new(link: &Link, subjects: &Subjects, partitions: u16, replies: &Replies) -> Self {
        Self {
            seats: partitioned(link, subjects, partitions, &replies.seats),
            admission: partitioned(link, subjects, partitions, &replies.admission),
            ledger: Arc::new(Batcher::new(
                link.clone(),
                subjects.queue(Lane::Ledger),
                Arc::clone(&replies.ledger),
            )),
            settlement: Arc::new(Batcher::new(
                link.clone(),
                subjects.queue(Lane::Settlement),
                Arc::clone(&replies.settlement),
            )),
        }
    }

    /// Of a partition of the seats lane.
    ///
    /// # Panics
    /// When there is no such partition.
    #[must_use]
    pub fn seats(&self, partition: PartitionNo) -> &Batcher<Seats> {
        &self.seats[usize::from(partition.0)]
    }

    /// Of a partition of the admission lane.
    ///
    /// # Panics
    /// When there is no such partition.
    #[must_use]
    pub fn admission(&self, partition: PartitionNo) -> &Batcher<Admission> {
        &self.admission[usize::from(partition.0)]
    }

    fn spawn(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        for batcher in &self.seats {
            let (batcher, stop) = (Arc::clone(batcher), stop.clone());
            tasks.spawn(async move { batcher.run(stop).await });
        }
        for batcher in &self.admission {
            let (batcher, stop) = (Arc::clone(batcher), stop.clone());
            tasks.spawn(async move { batcher.run(stop).await });
        }
        let (ledger, token) = (Arc::clone(&self.ledger), stop.clone());
        tasks.spawn(async move { ledger.run(token).await });
        let (settlement, token) = (Arc::clone(&self.settlement), stop.clone());
        tasks.spawn(async move { settlement.run(token).await });
    }
}

/// A batcher for each partition of a lane.
fn partitioned<L: Commands>(
    link: &Link,
    subjects: &Subjects,
    partitions: u16,
    waiting: &Arc<Waiting<L>>,
) -> Vec<Arc<Batcher<L>>> {
    let batcher = |no| {
        let subject = subjects.partition(L::LANE, PartitionNo(no));
        Arc::new(Batcher::new(link.clone(), subject, Arc::clone(waiting)))
    };
    (0..partitions).map(batcher).collect()
}

/// The subscriptions of an ingress; made before it listens.
struct Subscriptions {
    replies: Subscriber,
    lags: Subscriber,
    maps: Subscriber,
    watermarks: Subscriber,
    revocations: Subscriber,
}

impl Subscriptions {
    async fn new(
        client: &async_nats::Client,
        subjects: &Subjects,
        ingress: IngressId,
    ) -> Result<Self, nats::Error> {
        let subscribe = async |subject: String| {
            let made = client.subscribe(subject).await;
            made.map_err(|error| nats::Error::Unavailable(error.to_string()))
        };
        let made = Self {
            replies: subscribe(subjects.replies(ingress)).await?,
            lags: subscribe(subjects.lags()).await?,
            maps: subscribe(subjects.maps()).await?,
            watermarks: subscribe(subjects.watermarks()).await?,
            revocations: subscribe(subjects.revocations()).await?,
        };
        // So that the server knows of them before the first request is served.
        let flushed = client.flush().await;
        flushed.map_err(|error| nats::Error::Unavailable(error.to_string()))?;
        Ok(made)
    }
}

/// An ingress that listens.
pub struct Ingress {
    app: App,
    router: Router,
    listener: TcpListener,
    local_addr: SocketAddr,
    config: Config,
    tasks: JoinSet<()>,
    /// Ends the background tasks, after the last request.
    stop: CancellationToken,
}

impl Ingress {
    /// Connects to both servers, starts the background tasks and listens; [`Self::serve`] answers.
    ///
    /// # Errors
    /// When a server can't be reached, the settings don't fit the database, or the address is
    /// taken.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let common = &config.common;
        let subjects = Subjects::new(&common.subject_prefix)?;
        let pool = db::pool(&common.servers.database_url(), usize::from(common.db_pool))?;
        db::require_english(&pool).await?;
        db::agree_on_partitions(&pool, common.partitions).await?;
        let clock = Clock::default();
        db::measure_clock(&mut *pool.get().await?, &clock).await?;
        let client = nats::connect(&common.servers.nats_url(), "onsale-ingress").await?;
        let jetstream = nats::jetstream(client.clone());

        let ingress_id = IngressId(Uuid::now_v7());
        let subscriptions = Subscriptions::new(&client, &subjects, ingress_id).await?;
        let replies = Replies::default();
        let link = Link {
            jetstream,
            client: client.clone(),
            ingress_id,
            clock: clock.clone(),
            window: usize::from(config.flow.publish_window),
        };
        let batchers = Batchers::new(&link, &subjects, common.partitions, &replies);
        let stop = CancellationToken::new();
        let app = app(&config, pool, client, subjects, clock, batchers)?;
        // Who is signed out must be known before anybody is let in.
        let read_at = app.clock.now();
        let alive = app.tokens.oldest_alive(read_at);
        app.tokens.revocations().read(&app.pool, alive).await?;
        let mut tasks = JoinSet::new();
        spawn(&app, replies, subscriptions, read_at, &mut tasks, &stop);

        let addr = config.http.addr;
        let listen = |source| Error::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        let router = stack::wrap(routes::router(app.clone()), &config.http);
        Ok(Self {
            app,
            router,
            listener,
            local_addr,
            config,
            tasks,
            stop,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What its handlers share.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Answers requests until `shutdown`, then lets those under way end.
    ///
    /// # Errors
    /// When a background task ends before its time.
    pub async fn serve(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        tracing::info!(addr = %self.local_addr, "listening");
        let server = server::serve(
            self.router,
            self.listener,
            &self.config.http,
            self.app.stopping.clone(),
        );
        let tasks = &mut self.tasks;
        let stopping = &self.app.stopping;
        let until_stop = async {
            let result = tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                () = stopping.cancelled() => Ok(()),
                _ = tasks.join_next() => Err(Error::TaskEnded),
            };
            stopping.cancel();
            result
        };
        let ((), result) = tokio::join!(server, until_stop);
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        result
    }
}

fn app(
    config: &Config,
    pool: db::Pool,
    nats: async_nats::Client,
    subjects: Subjects,
    clock: Clock,
    batchers: Batchers,
) -> Result<App, Error> {
    let gate = Gate::new(clock.clone(), config.common.partitions, &config.flow);
    Ok(App(Arc::new(Parts {
        tokens: Tokens::new(&config.auth, clock.clone()),
        successors: Successors::new(&config.auth.token_secret),
        passwords: Passwords::new(config.auth.password_hashes_max)?,
        sign_ins: SignIns::new(&config.http.limits),
        user_rate: Rate::of_users(&config.http.limits).map(Arc::new),
        signer: Signer::new(&config.auth.token_secret),
        room_signer: room::Signer::new(&config.auth.token_secret),
        layouts: Layouts::new(pool.clone()),
        seat_maps: SeatMaps::new(pool.clone(), clock.clone()),
        rooms: Rooms::new(pool.clone(), clock.clone()),
        order_ends: Arc::new(OrderEnds::new(pool.clone())),
        streams: Streams::new(&config.events),
        stream_token_ttl_s: config.events.stream_token_ttl_s,
        catalogue: Catalogue::new(pool.clone()),
        draws: Draws::new(pool.clone()),
        gate: Arc::new(gate),
        partitions: config.common.partitions,
        flow: config.flow.clone(),
        body_limits: BodyLimits::from(&config.http),
        sales: config.sales,
        notifications: config.gateway_webhooks.clone(),
        webhooks: webhooks::Settings {
            private_targets: config.webhooks.common.private_targets,
            secret_overlap_s: config.webhooks.secret_overlap_s,
        },
        refresh_token_ttl_s: config.auth.refresh_token_ttl_s,
        pool,
        nats,
        subjects,
        clock,
        batchers,
        audits: Semaphore::new(1),
        histories: Semaphore::new(seat_history::READS_MAX),
        postgres_answers: Fresh::new(1),
        stopping: CancellationToken::new(),
    })))
}

fn spawn(
    app: &App,
    replies: Replies,
    subscriptions: Subscriptions,
    revocations_read_at: Timestamp,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let Subscriptions {
        replies: reply_messages,
        lags,
        maps,
        watermarks,
        revocations,
    } = subscriptions;
    app.batchers.spawn(tasks, stop);
    let (clock, token) = (app.clock.clone(), stop.clone());
    tasks.spawn(async move { replies.run(reply_messages, clock, token).await });
    let (gate, token) = (Arc::clone(&app.gate), stop.clone());
    tasks.spawn(async move { gate.run(lags, token).await });
    let (ends, token) = (Arc::clone(&app.order_ends), stop.clone());
    tasks.spawn(async move { ends.run(token).await });
    let (seat_maps, client, token) = (app.seat_maps.clone(), app.nats.clone(), stop.clone());
    tasks.spawn(async move { seat_maps.run(maps, client, token).await });
    let (nats, subjects, clock) = (app.nats.clone(), app.subjects.clone(), app.clock.clone());
    let reporter = Reporter::new(nats, subjects, clock, app.partitions);
    let (rooms, token) = (app.rooms.clone(), stop.clone());
    tasks.spawn(async move { rooms.run(watermarks, reporter, token).await });
    let tokens = app.tokens.clone();
    tasks.spawn(revocations::follow(
        tokens.clone(),
        revocations,
        stop.clone(),
    ));
    tasks.spawn(revocations::keep_reading(
        tokens,
        app.pool.clone(),
        app.clock.clone(),
        revocations_read_at,
        stop.clone(),
    ));
    tasks.spawn(keep_time(app.pool.clone(), app.clock.clone(), stop.clone()));
    tasks.spawn(keep_tidy(app.pool.clone(), stop.clone()));
}

/// Compares the clock with Postgres every few seconds.
async fn keep_time(pool: db::Pool, clock: Clock, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CLOCK_CHECK) => {}
        }
        let measured = match pool.get().await {
            Ok(mut conn) => db::measure_clock(&mut conn, &clock).await,
            Err(error) => Err(error),
        };
        if let Err(error) = measured {
            tracing::warn!(%error, "the clock could not be compared");
        }
    }
}

/// Removes what is over, for nobody else may: the ingress alone writes these tables.
async fn keep_tidy(pool: db::Pool, stop: CancellationToken) {
    let mut pause = PURGE;
    while stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        pause = match tidy(&pool).await {
            Ok(Tidied::All) => PURGE,
            Ok(Tidied::Some) => PURGE_PAUSE,
            Err(error) => {
                tracing::warn!(%error, "old sessions and tokens could not be removed");
                PURGE
            }
        };
    }
}

/// What was removed.
enum Tidied {
    All,
    Some,
}

async fn tidy(pool: &db::Pool) -> Result<Tidied, db::Error> {
    let sessions = users::store::session_purge(pool).await?;
    let tokens = events::store::token_purge(pool).await?;
    if sessions < users::store::PURGE_MAX && tokens < events::store::PURGE_MAX {
        Ok(Tidied::All)
    } else {
        Ok(Tidied::Some)
    }
}
