//! Many who look at one date, by GET and by streams, while others buy there.

use super::stream::Stream;
use super::{AGAIN, SEATS, seats_path};
use crate::hall::{Hall, PATIENCE, open_policy, reservation};
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::AsyncPgConnection;
use onsale::seed::Policy;
use onsale_testkit::api::text;
use onsale_testkit::{Api, Buyer};
use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Maps by version, as somebody saw them.
type Maps = BTreeMap<i64, String>;

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
pub struct Crowd {
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
    pub async fn gather(hall: &mut Hall) -> Self {
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
    pub async fn go_on(&mut self, hall: &mut Hall, versions: i64) {
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
    pub async fn agree(mut self, hall: &mut Hall) -> usize {
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
