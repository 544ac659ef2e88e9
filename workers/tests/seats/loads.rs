//! A worker that takes many partitions at once reads their schedules on few connections.

use crate::rig::Rig;
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use onsale_platform::db;
use onsale_workers::runtime::World;
use onsale_workers::seats::{Seats, State};

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_read_on_few_connections() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let ctx = rig.context().await;
    // Whoever reads the layout waits.
    let mut blocker = db::connect(rig.db.url()).await.expect("a connection");
    blocker
        .batch_execute("BEGIN; LOCK TABLE seat")
        .await
        .expect("a lock");
    let command = rig.hold(schedule, &[1]);
    let load = async || {
        let mut state = State::default();
        World::<Seats>::load(&ctx, &mut state, &[&command], false).await
    };
    let watch = async {
        let waiting = "SELECT count(*) AS n FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        crate::paused::wait_for(&mut rig, 4, waiting).await;
        let readers = "SELECT count(*) AS n FROM pg_stat_activity \
                       WHERE datname = current_database() AND query LIKE '%y FROM seat WHERE%' \
                         AND pid <> pg_backend_pid()";
        assert_eq!(crate::number(&mut rig, readers).await, 4);
        blocker.batch_execute("ROLLBACK").await.expect("an end");
    };
    let (loaded, ()) = tokio::join!(join_all((0..64).map(|_| load())), watch);
    for loaded in loaded {
        // On a busy machine the first may have waited for too long.
        assert!(
            loaded.as_ref().err().is_none_or(db::Error::retryable),
            "{loaded:?}"
        );
    }
}
