//! By which rules the waiting room of a date lets people in: changed by a command to its owner, in
//! the order of all others, so that everybody is let in by exactly one of them.

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::catalogue::{self, ScheduleRow, Wrong, lobby_find};
use crate::extract::not_null;
use crate::idempotency::fingerprint;
use crate::ids;
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::refusal;
use crate::shows;
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::TraceParent;
use axum::http::StatusCode;
use axum::response::Response;
use onsale_schema::admission::{
    CAPACITY, HOLDS_PER_PASS, Kind, Outcome, PASS_MS, PRESENCE_MS, Policy, PolicyChange,
    RATE_PER_SECOND,
};
use onsale_schema::status::QueueMode;
use onsale_schema::{CommandId, Lane, ScheduleId, Timestamp, partition};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use utoipa::ToSchema;

/// What changes on the waiting room of a date; the first change makes one.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = QueuePatch)]
pub(super) struct QueuePatch {
    /// `DRAW` draws the order of those who are there when the room opens, once: it comes too late for a room
    /// that has opened, or would at once.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    mode: Option<QueueMode>,
    /// Let nobody in for now; passes end as ever.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    paused: Option<bool>,
    /// Let nobody in before; who comes before waits in the lobby. A new room opens with the booking
    /// window, as that is then, and none lets people in before that. The lobby closes once: a draw can't be
    /// moved to later when it is.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    opens_at: Option<Timestamp>,
    /// Let nobody in while so many have a pass. Who has one keeps it.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 100_000)]
    capacity: Option<u32>,
    /// Let so many in per second, at most.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 10_000)]
    rate_per_second: Option<u32>,
    /// How long a pass lasts; those that are there keep their end.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 86_400)]
    pass_seconds: Option<i64>,
    /// Pass over who was not heard for longer than this. Clients ask several times meanwhile.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 15, maximum = 3600)]
    presence_seconds: Option<i64>,
    /// So many holds may be made with one pass.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    holds_per_pass: Option<u32>,
}

impl QueuePatch {
    pub(super) fn validate(&self, wrong: &mut Wrong) {
        wrong.time(self.opens_at, "/queue/opensAt");
        let mut bounded = |is_right, pointer| wrong.unless(is_right, pointer, "invalid-value");
        bounded(is_within(self.capacity, &CAPACITY), "/queue/capacity");
        let rate = is_within(self.rate_per_second, &RATE_PER_SECOND);
        bounded(rate, "/queue/ratePerSecond");
        let pass = is_within(self.pass_seconds, &seconds(&PASS_MS));
        bounded(pass, "/queue/passSeconds");
        let presence = is_within(self.presence_seconds, &seconds(&PRESENCE_MS));
        bounded(presence, "/queue/presenceSeconds");
        let holds = is_within(self.holds_per_pass, &HOLDS_PER_PASS);
        bounded(holds, "/queue/holdsPerPass");
    }

    /// The rules after it, as they are now.
    fn after(&self, row: &ScheduleRow) -> Policy {
        let room = row.queue();
        Policy {
            mode: self.mode.unwrap_or(room.mode),
            paused: self.paused.unwrap_or(room.paused),
            opens_at: self.opens_at.unwrap_or(match row.room {
                Some(_) => room.opens_at,
                None => row.booking_opens_at,
            }),
            ..room
        }
    }

    /// Refuses what would have a room let people in before the booking opens, as that is set now.
    fn fits(&self, row: &ScheduleRow, now: Timestamp) -> Result<(), Problem> {
        let lets_in = self.mode.is_some() || self.opens_at.is_some() || self.paused == Some(false);
        let after = self.after(row);
        if !lets_in || !lets_in_to_nothing(&after, row.booking_opens_at, now) {
            return Ok(());
        }
        let problem = Problem::validation(vec![FieldError::at("/queue/opensAt", "before-booking")]);
        Err(problem.detail("The room would let people in before the booking opens, to nothing."))
    }

    /// Refuses a draw of nobody: a room whose lobby is closed, or would be at once, gathers nobody more to
    /// draw.
    async fn draws(&self, app: &App, row: &ScheduleRow) -> Result<(), Problem> {
        let (before, after, now) = (row.queue(), self.after(row), app.clock.now());
        let is_new = before.mode != QueueMode::Draw;
        let is_later = self.opens_at.is_some_and(|at| at > now);
        if after.mode != QueueMode::Draw || !is_new && !is_later {
            return Ok(());
        }
        let too_late = |pointer, why| {
            let problem = Problem::validation(vec![FieldError::at(pointer, "draw-too-late")]);
            Err(problem.detail(why))
        };
        let (is_closed, order) = lobby_find(&app.pool, row.schedule_id).await?;
        // Where nobody has asked since the opening, its owner closes it when it hears of this.
        let is_open_now = before.mode != QueueMode::Off && before.opens_at <= now;
        let is_closed = is_closed || is_open_now;
        let is_to_come = match order.as_deref() {
            Some(order) => order == "DRAWN",
            None if is_closed => matches!(before.mode, QueueMode::Draw | QueueMode::Off),
            None => after.opens_at > now,
        };
        if !is_to_come {
            let why =
                "Those are drawn who are there when the room opens: it has, or would at once.";
            return too_late("/queue/mode", why);
        }
        if is_closed && is_later {
            let why =
                "The lobby is closed, and who comes now is behind it; `paused` lets nobody in.";
            return too_late("/queue/opensAt", why);
        }
        Ok(())
    }

    fn change(&self) -> PolicyChange {
        PolicyChange {
            mode: self.mode,
            paused: self.paused,
            opens_at: self.opens_at,
            capacity: self.capacity,
            rate_per_second: self.rate_per_second,
            pass_ms: self.pass_seconds.map(|seconds| seconds * 1000),
            presence_ms: self.presence_seconds.map(|seconds| seconds * 1000),
            holds_per_pass: self.holds_per_pass,
            cancelled: false,
        }
    }
}

/// Whether a room lets people in before the booking opens: to nothing, while their passes run.
pub(super) fn lets_in_to_nothing(
    room: &Policy,
    booking_opens_at: Timestamp,
    now: Timestamp,
) -> bool {
    let is_running = room.mode != QueueMode::Off && !room.paused;
    is_running && room.opens_at.max(now) < booking_opens_at
}

fn is_within<T: PartialOrd>(value: Option<T>, bounds: &RangeInclusive<T>) -> bool {
    value.is_none_or(|value| bounds.contains(&value))
}

/// The whole seconds within bounds in milliseconds.
fn seconds(bounds_ms: &RangeInclusive<i64>) -> RangeInclusive<i64> {
    bounds_ms.start().div_euclid(1000)..=bounds_ms.end() / 1000
}

/// How somebody who administers asks for something.
pub(crate) struct Asking {
    pub user: User,
    pub prefer: Prefer,
    pub trace: TraceParent,
}

/// Sends a waiting room's owner a command that sets a value: to set it twice is harmless, so each
/// request is a command of its own. `said` is what was asked, of the template `route`.
pub(crate) async fn command(
    app: &App,
    asking: Asking,
    (route, said): (&str, &impl Serialize),
    kind: Kind,
    asked: Asked,
    decided: impl AsyncFnOnce(&Outcome) -> Result<Answer, Problem>,
) -> Result<Response, Problem> {
    let schedule = kind.schedule_id();
    let partition = partition::of_schedule(schedule, app.partitions);
    let in_flight = app.gate.admit_operator(Lane::Admission, schedule);
    let once = ids::new_v7(app.clock.now());
    let Asking {
        user,
        prefer,
        trace,
    } = asking;
    let submission = Submission {
        id: CommandId::derive(user.id, route, &format!("{schedule} {once}")),
        user: user.id,
        asker: user.id,
        fingerprint: fingerprint(route, said),
        in_flight,
        prefer,
        trace,
        kind,
        asked,
        partition: Some(partition),
    };
    submit(app, app.batchers.admission(partition), submission, decided).await
}

pub(super) async fn edit(
    app: &App,
    asking: Asking,
    schedule: ScheduleId,
    patch: &QueuePatch,
) -> Result<Response, Problem> {
    let row = app.catalogue.refresh(schedule).await?;
    // Said here before anybody is asked, as of the sale. Whoever gets by meanwhile is refused by the
    // owner of the room, if there is one: nobody can buy in any case.
    let lets_in = row.room.is_none() || patch.paused == Some(false);
    if lets_in && shows::is_cancelled(&app.pool, schedule).await? {
        return Err(Problem::new(Code::SaleClosed));
    }
    let mut change = patch.change();
    if row.room.is_none() {
        // As it is now: the owner may have looked at the window a while ago.
        change.opens_at = change.opens_at.or(Some(row.booking_opens_at));
    }
    patch.fits(&row, app.clock.now())?;
    patch.draws(app, &row).await?;
    let kind = Kind::Policy {
        schedule_id: schedule,
        change,
    };
    let asked = Asked::QueuePolicy(schedule);
    let said = (super::ROUTE, patch);
    command(app, asking, said, kind, asked, async |outcome| {
        changed(app, schedule, outcome).await
    })
    .await
}

/// What a decided change of a room is answered with.
///
/// # Errors
/// The refusal, as a problem; `dependency-unavailable`.
pub async fn changed(
    app: &App,
    schedule: ScheduleId,
    outcome: &Outcome,
) -> Result<Answer, Problem> {
    let policy = match outcome {
        Outcome::Policy(policy) => policy,
        Outcome::Refused(why) => return Err(refusal::of_room(*why)),
        Outcome::DeadLettered => return Err(Problem::unavailable()),
        Outcome::Joined(_) | Outcome::Left { .. } | Outcome::Applied => {
            tracing::error!("a command was answered as another kind");
            return Err(Problem::internal());
        }
    };
    let row = app.catalogue.refresh(schedule).await?;
    // As it was decided, also if somebody has changed it again since.
    let row = row.behind(policy);
    Ok(Answer {
        status: StatusCode::OK,
        location: None,
        json: answer::to_json(&catalogue::detail(app, &row).await?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use utoipa::PartialSchema;

    /// What the document says is what is taken.
    #[test]
    fn the_bounds_are_those_of_the_owner() {
        let schema = serde_json::to_value(QueuePatch::schema()).unwrap();
        let bounds = |name: &str| {
            let member = &schema["properties"][name];
            (member["minimum"].clone(), member["maximum"].clone())
        };
        let both = |range: RangeInclusive<i64>| (json!(range.start()), json!(range.end()));
        let of_counts = |range: RangeInclusive<u32>| (json!(range.start()), json!(range.end()));
        assert_eq!(bounds("capacity"), of_counts(CAPACITY));
        assert_eq!(bounds("ratePerSecond"), of_counts(RATE_PER_SECOND));
        assert_eq!(bounds("passSeconds"), both(seconds(&PASS_MS)));
        assert_eq!(bounds("presenceSeconds"), both(seconds(&PRESENCE_MS)));
        assert_eq!(bounds("holdsPerPass"), of_counts(HOLDS_PER_PASS));
    }

    #[test]
    fn what_is_out_of_bounds_is_told() {
        let wrong = |patch: serde_json::Value| {
            let patch: QueuePatch = serde_json::from_value(patch).unwrap();
            let mut wrong = Wrong::default();
            patch.validate(&mut wrong);
            wrong.check().is_err()
        };
        assert!(!wrong(json!({})));
        for (name, right, others) in [
            ("capacity", [0, 100_000], [100_001, 4_000_000_000_i64]),
            ("ratePerSecond", [1, 10_000], [0, 10_001]),
            ("passSeconds", [1, 86_400], [0, i64::MAX]),
            ("presenceSeconds", [15, 3600], [14, 3601]),
            ("holdsPerPass", [1, 100], [0, 101]),
        ] {
            for value in right {
                assert!(!wrong(json!({ name: value })), "{name} {value}");
            }
            for value in others {
                assert!(wrong(json!({ name: value })), "{name} {value}");
            }
        }
        assert!(wrong(json!({ "opensAt": "1969-12-31T23:59:59Z" })));
    }
}
