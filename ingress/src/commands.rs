//! What became of a command that was answered 202. The token says where to look; there is no other
//! state, so any ingress can tell.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::blocks::{self, BlockView, LiftView};
use crate::catalogue::ScheduleDetail;
use crate::draw::{self, DrawView};
use crate::orders::{OrderMade, OrderView};
use crate::payments::{self, PaymentView};
use crate::points::{self, Charge};
use crate::policy;
use crate::problem::{self, Code, Problem};
use crate::refusal;
use crate::reservations::{self, CancellationView, Extension, ReservationView};
use crate::room::{self, TicketView};
use crate::submit::{self, pending};
use crate::tasks::{self, AttendedView, WrittenOffView};
use crate::token::{Asked, CommandToken};
use crate::trace::TraceId;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use diesel::QueryableByName;
use diesel::sql_types::{Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{self, Pool};
use onsale_platform::sql::statement;
use onsale_schema::message::decode;
use onsale_schema::outcome::Missing;
use onsale_schema::{Lane, Timestamp, UserId, admission, ledger, seats, settlement};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use utoipa::ToSchema;

/// What the tables say, at one moment.
#[derive(QueryableByName)]
struct Progress {
    /// How far the partition is, by its owner's clock.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    decided_at: Option<Timestamp>,
    /// The outcomes of the message.
    #[diesel(sql_type = Nullable<Binary>)]
    outcomes: Option<Vec<u8>>,
}

/// The outcome of a command that was answered 202, with the answer that it would have had.
#[derive(ToSchema)]
#[schema(as = CommandOutcome)]
#[allow(dead_code, reason = "describes what is written by hand")]
pub struct Decided {
    #[schema(inline)]
    state: DecidedState,
    /// The HTTP status of that answer.
    #[schema(minimum = 200, maximum = 599, example = 201)]
    status: u16,
    /// Its `Location`, if it had one.
    #[schema(nullable = false)]
    location: Option<String>,
    /// Its body, if it had one.
    #[schema(nullable = false)]
    body: Option<DecidedBody>,
}

/// The outcome is known.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes what is written by hand")]
enum DecidedState {
    #[serde(rename = "DECIDED")]
    Decided,
}

/// What the command was answered with.
#[derive(ToSchema)]
#[schema(as = CommandAnswer)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what is written by hand")]
enum DecidedBody {
    Reservation(ReservationView<'static>),
    Charge(Charge),
    Payment(PaymentView),
    NewOrder(OrderMade),
    Order(OrderView),
    Pending(submit::Pending),
    Schedule(ScheduleDetail),
    Block(BlockView),
    Lift(LiftView),
    Extension(Extension),
    Cancellation(CancellationView<'static>),
    Attended(AttendedView),
    WrittenOff(WrittenOffView),
    Draw(DrawView),
    Ticket(TicketView),
    Problem(problem::Document<'static>),
}

/// The outcome of a command
///
/// Where the `Location` of a 202 leads. As long as the outcome is open, the answer is 202 again.
#[utoipa::path(get, path = "/commands/{token}", operation_id = "getCommand", tag = "Commands",
    params(("token" = String, Path, description = "The last part of that Location")),
    extensions(("x-problems" = json!([Code::CommandExpired]))),
    responses((status = 200, description = "Decided", body = Decided), submit::Open))]
pub async fn get(
    State(app): State<App>,
    user: User,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let token = app.signer.read(&text).filter(|token| token.user == user.id);
    let token = token.ok_or_else(|| Problem::new(Code::NotFound))?;
    let progress = progress(&app.pool, &token).await?;
    match progress.outcomes {
        Some(outcomes) => match decided(&app, &token, &outcomes).await {
            Err(problem) if problem.code() == Code::CommandExpired => Err(problem),
            decided => wrapped(decided, &TraceId::of(&headers)).map(IntoResponse::into_response),
        },
        None => match Missing::of(token.deadline, progress.decided_at, app.clock.now()) {
            Missing::Yet => pending(&app, &text),
            Missing::Expired => Err(Problem::new(Code::CommandExpired)),
            Missing::Forgotten => Err(Problem::new(Code::NotFound)),
        },
    }
}

async fn progress(pool: &Pool, token: &CommandToken) -> Result<Progress, db::Error> {
    // Cursor and outcome in one statement: looked at one after the other, a commit in between
    // would make a decided command look expired.
    let mut conn = pool.get().await?;
    let partition = token
        .partition
        .map_or(-1, |partition| i32::from(partition.0));
    let progress = statement(
        "SELECT (SELECT decided_at FROM partition WHERE lane = $1 AND partition_no = $2) \
                    AS decided_at, \
                (SELECT outcomes FROM outcome WHERE message_id = $3 \
                 ORDER BY incarnation, seq LIMIT 1) AS outcomes",
    )
    .bind::<Text, _>(token.asked.lane().as_str())
    .bind::<Integer, _>(partition)
    .bind::<SqlUuid, _>(token.message_id.0)
    .get_result(&mut conn)
    .await?;
    Ok(progress)
}

/// An outcome, as its lane told it.
pub enum Told {
    /// Of a seat command.
    Seats(seats::Outcome),
    /// Of a command to a waiting room.
    Admission(admission::Outcome),
    /// Of a charge.
    Ledger(ledger::Outcome),
    /// Of a payment.
    Settlement(settlement::Outcome),
}

/// The answer that the request would have had.
async fn decided(app: &App, token: &CommandToken, outcomes: &[u8]) -> Result<Answer, Problem> {
    let told = match token.asked.lane() {
        Lane::Seats => Told::Seats(at(token, outcomes)?),
        Lane::Admission => Told::Admission(at(token, outcomes)?),
        Lane::Ledger => Told::Ledger(at(token, outcomes)?),
        Lane::Settlement => Told::Settlement(at(token, outcomes)?),
    };
    answered(app, token.user, token.asked, told).await
}

/// What is answered to the user who asked, and was told something.
///
/// # Errors
/// The refusal, as a problem.
pub async fn answered(
    app: &App,
    user: UserId,
    asked: Asked,
    told: Told,
) -> Result<Answer, Problem> {
    match (asked, told) {
        (Asked::Hold(schedule), Told::Seats(outcome)) => {
            let layout = match outcome {
                seats::Outcome::Held(_) => app.layouts.settled(schedule).await?,
                _ => app.layouts.current(schedule).await?,
            };
            reservations::held(app, &layout, &outcome)
        }
        (Asked::Release, Told::Seats(outcome)) => reservations::released(&outcome),
        (Asked::Extension, Told::Seats(outcome)) => reservations::extended(app, &outcome),
        (Asked::Policy(schedule), Told::Seats(outcome)) => {
            policy::changed(app, schedule, &outcome).await
        }
        (Asked::Notice, Told::Seats(outcome)) => noted(&outcome),
        (Asked::Block(schedule), Told::Seats(outcome)) => {
            let layout = app.layouts.current(schedule).await?;
            blocks::blocked(app, &layout, &outcome).await
        }
        (Asked::Unblock(schedule), Told::Seats(outcome)) => {
            blocks::lifted(app, schedule, &outcome).await
        }
        (Asked::Charge, Told::Ledger(outcome)) => {
            points::charged(&outcome)?.told(app, Instant::now()).await
        }
        (Asked::Payment, Told::Settlement(outcome)) => {
            payments::paid(&outcome)?.told(app, Instant::now()).await
        }
        (Asked::Cancellation, Told::Settlement(outcome)) => {
            reservations::cancelled(app, &outcome).await
        }
        (Asked::Task, Told::Settlement(outcome)) => tasks::attended(&outcome),
        (Asked::Room, Told::Admission(outcome)) => roomed(&outcome),
        (Asked::QueuePolicy(schedule), Told::Admission(outcome)) => {
            policy::queue::changed(app, schedule, &outcome).await
        }
        (Asked::Beacon(schedule), Told::Admission(outcome)) => {
            draw::told(app, schedule, &outcome).await
        }
        (Asked::Join, Told::Admission(outcome)) => room::joined(app, user, &outcome).await,
        (
            Asked::Hold(_)
            | Asked::Release
            | Asked::Extension
            | Asked::Policy(_)
            | Asked::Notice
            | Asked::Block(_)
            | Asked::Unblock(_)
            | Asked::Charge
            | Asked::Payment
            | Asked::Cancellation
            | Asked::Task
            | Asked::Room
            | Asked::QueuePolicy(_)
            | Asked::Beacon(_)
            | Asked::Join,
            Told::Seats(_) | Told::Admission(_) | Told::Ledger(_) | Told::Settlement(_),
        ) => {
            tracing::error!("a lane has answered for another");
            Err(Problem::internal())
        }
    }
}

/// What the system asked of itself, for somebody who looks on.
fn noted(outcome: &seats::Outcome) -> Result<Answer, Problem> {
    use seats::{Outcome, Refusal};
    match outcome {
        // A hold that is not due any more is as it should be.
        Outcome::Applied | Outcome::Refused(Refusal::NotDue) => Ok(Answer::done()),
        Outcome::Refused(why) => Err(refusal::of_seats(why, |_| Box::default())),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Held(_)
        | Outcome::Released { .. }
        | Outcome::Extended { .. }
        | Outcome::Policy(_)
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. } => {
            tracing::error!("a command was answered as another kind");
            Err(Problem::internal())
        }
    }
}

/// What became of a command to a waiting room, for somebody who looks on.
fn roomed(outcome: &admission::Outcome) -> Result<Answer, Problem> {
    use admission::Outcome;
    match outcome {
        Outcome::Joined(_) | Outcome::Left { .. } | Outcome::Applied | Outcome::Policy(_) => {
            Ok(Answer::done())
        }
        Outcome::Refused(why) => Err(refusal::of_room(*why)),
        Outcome::DeadLettered => Err(Problem::unavailable()),
    }
}

fn at<O: DeserializeOwned>(token: &CommandToken, outcomes: &[u8]) -> Result<O, Problem> {
    let all: Vec<O> = decode(outcomes).map_err(|error| {
        tracing::error!(%error, "outcomes could not be read");
        Problem::internal()
    })?;
    let outcome = all.into_iter().nth(usize::from(token.index));
    outcome.ok_or_else(|| {
        tracing::error!("a message has fewer outcomes than commands");
        Problem::internal()
    })
}

/// 200 with the answer inside: `{state, status, location?, body?}`.
///
/// # Errors
/// Never in practice; see [`answer::to_json`].
pub fn wrapped(decided: Result<Answer, Problem>, trace: &TraceId) -> Result<Answer, Problem> {
    let (status, location, body) = match decided {
        Ok(answer) => (answer.status, answer.location, answer.json),
        Err(problem) => (problem.code().status(), None, problem.to_json(trace)),
    };
    let mut json = format!("{{\"state\":\"DECIDED\",\"status\":{}", status.as_u16()).into_bytes();
    if let Some(location) = location {
        json.extend_from_slice(b",\"location\":");
        json.extend(answer::to_json(&location)?);
    }
    if !body.is_empty() {
        json.extend_from_slice(b",\"body\":");
        json.extend(body);
    }
    json.push(b'}');
    Ok(Answer {
        status: axum::http::StatusCode::OK,
        location: None,
        json,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_wrapped_whole() {
        let trace = TraceId::of(&HeaderMap::new());
        assert!(wrapped(Ok(Answer::done()), &trace).is_ok());
        assert!(wrapped(Err(Problem::unavailable()), &trace).is_ok());
    }
}
