//! Workers come and go, hang and wake; the number of partitions changes.

use crate::hall::{Hall, PATIENCE, open_policy, reservation};
use crate::load::{Load, Seen, keep_holding};
use diesel_async::SimpleAsyncConnection;
use onsale::seed::Policy;
use onsale::{partitions, repartition};
use onsale_schema::Lane;
use onsale_testkit::spawn::Signal;
use onsale_testkit::{SystemOptions, ports};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The workers that own partitions of seats now: each lane of a process counts as one of its own.
async fn owners(hall: &Hall) -> BTreeSet<onsale_schema::WorkerId> {
    let (nats, prefix) = (hall.operator_url(), &hall.system.prefix);
    let list = partitions::list(&hall.reader_url(), &nats, prefix)
        .await
        .expect("partitions");
    list.iter()
        .filter(|p| p.lane == Lane::Seats && p.alive)
        .filter_map(|p| p.owner)
        .collect()
}

/// Waits until so many workers own all partitions, each of them alive.
pub async fn owned_by(hall: &Hall, count: usize) {
    let (nats, prefix) = (hall.operator_url(), &hall.system.prefix);
    let reader = hall.reader_url();
    let owned = async {
        loop {
            let list = partitions::list(&reader, &nats, prefix).await;
            let list = list.expect("partitions");
            let owners: BTreeSet<_> = list.iter().map(|p| (p.lane, p.owner)).collect();
            let lanes = Lane::partitioned().count();
            if list.iter().all(|p| p.alive) && owners.len() == count * lanes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, owned)
        .await
        .expect("owners of all partitions");
}

pub async fn owners_become(hall: &Hall, count: usize) {
    let become_so = async {
        while owners(hall).await.len() != count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, become_so)
        .await
        .unwrap_or_else(|_| panic!("not {count} owners\n{}", hall.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_joins_or_leaves_fails_no_request() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let load = Load::start(&mut hall, 12).await;
    load.under_way(&hall, 3).await;
    assert_eq!(hall.system.workers[1].stop().await.code(), Some(0));
    owners_become(&hall, 1).await;
    load.more(&hall, 500).await;
    hall.system.workers[1].restart().await.expect("a worker");
    owners_become(&hall, 2).await;
    load.more(&hall, 500).await;
    load.stop_whole(&mut hall).await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_owner_is_replaced_within_its_lease_and_commits_nothing_when_it_wakes() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let load = Load::start(&mut hall, 12).await;
    load.under_way(&hall, 3).await;
    let struck = Instant::now();
    hall.system.workers[0].signal(Signal::SIGSTOP);
    owned_by(&hall, 1).await;
    let taken_after = struck.elapsed();
    assert!(
        taken_after < Duration::from_secs(6),
        "{taken_after:?}: more than the lease (3 s), and what a busy machine takes"
    );
    // All dates go on, whoever owned them.
    load.more_everywhere(&hall, 20).await;
    hall.system.workers[0].signal(Signal::SIGCONT);
    owners_become(&hall, 2).await;
    load.more(&hall, 500).await;
    // Who comes when nobody has been heard of for longer than a lease may be turned away.
    let seen = load.stop_after_faults(&mut hall).await;
    assert!(seen.open_of_one <= 1, "{} open", seen.open_of_one);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_partitions_changes_when_all_is_drained() {
    let settings = SystemOptions::default().setting("ONSALE_PARTITIONS", 4);
    let mut hall = Hall::open_with(settings).await;
    let policy = Policy {
        seats_per_user: 10,
        ..open_policy()
    };
    let date = hall.date_with(10, policy).await;
    let buyer = hall.buyer();
    let body = json!({ "scheduleId": date, "seats": ["A-1-1"] });
    let first = hall
        .api
        .post(&buyer, "/reservations", "before-it", &body)
        .await
        .expect(201);

    let url = hall.system.db.url().to_owned();
    let (nats, prefix) = (hall.operator_url(), hall.system.prefix.clone());
    let shown = tokio::process::Command::new(env!("CARGO_BIN_EXE_onsale"))
        .arg("partitions")
        .env("DATABASE_URL", hall.reader_url())
        .env(
            "NATS_URL",
            format!("nats://127.0.0.1:{}", ports::free().expect("a port")),
        )
        .output();
    let shown = shown.await.expect("it runs");
    let (table, why) = (
        String::from_utf8_lossy(&shown.stdout),
        String::from_utf8_lossy(&shown.stderr),
    );
    assert!(shown.status.success(), "{table}{why}");
    assert_eq!(
        table.lines().filter(|line| line.contains('?')).count(),
        4 * Lane::partitioned().count(),
        "{table}"
    );
    assert!(why.contains("is not known"), "{why}");

    let change = |to, wait_s| {
        let wait = Duration::from_secs(wait_s);
        repartition::change(&url, &nats, &prefix, to, wait, |_| {})
    };
    let refused = change(7, 0)
        .await
        .expect_err("processes are running")
        .to_string();
    assert!(refused.contains("stop"), "{refused}");
    hall.system.ingresses[0].stop().await;
    hall.system.workers[0].stop().await;
    assert_eq!(change(7, 10).await.expect("changed"), 4);

    // A process that is configured as before refuses to start.
    hall.system.workers[0].restart().await.expect("spawned");
    assert_ne!(hall.system.workers[0].ended().await.code(), Some(0));
    let log = hall.system.workers[0].log_tail();
    assert!(log.contains("7 partitions"), "{log}");
    hall.system.workers[0].set("ONSALE_PARTITIONS", 7);
    hall.system.ingresses[0].set("ONSALE_PARTITIONS", 7);
    hall.system.workers[0].restart().await.expect("a worker");
    hall.system.ingresses[0]
        .restart()
        .await
        .expect("an ingress");
    let again = hall
        .api
        .post(&buyer, "/reservations", "before-it", &body)
        .await
        .expect(201);
    assert_eq!(reservation(&again.body), reservation(&first.body));
    hall.api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    hall.map_becomes(date, "HHAAAAAAAA").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_date_does_not_starve_its_neighbours() {
    let settings = SystemOptions::default().setting("ONSALE_SCHEDULE_IN_FLIGHT_MAX", 32);
    let mut hall = Hall::open_with(settings).await;
    let policy = Policy {
        seats_per_user: 100_000,
        ..open_policy()
    };
    let hot = hall.date_with(3000, policy).await;
    // Decided by the same owner, in the same batches.
    let quiet = hall.neighbour_of(hot, 500).await;
    let mut background = tokio::task::JoinSet::new();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..200 {
        let (api, buyers) = (hall.api.clone(), vec![hall.buyer()]);
        background.spawn(keep_holding(api, buyers, hot, next.clone(), stop.clone()));
    }
    for n in 1..=100 {
        let label = format!("A-1-{n}");
        // In time: it would be a 202 otherwise.
        let quiet = hall.api.hold(&hall.buyer(), quiet, &[&label]).await;
        quiet.expect(201);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let seen = background.join_all().await;
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    assert!(
        sum(|seen| seen.turned_away) > 0,
        "the hot date was never bounded"
    );
    assert!(
        sum(|seen| seen.acknowledged.len()) > 0,
        "the hot date sold nothing"
    );
    hall.assert_sound().await;
}

/// Somebody has a lock that one partition's commit needs. The others don't wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_holds_up_its_own_partition_only() {
    let settings = SystemOptions::default().setting("ONSALE_REQUEST_TIMEOUT_MS", 2500);
    let mut hall = Hall::open_with(settings).await;
    let locked = hall.date(100).await;
    let other = hall.date_elsewhere(locked, 100).await;
    // Both are loaded.
    for date in [locked, other] {
        hall.api
            .hold(&hall.buyer(), date, &["A-1-1"])
            .await
            .expect(201);
    }
    let mut locker = hall.connect().await;
    // Our sessions would not wait so long for whoever has a lock and does nothing.
    let lock = format!(
        "SET idle_in_transaction_session_timeout = 0;
         BEGIN; SELECT FROM sale WHERE schedule_id = '{locked}' FOR UPDATE"
    );
    locker.batch_execute(&lock).await.expect("locked");
    let buyer = hall.buyer();
    let waiting = hall.api.hold(&buyer, locked, &["A-1-2"]);
    let others = async {
        for n in 2..=60 {
            let label = format!("A-1-{n}");
            let answer = hall.api.hold(&hall.buyer(), other, &[&label]).await;
            answer.expect(201);
        }
    };
    let (open, ()) = tokio::join!(waiting, others);
    let open = open.expect(202);
    locker.batch_execute("COMMIT").await.expect("unlocked");
    // What waited is decided now, or had its deadline before.
    let location = open.headers["location"].to_str().expect("ASCII");
    let path = location.strip_prefix("/api/v1").expect("a path of ours");
    let decided = tokio::time::timeout(PATIENCE, async {
        while hall.api.get(Some(&buyer), path).await.status == 202 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    decided.await.expect("decided");
    // The owner's word that it is not behind any more may take a moment: who is sent away comes back.
    let next = hall.buyer();
    let held = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = hall.api.hold(&next, locked, &["A-1-3"]).await;
            if answer.status != 503 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    held.await.expect("it is not behind for ever").expect(201);
    hall.assert_sound().await;
}
