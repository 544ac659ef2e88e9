//! Making and editing concerts and their dates, for those who administer. Readers see an edit at
//! once here, and elsewhere when what was read before counts no more.

use super::cancellation::WantedRules;
use super::store::{self, ConcertEdit, ConcertRow, NewScheduleRow};
use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Datelike, NaiveDate, TimeDelta};
use onsale_platform::db;
use onsale_schema::cancellation::Rules;
use onsale_schema::seats::{EXTENSIONS_MAX, HOLD_MS, RELEASE_JITTER_MS, SEATS_PER_USER};
use onsale_schema::status::SaleState;
use onsale_schema::{ConcertId, ScheduleId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const ROUTE_CONCERTS: &str = "/api/v1/admin/concerts";
const ROUTE_SCHEDULES: &str = "/api/v1/admin/concerts/{concertId}/schedules";
/// The longest title, artist or venue, in characters.
const NAME_CHARS_MAX: usize = 200;
/// The longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 10_000;
/// How long a hold may be made to last, in seconds.
pub const HOLD_S: std::ops::RangeInclusive<i64> = 1..=*HOLD_MS.end() / 1000;
/// How long the seats of a hold may stay off sale after it, in seconds.
const JITTER_S: std::ops::RangeInclusive<i64> = 0..=*RELEASE_JITTER_MS.end() / 1000;
/// Times that may be set: from 1970 to 9999, in microseconds.
const TIMES_US: std::ops::RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// What is wrong with members of a body.
#[derive(Default)]
pub(crate) struct Wrong(Vec<FieldError>);

impl Wrong {
    pub fn unless(&mut self, is_right: bool, pointer: &'static str, code: &'static str) {
        if !is_right {
            self.0.push(FieldError::at(pointer, code));
        }
    }

    pub fn time(&mut self, time: Option<Timestamp>, pointer: &'static str) {
        let is_right = time.is_none_or(|time| TIMES_US.contains(&time.micros()));
        self.unless(is_right, pointer, "invalid-value");
    }

    /// A window ends after it begins, as far as both are said.
    pub fn window(&mut self, opens: Option<Timestamp>, closes: Option<Timestamp>) {
        let is_right = opens
            .zip(closes)
            .is_none_or(|(opens, closes)| opens < closes);
        self.unless(is_right, "/bookingClosesAt", "not-after-opening");
    }

    pub fn rules(&mut self, hold_s: Option<i64>, seats_per_user: Option<u32>) {
        let is_right = hold_s.is_none_or(|seconds| HOLD_S.contains(&seconds));
        self.unless(is_right, "/holdSeconds", "invalid-value");
        let is_right = seats_per_user.is_none_or(|seats| SEATS_PER_USER.contains(&seats));
        self.unless(is_right, "/seatsPerUser", "invalid-value");
    }

    pub fn terms(&mut self, extensions: Option<u32>, total_s: Option<i64>, jitter_s: Option<i64>) {
        let is_right = extensions.is_none_or(|times| EXTENSIONS_MAX.contains(&times));
        self.unless(is_right, "/holdExtensionsMax", "invalid-value");
        let is_right = total_s.is_none_or(|seconds| HOLD_S.contains(&seconds));
        self.unless(is_right, "/holdTotalSeconds", "invalid-value");
        let is_right = jitter_s.is_none_or(|seconds| JITTER_S.contains(&seconds));
        self.unless(is_right, "/releaseJitterSeconds", "invalid-value");
    }

    pub fn cancellation(&mut self, rules: Option<&WantedRules>) {
        self.0
            .extend(rules.into_iter().flat_map(WantedRules::errors));
    }

    fn name(&mut self, text: Option<&str>, pointer: &'static str) {
        let is_right = text.is_none_or(|text| {
            let text = text.trim();
            (1..=NAME_CHARS_MAX).contains(&text.chars().count())
                && !text.chars().any(char::is_control)
        });
        self.unless(is_right, pointer, "invalid-value");
    }

    fn description(&mut self, text: Option<&str>) {
        let is_right = text.is_none_or(|text| {
            text.chars().count() <= DESCRIPTION_CHARS_MAX
                && !text
                    .chars()
                    .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
        });
        self.unless(is_right, "/description", "invalid-value");
    }

    fn dates(&mut self, starts: Option<NaiveDate>, ends: Option<NaiveDate>) {
        let is_known =
            |date: Option<NaiveDate>| date.is_none_or(|date| super::YEARS.contains(&date.year()));
        self.unless(is_known(starts), "/startsOn", "invalid-value");
        self.unless(is_known(ends), "/endsOn", "invalid-value");
        let is_right = starts.zip(ends).is_none_or(|(starts, ends)| starts <= ends);
        self.unless(is_right, "/endsOn", "before-start");
    }

    pub fn check(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::validation(self.0))
        }
    }
}

/// A concert to be made.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewConcert {
    #[schema(min_length = 1, max_length = 200)]
    title: String,
    #[schema(min_length = 1, max_length = 200)]
    artist: String,
    #[schema(min_length = 1, max_length = 200)]
    venue: String,
    #[serde(default)]
    #[schema(max_length = 10_000)]
    description: String,
    /// The first day.
    starts_on: NaiveDate,
    /// The last day.
    ends_on: NaiveDate,
}

impl NewConcert {
    fn validate(&self) -> Result<(), Problem> {
        let mut wrong = Wrong::default();
        wrong.name(Some(&self.title), "/title");
        wrong.name(Some(&self.artist), "/artist");
        wrong.name(Some(&self.venue), "/venue");
        wrong.description(Some(&self.description));
        wrong.dates(Some(self.starts_on), Some(self.ends_on));
        wrong.check()
    }
}

/// Make a concert
#[utoipa::path(post, path = "/admin/concerts", operation_id = "createConcert",
    tag = "Administration", params(IdempotencyKey), request_body = NewConcert,
    responses((status = 201, description = "Made", body = ConcertRow,
        headers(("Location" = String, description = "The concert")))))]
pub async fn concert_create(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewConcert = body.parse()?;
    wanted.validate()?;
    let print = fingerprint(ROUTE_CONCERTS, &wanted);
    let row = ConcertRow {
        concert_id: ConcertId(key.command(user.id, ROUTE_CONCERTS).0),
        title: wanted.title.trim().to_owned(),
        artist: wanted.artist.trim().to_owned(),
        venue: wanted.venue.trim().to_owned(),
        description: wanted.description,
        starts_on: wanted.starts_on,
        ends_on: wanted.ends_on,
    };
    if !store::concert_insert(&app.pool, &row, print).await? {
        let known = store::concert_fingerprint(&app.pool, row.concert_id).await?;
        is_same(known == Some(print))?;
    }
    app.catalogue.forget_concert(row.concert_id);
    let location = format!("/api/v1/concerts/{}", row.concert_id);
    Ok(Answer::created(Some(location), &row)?.into_response())
}

/// The key was used before; whether for the same.
fn is_same(is_same: bool) -> Result<(), Problem> {
    if is_same {
        Ok(())
    } else {
        Err(Problem::new(Code::IdempotencyKeyReused))
    }
}

/// What changes on a concert.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConcertPatch {
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    title: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    artist: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 200)]
    venue: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, max_length = 10_000)]
    description: Option<String>,
    /// The first day.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    starts_on: Option<NaiveDate>,
    /// The last day.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    ends_on: Option<NaiveDate>,
}

impl ConcertPatch {
    fn validate(&self) -> Result<(), Problem> {
        let mut wrong = Wrong::default();
        wrong.name(self.title.as_deref(), "/title");
        wrong.name(self.artist.as_deref(), "/artist");
        wrong.name(self.venue.as_deref(), "/venue");
        wrong.description(self.description.as_deref());
        wrong.dates(self.starts_on, self.ends_on);
        wrong.check()
    }
}

/// Edit a concert
///
/// What is not said stays as it is.
#[utoipa::path(patch, path = "/admin/concerts/{concertId}", operation_id = "editConcert",
    tag = "Administration", params(("concertId" = ConcertId, Path, description = "The concert")),
    request_body = ConcertPatch,
    responses((status = 200, description = "The concert as it is now", body = ConcertRow)))]
pub async fn concert_edit(
    State(app): State<App>,
    Id(id): Id<ConcertId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let patch: ConcertPatch = body.parse()?;
    patch.validate()?;
    let trimmed = |text: Option<String>| text.map(|text| text.trim().to_owned());
    let edit = ConcertEdit {
        title: trimmed(patch.title),
        artist: trimmed(patch.artist),
        venue: trimmed(patch.venue),
        description: patch.description,
        starts_on: patch.starts_on,
        ends_on: patch.ends_on,
    };
    let edited = match store::concert_update(&app.pool, id, &edit).await {
        // The one check of the table: the other day is the one that was there.
        Err(db::Error::Constraint { .. }) => {
            return Err(Problem::validation(vec![FieldError::at(
                "/endsOn",
                "before-start",
            )]));
        }
        edited => edited?,
    };
    let row = edited.ok_or_else(|| Problem::new(Code::NotFound))?;
    app.catalogue.forget_concert(id);
    answer::ok(&row)
}

/// Refuses a beginning that is on none of the concert's days. Those are days of the hall's clock,
/// which may show the day before or after.
pub(crate) fn check_day(starts_at: Timestamp, concert: &ConcertRow) -> Result<(), Problem> {
    let day = DateTime::from_timestamp_micros(starts_at.micros()).map(|at| at.date_naive());
    let is_near = day.is_some_and(|day| {
        let a_day = TimeDelta::days(1);
        day - concert.ends_on <= a_day && concert.starts_on - day <= a_day
    });
    let mut wrong = Wrong::default();
    wrong.unless(is_near, "/startsAt", "not-a-concert-day");
    wrong.check()
}

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
    fn concerts() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let concert = |title: &str, description: &str, ends_on| NewConcert {
            title: title.into(),
            artist: "a".into(),
            venue: "v".into(),
            description: description.into(),
            starts_on: day("2027-05-01"),
            ends_on,
        };
        let next = day("2027-05-02");
        assert_eq!(codes(concert("봄", "a\n\tb", next).validate()), 0);
        for (title, description, ends_on) in [
            ("  ", "", next),
            ("a\nb", "", next),
            ("t", "a\0b", next),
            ("t", "", day("2027-04-30")),
            ("t", "", day("+12027-05-01")),
        ] {
            let check = concert(title, description, ends_on).validate();
            assert_eq!(codes(check), 1, "{title} {description} {ends_on}");
        }
        assert_eq!(codes(concert(&"x".repeat(201), "", next).validate()), 1);
        assert_eq!(codes(concert("t", &"x".repeat(10_001), next).validate()), 1);
    }

    #[test]
    fn a_date_begins_on_a_day_of_its_concert() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let concert = ConcertRow {
            concert_id: "00000000-0000-0000-0000-0000000000c0".parse().unwrap(),
            title: "t".into(),
            artist: "a".into(),
            venue: "v".into(),
            description: String::new(),
            starts_on: day("2027-05-01"),
            ends_on: day("2027-05-03"),
        };
        for (at, wrong) in [
            ("2027-04-29T23:59:59Z", 1),
            ("2027-04-30T00:00:00Z", 0),
            ("2027-05-02T10:00:00Z", 0),
            ("2027-05-04T23:59:59Z", 0),
            ("2027-05-05T00:00:00Z", 1),
            ("2031-05-02T10:00:00Z", 1),
        ] {
            let at: Timestamp = serde_json::from_value(at.into()).unwrap();
            assert_eq!(codes(check_day(at, &concert)), wrong, "{at}");
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
