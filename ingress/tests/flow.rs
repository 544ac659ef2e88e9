//! Commands out, replies back: batching, answers, open outcomes, back-pressure. The test plays the
//! owner at the other end of real streams.
#![allow(
    clippy::disallowed_methods,
    reason = "test tasks are joined or end with the test"
)]

mod common;

use common::{Bench, SCHEDULE, start, until};
use onsale_ingress::token::{Asked, CommandToken};
use onsale_schema::message::{Command, CommandMessage, Lag, encode};
use onsale_schema::seats::{Hold, Kind, Outcome, Refusal};
use onsale_schema::status::ReservationStatus;
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, MessageId, Money, ScheduleId, SeatNo, Timestamp, UserId, partition};
use onsale_testkit::{Answer, Api, Buyer};
use serde_json::json;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

const HELD_AT: Timestamp = Timestamp(1_800_000_000_000_000);

fn hold_in_background(
    api: &Api,
    buyer: &Buyer,
    key: &str,
    seats: &'static [&'static str],
) -> JoinHandle<Answer> {
    let (api, buyer, key) = (api.clone(), buyer.clone(), key.to_owned());
    tokio::spawn(async move {
        let body = json!({"scheduleId": SCHEDULE, "seats": seats});
        api.post(&buyer, "/reservations", &key, &body).await
    })
}

fn accept(command: &Command<Kind>) -> Outcome {
    let Kind::Hold {
        reservation_id,
        schedule_id,
        seats,
        ..
    } = &command.kind
    else {
        panic!("no hold: {command:?}");
    };
    Outcome::Held(Hold {
        reservation_id: *reservation_id,
        schedule_id: *schedule_id,
        seats: seats.clone(),
        total: Money::won(249_000),
        held_at: HELD_AT,
        expires_at: HELD_AT.plus_ms(300_000),
    })
}

async fn store_outcomes(bench: &Bench, message: &CommandMessage<Kind>, outcomes: &[Outcome]) {
    let bytes: String = encode(&outcomes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let partition = partition::of_schedule(ScheduleId(SCHEDULE), 4);
    bench
        .sql(&format!(
            "INSERT INTO outcome VALUES ('seats', {partition}, 0, 1, 1, 1, '{}', '\\x{bytes}', now())",
            message.id
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_sent_and_answered() {
    let bench = start(&[]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let buyer = bench.api.buyer().await;
    let asked = hold_in_background(&bench.api, &buyer, "key-0001", &["A-2-1", "A-1-2"]);
    let message = owner.next().await;
    let [command] = message.commands.as_slice() else {
        panic!("{message:?}");
    };
    assert_eq!(command.user.0, buyer.user_id);
    let Kind::Hold {
        reservation_id,
        schedule_id,
        seats,
        ..
    } = &command.kind
    else {
        panic!("{command:?}");
    };
    assert_eq!(
        (schedule_id.0, seats.as_slice()),
        (SCHEDULE, [SeatNo(3), SeatNo(1)].as_slice())
    );
    owner.reply(&message, vec![accept(command)]).await;
    let answer = asked.await.unwrap().expect(201);
    let location = format!("/api/v1/reservations/{reservation_id}");
    assert_eq!(answer.headers["location"], location);
    let mut body = answer.body;
    assert!(body.as_object_mut().unwrap().remove("serverTime").is_some());
    assert_eq!(
        body,
        json!({
            "reservationId": reservation_id.0, "scheduleId": SCHEDULE, "status": "HELD",
            "seats": [
                {"label": "A-2-1", "price": {"amount": 99_000, "currency": "KRW"}},
                {"label": "A-1-2", "price": {"amount": 150_000, "currency": "KRW"}},
            ],
            "together": false,
            "total": {"amount": 249_000, "currency": "KRW"},
            "heldAt": HELD_AT, "expiresAt": HELD_AT.plus_ms(300_000),
        })
    );

    // The same key is the same command, the same body the same fingerprint, whatever its form.
    let again =
        format!("{{ \"seats\" :[\"A\\u002d2-1\",\"A-1-2\"],\"scheduleId\":\"{SCHEDULE}\"}}");
    let request = bench.api.request(reqwest::Method::POST, "/reservations");
    let request = request
        .bearer_auth(&buyer.token)
        .header("idempotency-key", "key-0001");
    let request = request
        .header("content-type", "application/json")
        .body(again);
    let api = bench.api.clone();
    let asked = tokio::spawn(async move { api.send(request).await });
    let repeated = owner.next().await;
    assert_eq!(repeated.commands[0].id, command.id);
    assert_eq!(repeated.commands[0].fingerprint, command.fingerprint);
    let reused = Outcome::Refused(Refusal::KeyReused);
    owner.reply(&repeated, vec![reused]).await;
    asked
        .await
        .unwrap()
        .expect_problem(422, "idempotency-key-reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_codes() {
    let bench = start(&[]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let buyer = bench.api.buyer().await;
    let taken = Refusal::SeatUnavailable {
        seats: vec![SeatNo(1)],
        places: vec![],
    };
    let conflict = Refusal::StateConflict {
        status: ReservationStatus::Paid,
    };
    for (refusal, status, code) in [
        (taken, 409, "seat-unavailable"),
        (Refusal::CommandExpired, 410, "command-expired"),
        (Refusal::UnknownSchedule, 404, "not-found"),
        (Refusal::UnknownSeat, 422, "unknown-seat"),
        (Refusal::SaleNotOpen, 425, "sale-not-open"),
        (Refusal::SaleClosed, 410, "sale-closed"),
        (
            Refusal::SeatLimitExceeded { limit: 4 },
            422,
            "seat-limit-exceeded",
        ),
        (conflict, 409, "reservation-state-conflict"),
    ] {
        let key = Uuid::now_v7().to_string();
        let asked = hold_in_background(&bench.api, &buyer, &key, &["A-1-2"]);
        let message = owner.next().await;
        owner.reply(&message, vec![Outcome::Refused(refusal)]).await;
        let answer = asked.await.unwrap().expect_problem(status, code);
        match code {
            "seat-unavailable" => assert_eq!(answer.body["seats"], json!(["A-1-2"])),
            "seat-limit-exceeded" => assert_eq!(answer.body["limit"], 4),
            "reservation-state-conflict" => assert_eq!(answer.body["reservationStatus"], "PAID"),
            _ => {}
        }
    }
    let asked = hold_in_background(&bench.api, &buyer, "key-0001", &["A-1-2"]);
    let message = owner.next().await;
    owner.reply(&message, vec![Outcome::DeadLettered]).await;
    asked
        .await
        .unwrap()
        .expect_problem(503, "dependency-unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_holds_are_refused_here() {
    let bench = start(&[]).await;
    let buyer = bench.api.buyer().await;
    let post = |key: &'static str, body: serde_json::Value| {
        let (api, buyer) = (&bench.api, &buyer);
        async move { api.post(buyer, "/reservations", key, &body).await }
    };
    let seats = |labels: &[&str]| json!({"scheduleId": SCHEDULE, "seats": labels});
    let unknown = post("key-0001", seats(&["A-1-1", "Z-9-9"])).await;
    let unknown = unknown.expect_problem(422, "unknown-seat");
    assert_eq!(
        unknown.body["errors"],
        json!([{"pointer": "/seats/1", "code": "unknown-seat"}])
    );
    for body in [
        seats(&[]),
        seats(&["A-1-1", "A-1-1"]),
        seats(&["A-1-1"; 101]),
    ] {
        post("key-0001", body)
            .await
            .expect_problem(422, "validation-failed");
    }
    let best = json!({"scheduleId": SCHEDULE, "bestAvailable": {"count": 0}});
    post("key-0001", best)
        .await
        .expect_problem(422, "validation-failed");
    let nowhere = json!({"scheduleId": Uuid::nil(), "seats": ["A-1-1"]});
    post("key-0001", nowhere)
        .await
        .expect_problem(404, "not-found");
    post("short", seats(&["A-1-1"]))
        .await
        .expect_problem(400, "idempotency-key-invalid");
    let keyless = bench.api.request(reqwest::Method::POST, "/reservations");
    let keyless = keyless.bearer_auth(&buyer.token).json(&seats(&["A-1-1"]));
    bench
        .api
        .send(keyless)
        .await
        .expect_problem(400, "idempotency-key-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_gather_while_messages_are_on_their_way() {
    const REQUESTS: usize = 300;
    let bench = start(&[]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let buyer = bench.api.buyer().await;
    // A lone one leaves at once.
    let lone = hold_in_background(&bench.api, &buyer, "key-lone", &["A-1-1"]);
    let message = owner.next().await;
    assert_eq!(message.commands.len(), 1);
    owner
        .reply(&message, vec![accept(&message.commands[0])])
        .await;
    let _ = lone.await.unwrap().expect(201);

    // With the server stopped, a few messages are on their way and the rest gathers behind them.
    bench
        .nats
        .server
        .signal(onsale_testkit::spawn::Signal::SIGSTOP);
    let mut asked = JoinSet::new();
    for n in 0..REQUESTS {
        let task = hold_in_background(&bench.api, &buyer, &format!("key-{n:04}"), &["A-1-1"]);
        asked.spawn(async move { task.await.unwrap() });
    }
    let gate = &bench.app.gate;
    let (schedule, partition) = (
        ScheduleId(SCHEDULE),
        partition::of_schedule(ScheduleId(SCHEDULE), 4),
    );
    until("all wait", || async {
        gate.waiting(schedule) == REQUESTS as u32
    })
    .await;
    assert!(gate.admit(Lane::Seats, partition).is_ok());
    bench
        .nats
        .server
        .signal(onsale_testkit::spawn::Signal::SIGCONT);

    let (mut messages, mut commands) = (0, 0);
    while commands < REQUESTS {
        let message = owner.next().await;
        assert!(message.commands.len() <= 256);
        messages += 1;
        commands += message.commands.len();
        owner
            .reply(&message, message.commands.iter().map(accept).collect())
            .await;
    }
    assert!(messages <= 6, "{messages} messages for {REQUESTS} commands");
    while let Some(answer) = asked.join_next().await {
        let _ = answer.unwrap().expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_outcome_is_told_later() {
    let bench = start(&["--request-timeout-ms", "300"]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let (buyer, other) = (bench.api.buyer().await, bench.api.buyer().await);
    let ask = async |key: &str, owner: &mut common::Owner<Kind>| {
        let asked = hold_in_background(&bench.api, &buyer, key, &["A-1-2"]);
        let message = owner.next().await;
        let answer = asked.await.unwrap().expect(202);
        let location = answer.headers["location"].to_str().unwrap().to_owned();
        (
            message,
            location.strip_prefix("/api/v1").unwrap().to_owned(),
        )
    };
    let (message, accepted) = ask("key-0001", &mut owner).await;
    let look = async |location: &str| bench.api.get(Some(&buyer), location).await;
    let pending = look(&accepted).await.expect(202);
    assert_eq!(pending.body["state"], "PENDING");
    bench
        .api
        .get(Some(&other), &accepted)
        .await
        .expect_problem(404, "not-found");
    look("/commands/nonsense")
        .await
        .expect_problem(404, "not-found");

    store_outcomes(&bench, &message, &[accept(&message.commands[0])]).await;
    let decided = look(&accepted).await.expect(200);
    assert_eq!(decided.body["status"], 201);
    assert_eq!(decided.body["body"]["seats"][0]["label"], "A-1-2");
    let location = decided.body["location"].as_str().unwrap();
    assert!(location.ends_with(decided.body["body"]["reservationId"].as_str().unwrap()));

    bench.sql("DELETE FROM outcome").await;
    let taken = Outcome::Refused(Refusal::SeatUnavailable {
        seats: vec![SeatNo(1)],
        places: vec![],
    });
    store_outcomes(&bench, &message, &[taken]).await;
    let refused = look(&accepted).await.expect(200);
    assert_eq!(refused.body["status"], 409);
    assert_eq!(refused.body["body"]["seats"], json!(["A-1-2"]));

    // Its partition is past the deadline, and there is no outcome. What the stream's clock says
    // about that is nothing: it may be ahead of those who set and judge the deadline.
    let (_, lost) = ask("key-0002", &mut owner).await;
    let partition = partition::of_schedule(ScheduleId(SCHEDULE), 4);
    bench
        .sql(&format!(
            "INSERT INTO partition (lane, partition_no, applied_at) \
             VALUES ('seats', {partition}, now() + interval '1 hour')"
        ))
        .await;
    let _ = look(&lost).await.expect(202);
    bench
        .sql("UPDATE partition SET decided_at = now() + interval '1 second'")
        .await;
    look(&lost).await.expect_problem(410, "command-expired");

    // A release is as open, and ends as a hold does.
    let held = Uuid::from_u128(1);
    bench
        .sql(&format!(
            "INSERT INTO reservation VALUES ('{held}', '{SCHEDULE}', '{}', gen_random_uuid(), \
             gen_random_uuid(), '{{1}}', 1, 4, 'HELD', now(), now() + interval '1 hour', NULL); \
             DELETE FROM partition",
            buyer.user_id
        ))
        .await;
    let path = format!("/reservations/{held}");
    let release = bench.api.delete(&buyer, &path).await.expect(202);
    let release = release.headers["location"].to_str().unwrap().to_owned();
    let release = release.strip_prefix("/api/v1").unwrap();
    let _ = look(release).await.expect(202);
    bench
        .sql(&format!(
            "INSERT INTO partition (lane, partition_no, decided_at) \
             VALUES ('seats', {partition}, now() + interval '1 second')"
        ))
        .await;
    look(release).await.expect_problem(410, "command-expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_decided_and_forgotten_has_not_expired() {
    let bench = start(&[]).await;
    let buyer = bench.api.buyer().await;
    let look = async |hours: i64| {
        let path = bench.app.signer.sign(&CommandToken {
            user: UserId(buyer.user_id),
            asked: Asked::Payment,
            partition: None,
            message_id: MessageId(Uuid::nil()),
            index: 0,
            deadline: bench.app.clock.now().plus_ms(-hours * 3_600_000),
        });
        let path = format!("/commands/{path}");
        bench.api.get(Some(&buyer), &path).await
    };
    look(22).await.expect_problem(410, "command-expired");
    look(23).await.expect_problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_certainly_not_sent_is_said_so() {
    let mut bench = start(&[]).await;
    let buyer = bench.api.buyer().await;
    let client = async_nats::connect(bench.nats.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    jetstream.delete_stream("SEATS").await.unwrap();
    let refused = bench.api.hold(&buyer, SCHEDULE, &["A-1-1"]).await;
    let refused = refused.expect_problem(503, "dependency-unavailable");
    assert_eq!(refused.headers["retry-after"], "1");
    bench.nats.server.kill9().await;
    until("the lost connection is noticed", || async {
        bench.api.get(None, "//readyz").await.status == 503
    })
    .await;
    let refused = bench.api.hold(&buyer, SCHEDULE, &["A-1-1"]).await;
    refused.expect_problem(503, "dependency-unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_and_waiting_commands_shed() {
    let bench = start(&["--schedule-in-flight-max", "1"]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let buyer = bench.api.buyer().await;
    let first = hold_in_background(&bench.api, &buyer, "key-0001", &["A-1-1"]);
    let message = owner.next().await;
    let second = bench.api.hold(&buyer, SCHEDULE, &["A-1-2"]).await;
    second.expect_problem(503, "overloaded");
    owner
        .reply(&message, vec![accept(&message.commands[0])])
        .await;
    let _ = first.await.unwrap().expect(201);

    let partition = partition::of_schedule(ScheduleId(SCHEDULE), 4);
    let lag = Lag {
        lane: Lane::Seats,
        partition,
        epoch: 1,
        undecided: 9,
        age_ms: 7000,
    };
    let subject = Subjects::new("").unwrap().lag(Lane::Seats, partition);
    bench.broadcast(subject, encode(&lag)).await;
    until("the lag is known", || async {
        bench.app.gate.admit(Lane::Seats, partition).is_err()
    })
    .await;
    let shed = bench.api.hold(&buyer, SCHEDULE, &["A-1-2"]).await;
    let shed = shed.expect_problem(503, "overloaded");
    assert_eq!(shed.headers["retry-after"], "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_and_payments_shed_when_many_wait() {
    let bench = start(&[
        "--money-in-flight-max",
        "1",
        "--request-timeout-ms",
        "10000",
    ])
    .await;
    let buyer = bench.api.buyer().await;
    let mut asked = JoinSet::new();
    for _ in 0..2 {
        let (api, by) = (bench.api.clone(), buyer.clone());
        asked.spawn(async move { api.charge(&by, 100).await });
        let (api, by) = (bench.api.clone(), buyer.clone());
        asked.spawn(async move { api.pay(&by, Uuid::nil()).await });
    }
    // Of both, one waits for an outcome that nobody decides, and the other is refused meanwhile.
    for _ in 0..2 {
        let shed = asked.join_next().await.unwrap().unwrap();
        shed.expect_problem(503, "overloaded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_has_lost_its_owner_is_shut() {
    let bench = start(&["--lag-max-ms", "1000", "--request-timeout-ms", "100"]).await;
    let buyer = bench.api.buyer().await;
    let hold = || bench.api.hold(&buyer, SCHEDULE, &["A-1-1"]);
    // Nobody was ever heard: there may be an owner in a moment.
    let _ = hold().await.expect(202);
    let partition = partition::of_schedule(ScheduleId(SCHEDULE), 4);
    let lag = Lag {
        lane: Lane::Seats,
        partition,
        epoch: 1,
        undecided: 0,
        age_ms: 0,
    };
    let subject = Subjects::new("").unwrap().lag(Lane::Seats, partition);
    bench.broadcast(subject.clone(), encode(&lag)).await;
    until("its silence is noticed", || async {
        bench.app.gate.admit(Lane::Seats, partition).is_err()
    })
    .await;
    let shed = hold().await.expect_problem(503, "overloaded");
    assert!(shed.headers.contains_key("retry-after"));
    bench.broadcast(subject, encode(&lag)).await;
    until("it is heard again", || async {
        bench.app.gate.admit(Lane::Seats, partition).is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_before_the_process_does() {
    let bench = start(&[]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let buyer = bench.api.buyer().await;
    let asked = hold_in_background(&bench.api, &buyer, "key-0001", &["A-1-1"]);
    let message = owner.next().await;
    bench.shutdown.cancel();
    until("it listens no more", || async {
        tokio::net::TcpStream::connect(bench.addr).await.is_err()
    })
    .await;
    owner
        .reply(&message, vec![accept(&message.commands[0])])
        .await;
    let _ = asked.await.unwrap().expect(201);
    let ended = tokio::time::timeout(Duration::from_secs(10), bench.served).await;
    ended.expect("it ends").unwrap().unwrap();
}
