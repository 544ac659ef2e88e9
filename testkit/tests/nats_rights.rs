//! What each user may say and hear on NATS, on a real server with the configuration that it gets.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::time::Duration;

use async_nats::{Client, Event};
use onsale_platform::config::Streams;
use onsale_platform::nats;
use onsale_platform::nats_users::{User, inbox_prefix};
use onsale_schema::message::{CommandMessage, decode, encode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{Lane, ScheduleId, facts, ledger, seats, settlement};
use onsale_testkit::{NatsOptions, NatsUsers, TestNats};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

/// A user, and what the server tells it.
struct Session {
    client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
}

impl Session {
    async fn open(server: &TestNats, user: User, subjects: &Subjects) -> Self {
        let (told, refusals) = mpsc::unbounded_channel();
        let name = user.name(subjects);
        let client = async_nats::ConnectOptions::with_user_and_password(
            name.clone(),
            format!("{}-password", user.as_str()),
        )
        .custom_inbox_prefix(inbox_prefix(&name))
        .event_callback(move |event| {
            let told = told.clone();
            async move {
                if let Event::ServerError(error) = event {
                    drop(told.send(error.to_string()));
                }
            }
        })
        .connect(server.server.url())
        .await
        .unwrap();
        Self { client, refusals }
    }

    /// Whether the server has refused anything since the last time.
    async fn was_refused(&mut self, marker: &str) -> bool {
        // The server answers in order, so what was refused before the marker has been told before
        // it; the marker itself is refused to everybody.
        self.client
            .publish(marker.to_owned(), "".into())
            .await
            .unwrap();
        let mut refused = false;
        loop {
            let told = tokio::time::timeout(PATIENCE, self.refusals.recv()).await;
            let told = told.unwrap().unwrap();
            assert!(
                told.to_lowercase().contains("permissions violation"),
                "{told}"
            );
            if told.contains(&format!("\"{marker}\"")) {
                return refused;
            }
            refused = true;
        }
    }

    async fn may_publish(&mut self, subject: &str) -> bool {
        let marker = format!("marker.{subject}");
        self.client
            .publish(subject.to_owned(), "".into())
            .await
            .unwrap();
        !self.was_refused(&marker).await
    }

    async fn may_subscribe(&mut self, subject: &str) -> bool {
        let marker = format!("marker.sub.{subject}").replace(['*', '>'], "x");
        let subscribed = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        let may = !self.was_refused(&marker).await;
        drop(subscribed);
        may
    }
}

/// Who may publish to a subject, for every family of subjects that there is and every request that
/// JetStream takes. `P` stands for the prefix with its dot, `S` for the stream SEATS, and so on.
const PUBLISH: &[(&str, &[User])] = {
    use User::{Consumer, Ingress, Operator, Workers};
    &[
        ("{p}cmd.seats.3", &[Ingress, Workers]),
        ("{p}cmd.ledger", &[Ingress]),
        ("{p}cmd.settlement", &[Ingress]),
        ("{p}cmd.other", &[]),
        ("{p}rsp.0123.seats", &[Workers]),
        ("{p}lag.seats.3", &[Workers]),
        ("{p}map.seats.3", &[Workers]),
        ("{p}nudge.outbox", &[Workers]),
        ("{p}nudge.orders", &[Workers]),
        ("{p}nudge.ownership", &[Workers]),
        ("{p}evt.seats.0123", &[Workers]),
        ("{p}session.revoked", &[Ingress]),
        ("{p}session.other", &[]),
        ("_INBOX.{u}ingress.x", &[]),
        ("_INBOX.{u}workers.x", &[]),
        ("_INBOX.x", &[]),
        ("anything", &[]),
        ("$SYS.REQ.SERVER.PING", &[]),
        ("$JS.API.INFO", &[]),
        ("$JS.API.STREAM.NAMES", &[]),
        ("$JS.API.STREAM.LIST", &[]),
        ("$JS.API.STREAM.CREATE.{n}SEATS", &[Workers, Operator]),
        ("$JS.API.STREAM.CREATE.{n}LEDGER", &[Workers, Operator]),
        ("$JS.API.STREAM.CREATE.{n}SETTLEMENT", &[Workers, Operator]),
        ("$JS.API.STREAM.CREATE.{n}EVENTS", &[Workers, Operator]),
        ("$JS.API.STREAM.CREATE.MINE", &[]),
        ("$JS.API.STREAM.UPDATE.{n}SEATS", &[Operator]),
        ("$JS.API.STREAM.UPDATE.{n}LEDGER", &[Operator]),
        ("$JS.API.STREAM.UPDATE.MINE", &[]),
        ("$JS.API.STREAM.INFO.{n}SEATS", &[Workers, Operator]),
        (
            "$JS.API.STREAM.INFO.{n}EVENTS",
            &[Workers, Operator, Consumer],
        ),
        ("$JS.API.STREAM.MSG.GET.{n}EVENTS", &[Operator, Consumer]),
        ("$JS.API.STREAM.UPDATE.{n}EVENTS", &[Operator]),
        ("$JS.API.STREAM.PURGE.{n}SEATS", &[]),
        ("$JS.API.STREAM.PURGE.{n}LEDGER", &[]),
        ("$JS.API.STREAM.PURGE.{n}SETTLEMENT", &[]),
        ("$JS.API.STREAM.PURGE.{n}EVENTS", &[]),
        ("$JS.API.STREAM.DELETE.{n}SEATS", &[]),
        ("$JS.API.STREAM.DELETE.{n}LEDGER", &[]),
        ("$JS.API.STREAM.DELETE.{n}SETTLEMENT", &[]),
        ("$JS.API.STREAM.DELETE.{n}EVENTS", &[]),
        ("$JS.API.STREAM.MSG.DELETE.{n}SEATS", &[]),
        ("$JS.API.STREAM.MSG.DELETE.{n}LEDGER", &[]),
        ("$JS.API.STREAM.MSG.DELETE.{n}EVENTS", &[]),
        ("$JS.API.STREAM.SNAPSHOT.{n}SEATS", &[]),
        ("$JS.API.STREAM.RESTORE.{n}SEATS", &[]),
        ("$JS.API.STREAM.LEADER.STEPDOWN.{n}SEATS", &[]),
        ("$JS.API.STREAM.PEER.REMOVE.{n}SEATS", &[]),
        ("$JS.API.STREAM.MSG.GET.{n}SEATS", &[Workers, Operator]),
        ("$JS.API.DIRECT.GET.{n}SEATS", &[Workers, Operator]),
        ("$JS.API.CONSUMER.CREATE.{n}SEATS", &[Workers, Operator]),
        ("$JS.API.CONSUMER.CREATE.{n}SEATS.c.x", &[Workers, Operator]),
        ("$JS.API.CONSUMER.CREATE.{n}LEDGER.ledger", &[Workers]),
        (
            "$JS.API.CONSUMER.CREATE.{n}SETTLEMENT.settlement",
            &[Workers],
        ),
        ("$JS.API.CONSUMER.CREATE.{n}EVENTS.c", &[Operator, Consumer]),
        (
            "$JS.API.CONSUMER.CREATE.{n}EVENTS.c.evt.x",
            &[Operator, Consumer],
        ),
        ("$JS.API.CONSUMER.INFO.{n}EVENTS.c", &[Consumer]),
        ("$JS.API.CONSUMER.INFO.{n}SEATS.c", &[]),
        ("$JS.API.CONSUMER.DELETE.{n}EVENTS.c", &[]),
        ("$JS.API.CONSUMER.CREATE.MINE.c", &[]),
        ("$JS.API.CONSUMER.DURABLE.CREATE.{n}LEDGER.c", &[]),
        ("$JS.API.CONSUMER.DELETE.{n}LEDGER.ledger", &[]),
        ("$JS.API.CONSUMER.PAUSE.{n}LEDGER.ledger", &[]),
        ("$JS.API.CONSUMER.MSG.NEXT.{n}SEATS.c", &[Workers, Operator]),
        ("$JS.API.CONSUMER.MSG.NEXT.{n}LEDGER.ledger", &[Workers]),
        (
            "$JS.API.CONSUMER.MSG.NEXT.{n}EVENTS.c",
            &[Operator, Consumer],
        ),
        ("$JS.ACK.{n}EVENTS.c.1.2.3.4.5", &[Consumer]),
        ("$JS.ACK.{n}LEDGER.ledger.1.2.3.4.5", &[Workers]),
        ("$JS.ACK.{n}SETTLEMENT.settlement.1.2.3.4.5", &[Workers]),
        ("$JS.ACK.{n}SEATS.c.1.2.3.4.5", &[]),
    ]
};

const SUBSCRIBE: &[(&str, &[User])] = {
    use User::{Consumer, Ingress, Operator, Workers};
    &[
        ("{p}rsp.0123.*", &[Ingress]),
        ("{p}lag.*.*", &[Ingress]),
        ("{p}map.seats.*", &[Ingress]),
        ("{p}session.revoked", &[Ingress]),
        ("{p}nudge.outbox", &[Workers]),
        ("{p}nudge.orders", &[Workers]),
        ("{p}nudge.ownership", &[Workers]),
        ("_INBOX.{u}ingress.x.*", &[Ingress]),
        ("_INBOX.{u}workers.x.*", &[Workers]),
        ("_INBOX.{u}operator.x.*", &[Operator]),
        ("_INBOX.{u}consumer.x.*", &[Consumer]),
        ("_INBOX.>", &[]),
        ("{p}cmd.>", &[]),
        ("{p}cmd.seats.3", &[]),
        ("{p}evt.>", &[]),
        ("$JS.>", &[]),
        ("$SYS.>", &[]),
        (">", &[]),
    ]
};

fn filled(template: &str, prefix: &str) -> String {
    let (dotted, joined) = match prefix {
        "" => (String::new(), String::new()),
        prefix => (format!("{prefix}."), format!("{prefix}_")),
    };
    template
        .replace("{p}", &dotted)
        .replace("{n}", &joined)
        .replace("{u}", &joined)
}

async fn server(subjects: &Subjects) -> TestNats {
    let users = NatsUsers::of_test(subjects.clone());
    let adjust = |options| NatsOptions {
        users: Some(users),
        ..options
    };
    TestNats::start_with(adjust).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_may_do_what_is_listed_and_nothing_else() {
    for prefix in ["", "t1"] {
        let subjects = Subjects::new(prefix).unwrap();
        let server = server(&subjects).await;
        for user in User::ALL {
            let mut session = Session::open(&server, user, &subjects).await;
            for (template, allowed) in PUBLISH {
                let subject = filled(template, prefix);
                let may = session.may_publish(&subject).await;
                assert_eq!(
                    may,
                    allowed.contains(&user),
                    "{user:?} publishes to {subject}"
                );
            }
            for (template, allowed) in SUBSCRIBE {
                let subject = filled(template, prefix);
                let may = session.may_subscribe(&subject).await;
                assert_eq!(
                    may,
                    allowed.contains(&user),
                    "{user:?} subscribes to {subject}"
                );
            }
        }
        // With a prefix, what belongs to a system without one is somebody else's.
        if !prefix.is_empty() {
            let mut ingress = Session::open(&server, User::Ingress, &subjects).await;
            assert!(!ingress.may_publish("cmd.seats.3").await);
            assert!(!ingress.may_subscribe("map.seats.*").await);
        }
    }
}

/// Not only the requests are refused: what is on the streams is there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_purge_or_delete_what_was_ordered() {
    let subjects = Subjects::new("").unwrap();
    let server = server(&subjects).await;
    let test = nats::connect(&server.url(), "test").await.unwrap();
    let test = nats::jetstream(test);
    nats::update_streams(&test, &subjects, &Streams::default())
        .await
        .unwrap();
    for subject in ["cmd.seats.0", "cmd.ledger"] {
        test.publish(subject, "x".into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    for user in User::ALL {
        let session = Session::open(&server, user, &subjects).await;
        let short = async_nats::jetstream::ContextBuilder::new()
            .timeout(Duration::from_millis(300))
            .build(session.client.clone());
        for stream in ["SEATS", "LEDGER"] {
            let handle = test.get_stream_no_info(stream).await.unwrap();
            assert!(handle.get_raw_message(1).await.is_ok());
            let own = short.get_stream_no_info(stream).await.unwrap();
            assert!(own.purge().await.is_err(), "{user:?}");
            assert!(own.delete_message(1).await.is_err(), "{user:?}");
            assert!(short.delete_stream(stream).await.is_err(), "{user:?}");
            assert!(
                handle.get_raw_message(1).await.is_ok(),
                "{user:?} on {stream}"
            );
        }
    }
}

/// A known limit of NATS, written down: the server sends an answer, and what a consumer delivers, to
/// any subject. What holds is that none of it is a command. (`every_user_may_do_what_is_listed…` has
/// that a consumer can't publish there itself; that bytes which are no command become dead letters and
/// nothing else is tested with the workers.)
#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_can_have_sent_to_the_commands_is_no_command() {
    let subjects = Subjects::new("").unwrap();
    let server = server(&subjects).await;
    let test = nats::connect(&server.url(), "test").await.unwrap();
    let test = nats::jetstream(test);
    nats::update_streams(&test, &subjects, &Streams::default())
        .await
        .unwrap();
    let fact = seats::Facts {
        schedule_id: ScheduleId(uuid::Uuid::nil()),
        version: 1,
        facts: Vec::new(),
    };
    let subject = subjects.event(facts::SEATS, &fact.schedule_id.to_string());
    let stored = test.publish(subject, encode(&fact).into()).await.unwrap();
    stored.await.unwrap();

    let session = Session::open(&server, User::Consumer, &subjects).await;
    for lane in [Lane::Settlement, Lane::Ledger] {
        let to = subjects.lane_filter(lane);
        let pushing = format!(
            r#"{{"stream_name":"EVENTS","config":{{"name":"p","deliver_subject":"{to}",
                 "ack_policy":"none","description":"anything"}}}}"#
        );
        for (request, body) in [
            ("$JS.API.STREAM.INFO.EVENTS", ""),
            ("$JS.API.DIRECT.GET.EVENTS", r#"{"seq":1}"#),
            ("$JS.API.STREAM.MSG.GET.EVENTS", r#"{"seq":1}"#),
            ("$JS.API.CONSUMER.CREATE.EVENTS.p", pushing.as_str()),
        ] {
            let (request, body) = (request.to_owned(), body.to_owned().into());
            let asked = session.client.publish_with_reply(request, to.clone(), body);
            asked.await.unwrap();
        }
        let mut stream = test.get_stream(subjects.stream(lane)).await.unwrap();
        // Four answers, and the fact that is delivered to the first lane that the consumer is for.
        let expected = if lane == Lane::Settlement { 5 } else { 4 };
        let waited = tokio::time::timeout(PATIENCE, async {
            while stream.info().await.unwrap().state.messages < expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.expect("the server sends its answers there");
        let last = stream.info().await.unwrap().state.last_sequence;
        for seq in 1..=last {
            let bytes = stream.get_raw_message(seq).await.unwrap().payload;
            assert!(decode::<CommandMessage<settlement::Kind>>(&bytes).is_err());
            assert!(decode::<CommandMessage<ledger::Kind>>(&bytes).is_err());
            assert!(decode::<CommandMessage<seats::Kind>>(&bytes).is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_password_gets_nowhere() {
    let subjects = Subjects::new("").unwrap();
    let server = server(&subjects).await;
    let port = server.server.port();
    for url in [
        format!("nats://127.0.0.1:{port}"),
        format!("nats://ingress:wrong@127.0.0.1:{port}"),
        format!("nats://ingress:workers-password@127.0.0.1:{port}"),
    ] {
        let error = nats::connect(&url, "test").await.err().unwrap().to_string();
        assert!(error.contains("authorization violation"), "{error}");
        assert!(!error.contains("password"), "{error}");
    }
    let url = server.server.url_of(User::Ingress);
    assert!(nats::connect(&url, "test").await.is_ok());
}
