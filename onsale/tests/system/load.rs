//! A steady load of holds, and what becomes of each.

use crate::hall::{Hall, PATIENCE, number, open_policy, reservation};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Uuid as SqlUuid};
use diesel_async::AsyncPgConnection;
use onsale::bench::steady::{Steady, Wanted};
use onsale::seed::Policy;
use onsale_schema::ScheduleId;
use onsale_testkit::{Answer, Api, Buyer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

/// Holds per second that are asked of the date whose gap is measured, and for how long there are
/// seats for them.
const RATE: u16 = 100;
const WATCHED_S: u16 = 240;
/// How often a client asks at most, and how many systems have a load at once: a large one, or two
/// small ones. That is so little that a slow machine, on which unoptimised programs run, has time for
/// it, and so keeps leases and deadlines. A load that saturates the machine is that of
/// `onsale bench failover`.
const EVERY: Duration = Duration::from_millis(200);
static LOADS: Semaphore = Semaphore::const_new(2);
const SMALL: usize = 8;
/// How many buyers a client speaks for, in turns, so that none has thousands of holds.
const BUYERS: usize = 100;
/// How long a client stays away that was told to come again.
const AGAIN: Duration = Duration::from_millis(100);
/// A command that was lost on its way has expired when its partition has gone on for so long as its
/// deadline, or a minute after that when nothing comes any more.
const SETTLED: Duration = Duration::from_secs(90);

/// What clients saw.
#[derive(Default)]
pub struct Seen {
    /// Reservations that were acknowledged.
    pub acknowledged: Vec<Uuid>,
    /// Answers that are neither a success nor a refusal for a good reason.
    failed: Vec<String>,
    /// Answers whose outcome was still open.
    pub open: Vec<Open>,
    /// The most of those of one client.
    pub open_of_one: usize,
    /// Requests that were refused because a server was away, or came to it too late.
    pub turned_away: usize,
    /// The longest time that a request waited for its answer.
    pub slowest: Duration,
}

/// A request whose outcome will be known later, and where.
pub struct Open {
    buyer: Buyer,
    location: String,
}

impl Open {
    /// Waits for the outcome; the reservation, if it is one.
    async fn outcome(&self, api: &Api) -> Option<Uuid> {
        let decided = async {
            loop {
                let answer = api
                    .get(Some(&self.buyer), &format!("/{}", self.location))
                    .await;
                match (answer.status.as_u16(), answer.code()) {
                    (200, _) => return Some(answer.body),
                    (410, "command-expired") => return None,
                    (202 | 503, _) => tokio::time::sleep(AGAIN).await,
                    _ => panic!("{answer:?}"),
                }
            }
        };
        let decided = tokio::time::timeout(SETTLED, decided).await;
        let outcome = decided.expect("an outcome")?;
        (outcome["status"] == 201).then(|| reservation(&outcome["body"]))
    }
}

/// Holds seat after seat until told to stop, or until there are none left.
pub async fn keep_holding(
    api: Api,
    buyers: Vec<Buyer>,
    date: Uuid,
    next_seat: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Seen {
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let seat = next_seat.fetch_add(1, Ordering::Relaxed);
        let label = format!("A-{}-{}", seat / 100 + 1, seat % 100 + 1);
        let buyer = &buyers[seat % buyers.len()];
        let asked = Instant::now();
        let answer = api.hold(buyer, date, &[&label]).await;
        seen.slowest = seen.slowest.max(asked.elapsed());
        match (answer.status.as_u16(), answer.code()) {
            (201, _) => seen.acknowledged.push(reservation(&answer.body)),
            // Still open: not acknowledged, and not refused either.
            (202, _) => seen.open.push(open(buyer, &answer)),
            (503, "dependency-unavailable" | "overloaded") => {
                assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
                seen.turned_away += 1;
                tokio::time::sleep(AGAIN).await;
            }
            (410, "command-expired") => seen.turned_away += 1,
            (422, "seat-limit-exceeded" | "unknown-seat") => {}
            _ => seen.failed.push(format!("{answer:?}")),
        }
    }
    seen
}

fn open(buyer: &Buyer, answer: &Answer) -> Open {
    Open {
        buyer: buyer.clone(),
        location: answer.headers["location"]
            .to_str()
            .expect("a path")
            .to_owned(),
    }
}

/// Clients that hold seats on many dates, one each, so that all partitions are busy; and one date
/// more of which so many seats are asked per second, however slowly it answers, so that the gap that
/// a blow leaves can be seen.
pub struct Load {
    dates: Vec<Uuid>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Seen>,
    watched: Steady,
    watched_date: Uuid,
    _one_of_few: SemaphorePermit<'static>,
}

impl Load {
    pub async fn start(hall: &mut Hall, dates: usize) -> Self {
        let weight = if dates <= SMALL { 1 } else { 2 };
        let one_of_few = LOADS
            .acquire_many(weight)
            .await
            .expect("it is never closed");
        let policy = Policy {
            seats_per_user: 100_000,
            ..open_policy()
        };
        let (watched_date, watched) = watched(hall, policy).await;
        let mut load = Self {
            dates: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            clients: JoinSet::new(),
            watched,
            watched_date,
            _one_of_few: one_of_few,
        };
        for _ in 0..dates {
            let date = hall.date_with(3000, policy).await;
            load.dates.push(date);
            load.client(hall, date, Arc::default());
        }
        load
    }

    fn client(&mut self, hall: &Hall, date: Uuid, next_seat: Arc<AtomicUsize>) {
        let (api, buyers) = (hall.api.clone(), hall.buyers(BUYERS));
        self.clients.spawn(keep_holding(
            api,
            buyers,
            date,
            next_seat,
            self.stop.clone(),
        ));
    }

    /// The fewest holds of a date.
    pub async fn least(&self, hall: &Hall) -> i64 {
        let sql = "SELECT coalesce(min(n), 0)::bigint AS n FROM ( \
                   SELECT count(*) AS n FROM reservation GROUP BY schedule_id) x";
        number(&mut hall.connect().await, sql).await
    }

    /// Waits until every date has so many holds.
    pub async fn under_way(&self, hall: &Hall, holds: i64) {
        let dates = i64::try_from(self.dates.len()).expect("few");
        let sql = format!(
            "SELECT count(*) AS n FROM (SELECT schedule_id FROM reservation GROUP BY 1 \
             HAVING count(*) >= {holds}) x"
        );
        self.until(hall, &sql, dates).await;
    }

    /// Waits until every date has so many more holds than it has now.
    pub async fn more_everywhere(&self, hall: &Hall, holds: i64) {
        let mut conn = hall.connect().await;
        let before = counts(&mut conn).await;
        let gone_on = async {
            loop {
                let now = counts(&mut conn).await;
                let has_more = |date| {
                    let of = |counts: &BTreeMap<Uuid, i64>| counts.get(date).copied().unwrap_or(0);
                    of(&now) >= of(&before) + holds
                };
                if self.dates.iter().all(has_more) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone_on)
            .await
            .unwrap_or_else(|_| panic!("not all dates go on\n{}", hall.logs()));
    }

    /// Waits for so many more holds.
    pub async fn more(&self, hall: &Hall, holds: i64) {
        let sql = "SELECT count(*) AS n FROM reservation";
        let before = number(&mut hall.connect().await, sql).await;
        self.until(hall, sql, before + holds).await;
    }

    /// Waits until a query's number has reached `least`.
    pub async fn until(&self, hall: &Hall, sql: &str, least: i64) {
        let mut conn = hall.connect().await;
        let reached = async {
            while number(&mut conn, sql).await < least {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("not yet {least}: {sql}\n{}", hall.logs()));
    }

    /// The longest time between two holds in a row of the watched date, since shortly before then.
    pub fn gap(&self, since: Instant) -> Duration {
        self.watched.answers().gap(since)
    }

    /// Ends a load under which nothing broke: every request must have been answered with a hold.
    pub async fn stop_whole(mut self, hall: &mut Hall) -> Seen {
        let others = self.watched.stop_asking().await.others();
        assert!(others.is_empty(), "of the watched date: {others:?}");
        let seen = self.stop(hall).await;
        assert!(seen.open.is_empty(), "a request was left open");
        seen
    }

    /// Ends the load; every acknowledged hold must be there, and nothing may have failed or been
    /// turned away.
    pub async fn stop(self, hall: &mut Hall) -> Seen {
        let seen = self.stop_after_faults(hall).await;
        assert_eq!(seen.turned_away, 0, "requests were turned away");
        seen
    }

    /// Ends a load that had to bear servers that were away: what was acknowledged must be there
    /// with its seats, what was left open must have an outcome, and nothing may have failed.
    pub async fn stop_after_faults(mut self, hall: &mut Hall) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        let watched = self.watched.stop_asking().await;
        let (won, open) = (watched.won(), watched.status(202));
        assert!(won > 0, "nothing was sold");
        while let Some(seen) = self.clients.join_next().await {
            let seen = seen.expect("no panic");
            if let Some(first) = seen.failed.first() {
                panic!("{} failed: {first}\n{}", seen.failed.len(), hall.logs());
            }
            assert!(!seen.acknowledged.is_empty());
            all.acknowledged.extend(seen.acknowledged);
            all.open_of_one = all.open_of_one.max(seen.open.len());
            all.open.extend(seen.open);
            all.turned_away += seen.turned_away;
            all.slowest = all.slowest.max(seen.slowest);
        }
        let mut ids: BTreeSet<Uuid> = all.acknowledged.iter().copied().collect();
        assert_eq!(
            ids.len(),
            all.acknowledged.len(),
            "one reservation, one answer"
        );
        for open in &all.open {
            ids.extend(open.outcome(&hall.api).await);
        }
        assert_held(hall, &ids).await;
        // Who got no answer at all doesn't know either.
        let unanswered = watched
            .others()
            .into_iter()
            .filter(|(what, _)| what.parse::<u16>().is_err());
        let most = won + open + unanswered.map(|(_, count)| count).sum::<u64>();
        let held = format!(
            "SELECT count(*) AS n FROM seat_claim WHERE schedule_id = '{}'",
            self.watched_date
        );
        let held = u64::try_from(hall.number(&held).await).expect("a count");
        assert!((won..=most).contains(&held), "{held}, not {won} to {most}");
        all
    }
}

/// Sells a date at a steady rate.
async fn watched(hall: &mut Hall, policy: Policy) -> (Uuid, Steady) {
    let seats = u32::from(RATE) * u32::from(WATCHED_S);
    let date = hall.date_with(seats, policy).await;
    let label = |seat: u32| format!("A-{}-{}", seat / 100 + 1, seat % 100 + 1);
    let tokens = hall.buyers(BUYERS).into_iter().map(|buyer| buyer.token);
    let wanted = Wanted {
        schedules: vec![ScheduleId(date)],
        labels: (0..seats).map(label).collect(),
        tokens: tokens.collect(),
    };
    let addr = hall.system.ingresses[0].http_addr.expect("an ingress");
    (date, Steady::start(addr, wanted, RATE).expect("a client"))
}

/// Each of these reservations is in Postgres, with its seat.
async fn assert_held(hall: &mut Hall, ids: &BTreeSet<Uuid>) {
    let list: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
    let sql = format!(
        "SELECT count(*) AS n FROM reservation JOIN seat_claim USING (schedule_id, reservation_id) \
         WHERE status = 'HELD' AND state = 'H' AND reservation_id IN ({})",
        list.join(",")
    );
    let there = hall.number(&sql).await;
    assert_eq!(
        there,
        i64::try_from(ids.len()).expect("few"),
        "an acknowledged hold is lost"
    );
}

/// The holds of each date.
async fn counts(conn: &mut AsyncPgConnection) -> BTreeMap<Uuid, i64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        schedule_id: Uuid,
        #[diesel(sql_type = BigInt)]
        holds: i64,
    }
    let counts = "SELECT schedule_id, count(*) AS holds FROM reservation GROUP BY schedule_id";
    // Not as a method: atomics have a `load`, too.
    let rows = diesel_async::RunQueryDsl::load(diesel::sql_query(counts), conn).await;
    let rows: Vec<Row> = rows.expect("counts");
    let pairs = rows.into_iter().map(|row| (row.schedule_id, row.holds));
    pairs.collect()
}
