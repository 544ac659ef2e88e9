//! Every step of a payment through the gateway, of its refund and of its cancellation: its process is
//! killed just before and just after the step's commit, the step fails, the gateway fails, the step
//! is repeated. Of each order exactly one comes in the end: a sale, the money back, or nothing; and
//! the gateway's book says the same.
//!
//! All orders go through one system, at once; its workers are killed twice. In the first stage are the
//! steps up to a sale, in the second those after a hold has lapsed or a sale was cancelled.

mod cases;
mod pest;
mod stops;

use crate::bus::Bus;
use crate::hall::{Hall, PARTITIONS, PATIENCE};
use crate::shop::{Order, with_gateway};
use cases::{Befalls, Case, Path};
use diesel::sql_types::Binary;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use onsale::seed::Layout;
use onsale_schema::message::{Command, decode};
use onsale_schema::{Lane, Money, ScheduleId, partition, seats};
use onsale_testkit::Buyer;
use pest::Pest;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use stops::{Fault, Seen, Stops};
use uuid::Uuid;

/// How often it is looked at how far the orders are.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After so long nobody is waited for who may be dead.
const LEASE: Duration = Duration::from_secs(1);

/// One order on its way.
#[derive(Clone, Debug)]
struct Sale {
    case: Case,
    buyer: Buyer,
    order: Order,
    seat: String,
    key: String,
}

impl Sale {
    fn cancel_path(&self) -> String {
        format!("/reservations/{}/cancellation", self.order.reservation)
    }

    fn cancel_key(&self) -> String {
        format!("cancel-{}", self.order.id)
    }

    fn is_in_stage(&self, stage: u32) -> bool {
        self.case.path.is_early() == (stage == 1)
    }
}

struct Stage {
    /// The first or the second one.
    no: u32,
    /// Whether its workers were killed.
    is_after: bool,
    hall: Hall,
    stops: Stops,
    date: Uuid,
    sales: Vec<Sale>,
}

/// A date with a seat for each case, whose price is what its gateway goes by.
async fn date(hall: &mut Hall, cases: &[Case]) -> Uuid {
    let seats = u32::try_from(cases.len()).expect("few");
    let mut layout = Layout::plain(seats, 0);
    for (seat, case) in layout.seats.iter_mut().zip(cases) {
        seat.price = Money::won(10_000 + case.code);
        seat.grade = format!("G{}", case.code);
    }
    hall.date_of(&layout).await
}

impl Stage {
    async fn begin() -> Self {
        let options = with_gateway()
            .workers(2)
            // What is silent is asked again: a breaker that opens would only take time.
            .setting("ONSALE_GATEWAY_BREAKER_FAILURES", 10_000);
        let mut hall = Hall::open_with(options).await;
        let cases = cases::all();
        let date = date(&mut hall, &cases).await;
        // Nobody but the driver is to find out.
        hall.switch(json!({ "loseWebhooks": "all" })).await;
        let ordering = (1..).zip(&cases).map(|(number, case)| {
            let (hall, buyer) = (&hall, hall.buyer());
            let seat = format!("A-{}-{}", (number - 1) / 100 + 1, (number - 1) % 100 + 1);
            async move {
                let order = hall.order(&buyer, date, &[&seat]).await;
                let key = format!("confirm-{}", order.id);
                Sale {
                    case: *case,
                    buyer,
                    order,
                    seat,
                    key,
                }
            }
        });
        let sales: Vec<Sale> = stream::iter(ordering).buffered(8).collect().await;
        let stops = Stops::install(&hall).await;
        Self {
            no: 1,
            is_after: false,
            hall,
            stops,
            date,
            sales,
        }
    }

    fn in_stage(&self, stage: u32) -> Vec<Sale> {
        let sales = self.sales.iter().filter(|sale| sale.is_in_stage(stage));
        sales.cloned().collect()
    }

    async fn set_faults(&mut self, stage: u32) {
        for sale in self.in_stage(stage) {
            if let Some(fault) = sale.case.fault() {
                self.stops.set(sale.order.id, sale.case.step, fault).await;
                if fault == Fault::Park && sale.case.step == "REFUNDING" {
                    // Its refund goes on, not its order.
                    let id = sale.order.id;
                    self.stops.set(id, "refund PENDING", fault).await;
                }
            }
        }
    }

    /// Has these confirmed; nobody waits for what comes of it.
    async fn confirm(&self, sales: &[Sale]) {
        let wishes = sales.iter().map(|sale| {
            let path = format!("{}/confirm", sale.order.path());
            (sale, path, sale.key.clone(), sale.order.confirmation())
        });
        self.ask(wishes).await;
    }

    /// Has these cancelled.
    async fn cancel(&self, sales: &[Sale]) {
        let wishes = sales
            .iter()
            .map(|sale| (sale, sale.cancel_path(), sale.cancel_key(), json!({})));
        self.ask(wishes).await;
    }

    async fn ask(&self, wishes: impl Iterator<Item = (&Sale, String, String, Value)>) {
        let api = &self.hall.api;
        let asking = wishes.map(|(sale, path, key, body)| async move {
            let request = api.post_request(&sale.buyer, &path, &key, &body);
            let answer = api.send(request.header("prefer", "respond-async")).await;
            // It may have ended before; a wish that was not taken is repeated.
            let fine = [200, 202, 402, 410, 503].contains(&answer.status.as_u16());
            assert!(fine, "{:?} {answer:?}", sale.case);
        });
        stream::iter(asking)
            .buffer_unordered(8)
            .collect::<()>()
            .await;
    }

    /// As clients do that get no answer, and workers after a lease.
    async fn insist(&mut self, open: &[Sale], seen: &HashMap<Uuid, Seen>) {
        // Nobody takes from the living what they have in hand; that would be another step.
        let is_dead = |sale: &&Sale| self.is_after || seen[&sale.order.id].has_failed;
        let dead = open.iter().filter(is_dead);
        let dead: Vec<Uuid> = dead.map(|sale| sale.order.id).collect();
        self.stops.hurry(&dead).await;
        let lost =
            |sale: &&Sale| seen[&sale.order.id].status == "READY" && !seen[&sale.order.id].waits;
        let lost: Vec<Sale> = open.iter().filter(lost).cloned().collect();
        self.confirm(&lost).await;
        let lost = |sale: &&Sale| {
            let seen = &seen[&sale.order.id];
            let is_kept = seen.status == "PAID" && seen.refund.is_empty() && !seen.waits;
            sale.case.path == Path::Cancelled && self.no == 2 && is_kept
        };
        let lost: Vec<Sale> = open.iter().filter(lost).cloned().collect();
        self.cancel(&lost).await;
    }

    /// Waits until this is so of all of these, in one snapshot.
    async fn until(&mut self, what: &str, sales: &[Sale], is_so: impl Fn(&Sale, &Seen) -> bool) {
        let (begun, mut insisted) = (Instant::now(), Instant::now());
        loop {
            let seen = self.stops.seen().await;
            let open = sales
                .iter()
                .filter(|sale| !is_so(sale, &seen[&sale.order.id]));
            let open: Vec<Sale> = open.cloned().collect();
            if open.is_empty() {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let shown = |sale: &Sale| format!("{:?} {:?}", sale.case, seen[&sale.order.id]);
                let open: Vec<String> = open.iter().map(shown).collect();
                panic!("{what}: {}\n{}", open.join("\n"), self.hall.logs());
            }
            if insisted.elapsed() > LEASE {
                insisted = Instant::now();
                self.insist(&open, &seen).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts sales of a stage, until each is where it is to die, or at its end, and kills all workers
    /// while all who are to die in a step wait there. Who waits can't do so for long, and starts last;
    /// after them, those that keep others from going on: what decides notices, and then commands, does
    /// so for many in one transaction.
    async fn go(&mut self, start: impl AsyncFn(&mut Self, &[Sale])) {
        let order = |sale: &Sale| match (sale.case.befalls, sale.case.step) {
            (Befalls::KillBefore, "SECURING" | "refund PENDING") => 3,
            (Befalls::KillBefore, step) if step.starts_with("notice") => 2,
            (Befalls::KillBefore, _) => 1,
            _ => 0,
        };
        let arrived = |sale: &Sale, seen: &Seen| sale.case.has_arrived(seen, sale.order.amount);
        let mut sales = self.in_stage(self.no);
        sales.sort_by_key(order);
        for group in sales.chunk_by(|one, next| order(one) == order(next)) {
            start(self, group).await;
            self.until("arriving", group, arrived).await;
            if order(&group[0]) == 0 {
                self.hall.assert_sound().await;
            }
        }
        sales.retain(|sale| sale.case.befalls == Befalls::KillBefore);
        self.until("dying", &sales, |_, seen| seen.waits).await;
        let workers = self.hall.system.workers.iter();
        join_all(workers.map(|worker| worker.kill9())).await;
        self.is_after = true;
        let seen = self.stops.seen().await;
        for Sale { case, order, .. } in sales {
            let seen = &seen[&order.id];
            assert!(seen.status != case.step, "{case:?} {seen:?}");
        }
        self.hall.assert_sound().await;
    }

    /// Others take over from who was killed; whoever waited for an answer asks again.
    async fn take_over(&mut self, stage: u32) {
        let sales = self.in_stage(stage);
        let parked = sales
            .iter()
            .filter(|sale| sale.case.befalls == Befalls::KillAfter);
        let parked: Vec<Uuid> = parked.map(|sale| sale.order.id).collect();
        self.stops.release().await;
        self.stops.due(&parked).await;
        for worker in &mut self.hall.system.workers {
            worker.restart().await.expect("a worker");
        }
        self.hall.system.owned().await.expect("owners");
        let is_cancelled = |sale: &Sale| sale.case.path == Path::Cancelled;
        let (cancelled, others): (Vec<Sale>, Vec<Sale>) = sales.into_iter().partition(is_cancelled);
        self.confirm(&others).await;
        self.cancel(&cancelled).await;
    }

    async fn ended(&mut self, stage: u32) {
        let ended = |sale: &Sale, seen: &Seen| sale.case.has_ended(seen, sale.order.amount);
        let sales = self.in_stage(stage);
        self.until("ending", &sales, ended).await;
    }
}

/// The first stage: to a sale, or to none. What is for the second one is brought to where that begins.
async fn to_a_sale(stage: &mut Stage, pest: &Pest) {
    let later = stage.in_stage(2);
    for sale in later.iter().filter(|sale| sale.case.path.is_late()) {
        stage.stops.set(sale.order.id, "UNKNOWN", Fault::Park).await;
    }
    stage.set_faults(1).await;
    stage.confirm(&later).await;
    let prepared = |sale: &Sale, seen: &Seen| match sale.case.path.is_late() {
        true => seen.status == "UNKNOWN",
        false => seen.status == "PAID" && seen.seats == 1,
    };
    stage.until("preparing", &later, prepared).await;
    pest.begin(&stage.sales, |path| !path.is_late());
    stage
        .go(async |stage, sales| stage.confirm(sales).await)
        .await;
    // As if the workers were away for as long as these holds had been made to last.
    let late = later.iter().filter(|sale| sale.case.path.is_late());
    let late: Vec<String> = late
        .map(|sale| format!("'{}'", sale.order.reservation))
        .collect();
    let late = format!("reservation_id IN ({})", late.join(", "));
    let lapse = "UPDATE reservation SET expires_at = greatest(held_at + interval '1 microsecond', \
                 clock_timestamp())";
    stage.hall.sql(&format!("{lapse} WHERE {late}")).await;
    stage.take_over(1).await;
    let held = "SELECT count(*) AS n FROM reservation WHERE status <> 'EXPIRED'";
    stage.hall.becomes(&format!("{held} AND {late}"), 0).await;
    for sale in later.iter().filter(|sale| sale.case.path == Path::Gone) {
        let other = stage.hall.buyer();
        let held = stage.hall.api.hold(&other, stage.date, &[&sale.seat]).await;
        held.expect(201);
    }
    stage.ended(1).await;
}

/// The second stage: what was captured too late, and what was cancelled.
async fn to_a_refund(stage: &mut Stage, pest: &Pest) {
    (stage.no, stage.is_after) = (2, false);
    stage.set_faults(2).await;
    let start = async |stage: &mut Stage, sales: &[Sale]| {
        let (late, sold): (Vec<Sale>, Vec<Sale>) = sales
            .iter()
            .cloned()
            .partition(|sale| sale.case.path.is_late());
        let late: Vec<Uuid> = late.iter().map(|sale| sale.order.id).collect();
        stage.stops.due(&late).await;
        stage.cancel(&sold).await;
        pest.begin(sales, |path| path.is_late());
    };
    stage.go(start).await;
    stage.take_over(2).await;
    stage.ended(2).await;
}

/// Asks for every step once more: by the same commands and by others, by the same notices, and by
/// having the driver look again.
async fn repeat(stage: &mut Stage) {
    for sale in &stage.sales {
        let body = sale.order.confirmation();
        let (hall, buyer, order) = (&stage.hall, &sale.buyer, &sale.order);
        let again = hall.confirm_as(buyer, order, &sale.key, &body).await;
        match sale.case.path {
            Path::Declined => drop(again.expect_problem(402, "payment-declined")),
            Path::Gone => drop(again.expect_problem(410, "hold-expired")),
            Path::Sold | Path::Doubted | Path::Reheld | Path::Cancelled => {
                assert_eq!(again.expect(200).body["status"], "PAID");
            }
        }
        let other = hall.confirm(buyer, order).await;
        other.expect_problem(
            409,
            match sale.case.path {
                Path::Declined | Path::Gone => "order-state-conflict",
                Path::Sold | Path::Doubted | Path::Reheld | Path::Cancelled => "already-paid",
            },
        );
        if sale.case.path == Path::Cancelled {
            let (id, key) = (order.reservation, sale.cancel_key());
            let again = hall.cancel(buyer, id, &key, None).await.expect(200);
            assert_eq!(again.body["refunded"], crate::shop::won(order.amount));
            let other = hall.cancel(buyer, id, &format!("{key}-2"), None).await;
            other.expect_problem(409, "reservation-state-conflict");
        }
    }
    let sql = "SELECT payload FROM notice ORDER BY created_at DESC";
    let rows: Vec<NoticeRow> = sql_query(sql).load(&mut stage.hall.conn).await.expect(sql);
    assert!(rows.len() > stage.sales.len(), "{}", rows.len());
    let mut bus = Bus::connect(&stage.hall).await;
    let partition = partition::of_schedule(ScheduleId(stage.date), PARTITIONS);
    let subject = bus.subjects.partition(Lane::Seats, partition);
    let mut sent = Vec::with_capacity(rows.len());
    for row in rows {
        let command: Command<seats::Kind> = decode(&row.payload).expect("a command");
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
    stage.ended(1).await;
    stage.ended(2).await;
    let open = "SELECT (SELECT count(*) FROM notice WHERE done_at IS NULL) \
                + (SELECT count(*) FROM reservation WHERE status = 'HELD' AND paying_order IS NOT NULL) \
                + (SELECT count(*) FROM refund WHERE status <> 'DONE') \
                + (SELECT count(*) FROM dead_letter) AS n";
    stage.hall.becomes(open, 0).await;
    let book: HashMap<Uuid, Vec<i64>> = stage.hall.book_by_order().await;
    let seen = stage.stops.seen().await;
    for sale in &stage.sales {
        let is_to_fail = matches!(sale.case.befalls, Befalls::Failure(_));
        assert!(
            !is_to_fail || seen[&sale.order.id].has_failed,
            "{:?}",
            sale.case
        );
        let booked = book.get(&sale.order.id).cloned().unwrap_or_default();
        let expected = sale.case.booked(sale.order.amount);
        assert_eq!(booked, expected, "{:?}", sale.case);
    }
    stage.hall.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_a_step_an_order_ends_as_one_sale_or_as_one_refund() {
    let mut stage = Stage::begin().await;
    let pest = Pest::start(&stage.hall).await;
    to_a_sale(&mut stage, &pest).await;
    to_a_refund(&mut stage, &pest).await;
    pest.stop().await;
    assert_ended(&mut stage).await;
    repeat(&mut stage).await;
    assert_ended(&mut stage).await;
    let gateway = stage.hall.gateway(Method::GET, "/switches", None).await;
    assert_eq!(gateway, json!({ "loseWebhooks": "all" }), "nobody was told");
}
