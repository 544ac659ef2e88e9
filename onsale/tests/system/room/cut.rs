//! What an outage does: an ingress that is cut off from the owners says that it knows nothing, and heals;
//! clients that are cut off from all ingresses lose nothing.

use super::line::{AGAIN, Line};
use super::{by_arrival, status, stream, told};
use crate::hall::PATIENCE;
use onsale_schema::admission::PolicyChange;
use onsale_testkit::SystemOptions;
use onsale_testkit::proxy::Fault;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_hears_nothing_of_a_room_shows_nothing_for_long_and_heals() {
    let options = SystemOptions::default().ingresses(2).proxied();
    let line = Line::start(options, by_arrival(0)).await;
    let (buyer, apis) = (line.hall.buyer(), line.apis());
    let ticket = line.ticket(&apis[0], &buyer).await;
    for api in &apis {
        line.becomes(api, &buyer, &ticket, "WAITING").await;
    }
    let link = &line.hall.system.ingresses[0].links().nats;
    link.set(Fault::BlackHole);
    let cut_off = async {
        loop {
            let told = line.poll(&apis[0], &buyer, Some(&ticket)).await;
            if told.status == 503 {
                return told;
            }
            assert_eq!(status(&told.expect(200).body), "WAITING");
            // Others answer as ever.
            let told = line.poll(&apis[1], &buyer, Some(&ticket)).await;
            assert_eq!(status(&told.expect(200).body), "WAITING");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, cut_off).await;
    let told = told.expect("it says that it knows nothing");
    let told = told.expect_problem(503, "dependency-unavailable");
    assert_eq!(told.headers["retry-after"], "5");
    line.poll(&apis[1], &buyer, Some(&ticket)).await.expect(200);

    link.set(Fault::Pass);
    let healed = async {
        while line.poll(&apis[0], &buyer, Some(&ticket)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, healed)
        .await
        .expect("it heals");
    line.becomes(&apis[0], &buyer, &ticket, "WAITING").await;
}

/// Who waits by a stream does not ask, and its owner would take it for silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_where_its_ingress_is_cut_off_and_its_client_keeps_its_turn_elsewhere() {
    let policy = PolicyChange {
        presence_ms: Some(15_000),
        ..by_arrival(1)
    };
    let options = SystemOptions::default().ingresses(2).proxied();
    let mut line = Line::start(options, policy).await;
    let [cut_off, other] = &line.apis()[..] else {
        panic!("two ingresses")
    };
    let (first, a, b) = (line.hall.buyer(), other.buyer().await, line.hall.buyer());
    let ticket = line.ticket(other, &first).await;
    line.becomes(other, &first, &ticket, "ADMITTED").await;
    let of_a = line.ticket(cut_off, &a).await;
    let of_b = line.ticket(other, &b).await;
    let mut open = stream(&line, cut_off, &a, Some(&of_a)).await;
    told(&mut open, "WAITING").await;

    let link = &line.hall.system.ingresses[0].links().nats;
    link.set(Fault::BlackHole);
    // Silence counts while others are heard.
    let others_ask = async {
        loop {
            line.poll(other, &b, Some(&of_b)).await.expect(200);
            tokio::time::sleep(AGAIN).await;
        }
    };
    let ends = async { while open.block().await.expect("whole").is_some() {} };
    tokio::select! {
        ended = tokio::time::timeout(PATIENCE, ends) => ended.expect("the stream ends"),
        () = others_ask => {}
    }
    let mut elsewhere = stream(&line, other, &a, Some(&of_a)).await;
    told(&mut elsewhere, "WAITING").await;
    // For longer than somebody may be silent.
    let long = line.since_joined(2, 25);
    while line.hall.number(&long).await < 1 {
        line.poll(other, &b, Some(&of_b)).await.expect(200);
        tokio::time::sleep(AGAIN).await;
    }
    line.leave(other, &first, None).await.expect(204);
    told(&mut elsewhere, "ADMITTED").await;
    let told_b = line.poll(other, &b, Some(&of_b)).await.expect(200);
    assert_eq!(status(&told_b.body), "WAITING");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_reach_no_ingress_for_long_are_passed_over_by_nobody() {
    let policy = PolicyChange {
        presence_ms: Some(15_000),
        ..by_arrival(1)
    };
    let mut line = Line::start(SystemOptions::default(), policy).await;
    let api = line.hall.api.clone();
    let (all, tickets) = line.behind_the_first(&api, 4).await;
    for (buyer, ticket) in all.iter().zip(&tickets).skip(1) {
        line.polled_until_reported(&api, buyer, ticket).await;
    }
    // Nobody asks for longer than somebody may be silent, as the ingress tells the owner each second.
    let long = line.since_joined(3, 25);
    line.hall.becomes(&long, 1).await;
    // The last in line is the first to come back.
    line.polled_until_reported(&api, &all[3], &tickets[3]).await;
    line.leave(&api, &all[0], None).await.expect(204);
    line.polled_until_reported(&api, &all[3], &tickets[3]).await;
    line.becomes(&api, &all[1], &tickets[1], "ADMITTED").await;
    line.hall.assert_sound().await;
}
