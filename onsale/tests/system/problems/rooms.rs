//! The codes of waiting rooms, of their tickets, passes, access codes and draws.

use super::{Met, tell};
use crate::hall::{Hall, soon};
use onsale_ingress::room::Signer;
use onsale_schema::admission::{Pass, TICKETS_PER_USER, Ticketed};
use onsale_schema::seats::Kind;
use onsale_schema::{ArrivalNo, Generation, ScheduleId, TicketId, UserId};
use onsale_testkit::system::TOKEN_SECRET;
use reqwest::Method;
use serde_json::json;

/// Who gets in line.
pub async fn rooms(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(1).await;
    let path = format!("/schedules/{date}/queue");
    let answer = api.post(&buyer, &path, "nobody-waits", &json!(null)).await;
    met.expect(answer, "room-off");
    join_too_often(hall, met).await;
    let request = api.request(Method::GET, &path).bearer_auth(&buyer.token);
    let request = request.header("queue-ticket", "made-up");
    met.expect(api.send(request).await, "queue-ticket-invalid");
    let answer = crate::room::full::join(hall, &buyer, date).await;
    met.expect(answer, "room-full");
}

/// Somebody gets in line and leaves it, again and again.
pub async fn join_too_often(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(1).await;
    let queue = json!({ "queue": { "mode": "FIFO" } });
    let admin = format!("/admin/schedules/{date}");
    crate::catalogue::patch(&api, &hall.admin(), &admin, &queue)
        .await
        .expect(200);
    let path = format!("/schedules/{date}/queue");
    for turn in 0..TICKETS_PER_USER {
        let key = format!("in-line-{turn}");
        let joined = api.post(&buyer, &path, &key, &json!(null)).await;
        joined.expect(201);
        api.delete(&buyer, &path).await.expect(204);
    }
    let answer = api.post(&buyer, &path, "once-more", &json!(null)).await;
    met.expect(answer, "queue-tickets-used-up");
}

/// Who comes with a code that makes no guest.
pub async fn access_codes(hall: &mut Hall, met: &mut Met) {
    use crate::access_codes::{LONG_TIME, code, expired, not_yet};
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(1).await;
    crate::queue_policy::amend(hall, date, json!({ "mode": "FIFO" })).await;
    let (expired, not_yet) = (expired(hall, date).await, not_yet(hall, date).await);
    let (revoked_id, revoked) = code(hall, date, 1, LONG_TIME).await;
    let path = format!("/admin/schedules/{date}/access-codes/{revoked_id}");
    api.delete(&admin, &path).await.expect(204);
    let (_, used_up) = code(hall, date, 1, LONG_TIME).await;
    let path = format!("/schedules/{date}/queue");
    let body = json!({ "accessCode": used_up });
    let first = api.post(&hall.buyer(), &path, "the-first-use", &body).await;
    let _ = first.expect(201);
    for (shown, problem) in [
        ("made-up".to_owned(), "access-code-invalid"),
        (expired, "access-code-expired"),
        (not_yet, "access-code-not-yet"),
        (revoked, "access-code-revoked"),
        (used_up, "access-code-used-up"),
    ] {
        let body = json!({ "accessCode": shown });
        met.expect(api.post(&buyer, &path, problem, &body).await, problem);
    }
}

/// Where there is a waiting room; its word is put in by hand.
pub async fn passes(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(5).await;
    tell(hall, |notice_id| Kind::Room {
        notice_id,
        schedule_id: ScheduleId(date),
        pass_required: true,
        version: 1,
    })
    .await;
    let answer = api.hold(&buyer, date, &["A-1-1"]).await;
    met.expect(answer, "queue-pass-required");
    let signer = Signer::new(&TOKEN_SECRET.parse().expect("a secret"));
    let pass = |seconds, holds_max| Pass {
        ticket: Ticketed {
            user_id: UserId(buyer.user_id),
            schedule_id: ScheduleId(date),
            ticket_id: TicketId(uuid::Uuid::now_v7()),
            arrival_no: ArrivalNo(0),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        },
        expires_at: soon(seconds),
        holds_max,
    };
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    for (shown, code) in [
        ("no pass of ours".to_owned(), "queue-pass-invalid"),
        (signer.sign_pass(&pass(-1, 1)), "queue-pass-expired"),
        (signer.sign_pass(&pass(60, 0)), "queue-pass-used-up"),
    ] {
        let request = api.post_request(&buyer, "/reservations", code, &body);
        met.expect(api.send(request.header("queue-pass", shown)).await, code);
    }
}

/// What can't be done to a waiting room.
pub async fn draws(hall: &mut Hall, met: &mut Met) {
    let (api, admin) = (hall.api.clone(), hall.admin());
    let date = hall.date(1).await;
    crate::queue_policy::amend(hall, date, json!({ "mode": "FIFO" })).await;
    let drawn = format!("/schedules/{date}/queue/draw");
    let beacon = format!("/admin/schedules/{date}/queue/beacon");
    let put = |path: String, body: serde_json::Value| {
        let request = api.request(Method::PUT, &path).bearer_auth(&admin.token);
        api.send(request.json(&body))
    };
    let said = put(format!("{beacon}/value"), json!({ "value": "00" })).await;
    met.expect(said, "beacon-not-due");
    let far = hall.date(1).await;
    let later = json!({ "mode": "DRAW", "opensAt": "2040-01-01T00:00:00Z" });
    crate::queue_policy::amend(hall, far, later).await;
    let list = format!("/schedules/{far}/queue/draw/tickets");
    met.expect(api.get(None, &list).await, "lobby-open");
    // Its lobby is closed in the moment in which the owner hears of it again.
    let state = async || api.get(None, &drawn).await.expect(200).body["state"].clone();
    let closed = tokio::time::timeout(crate::hall::PATIENCE, async {
        while state().await == "LOBBY" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    closed.await.expect("closed");
    met.expect(put(beacon, json!({ "name": "x" })).await, "beacon-fixed");
}
