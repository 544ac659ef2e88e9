//! A room as whoever runs its sale sees it: how many wait and how fast they are let in, from memory like a
//! poll, and by the same word of its owner. Nobody is heard by looking.

use super::state::Room;
use super::view::EtaView;
use super::{RoomState, Rooms, assure};
use crate::answer;
use crate::app::App;
use crate::auth::User;
use crate::catalogue::QueueView;
use crate::extract::Id;
use crate::problem::Problem;
use axum::extract::State;
use axum::response::Response;
use onsale_schema::admission::{Lobby, Order, Watermark};
use onsale_schema::{ScheduleId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

/// The waiting room of a date. All numbers are of one moment, that of `version`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueueOverview)]
#[serde(rename_all = "camelCase")]
struct Overview {
    schedule_id: ScheduleId,
    /// By which rules it lets people in.
    queue: QueueView,
    /// Whether it lets people in, from `queue.opensAt` on.
    room: RoomState,
    /// Why nobody is let in, all that holds; nothing unless the room is `PAUSED`.
    paused_by: Vec<PausedBy>,
    /// Who was there at the opening. Null before that: all who wait are in the lobby then.
    #[schema(required = true)]
    lobby: Option<LobbyView>,
    /// Tickets that were given: those of whoever waits, is `active`, or is `done`, `expired` or `left`.
    arrivals: u32,
    /// Tickets that wait, in the lobby or in line: with those of guests, and of whoever was passed over as
    /// silent and may still come back.
    waiting: u32,
    /// Of them those of guests, who are let in before the others; without guests who were passed over, as
    /// far as that is known (`passedOver`).
    guests: u32,
    /// Of those that wait so many of either line were passed over, and not heard since. Null where that is
    /// not known yet.
    #[schema(required = true)]
    passed_over: Option<u32>,
    /// So many numbers of the line were called: who has none of them has its turn still to come. Those of
    /// guests are among them where the line has come past. It never goes back.
    front: u32,
    /// Tickets with a pass. While the room is `FIFO` or `DRAW` nobody is let in as long as it is at or above
    /// `queue.capacity`; it is above that where the capacity was lowered.
    active: u32,
    /// Tickets that were bought with.
    done: u32,
    /// Tickets whose pass has ended.
    expired: u32,
    /// Tickets whose owner has left, out of the line or with a pass.
    left: u32,
    /// How fast it goes: numbers that were called and guests that were let in, per minute, over the last
    /// minute in which people were let in. Who has left or is silent has a number, too, so that this may be
    /// more than are let in. Null while nobody is let in.
    #[schema(required = true)]
    turns_per_minute: Option<u32>,
    /// How long it takes at this speed until the last number is called; before it are all guests who wait.
    #[schema(inline)]
    last_eta: EtaView,
    /// Counts the changes of the room.
    #[schema(minimum = 1)]
    version: i64,
    /// When that was so, at the latest, in milliseconds before `serverTime`: about a second while all is
    /// well.
    #[schema(minimum = 0)]
    age_ms: i64,
    server_time: Timestamp,
}

/// What pauses a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum PausedBy {
    /// Whoever runs the sale (`queue.paused`).
    Operator,
    /// The date does not sell for now or any more, or its booking is over.
    Sale,
    /// The show is cancelled: it is paused for good.
    Cancellation,
}

impl PausedBy {
    fn all(told: &Watermark) -> Vec<Self> {
        if RoomState::of(told) != RoomState::Paused {
            return Vec::new();
        }
        let whys = [
            // Who cancels a show pauses its room by that, whatever its operator has said.
            (told.policy.paused && !told.is_cancelled, Self::Operator),
            (told.is_sale_stopped, Self::Sale),
            (told.is_cancelled, Self::Cancellation),
        ];
        let held = whys.into_iter().filter(|(is_so, _)| *is_so);
        held.map(|(_, why)| why).collect()
    }
}

/// Who was there at the opening.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueueLobby)]
#[serde(rename_all = "camelCase")]
struct LobbyView {
    closed_at: Timestamp,
    /// Tickets in it.
    size: u32,
    /// In which order they are called. Null as long as the word of a beacon is waited for: nobody is called
    /// before.
    #[schema(required = true)]
    order: Option<OrderView>,
}

/// The order of a lobby.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = QueueOrder)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OrderView {
    /// As they came.
    Arrival,
    /// As it was drawn.
    Drawn,
}

impl From<&Lobby> for LobbyView {
    fn from(lobby: &Lobby) -> Self {
        Self {
            closed_at: lobby.closed_at,
            size: lobby.size,
            order: lobby.order.map(|order| match order {
                Order::Arrival => OrderView::Arrival,
                Order::Drawn { .. } => OrderView::Drawn,
            }),
        }
    }
}

impl Overview {
    fn of(room: &Room, known_at: Timestamp, now: Timestamp) -> Self {
        let (told, tickets) = (room.told(), room.counts());
        // Of the ticket that came last, as if it were none of a guest.
        let last = told.arrivals.saturating_sub(1);
        let ahead = last.saturating_sub(told.front.0);
        let (moved, measured_ms) = (u64::from(told.moved), u64::from(told.measured_ms));
        Self {
            schedule_id: told.schedule_id,
            queue: told.policy.into(),
            room: RoomState::of(told),
            paused_by: PausedBy::all(told),
            lobby: told.lobby.as_ref().map(LobbyView::from),
            arrivals: told.arrivals,
            waiting: told.arrivals.saturating_sub(tickets.turned()),
            guests: told.guests,
            passed_over: told.passed,
            front: told.front.0,
            active: tickets.admitted,
            done: tickets.done,
            expired: tickets.expired,
            left: tickets.left,
            turns_per_minute: (moved * 60_000)
                .checked_div(measured_ms)
                .and_then(|turns| u32::try_from(turns).ok()),
            last_eta: told.eta(ahead).into(),
            version: told.version,
            age_ms: now.ms_since(known_at).max(0),
            server_time: now,
        }
    }
}

impl Rooms {
    /// How a room is. It stays in memory as it does for who polls, and nobody is heard.
    async fn overview(&self, schedule: ScheduleId) -> Result<Overview, Problem> {
        let now = self.clock.now();
        let entry = self.entry(schedule);
        let read = |room: &Room, known_at| Overview::of(room, known_at, now);
        let overview = self.ask(&entry, now, read).await?;
        assure(&entry, now, 0)?;
        Ok(overview)
    }
}

/// How is the waiting room
///
/// How many wait, how many have a pass, how fast people are let in, and why nobody is where that is so:
/// for whoever runs the sale. It is answered from memory, as polls are, and costs as little, and it passes
/// nobody over and calls nobody: who looks at a room is not in it. A date that never had a waiting room is
/// a `not-found`.
#[utoipa::path(get, path = "/admin/schedules/{scheduleId}/queue", operation_id = "getQueueOverview",
    tag = "Administration", params(("scheduleId" = ScheduleId, Path, description = "The date")),
    responses((status = 200, description = "The room", body = Overview)))]
pub async fn watch(
    State(app): State<App>,
    _admin: User,
    Id(schedule): Id<ScheduleId>,
) -> Result<Response, Problem> {
    answer::ok(&app.rooms.overview(schedule).await?)
}

#[cfg(test)]
mod tests {
    use super::super::state::Tickets;
    use super::*;
    use onsale_schema::admission::Policy;
    use onsale_schema::draw::{Digest, Place};
    use onsale_schema::status::{QueueMode, TicketStatus};
    use onsale_schema::{ArrivalNo, Generation, Timestamp};
    use serde_json::{Value, json};
    use uuid::Uuid;

    fn at(s: i64) -> Timestamp {
        Timestamp::EPOCH.plus_ms(s * 1000)
    }

    fn told() -> Watermark {
        let policy = Policy {
            capacity: 2,
            ..Policy::new(QueueMode::Draw, at(10))
        };
        Watermark {
            schedule_id: ScheduleId(Uuid::nil()),
            from_version: 7,
            version: 7,
            at: at(100),
            policy,
            arrivals: 1000,
            lobby: Some(Lobby {
                closed_at: at(11),
                size: 600,
                digest: Digest([1; 32]),
                beacon: None,
                order: Some(Order::Drawn {
                    seed: Digest([2; 32]),
                }),
            }),
            front: Place(100),
            window: policy.window(),
            active: 2,
            guests: 5,
            guest_line: None,
            passed: Some(30),
            moved: 50,
            measured_ms: 30_000,
            is_sale_stopped: false,
            is_cancelled: false,
            generation: Generation::default(),
            changes: Vec::new(),
        }
    }

    fn view(told: Watermark, tickets: Tickets) -> Value {
        let room = Room::new(told, tickets);
        serde_json::to_value(Overview::of(&room, at(99), at(100))).unwrap()
    }

    #[test]
    fn tickets_are_counted_by_what_has_become_of_them() {
        let mut tickets = Tickets::default();
        for (no, status) in [
            (3, TicketStatus::Admitted),
            (900, TicketStatus::Admitted),
            (4, TicketStatus::Admitted),
            (70, TicketStatus::Left),
            (71, TicketStatus::Left),
            (5, TicketStatus::Expired),
            // Its pass was made longer, and then it was over.
            (3, TicketStatus::Admitted),
            (4, TicketStatus::Done),
        ] {
            tickets.set((ArrivalNo(no), status, Some(at(200))));
        }
        let view = view(told(), tickets);
        let numbers = ["arrivals", "waiting", "active", "done", "expired", "left"];
        let numbers = numbers.map(|name| view[name].as_u64().unwrap());
        assert_eq!(numbers, [1000, 994, 2, 1, 1, 2]);
        assert_eq!(numbers[0], numbers[1..].iter().sum::<u64>());
        assert_eq!(
            (&view["guests"], &view["passedOver"]),
            (&json!(5), &json!(30))
        );
        assert_eq!((&view["front"], &view["version"]), (&json!(100), &json!(7)));
        assert_eq!(
            (&view["turnsPerMinute"], &view["ageMs"]),
            (&json!(100), &json!(1000))
        );
        let lobby = json!({ "closedAt": at(11), "size": 600, "order": "DRAWN" });
        assert_eq!(view["lobby"], lobby);
        // 899 numbers and 5 guests, of 100 in a minute; within what is told at that speed.
        let eta = &view["lastEta"];
        let (low, high) = (eta["lowSeconds"].as_u64(), eta["highSeconds"].as_u64());
        assert!(
            low < Some(899 * 60 / 100) && high > Some(904 * 60 / 100),
            "{eta}"
        );
    }

    #[test]
    fn why_nobody_is_let_in_is_told() {
        let whys = |mode, paused, is_sale_stopped, is_cancelled| {
            let told = Watermark {
                is_sale_stopped,
                is_cancelled,
                ..told()
            };
            let policy = Policy {
                mode,
                paused,
                ..told.policy
            };
            let view = view(Watermark { policy, ..told }, Tickets::default());
            (view["room"].clone(), view["pausedBy"].clone())
        };
        for (paused, stopped, cancelled, room, expected) in [
            (false, false, false, "OPEN", json!([])),
            (true, false, false, "PAUSED", json!(["OPERATOR"])),
            (false, true, false, "PAUSED", json!(["SALE"])),
            (true, true, false, "PAUSED", json!(["OPERATOR", "SALE"])),
            (true, true, true, "PAUSED", json!(["SALE", "CANCELLATION"])),
        ] {
            let told = whys(QueueMode::Fifo, paused, stopped, cancelled);
            assert_eq!(told, (json!(room), expected));
            let off = whys(QueueMode::Off, paused, stopped, cancelled);
            assert_eq!(off, (json!("OFF"), json!([])));
        }
    }

    #[test]
    fn what_is_not_known_is_null() {
        let new = Watermark {
            lobby: None,
            passed: None,
            moved: 0,
            measured_ms: 0,
            ..told()
        };
        let view = view(new, Tickets::default());
        for name in ["lobby", "passedOver", "turnsPerMinute"] {
            assert!(view[name].is_null(), "{name}");
        }
        assert_eq!(view["lastEta"]["known"], false);
    }
}
