//! The sweeper and the publisher of notices and facts.

use crate::rig::{Asker, PARTITIONS, PATIENCE, Rig, pay};
use async_nats::Subscriber;
use futures_util::StreamExt;
use onsale_schema::message::{CommandMessage, decode};
use onsale_schema::partition::of_schedule;
use onsale_schema::seats::Kind;
use onsale_schema::settlement::Outcome;
use onsale_schema::{Lane, MessageId, ScheduleId};
use onsale_workers::config::Role;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Commands to the owners of seats, as they are published.
struct Owners(Subscriber);

impl Owners {
    async fn new(rig: &Rig) -> Self {
        let subject = rig.subjects.lane_filter(Lane::Seats);
        let subscriber = rig.client.subscribe(subject).await.unwrap();
        rig.client.flush().await.unwrap();
        Self(subscriber)
    }

    async fn next(&mut self, rig: &Rig, schedule: ScheduleId) -> (MessageId, Vec<Kind>) {
        let message = tokio::time::timeout(PATIENCE, self.0.next())
            .await
            .expect("a command in time")
            .unwrap();
        let partition = of_schedule(schedule, PARTITIONS);
        let subject = rig.subjects.partition(Lane::Seats, partition);
        assert_eq!(message.subject.as_str(), subject);
        let message: CommandMessage<Kind> = decode(&message.payload).unwrap();
        assert_eq!(message.reply_to, None);
        let kinds = message.commands.into_iter().map(|c| c.kind).collect();
        (message.id, kinds)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_one_lane_hides_nothing_from_the_other() {
    let mut rig = Rig::new().await;
    let mut owners = Owners::new(&rig).await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    // More than one look sees, all of them older; nobody marks them done.
    rig.sql(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload, created_at) \
         SELECT gen_random_uuid(), 'admission', gen_random_uuid(), '', now() - interval '1 hour' \
         FROM generate_series(1, 70000)",
    )
    .await;
    let workers = [
        rig.worker(Role::Settlement).await,
        rig.worker(Role::Outbox).await,
    ];
    let user = rig.user(5000).await;
    let (reservation, schedule) = rig.reservation(user, 5000, "HELD", 60_000).await;
    let paid = asker.ask(pay(user, reservation)).await;
    assert!(matches!(paid, Outcome::Paid(_)));
    let (_, kinds) = owners.next(&rig, schedule).await;
    assert!(matches!(kinds[..], [Kind::PaidAll { .. }]), "{kinds:?}");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_told_to_the_owner_of_its_seats_until_that_is_done() {
    let mut rig = Rig::new().await;
    let mut owners = Owners::new(&rig).await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Settlement).await;
    let workers = [
        rig.worker(Role::Settlement).await,
        rig.worker(Role::Outbox).await,
    ];
    let user = rig.user(5000).await;
    let (reservation, schedule) = rig.reservation(user, 5000, "HELD", 60_000).await;
    let paid = asker.ask(pay(user, reservation)).await;
    assert!(matches!(paid, Outcome::Paid(_)));

    let (first, kinds) = owners.next(&rig, schedule).await;
    let [
        Kind::PaidAll {
            notice_id,
            reservation_ids,
            schedule_id,
        },
    ] = &kinds[..]
    else {
        panic!("{kinds:?}")
    };
    assert_eq!(
        (&reservation_ids[..], *schedule_id),
        (&[reservation][..], schedule)
    );
    let notice_id = *notice_id;
    let (second, again) = owners.next(&rig, schedule).await;
    assert_eq!((first, kinds), (second, again), "the stream keeps one");
    let mut stream = rig
        .jetstream
        .get_stream(rig.subjects.stream(Lane::Seats))
        .await
        .unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);

    rig.sql(&format!(
        "UPDATE notice SET done_at = now() WHERE notice_id = '{notice_id}'"
    ))
    .await;
    // It would be told again two seconds after the second time.
    let again = tokio::time::timeout(Duration::from_millis(2500), owners.0.next()).await;
    assert!(again.is_err(), "{again:?}");
    for worker in workers {
        worker.stop().await;
    }
}

/// Facts of two aggregates, with numbers from and to; each was written so many milliseconds after the one before.
fn facts(from: i64, to: i64, apart_ms: i64) -> String {
    format!(
        "INSERT INTO outbox (topic, aggregate_id, seq, payload, created_at)
         SELECT 'seats', a, n, convert_to(n::text, 'UTF8'),
                now() - interval '1 hour' + {apart_ms} * n * interval '1 ms'
         FROM generate_series({from}, {to}) n,
              (VALUES ('{}'::uuid), ('{}'::uuid)) v(a) ORDER BY n",
        Uuid::from_u128(1),
        Uuid::from_u128(2)
    )
}

const OPEN: &str = "SELECT count(*) AS n FROM outbox WHERE published_at IS NULL";

/// The numbers of an aggregate's facts as they are on the events stream.
async fn on_stream(rig: &Rig, aggregate: u128) -> Vec<i64> {
    let stream = rig.jetstream.get_stream(rig.subjects.events_stream());
    let stream = stream.await.unwrap();
    let config = async_nats::jetstream::consumer::pull::OrderedConfig {
        filter_subject: (rig.subjects).seat_events(ScheduleId(Uuid::from_u128(aggregate))),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let count = usize::try_from(consumer.cached_info().num_pending).unwrap();
    let messages = consumer.messages().await.unwrap().take(count);
    let numbers = messages.map(|message| {
        let payload = message.unwrap().payload.to_vec();
        String::from_utf8(payload).unwrap().parse::<i64>().unwrap()
    });
    numbers.collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_published_in_order_and_once_by_whoever_leads() {
    let mut rig = Rig::new().await;
    let leader = rig.worker(Role::Outbox).await;
    let follower = rig.worker(Role::Outbox).await;
    // More than one look takes.
    rig.sql(&facts(1, 400, 1)).await;
    rig.until(OPEN, 0).await;
    drop(leader);
    rig.sql(&facts(401, 500, 1)).await;
    rig.until(OPEN, 0).await;
    follower.stop().await;
    for aggregate in [1, 2] {
        let all: Vec<i64> = (1..=500).collect();
        assert_eq!(on_stream(&rig, aggregate).await, all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_in_order_also_where_a_clock_went_back() {
    let mut rig = Rig::new().await;
    // The last ones seem to be the oldest, and are more than one look takes.
    rig.sql(&facts(1, 400, -1)).await;
    let worker = rig.worker(Role::Outbox).await;
    rig.until(OPEN, 0).await;
    worker.stop().await;
    for aggregate in [1, 2] {
        let all: Vec<i64> = (1..=400).collect();
        assert_eq!(on_stream(&rig, aggregate).await, all);
    }
}

/// What a consumer knows that skips what is not higher than the last, and finds nothing missing.
fn counted(numbers: &[i64]) -> i64 {
    numbers.iter().fold(0, |last, &number| {
        assert!(number <= last + 1, "{number} comes before {}", last + 1);
        last.max(number)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_events_stream_has_lost_is_there_again_before_anything_new() {
    let mut rig = Rig::new().await;
    let worker = rig.worker(Role::Outbox).await;
    rig.sql(&facts(1, 300, 1)).await;
    rig.until(OPEN, 0).await;
    let name = rig.subjects.events_stream();
    rig.jetstream.delete_stream(&name).await.unwrap();
    rig.sql(&facts(301, 310, 1)).await;
    rig.until(OPEN, 0).await;
    for aggregate in [1, 2] {
        assert_eq!(counted(&on_stream(&rig, aggregate).await), 310);
    }
    worker.stop().await;

    // It ends before what was published, as one whose server lost power, and forgets the ids of what it lost.
    let mut stream = rig.jetstream.get_stream(&name).await.unwrap();
    let info = stream.info().await.unwrap().clone();
    let last = info.state.last_sequence;
    forget(&rig, info.config).await;
    stream.info().await.unwrap();
    let end = stream.cached_info().state.last_sequence;
    for place in last - 50..=end {
        stream.delete_message(place).await.unwrap();
    }
    for aggregate in [1, 2] {
        assert!(counted(&on_stream(&rig, aggregate).await) < 310);
    }
    let ahead = format!("UPDATE fact_feed SET stream_seq = {}", end + 1);
    rig.sql(&ahead).await;
    rig.sql(&facts(311, 311, 1)).await;
    let worker = rig.worker(Role::Outbox).await;
    rig.until(OPEN, 0).await;
    for aggregate in [1, 2] {
        assert_eq!(counted(&on_stream(&rig, aggregate).await), 311);
    }
    // Once is enough.
    let held = stream.info().await.unwrap().state.messages;
    rig.sql(&facts(312, 312, 1)).await;
    rig.until(OPEN, 0).await;
    let state = stream.info().await.unwrap().state.clone();
    assert_eq!(state.messages, held + 2);
    let noted = "SELECT stream_seq AS n FROM fact_feed";
    rig.until(noted, i64::try_from(state.last_sequence).unwrap())
        .await;
    worker.stop().await;
}

/// Whoever put it back died in the middle: the stream is longer than it was by then, and lacks the rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_put_back_yet_is_put_back_by_the_next_publisher() {
    let mut rig = Rig::new().await;
    let worker = rig.worker(Role::Outbox).await;
    rig.sql(&facts(1, 300, 1)).await;
    rig.until(OPEN, 0).await;
    worker.stop().await;
    let name = rig.subjects.events_stream();
    let mut stream = rig.jetstream.get_stream(&name).await.unwrap();
    stream.purge().await.unwrap();
    let config = stream.info().await.unwrap().config.clone();
    forget(&rig, config).await;
    stream.purge().await.unwrap();
    rig.sql("UPDATE fact_feed SET put_back_no = 200").await;
    rig.sql(&facts(301, 301, 1)).await;
    let worker = rig.worker(Role::Outbox).await;
    rig.until(OPEN, 0).await;
    worker.stop().await;
    let ended =
        "SELECT count(*) AS n FROM fact_feed WHERE put_back_no IS NULL AND put_back_at IS NOT NULL";
    rig.until(ended, 1).await;
    let numbered = "SELECT count(*) AS n FROM outbox WHERE feed_no > 200";
    let expected = rig.number(numbered).await;
    let (one, other) = (on_stream(&rig, 1).await, on_stream(&rig, 2).await);
    assert_eq!((one.len() + other.len()) as i64, expected);
    for numbers in [one, other] {
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
        assert_eq!(numbers.last(), Some(&301));
    }
}

/// Has the events stream forget the ids of its messages.
async fn forget(rig: &Rig, config: async_nats::jetstream::stream::Config) {
    // Twice: the first time the server may have read the window of before, and wait for its end.
    for window_ms in [101, 100] {
        let forgetful = async_nats::jetstream::stream::Config {
            duplicate_window: Duration::from_millis(window_ms),
            ..config.clone()
        };
        rig.jetstream.update_stream(forgetful).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, async { while !is_forgotten(rig).await {} })
        .await
        .expect("ids are forgotten");
}

/// Whether the stream takes an id again that it has had.
async fn is_forgotten(rig: &Rig) -> bool {
    let aggregate = Uuid::from_u128(1);
    let message = async_nats::jetstream::message::PublishMessage::build()
        .payload("310".into())
        .message_id(onsale_schema::facts::id("seats", aggregate, 310));
    let subject = rig.subjects.seat_events(ScheduleId(aggregate));
    let sent = rig.jetstream.send_publish(subject, message).await.unwrap();
    !sent.await.unwrap().duplicate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_that_no_stream_takes_is_set_aside_and_holds_up_nothing() {
    let mut rig = Rig::new().await;
    let worker = rig.worker(Role::Outbox).await;
    // More than NATS takes at all, in the middle of an aggregate.
    let [large, other] = [1, 2].map(Uuid::from_u128);
    rig.sql(&format!(
        "INSERT INTO outbox (topic, aggregate_id, seq, payload)
         SELECT 'seats', '{large}', n, decode(repeat('00', 1100000), 'hex')
         FROM generate_series(2, 6) n;
         INSERT INTO outbox (topic, aggregate_id, seq, payload)
         SELECT 'seats', a, n, convert_to(n::text, 'UTF8')
         FROM (VALUES ('{large}'::uuid, 1), ('{large}', 7), ('{other}', 1), ('{other}', 2)) v(a, n)"
    ))
    .await;
    rig.until(
        "SELECT count(*) AS n FROM outbox WHERE published_at IS NULL",
        0,
    )
    .await;
    let stream = rig.jetstream.get_stream(rig.subjects.events_stream());
    let mut stream = stream.await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 4);
    // They have numbers in their order, so that webhook subscribers get them.
    let refused = "SELECT count(*) AS n FROM outbox WHERE refused LIKE '%payload%' AND feed_no > 0";
    rig.until(refused, 5).await;
    let disorder = "SELECT count(*) AS n FROM outbox a JOIN outbox b USING (topic, aggregate_id) \
                    WHERE a.seq < b.seq AND a.feed_no >= b.feed_no";
    rig.until(disorder, 0).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_that_are_due_are_asked_to_lapse_and_asked_again() {
    let mut rig = Rig::new().await;
    let mut owners = Owners::new(&rig).await;
    let worker = rig.worker(Role::Expiry).await;
    let user = rig.user(0).await;
    rig.reservation(user, 1000, "HELD", 60_000).await;
    rig.reservation(user, 1000, "EXPIRED", -5000).await;
    let (due, schedule) = rig.reservation(user, 1000, "HELD", 200).await;
    let (first, kinds) = owners.next(&rig, schedule).await;
    let asked_at = Instant::now();
    let [
        Kind::Expire {
            reservation_id,
            schedule_id,
            expires_at,
        },
    ] = kinds[..]
    else {
        panic!("{kinds:?}")
    };
    assert_eq!((reservation_id, schedule_id), (due, schedule));
    let late_ms = onsale_platform::clock::host_now().ms_since(expires_at);
    // Half a second on a machine that has nothing else to do.
    assert!((300..3000).contains(&late_ms), "{late_ms} ms");

    // Nobody let it lapse.
    let (second, again) = owners.next(&rig, schedule).await;
    assert_eq!(again, kinds);
    assert_ne!(second, first);
    let waited = asked_at.elapsed();
    assert!(waited > Duration::from_millis(1500), "{waited:?}");
    worker.stop().await;
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM reservation WHERE status = 'HELD'")
            .await,
        2,
        "it never changes a seat"
    );
}
