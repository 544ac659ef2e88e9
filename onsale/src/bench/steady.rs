//! An open load: so many holds per second of each date, however slowly they are answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use onsale_schema::ScheduleId;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Longer than any request takes that is of interest: the ingress answers 202 after 5 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// One answer.
#[derive(Clone, Copy, Debug)]
struct Answer {
    sent: Instant,
    done: Instant,
    /// None when there was none.
    status: Option<u16>,
}

/// What was answered, date by date, each in the order of the answers.
#[derive(Clone, Debug)]
pub struct Answers(Vec<Vec<Answer>>);

/// The load, while it runs. Dropping it ends it.
pub struct Steady {
    answers: Arc<Mutex<Answers>>,
    stop: CancellationToken,
    dates: JoinSet<()>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Dates with the same seats.
    pub schedules: Vec<ScheduleId>,
    /// The seats of each, which are asked for once.
    pub labels: Vec<String>,
    /// Of buyers without a limit that anybody reaches, who take turns.
    pub tokens: Vec<String>,
}

impl Steady {
    /// Asks the ingress at `addr` for `rate` holds per second of each date.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn start(addr: SocketAddr, wanted: Wanted, rate: u16) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(REQUEST_LIMIT)
            .no_proxy()
            .build()
            .context("making a client")?;
        let answers = Arc::new(Mutex::new(Answers(vec![
            Vec::new();
            wanted.schedules.len()
        ])));
        let stop = CancellationToken::new();
        let (tokens, labels) = (Arc::new(wanted.tokens), Arc::new(wanted.labels));
        let mut tasks = JoinSet::new();
        for (index, schedule_id) in wanted.schedules.into_iter().enumerate() {
            let date = Date {
                index,
                url: format!("http://{addr}/api/v1/reservations"),
                schedule_id: schedule_id.to_string(),
                tokens: tokens.clone(),
                labels: labels.clone(),
                client: client.clone(),
                answers: answers.clone(),
            };
            tasks.spawn(date.sell(Duration::from_secs(1) / u32::from(rate), stop.clone()));
        }
        Ok(Self {
            answers,
            stop,
            dates: tasks,
        })
    }

    /// Waits until each date has so many holds.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_each(&self, holds: usize, limit: Duration) -> anyhow::Result<()> {
        self.until(limit, |date| won(date).count() >= holds).await
    }

    /// Waits until each date has so many holds that were asked for after a moment.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_each_since(
        &self,
        since: Instant,
        holds: usize,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let enough = |date: &[Answer]| won(date).filter(|a| a.sent > since).count() >= holds;
        self.until(limit, enough).await
    }

    async fn until(
        &self,
        limit: Duration,
        enough: impl Fn(&[Answer]) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let is_done = {
                let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.0.iter().all(|date| enough(date))
            };
            if is_done {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                bail!(
                    "not every partition sells after {} s: {}",
                    limit.as_secs(),
                    answers.summary()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What was answered until now.
    #[must_use]
    pub fn answers(&self) -> Answers {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.clone()
    }

    /// Asks for nothing more, and waits for the answers that are due.
    pub async fn stop(mut self) -> Answers {
        self.stop_asking().await
    }

    /// The same, for who may ask again what was answered.
    pub async fn stop_asking(&mut self) -> Answers {
        self.stop.cancel();
        while self.dates.join_next().await.is_some() {}
        self.answers()
    }
}

struct Date {
    index: usize,
    url: String,
    schedule_id: String,
    tokens: Arc<Vec<String>>,
    labels: Arc<Vec<String>>,
    client: reqwest::Client,
    answers: Arc<Mutex<Answers>>,
}

impl Date {
    /// Asks for one seat after the other.
    async fn sell(self, every: Duration, stop: CancellationToken) {
        let date = Arc::new(self);
        let mut ticks = tokio::time::interval(every);
        // An open load: what a busy machine has kept from being sent in time is sent then.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = JoinSet::new();
        for seat in 0..date.labels.len() {
            if stop.run_until_cancelled(ticks.tick()).await.is_none() {
                break;
            }
            requests.spawn(date.clone().ask(seat));
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
    }

    async fn ask(self: Arc<Self>, seat: usize) {
        let body = format!(
            r#"{{"scheduleId":"{}","seats":["{}"]}}"#,
            self.schedule_id, self.labels[seat]
        );
        let sent = Instant::now();
        let request = self
            .client
            .post(&self.url)
            .bearer_auth(&self.tokens[seat % self.tokens.len()])
            .header("idempotency-key", format!("{}-{seat}", self.schedule_id))
            .header("content-type", "application/json")
            .body(body);
        let status = match request.send().await {
            Ok(response) => Some(response.status().as_u16()),
            Err(_) => None,
        };
        let answer = Answer {
            sent,
            done: Instant::now(),
            status,
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.0[self.index].push(answer);
    }
}

fn won(date: &[Answer]) -> impl Iterator<Item = &Answer> {
    date.iter().filter(|answer| answer.status == Some(201))
}

impl Answers {
    /// Holds.
    #[must_use]
    pub fn won(&self) -> u64 {
        self.status(201)
    }

    /// Answers with this status.
    #[must_use]
    pub fn status(&self, status: u16) -> u64 {
        let all = self.0.iter().flatten();
        all.filter(|answer| answer.status == Some(status)).count() as u64
    }

    /// Those that may have become a hold without being answered so: the outcome was open, or the answer
    /// got lost.
    #[must_use]
    pub fn open(&self) -> u64 {
        let all = self.0.iter().flatten();
        let is_open = |answer: &&Answer| matches!(answer.status, Some(202) | None);
        all.filter(is_open).count() as u64
    }

    /// Requests that were not answered with a hold, by what came instead.
    #[must_use]
    pub fn others(&self) -> BTreeMap<String, u64> {
        let mut others = BTreeMap::new();
        for answer in self.0.iter().flatten() {
            let name = match answer.status {
                Some(201) => continue,
                Some(status) => status.to_string(),
                None => "unanswered".to_owned(),
            };
            *others.entry(name).or_default() += 1;
        }
        others
    }

    /// For a person.
    #[must_use]
    pub fn summary(&self) -> String {
        let others = self.others();
        let others = others
            .iter()
            .map(|(name, count)| format!(", {count} × {name}"));
        format!("{} held{}", self.won(), others.collect::<String>())
    }

    /// The longest time between two holds in a row of any date, from shortly before the blow on.
    #[must_use]
    pub fn gap(&self, struck: Instant) -> Duration {
        let of_date = |date: &Vec<Answer>| {
            let holds: Vec<Instant> = won(date).map(|answer| answer.done).collect();
            let from = holds
                .partition_point(|done| *done < struck)
                .saturating_sub(1);
            let pairs = holds[from..].windows(2);
            pairs
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap_or_default()
        };
        self.0.iter().map(of_date).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_time_without_a_hold_of_a_date() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let answer = |ms, status| Answer {
            sent: at(ms),
            done: at(ms),
            status: Some(status),
        };
        let answers = Answers(vec![
            // A pause before the blow does not count, a refusal is no hold.
            vec![
                answer(0, 201),
                answer(500, 201),
                answer(700, 503),
                answer(900, 201),
            ],
            vec![answer(590, 201), answer(620, 201), answer(640, 201)],
        ]);
        assert_eq!(answers.gap(at(600)), Duration::from_millis(400));
        assert_eq!(answers.won(), 6);
        assert_eq!(answers.summary(), "6 held, 1 × 503");
    }
}
