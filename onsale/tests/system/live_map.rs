//! The live map: what it costs to look at it, and that everybody who looks, by GET or by a stream,
//! sees the same of each version, and comes to what is in Postgres, whoever is killed meanwhile. What
//! one ingress shows never goes back.

use crate::hall::{Hall, PARTITIONS, PATIENCE, open_policy, reservation};
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::AsyncPgConnection;
use onsale::seed::Policy;
use onsale_platform::nats_users::User;
use onsale_platform::{db, nats};
use onsale_schema::message::encode;
use onsale_schema::seats::{MapBroadcast, MapChange};
use onsale_schema::status::ClaimState;
use onsale_schema::subjects::Subjects;
use onsale_schema::{ScheduleId, SeatNo, Timestamp, partition};
use onsale_testkit::api::text;
use onsale_testkit::{Api, Buyer, SystemOptions};
use rand::Rng;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SEATS: u32 = 60;
/// Who finds nobody there tries elsewhere after so long.
const AGAIN: Duration = Duration::from_millis(20);

/// Maps by version, as somebody saw them.
type Maps = BTreeMap<i64, String>;

fn seats_path(date: Uuid) -> String {
    format!("/schedules/{date}/seats")
}

/// The client's end of an event stream.
struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    /// Opens one; none when nobody is there.
    async fn open(api: &Api, date: Uuid, last: Option<&str>) -> Option<Self> {
        let mut request = api.request(Method::GET, &format!("/schedules/{date}/events"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.timeout(PATIENCE * 10).send().await.ok()?;
        response.status().is_success().then(|| Self {
            response,
            text: String::new(),
        })
    }

    /// The next block of lines; none at the end, an error when it broke.
    async fn block(&mut self) -> reqwest::Result<Option<String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Ok(Some(block));
            }
            match self.response.chunk().await? {
                Some(chunk) => self
                    .text
                    .push_str(std::str::from_utf8(&chunk).expect("text")),
                None => return Ok(None),
            }
        }
    }
}

/// What a client makes of the stream. It follows one ingress until that is gone, and then another.
struct Follower {
    apis: Vec<Api>,
    at: usize,
    date: Uuid,
    /// The last event's id, as it was told.
    last: Option<String>,
    version: i64,
    letters: Vec<u8>,
    /// What it had of each version.
    seen: Arc<Mutex<Maps>>,
    /// The same, of those that it made of changes and did not get.
    made: Arc<Mutex<Maps>>,
    /// Streams that it had.
    streams: usize,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) -> usize {
        stop.run_until_cancelled(async {
            loop {
                let last = self.last.clone();
                let api = &self.apis[self.at];
                if let Some(stream) = Stream::open(api, self.date, last.as_deref()).await {
                    self.streams += 1;
                    self.follow(stream).await;
                }
                self.at = (self.at + 1) % self.apis.len();
                tokio::time::sleep(AGAIN).await;
            }
        })
        .await;
        self.streams
    }

    /// Follows a stream to its end.
    async fn follow(&mut self, mut stream: Stream) {
        while let Ok(Some(block)) = stream.block().await {
            let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
            let Some(kind) = field("event: ") else {
                continue;
            };
            let data: Value = serde_json::from_str(field("data: ").expect("data")).expect("JSON");
            let version = data["version"].as_i64().expect("a version");
            if kind == "seats" && version <= self.version {
                // It has that.
            } else if kind == "reset" || data["from"] != self.version {
                if !self.get(version).await {
                    return;
                }
            } else {
                for change in data["changes"].as_array().expect("changes") {
                    let seat = usize::try_from(change[0].as_u64().expect("a seat")).expect("small");
                    self.letters[seat] = text(&change[1]).as_bytes()[0];
                }
                self.version = version;
                self.note(&self.seen);
                self.note(&self.made);
            }
            self.last = field("id: ").map(str::to_owned);
        }
    }

    /// Gets the map, of this version or a later one; false when nobody is there.
    async fn get(&mut self, at_least: i64) -> bool {
        loop {
            let api = &self.apis[self.at];
            let request = api.request(Method::GET, &seats_path(self.date));
            let Ok(answer) = api.try_send(request).await else {
                return false;
            };
            let map = answer.expect(200).body;
            let version = map["version"].as_i64().expect("a version");
            if version >= at_least {
                self.version = version;
                text(&map["seats"]).as_bytes().clone_into(&mut self.letters);
                self.note(&self.seen);
                return true;
            }
        }
    }

    fn note(&self, seen: &Mutex<Maps>) {
        let letters = String::from_utf8(self.letters.clone()).expect("letters");
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.insert(self.version, letters.clone());
        assert!(
            before.is_none_or(|before| before == letters),
            "{} is two maps",
            self.version
        );
    }
}

/// Polls one ingress; what it shows must never be older than before, over its restarts, too.
async fn poll(api: Api, date: Uuid, stop: CancellationToken, seen: Arc<Mutex<Maps>>) -> usize {
    let (mut polls, mut last, mut etag) = (0, 0, None);
    while !stop.is_cancelled() {
        let mut request = api.request(Method::GET, &seats_path(date));
        if let Some(etag) = &etag {
            request = request.header("if-none-match", etag);
        }
        let Ok(answer) = api.try_send(request).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        if answer.status == 503 {
            continue;
        }
        polls += 1;
        let tag = answer.headers["etag"].clone();
        if answer.status == 304 {
            assert_eq!(Some(&tag), etag.as_ref());
            continue;
        }
        let map = answer.expect(200).body;
        let version = map["version"].as_i64().expect("a version");
        assert!(version > last || etag.is_none(), "{version} after {last}");
        assert_eq!(tag, format!("W/\"{version}\""));
        let letters = text(&map["seats"]).to_owned();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.insert(version, letters.clone());
        assert!(
            before.is_none_or(|before| before == letters),
            "{version} is two maps"
        );
        (last, etag) = (version, Some(tag));
    }
    polls
}

/// Holds seats and gives them back, at whichever ingress is there.
async fn trade(apis: Vec<Api>, buyer: Buyer, date: Uuid, stop: CancellationToken) {
    let mut held: Vec<Uuid> = Vec::new();
    while !stop.is_cancelled() {
        let (api, give_back, seat) = {
            let mut rng = rand::rng();
            let api = &apis[rng.random_range(0..apis.len())];
            (api, rng.random_bool(0.5), rng.random_range(1..=SEATS))
        };
        let request = match held.pop() {
            Some(reservation) if give_back || held.len() > 10 => {
                let path = format!("/reservations/{reservation}");
                api.request(Method::DELETE, &path).bearer_auth(&buyer.token)
            }
            kept => {
                held.extend(kept);
                let body = json!({ "scheduleId": date, "seats": [format!("A-1-{seat}")] });
                let key = Uuid::now_v7().to_string();
                api.post_request(&buyer, "/reservations", &key, &body)
            }
        };
        match api.try_send(request).await {
            Ok(answer) if answer.status == 201 => held.push(reservation(&answer.body)),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Everybody who looks at one date or buys there.
struct Crowd {
    date: Uuid,
    stop_buying: CancellationToken,
    stop_looking: CancellationToken,
    buyers: JoinSet<()>,
    lookers: JoinSet<usize>,
    /// What each of them saw, by name.
    seen: Vec<(String, Arc<Mutex<Maps>>)>,
    /// What was made of the changes of streams.
    made: Vec<Arc<Mutex<Maps>>>,
}

impl Crowd {
    async fn gather(hall: &mut Hall) -> Self {
        let policy = Policy {
            seats_per_user: 100,
            ..open_policy()
        };
        let date = hall.date_with(SEATS, policy).await;
        let apis: Vec<Api> = (0..hall.system.ingresses.len())
            .map(|ingress| Api::new(hall.system.url(ingress)))
            .collect();
        let mut crowd = Self {
            date,
            stop_buying: CancellationToken::new(),
            stop_looking: CancellationToken::new(),
            buyers: JoinSet::new(),
            lookers: JoinSet::new(),
            seen: Vec::new(),
            made: Vec::new(),
        };
        for _ in 0..6 {
            let stop = crowd.stop_buying.clone();
            crowd
                .buyers
                .spawn(trade(apis.clone(), hall.buyer(), date, stop));
        }
        for (at, api) in apis.iter().enumerate() {
            let seen = crowd.looker(format!("GET {at}"));
            let stop = crowd.stop_looking.clone();
            crowd.lookers.spawn(poll(api.clone(), date, stop, seen));
            let made = Arc::<Mutex<Maps>>::default();
            crowd.made.push(Arc::clone(&made));
            let follower = Follower {
                apis: apis.clone(),
                at,
                date,
                last: None,
                made,
                version: -1,
                letters: Vec::new(),
                seen: crowd.looker(format!("stream {at}")),
                streams: 0,
            };
            crowd
                .lookers
                .spawn(follower.run(crowd.stop_looking.clone()));
        }
        crowd
    }

    fn looker(&mut self, name: String) -> Arc<Mutex<Maps>> {
        let seen = Arc::<Mutex<Maps>>::default();
        self.seen.push((name, Arc::clone(&seen)));
        seen
    }

    async fn version(&self, hall: &mut Hall) -> i64 {
        let date = self.date;
        let sql = format!("SELECT map_version AS n FROM sale WHERE schedule_id = '{date}'");
        hall.number(&sql).await
    }

    /// Waits for so many more versions, of which everybody has seen the first.
    async fn go_on(&mut self, hall: &mut Hall, versions: i64) {
        let from = self.version(hall).await;
        let gone_on = async {
            while self.version(hall).await < from + versions || !self.have_all(from) {
                assert!(self.lookers.try_join_next().is_none(), "somebody gave up");
                tokio::time::sleep(AGAIN).await;
            }
        };
        let gone_on = tokio::time::timeout(PATIENCE, gone_on).await;
        gone_on.unwrap_or_else(|_| panic!("not all go on from {from}\n{}", hall.logs()));
    }

    /// Whether everybody has seen this version or a later one.
    fn have_all(&self, version: i64) -> bool {
        self.seen.iter().all(|(_, seen)| {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.last_key_value()
                .is_some_and(|(last, _)| *last >= version)
        })
    }

    /// Nobody buys any more: everybody sees what is in Postgres, and saw the same before wherever two
    /// saw the same version. Returns how often what was made of a stream's changes was also got.
    async fn agree(mut self, hall: &mut Hall) -> usize {
        self.stop_buying.cancel();
        while let Some(ended) = self.buyers.join_next().await {
            ended.expect("no panic");
        }
        self.go_on(hall, 0).await;
        // What was on its way is decided.
        let version = settled(hall, self.date).await;
        self.go_on(hall, 0).await;
        self.stop_looking.cancel();
        while let Some(ended) = self.lookers.join_next().await {
            assert!(ended.expect("no panic") > 0, "somebody saw nothing");
        }
        let rows = rows(&mut hall.conn, self.date).await;
        let mut all = BTreeMap::<i64, (String, String)>::new();
        for (name, seen) in &self.seen {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(seen.last_key_value(), Some((&version, &rows)), "of {name}");
            for (version, map) in seen.iter() {
                match all.get(version) {
                    None => drop(all.insert(*version, (name.clone(), map.clone()))),
                    Some((other, expected)) => {
                        assert_eq!(map, expected, "{version} by {name} and {other}");
                    }
                }
            }
        }
        let versions = |maps: &Mutex<Maps>| -> BTreeSet<i64> {
            let maps = maps.lock().unwrap_or_else(PoisonError::into_inner);
            maps.keys().copied().collect()
        };
        let got = self.seen.iter().filter(|(name, _)| name.starts_with("GET"));
        let got: BTreeSet<i64> = got.flat_map(|(_, maps)| versions(maps)).collect();
        let made = self.made.iter().map(|made| versions(made));
        made.map(|made| made.intersection(&got).count()).sum()
    }
}

/// Waits until all that was sent is decided; the version that came of it.
async fn settled(hall: &mut Hall, date: Uuid) -> i64 {
    // A hold is behind all that came before it in its partition.
    let buyer = hall.buyer();
    let decided = async {
        loop {
            let nothing = hall.api.hold(&buyer, date, &["A-1-1"]).await;
            if nothing.status == 409 || nothing.status == 201 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, decided)
        .await
        .expect("a decision");
    let sql = format!("SELECT map_version AS n FROM sale WHERE schedule_id = '{date}'");
    hall.number(&sql).await
}

/// The map as its rows say it is.
async fn rows(conn: &mut AsyncPgConnection, date: Uuid) -> String {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        seats: String,
    }
    let sql = format!(
        "SELECT string_agg(coalesce(state::text, 'A'), '' ORDER BY seat_no) AS seats \
         FROM seat LEFT JOIN seat_claim USING (schedule_id, seat_no) WHERE schedule_id = '{date}'"
    );
    let row: Row = diesel_async::RunQueryDsl::get_result(diesel::sql_query(sql), conn)
        .await
        .expect("rows");
    row.seats
}

/// Takeovers of all partitions so far.
async fn epochs(hall: &mut Hall) -> i64 {
    hall.number("SELECT sum(epoch)::bigint AS n FROM partition WHERE lane = 'seats'")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_never_go_back_while_one_owner_after_the_other_is_killed() {
    let options = SystemOptions::default().ingresses(2).workers(3);
    let mut hall = Hall::open_with(options).await;
    let mut crowd = Crowd::gather(&mut hall).await;
    crowd.go_on(&mut hall, 50).await;
    let before = epochs(&mut hall).await;
    for round in 0..6 {
        let worker = round % hall.system.workers.len();
        hall.system.workers[worker].kill9().await;
        crowd.go_on(&mut hall, 50).await;
        hall.system.workers[worker]
            .restart()
            .await
            .expect("a worker");
        crowd.go_on(&mut hall, 20).await;
    }
    assert!(epochs(&mut hall).await > before, "nothing was taken over");
    let shared = crowd.agree(&mut hall).await;
    assert!(shared > 100, "{shared}");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_of_the_stream_is_the_map_of_get_though_owner_and_ingress_are_killed() {
    let options = SystemOptions::default().ingresses(2).workers(2);
    let mut hall = Hall::open_with(options).await;
    let mut crowd = Crowd::gather(&mut hall).await;
    crowd.go_on(&mut hall, 50).await;
    for round in 0..4 {
        hall.system.workers[round % 2].kill9().await;
        hall.system.ingresses[round % 2].kill9().await;
        hall.system.ingresses[round % 2]
            .restart()
            .await
            .expect("an ingress");
        crowd.go_on(&mut hall, 30).await;
        hall.system.workers[round % 2]
            .restart()
            .await
            .expect("a worker");
        crowd.go_on(&mut hall, 30).await;
    }
    let shared = crowd.agree(&mut hall).await;
    assert!(shared > 100, "{shared}");
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_poll_nor_a_stream_costs_a_query() {
    const POLLS: usize = 10_000;
    const STREAMS: usize = 1000;
    const CHANGES: i64 = 200;
    /// What the ingress asks for by itself is asked a few times a second, and told generously.
    const ASKED_PER_S_MAX: u64 = 8;
    let options = SystemOptions::default().setting("ONSALE_EVENT_STREAMS_PER_ADDRESS_MAX", 0);
    let mut hall = Hall::open_with(options).await;
    let date = hall.date(SEATS).await;
    let held = hall.api.hold(&hall.buyer(), date, &["A-1-1"]).await;
    let _ = held.expect(201);
    let first = hall.api.get(None, &seats_path(date)).await.expect(200);
    let etag = first.headers["etag"].clone();
    assert!(hall.system.workers[0].stop().await.success());
    // A session adds to the counters when it ends, at the latest: ours is in another database, and in
    // the end all others are gone.
    let url = hall.system.db.url().to_owned();
    let (server, name) = url.rsplit_once('/').expect("an address");
    let postgres = format!("{server}/postgres");
    hall.conn = db::connect(&postgres).await.expect("a connection");
    let counted = format!(
        "SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = '{name}'"
    );
    let tuples = format!(
        "SELECT tup_returned + tup_fetched AS n FROM pg_stat_database WHERE datname = '{name}'"
    );
    let sessions = format!(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = '{name}' \
                            AND backend_type = 'client backend' AND usename NOT LIKE '%ingress%'"
    );
    sessions_end(&mut hall, &sessions).await;
    let (before, tuples_before) = (hall.number(&counted).await, hall.number(&tuples).await);

    let started = Instant::now();
    let mut lookers = JoinSet::new();
    for looker in 0..8 {
        let (api, etag) = (hall.api.clone(), etag.clone());
        lookers.spawn(async move {
            let mut streams = Vec::new();
            for (nth, poll) in (looker..POLLS).step_by(8).enumerate() {
                let mut request = api.request(Method::GET, &seats_path(date));
                let expected = match poll % 3 {
                    0 => 200,
                    1 => {
                        request = request.header("accept-encoding", "gzip");
                        200
                    }
                    _ => {
                        request = request.header("if-none-match", etag.clone());
                        304
                    }
                };
                let answer = request.send().await.expect("an answer");
                assert_eq!(answer.status(), expected);
                if nth % (POLLS / STREAMS) == 0 {
                    let mut stream = Stream::open(&api, date, None).await.expect("a stream");
                    assert!(stream.block().await.expect("a block").is_some());
                    streams.push(stream);
                }
            }
            streams
        });
    }
    let streams: Vec<Stream> = lookers.join_all().await.into_iter().flatten().collect();
    assert_eq!(streams.len(), STREAMS);
    // What the owner tells, which has left.
    let version = first.body["version"].as_i64().expect("a version");
    owner_tells(&hall, date, version..version + CHANGES).await;
    let last = format!("id: {}\n", version + CHANGES);
    for mut stream in streams {
        while !stream
            .block()
            .await
            .expect("whole")
            .expect("a block")
            .starts_with(&last)
        {}
    }
    assert!(hall.system.ingresses[0].stop().await.success());
    let took = started.elapsed();
    let any = format!(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = '{name}' \
                       AND backend_type = 'client backend'"
    );
    sessions_end(&mut hall, &any).await;
    let asked = hall.number(&counted).await - before;
    let read = hall.number(&tuples).await - tuples_before;
    println!(
        "{asked} transactions, {read} rows in {took:?} of {POLLS} polls and {STREAMS} streams"
    );
    let most = 100 + took.as_secs() * ASKED_PER_S_MAX;
    assert!(most < POLLS as u64 / 10, "{took:?} is too long to tell");
    assert!(
        u64::try_from(asked).expect("a count") < most,
        "{asked} transactions in {took:?}"
    );
}

/// Tells changes of a date's first seats, one for each of these versions.
async fn owner_tells(hall: &Hall, date: Uuid, versions: Range<i64>) {
    let subjects = Subjects::new(&hall.system.prefix).expect("a prefix");
    let subject = subjects.map(partition::of_schedule(ScheduleId(date), PARTITIONS));
    let url = hall.system.nats_url_of(Some(User::Workers));
    let nats = nats::connect(&url, "test").await.expect("NATS");
    for from_version in versions {
        let seat = i32::try_from(from_version % 10).expect("a digit");
        let change = MapChange {
            schedule_id: ScheduleId(date),
            from_version,
            version: from_version + 1,
            at: Timestamp::EPOCH,
            changes: vec![(SeatNo(seat), Some(ClaimState::Held))],
            layout_no: None,
        };
        let maps = MapBroadcast {
            maps: vec![change],
            sent_at: None,
        };
        let told = nats.publish(subject.clone(), encode(&maps).into()).await;
        told.expect("told");
    }
    nats.flush().await.expect("told");
}

async fn sessions_end(hall: &mut Hall, sql: &str) {
    let ended = async {
        while hall.number(sql).await > 0 {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("sessions end");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_ended_when_the_ingress_stops_and_told_when_to_come_back() {
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let date = hall.date(SEATS).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = Stream::open(&hall.api, date, None).await.expect("a stream");
        let retry = stream.block().await.expect("whole").expect("a block");
        let retry_ms = retry.strip_prefix("retry: ").expect("when to come back");
        let retry_ms: u32 = retry_ms.parse().expect("a number");
        assert!((1000..=5000).contains(&retry_ms), "{retry_ms}");
        streams.push(stream);
    }
    let asked = Instant::now();
    let stopped = hall.system.ingresses[0].stop();
    let ended = async {
        let mut last = String::new();
        for mut stream in streams {
            while let Some(block) = stream.block().await.expect("it ends, and does not break") {
                let id = block.lines().find_map(|line| line.strip_prefix("id: "));
                last = id.map_or(last, str::to_owned);
            }
        }
        last
    };
    let (stopped, last) = tokio::join!(stopped, ended);
    assert!(stopped.success());
    println!("ended after {:?}", asked.elapsed());
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "that is the drain's time"
    );
    // What happens meanwhile is not missed.
    let other = Api::new(hall.system.url(1));
    let _ = other
        .hold(&hall.buyer(), date, &["A-1-2"])
        .await
        .expect(201);
    let mut back = Stream::open(&other, date, Some(&last))
        .await
        .expect("a stream");
    loop {
        let block = back.block().await.expect("whole").expect("a block");
        if block.contains("event: seats") && block.contains(r#"[1,"H"]"#) {
            break;
        }
        if block.contains("event: reset") {
            let map = other.get(None, &seats_path(date)).await.expect(200).body;
            if text(&map["seats"]).starts_with("AH") {
                break;
            }
        }
    }
}
