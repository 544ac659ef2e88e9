//! Processes die in the middle of a sale.

use crate::hall::Hall;
use crate::load::Load;
use crate::ownership::owned_by;
use onsale_testkit::SystemOptions;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_nothing_and_the_other_goes_on_within_the_lease() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    // Dates on all partitions, so that both workers have some.
    let load = Load::start(&mut hall, 24).await;
    load.under_way(&hall, 3).await;
    let struck = Instant::now();
    hall.system.workers[0].kill9().await;
    owned_by(&hall, 1).await;
    let taken_after = struck.elapsed();
    assert!(
        taken_after < Duration::from_secs(3),
        "{taken_after:?}: more than the lease"
    );
    load.more_everywhere(&hall, 20).await;
    let seen = load.stop(&mut hall).await;
    // At most the one request of each client whose reply died with the worker.
    assert!(seen.open_of_one <= 1, "{} open", seen.open_of_one);
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
