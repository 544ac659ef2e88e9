//! Join a waiting room, ask how far one is, and leave. Who asks with the ticket that it was given is
//! answered from memory.

use super::{Standing, TicketView, newest};
use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, OptionalJsonBody, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::refusal;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use onsale_schema::admission::{
    Code as AccessCode, CodeNotValid, GUEST_POLL_MS, Kind, Outcome, Ticket, Ticketed,
};
use onsale_schema::status::AccessGrant;
use onsale_schema::{CommandId, ScheduleId, UserId, partition};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

const ROUTE: &str = "/api/v1/schedules/{scheduleId}/queue";
/// Where a client shows its ticket.
pub const QUEUE_TICKET: HeaderName = HeaderName::from_static("queue-ticket");

/// Whose turn is asked about, as documented.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "only described: it is read with what it must fit")]
pub struct QueueTicket {
    /// The `ticket` that you were given. Without it the newest of yours is looked up, which costs the
    /// service more: send it when you ask again and again.
    #[param(rename = "Queue-Ticket", required = false, example = "AQGS4PZ5c3uxi")]
    queue_ticket: String,
}

/// The ticket that a client shows, which must be its own and of this date.
fn shown(
    app: &App,
    user: UserId,
    schedule: ScheduleId,
    headers: &HeaderMap,
) -> Result<Option<Ticketed>, Problem> {
    let Some(value) = headers.get(QUEUE_TICKET) else {
        return Ok(None);
    };
    let ticket = read(app, schedule, value.to_str().unwrap_or_default())?;
    own(app, ticket, user).map(Some)
}

/// A ticket of this date that we signed, whosever it is.
///
/// # Errors
/// `queue-ticket-invalid`.
pub(crate) fn read(app: &App, schedule: ScheduleId, text: &str) -> Result<Ticketed, Problem> {
    let ticket = app.room_signer.read_ticket(text);
    let ticket = ticket.filter(|ticket| ticket.schedule_id == schedule);
    ticket.ok_or_else(|| not_valid(app))
}

/// A ticket, if it is this user's.
///
/// # Errors
/// `queue-ticket-invalid`: what is wrong with a ticket is not said.
pub(crate) fn own(app: &App, ticket: Ticketed, user: UserId) -> Result<Ticketed, Problem> {
    let is_own = user == ticket.user_id;
    is_own.then_some(ticket).ok_or_else(|| not_valid(app))
}

/// The ticket, or the newest of its owner where it was signed before a restore.
///
/// # Errors
/// `queue-ticket-invalid` when that restore has lost it.
pub(crate) async fn current(app: &App, ticket: Ticketed) -> Result<Ticketed, Problem> {
    match app.rooms.glance(&ticket, None).await {
        Ok(None) => {
            let found = newest(&app.pool, ticket.schedule_id, ticket.user_id).await?;
            found
                .map(|(ticket, _)| ticket)
                .ok_or_else(|| not_valid(app))
        }
        // What is not known now is told when it is.
        Ok(Some(_)) | Err(_) => Ok(ticket),
    }
}

fn not_valid(app: &App) -> Problem {
    app.rooms.count_refused();
    Problem::new(Code::QueueTicketInvalid)
}

fn view(app: &App, ticket: &Ticketed, standing: &Standing) -> TicketView {
    TicketView::of(&app.room_signer, ticket, standing, app.clock.now())
}

/// With what somebody joins.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct QueueJoin {
    /// Of who was invited. So many accounts as it has uses become guests by it, each once: who leaves
    /// has used it.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, example = "AQGS4PZ5c3uxi")]
    access_code: Option<String>,
}

impl QueueJoin {
    /// The code, if it is ours and for this date. Whether it is too old, and how often it was used, is
    /// the owner's business, which knows also whether the same joining was decided before. One for a
    /// presale is not good before the booking opens, which may have been moved since it was made: its
    /// guest would be let in to nothing, and have used it.
    async fn code(&self, app: &App, schedule: ScheduleId) -> Result<Option<AccessCode>, Problem> {
        let Some(text) = &self.access_code else {
            return Ok(None);
        };
        let code = app.room_signer.read_code(text);
        let code =
            code.filter(|code| code.check(schedule, app.clock.now()) != Err(CodeNotValid::Foreign));
        let mut code = code.ok_or_else(|| Problem::new(Code::AccessCodeInvalid))?;
        match code.grant {
            AccessGrant::Vip => {}
            AccessGrant::Presale => {
                let sale = app.catalogue.schedule(schedule).await?;
                code.from = code.from.max(sale.booking_opens_at);
            }
        }
        Ok(Some(code))
    }
}

/// Get in line
///
/// Who is in line already, or was admitted, gets the ticket that it has; after a ticket's end joining
/// with another key makes a new one, at the end of the line. Whoever joins before the room opens waits in
/// its lobby, whose order is settled at the opening: by arrival, or by a draw. A user gets 20 tickets of a
/// room in all. The room of a cancelled show gives no new ticket.
///
/// Who has an access code is a guest. Who is in line already and joins with one that is good leaves that
/// line, and gets a guest's ticket; with one that is not, it is told why and keeps its ticket. Who is a
/// guest already, or was admitted, keeps the ticket that it has, and uses no code.
#[utoipa::path(post, path = "/schedules/{scheduleId}/queue", operation_id = "joinQueue",
    tag = "Waiting room",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), IdempotencyKey, Prefer),
    request_body(content = Option<QueueJoin>),
    extensions(("x-problems" = json!([Code::RoomOff, Code::RoomFull, Code::QueueTicketsUsedUp,
        Code::AccessCodeInvalid, Code::AccessCodeRevoked, Code::AccessCodeNotYet,
        Code::AccessCodeExpired, Code::AccessCodeUsedUp, Code::SaleClosed]))),
    responses((status = 201, description = "A new ticket", body = TicketView),
        (status = 200, description = "The ticket that you have", body = TicketView)))]
pub async fn join(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    OptionalJsonBody(body): OptionalJsonBody,
) -> Result<Response, Problem> {
    let asked: QueueJoin = body.parse()?;
    let code = asked.code(&app, schedule).await?;
    is_there(&app, schedule).await?;
    let partition = partition::of_schedule(schedule, app.partitions);
    let in_flight = app.gate.admit_room(schedule, partition)?;
    let path = ROUTE.replace("{scheduleId}", &schedule.to_string());
    let submission = Submission {
        id: key.command(user.id, ROUTE),
        user: user.id,
        asker: user.id,
        fingerprint: match code {
            None => fingerprint(&path, &()),
            Some(code) => fingerprint(&path, &code.code_id),
        },
        in_flight,
        prefer,
        trace,
        kind: Kind::Join {
            schedule_id: schedule,
            code,
        },
        asked: Asked::Join,
        partition: Some(partition),
    };
    let batcher = app.batchers.admission(partition);
    submit(&app, batcher, submission, async |outcome| {
        joined(&app, user.id, outcome).await
    })
    .await
}

/// An owner is not asked about dates that are not there.
async fn is_there(app: &App, schedule: ScheduleId) -> Result<(), Problem> {
    if !app.rooms.has(schedule) {
        app.catalogue.schedule(schedule).await?;
    }
    Ok(())
}

/// What a decided joining is answered with; `user` is who joined.
///
/// # Errors
/// The refusal, as a problem.
pub async fn joined(app: &App, user: UserId, outcome: &Outcome) -> Result<Answer, Problem> {
    let ticket = match outcome {
        Outcome::Joined(ticket) => ticket,
        Outcome::Refused(why) => return Err(refusal::of_room(*why)),
        Outcome::DeadLettered => return Err(Problem::unavailable()),
        Outcome::Left { .. } | Outcome::Applied | Outcome::Policy(_) => return Err(misanswered()),
    };
    app.rooms.count_join(ticket.is_new);
    let ticketed = ticketed(user, ticket);
    let standing = match app.rooms.look(&ticketed, None).await {
        Ok(Some(standing)) => standing.after(ticket.status, ticket.pass_expires_at),
        // It is in line, whatever else is not known.
        Ok(None) | Err(_) => Standing::told(ticket),
    };
    // Whoever comes with a presale is let in at once where there is room.
    let standing = match ticket.is_guest && ticket.is_new {
        true => standing.soon(GUEST_POLL_MS),
        false => standing,
    };
    Ok(Answer {
        status: match ticket.is_new {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        },
        location: None,
        json: answer::to_json(&view(app, &ticketed, &standing))?,
    })
}

fn ticketed(user: UserId, ticket: &Ticket) -> Ticketed {
    Ticketed {
        user_id: user,
        schedule_id: ticket.schedule_id,
        ticket_id: ticket.ticket_id,
        arrival_no: ticket.arrival_no,
        is_guest: ticket.is_guest,
        guest_no: ticket.guest_no,
        generation: ticket.generation,
    }
}

fn misanswered() -> Problem {
    tracing::error!("a command was answered as another kind");
    Problem::internal()
}

/// How far is my ticket
///
/// Ask again after `pollAfterMs`, with the ticket that you were given: whoever is silent for too long
/// is passed over when its turn comes, and is next when it asks again. Once it is `ADMITTED`, there is
/// a `pass`; asking again gets one that lasts as long as the holds that were made with it. A
/// `dependency-unavailable` changes nothing: nobody loses its place by it. Who shows a ticket and is told
/// `not-found` has none any more: it was lost with the service's database, so join again.
#[utoipa::path(get, path = "/schedules/{scheduleId}/queue", operation_id = "getQueueTicket",
    tag = "Waiting room",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), QueueTicket),
    extensions(("x-problems" = json!([Code::QueueTicketInvalid]))),
    responses((status = 200, description = "The ticket", body = TicketView)))]
pub async fn get(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(ticket) = shown(&app, user.id, schedule, &headers)?
        && let Some(standing) = app.rooms.poll(&ticket).await?
    {
        return answer::ok(&view(&app, &ticket, &standing));
    }
    let found = newest(&app.pool, schedule, user.id).await?;
    let (ticket, ended) = found.ok_or_else(|| Problem::new(Code::NotFound))?;
    // An ingress that has not heard of a restore yet does in a moment.
    let standing = app.rooms.poll(&ticket).await?;
    let standing = standing.ok_or_else(Problem::unavailable)?;
    // The row may be ahead of what was told here.
    let standing = ended.map_or(standing, |status| standing.after(status, None));
    answer::ok(&view(&app, &ticket, &standing))
}

/// Leave the line
///
/// Or give the pass back: who is next takes its place. Once more is no mistake. With `Queue-Ticket`
/// only that ticket ends, and not one that you got meanwhile.
#[utoipa::path(delete, path = "/schedules/{scheduleId}/queue", operation_id = "leaveQueue",
    tag = "Waiting room",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), QueueTicket, Prefer),
    extensions(("x-problems" = json!([Code::QueueTicketInvalid]))),
    responses((status = 204, description = "Left")))]
pub async fn leave(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    prefer: Prefer,
    trace: TraceParent,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let ticket = shown(&app, user.id, schedule, &headers)?;
    is_there(&app, schedule).await?;
    let partition = partition::of_schedule(schedule, app.partitions);
    let in_flight = app.gate.admit_room(schedule, partition)?;
    // Leaving twice is harmless, so each request is a command of its own.
    let once = ids::new_v7(app.clock.now());
    let submission = Submission {
        id: CommandId::derive(user.id, ROUTE, &format!("{schedule} {once}")),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE, &schedule),
        in_flight,
        prefer,
        trace,
        kind: Kind::Leave {
            schedule_id: schedule,
            ticket_id: ticket.map(|ticket| ticket.ticket_id),
        },
        asked: Asked::Room,
        partition: Some(partition),
    };
    let batcher = app.batchers.admission(partition);
    submit(&app, batcher, submission, async |outcome| left(outcome)).await
}

fn left(outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Left { .. } => Ok(Answer::done()),
        Outcome::Refused(why) => Err(refusal::of_room(*why)),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Joined(_) | Outcome::Applied | Outcome::Policy(_) => Err(misanswered()),
    }
}
