//! The waiting room as its clients see it: the same from every ingress, also after a crash, and nobody
//! is told anything that is not theirs.

mod cost;
mod cut;
pub mod full;
mod guests;
pub mod line;
mod overview;
mod reports;
mod sale;

use crate::live_map::stream::Stream;
use crate::prefer::outcome;
use line::{LONG_AGO, Line, never, status};
use onsale_ingress::room::Signer;
use onsale_schema::admission::PolicyChange;
use onsale_schema::status::QueueMode;
use onsale_testkit::api::{id, text};
use onsale_testkit::spawn::Signal;
use onsale_testkit::{Api, Buyer, SystemOptions, system};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

fn signer() -> Signer {
    Signer::new(&system::TOKEN_SECRET.parse().expect("a secret"))
}

fn by_arrival(capacity: u32) -> PolicyChange {
    PolicyChange {
        mode: Some(QueueMode::Fifo),
        opens_at: Some(LONG_AGO),
        capacity: Some(capacity),
        rate_per_second: Some(1000),
        ..PolicyChange::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_waits_is_admitted_and_leaves_whichever_ingress_it_asks() {
    let options = SystemOptions::default().ingresses(2);
    let early = PolicyChange {
        opens_at: Some(never()),
        ..by_arrival(1)
    };
    let mut line = Line::start(options, early).await;
    let apis = line.apis();
    let (a, b) = (line.hall.buyer(), line.hall.buyer());

    let joined = line.join(&apis[0], &a, "the-first-key").await.expect(201);
    assert_eq!(status(&joined.body), "LOBBY");
    assert!(joined.body["position"].is_null() && joined.body["ahead"].is_null());
    assert_eq!(joined.body["eta"]["known"], false);
    for (api, key, code) in [
        (&apis[1], "the-first-key", 201),
        (&apis[0], "another-key", 200),
        (&apis[1], "the-third-key", 200),
    ] {
        let again = line.join(api, &a, key).await.expect(code);
        assert_eq!(again.body["ticketId"], joined.body["ticketId"], "{key}");
        assert_eq!(again.body["ticket"], joined.body["ticket"], "{key}");
    }
    let key = "the-first-key";
    let later = apis[1].post_request(&a, &line.path(), key, &Value::Null);
    let later = later.header("prefer", "respond-async");
    // With its owner at rest the command is still open when it is answered.
    line.hall.system.workers[0].signal(Signal::SIGSTOP);
    let later = apis[1].send(later).await.expect(202);
    line.hall.system.workers[0].signal(Signal::SIGCONT);
    let decided = outcome(&line.hall, &a, &later).await;
    assert_eq!(decided["status"], 201);
    assert_eq!(decided["body"]["ticket"], joined.body["ticket"]);
    let ticket_a = text(&joined.body["ticket"]).to_owned();
    let ticket_b = line.ticket(&apis[1], &b).await;
    for api in &apis {
        line.becomes(api, &a, &ticket_a, "LOBBY").await;
        line.becomes(api, &b, &ticket_b, "LOBBY").await;
    }

    line.amend(PolicyChange {
        opens_at: Some(LONG_AGO),
        ..PolicyChange::default()
    })
    .await;
    for api in &apis {
        let admitted = line.becomes(api, &a, &ticket_a, "ADMITTED").await;
        assert_eq!(
            (&admitted["position"], &admitted["ahead"]),
            (&json!(1), &json!(0))
        );
        let pass = signer().read_pass(text(&admitted["pass"])).expect("a pass");
        assert_eq!(pass.ticket.user_id.0, a.user_id);
        assert_eq!(pass.ticket.ticket_id.0, id(&joined.body["ticketId"]));
        assert_eq!(json!(pass.expires_at), admitted["passExpiresAt"]);
        let waiting = line.becomes(api, &b, &ticket_b, "WAITING").await;
        assert_eq!(
            (&waiting["position"], &waiting["ahead"]),
            (&json!(2), &json!(0))
        );
        assert!(waiting.get("pass").is_none(), "{waiting}");
    }

    line.leave(&apis[1], &a, None).await.expect(204);
    line.leave(&apis[0], &a, Some(&ticket_a)).await.expect(204);
    for api in &apis {
        // By its row, whatever this ingress has been told.
        let newest = line.poll(api, &a, None).await.expect(200);
        assert_eq!(status(&newest.body), "LEFT");
        assert!(newest.body["pollAfterMs"].is_null());
        line.becomes(api, &a, &ticket_a, "LEFT").await;
        line.becomes(api, &b, &ticket_b, "ADMITTED").await;
    }
    let anew = line.join(&apis[0], &a, "the-fourth-key").await.expect(201);
    assert_ne!(anew.body["ticketId"], joined.body["ticketId"]);
    let newest = line.poll(&apis[1], &a, None).await.expect(200);
    assert_eq!(newest.body["ticketId"], anew.body["ticketId"]);
    assert_eq!(newest.body["position"], 3);
    // A leave that means the ticket before does not end this one.
    let late = line.leave(&apis[0], &a, Some(&ticket_a)).await;
    late.expect_problem(404, "not-found");

    // An ingress that was just started says the same, without asking the owner.
    let pass = line.becomes(&apis[1], &b, &ticket_b, "ADMITTED").await;
    line.hall.system.ingresses[1].kill9().await;
    line.hall.system.ingresses[1]
        .restart()
        .await
        .expect("an ingress");
    assert!(line.hall.system.workers[0].stop().await.success());
    let apis = line.apis();
    let again = line.poll(&apis[1], &b, Some(&ticket_b)).await.expect(200);
    assert_eq!(again.body["pass"], pass["pass"]);
    let again = line.poll(&apis[1], &a, Some(&ticket_a)).await.expect(200);
    assert_eq!(status(&again.body), "LEFT");
    let ticket = text(&anew.body["ticket"]);
    let again = line.poll(&apis[1], &a, Some(ticket)).await.expect(200);
    assert_eq!(
        (status(&again.body), &again.body["position"]),
        ("WAITING", &json!(3))
    );
    // Those in line who try their luck cost the owner of the seats nothing.
    let held = apis[1].hold(&a, line.date, &["A-1-1"]).await;
    held.expect_problem(403, "queue-pass-required");
    line.hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_for_its_user_and_date_as_it_was_signed() {
    let mut line = Line::start(SystemOptions::default(), by_arrival(1)).await;
    let api = line.hall.api.clone();
    let (a, b) = (line.hall.buyer(), line.hall.buyer());
    let ticket = line.ticket(&api, &a).await;
    let refused = async |by: &Buyer, shown: &str| {
        let poll = line.poll(&api, by, Some(shown)).await;
        poll.expect_problem(403, "queue-ticket-invalid");
        let leave = line.leave(&api, by, Some(shown)).await;
        leave.expect_problem(403, "queue-ticket-invalid");
    };
    refused(&b, &ticket).await;
    for at in [0, 30, 60, ticket.len() - 1] {
        let mut edited = ticket.clone().into_bytes();
        edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
        refused(&a, &String::from_utf8(edited).expect("text")).await;
    }
    let admitted = line.becomes(&api, &a, &ticket, "ADMITTED").await;
    refused(&a, text(&admitted["pass"])).await;
    let none = line.poll(&api, &b, None).await;
    none.expect_problem(404, "not-found");
    line.leave(&api, &b, None)
        .await
        .expect_problem(404, "not-found");

    let other = line.hall.date(1).await;
    let path = format!("/schedules/{other}/queue");
    let request = api.request(Method::GET, &path).bearer_auth(&a.token);
    let request = request.header("queue-ticket", &ticket);
    api.send(request)
        .await
        .expect_problem(403, "queue-ticket-invalid");
    let off = api.post(&a, &path, "without-a-room", &Value::Null).await;
    off.expect_problem(409, "room-off");
    let missing = format!("/schedules/{}/queue", uuid::Uuid::now_v7());
    let off = api.post(&a, &missing, "without-a-date", &Value::Null).await;
    off.expect_problem(404, "not-found");
    // Of whom a ticket is, only its token says, on a stream, too.
    let path = format!("/schedules/{}/events?queueTicket={ticket}", line.date);
    let request = api.request(Method::GET, &path);
    api.send(request).await.expect_problem(401, "token-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_is_passed_over_and_next_when_it_returns() {
    let policy = PolicyChange {
        presence_ms: Some(15_000),
        ..by_arrival(1)
    };
    let mut line = Line::start(SystemOptions::default(), policy).await;
    let api = line.hall.api.clone();
    let (all, tickets) = line.behind_the_first(&api, 4).await;
    // All but the second are heard.
    let heard = [0, 2, 3];
    let silent = line.since_joined(1, 20);
    while line.hall.number(&silent).await == 0 {
        for no in heard {
            line.poll(&api, &all[no], Some(&tickets[no]))
                .await
                .expect(200);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    line.leave(&api, &all[0], None).await.expect(204);
    line.becomes(&api, &all[2], &tickets[2], "ADMITTED").await;
    // It returns, and is before whoever came after it.
    let back = line
        .poll(&api, &all[1], Some(&tickets[1]))
        .await
        .expect(200);
    assert_eq!(
        (status(&back.body), &back.body["ahead"]),
        ("WAITING", &json!(0))
    );
    line.polled_until_reported(&api, &all[1], &tickets[1]).await;
    line.leave(&api, &all[2], None).await.expect(204);
    line.becomes(&api, &all[1], &tickets[1], "ADMITTED").await;
    let waiting = line
        .poll(&api, &all[3], Some(&tickets[3]))
        .await
        .expect(200);
    assert_eq!(status(&waiting.body), "WAITING");
    line.hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_of_more_ahead_while_one_owner_after_the_other_is_killed() {
    const PEOPLE: usize = 60;
    let options = SystemOptions::default().ingresses(2).workers(2);
    let policy = PolicyChange {
        mode: Some(QueueMode::Draw),
        opens_at: Some(never()),
        rate_per_second: Some(4),
        ..by_arrival(1000)
    };
    let mut line = Line::start(options, policy).await;
    let apis = line.apis();
    let mut waiting = Vec::new();
    for (nth, buyer) in line.hall.buyers(PEOPLE).into_iter().enumerate() {
        let ticket = line.ticket(&apis[nth % 2], &buyer).await;
        waiting.push((buyer, ticket, None::<(u64, u64)>));
    }
    line.amend(PolicyChange {
        opens_at: Some(LONG_AGO),
        ..PolicyChange::default()
    })
    .await;
    let mut round = 0;
    while !waiting.is_empty() {
        round += 1;
        if round % 8 == 0 && round < 40 {
            let worker = &mut line.hall.system.workers[round / 8 % 2];
            worker.kill9().await;
            worker.restart().await.expect("a worker");
        }
        let mut still = Vec::new();
        for (buyer, ticket, before) in waiting {
            // At any ingress: each goes forward, though one may be some moments behind the other.
            let api = &apis[usize::from(buyer.user_id.as_bytes()[15] % 2)];
            let told = line.poll(api, &buyer, Some(&ticket)).await.expect(200).body;
            let now = told["position"].as_u64().zip(told["ahead"].as_u64());
            if let (Some(before), Some(now)) = (before, now) {
                assert_eq!(now.0, before.0, "{told}");
                assert!(now.1 <= before.1, "{told} after {before:?}");
            }
            match status(&told) {
                "LOBBY" | "WAITING" => still.push((buyer, ticket, now.or(before))),
                "ADMITTED" => assert!(told["pass"].is_string(), "{told}"),
                _ => panic!("{told}"),
            }
        }
        waiting = still;
        assert!(round < 600, "{} still wait", waiting.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    line.hall.assert_sound().await;
}

/// A stream of somebody who is signed in, with their ticket or without.
async fn stream(line: &Line, api: &Api, buyer: &Buyer, ticket: Option<&str>) -> Stream {
    let made = api.post(buyer, "/stream-tokens", "a-stream", &Value::Null);
    let token = made.await.expect(201);
    let shown = ticket.map_or_else(String::new, |ticket| format!("&queueTicket={ticket}"));
    let token = text(&token.body["streamToken"]);
    let path = format!("/schedules/{}/events?token={token}{shown}", line.date);
    let request = api.request(Method::GET, &path);
    Stream::of(request).await.expect("a stream")
}

/// Reads on until the stream tells of this status.
async fn told(stream: &mut Stream, wanted: &str) -> Value {
    let told = async {
        loop {
            let block = stream.block().await.expect("whole").expect("a block");
            let Some(data) = block.strip_prefix("event: queue\ndata: ") else {
                continue;
            };
            let told: Value = serde_json::from_str(data).expect(data);
            if status(&told) == wanted {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(crate::hall::PATIENCE, told).await;
    told.unwrap_or_else(|_| panic!("the stream never tells {wanted}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_the_position_and_counts_as_being_there() {
    let policy = PolicyChange {
        presence_ms: Some(15_000),
        ..by_arrival(1)
    };
    let mut line = Line::start(SystemOptions::default(), policy).await;
    let api = line.hall.api.clone();
    let (a, b, c) = (api.buyer().await, api.buyer().await, line.hall.buyer());
    let first = line.ticket(&api, &c).await;
    line.becomes(&api, &c, &first, "ADMITTED").await;
    let ticket = line.ticket(&api, &a).await;
    let mut by_ticket = stream(&line, &api, &a, Some(&ticket)).await;
    let waiting = told(&mut by_ticket, "WAITING").await;
    assert_eq!(
        (&waiting["position"], &waiting["ahead"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(waiting["ticket"], ticket);
    line.ticket(&api, &b).await;
    let mut looked_up = stream(&line, &api, &b, None).await;
    assert_eq!(told(&mut looked_up, "WAITING").await["position"], 3);

    // For longer than the room waits for who is silent, nobody asks.
    let long = line.since_joined(2, 20);
    line.hall.becomes(&long, 1).await;
    line.leave(&api, &c, None).await.expect(204);
    let admitted = told(&mut by_ticket, "ADMITTED").await;
    let pass = signer().read_pass(text(&admitted["pass"])).expect("a pass");
    assert_eq!(pass.ticket.user_id.0, a.user_id);
    line.leave(&api, &a, None).await.expect(204);
    told(&mut by_ticket, "LEFT").await;
    told(&mut looked_up, "ADMITTED").await;

    // Seats are told on the same stream.
    line.amend(PolicyChange {
        mode: Some(QueueMode::Off),
        ..PolicyChange::default()
    })
    .await;
    // The ingress and the owner of the seats hear of that some moments later.
    let held = async {
        loop {
            let held = api.hold(&b, line.date, &["A-1-1"]).await;
            if held.status == 201 {
                return;
            }
            held.expect_problem(403, "queue-pass-required");
        }
    };
    tokio::time::timeout(crate::hall::PATIENCE, held)
        .await
        .expect("the room is off");
    let seats = async {
        while !(looked_up.block().await.expect("whole").expect("a block")).contains("[[0,\"H\"]]") {
        }
    };
    tokio::time::timeout(crate::hall::PATIENCE, seats)
        .await
        .expect("the seat is told");

    // Somebody else's ticket does not open a stream.
    let token = api
        .post(&b, "/stream-tokens", "another", &Value::Null)
        .await
        .expect(201);
    let token = text(&token.body["streamToken"]);
    let path = format!(
        "/schedules/{}/events?token={token}&queueTicket={ticket}",
        line.date
    );
    let request = api.request(Method::GET, &path);
    api.send(request)
        .await
        .expect_problem(403, "queue-ticket-invalid");
}
