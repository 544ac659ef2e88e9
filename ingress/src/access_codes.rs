//! Access codes: signed texts that make whoever joins with one a guest of a date's waiting room. They
//! are made and shown here, each with a row that is there before anybody is told of it; whether one
//! makes a ticket is decided by the owner of the room, which alone revokes them.

mod store;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::catalogue::{ScheduleRow, Wrong};
use crate::extract::{Id, Ids, JsonBody, Query};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::page::{Cursor, Page, PageQuery};
use crate::policy::queue::{Asking, command};
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::refusal;
use crate::shows;
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onsale_schema::admission::{Code as AccessCode, Kind, Outcome};
use onsale_schema::status::AccessGrant;
use onsale_schema::{AccessCodeId, CommandId, ScheduleId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use store::Row;
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/admin/schedules/{scheduleId}/access-codes";
const ROUTE_ONE: &str = "/api/v1/admin/schedules/{scheduleId}/access-codes/{accessCodeId}";
/// How many characters a label has.
const LABEL_CHARS: RangeInclusive<usize> = 1..=200;
/// How many accounts may use a code.
const USES: RangeInclusive<u32> = 1..=100_000;
/// How many codes are made at once.
const COUNT: RangeInclusive<u32> = 1..=1000;

/// Codes that differ in nothing but their signature and id.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewAccessCodes {
    /// Whom they are for, without line breaks.
    #[schema(min_length = 1, max_length = 200, example = "Fan club, presale")]
    label: String,
    grants: AccessGrant,
    /// So many accounts may use each.
    #[serde(default = "one")]
    #[schema(required = false, minimum = 1, maximum = 100_000, default = 1)]
    uses: u32,
    /// First moment at which they are good.
    valid_from: Timestamp,
    /// First moment at which they are not good any more.
    valid_until: Timestamp,
    /// How many to make.
    #[serde(default = "one")]
    #[schema(required = false, minimum = 1, maximum = 1000, default = 1)]
    count: u32,
}

fn one() -> u32 {
    1
}

impl NewAccessCodes {
    fn validate(&self) -> Result<(), Problem> {
        let mut wrong = Wrong::default();
        let is_label = LABEL_CHARS.contains(&self.label.chars().count())
            && !self.label.trim().is_empty()
            && !self.label.chars().any(char::is_control);
        wrong.unless(is_label, "/label", "invalid-value");
        wrong.unless(USES.contains(&self.uses), "/uses", "invalid-value");
        wrong.unless(COUNT.contains(&self.count), "/count", "invalid-value");
        wrong.time(Some(self.valid_from), "/validFrom");
        wrong.time(Some(self.valid_until), "/validUntil");
        let is_window = self.valid_from < self.valid_until;
        wrong.unless(is_window, "/validUntil", "invalid-value");
        wrong.check()
    }

    /// Refuses a window in which no guest could ever do what the codes are for, as the sale is set now.
    /// A window and a sale that leave any time for it are the business of who sets them.
    fn fits(&self, sale: &ScheduleRow, now: Timestamp) -> Result<(), Problem> {
        let refused = |pointer, code, why| {
            let problem = Problem::validation(vec![FieldError::at(pointer, code)]);
            Err(problem.detail(why))
        };
        if self.valid_until <= now {
            let why = "The window of the codes is over already.";
            return refused("/validUntil", "invalid-value", why);
        }
        if self.valid_from.max(now) >= sale.booking_closes_at {
            let why = "The codes would be good only when the booking has closed.";
            return refused("/validFrom", "invalid-value", why);
        }
        let is_over_before = self.valid_until <= sale.booking_opens_at;
        let is_early = self.valid_from.max(now) < sale.booking_opens_at;
        match self.grants {
            AccessGrant::Presale if is_over_before => {
                let why =
                    "The presale would be over before the booking opens: let that open with it.";
                refused("/validUntil", "not-after-opening", why)
            }
            AccessGrant::Presale if is_early => {
                let why = "The presale would let its guests in before the booking opens, to nothing: \
                           let that open with it.";
                refused("/validFrom", "before-booking", why)
            }
            // It is no matter when they come: their turn is when the room opens.
            AccessGrant::Presale | AccessGrant::Vip => Ok(()),
        }
    }
}

/// An access code.
#[derive(Serialize, ToSchema)]
#[schema(as = AccessCode)]
#[serde(rename_all = "camelCase")]
pub struct AccessCodeView {
    access_code_id: AccessCodeId,
    /// What a guest joins with.
    #[schema(example = "AQGS4PZ5c3uxi")]
    code: String,
    label: String,
    grants: AccessGrant,
    /// So many accounts may use it.
    #[schema(minimum = 1)]
    uses: u32,
    /// So many have, each of them once.
    #[schema(minimum = 0)]
    used: u32,
    valid_from: Timestamp,
    valid_until: Timestamp,
    /// Who made it.
    made_by: UserId,
    made_at: Timestamp,
    /// When it was revoked, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked_at: Option<Timestamp>,
}

fn view(app: &App, schedule: ScheduleId, row: Row) -> AccessCodeView {
    let count = |count: i32| u32::try_from(count).unwrap_or_default();
    let uses = count(row.uses);
    AccessCodeView {
        access_code_id: row.access_code_id,
        code: app.room_signer.sign_code(&AccessCode {
            code_id: row.access_code_id,
            schedule_id: schedule,
            grant: row.granted,
            uses,
            from: row.valid_from,
            until: row.valid_until,
        }),
        label: row.label,
        grants: row.granted,
        uses,
        used: count(row.used),
        valid_from: row.valid_from,
        valid_until: row.valid_until,
        made_by: row.made_by,
        made_at: row.made_at,
        revoked_at: row.revoked_at,
    }
}

/// What was made.
#[derive(Serialize, ToSchema)]
#[schema(as = AccessCodes)]
#[serde(rename_all = "camelCase")]
struct MadeView {
    items: Vec<AccessCodeView>,
}

/// Make access codes
///
/// Each makes its users guests of the date's waiting room: they stand in a line of their own, which is
/// let in before the other one; with `PRESALE` also before the room opens, while the code is good.
/// Capacity and rate hold for everybody. When seats can be held is another matter: for a presale, let
/// the booking open with it, and the room later (`bookingOpensAt`, `queue.opensAt`). Refused are codes
/// that are over already or good only when the booking has closed, a presale that begins, or is over,
/// before the booking opens, and any for a cancelled show. If the booking is moved behind the beginning
/// of a presale that is there, its codes are good from then on.
#[utoipa::path(post, path = "/admin/schedules/{scheduleId}/access-codes",
    operation_id = "createAccessCodes", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), IdempotencyKey),
    request_body = NewAccessCodes,
    extensions(("x-problems" = json!([Code::SaleClosed]))),
    responses((status = 201, description = "Made", body = MadeView)))]
pub async fn create(
    State(app): State<App>,
    user: User,
    Id(schedule): Id<ScheduleId>,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewAccessCodes = body.parse()?;
    wanted.validate()?;
    // As it is now: it may just have been set for these codes.
    let sale = app.catalogue.refresh(schedule).await?;
    // A retry of the same key makes the same ones.
    let first = key.command(user.id, ROUTE);
    let ids = (0..wanted.count)
        .map(|nth| AccessCodeId(CommandId::derive(user.id, ROUTE, &format!("{first} {nth}")).0));
    let ids: Vec<AccessCodeId> = ids.collect();
    let path = ROUTE.replace("{scheduleId}", &schedule.to_string());
    let made = store::Made {
        schedule,
        fingerprint: fingerprint(&path, &wanted),
        by: user.id,
        at: app.clock.now(),
    };
    let mut rows = store::find(&app.pool, &ids).await?;
    // What was made before is told again, whatever has become of its time and of the sale.
    if rows.is_empty() {
        wanted.fits(&sale, made.at)?;
        if shows::is_cancelled(&app.pool, schedule).await? {
            return Err(Problem::new(Code::SaleClosed));
        }
        rows = store::create(&app.pool, &ids, &wanted, &made).await?;
    }
    let is_whole = rows.len() == ids.len();
    if !is_whole || rows.iter().any(|row| row.fingerprint != made.fingerprint.0) {
        return Err(Problem::new(Code::IdempotencyKeyReused));
    }
    let items = rows.into_iter().map(|row| view(&app, schedule, row));
    let items = items.collect();
    Ok(Answer::created(None, &MadeView { items })?.into_response())
}

/// What access codes there are
///
/// Of a date, also those that were revoked, the newest first.
#[utoipa::path(get, path = "/admin/schedules/{scheduleId}/access-codes",
    operation_id = "listAccessCodes", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), PageQuery),
    responses((status = 200, description = "A page", body = Page<AccessCodeView>)))]
pub async fn list(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    app.catalogue.schedule(schedule).await?;
    let rows = store::list(&app.pool, schedule, &start).await?;
    let cursor = |row: &Row| Cursor {
        key: row.made_at.micros(),
        id: row.access_code_id.0,
    };
    answer::ok(&start.page(rows, cursor, |row| view(&app, schedule, row)))
}

/// Revoke an access code
///
/// Nobody joins with it any more; whoever has keeps the ticket. Once more is no mistake.
#[utoipa::path(delete, path = "/admin/schedules/{scheduleId}/access-codes/{accessCodeId}",
    operation_id = "revokeAccessCode", tag = "Administration",
    params(("scheduleId" = ScheduleId, Path, description = "The date"),
        ("accessCodeId" = AccessCodeId, Path, description = "The code"), Prefer),
    responses((status = 204, description = "Revoked")))]
pub async fn revoke(
    State(app): State<App>,
    user: User,
    Ids(schedule, code_id): Ids<ScheduleId, AccessCodeId>,
    prefer: Prefer,
    trace: TraceParent,
) -> Result<Response, Problem> {
    if !store::is_there(&app.pool, schedule, code_id).await? {
        return Err(Problem::new(Code::NotFound));
    }
    let kind = Kind::RevokeCode {
        schedule_id: schedule,
        code_id,
    };
    let asking = Asking {
        user,
        prefer,
        trace,
    };
    let said = (ROUTE_ONE, &code_id);
    command(&app, asking, said, kind, Asked::Room, async |outcome| {
        revoked(outcome)
    })
    .await
}

fn revoked(outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Applied => Ok(Answer::done()),
        Outcome::Refused(why) => Err(refusal::of_room(*why)),
        Outcome::DeadLettered => Err(Problem::unavailable()),
        Outcome::Joined(_) | Outcome::Left { .. } | Outcome::Policy(_) => {
            tracing::error!("a command was answered as another kind");
            Err(Problem::internal())
        }
    }
}
