//! Guests, as they are told of themselves: by the first answer, by polls and by streams.

use super::line::{Line, never, status};
use super::{by_arrival, signer, stream, told};
use crate::access_codes::{self, LONG_TIME, join, made};
use onsale_schema::admission::{GUEST_POLL_MS, PolicyChange};
use onsale_testkit::SystemOptions;
use onsale_testkit::api::text;
use serde_json::{Value, json};

/// A code that lets in nobody before the opening.
pub async fn vip(line: &mut Line) -> String {
    let (from, until) = LONG_TIME;
    let body = json!({ "label": "VIP", "grants": "VIP", "uses": 10, "validFrom": from,
                       "validUntil": until });
    let made = made(&mut line.hall, line.date, &body).await;
    text(&made["items"][0]["code"]).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_with_the_ticket_of_who_has_become_a_guest_also_elsewhere() {
    let mut line = Line::start(SystemOptions::default(), by_arrival(1)).await;
    let api = line.hall.api.clone();
    let (first, buyer) = (line.hall.buyer(), api.buyer().await);
    let admitted = line.ticket(&api, &first).await;
    line.becomes(&api, &first, &admitted, "ADMITTED").await;
    let in_line = line.ticket(&api, &buyer).await;
    let mut open = stream(&line, &api, &buyer, Some(&in_line)).await;
    assert!(told(&mut open, "WAITING").await.get("guest").is_none());
    let code = vip(&mut line).await;
    let guest = join(&line, &api, &buyer, &code).await.expect(201).body;
    assert_eq!(told(&mut open, "LEFT").await["ticket"], in_line);
    let waiting = told(&mut open, "WAITING").await;
    assert_eq!(
        (&waiting["ticket"], &waiting["guest"]),
        (&guest["ticket"], &json!(true))
    );

    // The ingress is another process from now on, which was told nothing. Who comes back shows the ticket
    // that it began with, or none.
    line.hall.system.ingresses[0].kill9().await;
    let ended = async { while let Ok(Some(_)) = open.block().await {} };
    tokio::time::timeout(crate::hall::PATIENCE, ended)
        .await
        .expect("the stream ends");
    let ingress = &mut line.hall.system.ingresses[0];
    ingress.restart().await.expect("an ingress");
    let api = line.apis().remove(0);
    let mut by_ticket = stream(&line, &api, &buyer, Some(&in_line)).await;
    let mut looked_up = stream(&line, &api, &buyer, None).await;
    assert_eq!(told(&mut by_ticket, "LEFT").await["ticket"], in_line);
    line.leave(&api, &first, None).await.expect(204);
    for stream in [&mut by_ticket, &mut looked_up] {
        let admitted = told(stream, "ADMITTED").await;
        assert_eq!(admitted["ticket"], guest["ticket"]);
        let pass = signer().read_pass(text(&admitted["pass"])).expect("a pass");
        assert_eq!(pass.ticket.user_id.0, buyer.user_id);
    }
    line.hall.assert_sound().await;
}

/// Else who comes with a presale would hear of its pass when a quarter of the time is over after which one
/// counts as silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_asks_first_soon_after_it_has_joined() {
    let early = PolicyChange {
        opens_at: Some(never()),
        ..by_arrival(1)
    };
    let mut line = Line::start(SystemOptions::default(), early).await;
    let api = line.hall.api.clone();
    let buyers = line.hall.buyers(3);
    let code = vip(&mut line).await;
    let after_ms = |told: &Value| told["pollAfterMs"].as_u64().expect("a time");
    let joined = join(&line, &api, &buyers[0], &code).await.expect(201).body;
    assert!(after_ms(&joined) <= GUEST_POLL_MS, "{joined}");
    // As long as nothing can happen to it, it asks as seldom as it may.
    let ticket = text(&joined["ticket"]).to_owned();
    let polled = line.poll(&api, &buyers[0], Some(&ticket)).await;
    let polled = polled.expect(200).body;
    assert_eq!(status(&polled), "WAITING");
    assert!(after_ms(&polled) > 2 * GUEST_POLL_MS, "{polled}");
    let again = join(&line, &api, &buyers[0], &code).await.expect(200).body;
    assert!(after_ms(&again) > 2 * GUEST_POLL_MS, "{again}");
    // Its line is told, and another guest is behind it; also without a ticket, by its row.
    assert_eq!(polled["position"], 1);
    let second = join(&line, &api, &buyers[2], &code).await.expect(201).body;
    let ticket = text(&second["ticket"]).to_owned();
    let known = async {
        loop {
            let told = line.poll(&api, &buyers[2], Some(&ticket)).await;
            let told = told.expect(200).body;
            if !told["ahead"].is_null() {
                return told;
            }
        }
    };
    let known = tokio::time::timeout(crate::hall::PATIENCE, known).await;
    let known = known.expect("its owner tells how far the line is");
    assert_eq!(
        (&known["position"], &known["ahead"]),
        (&json!(2), &json!(1))
    );
    let by_row = line.poll(&api, &buyers[2], None).await.expect(200).body;
    assert_eq!(by_row["ticket"], ticket);
    // One with a presale hears of its pass by the first poll, or one soon after.
    let (_, presale) = access_codes::code(&mut line.hall, line.date, 1, LONG_TIME).await;
    let joined = join(&line, &api, &buyers[1], &presale).await.expect(201);
    assert!(after_ms(&joined.body) <= GUEST_POLL_MS, "{}", joined.body);
    let ticket = text(&joined.body["ticket"]).to_owned();
    line.becomes(&api, &buyers[1], &ticket, "ADMITTED").await;
    line.hall.assert_sound().await;
}
