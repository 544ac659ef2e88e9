//! What the gateway tells by itself: believed if it is signed and recent, and then only looked into. So
//! nothing follows from what comes again, late, or in another order.

use crate::admin::letters;
use crate::hall::Hall;
use crate::shop::{Order, PRICE, with_gateway, won};
use onsale_platform::webhook::{self, Secret};
use onsale_platform::{clock, metric};
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Api, system};
use reqwest::Method;
use serde_json::json;
use std::iter::once;
use uuid::Uuid;

/// The secret that came after the one of the tests, and one that nobody has.
const NEXT_SECRET: &str = "whsec_Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
const STRANGE_SECRET: &str = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

/// A notification as the gateway sends it, or as somebody else does.
#[derive(Clone, Copy, Debug)]
pub struct Notification<'a> {
    secrets: &'a [&'a str],
    event: &'a str,
    /// How long ago it was signed, in seconds.
    age_s: i64,
    order: Uuid,
    status: &'a str,
    /// Whether the body was changed after it was signed.
    is_changed: bool,
}

impl<'a> Notification<'a> {
    /// That an order is captured, by the gateway, now.
    pub fn of(event: &'a str, order: Uuid) -> Self {
        Self {
            secrets: &[system::WEBHOOK_SECRET],
            event,
            age_s: 0,
            order,
            status: "DONE",
            is_changed: false,
        }
    }
}

pub async fn notify(api: &Api, what: &Notification<'_>) -> Answer {
    let secrets = what.secrets.iter().map(|text| text.parse());
    let secrets: Result<Vec<Secret>, _> = secrets.collect();
    let at_s = clock::host_now().micros() / 1_000_000 - what.age_s;
    let at_s = u64::try_from(at_s).expect("after 1970");
    let body = |status: &str| {
        json!({ "eventType": "PAYMENT_STATUS_CHANGED",
            "data": { "orderId": what.order, "status": status } })
        .to_string()
    };
    let signed = body(what.status);
    let signature = webhook::sign(
        &secrets.expect("secrets"),
        what.event,
        at_s,
        signed.as_bytes(),
    );
    let request = api.request(Method::POST, "/webhooks/payments");
    let request = request
        .header(webhook::ID, what.event)
        .header(webhook::TIMESTAMP, at_s)
        .header(webhook::SIGNATURE, signature)
        .header("content-type", "application/json");
    let sent = match what.is_changed {
        true => body("CANCELED"),
        false => signed,
    };
    api.send(request.body(sent)).await
}

/// Has the notification taken, and the order looked into after that.
async fn noted(hall: &mut Hall, what: &Notification<'_>) {
    notify(&hall.api, what).await.expect(204);
    let order = what.order;
    let due = format!(
        "SELECT count(*) AS n FROM payment_order \
         WHERE order_id = '{order}' AND next_at IS NOT NULL"
    );
    hall.becomes(&due, 0).await;
}

async fn events(hall: &mut Hall) -> i64 {
    hall.number("SELECT count(*) AS n FROM gateway_event").await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_signed_and_recent_is_believed() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(1).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let good = Notification::of("event-1", order.id);
    let strange = [STRANGE_SECRET];
    for (what, bad) in [
        (
            "no signature",
            Notification {
                secrets: &[],
                ..good
            },
        ),
        (
            "another's",
            Notification {
                secrets: &strange,
                ..good
            },
        ),
        (
            "too old",
            Notification {
                age_s: 3600,
                ..good
            },
        ),
        ("just too old", Notification { age_s: 302, ..good }),
        (
            "from the future",
            Notification {
                age_s: -320,
                ..good
            },
        ),
        (
            "changed",
            Notification {
                is_changed: true,
                ..good
            },
        ),
    ] {
        let answer = notify(&hall.api, &bad).await;
        assert_eq!(answer.code(), "webhook-signature-invalid", "{what}");
        answer.expect_problem(401, "webhook-signature-invalid");
    }
    assert_eq!(events(&mut hall).await, 0);
    // It says that the payment is done; the gateway says that it is not.
    for event in ["event-1", "event-1", "event-2"] {
        noted(&mut hall, &Notification { event, ..good }).await;
    }
    assert_eq!(events(&mut hall).await, 2);
    let ready = hall.order_becomes(&buyer, &order, "READY").await;
    assert_eq!(ready["refunded"], won(0));
    hall.switch(json!({ "webhookCopies": 3, "lateWebhooksMs": 200 }))
        .await;
    hall.confirm(&buyer, &order).await.expect(200);
    let told = "SELECT count(*) AS n FROM gateway_event WHERE event_id NOT LIKE 'event-%'";
    hall.becomes(told, 1).await;
    assert_eq!(hall.book().await, [PRICE]);
    hall.assert_reconciled().await;
}

/// An order that was purged, or that is another shop's.
#[tokio::test(flavor = "multi_thread")]
async fn money_of_an_order_that_nobody_knows_is_a_dead_letter() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let admin = hall.admin();
    for (number, status) in (1..).zip(["IN_PROGRESS", "CANCELED", "EXPIRED", ""]) {
        let event = format!("event-{number}");
        let unknown = Notification {
            status,
            ..Notification::of(&event, Uuid::now_v7())
        };
        notify(&hall.api, &unknown).await.expect(204);
    }
    assert!(letters(&hall.api, &admin, "").await.is_empty());
    let orders = [Uuid::now_v7(), Uuid::now_v7()];
    for (order, status) in orders.iter().zip(["DONE", "PARTIAL_CANCELED"]) {
        let unknown = Notification {
            status,
            ..Notification::of(status, *order)
        };
        // It is kept, so that the gateway need not say it again; if it does, that is nothing new.
        for _ in 0..2 {
            notify(&hall.api, &unknown).await.expect(204);
        }
    }
    let all = letters(&hall.api, &admin, "lane=settlement").await;
    assert_eq!(all.len(), 2, "{all:?}");
    for (letter, order) in all.iter().rev().zip(orders) {
        assert_eq!(letter["command"]["kind"], "gateway-event");
        let error = text(&letter["error"]);
        assert!(error.contains(&order.to_string()), "{letter}");
    }
    assert_eq!(events(&mut hall).await, 2);
    let untried = |count| format!("{} {count}", metric::DEAD_LETTERS_UNTRIED);
    hall.tells(&untried(2)).await;
    // Whoever has seen to it says so by trying again, and the letter is done with.
    let path = format!(
        "/admin/dead-letters/{}/retry",
        text(&all[0]["deadLetterId"])
    );
    let tried = hall
        .api
        .post(&admin, &path, "seen-to-it", &serde_json::Value::Null);
    let _ = tried.await.expect(200);
    let all = letters(&hall.api, &admin, "lane=settlement").await;
    assert_eq!(all.len(), 2, "{all:?}");
    hall.tells(&untried(1)).await;
    let page = format!("http://{}/metrics", hall.system.workers[0].metrics_addr);
    let page = reqwest::get(page).await.expect("metrics");
    let page = page.text().await.expect("text");
    for (name, labels, count) in [
        ("onsale_dead_letters_total", &["settlement"][..], 2),
        (
            "onsale_commands_decided_total",
            &["gateway-event", "not-found"],
            4,
        ),
    ] {
        let mut lines = page.lines().filter(|line| line.starts_with(name));
        let line = lines.find(|line| labels.iter().all(|label| line.contains(label)));
        let line = line.unwrap_or_else(|| panic!("{name}: {page}"));
        assert!(line.ends_with(&format!(" {count}")), "{line}");
    }
    // What the gateway repeats is nothing new either for as long as letters are kept.
    hall.sql(
        "UPDATE gateway_event SET at = at - interval '89 days';
         INSERT INTO gateway_event VALUES ('ancient', now() - interval '91 days')",
    )
    .await;
    let worker = &mut hall.system.workers[0];
    worker.stop().await;
    worker.restart().await.expect("a worker");
    let ancient = "SELECT count(*) AS n FROM gateway_event WHERE event_id = 'ancient'";
    hall.becomes(ancient, 0).await;
    let again = Notification::of("DONE", orders[0]);
    notify(&hall.api, &again).await.expect(204);
    assert_eq!(letters(&hall.api, &admin, "lane=settlement").await, all);
    hall.assert_reconciled().await;
}

/// The gateway has few addresses, and a word for each payment; whoever guesses has one as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_an_address_counts_what_is_not_signed() {
    let options = with_gateway()
        .setting("ONSALE_RATE_ADDRESS_PER_S", 1)
        .setting("ONSALE_RATE_ADDRESS_BURST", 5);
    let hall = Hall::open_with(options).await;
    let unknown = Uuid::now_v7();
    for number in 0..50 {
        let event = format!("event-{number}");
        let told = Notification {
            status: "IN_PROGRESS",
            ..Notification::of(&event, unknown)
        };
        let answer = notify(&hall.api, &told).await.expect(204);
        assert!(!answer.headers.contains_key("ratelimit"));
    }
    let guessed = Notification {
        secrets: &[STRANGE_SECRET],
        ..Notification::of("guessed", unknown)
    };
    let mut refused = 0;
    let limited = loop {
        let answer = notify(&hall.api, &guessed).await;
        if answer.status != 401 {
            break answer;
        }
        refused += 1;
        assert!(refused < 1000, "nothing limits who guesses");
    };
    assert!(refused >= 5, "{refused}");
    limited.expect_problem(429, "rate-limited");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_replaced_without_a_notification_lost() {
    let both = format!("{NEXT_SECRET},{}", system::WEBHOOK_SECRET);
    let options = with_gateway().setting("ONSALE_GATEWAY_WEBHOOK_SECRETS", both);
    let mut hall = Hall::open_with(options).await;
    let date = hall.date(1).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &["A-1-1"]).await;
    let [old, new] = [system::WEBHOOK_SECRET, NEXT_SECRET];
    let all: [&[&str]; 4] = [&[old], &[new], &[old, new], &[STRANGE_SECRET, old]];
    for (number, secrets) in (1..).zip(all) {
        let event = format!("event-{number}");
        let by = Notification {
            secrets,
            ..Notification::of(&event, order.id)
        };
        noted(&mut hall, &by).await;
        assert_eq!(events(&mut hall).await, number);
    }
    // The old one is taken away at last.
    hall.system.ingresses[0].stop().await;
    hall.system.ingresses[0].set("ONSALE_GATEWAY_WEBHOOK_SECRETS", NEXT_SECRET);
    hall.system.ingresses[0]
        .restart()
        .await
        .expect("an ingress");
    for (secrets, status) in [([old], 401), ([new], 204)] {
        let by = Notification {
            secrets: &secrets,
            ..Notification::of("the-last", order.id)
        };
        notify(&hall.api, &by).await.expect(status);
    }
    hall.order_becomes(&buyer, &order, "READY").await;
    hall.assert_reconciled().await;
}

/// What is known of an order and of the gateway's book, and how many notifications had an effect.
async fn known(
    hall: &mut Hall,
    buyer: &onsale_testkit::Buyer,
    order: &Order,
) -> (String, Vec<i64>) {
    let shown = hall.api.get(Some(buyer), &order.path()).await.expect(200);
    (shown.body.to_string(), hall.book().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_again_or_in_another_order_nothing_follows_from_it() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let date = hall.date(3).await;
    let (buyer, other) = (hall.buyer(), hall.buyer());
    // The gateway's own come in another order: that of a refund before that of its capture.
    hall.switch(json!({ "reorderWebhooks": true, "webhookCopies": 2 }))
        .await;
    let order = hall.order(&buyer, date, &["A-1-1", "A-1-2"]).await;
    hall.confirm(&buyer, &order).await.expect(200);
    let cancelled = hall
        .cancel(&buyer, order.reservation, "cancel-one", Some(&["A-1-1"]))
        .await;
    cancelled.expect(200);
    hall.becomes("SELECT count(*) AS n FROM gateway_event", 2)
        .await;
    hall.map_becomes(date, "ASA").await;
    hall.becomes("SELECT count(*) AS n FROM refund WHERE status = 'DONE'", 1)
        .await;

    // And somebody sends later ones first, then older ones, each twice, of one that is paid, and of one
    // that was declined.
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.switch(json!({ "decline": 1 })).await;
    let declined = hall.order(&other, date, &["A-1-3"]).await;
    let answer = hall.confirm(&other, &declined).await;
    answer.expect_problem(402, "payment-declined");
    for (buyer, order) in [(&buyer, &order), (&other, &declined)] {
        let before = known(&mut hall, buyer, order).await;
        let statuses = [
            "CANCELED",
            "PARTIAL_CANCELED",
            "DONE",
            "IN_PROGRESS",
            "EXPIRED",
        ];
        for (number, status) in (1..).zip(statuses) {
            let event = format!("{}-{number}", order.id);
            let is_old = number % 2 == 1;
            let late = Notification {
                status,
                age_s: if is_old { 200 } else { 0 },
                ..Notification::of(&event, order.id)
            };
            for what in once(late).chain(once(late)) {
                noted(&mut hall, &what).await;
            }
        }
        assert_eq!(known(&mut hall, buyer, order).await, before);
    }
    assert_eq!(hall.book().await, [2 * PRICE, -PRICE]);
    hall.assert_reconciled().await;
}
