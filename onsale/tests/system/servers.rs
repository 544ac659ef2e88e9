//! Servers and workers fall and come back, one after the other, with three workers under load.

use crate::hall::{Hall, PATIENCE};
use crate::load::Load;
use crate::ownership::{owned_by, owners_become};
use crate::receiver::{Answers, Receiver};
use crate::streams::{READ, RENEWED};
use crate::webhooks::subscribe;
use onsale_platform::metric;
use onsale_testkit::SystemOptions;
use onsale_testkit::postgres::Stop;
use onsale_testkit::proxy::Fault;
use onsale_testkit::spawn::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Dates enough that every worker has some.
const DATES: usize = 24;
/// So many more holds of each date show that all goes on.
const ON: i64 = 5;
/// Every takeover adds one.
const EPOCHS: &str = "SELECT sum(epoch)::bigint AS n FROM partition WHERE lane = 'seats'";
/// Whether Postgres has run for so long. A lease is three seconds; then somebody has to look.
fn runs_for(seconds: u32) -> String {
    format!(
        "SELECT (clock_timestamp() - pg_postmaster_start_time() \
         > interval '{seconds} seconds')::int::bigint AS n"
    )
}

/// All that was promised is true.
async fn end(what: &str, load: Load, hall: &mut Hall) {
    let seen = load.stop_after_faults(hall).await;
    println!(
        "{what}: {} holds acknowledged, {} left open, {} turned away",
        seen.acknowledged.len(),
        seen.open.len(),
        seen.turned_away,
    );
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nats_server_loses_nothing() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(3).own_servers()).await;
    let load = Load::start(&mut hall, DATES).await;
    load.under_way(&hall, 3).await;
    let struck = Instant::now();
    let nats = &mut hall.system.servers().nats;
    nats.kill9().await;
    nats.restart().await.expect("a nats-server");
    load.more_everywhere(&hall, ON).await;
    println!("nats-server killed: a gap of {:?}", load.gap(struck));
    end("nats-server killed", load, &mut hall).await;
}

/// All workers let their leases run out, and all are back within moments of each other: nobody takes
/// for dead who is only a little later.
#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_was_away_for_two_leases_moves_no_partition() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(3).own_servers()).await;
    owned_by(&hall, 3).await;
    let load = Load::start(&mut hall, 4).await;
    load.under_way(&hall, 3).await;
    let epochs = hall.number(EPOCHS).await;
    hall.system.servers().nats.kill9().await;
    let silent = "SELECT count(*) AS n FROM worker WHERE 'seats' = ANY (lanes) \
                  AND heartbeat_at < clock_timestamp() - interval '6 seconds'";
    load.until(&hall, silent, 3).await;
    let nats = &mut hall.system.servers().nats;
    nats.restart().await.expect("a nats-server");
    load.more_everywhere(&hall, ON).await;
    assert_eq!(hall.number(EPOCHS).await, epochs, "no partition was taken");
    end("nats-server away for two leases", load, &mut hall).await;
}

/// Nobody publishes then, and somebody has to be woken for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_told_by_every_worker_while_nats_is_away() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(2).own_servers()).await;
    let receiver = Receiver::start(Answers::Status(204)).await;
    subscribe(&hall.api, &hall.admin(), &receiver.url()).await;
    let told = async |hall: &Hall, lines: [&str; 3], oldest_s: std::ops::Range<f64>| {
        let oldest = format!("{}{{kind=\"fact\"}} ", metric::OUTBOX_OLDEST);
        for worker in 0..2 {
            for line in lines {
                hall.worker_tells(worker, line, |told| told == line).await;
            }
            let is_so = |told: &str| {
                let age_s = told.strip_prefix(&oldest).map(str::parse);
                matches!(age_s, Some(Ok(age_s)) if oldest_s.contains(&age_s))
            };
            hall.worker_tells(worker, &oldest, is_so).await;
        }
    };
    let nobody = [
        "onsale_outbox_open{kind=\"fact\"} 0",
        "onsale_dead_letters_untried 0",
        "onsale_webhooks{kind=\"active\"} 1",
    ];
    told(&hall, nobody, 0.0..0.1).await;

    hall.system.servers().nats.kill9().await;
    hall.workers_say("NATS is away; another replica may publish")
        .await;
    hall.sql(
        "INSERT INTO outbox (topic, aggregate_id, seq, payload, created_at) \
         VALUES ('seats', gen_random_uuid(), 1, '', clock_timestamp() - interval '90 seconds'); \
         INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, payload, error) \
         VALUES ('ledger', 0, 0, 1, 0, '', 'of a test'); \
         UPDATE webhook SET state = 'DEAD'",
    )
    .await;
    let open = [
        "onsale_outbox_open{kind=\"fact\"} 1",
        "onsale_dead_letters_untried 1",
        "onsale_webhooks{kind=\"active\"} 0",
    ];
    told(&hall, open, 90.0..120.0).await;

    let nats = &mut hall.system.servers().nats;
    nats.restart().await.expect("a nats-server");
    let published = [
        "onsale_outbox_open{kind=\"fact\"} 0",
        "onsale_dead_letters_untried 1",
        "onsale_webhooks{kind=\"dead\"} 1",
    ];
    told(&hall, published, 0.0..0.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_comes_back_with_older_streams_makes_no_answer_untrue() {
    let options = SystemOptions::default()
        .workers(3)
        .own_servers()
        .setting("ONSALE_REQUEST_TIMEOUT_MS", 2000);
    let mut hall = Hall::open_with(options).await;
    let load = Load::start(&mut hall, DATES).await;
    load.under_way(&hall, 3).await;
    let nats = &mut hall.system.servers().nats;
    let (streams, older) = (nats.dir().join("jetstream"), nats.dir().join("older"));
    nats.stop().await;
    copy(&streams, &older);
    nats.restart().await.expect("a nats-server");
    load.more_everywhere(&hall, ON).await;

    let nats = &mut hall.system.servers().nats;
    nats.kill9().await;
    std::fs::remove_dir_all(&streams).expect("no streams");
    copy(&older, &streams);
    nats.restart().await.expect("a nats-server");
    // New messages have the numbers of lost ones from here on.
    let read = hall.number(READ).await;
    load.until(&hall, RENEWED, read).await;
    load.more_everywhere(&hall, ON).await;
    end("nats-server with older streams", load, &mut hall).await;
}

fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    let copied = copy.arg("-r").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "{copied}");
}

/// Postgres crashes under load; all goes on, and nobody takes a partition: its owner is well.
async fn crash_postgres(what: &str, options: SystemOptions, recovery: Recovery) {
    let mut hall = Hall::open_with(options.workers(3).own_servers()).await;
    let load = Load::start(&mut hall, DATES).await;
    // Until then nobody gives anything to a newcomer.
    load.until(&hall, &runs_for(4), 1).await;
    owners_become(&hall, 3).await;
    load.more_everywhere(&hall, ON).await;
    let before = hall.number(EPOCHS).await;

    let reach = |hall: &Hall, fault| {
        if recovery == Recovery::Long {
            let workers = &hall.system.workers;
            workers.iter().for_each(|w| w.links().postgres.set(fault));
        }
    };
    let struck = Instant::now();
    hall.system.servers().postgres.stop(Stop::Immediate).await;
    reach(&hall, Fault::Reset);
    let restarted = hall.system.servers().postgres.restart().await;
    restarted.expect("a Postgres");
    if recovery == Recovery::Long {
        load.until(&hall, &runs_for(4), 1).await;
    }
    reach(&hall, Fault::Pass);
    load.more_everywhere(&hall, ON).await;
    println!("{what}: a gap of {:?}", load.gap(struck));
    // The restart freed every life-sign at once; a stampede would come when they count again.
    load.until(&hall, &runs_for(9), 1).await;
    load.more_everywhere(&hall, ON).await;
    hall.conn = hall.connect().await;
    let after = hall.number(EPOCHS).await;
    assert_eq!(after, before, "partitions were taken\n{}", hall.logs());
    end(what, load, &mut hall).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Recovery {
    Short,
    /// Longer than a lease, from the workers' point of view. Postgres counts it as time that it ran.
    Long,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_crashes_loses_nothing_and_every_owner_keeps_its_partitions() {
    crash_postgres(
        "Postgres crashed",
        SystemOptions::default(),
        Recovery::Short,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_recovers_for_longer_than_a_lease_makes_no_stampede() {
    let options = SystemOptions::default().proxied();
    crash_postgres("Postgres crashed, long recovery", options, Recovery::Long).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_killed_hung_and_restarted_in_turn_lose_nothing() {
    let mut hall = Hall::open_with(SystemOptions::default().workers(3)).await;
    owners_become(&hall, 3).await;
    let load = Load::start(&mut hall, DATES).await;
    load.under_way(&hall, 3).await;

    let struck = Instant::now();
    hall.system.workers[0].kill9().await;
    load.more_everywhere(&hall, ON).await;
    println!("worker killed: a gap of {:?}", load.gap(struck));
    hall.system.workers[0].restart().await.expect("a worker");
    owners_become(&hall, 3).await;
    load.more_everywhere(&hall, ON).await;

    let struck = Instant::now();
    hall.system.workers[1].signal(Signal::SIGSTOP);
    owned_by(&hall, 2).await;
    load.more_everywhere(&hall, ON).await;
    println!("worker hung: a gap of {:?}", load.gap(struck));
    hall.system.workers[1].signal(Signal::SIGCONT);
    owners_become(&hall, 3).await;
    load.more_everywhere(&hall, ON).await;

    let ended = tokio::time::timeout(PATIENCE, hall.system.workers[2].stop()).await;
    assert_eq!(ended.expect("an end").code(), Some(0));
    load.more_everywhere(&hall, ON).await;
    hall.system.workers[2].restart().await.expect("a worker");
    owners_become(&hall, 3).await;
    load.more_everywhere(&hall, ON).await;
    end("workers killed, hung, restarted", load, &mut hall).await;
}
