//! Points under load: the ledger workers share it, each of them is killed and comes back, and in every
//! snapshot of the tables meanwhile the books are balanced.

use crate::hall::{Hall, PATIENCE, open_policy, reservation};
use diesel_async::AsyncPgConnection;
use onsale::seed::Policy;
use onsale_platform::metric;
use onsale_schema::Lane;
use onsale_schema::ledger::SALES_ACCOUNT;
use onsale_testkit::{Answer, Api, Buyer, SystemOptions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

const CLIENTS: usize = 8;
const SEATS: usize = 8000;
const PRICE_WON: i64 = 10_000;
/// How long a client waits before it asks again what it got no answer to.
const AGAIN: Duration = Duration::from_millis(100);
/// How often the books are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So many more transfers show that all goes on.
const ON: i64 = 60;

/// What a client was told that it has done.
#[derive(Default)]
struct Told {
    /// Transfers of its charges.
    charges: Vec<Uuid>,
    /// Its payments.
    payments: Vec<Uuid>,
    /// Reservations that it paid and cancelled.
    cancelled: Vec<Uuid>,
}

/// Charges, holds and pays over and over, and cancels every other time: it buys the next seat by what
/// comes back then. Whatever gets no answer is asked again with the same key,
/// until it has one.
struct Client {
    api: Api,
    buyer: Buyer,
    date: Uuid,
    next_seat: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn run(self) -> Told {
        let mut told = Told::default();
        while !self.stop.load(Ordering::Relaxed) {
            if told.payments.len() == told.charges.len() + told.cancelled.len() {
                let amount = json!({ "amount": PRICE_WON, "currency": "KRW" });
                let charge = json!({ "amount": amount, "method": "CARD" });
                let charged = self.done("/users/me/points/charges", &charge, 201).await;
                told.charges
                    .push(onsale_testkit::api::id(&charged.body["transferId"]));
            }
            let seat = self.next_seat.fetch_add(1, Ordering::Relaxed);
            assert!(seat < SEATS, "there are seats for as long as it takes");
            let label = format!("A-{}-{}", seat / 100 + 1, seat % 100 + 1);
            let hold = json!({ "scheduleId": self.date, "seats": [label] });
            let held = self.done("/reservations", &hold, 201).await;
            let id = reservation(&held.body);
            let pay = json!({ "reservationId": id, "method": "POINTS" });
            let paid = self.done("/payments", &pay, 201).await;
            told.payments
                .push(onsale_testkit::api::id(&paid.body["paymentId"]));
            if told.payments.len().is_multiple_of(2) {
                let path = format!("/reservations/{id}/cancellation");
                let cancelled = self.done(&path, &json!({}), 200).await;
                assert_eq!(cancelled.body["refund"]["status"], "DONE", "{cancelled:?}");
                told.cancelled.push(id);
            }
        }
        told
    }

    /// Asks until the answer has this status.
    async fn done(&self, path: &str, body: &Value, status: u16) -> Answer {
        let key = Uuid::now_v7().to_string();
        let asked = async {
            loop {
                let answer = self.api.post(&self.buyer, path, &key, body).await;
                match (answer.status.as_u16(), answer.code()) {
                    (done, _) if done == status => return answer,
                    (202 | 503, _) | (410, "command-expired") => {
                        tokio::time::sleep(AGAIN).await;
                    }
                    _ => panic!("{path}: {answer:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .expect("an answer")
    }
}

/// In one snapshot: the accounts whose balance is not credits less debits, and what all accounts have
/// together, each by another book: of the users by what is kept, of the sales by the payments and what
/// went back of them, and of where charges come from by the transfers.
async fn books(conn: &mut AsyncPgConnection) -> (i64, i64) {
    let sql = "WITH moved AS ( \
                   SELECT credit AS account_id, amount FROM transfer \
                   UNION ALL SELECT debit, -amount FROM transfer \
               ), sums AS ( \
                   SELECT account_id, coalesce(sum(amount), 0) AS sum, balance \
                   FROM account LEFT JOIN moved USING (account_id) GROUP BY account_id, balance \
               ) ";
    let wrong = format!("{sql} SELECT count(*) AS n FROM sums WHERE balance <> sum");
    let total = format!(
        "{sql} SELECT (coalesce(sum(coalesce(balance, sum)), 0) \
                       + (SELECT coalesce(sum(amount - refunded), 0) FROM payment \
                          WHERE status <> 'FAILED'))::bigint AS n \
         FROM sums WHERE account_id <> '{SALES_ACCOUNT}'"
    );
    let mut snapshot = conn.build_transaction().read_only().repeatable_read();
    let read = snapshot.run(async |conn| {
        let wrong = crate::hall::number(conn, &wrong).await;
        let total = crate::hall::number(conn, &total).await;
        Ok::<_, diesel::result::Error>((wrong, total))
    });
    read.await.expect("a snapshot")
}

/// Looks at the books until told to stop; how often.
async fn watch(mut conn: AsyncPgConnection, stop: Arc<AtomicBool>) -> usize {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(books(&mut conn).await, (0, 0), "L1, in snapshot {looks}");
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    looks
}

/// Waits until a worker has decided charges since it started.
async fn decides(hall: &Hall, worker: usize) {
    let url = format!(
        "http://{}/metrics",
        hall.system.workers[worker].metrics_addr
    );
    let lane = format!("lane=\"{}\"", Lane::Ledger);
    let decided = async {
        loop {
            let is_decided =
                |line: &str| line.starts_with(metric::COMMANDS_DECIDED) && line.contains(&lane);
            // One that has just been started does not tell yet.
            if let Ok(page) = reqwest::get(&url).await
                && page
                    .text()
                    .await
                    .is_ok_and(|page| page.lines().any(is_decided))
            {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, decided)
        .await
        .unwrap_or_else(|_| panic!("worker {worker} decides nothing\n{}", hall.logs()));
}

async fn more_transfers(hall: &mut Hall) {
    let sql = "SELECT count(*) AS n FROM transfer";
    let least = hall.number(sql).await + ON;
    hall.becomes(
        &format!("SELECT (count(*) >= {least})::int::bigint AS n FROM transfer"),
        1,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ledger_workers_share_the_load_and_each_may_die_while_the_books_stay_balanced() {
    let options = SystemOptions::default()
        .workers(2)
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 2000);
    let mut hall = Hall::open_with(options).await;
    let policy = Policy {
        seats_per_user: 100_000,
        ..open_policy()
    };
    let seats = u32::try_from(SEATS).expect("few");
    let date = hall.date_with(seats, policy).await;
    let stop = Arc::new(AtomicBool::new(false));
    let next_seat = Arc::<AtomicUsize>::default();
    let mut clients = JoinSet::new();
    for buyer in hall.buyers(CLIENTS) {
        let client = Client {
            api: hall.api.clone(),
            buyer,
            date,
            next_seat: next_seat.clone(),
            stop: stop.clone(),
        };
        clients.spawn(client.run());
    }
    let mut watching = JoinSet::new();
    watching.spawn(watch(hall.connect().await, stop.clone()));

    decides(&hall, 0).await;
    decides(&hall, 1).await;
    for worker in [0, 1] {
        more_transfers(&mut hall).await;
        hall.system.workers[worker].kill9().await;
        more_transfers(&mut hall).await;
        hall.system.workers[worker]
            .restart()
            .await
            .expect("a worker");
        decides(&hall, worker).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut told = Told::default();
    for of_client in clients.join_all().await {
        told.charges.extend(of_client.charges);
        told.payments.extend(of_client.payments);
        told.cancelled.extend(of_client.cancelled);
    }
    let looks: usize = watching.join_all().await.into_iter().sum();
    let (charges, payments) = (told.charges.len(), told.payments.len());
    let refunds = told.cancelled.len();
    println!("{charges} charges, {payments} payments, {refunds} refunds, {looks} snapshots");
    assert!(looks > 10 && refunds > 10, "{looks}, {refunds}");
    assert_booked(&mut hall, &told).await;
    hall.assert_sound().await;
}

/// Everything that was done is one transfer, and there are no others.
async fn assert_booked(hall: &mut Hall, told: &Told) {
    let distinct = |ids: &[Uuid]| {
        let distinct: BTreeSet<Uuid> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "an id was told twice");
        let list: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
        (i64::try_from(ids.len()).expect("few"), list.join(","))
    };
    let (charged, charges) = distinct(&told.charges);
    let (paid, payments) = distinct(&told.payments);
    let (refunded, cancelled) = distinct(&told.cancelled);
    let counts = [
        (
            format!("SELECT count(*) AS n FROM transfer WHERE transfer_id IN ({charges})"),
            charged,
        ),
        (
            format!(
                "SELECT count(*) AS n FROM transfer t JOIN payment USING (transfer_id) \
                 WHERE payment_id IN ({payments}) AND t.amount = {PRICE_WON}"
            ),
            paid,
        ),
        (
            format!(
                "SELECT count(*) AS n FROM transfer t \
                        JOIN cancellation c ON c.cancellation_id = t.cause \
                 WHERE c.reservation_id IN ({cancelled}) AND t.amount = {PRICE_WON}"
            ),
            refunded,
        ),
        (
            "SELECT count(*) AS n FROM transfer WHERE kind = 'REFUND'".to_owned(),
            refunded,
        ),
        (
            "SELECT count(*) AS n FROM transfer WHERE kind = 'CHARGE'".to_owned(),
            charged,
        ),
        (
            "SELECT count(*) AS n FROM transfer WHERE kind = 'PAYMENT'".to_owned(),
            paid,
        ),
    ];
    for (sql, expected) in counts {
        assert_eq!(hall.number(&sql).await, expected, "{sql}");
    }
}
