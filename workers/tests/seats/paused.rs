//! An owner that stops in the middle of a transaction, as one does whose host hangs, or that is cut
//! off there.

use crate::number;
use crate::rig::Rig;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::seats::Outcome;
use onsale_testkit::links::address;
use onsale_workers::runtime::servers::{COMMITTER_SETTINGS, LIFE_CLASS};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use uuid::Uuid;

/// The lease by default, and a second.
const TAKEN_WITHIN: Duration = Duration::from_millis(3000 + 1000);

pub async fn wait_for(rig: &mut Rig, expected: i64, sql: &str) {
    let patience = Instant::now() + Duration::from_secs(60);
    while number(rig, sql).await != expected {
        assert!(Instant::now() < patience, "{sql} is not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stops_inside_a_transaction_blocks_nobody() {
    let mut rig = Rig::new().await;
    let schedule = rig.schedule(10, 60_000, 4).await;
    let owner = Uuid::now_v7();
    let life_key = 1;
    // Two sessions as an owner has them: one gives its signs of life, on the other it commits.
    let mut life = db::connect(rig.db.url()).await.expect("a connection");
    let mut committing = db::connect(rig.db.url()).await.expect("a connection");
    life.batch_execute(&format!(
        "SELECT pg_advisory_lock({LIFE_CLASS}, {life_key});
         INSERT INTO partition (lane, partition_no, owner, epoch)
             SELECT 'seats', n, '{owner}', 1 FROM generate_series(0, 3) n;
         INSERT INTO worker (worker_id, life_key, lanes) VALUES ('{owner}', {life_key}, '{{seats}}')"
    ))
    .await
    .expect("an owner");
    let worker = rig.worker().await;
    let beat =
        format!("UPDATE worker SET heartbeat_at = clock_timestamp() WHERE worker_id = '{owner}'");
    let settled = "SELECT count(*) AS n FROM worker \
                   WHERE heartbeat_at - started_at > interval '1 second'";
    while number(&mut rig, settled).await < 2 {
        life.batch_execute(&beat).await.expect("a sign of life");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let owned = format!("SELECT count(*) AS n FROM partition WHERE owner = '{owner}'");
    assert_eq!(number(&mut rig, &owned).await, 4, "it lives");

    committing
        .batch_execute("BEGIN; UPDATE partition SET commit_no = commit_no + 1")
        .await
        .expect("a transaction");
    let struck = Instant::now();
    wait_for(&mut rig, 0, &owned).await;
    let took = struck.elapsed();
    assert!(took < TAKEN_WITHIN, "{took:?}");
    let hold = rig.hold(schedule, &[1]);
    let outcome = rig.ask(hold).await;
    assert!(matches!(outcome, Outcome::Held(_)), "{outcome:?}");
    // It wakes up and would go on.
    let woken = committing.batch_execute("COMMIT").await;
    assert!(woken.is_err(), "its session was ended");
    let kept = "SELECT count(*) AS n FROM partition WHERE epoch = 1";
    assert_eq!(number(&mut rig, kept).await, 0);
    worker.stop().await;
}

/// The message that ends a flush of statements.
const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];

/// A link that, once it is cut, swallows from the end of the next flush on what goes to the server.
struct Link {
    addr: SocketAddr,
    is_cut: Arc<AtomicBool>,
    _carrier: JoinSet<()>,
}

impl Link {
    async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = is_cut.clone();
        let carrier = async move {
            let (client, _) = listener.accept().await.expect("a client");
            let server = TcpStream::connect(upstream).await.expect("the server");
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let there = async {
                let mut bytes = vec![0; 1 << 16];
                loop {
                    let n = from_client.read(&mut bytes).await.expect("bytes");
                    let mut some = &bytes[..n];
                    let ends = AtomicBool::load(&cut, Ordering::SeqCst) && some.ends_with(&SYNC);
                    if ends {
                        some = &some[..n - SYNC.len()];
                    }
                    to_server.write_all(some).await.expect("sent");
                    if ends || n == 0 {
                        return std::future::pending::<()>().await;
                    }
                }
            };
            let back = tokio::io::copy(&mut from_server, &mut to_client);
            tokio::select! {
                () = there => {}
                // The server's end may be a reset.
                _ = back => {}
            }
        };
        Self {
            addr,
            is_cut,
            _carrier: JoinSet::from_iter([carrier]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_inside_a_flush_keeps_no_locks() {
    let mut rig = Rig::new().await;
    let version = "SELECT current_setting('server_version_num')::bigint AS n";
    if number(&mut rig, version).await < 170_000 {
        return;
    }
    rig.sql("INSERT INTO partition (lane, partition_no) VALUES ('seats', 0)")
        .await;
    let upstream = address(rig.db.url()).expect("an address");
    let link = Link::to(upstream).await;
    let by_link = rig
        .db
        .url()
        .replace(&upstream.to_string(), &link.addr.to_string());
    assert_ne!(by_link, rig.db.url());
    let mut committing = db::connect(&by_link).await.expect("a connection");
    committing
        .batch_execute(COMMITTER_SETTINGS)
        .await
        .expect("settings");
    let mut update = async || {
        committing
            .batch_execute("BEGIN")
            .await
            .expect("a transaction");
        let written = statement("UPDATE partition SET commit_no = commit_no + 1")
            .execute(&mut committing)
            .await;
        let ended = committing.batch_execute("COMMIT").await;
        (written, ended)
    };
    // The statement is prepared from now on.
    let (written, ended) = update().await;
    assert!(written.is_ok() && ended.is_ok(), "{written:?} {ended:?}");

    link.is_cut.store(true, Ordering::SeqCst);
    let locked = "SELECT count(*) AS n FROM \
                  (SELECT FROM partition FOR UPDATE SKIP LOCKED) AS free";
    let watch = async {
        wait_for(&mut rig, 0, locked).await;
        let cut = Instant::now();
        wait_for(&mut rig, 1, locked).await;
        cut.elapsed()
    };
    let (took, (written, ended)) = tokio::join!(watch, update());
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(written.is_err() && ended.is_err(), "{written:?} {ended:?}");
    assert_eq!(
        number(&mut rig, "SELECT commit_no AS n FROM partition").await,
        1
    );
}
