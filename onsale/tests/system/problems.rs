//! Every problem code that is built can be met over HTTP, looks as it should, and is met here: a
//! code that is added without a way to it fails this test.

use crate::hall::{Hall, open_policy, reservation, soon};
use crate::shop::{with_gateway, won};
use diesel_async::SimpleAsyncConnection;
use onsale::seed::Policy;
use onsale_ingress::problem::Code;
use onsale_ingress::room::Signer;
use onsale_schema::admission::{Pass, TICKETS_PER_USER, Ticketed};
use onsale_schema::message::encode;
use onsale_schema::seats::Kind;
use onsale_schema::status::SaleState;
use onsale_schema::{
    ArrivalNo, CommandId, NoticeId, PaymentOrderId, ReservationId, ScheduleId, TicketId, UserId,
};
use onsale_testkit::spawn::Signal;
use onsale_testkit::system::TOKEN_SECRET;
use onsale_testkit::{Answer, Buyer};
use onsale_workers::outbox::system;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The codes that were met, with the status of each.
#[derive(Default)]
struct Met(BTreeMap<String, u16>);

impl Met {
    #[track_caller]
    fn expect(&mut self, answer: Answer, code: &str) {
        let answer = answer.clone().expect_problem(answer.status.as_u16(), code);
        for member in ["type", "title", "status", "code", "retryable", "traceId"] {
            assert!(
                !answer.body[member].is_null(),
                "{member} is missing: {answer:?}"
            );
        }
        assert_eq!(answer.body["status"], answer.status.as_u16(), "{answer:?}");
        if [429, 503].contains(&answer.status.as_u16()) {
            assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        }
        self.0.insert(code.to_owned(), answer.status.as_u16());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_is_met_over_http() {
    let settings = with_gateway()
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 1500)
        .setting("ONSALE_BODY_TIMEOUT_MS", 300)
        .setting("ONSALE_SCHEDULE_IN_FLIGHT_MAX", 3)
        .setting("ONSALE_OPEN_CHARGES_MAX", 1)
        .setting("ONSALE_SIGN_IN_ACCOUNT_PER_MIN", 1)
        .setting("ONSALE_SIGN_IN_ACCOUNT_BURST", 1);
    let mut hall = Hall::open_with(settings).await;
    let mut met = Met::default();
    requests(&mut hall, &mut met).await;
    identity(&mut hall, &mut met).await;
    seats(&mut hall, &mut met).await;
    rooms(&mut hall, &mut met).await;
    access_codes(&mut hall, &mut met).await;
    passes(&mut hall, &mut met).await;
    payment_on_its_way(&mut hall, &mut met).await;
    money(&mut hall, &mut met).await;
    orders(&mut hall, &mut met).await;
    draws(&mut hall, &mut met).await;
    layouts(&mut hall, &mut met).await;
    dead_letters(&mut hall, &mut met).await;
    hung_worker(&mut hall, &mut met).await;
    broken_database(&mut hall, &mut met).await;
    drop(hall);
    without_gateway(&mut met).await;
    without_cards(&mut met).await;

    let declared: BTreeMap<String, u16> = Code::ALL
        .iter()
        .map(|code| (code.as_str().to_owned(), code.status().as_u16()))
        .collect();
    assert_eq!(met.0, declared);
}

/// What is wrong with a request before anybody looks at what it wants.
async fn requests(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let raw = |body: &'static str, kind: &'static str| {
        api.request(Method::POST, "/sessions")
            .header("content-type", kind)
            .body(body)
    };
    met.expect(
        api.send(raw("{", "application/json")).await,
        "malformed-json",
    );
    met.expect(
        api.send(raw("{}", "text/plain")).await,
        "unsupported-media-type",
    );
    let body = json!({ "email": "a@example.com", "password": "long enough", "admin": true });
    met.expect(
        api.post(&buyer, "/sessions", "some-key", &body).await,
        "validation-failed",
    );
    let body = json!({ "email": "x".repeat(100_000), "password": "long enough" });
    met.expect(
        api.post(&buyer, "/sessions", "some-key", &body).await,
        "body-too-large",
    );
    // Dates and cursors that no database knows.
    for query in [
        "from=-9999-01-01",
        "to=99999-01-01",
        "cursor=gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let answer = api.get(None, &format!("/concerts?{query}")).await;
        met.expect(answer, "validation-failed");
    }
    met.expect(api.get(None, "//no/such/thing").await, "not-found");
    let answer = api.send(api.request(Method::PUT, "/concerts")).await;
    assert!(answer.headers.contains_key("allow"), "{answer:?}");
    met.expect(answer, "method-not-allowed");
    let request = api
        .request(Method::GET, "/concerts")
        .header("x-long", "x".repeat(15_000));
    let request = request.header("x-longer", "x".repeat(15_000));
    met.expect(api.send(request).await, "headers-too-large");
    let request = api.request(Method::GET, "/concerts");
    let request = request.header("accept", "text/html");
    met.expect(api.send(request).await, "not-acceptable");
    slow_body(hall, met).await;

    let reserve = json!({ "scheduleId": uuid::Uuid::now_v7(), "seats": ["A-1-1"] });
    let request = api
        .request(Method::POST, "/reservations")
        .bearer_auth(&buyer.token);
    met.expect(
        api.send(request.json(&reserve)).await,
        "idempotency-key-missing",
    );
    let answer = api.post(&buyer, "/reservations", "short", &reserve).await;
    met.expect(answer, "idempotency-key-invalid");
}

/// A body that is announced and doesn't come; by hand, since no client does so.
async fn slow_body(hall: &Hall, met: &mut Met) {
    let addr = hall.system.ingresses[0].http_addr.expect("an address");
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = "POST /api/v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // The server may reset the connection once it has answered.
    while let Ok(1..) = stream.read_buf(&mut answer).await {}
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 408"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).expect(body);
    assert_eq!(body["code"], "request-timeout", "{answer}");
    met.0.insert("request-timeout".to_owned(), 408);
}

/// Who asks.
async fn identity(hall: &mut Hall, met: &mut Met) {
    let api = hall.api.clone();
    met.expect(api.get(None, "/users/me").await, "token-missing");
    let mut forged = hall.buyer();
    forged.token.push('x');
    met.expect(api.get(Some(&forged), "/users/me").await, "token-invalid");
    met.expect(
        api.get(Some(&hall.expired_buyer()), "/users/me").await,
        "token-expired",
    );
    let sign_up = json!({ "email": "taken@example.com", "name": "T", "password": "long enough" });
    let nobody = hall.buyer();
    api.post(&nobody, "/users", "first-key", &sign_up)
        .await
        .expect(201);
    met.expect(
        api.post(&nobody, "/users", "second-key", &sign_up).await,
        "email-taken",
    );
    let sign_in = json!({ "email": "taken@example.com", "password": "a wrong one" });
    let answer = api.post(&nobody, "/sessions", "third-key", &sign_in).await;
    met.expect(answer, "credentials-invalid");
    let answer = api.post(&nobody, "/sessions", "third-key", &sign_in).await;
    met.expect(answer, "rate-limited");
}

/// Who gets a seat.
async fn seats(hall: &mut Hall, met: &mut Met) {
    let (api, buyer, other) = (hall.api.clone(), hall.buyer(), hall.buyer());
    let date = hall.date(10).await;
    met.expect(api.hold(&buyer, date, &["Z-1-1"]).await, "unknown-seat");
    let held = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    met.expect(api.hold(&other, date, &["A-1-1"]).await, "seat-unavailable");
    let id = crate::hall::reservation(&held.body);
    let path = format!("/reservations/{id}/extension");
    let extended = api.post(&buyer, &path, "the-time-key", &json!(null)).await;
    met.expect(extended, "extension-limit-reached");
    let path = format!("/admin/schedules/{date}");
    let careful = json!({ "preventOrphanSeats": true });
    crate::catalogue::patch(&api, &hall.admin(), &path, &careful)
        .await
        .expect(200);
    met.expect(api.hold(&other, date, &["A-1-3"]).await, "orphan-seat");
    let many = ["A-1-2", "A-1-3", "A-1-4", "A-1-5", "A-1-6"];
    met.expect(api.hold(&other, date, &many).await, "seat-limit-exceeded");
    let path = "/reservations";
    let first = json!({ "scheduleId": date, "seats": ["A-1-7"] });
    let second = json!({ "scheduleId": date, "seats": ["A-1-8"] });
    api.post(&other, path, "the-same-key", &first)
        .await
        .expect(201);
    let answer = api.post(&other, path, "the-same-key", &second).await;
    met.expect(answer, "idempotency-key-reused");
    let closed = hall
        .date_with(
            5,
            Policy {
                state: SaleState::Closed,
                ..open_policy()
            },
        )
        .await;
    met.expect(api.hold(&buyer, closed, &["A-1-1"]).await, "sale-closed");
    let later = hall
        .date_with(
            5,
            Policy {
                booking_opens_at: soon(60),
                ..open_policy()
            },
        )
        .await;
    met.expect(api.hold(&buyer, later, &["A-1-1"]).await, "sale-not-open");

    api.charge(&buyer, 50_000).await.expect(201);
    api.pay(&buyer, reservation(&held.body)).await.expect(201);
    met.expect(
        api.pay(&buyer, reservation(&held.body)).await,
        "already-paid",
    );
    let path = format!("/reservations/{}", reservation(&held.body));
    met.expect(
        api.delete(&buyer, &path).await,
        "reservation-state-conflict",
    );
    let never = json!({ "cancellation": { "untilSecondsBefore": null } });
    let date = format!("/admin/schedules/{date}");
    crate::catalogue::patch(&api, &hall.admin(), &date, &never)
        .await
        .expect(200);
    let path = format!("{path}/cancellation");
    let body = json!({});
    let answer = api.post(&buyer, &path, "cancel-key", &body).await;
    met.expect(answer, "cancellation-closed");
}

/// Who gets in line.
async fn rooms(hall: &mut Hall, met: &mut Met) {
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
async fn join_too_often(hall: &mut Hall, met: &mut Met) {
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
async fn access_codes(hall: &mut Hall, met: &mut Met) {
    use crate::access_codes::{LONG_TIME, code};
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(1).await;
    crate::queue_policy::amend(hall, date, json!({ "mode": "FIFO" })).await;
    let old = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    let early = ("2040-01-01T00:00:00Z", "2041-01-01T00:00:00Z");
    let (_, expired) = code(hall, date, 1, old).await;
    let (_, not_yet) = code(hall, date, 1, early).await;
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

/// A notice to the owner of seats, put in by hand; waits until it is applied.
async fn tell(hall: &mut Hall, kind: impl FnOnce(NoticeId) -> Kind) {
    let notice = uuid::Uuid::now_v7();
    let kind = kind(NoticeId(notice));
    let schedule = kind.schedule_id();
    let command = system::command(CommandId(notice), kind);
    let payload: String = encode(&command)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    hall.sql(&format!(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload) \
         VALUES ('{notice}', 'seats', '{schedule}', decode('{payload}', 'hex'))"
    ))
    .await;
    let open = format!(
        "SELECT count(*) AS n FROM notice WHERE notice_id = '{notice}' AND done_at IS NULL"
    );
    hall.becomes(&open, 0).await;
}

/// Where there is a waiting room; its word is put in by hand.
async fn passes(hall: &mut Hall, met: &mut Met) {
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

/// A hold that a payment through the gateway has secured; settlement's word for it is put in by hand.
async fn payment_on_its_way(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(5).await;
    let held = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let id = reservation(&held.body);
    tell(hall, |notice_id| Kind::Secure {
        notice_id,
        order_id: PaymentOrderId(uuid::Uuid::now_v7()),
        reservation_id: ReservationId(id),
        schedule_id: ScheduleId(date),
        until: soon(60),
    })
    .await;
    let path = format!("/reservations/{id}");
    met.expect(api.delete(&buyer, &path).await, "payment-in-progress");
}

/// What the payment gateway refuses, and what is refused for its sake.
async fn orders(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(4).await;
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let less = json!({ "paymentKey": order.payment_key, "amount": won(1) });
    let answer = hall.confirm_as(&buyer, &order, "less-money", &less).await;
    met.expect(answer, "amount-mismatch");
    hall.switch(json!({ "decline": 1 })).await;
    met.expect(hall.confirm(&buyer, &order).await, "payment-declined");
    met.expect(hall.confirm(&buyer, &order).await, "order-state-conflict");
    let refund = uuid::Uuid::now_v7();
    hall.sql(&format!(
        "INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, \
                             created_at) \
         SELECT '{refund}', order_id, user_id, order_id, 'GATEWAY', 1, 'PENDING', \
                clock_timestamp() \
         FROM payment_order WHERE order_id = '{}'",
        order.id
    ))
    .await;
    let path = format!("/admin/tasks/{refund}/retry");
    let answer = api
        .post(&hall.admin(), &path, "not-stuck", &json!({}))
        .await;
    met.expect(answer, "refund-state-conflict");
    let next = hall.order(&buyer, date, &["A-1-2"]).await;
    let used = json!({ "paymentKey": order.payment_key, "amount": won(next.amount) });
    let answer = hall.confirm_as(&buyer, &next, "used-before", &used).await;
    met.expect(answer, "payment-key-used");
    // As long as its hold lasts the gateway is asked again; here it is over at once.
    hall.switch(json!({ "error": "all" })).await;
    hall.confirm_later(&buyer, &next, "nobody-there").await;
    hall.becomes(
        "SELECT count(*) AS n FROM payment_order WHERE status IN ('CAPTURING', 'UNKNOWN')",
        1,
    )
    .await;
    hall.sql(&format!(
        "UPDATE payment_order SET status = 'FAILED', fail_code = 'payment-gateway-unavailable', \
                next_at = NULL, step_no = step_no + 1 WHERE order_id = '{}'",
        next.id
    ))
    .await;
    let same = json!({ "paymentKey": next.payment_key, "amount": won(next.amount) });
    let answer = hall.confirm_as(&buyer, &next, "nobody-there", &same).await;
    met.expect(answer, "payment-gateway-unavailable");
    hall.charge_later(&buyer, 10_000, "still-waiting").await;
    let open = "SELECT count(*) AS n FROM payment_order WHERE reservation_id IS NULL";
    hall.becomes(open, 1).await;
    let answer = hall.charge_card(&buyer, 10_000, "one-too-many").await;
    assert_eq!(answer.body["limit"], 1, "{answer:?}");
    met.expect(answer, "too-many-open-charges");
    let unsigned = api.request(Method::POST, "/webhooks/payments");
    let answer = api.send(unsigned.json(&json!({}))).await;
    met.expect(answer, "webhook-signature-invalid");
}

/// What can't be done to a waiting room.
async fn draws(hall: &mut Hall, met: &mut Met) {
    let (api, admin) = (hall.api.clone(), hall.admin());
    let date = hall.date(1).await;
    crate::queue_policy::amend(hall, date, json!({ "mode": "DRAW" })).await;
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

/// A system that nothing is paid through a gateway in.
async fn without_gateway(met: &mut Met) {
    let mut hall = Hall::open().await;
    let (date, buyer) = (hall.date(1).await, hall.buyer());
    let held = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let body = json!({ "reservationId": held.body["reservationId"] });
    let answer = hall
        .api
        .post(&buyer, "/payment-orders", "nowhere-to-pay", &body);
    met.expect(answer.await, "gateway-not-configured");
}

/// A system whose gateway has no cards on file, and that has no desk.
async fn without_cards(met: &mut Met) {
    let options = with_gateway()
        .setting("ONSALE_CARDS", "refused")
        .setting("ONSALE_CASH", false);
    let mut hall = Hall::open_with(options).await;
    let buyer = hall.buyer();
    let answer = hall.charge_card(&buyer, 10_000, "no-such-card").await;
    met.expect(answer, "cards-not-configured");
    met.expect(hall.api.charge(&buyer, 10_000).await, "cash-not-configured");
    let points = hall.api.get(Some(&buyer), "/users/me/points").await;
    assert_eq!(points.expect(200).body["balance"], won(0));
    let orders = "SELECT count(*) AS n FROM payment_order";
    assert_eq!(hall.number(orders).await, 0);
    assert!(hall.book().await.is_empty());
}

/// What can't be paid.
async fn money(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    met.expect(api.charge(&buyer, 0).await, "amount-invalid");
    met.expect(api.charge(&buyer, 5_000_000).await, "amount-invalid");
    api.charge(&buyer, 1_000_000).await.expect(201);
    met.expect(api.charge(&buyer, 1).await, "balance-cap-exceeded");
    let brief = hall
        .date_with(
            5,
            Policy {
                hold_ms: 300,
                ..open_policy()
            },
        )
        .await;
    let held = api.hold(&buyer, brief, &["A-1-1"]).await.expect(201);
    hall.map_becomes(brief, "AAAAA").await;
    met.expect(
        api.pay(&buyer, reservation(&held.body)).await,
        "hold-expired",
    );
    let poor = hall.buyer();
    let date = hall.date(5).await;
    let held = api.hold(&poor, date, &["A-1-1"]).await.expect(201);
    met.expect(
        api.pay(&poor, reservation(&held.body)).await,
        "insufficient-points",
    );
}

/// Layouts that can't be what somebody wants them to be.
async fn layouts(hall: &mut Hall, met: &mut Met) {
    let (api, buyer, admin) = (hall.api.clone(), hall.buyer(), hall.admin());
    let date = hall.date(5).await;
    let put = |by: &Buyer, csv: &'static str| {
        let path = format!("/admin/schedules/{date}/layout");
        let request = api.request(Method::PUT, &path).bearer_auth(&by.token);
        api.send(request.header("content-type", "text/csv").body(csv))
    };
    let layout = "section,row,number,grade,price\nA,1,1,R,1\n";
    met.expect(put(&buyer, layout).await, "forbidden-role");
    // Asked for by a layout that is replaced before the owner gets to it.
    hall.system.workers[0].signal(Signal::SIGSTOP);
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let request = api.post_request(&buyer, "/reservations", "in-between", &body);
    let open = api.send(request.header("prefer", "respond-async")).await;
    let location = open.expect(202).headers["location"].clone();
    put(&admin, layout).await.expect(200);
    hall.system.workers[0].signal(Signal::SIGCONT);
    let location = location.to_str().expect("ASCII");
    let decided = crate::catalogue::decided(&api, &buyer, location).await;
    assert_eq!(
        (&decided["status"], &decided["body"]["code"]),
        (&json!(409), &json!("layout-changed")),
    );
    met.0.insert("layout-changed".to_owned(), 409);

    api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let other = "section,row,number,grade,price\nA,1,1,R,2\n";
    met.expect(put(&admin, other).await, "layout-in-use");
}

/// The seats' owner stops for a while, and nobody else is there.
async fn hung_worker(hall: &mut Hall, met: &mut Met) {
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let date = hall.date(10).await;
    api.hold(&buyer, date, &["A-1-10"]).await.expect(201);
    hall.system.workers[0].signal(Signal::SIGSTOP);
    // Three may wait for their outcome, a fourth is refused at once.
    let four = (1..=4).map(|n| {
        let (api, buyer, label) = (api.clone(), buyer.clone(), format!("A-1-{n}"));
        async move { api.hold(&buyer, date, &[&label]).await }
    });
    let (waited, refused): (Vec<_>, Vec<_>) = futures_util::future::join_all(four)
        .await
        .into_iter()
        .partition(|answer| answer.status == 202);
    assert_eq!(
        (waited.len(), refused.len()),
        (3, 1),
        "{waited:?} {refused:?}"
    );
    for answer in refused {
        met.expect(answer, "overloaded");
    }
    hall.system.workers[0].signal(Signal::SIGCONT);
    let open = waited
        .into_iter()
        .find(|a| a.status == 202)
        .expect("an open outcome");
    let location = open.headers["location"].to_str().expect("ASCII").to_owned();
    let path = location
        .strip_prefix("/api/v1")
        .expect("a path of ours")
        .to_owned();
    let decided = tokio::time::timeout(crate::hall::PATIENCE, async {
        loop {
            let answer = api.get(Some(&buyer), &path).await;
            if answer.status != 202 {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    met.expect(decided.await.expect("decided"), "command-expired");
}

/// Bytes that were no message.
async fn dead_letters(hall: &mut Hall, met: &mut Met) {
    let id = uuid::Uuid::now_v7();
    hall.sql(&format!(
        "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, \
                                  error, dead_letter_id) \
         VALUES ('ledger', -1, 0, 1, -1, '', '', '{id}')"
    ))
    .await;
    let path = format!("/admin/dead-letters/{id}/retry");
    let (admin, body) = (hall.admin(), json!({}));
    let answer = hall.api.post(&admin, &path, "unused-key", &body).await;
    met.expect(answer, "dead-letter-unreadable");
}

/// The database lacks a table, then refuses everybody.
async fn broken_database(hall: &mut Hall, met: &mut Met) {
    let buyer = hall.buyer();
    hall.sql("ALTER TABLE payment RENAME TO payment_gone").await;
    met.expect(
        hall.api.get(Some(&buyer), "/payments").await,
        "internal-error",
    );
    hall.sql("ALTER TABLE payment_gone RENAME TO payment").await;
    let name = hall.system.db.name().to_owned();
    let server = &onsale_testkit::shared()
        .await
        .expect("servers")
        .database_url;
    let mut admin = onsale_platform::db::connect(server)
        .await
        .expect("a connection");
    let refuse = format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    );
    admin.batch_execute(&refuse).await.expect("refused");
    met.expect(
        hall.api.get(Some(&buyer), "/payments").await,
        "dependency-unavailable",
    );
    // And it heals.
    let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    admin.batch_execute(&allow).await.expect("allowed");
    let healed = tokio::time::timeout(crate::hall::PATIENCE, async {
        while hall.api.get(Some(&buyer), "/payments").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    healed.await.expect("healed");
}
