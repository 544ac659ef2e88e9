//! The compensation repeated: however many ask for money back, at once, again, whole or seat by seat,
//! and however often the gateway's answer is lost, each seat is refunded once and never more than was
//! captured.

use crate::hall::{Hall, PATIENCE, reservation};
use crate::shop::{PRICE, with_gateway, won};
use futures_util::future::join_all;
use onsale::seed::Layout;
use onsale_schema::Money;
use onsale_testkit::{Answer, Buyer, SystemOptions};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

const SEATS: [&str; 4] = ["A-1-1", "A-1-2", "A-1-3", "A-1-4"];
const AT_ONCE: usize = 50;

/// What the many ask for: each of these under keys of their own, some of which come twice.
fn wishes() -> Vec<(String, Option<Vec<&'static str>>)> {
    let which: [Option<&[usize]>; 7] = [
        Some(&[0]),
        Some(&[1]),
        None,
        Some(&[2]),
        Some(&[3]),
        Some(&[0, 1]),
        Some(&[1, 2, 3]),
    ];
    let wish = |number: usize| {
        let which = which[number % which.len()];
        let seats = which.map(|which| which.iter().map(|at| SEATS[*at]).collect());
        // Every seventh wish from the fifth on is the one of seven before, under the same key.
        let again = if number % 7 == 5 {
            number.saturating_sub(7).max(5)
        } else {
            number
        };
        (format!("cancel-number-{again}"), seats)
    };
    (0..AT_ONCE).map(wish).collect()
}

/// Cancels a paid reservation many times at once; what was refunded by each key that was.
async fn cancel_at_once(hall: &Hall, buyer: &Buyer, id: Uuid) -> BTreeMap<String, Value> {
    let all = wishes();
    let asking = all
        .iter()
        .map(|(key, seats)| hall.cancel(buyer, id, key, seats.as_deref()));
    let answers: Vec<Answer> = join_all(asking).await;
    let mut done = BTreeMap::new();
    for ((key, _), answer) in all.iter().zip(answers) {
        if answer.status == 200 {
            let known = done.insert(key.clone(), answer.body.clone());
            assert!(known.is_none_or(|known| known == answer.body), "{key}");
        } else {
            answer.expect_problem(409, "reservation-state-conflict");
        }
    }
    done
}

/// Cancels what is left, and checks that all seats were refunded once.
async fn cancel_the_rest(hall: &Hall, buyer: &Buyer, id: Uuid, done: BTreeMap<String, Value>) {
    let mut done: Vec<Value> = done.into_values().collect();
    let rest = hall.cancel(buyer, id, "cancel-the-rest", None).await;
    match rest.status.as_u16() {
        200 => done.push(rest.body),
        _ => drop(rest.expect_problem(409, "reservation-state-conflict")),
    }
    let mut seats = Vec::new();
    let mut refunded = 0;
    for one in &done {
        let of_one = one["seats"].as_array().expect("seats");
        let amount = one["refunded"]["amount"].as_i64().expect("won");
        assert_eq!(amount, PRICE * i64::try_from(of_one.len()).expect("few"));
        refunded += amount;
        seats.extend(of_one.iter().map(|seat| seat.to_string()));
    }
    let distinct: BTreeSet<&String> = seats.iter().collect();
    assert_eq!((distinct.len(), seats.len()), (SEATS.len(), SEATS.len()));
    assert_eq!(refunded, 4 * PRICE);
    let over = hall.cancel(buyer, id, "cancel-once-more", None).await;
    over.expect_problem(409, "reservation-state-conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_50_cancellations_at_once_each_seat_is_refunded_once_through_the_gateway() {
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    let order = hall.order(&buyer, date, &SEATS).await;
    hall.confirm(&buyer, &order).await.expect(200);
    hall.map_becomes(date, "SSSS").await;
    // Nor are refunds made twice whose answers are lost.
    hall.switch(json!({ "timeoutAfterRefund": 2, "refundFailure": 1 }))
        .await;
    let done = cancel_at_once(&hall, &buyer, order.reservation).await;
    assert!(!done.is_empty());
    cancel_the_rest(&hall, &buyer, order.reservation, done).await;
    hall.becomes("SELECT count(*) AS n FROM refund WHERE status <> 'DONE'", 0)
        .await;
    let back: i64 = hall.book().await.iter().sum();
    assert_eq!(back, 0, "all that was captured");
    let sql = "SELECT refunded::bigint AS n FROM payment_order WHERE captured = refunded";
    assert_eq!(hall.number(sql).await, 4 * PRICE);
    hall.map_becomes(date, "AAAA").await;
    hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_50_cancellations_at_once_each_seat_is_refunded_once_in_points() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let date = hall.date(4).await;
    let buyer = hall.buyer();
    hall.api.charge(&buyer, 100_000).await.expect(201);
    let held = hall.api.hold(&buyer, date, &SEATS).await.expect(201);
    let id = reservation(&held.body);
    hall.api.pay(&buyer, id).await.expect(201);
    hall.map_becomes(date, "SSSS").await;
    let done = cancel_at_once(&hall, &buyer, id).await;
    assert!(!done.is_empty());
    cancel_the_rest(&hall, &buyer, id, done).await;
    let points = hall.api.get(Some(&buyer), "/users/me/points").await;
    assert_eq!(points.expect(200).body["balance"], won(100_000));
    let sql = "SELECT sum(amount)::bigint AS n FROM transfer WHERE kind = 'REFUND'";
    assert_eq!(hall.number(sql).await, 4 * PRICE);
    hall.map_becomes(date, "AAAA").await;
    hall.assert_sound().await;
}

/// The driver asks for one refund while its answers are lost, its workers die, and others take it from
/// whoever has it in hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_asked_for_again_and_again_is_made_once() {
    let mut hall = Hall::open_with(with_gateway().workers(2)).await;
    let mut layout = Layout::plain(2, PRICE);
    // Refunded, but never answered; refunded, but cut off.
    for (seat, code) in layout.seats.iter_mut().zip([13, 17]) {
        seat.price = Money::won(PRICE + code);
        seat.grade = format!("G{code}");
    }
    let date = hall.date_of(&layout).await;
    let mut amounts = Vec::new();
    for seat in ["A-1-1", "A-1-2"] {
        let buyer = hall.buyer();
        let order = hall.order(&buyer, date, &[seat]).await;
        hall.confirm(&buyer, &order).await.expect(200);
        amounts.push(order.amount);
        let cancelled = hall
            .cancel(&buyer, order.reservation, "cancel-it", None)
            .await;
        cancelled.expect(200);
    }
    let asked = tokio::time::timeout(PATIENCE, async {
        for round in 0.. {
            let open = "SELECT count(*) AS n FROM refund WHERE status <> 'DONE'";
            if hall.number(open).await == 0 {
                return;
            }
            hall.sql("UPDATE refund SET next_at = clock_timestamp() WHERE status = 'PENDING'")
                .await;
            if round < 4 {
                let worker = &mut hall.system.workers[round % 2];
                worker.kill9().await;
                worker.restart().await.expect("a worker");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    asked.await.expect("it ends");
    let mut book = hall.book().await;
    book.sort_unstable();
    let [first, second] = amounts[..] else {
        panic!("{amounts:?}");
    };
    assert_eq!(book, [-second, -first, first, second]);
    hall.map_becomes(date, "AA").await;
    hall.assert_reconciled().await;
}
