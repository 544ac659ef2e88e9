//! What is measured: the cases, and for each run a field of its own to play it on (fresh schedules,
//! fresh users, requests made in advance).

use std::fmt;
use std::net::SocketAddr;

use anyhow::Context;
use clap::ValueEnum;
use diesel::sql_types::{Array, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_ingress::auth::{Tokens, User};
use onsale_platform::clock;
use onsale_schema::status::{Role, SaleState};
use onsale_schema::{ConcertId, Lane, ScheduleId, SessionId, UserId, partition};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use uuid::Uuid;

use super::contest::{Contested, Field};
use super::direct::Rival;
use super::load::Script;
use super::run::{Design, Track};
use super::verify;
use crate::seed::{Layout, NewConcert, NewSchedule, Policy, concert_create, schedule_create};

/// Partitions of the seats lane; a field of all-win has a schedule on each.
pub const PARTITIONS: u16 = 16;
/// Seats of the hot schedule.
const HOT_SEATS: u32 = 500;
/// Requests of one user, on average.
pub const REQUESTS_PER_USER: usize = 5;
/// No limit that anybody reaches.
const SEATS_PER_USER: i32 = 100_000;
pub const PRICE_WON: i64 = 99_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// What the plain echo of the stack did when the yardstick and the row lock were measured before, on
/// 2 cores with Postgres 18 (answers per second).
pub const ECHO_THEN: f64 = 74_000.0;
/// What the yardstick did then, at 64 connections that all win.
pub const YARDSTICK_THEN: f64 = 10_500.0;
/// "Far below": less than this part of the share of the echo that the yardstick had then.
const SHARE_MIN: f64 = 0.6;
/// The least part of the yardstick's rate for the best rival, which does more in the same single
/// statement.
const CTE_MIN: f64 = 0.4;

/// What everybody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// Every request wants a seat of its own, on 16 schedules: every request wins.
    AllWin,
    /// Every request wants one of the 500 seats of one schedule: most lose.
    Hot,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AllWin => "all-win",
            Self::Hot => "hot",
        })
    }
}

impl Contested for Case {
    const BENCH: &'static str = "seats";
    type Ground = Vec<ScheduleId>;

    fn lane(self) -> Lane {
        Lane::Seats
    }

    fn wins(self, requests: usize) -> u64 {
        match self {
            Self::AllWin => requests as u64,
            Self::Hot => requests.min(HOT_SEATS as usize) as u64,
        }
    }

    async fn field(
        self,
        track: &mut Track,
        _design: Design,
        size: Size,
        seed: u64,
        addr: SocketAddr,
    ) -> anyhow::Result<Field<Self::Ground>> {
        let (field, _) = track.grounds.field(self, size, seed, addr).await?;
        Ok(field)
    }

    async fn complaint(
        track: &mut Track,
        design: Design,
        schedules: &Vec<ScheduleId>,
        answered: u64,
    ) -> anyhow::Result<Option<String>> {
        let rows = verify::rows(&mut track.conn, design, schedules).await?;
        Ok(rows.complaint(answered))
    }

    /// Of what it did then. There is no such figure for hot seats and 64 connections.
    fn yardstick_least(self, connections: usize) -> Option<f64> {
        let then = match (self, connections) {
            (Self::AllWin, 64) => YARDSTICK_THEN,
            (Self::AllWin, 256) => 10_200.0,
            (Self::Hot, 256) => 21_600.0,
            (Self::AllWin | Self::Hot, _) => return None,
        };
        Some(SHARE_MIN * then / ECHO_THEN)
    }

    fn rival_least(self, rival: Rival) -> Option<f64> {
        match rival {
            Rival::Cte => Some(CTE_MIN),
            Rival::RowLock | Rival::LeanCte => None,
        }
    }

    fn beside(self) -> Option<Self> {
        match self {
            Self::AllWin | Self::Hot => None,
        }
    }
}

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Requests that count.
    pub requests: usize,
    /// Requests before them, for seats of their own; all of them win.
    pub warm_up: usize,
}

/// A user who is signed in.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub user_id: UserId,
    /// The access token.
    pub token: String,
}

/// Dates to be sold seat by seat.
#[derive(Debug)]
pub struct Dates {
    /// One on each partition.
    pub schedules: Vec<ScheduleId>,
    /// The seats that each has.
    pub labels: Vec<String>,
    /// Of buyers enough that none has many seats.
    pub tokens: Vec<String>,
}

/// Makes fields in one database.
pub struct Grounds {
    conn: AsyncPgConnection,
    tokens: Tokens,
    concert_id: ConcertId,
    runs: u64,
}

impl Grounds {
    /// Goes on over another connection.
    pub fn reconnect(&mut self, conn: AsyncPgConnection) {
        self.conn = conn;
    }

    /// Creates the concert that all fields are dates of.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn create(mut conn: AsyncPgConnection, tokens: Tokens) -> anyhow::Result<Self> {
        let concert_id = ConcertId(Uuid::now_v7());
        let today = chrono::DateTime::<chrono::Utc>::from(clock::host_now()).date_naive();
        let concert = NewConcert {
            concert_id,
            title: "Bench",
            artist: "Bench",
            venue: "Bench",
            description: "What `onsale bench` sells.",
            starts_on: today,
            ends_on: today,
        };
        concert_create(&mut conn, &concert)
            .await
            .context("creating a concert")?;
        Ok(Self {
            conn,
            tokens,
            concert_id,
            runs: 0,
        })
    }

    /// Makes a field for a server at `addr`, and its buyers. The same seed gives the same order of
    /// seats.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn field(
        &mut self,
        case: Case,
        size: Size,
        seed: u64,
        addr: SocketAddr,
    ) -> anyhow::Result<(Field<Vec<ScheduleId>>, Vec<Member>)> {
        let run = self.next_run();
        let schedules = schedule_ids(case);
        // All schedules of a field are alike.
        let (wanted, spare) = (wanted_seats(case, size), spare_seats(size, schedules.len()));
        let layout = Layout::plain(wanted + spare, PRICE_WON);
        for schedule_id in &schedules {
            self.schedule(*schedule_id, &layout).await?;
        }
        let users = self
            .users(size.requests.div_ceil(REQUESTS_PER_USER))
            .await?;
        let labels: Vec<String> = layout
            .seats
            .iter()
            .map(crate::seed::layout::Seat::label)
            .collect();
        let request = |prefix: &str, number: usize, schedule: usize, seat: usize| Request {
            addr,
            token: &users[number % users.len()].token,
            key: format!("{prefix}-{run}-{number:08}"),
            schedule: schedules[schedule],
            label: labels[seat].clone(),
        };
        let mut warm_up = Script::default();
        for number in 0..size.warm_up {
            let (schedule, seat) = spread(number, schedules.len());
            let request = request("warm", number, schedule, wanted as usize + seat);
            warm_up.push(|bytes| request.write(bytes));
        }
        let mut counted = Script::default();
        for (number, (schedule, seat)) in places(case, size.requests, seed).enumerate() {
            let request = request("hold", number, schedule, seat);
            counted.push(|bytes| request.write(bytes));
        }
        let field = Field {
            ground: schedules,
            warm_up,
            counted,
        };
        Ok((field, users))
    }

    /// A number that no other run has.
    pub fn next_run(&mut self) -> u64 {
        self.runs += 1;
        self.runs
    }

    /// Makes a date on each partition, with so many seats, and buyers who are signed in.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn dates(&mut self, seats: u32) -> anyhow::Result<Dates> {
        self.alike(schedule_ids(Case::AllWin), seats).await
    }

    /// Makes one date, with so many seats, and buyers who are signed in.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn date(&mut self, seats: u32) -> anyhow::Result<Dates> {
        self.alike(vec![ScheduleId(Uuid::now_v7())], seats).await
    }

    async fn alike(&mut self, schedules: Vec<ScheduleId>, seats: u32) -> anyhow::Result<Dates> {
        let layout = Layout::plain(seats, PRICE_WON);
        for schedule_id in &schedules {
            self.schedule(*schedule_id, &layout).await?;
        }
        let buyers = layout.seats.len().div_ceil(REQUESTS_PER_USER);
        let buyers = self.users(buyers).await?;
        let seats = layout.seats.iter();
        Ok(Dates {
            schedules,
            labels: seats.map(crate::seed::layout::Seat::label).collect(),
            tokens: buyers.into_iter().map(|buyer| buyer.token).collect(),
        })
    }

    async fn schedule(&mut self, schedule_id: ScheduleId, layout: &Layout) -> anyhow::Result<()> {
        let now = clock::host_now();
        let schedule = NewSchedule {
            schedule_id,
            concert_id: self.concert_id,
            starts_at: now.plus_ms(30 * DAY_MS),
            layout,
            policy: Policy {
                state: SaleState::Open,
                booking_opens_at: now.plus_ms(-DAY_MS),
                booking_closes_at: now.plus_ms(DAY_MS),
                // Nothing lapses while it is measured.
                hold_ms: DAY_MS,
                seats_per_user: SEATS_PER_USER,
            },
        };
        schedule_create(&mut self.conn, &schedule)
            .await
            .context("creating a schedule")?;
        Ok(())
    }

    /// Creates users who can't sign in, and signs them in.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn users(&mut self, count: usize) -> anyhow::Result<Vec<Member>> {
        let ids: Vec<UserId> = (0..count).map(|_| UserId(Uuid::now_v7())).collect();
        let emails: Vec<String> = ids.iter().map(|id| format!("{id}@example.com")).collect();
        diesel::sql_query(
            "INSERT INTO app_user (user_id, email, name, password_hash)
             SELECT id, email, 'Bench', '!' FROM unnest($1::uuid[], $2::text[]) AS x (id, email)",
        )
        .bind::<Array<SqlUuid>, _>(&ids)
        .bind::<Array<Text>, _>(&emails)
        .execute(&mut self.conn)
        .await
        .context("creating users")?;
        Ok(ids.into_iter().map(|id| self.sign_in(id)).collect())
    }

    /// Signs somebody in. Whether there is such a user is not looked for, as no ingress does that
    /// either while a token is good.
    #[must_use]
    pub fn sign_in(&self, user_id: UserId) -> Member {
        let user = User {
            id: user_id,
            session: SessionId(Uuid::now_v7()),
            role: Role::Buyer,
        };
        let (token, ..) = self.tokens.issue(user);
        Member { user_id, token }
    }
}

/// One schedule on each partition, or one on any.
fn schedule_ids(case: Case) -> Vec<ScheduleId> {
    let random = || std::iter::repeat_with(|| ScheduleId(Uuid::now_v7()));
    match case {
        Case::AllWin => (0..PARTITIONS)
            .filter_map(|no| random().find(|id| partition::of_schedule(*id, PARTITIONS).0 == no))
            .collect(),
        Case::Hot => random().take(1).collect(),
    }
}

/// Seats per schedule that counted requests ask for.
fn wanted_seats(case: Case, size: Size) -> u32 {
    match case {
        Case::AllWin => {
            let per_schedule = size.requests.div_ceil(usize::from(PARTITIONS));
            u32::try_from(per_schedule).unwrap_or(u32::MAX)
        }
        Case::Hot => HOT_SEATS,
    }
}

/// Seats per schedule that only the warm-up asks for.
fn spare_seats(size: Size, schedules: usize) -> u32 {
    u32::try_from(size.warm_up.div_ceil(schedules)).unwrap_or(u32::MAX)
}

/// Schedule and seat of the `number`th request when each wants a seat of its own.
fn spread(number: usize, schedules: usize) -> (usize, usize) {
    (number % schedules, number / schedules)
}

/// Schedule and seat of each request; that of the hot seats is random.
fn places(case: Case, requests: usize, seed: u64) -> impl Iterator<Item = (usize, usize)> {
    let mut places: Vec<(usize, usize)> = match case {
        Case::AllWin => (0..requests)
            .map(|number| spread(number, usize::from(PARTITIONS)))
            .collect(),
        Case::Hot => (0..requests)
            .map(|number| (0, number % HOT_SEATS as usize))
            .collect(),
    };
    if case == Case::Hot {
        places.shuffle(&mut StdRng::seed_from_u64(seed));
    }
    places.into_iter()
}

/// One hold, as it goes over the wire.
struct Request<'a> {
    addr: SocketAddr,
    token: &'a str,
    key: String,
    schedule: ScheduleId,
    label: String,
}

impl Request<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let Self {
            addr,
            token,
            key,
            schedule,
            label,
        } = self;
        let body = format!(r#"{{"scheduleId":"{schedule}","seats":["{label}"]}}"#);
        post(out, *addr, "/api/v1/reservations", (token, key), &body);
    }
}

/// Writes a POST as it goes over the wire, by the user who has this token, with this key.
pub fn post(
    out: &mut Vec<u8>,
    addr: SocketAddr,
    path: &str,
    (token, key): (&str, &str),
    body: &str,
) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

/// So many requests to the endpoint that answers what it is sent.
#[must_use]
pub fn echoes(addr: SocketAddr, requests: usize) -> Script {
    let mut script = Script::default();
    let body = r#"{"scheduleId":"0190f5fe-7c00-7a00-8000-000000000000","seats":["A-1-1"]}"#;
    for _ in 0..requests {
        script.push(|out| {
            let head = format!(
                "POST /api/v1/echo HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(body.as_bytes());
        });
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn a_field_of_all_win_uses_every_partition_and_no_seat_twice() {
        let schedules = schedule_ids(Case::AllWin);
        let partitions: HashSet<u16> = schedules
            .iter()
            .map(|id| partition::of_schedule(*id, PARTITIONS).0)
            .collect();
        assert_eq!(partitions.len(), usize::from(PARTITIONS));
        let size = Size {
            requests: 1001,
            warm_up: 33,
        };
        let seats: HashSet<_> = places(Case::AllWin, size.requests, 1).collect();
        assert_eq!(seats.len(), 1001);
        let per_schedule = wanted_seats(Case::AllWin, size) as usize;
        assert!(
            seats
                .iter()
                .all(|(schedule, seat)| *schedule < 16 && *seat < per_schedule)
        );
        assert_eq!(spare_seats(size, 16), 3);
    }

    #[test]
    fn each_hot_seat_is_wanted_as_often_in_an_order_of_its_own() {
        let wanted: Vec<_> = places(Case::Hot, 5000, 7).collect();
        let mut counts = HashMap::new();
        for place in &wanted {
            *counts.entry(place).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 500);
        assert!(counts.values().all(|count| *count == 10));
        assert_eq!(wanted, places(Case::Hot, 5000, 7).collect::<Vec<_>>());
        assert_ne!(wanted, places(Case::Hot, 5000, 8).collect::<Vec<_>>());
        assert_eq!(Case::Hot.wins(5000), 500);
    }
}
