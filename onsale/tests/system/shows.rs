//! Whole shows that are cancelled, where something is in the way.

use crate::admin::{letters, retry};
use crate::bus::{Bus, command};
use crate::cancellation::{balance, cancel_show, finished, paid, won};
use crate::catalogue::patch;
use crate::hall::{Hall, PARTITIONS, PATIENCE};
use crate::orders::{captured_too_late, captured_unheard};
use crate::shop::{PRICE, with_gateway};
use crate::tasks::{are, tasks};
use onsale_platform::clock::host_now;
use onsale_platform::metric;
use onsale_schema::{Lane, ScheduleId, UserId, admission, partition};
use onsale_testkit::api::id;
use onsale_testkit::{Buyer, SystemOptions};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

async fn progress(hall: &Hall, date: Uuid) -> Value {
    let path = format!("/admin/schedules/{date}/cancellation");
    let shown = hall.api.get(Some(&hall.admin()), &path).await;
    shown.expect(200).body
}

/// One reservation breaks a rule of the tables, one an assertion. Neither keeps the other buyers
/// waiting, nor another show.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cancelled_is_set_aside_and_keeps_nobody_waiting() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let (date, other) = (hall.date(4).await, hall.date(4).await);
    let buyers: Vec<Buyer> = hall.buyers(4);
    let mut sold = Vec::new();
    for (buyer, seat) in buyers.iter().zip(["A-1-1", "A-1-2", "A-1-3", "A-1-4"]) {
        sold.push(paid(&hall, buyer, date, &[seat]).await);
    }
    paid(&hall, &buyers[0], other, &["A-1-1"]).await;
    hall.sql(&format!(
        "ALTER TABLE cancellation ADD CONSTRAINT poison CHECK (reservation_id <> '{}');
         UPDATE payment SET refunded = amount WHERE reservation_id = '{}'",
        sold[0], sold[2]
    ))
    .await;
    cancel_show(&hall, date, "the-show-key", "Storm")
        .await
        .expect(202);
    hall.becomes("SELECT count(*) AS n FROM show_aside", 2)
        .await;
    cancel_show(&hall, other, "other-show-key", "Storm")
        .await
        .expect(202);
    let shown = finished(&hall, other).await;
    assert_eq!((&shown["done"], &shown["setAside"]), (&json!(1), &json!(0)));

    hall.becomes(
        &format!("SELECT done AS n FROM show_cancellation WHERE schedule_id = '{date}'"),
        2,
    )
    .await;
    let shown = progress(&hall, date).await;
    assert_eq!(shown["state"], "RUNNING");
    assert_eq!((&shown["total"], &shown["done"]), (&json!(4), &json!(2)));
    assert_eq!(shown["setAside"], 2);
    for (n, expected) in [(1, 100_000), (3, 100_000), (2, 90_000)] {
        assert_eq!(balance(&hall, &buyers[n]).await, won(expected));
    }
    let aside = |count| format!("{} {count}", metric::SHOW_ASIDE);
    hall.tells(&aside(2)).await;
    // Each is tried again, in a while.
    let later = "SELECT count(*) AS n FROM show_aside \
                 WHERE next_at > now() + interval '30 seconds' AND error <> ''";
    assert_eq!(hall.number(later).await, 2);

    hall.sql(&format!(
        "ALTER TABLE cancellation DROP CONSTRAINT poison;
         UPDATE payment SET refunded = 0 WHERE reservation_id = '{}';
         UPDATE show_aside SET next_at = now();
         UPDATE show_cancellation SET next_at = now() WHERE finished_at IS NULL",
        sold[2]
    ))
    .await;
    let shown = finished(&hall, date).await;
    assert_eq!((&shown["done"], &shown["setAside"]), (&json!(4), &json!(0)));
    assert_eq!(shown["refunded"], won(40_000));
    assert_eq!(hall.number("SELECT count(*) AS n FROM show_aside").await, 0);
    hall.tells(&aside(0)).await;
    hall.map_becomes(date, "AAAA").await;
    hall.assert_sound().await;
}

/// An old command to open the sale, sent once more after the show was cancelled to the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_show_that_was_cancelled_is_not_opened_by_what_comes_late() {
    let mut hall = Hall::open().await;
    let date = hall.date(4).await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let path = format!("/admin/schedules/{date}");
    hall.sql("ALTER TABLE sale ADD CONSTRAINT poison CHECK (hold_ms <> 77000)")
        .await;
    let open = json!({ "saleState": "OPEN", "holdSeconds": 77 });
    let failed = patch(&api, &admin, &path, &open).await;
    failed.expect_problem(503, "dependency-unavailable");
    hall.sql("ALTER TABLE sale DROP CONSTRAINT poison").await;
    paid(&hall, &buyer, date, &["A-1-1"]).await;
    cancel_show(&hall, date, "the-show-key", "Storm")
        .await
        .expect(202);
    finished(&hall, date).await;

    let letter = letters(&api, &admin, "lane=seats").await;
    let told = retry(&api, &admin, &letter[0]).await;
    assert_eq!(told["body"]["code"], "sale-closed", "{told}");
    let closed = api.hold(&buyer, date, &["A-1-2"]).await;
    closed.expect_problem(410, "sale-closed");
    // The other rules may change, and CLOSED is no mistake.
    for change in [
        json!({ "seatsPerUser": 2 }),
        json!({ "saleState": "CLOSED" }),
    ] {
        let changed = patch(&api, &admin, &path, &change).await.expect(200);
        assert_eq!(changed.body["saleState"], "CLOSED");
    }
    let for_good = "SELECT count(*) AS n FROM sale WHERE cancelled AND state = 'CLOSED'";
    assert_eq!(hall.number(for_good).await, 1);
    hall.assert_sound().await;
}

/// An order that had its seats again before the show was cancelled, and is sold after the end has the
/// show looked at again.
#[tokio::test(flavor = "multi_thread")]
async fn a_show_goes_on_when_something_is_sold_after_its_end() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_too_late(&mut hall).await;
    hall.park_reholding().await;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.order_becomes(&buyer, &order, "REHOLDING").await;
    let reheld = "SELECT count(*) AS n FROM reservation WHERE rehold_order IS NOT NULL";
    hall.becomes(reheld, 1).await;
    // As if the show were worked off to its end by who saw nothing of that; and once it goes on, whoever
    // works it off is late.
    hall.sql(
        "CREATE FUNCTION end_at_once() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN NEW.finished_at := clock_timestamp(); NEW.next_at := NULL; \
                 NEW.pass_is_last := true; RETURN NEW; END$$; \
         CREATE TRIGGER end_at_once BEFORE INSERT ON show_cancellation FOR EACH ROW \
         EXECUTE FUNCTION end_at_once(); \
         CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN NEW.next_at := NEW.next_at + interval '1 hour'; RETURN NEW; END$$; \
         CREATE TRIGGER later BEFORE UPDATE ON show_cancellation FOR EACH ROW \
         WHEN (OLD.finished_at IS NOT NULL AND NEW.finished_at IS NULL) EXECUTE FUNCTION later()",
    )
    .await;
    cancel_show(&hall, date, "the-show-key", "Storm")
        .await
        .expect(202);
    let ended = "SELECT count(*) AS n FROM show_cancellation WHERE finished_at IS NOT NULL";
    hall.becomes(ended, 1).await;
    // Money is on its way, and so it is shown.
    let shown = progress(&hall, date).await;
    assert_eq!(
        (&shown["state"], &shown["done"]),
        (&json!("RUNNING"), &json!(0))
    );

    hall.sql("UPDATE payment_order SET next_at = now()").await;
    hall.order_becomes(&buyer, &order, "PAID").await;
    // It goes on from the moment of the sale, and the pass that may be under way is not the last one.
    let reopened = "SELECT count(*) AS n FROM show_cancellation \
                    WHERE finished_at IS NULL AND NOT pass_is_last \
                      AND next_at > now() + interval '5 minutes'";
    assert_eq!(hall.number(reopened).await, 1);
    hall.sql("UPDATE show_cancellation SET next_at = now()")
        .await;
    let shown = finished(&hall, date).await;
    assert_eq!((&shown["total"], &shown["done"]), (&json!(1), &json!(1)));
    assert_eq!(shown["refunded"], won(PRICE));
    hall.becomes("SELECT count(*) AS n FROM refund WHERE status = 'DONE'", 1)
        .await;
    assert_eq!(hall.book().await, [PRICE, -PRICE]);
    hall.map_becomes(date, "AA").await;
    hall.assert_reconciled().await;
}

/// Whoever wanted to pay, and was captured before the show was cancelled: nobody had heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_captured_amid_the_cancellation_of_its_show_is_given_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (date, buyer, order) = captured_unheard(&mut hall).await;
    cancel_show(&hall, date, "the-show-key", "Storm")
        .await
        .expect(202);
    let closed = "SELECT count(*) AS n FROM sale WHERE cancelled";
    hall.becomes(closed, 1).await;
    // As long as nobody knows whether it is captured, the show is not cancelled to the end.
    let shown = progress(&hall, date).await;
    assert_eq!(
        (&shown["state"], &shown["done"]),
        (&json!("RUNNING"), &json!(0))
    );

    hall.gateway(Method::DELETE, "/switches", None).await;
    let refunded = hall.order_becomes(&buyer, &order, "REFUNDED").await;
    assert_eq!(refunded["failCode"], "sale-closed", "{refunded}");
    // It was never sold, so that nothing of it was cancelled.
    let shown = finished(&hall, date).await;
    assert_eq!((&shown["total"], &shown["done"]), (&json!(0), &json!(0)));
    hall.map_becomes(date, "AA").await;
    assert_eq!(hall.book().await, [PRICE, -PRICE]);
    hall.assert_reconciled().await;
}

/// It goes back without a cancellation of its own, and is money on its way all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_captured_amid_the_cancellation_of_its_show_counts_until_it_is_back() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let admin = hall.admin();
    let (date, buyer, order) = captured_unheard(&mut hall).await;
    cancel_show(&hall, date, "the-show-key", "Storm")
        .await
        .expect(202);
    hall.becomes("SELECT count(*) AS n FROM sale WHERE cancelled", 1)
        .await;
    hall.switch(json!({ "error": 0, "refundDecline": "all" }))
        .await;
    hall.order_becomes(&buyer, &order, "REFUNDING").await;
    are(&mut hall, "STUCK", 1).await;
    let on_its_way = |shown: Value| (shown["pending"].clone(), shown["failed"].clone());
    let shown = finished(&hall, date).await;
    assert_eq!(on_its_way(shown), (json!(0), json!(1)));

    hall.switch(json!({ "refundDecline": 0, "refundFailure": "all" }))
        .await;
    let open = tasks(&hall, &admin, "").await;
    let refund = id(&open["items"][0]["refundId"]);
    crate::tasks::retry(&hall, &admin, refund, "once-more-please")
        .await
        .expect(200);
    let shown = progress(&hall, date).await;
    assert_eq!(shown["state"], "FINISHED");
    assert_eq!(on_its_way(shown), (json!(1), json!(0)));

    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.order_becomes(&buyer, &order, "REFUNDED").await;
    let shown = progress(&hall, date).await;
    assert_eq!(on_its_way(shown), (json!(0), json!(0)));
    hall.assert_reconciled().await;

    // A payment that comes to light after the end is on its way as well.
    let as_if = |status| format!("UPDATE payment_order SET status = '{status}', next_at = NULL");
    hall.sql(&as_if("UNKNOWN")).await;
    let shown = progress(&hall, date).await;
    assert_eq!(shown["state"], "RUNNING");
    assert!(shown["finishedAt"].is_null(), "{shown}");
    hall.sql(&as_if("REFUNDED")).await;
    assert_eq!(progress(&hall, date).await["state"], "FINISHED");
}

/// Who waits for a show that is cancelled is told so by its room, which lets nobody in any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_room_of_a_cancelled_show_is_paused() {
    let mut hall = Hall::open().await;
    let (date, off) = (hall.date(4).await, hall.date(4).await);
    let (api, buyer) = (hall.api.clone(), hall.buyer());
    let room = json!({ "mode": "FIFO", "capacity": 0 });
    let room = crate::queue_policy::amend(&hall, date, room).await;
    assert_eq!(room["paused"], false);
    let path = format!("/schedules/{date}/queue");
    let joined = api.post(&buyer, &path, "the-room-key", &Value::Null).await;
    assert_eq!(joined.expect(201).body["room"], "OPEN");

    for (date, key) in [(date, "the-show-key"), (off, "without-a-room")] {
        cancel_show(&hall, date, key, "Storm").await.expect(202);
        finished(&hall, date).await;
    }
    let rooms = "SELECT count(*) AS n FROM waiting_room";
    assert_eq!(hall.number(rooms).await, 1, "none is made for that");
    let room = crate::queue_policy::amend(&hall, date, json!({})).await;
    assert_eq!(room["paused"], true);
    // For good: neither is it opened again, nor one made that would be.
    for (date, change) in [
        (date, json!({ "paused": false })),
        (date, json!({ "paused": false, "mode": "DRAW" })),
        (off, json!({ "mode": "FIFO" })),
    ] {
        let opened = crate::queue_policy::ask(&hall, date, change).await;
        opened.expect_problem(410, "sale-closed");
    }
    // Who got by the ingress before the show was cancelled is refused by the owner.
    let schedule_id = ScheduleId(date);
    let no = partition::of_schedule(schedule_id, PARTITIONS);
    let kind = admission::Kind::Policy {
        schedule_id,
        change: admission::PolicyChange {
            paused: Some(false),
            ..admission::PolicyChange::default()
        },
    };
    let mut bus = Bus::connect(&hall).await;
    let subject = bus.subjects.partition(Lane::Admission, no);
    let late = command(UserId(Uuid::now_v7()), host_now(), kind);
    let sent = vec![bus.send(&subject, vec![late]).await];
    let outcomes = bus.outcomes::<admission::Outcome>(sent).await;
    let outcomes: Vec<_> = outcomes.into_values().flatten().collect();
    let refused = admission::Outcome::Refused(admission::Refusal::ShowCancelled);
    assert_eq!(outcomes, [refused]);
    let paused = async {
        loop {
            let told = api.get(Some(&buyer), &path).await.expect(200).body;
            assert_eq!(told["status"], "WAITING");
            if told["room"] == "PAUSED" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, paused)
        .await
        .expect("who waits is told");
    // Nobody gets in line any more, and who is there keeps the ticket.
    let other = hall.buyer();
    let late = api.post(&other, &path, "too-late-for-it", &Value::Null);
    late.await.expect_problem(410, "sale-closed");
    let again = api.post(&buyer, &path, "once-more-a-key", &Value::Null);
    assert_eq!(again.await.expect(200).body["status"], "WAITING");
    hall.assert_sound().await;
}
