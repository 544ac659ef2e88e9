//! The pool of `platform` on a link that swallows without a word: nobody waits for ever.

use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use onsale_platform::db::{self, Error, Pool};
use onsale_platform::tx;
use onsale_testkit::TestDb;
use onsale_testkit::links::{address, by_way_of};
use onsale_testkit::proxy::{Fault, Proxy};
use tokio::time::timeout;

/// A loan ends after five seconds; the rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(15);

async fn transaction(pool: &Pool) -> Result<(), Error> {
    tx::run(pool, |conn| {
        async move { db::measure_clock(conn, &onsale_platform::Clock::default()).await }.boxed()
    })
    .await
}

/// A query and a transaction on connections with such a fault end with an error, and the next ones
/// have other connections.
async fn fails_in_time(fault: Fault) {
    let database = TestDb::create().await.expect("a database");
    let upstream = address(database.url()).expect("an address");
    let proxy = Proxy::start(upstream).await.expect("a proxy");
    let pool = db::pool(&by_way_of(&proxy, database.url()), 2).expect("a pool");
    let both = || {
        timeout(BOUND, async {
            tokio::join!(db::ping(&pool), transaction(&pool))
        })
    };
    let before = both().await;
    assert!(matches!(before, Ok((Ok(()), Ok(())))), "{before:?}");
    proxy.set(fault);
    let during = both().await;
    assert!(
        matches!(
            during,
            Ok((Err(Error::Unavailable(_)), Err(Error::Unavailable(_))))
        ),
        "{during:?}"
    );
    proxy.set(Fault::Pass);
    let after = both().await;
    assert!(matches!(after, Ok((Ok(()), Ok(())))), "{after:?}");
}

#[tokio::test]
async fn connections_that_were_forgotten_are_cut_off() {
    fails_in_time(Fault::Forget).await;
}

#[tokio::test]
async fn connections_in_a_black_hole_are_cut_off() {
    fails_in_time(Fault::BlackHole).await;
}

#[tokio::test]
async fn the_servers_end_of_a_session_notices_that_its_client_is_gone() {
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        idle_interval_count: String,
    }
    let database = TestDb::create().await.expect("a database");
    let mut conn = db::connect(database.url()).await.expect("a connection");
    // As the socket has it, not as it was asked for.
    let setting: Setting = sql_query(
        "SELECT concat_ws(' ', current_setting('tcp_keepalives_idle'), \
                          current_setting('tcp_keepalives_interval'), \
                          current_setting('tcp_keepalives_count'), \
                          current_setting('tcp_user_timeout')) AS idle_interval_count",
    )
    .get_result(&mut conn)
    .await
    .expect("settings");
    assert_eq!(setting.idle_interval_count, "10 3 3 0");
}
