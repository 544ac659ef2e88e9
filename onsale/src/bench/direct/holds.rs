//! `POST /reservations` as the ingress has it, up to the point where a command would be published.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onsale_ingress::answer::Answer;
use onsale_ingress::auth::User;
use onsale_ingress::extract::JsonBody;
use onsale_ingress::idempotency::{IdempotencyKey, fingerprint};
use onsale_ingress::ids;
use onsale_ingress::layout::Layout;
use onsale_ingress::problem::{Code, Problem};
use onsale_ingress::refusal;
use onsale_platform::db;
use onsale_schema::message::Fingerprint;
use onsale_schema::seats::{Hold, Outcome};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{CommandId, Money, ReservationId, ScheduleId, SeatNo, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use super::{Direct, Rival, cte, lean, row_lock};

/// The same path as the ingress'.
pub const ROUTE: &str = "/api/v1/reservations";
/// Seats that one request may name.
const SEATS_MAX: usize = 100;
/// How often a request is decided again when another one was quicker. A seat that was taken
/// meanwhile is seen the next time.
const ATTEMPTS_MAX: u32 = 5;

/// What a request wants to have.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The id that the reservation gets.
    pub reservation_id: ReservationId,
    /// Where.
    pub schedule_id: ScheduleId,
    /// For whom.
    pub user_id: UserId,
    /// The same id, the same command.
    pub command_id: CommandId,
    /// What was asked, as a digest.
    pub fingerprint: Fingerprint,
    /// Which seats, in the order asked.
    pub seats: Vec<SeatNo>,
    /// Price of all.
    pub total: Money,
}

/// What one attempt came to.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// It is decided, and durable.
    Decided(Outcome),
    /// There is no such schedule.
    UnknownSchedule,
    /// Another request was quicker in the same moment; nothing was changed.
    Overtaken,
}

/// The error of an attempt: a seat or a key that was taken in the same moment is none.
pub fn overtaken(error: db::Error) -> Result<Attempt, db::Error> {
    match error {
        db::Error::Constraint { constraint, .. }
            if constraint == "seat_claim_pkey" || constraint == "reservation_command_id" =>
        {
            Ok(Attempt::Overtaken)
        }
        db::Error::Contended(_) => Ok(Attempt::Overtaken),
        error => Err(error),
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewReservation<'a> {
    schedule_id: ScheduleId,
    #[serde(borrow)]
    seats: Vec<Label<'a>>,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
struct Label<'a>(#[serde(borrow)] Cow<'a, str>);

impl NewReservation<'_> {
    fn seat_nos(&self, layout: &Layout) -> Result<Vec<SeatNo>, Problem> {
        let seats = &self.seats;
        let twice = (1..seats.len()).any(|at| seats[..at].contains(&seats[at]));
        if seats.is_empty() || seats.len() > SEATS_MAX || twice {
            return Err(Problem::new(Code::ValidationFailed));
        }
        let found: Option<Vec<SeatNo>> = seats
            .iter()
            .map(|label| layout.by_label(&label.0))
            .collect();
        found.ok_or_else(|| Problem::new(Code::UnknownSeat))
    }
}

/// Holds seats, all or none.
pub async fn create(
    State(direct): State<Direct>,
    user: User,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let asked: NewReservation<'_> = body.parse()?;
    let layout = direct.layouts.get(asked.schedule_id).await?;
    let seats = asked.seat_nos(&layout)?;
    let prices = seats.iter().filter_map(|&no| layout.seat(no));
    let wanted = Wanted {
        reservation_id: ReservationId(ids::new_v7(direct.clock.now())),
        schedule_id: asked.schedule_id,
        user_id: user.id,
        command_id: key.command(user.id, ROUTE),
        fingerprint: fingerprint(ROUTE, &asked),
        total: prices.map(|seat| seat.price).sum(),
        seats,
    };
    for _ in 0..ATTEMPTS_MAX {
        let attempt = match direct.rival {
            Rival::Cte => cte::attempt(&direct.pool, &wanted).await?,
            Rival::RowLock => row_lock::attempt(&direct.pool, &wanted).await?,
            Rival::LeanCte => lean::attempt(&direct.pool, &wanted, direct.clock.now()).await?,
        };
        match attempt {
            Attempt::Decided(Outcome::Held(hold)) => {
                return answer(&hold, &layout, direct.clock.now());
            }
            Attempt::Decided(Outcome::Refused(refusal)) => {
                return Err(refusal::of_seats(&refusal, |no| layout.label(no)));
            }
            Attempt::UnknownSchedule => return Err(Problem::new(Code::NotFound)),
            Attempt::Overtaken => {}
            Attempt::Decided(
                Outcome::Released { .. }
                | Outcome::Extended { .. }
                | Outcome::Applied
                | Outcome::Policy(_)
                | Outcome::Blocked { .. }
                | Outcome::Unblocked { .. }
                | Outcome::DeadLettered,
            ) => return Err(Problem::internal()),
        }
    }
    Err(Problem::unavailable())
}

fn answer(hold: &Hold, layout: &Layout, now: Timestamp) -> Result<Response, Problem> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct View<'a> {
        reservation_id: ReservationId,
        schedule_id: ScheduleId,
        seats: Vec<SeatView<'a>>,
        total: Money,
        status: ReservationStatus,
        held_at: Timestamp,
        expires_at: Timestamp,
        server_time: Timestamp,
    }
    #[derive(Serialize)]
    struct SeatView<'a> {
        label: &'a str,
        price: Money,
    }
    let seats = hold.seats.iter().filter_map(|&no| layout.seat(no));
    let view = View {
        reservation_id: hold.reservation_id,
        schedule_id: hold.schedule_id,
        seats: seats
            .map(|seat| SeatView {
                label: &seat.label,
                price: seat.price,
            })
            .collect(),
        total: hold.total,
        status: ReservationStatus::Held,
        held_at: hold.held_at,
        expires_at: hold.expires_at,
        server_time: now,
    };
    let location = format!("{ROUTE}/{}", hold.reservation_id);
    Ok(Answer::created(Some(location), &view)?.into_response())
}
