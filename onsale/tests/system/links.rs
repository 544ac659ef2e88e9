//! Every link between two parts is cut, in every way, under load, and heals.

use crate::hall::{Hall, PATIENCE, reservation};
use crate::load::Load;
use onsale_testkit::links::Links;
use onsale_testkit::proxy::Direction::{ToClient, ToServer};
use onsale_testkit::proxy::{Fault, Proxy};
use onsale_testkit::{Api, Buyer, System, SystemOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a link stays cut.
const CUT: Duration = Duration::from_millis(1500);
/// Longer than a lease (3 s), and than anybody waits on a connection that says nothing (6 s).
const LONG_CUT: Duration = Duration::from_secs(7);
/// Every way in which a link can be cut, and for how long.
const CUTS: [(Fault, Duration); 9] = [
    // Not cut, but slow.
    (Fault::Delay(Duration::from_millis(150)), CUT),
    (Fault::BlackHole, CUT),
    (Fault::BlackHole, LONG_CUT),
    (Fault::Reset, CUT),
    (Fault::CutAfter(ToServer, 2000), CUT),
    (Fault::CutAfter(ToClient, 2000), CUT),
    (Fault::HalfClose(ToServer), CUT),
    (Fault::HalfClose(ToClient), CUT),
    // At last, because a reset would tell those who wait in vain.
    (Fault::Forget, CUT),
];
/// How long a request waits for its outcome before it is answered 202, in milliseconds.
const REQUEST_MS: u64 = 2500;
/// Requests that wait for Postgres may wait for a connection, and then for an answer, five seconds
/// each; the rest is for a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(13);

/// How long a client waits for an answer before it sends the same request again.
const CLIENT_MAX: Duration = Duration::from_secs(4);

/// What one client saw who charged a won at a time and looked at the balance.
#[derive(Default)]
struct Charges {
    acknowledged: i64,
    open: i64,
    slowest: Duration,
}

async fn keep_charging(api: Api, buyer: Buyer, stop: CancellationToken) -> Charges {
    let mut seen = Charges::default();
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let charge = api.charge(&buyer, 1).await;
        seen.slowest = seen.slowest.max(asked.elapsed());
        match charge.status.as_u16() {
            201 => seen.acknowledged += 1,
            202 => seen.open += 1,
            // Decided just after its deadline, and so not at all.
            410 => drop(charge.expect_problem(410, "command-expired")),
            _ => drop(charge.expect(503)),
        }
        let asked = Instant::now();
        let points = api.get(Some(&buyer), "/users/me/points").await;
        seen.slowest = seen.slowest.max(asked.elapsed());
        match points.status.as_u16() {
            200 => seen.check(points.body["balance"]["amount"].as_i64()),
            _ => drop(points.expect(503)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen
}

impl Charges {
    /// No charge that was acknowledged is missing, and none was made twice.
    fn check(&self, balance: Option<i64>) {
        let known = self.acknowledged..=self.acknowledged + self.open;
        let balance = balance.expect("a balance");
        assert!(known.contains(&balance), "{balance}, not {known:?}");
    }
}

/// A system under a load of holds and charges, whose links can be cut.
struct Cut {
    hall: Hall,
    load: Load,
    charging: JoinSet<Charges>,
    stop: CancellationToken,
}

impl Cut {
    async fn start(workers: usize) -> Self {
        let options = SystemOptions::default()
            .workers(workers)
            .setting("ONSALE_REQUEST_TIMEOUT_MS", REQUEST_MS)
            .proxied();
        let mut hall = Hall::open_with(options).await;
        let load = Load::start(&mut hall, 8).await;
        let stop = CancellationToken::new();
        let charging = keep_charging(hall.api.clone(), hall.buyer(), stop.clone());
        load.under_way(&hall, 3).await;
        Self {
            hall,
            load,
            charging: JoinSet::from_iter([charging]),
            stop,
        }
    }

    /// Breaks a link for a while.
    async fn cut(&self, link: impl Fn(&System) -> &Proxy, (fault, time): (Fault, Duration)) {
        link(&self.hall.system).set(fault);
        tokio::time::sleep(time).await;
        link(&self.hall.system).set(Fault::Pass);
    }

    /// All dates go on, and all invariants hold.
    async fn goes_on(&self) {
        self.load.more_everywhere(&self.hall, 5).await;
        self.is_published().await;
        self.hall.assert_sound().await;
    }

    /// Facts and notices go their way again: none is left of the time when they could not.
    async fn is_published(&self) {
        let sql = "SELECT (NOT EXISTS (SELECT FROM outbox WHERE published_at IS NULL \
                           AND created_at < clock_timestamp() - interval '3 s') \
                       AND NOT EXISTS (SELECT FROM notice WHERE done_at IS NULL \
                           AND created_at < clock_timestamp() - interval '3 s'))::int::bigint AS n";
        self.load.until(&self.hall, sql, 1).await;
    }

    /// All that was promised is true, and everybody was answered in time.
    async fn end(mut self) {
        self.stop.cancel();
        let charging = tokio::time::timeout(PATIENCE, self.charging.join_next()).await;
        let charges = charging.expect("in time").expect("a client");
        let charges = charges.expect("no panic");
        let seen = self.load.stop_after_faults(&mut self.hall).await;
        let balance = self
            .hall
            .number("SELECT sum(amount)::bigint AS n FROM transfer")
            .await;
        charges.check(Some(balance));
        let slowest = seen.slowest.max(charges.slowest);
        assert!(slowest < ANSWER_MAX, "{slowest:?}");
        self.hall.assert_sound().await;
    }
}

/// Cuts a link in every way. Each time all must go on afterwards.
async fn every_cut_heals(name: &str, link: impl Fn(&System) -> &Proxy) {
    let system = Cut::start(1).await;
    for cut in CUTS {
        let struck = Instant::now();
        system.cut(&link, cut).await;
        system.goes_on().await;
        println!(
            "{name}: {cut:?} leaves a gap of {:?}",
            system.load.gap(struck)
        );
    }
    system.end().await;
}

fn ingress(system: &System) -> &Links {
    system.ingresses[0].links()
}

fn worker(system: &System) -> &Links {
    system.workers[0].links()
}

// Two systems at once in a test: they wait most of the time.

#[tokio::test(flavor = "multi_thread")]
async fn every_cut_of_a_link_to_nats_heals() {
    tokio::join!(
        every_cut_heals("ingress to NATS", |system| &ingress(system).nats),
        every_cut_heals("worker to NATS", |system| &worker(system).nats),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cut_of_a_link_to_postgres_heals() {
    tokio::join!(
        every_cut_heals("ingress to Postgres", |system| &ingress(system).postgres),
        every_cut_heals("worker to Postgres", |system| &worker(system).postgres),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_a_black_hole_is_replaced_and_does_no_harm_when_it_is_back() {
    tokio::join!(
        is_replaced("Postgres", |system| &worker(system).postgres),
        is_replaced("NATS", |system| &worker(system).nats),
    );
}

/// One of two workers loses a link.
async fn is_replaced(name: &str, link: impl Fn(&System) -> &Proxy) {
    let system = Cut::start(2).await;
    let hole = link(&system.hall.system);
    let struck = Instant::now();
    hole.set(Fault::BlackHole);
    // The other worker goes on with all dates while the first still waits.
    system.goes_on().await;
    println!(
        "a worker without {name} leaves a gap of {:?}",
        system.load.gap(struck)
    );
    hole.set(Fault::Pass);
    system.goes_on().await;
    system.end().await;
}

/// Sends the same request, by the same key, until it is answered with a success.
pub async fn insist(api: &Api, by: &Buyer, path: &str, body: &Value) -> Value {
    let key = Uuid::now_v7().to_string();
    loop {
        let request = api.post_request(by, path, &key, body).timeout(CLIENT_MAX);
        // Without an answer it may have been done or not.
        if let Ok(answer) = api.try_send(request).await {
            match (answer.status.as_u16(), answer.code()) {
                (201, _) => return answer.body,
                (202 | 503, _) | (410, "command-expired") => {}
                _ => panic!("{answer:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The link that is not ours: between a client and its ingress. Whatever was lost on it, who sends
/// the same key again has what was wanted, once.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_did_not_hear_is_done_once() {
    let mut hall = Hall::open().await;
    let date = hall.date(5000).await;
    let upstream = hall.system.ingresses[0].http_addr.expect("an address");
    let proxy = Proxy::start(upstream).await.expect("a proxy");
    let api = Api::new(format!("http://{}", proxy.addr()));
    let stop = CancellationToken::new();
    let done = Arc::new(AtomicI64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..4 {
        let (api, stop, done) = (api.clone(), stop.clone(), Arc::clone(&done));
        let holders = hall.buyers(1000);
        clients.spawn(async move {
            let mut held = Vec::new();
            for (n, holder) in holders.iter().enumerate() {
                if stop.is_cancelled() {
                    return held;
                }
                let seat = client * 1000 + n;
                let seat = format!("A-{}-{}", seat / 100 + 1, seat % 100 + 1);
                let wanted = json!({ "scheduleId": date, "seats": [seat] });
                let hold = insist(&api, holder, "/reservations", &wanted).await;
                held.push(reservation(&hold));
                let wanted = json!({
                    "amount": { "amount": 7, "currency": "KRW" }, "method": "CASH"
                });
                let charge = insist(&api, holder, "/users/me/points/charges", &wanted).await;
                assert_eq!(charge["balance"]["amount"], 7);
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("there are too few seats for so fast a machine")
        });
    }
    for (fault, time) in CUTS {
        proxy.set(fault);
        tokio::time::sleep(time.min(CUT)).await;
        proxy.set(Fault::Pass);
        let before = done.load(Ordering::Relaxed);
        let goes_on = tokio::time::timeout(PATIENCE, async {
            while done.load(Ordering::Relaxed) < before + 8 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(goes_on.await.is_ok(), "after {fault:?}");
    }
    stop.cancel();
    let held: Vec<Uuid> = clients.join_all().await.into_iter().flatten().collect();
    let count = i64::try_from(held.len()).expect("a few thousand");
    let distinct = held.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(distinct, held.len());
    for (table, rows) in [
        ("reservation", count),
        ("seat_claim", count),
        ("transfer", count),
    ] {
        let stored = format!("SELECT count(*) AS n FROM {table}");
        assert_eq!(hall.number(&stored).await, rows, "{table}");
    }
    hall.assert_sound().await;
}
