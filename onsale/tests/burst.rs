//! Everybody comes at once.
//!
//! A test program of its own, because programs run one after the other: it takes the whole machine,
//! and other tests have limits of time.

#[allow(dead_code, reason = "the system tests use the rest of it")]
#[path = "system/hall.rs"]
mod hall;

use crate::hall::{Hall, open_policy};
use diesel::sql_types::{Array, BigInt, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use onsale::seed::Policy;
use onsale_testkit::SystemOptions;
use onsale_testkit::api;
use onsale_testkit::spawn::allow_many_files;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use uuid::Uuid;

/// How many holds, unless this many are asked for by `ONSALE_BURST_HOLDS`.
const HOLDS: usize = 100_000;
const CONNECTIONS: usize = 2000;
const DATES: usize = 8;
const SEATS: usize = 3000;
/// No answer takes longer, also on a busy machine: a request waits 5 s for its outcome.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long a client waits before it asks again for an outcome that is open.
const AGAIN: Duration = Duration::from_millis(100);

/// One client's connection, kept alive. A request, then its answer, as lean as can be: the clients
/// share the machine with what they burden.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(": "));
    let mut values = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value)
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let received = Vec::with_capacity(1024);
        Ok(Self { stream, received })
    }

    async fn ask(&mut self, request: &str) -> io::Result<Reply> {
        self.stream.write_all(request.as_bytes()).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(reply) = read(&self.received) {
                return Ok(reply);
            }
        }
    }
}

/// The answer, once it is whole. All that are expected say how long they are.
fn read(received: &[u8]) -> Option<Reply> {
    let head_end = received.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&received[..head_end]).into_owned();
    let length = header(&head, "content-length").expect(&head);
    let length: usize = length.parse().expect(&head);
    let body = received.get(head_end..head_end + length)?.to_vec();
    let status = head.split(' ').nth(1).expect(&head).parse().expect(&head);
    Some(Reply { status, head, body })
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    /// Answers by status and code.
    answers: BTreeMap<String, usize>,
    acknowledged: Vec<Uuid>,
    /// Where outcomes are that were open.
    open: Vec<String>,
    slowest: Duration,
}

impl Seen {
    fn note(&mut self, reply: &Reply) {
        let body: serde_json::Value = serde_json::from_slice(&reply.body).expect(&reply.head);
        let code = body["code"].as_str().unwrap_or_default();
        match (reply.status, code) {
            (201, _) => self.acknowledged.push(api::id(&body["reservationId"])),
            (202, _) => {
                let location = reply.header("location").expect(&reply.head);
                self.open.push(location.to_owned());
            }
            (409, "seat-unavailable") | (410, "command-expired") => {}
            (503, "overloaded") => {
                assert!(reply.header("retry-after").is_some(), "{}", reply.head);
            }
            _ => panic!("{}{body}", reply.head),
        }
        let kind = format!("{} {code}", reply.status);
        *self.answers.entry(kind).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        for (kind, count) in other.answers {
            *self.answers.entry(kind).or_default() += count;
        }
        self.acknowledged.extend(other.acknowledged);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// One client: connects, asks for one seat after the other, and then for what was left open.
async fn client(addr: SocketAddr, token: String, requests: Vec<String>) -> Seen {
    let mut seen = Seen::default();
    let mut connection = Connection::open(addr).await.expect("a connection");
    for request in &requests {
        let asked = Instant::now();
        let reply = tokio::time::timeout(ANSWER_MAX, connection.ask(request)).await;
        let reply = reply.expect("an answer in time").expect("an answer");
        seen.slowest = seen.slowest.max(asked.elapsed());
        seen.note(&reply);
    }
    for location in std::mem::take(&mut seen.open) {
        let request =
            format!("GET {location} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        let outcome = tokio::time::timeout(ANSWER_MAX, outcome(&mut connection, &request)).await;
        seen.acknowledged
            .extend(outcome.expect("an outcome in time"));
    }
    seen
}

/// What became of a command that was left open: the reservation, if it was held.
async fn outcome(connection: &mut Connection, request: &str) -> Option<Uuid> {
    loop {
        let reply = connection.ask(request).await.expect("an answer");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).expect(&reply.head);
        match reply.status {
            200 if body["status"] == 201 => return Some(api::id(&body["body"]["reservationId"])),
            200 | 410 => return None,
            202 | 503 => tokio::time::sleep(AGAIN).await,
            _ => panic!("{}{body}", reply.head),
        }
    }
}

/// A client's requests: its share of all seats of all dates, which are wanted several times.
fn requests(token: &str, dates: &[Uuid], client: usize, count: usize) -> Vec<String> {
    let request = |n: usize| {
        let number = n * CONNECTIONS + client;
        // 7,919 is prime to the number of seats: all are wanted equally often, in no order.
        let (date, seat) = (dates[number % DATES], number / DATES * 7919 % SEATS);
        let label = format!("A-{}-{}", seat / 100 + 1, seat % 100 + 1);
        let body = format!("{{\"scheduleId\":\"{date}\",\"seats\":[\"{label}\"]}}");
        let mut text = String::with_capacity(512);
        write!(
            text,
            "POST /api/v1/reservations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             idempotency-key: burst-{number:06}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("writing to a string can't fail");
        text
    };
    (0..count).map(request).collect()
}

/// How many of these reservations are in Postgres.
async fn stored(hall: &mut Hall, ids: &BTreeSet<Uuid>) -> usize {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    let sql = "SELECT count(*) AS n FROM reservation JOIN seat_claim \
               USING (schedule_id, reservation_id) WHERE reservation_id = ANY($1)";
    let query = sql_query(sql).bind::<Array<SqlUuid>, _>(ids);
    let row: Row = query.get_result(&mut hall.conn).await.expect(sql);
    usize::try_from(row.n).expect("a count")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_ends_with_every_request_answered() {
    allow_many_files().expect("files for all connections");
    let asked = std::env::var("ONSALE_BURST_HOLDS").ok();
    let holds = asked.map_or(HOLDS, |n| n.parse().expect("a number"));
    let mut hall = Hall::open_with(SystemOptions::default().workers(2)).await;
    let addr = hall.system.ingresses[0].http_addr.expect("an ingress");
    let policy = Policy {
        seats_per_user: 100_000,
        ..open_policy()
    };
    let mut dates = Vec::new();
    for _ in 0..DATES {
        dates.push(
            hall.date_with(u32::try_from(SEATS).expect("few"), policy)
                .await,
        );
    }
    let each = holds.div_ceil(CONNECTIONS);
    let share = |client| {
        let token = hall.buyer().token;
        let requests = requests(&token, &dates, client, each);
        (token, requests)
    };
    let shares: Vec<(String, Vec<String>)> = (0..CONNECTIONS).map(share).collect();

    let started = Instant::now();
    let mut clients: JoinSet<Seen> = shares
        .into_iter()
        .map(|(token, requests)| client(addr, token, requests))
        .collect();
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        all.add(seen.unwrap_or_else(|error| panic!("{error}\n{}", hall.logs())));
    }
    println!(
        "{:?} in {:?}, the slowest in {:?}",
        all.answers,
        started.elapsed(),
        all.slowest
    );
    assert_eq!(all.answers.values().sum::<usize>(), each * CONNECTIONS);

    // All are served, not only turned away.
    assert!(
        all.acknowledged.len() >= holds / 16,
        "hardly anything was held"
    );
    let ids: BTreeSet<Uuid> = all.acknowledged.iter().copied().collect();
    assert_eq!(
        ids.len(),
        all.acknowledged.len(),
        "one reservation, one answer"
    );
    assert_eq!(
        stored(&mut hall, &ids).await,
        ids.len(),
        "an acknowledged hold is lost"
    );
    hall.assert_sound().await;
}
