//! Event streams: what happens to a map is told at once, to whoever follows it; who was away goes on
//! where he was; a token is good once.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use axum::body::Body;
use common::{Bench, PATIENCE, SCHEDULE, start, until};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onsale_schema::message::encode;
use onsale_schema::seats::{MapBroadcast, MapChange};
use onsale_schema::status::ClaimState;
use onsale_schema::subjects::Subjects;
use onsale_schema::{PartitionNo, ScheduleId, SeatNo, Timestamp};
use onsale_testkit::{Answer, Api, Buyer};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::net::TcpStream;

fn path() -> String {
    format!("/schedules/{SCHEDULE}/events")
}

/// One event.
#[derive(Debug, PartialEq)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

/// The client's end of a stream.
struct Stream {
    response: Response,
    text: String,
    comments: usize,
}

impl Stream {
    async fn open(api: &Api, query: &str, last: Option<&str>) -> Result<Self, Answer> {
        let mut request = api.request(Method::GET, &format!("{}{query}", path()));
        request = request.header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        Ok(Self {
            response: api.open(request).await?,
            text: String::new(),
            comments: 0,
        })
    }

    async fn of(api: &Api, last: Option<&str>) -> Self {
        Self::open(api, "", last).await.unwrap()
    }

    /// The next block of lines; none at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("something comes in time").ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                let lines = block.lines();
                let mut values = lines.filter_map(|line| line.strip_prefix(name));
                values.next().map(str::to_owned)
            };
            if let Some(kind) = field("event: ") {
                return Some(Event {
                    id: field("id: ").unwrap(),
                    kind,
                    data: serde_json::from_str(&field("data: ").unwrap()).unwrap(),
                });
            }
            self.comments += usize::from(block == ":");
        }
    }

    async fn expect(&mut self, from: i64, version: i64, changes: Value) {
        let expected = Event {
            id: version.to_string(),
            kind: "seats".to_owned(),
            data: json!({ "from": from, "version": version, "changes": changes }),
        };
        assert_eq!(self.next().await.unwrap(), expected);
    }

    async fn expect_reset(&mut self, version: i64) {
        let expected = Event {
            id: version.to_string(),
            kind: "reset".to_owned(),
            data: json!({ "version": version }),
        };
        assert_eq!(self.next().await.unwrap(), expected);
    }
}

/// An owner's word: the seat is held, in this version.
async fn hold(bench: &Bench, version: i64, seats: &[i32]) {
    let change = MapChange {
        schedule_id: ScheduleId(SCHEDULE),
        from_version: version - 1,
        version,
        at: Timestamp::EPOCH,
        layout_no: Some(0),
        changes: seats
            .iter()
            .map(|&seat| (SeatNo(seat), Some(ClaimState::Held)))
            .collect(),
    };
    let subject = Subjects::new("").unwrap().map(PartitionNo(0));
    let maps = vec![change];
    bench
        .broadcast(
            subject,
            encode(&MapBroadcast {
                maps,
                sent_at: None,
            }),
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_they_happen_and_who_was_away_goes_on() {
    let bench = start(&["--event-heartbeat-ms", "200"]).await;
    let mut stream = Stream::of(&bench.api, None).await;
    let headers = stream.response.headers().clone();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["x-accel-buffering"], "no");
    assert_eq!(headers["cache-control"], "no-store");
    let retry = stream.block().await.unwrap();
    let retry: u32 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((1000..=5000).contains(&retry), "{retry}");
    stream.expect(0, 0, json!([])).await;

    hold(&bench, 1, &[4]).await;
    stream.expect(0, 1, json!([[4, "H"]])).await;
    hold(&bench, 2, &[0, 1]).await;
    hold(&bench, 3, &[2]).await;
    stream.expect(1, 2, json!([[0, "H"], [1, "H"]])).await;
    stream.expect(2, 3, json!([[2, "H"]])).await;
    let seats = bench
        .api
        .get(None, &path().replace("events", "seats"))
        .await;
    assert_eq!(seats.expect(200).body["seats"], "HHHAHA");

    let mut back = Stream::of(&bench.api, Some("1")).await;
    back.expect(1, 2, json!([[0, "H"], [1, "H"]])).await;
    back.expect(2, 3, json!([[2, "H"]])).await;
    let mut there = Stream::of(&bench.api, Some("3")).await;
    there.expect(3, 3, json!([])).await;
    for unknown in ["-5", "77", "nonsense"] {
        let mut lost = Stream::of(&bench.api, Some(unknown)).await;
        lost.expect_reset(3).await;
    }
    // A new `EventSource` can't send the header.
    for (query, header) in [("1", None), ("77", Some("1")), ("1", Some(""))] {
        let query = format!("?lastEventId={query}");
        let mut told = Stream::open(&bench.api, &query, header).await.unwrap();
        told.expect(1, 2, json!([[0, "H"], [1, "H"]])).await;
    }
    let mut lost = Stream::open(&bench.api, "?lastEventId=%00", None).await;
    lost.as_mut().unwrap().expect_reset(3).await;
    // Silence is shown to be alive.
    assert_eq!(stream.comments, 0);
    while stream.comments < 2 {
        let block = stream.block().await.unwrap();
        assert_eq!(block, ":");
        stream.comments += 1;
    }
    hold(&bench, 4, &[3]).await;
    for stream in [&mut stream, &mut back, &mut there] {
        stream.expect(3, 4, json!([[3, "H"]])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_change_is_made_up_for() {
    let bench = start(&[]).await;
    let mut stream = Stream::of(&bench.api, None).await;
    stream.expect(0, 0, json!([])).await;
    bench
        .sql(&format!(
            "UPDATE sale SET map_version = 3; \
             INSERT INTO reservation VALUES (gen_random_uuid(), '{SCHEDULE}', gen_random_uuid(), \
                 gen_random_uuid(), gen_random_uuid(), '{{5}}', 1, 4, 'PAID', now(), \
                 now() + interval '1 hour', NULL); \
             INSERT INTO seat_claim SELECT schedule_id, 5, reservation_id, 'S' FROM reservation;"
        ))
        .await;
    hold(&bench, 3, &[]).await;
    stream.expect(0, 3, json!([[5, "S"]])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_streams_and_who_falls_behind_is_ended() {
    let bench = start(&["--event-streams-max", "1", "--event-heartbeat-ms", "100"]).await;
    let mut first = Stream::of(&bench.api, None).await;
    first.expect(0, 0, json!([])).await;
    let second = Stream::open(&bench.api, "", None).await.err().unwrap();
    let second = second.expect_problem(503, "overloaded");
    assert!(second.headers.contains_key("retry-after"));
    // More than is kept for it, before it is looked at again.
    let many: Vec<i32> = (0..6).cycle().take(3000).collect();
    for version in 1..=1000 {
        hold_quietly(&bench, version, &many).await;
    }
    bench.app.nats.flush().await.unwrap();
    let mut last = 0;
    while let Some(event) = first.next().await {
        let id = event.id.parse().unwrap();
        assert_eq!(id, last + 1, "nothing is left out before the end");
        last = id;
    }
    assert!(last < 1000);
    until("its place is given back", || async {
        Stream::open(&bench.api, "", Some("0")).await.is_ok()
    })
    .await;
}

/// As [`hold`], but on the ingress' own connection, and without waiting until it is sent.
async fn hold_quietly(bench: &Bench, version: i64, seats: &[i32]) {
    let changes = seats
        .iter()
        .map(|&seat| (SeatNo(seat), Some(ClaimState::Held)));
    let change = MapChange {
        schedule_id: ScheduleId(SCHEDULE),
        from_version: version - 1,
        version,
        at: Timestamp::EPOCH,
        layout_no: Some(0),
        changes: changes.collect(),
    };
    let subject = Subjects::new("").unwrap().map(PartitionNo(0));
    let payload = encode(&MapBroadcast {
        maps: vec![change],
        sent_at: None,
    });
    bench
        .app
        .nats
        .publish(subject, payload.into())
        .await
        .unwrap();
}

/// A client that speaks HTTP/2, with a name of its own behind a proxy of ours.
async fn follow_by_http2(
    client: &mut http2::SendRequest<Body>,
    from: &str,
) -> hyper::Response<Incoming> {
    let request =
        Request::get(format!("http://x/api/v1{}", path())).header("x-forwarded-for", from);
    let request = request.body(Body::empty()).unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await;
    answer.expect("an answer in time").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_streams_on_however_few_connections() {
    let bench = start(&[
        "--event-streams-per-address-max",
        "3",
        "--trusted-proxies",
        "127.0.0.1",
    ])
    .await;
    let stream = TcpStream::connect(bench.addr).await.unwrap();
    let builder = http2::Builder::new(TokioExecutor::new());
    let (mut client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let _connection = tokio::spawn(connection);
    let mut open = Vec::new();
    for _ in 0..3 {
        let answer = follow_by_http2(&mut client, "198.51.100.1").await;
        assert_eq!(answer.status(), StatusCode::OK);
        open.push(answer);
    }
    let full = follow_by_http2(&mut client, "198.51.100.1").await;
    assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(full.headers().contains_key("retry-after"));
    // Others have their own share, and one that ends makes room.
    let other = follow_by_http2(&mut client, "198.51.100.2").await;
    assert_eq!(other.status(), StatusCode::OK);
    drop(open.pop());
    let client = &client;
    until("there is room again", || async {
        let answer = follow_by_http2(&mut client.clone(), "198.51.100.1").await;
        answer.status() == StatusCode::OK
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_ingress_stops() {
    let bench = start(&["--drain-ms", "60000"]).await;
    let mut stream = Stream::of(&bench.api, None).await;
    stream.expect(0, 0, json!([])).await;
    bench.shutdown.cancel();
    assert_eq!(stream.next().await, None);
    let ended = tokio::time::timeout(PATIENCE, bench.served).await;
    ended
        .expect("it ends before the drain does")
        .unwrap()
        .unwrap();
}

async fn token(api: &Api, user: &Buyer) -> String {
    let request = api.request(Method::POST, "/stream-tokens");
    let answer = api.send(request.bearer_auth(&user.token)).await.expect(201);
    let time = |name: &str| {
        let text = answer.body[name].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(text).unwrap()
    };
    let life = time("expiresAt") - time("serverTime");
    assert!((58..=60).contains(&life.num_seconds()), "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    answer.body["streamToken"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(opened: Result<Stream, Answer>) {
    let answer = opened.err().expect("no stream");
    answer.expect_problem(401, "token-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_wherever_it_is_tried() {
    let bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let user = bench.api.buyer().await;
    let ask = |api: &Api, token: &str| {
        let (api, query) = (api.clone(), format!("?token={token}"));
        async move { Stream::open(&api, &query, None).await }
    };
    let first = token(&bench.api, &user).await;
    let mut stream = ask(&other.api, &first).await.unwrap();
    stream.expect(0, 0, json!([])).await;
    refused(ask(&other.api, &first).await);
    refused(ask(&bench.api, &first).await);

    let raced = token(&bench.api, &user).await;
    let tries = (0..10).map(|n| ask([&bench.api, &other.api][n % 2], &raced));
    let tries = futures_util::future::join_all(tries).await;
    assert_eq!(tries.iter().filter(|opened| opened.is_ok()).count(), 1);

    for garbage in ["", "x", &"x".repeat(43), "%00"] {
        refused(ask(&bench.api, garbage).await);
    }
    // A refusal for another reason doesn't use it up.
    let kept = token(&bench.api, &user).await;
    let nowhere = format!("/schedules/{}/events?token={kept}", uuid::Uuid::nil());
    let nowhere = bench.api.get(None, &nowhere).await;
    nowhere.expect_problem(404, "not-found");
    let looked = format!("{}?token={kept}", path());
    for _ in 0..2 {
        let request = bench.api.request(Method::HEAD, &looked);
        let _ = bench.api.send(request).await.expect(200);
    }
    assert!(ask(&bench.api, &kept).await.is_ok());
    let request = bench.api.request(Method::HEAD, &looked);
    let _ = bench.api.send(request).await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_in_time_and_with_its_session() {
    let bench = start(&["--event-heartbeat-ms", "100"]).await;
    let user = bench.api.buyer().await;
    let open = |token: String| {
        let api = bench.api.clone();
        async move { Stream::open(&api, &format!("?token={token}"), None).await }
    };
    let late = token(&bench.api, &user).await;
    bench
        .sql("UPDATE stream_token SET expires_at = now() - interval '1 second'")
        .await;
    let purged = onsale_ingress::events::store::token_purge(&bench.app.pool);
    let unused = token(&bench.api, &user).await;
    refused(open(late).await);
    assert_eq!(purged.await.unwrap(), 0, "it is used up");
    bench
        .sql("UPDATE stream_token SET expires_at = now() - interval '1 second'")
        .await;
    let purged = onsale_ingress::events::store::token_purge(&bench.app.pool);
    assert_eq!(purged.await.unwrap(), 1);
    refused(open(unused).await);

    let (now, later) = (
        token(&bench.api, &user).await,
        token(&bench.api, &user).await,
    );
    let mut stream = open(now).await.unwrap();
    stream.expect(0, 0, json!([])).await;
    let _ = bench.api.delete(&user, "/sessions").await.expect(204);
    assert_eq!(stream.next().await, None, "it ends with the session");
    refused(open(later).await);
    let request = bench.api.request(Method::POST, "/stream-tokens");
    let answer = bench.api.send(request.bearer_auth(&user.token)).await;
    answer.expect_problem(401, "token-invalid");
}
