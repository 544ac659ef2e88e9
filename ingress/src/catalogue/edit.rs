//! Making and editing concerts, for those who administer. Readers see an edit at once here, and
//! elsewhere when what was read before counts no more.

use super::store::{self, ConcertEdit, ConcertRow};
use super::wrong::Wrong;
use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDate, TimeDelta};
use onsale_platform::db;
use onsale_schema::{ConcertId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const ROUTE_CONCERTS: &str = "/api/v1/admin/concerts";
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
pub(super) fn is_same(is_same: bool) -> Result<(), Problem> {
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
}
