//! A started system with a date on sale, and what every test asks of it.

use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale::seed::{Layout, NewConcert, NewSchedule, Policy};
use onsale::{audit, seed};
use onsale_ingress::auth::{self, Tokens};
use onsale_ingress::config::Config as IngressConfig;
use onsale_platform::nats_users::User;
use onsale_platform::rights::Role;
use onsale_platform::{Clock, db};
use onsale_schema::status::{self, SaleState};
use onsale_schema::{ConcertId, ScheduleId, SessionId, Timestamp, UserId, partition};
use onsale_testkit::{Api, Buyer, System, SystemOptions, system};
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// No wait of these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// As by default.
pub const PARTITIONS: u16 = 16;

/// A started system.
pub struct Hall {
    pub system: System,
    pub api: Api,
    pub conn: AsyncPgConnection,
    concert_id: ConcertId,
    tokens: Tokens,
}

impl Hall {
    /// A system of one ingress and one worker.
    pub async fn open() -> Self {
        Self::open_with(SystemOptions::default()).await
    }

    pub async fn open_with(options: SystemOptions) -> Self {
        let system = System::start(options).await.expect("a system");
        let api = Api::new(system.url(0));
        let mut conn = connect(&system).await;
        let day = "2030-05-01".parse().expect("a date");
        let concert = NewConcert {
            concert_id: ConcertId(Uuid::now_v7()),
            title: "A Concert",
            artist: "An Artist",
            venue: "A Venue",
            description: "",
            starts_on: day,
            ends_on: day,
        };
        seed::concert_create(&mut conn, &concert)
            .await
            .expect("a concert");
        let tokens = Tokens::new(&auth_settings(&system), Clock::default());
        Self {
            system,
            api,
            conn,
            concert_id: concert.concert_id,
            tokens,
        }
    }

    /// A date on sale with so many seats, labelled `A-1-1` to `A-1-100`, `A-2-1`, …
    pub async fn date(&mut self, seats: u32) -> Uuid {
        self.date_with(seats, open_policy()).await
    }

    /// A date that the same partition decides as another.
    pub async fn neighbour_of(&mut self, date: Uuid, seats: u32) -> Uuid {
        let partition = |id| partition::of_schedule(id, PARTITIONS);
        let ids = std::iter::repeat_with(|| ScheduleId(Uuid::now_v7()));
        let mut near = ids.filter(|id| partition(*id) == partition(ScheduleId(date)));
        let id = near.next().expect("one of sixteen");
        let layout = Layout::plain(seats, 10_000);
        self.date_as(id, &layout, open_policy()).await
    }

    /// A date that another partition decides.
    pub async fn date_elsewhere(&mut self, date: Uuid, seats: u32) -> Uuid {
        let partition = |id| partition::of_schedule(id, PARTITIONS);
        let ids = std::iter::repeat_with(|| ScheduleId(Uuid::now_v7()));
        let mut far = ids.filter(|id| partition(*id) != partition(ScheduleId(date)));
        let id = far.next().expect("fifteen of sixteen");
        let layout = Layout::plain(seats, 10_000);
        self.date_as(id, &layout, open_policy()).await
    }

    pub async fn date_with(&mut self, seats: u32, policy: Policy) -> Uuid {
        let layout = Layout::plain(seats, 10_000);
        let schedule_id = ScheduleId(Uuid::now_v7());
        self.date_as(schedule_id, &layout, policy).await
    }

    /// A date on sale with these seats.
    pub async fn date_of(&mut self, layout: &Layout) -> Uuid {
        let schedule_id = ScheduleId(Uuid::now_v7());
        self.date_as(schedule_id, layout, open_policy()).await
    }

    async fn date_as(&mut self, schedule_id: ScheduleId, layout: &Layout, policy: Policy) -> Uuid {
        let new = NewSchedule {
            schedule_id,
            concert_id: self.concert_id,
            starts_at: soon(3600 * 24),
            layout,
            policy,
        };
        seed::schedule_create(&mut self.conn, &new)
            .await
            .expect("a date");
        schedule_id.0
    }

    /// Somebody with a valid token, without the cost of a password.
    pub fn buyer(&self) -> Buyer {
        self.somebody(status::Role::Buyer)
    }

    /// Somebody who administers.
    pub fn admin(&self) -> Buyer {
        self.somebody(status::Role::Admin)
    }

    fn somebody(&self, role: status::Role) -> Buyer {
        let id = UserId(Uuid::now_v7());
        let user = auth::User {
            id,
            session: SessionId(Uuid::now_v7()),
            role,
        };
        Buyer {
            user_id: id.0,
            token: self.tokens.issue(user).0,
        }
    }

    /// Somebody whose token has expired.
    pub fn expired_buyer(&self) -> Buyer {
        let mut settings = auth_settings(&self.system);
        settings.access_token_ttl_s = -10;
        let user = auth::User {
            id: UserId(Uuid::now_v7()),
            session: SessionId(Uuid::now_v7()),
            role: status::Role::Buyer,
        };
        let token = Tokens::new(&settings, Clock::default()).issue(user).0;
        Buyer {
            user_id: user.id.0,
            token,
        }
    }

    pub async fn sql(&mut self, sql: &str) {
        self.conn.batch_execute(sql).await.expect(sql);
    }

    pub fn buyers(&self, count: usize) -> Vec<Buyer> {
        (0..count).map(|_| self.buyer()).collect()
    }

    /// Another connection to the system's database.
    pub async fn connect(&self) -> AsyncPgConnection {
        connect(&self.system).await
    }

    pub async fn number(&mut self, sql: &str) -> i64 {
        number(&mut self.conn, sql).await
    }

    /// Waits until a query's number is this one.
    pub async fn becomes(&mut self, sql: &str, expected: i64) {
        let mut n = None;
        let reached = async {
            while n != Some(expected) {
                n = Some(number(&mut self.conn, sql).await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "{n:?}, not {expected}: {sql}");
    }

    /// The letters of a date's map, by seat number.
    pub async fn map(&self, schedule: Uuid) -> String {
        let map = self
            .api
            .get(None, &format!("/schedules/{schedule}/seats"))
            .await
            .expect(200);
        onsale_testkit::api::text(&map.body["seats"]).to_owned()
    }

    /// Waits until the map shows these letters.
    pub async fn map_becomes(&self, schedule: Uuid, expected: &str) {
        let mut map = String::new();
        let shown = tokio::time::timeout(PATIENCE, async {
            while map != expected {
                map = self.map(schedule).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(shown.await.is_ok(), "{map}, not {expected}");
    }

    /// The ends of the logs of all its processes.
    pub fn logs(&self) -> String {
        let processes = self.system.ingresses.iter().chain(&self.system.workers);
        let logs: Vec<String> = processes.map(|process| process.log_tail()).collect();
        logs.join("\n\n")
    }

    /// Waits until the log of a worker has these words.
    pub async fn workers_say(&self, words: &str) {
        let is_said = |worker: &system::Process| worker.log().contains(words);
        let said = tokio::time::timeout(PATIENCE, async {
            while !self.system.workers.iter().any(is_said) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(said.await.is_ok(), "nobody says {words:?}\n{}", self.logs());
    }

    /// Waits until the first worker's metrics have this line.
    pub async fn tells(&self, line: &str) {
        self.worker_tells(0, line, |told| told == line).await;
    }

    /// Waits until a worker's metrics have such a line.
    pub async fn worker_tells(&self, worker: usize, what: &str, is_it: impl Fn(&str) -> bool) {
        let url = format!(
            "http://{}/metrics",
            self.system.workers[worker].metrics_addr
        );
        let mut page = String::new();
        let told = tokio::time::timeout(PATIENCE, async {
            while !page.lines().any(&is_it) {
                // One that has just been started does not tell yet.
                if let Ok(answer) = reqwest::get(&url).await {
                    page = answer.text().await.unwrap_or_default();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(told.await.is_ok(), "no {what}\n{page}\n{}", self.logs());
    }

    /// Its database, for who only reads.
    pub fn reader_url(&self) -> String {
        self.system.db.url_of(Role::Reader)
    }

    /// Its NATS, for the `onsale` command.
    pub fn operator_url(&self) -> String {
        self.system.nats_url_of(Some(User::Operator))
    }

    /// Every invariant holds, now.
    pub async fn assert_sound(&self) {
        let options = audit::Options::new(self.reader_url())
            .with_nats(self.operator_url(), &self.system.prefix);
        let report = audit::audit(&options).await.expect("the audit runs");
        assert!(report.ok(), "{report}");
    }
}

/// A connection that is told from those of the system's processes.
async fn connect(system: &System) -> AsyncPgConnection {
    let url = system.db.url();
    let sign = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{sign}application_name=test");
    db::connect(&url).await.expect("a connection")
}

/// The one number `n` that a query selects.
pub async fn number(conn: &mut AsyncPgConnection, sql: &str) -> i64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    let row: Row = sql_query(sql).get_result(conn).await.expect(sql);
    row.n
}

fn auth_settings(system: &System) -> onsale_ingress::config::Auth {
    let arguments = [
        "test",
        "--database-url",
        system.db.url(),
        "--token-secret",
        system::TOKEN_SECRET,
    ];
    <IngressConfig as clap::Parser>::parse_from(arguments).auth
}

/// Open since yesterday until next year; a hold lasts five minutes; four seats a user.
pub fn open_policy() -> Policy {
    Policy {
        state: SaleState::Open,
        booking_opens_at: soon(-3600 * 24),
        booking_closes_at: soon(3600 * 24 * 365),
        hold_ms: 300_000,
        seats_per_user: 4,
    }
}

/// So many seconds from now.
pub fn soon(seconds: i64) -> Timestamp {
    Clock::default().now().plus_ms(seconds * 1000)
}

/// The reservation's id in an answer.
#[track_caller]
pub fn reservation(body: &Value) -> Uuid {
    onsale_testkit::api::id(&body["reservationId"])
}
