//! The half of F2 that needs the stream.

use async_nats::HeaderMap;
use diesel_async::SimpleAsyncConnection;
use onsale::audit::{self, Options, Report};
use onsale_platform::config::Streams;
use onsale_platform::nats;
use onsale_schema::invariant::Invariant;
use onsale_schema::subjects::Subjects;
use onsale_testkit::{TestDb, TestNats};
use uuid::Uuid;

use crate::rig::healthy;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_up_to_the_cursor_has_its_outcome() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    let server = TestNats::start().await.unwrap();
    let subjects = Subjects::new("x").unwrap();
    let client = nats::connect(&server.url(), "test").await.unwrap();
    let jetstream = nats::jetstream(client);
    nats::update_streams(&jetstream, &subjects, &Streams::default())
        .await
        .unwrap();
    let options = Options::new(&url).with_nats(server.url(), "x");
    let audit = async || audit::audit(&options).await.unwrap();
    let f2 = |report: &Report| {
        let mut checks = report.checks.iter();
        let f2 = checks.find(|check| check.invariant == Invariant::F2);
        f2.and_then(|check| check.note.clone()).unwrap()
    };

    // A stream that was emptied can't contradict anything.
    let report = audit().await;
    assert!(report.ok(), "{report}");
    assert!(f2(&report).contains(" 0 messages"), "{report}");

    // Messages 1 to 4; the first three are up to the cursor and decided.
    for (n, partition) in [(1, 0), (2, 0), (3, 0), (4, 1)] {
        let mut headers = HeaderMap::new();
        let id = Uuid::from_u128(0x600 + n).to_string();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
        let subject = format!("x.cmd.seats.{partition}");
        let ack = jetstream
            .publish_with_headers(subject, headers, "m".into())
            .await
            .unwrap();
        assert_eq!(u128::from(ack.await.unwrap().sequence), n);
    }
    let report = audit().await;
    assert!(report.ok(), "{report}");
    assert!(f2(&report).contains(" 3 messages"), "{report}");

    // One loses its outcome; a dead letter is as good; an outcome of a former incarnation is not,
    // unless it is of this very message.
    let steps: [(&str, &[&str]); 6] = [
        (
            "DELETE FROM outcome WHERE lane = 'seats' AND seq = 2",
            &["F2"],
        ),
        (
            "INSERT INTO dead_letter VALUES ('seats', 0, 0, 2, -1, '', '')",
            &[],
        ),
        (
            "INSERT INTO partition VALUES ('seats', 1, NULL, 1, 1, 1, 4, at(30))",
            &["F2"],
        ),
        (
            "INSERT INTO outcome VALUES ('seats', 1, 0, 4, 1, 1, id(9), '', at(1))",
            &["F2"],
        ),
        (
            "UPDATE outcome SET message_id = '00000000-0000-0000-0000-000000000604'
          WHERE partition_no = 1",
            &[],
        ),
        (
            "UPDATE partition SET incarnation = 0; UPDATE outcome SET message_id = id(9)",
            &[],
        ),
    ];
    for (change, expected) in steps {
        conn.batch_execute(change).await.unwrap();
        let report = audit().await;
        assert_eq!(report.violated(), expected, "{change}\n{report}");
    }

    // A server that is gone takes nothing from the table.
    drop(server);
    let report = audit().await;
    assert!(!report.ok(), "{report}");
    assert_eq!(report.violated(), [""; 0], "{report}");
    let missing: Vec<_> = report
        .not_compared
        .iter()
        .map(|one| one.invariant)
        .collect();
    assert_eq!(missing, [Invariant::F2], "{report}");
}
