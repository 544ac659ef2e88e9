//! The beacon of a draw: a public source, named before anybody comes, whose word nobody can know when
//! the lobby is closed. So not even who knows the secret can choose among tickets.

use super::DrawView;
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody};
use crate::policy::queue::{Asking, command};
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::Response;
use onsale_schema::ScheduleId;
use onsale_schema::admission::{BEACON_BYTES, BEACON_CHARS, Kind};
use onsale_schema::draw::unhex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const ROUTE_NAME: &str = "/api/v1/admin/schedules/{scheduleId}/queue/beacon";
const ROUTE_VALUE: &str = "/api/v1/admin/schedules/{scheduleId}/queue/beacon/value";

/// A public source, and which of its words.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BeaconName {
    /// Exactly, so that everybody finds the same bytes; without line breaks.
    #[schema(
        min_length = 1,
        max_length = 200,
        example = "drand quicknet, round 12345678, the 32 bytes of its randomness"
    )]
    name: String,
}

impl BeaconName {
    fn is_right(&self) -> bool {
        BEACON_CHARS.contains(&self.name.chars().count())
            && !self.name.trim().is_empty()
            && !self.name.chars().any(char::is_control)
    }
}

/// What the source said.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BeaconValue {
    /// Its bytes, hexadecimal; 1 to 256 of them.
    #[schema(
        min_length = 2,
        max_length = 512,
        pattern = "^([0-9A-Fa-f]{2})+$",
        example = "8f3c1d0aa4"
    )]
    value: String,
}

impl BeaconValue {
    fn bytes(&self) -> Option<Vec<u8>> {
        let bytes = unhex(&self.value)?;
        BEACON_BYTES.contains(&bytes.len()).then_some(bytes)
    }
}

fn invalid(pointer: &'static str) -> Problem {
    Problem::validation(vec![FieldError::at(pointer, "invalid-value")])
}

/// Name the beacon of a draw
///
/// A public source whose word, spoken after the lobby is closed, goes into the seed. Only while the
/// waiting room has no ticket (`409 beacon-fixed` afterwards); the draw then waits for that word. The
/// same name again is no mistake. A date without a waiting room gets one by this, in mode `OFF`, which opens
/// when booking does as it is set now: say `queue.opensAt` when you set the mode, if booking has moved since.
#[utoipa::path(put, path = "/admin/schedules/{scheduleId}/queue/beacon", operation_id = "nameBeacon",
    tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), Prefer),
    request_body = BeaconName,
    extensions(("x-problems" = json!([Code::BeaconFixed]))),
    responses((status = 200, description = "It is named", body = DrawView)))]
pub async fn name(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: BeaconName = body.parse()?;
    if !wanted.is_right() {
        return Err(invalid("/name"));
    }
    let kind = Kind::NameBeacon {
        schedule_id: schedule,
        name: wanted.name.clone(),
    };
    let asking = Asking {
        user,
        prefer,
        trace,
    };
    send(&app, asking, (ROUTE_NAME, &wanted), kind).await
}

/// Say what the beacon of a draw said
///
/// When the lobby is closed and the word is there: the order follows from it at once. Before, and
/// where none was named, `409 beacon-not-due`; another word than the first, `409 beacon-fixed`.
#[utoipa::path(put, path = "/admin/schedules/{scheduleId}/queue/beacon/value",
    operation_id = "revealBeacon", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), Prefer),
    request_body = BeaconValue,
    extensions(("x-problems" = json!([Code::BeaconFixed, Code::BeaconNotDue]))),
    responses((status = 200, description = "It is drawn", body = DrawView)))]
pub async fn reveal(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    prefer: Prefer,
    trace: TraceParent,
    body: JsonBody,
) -> Result<Response, Problem> {
    let said: BeaconValue = body.parse()?;
    let value = said.bytes().ok_or_else(|| invalid("/value"))?;
    let kind = Kind::RevealBeacon {
        schedule_id: schedule,
        value,
    };
    let asking = Asking {
        user,
        prefer,
        trace,
    };
    send(&app, asking, (ROUTE_VALUE, &said), kind).await
}

async fn send(
    app: &App,
    asking: Asking,
    said: (&str, &impl Serialize),
    kind: Kind,
) -> Result<Response, Problem> {
    let schedule = kind.schedule_id();
    // What somebody has made up has no room to ask.
    app.catalogue.schedule(schedule).await?;
    let asked = Asked::Beacon(schedule);
    command(app, asking, said, kind, asked, async |outcome| {
        super::told(app, schedule, outcome).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_hexadecimal() {
        let bytes = |value: &str| {
            let value = value.to_owned();
            BeaconValue { value }.bytes()
        };
        assert_eq!(bytes("00aBff"), Some(vec![0, 0xab, 0xff]));
        assert_eq!(bytes(&"ee".repeat(256)), Some(vec![0xee; 256]));
        for wrong in ["", "0", "0g", "+1", " 1", "é", &"00".repeat(257)] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_say_something() {
        let is_right = |name: &str| {
            let name = name.to_owned();
            BeaconName { name }.is_right()
        };
        assert!(is_right("비콘") && is_right(&"x".repeat(200)));
        for wrong in ["", " ", "a\nb", &"x".repeat(201)] {
            assert!(!is_right(wrong), "{wrong}");
        }
    }
}
