//! Processes die in the middle of a sale.

use crate::hall::{Hall, PATIENCE, number, open_policy, reservation};
use onsale::seed::Policy;
use onsale_testkit::{Api, Buyer, SystemOptions};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

/// What clients saw.
#[derive(Default)]
pub struct Seen {
    /// Reservations that were acknowledged.
    acknowledged: Vec<Uuid>,
    /// Answers that are neither a success nor a refusal for a good reason.
    failed: Vec<String>,
    /// Answers whose outcome was still open.
    pub open: usize,
    /// The longest time of one client between two acknowledged holds.
    pub gap: Duration,
}

/// Holds seat after seat until told to stop, or until there are none left.
pub async fn keep_holding(
    api: Api,
    buyer: Buyer,
    date: Uuid,
    next_seat: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Seen {
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let seat = next_seat.fetch_add(1, Ordering::Relaxed);
        let label = format!("A-{}-{}", seat / 100 + 1, seat % 100 + 1);
        let answer = api.hold(&buyer, date, &[&label]).await;
        match (answer.status.as_u16(), answer.code()) {
            (201, _) => {
                seen.acknowledged.push(reservation(&answer.body));
                seen.gap = seen.gap.max(last.elapsed());
                last = Instant::now();
            }
            // Still open: not acknowledged, and not refused either. A reply that died with its worker
            // costs its client the whole wait, which says nothing about the partition.
            (202, _) => {
                seen.open += 1;
                last = Instant::now();
            }
            (422, "seat-limit-exceeded" | "unknown-seat") => {}
            _ => seen.failed.push(format!("{answer:?}")),
        }
    }
    seen
}

/// Clients that hold seats on many dates, one each, so that all partitions are busy.
pub struct Load {
    dates: Vec<Uuid>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Seen>,
}

impl Load {
    pub async fn start(hall: &mut Hall, dates: usize) -> Self {
        let mut load = Self {
            dates: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            clients: JoinSet::new(),
        };
        for _ in 0..dates {
            let policy = Policy {
                seats_per_user: 100_000,
                ..open_policy()
            };
            let date = hall.date_with(3000, policy).await;
            load.dates.push(date);
            load.client(hall, date, Arc::default());
        }
        load
    }

    fn client(&mut self, hall: &Hall, date: Uuid, next_seat: Arc<AtomicUsize>) {
        let (api, buyer) = (hall.api.clone(), hall.buyer());
        self.clients
            .spawn(keep_holding(api, buyer, date, next_seat, self.stop.clone()));
    }

    /// The fewest holds of a date.
    pub async fn least(&self, hall: &Hall) -> i64 {
        let sql = "SELECT coalesce(min(n), 0)::bigint AS n FROM ( \
                   SELECT count(*) AS n FROM reservation GROUP BY schedule_id) x";
        number(&mut hall.connect().await, sql).await
    }

    /// Waits until every date has so many holds.
    pub async fn under_way(&self, hall: &Hall, holds: i64) {
        let dates = i64::try_from(self.dates.len()).expect("few");
        let sql = format!(
            "SELECT count(*) AS n FROM (SELECT schedule_id FROM reservation GROUP BY 1 \
             HAVING count(*) >= {holds}) x"
        );
        self.until(hall, &sql, dates).await;
    }

    /// Waits for so many more holds.
    pub async fn more(&self, hall: &Hall, holds: i64) {
        let sql = "SELECT count(*) AS n FROM reservation";
        let before = number(&mut hall.connect().await, sql).await;
        self.until(hall, sql, before + holds).await;
    }

    async fn until(&self, hall: &Hall, sql: &str, least: i64) {
        let mut conn = hall.connect().await;
        let reached = async {
            while number(&mut conn, sql).await < least {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .expect("holds go on");
    }

    /// Ends the load; every acknowledged hold must be there, and nothing may have failed.
    pub async fn stop(mut self, hall: &mut Hall) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        while let Some(seen) = self.clients.join_next().await {
            let seen = seen.expect("no panic");
            if let Some(first) = seen.failed.first() {
                let logs: Vec<_> = hall.system.workers.iter().map(|w| w.log_tail()).collect();
                panic!(
                    "{} failed: {first}\n{}",
                    seen.failed.len(),
                    logs.join("\n\n")
                );
            }
            assert!(!seen.acknowledged.is_empty());
            all.acknowledged.extend(seen.acknowledged);
            all.open += seen.open;
            all.gap = all.gap.max(seen.gap);
        }
        let ids: BTreeSet<Uuid> = all.acknowledged.iter().copied().collect();
        assert_eq!(
            ids.len(),
            all.acknowledged.len(),
            "one reservation, one answer"
        );
        let ids: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
        let sql = format!(
            "SELECT count(*) AS n FROM reservation WHERE status = 'HELD' \
             AND reservation_id IN ({})",
            ids.join(",")
        );
        let there = hall.number(&sql).await;
        assert_eq!(
            there,
            i64::try_from(ids.len()).expect("few"),
            "an acknowledged hold is lost"
        );
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_nothing_and_the_other_goes_on_within_the_lease() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    // Dates on all partitions, so that both workers have some.
    let load = Load::start(&mut hall, 24).await;
    load.under_way(&hall, 3).await;
    hall.system.workers[0].kill9().await;
    let everywhere = load.least(&hall).await + 20;
    load.under_way(&hall, everywhere).await;
    let seen = load.stop(&mut hall).await;
    // Every date went on within the lease (3 s), long before a request (5 s) is left open.
    assert!(
        seen.gap < Duration::from_secs(4),
        "{:?} without a hold",
        seen.gap
    );
    // At most the one request of each client whose reply died with the worker.
    assert!(seen.open <= 24, "{} open", seen.open);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_clean_at_any_moment_of_a_load_with_a_kill() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(1)).await;
    let load = Load::start(&mut hall, 8).await;
    load.under_way(&hall, 20).await;
    hall.assert_sound().await;
    hall.system.workers[0].kill9().await;
    hall.assert_sound().await;
    hall.system.workers[0].restart().await.expect("a worker");
    load.more(&hall, 200).await;
    hall.assert_sound().await;
    load.stop(&mut hall).await;
    hall.assert_sound().await;
}
