//! Making the dates of a concert, for those who administer.

use super::cancellation::WantedRules;
use super::edit::{check_day, is_same};
use super::store::{self, NewScheduleRow};
use super::wrong::Wrong;
use crate::answer::Answer;
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onsale_schema::cancellation::Rules;
use onsale_schema::status::SaleState;
use onsale_schema::{ConcertId, ScheduleId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const ROUTE_SCHEDULES: &str = "/api/v1/admin/concerts/{concertId}/schedules";

/// A date of a concert to be made.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewSchedule {
    /// On one of the concert's days.
    starts_at: Timestamp,
    booking_opens_at: Timestamp,
    /// May be after `startsAt`: who comes late may still buy.
    booking_closes_at: Timestamp,
    /// Whether it sells within its booking window; `OPEN` if not said.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    sale_state: Option<SaleState>,
    /// How long a hold lasts; as the shop is set up if not said, and the answer tells.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 1, maximum = 86_400)]
    hold_seconds: Option<i64>,
    /// The most live seats of one user; as the shop is set up if not said, and the answer tells.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    seats_per_user: Option<u32>,
    /// How often a hold may be extended; never if not said.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 0, maximum = 20)]
    hold_extensions_max: Option<u32>,
    /// How long a hold lasts with all its extensions, at most; 15 minutes if not said.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 1, maximum = 86_400)]
    hold_total_seconds: Option<i64>,
    /// Whether to refuse seats that are named if that leaves a single one alone, as long as there
    /// is another choice; not if not said.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    prevent_orphan_seats: Option<bool>,
    /// Seats that were held are on sale again at a random moment within so many seconds after the
    /// hold, so that nobody can wait for it; at once if not said. Until then they count to who held
    /// them, for a second limit of twice `seatsPerUser`.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 0, maximum = 600)]
    release_jitter_seconds: Option<i64>,
    /// Until when buyers may cancel, and what it costs; free of charge until the beginning if not
    /// said.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    cancellation: Option<WantedRules>,
}

/// How long a hold lasts with all its extensions, if nobody says otherwise.
const HOLD_TOTAL_S: i64 = 15 * 60;

impl NewSchedule {
    fn validate(&self) -> Result<(), Problem> {
        let mut wrong = Wrong::default();
        wrong.time(Some(self.starts_at), "/startsAt");
        wrong.time(Some(self.booking_opens_at), "/bookingOpensAt");
        wrong.time(Some(self.booking_closes_at), "/bookingClosesAt");
        wrong.window(Some(self.booking_opens_at), Some(self.booking_closes_at));
        wrong.rules(self.hold_seconds, self.seats_per_user);
        wrong.terms(
            self.hold_extensions_max,
            self.hold_total_seconds,
            self.release_jitter_seconds,
        );
        wrong.cancellation(self.cancellation.as_ref());
        wrong.check()
    }
}

/// A date of a concert as it was made.
#[derive(Serialize, ToSchema)]
#[schema(as = NewScheduleMade)]
#[serde(rename_all = "camelCase")]
struct MadeSchedule {
    schedule_id: ScheduleId,
    concert_id: ConcertId,
    starts_at: Timestamp,
    booking_opens_at: Timestamp,
    booking_closes_at: Timestamp,
    sale_state: SaleState,
    /// How long a hold lasts.
    #[schema(minimum = 1)]
    hold_seconds: i64,
    /// The most live seats of one user.
    seats_per_user: u32,
    /// How often a hold may be extended.
    hold_extensions_max: u32,
    /// How long a hold lasts with all its extensions, at most.
    #[schema(minimum = 1)]
    hold_total_seconds: i64,
    /// Whether seats that are named are refused if that leaves a single one alone.
    prevent_orphan_seats: bool,
    /// Within so many seconds after a hold its seats are on sale again.
    #[schema(minimum = 0)]
    release_jitter_seconds: i64,
    /// Until when buyers may cancel, and what it costs.
    cancellation: Rules,
}

/// Make a date of a concert
///
/// It has no seats yet; put its layout next.
#[utoipa::path(post, path = "/admin/concerts/{concertId}/schedules",
    operation_id = "createSchedule", tag = "Administration",
    params(("concertId" = ConcertId, Path, description = "The concert"), IdempotencyKey),
    request_body = NewSchedule,
    responses((status = 201, description = "Made", body = MadeSchedule,
        headers(("Location" = String, description = "The date")))))]
pub async fn schedule_create(
    State(app): State<App>,
    Id(concert): Id<ConcertId>,
    user: User,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewSchedule = body.parse()?;
    wanted.validate()?;
    let path = ROUTE_SCHEDULES.replace("{concertId}", &concert.to_string());
    let made = MadeSchedule {
        schedule_id: ScheduleId(key.command(user.id, ROUTE_SCHEDULES).0),
        concert_id: concert,
        starts_at: wanted.starts_at,
        booking_opens_at: wanted.booking_opens_at,
        booking_closes_at: wanted.booking_closes_at,
        sale_state: wanted.sale_state.unwrap_or(SaleState::Open),
        hold_seconds: wanted.hold_seconds.unwrap_or(app.sales.hold_default_s),
        seats_per_user: wanted
            .seats_per_user
            .unwrap_or(app.sales.seats_per_user_default),
        hold_extensions_max: wanted.hold_extensions_max.unwrap_or(0),
        hold_total_seconds: wanted.hold_total_seconds.unwrap_or(HOLD_TOTAL_S),
        prevent_orphan_seats: wanted.prevent_orphan_seats.unwrap_or(false),
        release_jitter_seconds: wanted.release_jitter_seconds.unwrap_or(0),
        cancellation: (wanted.cancellation.as_ref())
            .map(WantedRules::rules)
            .unwrap_or_default(),
    };
    let row = NewScheduleRow {
        schedule_id: made.schedule_id,
        concert_id: concert,
        starts_at: made.starts_at,
        booking_opens_at: made.booking_opens_at,
        booking_closes_at: made.booking_closes_at,
        state: made.sale_state,
        hold_ms: made.hold_seconds * 1000,
        seats_per_user: i32::try_from(made.seats_per_user).unwrap_or(i32::MAX),
        extensions_max: i32::try_from(made.hold_extensions_max).unwrap_or(i32::MAX),
        hold_total_ms: made.hold_total_seconds * 1000,
        prevents_orphans: made.prevent_orphan_seats,
        release_jitter_ms: made.release_jitter_seconds * 1000,
        cancellation_rules: made.cancellation.clone(),
        fingerprint: fingerprint(&path, &wanted),
    };
    let known = store::schedule_fingerprint(&app.pool, row.schedule_id).await?;
    if known.is_none() {
        check_day(row.starts_at, &*app.catalogue.concert(concert).await?)?;
    }
    if !store::schedule_insert(&app.pool, &row).await? {
        let known = store::schedule_fingerprint(&app.pool, row.schedule_id).await?;
        // It is there, or else the concert is not.
        let known = known.ok_or_else(|| Problem::new(Code::NotFound))?;
        is_same(known == Some(row.fingerprint))?;
    }
    app.catalogue.forget_concert(concert);
    let location = format!("/api/v1/schedules/{}", made.schedule_id);
    Ok(Answer::created(Some(location), &made)?.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(check: Result<(), Problem>) -> usize {
        match check {
            Ok(()) => 0,
            Err(problem) => {
                assert_eq!(problem.code(), Code::ValidationFailed);
                1
            }
        }
    }

    #[test]
    fn schedules() {
        let at = Timestamp::from_micros(1_800_000_000_000_000);
        let schedule = |closes, hold_seconds, seats_per_user| NewSchedule {
            starts_at: at,
            booking_opens_at: at,
            booking_closes_at: closes,
            sale_state: None,
            hold_seconds,
            seats_per_user,
            hold_extensions_max: None,
            hold_total_seconds: None,
            prevent_orphan_seats: None,
            release_jitter_seconds: None,
            cancellation: None,
        };
        let later = at.plus_ms(1);
        assert_eq!(
            codes(schedule(later, Some(86_400), Some(100)).validate()),
            0
        );
        for (closes, hold, seats) in [
            (at, None, None),
            (later, Some(0), None),
            (later, Some(86_401), None),
            (later, None, Some(0)),
            (later, None, Some(101)),
            (Timestamp::from_micros(i64::MAX), None, None),
        ] {
            let check = schedule(closes, hold, seats).validate();
            assert_eq!(codes(check), 1, "{closes} {hold:?} {seats:?}");
        }
    }
}
