//! The streams as NATS keeps them: what a full one does, and what becomes of one that is there.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

mod common;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use common::{SCHEDULE, keep_streams, start};
use onsale_platform::config::Streams;
use onsale_platform::nats;
use onsale_schema::Lane;
use onsale_schema::seats::{Kind, Outcome, Refusal};
use onsale_schema::subjects::Subjects;
use onsale_testkit::TestNats;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_the_next_and_keeps_what_it_has() {
    let bench = start(&[]).await;
    let small = Streams {
        bytes_max: 1 << 20,
        ..Streams::default()
    };
    keep_streams(&bench.nats.url(), &small).await;
    let buyer = bench.api.buyer().await;
    let jetstream = async_nats::jetstream::new(bench.app.nats.clone());
    let subject = Subjects::new("").unwrap().queue(Lane::Ledger);
    let mut stored = 0;
    // As long as there is room for a large one, and then for a small one.
    for bytes in [100_000, 100] {
        loop {
            let publish = jetstream.publish(subject.clone(), vec![0; bytes].into());
            if publish.await.unwrap().await.is_err() {
                break;
            }
            stored += 1;
        }
    }
    let refused = bench.api.charge(&buyer, 1000).await;
    refused.expect_problem(503, "dependency-unavailable");
    let mut ledger = jetstream.get_stream("LEDGER").await.unwrap();
    let state = &ledger.info().await.unwrap().state;
    assert_eq!((state.messages, state.first_sequence), (stored, 1));
}

/// A reply is as good as the acknowledgement of its message: the next must not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_holds_nothing_up() {
    // Less than an acknowledgement is waited for.
    let bench = start(&["--request-timeout-ms=3000"]).await;
    let mut owner = bench.owner::<Kind>(Lane::Seats).await;
    let jetstream = async_nats::jetstream::new(bench.app.nats.clone());
    let stream = jetstream.get_stream("SEATS").await.unwrap();
    let silent = Config {
        no_ack: true,
        ..stream.cached_info().config.clone()
    };
    jetstream.update_stream(silent).await.unwrap();
    let buyer = bench.api.buyer().await;
    // The acknowledgement of the first would be waited for beyond the second's deadline.
    for seat in ["A-1-1", "A-1-2"] {
        let answered = async {
            let message = owner.next().await;
            let refused = Outcome::Refused(Refusal::SaleClosed);
            owner.reply(&message, vec![refused]).await;
        };
        let seats = [seat];
        let (answer, ()) = tokio::join!(bench.api.hold(&buyer, SCHEDULE, &seats), answered);
        answer.expect_problem(410, "sale-closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_follow_their_settings() {
    let nats_server = TestNats::start().await.unwrap();
    let client = nats::connect(&nats_server.url(), "test").await.unwrap();
    let jetstream = nats::jetstream(client);
    let subjects = Subjects::new("").unwrap();
    // As an older version made it.
    let former = Config {
        name: subjects.stream(Lane::Settlement),
        subjects: vec![subjects.lane_filter(Lane::Settlement)],
        storage: StorageType::File,
        retention: RetentionPolicy::WorkQueue,
        max_bytes: 8 << 30,
        ..Config::default()
    };
    jetstream.create_stream(former).await.unwrap();
    let mut settings = Streams {
        bytes_max: 1 << 24,
        ..Streams::default()
    };
    nats::update_streams(&jetstream, &subjects, &settings)
        .await
        .unwrap();
    for (name, discard) in [
        ("SEATS", DiscardPolicy::Old),
        ("LEDGER", DiscardPolicy::New),
        ("SETTLEMENT", DiscardPolicy::New),
        ("EVENTS", DiscardPolicy::Old),
    ] {
        let stream = jetstream.get_stream(name).await.unwrap();
        let config = &stream.cached_info().config;
        assert_eq!((config.discard, config.max_bytes), (discard, 1 << 24));
    }

    // Who may only make them leaves them alone.
    settings.bytes_max = 1 << 25;
    jetstream.delete_stream("LEDGER").await.unwrap();
    nats::create_streams(&jetstream, &subjects, &settings)
        .await
        .unwrap();
    for (name, bytes) in [("SEATS", 1 << 24), ("LEDGER", 1 << 25)] {
        let stream = jetstream.get_stream(name).await.unwrap();
        assert_eq!(stream.cached_info().config.max_bytes, bytes, "{name}");
    }

    settings.bytes_max = 1 << 60;
    let refused = nats::update_streams(&jetstream, &subjects, &settings).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("lower ONSALE_STREAM_BYTES_MAX"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_stream_a_command_is_refused_until_it_is_there() {
    let bench = start(&["--request-timeout-ms", "300"]).await;
    let buyer = bench.api.buyer().await;
    let jetstream = async_nats::jetstream::new(bench.app.nats.clone());
    jetstream.delete_stream("LEDGER").await.unwrap();
    let refused = bench.api.charge(&buyer, 1000).await;
    refused.expect_problem(503, "dependency-unavailable");
    keep_streams(&bench.nats.url(), &Streams::default()).await;
    // Nobody decides it here, but it is taken.
    bench.api.charge(&buyer, 1000).await.expect(202);
}
