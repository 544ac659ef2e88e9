//! The rivals: a hold, a charge or a payment decided by Postgres alone, request by request, behind the
//! same HTTP stack.
//!
//! A rival must be as good as it can be, or the comparison is worth nothing. It has the ingress' own
//! server, layers, extractors, caches and answers, the same pool, prepared statements and generic
//! plans, and it is spared what the design of the pipeline brings with it: outcome rows, facts, the
//! version of the map, and the end of lapsed holds.

mod cte;
mod holds;
pub mod lean;
pub mod lean_money;
mod money;
mod row_lock;

use std::process::ExitCode;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::FromRef;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use clap::{Args as ClapArgs, ValueEnum};
use onsale_ingress::access::Guard;
use onsale_ingress::auth::Tokens;
use onsale_ingress::config::{Auth, Http};
use onsale_ingress::extract::BodyLimits;
use onsale_ingress::layout::Layouts;
use onsale_ingress::{answer, payments, points, server, stack};
use onsale_platform::config::Telemetry;
use onsale_platform::{Clock, db, shutdown, telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How a request is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Rival {
    /// One statement with CTEs per request: the best that we know.
    Cte,
    /// One transaction per request that locks the rows of its seats.
    RowLock,
    /// A bare statement, which does not do the work: the yardstick, always measured.
    LeanCte,
}

impl Rival {
    /// Whether it does all that the pipeline does, so that the two can be compared.
    #[must_use]
    pub fn is_rival(self) -> bool {
        self != Self::LeanCte
    }

    /// Its name in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cte => "cte",
            Self::RowLock => "row-lock",
            Self::LeanCte => "lean-cte",
        }
    }
}

/// Serves holds by one of the direct designs, charges and payments by row locks or the yardstick: a
/// rival for `onsale bench`.
#[derive(ClapArgs, Clone)]
pub struct Args {
    /// How a request is decided.
    #[arg(long, value_enum)]
    pub rival: Rival,

    /// Postgres, as `postgres://user:password@host:port/database`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// Connections to Postgres.
    #[arg(long, default_value_t = 16)]
    pub pool: u16,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: Telemetry,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub http: Http,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub auth: Auth,
}

/// What its handlers share.
#[derive(Clone)]
struct Direct {
    rival: Rival,
    pool: db::Pool,
    layouts: Layouts,
    clock: Clock,
    body_limits: BodyLimits,
}

impl FromRef<Direct> for BodyLimits {
    fn from_ref(direct: &Direct) -> Self {
        direct.body_limits
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// When it can't listen.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(&args.telemetry)?;
    let stop = CancellationToken::new();
    let signals = JoinSet::from_iter([shutdown::on_signal(stop.clone())]);
    let pool = db::pool_with_generic_plans(&args.database_url, usize::from(args.pool))?;
    let clock = Clock::default();
    let tokens = Tokens::new(&args.auth, clock.clone());
    let direct = Direct {
        rival: args.rival,
        layouts: Layouts::new(pool.clone()),
        pool,
        clock,
        body_limits: BodyLimits::from(&args.http),
    };
    let router = Router::new()
        .route(holds::ROUTE, post(holds::create))
        .route(points::ROUTE_CHARGES, post(money::charge))
        .route(payments::ROUTE, post(money::pay))
        .route_layer(Guard::user(tokens))
        .route("/api/v1/echo", post(echo))
        .route("/readyz", get(StatusCode::OK))
        .with_state(direct);
    let router = stack::wrap(router, &args.http);
    let addr = args.http.addr;
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("listening on {addr}"))?;
    server::serve(router, listener, &args.http, stop).await;
    drop(signals);
    Ok(ExitCode::SUCCESS)
}

/// Answers what it was sent: how fast the HTTP stack and the load generator are by themselves.
async fn echo(body: Bytes) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, answer::JSON)], body)
}
