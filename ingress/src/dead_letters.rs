//! What could not be processed, for those who administer: what it was, why it failed, and another
//! try.

mod store;

use crate::answer;
use crate::app::App;
use crate::auth::User;
use crate::batcher::Batcher;
use crate::commands::{self, Told};
use crate::extract::{Id, Query};
use crate::lag::InFlight;
use crate::lane::Commands;
use crate::page::{Cursor, Page, PageQuery};
use crate::prefer::Prefer;
use crate::problem::{Code, FieldError, Problem};
use crate::submit::{Submission, submit};
use crate::token::Asked;
use crate::trace::{TraceId, TraceParent};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use onsale_schema::message::{Command, decode};
use onsale_schema::{
    CommandId, DeadLetterId, Lane, Money, PartitionNo, ReservationId, ScheduleId, SeatNo,
    Timestamp, UserId, admission, ledger, partition, seats, settlement,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Row;
use utoipa::{IntoParams, ToSchema};

/// A command, or a whole message, that could not be processed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeadLetter {
    dead_letter_id: DeadLetterId,
    lane: Lane,
    /// Where it was on its stream.
    sequence: i64,
    /// When it was given up.
    at: Timestamp,
    /// Why, in the words of what failed.
    error: String,
    /// Its size in bytes.
    size: i32,
    /// What was asked. Not there if the bytes are no command that this version knows; such a letter
    /// can't be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    command: Option<CommandView>,
    /// How often it was tried again.
    retries: i32,
    /// When, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retried_at: Option<Timestamp>,
    /// By whom, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retried_by: Option<UserId>,
}

/// What was asked, and by whom.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadCommand)]
#[serde(rename_all = "camelCase")]
struct CommandView {
    command_id: CommandId,
    /// For whom; not there for what the system asks of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user_id: Option<UserId>,
    /// As in the metrics.
    #[schema(example = "hold")]
    kind: &'static str,
    /// Until when it would have been decided.
    deadline: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    schedule_id: Option<ScheduleId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<ReservationId>,
    /// The seats of a hold, a block or a lift.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Vec<u32>)]
    seat_nos: Option<Vec<SeatNo>>,
    /// What a charge buys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    amount: Option<Money>,
}

/// A command that can be read.
enum Readable {
    Seats(Command<seats::Kind>),
    Admission(Command<admission::Kind>),
    Ledger(Command<ledger::Kind>),
    Settlement(Command<settlement::Kind>),
}

impl Readable {
    fn of(row: &Row) -> Option<Self> {
        fn read<K: DeserializeOwned>(row: &Row) -> Option<Command<K>> {
            decode(&row.payload).ok()
        }
        // A whole message is there because it could not be read.
        if row.command_index < 0 {
            return None;
        }
        match row.lane {
            Lane::Seats => read(row).map(Self::Seats),
            Lane::Admission => read(row).map(Self::Admission),
            Lane::Ledger => read(row).map(Self::Ledger),
            Lane::Settlement => read(row).map(Self::Settlement),
        }
    }

    fn view(&self) -> CommandView {
        match self {
            Self::Seats(command) => {
                use seats::Kind as K;
                let (reservation_id, seat_nos) = match &command.kind {
                    K::Hold {
                        reservation_id,
                        seats,
                        ..
                    }
                    | K::Rehold {
                        reservation_id,
                        seats,
                        ..
                    }
                    | K::Cancelled {
                        reservation_id,
                        seats,
                        ..
                    } => (Some(*reservation_id), Some(seats.clone())),
                    K::HoldBest { reservation_id, .. }
                    | K::Release { reservation_id, .. }
                    | K::Extend { reservation_id, .. }
                    | K::Expire { reservation_id, .. }
                    | K::Paid { reservation_id, .. }
                    | K::Secure { reservation_id, .. }
                    | K::Unsecure { reservation_id, .. } => (Some(*reservation_id), None),
                    K::Block { seats, .. } => (None, Some(seats.clone())),
                    K::Unblock { seats, .. } => (None, seats.clone()),
                    K::PaidAll { .. }
                    | K::Policy { .. }
                    | K::Room { .. }
                    | K::PassesOver { .. } => (None, None),
                };
                CommandView {
                    schedule_id: Some(command.kind.schedule_id()),
                    reservation_id,
                    seat_nos,
                    ..CommandView::of(command, command.kind.name())
                }
            }
            Self::Admission(command) => CommandView {
                schedule_id: Some(command.kind.schedule_id()),
                ..CommandView::of(command, command.kind.name())
            },
            Self::Ledger(command) => {
                let ledger::Kind::Charge { amount, .. } = &command.kind;
                CommandView {
                    amount: Some(*amount),
                    ..CommandView::of(command, "charge")
                }
            }
            Self::Settlement(command) => {
                use settlement::Kind as K;
                let (name, reservation_id, seat_nos) = match &command.kind {
                    K::Pay { reservation_id, .. } => ("pay", Some(reservation_id), None),
                    K::Order { reservation_id, .. } => ("order", Some(reservation_id), None),
                    K::Confirm { .. } => ("confirm", None, None),
                    K::GatewayEvent { .. } => ("gateway-event", None, None),
                    K::RetryRefund { .. } => ("retry-refund", None, None),
                    K::ResolveRefund { .. } => ("resolve-refund", None, None),
                    K::CompareRefund { .. } => ("compare-refund", None, None),
                    K::WriteOff { .. } => ("write-off", None, None),
                    K::Cancel {
                        reservation_id,
                        seats,
                        ..
                    } => ("cancel", Some(reservation_id), seats.clone()),
                    K::CancelPlaces {
                        reservation_id,
                        seats,
                        ..
                    } => ("cancel", Some(reservation_id), Some(seats.clone())),
                };
                CommandView {
                    reservation_id: reservation_id.copied(),
                    seat_nos,
                    ..CommandView::of(command, name)
                }
            }
        }
    }
}

impl CommandView {
    fn of<K>(command: &Command<K>, kind: &'static str) -> Self {
        Self {
            command_id: command.id,
            user_id: Some(command.user).filter(|user| !user.0.is_nil()),
            kind,
            deadline: command.deadline,
            schedule_id: None,
            reservation_id: None,
            seat_nos: None,
            amount: None,
        }
    }
}

impl From<Row> for DeadLetter {
    fn from(row: Row) -> Self {
        Self {
            command: Readable::of(&row).map(|command| command.view()),
            dead_letter_id: row.dead_letter_id,
            lane: row.lane,
            sequence: row.seq,
            at: row.at,
            size: i32::try_from(row.payload.len()).unwrap_or(i32::MAX),
            error: row.error,
            retries: row.retries,
            retried_at: row.retried_at,
            retried_by: row.retried_by,
        }
    }
}

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Only of this lane: `seats`, `admission`, `ledger` or `settlement`.
    #[param(value_type = Lane, required = false)]
    lane: Option<String>,
    /// Only those that were tried again (`true`), or never (`false`).
    #[param(value_type = bool, required = false)]
    retried: Option<String>,
    /// Where the page before ended; the first page without it.
    #[param(value_type = String, required = false)]
    cursor: Option<String>,
    /// How many items, at most 100.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<String>,
}

impl Wanted {
    fn filter(&self) -> Result<store::Filter, Problem> {
        let invalid = |pointer| Problem::validation(vec![FieldError::at(pointer, "invalid-value")]);
        let lane = self.lane.as_deref().map(|text| {
            let known = Lane::ALL.into_iter().find(|lane| lane.as_str() == text);
            known.ok_or_else(|| invalid("/lane"))
        });
        let retried = self.retried.as_deref().map(|text| {
            let known: Result<bool, _> = text.parse();
            known.map_err(|_| invalid("/retried"))
        });
        Ok(store::Filter {
            lane: lane.transpose()?,
            retried: retried.transpose()?,
        })
    }
}

/// What could not be processed
///
/// Commands that failed for themselves, each time that they were tried (a constraint, a broken
/// assertion), and bytes that are no message: they were put aside so that what is behind them goes
/// on, and who waited was answered with an error. Nothing of them was applied. The newest first.
#[utoipa::path(get, path = "/admin/dead-letters", operation_id = "listDeadLetters",
    tag = "Administration", params(Wanted),
    responses((status = 200, description = "A page", body = Page<DeadLetter>)))]
pub async fn list(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let filter = wanted.filter()?;
    let page = PageQuery {
        cursor: wanted.cursor,
        limit: wanted.limit,
    };
    let start = page.read()?;
    let rows = store::list(&app.pool, filter, &start).await?;
    let cursor = |row: &Row| Cursor {
        key: row.at.micros(),
        id: row.dead_letter_id.0,
    };
    answer::ok(&start.page(rows, cursor, DeadLetter::from))
}

/// Try a dead letter again
///
/// Sends the command once more, for the user who asked then and with a new deadline; the answer is
/// what became of it. It is the same command: if it was accepted meanwhile, because its user had
/// sent it again, it is not done twice. One that fails for itself again is a new dead letter.
#[utoipa::path(post, path = "/admin/dead-letters/{deadLetterId}/retry",
    operation_id = "retryDeadLetter", tag = "Administration",
    params(("deadLetterId" = DeadLetterId, Path, description = "The dead letter"), Prefer),
    extensions(("x-problems" = json!([Code::DeadLetterUnreadable]))),
    responses((status = 200, description = "Decided", body = commands::Decided)))]
pub async fn retry(
    State(app): State<App>,
    user: User,
    Id(id): Id<DeadLetterId>,
    prefer: Prefer,
    trace: TraceParent,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let row = store::find(&app.pool, id).await?;
    let row = row.ok_or_else(|| Problem::new(Code::NotFound))?;
    let command = Readable::of(&row).ok_or_else(|| Problem::new(Code::DeadLetterUnreadable))?;
    let retry = Retry {
        app: &app,
        id,
        by: user.id,
        prefer,
        trace,
        headers,
    };
    match command {
        Readable::Seats(command) => {
            let schedule = command.kind.schedule_id();
            let partition = partition::of_schedule(schedule, app.partitions);
            let in_flight = app.gate.admit_schedule(schedule, partition)?;
            let asked = match command.kind {
                seats::Kind::Hold { .. } | seats::Kind::HoldBest { .. } => Asked::Hold(schedule),
                seats::Kind::Release { .. } => Asked::Release,
                seats::Kind::Extend { .. } => Asked::Extension,
                seats::Kind::Policy { .. } => Asked::Policy(schedule),
                seats::Kind::Block { .. } => Asked::Block(schedule),
                seats::Kind::Unblock { .. } => Asked::Unblock(schedule),
                seats::Kind::Expire { .. }
                | seats::Kind::Paid { .. }
                | seats::Kind::PaidAll { .. }
                | seats::Kind::Secure { .. }
                | seats::Kind::Unsecure { .. }
                | seats::Kind::Rehold { .. }
                | seats::Kind::Cancelled { .. }
                | seats::Kind::Room { .. }
                | seats::Kind::PassesOver { .. } => Asked::Notice,
            };
            let batcher = app.batchers.seats(partition);
            let place = (asked, Some(partition));
            retry
                .send(batcher, command, place, in_flight, Told::Seats)
                .await
        }
        Readable::Admission(command) => {
            let schedule = command.kind.schedule_id();
            let partition = partition::of_schedule(schedule, app.partitions);
            let in_flight = app.gate.admit_room(schedule, partition)?;
            let batcher = app.batchers.admission(partition);
            let place = (Asked::Room, Some(partition));
            retry
                .send(batcher, command, place, in_flight, Told::Admission)
                .await
        }
        Readable::Ledger(command) => {
            let in_flight = app.gate.admit_charge()?;
            let place = (Asked::Charge, None);
            let batcher = &app.batchers.ledger;
            retry
                .send(batcher, command, place, in_flight, Told::Ledger)
                .await
        }
        Readable::Settlement(command) => {
            let in_flight = app.gate.admit_payment()?;
            let asked = match command.kind {
                settlement::Kind::Pay { .. }
                | settlement::Kind::Order { .. }
                | settlement::Kind::Confirm { .. }
                | settlement::Kind::GatewayEvent { .. } => Asked::Payment,
                settlement::Kind::Cancel { .. } | settlement::Kind::CancelPlaces { .. } => {
                    Asked::Cancellation
                }
                settlement::Kind::RetryRefund { .. }
                | settlement::Kind::ResolveRefund { .. }
                | settlement::Kind::CompareRefund { .. }
                | settlement::Kind::WriteOff { .. } => Asked::Task,
            };
            let place = (asked, None);
            let batcher = &app.batchers.settlement;
            retry
                .send(batcher, command, place, in_flight, Told::Settlement)
                .await
        }
    }
}

/// Another try, on its way.
struct Retry<'a> {
    app: &'a App,
    id: DeadLetterId,
    by: UserId,
    prefer: Prefer,
    trace: TraceParent,
    headers: HeaderMap,
}

impl Retry<'_> {
    async fn send<L: Commands<Outcome: Clone>>(
        self,
        batcher: &Batcher<L>,
        command: Command<L::Kind>,
        (asked, partition): (Asked, Option<PartitionNo>),
        in_flight: InFlight,
        of_lane: impl FnOnce(L::Outcome) -> Told,
    ) -> Result<Response, Problem> {
        // Before it is sent: nobody tries without being named.
        store::note_by(&self.app.pool, self.id, self.by).await?;
        tracing::info!(dead_letter = %self.id, by = %self.by, "a dead letter is tried again");
        let submission = Submission {
            id: command.id,
            user: command.user,
            asker: self.by,
            fingerprint: command.fingerprint,
            in_flight,
            prefer: self.prefer,
            trace: self.trace,
            kind: command.kind,
            asked,
            partition,
        };
        let answer = submit(self.app, batcher, submission, async |outcome| {
            let told = of_lane(outcome.clone());
            let decided = commands::answered(self.app, self.by, asked, told).await;
            commands::wrapped(decided, &TraceId::of(&self.headers))
        })
        .await?;
        // And not before: what may never have been sent was not tried, and must not be purged as if it
        // were.
        if answer.status() == StatusCode::OK
            && let Err(error) = store::note_retry(&self.app.pool, self.id).await
        {
            tracing::warn!(%error, dead_letter = %self.id, "that it was tried is not noted");
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::message::{Fingerprint, encode};
    use onsale_schema::status::ChargeMethod;
    use uuid::Uuid;

    fn row(lane: Lane, command_index: i32, payload: Vec<u8>) -> Row {
        Row {
            dead_letter_id: DeadLetterId(Uuid::nil()),
            lane,
            seq: 1,
            command_index,
            payload,
            error: "why".to_owned(),
            at: Timestamp::EPOCH,
            retries: 0,
            retried_at: None,
            retried_by: None,
        }
    }

    #[test]
    fn what_can_be_read_is_told_and_the_rest_is_not() {
        let charge = encode(&Command {
            id: CommandId(Uuid::from_u128(1)),
            user: UserId(Uuid::from_u128(2)),
            fingerprint: Fingerprint(Uuid::nil()),
            deadline: Timestamp::EPOCH,
            trace: None,
            kind: ledger::Kind::Charge {
                amount: Money::won(5),
                method: ChargeMethod::Card,
            },
        });
        let letter = DeadLetter::from(row(Lane::Ledger, 0, charge.clone()));
        let command = letter.command.expect("it is a charge");
        assert_eq!(
            (command.kind, command.amount),
            ("charge", Some(Money::won(5)))
        );
        for unreadable in [
            row(Lane::Seats, 0, charge.clone()),
            row(Lane::Ledger, -1, charge.clone()),
            row(Lane::Ledger, 0, charge[1..].to_vec()),
        ] {
            assert!(DeadLetter::from(unreadable).command.is_none());
        }
    }
}
