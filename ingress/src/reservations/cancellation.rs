//! Seats that were paid and are given up again.

use super::places::{self, PlacesView, WantedPlaces};
use super::wish::{self, Label};
use super::{ROUTE_ONE, store};
use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, OptionalJsonBody, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::ids;
use crate::layout::Layout;
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::seats::Places;
use onsale_schema::settlement::{Kind, Outcome, Refund};
use onsale_schema::status::{PaymentMethod, RefundStatus};
use onsale_schema::{CancellationId, Money, ReservationId, SeatNo, Timestamp};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// What of a reservation is cancelled: all that is left of it if neither is said.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCancellation<'a> {
    /// The labels of seats.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = Vec<String>, min_items = 1, max_items = 100,
        example = json!(["A-1-2"]))]
    seats: Option<Vec<Label<'a>>>,
    /// How many places of which sections.
    #[serde(
        borrow,
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, value_type = Vec<WantedPlaces>, min_items = 1, max_items = 10)]
    places: Option<Vec<WantedPlaces<'a>>>,
}

/// Seats and places of a reservation.
struct Wanted {
    seats: Vec<SeatNo>,
    places: Vec<Places>,
}

impl NewCancellation<'_> {
    /// What of the reservation that is; `None` for all that is left. Only by what never changes of
    /// it, because a request that comes again must not be refused for what it did itself: what is
    /// left, and which places, settlement decides.
    fn wanted(&self, row: &store::Row, layout: &Layout) -> Result<Option<Wanted>, Problem> {
        if self.seats.is_none() && self.places.is_none() {
            return Ok(None);
        }
        let labels = self.seats.as_deref().unwrap_or_default();
        let error = self.seats.as_deref().and_then(wish::check_labels);
        let error = error.or_else(|| self.places.as_deref().and_then(places::check));
        if let Some(error) = error {
            return Err(Problem::validation(vec![error]));
        }
        let found = |label: &Label<'_>| {
            let seat = layout.by_label(label.text());
            seat.filter(|seat| row.seat_nos.contains(seat))
        };
        let mut wrong: Vec<FieldError> = (labels.iter().enumerate())
            .filter(|(_, label)| found(label).is_none())
            .map(|(at, _)| wish::seat_error(at, "unknown-seat"))
            .collect();
        let mut places = Vec::new();
        for (at, wanted) in self.places.iter().flatten().enumerate() {
            let is_in = |seat: &&SeatNo| {
                let place = layout.seat(**seat).and_then(|seat| seat.place_in());
                place == Some(wanted.section())
            };
            if row.seat_nos.iter().filter(is_in).count() < wanted.count() {
                wrong.push(FieldError {
                    pointer: Cow::Owned(format!("/places/{at}/count")),
                    code: "too-many",
                });
            }
            places.push(wanted.named());
        }
        if wrong.is_empty() {
            let seats = labels.iter().filter_map(found).collect();
            Ok(Some(Wanted { seats, places }))
        } else {
            Err(Problem::new(Code::UnknownSeat).errors(wrong))
        }
    }
}

/// What was cancelled, and what comes back.
#[derive(Serialize, ToSchema)]
#[schema(as = Cancellation)]
#[serde(rename_all = "camelCase")]
pub struct CancellationView<'a> {
    reservation_id: ReservationId,
    cancellation_id: CancellationId,
    /// The labels of the seats.
    #[schema(value_type = Vec<String>, example = json!(["A-1-2"]))]
    seats: Vec<&'a str>,
    /// Of sections without seats; left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, min_items = 1)]
    places: Vec<PlacesView<'a>>,
    /// What comes back.
    refunded: Money,
    /// What does not.
    fee: Money,
    /// How it comes back; left out where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refund: Option<RefundView>,
    cancelled_at: Timestamp,
}

/// The way back of money.
#[derive(Serialize, ToSchema)]
#[schema(as = Refund)]
struct RefundView {
    /// As it was paid.
    method: PaymentMethod,
    status: RefundStatus,
}

impl From<Refund> for RefundView {
    fn from(refund: Refund) -> Self {
        Self {
            method: refund.method,
            status: refund.status,
        }
    }
}

/// What of a reservation was cancelled.
#[derive(Serialize, ToSchema)]
#[schema(as = CancelledSeats)]
pub(super) struct CancelledView<'a> {
    /// The labels of the seats.
    #[schema(value_type = Vec<String>, example = json!(["A-1-2"]))]
    seats: Vec<&'a str>,
    /// Of sections without seats; left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, min_items = 1)]
    places: Vec<PlacesView<'a>>,
    /// What came back, or is on its way.
    refunded: Money,
    /// What did not.
    fee: Money,
}

impl<'a> CancelledView<'a> {
    /// Of a reservation of which something was.
    pub(super) fn of(seats: &[SeatNo], sums: store::Sums, layout: &'a Layout) -> Self {
        Self {
            seats: labels(layout, seats),
            places: places::views(layout, seats),
            refunded: sums.refunded,
            fee: sums.fee,
        }
    }
}

fn labels<'a>(layout: &'a Layout, seats: &[SeatNo]) -> Vec<&'a str> {
    let seats = seats.iter().filter_map(|&no| layout.seat(no));
    seats
        .filter(|seat| !seat.is_place)
        .map(|seat| &*seat.label)
        .collect()
}

/// Cancel what was paid
///
/// All of a reservation, or some of its seats, until the time that the date's rules say. The price of
/// these seats comes back the way that it was paid, but for the fee of the rules, which is that of
/// each seat by itself; the seats are on sale again. The same key once more is told the same, with
/// how far the refund is by then.
#[utoipa::path(post, path = "/reservations/{reservationId}/cancellation",
    operation_id = "cancelReservation", tag = "Reservations",
    params(("reservationId" = ReservationId, Path, description = "The reservation"),
        IdempotencyKey, Prefer),
    request_body = Option<NewCancellation>,
    extensions(("x-problems" = json!([Code::ReservationStateConflict, Code::CancellationClosed,
        Code::UnknownSeat]))),
    responses((status = 200, description = "Cancelled", body = CancellationView)))]
pub async fn cancel(
    State(app): State<App>,
    user: User,
    Id(id): Id<ReservationId>,
    key: IdempotencyKey,
    prefer: Prefer,
    trace: TraceParent,
    OptionalJsonBody(body): OptionalJsonBody,
) -> Result<Response, Problem> {
    let wanted: NewCancellation<'_> = body.parse()?;
    let in_flight = app.gate.admit_payment()?;
    let row = store::reservation_find(&app.pool, user.id, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    let layout = app.layouts.settled(row.schedule_id).await?;
    let cancellation_id = CancellationId(ids::new_v7(app.clock.now()));
    let cancel = |seats| Kind::Cancel {
        cancellation_id,
        reservation_id: id,
        seats,
    };
    let kind = match wanted.wanted(&row, &layout)? {
        None => cancel(None),
        Some(Wanted { seats, places }) if places.is_empty() => cancel(Some(seats)),
        Some(Wanted { seats, places }) => Kind::CancelPlaces {
            cancellation_id,
            reservation_id: id,
            seats,
            places,
        },
    };
    let path = ROUTE_ONE.replace("{reservationId}", &format!("{id}/cancellation"));
    let submission = Submission {
        id: key.command(user.id, &path),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(&path, &wanted),
        in_flight,
        prefer,
        trace,
        kind,
        asked: Asked::Cancellation,
        partition: None,
    };
    let batcher = &app.batchers.settlement;
    submit(&app, batcher, submission, async |outcome| {
        cancelled(&app, outcome).await
    })
    .await
}

/// What a decided cancellation is answered with.
///
/// # Errors
/// The refusal, as a problem; `dependency-unavailable`.
pub async fn cancelled(app: &App, outcome: &Outcome) -> Result<Answer, Problem> {
    let made = match outcome {
        Outcome::Cancelled(made) => made,
        Outcome::Refused(refusal) => return Err(refusal.into()),
        Outcome::DeadLettered => return Err(Problem::unavailable()),
        Outcome::Paid(_)
        | Outcome::Ordered(_)
        | Outcome::Confirmed(_)
        | Outcome::Attended(_)
        | Outcome::WrittenOff(_)
        | Outcome::Noted => {
            return Err(super::misanswered());
        }
    };
    let layout = app.layouts.settled(made.schedule_id).await?;
    Ok(Answer {
        status: StatusCode::OK,
        location: None,
        json: answer::to_json(&CancellationView {
            reservation_id: made.reservation_id,
            cancellation_id: made.cancellation_id,
            seats: labels(&layout, &made.seats),
            places: places::views(&layout, &made.seats),
            refunded: made.refunded,
            fee: made.fee,
            refund: made.refund.map(RefundView::from),
            cancelled_at: made.at,
        })?,
    })
}
