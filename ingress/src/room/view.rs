//! A ticket as its owner is shown it: by a poll, on joining and on a stream, always the same.

use super::{RoomState, Signer, Standing};
use onsale_schema::admission::{Eta, POLL_MAX_MS, Ticketed};
use onsale_schema::status::TicketStatus;
use onsale_schema::{TicketId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

/// Whoever has a pass asks so often while it lasts, so that one that was extended is there in time.
const POLLS_PER_PASS: u64 = 4;
/// The shortest time after which a client asks again, in milliseconds.
const POLL_MIN_MS: u64 = 1000;

/// A ticket of a waiting room.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = QueueTicket)]
#[serde(rename_all = "camelCase")]
pub struct TicketView {
    ticket_id: TicketId,
    /// The ticket, signed: send it as `Queue-Ticket` when you ask again.
    ticket: String,
    status: TicketStatus,
    /// Whether the room lets people in. Null where that is not known yet.
    #[schema(required = true)]
    room: Option<RoomState>,
    /// It was made with an access code: it is in a line apart that is let in before the other one, and in
    /// a presale also before the room opens. Its position and what is ahead of it are of that line.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    guest: bool,
    /// Its number in the line, from 1; it never changes. Null as long as the line has no order; that of
    /// guests is the order in which they joined.
    #[schema(required = true, minimum = 1)]
    position: Option<u32>,
    /// So many numbers before it have not been called; it never grows. Each ingress goes forward; behind a load
    /// balancer the next one that you ask may be some seconds behind, so keep the lower one, and once you are
    /// `ADMITTED` don't take `WAITING` for news. At 0 you are next, as far as
    /// the room lets people in. Null as long as the line has no order, and after the ticket's end. Guests
    /// of a presale are called before others of their line until the room opens, so that their turn may
    /// come before this is 0.
    #[schema(required = true)]
    ahead: Option<u32>,
    #[schema(inline)]
    eta: EtaView,
    /// When to ask again, in milliseconds: the farther away, the later. Who asks much later may be
    /// passed over, and is next when it asks again. Null after the ticket's end: nothing changes any
    /// more.
    #[schema(required = true)]
    poll_after_ms: Option<u32>,
    /// The entry pass, signed: send it as `Queue-Pass` with holds. Only while the ticket is
    /// `ADMITTED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pass: Option<String>,
    /// When that pass ends. It lasts as long as holds made with it, which may be longer: ask again, and
    /// you get one that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pass_expires_at: Option<Timestamp>,
    server_time: Timestamp,
}

/// How long it takes until it is admitted, by how fast the line has been of late.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EtaView {
    /// Whether that is known.
    known: bool,
    /// Hardly less than this; null if it is not known.
    #[schema(required = true)]
    low_seconds: Option<u64>,
    /// Hardly more than this; null if it is not known.
    #[schema(required = true)]
    high_seconds: Option<u64>,
}

impl From<Option<Eta>> for EtaView {
    fn from(eta: Option<Eta>) -> Self {
        Self {
            known: eta.is_some(),
            low_seconds: eta.map(|eta| eta.low_ms / 1000),
            high_seconds: eta.map(|eta| eta.high_ms.div_ceil(1000)),
        }
    }
}

impl TicketView {
    /// A ticket and how it is.
    #[must_use]
    pub fn of(signer: &Signer, ticket: &Ticketed, standing: &Standing, now: Timestamp) -> Self {
        let pass = standing.pass(ticket, now);
        let (ahead, eta, poll_after_ms) = match (standing.status, standing.sight) {
            (TicketStatus::Lobby | TicketStatus::Waiting, Some(sight)) => {
                (sight.ahead, sight.eta, Some(sight.poll_after_ms))
            }
            (TicketStatus::Lobby | TicketStatus::Waiting, None) => {
                (None, None, Some(POLL_MIN_MS as u32))
            }
            (TicketStatus::Admitted, _) => {
                let here = Eta {
                    low_ms: 0,
                    high_ms: 0,
                };
                let left_ms = pass.map_or(0, |pass| pass.expires_at.ms_since(now));
                let left_ms = u64::try_from(left_ms).unwrap_or(0) / POLLS_PER_PASS;
                let after_ms = left_ms.clamp(POLL_MIN_MS, POLL_MAX_MS);
                (Some(0), Some(here), u32::try_from(after_ms).ok())
            }
            (TicketStatus::Expired | TicketStatus::Left | TicketStatus::Done, _) => {
                (None, None, None)
            }
        };
        Self {
            ticket_id: ticket.ticket_id,
            ticket: signer.sign_ticket(ticket),
            status: standing.status,
            room: standing.room,
            guest: ticket.is_guest,
            position: match ticket.is_guest {
                true => ticket.guest_no.map(|no| no + 1),
                false => standing.place.map(|place| place.0 + 1),
            },
            ahead,
            eta: eta.into(),
            poll_after_ms,
            pass: pass.map(|pass| signer.sign_pass(&pass)),
            pass_expires_at: pass.map(|pass| pass.expires_at),
            server_time: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::admission::Ticket;
    use onsale_schema::{ArrivalNo, Generation, ScheduleId, UserId};
    use uuid::Uuid;

    fn ticket() -> Ticketed {
        Ticketed {
            user_id: UserId(Uuid::from_u128(1)),
            schedule_id: ScheduleId(Uuid::from_u128(2)),
            ticket_id: TicketId(Uuid::from_u128(3)),
            arrival_no: ArrivalNo(4),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        }
    }

    fn told(status: TicketStatus) -> Standing {
        Standing::told(&Ticket {
            ticket_id: ticket().ticket_id,
            schedule_id: ticket().schedule_id,
            arrival_no: ticket().arrival_no,
            is_new: true,
            status,
            pass_expires_at: None,
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        })
    }

    fn view(standing: &Standing, now: Timestamp) -> serde_json::Value {
        let signer = Signer::new(&"a".repeat(64).parse().unwrap());
        let mut view = serde_json::to_value(TicketView::of(&signer, &ticket(), standing, now));
        let view = view.as_mut().unwrap().as_object_mut().unwrap();
        let text = view.remove("ticket").unwrap();
        assert_eq!(signer.read_ticket(text.as_str().unwrap()), Some(ticket()));
        if let Some(pass) = view.remove("pass") {
            let pass = signer.read_pass(pass.as_str().unwrap()).unwrap();
            assert_eq!(pass.ticket, ticket());
            view.insert("pass".into(), pass.expires_at.micros().into());
        }
        serde_json::Value::Object(view.clone())
    }

    #[test]
    fn what_is_told_of_each_status() {
        let at = Timestamp::from_micros(1_000_000);
        let unknown =
            serde_json::json!({ "known": false, "lowSeconds": null, "highSeconds": null });
        let waiting = view(&told(TicketStatus::Waiting), at);
        assert_eq!(waiting["status"], "WAITING");
        assert_eq!(
            (&waiting["eta"], &waiting["pollAfterMs"]),
            (&unknown, &1000.into())
        );
        assert!(waiting["position"].is_null() && waiting["ahead"].is_null());
        assert!(waiting["room"].is_null(), "not known yet");
        assert!(waiting.get("pass").is_none() && waiting.get("passExpiresAt").is_none());

        let until = at.plus_ms(100_000);
        let admitted = told(TicketStatus::Waiting).after(TicketStatus::Admitted, Some(until));
        let before = view(&admitted, at);
        assert_eq!(before["pass"], until.micros());
        assert_eq!(
            (&before["ahead"], &before["pollAfterMs"]),
            (&0.into(), &25_000.into())
        );
        assert_eq!(before["eta"]["known"], true);
        // Its time is over, though nobody has said so yet.
        let after = view(&admitted, until);
        assert_eq!(after["status"], "ADMITTED");
        assert!(after.get("pass").is_none() && after.get("passExpiresAt").is_none());
        assert_eq!(after["pollAfterMs"], 1000);

        for status in [
            TicketStatus::Expired,
            TicketStatus::Left,
            TicketStatus::Done,
        ] {
            let ended = view(&admitted.after(status, None), at);
            assert_eq!(ended["status"], status.as_str());
            assert!(ended.get("pass").is_none() && ended["pollAfterMs"].is_null());
        }
    }
}
