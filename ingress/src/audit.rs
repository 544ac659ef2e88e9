//! The invariants, now, for those who administer.

use crate::answer;
use crate::app::App;
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::response::Response;
use onsale_platform::audit::{self, Check, Limits};
use onsale_schema::Timestamp;
use onsale_schema::invariant::Invariant;
use serde::Serialize;
use std::time::Instant;
use utoipa::ToSchema;

/// What an audit found.
#[derive(Serialize, ToSchema)]
#[schema(as = Audit)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether everything holds.
    ok: bool,
    checks: Vec<CheckView>,
    /// How long it took, in milliseconds.
    #[schema(minimum = 0)]
    duration_ms: u64,
    /// Now, by our clock.
    server_time: Timestamp,
}

/// One invariant, checked.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditCheck)]
struct CheckView {
    #[schema(example = "S1")]
    id: &'static str,
    /// What it says.
    statement: &'static str,
    /// How often it does not hold.
    #[schema(minimum = 0)]
    violations: u64,
    /// The first of them, in words.
    #[schema(max_items = 5)]
    examples: Vec<String>,
    /// What was not looked at, or how much was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<String>,
}

impl From<Check> for CheckView {
    fn from(check: Check) -> Self {
        let unseen = |what| format!("not compared with {what}; `onsale audit` does that");
        let note = if check.invariant == Invariant::F2 {
            Some(unseen("the stream, which an ingress may not read"))
        } else if check.invariant == Invariant::P2 {
            Some(unseen("the payment gateway's book"))
        } else {
            check.note
        };
        Self {
            id: check.invariant.id(),
            statement: check.invariant.statement(),
            violations: check.violations,
            examples: check.examples,
            note,
        }
    }
}

/// Check the invariants
///
/// Proves from the tables, in one snapshot, that everything which must always be true is true, also
/// under load. It reads all history: on a large database that takes a while, and one ingress makes
/// one audit at a time.
#[utoipa::path(get, path = "/admin/audit", operation_id = "audit", tag = "Administration",
    extensions(("x-problems" = json!([Code::Overloaded]))),
    responses((status = 200, description = "What was found", body = Report)))]
pub async fn get(State(app): State<App>) -> Result<Response, Problem> {
    let Ok(_one_at_a_time) = app.audits.try_acquire() else {
        return Err(Problem::new(Code::Overloaded));
    };
    let started = Instant::now();
    // Not one of the pool's: it would be on loan for too long.
    let mut conn = app.pool.own_connection().await?;
    let checks = audit::check_now(&mut conn, Limits::default()).await?;
    answer::ok(&Report {
        ok: checks.iter().all(|check| check.violations == 0),
        checks: checks.into_iter().map(CheckView::from).collect(),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        server_time: app.clock.now(),
    })
}
