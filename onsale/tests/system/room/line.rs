//! A date with a waiting room, and what its clients ask.

use crate::bus::{Bus, command};
use crate::hall::{Hall, PARTITIONS, PATIENCE};
use onsale_platform::clock::host_now;
use onsale_schema::admission::{Kind, Outcome, PolicyChange};
use onsale_schema::message::Command;
use onsale_schema::{Lane, ScheduleId, Timestamp, UserId, partition};
use onsale_testkit::api::text;
use onsale_testkit::{Answer, Api, Buyer, SystemOptions};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// When rooms open that are open.
pub const LONG_AGO: Timestamp = Timestamp::EPOCH;
/// When rooms open that are not open yet; in a hundred years.
pub fn never() -> Timestamp {
    Timestamp::from_micros(4_000_000_000_000_000)
}
/// How often is asked until something is so.
pub const AGAIN: Duration = Duration::from_millis(50);

pub fn status(told: &Value) -> &str {
    text(&told["status"])
}

/// Sends one message of commands to the owner of a date's room; returns their outcomes.
pub async fn outcomes(hall: &Hall, date: Uuid, commands: Vec<Command<Kind>>) -> Vec<Outcome> {
    let mut bus = Bus::connect(hall).await;
    let no = partition::of_schedule(ScheduleId(date), PARTITIONS);
    let subject = bus.subjects.partition(Lane::Admission, no);
    let sent = vec![bus.send(&subject, commands).await];
    let outcomes = bus.outcomes::<Outcome>(sent).await;
    outcomes.into_values().flatten().collect()
}

/// Changes the policy of a date's room.
pub async fn amend(hall: &Hall, date: Uuid, change: PolicyChange) {
    let kind = Kind::Policy {
        schedule_id: ScheduleId(date),
        change,
    };
    let amend = command(UserId(Uuid::now_v7()), host_now(), kind);
    let outcomes = outcomes(hall, date, vec![amend]).await;
    assert!(matches!(outcomes[..], [Outcome::Policy(_)]), "{outcomes:?}");
}

/// A date with a waiting room.
pub struct Line {
    pub hall: Hall,
    pub date: Uuid,
}

impl Line {
    pub async fn start(options: SystemOptions, policy: PolicyChange) -> Self {
        let mut hall = Hall::open_with(options).await;
        let date = hall.date(10).await;
        amend(&hall, date, policy).await;
        Self { hall, date }
    }

    pub async fn amend(&self, change: PolicyChange) {
        amend(&self.hall, self.date, change).await;
    }

    /// One for each ingress.
    pub fn apis(&self) -> Vec<Api> {
        let all = 0..self.hall.system.ingresses.len();
        all.map(|nth| Api::new(self.hall.system.url(nth))).collect()
    }

    pub fn path(&self) -> String {
        format!("/schedules/{}/queue", self.date)
    }

    pub async fn join(&self, api: &Api, buyer: &Buyer, key: &str) -> Answer {
        api.post(buyer, &self.path(), key, &Value::Null).await
    }

    /// Joins, and returns the signed ticket.
    pub async fn ticket(&self, api: &Api, buyer: &Buyer) -> String {
        let joined = self.join(api, buyer, "the-only-key").await.expect(201);
        text(&joined.body["ticket"]).to_owned()
    }

    /// So many who have joined, one after the other, with their signed tickets; the first one is admitted.
    pub async fn behind_the_first(&self, api: &Api, count: usize) -> (Vec<Buyer>, Vec<String>) {
        let all = self.hall.buyers(count);
        let mut tickets = Vec::new();
        for buyer in &all {
            tickets.push(self.ticket(api, buyer).await);
        }
        self.becomes(api, &all[0], &tickets[0], "ADMITTED").await;
        (all, tickets)
    }

    /// Whether the ticket with this number was made so many seconds ago, as a count.
    pub fn since_joined(&self, arrival_no: u32, seconds: u32) -> String {
        format!(
            "SELECT count(*) AS n FROM ticket WHERE arrival_no = {arrival_no} \
                 AND joined_at < now() - interval '{seconds} seconds' AND schedule_id = '{}'",
            self.date
        )
    }

    async fn ask(&self, api: &Api, method: Method, buyer: &Buyer, shown: Option<&str>) -> Answer {
        let mut request = api.request(method, &self.path());
        if let Some(ticket) = shown {
            request = request.header("queue-ticket", ticket);
        }
        api.send(request.bearer_auth(&buyer.token)).await
    }

    pub async fn poll(&self, api: &Api, buyer: &Buyer, shown: Option<&str>) -> Answer {
        self.ask(api, Method::GET, buyer, shown).await
    }

    pub async fn leave(&self, api: &Api, buyer: &Buyer, shown: Option<&str>) -> Answer {
        self.ask(api, Method::DELETE, buyer, shown).await
    }

    /// Asks until the ticket has this status.
    pub async fn becomes(&self, api: &Api, buyer: &Buyer, ticket: &str, wanted: &str) -> Value {
        self.shows(api, buyer, ticket, ("status", wanted)).await
    }

    /// Asks until a field of the answer is this; whatever is answered until then.
    pub async fn shows(
        &self,
        api: &Api,
        buyer: &Buyer,
        ticket: &str,
        (field, wanted): (&str, &str),
    ) -> Value {
        let mut told = Value::Null;
        let asked = async {
            loop {
                told = self.poll(api, buyer, Some(ticket)).await.body;
                if told[field] == wanted {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, asked).await;
        assert!(in_time.is_ok(), "{told}, not {wanted}");
        told
    }

    /// Asks until its owner has heard of it: two reports after the first answer.
    pub async fn polled_until_reported(&mut self, api: &Api, buyer: &Buyer, ticket: &str) {
        let decided = "SELECT coalesce(sum(applied_seq), 0)::bigint AS n FROM partition \
                       WHERE lane = 'admission'";
        let before = self.hall.number(decided).await;
        let reported = async {
            while self.hall.number(decided).await < before + 2 {
                self.poll(api, buyer, Some(ticket)).await.expect(200);
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::time::timeout(PATIENCE, reported)
            .await
            .expect("its owner hears of it");
    }
}
