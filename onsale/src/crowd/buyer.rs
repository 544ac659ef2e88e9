//! One buyer: comes, waits, and buys or does not. Knows nothing but the API.

use std::sync::Arc;
use std::time::Duration;

use onsale_schema::{Money, ScheduleId};
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Kind;
use super::fair::{Contradiction, Sighting, Told, Witness};
use super::http::{Answer, Ask, Http};
use super::tally::{Guests, Stage, Tally};

/// How long somebody looks at the seats before paying, in milliseconds.
const THINKING_MS: std::ops::Range<u64> = 500..3000;
/// How often somebody who was let in looks again whether seats have come back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// So many connections at once a greedy one shows its pass on.
const HANDS: usize = 4;
/// A greedy one asks so many times as often as it was told to, and no more often than this.
const HASTE: u32 = 3;
const HASTE_MIN: Duration = Duration::from_millis(500);

/// What all buyers have in common.
pub struct World {
    /// The way to the ingress.
    pub http: Http,
    /// Where all count.
    pub tally: Arc<Tally>,
    /// The date.
    pub schedule: ScheduleId,
    /// The most seats that one may have of it.
    pub seats_per_user: usize,
    /// What tells this run from others.
    pub run: i64,
    /// What the guests join with, if there are some.
    pub code: Option<String>,
    /// A ticket of somebody: for who tries with another's.
    pub anybodys: std::sync::Mutex<Option<(usize, String)>>,
}

/// One buyer.
pub struct Buyer {
    /// Its number.
    pub no: usize,
    /// What it does.
    pub kind: Kind,
    /// Whether it joins with an access code.
    pub is_guest: bool,
    /// Access token of its account.
    pub token: String,
    /// When it comes, from now on.
    pub comes_after: Duration,
    /// How long after that it loses patience, if it is of that kind.
    pub patience: Duration,
    /// The seats that it wants.
    pub seats: usize,
    /// All that it leaves to chance.
    pub rng: StdRng,
    /// What all have in common.
    pub world: Arc<World>,
    /// How far it is.
    pub stage: Stage,
    /// What it has seen of its ticket.
    pub witness: Witness,
}

/// A ticket as it is told.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ticket {
    ticket_id: String,
    ticket: String,
    status: Status,
    #[serde(default)]
    guest: bool,
    position: Option<u32>,
    ahead: Option<u32>,
    poll_after_ms: Option<u64>,
    pass: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Lobby,
    Waiting,
    Admitted,
    Expired,
    Left,
    Done,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hold {
    reservation_id: String,
    seats: Vec<Value>,
    total: Money,
}

#[derive(Deserialize)]
struct Balance {
    balance: Money,
}

/// What became of the wish for seats.
enum Held {
    Yes(Vec<Hold>),
    /// So many are not free.
    Taken,
    /// The pass is over.
    NoPass,
    /// The rules are against it.
    Refused,
}

impl Buyer {
    /// All of it. Where it ends counts in the tally.
    ///
    /// # Errors
    /// What should not have happened, in words.
    pub async fn live(&mut self) -> Result<(), String> {
        tokio::time::sleep(self.comes_after).await;
        self.witness.comes(self.world.http.elapsed());
        let Some(mut ticket) = self.join(1).await? else {
            self.at(Stage::Refused);
            return Ok(());
        };
        let joined = self.world.http.elapsed();
        self.count_guest(|guests| &mut guests.joined);
        if self.kind == Kind::Greedy {
            self.shows_anothers(&ticket).await?;
        }
        let mut tabs = 1;
        while matches!(ticket.status, Status::Lobby | Status::Waiting) {
            let asked_after = self.world.http.elapsed() - joined;
            if self.loses_patience(asked_after, &ticket).await? {
                return Ok(());
            }
            tokio::time::sleep(self.pause(&ticket)).await;
            if self.kind == Kind::Greedy {
                tabs += 1;
                self.opens_a_tab(tabs, &ticket).await?;
                self.goes_without(&ticket).await?;
            }
            ticket = self.poll(&ticket).await?;
        }
        if ticket.status != Status::Admitted {
            return Err(format!("a ticket that waited is {}", ticket.words()));
        }
        if self.kind == Kind::Greedy {
            self.goes_without(&ticket).await?;
        }
        let waited = self.world.http.elapsed() - joined;
        self.world.tally.lock().waits.push(waited);
        self.count_guest(|guests| &mut guests.admitted);
        match self.kind {
            Kind::Patient | Kind::Impatient | Kind::Greedy => self.buy(ticket).await,
            Kind::Silent => {
                self.at(Stage::Silent);
                Ok(())
            }
        }
    }

    fn at(&mut self, stage: Stage) {
        if self.stage != stage {
            self.world.tally.step(self.stage, stage);
            self.stage = stage;
        }
    }

    /// Counts it among the guests, if it is one.
    fn count_guest(&self, count: impl FnOnce(&mut Guests) -> &mut usize) {
        if self.is_guest {
            *count(&mut self.world.tally.lock().guests) += 1;
        }
    }

    fn path(&self) -> String {
        format!("/schedules/{}/queue", self.world.schedule)
    }

    /// An idempotency key that is of this run, also where chance begins as in another.
    fn key(&mut self) -> String {
        let (run, no) = (self.world.run, self.no);
        format!("crowd-{run:x}-{no}-{:016x}", self.rng.random::<u64>())
    }

    /// Whether it goes, by its kind.
    async fn loses_patience(&mut self, after: Duration, ticket: &Ticket) -> Result<bool, String> {
        let is_over = after >= self.patience;
        match self.kind {
            Kind::Patient | Kind::Greedy => Ok(false),
            Kind::Silent => {
                if is_over {
                    self.at(Stage::Silent);
                }
                Ok(is_over)
            }
            Kind::Impatient => {
                let is_sold_out = self.world.tally.lock().hall.is_sold_out();
                if is_over || is_sold_out {
                    self.leave(ticket).await?;
                    self.at(Stage::GaveUp);
                }
                Ok(is_over || is_sold_out)
            }
        }
    }

    fn pause(&self, ticket: &Ticket) -> Duration {
        let told = Duration::from_millis(ticket.poll_after_ms.unwrap_or(1000));
        match self.kind {
            Kind::Patient | Kind::Impatient | Kind::Silent => told,
            Kind::Greedy => (told / HASTE).max(HASTE_MIN),
        }
    }

    /// Gets in line; none when the room takes nobody.
    async fn join(&mut self, tab: u32) -> Result<Option<Ticket>, String> {
        let (path, key) = (self.path(), self.key());
        let mut ask = Ask::new(Method::POST, &path).by(&self.token);
        if self.is_guest {
            ask = ask.body(json!({ "accessCode": self.world.code }));
        }
        let answer = self
            .world
            .http
            .send(&ask.with("idempotency-key", &key))
            .await?;
        match (answer.status, answer.code()) {
            (StatusCode::CREATED | StatusCode::OK, _) => {}
            (_, "room-full" | "room-off") if tab == 1 => return Ok(None),
            _ => return Err(format!("joining was answered {}", answer.words())),
        }
        let ticket = self.saw(answer)?;
        *self.anybodys() = Some((self.no, ticket.ticket.clone()));
        Ok(Some(ticket))
    }

    fn anybodys(&self) -> std::sync::MutexGuard<'_, Option<(usize, String)>> {
        let anybodys = self.world.anybodys.lock();
        anybodys.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn poll(&mut self, ticket: &Ticket) -> Result<Ticket, String> {
        let path = self.path();
        let ask = Ask::new(Method::GET, &path).by(&self.token);
        let ask = ask.with("queue-ticket", &ticket.ticket);
        self.world.tally.lock().polls += 1;
        let answer = self.world.http.send(&ask).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("a poll was answered {}", answer.words()));
        }
        self.saw(answer)
    }

    /// Takes in what was told of the ticket.
    fn saw(&mut self, answer: Answer) -> Result<Ticket, String> {
        let Answer {
            sent,
            answered,
            body,
            ..
        } = answer;
        let told: Result<Ticket, _> = serde_json::from_value(body);
        let ticket = told.map_err(|error| format!("a ticket: {error}"))?;
        if ticket.guest != self.is_guest {
            return Err("a ticket is of another line".to_owned());
        }
        let (stage, told) = match ticket.status {
            Status::Lobby => (Some(Stage::Lobby), Told::Waiting),
            Status::Waiting => (Some(Stage::Waiting), Told::Waiting),
            Status::Admitted => (Some(Stage::Admitted), Told::Admitted),
            Status::Expired | Status::Left | Status::Done => (None, Told::Over),
        };
        if let Some(stage) = stage {
            self.at(stage);
        }
        let seen = Sighting {
            sent,
            answered,
            told,
            position: ticket.position,
            ahead: ticket.ahead,
            poll_after: ticket.poll_after_ms.map(Duration::from_millis),
        };
        match self.witness.see(&seen) {
            Ok(()) => Ok(ticket),
            Err(Contradiction::Position) => Err("a position became another".to_owned()),
            Err(Contradiction::Ahead) => Err("there are more ahead than before".to_owned()),
        }
    }

    async fn leave(&self, ticket: &Ticket) -> Result<(), String> {
        let path = self.path();
        let ask = Ask::new(Method::DELETE, &path).by(&self.token);
        let ask = ask.with("queue-ticket", &ticket.ticket);
        let answer = self.world.http.send(&ask).await?;
        match (answer.status, answer.code()) {
            // Its time may just have been over.
            (StatusCode::NO_CONTENT, _) | (_, "not-found") => Ok(()),
            _ => Err(format!("leaving was answered {}", answer.words())),
        }
    }

    /// Asks how far another's ticket is, or one that nobody has.
    async fn shows_anothers(&self, ticket: &Ticket) -> Result<(), String> {
        let others = self.anybodys().clone().filter(|(no, _)| *no != self.no);
        let shown = others.map_or_else(|| format!("{}x", ticket.ticket), |(_, ticket)| ticket);
        let path = self.path();
        let ask = Ask::new(Method::GET, &path).by(&self.token);
        let answer = self
            .world
            .http
            .send(&ask.with("queue-ticket", &shown))
            .await?;
        self.must_be(&answer, "queue-ticket-invalid", "another's ticket")
    }

    /// Asks for a seat without a pass, once the room is open.
    async fn goes_without(&mut self, ticket: &Ticket) -> Result<(), String> {
        if ticket.status == Status::Lobby {
            return Ok(());
        }
        let key = self.key();
        let answer = self.ask_for_seats(1, None, &key).await?;
        self.must_be(&answer, "queue-pass-required", "seats without a pass")
    }

    /// One more tab is the same ticket.
    async fn opens_a_tab(&mut self, tab: u32, ticket: &Ticket) -> Result<(), String> {
        self.world.tally.lock().tried += 1;
        match self.join(tab).await? {
            Some(again) if again.ticket_id != ticket.ticket_id => {
                Err("one who is in line got another ticket".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn must_be(&self, answer: &Answer, code: &str, what: &str) -> Result<(), String> {
        self.world.tally.lock().tried += 1;
        match answer.code() == code {
            true => Ok(()),
            false => Err(format!("{what}: answered {}", answer.words())),
        }
    }

    /// Holds, and pays.
    async fn buy(&mut self, mut ticket: Ticket) -> Result<(), String> {
        let mut wanted = match self.kind {
            Kind::Patient | Kind::Impatient | Kind::Silent => self.seats,
            Kind::Greedy => self.world.seats_per_user,
        };
        let holds = loop {
            let held = match &ticket.pass {
                Some(pass) => self.hold(wanted, pass.clone()).await?,
                None => Held::NoPass,
            };
            match held {
                Held::Yes(holds) => break holds,
                Held::Taken if wanted > 1 => wanted -= 1,
                Held::Taken if self.world.tally.lock().hall.is_sold_out() => {
                    self.leave(&ticket).await?;
                    self.at(Stage::SoldOut);
                    return Ok(());
                }
                Held::Taken | Held::NoPass => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    ticket = self.poll(&ticket).await?;
                }
                Held::Refused => {
                    self.leave(&ticket).await?;
                    self.at(Stage::Refused);
                    return Ok(());
                }
            }
            if ticket.status != Status::Admitted {
                // Its time was over before there was a seat for it.
                self.at(Stage::SoldOut);
                return Ok(());
            }
        };
        self.at(Stage::Holding);
        let held: usize = holds.iter().map(|hold| hold.seats.len()).sum();
        if held > self.world.seats_per_user {
            return Err(format!("{held} seats for one"));
        }
        let thinking = Duration::from_millis(self.rng.random_range(THINKING_MS));
        tokio::time::sleep(thinking).await;
        for hold in holds {
            self.pay(&hold).await?;
            self.world.tally.lock().bought += hold.seats.len();
        }
        self.at(Stage::Sold);
        self.count_guest(|guests| &mut guests.sold);
        Ok(())
    }

    async fn ask_for_seats(
        &self,
        count: usize,
        pass: Option<&str>,
        key: &str,
    ) -> Result<Answer, String> {
        let body =
            json!({ "scheduleId": self.world.schedule, "bestAvailable": { "count": count } });
        let ask = Ask::new(Method::POST, "/reservations").by(&self.token);
        let mut ask = ask.with("idempotency-key", key).body(body);
        if let Some(pass) = pass {
            ask = ask.with("queue-pass", pass);
        }
        self.world.http.send(&ask).await
    }

    /// Holds so many seats; a greedy one with all hands at once.
    async fn hold(&mut self, count: usize, pass: String) -> Result<Held, String> {
        let hands = match self.kind {
            Kind::Patient | Kind::Impatient | Kind::Silent => 1,
            Kind::Greedy => HANDS,
        };
        let keys: Vec<String> = (0..hands).map(|_| self.key()).collect();
        let asked = keys
            .iter()
            .map(|key| self.ask_for_seats(count, Some(&pass), key));
        let answers = futures_util::future::join_all(asked).await;
        self.world.tally.lock().tried += hands as u64 - 1;
        let mut holds = Vec::new();
        let mut other = Held::Refused;
        for answer in answers {
            let answer = answer?;
            match (answer.status, answer.code()) {
                (StatusCode::CREATED, _) => {
                    let hold = serde_json::from_value(answer.body);
                    holds.push(hold.map_err(|error| format!("a hold: {error}"))?);
                }
                (_, "seat-unavailable") => other = Held::Taken,
                (_, "queue-pass-expired") => other = Held::NoPass,
                (_, "seat-limit-exceeded" | "queue-pass-used-up" | "sale-closed") => {}
                _ => return Err(format!("a hold was answered {}", answer.words())),
            }
        }
        Ok(if holds.is_empty() {
            other
        } else {
            Held::Yes(holds)
        })
    }

    /// Charges what is missing, and pays.
    async fn pay(&mut self, hold: &Hold) -> Result<(), String> {
        let ask = Ask::new(Method::GET, "/users/me/points").by(&self.token);
        let answer = self.world.http.send(&ask).await?;
        let balance: Result<Balance, _> = serde_json::from_value(answer.body);
        let balance = balance
            .map_err(|error| format!("a balance: {error}"))?
            .balance;
        let missing = hold.total.to_won() - balance.to_won();
        if missing > 0 {
            let body = json!({ "amount": Money::won(missing), "method": "CASH" });
            self.post("/users/me/points/charges", body).await?;
        }
        let body = json!({ "reservationId": hold.reservation_id, "method": "POINTS" });
        self.post("/payments", body).await
    }

    async fn post(&mut self, path: &str, body: Value) -> Result<(), String> {
        let key = self.key();
        let ask = Ask::new(Method::POST, path).by(&self.token);
        let ask = ask.with("idempotency-key", &key).body(body);
        let answer = self.world.http.send(&ask).await?;
        match answer.status {
            StatusCode::CREATED => Ok(()),
            _ => Err(format!("{path} was answered {}", answer.words())),
        }
    }
}

impl Ticket {
    fn words(&self) -> &'static str {
        match self.status {
            Status::Lobby => "in the lobby",
            Status::Waiting => "waiting",
            Status::Admitted => "admitted",
            Status::Expired => "expired",
            Status::Left => "left",
            Status::Done => "done",
        }
    }
}
