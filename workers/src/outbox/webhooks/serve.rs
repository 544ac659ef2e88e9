//! Serves one subscriber: one fact after the other, until it has all, or an attempt fails.

use super::attempts::{self, Failure};
use super::store::{self, FactRow, Place, Progress, Subscriber, Written};
use crate::context::Context;
use bytes::Bytes;
use onsale_platform::outward::{self, Caller, Connection, Target};
use onsale_platform::outward::{HeaderMap, HeaderName, HeaderValue};
use onsale_platform::webhook::{self, Secret};
use onsale_platform::{db, metric};
use onsale_schema::facts::{self, Attempt, Delivery};
use onsale_schema::status::WebhookState;
use onsale_schema::{Timestamp, WebhookId};
use std::time::Duration;
use tokio::time::Instant;

/// Facts that are read at a time; some are large.
const READ_MAX: i64 = 16;
/// Progress is written this often, and at each end: so much may be delivered again after a crash.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// For so long, and for what is on its way, a subscriber is taken for what it was.
const CHECK_EVERY: Duration = Duration::from_millis(20);
/// Reads in one go, so that settings of a subscriber that always has something are read again.
const READS_MAX: usize = 256;

/// Delivers what there is.
///
/// # Errors
/// When Postgres is away; what was delivered may be delivered again.
pub async fn run(ctx: Context, caller: Caller, id: WebhookId) -> Result<(), db::Error> {
    let mut connection = None;
    for _ in 0..READS_MAX {
        let Some(subscriber) = store::webhook_find_due(&ctx.pool, id).await? else {
            return Ok(());
        };
        let (cursor, topics) = (subscriber.cursor_no, subscriber.topics.as_deref());
        let facts = store::fact_list_after(&ctx.pool, cursor, topics, READ_MAX).await?;
        let mut serving = Serving::new(&ctx, &caller, id, subscriber, connection.take());
        if facts.is_empty() && !serving.has_missed {
            return Ok(());
        }
        match serving.deliver(facts).await? {
            Next::GoesOn => connection = serving.connection,
            Next::Ends => return Ok(()),
        }
    }
    Ok(())
}

/// Whether there may be more to do now.
enum Next {
    GoesOn,
    Ends,
}

struct Serving<'a> {
    ctx: &'a Context,
    caller: &'a Caller,
    id: WebhookId,
    subscriber: Subscriber,
    /// As in the table.
    written: Place,
    written_at: Instant,
    /// When it was the same as in the table.
    checked_at: Instant,
    now: Place,
    has_missed: bool,
    has_delivered: bool,
    connection: Option<Connection>,
}

impl<'a> Serving<'a> {
    fn new(
        ctx: &'a Context,
        caller: &'a Caller,
        id: WebhookId,
        subscriber: Subscriber,
        connection: Option<Connection>,
    ) -> Self {
        let written = Place {
            cursor_no: subscriber.cursor_no,
            sequence: subscriber.sequence,
        };
        let mut now = written;
        let has_missed = subscriber.cursor_no < subscriber.purged_no;
        if has_missed {
            // How many is not known. A number that nobody gets is what tells it.
            now.sequence += 1;
            now.cursor_no = subscriber.purged_no;
            metrics::counter!(metric::WEBHOOK_MISSED).increment(1);
            tracing::error!(webhook = %id, sequence = now.sequence,
                "facts were purged before a webhook subscriber got them; its sequence has a gap");
        }
        Self {
            ctx,
            caller,
            id,
            subscriber,
            written,
            written_at: Instant::now(),
            checked_at: Instant::now(),
            now,
            has_missed,
            has_delivered: false,
            connection,
        }
    }

    async fn deliver(&mut self, facts: Vec<FactRow>) -> Result<Next, db::Error> {
        // What is left of what was purged counts as missed with it.
        for fact in facts
            .iter()
            .filter(|fact| fact.feed_no > self.now.cursor_no)
            .collect::<Vec<_>>()
        {
            if !self.is_unchanged().await? {
                break;
            }
            if let Err(failure) = self.attempt(fact).await {
                self.failed(&failure).await?;
                return Ok(Next::Ends);
            }
            self.now = Place {
                cursor_no: fact.feed_no,
                sequence: self.now.sequence + 1,
            };
            self.has_delivered = true;
            self.subscriber.attempts = 0;
            self.subscriber.failing_since = None;
            if self.written_at.elapsed() > WRITE_EVERY && !self.write_success().await? {
                return Ok(Next::Ends);
            }
        }
        if self.now == self.written {
            return Ok(Next::GoesOn);
        }
        Ok(match self.write_success().await? {
            true => Next::GoesOn,
            false => Next::Ends,
        })
    }

    /// Whether it is still to be served in this way. What was read of it is read again if not.
    async fn is_unchanged(&mut self) -> Result<bool, db::Error> {
        if self.checked_at.elapsed() < CHECK_EVERY {
            return Ok(true);
        }
        self.checked_at = Instant::now();
        store::webhook_is_unchanged(&self.ctx.pool, self.id, self.subscriber.generation).await
    }

    /// Tries once to deliver the next fact, and remembers what came of it.
    async fn attempt(&mut self, fact: &FactRow) -> Result<(), Failure> {
        let started = Instant::now();
        let at = self.ctx.clock.now();
        let id = facts::id(&fact.topic, fact.aggregate_id, fact.seq);
        let limit = Duration::from_millis(self.ctx.config.webhooks.timeout_ms.into());
        let called = tokio::time::timeout(limit, self.call(&id, at, fact)).await;
        let called = called.unwrap_or(Err(Failure::Call(outward::Error::Timeout)));
        let outcome = match called {
            Ok(_) => "delivered",
            Err(_) => "failed",
        };
        metrics::counter!(metric::WEBHOOK_DELIVERIES, "outcome" => outcome).increment(1);
        metrics::histogram!(metric::WEBHOOK_DURATION).record(started.elapsed().as_secs_f64());
        let attempt = Attempt {
            id,
            sequence: self.now.sequence + 1,
            at,
            attempt: self.subscriber.attempts.saturating_add(1),
            duration_ms: i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX),
            status: match &called {
                Ok(status) => Some(*status),
                Err(failure) => failure.status(),
            },
            error: called.as_ref().err().map(attempts::told),
        };
        self.subscriber.recent = attempts::remembered(&self.subscriber.recent, attempt);
        if called.is_err() {
            // An answer that is late must not be taken for the next one's.
            self.connection = None;
        }
        called.map(drop)
    }

    /// The status, if it is one of success.
    async fn call(&mut self, id: &str, at: Timestamp, fact: &FactRow) -> Result<u16, Failure> {
        let target: Target = self
            .subscriber
            .url
            .parse()
            .map_err(|_| Failure::Unusable("the address is not one that can be called"))?;
        let body = Bytes::from(body(id, self.now.sequence + 1, fact));
        let headers = self.headers(id, at, &body)?;
        let kept = self.connection.take();
        let connection = match kept.filter(|kept| kept.is_open_to(&target)) {
            Some(kept) => kept,
            None => self.caller.connect(&target).await?,
        };
        let status = self
            .connection
            .insert(connection)
            .post(headers, body)
            .await?;
        match status.is_success() {
            true => Ok(status.as_u16()),
            false => Err(Failure::Status(status.as_u16())),
        }
    }

    fn headers(&self, id: &str, at: Timestamp, body: &[u8]) -> Result<HeaderMap, Failure> {
        let unusable = |_| Failure::Unusable("a secret can't be used");
        let secret = Secret::of_bytes(&self.subscriber.secret).map_err(unusable)?;
        let mut secrets = vec![secret];
        if let Some(previous) = &self.subscriber.previous_secret {
            secrets.push(Secret::of_bytes(previous).map_err(unusable)?);
        }
        let timestamp_s = u64::try_from(at.micros() / 1_000_000).unwrap_or_default();
        let signature = webhook::sign(&secrets, id, timestamp_s, body);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json".to_owned()),
            ("user-agent", "onsale".to_owned()),
            (webhook::ID, id.to_owned()),
            (webhook::TIMESTAMP, timestamp_s.to_string()),
            (webhook::SIGNATURE, signature),
        ] {
            let value = HeaderValue::try_from(value);
            let value = value.map_err(|_| Failure::Unusable("the topic is no plain text"))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }

    async fn failed(&mut self, failure: &Failure) -> Result<(), db::Error> {
        let verdict = attempts::judge(
            &self.ctx.config.webhooks,
            failure,
            self.subscriber.attempts,
            self.subscriber.failing_since,
            self.ctx.clock.now(),
            rand::random(),
        );
        let written = self.write(Progress {
            state: verdict.state,
            attempts: verdict.attempts,
            failing_since: Some(verdict.failing_since),
            pause_ms: verdict.pause_ms,
            ..self.progress()
        });
        if !written.await? {
            return Ok(());
        }
        let (webhook, attempts) = (self.id, verdict.attempts);
        match verdict.state {
            WebhookState::Dead => {
                metrics::counter!(metric::WEBHOOK_DEATHS).increment(1);
                tracing::error!(%webhook, attempts, error = attempts::told(failure),
                    "a webhook subscriber is dead; nothing is delivered to it any more");
            }
            WebhookState::Active if attempts == 1 => {
                tracing::warn!(%webhook, error = attempts::told(failure), "a webhook subscriber fails");
            }
            WebhookState::Active => {
                let error = attempts::told(failure);
                tracing::debug!(%webhook, attempts, error, "a webhook still fails");
            }
        }
        Ok(())
    }

    async fn write_success(&mut self) -> Result<bool, db::Error> {
        self.write(self.progress()).await
    }

    fn progress(&self) -> Progress {
        Progress {
            place: self.now,
            state: WebhookState::Active,
            attempts: self.subscriber.attempts,
            failing_since: self.subscriber.failing_since,
            pause_ms: 0,
            has_delivered: self.has_delivered,
            has_missed: self.has_missed,
            recent: self.subscriber.recent.clone(),
        }
    }

    /// Whether all of it was written, so that it goes on.
    async fn write(&mut self, progress: Progress) -> Result<bool, db::Error> {
        let (pool, before) = (&self.ctx.pool, self.written);
        let generation = self.subscriber.generation;
        let written = store::webhook_set_progress(pool, self.id, before, generation, &progress);
        match written.await? {
            Written::Whole => {
                self.written = progress.place;
                self.written_at = Instant::now();
                (self.has_delivered, self.has_missed) = (false, false);
                return Ok(true);
            }
            Written::Place => {
                tracing::info!(webhook = %self.id, "a webhook subscriber was changed meanwhile");
            }
            Written::Nothing => {
                tracing::info!(webhook = %self.id,
                    "a webhook subscriber is served by somebody else");
            }
        }
        Ok(false)
    }
}

/// What is sent. Facts that can't be read are sent as null: that a subscriber can't be told is no
/// reason to tell it nothing else ever again.
fn body(id: &str, sequence: i64, fact: &FactRow) -> Vec<u8> {
    let data = facts::to_json(&fact.payload).unwrap_or_else(|error| {
        tracing::error!(id, %error, "a fact can't be read");
        serde_json::Value::Null
    });
    let delivery = Delivery {
        id: id.to_owned(),
        topic: fact.topic.clone(),
        aggregate_id: fact.aggregate_id,
        aggregate_seq: fact.seq,
        sequence,
        occurred_at: fact.created_at,
        data,
    };
    serde_json::to_vec(&delivery).expect("a fact has a JSON form")
}
