//! How a waiting room lets people in is changed while it does, and everybody sees it.

use crate::bus::{Bus, command};
use crate::catalogue::{decided, patch};
use crate::hall::{Hall, PARTITIONS, soon};
use onsale_platform::clock::host_now;
use onsale_schema::admission::{Kind, Outcome, Ticket};
use onsale_schema::{Lane, ScheduleId, UserId, partition};
use onsale_testkit::{Answer, Api, SystemOptions};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// People who join in one message.
const PEOPLE: usize = 100;

/// So many people who have not been there before join the room of a date.
pub async fn join(bus: &mut Bus, date: Uuid, people: usize) -> Vec<Ticket> {
    let schedule_id = ScheduleId(date);
    let no = partition::of_schedule(schedule_id, PARTITIONS);
    let subject = bus.subjects.partition(Lane::Admission, no);
    let join = || {
        let user = UserId(Uuid::now_v7());
        command(
            user,
            host_now(),
            Kind::Join {
                schedule_id,
                code: None,
            },
        )
    };
    let mut tickets = Vec::with_capacity(people);
    for from in (0..people).step_by(PEOPLE) {
        let joins = (from..people.min(from + PEOPLE)).map(|_| join());
        let sent = vec![bus.send(&subject, joins.collect()).await];
        let outcomes = bus.outcomes::<Outcome>(sent).await;
        tickets.extend(outcomes.into_values().flatten().map(|outcome| {
            let Outcome::Joined(ticket) = outcome else {
                panic!("{outcome:?}")
            };
            ticket
        }));
    }
    tickets
}

/// Asks for other rules of a date's waiting room.
pub async fn ask(hall: &Hall, date: Uuid, queue: Value) -> Answer {
    let path = format!("/admin/schedules/{date}");
    patch(&hall.api, &hall.admin(), &path, &json!({ "queue": queue })).await
}

/// The rules of a date's waiting room, after they were changed.
pub async fn amend(hall: &Hall, date: Uuid, queue: Value) -> Value {
    ask(hall, date, queue).await.expect(200).body["queue"].clone()
}

async fn shown(api: &Api, date: Uuid) -> Value {
    let path = format!("/schedules/{date}");
    api.get(None, &path).await.expect(200).body
}

/// A draw is one of those who are there at the opening: it is not spent on nobody without a word.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_draw_nobody_is_refused() {
    let mut hall = Hall::open().await;
    let date = hall.date(1).await;
    let refused = async |hall: &Hall, date: Uuid, queue: Value, pointer: &str| {
        let refused = ask(hall, date, queue.clone()).await;
        let expected = json!([{ "pointer": pointer, "code": "draw-too-late" }]);
        assert_eq!(refused.body["errors"], expected, "{queue}");
        refused.expect_problem(422, "validation-failed");
    };
    refused(&hall, date, json!({ "mode": "DRAW" }), "/queue/mode").await;
    // Nor is there one where people are let in in another order.
    let sql = "SELECT count(*) AS n FROM waiting_room WHERE lobby_order = 'ARRIVAL'";
    ask(&hall, date, json!({ "mode": "FIFO" }))
        .await
        .expect(200);
    hall.becomes(sql, 1).await;
    let later = json!({ "mode": "DRAW", "opensAt": "2040-01-01T00:00:00Z" });
    refused(&hall, date, later.clone(), "/queue/mode").await;

    // What is yet to be drawn may be switched off and on again, and what has been.
    let date = hall.date(1).await;
    for queue in [
        later.clone(),
        json!({ "mode": "OFF" }),
        json!({ "mode": "DRAW" }),
        json!({ "opensAt": "2026-01-01T00:00:00Z" }),
    ] {
        ask(&hall, date, queue).await.expect(200);
    }
    let sql = "SELECT count(*) AS n FROM waiting_room WHERE lobby_order = 'DRAWN'";
    hall.becomes(sql, 1).await;
    for mode in ["OFF", "DRAW"] {
        ask(&hall, date, json!({ "mode": mode })).await.expect(200);
    }
    // But not once more, of others.
    let another = json!({ "opensAt": "2040-01-01T00:00:00Z" });
    refused(&hall, date, another.clone(), "/queue/opensAt").await;

    // Nor where the opening has passed and nobody has noted it yet.
    let (drawn, by_arrival) = (hall.date(1).await, hall.date(1).await);
    let opens_at = soon(3);
    for (date, mode) in [(drawn, "DRAW"), (by_arrival, "FIFO")] {
        let queue = json!({ "mode": mode, "opensAt": opens_at });
        ask(&hall, date, queue).await.expect(200);
    }
    hall.system.workers[0].kill9().await;
    let passed = format!("SELECT (clock_timestamp() > '{opens_at}')::int::bigint AS n");
    hall.becomes(&passed, 1).await;
    refused(&hall, drawn, another, "/queue/opensAt").await;
    refused(&hall, by_arrival, later, "/queue/mode").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_what_was_decided_and_everybody_sees_it() {
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let date = hall.date(10).await;
    let elsewhere = Api::new(hall.system.url(1));
    // Nobody has said anything about a room: what one would begin with.
    let before = shown(&hall.api, date).await;
    let mut expected = json!({ "mode": "OFF", "paused": false, "opensAt": before["bookingOpensAt"],
                               "capacity": 100, "ratePerSecond": 10, "passSeconds": 600,
                               "presenceSeconds": 60, "holdsPerPass": 10 });
    assert_eq!(
        (&before["queue"], &before["waitingRoom"]),
        (&expected, &json!(false))
    );
    shown(&elsewhere, date).await;

    // The owner of a room has looked at the booking window, and then that is moved.
    ask(&hall, date, json!({})).await.expect(200);
    let rooms = "SELECT count(*) AS n FROM waiting_room";
    assert_eq!(hall.number(rooms).await, 0);
    let path = format!("/admin/schedules/{date}");
    let later = json!({ "bookingOpensAt": "2020-04-01T10:00:00Z" });
    let later = patch(&hall.api, &hall.admin(), &path, &later)
        .await
        .expect(200);
    expected["opensAt"] = later.body["bookingOpensAt"].clone();

    expected["mode"] = json!("FIFO");
    assert_eq!(
        amend(&hall, date, json!({ "mode": "FIFO" })).await,
        expected
    );
    let since = std::time::Instant::now();
    while shown(&elsewhere, date).await["queue"] != expected {
        assert!(
            since.elapsed() < Duration::from_secs(1),
            "readers see it within a second"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown(&elsewhere, date).await["waitingRoom"], true);
    let concert = before["concertId"].as_str().expect("a concert");
    let path = format!("/concerts/{concert}/schedules");
    let list = elsewhere.get(None, &path).await.expect(200).body;
    assert_eq!(list[0]["waitingRoom"], true);

    // What is not said stays as it is.
    for (name, value) in [
        ("paused", json!(true)),
        ("opensAt", json!("2028-01-01T00:00:00.000Z")),
        ("capacity", json!(0)),
        ("ratePerSecond", json!(500)),
        ("passSeconds", json!(90)),
        ("presenceSeconds", json!(30)),
        ("holdsPerPass", json!(1)),
        ("mode", json!("OFF")),
    ] {
        expected[name] = value.clone();
        assert_eq!(amend(&hall, date, json!({ name: value })).await, expected);
    }
    let after = shown(&hall.api, date).await;
    assert_eq!(
        (&after["queue"], &after["waitingRoom"]),
        (&expected, &json!(false))
    );
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_policy_is_refused() {
    let mut hall = Hall::open().await;
    let date = hall.date(10).await;
    let path = format!("/admin/schedules/{date}");
    let admin = hall.admin();
    for with in [
        json!({ "holdSeconds": 60 }),
        json!({ "startsAt": "2030-05-01T10:00:00Z" }),
        json!({ "cancellation": { "untilSecondsBefore": null } }),
    ] {
        let mut body = json!({ "queue": { "capacity": 5 } });
        let members = body.as_object_mut().expect("an object");
        members.extend(with.as_object().expect("an object").clone());
        let answer = patch(&hall.api, &admin, &path, &body).await;
        let answer = answer.expect_problem(422, "validation-failed");
        let expected = json!([{ "pointer": "/queue", "code": "not-alone" }]);
        assert_eq!(answer.body["errors"], expected, "{body}");
    }
    for (queue, pointer) in [
        (json!({ "capacity": 100_001 }), "/queue/capacity"),
        (json!({ "ratePerSecond": 0 }), "/queue/ratePerSecond"),
        (json!({ "passSeconds": 86_401 }), "/queue/passSeconds"),
        (json!({ "presenceSeconds": 14 }), "/queue/presenceSeconds"),
        (json!({ "holdsPerPass": 101 }), "/queue/holdsPerPass"),
        (json!({ "mode": "SOMETIMES" }), "/queue/mode"),
        (json!({ "paused": null }), "/queue/paused"),
        (json!({ "bypass": true }), "/queue"),
    ] {
        let answer = ask(&hall, date, queue).await;
        let answer = answer.expect_problem(422, "validation-failed");
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{answer:?}");
    }
    let nowhere = ask(&hall, Uuid::now_v7(), json!({ "mode": "FIFO" })).await;
    nowhere.expect_problem(404, "not-found");
    let rooms = "SELECT count(*) AS n FROM waiting_room";
    assert_eq!(hall.number(rooms).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_are_let_in_as_soon_as_the_capacity_says_so() {
    let mut hall = Hall::open().await;
    let date = hall.date(10).await;
    let mut bus = Bus::connect(&hall).await;
    let fifo = json!({ "mode": "FIFO", "capacity": 2, "ratePerSecond": 10_000 });
    amend(&hall, date, fifo).await;
    join(&mut bus, date, 5).await;
    let admitted = "SELECT count(*) AS n FROM ticket WHERE status = 'ADMITTED'";
    hall.becomes(admitted, 2).await;
    // Whoever would rather look later finds the date as it was decided.
    let path = format!("/admin/schedules/{date}");
    let admin = hall.admin();
    let request = hall
        .api
        .request(Method::PATCH, &path)
        .bearer_auth(&admin.token);
    let request = request.header("prefer", "respond-async");
    let request = request.json(&json!({ "queue": { "capacity": 4 } }));
    let open = hall.api.send(request).await.expect(202);
    let location = open.headers["location"].to_str().expect("ASCII");
    let decided = decided(&hall.api, &admin, location).await;
    assert_eq!(
        (&decided["status"], &decided["body"]["queue"]["capacity"]),
        (&json!(200), &json!(4))
    );
    hall.becomes(admitted, 4).await;
    // Who is in stays in.
    amend(&hall, date, json!({ "capacity": 0 })).await;
    hall.becomes(admitted, 4).await;
    hall.assert_sound().await;
}
