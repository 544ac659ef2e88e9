//! Whether the process lives, and whether it can serve.

use crate::answer;
use crate::app::App;
use crate::problem::{Code, Problem};
use async_nats::connection::State as Connection;
use axum::extract::State;
use axum::response::Response;
use onsale_platform::db;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// How long Postgres may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A process that is well.
#[derive(Serialize, ToSchema)]
struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the process lives
///
/// It answers.
#[utoipa::path(get, path = "/healthz", operation_id = "getHealth", tag = "Process",
    responses((status = 200, description = "It lives", body = Health)))]
pub async fn live() -> Result<Response, Problem> {
    answer::ok(&Health { status: "ok" })
}

/// Whether the process can serve
///
/// Postgres and NATS are there, and the process is not about to stop.
#[utoipa::path(get, path = "/readyz", operation_id = "getReadiness", tag = "Process",
    extensions(("x-problems" = json!([Code::DependencyUnavailable]))),
    responses((status = 200, description = "It serves", body = Health)))]
pub async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    let unready = |detail| Err(Problem::unavailable().detail(detail));
    // The subscriptions were made before it listened, and come back with the connection.
    if app.stopping.is_cancelled() {
        return unready("stopping");
    }
    if app.nats.connection_state() != Connection::Connected {
        return unready("NATS is unavailable");
    }
    let ask = async {
        let answered = tokio::time::timeout(PATIENCE, db::ping(&app.pool)).await;
        Ok(matches!(answered, Ok(Ok(()))))
    };
    if app.postgres_answers.get(&(), ask).await? {
        answer::ok(&Health { status: "ready" })
    } else {
        unready("Postgres is unavailable")
    }
}
