//! What became of a command that was answered 202. The token says where to look; there is no other
//! state, so any ingress can tell.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::payments;
use crate::points;
use crate::problem::{Code, Problem};
use crate::reservations;
use crate::submit::pending;
use crate::token::CommandToken;
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
use onsale_schema::{Lane, Timestamp, ledger, seats, settlement};
use serde::de::DeserializeOwned;

/// How long after its deadline a command without an outcome counts as expired where no cursor tells,
/// in milliseconds: longer than any transaction that could still decide it.
const SETTLED_MS: i64 = 60_000;

/// What the tables say, at one moment.
#[derive(QueryableByName)]
struct Progress {
    /// How far the partition is, by the stream's time.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    applied_at: Option<Timestamp>,
    /// The outcomes of the message.
    #[diesel(sql_type = Nullable<Binary>)]
    outcomes: Option<Vec<u8>>,
}

/// `GET /commands/{token}`
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
            decided => wrapped(decided, &TraceId::of(&headers)),
        },
        None if has_expired(&token, progress.applied_at, app.clock.now()) => {
            Err(Problem::new(Code::CommandExpired))
        }
        None => pending(&app, &text),
    }
}

/// Whether a command without an outcome can't have one any more: its partition is past its
/// deadline, or it would be refused by now in any case.
fn has_expired(token: &CommandToken, applied_at: Option<Timestamp>, now: Timestamp) -> bool {
    applied_at.is_some_and(|at| at > token.deadline)
        || (token.expires && now > token.deadline.plus_ms(SETTLED_MS))
}

async fn progress(pool: &Pool, token: &CommandToken) -> Result<Progress, db::Error> {
    // Cursor and outcome in one statement: looked at one after the other, a commit in between
    // would make a decided command look expired.
    let mut conn = pool.get().await?;
    let partition = token
        .partition
        .map_or(-1, |partition| i32::from(partition.0));
    let progress = statement(
        "SELECT (SELECT applied_at FROM partition WHERE lane = $1 AND partition_no = $2) \
                    AS applied_at, \
                (SELECT outcomes FROM outcome WHERE message_id = $3 \
                 ORDER BY incarnation, seq LIMIT 1) AS outcomes",
    )
    .bind::<Text, _>(token.lane.as_str())
    .bind::<Integer, _>(partition)
    .bind::<SqlUuid, _>(token.message_id.0)
    .get_result(&mut conn)
    .await?;
    Ok(progress)
}

/// The answer that the request would have had.
async fn decided(app: &App, token: &CommandToken, outcomes: &[u8]) -> Result<Answer, Problem> {
    match token.lane {
        Lane::Seats => {
            let outcome = at::<seats::Outcome>(token, outcomes)?;
            match token.schedule {
                Some(schedule) if token.expires => {
                    let layout = app.layouts.get(schedule).await?;
                    reservations::held(app, &layout, &outcome)
                }
                Some(_) | None => reservations::released(&outcome),
            }
        }
        Lane::Ledger => points::charged(&at::<ledger::Outcome>(token, outcomes)?),
        Lane::Settlement => payments::paid(&at::<settlement::Outcome>(token, outcomes)?),
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
fn wrapped(decided: Result<Answer, Problem>, trace: &TraceId) -> Result<Response, Problem> {
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
    let answer = Answer {
        status: axum::http::StatusCode::OK,
        location: None,
        json,
    };
    Ok(answer.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::{MessageId, PartitionNo, UserId};
    use uuid::Uuid;

    #[test]
    fn when_a_command_has_expired() {
        let deadline = Timestamp::from_micros(1_000_000_000);
        let token = |expires| CommandToken {
            user: UserId(Uuid::nil()),
            lane: Lane::Seats,
            partition: Some(PartitionNo(0)),
            schedule: None,
            message_id: MessageId(Uuid::nil()),
            index: 0,
            deadline,
            expires,
        };
        let late = deadline.plus_ms(SETTLED_MS + 1);
        assert!(!has_expired(&token(true), None, deadline.plus_ms(1)));
        assert!(!has_expired(
            &token(true),
            Some(deadline),
            deadline.plus_ms(1)
        ));
        assert!(has_expired(
            &token(true),
            Some(deadline.plus_ms(1)),
            deadline
        ));
        assert!(has_expired(&token(true), Some(Timestamp::EPOCH), late));
        assert!(!has_expired(&token(false), Some(Timestamp::EPOCH), late));
    }

    #[test]
    fn the_answer_is_wrapped_whole() {
        let trace = TraceId::of(&HeaderMap::new());
        assert!(wrapped(Ok(Answer::done()), &trace).is_ok());
        assert!(wrapped(Err(Problem::unavailable()), &trace).is_ok());
    }
}
