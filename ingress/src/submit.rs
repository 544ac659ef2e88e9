//! From a checked request to its answer: hand the command in, wait for its outcome, and when time is
//! up say where the outcome will be. A 202 is never a failure.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::batcher::{Batcher, Full};
use crate::flight::NotSent;
use crate::lag::InFlight;
use crate::lane::Commands;
use crate::prefer::{PREFERENCE_APPLIED, Prefer};
use crate::problem::{Code, Problem};
use crate::token::{Asked, CommandToken};
use crate::trace::TraceParent;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use onsale_platform::metric;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::{CommandId, PartitionNo, Timestamp, UserId};
use serde::Serialize;

/// A command that is about to be handed in.
pub struct Submission<L: Commands> {
    /// The same id, the same command.
    pub id: CommandId,
    /// For whom.
    pub user: UserId,
    /// What was asked, as a digest.
    pub fingerprint: Fingerprint,
    /// It counts until its outcome is known, whenever the client is answered.
    pub in_flight: InFlight,
    /// How the client would like to be answered.
    pub prefer: Prefer,
    /// The request's trace.
    pub trace: TraceParent,
    /// What.
    pub kind: L::Kind,
    /// The same, for who asks again later.
    pub asked: Asked,
    /// The partition; none on lanes of competing consumers.
    pub partition: Option<PartitionNo>,
}

/// Hands a command in; answers with `decided` when its outcome comes in time, else, or as soon as
/// the command is on the stream if the client prefers that, with 202.
///
/// # Errors
/// `overloaded` and `dependency-unavailable` when it was not sent, and what `decided` says.
pub async fn submit<L: Commands>(
    app: &App,
    batcher: &Batcher<L>,
    submission: Submission<L>,
    decided: impl FnOnce(&L::Outcome) -> Result<Answer, Problem>,
) -> Result<Response, Problem> {
    let now = app.clock.now();
    let deadline = now.plus_ms(i64::from(app.flow.request_timeout_ms));
    let (user, asked, partition) = (submission.user, submission.asked, submission.partition);
    let prefer = submission.prefer;
    debug_assert_eq!(asked.lane(), L::LANE);
    let command = Command {
        id: submission.id,
        user,
        fingerprint: submission.fingerprint,
        deadline,
        trace: submission.trace.0,
        kind: submission.kind,
    };
    let ticket = batcher
        .submit(command, submission.in_flight)
        .map_err(|Full| Problem::new(Code::Overloaded))?;
    // Not before it is on the stream: then it will have an outcome.
    let early = async {
        tokio::time::sleep(prefer.wait.unwrap_or_default()).await;
        ticket.stored().await;
    };
    let told = async {
        tokio::select! {
            biased;
            outcome = ticket.outcome() => Some(outcome),
            () = early, if prefer != Prefer::default() => None,
        }
    };
    match tokio::time::timeout(app.flow.request_timeout(), told).await {
        Ok(Some(Ok(outcome))) => decided(outcome).map(IntoResponse::into_response),
        Ok(Some(Err(NotSent))) => Err(Problem::unavailable()),
        Ok(None) | Err(_) => {
            if prefer == Prefer::default() {
                metrics::counter!(metric::INGRESS_OPEN, "lane" => L::LANE.as_str()).increment(1);
            }
            let token = CommandToken {
                user,
                asked,
                partition,
                message_id: ticket.message_id(),
                index: ticket.index(),
                deadline,
            };
            let mut response = pending(app, &app.signer.sign(&token))?;
            if prefer.respond_async {
                let applied = HeaderValue::from_static("respond-async");
                response.headers_mut().insert(PREFERENCE_APPLIED, applied);
            }
            Ok(response)
        }
    }
}

/// 202: the outcome is open, and will be at `/commands/{token}`.
///
/// # Errors
/// Never in practice; see [`answer::to_json`].
pub fn pending(app: &App, token: &str) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Pending {
        state: &'static str,
        server_time: Timestamp,
    }
    let answer = Answer {
        status: StatusCode::ACCEPTED,
        location: Some(format!("/api/v1/commands/{token}")),
        json: answer::to_json(&Pending {
            state: "PENDING",
            server_time: app.clock.now(),
        })?,
    };
    let mut response = answer.into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    Ok(response)
}
