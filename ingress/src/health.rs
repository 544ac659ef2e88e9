//! Whether the process lives, and whether it can serve.

use crate::answer;
use crate::app::App;
use crate::problem::Problem;
use async_nats::connection::State as Connection;
use axum::extract::State;
use axum::response::Response;
use onsale_platform::db;
use serde::Serialize;
use std::time::Duration;

/// How long Postgres may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// `GET /healthz`: the process answers.
pub async fn live() -> Result<Response, Problem> {
    answer::ok(&Health { status: "ok" })
}

/// `GET /readyz`: Postgres and NATS are there, and the process is not about to stop. The
/// subscriptions were made before it listened, and come back with the connection.
pub async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    let unready = |detail| Err(Problem::unavailable().detail(detail));
    if app.stopping.is_cancelled() {
        return unready("stopping");
    }
    if app.nats.connection_state() != Connection::Connected {
        return unready("NATS is unavailable");
    }
    match tokio::time::timeout(PATIENCE, db::ping(&app.pool)).await {
        Ok(Ok(())) => answer::ok(&Health { status: "ready" }),
        Ok(Err(_)) | Err(_) => unready("Postgres is unavailable"),
    }
}
