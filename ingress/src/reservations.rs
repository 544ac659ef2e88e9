//! Reservations: hold seats, look at one's own, give a hold back.

mod cancellation;
mod extension;
mod places;
mod store;
mod wish;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, Query};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::layout::Layout;
use crate::page::{Cursor, Page, PageQuery};
use crate::prefer::Prefer;
use crate::problem::{Code, Problem};
use crate::refusal;
use crate::room::QueuePass;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cancellation::CancelledView;
use onsale_schema::admission::Pass;
use onsale_schema::seats::{Hold, Kind, Outcome, Refusal};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{CommandId, Money, ReservationId, ScheduleId, SeatNo, Timestamp, partition};
use places::PlacesView;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::sync::Arc;
use utoipa::ToSchema;
use wish::NewReservation;

pub use cancellation::{__path_cancel, CancellationView, cancel, cancelled};
pub use extension::{__path_extend, Extension, extend, extended};

const ROUTE: &str = "/api/v1/reservations";
const ROUTE_ONE: &str = "/api/v1/reservations/{reservationId}";

/// Seats that a user holds or has bought, or had once.
#[derive(Serialize, ToSchema)]
#[schema(as = Reservation)]
#[serde(rename_all = "camelCase")]
pub struct ReservationView<'a> {
    reservation_id: ReservationId,
    schedule_id: ScheduleId,
    #[schema(value_type = Vec<SeatView>)]
    seats: SeatsView<'a>,
    /// Of sections without seats; left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, min_items = 1)]
    places: Vec<PlacesView<'a>>,
    /// Whether the seats are beside each other in one row; places are not looked at.
    together: bool,
    /// What they cost together.
    total: Money,
    status: ReservationStatus,
    /// What of it was cancelled; left out where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cancelled: Option<CancelledView<'a>>,
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
        let seats = seats.filter(|seat| !seat.is_place);
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
        Outcome::Held(_)
        | Outcome::Released { .. }
        | Outcome::Extended { .. }
        | Outcome::Applied
        | Outcome::Policy(_)
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. } => Err(misanswered()),
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
        places: places::views(layout, &hold.seats),
        together: layout.are_together(&hold.seats),
        total: hold.total,
        status: ReservationStatus::Held,
        cancelled: None,
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
        Outcome::Held(_)
        | Outcome::Extended { .. }
        | Outcome::Applied
        | Outcome::Policy(_)
        | Outcome::Blocked { .. }
        | Outcome::Unblocked { .. } => Err(misanswered()),
    }
}

fn misanswered() -> Problem {
    tracing::error!("a command was answered as another kind");
    Problem::internal()
}

/// Hold seats
///
/// All of them or none, until `expiresAt`. Pay before that, or give them back. Either name `seats`,
/// and say how many `places` of sections without seats, or one of both; or leave the choice of seats
/// to us with `bestAvailable`, which never gives places. Where the date has a waiting room, show your
/// entry pass.
#[utoipa::path(post, path = "/reservations", operation_id = "createReservation",
    tag = "Reservations", params(IdempotencyKey, QueuePass, Prefer), request_body = NewReservation,
    extensions(("x-problems" = json!([Code::NotFound, Code::SeatUnavailable, Code::UnknownSeat,
        Code::OrphanSeat, Code::SeatLimitExceeded, Code::SaleNotOpen, Code::SaleClosed, Code::LayoutChanged,
        Code::ReservationStateConflict, Code::QueuePassRequired, Code::QueuePassInvalid,
        Code::QueuePassExpired, Code::QueuePassUsedUp]))),
    responses((status = 201, description = "Held", body = ReservationView,
        headers(("Location" = String, description = "The reservation")))))]
pub async fn create(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    pass: QueuePass,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewReservation<'_> = body.parse()?;
    wanted.wish()?;
    let schedule = wanted.schedule_id;
    let pass = pass.read(&app.room_signer, user.id, schedule, app.clock.now())?;
    // Those in line who try their luck are kept from the owner, who is busy with those who are let in.
    if pass.is_none() && app.rooms.needs_pass(schedule) {
        return Err(Problem::new(Code::QueuePassRequired));
    }
    let asking = Asking {
        id: key.command(user.id, ROUTE),
        user,
        pass,
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
    pass: Option<Pass>,
    prefer: Prefer,
    trace: TraceParent,
    wanted: NewReservation<'a>,
}

impl Asking<'_> {
    /// Asks for the seats that the labels mean by this layout.
    async fn hold(&self, app: &App, layout: &Layout) -> Result<Response, Problem> {
        let schedule = self.wanted.schedule_id;
        let ours = ReservationId(ids::new_v7(app.clock.now()));
        let kind = self
            .wanted
            .wish()?
            .kind(ours, schedule, layout, self.pass)?;
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
        let batcher = app.batchers.seats(partition);
        submit(app, batcher, submission, async |outcome| match outcome {
            Outcome::Held(hold) if hold.reservation_id != ours => {
                // What was held before, by a retry of this key, may mean the seats of a newer layout.
                held(app, &*app.layouts.settled(schedule).await?, outcome)
            }
            _ => {
                if let Outcome::Held(_) = outcome {
                    layout.settle();
                }
                held(app, layout, outcome)
            }
        })
        .await
    }
}

/// A hold whose time is over counts as expired, although its owner may not have written so yet.
fn shown_status(row: &store::Row, now: Timestamp) -> ReservationStatus {
    match (row.status, row.ends_as) {
        (ReservationStatus::Held, Some(status)) => status,
        (ReservationStatus::Held, None) if row.expires_at <= now => ReservationStatus::Expired,
        (status, _) => status,
    }
}

fn view<'a>(
    row: store::Row,
    sums: &[store::Sums],
    layout: &'a Layout,
    now: Timestamp,
) -> ReservationView<'a> {
    let sums = sums.iter().find(|s| s.reservation_id == row.reservation_id);
    ReservationView {
        cancelled: sums.map(|sums| CancelledView::of(row.cancelled(), *sums, layout)),
        status: shown_status(&row, now),
        reservation_id: row.reservation_id,
        schedule_id: row.schedule_id,
        together: layout.are_together(&row.seat_nos),
        places: places::views(layout, &row.seat_nos),
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
    let rows = [row];
    let sums = store::cancellation_sum(&app.pool, &rows).await?;
    let [row] = rows;
    answer::ok(&view(row, &sums, &layout, app.clock.now()))
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
    let sums = store::cancellation_sum(&app.pool, &rows).await?;
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
        let layout = layout.expect("each row's layout was just loaded");
        view(row, &sums, layout, now)
    });
    answer::ok(&page)
}

/// Give a hold back
///
/// Its seats are on sale again, at a random moment within the date's `releaseJitterSeconds`. Once
/// more is no mistake.
#[utoipa::path(delete, path = "/reservations/{reservationId}", operation_id = "releaseReservation",
    tag = "Reservations",
    params(("reservationId" = ReservationId, Path, description = "The reservation"), Prefer),
    extensions(("x-problems" = json!([Code::ReservationStateConflict, Code::PaymentInProgress]))),
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
    match row.ends_as.unwrap_or(row.status) {
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
    submit(&app, batcher, submission, async |outcome| released(outcome)).await
}
