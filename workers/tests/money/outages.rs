//! Servers that go away and come back, and a stream that begins to count anew.

use crate::rig::{Asker, Rig, charge};
use onsale_schema::ledger::Outcome;
use onsale_schema::{Lane, MessageId};
use onsale_testkit::Servers;
use onsale_workers::config::Role;

async fn balance(asker: &mut Asker<Outcome>, message: MessageId) -> i64 {
    match asker.outcomes(message).await.remove(0) {
        Outcome::Charged { balance, .. } => balance.to_won(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_servers_that_are_away_and_loses_nothing() {
    let mut servers = Servers::start("money-outage").await.unwrap();
    servers.postgres.create_database("money").await.unwrap();
    let database_url = servers.postgres.url("money");
    let mut rig = Rig::on(&database_url, &servers.nats.url()).await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let worker = rig.worker(Role::Ledger).await;
    let user = rig.user(100).await;
    let first = asker.send(vec![charge(user, 1)]).await;
    assert_eq!(balance(&mut asker, first).await, 101);

    servers.postgres.kill9().await;
    let second = asker.send(vec![charge(user, 2)]).await;
    servers.postgres.restart().await.unwrap();
    assert_eq!(balance(&mut asker, second).await, 103);

    servers.nats.kill9().await;
    servers.nats.restart().await.unwrap();
    let third = asker.send(vec![charge(user, 4)]).await;
    assert_eq!(balance(&mut asker, third).await, 107);
    worker.stop().await;
    rig.conn = onsale_platform::db::connect(&database_url).await.unwrap();
    rig.assert_balanced().await;
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_counts_anew_is_no_reason_to_stop() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let user = rig.user(100).await;
    let worker = rig.worker(Role::Ledger).await;
    asker.send_bytes(b"\xc1".to_vec()).await;
    let first = asker.send(vec![charge(user, 1)]).await;
    assert_eq!(balance(&mut asker, first).await, 101);
    rig.until("SELECT count(*) AS n FROM dead_letter", 1).await;

    // The worker makes stream and consumer again by itself.
    let stream = rig.subjects.stream(Lane::Ledger);
    rig.jetstream.delete_stream(&stream).await.unwrap();
    asker.send_bytes(b"\xc1\xc1".to_vec()).await;
    let second = asker.send(vec![charge(user, 2)]).await;
    assert_eq!(balance(&mut asker, second).await, 103);
    rig.until("SELECT count(*) AS n FROM dead_letter", 2).await;
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM outcome WHERE incarnation = 1 AND seq = 2")
            .await,
        1
    );
    worker.stop().await;
    rig.assert_balanced().await;
}
