//! Reservations: hold seats, look at one's own, give a hold back.

mod store;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, Query, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::layout::Layout;
use crate::page::{Cursor, Page, PageQuery};
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::refusal;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onsale_schema::seats::{Hold, Kind, Outcome, Refusal};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{CommandId, Money, ReservationId, ScheduleId, SeatNo, Timestamp, partition};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::sync::Arc;
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/reservations";
const ROUTE_ONE: &str = "/api/v1/reservations/{reservationId}";
/// Seats that one request may name.
const SEATS_MAX: usize = 100;

/// Seats to be held, all or none: either those that are named, or the best that are free.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewReservation<'a> {
    schedule_id: ScheduleId,
    /// The labels of seats.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = Vec<String>, min_items = 1, max_items = 100,
        example = json!(["A-1-1", "A-1-2"]))]
    seats: Option<Vec<Label<'a>>>,
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    best_available: Option<BestAvailable<'a>>,
}

/// The best of the free seats: beside each other and leaving no single seat alone; else beside each
/// other; else in groups that are near to each other, in one section, with nobody alone; else any.
/// Better are seats of a better grade, and then those nearer to the stage.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BestAvailable<'a> {
    /// How many.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    count: u32,
    /// Only of this section.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = String)]
    section: Option<Label<'a>>,
    /// Only of this grade.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = String)]
    grade: Option<Label<'a>>,
    /// None that costs more.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    max_price: Option<Money>,
}

/// What seats are wanted.
enum Wish<'a> {
    Named(&'a [Label<'a>]),
    Best(&'a BestAvailable<'a>),
}

/// A name as the client wrote it, not copied unless it has escapes.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
struct Label<'a>(#[serde(borrow)] Cow<'a, str>);

impl NewReservation<'_> {
    /// What is wanted, if it makes sense.
    fn wish(&self) -> Result<Wish<'_>, Problem> {
        let wrong = |error| Err(Problem::validation(vec![error]));
        match (&self.seats, &self.best_available) {
            (None, None) => wrong(FieldError::at("/seats", "missing-field")),
            (Some(_), Some(_)) => wrong(FieldError::at("/bestAvailable", "not-with-seats")),
            (Some(seats), None) => {
                let error = match seats.len() {
                    0 => Some(FieldError::at("/seats", "too-few")),
                    1..=SEATS_MAX => (1..seats.len())
                        .find(|&at| seats[..at].contains(&seats[at]))
                        .map(|at| seat_error(at, "duplicate")),
                    _ => Some(FieldError::at("/seats", "too-many")),
                };
                error.map_or(Ok(Wish::Named(seats)), wrong)
            }
            (None, Some(best)) => {
                if !(1..=SEATS_MAX).contains(&(best.count as usize)) {
                    wrong(FieldError::at("/bestAvailable/count", "invalid-value"))
                } else if best.max_price.is_some_and(|price| price < Money::ZERO) {
                    wrong(FieldError::at("/bestAvailable/maxPrice", "invalid-value"))
                } else {
                    Ok(Wish::Best(best))
                }
            }
        }
    }
}

impl Wish<'_> {
    /// The command's kind, by what this layout calls its seats.
    fn kind(
        &self,
        reservation_id: ReservationId,
        schedule_id: ScheduleId,
        layout: &Layout,
    ) -> Result<Kind, Problem> {
        let layout_no = Some(layout.no());
        Ok(match self {
            Self::Named(labels) => Kind::Hold {
                reservation_id,
                schedule_id,
                seats: seat_nos(labels, layout)?,
                layout_no,
            },
            Self::Best(best) => {
                best.check_names(layout)?;
                let owned = |name: &Option<Label<'_>>| {
                    name.as_ref().map(|Label(name)| name.clone().into_owned())
                };
                Kind::HoldBest {
                    reservation_id,
                    schedule_id,
                    count: best.count,
                    section: owned(&best.section),
                    grade: owned(&best.grade),
                    max_price: best.max_price,
                    layout_no,
                }
            }
        })
    }
}

impl BestAvailable<'_> {
    fn check_names(&self, layout: &Layout) -> Result<(), Problem> {
        let is_known = |name: &Option<Label<'_>>, has: &dyn Fn(&str) -> bool| {
            name.as_ref().is_none_or(|Label(name)| has(name))
        };
        let mut errors = Vec::new();
        if !is_known(&self.section, &|name| layout.has_section(name)) {
            errors.push(FieldError::at("/bestAvailable/section", "unknown-section"));
        }
        if !is_known(&self.grade, &|name| layout.has_grade(name)) {
            errors.push(FieldError::at("/bestAvailable/grade", "unknown-grade"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::new(Code::UnknownSeat).errors(errors))
        }
    }
}

fn seat_nos(labels: &[Label<'_>], layout: &Layout) -> Result<Vec<SeatNo>, Problem> {
    let found: Option<Vec<SeatNo>> = labels
        .iter()
        .map(|label| layout.by_label(&label.0))
        .collect();
    found.ok_or_else(|| {
        let unknown = labels.iter().enumerate();
        let unknown = unknown.filter(|(_, label)| layout.by_label(&label.0).is_none());
        Problem::new(Code::UnknownSeat).errors(
            unknown
                .map(|(at, _)| seat_error(at, "unknown-seat"))
                .collect(),
        )
    })
}

fn seat_error(at: usize, code: &'static str) -> FieldError {
    FieldError {
        pointer: Cow::Owned(format!("/seats/{at}")),
        code,
    }
}

/// Seats that a user holds or has bought, or had once.
#[derive(Serialize, ToSchema)]
#[schema(as = Reservation)]
#[serde(rename_all = "camelCase")]
pub struct ReservationView<'a> {
    reservation_id: ReservationId,
    schedule_id: ScheduleId,
    #[schema(value_type = Vec<SeatView>)]
    seats: SeatsView<'a>,
    /// Whether the seats are beside each other in one row.
    together: bool,
    /// What they cost together.
    total: Money,
    status: ReservationStatus,
    held_at: Timestamp,
    /// When a hold lapses.
    expires_at: Timestamp,
    /// Now, by our clock.
    server_time: Timestamp,
}

/// Seats with their labels and prices.
struct SeatsView<'a> {
    layout: &'a Layout,
    seats: Cow<'a, [SeatNo]>,
}

/// A seat and its price.
#[derive(Serialize, ToSchema)]
#[schema(as = ReservedSeat)]
struct SeatView<'a> {
    #[schema(example = "A-1-1")]
    label: &'a str,
    price: Money,
}

impl Serialize for SeatsView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let seats = self.seats.iter().filter_map(|&no| self.layout.seat(no));
        serializer.collect_seq(seats.map(|seat| SeatView {
            label: &seat.label,
            price: seat.price,
        }))
    }
}

/// What a decided hold is answered with.
///
/// # Errors
/// The refusal, as a problem.
pub fn held(app: &App, layout: &Layout, outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Held(hold) if hold.schedule_id == layout.schedule_id() => {
            held_answer(app, layout, hold)
        }
        Outcome::Refused(why) => Err(refusal::of_seats(why, |no| layout.label(no))),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Held(_) | Outcome::Released { .. } | Outcome::Applied | Outcome::Policy(_) => {
            Err(misanswered())
        }
    }
}

fn held_answer(app: &App, layout: &Layout, hold: &Hold) -> Result<Answer, Problem> {
    let view = ReservationView {
        reservation_id: hold.reservation_id,
        schedule_id: hold.schedule_id,
        seats: SeatsView {
            layout,
            seats: Cow::Borrowed(&hold.seats),
        },
        together: layout.are_together(&hold.seats),
        total: hold.total,
        status: ReservationStatus::Held,
        held_at: hold.held_at,
        expires_at: hold.expires_at,
        server_time: app.clock.now(),
    };
    Answer::created(Some(format!("{ROUTE}/{}", hold.reservation_id)), &view)
}

/// What a decided release is answered with.
///
/// # Errors
/// The refusal, as a problem.
pub fn released(outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Released { .. } => Ok(Answer::done()),
        Outcome::Refused(Refusal::StateConflict {
            status: ReservationStatus::Released,
        }) => Ok(Answer::done()),
        // A refused release names no seats.
        Outcome::Refused(why) => Err(refusal::of_seats(why, |_| Box::default())),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Held(_) | Outcome::Applied | Outcome::Policy(_) => Err(misanswered()),
    }
}

fn misanswered() -> Problem {
    tracing::error!("a command was answered as another kind");
    Problem::internal()
}

/// Hold seats
///
/// All of them or none, until `expiresAt`. Pay before that, or give them back. Either name `seats`,
/// or leave the choice to us with `bestAvailable`.
#[utoipa::path(post, path = "/reservations", operation_id = "createReservation",
    tag = "Reservations", params(IdempotencyKey, Prefer), request_body = NewReservation,
    extensions(("x-problems" = json!([Code::NotFound, Code::SeatUnavailable, Code::UnknownSeat,
        Code::SeatLimitExceeded, Code::SaleNotOpen, Code::SaleClosed, Code::LayoutChanged,
        Code::ReservationStateConflict]))),
    responses((status = 201, description = "Held", body = ReservationView,
        headers(("Location" = String, description = "The reservation")))))]
pub async fn create(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewReservation<'_> = body.parse()?;
    wanted.wish()?;
    let schedule = wanted.schedule_id;
    let asking = Asking {
        id: key.command(user.id, ROUTE),
        user,
        prefer,
        trace,
        wanted,
    };
    let known = app.layouts.find(&app.catalogue, schedule).await?;
    let refused = match asking.hold(&app, &known).await {
        Err(problem) if matches!(problem.code(), Code::UnknownSeat | Code::LayoutChanged) => {
            problem
        }
        answered => return answered,
    };
    // The layout may have been replaced since it was read; then the labels mean seats of the new
    // one, or none.
    let current = match refused.code() {
        // Anybody can make labels up, so this asks no more often than readers do.
        Code::UnknownSeat => {
            let row = app.catalogue.schedule(schedule).await?;
            app.layouts.since(schedule, row.layout_no).await?
        }
        _ => app.layouts.current(schedule).await?,
    };
    if current.no() > known.no() {
        asking.hold(&app, &current).await
    } else {
        Err(refused)
    }
}

/// Who wants which seats.
struct Asking<'a> {
    id: CommandId,
    user: User,
    prefer: Prefer,
    trace: TraceParent,
    wanted: NewReservation<'a>,
}

impl Asking<'_> {
    /// Asks for the seats that the labels mean by this layout.
    async fn hold(&self, app: &App, layout: &Layout) -> Result<Response, Problem> {
        let schedule = self.wanted.schedule_id;
        let ours = ReservationId(ids::new_v7(app.clock.now()));
        let kind = self.wanted.wish()?.kind(ours, schedule, layout)?;
        let partition = partition::of_schedule(schedule, app.partitions);
        let in_flight = app.gate.admit_schedule(schedule, partition)?;
        let submission = Submission {
            id: self.id,
            user: self.user.id,
            asker: self.user.id,
            fingerprint: fingerprint(ROUTE, &self.wanted),
            in_flight,
            prefer: self.prefer,
            trace: self.trace.clone(),
            kind,
            asked: Asked::Hold(schedule),
            partition: Some(partition),
        };
        let mut before = None;
        let batcher = app.batchers.seats(partition);
        let answer = submit(app, batcher, submission, |outcome| {
            match outcome {
                Outcome::Held(hold) if hold.reservation_id == ours => layout.settle(),
                Outcome::Held(_) => before = Some(outcome.clone()),
                _ => {}
            }
            held(app, layout, outcome)
        })
        .await?;
        // What was held before, by a retry of this key, may mean the seats of a newer layout.
        match before {
            None => Ok(answer),
            Some(outcome) => {
                let layout = app.layouts.settled(schedule).await?;
                held(app, &layout, &outcome).map(IntoResponse::into_response)
            }
        }
    }
}

/// A hold whose time is over counts as expired, although its owner may not have written so yet.
fn shown_status(row: &store::Row, now: Timestamp) -> ReservationStatus {
    if row.status == ReservationStatus::Held && row.expires_at <= now {
        ReservationStatus::Expired
    } else {
        row.status
    }
}

fn view(row: store::Row, layout: &Layout, now: Timestamp) -> ReservationView<'_> {
    ReservationView {
        status: shown_status(&row, now),
        reservation_id: row.reservation_id,
        schedule_id: row.schedule_id,
        together: layout.are_together(&row.seat_nos),
        seats: SeatsView {
            layout,
            seats: Cow::Owned(row.seat_nos),
        },
        total: row.total,
        held_at: row.held_at,
        expires_at: row.expires_at,
        server_time: now,
    }
}

/// One of my reservations
#[utoipa::path(get, path = "/reservations/{reservationId}", operation_id = "getReservation",
    tag = "Reservations",
    params(("reservationId" = ReservationId, Path, description = "The reservation")),
    responses((status = 200, description = "The reservation", body = ReservationView)))]
pub async fn get(
    State(app): State<App>,
    user: User,
    Id(id): Id<ReservationId>,
) -> Result<Response, Problem> {
    let row = store::reservation_find(&app.pool, user.id, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    let layout = app.layouts.settled(row.schedule_id).await?;
    answer::ok(&view(row, &layout, app.clock.now()))
}

/// My reservations
///
/// Also those that have ended, the newest first.
#[utoipa::path(get, path = "/reservations", operation_id = "listReservations",
    tag = "Reservations", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<ReservationView>)))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    let rows = store::reservation_list(&app.pool, user.id, &start).await?;
    let mut layouts: Vec<Arc<Layout>> = Vec::new();
    for row in &rows {
        if layouts.iter().all(|l| l.schedule_id() != row.schedule_id) {
            layouts.push(app.layouts.settled(row.schedule_id).await?);
        }
    }
    let now = app.clock.now();
    let cursor = |row: &store::Row| Cursor {
        key: row.held_at.micros(),
        id: row.reservation_id.0,
    };
    let page = start.page(rows, cursor, |row| {
        let layout = layouts.iter().find(|l| l.schedule_id() == row.schedule_id);
        view(row, layout.expect("each row's layout was just loaded"), now)
    });
    answer::ok(&page)
}

/// Give a hold back
///
/// Its seats are on sale again. Once more is no mistake.
#[utoipa::path(delete, path = "/reservations/{reservationId}", operation_id = "releaseReservation",
    tag = "Reservations",
    params(("reservationId" = ReservationId, Path, description = "The reservation"), Prefer),
    extensions(("x-problems" = json!([Code::ReservationStateConflict]))),
    responses((status = 204, description = "Released")))]
pub async fn release(
    State(app): State<App>,
    user: User,
    Id(id): Id<ReservationId>,
    prefer: Prefer,
    trace: TraceParent,
) -> Result<Response, Problem> {
    let row = store::reservation_find(&app.pool, user.id, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    match row.status {
        ReservationStatus::Released => return Ok(Answer::done().into_response()),
        ended @ (ReservationStatus::Paid
        | ReservationStatus::Expired
        | ReservationStatus::Cancelled) => return Err(Problem::state_conflict(ended)),
        ReservationStatus::Held => {}
    }
    let partition = partition::of_schedule(row.schedule_id, app.partitions);
    let in_flight = app.gate.admit_schedule(row.schedule_id, partition)?;
    // Releasing twice is harmless, so each request is a command of its own.
    let once = ids::new_v7(app.clock.now());
    let submission = Submission {
        id: CommandId::derive(user.id, ROUTE_ONE, &format!("{id} {once}")),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(ROUTE_ONE, &id),
        in_flight,
        prefer,
        trace,
        kind: Kind::Release {
            reservation_id: id,
            schedule_id: row.schedule_id,
        },
        asked: Asked::Release,
        partition: Some(partition),
    };
    let batcher = app.batchers.seats(partition);
    submit(&app, batcher, submission, released).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn wanted(seats: &[&'static str]) -> NewReservation<'static> {
        NewReservation {
            schedule_id: ScheduleId(Uuid::nil()),
            seats: Some(seats.iter().map(|&label| Label(label.into())).collect()),
            best_available: None,
        }
    }

    #[test]
    fn seats_are_named_once_and_not_too_many() {
        assert!(wanted(&["A-1-1", "A-1-2"]).wish().is_ok());
        assert!(wanted(&["A-1-1"; 1]).wish().is_ok());
        let errors = |seats: &[&'static str]| wanted(seats).wish().err().unwrap();
        let expected = |error| Problem::validation(vec![error]);
        assert_eq!(errors(&[]), expected(FieldError::at("/seats", "too-few")));
        assert_eq!(
            errors(&["x"; 101]),
            expected(FieldError::at("/seats", "too-many"))
        );
        assert_eq!(
            errors(&["a", "b", "a"]),
            expected(FieldError::at("/seats/2", "duplicate"))
        );
    }

    #[test]
    fn labels_may_have_escapes() {
        let body =
            r#"{"scheduleId":"00000000-0000-0000-0000-000000000000","seats":["A\u002d1","B"]}"#;
        let read: NewReservation<'_> = serde_json::from_str(body).unwrap();
        let seats = read.seats.unwrap();
        assert_eq!(seats, [Label("A-1".into()), Label("B".into())]);
        assert!(matches!(seats[1].0, Cow::Borrowed(_)));
    }
}
