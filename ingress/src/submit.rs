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
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use onsale_platform::metric;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::{CommandId, PartitionNo, Timestamp, UserId};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{self, Content, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

/// A command that is about to be handed in.
pub struct Submission<L: Commands> {
    /// The same id, the same command.
    pub id: CommandId,
    /// For whom.
    pub user: UserId,
    /// Who may ask for the outcome later.
    pub asker: UserId,
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
    decided: impl AsyncFnOnce(&L::Outcome) -> Result<Answer, Problem>,
) -> Result<Response, Problem> {
    let now = app.clock.now();
    let deadline = now.plus_ms(i64::from(app.flow.request_timeout_ms));
    let (asker, asked, partition) = (submission.asker, submission.asked, submission.partition);
    let prefer = submission.prefer;
    debug_assert_eq!(asked.lane(), L::LANE);
    let command = Command {
        id: submission.id,
        user: submission.user,
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
        Ok(Some(Ok(outcome))) => decided(outcome).await.map(IntoResponse::into_response),
        Ok(Some(Err(NotSent))) => Err(Problem::unavailable()),
        Ok(None) | Err(_) => {
            if prefer == Prefer::default() {
                metrics::counter!(metric::INGRESS_OPEN, "lane" => L::LANE.as_str()).increment(1);
            }
            let token = CommandToken {
                user: asker,
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

/// A command whose outcome is open.
#[derive(Serialize, ToSchema)]
#[schema(as = PendingCommand)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    #[schema(inline)]
    state: PendingState,
    server_time: Timestamp,
}

/// The outcome is open.
#[derive(Serialize, ToSchema)]
enum PendingState {
    #[serde(rename = "PENDING")]
    Pending,
}

/// The answer 202, as documented.
pub struct Open;

impl IntoResponses for Open {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let text = |description| {
            let schema = ObjectBuilder::new().schema_type(Type::String);
            HeaderBuilder::new()
                .schema(Some(schema))
                .description(Some(description))
                .build()
        };
        let response = ResponseBuilder::new()
            .description(
                "The outcome is open: the request was taken and will be decided, or expire. Ask \
                 again where `Location` says.",
            )
            .header("Location", text("Where the outcome will be"))
            .header("Retry-After", text("After how many seconds to ask"))
            .header(
                "Preference-Applied",
                text("`respond-async` if that was followed"),
            )
            .content(
                "application/json",
                Content::new(Some(Ref::from_schema_name(Pending::name()))),
            )
            .build();
        BTreeMap::from([("202".to_owned(), response.into())])
    }
}

/// 202: the outcome is open, and will be at `/commands/{token}`.
///
/// # Errors
/// Never in practice; see [`answer::to_json`].
pub fn pending(app: &App, token: &str) -> Result<Response, Problem> {
    let location = format!("/api/v1/commands/{token}");
    Ok(open_at(location, app.clock.now())?.into_response())
}

/// 202: the outcome is open, and will be at `location`.
///
/// # Errors
/// Never in practice; see [`answer::to_json`].
pub fn open_at(location: String, now: Timestamp) -> Result<Answer, Problem> {
    Ok(Answer {
        status: StatusCode::ACCEPTED,
        location: Some(location),
        json: answer::to_json(&Pending {
            state: PendingState::Pending,
            server_time: now,
        })?,
    })
}
