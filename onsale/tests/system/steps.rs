//! Every step of a payment through the gateway, of a charge of points by card, of a refund, of a
//! cancellation, of that of a whole show, of what a person does about a refund that is refused, and of what
//! follows when somebody gives money back in the gateway's own pages: its process is killed just
//! before and just after the step's commit, the step fails, the gateway fails, the step is repeated.
//! Of each order exactly one comes in the end: a sale or points, the money back, or nothing; and the
//! gateway's book says the same.
//!
//! All orders go through one system; its workers are killed once in each stage. In the first one are the
//! steps up to a sale, in the second those up to points, in the third those after a hold has lapsed,
//! after an account has filled, or after a sale was cancelled, in the next three those of refunds that
//! were refused: tried again, paid back by other means, and compared as these were the gateway's own pages;
//! in the seventh those of orders that are odd as all of their money went back there, and in the last one
//! those of shows that are cancelled.

mod cases;
mod pest;
mod sale;
mod stage;
mod stops;

use crate::bus::Bus;
use crate::hall::{PARTITIONS, PATIENCE};
use crate::shop::won;
use crate::tasks::give_back_by_hand;
use cases::{Befalls, Path, REFUNDS};
use diesel::sql_types::Binary;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use onsale_schema::message::{Command, decode};
use onsale_schema::{Lane, partition, seats};
use onsale_testkit::Answer;
use pest::Pest;
use reqwest::{Method, StatusCode};
use sale::{Sale, What};
use serde_json::json;
use stage::{LOOK_EVERY, Stage};
use std::collections::HashMap;
use stops::{Fault, Seen};
use uuid::Uuid;

/// Nobody may have more points than these, in won.
const BALANCE_CAP: i64 = 1_000_000;

/// Asks until nobody is told to come back later: what waits for who has just taken over is a lot.
async fn taken(ask: impl AsyncFn() -> Answer) -> Answer {
    let taken = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = ask().await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    taken.await.expect("it is taken")
}

/// What is for later stages is brought to where they begin: to a sale, or into the middle of a payment.
async fn prepare(stage: &mut Stage) {
    let later = stage.those(|path| path.stage() >= REFUNDS);
    for sale in &later {
        if let Some(step) = sale.case.path.parked_at() {
            let id = sale.buyer.user_id;
            stage.stops.set(id, step, Fault::Park).await;
        }
    }
    stage.ask(&later, Sale::buy).await;
    let prepared = |sale: &Sale, seen: &Seen| match sale.case.path.parked_at() {
        Some(step) => step.trim_start_matches("new ") == seen.status,
        None => seen.status == "PAID" && seen.seats == 1,
    };
    stage.until("preparing", &later, prepared).await;
    // There was room for the points when they were ordered.
    for sale in stage.those(|path| path == Path::OverCap) {
        let filled = taken(async || stage.hall.api.charge(&sale.buyer, BALANCE_CAP).await);
        filled.await.expect(201);
    }
}

/// The first stage: to a sale, or to none.
async fn to_a_sale(stage: &mut Stage, pest: &Pest) {
    prepare(stage).await;
    pest.begin(&stage.next().await);
    stage.go().await;
    // As if the workers were away for as long as these holds had been made to last.
    let late = stage.those(Path::is_late);
    let reservation = |sale: &Sale| format!("'{}'", sale.order().reservation);
    let late: Vec<String> = late.iter().map(reservation).collect();
    let late = format!("reservation_id IN ({})", late.join(", "));
    let lapse = "UPDATE reservation SET expires_at = greatest(held_at + interval '1 microsecond', \
                 clock_timestamp())";
    stage.hall.sql(&format!("{lapse} WHERE {late}")).await;
    stage.take_over().await;
    let held = "SELECT count(*) AS n FROM reservation WHERE status <> 'EXPIRED'";
    stage.hall.becomes(&format!("{held} AND {late}"), 0).await;
    for sale in stage.those(|path| path == Path::Gone) {
        if let What::Seat { label, .. } = &sale.what {
            let (hall, date, other) = (&stage.hall, stage.date, stage.hall.buyer());
            let held = taken(async || hall.api.hold(&other, date, &[label]).await);
            held.await.expect(201);
        }
    }
    stage.all_ended().await;
}

/// The second stage, to points or to none; and the third: what was captured too late, and what was
/// cancelled.
async fn to_points_and_to_a_refund(stage: &mut Stage, pest: &Pest) {
    for _ in 0..2 {
        pest.begin(&stage.next().await);
        stage.run().await;
    }
}

/// The last stages: a person sees to what the gateway has refused, and to what somebody has given back
/// there; and shows are cancelled.
async fn to_what_a_person_does(stage: &mut Stage, pest: &Pest) {
    let refused = stage.those(Path::is_attended);
    stage.hall.switch(json!({ "refundDecline": "all" })).await;
    stage.ask(&refused, Sale::cancel).await;
    let is_stuck = |_: &Sale, seen: &Seen| seen.refund == "STUCK";
    stage.until("refusing", &refused, is_stuck).await;
    let hall = &stage.hall;
    hall.gateway(Method::DELETE, "/switches", None).await;
    hall.switch(json!({ "loseWebhooks": "all" })).await;
    let seen = stage.stops.seen().await;
    for sale in &mut stage.sales {
        if sale.case.path.is_attended() {
            let refund = seen[&sale.buyer.user_id].refund_id;
            sale.task = Some(refund.expect("a refund"));
        }
    }
    for sale in stage.those(|path| matches!(path, Path::Compared | Path::Odd)) {
        give_back_by_hand(&stage.hall, sale.order(), sale.amount).await;
    }
    for path in [
        Path::Retried,
        Path::Resolved,
        Path::Compared,
        Path::Odd,
        Path::Shown,
    ] {
        let sales = stage.next().await;
        assert!(sales.iter().all(|sale| sale.case.path == path));
        pest.begin(&sales);
        stage.run().await;
    }
}

/// Asks for every step of one once more, by the same commands and by others.
async fn repeat_one(stage: &Stage, sale: &Sale) {
    let (hall, path) = (&stage.hall, sale.case.path);
    let again = sale.buy().insist(&hall.api).await;
    match path {
        Path::Shown => {
            assert_eq!(again.expect(200).body["status"], "PAID");
            sale.wish().insist(&hall.api).await.expect(202);
            let own = sale.cancel().insist(&hall.api).await;
            own.expect_problem(409, "reservation-state-conflict");
        }
        Path::Declined | Path::ChargeDeclined => {
            drop(again.expect_problem(402, "payment-declined"));
        }
        Path::Gone => drop(again.expect_problem(410, "hold-expired")),
        Path::OverCap => drop(again.expect_problem(422, "balance-cap-exceeded")),
        Path::Charged | Path::ChargeDoubted => {
            assert_eq!(again.expect(201).body["balance"], won(sale.amount));
        }
        Path::Sold | Path::Doubted | Path::Reheld => {
            assert_eq!(again.expect(200).body["status"], "PAID");
        }
        Path::Cancelled
        | Path::Refused
        | Path::Retried
        | Path::Resolved
        | Path::Compared
        | Path::Odd => {
            assert_eq!(again.expect(200).body["status"], "PAID");
            let again = sale.cancel().insist(&hall.api).await.expect(200);
            assert_eq!(again.body["refunded"], won(sale.amount));
            let other = sale.cancel().anew().insist(&hall.api).await;
            other.expect_problem(409, "reservation-state-conflict");
        }
    }
    if !path.is_charge() {
        let other = sale.buy().anew().insist(&hall.api).await;
        let code = match matches!(path, Path::Declined | Path::Gone) {
            true => "order-state-conflict",
            false => "already-paid",
        };
        other.expect_problem(409, code);
    }
    if path.is_attended() {
        let again = sale.wish().insist(&hall.api).await.expect(200);
        let status = match path == Path::Retried {
            true => "PENDING",
            false => "RESOLVING",
        };
        assert_eq!(again.body["status"], status);
        let other = sale.wish().anew().insist(&hall.api).await;
        other.expect_problem(409, "refund-state-conflict");
    }
    if path == Path::Compared {
        let again = sale.compare().insist(&hall.api).await.expect(200);
        assert_eq!(again.body["status"], "DONE");
        let other = sale.compare().anew().insist(&hall.api).await;
        other.expect_problem(409, "refund-state-conflict");
    }
}

/// Asks for every step once more: by the same commands and by others, by the same notices, and by
/// having the driver look again.
async fn repeat(stage: &mut Stage) {
    for sale in &stage.sales {
        repeat_one(stage, sale).await;
    }
    let sql = "SELECT payload FROM notice ORDER BY created_at DESC";
    let rows: Vec<NoticeRow> = sql_query(sql).load(&mut stage.hall.conn).await.expect(sql);
    let seated = stage.those(|path| !path.is_charge()).len();
    assert!(rows.len() > seated, "{}", rows.len());
    let mut bus = Bus::connect(&stage.hall).await;
    let mut sent = Vec::with_capacity(rows.len());
    for row in rows {
        let command: Command<seats::Kind> = decode(&row.payload).expect("a command");
        let partition = partition::of_schedule(command.kind.schedule_id(), PARTITIONS);
        let subject = bus.subjects.partition(Lane::Seats, partition);
        sent.push(bus.send(&subject, vec![command]).await);
    }
    bus.outcomes::<seats::Outcome>(sent).await;
    stage.stops.look_again().await;
    let due = "SELECT count(*) AS n FROM payment_order WHERE next_at IS NOT NULL";
    stage.hall.becomes(due, 0).await;
}

#[derive(QueryableByName)]
struct NoticeRow {
    #[diesel(sql_type = Binary)]
    payload: Vec<u8>,
}

/// Everything ended as it must, by our rows and by the gateway's book.
async fn assert_ended(stage: &mut Stage) {
    stage.ended(|_| true).await;
    let open = "SELECT (SELECT count(*) FROM notice WHERE done_at IS NULL) \
                + (SELECT count(*) FROM reservation WHERE status = 'HELD' AND paying_order IS NOT NULL) \
                + (SELECT count(*) FROM refund WHERE status IN ('PENDING', 'RESOLVING')) \
                + (SELECT count(*) FROM payment_order WHERE odd_at IS NOT NULL) \
                + (SELECT count(*) FROM dead_letter) AS n";
    stage.hall.becomes(open, 0).await;
    let book: HashMap<Uuid, Vec<i64>> = stage.hall.book_by_order().await;
    let seen = stage.stops.seen().await;
    for sale in &stage.sales {
        let (case, seen) = (sale.case, &seen[&sale.buyer.user_id]);
        let is_to_fail = matches!(case.befalls, Befalls::Failure(_));
        assert!(!is_to_fail || seen.has_failed, "{case:?}");
        let order = seen.order_id.expect("it was ordered");
        let booked = book.get(&order).cloned().unwrap_or_default();
        assert_eq!(booked, case.booked(sale.amount), "{case:?}");
    }
    stage.hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_a_step_an_order_ends_as_what_was_paid_for_or_as_one_refund() {
    let mut stage = Stage::begin().await;
    // Nobody but the driver is to find out.
    let silent = json!({ "loseWebhooks": "all" });
    stage.hall.switch(silent.clone()).await;
    let pest = Pest::start(&stage.hall).await;
    to_a_sale(&mut stage, &pest).await;
    to_points_and_to_a_refund(&mut stage, &pest).await;
    to_what_a_person_does(&mut stage, &pest).await;
    pest.stop().await;
    assert_ended(&mut stage).await;
    repeat(&mut stage).await;
    assert_ended(&mut stage).await;
    let gateway = stage.hall.gateway(Method::GET, "/switches", None).await;
    assert_eq!(gateway, silent, "nobody was told");
}
